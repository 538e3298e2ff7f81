//! The actions that signals had before ours.
//!
//! Each signal has a *chain* of them: first the action that our handler replaced last, then those that it had replaced
//! before. Usually there is one. A second appears when another library put itself in front of our handler and
//! [`install`](super::install) put ours back in front: what we pass on goes to that library, and if it passes the
//! signal on to us, it goes to the next in the chain. Each action is in a chain once, so a ring of handlers ends.
//!
//! Handlers read chains, and change them: a one-shot handler runs, or an old handler sets another action. So nothing
//! here takes a lock or allocates. Actions are written once, into a table that only grows, and a chain is one word that
//! names up to [`LONGEST`] of them by their bytes. Because there is no lock, a `fork` at any moment leaves the child
//! nothing that is held by a thread that it lacks.

use crate::sync::Ordering;
use crate::sync::unmodelled::{AtomicI32, AtomicU32, AtomicU64, AtomicUsize};
use std::ffi::c_int;
use std::ptr;

/// What is kept of a `sigaction`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Action {
    pub(super) handler: usize,
    pub(super) flags: c_int,
    /// The 64 signals that the kernel knows.
    pub(super) mask: u64,
}

impl Action {
    const DEFAULT: Action = Action { handler: libc::SIG_DFL, flags: 0, mask: 0 };
    const IGNORE: Action = Action { handler: libc::SIG_IGN, flags: 0, mask: 0 };

    pub(super) fn new(action: &libc::sigaction) -> Self {
        // SAFETY: the type is made of words, the first of which holds 64 signals.
        let mask = unsafe { ptr::from_ref(&action.sa_mask).cast::<u64>().read() };
        Action { handler: action.sa_sigaction, flags: action.sa_flags, mask }
    }

    pub(super) fn is_handler(&self) -> bool {
        !matches!(self.handler, libc::SIG_DFL | libc::SIG_IGN)
    }
}

/// Names an action; zero is no name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u8);

impl Id {
    const NONE: Id = Id(0);
    const DEFAULT: Id = Id(1);
    const IGNORE: Id = Id(2);
    /// The handler in the first entry of [`KNOWN`].
    const FIRST_KNOWN: u8 = 3;

    /// The action's name, given now if it has no name yet. `None` if the table is full.
    pub(super) fn of(action: &Action) -> Option<Id> {
        match action.handler {
            libc::SIG_DFL => Some(Id::DEFAULT),
            libc::SIG_IGN => Some(Id::IGNORE),
            _ => (Id::FIRST_KNOWN..).zip(&KNOWN).find(|(_, known)| known.is(action)).map(|(id, _)| Id(id)),
        }
    }

    pub(super) fn action(self) -> Action {
        match self {
            Id::IGNORE => Action::IGNORE,
            Id(id) => {
                let known = id.checked_sub(Id::FIRST_KNOWN).and_then(|index| KNOWN.get(usize::from(index)));
                known.map_or(Action::DEFAULT, Known::read)
            }
        }
    }
}

/// How many different handlers the four signals may have had.
pub(super) const MOST_HANDLERS: usize = 60;

static KNOWN: [Known; MOST_HANDLERS] = [const { Known::new() }; MOST_HANDLERS];

/// A handler with its flags and mask, written once.
struct Known {
    state: AtomicU32,
    handler: AtomicUsize,
    flags: AtomicI32,
    mask: AtomicU64,
}

const FREE: u32 = 0;
/// Stays so if the writing thread never goes on: the entry is lost then, and nothing waits for it.
const BEING_WRITTEN: u32 = 1;
const WRITTEN: u32 = 2;

impl Known {
    const fn new() -> Self {
        Known {
            state: AtomicU32::new(FREE),
            handler: AtomicUsize::new(0),
            flags: AtomicI32::new(0),
            mask: AtomicU64::new(0),
        }
    }

    /// Whether the entry holds `action`, which is written to it if it is free.
    fn is(&self, action: &Action) -> bool {
        // Acquire: pairs with the Release below, in another thread; makes its fields visible.
        match self.state.compare_exchange(FREE, BEING_WRITTEN, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                // Relaxed: published by the state.
                self.handler.store(action.handler, Ordering::Relaxed);
                self.flags.store(action.flags, Ordering::Relaxed);
                self.mask.store(action.mask, Ordering::Relaxed);
                // Release: pairs with the Acquire above, and by way of the chain's with those who read a name.
                self.state.store(WRITTEN, Ordering::Release);
                true
            }
            Err(WRITTEN) => self.read() == *action,
            Err(_) => false,
        }
    }

    /// Only of an entry that is written: its name comes from [`Id::of`].
    fn read(&self) -> Action {
        // Relaxed: a name is only ever read through an Acquire, of the state or of a chain.
        Action {
            handler: self.handler.load(Ordering::Relaxed),
            flags: self.flags.load(Ordering::Relaxed),
            mask: self.mask.load(Ordering::Relaxed),
        }
    }
}

/// Up to [`LONGEST`] names, one a byte, the first in the lowest.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Chain(u64);

/// How many actions a signal's chain may hold.
pub(super) const LONGEST: u32 = 6;

const BITS: u32 = u8::BITS;

impl Chain {
    pub(super) const EMPTY: Chain = Chain(0);
    const MASK: u64 = (1 << (LONGEST * BITS)) - 1;

    pub(super) fn first(self) -> Option<Id> {
        let id = Id(self.0 as u8);
        (id != Id::NONE).then_some(id)
    }

    /// The chain without its first action.
    pub(super) fn rest(self) -> Chain {
        Chain(self.0 >> BITS)
    }

    /// The chain with `id` before all others; `None` if it would be too long.
    pub(super) fn with_first(self, id: Id) -> Option<Chain> {
        // Neither of the two without a handler passes anything on.
        if matches!(id, Id::DEFAULT | Id::IGNORE) {
            return Some(Chain(id.0.into()));
        }
        let (mut chain, mut place) = (u64::from(id.0), BITS);
        let mut others = self;
        while let Some(other) = others.first() {
            others = others.rest();
            if other != id {
                chain |= u64::from(other.0) << place;
                place = place.wrapping_add(BITS);
            }
        }
        (place <= LONGEST.wrapping_mul(BITS)).then_some(Chain(chain))
    }

    /// The chain with the default in the place of `id`, and nothing after it. `None` if `id` is not in the chain.
    fn without(self, id: Id) -> Option<Chain> {
        let (mut place, mut others) = (0_u32, self);
        while let Some(other) = others.first() {
            if other == id {
                let before = self.0 & (1_u64 << place).wrapping_sub(1);
                return Some(Chain(before | u64::from(Id::DEFAULT.0) << place));
            }
            others = others.rest();
            place = place.wrapping_add(BITS);
        }
        None
    }
}

/// A signal's chain; empty until our handler is installed for the first time.
///
/// The bytes above the chain count its changes, so that a compare-exchange finds any that came between.
pub(super) struct Slot(AtomicU64);

/// A chain, and which change of its slot made it.
#[derive(Clone, Copy)]
pub(super) struct Seen(u64);

impl Seen {
    pub(super) fn chain(self) -> Chain {
        Chain(self.0 & Chain::MASK)
    }
}

impl Slot {
    const fn new() -> Self {
        Slot(AtomicU64::new(0))
    }

    pub(super) fn load(&self) -> Seen {
        // Acquire: pairs with the Release of `replace`; the actions that the chain names are visible.
        Seen(self.0.load(Ordering::Acquire))
    }

    /// False if the chain was changed since it was seen.
    pub(super) fn replace(&self, seen: Seen, chain: Chain) -> bool {
        let version = (seen.0 & !Chain::MASK).wrapping_add(Chain::MASK + 1);
        // Release: pairs with the Acquire of `load`. On failure nothing is read.
        self.0.compare_exchange(seen.0, version | chain.0, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// A one-shot handler is about to run: the signal's action is the default from then on. False from the second
    /// call on, over all threads.
    pub(super) fn spend(&self, id: Id) -> bool {
        loop {
            let seen = self.load();
            match seen.chain().without(id) {
                Some(chain) if self.replace(seen, chain) => return true,
                // Another thread changed the chain: this goes round once for each change.
                Some(_) => {}
                None => return false,
            }
        }
    }
}

static SEGV: Slot = Slot::new();
static BUS: Slot = Slot::new();
static ILL: Slot = Slot::new();
static FPE: Slot = Slot::new();

pub(super) fn slot(signum: c_int) -> Option<&'static Slot> {
    match signum {
        libc::SIGSEGV => Some(&SEGV),
        libc::SIGBUS => Some(&BUS),
        libc::SIGILL => Some(&ILL),
        libc::SIGFPE => Some(&FPE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(ids: &[u8]) -> Chain {
        ids.iter().rev().fold(Chain(0), |chain, &id| Chain(chain.0 << BITS | u64::from(id)))
    }

    #[test]
    fn an_action_is_in_a_chain_once() {
        assert!(chain(&[]).with_first(Id(7)) == Some(chain(&[7])));
        assert!(chain(&[7]).with_first(Id(7)) == Some(chain(&[7])));
        assert!(chain(&[7, 8]).with_first(Id(9)) == Some(chain(&[9, 7, 8])));
        assert!(chain(&[7, 8, 9]).with_first(Id(9)) == Some(chain(&[9, 7, 8])));
        assert!(chain(&[7, 8, 9]).with_first(Id(8)) == Some(chain(&[8, 7, 9])));
    }

    #[test]
    fn nothing_is_passed_on_beyond_the_default() {
        assert!(chain(&[7, 8]).with_first(Id::DEFAULT) == Some(chain(&[1])));
        assert!(chain(&[7, 8]).with_first(Id::IGNORE) == Some(chain(&[2])));
        assert!(chain(&[7, 8, 9]).without(Id(8)) == Some(chain(&[7, 1])));
        assert!(chain(&[7, 8, 9]).without(Id(7)) == Some(chain(&[1])));
        assert!(chain(&[7, 8, 9]).without(Id(10)).is_none());
    }

    #[test]
    fn a_chain_has_an_end() {
        let full = chain(&[11, 12, 13, 14, 15, 16]);
        assert!(full.with_first(Id(17)).is_none());
        assert!(full.with_first(Id(16)) == Some(chain(&[16, 11, 12, 13, 14, 15])));
        let slot = Slot::new();
        assert!(slot.replace(slot.load(), full));
        assert!(slot.load().chain() == full);
    }

    #[test]
    fn a_chain_that_was_changed_and_changed_back_is_not_the_one_that_was_seen() {
        let slot = Slot::new();
        let seen = slot.load();
        for ids in [&[3][..], &[]] {
            assert!(slot.replace(slot.load(), chain(ids)));
        }
        assert!(slot.load().chain() == seen.chain());
        assert!(!slot.replace(seen, chain(&[4])));
    }

    #[test]
    fn equal_actions_have_one_name() {
        let action = |handler, flags, mask| Action { handler, flags, mask };
        let one = action(0x1234, libc::SA_SIGINFO, 5);
        let id = Id::of(&one);
        assert!(id.is_some() && Id::of(&one) == id);
        assert!(id.is_some_and(|id| id.action() == one));
        for other in [action(0x1238, libc::SA_SIGINFO, 5), action(0x1234, 0, 5), action(0x1234, libc::SA_SIGINFO, 4)] {
            assert!(Id::of(&other) != id);
            assert!(Id::of(&other).is_some_and(|id| id.action() == other));
        }
        assert!(Id::of(&Action::IGNORE).is_some_and(|id| id.action() == Action::IGNORE));
        assert!(Id::of(&Action::DEFAULT) == Some(Id::DEFAULT));
    }
}
