//! Images: compiled code in a file, the tables that describe it, and the text that runs.
//!
//! ```text
//!  ImageBuilder --finish--> bytes of a file --parse--> Unpublished --publish--> Image
//!  a compiler's output      to store or to send        writable: relocate       executable
//! ```
//!
//! A compiler gives [`ImageBuilder`] machine code and what is known about it: which instructions trap and why, functions
//! and their names, modules, source offsets. [`Image::parse`] checks every table of a file, or says in an
//! [`ImageError`] what is wrong with it. [`Image::from_file`] executes the text in place, from the pages of the file.
//! The text is never writable and executable at once. [`process::register`](crate::process::register) makes a published
//! image known to signal handlers, and [`Image::entry`] is how to call it.
//!
//! # Examples
//!
//! ```
//! use std::sync::Arc;
//! use trapline::image::{Image, ImageBuilder};
//! use trapline::{PcKind, TrapCode, process};
//!
//! let file = ImageBuilder::new()
//!     .text([0x0f, 0x0b, 0xc3]) // x86-64: ud2; ret
//!     .trap(0, TrapCode::Unreachable)
//!     .function(0..3, Some("stop"))
//!     .address(0, Some(42))
//!     .finish()?;
//! let image = Arc::new(Image::parse_verified(&file)?.publish()?);
//! assert_eq!(image.trap_code(0), Some(TrapCode::Unreachable));
//! assert_eq!(image.functions().by_offset(2).unwrap().name(), Some("stop"));
//!
//! let _registration = process::register(image.clone())?;
//! let symbol = process::symbolize(image.text_range().start, PcKind::Interrupted).unwrap();
//! assert_eq!(symbol.to_string(), "stop + 0x0 (source 0x2a)");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The file
//!
//! An image is a relocatable ELF object of 64 bits in the target's byte order, so that every tool for machine code can
//! read it: `objdump -d` and `readelf -S` work on it. It is relocatable, not shared, because only this crate loads it:
//! it has no segments for a dynamic linker, and its text is at offset 0 of its own section, which is what every offset
//! in the tables counts from.
//!
//! | section | content | |
//! |---|---|---|
//! | `.trapline.image` | a marker, and the version of the format | required; an ELF file without it is no image |
//! | `.text` | the machine code, at the beginning of a page and the end of the file, so that a mapped file can be executed in place | required |
//! | `.trapline.*` | the [tables](Tables#sections) | |
//! | `.trapline.config` | the settings that the code was compiled with, opaque | |
//! | `.trapline.user.NAME` | what [`ImageBuilder::section`] was given | |
//! | `.trapline.check` | length and CRC-32 of the file | needed by [`Image::parse_verified`] only |
//!
//! Numbers inside `.trapline` sections are little-endian on every target. Sections with other names are ignored, so a
//! later version may add some; a section that older readers must not ignore raises the version instead. Every section of
//! ours appears once, and none overlaps another one or the headers: a file cannot make the reader copy more than its own
//! length.

mod error;
mod format;
mod key;
mod loaded;
mod pairs;
mod section;
mod tables;

pub use error::ImageError;
pub use format::{ImageBuilder, Target};
pub use key::{DefinedFunctionIndex, FunctionKey, ModuleIndex, SignatureIndex};
pub use loaded::{Image, Unpublished};
pub use section::Section;
pub use tables::*;
