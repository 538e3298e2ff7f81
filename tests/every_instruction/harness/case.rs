//! What a lookup is about while another thread changes it: for modes B and C.
//!
//! A [`Case`] has a pc, a way to look it up, and a change that the other thread makes each time the lookup is parked.
//! It notes each new truth about the pc; a lookup may have found any that held since it began, and no other.

use super::page::{Verdict, end};
use super::world::{self, Look, Payload};
use super::writer::{self, range};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use trapline::image::Image;
use trapline::{Registration, process};

/// Functions, since handlers and another thread call them.
#[derive(Clone, Copy)]
pub struct Case {
    /// Makes the registry; on the looking thread, before anything else.
    pub prepare: fn(),
    /// The pc to look up.
    pub pc: fn() -> usize,
    /// How.
    pub look: Look,
    /// On the writing thread: removes, frees, reuses. Notes the [truth](tell) afterwards.
    pub change: fn(),
    /// Whether the change shows in the answer.
    pub shows: bool,
    /// On the looking thread, between lookups.
    pub between: fn(),
}

/// The truths about the pc since the lookup began, the last one being true now; more than any lookup is parked for.
static TRUTHS: [AtomicU64; 1 << 16] = [const { AtomicU64::new(0) }; 1 << 16];
static KNOWN: AtomicUsize = AtomicUsize::new(0);

/// Adds a truth: what a lookup that begins now must find.
pub fn tell(who: Option<u64>) {
    // Relaxed: turns are handed over with Release and Acquire.
    let i = KNOWN.load(Ordering::Relaxed);
    TRUTHS[i].store(encode(who), Ordering::Relaxed);
    KNOWN.store(i + 1, Ordering::Relaxed);
}

fn encode(who: Option<u64>) -> u64 {
    who.map_or(0, |who| who + 1)
}

/// A moment, to ask later what was true since.
#[derive(Clone, Copy)]
pub struct Since(usize);

/// Now. Forgets all truths but the last.
pub fn begin() -> Since {
    let last = TRUTHS[KNOWN.load(Ordering::Relaxed) - 1].load(Ordering::Relaxed);
    TRUTHS[0].store(last, Ordering::Relaxed);
    KNOWN.store(1, Ordering::Relaxed);
    Since(0)
}

/// Now, inside of what another [`begin`] began.
pub fn now() -> Since {
    Since(KNOWN.load(Ordering::Relaxed) - 1)
}

/// An answer that was not true at any time since is the end.
pub fn demand(answer: Option<u64>, since: Since, pc: usize) {
    let truths = &TRUTHS[since.0..KNOWN.load(Ordering::Relaxed)];
    if !truths.iter().any(|truth| truth.load(Ordering::Relaxed) == encode(answer)) {
        let last = truths[truths.len() - 1].load(Ordering::Relaxed);
        end(Verdict::WrongAnswer, [pc as u64, encode(answer), last]);
    }
}

/// Whether this answer is what is true now.
pub fn is_last(answer: Option<u64>) -> bool {
    TRUTHS[KNOWN.load(Ordering::Relaxed) - 1].load(Ordering::Relaxed) == encode(answer)
}

/// Reads the payload, tarries, and reads it again, so that some instructions lie between.
pub fn tarry_with(payload: &Payload) -> u64 {
    let first = payload.who();
    std::hint::spin_loop();
    let second = payload.who();
    if first == second { first } else { u64::MAX - 1 }
}

fn look_locally(pc: usize) -> Option<u64> {
    world::registry().with(pc, |found| tarry_with(found.payload()))
}

fn look_globally(pc: usize) -> Option<u64> {
    trapline::process::with(pc, |found| {
        let first = world::code_identity(&found);
        std::hint::spin_loop();
        if first == world::code_identity(&found) { first } else { u64::MAX - 1 }
    })
}

/// What the writing thread has registered at the pc.
static MINE: Mutex<Option<Registration<'static, Payload>>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(0);
/// Who everything else says it is.
pub const OTHERS: u64 = 1 << 40;
/// The range that is looked up.
const HERE: usize = 20;

fn prepare_with(n: usize, widely: bool) {
    let registry = world::fresh_registry();
    let others = (0..n).filter(|i| *i != HERE).map(|i| (range(i), Payload::new(OTHERS)));
    writer::leak(registry.register_all(others));
    if widely {
        let far: Range<usize> = 0x7000_0000_0000..0x7100_0000_0000;
        registry.register(far, Payload::new(OTHERS)).expect("a free range").leak();
    }
    register_here();
}

fn register_here() {
    let who = NEXT.fetch_add(1, Ordering::Relaxed);
    let registration = world::registry().register(range(HERE), Payload::new(who)).expect("a free range");
    *MINE.lock().expect("no panics") = Some(registration);
    tell(Some(who));
}

/// Unregisters, reclaims, and registers another payload at the same place.
pub fn replace() {
    *MINE.lock().expect("no panics") = None;
    world::registry().reclaim();
    register_here();
    world::registry().reclaim();
}

/// Leaves the payload alone, and has the nodes that lead to it replaced, freed and used for other ranges.
pub fn recycle() {
    let registry = world::registry();
    let write = |i| drop(registry.register(range(i), Payload::new(OTHERS)).expect("a free range"));
    // A neighbour that comes or goes retires the node, which is freed, if it can be, and used by writes far away. (Were it to
    // come and go, the second copy would be where the node was, and nothing have changed for a reader.)
    {
        let mut neighbour = NEAR.lock().expect("no panics");
        *neighbour = match neighbour.take() {
            Some(_gone) => None,
            None => Some(registry.register(range(NEIGHBOUR), Payload::new(OTHERS)).expect("a free range")),
        };
    }
    if registry.stats().retired_nodes == 0 {
        for _ in 0..ROTATIONS {
            write(FAR_AWAY);
            registry.reclaim();
        }
    }
    let last = TRUTHS[KNOWN.load(Ordering::Relaxed) - 1].load(Ordering::Relaxed);
    tell(last.checked_sub(1));
}

/// Unused ranges beside the one that is looked up, and in another part of the registry.
const NEIGHBOUR: usize = 21;
const FAR_AWAY: usize = 900;
/// Spare nodes are used in turn; there are fewer.
const ROTATIONS: usize = 24;

static NEAR: Mutex<Option<Registration<'static, Payload>>> = Mutex::new(None);

fn prepare_nodes() {
    *NEAR.lock().expect("no panics") = None;
    let registry = world::fresh_registry();
    let others = (0..1000).filter(|i| ![HERE, NEIGHBOUR, FAR_AWAY].contains(i));
    writer::leak(registry.register_all(others.map(|i| (range(i), Payload::new(OTHERS)))));
    register_here();
}

fn here() -> usize {
    range(HERE).start + 0x123
}

/// Thirty ranges: one node.
pub const ONE_NODE: Case = Case {
    prepare: || prepare_with(30, false),
    pc: here,
    look: look_locally,
    change: replace,
    shows: true,
    between: tidy,
};
/// Two levels of narrow nodes.
pub const LEVELS: Case = Case { prepare: || prepare_with(1000, false), ..ONE_NODE };
/// A wide node: ranges too far apart for short keys.
pub const WIDE: Case = Case { prepare: || prepare_with(30, true), ..ONE_NODE };
/// The payload stays, its nodes do not.
pub const NODES: Case =
    Case { prepare: prepare_nodes, pc: here, look: look_locally, change: recycle, shows: false, between: tidy };
/// The process-wide registry, and code that is unmapped.
pub const MAPPED: Case = Case {
    prepare: publish_elsewhere,
    pc: || PC.load(Ordering::Relaxed),
    look: look_globally,
    change: publish_elsewhere,
    shows: true,
    between: look_at_new_code,
};

static CODE: Mutex<Option<(process::Registration, Arc<Image>)>> = Mutex::new(None);
static PC: AtomicUsize = AtomicUsize::new(0);

/// Unregisters the code, which unmaps it once nobody sees it, and publishes other code, at the same address if free.
fn publish_elsewhere() {
    let mut code = CODE.lock().expect("no panics");
    drop(code.take());
    trapline::process::reclaim();
    let who = NEXT.fetch_add(1, Ordering::Relaxed);
    let memory = world::image(who);
    let registration = trapline::process::register(memory.clone()).expect("fresh memory");
    // Whose code the pc is that was looked for: nobody's, unless the address was reused.
    let pc = PC.load(Ordering::Relaxed);
    tell(memory.text_range().contains(&pc).then_some(who));
    *code = Some((registration, memory));
}

/// Once no lookup is under way everything that was removed can be freed.
fn tidy() {
    world::registry().reclaim();
    assert_eq!(world::registry().stats().retired_ranges, 0, "a lookup that is over holds up garbage");
}

/// As [`tidy`], and has the next lookup look for the code that is there now.
fn look_at_new_code() {
    trapline::process::reclaim();
    assert_eq!(trapline::process::stats().retired_ranges, 0, "a lookup that is over holds up garbage");
    if let Some((_, memory)) = &*CODE.lock().expect("no panics") {
        PC.store(memory.text_range().start + 1, Ordering::Relaxed);
        tell(Some(world::text_identity(memory.text())));
    }
}
