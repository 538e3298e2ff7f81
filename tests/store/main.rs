//! The store layer, on code from a real compiler.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]

mod compile;
mod components;
mod debugging;
mod errors;
mod frames;
mod one_module;
