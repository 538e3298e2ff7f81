//! The writers' lock: a mutex that a `fork` child can tell is orphaned.
//!
//! After `fork` only the calling thread goes on. A lock that another thread held stays locked in the child for ever,
//! and what it protects may be half changed. The lock word therefore holds the *fork generation* of its owner, a
//! number that changes in every child: a waiter that finds another generation than its own knows that nobody will
//! unlock. Not for handlers: it waits.
//!
//! Without `std` there is one generation, and a waiter spins.

use super::Ordering;
use super::unmodelled::AtomicU32;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

/// The lock was held by another thread when this process was forked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forked;

/// A mutual-exclusion lock for writers.
pub(crate) struct Lock<V> {
    /// 0 when free; else the owner's generation in the upper bits and [`WAITED`].
    word: AtomicU32,
    value: UnsafeCell<V>,
}

const WAITED: u32 = 1;

// SAFETY: the value is reached through the lock only, by one thread at a time.
unsafe impl<V: Send> Send for Lock<V> {}
// SAFETY: the value is reached through the lock only, by one thread at a time.
unsafe impl<V: Send> Sync for Lock<V> {}

impl<V> Lock<V> {
    pub(crate) const fn new(value: V) -> Self {
        Self { word: AtomicU32::new(0), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock, or says that there is nothing to wait for.
    pub(crate) fn lock(&self) -> Result<LockGuard<'_, V>, Forked> {
        let mine = generation() << 1;
        // Acquire pairs with the Release of `unlock`: the last owner's changes are visible.
        if self.word.compare_exchange(0, mine, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.lock_slowly(mine)?;
        }
        Ok(LockGuard { lock: self })
    }

    #[cold]
    fn lock_slowly(&self, mine: u32) -> Result<(), Forked> {
        for _ in 0..100 {
            let word = self.word.load(Ordering::Relaxed);
            if word == 0 && self.word.compare_exchange(0, mine, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
            core::hint::spin_loop();
        }
        // From here on the lock is marked as waited for: the thread that unlocks it wakes the next in line.
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word == 0 {
                // Acquire: as in `lock`.
                if self.word.compare_exchange(0, mine | WAITED, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Ok(());
                }
                continue;
            }
            if word & !WAITED != mine {
                return Err(Forked);
            }
            let waited = word | WAITED;
            if word == waited || self.word.compare_exchange(word, waited, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            {
                wait::until_changed(&self.word, waited);
            }
        }
    }

    pub(crate) fn get_mut(&mut self) -> &mut V {
        self.value.get_mut()
    }
}

pub(crate) struct LockGuard<'l, V> {
    lock: &'l Lock<V>,
}

impl<V> Deref for LockGuard<'_, V> {
    type Target = V;

    fn deref(&self) -> &V {
        // SAFETY: this guard owns the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<V> DerefMut for LockGuard<'_, V> {
    fn deref_mut(&mut self) -> &mut V {
        // SAFETY: this guard owns the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<V> Drop for LockGuard<'_, V> {
    fn drop(&mut self) {
        // Release pairs with the Acquire of the next `lock`.
        if self.lock.word.swap(0, Ordering::Release) & WAITED != 0 {
            wait::wake_one(&self.lock.word);
        }
    }
}

/// Which process of a chain of forks this is, from 1.
#[cfg(all(feature = "std", unix))]
fn generation() -> u32 {
    /// 0 until the first lock is taken. Relaxed: a thread reads what its own process wrote, and a child is one thread.
    static GENERATION: AtomicU32 = AtomicU32::new(0);

    #[cold]
    fn first() -> u32 {
        extern "C" fn in_child() {
            GENERATION.fetch_add(1, Ordering::Relaxed);
        }
        // Registering twice (two threads may race here) skips a number, which is as good. If there is no memory for
        // the registration, a child that inherits a held lock waits for ever, as it would on any other mutex.
        // SAFETY: `in_child` touches one atomic.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        match GENERATION.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => 1,
            Err(known) => known,
        }
    }

    let known = GENERATION.load(Ordering::Relaxed);
    if known != 0 { known } else { first() }
}

/// There are no forks, or nobody tells us of them.
#[cfg(not(all(feature = "std", unix)))]
const fn generation() -> u32 {
    1
}

#[cfg(all(feature = "std", target_os = "linux"))]
mod wait {
    use super::AtomicU32;

    /// Returns when woken, when the word is no longer `seen`, or for no reason.
    pub(super) fn until_changed(word: &AtomicU32, seen: u32) {
        let no_limit = core::ptr::null::<libc::timespec>();
        // SAFETY: the word outlives the call, and a futex call changes nothing in it.
        unsafe {
            libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, seen, no_limit)
        };
    }

    pub(super) fn wake_one(word: &AtomicU32) {
        // SAFETY: only the word's address is used; a wake that finds nobody there is harmless.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
    }
}

#[cfg(not(all(feature = "std", target_os = "linux")))]
mod wait {
    use super::AtomicU32;

    pub(super) fn until_changed(_word: &AtomicU32, _seen: u32) {
        #[cfg(feature = "std")]
        std::thread::sleep(core::time::Duration::from_micros(50));
        #[cfg(not(feature = "std"))]
        core::hint::spin_loop();
    }

    pub(super) fn wake_one(_word: &AtomicU32) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn counts_by_many_threads_are_all_there() {
        let lock = Arc::new(Lock::new(0_u64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let lock = lock.clone();
                std::thread::spawn(move || {
                    for _ in 0..50_000 {
                        *lock.lock().unwrap() += 1;
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*lock.lock().unwrap(), 200_000);
    }

    #[test]
    fn a_lock_of_another_generation_is_orphaned() {
        let lock = Lock::new(());
        lock.word.store((generation() + 1) << 1, Ordering::Relaxed);
        assert!(lock.lock().is_err());
    }
}
