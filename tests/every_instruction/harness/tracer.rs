//! A tracing parent: it steps every thread of a child from its first user instruction to its last, and injects signals.
//!
//! A signal is injected even where the thread has it blocked, as the C library does while it creates and ends threads:
//! the tracer lifts the mask for the handler's time. While a handler runs all other threads are stopped wherever they
//! are, so it could not wait for any of them. From the handler's entry to its return the tracer sees every system call:
//! there must be none but the return itself.

use super::page::{Verdict, end};
use super::stack;
use std::collections::HashSet;
use std::ffi::{c_int, c_void};
use std::ptr;

/// A child that is traced.
pub struct Tracer {
    main: libc::pid_t,
    handler: usize,
    threads: HashSet<libc::pid_t>,
    /// Instructions stepped so far.
    pub steps: u64,
    /// Signals injected.
    pub injected: u64,
    /// Of those, the ones that the thread had blocked.
    pub blocked: u64,
    /// Threads that were interrupted before their first user instruction.
    pub newborn: u64,
}

/// How much of the stack below a handler is looked at.
const PAINTED: usize = stack::BOUND + 1024;

type Transfer = unsafe extern "C" fn(
    libc::pid_t,
    *const libc::iovec,
    libc::c_ulong,
    *const libc::iovec,
    libc::c_ulong,
    libc::c_ulong,
) -> isize;

const SIGNAL: c_int = libc::SIGUSR1;
/// A stop at a system call, told apart by an option.
const SYSCALL_STOP: c_int = libc::SIGTRAP | 0x80;

impl Tracer {
    /// Forks. The child runs `life`, which must [`begin`] and then end the process; `handler` is its handler.
    pub fn fork(handler: usize, life: fn() -> !) -> Self {
        // SAFETY: this process has one thread, so the child may do anything.
        let main = unsafe { libc::fork() };
        assert!(main >= 0, "fork failed");
        if main == 0 {
            // SAFETY: no memory is involved.
            assert_eq!(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }, 0);
            stop();
            life();
        }
        let tracer =
            Self { main, handler, threads: HashSet::from([main]), steps: 0, injected: 0, blocked: 0, newborn: 0 };
        tracer.wait_for_stop(main, libc::SIGSTOP);
        let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        tracer.ask(libc::PTRACE_SETOPTIONS, main, options as usize);
        tracer.ask(libc::PTRACE_CONT, main, 0);
        tracer.wait_for_stop(main, libc::SIGSTOP);
        tracer
    }

    /// Steps all threads until the child ends, and injects a signal at every `stride`-th instruction, of those counted
    /// from `first`. The child's exit status.
    pub fn follow(&mut self, stride: u64, first: u64) -> c_int {
        self.step(self.main);
        loop {
            let (thread, status) = wait(-1);
            if !libc::WIFSTOPPED(status) {
                self.threads.remove(&thread);
                if thread == self.main {
                    return status;
                }
                continue;
            }
            let signal = libc::WSTOPSIG(status);
            if status >> 16 != 0 {
                // A thread was created; it reports by itself.
            } else if signal == libc::SIGTRAP {
                self.steps += 1;
                if (self.steps + first).is_multiple_of(stride) {
                    self.interrupt(thread);
                }
            } else if signal == libc::SIGSTOP && self.threads.insert(thread) {
                // Born, and has not executed an instruction yet.
                self.newborn += 1;
                self.interrupt(thread);
            } else {
                // SAFETY: passes on what would have happened without us: a fault, which kills.
                unsafe { libc::ptrace(libc::PTRACE_CONT, thread, 0, signal) };
                continue;
            }
            self.step(thread);
        }
    }

    /// Has the stopped thread run its handler, and stops it where it was.
    fn interrupt(&mut self, thread: libc::pid_t) {
        let mask = self.mask(thread);
        let bit = 1 << (SIGNAL - 1);
        if mask & bit != 0 {
            self.blocked += 1;
            self.set_mask(thread, mask & !bit);
        }
        let before = self.registers(thread);
        self.ask(libc::PTRACE_SINGLESTEP, thread, SIGNAL as usize);
        self.wait_for_stop(thread, libc::SIGTRAP);
        let entry = self.registers(thread);
        assert_eq!(entry.rip as usize, self.handler, "the signal was not delivered");
        // What lies below a handler's stack pointer is nobody's.
        let mut below = [stack::PAINT; PAINTED / 8];
        let start = entry.rsp as usize - PAINTED;
        self.transfer(libc::process_vm_writev, thread, &mut below, start);
        self.ask(libc::PTRACE_SYSCALL, thread, 0);
        let signal = self.wait_for_any_stop(thread);
        self.transfer(libc::process_vm_readv, thread, &mut below, start);
        let unused = below.iter().take_while(|word| **word == stack::PAINT).count() * 8;
        stack::check(PAINTED - unused);
        let number = self.registers(thread).orig_rax;
        if signal != SYSCALL_STOP {
            panic!("a handler was stopped by signal {signal}");
        }
        if number != libc::SYS_rt_sigreturn as u64 {
            end(Verdict::SystemCall, [number, 0, 0]);
        }
        self.ask(libc::PTRACE_SINGLESTEP, thread, 0);
        self.wait_for_stop(thread, libc::SIGTRAP);
        let after = self.registers(thread);
        assert_eq!((after.rip, after.rsp), (before.rip, before.rsp), "a handler returned to where it interrupted");
        if mask & bit != 0 {
            self.set_mask(thread, mask);
        }
        self.injected += 1;
    }

    /// Copies all of `words` to or from `address` of the child, which is stopped.
    fn transfer(&self, how: Transfer, thread: libc::pid_t, words: &mut [u64], address: usize) {
        let bytes = size_of_val(words);
        let ours = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: bytes };
        let theirs = libc::iovec { iov_base: ptr::without_provenance_mut(address), iov_len: bytes };
        // SAFETY: ours is a buffer of that length, theirs is another process's.
        let copied = unsafe { how(thread, &ours, 1, &theirs, 1, 0) };
        assert_eq!(copied, bytes as isize, "a thread's stack: {}", std::io::Error::last_os_error());
    }

    fn step(&self, thread: libc::pid_t) {
        self.ask(libc::PTRACE_SINGLESTEP, thread, 0);
    }

    fn ask(&self, request: libc::c_uint, thread: libc::pid_t, data: usize) {
        // SAFETY: none of the requests made through this touches our memory.
        let done = unsafe { libc::ptrace(request, thread, ptr::null_mut::<c_void>(), data) };
        assert_eq!(done, 0, "ptrace request {request}: {}", std::io::Error::last_os_error());
    }

    fn registers(&self, thread: libc::pid_t) -> libc::user_regs_struct {
        // SAFETY: all zeroes is a valid value, which the kernel overwrites.
        unsafe {
            let mut registers: libc::user_regs_struct = std::mem::zeroed();
            assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, thread, 0, &raw mut registers), 0);
            registers
        }
    }

    fn mask(&self, thread: libc::pid_t) -> u64 {
        let mut mask = 0_u64;
        // SAFETY: the kernel writes a word.
        assert_eq!(unsafe { libc::ptrace(PTRACE_GETSIGMASK, thread, 8, &raw mut mask) }, 0);
        mask
    }

    fn set_mask(&self, thread: libc::pid_t, mask: u64) {
        // SAFETY: the kernel reads a word.
        assert_eq!(unsafe { libc::ptrace(PTRACE_SETSIGMASK, thread, 8, &raw const mask) }, 0);
    }

    fn wait_for_stop(&self, thread: libc::pid_t, signal: c_int) {
        assert_eq!(self.wait_for_any_stop(thread), signal);
    }

    fn wait_for_any_stop(&self, thread: libc::pid_t) -> c_int {
        let (_, status) = wait(thread);
        if libc::WIFEXITED(status) {
            // The handler left a verdict, which stands, or the child's own code failed.
            end(Verdict::Crashed, [status as u64, 0, 0]);
        }
        assert!(libc::WIFSTOPPED(status), "the child was killed: {status:#x}");
        libc::WSTOPSIG(status)
    }
}

const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;

fn wait(thread: libc::pid_t) -> (libc::pid_t, c_int) {
    let mut status = 0;
    // SAFETY: a place for the status.
    let thread = unsafe { libc::waitpid(thread, &mut status, libc::__WALL) };
    assert!(thread > 0, "nobody to wait for");
    (thread, status)
}

/// In the child: from here on every instruction is stepped.
pub fn begin() {
    stop();
}

fn stop() {
    // SAFETY: no preconditions; the tracer goes on.
    unsafe { libc::raise(libc::SIGSTOP) };
}
