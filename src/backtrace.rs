//! Backtraces: who called the guest code that trapped or was sampled.

use crate::handler::walk::{self, BacktraceEnd, PcKind, Registers, Trace};
use crate::process;
use core::fmt;

/// The program counters of guest frames, innermost first, at most `N` of them.
///
/// A fixed buffer that a signal handler fills: for a trap (`signal::catch_trap_with`), for a profiler's sample
/// (`signal::sample`), or for embedders who enter guest code in their own way ([`walk`](Self::walk)). It has
/// addresses only. Resolve them afterwards, in ordinary code, and as long as that code is registered.
///
/// Frames are found by following frame pointers: generated code must keep them (Cranelift's
/// `preserve_frame_pointers`), as `rbp` or `x29` pointing at two words, the caller's frame pointer and the return
/// address. Code that does not keep them hides frames, and cannot do more harm than that. A function that is
/// interrupted while it sets its frame up, or after it took it down, hides its caller.
///
/// It is large, and therefore not `Copy`.
///
/// # Examples
///
/// ```
/// use trapline::{Backtrace, BacktraceEnd, process};
///
/// fn print<const N: usize>(backtrace: &Backtrace<N>) {
///     for (pc, kind) in backtrace.pcs() {
///         let offset = process::with(kind.instruction(pc), |found| found.offset());
///         println!("{pc:#x} ({kind:?}), text offset {offset:x?}");
///     }
///     println!("then {:?}", backtrace.end());
/// }
///
/// let backtrace: Backtrace = Backtrace::new();
/// assert!(backtrace.is_empty());
/// assert_eq!(backtrace.end(), BacktraceEnd::NotTaken);
/// print(&backtrace);
/// ```
#[derive(Clone)]
pub struct Backtrace<const N: usize = 64>(Trace<[usize; N]>);

impl<const N: usize> Backtrace<N> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Backtrace(Trace::new())
    }

    /// How many frames it has.
    ///
    /// # Signal safety
    ///
    /// Safe, as are all methods.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.pcs().len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.pcs().is_empty()
    }

    /// The program counter of each frame, absolute, and what it means; innermost first.
    ///
    /// Only the first can be [`PcKind::Interrupted`]: of a trap or a sample, not of a trap that host code raised.
    pub fn pcs(&self) -> impl ExactSizeIterator<Item = (usize, PcKind)> + '_ {
        self.0.pcs().iter().enumerate().map(|(index, pc)| (*pc, self.0.kind(index)))
    }

    /// Why there are no more frames.
    #[must_use]
    pub fn end(&self) -> BacktraceEnd {
        self.0.end
    }

    /// Makes it empty again.
    pub fn clear(&mut self) {
        self.trace().restart(PcKind::ReturnAddress);
    }

    /// Collects the frames of an interrupted thread, for embedders who enter guest code in their own way.
    ///
    /// What was in the buffer is replaced. `frame` is what the interrupted context says; `entry` is the end
    /// (exclusive) of the stack that belongs to the guest code: an address in the frame of the function that entered
    /// it. A frame is collected if it is registered code ([`process::register`](crate::process::register)); at the first that
    /// is not the walk ends, and if `frame` itself is not, there are none. Nothing outside `frame.sp..entry` is read.
    ///
    /// O(d log n) for d frames and n registered ranges. The gate is entered once.
    ///
    /// On targets that lay records out in another way (RISC-V keeps them below the frame pointer) the walk finds
    /// nothing beyond the first frame.
    ///
    /// # Safety
    ///
    /// `frame.sp..entry` is readable memory: the stack of a thread that does not run meanwhile, because the caller is
    /// its signal handler or has stopped it. An inverted or empty range is fine.
    ///
    /// # Signal safety
    ///
    /// Safe: no lock, no allocation, no system call, no thread-local, no panic.
    #[cfg_attr(trapline_rtsan, sanitize(realtime = "nonblocking"))]
    pub unsafe fn walk(&mut self, frame: Registers, entry: usize) {
        let trace = self.trace();
        trace.restart(PcKind::Interrupted);
        trace.end = process::view(|view| {
            let is_code = |pc| view.get(pc).is_some();
            if !is_code(frame.pc) {
                return BacktraceEnd::HostFrame;
            }
            if !trace.push(frame.pc) {
                return BacktraceEnd::Full;
            }
            // SAFETY: the caller's.
            unsafe { walk::walk(frame.fp, frame.sp..entry, is_code, trace) }
        });
    }

    pub(crate) fn trace(&mut self) -> &mut Trace<[usize]> {
        &mut self.0
    }
}

impl<const N: usize> Default for Backtrace<N> {
    fn default() -> Self {
        Self::new()
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
