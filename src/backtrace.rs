//! Backtraces: who called the guest code that trapped or was sampled.

use core::fmt;
use core::iter::FusedIterator;
use core::{mem, slice};

use crate::handler::walk::{self, BacktraceEnd, PcKind, Registers, Trace};
#[cfg(feature = "image")]
use crate::process::{self, Symbol};
use crate::registry::View;

/// The program counters of guest frames, innermost first, at most `N` of them.
///
/// A fixed buffer that a signal handler fills: for a trap (`signal::catch_trap_with`), for a profiler's sample
/// (`signal::sample`), or for embedders who enter guest code in their own way ([`walk`](Self::walk), or
/// [`walk_in`](Self::walk_in) a registry of their own). It holds addresses only. Print or [name](Self::symbols) them
/// afterwards, in ordinary code, while the code is still registered.
///
/// Frames are found by following frame pointers. Generated code must keep them (Cranelift's `preserve_frame_pointers`):
/// `rbp` or `x29` points at two words, the caller's frame pointer and the return address. Code without them hides
/// frames, but does no other harm. A function that is interrupted while it sets its frame up, or after it took it down,
/// hides its caller.
///
/// It is large, and therefore not `Copy`.
///
/// # Examples
///
/// ```
/// use trapline::{Backtrace, BacktraceEnd};
///
/// let backtrace: Backtrace = Backtrace::new();
/// print!("{backtrace}"); // #0 0x7f25e3a0000f demo!average + 0xf (source 0x20), ...
/// println!("{}", backtrace.end());
/// assert!(backtrace.is_empty());
/// assert_eq!(backtrace.end(), BacktraceEnd::NotTaken);
/// ```
#[derive(Clone)]
pub struct Backtrace<const N: usize = 64>(Trace<[usize; N]>);

impl<const N: usize> Backtrace<N> {
    /// An empty backtrace.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub const fn new() -> Self {
        Backtrace(Trace::new())
    }

    /// The number of frames.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.pcs().len()
    }

    /// Whether there are no frames.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.pcs().is_empty()
    }

    /// The program counter of each frame, absolute, and what it means; innermost first.
    ///
    /// Only the first can be [`PcKind::Interrupted`]: of a trap or a sample, not of a trap that host code raised.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub fn pcs(&self) -> Pcs<'_> {
        Pcs { left: self.0.pcs().iter(), next: self.0.kind(0) }
    }

    /// What each frame's code is called, innermost first; `None` for code that is not registered any more. See
    /// [`process::symbolize`].
    ///
    /// # Signal safety
    ///
    /// Not for handlers: dropping a symbol may unmap.
    #[cfg(feature = "image")]
    #[must_use]
    pub fn symbols(&self) -> impl ExactSizeIterator<Item = Option<Symbol>> + '_ {
        self.pcs().map(|(pc, kind)| process::symbolize(pc, kind))
    }

    /// Why there are no more frames.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub fn end(&self) -> BacktraceEnd {
        self.0.end
    }

    /// Removes all frames.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    pub fn clear(&mut self) {
        self.trace().restart(PcKind::ReturnAddress);
    }

    /// Collects the frames of an interrupted thread, for embedders who enter guest code in their own way.
    ///
    /// Guest code is what the process-wide registry knows ([`process::register`]);
    /// [`walk_in`](Self::walk_in), which this is otherwise, asks another one. The gate is entered once.
    ///
    /// O(d log n) for d frames and n registered ranges.
    ///
    /// # Safety
    ///
    /// As for [`walk_in`](Self::walk_in).
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[cfg(feature = "image")]
    #[cfg_attr(trapline_rtsan, sanitize(realtime = "nonblocking"))]
    pub unsafe fn walk(&mut self, registers: Registers, entry: usize) {
        // SAFETY: the caller's stack is readable.
        process::view(|view| unsafe { self.walk_in(view, registers, entry) });
    }

    /// Collects the frames of an interrupted thread in the code of any registry, seen through `view`.
    ///
    /// The frames replace what was in the buffer. `registers` are those of the interrupted context; `entry` is the end
    /// (exclusive) of the stack that belongs to the guest code: an address in the frame of the function that entered
    /// it. Frames in code that `view` finds are collected up to the first one that is in other code; if
    /// `registers.pc` itself is, there are no frames. Nothing outside `registers.sp..entry` is read.
    ///
    /// O(d log n) for d frames and n registered ranges.
    ///
    /// On targets that lay records out in another way (RISC-V keeps them below the frame pointer) the walk finds
    /// nothing beyond the first frame.
    ///
    /// # Safety
    ///
    /// `registers.sp..entry` is readable memory: the stack of a thread that does not run meanwhile, because the caller
    /// is its signal handler or has stopped it. An inverted or empty range is fine.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    ///
    /// # Examples
    ///
    /// A handler with a registry of its own, for the code that it interrupted:
    ///
    /// ```
    /// use trapline::{Backtrace, CodeRegistry, Registers};
    ///
    /// static FUNCTIONS: CodeRegistry<&str> = CodeRegistry::new();
    ///
    /// /// # Safety
    /// ///
    /// /// Called by a signal handler with the registers of the code that it interrupted, which runs on a stack that
    /// /// ends at `entry`.
    /// unsafe fn sample(registers: Registers, entry: usize) -> Backtrace<16> {
    ///     let mut backtrace = Backtrace::new();
    ///     // SAFETY: the interrupted thread's stack, from its stack pointer on.
    ///     FUNCTIONS.view(|view| unsafe { backtrace.walk_in(view, registers, entry) });
    ///     backtrace
    /// }
    /// # let _ = sample;
    /// ```
    #[cfg_attr(trapline_rtsan, sanitize(realtime = "nonblocking"))]
    pub unsafe fn walk_in<T>(&mut self, view: View<'_, T>, registers: Registers, entry: usize) {
        let trace = self.trace();
        trace.restart(PcKind::Interrupted);
        let is_code = |pc| view.get(pc).is_some();
        trace.end = if !is_code(registers.pc) {
            BacktraceEnd::HostFrame
        } else if !trace.push(registers.pc) {
            BacktraceEnd::Full
        } else {
            // SAFETY: the caller's stack is readable from its stack pointer to the entry.
            unsafe { walk::walk(registers.fp, registers.sp..entry, is_code, trace) }
        };
    }

    pub(crate) fn trace(&mut self) -> &mut Trace<[usize]> {
        &mut self.0
    }
}

impl<'b, const N: usize> IntoIterator for &'b Backtrace<N> {
    type Item = (usize, PcKind);
    type IntoIter = Pcs<'b>;

    fn into_iter(self) -> Pcs<'b> {
        self.pcs()
    }
}

/// The program counters of a [`Backtrace`], with what they mean; see [`Backtrace::pcs`].
#[derive(Clone, Debug)]
pub struct Pcs<'b> {
    left: slice::Iter<'b, usize>,
    /// The kind of the next one. All others are return addresses.
    next: PcKind,
}

impl Iterator for Pcs<'_> {
    type Item = (usize, PcKind);

    fn next(&mut self) -> Option<(usize, PcKind)> {
        let pc = *self.left.next()?;
        Some((pc, mem::replace(&mut self.next, PcKind::ReturnAddress)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl ExactSizeIterator for Pcs<'_> {}
impl FusedIterator for Pcs<'_> {}

impl<const N: usize> Default for Backtrace<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// A frame a line, with its address, and its name in code that the process-wide registry knows:
/// `#0 0x7f25e3a0000f demo!average + 0xf (source 0x20)`. The name and the offset are those of the instruction that the frame
/// is executing: of a return address, of its call's last byte. Not for handlers.
impl<const N: usize> fmt::Display for Backtrace<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (pc, kind)) in self.pcs().enumerate() {
            write!(f, "#{number} {pc:#x}")?;
            #[cfg(feature = "image")]
            if let Some(symbol) = process::symbolize(pc, kind) {
                write!(f, " {symbol}")?;
            }
            #[cfg(not(feature = "image"))]
            let _ = kind;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl<const N: usize> fmt::Debug for Backtrace<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backtrace")
            .field("pcs", &format_args!("{:x?}", self.0.pcs()))
            .field("end", &self.end())
            .finish()
    }
}
