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
//! | `.trapline.traps` | [`TrapTable`](crate::image::TrapTable) | required |
//! | `.trapline.funcs` | [`FunctionTable`](crate::image::FunctionTable) | required |
//! | `.trapline.keys` | what each function is | without it, the functions of one module |
//! | `.trapline.names` | names of the functions | |
//! | `.trapline.modules` | [`ModuleTable`](crate::image::ModuleTable) | without it, one module |
//! | `.trapline.sigs` | [`SignatureTable`](crate::image::SignatureTable) | |
//! | `.trapline.addrs` | [`AddressMap`](crate::image::AddressMap) | |
//! | `.trapline.patches` | [`PatchTable`](crate::image::PatchTable) | |
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
mod marker;
mod parse;
mod sections;
mod target;
mod write;

pub use builder::ImageBuilder;
pub(crate) use check::verify;
pub(crate) use parse::Parsed;
pub use target::Target;
