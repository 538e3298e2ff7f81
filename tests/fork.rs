//! In the child of a fork lookups work, and writes work or say that they never will.
#![cfg(unix)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use trapline::{CodeRegistry, RegisterError, UnregisterError};

static REGISTRY: CodeRegistry<usize> = CodeRegistry::new();
const STABLE: usize = 500;
const FORKS: usize = 200;

/// How a child ends.
const WRITES: i32 = 10;
const SAYS_FORKED: i32 = 11;
const WRONG_LOOKUP: i32 = 12;
const WRONG_ERROR: i32 = 13;

fn stable(i: usize) -> usize {
    0x1000_0000 + i * 0x1000
}

fn stable_ranges_are_found() -> bool {
    (0..STABLE).all(|i| {
        REGISTRY.with(stable(i) + 5, |found| *found.payload()) == Some(i)
            && REGISTRY.with(stable(i) + 0x800, |_| ()).is_none()
    })
}

#[cfg(not(feature = "snapshot"))]
fn snapshots_are_right() -> bool {
    true
}

/// Whether the lock is orphaned or not: a snapshot sees what lookups see, and counts what it sees.
#[cfg(feature = "snapshot")]
fn snapshots_are_right() -> bool {
    let snapshot = REGISTRY.snapshot();
    let clone = snapshot.clone();
    let all = (0..STABLE).all(|i| snapshot.get(stable(i) + 5).map(|found| *found.payload()) == Some(i));
    drop(snapshot);
    all && clone.iter().count() == clone.len() && clone.len() >= STABLE
}

fn child(stable_id: trapline::CodeId) -> i32 {
    if !stable_ranges_are_found() || !snapshots_are_right() {
        return WRONG_LOOKUP;
    }
    // `malloc` works in the child (glibc sees to it), and the payload is made before the lock is asked for.
    let end = match REGISTRY.register(0x10..0x20, Arc::new(77)) {
        Ok(registration) => {
            if REGISTRY.with(0x1f, |found| *found.payload()) != Some(77) {
                return WRONG_LOOKUP;
            }
            drop(registration);
            if REGISTRY.with(0x1f, |_| ()).is_some() {
                return WRONG_LOOKUP;
            }
            REGISTRY.reclaim();
            WRITES
        }
        Err(RegisterError::Forked) => {
            // Once so, always so; removals too, and reclaiming does not hang.
            let again = REGISTRY.register(0x10..0x20, Arc::new(77)).is_err_and(|e| e == RegisterError::Forked);
            let removal = REGISTRY.unregister(stable_id) == Err(UnregisterError::Forked);
            REGISTRY.reclaim();
            if !again || !removal {
                return WRONG_ERROR;
            }
            SAYS_FORKED
        }
        Err(_) => return WRONG_ERROR,
    };
    if stable_ranges_are_found() && snapshots_are_right() { end } else { WRONG_LOOKUP }
}

#[test]
fn children_forked_while_other_threads_write_look_up_and_never_hang() {
    let mut ids = Vec::new();
    for i in 0..STABLE {
        ids.push(REGISTRY.register(stable(i)..stable(i) + 0x800, Arc::new(i)).unwrap().leak().unwrap());
    }
    let stop = AtomicBool::new(false);
    let writes = AtomicUsize::new(0);
    let mut ends = [0; 2];
    thread::scope(|scope| {
        for t in 0..2 {
            let (stop, writes) = (&stop, &writes);
            scope.spawn(move || {
                let base = 0x2000_0000 + t * 0x100_0000;
                while !stop.load(Ordering::Relaxed) {
                    // A batch, so that the lock is held for long.
                    let batch = (0..64).map(|i| (base + i * 0x1000..base + i * 0x1000 + 0x800, Arc::new(i)));
                    drop(REGISTRY.register_all(batch).unwrap());
                    writes.fetch_add(65, Ordering::Relaxed);
                }
            });
        }
        let mut results = Vec::new();
        // The first bad child is enough: a hang takes its time.
        while results.len() < FORKS
            && results.last().is_none_or(|status| [WRITES, SAYS_FORKED].map(|end| end << 8).contains(status))
        {
            results.push(fork_once(ids[0]));
        }
        stop.store(true, Ordering::Relaxed);
        for status in results {
            assert!(libc::WIFEXITED(status), "a child was killed (a hang is killed by SIGALRM): {status:#x}");
            match libc::WEXITSTATUS(status) {
                WRITES => ends[0] += 1,
                SAYS_FORKED => ends[1] += 1,
                WRONG_LOOKUP => panic!("a lookup in a child was wrong"),
                WRONG_ERROR => panic!("a child's error was wrong"),
                other => panic!("a child ended with {other}"),
            }
        }
    });
    println!("{FORKS} forks: {} children could write, {} could not and said so", ends[0], ends[1]);
    assert!(writes.load(Ordering::Relaxed) > 0);
    assert!(ends[1] > 0, "no fork came at a bad moment: nothing was shown");
    assert!(stable_ranges_are_found());
}

fn fork_once(stable_id: trapline::CodeId) -> i32 {
    // SAFETY: the child calls the registry, `malloc`, which glibc keeps usable, and `_exit`.
    unsafe {
        match libc::fork() {
            0 => {
                libc::alarm(10);
                let end = std::panic::catch_unwind(|| child(stable_id)).unwrap_or(99);
                libc::_exit(end)
            }
            pid => {
                assert!(pid > 0, "fork failed");
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
                status
            }
        }
    }
}

#[test]
fn a_child_forked_in_peace_writes() {
    static QUIET: CodeRegistry<usize> = CodeRegistry::new();
    let id = QUIET.register(0x1000..0x2000, Arc::new(1)).unwrap().leak().unwrap();
    // SAFETY: as in `fork_once`.
    unsafe {
        match libc::fork() {
            0 => {
                libc::alarm(10);
                let fine = QUIET.unregister(id).is_ok()
                    && QUIET.with(0x1000, |_| ()).is_none()
                    && QUIET.register(0x1000..0x2000, Arc::new(2)).is_ok_and(|r| r.leak().is_some())
                    && QUIET.with(0x1000, |found| *found.payload()) == Some(2);
                libc::_exit(if fine { WRITES } else { WRONG_ERROR })
            }
            pid => {
                let mut status = 0;
                assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
                assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == WRITES, "{status:#x}");
            }
        }
    }
    assert_eq!(QUIET.with(0x1000, |found| *found.payload()), Some(1), "the parent is another process");
}
