//! Traps: from the faulting instruction to the `Err` of the call.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod bare;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod guests;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod inside;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod measured;

use super::Options;
use crate::section::Section;

/// Measures it, where the code that traps can be made.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub fn measure(options: &Options) -> Section {
    measured::measure(options)
}

/// Measures nothing: the code that traps is x86-64's.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub fn measure(_: &Options) -> Section {
    Section { intro: "Not measured: only on Linux, on x86-64.".into(), ..Section::default() }
}
