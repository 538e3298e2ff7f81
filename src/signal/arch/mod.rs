//! What depends on the processor: reading and redirecting an interrupted context, entering and leaving guest code.
//!
//! Each target has one file with the same items: `frame`, `is_protection_fault`, `stop_alignment_checks`, `redirect`,
//! `enter` and its `OWNER`, `land` (reached through `redirect` and `unwind_to`) and `unwind_to`.

#[cfg(target_arch = "aarch64")]
mod aarch64_linux;
#[cfg(target_arch = "aarch64")]
pub(super) use aarch64_linux::{OWNER, enter, frame, is_protection_fault, redirect, stop_alignment_checks, unwind_to};
#[cfg(target_arch = "x86_64")]
mod x86_64_linux;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64_linux::{OWNER, enter, frame, is_protection_fault, redirect, stop_alignment_checks, unwind_to};
