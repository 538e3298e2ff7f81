//! Single lookups as functions of their own, to look at their machine code and count their instructions.

use crate::world::Payload;
use trapline::{CodeRegistry, Guard};

/// The handler's lookup.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn probe_with(registry: &CodeRegistry<Payload>, pc: usize) -> usize {
    registry.with(pc, |found| found.payload().id).unwrap_or(usize::MAX)
}

/// The lookup under a guard.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn probe_guard(guard: &Guard<'_, Payload>, pc: usize) -> usize {
    guard.get(pc).map_or(usize::MAX, |found| found.payload().id)
}
