//! Lookups known to be unsafe in a handler, each under the same harness as ours: it must notice.

use super::case::{self, Case};
use super::page::{Verdict, page};
use super::scenario::Scenario;
use super::watch::{self, Watch};
use super::world::{self, Payload};
use super::writer::{self, range, step};
use super::{lifetime, lookup, nested};
use std::cell::{RefCell, UnsafeCell};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use trapline::Guard;

pub fn all() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut control = |mode, name, expected, run: fn()| {
        all.push(Scenario { mode, name, share: 0, expected, run: Box::new(move |_| run()) });
    };
    control('A', "a RwLock<BTreeMap>, while a range is inserted", Verdict::Stuck, locked_map);
    control('A', "arc_swap's load, on a fresh thread", Verdict::Allocation, arc_swap_load);
    control('A', "crossbeam_epoch's pin, on a fresh thread", Verdict::Allocation, epoch_pin);
    control('A', "a function of the C library that allocates", Verdict::Allocation, c_allocation);
    control('A', "a sorted array, changed in place", Verdict::WrongAnswer, changed_in_place);
    control('A', "a lookup with a large buffer", Verdict::Stack, large_buffer);
    control('B', "our lookup without its gate: the payload", Verdict::UseAfterFree, payload_without_gate);
    control('B', "our lookup without its gate: the nodes", Verdict::WrongAnswer, nodes_without_gate);
    control('C', "a lookup that is not reentrant", Verdict::WrongAnswer, not_reentrant);
    control('D', "a RwLock<BTreeMap>, whose readers wait in the kernel", Verdict::SystemCall, locked_for_life);
    control('D', "a BTreeMap under a spin lock", Verdict::Stuck, spinning_for_life);
    control('D', "a lookup with a large buffer", Verdict::Stack, large_buffer_for_life);
    control('D', "a thread-local with a destructor", Verdict::Allocation, lazy_for_life);
    control('D', "a handler that asks the kernel", Verdict::SystemCall, system_call_for_life);
    all
}

/// Ranges by their ends, as the code that this crate replaces had them: their starts, and who they are.
type Map = BTreeMap<usize, (usize, Arc<u64>)>;

const RANGES: usize = 100;
const ADDED: usize = 150;

fn ranges() -> Map {
    (0..RANGES).map(|i| (range(i).end, (range(i).start, Arc::new(i as u64)))).collect()
}

fn find(map: &Map, pc: usize) -> Option<u64> {
    page().count_lookup();
    let (_, (start, who)) = map.range(pc + 1..).next()?;
    (*start <= pc).then_some(**who)
}

/// Ranges that stay, under a lookup of these.
fn watch_with(look: world::Look) -> Watch {
    Watch::new(look, (0..RANGES).map(|i| (range(i).start + 1, Some(i as u64))))
}

static LOCKED: LazyLock<RwLock<Map>> = LazyLock::new(|| RwLock::new(ranges()));

fn look_locked(pc: usize) -> Option<u64> {
    let map = LOCKED.read().unwrap_or_else(PoisonError::into_inner);
    find(&map, pc)
}

fn insert_locked() {
    let mut map = LOCKED.write().unwrap_or_else(PoisonError::into_inner);
    map.insert(range(ADDED).end, (range(ADDED).start, Arc::new(ADDED as u64)));
}

fn locked_map() {
    LazyLock::force(&LOCKED);
    writer::run(|| step(&watch_with(look_locked), insert_locked), POINTS);
}

/// Any instruction of a thread that has not looked up before will do.
fn on_a_fresh_thread(look: fn()) {
    static LOOK: super::step::Hook = super::step::Hook::none();
    LOOK.set(look);
    writer::run(
        || {
            let look = |pc: usize| {
                LOOK.call();
                Some(pc as u64)
            };
            let pc = range(0).start;
            step(&Watch::new(look, [(pc, Some(pc as u64))]), || black_box(0));
        },
        1,
    );
}

fn arc_swap_load() {
    static SWAPPED: LazyLock<arc_swap::ArcSwap<Map>> = LazyLock::new(|| arc_swap::ArcSwap::from_pointee(ranges()));
    LazyLock::force(&SWAPPED);
    on_a_fresh_thread(|| {
        find(&SWAPPED.load(), range(0).start);
    });
}

fn epoch_pin() {
    static PUBLISHED: LazyLock<crossbeam_epoch::Atomic<Map>> = LazyLock::new(|| crossbeam_epoch::Atomic::new(ranges()));
    LazyLock::force(&PUBLISHED);
    drop(crossbeam_epoch::pin());
    on_a_fresh_thread(|| {
        let guard = crossbeam_epoch::pin();
        // SAFETY: never replaced.
        let map = unsafe { PUBLISHED.load(Ordering::Acquire, &guard).deref() };
        find(map, range(0).start);
    });
}

fn c_allocation() {
    on_a_fresh_thread(|| {
        // SAFETY: a string; the copy is this function's.
        unsafe { libc::free(black_box(libc::strdup(c"found".as_ptr())).cast()) };
    });
}

/// A sorted array that is changed where readers see it.
struct InPlace(UnsafeCell<Vec<(usize, usize, u64)>>);

// SAFETY: none; that is the point. One thread and its handlers use it.
unsafe impl Sync for InPlace {}

static IN_PLACE: InPlace = InPlace(UnsafeCell::new(Vec::new()));

fn look_in_place(pc: usize) -> Option<u64> {
    page().count_lookup();
    // SAFETY: the memory stays, there is room; what is in it may be half changed.
    let ranges = unsafe { &*IN_PLACE.0.get() };
    let i = ranges.partition_point(|(start, ..)| *start <= pc).checked_sub(1)?;
    let (start, end, who) = ranges[i];
    (start..end).contains(&pc).then_some(who)
}

fn changed_in_place() {
    // SAFETY: nobody looks yet.
    let ranges = unsafe { &mut *IN_PLACE.0.get() };
    ranges.reserve(RANGES + 1);
    ranges.extend((0..RANGES).filter(|i| *i != 7).map(|i| (range(i).start, range(i).end, i as u64)));
    writer::run(
        || {
            let stable = (0..RANGES).filter(|i| *i != 7).map(|i| (range(i).start + 1, Some(i as u64)));
            // SAFETY: as in `look_in_place`.
            step(&Watch::new(look_in_place, stable), || unsafe {
                (*IN_PLACE.0.get()).insert(7, (range(7).start, range(7).end, 7));
            });
        },
        POINTS,
    );
}

fn large_buffer() {
    writer::run(
        || {
            let registry = world::fresh_registry();
            writer::fill(registry, RANGES);
            let look = |pc: usize| {
                black_box(&mut [1_u8; 2 * super::stack::BOUND]);
                world::local(pc)
            };
            step(&watch_with(look), || black_box(0));
        },
        1,
    );
}

/// A guard that does not guard: its own pin is over. What it looks up with is the code that ships.
static BARE: AtomicPtr<Guard<'static, Payload>> = AtomicPtr::new(ptr::null_mut());

fn unpin() {
    let guard = world::registry().pin();
    // SAFETY: not sound, on purpose: the copy looks up without protection. It is never dropped.
    let copy = ManuallyDrop::new(unsafe { ptr::read(&raw const guard) });
    BARE.store(ptr::from_mut(Box::leak(Box::new(copy))).cast(), Ordering::Relaxed);
}

fn look_without_gate(pc: usize) -> Option<u64> {
    // SAFETY: leaked by `unpin`; what it finds may be freed, which is to be noticed.
    let guard = unsafe { &*BARE.load(Ordering::Relaxed) };
    guard.get(pc).map(|found| case::tarry_with(found.payload()))
}

const POINTS: u64 = 2_000;

fn payload_without_gate() {
    fn prepare() {
        (case::LEVELS.prepare)();
        unpin();
    }
    // Nodes are used again at once, and their new contents are as right as can be: only the payload that is gone tells.
    lookup::run(Case { prepare, look: look_without_gate, shows: false, ..case::LEVELS }, POINTS);
}

fn nodes_without_gate() {
    fn prepare() {
        (case::NODES.prepare)();
        unpin();
    }
    lookup::run(Case { prepare, look: look_without_gate, ..case::NODES }, POINTS);
}

/// Keeps its answer where a nested lookup puts its own.
fn look_through_scratch(pc: usize) -> Option<u64> {
    static SCRATCH: AtomicU64 = AtomicU64::new(0);
    world::registry().with(pc, |found| SCRATCH.store(case::tarry_with(found.payload()), Ordering::Relaxed))?;
    Some(SCRATCH.load(Ordering::Relaxed))
}

fn not_reentrant() {
    nested::run(Case { look: look_through_scratch, ..case::LEVELS }, POINTS);
}

fn locked_for_life() {
    LazyLock::force(&LOCKED);
    let handle = || {
        look_locked(range(0).start);
        watch::check();
    };
    lifetime::run(handle, || (0..20).for_each(|_| insert_locked()), POINTS);
}

fn spinning_for_life() {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    fn locked(f: impl FnOnce()) {
        while TAKEN.swap(true, Ordering::Acquire) {
            std::hint::spin_loop();
        }
        f();
        TAKEN.store(false, Ordering::Release);
    }
    let handle = || {
        locked(|| ());
        watch::check();
    };
    lifetime::run(handle, || locked(insert_locked), POINTS);
}

fn large_buffer_for_life() {
    let handle = || {
        black_box(&mut [1_u8; super::stack::BOUND + 512]);
        watch::check();
    };
    lifetime::run(handle, || (), POINTS);
}

fn lazy_for_life() {
    thread_local!(static LAST: RefCell<Option<Arc<u64>>> = const { RefCell::new(None) });
    let handle = || {
        LAST.with(|last| black_box(last.borrow().is_some()));
        watch::check();
    };
    lifetime::run(handle, || (), POINTS);
}

fn system_call_for_life() {
    let handle = || {
        // SAFETY: no preconditions.
        unsafe { libc::syscall(libc::SYS_getpid) };
        watch::check();
    };
    lifetime::run(handle, || (), POINTS);
}
