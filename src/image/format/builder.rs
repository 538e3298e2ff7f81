//! Writing images.

use std::ops::Range;

use super::write::{NewSection, write};
use super::{Target, envelope};
use crate::allocate::{self, OutOfMemory};
use crate::handler::trap_code::TrapCode;
use crate::image::error::ImageError;
use crate::image::key::{DefinedFunctionIndex, FunctionKey, ModuleIndex};
use crate::image::section::{self, Section};
use crate::image::tables::{
    AddressMap, Embedder, FunctionTable, ModuleDescription, ModuleTable, NewPatch, PatchTable, SignatureTable, Tables,
    TrapTable,
};

/// Collects machine code and its tables, and writes them as an image for
/// [`Image::parse`](crate::image::Image::parse).
///
/// Offsets are in bytes from the start of the text. Trap sites, functions, addresses and patches are each given in
/// ascending order, as a compiler emits them; nothing is checked before [`ImageBuilder::finish`].
///
/// # Examples
///
/// ```
/// use trapline::TrapCode;
/// use trapline::image::{Image, ImageBuilder};
///
/// let file = ImageBuilder::new()
///     .text([0x0f, 0x0b, 0xc3]) // x86-64: ud2; ret
///     .trap(0, TrapCode::Unreachable)
///     .function(0..3, Some("stop"))
///     .finish()?;
/// let code = Image::parse_verified(&file)?.publish()?;
/// assert_eq!(code.trap_code(0), Some(TrapCode::Unreachable));
/// assert_eq!(code.functions().by_offset(2).unwrap().name(), Some("stop"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ImageBuilder {
    target: Option<Target>,
    text: Vec<u8>,
    text_align: Option<u64>,
    traps: Vec<(usize, TrapCode)>,
    functions: Vec<(Range<usize>, FunctionKey, Option<String>)>,
    /// The number of functions of module 0 that were added without a key.
    unkeyed: u32,
    /// `None` stands for one module without a description.
    modules: Option<Vec<ModuleDescription>>,
    signatures: Vec<Vec<u8>>,
    addresses: Vec<(usize, Option<u32>)>,
    patches: Vec<NewPatch>,
    configuration: Vec<u8>,
    user: Vec<(String, Vec<u8>)>,
    /// The first allocation that failed.
    lacking: Option<OutOfMemory>,
}

impl ImageBuilder {
    /// The largest alignment of the text within the file, in bytes.
    pub const MAX_TEXT_ALIGN: u64 = section::MAX_TEXT_ALIGN;

    /// An image without code, for the machine that this program runs on.
    #[must_use]
    pub fn new() -> Self {
        ImageBuilder::default()
    }

    /// Sets the machine that the code is for. The default is the one that this program runs on.
    pub fn target(&mut self, target: Target) -> &mut Self {
        self.target = Some(target);
        self
    }

    /// Sets the machine code.
    pub fn text(&mut self, text: impl Into<Vec<u8>>) -> &mut Self {
        self.text = text.into();
        self
    }

    /// Sets the alignment of the text within the file, in bytes: a power of two up to
    /// [`ImageBuilder::MAX_TEXT_ALIGN`].
    ///
    /// The default is the largest page of the target, so that [`Image::from_file`](crate::image::Image::from_file) need
    /// not copy the text. A smaller alignment makes a smaller file. In memory, text always begins a page.
    pub fn text_align(&mut self, align: u64) -> &mut Self {
        self.text_align = Some(align);
        self
    }

    /// Adds a trap site: the instruction at `offset` may trap, and that means `code`.
    pub fn trap(&mut self, offset: usize, code: TrapCode) -> &mut Self {
        self.add(|image| &mut image.traps, Ok((offset, code)))
    }

    /// Adds the next function that module 0 defines: its code, and its name if it has one. An empty name counts as no name.
    ///
    /// The first call adds function 0, the second one function 1, no matter what [`ImageBuilder::compiled`] adds between
    /// them.
    pub fn function(&mut self, range: Range<usize>, name: Option<&str>) -> &mut Self {
        let key =
            FunctionKey::Defined { module: ModuleIndex::new(0), function: DefinedFunctionIndex::new(self.unkeyed) };
        self.unkeyed = self.unkeyed.saturating_add(1);
        self.compiled(range, key, name)
    }

    /// Adds a function or a trampoline: its code, what it is, and its name if it has one. An empty name counts as no name.
    ///
    /// No two may have the same key.
    pub fn compiled(&mut self, range: Range<usize>, key: FunctionKey, name: Option<&str>) -> &mut Self {
        let function = name.map(allocate::copy_str).transpose().map(|name| (range, key, name));
        self.add(|image| &mut image.functions, function)
    }

    /// Adds the next module. The first call describes module 0.
    ///
    /// Without a call, an image has one module without a description.
    pub fn module(&mut self, module: ModuleDescription) -> &mut Self {
        self.add(|image| image.modules.get_or_insert_default(), Ok(module))
    }

    /// Says that the image has no modules, except those added later.
    pub fn without_modules(&mut self) -> &mut Self {
        self.modules = Some(Vec::new());
        self
    }

    /// Adds the next signature, in the embedder's own encoding, one for each function type. The first call adds
    /// signature 0.
    ///
    /// No two may be equal.
    pub fn signature(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.add(|image| &mut image.signatures, Ok(bytes.into()))
    }

    /// Says where in the source the code from `offset` to the next such entry came from, or that it has no source.
    ///
    /// A source offset is below `u32::MAX`.
    pub fn address(&mut self, offset: usize, source_offset: Option<u32>) -> &mut Self {
        self.add(|image| &mut image.addresses, Ok((offset, source_offset)))
    }

    /// Adds a place where a private copy of the text may be changed: the bytes at `offset` when the patch is enabled,
    /// and when it is not.
    ///
    /// It lies inside one function of the guest, has 1 to [`Patch::MAX_LEN`](crate::image::Patch::MAX_LEN) bytes, the
    /// same number in both forms, and overlaps no other patch. The two forms differ, and the text holds the disabled one.
    pub fn patch(&mut self, offset: usize, enabled: impl Into<Vec<u8>>, disabled: impl Into<Vec<u8>>) -> &mut Self {
        self.add(|image| &mut image.patches, Ok((offset, enabled.into(), disabled.into())))
    }

    /// Sets the settings that the code was compiled with, in the embedder's own encoding.
    pub fn configuration(&mut self, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.configuration = bytes.into();
        self
    }

    /// Adds bytes of the embedder's own under a name that only it uses.
    ///
    /// They come back from [`Tables::section`]. A name has 1 to 240 of the characters
    /// `A-Z a-z 0-9 _ - .`
    pub fn section(&mut self, name: &str, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.add(|image| &mut image.user, allocate::copy_str(name).map(|name| (name, bytes.into())))
    }

    /// Appends to a list, or remembers that memory ran out.
    fn add<T>(&mut self, list: fn(&mut Self) -> &mut Vec<T>, element: Result<T, OutOfMemory>) -> &mut Self {
        if let Err(lacking) = element.and_then(|element| allocate::push(list(self), element)) {
            self.lacking.get_or_insert(lacking);
        }
        self
    }

    /// Checks everything and writes the image.
    ///
    /// O(n log n).
    ///
    /// # Errors
    ///
    /// An [`ImageError`] that names the first trap site, function, section or setting that breaks a rule of the method
    /// that took it, or an offset that does not fit in 32 bits; and [`ImageError::OutOfMemory`], also if memory ran out
    /// in an earlier call.
    pub fn finish(&self) -> Result<Vec<u8>, ImageError> {
        self.lacking.map_or(Ok(()), Err)?;
        let target = self.target.or(Target::host()).ok_or(ImageError::UnsupportedHost)?;
        let align = self.text_align.unwrap_or(target.max_page_size());
        if !align.is_power_of_two() || align > Self::MAX_TEXT_ALIGN {
            return Err(ImageError::BadAlignment { align });
        }
        let len = self.text.len();
        let functions = self.functions.iter().map(|(range, key, name)| (range.clone(), *key, name.as_deref()));
        let tables = Tables {
            traps: TrapTable::from_sorted(self.traps.iter().copied(), len)?,
            functions: FunctionTable::from_sorted(functions, len)?,
            modules: self.modules.as_deref().map_or_else(ModuleTable::one, ModuleTable::describe)?,
            signatures: SignatureTable::collect(&self.signatures)?,
            address_map: AddressMap::from_sorted(&self.addresses, len)?,
            patches: PatchTable::from_sorted(&self.patches, &self.text)?,
            embedder: Embedder::default(),
        };
        tables.check_references()?;
        self.check_names()?;

        let (marker, check, tables) = (envelope::marker(), envelope::placeholder(), tables.write()?.0);
        let ours = |section: Section, bytes, align| NewSection { name: [section.name, ""], bytes, align };
        let mut sections = allocate::room(3 + tables.len() + self.user.len())?;
        sections.push(ours(section::MARKER, &marker, 1));
        sections.extend(tables.iter().map(|(section, bytes)| ours(*section, bytes, 4)));
        if !self.configuration.is_empty() {
            sections.push(ours(section::CONFIGURATION, &self.configuration, 4));
        }
        let first = sections.len();
        let user = self.user.iter().map(|(name, bytes)| NewSection { name: [section::USER, name], bytes, align: 8 });
        sections.extend(user);
        // One order for one content: images are compared byte for byte.
        sections[first..].sort_unstable_by_key(|section| (section.name, section.bytes));
        sections.push(ours(section::CHECK, &check, 4));
        let mut file = write(target, &ours(section::TEXT, &self.text, align), &sections)?;
        envelope::seal(&mut file, target)?;
        Ok(file)
    }

    /// Every name of the embedder's is one that a section can have. Duplicates are found when the file is sealed.
    fn check_names(&self) -> Result<(), ImageError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        let fits = |name: &str| (1..=section::MAX_NAME_LEN - section::USER.len()).contains(&name.len());
        match self.user.iter().find(|(name, _)| !fits(name) || !name.bytes().all(allowed)) {
            Some((name, _)) => Err(ImageError::BadSectionName { name: allocate::copy_str(name)? }),
            None => Ok(()),
        }
    }
}
