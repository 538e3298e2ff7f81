//! What a thread needs before it may run guest code: a stack for its handlers, unblocked signals, and knowledge of its
//! own stack.
//!
//! Three thread-locals, initialised at compile time and without a destructor, so that they are there for as long as the
//! thread is. `OWN` is what every entry reads, and handlers. `ALTERNATE` is the mapping, if we made one, and
//! `RELEASED` says that it has gone.
//!
//! The mapping goes when the thread ends, as late as can be: destructors of other thread-locals may still run guest
//! code. The C library calls those of its keys after them, and again as long as one of them sets its key anew, a limited
//! number of times. Ours does that until the last time.
//!
//! Rust's standard library gives the threads it starts an alternate stack of its own, too small for what a chained
//! handler may need. We replace it, and never put it back: it is unmapped when the thread's main function returns,
//! which is before our destructor runs. Its owner then disables the current alternate stack, *even if it is ours*, which
//! is then out of use before we unmap it. The order does not matter: we disable only a stack that is still ours.

use super::stack_guard::{self, Stack, page_size};
use crate::sync::Ordering;
use crate::sync::unmodelled::AtomicUsize;
use std::cell::Cell;
use std::sync::Mutex;
use std::{io, mem, ptr};

/// What handlers may use, beyond the frame that the kernel writes.
const HANDLER_BYTES: usize = 64 * 1024;

thread_local! {
    static OWN: Cell<Stack> = const { Cell::new(Stack::NONE) };
    static ALTERNATE: Cell<Option<AltStack>> = const { Cell::new(None) };
    static RELEASED: Cell<bool> = const { Cell::new(false) };
    /// Has a destructor, for which the loader keeps this library as long as the thread needs it: unlike for a key's.
    static LIBRARY: Library = const { Library };
}

struct Library;

impl Drop for Library {
    fn drop(&mut self) {}
}

/// This thread's own stack; contains nothing if the thread was not prepared. For handlers, too.
pub(super) fn own_stack() -> Stack {
    OWN.try_with(Cell::get).unwrap_or(Stack::NONE)
}

/// Whether the thread was prepared, and `here` is on its own stack.
#[inline]
pub(super) fn is_own(here: usize) -> bool {
    OWN.with(|own| own.get().contains(here))
}

/// This thread's own stack, preparing it if necessary.
pub(super) fn own_stack_of_prepared_thread() -> io::Result<Stack> {
    match own_stack() {
        Stack::NONE => prepare(),
        stack => Ok(stack),
    }
}

/// Makes sure that this thread can catch traps: gives it an alternate signal stack, unless it has one that is large
/// enough, and finds out where its own stack is.
///
/// [`catch_trap`](super::catch_trap) does this by itself at a thread's first entry, but panics if it fails. Call it
/// beforehand to handle the error; and again on a thread whose alternate stack somebody else replaced or disabled in
/// the meantime. (Rust's standard library disables it when a thread's main function has returned: destructors of
/// thread-locals that run after it have no alternate stack, and a stack overflow in them kills, unless they call this first.)
///
/// Large enough means the kernel's `AT_MINSIGSTKSZ` plus 64 KiB: a chained handler runs there, too. The stack we make
/// has an inaccessible page at its low end, and is unmapped when the thread ends, after the destructors of Rust's
/// thread-locals and in the last round of those of the C library's keys. A stack of somebody else's must stay until the
/// thread no longer runs guest code.
///
/// A main thread whose `RLIMIT_STACK` changes overflows wherever the limit then is, and the overflow is caught.
///
/// # Errors
///
/// - If one of the signals that traps arrive as (`SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE`) is blocked on this thread: the
///   kernel would kill the process for a trap, without asking a handler. Unblock it with `pthread_sigmask`. This is
///   checked here only: a prepared thread that blocks one later has its process killed by the next trap.
/// - If the stack cannot be mapped or set, for example because this thread is executing on an alternate stack that is
///   too small, or is already being torn down.
/// - If the C library cannot tell where this thread's stack is. (The main thread does not ask it.)
///
/// A failure leaves nothing behind: a later call tries again.
///
/// # Signal safety
///
/// Not for handlers: allocates, and registers a destructor.
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
fn prepare() -> io::Result<Stack> {
    signals_are_unblocked()?;
    let own = stack_guard::of_this_thread()?;
    let required = minimum_size() + HANDLER_BYTES;
    let current = current()?;
    if current.ss_flags & libc::SS_DISABLE != 0 || current.ss_size < required {
        // A stack that we made earlier serves again if the thread was switched away from it.
        let stack = match ALTERNATE.get() {
            Some(stack) => stack,
            None => AltStack::of_this_thread(required)?,
        };
        stack.make_current()?;
    }
    OWN.set(own);
    Ok(own)
}

/// A synchronous signal that is blocked kills the process, whatever its action is.
fn signals_are_unblocked() -> io::Result<()> {
    // SAFETY: all zeroes is a valid set; only queries.
    let blocked = unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        match libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut set) {
            0 => set,
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    };
    let traps =
        [(libc::SIGSEGV, "SIGSEGV"), (libc::SIGBUS, "SIGBUS"), (libc::SIGILL, "SIGILL"), (libc::SIGFPE, "SIGFPE")];
    for (signum, name) in traps {
        // SAFETY: a valid set and a valid number.
        if unsafe { libc::sigismember(&blocked, signum) } == 1 {
            return Err(io::Error::other(format!(
                "{name} is blocked on this thread: a trap would kill the process; unblock it with pthread_sigmask"
            )));
        }
    }
    Ok(())
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

/// A mapping of our own, used as a thread's alternate stack.
#[derive(Clone, Copy)]
struct AltStack {
    mapping: *mut libc::c_void,
    length: usize,
    guard: usize,
}

impl AltStack {
    /// Makes one, which goes with this thread.
    fn of_this_thread(required: usize) -> io::Result<AltStack> {
        if RELEASED.get() {
            return Err(io::Error::other("the thread is being torn down"));
        }
        let key = key()?;
        // An error says that the thread's destructors have begun.
        let _ = LIBRARY.try_with(|_| ());
        let stack = match take_kept(required) {
            Some(stack) => stack,
            None => AltStack::map(required)?,
        };
        // SAFETY: a key that was created, whose destructor takes any number.
        match unsafe { libc::pthread_setspecific(key, ptr::without_provenance(destructor_rounds())) } {
            0 => {}
            error => {
                stack.unmap();
                return Err(io::Error::from_raw_os_error(error));
            }
        }
        ALTERNATE.set(Some(stack));
        Ok(stack)
    }

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
        if unsafe { libc::mprotect(stack.base(), stack.size(), libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            let error = io::Error::last_os_error();
            // If the kernel refuses this as well, addresses are lost, but no memory.
            // SAFETY: the mapping made above.
            unsafe { libc::munmap(mapping, length) };
            return Err(error);
        }
        Ok(stack)
    }

    fn base(&self) -> *mut libc::c_void {
        self.mapping.wrapping_byte_add(self.guard)
    }

    fn size(&self) -> usize {
        self.length - self.guard
    }

    fn make_current(&self) -> io::Result<()> {
        let stack = libc::stack_t { ss_sp: self.base(), ss_flags: 0, ss_size: self.size() };
        // SAFETY: the memory is ours, and stays until this thread no longer uses it (`release`).
        match unsafe { libc::sigaltstack(&stack, ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Takes it out of use, and says whether it is: it is not while this thread executes on it.
    fn disable(&self) -> bool {
        match current() {
            Ok(stack) if stack.ss_sp == self.base() && stack.ss_flags & libc::SS_DISABLE == 0 => {
                let disable = libc::stack_t {
                    ss_sp: ptr::null_mut(),
                    ss_flags: libc::SS_DISABLE,
                    // Some systems check the size even then.
                    ss_size: self.size(),
                };
                // SAFETY: takes this thread's alternate stack out of use.
                unsafe { libc::sigaltstack(&disable, ptr::null_mut()) == 0 }
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }

    /// Unmaps it; or, where the kernel has no room for one mapping more, keeps it for another thread, without memory.
    fn unmap(self) {
        // SAFETY: our mapping, which is no thread's alternate stack.
        if unsafe { libc::munmap(self.mapping, self.length) } != 0 {
            // SAFETY: our mapping, which is no thread's alternate stack; its pages are zeroes from now on.
            unsafe { libc::madvise(self.base(), self.size(), libc::MADV_DONTNEED) };
            keep(self);
        }
    }
}

/// The stacks that could not be unmapped, each but the last with the next one in its first bytes.
///
/// A fork while another thread holds the lock leaves it locked in the child, so nobody waits for it.
static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

struct Kept(AltStack);

// SAFETY: the value owns the mapping.
unsafe impl Send for Kept {}

/// A list that needs no memory of its own: its links lie in the stacks.
fn keep(stack: AltStack) {
    if let Ok(mut first) = KEPT.try_lock() {
        // SAFETY: writable memory that is nobody's stack; aligned to a page, and larger.
        unsafe { stack.base().cast::<Option<Kept>>().write(first.take()) };
        *first = Some(Kept(stack));
    }
}

fn take_kept(required: usize) -> Option<AltStack> {
    let mut first = KEPT.try_lock().ok()?;
    let Kept(stack) = first.take()?;
    // SAFETY: `keep` wrote it, and nobody since.
    *first = unsafe { stack.base().cast::<Option<Kept>>().read() };
    // All stacks have one size.
    debug_assert!(stack.size() >= required);
    Some(stack)
}

/// The key whose destructor releases a thread's alternate stack.
fn key() -> io::Result<libc::pthread_key_t> {
    /// One more than the key; 0 before it is created.
    static KEY: AtomicUsize = AtomicUsize::new(0);
    // Relaxed, here and below: the key is all there is, and the C library orders its own memory.
    let known = KEY.load(Ordering::Relaxed);
    if known != 0 {
        return Ok((known - 1) as libc::pthread_key_t);
    }
    let mut key = 0;
    // SAFETY: a valid place for the key, and a destructor that takes any number.
    match unsafe { libc::pthread_key_create(&mut key, Some(at_thread_end)) } {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    match KEY.compare_exchange(0, key as usize + 1, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => Ok(key),
        Err(first) => {
            // SAFETY: another thread was faster; nobody has set this one.
            unsafe { libc::pthread_key_delete(key) };
            Ok((first - 1) as libc::pthread_key_t)
        }
    }
}

/// How often the C library calls destructors of keys that are set again, at most.
fn destructor_rounds() -> usize {
    // SAFETY: no preconditions.
    let rounds = unsafe { libc::sysconf(libc::_SC_THREAD_DESTRUCTOR_ITERATIONS) };
    usize::try_from(rounds).unwrap_or(1).max(1)
}

/// `rounds`: how many rounds of destructors are left, including this one.
unsafe extern "C" fn at_thread_end(rounds: *mut libc::c_void) {
    let left = ptr::without_provenance::<libc::c_void>(rounds.addr() - 1);
    if let Ok(key) = key()
        && !left.is_null()
        // SAFETY: our key.
        && unsafe { libc::pthread_setspecific(key, left) } == 0
    {
        return;
    }
    // Guest code that runs even later has no alternate stack: its traps are caught on the thread's own stack, but not the
    // overflow of that stack.
    RELEASED.set(true);
    if let Some(stack) = ALTERNATE.take()
        && stack.disable()
    {
        stack.unmap();
    }
}
