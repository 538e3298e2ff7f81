//! A shared value that many threads can take handles of without meeting.
//!
//! Every store that runs a module holds a reference to it, so threads that instantiate the same module would all write
//! the module's one reference count, and wait for its cache line in turn. Here the count is spread over *lanes*: a lane
//! is an `Arc` of its own, on lines of its own, with a clone of the value, and a thread counts on the lane that the
//! address of its stack picks. Two threads on one lane contend; they are never wrong.
//!
//! A handle holds the lane it counts on. Cloned by a thread that would take another lane, it opens that lane, and keeps
//! it open for the next clone: so a handle that sits in a cache and is cloned from everywhere costs each thread a count
//! that hardly anybody else writes, and one that is handed from thread to thread costs what an `Arc` does. Handles that
//! are [split](Striped::split) off another one share the lanes that it opened.
//!
//! Lanes are opened without a lock: a thread that a `fork` left behind holds up nobody.

use std::hint;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A power of two. A lane is picked by a hash, so there are many more than threads that collide often.
const LANES: usize = 128;

/// A shared, immutable value; see the [module](self). The value is something that clones share, such as an `Arc`, and
/// what goes with it.
pub(super) struct Striped<T> {
    lane: Arc<Lane<T>>,
    /// The lanes that this handle, or one it was split off, opened for others: from `Arc::into_raw`, or null.
    opened: AtomicPtr<Opened<T>>,
}

/// Each from `Arc::into_raw`, or null.
struct Opened<T>([AtomicPtr<Lane<T>>; LANES]);

/// Aligned so that the counts before it in the `Arc` have a line, and the line that the prefetcher takes with it, to
/// themselves.
#[repr(align(128))]
struct Lane<T> {
    index: usize,
    value: T,
}

impl<T> Striped<T> {
    pub(super) fn new(value: T) -> Self {
        Self::on(Arc::new(Lane { index: lane_of_this_thread(), value }))
    }

    fn on(lane: Arc<Lane<T>>) -> Self {
        Striped { lane, opened: AtomicPtr::new(ptr::null_mut()) }
    }

    fn opened(&self) -> &Opened<T> {
        made_once(&self.opened, || Arc::new(Opened([const { AtomicPtr::new(ptr::null_mut()) }; LANES])))
    }
}

impl<T: Clone> Striped<T> {
    /// Another handle that will live as long as this one, roughly: it shares the lanes that this one opens.
    pub(super) fn split(&self) -> Self {
        let clone = self.clone();
        let opened: *const Opened<T> = self.opened();
        // SAFETY: from `Arc::into_raw`, and `self` has a reference.
        unsafe { Arc::increment_strong_count(opened) };
        Striped { lane: Arc::clone(&clone.lane), opened: AtomicPtr::new(opened.cast_mut()) }
    }
}

impl<T: Clone> Clone for Striped<T> {
    #[inline]
    fn clone(&self) -> Self {
        let index = lane_of_this_thread();
        if self.lane.index == index {
            return Self::on(Arc::clone(&self.lane));
        }
        let slot = &self.opened().0[index];
        let lane: *const Lane<T> = made_once(slot, || Arc::new(Lane { index, value: self.lane.value.clone() }));
        // SAFETY: from `Arc::into_raw`, and the slot has a reference for as long as `self` does.
        unsafe {
            Arc::increment_strong_count(lane);
            Self::on(Arc::from_raw(lane))
        }
    }
}

/// What is in `slot`, made by whoever comes first. Those who come at the same time make one for nothing.
fn made_once<V>(slot: &AtomicPtr<V>, make: impl FnOnce() -> Arc<V>) -> &V {
    // Acquire pairs with the Release of the exchange: what is there is complete.
    let mut known = slot.load(Ordering::Acquire);
    if known.is_null() {
        let mine = Arc::into_raw(make()).cast_mut();
        known = match slot.compare_exchange(ptr::null_mut(), mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => mine,
            Err(other) => {
                // SAFETY: from `into_raw` above, and nobody else has it.
                drop(unsafe { Arc::from_raw(mine) });
                other
            }
        };
    }
    // SAFETY: a slot that is not null holds a reference until its owner, who is borrowed, is dropped.
    unsafe { &*known }
}

impl<T> Drop for Striped<T> {
    #[inline]
    fn drop(&mut self) {
        let opened = *self.opened.get_mut();
        if !opened.is_null() {
            // SAFETY: from `into_raw`; this is the handle's reference.
            drop(unsafe { Arc::from_raw(opened) });
        }
    }
}

impl<T> Drop for Opened<T> {
    fn drop(&mut self) {
        for slot in &mut self.0 {
            let lane = *slot.get_mut();
            if !lane.is_null() {
                // SAFETY: from `into_raw`; this is the slot's reference.
                drop(unsafe { Arc::from_raw(lane) });
            }
        }
    }
}

impl<T> Deref for Striped<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.lane.value
    }
}

/// Which lane: a hash of where the stack is.
#[inline]
fn lane_of_this_thread() -> usize {
    let here = 0_u8;
    // Without the hint the variable, and with it the address, would be whatever the optimiser likes.
    let region = hint::black_box(&raw const here).addr() as u64 >> 18;
    // The upper bits of a product depend on all bits of its factors.
    (region.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - LANES.trailing_zeros())) as usize
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
        let first = Striped::new(Arc::new(Counted(&drops)));
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
        let value = Striped::new(());
        let lanes = thread::scope(|scope| {
            let threads: Vec<_> = (0..64).map(|_| scope.spawn(|| value.clone().lane.index)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<std::collections::BTreeSet<_>>()
        });
        assert!(lanes.len() > 8, "64 stacks fell on {lanes:?}");
    }

    #[test]
    fn a_clone_on_the_same_lane_opens_none() {
        let value = Striped::new(());
        let clone = value.clone();
        assert!(Arc::ptr_eq(&value.lane, &clone.lane));
        assert!(value.opened.load(Ordering::SeqCst).is_null());
    }

    #[test]
    fn handles_split_off_one_share_the_lanes_that_are_opened() {
        let value = Striped::new(());
        let splits: Vec<_> = (0..1000).map(|_| value.split()).collect();
        let lanes = thread::scope(|scope| {
            let body = || splits.iter().map(|split| Arc::as_ptr(&split.clone().lane) as usize).collect::<Vec<_>>();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(body)).collect();
            let all = threads.into_iter().flat_map(|thread| thread.join().unwrap());
            all.collect::<std::collections::BTreeSet<_>>().len()
        });
        assert!(lanes <= 8, "8 threads counted on {lanes} lanes");
    }
}
