//! Who is measured: what holds the ranges, and what protects it from being changed while it is read.
//!
//! | file | |
//! |---|---|
//! | `trapline` | this library, by each of its ways to look up |
//! | `table` | the two containers of the others: a map, and sorted arrays |
//! | `unprotected` | the sorted arrays as they are: the limit |
//! | `locked` | a map behind a lock that readers share: what engines have today |
//! | `swapped` | sorted arrays that are replaced as a whole, in an arc-swap |
//! | `left_right` | two copies, of which writers change one while readers are in the other |
//! | `half_lock` | replaced as a whole; writers wait until the counts of readers were seen at zero |
//! | `reader_count` | two copies, and one count of all readers, which writers wait for |
//! | `loader` | what the C library knows of the objects that are loaded |

mod half_lock;
mod left_right;
mod loader;
mod locked;
mod reader_count;
mod swapped;
pub(crate) mod table;
mod trapline;
mod unprotected;

pub use loader::{Loader, objects};
pub use trapline::{Handler, Pinned, registry};

use crate::world::{Payload, World};
use core::ops::Range;
use std::sync::Arc;

/// What a lookup reads: the payload's id, and its zero.
pub type Answer = (usize, usize);

#[inline(always)]
fn read(payload: &Payload) -> Answer {
    (payload.id, payload.zero)
}

/// A run of lookups: as many as there are from one `pcs` index to another, each reading the payload.
pub struct Job<'p> {
    /// What is looked up: a power of two of them.
    pub pcs: &'p [usize],
    /// The index of the first.
    pub first: usize,
    /// How many lookups.
    pub count: usize,
    /// Whether each lookup waits for the answer of the one before. Not for misses, which have none.
    pub dependent: bool,
}

/// What stands for a miss.
pub const NOTHING: usize = usize::MAX;

/// A way to look up, for which code is generated that knows it.
trait Contender: Sync {
    /// What a thread has while it looks up: a guard, a handle.
    type State<'s>
    where
        Self: 's;

    /// Before the first lookup of a thread.
    fn start(&self) -> Self::State<'_>;

    /// Between lookups, now and then: lets go what would hold up writers' garbage if it was held for ever.
    fn renew(_state: &mut Self::State<'_>) {}

    /// Looks up, and reads the payload.
    fn find(state: &mut Self::State<'_>, pc: usize) -> Option<Answer>;

    /// The same as one who writes, if that is possible.
    fn writer(&self) -> Option<&dyn Write> {
        None
    }
}

/// Someone who looks up pcs.
pub trait Lookup: Sync {
    /// For one thread.
    fn session(&self) -> Box<dyn Session + '_>;

    /// The same as one who writes, if that is possible.
    fn writer(&self) -> Option<&dyn Write>;
}

/// A thread that looks up.
pub trait Session {
    /// Does a run of lookups.
    fn run(&mut self, job: &Job<'_>) -> usize;

    /// Does one: the payload's id, or [`NOTHING`].
    fn one(&mut self, pc: usize) -> usize;

    /// Between lookups, now and then: lets go what would hold up writers' garbage if it was held for ever.
    fn renew(&mut self);
}

/// Someone who registers ranges.
pub trait Write: Sync {
    /// Registers a range, and unregisters it again.
    fn pair(&self, range: &Range<usize>, payload: &Arc<Payload>);
}

struct Running<'s, C: Contender + 's>(C::State<'s>);

impl<C: Contender> Running<'_, C> {
    /// One lookup, as a function of its own.
    #[inline(never)]
    fn answer(&mut self, pc: usize) -> Answer {
        C::find(&mut self.0, pc).unwrap_or((NOTHING, 0))
    }
}

impl<C: Contender> Session for Running<'_, C> {
    fn run(&mut self, job: &Job<'_>) -> usize {
        let mask = job.pcs.len() - 1;
        let (mut sum, mut at) = (0, job.first);
        // In the program there are two places that find: the compiler makes what is called from more no part of any.
        if job.dependent {
            for _ in 0..job.count {
                let (id, zero) = self.answer(job.pcs[at & mask]);
                sum ^= id;
                at += 1 + zero;
            }
        } else {
            for _ in 0..job.count {
                match C::find(&mut self.0, job.pcs[at & mask]) {
                    Some((id, _)) => sum ^= id,
                    None => sum ^= NOTHING,
                }
                at += 1;
            }
        }
        sum
    }

    fn one(&mut self, pc: usize) -> usize {
        self.answer(pc).0
    }

    fn renew(&mut self) {
        C::renew(&mut self.0);
    }
}

impl<C: Contender> Lookup for C {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Running::<C>(self.start()))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Contender::writer(self)
    }
}

/// A contender that can be made.
#[derive(Clone, Copy)]
pub struct Kind {
    /// As in the tables.
    pub name: &'static str,
    /// Makes it, with a world in it.
    pub make: fn(&World) -> Box<dyn Lookup>,
    /// Whether a write takes time in proportion to what is there: too long for many ranges.
    pub copies: bool,
}

/// The limit.
pub const FLAT: &str = "flat, unprotected";
/// What engines have today.
pub const LOCKED: &str = "locked map";
/// trapline, as a signal handler looks up.
pub const HANDLER: &str = "trapline, handler";
/// trapline, under one guard.
pub const PINNED: &str = "trapline, pinned";

/// Everyone. The first two are what the others are compared with.
pub const ALL: &[Kind] = &[
    kind(FLAT, |world| Box::new(unprotected::Flat::new(world))),
    kind(LOCKED, |world| Box::new(locked::Locked::<locked::Std, true>::new(world))),
    kind(HANDLER, |world| Box::new(trapline::Handler::new(world))),
    kind(PINNED, |world| Box::new(trapline::Pinned::new(world))),
    kind("trapline, pin each", |world| Box::new(trapline::PinEach::new(world))),
    kind("trapline, snapshot", |world| Box::new(trapline::Kept::new(world))),
    kind("locked map, no clone", |world| Box::new(locked::Locked::<locked::Std, false>::new(world))),
    kind("parking_lot map", |world| Box::new(locked::Locked::<locked::ParkingLot, true>::new(world))),
    kind("parking_lot map, no clone", |world| Box::new(locked::Locked::<locked::ParkingLot, false>::new(world))),
    copying("arc-swap of flat", |world| Box::new(swapped::Swapped::new(world))),
    copying("arc-swap of flat, cached", |world| Box::new(swapped::Cached::new(world))),
    kind("left-right of maps", |world| Box::new(left_right::LeftRight::<table::Map>::new(world))),
    copying("left-right of flat", |world| Box::new(left_right::LeftRight::<table::Flat>::new(world))),
    copying("half_lock of flat", |world| Box::new(half_lock::HalfLock::new(world))),
    copying("reader count, flat", |world| Box::new(reader_count::ReaderCount::new(world))),
    kind("triples, unprotected", |world| Box::new(unprotected::Triples::new(world))),
];

const fn kind(name: &'static str, make: fn(&World) -> Box<dyn Lookup>) -> Kind {
    Kind { name, make, copies: false }
}

const fn copying(name: &'static str, make: fn(&World) -> Box<dyn Lookup>) -> Kind {
    Kind { name, make, copies: true }
}

/// The contender of that name.
pub fn by_name(name: &str) -> Option<&'static Kind> {
    ALL.iter().find(|kind| kind.name == name)
}

/// Makes one, and checks that it finds what is there and nothing else.
pub fn make(kind: &Kind, world: &World) -> Box<dyn Lookup> {
    let contender = (kind.make)(world);
    {
        let mut session = contender.session();
        for (range, payload) in world.live.iter().step_by(world.live.len() / 64 + 1) {
            for (pc, expected) in [(range.start, payload.id), (range.end - 1, payload.id)] {
                assert_eq!(session.one(pc), expected, "{}: {pc:#x}", kind.name);
            }
        }
        for range in world.free.iter().step_by(world.free.len() / 64 + 1) {
            assert_eq!(session.one(range.start), NOTHING, "{}: {range:x?} is free", kind.name);
            if let Some(writer) = contender.writer() {
                writer.pair(range, &world.live[0].1);
                assert_eq!(session.one(range.start), NOTHING, "{}: {range:x?} is free again", kind.name);
            }
        }
    }
    contender
}

/// Does nothing: what it takes to measure.
pub struct Nothing;

impl Contender for Nothing {
    type State<'s> = ();

    fn start(&self) {}

    #[inline(always)]
    fn find((): &mut (), pc: usize) -> Option<Answer> {
        Some((pc, 0))
    }
}
