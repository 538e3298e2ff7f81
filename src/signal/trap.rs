//! What a caught trap looks like.

use crate::{CodeId, TrapCode};
use std::ffi::c_int;
use std::fmt;

/// Where in registered code a trap happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TrapSite {
    /// The address of the faulting instruction.
    pub pc: usize,
    /// Bytes from the start of the registered range to that instruction.
    pub text_offset: usize,
    /// The registration that covered `pc` at that moment. It may have been removed since.
    pub id: CodeId,
}

impl fmt::Debug for TrapSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrapSite")
            .field("pc", &format_args!("{:#x}", self.pc))
            .field("text_offset", &format_args!("{:#x}", self.text_offset))
            .field("id", &self.id)
            .finish()
    }
}

/// The signal that a trap arrived as, in the kernel's numbers.
///
/// It tells apart what one trap site may be about: an access outside the guest's memory is a `SIGSEGV`, and one to a
/// page of a mapped file that was truncated, or whose disk failed, is a `SIGBUS`.
///
/// # Examples
///
/// ```
/// use trapline::signal::Trap;
///
/// /// Whether the embedder's file is to blame, not the guest.
/// fn lost_its_file(trap: &Trap) -> bool {
///     trap.signal.is_some_and(|signal| signal.number == libc::SIGBUS && signal.code == libc::BUS_ADRERR)
/// }
/// # let _ = lost_its_file;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TrapSignal {
    /// The signal: `SIGSEGV`, `SIGBUS`, `SIGILL` or `SIGFPE`.
    pub number: c_int,
    /// Its `si_code`, such as `BUS_ADRERR`; 128 (`SI_KERNEL`) where the processor gave no address. On x86-64 the one
    /// for a division is `FPE_INTDIV` both for a divisor of zero and for a quotient that does not fit.
    pub code: c_int,
}

impl fmt::Display for TrapSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.number {
            libc::SIGSEGV => "SIGSEGV",
            libc::SIGBUS => "SIGBUS",
            libc::SIGILL => "SIGILL",
            libc::SIGFPE => "SIGFPE",
            number => return write!(f, "signal {number} (code {})", self.code),
        };
        write!(f, "{name} (code {})", self.code)
    }
}

/// A trap that ended a call of [`catch_trap`](super::catch_trap).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Trap {
    /// Why the code trapped.
    pub code: TrapCode,
    /// Where the code trapped; `None` for a trap that host code raised with [`raise`](super::raise).
    pub site: Option<TrapSite>,
    /// The address whose access faulted, for `SIGSEGV` and `SIGBUS` where the processor names one. On x86-64 it does
    /// not for addresses that are not canonical; on AArch64 the kernel clears the tag in the top byte.
    pub fault_address: Option<usize>,
    /// The signal it was; `None` for a trap that host code raised.
    pub signal: Option<TrapSignal>,
}

impl Trap {
    pub(super) const fn raised(code: TrapCode) -> Self {
        Trap { code, site: None, fault_address: None, signal: None }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trap: {}", self.code)?;
        match self.site {
            Some(site) => write!(f, " at {:#x} (text offset {:#x})", site.pc, site.text_offset)?,
            None => f.write_str(", raised by the host")?,
        }
        if let Some(address) = self.fault_address {
            write!(f, ", accessing {address:#x}")?;
        }
        match self.signal {
            Some(signal) => write!(f, ", by {signal}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Trap {}
