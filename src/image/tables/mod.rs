//! What an image says about its text.
//!
//! To add a table: write it in a file of its own as a [`Table`](table::Table), name the file and the table below, and let
//! [`ImageBuilder`](crate::image::ImageBuilder) collect its entries.

mod address_map;
mod columns;
mod embedder;
mod function_keys;
mod function_table;
mod module_table;
mod patch_table;
mod rank;
mod signature_table;
mod table;
mod trap_table;

use std::fmt;

pub use address_map::AddressMap;
pub(super) use embedder::Embedder;
pub use function_table::{Function, FunctionTable};
pub use module_table::{ModuleDescription, ModuleInfo, ModuleTable};
pub(super) use patch_table::NewPatch;
pub use patch_table::{Patch, PatchTable};
pub use signature_table::SignatureTable;
use table::{Encoded, Lookup, Table};
pub use table::{Entries, Iter};
pub use trap_table::TrapTable;

use super::error::ImageError;
use super::key::FunctionKey;
use super::section::Section;

/// Declares [`Tables`]: the tables, in the order that their sections have in a file, and what is the same for all.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident: $table:ty,)*) => {
        /// Everything that an image says about its text: tables on the heap, which were checked when they were parsed.
        ///
        /// [`Image`](crate::image::Image) and [`Unpublished`](crate::image::Unpublished) dereference to it.
        ///
        /// # Sections
        ///
        /// Their layouts are described with the tables.
        ///
        /// | section | content | if it is missing |
        /// |---|---|---|
        /// | `.trapline.traps` | [`TrapTable`] | not an image |
        /// | `.trapline.funcs` | [`FunctionTable`]: where functions are | not an image |
        /// | `.trapline.keys` | [`FunctionTable`]: what each function is | the functions of one module, in order |
        /// | `.trapline.names` | [`FunctionTable`]: what each function is called | no names |
        /// | `.trapline.modules` | [`ModuleTable`] | one module |
        /// | `.trapline.sigs` | [`SignatureTable`] | no signatures |
        /// | `.trapline.addrs` | [`AddressMap`] | no source offsets |
        /// | `.trapline.patches` | [`PatchTable`] | no patches |
        pub struct Tables {
            $(pub(super) $name: $table,)*
            pub(super) embedder: Embedder,
        }

        impl Tables {
            $(
                $(#[$doc])*
                #[inline]
                #[must_use]
                pub fn $name(&self) -> &$table {
                    &self.$name
                }
            )*

            pub(super) fn read(file: &Lookup<'_>, text: &[u8], embedder: Embedder) -> Result<Tables, ImageError> {
                let tables = Tables { $($name: Table::read(file, text)?,)* embedder };
                tables.check_references()?;
                Ok(tables)
            }

            /// The sections of all tables. What is the embedder's own is not among them.
            pub(super) fn write(&self) -> Result<Encoded<'_>, ImageError> {
                let mut file = Encoded::default();
                $(self.$name.write(&mut file)?;)*
                Ok(file)
            }

            /// The section called `name`, if one of the tables has such a section.
            pub(super) fn find_section(name: &str) -> Option<Section> {
                let mut all = [].iter()$(.chain(<$table as Table>::SECTIONS))*;
                all.find(|section| section.name == name).copied()
            }
        }

        impl fmt::Debug for Tables {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct("Tables")$(.field(stringify!($name), &self.$name.len()))*.finish_non_exhaustive()
            }
        }

        $(
            impl $table {
                /// The number of entries.
                #[must_use]
                pub fn len(&self) -> usize {
                    self.count()
                }

                /// Whether there are no entries.
                #[must_use]
                pub fn is_empty(&self) -> bool {
                    self.count() == 0
                }

                /// All entries, in order.
                pub fn iter(&self) -> Iter<'_, Self> {
                    Iter::new(self)
                }
            }

            impl<'t> IntoIterator for &'t $table {
                type Item = <$table as Entries>::Entry<'t>;
                type IntoIter = Iter<'t, $table>;

                fn into_iter(self) -> Self::IntoIter {
                    self.iter()
                }
            }
        )*
    };
}

tables! {
    /// Which instructions may trap.
    traps: TrapTable,
    /// The functions of the text, and the trampolines.
    functions: FunctionTable,
    /// The modules that the text was compiled from.
    modules: ModuleTable,
    /// The signatures that the functions' keys speak of.
    signatures: SignatureTable,
    /// Where in the source the instructions came from. Empty if the image does not say.
    address_map: AddressMap,
    /// Where a private copy of the text may be changed, and how.
    patches: PatchTable,
}

impl Tables {
    /// The settings that the code was compiled with, as
    /// [`ImageBuilder::configuration`](crate::image::ImageBuilder::configuration) was given them; empty without.
    #[must_use]
    pub fn configuration(&self) -> &[u8] {
        self.embedder.configuration()
    }

    /// The bytes that [`ImageBuilder::section`](crate::image::ImageBuilder::section) was given under `name`.
    ///
    /// O(log n).
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&[u8]> {
        self.embedder.section(name)
    }

    /// What one table names the others have: keys name modules and signatures that exist, a function's number in its
    /// module fits in 32 bits, and a patch lies inside one function of the guest.
    ///
    /// O(f + p log f) for f functions and p patches.
    pub(super) fn check_references(&self) -> Result<(), ImageError> {
        for function in &self.functions {
            self.check_key(function.key())?;
        }
        for patch in &self.patches {
            let range = patch.range();
            let function = self.functions.by_offset(range.start).filter(|function| function.key().is_defined());
            if function.is_none_or(|function| function.range().end < range.end) {
                return Err(ImageError::PatchOutsideFunction { range });
            }
        }
        Ok(())
    }

    fn check_key(&self, key: FunctionKey) -> Result<(), ImageError> {
        let (modules, signatures) = (self.modules.len(), self.signatures.len());
        match key {
            FunctionKey::Defined { module, function } | FunctionKey::HostToGuest { module, function } => {
                let module = self.modules.get(module).ok_or(ImageError::NoSuchModule { key, modules })?;
                let imported_functions = module.imported_functions();
                match imported_functions.checked_add(function.as_u32()) {
                    Some(_) => Ok(()),
                    None => Err(ImageError::FunctionIndexOverflow { key, imported_functions }),
                }
            }
            FunctionKey::GuestToHost { signature } | FunctionKey::HostToGuestBySignature { signature } => {
                match self.signatures.get(signature) {
                    Some(_) => Ok(()),
                    None => Err(ImageError::NoSuchSignature { key, signatures }),
                }
            }
            FunctionKey::Builtin { .. } | FunctionKey::Adapter { .. } => Ok(()),
        }
    }
}
