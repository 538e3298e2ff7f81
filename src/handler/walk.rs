//! Following frame pointers up a stack.
//!
//! A function that keeps a frame pointer begins by making a *record* of two words, and points the register at it:
//!
//! ```text
//! fp + 0         the caller's frame pointer
//! fp + 1 word    the return address into the caller
//! ```
//!
//! The stack grows down, so callers' records lie at higher addresses. Nothing says that a word on the stack is a
//! record, though, or that the register is a frame pointer at all. So nothing is believed:
//!
//! - A record is read only where the stack is said to be readable, and at an address that is a multiple of a word.
//!   (ABIs align records to two words. Generated code with conventions of its own need not, and a word is what
//!   reading takes.)
//! - Each record lies wholly above the one before, so that a walk of n bytes of stack takes at most n / 2 words steps.
//! - Only the return address into registered code makes a frame. The walk does not go through others: what host code
//!   does with its frame pointer is its own business.

use core::fmt;
use core::ops::Range;

const WORD: usize = size_of::<usize>();

/// What the program counter of a frame says about where the frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PcKind {
    /// The address of the instruction that trapped, or was about to run when a signal arrived.
    Interrupted,
    /// The address that a call returns to: past the call, and perhaps past the end of the function that made it.
    ReturnAddress,
}

impl PcKind {
    /// An address inside the instruction that the frame is executing: what to look up.
    ///
    /// For a return address, the last byte of its call.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub const fn instruction(self, pc: usize) -> usize {
        match self {
            PcKind::Interrupted => pc,
            PcKind::ReturnAddress => pc.wrapping_sub(1),
        }
    }
}

impl fmt::Display for PcKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PcKind::Interrupted => "interrupted instruction",
            PcKind::ReturnAddress => "return address",
        })
    }
}

/// Why a backtrace has no more frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BacktraceEnd {
    /// Nothing was collected yet.
    NotTaken,
    /// The frame pointers led to where the outermost guest code was entered.
    Complete,
    /// The next frame is not registered code, and nothing is known beyond it.
    ///
    /// It is often the function that entered the guest code, if that is host code without frame pointers: the frames
    /// are complete then, but cannot be told from others.
    HostFrame,
    /// The next frame pointer is not one: not aligned, not above the one before, or not in the stack.
    Corrupt,
    /// The buffer has no room for the next frame. It has the innermost ones.
    Full,
    /// The thread is in guest code that nobody entered through an activation, so that nothing is known of its stack.
    NoActivation,
}

impl fmt::Display for BacktraceEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BacktraceEnd::NotTaken => "nothing was collected",
            BacktraceEnd::Complete => "these are all guest frames",
            BacktraceEnd::HostFrame => "the next frame is host code",
            BacktraceEnd::Corrupt => "the next frame pointer is not one",
            BacktraceEnd::Full => "the buffer is full",
            BacktraceEnd::NoActivation => "the guest code was not entered through an activation",
        })
    }
}

/// The registers that a walk starts from, of the interrupted function.
///
/// # Examples
///
/// ```
/// use trapline::Registers;
///
/// let registers = Registers::new(0x7000, 0x1f00, 0x1f80);
/// assert_eq!((registers.pc, registers.sp, registers.fp), (0x7000, 0x1f00, 0x1f80));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Registers {
    /// The program counter.
    pub pc: usize,
    /// The stack pointer.
    pub sp: usize,
    /// The frame pointer: `rbp` on x86-64, `x29` on AArch64.
    pub fp: usize,
}

impl Registers {
    /// The registers of an interrupted function: program counter, stack pointer, frame pointer.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub const fn new(pc: usize, sp: usize, fp: usize) -> Self {
        Registers { pc, sp, fp }
    }
}

/// A buffer of program counters. Unsized, `Trace<[usize]>`, it serves buffers of all lengths.
#[derive(Clone)]
pub(crate) struct Trace<P: ?Sized> {
    /// At most as many as there is room for.
    len: usize,
    /// What the first one is; the others are return addresses.
    first: PcKind,
    pub(crate) end: BacktraceEnd,
    pcs: P,
}

impl<const N: usize> Trace<[usize; N]> {
    pub(crate) const fn new() -> Self {
        Trace { len: 0, first: PcKind::ReturnAddress, end: BacktraceEnd::NotTaken, pcs: [0; N] }
    }

    pub(crate) fn pcs(&self) -> &[usize] {
        self.pcs.get(..self.len).unwrap_or_default()
    }

    pub(crate) fn kind(&self, index: usize) -> PcKind {
        if index == 0 { self.first } else { PcKind::ReturnAddress }
    }
}

impl Trace<[usize]> {
    /// Forgets all frames; the next will be of this kind.
    pub(crate) fn restart(&mut self, first: PcKind) {
        self.len = 0;
        self.first = first;
        self.end = BacktraceEnd::NotTaken;
    }

    /// `false` if there is no room.
    pub(crate) fn push(&mut self, pc: usize) -> bool {
        let Some(slot) = self.pcs.get_mut(self.len) else { return false };
        *slot = pc;
        self.len = self.len.wrapping_add(1);
        true
    }
}

/// Whether a record at `fp` lies in `stack`, at an address where two words can be read.
pub(crate) fn is_readable(fp: usize, stack: &Range<usize>) -> bool {
    // No sum that could wrap around.
    fp.is_multiple_of(WORD) && stack.start <= fp && fp < stack.end && stack.end.wrapping_sub(fp) >= 2 * WORD
}

/// A return address without the signature that AArch64 code may have put into its upper bits.
#[cfg(target_arch = "aarch64")]
fn unsigned(mut pc: usize) -> usize {
    // SAFETY: `xpaclri`, by the hint that processors without signatures ignore, changes this register only.
    unsafe { core::arch::asm!("hint #7", inout("x30") pc, options(nomem, nostack, preserves_flags)) };
    pc
}

/// A return address as it was stored.
#[cfg(not(target_arch = "aarch64"))]
fn unsigned(pc: usize) -> usize {
    pc
}

/// Collects the return addresses that a chain of records beginning at `fp` leads to, up to the end of `stack`, and
/// says why it stopped.
///
/// A null frame pointer, which ABIs end the chain with, counts as the end of `stack`. One record more is read than
/// there is room for, at most.
///
/// # Safety
///
/// `stack`, a range of addresses, can be read, and nobody writes to it meanwhile. (Which words of it were ever
/// written does not matter: the reads are volatile.)
pub(crate) unsafe fn walk(
    mut fp: usize,
    mut stack: Range<usize>,
    is_code: impl Fn(usize) -> bool,
    trace: &mut Trace<[usize]>,
) -> BacktraceEnd {
    let leaves = |fp: usize, end: usize| fp == 0 || fp >= end;
    loop {
        if leaves(fp, stack.end) {
            return BacktraceEnd::Complete;
        }
        if !is_readable(fp, &stack) {
            return BacktraceEnd::Corrupt;
        }
        let record = core::ptr::with_exposed_provenance::<[usize; 2]>(fp);
        // SAFETY: aligned, and within what the caller says can be read.
        let [saved, pc] = unsafe { record.read_volatile() };
        let pc = unsigned(pc);
        if !is_code(PcKind::ReturnAddress.instruction(pc)) {
            return if leaves(saved, stack.end) { BacktraceEnd::Complete } else { BacktraceEnd::HostFrame };
        }
        if !trace.push(pc) {
            return BacktraceEnd::Full;
        }
        // No overflow: `fp` and two words are within `stack`.
        stack.start = fp.wrapping_add(2 * WORD);
        fp = saved;
    }
}
