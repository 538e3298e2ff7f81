//! What the probe does while callgrind counts.

use crate::world::Payload;
use core::arch::asm;
use core::ops::Range;
use std::sync::Arc;
use trapline::{CodeRegistry, Guard};

/// The handler's lookup, as a function of its own, to look at its machine code.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn probe_with(registry: &CodeRegistry<Payload>, pc: usize) -> usize {
    registry.with(pc, |found| found.payload().id).unwrap_or(usize::MAX)
}

/// The lookup under a guard, likewise.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn probe_guard(guard: &Guard<'_, Payload>, pc: usize) -> usize {
    guard.get(pc).map_or(usize::MAX, |found| found.payload().id)
}

/// One registration and its removal, likewise.
#[inline(never)]
#[unsafe(no_mangle)]
pub fn probe_pair(registry: &CodeRegistry<Payload>, range: &Range<usize>, payload: &Arc<Payload>) {
    drop(registry.register(range.clone(), payload.clone()).expect("the place is free"));
}

/// What can be asked of callgrind; see its manual.
#[derive(Clone, Copy)]
pub enum Request {
    /// Forgets what was counted.
    Zero,
    /// Begins or ends to count what is executed.
    Toggle,
    /// Writes what was counted into the next part of its file.
    Dump,
    /// Begins to watch, with cold caches.
    Start,
    /// Ends to watch, and runs faster.
    Stop,
}

/// Asks it of callgrind. Does nothing when it is not there.
#[inline(always)]
pub fn ask(request: Request) {
    // Tools are told apart by two letters in the upper half.
    const CALLGRIND: usize = (b'C' as usize) << 24 | (b'T' as usize) << 16;
    let code = match request {
        Request::Dump => 0,
        Request::Zero => 1,
        Request::Toggle => 2,
        Request::Start => 4,
        Request::Stop => 5,
    };
    let arguments = [CALLGRIND + code, 0, 0, 0, 0, 0];
    // SAFETY: valgrind recognises the rotations, which together do nothing, and the instruction after them, which does
    // nothing either. It reads the arguments and writes its answer to the register that is declared to be lost.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            in("rax") arguments.as_ptr(), inout("rdx") 0_usize => _, options(nostack),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "ror x12, x12, 3", "ror x12, x12, 13", "ror x12, x12, 51", "ror x12, x12, 61", "orr x10, x10, x10",
            inout("x3") 0_usize => _, in("x4") arguments.as_ptr(), out("x10") _, out("x12") _, options(nostack),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = arguments;
}
