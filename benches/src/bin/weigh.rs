//! What everyone takes of memory: `weigh RANGES`. Its allocator counts, so it is a program of its own.
//!
//! Prints a line for each contender: its name, and, separated by tabs, the bytes it takes with so many ranges in it,
//! payloads apart, and how many more it took at most while ranges came and went beside readers.

use benches::contenders::ALL;
use benches::harness::{processors, while_reading};
use benches::world::{Payload, Pcs, Rng, World};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::alloc::{GlobalAlloc, Layout, System};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn note(more: usize, less: usize) {
    let now = NOW.fetch_add(more, Relaxed).wrapping_add(more);
    NOW.fetch_sub(less, Relaxed);
    MOST.fetch_max(now, Relaxed);
}

// SAFETY: the system's allocator, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size, layout.size());
        // SAFETY: the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let n: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).expect("weigh RANGES");
    let world = World::new(n);
    let pcs = world.pcs(1 << 14, Pcs::Uniform);
    let payload = Payload::new(0);
    processors();
    for kind in ALL.iter().filter(|kind| n <= 100_000 || !kind.copies) {
        let before = NOW.load(Relaxed);
        let contender = (kind.make)(&world);
        let live = NOW.load(Relaxed) - before;
        let most = contender.writer().map(|writer| {
            // As many as take about a second.
            let pairs = if kind.copies && n > 1_000 { 2_000_000 / n } else { 50_000 };
            let readers = 1..processors().max(2);
            while_reading(&*contender, &pcs, readers, || {
                let start = NOW.load(Relaxed);
                MOST.store(start, Relaxed);
                let mut rng = Rng::new(7);
                (0..pairs).for_each(|_| writer.pair(&world.free[rng.below(world.free.len())], &payload));
                MOST.load(Relaxed) - start
            })
        });
        println!("{}\t{live}\t{}", kind.name, most.map_or("-".into(), |most| most.to_string()));
    }
}
