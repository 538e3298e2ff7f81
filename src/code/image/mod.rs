//! The file format: how compiled code and its tables travel.
//!
//! An image is a relocatable ELF object (64 bits, the target's byte order), because that is what every tool for machine
//! code can already read: `objdump -d` and `readelf -S` work on it. Relocatable rather than shared, because nothing but
//! this crate loads it: it has no segments for a dynamic linker to map, and its text is at offset 0 of its own section,
//! which is what every offset in the tables means.
//!
//! | section | content | |
//! |---|---|---|
//! | `.trapline.image` | magic, version of the format | required; without it an ELF file is not ours |
//! | `.text` | the machine code: page aligned, and at the end of the file, so that a mapped file can be executed in place | required |
//! | `.trapline.traps` | [`TrapTable`](crate::TrapTable) | required |
//! | `.trapline.funcs` | [`CompiledFunctionsTable`](crate::CompiledFunctionsTable) | required |
//! | `.trapline.keys` | what each function is | without it, the functions of one module |
//! | `.trapline.names` | names of the functions | |
//! | `.trapline.modules` | [`ModuleTable`](crate::ModuleTable) | without it, one module |
//! | `.trapline.sigs` | [`SignatureTable`](crate::SignatureTable) | |
//! | `.trapline.addrs` | [`AddressMap`](crate::AddressMap) | |
//! | `.trapline.patches` | [`PatchTable`](crate::PatchTable) | |
//! | `.trapline.config` | the settings that the code was compiled with, opaque | |
//! | `.trapline.user.NAME` | whatever [`ImageBuilder::section`] was given | |
//! | `.trapline.check` | length and CRC-32 of the file | only needed to verify |
//!
//! Numbers inside `.trapline` sections are little-endian on every target. Sections with other names are ignored, so a
//! later version may add some; one that an older reader must not ignore raises the version instead. Every section that
//! is ours appears once, and none shares bytes with another or with the headers: a file cannot make us copy more than
//! its own length.

mod builder;
mod check;
mod error;
mod marker;
mod parse;
mod sections;
mod target;
mod write;

pub use builder::ImageBuilder;
pub(crate) use check::verify;
pub use error::ImageError;
pub(crate) use parse::{Image, UserSections};
pub use target::Target;

/// Names of the sections.
pub(crate) mod names {
    pub(crate) const MARKER: &str = ".trapline.image";
    pub(crate) const TEXT: &str = ".text";
    pub(crate) const TRAPS: &str = ".trapline.traps";
    pub(crate) const FUNCTIONS: &str = ".trapline.funcs";
    pub(crate) const KEYS: &str = ".trapline.keys";
    pub(crate) const NAMES: &str = ".trapline.names";
    pub(crate) const MODULES: &str = ".trapline.modules";
    pub(crate) const SIGNATURES: &str = ".trapline.sigs";
    pub(crate) const ADDRESSES: &str = ".trapline.addrs";
    pub(crate) const PATCHES: &str = ".trapline.patches";
    pub(crate) const CONFIGURATION: &str = ".trapline.config";
    pub(crate) const CHECK: &str = ".trapline.check";
    /// What all names but `.text` begin with.
    pub(crate) const OURS: &str = ".trapline.";
    /// What the sections of the embedder begin with.
    pub(crate) const USER: &str = ".trapline.user.";
    /// Not ours, but every file's: the names of all sections.
    pub(crate) const SECTION_NAMES: &str = ".shstrtab";
    /// No name of ours is longer, in bytes.
    pub(crate) const MAX_LEN: usize = 255;
}
