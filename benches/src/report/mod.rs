//! The report: sections as Markdown, and their curves as pictures.
//!
//! Sections are kept in the target folder, so that one can be measured again without the others.

mod machine;
mod markdown;
mod plot;

pub use machine::Machine;
pub use markdown::{document, report, section};
pub use plot::svg;

use crate::section::Section;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A section, and where and when it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// What was measured.
    pub section: Section,
    /// On what.
    pub machine: Machine,
}

/// Where sections are kept: a folder in the target folder.
pub struct Store(PathBuf);

impl Store {
    /// The one of this program, which is `target/PROFILE/report`; `name` tells full runs from others.
    pub fn new(name: &str) -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let target = program.ancestors().nth(2).ok_or(io::ErrorKind::NotFound)?;
        let folder = target.join("benches").join(name);
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name).with_extension("json")
    }

    /// Keeps a section.
    pub fn keep(&self, name: &str, measured: &Measured) -> io::Result<()> {
        fs::write(self.file(name), serde_json::to_vec_pretty(measured)?)
    }

    /// The section of that name, if one was kept.
    pub fn get(&self, name: &str) -> Option<Measured> {
        serde_json::from_slice(&fs::read(self.file(name)).ok()?).ok()
    }
}
