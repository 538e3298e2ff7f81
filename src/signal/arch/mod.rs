//! What depends on the processor: reading and redirecting an interrupted context, entering and leaving guest code.
//!
//! Each target has one file with the same six items: `frame`, `is_protection_fault`, `redirect`, `enter`, `land` (reached through the first
//! two) and `unwind_to`.

#[cfg(target_arch = "aarch64")]
mod aarch64_linux;
#[cfg(target_arch = "aarch64")]
pub(super) use aarch64_linux::{enter, frame, is_protection_fault, redirect, unwind_to};
#[cfg(target_arch = "x86_64")]
mod x86_64_linux;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64_linux::{enter, frame, is_protection_fault, redirect, unwind_to};
