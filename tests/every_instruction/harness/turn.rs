//! Whose turn it is: the looking thread's, parked inside a handler, or the writing thread's.

use std::sync::atomic::{AtomicU32, Ordering};

const READER: u32 = 0;
const WRITER: u32 = 1;
const OVER: u32 = 2;

static TURN: AtomicU32 = AtomicU32::new(READER);

/// The looking thread: lets the other one write once, and waits for it. Async-signal-safe.
pub fn hand_over() {
    pass(WRITER);
    // Acquire pairs with the Release of `pass`: what the writer did happens before what we do.
    while TURN.load(Ordering::Acquire) != READER {
        wait_while(WRITER);
    }
}

/// The writing thread: calls `write` each time it is its turn, until it is over.
pub fn serve(mut write: impl FnMut()) {
    loop {
        // Acquire: as in `hand_over`, the other way round.
        match TURN.load(Ordering::Acquire) {
            READER => wait_while(READER),
            WRITER => {
                write();
                pass(READER);
            }
            _ => return,
        }
    }
}

/// The looking thread: ends [`serve`].
pub fn over() {
    pass(OVER);
}

fn pass(to: u32) {
    TURN.store(to, Ordering::Release);
    // SAFETY: only the word's address is used.
    unsafe { libc::syscall(libc::SYS_futex, TURN.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
}

fn wait_while(seen: u32) {
    for _ in 0..200 {
        if TURN.load(Ordering::Relaxed) != seen {
            return;
        }
        std::hint::spin_loop();
    }
    let no_limit = std::ptr::null::<libc::timespec>();
    // SAFETY: the word is a static, and a futex call changes nothing in it.
    unsafe {
        libc::syscall(libc::SYS_futex, TURN.as_ptr(), libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, seen, no_limit)
    };
}
