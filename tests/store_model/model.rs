//! What one store knows, by the longest way round.

use crate::image::{Compiled, trap};
use crate::loaded::Loaded;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use trapline::image::{DefinedFunctionIndex, FunctionKey, ModuleIndex};
use trapline::store::{Direction, EngineId, ModuleId, SignatureId};
use trapline::{PcKind, TrapCode};

pub struct Store {
    pub engine: EngineId,
    pub debugging: bool,
    pub stepping: bool,
    /// In the order of registration.
    pub images: Vec<Placed>,
    /// In the order of registration: the image, and which of its modules.
    pub modules: Vec<(Arc<Loaded>, u32)>,
    registered: BTreeSet<ModuleId>,
    /// In no order.
    pub asked: Vec<Asked>,
}

/// An image and where the store executes it.
pub struct Placed {
    pub loaded: Arc<Loaded>,
    pub base: usize,
    /// What the store executes.
    pub text: Vec<u8>,
}

/// A breakpoint. Keeps nothing loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Asked {
    pub module: ModuleId,
    pub function: DefinedFunctionIndex,
    pub offset: usize,
    /// Where it slipped to.
    pub text_offset: usize,
    pub count: u32,
}

/// Everything that a frame tells.
#[derive(Debug, PartialEq)]
pub struct Frame {
    pub module: ModuleId,
    pub static_index: ModuleIndex,
    pub function_index: u32,
    pub defined_index: DefinedFunctionIndex,
    pub key: FunctionKey,
    pub place: usize,
    pub range: Range<usize>,
    pub name: Option<String>,
    pub text_offset: usize,
    pub function_offset: usize,
    pub source_offset: Option<u32>,
    pub unparsed_debug_info: bool,
    pub debug_info_from_environment: bool,
    pub text: Range<usize>,
    pub shown: String,
}

impl Placed {
    pub fn range(&self) -> Range<usize> {
        self.base..self.base + self.text.len()
    }

    pub fn is_private(&self) -> bool {
        self.base != self.loaded.text.start
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.text[offset..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Shows every patch point of a module as `wanted` says, if it says so.
    fn show(&mut self, module: u32, wanted: impl Fn(usize) -> Option<bool>) {
        let loaded = Arc::clone(&self.loaded);
        for patch in &loaded.image.patches {
            let function = loaded.image.functions.iter().find(|function| function.range.contains(&patch.offset));
            if function.unwrap().key.module() == Some(ModuleIndex::new(module)) {
                match wanted(patch.offset) {
                    Some(true) => self.write(patch.offset, &patch.enabled),
                    Some(false) => self.write(patch.offset, &patch.disabled),
                    None => {}
                }
            }
        }
    }
}

impl Store {
    pub fn new(engine: EngineId, debugging: bool) -> Store {
        Store {
            engine,
            debugging,
            stepping: false,
            images: Vec::new(),
            modules: Vec::new(),
            registered: BTreeSet::new(),
            asked: Vec::new(),
        }
    }

    pub fn image(&self, loaded: &Loaded) -> Option<&Placed> {
        self.images.iter().find(|placed| placed.loaded.id == loaded.id)
    }

    fn image_mut(&mut self, id: ModuleId) -> Option<&mut Placed> {
        self.images.iter_mut().find(|placed| placed.loaded.id == id)
    }

    /// Has the image at `base` from now on, if it was not there.
    pub fn add_image(&mut self, loaded: &Arc<Loaded>, base: usize) {
        if self.image(loaded).is_none() {
            self.images.push(Placed { loaded: Arc::clone(loaded), base, text: loaded.image.text.clone() });
        }
    }

    /// The image is there.
    pub fn add_module(&mut self, loaded: &Arc<Loaded>, module: u32) {
        let new = self.registered.insert(loaded.modules[module as usize]);
        if new {
            self.modules.push((Arc::clone(loaded), module));
        }
        self.apply(loaded, module, new);
    }

    pub fn has_module(&self, id: ModuleId) -> bool {
        self.registered.contains(&id)
    }

    /// Enables what is asked for, and disables the rest if `all`.
    fn apply(&mut self, loaded: &Loaded, module: u32, all: bool) {
        if !self.debugging {
            return;
        }
        let id = loaded.modules[module as usize];
        let (stepping, asked) = (self.stepping, self.asked.clone());
        let wanted = |offset| stepping || asked.iter().any(|asked| asked.module == id && asked.text_offset == offset);
        self.image_mut(loaded.id).unwrap().show(module, |offset| match wanted(offset) {
            true => Some(true),
            false => all.then_some(false),
        });
    }

    pub fn step(&mut self, on: bool) {
        if self.stepping != on {
            self.stepping = on;
            for (loaded, module) in self.modules.clone() {
                self.apply(&loaded, module, true);
            }
        }
    }

    /// Where a breakpoint slips to.
    pub fn slip(loaded: &Loaded, module: u32, function: DefinedFunctionIndex, offset: usize) -> Option<usize> {
        let key = FunctionKey::Defined { module: ModuleIndex::new(module), function };
        let range = loaded.image.function(key)?.range.clone();
        let from = range.start.checked_add(offset)?;
        loaded.image.patches.iter().map(|patch| patch.offset).find(|at| (from..range.end).contains(at))
    }

    pub fn set(
        &mut self,
        loaded: &Loaded,
        module: u32,
        function: DefinedFunctionIndex,
        offset: usize,
        text_offset: usize,
    ) -> Asked {
        let id = loaded.modules[module as usize];
        let same = |asked: &Asked| (asked.module, asked.function, asked.offset) == (id, function, offset);
        if let Some(asked) = self.asked.iter_mut().find(|asked| same(asked)) {
            asked.count += 1;
            return *asked;
        }
        let asked = Asked { module: id, function, offset, text_offset, count: 1 };
        self.asked.push(asked);
        self.show_one(id, text_offset, true);
        asked
    }

    /// How often it is still set; `None` if it was not.
    pub fn clear(&mut self, module: ModuleId, function: DefinedFunctionIndex, offset: usize) -> Option<u32> {
        let same = |asked: &Asked| (asked.module, asked.function, asked.offset) == (module, function, offset);
        let at = self.asked.iter().position(same)?;
        self.asked[at].count -= 1;
        let Asked { count, text_offset, .. } = self.asked[at];
        if count == 0 {
            self.asked.remove(at);
            let still = self.asked.iter().any(|asked| asked.module == module && asked.text_offset == text_offset);
            if !still && !self.stepping {
                self.show_one(module, text_offset, false);
            }
        }
        Some(count)
    }

    fn show_one(&mut self, module: ModuleId, text_offset: usize, enabled: bool) {
        let found = self.modules.iter().find(|(loaded, index)| loaded.modules[*index as usize] == module);
        if let Some((loaded, index)) = found {
            let (id, index) = (loaded.id, *index);
            let image = self.image_mut(id).unwrap();
            image.show(index, |offset| (offset == text_offset).then_some(enabled));
        }
    }

    /// The text is patched without the breakpoints being told.
    pub fn poke(&mut self, loaded: &Loaded, offset: usize, bytes: &[u8]) {
        self.image_mut(loaded.id).unwrap().write(offset, bytes);
    }

    pub fn image_at(&self, pc: usize) -> Option<(&Placed, usize)> {
        let placed = self.images.iter().find(|placed| placed.range().contains(&pc))?;
        Some((placed, pc - placed.base))
    }

    fn function_at(&self, pc: usize) -> Option<(&Placed, &Compiled, usize, usize)> {
        let (placed, offset) = self.image_at(pc)?;
        let functions = &placed.loaded.image.functions;
        let place = functions.iter().position(|function| function.range.contains(&offset))?;
        Some((placed, &functions[place], place, offset))
    }

    /// The module that a function or a trampoline at `pc` is of, if it is registered.
    pub fn module_at(&self, pc: usize) -> Option<ModuleId> {
        let (placed, function, ..) = self.function_at(pc)?;
        let id = placed.loaded.modules[function.key.module()?.as_u32() as usize];
        self.has_module(id).then_some(id)
    }

    pub fn trap_at(&self, pc: usize) -> Option<TrapCode> {
        let (placed, offset) = self.image_at(pc)?;
        trap(&placed.loaded.image.text, offset)
    }

    pub fn trampoline_at(&self, pc: usize, direction: Direction, signature: SignatureId) -> Option<usize> {
        let (placed, _) = self.image_at(pc)?;
        Some(placed.base + placed.loaded.trampoline(direction, signature)?)
    }

    /// That of the image that was registered first.
    pub fn trampoline(&self, direction: Direction, signature: SignatureId) -> Option<usize> {
        self.images.iter().find_map(|placed| Some(placed.base + placed.loaded.trampoline(direction, signature)?))
    }

    /// Every registered module: image by image in the order in which those were registered.
    pub fn modules_in_order(&self) -> Vec<ModuleId> {
        let all = self.images.iter().flat_map(|placed| placed.loaded.modules.iter().copied());
        all.filter(|id| self.has_module(*id)).collect()
    }

    pub fn frame_at(&self, pc: usize, kind: PcKind) -> Option<Frame> {
        let pc = match kind {
            PcKind::Interrupted => pc,
            PcKind::ReturnAddress => pc.checked_sub(1)?,
        };
        let (placed, function, place, offset) = self.function_at(pc)?;
        let FunctionKey::Defined { module: static_index, function: defined_index } = function.key else { return None };
        let (loaded, range) = (&placed.loaded, function.range.clone());
        let module = self.module_at(pc)?;
        let description = &loaded.image.modules[static_index.as_u32() as usize];
        let function_index = description.imported_functions + defined_index.as_u32();
        let last = loaded.image.addresses.iter().rfind(|(at, _)| (range.start..=offset).contains(at));
        let source_offset = last.and_then(|(_, source)| *source);
        let function_offset = offset - range.start;
        let shown = format!(
            "{}!{} + {function_offset:#x}{}",
            description.name.clone().unwrap_or(format!("module {}", module.as_u64())),
            function.name.clone().unwrap_or(format!("function {function_index}")),
            source_offset.map(|source| format!(" (source {source:#x})")).unwrap_or_default(),
        );
        Some(Frame {
            module,
            static_index,
            function_index,
            defined_index,
            key: function.key,
            place,
            range,
            name: function.name.clone(),
            text_offset: offset,
            function_offset,
            source_offset,
            unparsed_debug_info: description.unparsed_debug_info,
            debug_info_from_environment: description.debug_info_from_environment,
            text: placed.range(),
            shown,
        })
    }
}
