//! What a caught trap looks like.

use crate::{CodeId, TrapCode};
use std::fmt;

/// Where in registered code a trap happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrapSite {
    /// The address of the faulting instruction.
    pub pc: usize,
    /// The same in bytes from the start of the registered range.
    pub text_offset: usize,
    /// The registration that covered `pc` at that moment. It may have been removed since.
    pub id: CodeId,
}

/// A trap that ended a call of [`catch_trap`](super::catch_trap).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trap {
    /// Why.
    pub code: TrapCode,
    /// Where; `None` for a trap that host code raised with [`raise`](super::raise).
    pub site: Option<TrapSite>,
    /// The address whose access faulted, for `SIGSEGV` and `SIGBUS` where the processor names one. On x86-64 it does
    /// not for addresses that are not canonical; on AArch64 the kernel clears the tag in the top byte.
    pub fault_address: Option<usize>,
}

impl Trap {
    pub(super) const fn raised(code: TrapCode) -> Self {
        Trap { code, site: None, fault_address: None }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trap: {}", self.code)?;
        match self.site {
            Some(site) => write!(f, " at {:#x} (text offset {:#x})", site.pc, site.text_offset)?,
            None => f.write_str(", raised by the host")?,
        }
        match self.fault_address {
            Some(address) => write!(f, ", accessing {address:#x}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Trap {}
