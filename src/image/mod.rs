//! Images: compiled code in a file, the tables that describe it, and the text that runs.
//!
//! ```text
//!  ImageBuilder --finish--> bytes of a file --parse--> Unpublished --publish--> Image
//! ```

mod error;
mod format;
mod key;
mod loaded;
mod section;
mod tables;

pub use error::ImageError;
pub use format::{ImageBuilder, Target};
pub use key::{DefinedFunctionIndex, FunctionKey, ModuleIndex, SignatureIndex};
pub use loaded::{Image, Unpublished};
pub use section::Section;
pub use tables::*;

/// Each element with the one after it: `array_windows`, which Rust 1.88 does not have.
fn pairs<T>(elements: &[T]) -> impl Iterator<Item = &[T; 2]> {
    elements.windows(2).filter_map(|two| two.first_chunk())
}
