//! Lookups beside alignment checks: a handler runs with EFLAGS.AC as the interrupted code had set it.
//!
//! As compiled with optimisation: without, the compiler copies values by whatever moves they fit in, aligned or not. (So
//! [`trapline::signal`]'s own handler turns the checks off before anything else: `tests/alignment_checks.rs`.)
#![cfg(all(target_arch = "x86_64", not(debug_assertions)))]

use std::arch::asm;
use std::sync::Arc;
use trapline::CodeRegistry;

/// Runs `f` with alignment checks on: an unaligned access ends the process by SIGBUS.
#[inline(never)]
fn with_alignment_checks<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: sets and clears a flag that the compiler's code does not read; pushes and pops below the red zone.
    unsafe { asm!("sub rsp, 128", "pushfq", "or qword ptr [rsp], 0x40000", "popfq", "add rsp, 128") };
    let result = f();
    // SAFETY: as above.
    unsafe { asm!("sub rsp, 128", "pushfq", "and qword ptr [rsp], ~0x40000", "popfq", "add rsp, 128") };
    result
}

/// As many lookups as there are ranges, in every way that a handler has.
fn look_up_everywhere(registry: &CodeRegistry<u64>, starts: &[usize]) {
    let guard = registry.pin();
    let snapshot = registry.snapshot();
    for (number, start) in starts.iter().enumerate() {
        for pc in [*start, start + 1, start + 2, start + 3, start + 7] {
            let found = with_alignment_checks(|| {
                let with = registry.with(pc, |found| (*found.payload(), found.offset(), found.id()));
                let view = registry.view(|view| view.get(pc).map(|found| (*found.payload(), found.range())));
                let guard = guard.get(pc).map(|found| *found.payload());
                let snapshot = snapshot.get(pc).map(|found| *found.payload());
                (with, view, guard, snapshot, registry.stats().live_ranges)
            });
            let number = number as u64;
            assert_eq!(found.0.map(|(payload, offset, _)| (payload, offset)), Some((number, pc - start)));
            assert_eq!(found.1, Some((number, *start..start + 8)));
            assert_eq!((found.2, found.3, found.4), (Some(number), Some(number), starts.len()));
        }
        assert_eq!(with_alignment_checks(|| registry.with(start + 8, |_| ())), None);
    }
}

fn registry_of(starts: &[usize]) -> CodeRegistry<u64> {
    let registry = CodeRegistry::new();
    let codes = starts.iter().enumerate().map(|(number, start)| (*start..start + 8, Arc::new(number as u64)));
    registry.register_all(codes).unwrap().into_iter().for_each(|registration| _ = registration.leak());
    registry
}

#[test]
fn lookups_make_no_unaligned_access() {
    for ranges in [1, 2, 63, 64, 5_000] {
        let starts: Vec<usize> = (0..ranges).map(|i| 0x10_0000 + i * 13).collect();
        look_up_everywhere(&registry_of(&starts), &starts);
    }
}

#[test]
fn lookups_among_ranges_far_apart_make_no_unaligned_access() {
    for ranges in [2, 36, 300] {
        let starts: Vec<usize> = (0..ranges).map(|i| 0x10_0001 + i * 0x1_2345_6789).collect();
        look_up_everywhere(&registry_of(&starts), &starts);
    }
}
