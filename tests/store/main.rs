//! The store layer, on code from a real compiler.
#![cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), feature = "signal"))]

use trapline::store::{EngineCode, ModuleRegistry, StorePc};

mod compile;
mod components;
mod data;
mod debugging;
mod errors;
mod frames;
mod one_module;
mod owned;

/// Where `store` executes `code`, which is registered and has text.
fn base_of(store: &ModuleRegistry, code: &EngineCode) -> StorePc {
    store.store_code(code).unwrap().base().unwrap()
}
