//! Which activation a thread is in, and whether what looks like one can be believed.
//!
//! The innermost one on the thread's own stack is in `OWN`, on other stacks, and on those that the embedder describes, in
//! `FOREIGN`.
//!
//! A frame can go without `catch_trap` knowing: by `longjmp`, or with the stack of a fiber that nobody resumes. And a
//! thread that switches between fibers is not always in the call that it entered last. So a pointer to an activation
//! comes with the bounds of its stack, and is followed only from a stack pointer within these bounds and below it: what
//! is in between is mapped then. What it points at is taken for an activation if it and the frame that `enter` made
//! below it have each other's address. On the way out of `catch_trap`, by whatever way runs its destructors, the
//! activation forgets that frame.
//!
//! An activation below the stack pointer is gone, and the one that it was called in is the innermost. What is left of it
//! says which that was, if it is still intact.
//!
//! Of a stack that is neither the thread's own nor was described by the embedder (`Entry::stack`) only this much is
//! known: it does not reach down to any activation that was there before and is below. That is enough to tell fibers
//! apart as long as all of their calls are in the list; and if calls end out of order, so that they may not be, the
//! process is aborted.

use super::activation::Activation;
use super::alt_stack::{self, own_stack};
use super::arch;
use super::stack_guard::Stack;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::{io, ptr};

/// Of `catch_trap_with` and `enter` together, at most, in bytes.
const LARGEST_FRAME: usize = 4096;

/// The innermost activation of a list, if it still is one.
#[derive(Clone, Copy)]
struct Top {
    activation: *const Activation,
    /// The one before it, for when the frame of that one has gone, and was written over.
    before: *const Activation,
}

/// The same of those on other stacks than the thread's own.
#[derive(Clone, Copy)]
struct Link {
    top: Top,
    stack: Stack,
    others: Others,
}

thread_local! {
    // Initialised at compile time and without a destructor: an access is an address computation, nothing is
    // registered or allocated. `catch_trap` touches them before any handler does.
    static OWN: Cell<Top> = const { Cell::new(Top::NONE) };
    static FOREIGN: Cell<Link> = const { Cell::new(Link::NONE) };
}

/// Where a call of `catch_trap` is: on which stack, in which other call.
pub(super) struct Place {
    /// Around it, on the same stack.
    previous: Top,
    /// Null on the thread's own stack; else in the frame of the activation.
    foreign: *const Foreign,
    /// Whether the thread was in no call on another stack.
    outermost: bool,
}

/// What else there is to know of a call that is not on the thread's own stack.
pub(super) struct Foreign {
    /// The last call before it, on whatever stack.
    previous: Link,
    stack: Stack,
    others: Others,
}

/// What is known of the addresses of the activations of a list, seen from the last one: as much as tells three stacks
/// from each other, and any number that go up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Others {
    /// The nearest on either side, or something nearer.
    below: usize,
    above: usize,
    /// Of all, that one included.
    lowest: usize,
    highest: usize,
}

impl Others {
    const NONE: Others = Others { below: 0, above: usize::MAX, lowest: usize::MAX, highest: 0 };

    /// The same, seen from `here`, if this is seen from `last`.
    fn seen_from(self, here: usize, last: usize) -> Others {
        let nearest = if here < self.lowest {
            (0, self.lowest)
        } else if here > self.highest {
            (self.highest, usize::MAX)
        } else if self.below < here && here < last {
            (self.below, last)
        } else if last < here && here < self.above {
            (last, self.above)
        } else {
            (here, here)
        };
        let (lowest, highest) = (self.lowest.min(here), self.highest.max(here));
        Others { below: nearest.0, above: nearest.1, lowest, highest }
    }
}

/// The innermost activation on the stack that `sp` is on; `None` if that is not known to be one of this thread's.
/// Handlers: only after the registry said that this thread runs guest code.
///
/// The reference must not be used after that activation's `catch_trap` returned.
pub(super) fn innermost<'a>(sp: usize) -> Option<&'a Activation> {
    let foreign = FOREIGN.try_with(Cell::get).unwrap_or(Link::NONE);
    let own = own_stack();
    if own.contains(sp) && !foreign.is_described(sp) {
        OWN.try_with(Cell::get).unwrap_or(Top::NONE).innermost(own, sp)
    } else {
        foreign.top.innermost(foreign.stack, sp)
    }
}

impl Top {
    const NONE: Top = Top { activation: ptr::null(), before: ptr::null() };

    fn of(activation: &Activation) -> Top {
        Top { activation, before: activation.place.previous.activation }
    }

    /// See [`innermost`]; `stack` is the one that this is a list of.
    fn innermost<'a>(mut self, stack: Stack, sp: usize) -> Option<&'a Activation> {
        loop {
            let before = if !self.is_intact(stack, sp) {
                self.before
            } else if self.activation.addr() > sp {
                // SAFETY: on the stack that is executing, above the stack pointer, and what `catch_trap` made it:
                // its frame is still there.
                return unsafe { self.activation.as_ref() };
            } else {
                // SAFETY: as `is_intact` says, it can be read; whatever is there is a pointer.
                unsafe { (&raw const (*self.activation).place.previous.activation).read_volatile() }
            };
            // Callers are above, so this ends.
            if before <= self.activation {
                return None;
            }
            self = Top { activation: before, before: ptr::null() };
        }
    }

    /// Whether there is an activation, or what is left of it, of the stack that `sp` is on.
    fn is_intact(self, stack: Stack, sp: usize) -> bool {
        let activation = self.activation;
        let address = activation.addr();
        let last = address.wrapping_add(size_of::<Activation>() - 1);
        if !stack.contains(sp) || !stack.contains(address) || !stack.contains(last) || !activation.is_aligned() {
            return false;
        }
        // Below the stack pointer, an unknown stack may have ended.
        if address <= sp && !stack.is_known() {
            return false;
        }
        // SAFETY: on the stack that `sp` is on, which is in use above `sp`, and has been below.
        let entry = unsafe { (&raw const (*activation).sp).cast::<usize>().read_volatile() };
        let below = address.wrapping_sub(entry);
        if below > LARGEST_FRAME || !entry.is_multiple_of(16) || !stack.contains(entry) || (sp < address && entry < sp)
        {
            return false;
        }
        // SAFETY: aligned, and on the stack that `sp` is on, which is in use above `sp`, and has been below.
        let owner = unsafe { ptr::with_exposed_provenance::<usize>(entry.wrapping_add(arch::OWNER)).read_volatile() };
        // SAFETY: no access.
        owner == unsafe { (&raw const (*activation).sp).addr() }
    }
}

impl Link {
    const NONE: Link = Link { top: Top::NONE, stack: Stack::NONE, others: Others::NONE };

    /// Whether `sp` is on the stack of this list, and the embedder said so.
    fn is_described(self, sp: usize) -> bool {
        self.stack.is_known() && self.stack.contains(sp)
    }
}

impl Place {
    /// Of a call that begins at `here`, on the stack that was given if one was, preparing the thread if necessary; and
    /// the activation around it on the same stack, if there is one.
    #[inline]
    pub(super) fn of_call<'a>(
        here: usize,
        given: Option<Stack>,
        room: &mut MaybeUninit<Foreign>,
    ) -> io::Result<(Place, Option<&'a Activation>)> {
        // Nearly always, and so at the least cost.
        let outermost = FOREIGN.with(|foreign| foreign.get().top.activation.is_null());
        if given.is_none() && outermost && alt_stack::is_own(here) {
            return Ok(Place::on_own_stack(here, outermost));
        }
        Place::anywhere(here, given, room)
    }

    #[cold]
    fn anywhere<'a>(
        here: usize,
        given: Option<Stack>,
        room: &mut MaybeUninit<Foreign>,
    ) -> io::Result<(Place, Option<&'a Activation>)> {
        let own = alt_stack::own_stack_of_prepared_thread()?;
        let foreign = FOREIGN.get();
        if given.is_some() || !own.contains(here) || foreign.is_described(here) {
            return Ok(Place::on_another_stack(here, given, room));
        }
        Ok(Place::on_own_stack(here, foreign.top.activation.is_null()))
    }

    #[inline]
    fn on_own_stack<'a>(here: usize, outermost: bool) -> (Place, Option<&'a Activation>) {
        let top = OWN.get();
        let around = if top.activation.is_null() { None } else { top.innermost(own_stack(), here) };
        let previous = around.map_or(Top::NONE, Top::of);
        (Place { previous, foreign: ptr::null(), outermost }, around)
    }

    fn on_another_stack<'a>(
        here: usize,
        given: Option<Stack>,
        room: &mut MaybeUninit<Foreign>,
    ) -> (Place, Option<&'a Activation>) {
        let link = FOREIGN.get();
        let around = link.top.innermost(link.stack, here);
        let previous = match around.map(|around| (around, around.place.foreign())) {
            Some((around, Some(foreign))) => {
                Link { top: Top::of(around), stack: foreign.stack, others: foreign.others }
            }
            // What is on this stack has gone.
            _ if link.stack.contains(here) => Link::NONE,
            _ => link,
        };
        let others = previous.others.seen_from(here, previous.top.activation.addr());
        let stack = match given {
            Some(given) => given,
            None if link.is_described(here) => link.stack,
            // Its end is this call: what is above is of no interest.
            None => Stack::unknown(others.below, here.saturating_add(LARGEST_FRAME)),
        };
        let outermost = previous.top.activation.is_null() && OWN.get().activation.is_null();
        let foreign = ptr::from_ref(room.write(Foreign { previous, stack, others }));
        (Place { previous: around.map_or(Top::NONE, Top::of), foreign, outermost }, around)
    }

    fn foreign(&self) -> Option<&Foreign> {
        // SAFETY: null, or in the same frame as the activation that this is in.
        unsafe { self.foreign.as_ref() }
    }

    /// The stack of this thread that the call is on.
    pub(super) fn stack(&self) -> Stack {
        match self.foreign() {
            Some(foreign) => foreign.stack,
            None => own_stack(),
        }
    }

    /// Whether the thread was in no call on another stack when this one began.
    pub(super) fn is_outermost(&self) -> bool {
        self.outermost
    }

    /// The activation around this one, on the same stack, if this one is at `here`.
    pub(super) fn previous<'a>(&self, here: usize) -> Option<&'a Activation> {
        self.previous.innermost(self.stack(), here)
    }

    /// Makes the activation that is there the innermost.
    pub(super) fn enter(&self, activation: &Activation) {
        let top = Top { activation, before: self.previous.activation };
        match self.foreign() {
            None => OWN.set(top),
            Some(foreign) => FOREIGN.set(Link { top, stack: foreign.stack, others: foreign.others }),
        }
    }

    /// Makes the one before it the innermost. (Not inlined: a fiber may have changed its thread.)
    #[inline(never)]
    pub(super) fn leave(&self, left: &Activation) {
        match self.foreign() {
            // Deeper activations have gone, with or without leaving.
            None => OWN.set(self.previous),
            Some(foreign) => foreign.leave(left),
        }
    }
}

impl Foreign {
    #[cold]
    fn leave(&self, left: &Activation) {
        let current = FOREIGN.get();
        let address = current.top.activation.addr();
        // Others that are deeper on the same stack have gone without leaving.
        let inside = self.stack.is_known() && self.stack.contains(address);
        if ptr::eq(current.top.activation, left) || inside {
            FOREIGN.set(self.previous);
        } else if address != 0 && !current.stack.is_known() && !self.stack.is_known() {
            eprintln!(
                "trapline: catch_trap on a stack of unknown bounds returns before one that was called later on this \
                 thread; to switch between fibers inside of catch_trap, say with Entry::stack where their stacks are"
            );
            std::process::abort();
        }
        // Otherwise a fiber that has been resumed in between is the innermost, and stays it.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A piece of memory as a stack, with calls on it as they would lie there.
    struct Made {
        words: Box<[usize; WORDS]>,
    }

    const WORDS: usize = 4096;

    impl Made {
        fn new() -> Made {
            Made { words: vec![0; WORDS].try_into().unwrap() }
        }

        fn at(&self, word: usize) -> usize {
            self.words.as_ptr().expose_provenance() + word * 16
        }

        fn stack(&self) -> Stack {
            Stack::given(&(self.at(0)..self.at(WORDS / 2)), 0)
        }

        /// The innermost of a list that begins so.
        fn found(&self, activation: *const Activation, before: *const Activation, sp: usize) -> *const Activation {
            self.found_on(self.stack(), activation, before, sp)
        }

        fn found_on(
            &self,
            stack: Stack,
            activation: *const Activation,
            before: *const Activation,
            sp: usize,
        ) -> *const Activation {
            Top { activation, before }.innermost(stack, sp).map_or(ptr::null(), ptr::from_ref)
        }

        /// An activation in a frame the given number of pairs of words up, which entered guest code 20 pairs further down.
        fn call(&mut self, pair: usize, previous: *const Activation) -> *const Activation {
            let place = ptr::with_exposed_provenance_mut::<Activation>(self.at(pair));
            let previous = Top { activation: previous, before: ptr::null() };
            let activation = Activation::new(Place { previous, foreign: ptr::null(), outermost: false });
            // SAFETY: within the memory, which is aligned to a word and more.
            unsafe {
                place.write(activation);
                (*place).sp.get().write(self.at(pair - 20));
                ptr::with_exposed_provenance_mut::<usize>(self.at(pair - 20) + arch::OWNER)
                    .write((*place).sp.get().addr());
            }
            place
        }
    }

    #[test]
    fn an_activation_is_found_from_below_the_frame_that_it_entered_from() {
        let mut made = Made::new();
        let call = made.call(1000, ptr::null());
        for (pair, expected) in [(0, call), (979, call), (980, call), (981, ptr::null()), (1000, ptr::null())] {
            assert_eq!(made.found(call, ptr::null(), made.at(pair)), expected, "{pair}");
        }
        assert_eq!(made.found(call, ptr::null(), made.at(0) - 1), ptr::null(), "another stack");
        let cut_off = Stack::given(&(made.at(0)..made.at(1001)), 0);
        assert_eq!(made.found_on(cut_off, call, ptr::null(), made.at(0)), ptr::null());
    }

    #[test]
    fn an_activation_below_the_pointer_is_not_looked_at_on_a_stack_that_may_have_ended() {
        let mut made = Made::new();
        let around = made.call(1090, ptr::null());
        let call = made.call(1000, around);
        assert_eq!(made.found(call, ptr::null(), made.at(1050)), around);
        let unknown = Stack::unknown(made.at(0), made.at(1100));
        assert_eq!(made.found_on(unknown, call, ptr::null(), made.at(0)), call);
        assert_eq!(made.found_on(unknown, call, ptr::null(), made.at(1050)), ptr::null());
    }

    #[test]
    fn an_activation_that_is_left_is_none_any_more() {
        let mut made = Made::new();
        let call = made.call(1000, ptr::null());
        assert_eq!(made.found(call, ptr::null(), made.at(0)), call);
        // SAFETY: in this memory, and nobody else looks at it.
        unsafe { (*call).leave() };
        assert_eq!(made.found(call, ptr::null(), made.at(0)), ptr::null());
    }

    #[test]
    fn without_an_activation_there_is_none() {
        let made = Made::new();
        assert_eq!(made.found(ptr::null(), ptr::null(), made.at(0)), ptr::null());
        assert_eq!(made.found_on(Stack::NONE, ptr::null(), ptr::null(), 0), ptr::null());
    }

    #[test]
    fn an_activation_and_its_frame_have_each_others_address() {
        for (what, pair, offset, value) in [
            ("the owner", 980, arch::OWNER / 8, 0),
            ("the owner, by one word", 980, arch::OWNER / 8, 8),
            ("the stack pointer, as when it has been left", 1000, 0, 0),
            ("the stack pointer, unaligned", 1000, 0, 1),
        ] {
            let mut made = Made::new();
            let call = made.call(1000, ptr::null());
            assert_eq!(made.found(call, ptr::null(), made.at(0)), call);
            // SAFETY: in this memory.
            unsafe {
                let word = ptr::with_exposed_provenance_mut::<usize>(made.at(pair) + 8 * offset);
                let word = if pair == 1000 { (*call).sp.get() } else { word };
                word.write(if value == 0 { 0 } else { word.read() + value });
            }
            assert_eq!(made.found(call, ptr::null(), made.at(0)), ptr::null(), "{what}");
        }
    }

    /// Whatever the order: never further down than the next one below, and no nearer for up to three.
    #[test]
    fn the_nearest_activation_below_is_known() {
        fn each_order(left: &[usize], done: &mut Vec<usize>, others: Others) {
            for (index, here) in left.iter().enumerate() {
                let seen = others.seen_from(*here, done.last().copied().unwrap_or(0));
                let below = done.iter().copied().filter(|other| other < here).max().unwrap_or(0);
                let above = done.iter().copied().filter(|other| other > here).min().unwrap_or(usize::MAX);
                assert!(below <= seen.below && seen.below <= *here, "{here} after {done:?}: {seen:?}");
                assert!(*here <= seen.above && seen.above <= above, "{here} after {done:?}: {seen:?}");
                let all = [done.as_slice(), &[*here]].concat();
                let in_order = all.is_sorted() || all.iter().rev().is_sorted();
                assert!(done.len() > 2 && !in_order || (seen.below, seen.above) == (below, above), "{here}, {done:?}");
                let mut left = left.to_vec();
                done.push(left.remove(index));
                each_order(&left, done, seen);
                done.pop();
            }
        }
        each_order(&[10, 20, 30, 40, 50, 60], &mut Vec::new(), Others::NONE);
    }

    #[test]
    fn an_activation_is_near_its_frame() {
        let mut made = Made::new();
        let call = made.call(1000, ptr::null());
        for (entry, expected) in [(1000 - LARGEST_FRAME / 16, call), (1000 - LARGEST_FRAME / 16 - 1, ptr::null())] {
            let entry = made.at(entry);
            // SAFETY: in this memory.
            unsafe {
                (*call).sp.get().write(entry);
                ptr::with_exposed_provenance_mut::<usize>(entry + arch::OWNER).write((*call).sp.get().addr());
            }
            assert_eq!(made.found(call, ptr::null(), made.at(0)), expected);
        }
    }

    #[test]
    fn one_that_has_gone_leads_to_the_one_around_it() {
        let mut made = Made::new();
        let outer = made.call(1500, ptr::null());
        let gone = made.call(1000, outer);
        let deeper = made.call(500, gone);
        let sp = made.at(1200);
        assert_eq!(made.found(deeper, gone, sp), outer);
        assert_eq!(made.found(gone, outer, sp), outer);
        assert_eq!(made.found(outer, ptr::null(), sp), outer);
        // Written over: what was before it is still known.
        made.call(1000, outer);
        // SAFETY: in this memory.
        unsafe { (*gone).sp.get().write(0) };
        assert_eq!(made.found(gone, outer, sp), outer);
        assert_eq!(made.found(gone, ptr::null(), sp), ptr::null());
        assert_eq!(made.found(gone, gone, sp), ptr::null(), "and this ends");
    }
}
