//! What a thread needs before it may run guest code: a stack for its handlers, and knowledge of its own stack's guard.
//!
//! Two thread-locals. `GUARD` is constant-initialised, has no destructor, and is what every entry reads. `STACK` owns
//! the mapping, is touched once per thread, and has the destructor.
//!
//! Rust's standard library gives the threads it starts an alternate stack of its own, too small for what a chained
//! handler may need. We replace it, and never put it back: it is unmapped when the thread's main function returns,
//! which is before our destructor runs. Its owner disables *whatever* alternate stack is current at that point; ours
//! is then already out of use when we unmap it. The order does not matter: we disable only what is still ours.

use super::stack_guard;
pub(super) use super::stack_guard::StackGuard;
use std::cell::{Cell, RefCell};
use std::{io, mem, ptr};

/// What handlers may use, beyond the frame that the kernel writes.
const HANDLER_BYTES: usize = 64 * 1024;

thread_local! {
    static GUARD: Cell<Option<StackGuard>> = const { Cell::new(None) };
    static STACK: RefCell<Option<AltStack>> = const { RefCell::new(None) };
}

/// The guard of a thread that has been prepared, preparing it if necessary.
pub(super) fn guard_of_prepared_thread() -> io::Result<StackGuard> {
    match GUARD.get() {
        Some(guard) => Ok(guard),
        None => prepare(),
    }
}

/// Gives this thread an alternate signal stack, unless it has one that is large enough, and records where its
/// stack's guard lies.
///
/// [`catch_trap`](super::catch_trap) does this by itself at a thread's first entry, but panics if it fails. Call it
/// beforehand to handle the error; and again on a thread whose alternate stack somebody else replaced or disabled in
/// the meantime. (Rust's standard library disables it when a thread's main function has returned: thread-local
/// destructors that run after it have none.)
///
/// Large enough means the kernel's `AT_MINSIGSTKSZ` plus 64 KiB: a chained handler runs there, too. The stack we make
/// has an inaccessible page at its low end, and is unmapped when the thread exits. A stack of somebody else's must
/// stay until the thread no longer runs guest code.
///
/// The place of the guard is remembered: a main thread whose `RLIMIT_STACK` is lowered later may overflow outside it,
/// and the overflow is then passed on instead of caught.
///
/// # Errors
///
/// If the stack cannot be mapped or set, for example because this thread is executing on an alternate stack that is
/// too small, or is already being torn down.
///
/// # Signal safety
///
/// Not for signal handlers.
///
/// # Examples
///
/// ```
/// std::thread::spawn(trapline::signal::prepare_thread).join().unwrap()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn prepare_thread() -> io::Result<()> {
    prepare().map(drop)
}

#[cold]
fn prepare() -> io::Result<StackGuard> {
    let required = minimum_size() + HANDLER_BYTES;
    let current = current()?;
    if current.ss_flags & libc::SS_DISABLE != 0 || current.ss_size < required {
        STACK
            .try_with(|slot| {
                let mut slot = slot.borrow_mut();
                // A stack we made earlier and somebody switched away from serves again.
                if slot.is_none() {
                    *slot = Some(AltStack::map(required)?);
                }
                slot.as_ref().map_or(Ok(()), AltStack::make_current)
            })
            .unwrap_or_else(|_| Err(io::Error::other("the thread is being torn down")))?;
    }
    let guard = match GUARD.get() {
        Some(guard) => guard,
        None => stack_guard::of_this_thread(),
    };
    GUARD.set(Some(guard));
    Ok(guard)
}

/// The kernel's word on the room that it needs for a signal frame on this processor.
fn minimum_size() -> usize {
    // SAFETY: no preconditions; 0 if the kernel does not tell.
    let told = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    told.max(libc::MINSIGSTKSZ)
}

fn current() -> io::Result<libc::stack_t> {
    // SAFETY: all zeroes is a valid `stack_t`.
    let mut stack: libc::stack_t = unsafe { mem::zeroed() };
    // SAFETY: only queries, into a valid structure.
    match unsafe { libc::sigaltstack(ptr::null(), &mut stack) } {
        0 => Ok(stack),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A mapping of our own, used as this thread's alternate stack.
struct AltStack {
    mapping: *mut libc::c_void,
    length: usize,
    guard: usize,
}

impl AltStack {
    fn map(required: usize) -> io::Result<Self> {
        let page = page_size();
        let length = required.next_multiple_of(page) + page;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = AltStack { mapping, length, guard: page };
        // SAFETY: within the new mapping, which nobody else knows.
        match unsafe { libc::mprotect(stack.base(), stack.size(), libc::PROT_READ | libc::PROT_WRITE) } {
            0 => Ok(stack),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn base(&self) -> *mut libc::c_void {
        self.mapping.wrapping_byte_add(self.guard)
    }

    fn size(&self) -> usize {
        self.length - self.guard
    }

    fn make_current(&self) -> io::Result<()> {
        let stack = libc::stack_t { ss_sp: self.base(), ss_flags: 0, ss_size: self.size() };
        // SAFETY: the memory is ours, and stays until this thread no longer uses it (`drop`).
        match unsafe { libc::sigaltstack(&stack, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for AltStack {
    fn drop(&mut self) {
        // A destructor that runs after this one and enters guest code has to prepare again (and is told no).
        GUARD.set(None);
        let unused = match current() {
            Ok(stack) if stack.ss_sp == self.base() && stack.ss_flags & libc::SS_DISABLE == 0 => {
                let disable = libc::stack_t {
                    ss_sp: ptr::null_mut(),
                    ss_flags: libc::SS_DISABLE,
                    // Some systems check the size even then.
                    ss_size: self.size(),
                };
                // SAFETY: takes this thread's alternate stack out of use; it fails if the thread executes on it.
                unsafe { libc::sigaltstack(&disable, ptr::null_mut()) == 0 }
            }
            Ok(_) => true,
            Err(_) => false,
        };
        if unused {
            // SAFETY: our mapping, no longer this thread's alternate stack.
            unsafe { libc::munmap(self.mapping, self.length) };
        }
    }
}

pub(super) fn page_size() -> usize {
    // SAFETY: no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
