//! A shared value that many threads can take handles of without meeting.
//!
//! Every store that runs a module holds a reference to it, so threads that instantiate the same module would all write
//! the module's one reference count, and wait for its cache line in turn. Here the count is spread over *lanes*: a lane
//! is an `Arc` of its own, on lines of its own, with a clone of the value, and a thread counts on the lane that the
//! address of its stack picks. Two threads on one lane contend; they are never wrong.
//!
//! A handle is one pointer: to the lane it counts on. Cloned by a thread that would take another lane, it opens that
//! lane, and its own lane keeps that one open for the next clone: so a handle that sits in a cache and is cloned from
//! everywhere costs each thread a count that hardly anybody else writes.
//!
//! A lane owns the lanes that it opened, and they own others. Lanes at depth [`REACH`] open no children; all further
//! clones share their count. So a handle that is cloned from thread to thread costs what an `Arc` does, and dropping the
//! last one recurses no deeper than that.
//!
//! Lanes are opened without a lock, which a `fork` could leave locked in the child. Where there is no memory for a lane,
//! the clone counts on the lane of its original.

use std::ops::Deref;
use std::ptr;
use std::sync::Arc;

use crate::allocate::{self, OutOfMemory};
use crate::sync::{AtomicPtr, set_once, stripe_seed};

/// A power of two. A lane is picked by a hash, so there are many more than threads that collide often.
const LANES: usize = 128;

/// How many lanes away from the first one lanes are opened.
const REACH: u32 = 4;

/// A shared, immutable value; see the [module](self). The value is something that clones share, such as an `Arc`, and
/// what goes with it.
pub(super) struct Striped<T>(Arc<Lane<T>>);

/// Aligned so that the counts before it in the `Arc` have a line, and the line that the prefetcher takes with it, to
/// themselves.
#[repr(C, align(128))]
struct Lane<T> {
    value: T,
    index: u32,
    /// How many lanes further lanes may still be opened.
    reach: u32,
    /// The lanes that this one keeps open: from `Arc::into_raw`, or null.
    opened: AtomicPtr<Opened<T>>,
}

/// Each from `Arc::into_raw`, or null.
struct Opened<T>([AtomicPtr<Lane<T>>; LANES]);

impl<T> Striped<T> {
    pub(super) fn new(value: T) -> Result<Self, OutOfMemory> {
        Ok(Striped(Lane::new(value, lane_of_this_thread(), REACH)?))
    }
}

impl<T> Lane<T> {
    fn new(value: T, index: u32, reach: u32) -> Result<Arc<Self>, OutOfMemory> {
        allocate::arc(Lane { value, index, reach, opened: AtomicPtr::new(ptr::null_mut()) })
    }
}

impl<T: Clone> Clone for Striped<T> {
    #[inline]
    fn clone(&self) -> Self {
        self.clone_on(lane_of_this_thread())
    }
}

impl<T: Clone> Striped<T> {
    /// A handle that counts on lane `index`, if that is in reach and there is memory for it; on ours otherwise.
    #[inline]
    fn clone_on(&self, index: u32) -> Self {
        if self.0.index == index || self.0.reach == 0 {
            return Striped(Arc::clone(&self.0));
        }
        let Ok(lane) = self.lane(index) else {
            return Striped(Arc::clone(&self.0));
        };
        let lane: *const Lane<T> = lane;
        // SAFETY: from `Arc::into_raw`, and the slot has a reference for as long as our lane lives.
        unsafe {
            Arc::increment_strong_count(lane);
            Striped(Arc::from_raw(lane))
        }
    }

    /// Lane `index`, which ours keeps open.
    #[inline]
    fn lane(&self, index: u32) -> Result<&Lane<T>, OutOfMemory> {
        let opened = made_once(&self.0.opened, Opened::new)?;
        made_once(&opened.0[index as usize], || Lane::new(self.0.value.clone(), index, self.0.reach - 1))
    }
}

impl<T> Deref for Striped<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Opened<T> {
    fn new() -> Result<Arc<Self>, OutOfMemory> {
        allocate::arc(Opened([const { AtomicPtr::new(ptr::null_mut()) }; LANES]))
    }
}

/// What is in `slot`, made by the first to come. Those who come at the same time make one for nothing.
#[inline]
fn made_once<V>(slot: &AtomicPtr<V>, make: impl FnOnce() -> Result<Arc<V>, OutOfMemory>) -> Result<&V, OutOfMemory> {
    let make = || Ok(Arc::into_raw(make()?).cast_mut());
    // SAFETY: from `into_raw` in `make`, and nobody else has it.
    let known = set_once(slot, make, |mine| drop(unsafe { Arc::from_raw(mine) }))?;
    // SAFETY: a slot that is not null holds a reference until its owner, who is borrowed, is dropped.
    Ok(unsafe { &*known })
}

impl<T> Drop for Lane<T> {
    fn drop(&mut self) {
        release(&mut self.opened);
    }
}

impl<T> Drop for Opened<T> {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(release);
    }
}

/// Drops the reference that `slot` holds, if any.
fn release<V>(slot: &mut AtomicPtr<V>) {
    let held = *slot.get_mut();
    if !held.is_null() {
        // SAFETY: from `into_raw`; this is the slot's reference, and its owner is being dropped.
        drop(unsafe { Arc::from_raw(held) });
    }
}

/// Which lane: a hash of where the stack is.
#[inline]
fn lane_of_this_thread() -> u32 {
    lane_of(stripe_seed())
}

/// `page` is one of the thread's stack. Those of 256 KiB share a lane: a thread is to count on one, however deep its
/// calls are nested.
#[inline]
fn lane_of(page: usize) -> u32 {
    let region = (page >> 6) as u64;
    // The upper bits of a product depend on all bits of its factors.
    (region.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - LANES.trailing_zeros())) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    struct Counted<'c>(&'c AtomicUsize);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_value_lives_as_long_as_the_last_handle_on_any_lane() {
        let drops = AtomicUsize::new(0);
        let first = Striped::new(Arc::new(Counted(&drops))).unwrap();
        let clones: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| [first.clone(), first.clone()])).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(clones.iter().all(|clone| Arc::ptr_eq(clone, &first)));
        drop(first);
        let again: Vec<_> = clones.iter().map(Striped::clone).collect();
        drop(clones);
        assert_eq!(drops.load(Ordering::SeqCst), 0);
        drop(again);
        assert_eq!(drops.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn threads_far_apart_take_lanes_of_their_own() {
        let value = Striped::new(()).unwrap();
        let lanes = thread::scope(|scope| {
            let threads: Vec<_> = (0..64).map(|_| scope.spawn(|| value.clone().0.index)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<std::collections::BTreeSet<_>>()
        });
        assert!(lanes.len() > 8, "64 stacks fell on {lanes:?}");
    }

    #[test]
    fn a_lane_is_picked_by_where_the_stack_is() {
        let lanes = || {
            let here = 0_u8;
            let page = std::hint::black_box(&raw const here).addr() >> 12;
            // Its own, or that of a frame close by.
            (lane_of_this_thread(), [page, page - 4, page + 4].map(lane_of))
        };
        thread::scope(|scope| {
            for _ in 0..64 {
                let (lane, expected) = scope.spawn(lanes).join().unwrap();
                assert!(expected.contains(&lane), "lane {lane}, not of {expected:?}");
            }
        });
    }

    #[test]
    fn the_loser_of_a_race_for_a_place_takes_what_the_winner_put_there() {
        let drops = AtomicUsize::new(0);
        let winners = Arc::new(Counted(&drops));
        let mut slot = AtomicPtr::new(ptr::null_mut());
        let filled = made_once(&slot, || {
            // The winner comes between our look at the place and our own attempt.
            slot.store(Arc::into_raw(Arc::clone(&winners)).cast_mut(), Ordering::SeqCst);
            Ok(Arc::new(Counted(&drops)))
        });
        assert!(ptr::eq(filled.unwrap(), Arc::as_ptr(&winners)));
        assert_eq!(*slot.get_mut(), Arc::as_ptr(&winners).cast_mut());
        assert_eq!(drops.load(Ordering::SeqCst), 1, "the loser's own is freed, and nothing else");
        assert_eq!(Arc::strong_count(&winners), 2, "the place has its reference");
        release(&mut slot);
        drop(winners);
        assert_eq!(drops.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn threads_that_race_for_a_lane_count_on_one() {
        for _ in 0..200 {
            let value = Arc::new(());
            let first = Striped::new(Arc::clone(&value)).unwrap();
            let index = (first.0.index + 1) % LANES as u32;
            let start = std::sync::Barrier::new(2);
            let lanes: Vec<_> = thread::scope(|scope| {
                let race = || {
                    start.wait();
                    first.clone_on(index)
                };
                let threads = [scope.spawn(race), scope.spawn(race)];
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(Arc::ptr_eq(&lanes[0].0, &lanes[1].0));
            assert_eq!(Arc::strong_count(&value), 3, "ours, and one for each lane");
            drop((first, lanes));
            assert_eq!(Arc::strong_count(&value), 1);
        }
    }

    #[test]
    fn a_clone_on_the_same_lane_opens_none() {
        let value = Striped::new(()).unwrap();
        let clone = value.clone();
        assert!(Arc::ptr_eq(&value.0, &clone.0));
        assert!(value.0.opened.load(Ordering::SeqCst).is_null());
    }

    #[test]
    fn handles_on_one_lane_share_the_lanes_that_are_opened() {
        let value = Striped::new(()).unwrap();
        let handles: Vec<_> = (0..1000).map(|_| value.clone()).collect();
        let lanes = thread::scope(|scope| {
            let body = || handles.iter().map(|handle| Arc::as_ptr(&handle.clone().0) as usize).collect::<Vec<_>>();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(body)).collect();
            let all = threads.into_iter().flat_map(|thread| thread.join().unwrap());
            all.collect::<std::collections::BTreeSet<_>>().len()
        });
        assert!(lanes <= 8, "8 threads counted on {lanes} lanes");
    }

    #[test]
    fn a_handle_passed_from_lane_to_lane_opens_few() {
        for newest_first in [true, false] {
            let value = Arc::new(());
            let mut handles = vec![Striped::new(Arc::clone(&value)).unwrap()];
            for i in 0..100_000 {
                let next = handles[i].clone_on(i as u32 % 2);
                handles.push(next);
            }
            // One of the lanes may be the one that the first handle is on.
            let lanes = Arc::strong_count(&value) - 1;
            assert!((2..=1 + REACH as usize).contains(&lanes), "{lanes} lanes");
            if newest_first {
                handles.reverse();
            }
            drop(handles);
            assert_eq!(Arc::strong_count(&value), 1);
        }
    }
}
