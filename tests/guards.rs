//! Guards: what they cost beside writers and `reclaim` (P6).
//!
//! crossbeam has one epoch for the process, and here its memory is counted: a test at a time, in a process of their own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use trapline::CodeRegistry;

/// The system's allocator, counted.
struct Counting;

static BYTES: AtomicIsize = AtomicIsize::new(0);

// SAFETY: the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts its drops.
struct Payload(Arc<AtomicUsize>);

impl Drop for Payload {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn write(registry: &CodeRegistry<Payload>, drops: &Arc<AtomicUsize>) {
    drop(registry.register(0x1000..0x2000, Arc::new(Payload(drops.clone()))).unwrap());
}

/// Of two threads one has a guard at any time: what waits is freed when those have gone that were there, all the same.
#[test]
fn guards_that_overlap_without_end_cost_a_bounded_number_of_nodes() {
    let _alone = alone();
    const TURNS: usize = 4_000;
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    let turns = AtomicUsize::new(0);
    let over = || turns.load(Ordering::Acquire) >= TURNS;
    let pinned = |me: usize| {
        let mut guard = Some(registry.pin());
        while !over() {
            // Lets go only while the other one has its guard, and says so when it has one again.
            if turns.load(Ordering::Acquire) % 2 == me {
                drop(guard.take());
                guard = Some(registry.pin());
                turns.fetch_add(1, Ordering::AcqRel);
            }
            thread::yield_now();
        }
    };
    let (mut most, mut freed, mut writes) = (0, 0, 0);
    thread::scope(|scope| {
        (0..2).for_each(|me| _ = scope.spawn(move || pinned(me)));
        // A write in each turn.
        while !over() {
            let turn = turns.load(Ordering::Acquire);
            write(&registry, &drops);
            writes += 1;
            most = most.max(registry.stats().retired_nodes);
            freed = drops.load(Ordering::SeqCst);
            while turns.load(Ordering::Acquire) == turn && !over() {
                thread::yield_now();
            }
        }
    });
    println!("guards that overlap: at most {most} nodes wait, {freed} of {writes} payloads freed meanwhile");
    assert!(freed > writes * 9 / 10, "{freed} of {writes} payloads were freed beside guards that overlap");
    // A closure is due when both have let go of their guards twice, and the next one as many turns later.
    assert!(most < 100, "{most} nodes waited");
    registry.reclaim();
    assert_eq!((registry.stats().retired_nodes, registry.stats().retired_ranges), (0, 0));
}

#[test]
fn a_reclaim_with_nobody_inside_frees_all_that_a_guard_kept() {
    let _alone = alone();
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    let guard = registry.pin();
    for i in 1..=2_000 {
        write(&registry, &drops);
        registry.reclaim();
        assert_eq!((registry.stats().retired_ranges, drops.load(Ordering::SeqCst)), (i, 0));
    }
    drop(guard);
    registry.reclaim();
    let stats = registry.stats();
    assert_eq!((stats.retired_ranges, stats.retired_nodes, drops.load(Ordering::SeqCst)), (0, 0, 2_000));
}

#[test]
fn any_number_of_reclaims_under_a_guard_take_no_more_memory_than_a_few() {
    let _alone = alone();
    let registry = CodeRegistry::new();
    let drops = Arc::new(AtomicUsize::new(0));
    let guard = registry.pin();
    let taken_by = |reclaims: usize| {
        let before = BYTES.load(Ordering::Relaxed);
        for _ in 0..reclaims {
            registry.reclaim();
            drop(registry.pin());
        }
        BYTES.load(Ordering::Relaxed) - before
    };
    write(&registry, &drops);
    let few = taken_by(4);
    let many = taken_by(4_000);
    println!("4 reclaims under a guard take {few} bytes, 4,000 more {many}");
    assert!(many <= few.max(4_096), "{many} bytes");
    drop(guard);
}

/// What waits in crossbeam for one registry's guards is one closure, so that there is hardly a queue for another's.
#[test]
fn a_backlog_of_one_registry_delays_no_other() {
    let _alone = alone();
    let [busy, other] = [CodeRegistry::new(), CodeRegistry::new()];
    let drops = Arc::new(AtomicUsize::new(0));
    let parked = AtomicBool::new(false);
    let leave = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _guards = (busy.pin(), other.pin());
            parked.store(true, Ordering::Release);
            while !leave.load(Ordering::Acquire) {
                thread::yield_now();
            }
        });
        while !parked.load(Ordering::Acquire) {
            thread::yield_now();
        }
        for _ in 0..2_000 {
            write(&busy, &drops);
            busy.reclaim();
        }
        write(&other, &drops);
        other.reclaim();
        leave.store(true, Ordering::Release);
    });
    assert_eq!(drops.load(Ordering::SeqCst), 0);
    other.reclaim();
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    busy.reclaim();
    assert_eq!(drops.load(Ordering::SeqCst), 2_001);
}
