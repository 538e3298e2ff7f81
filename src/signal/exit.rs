//! Where guest code left for the host.

use std::cell::Cell;
use std::fmt;

/// Where generated code notes the frame that it calls the host from, so that backtraces can go on beyond the host.
///
/// Nothing is known about the frames of host code between two calls of [`catch_trap_with`](super::catch_trap_with).
/// So guest code that calls out writes two words first, or a trampoline does that it calls through:
///
/// | offset | word |
/// |---|---|
/// | 0 | the frame pointer of the frame that calls out: the address of its record |
/// | 8 | a return address in the same function: where it goes on after the call |
///
/// The cell is given to `catch_trap_with` with [`Entry::exit`](super::Entry::exit). One may serve all calls of a
/// thread: each empties it at its start and puts back at its end what it held.
///
/// It is read when a nested call begins, and by [`raise`](super::raise). At these moments it must hold the call that
/// led there, or nothing: generated code either writes it at every call that may lead there, or host code
/// [clears](Self::clear) it afterwards. One that is out of date, or garbage, makes a wrong backtrace or a short one:
/// it is checked as the frame pointers themselves are, and makes nothing be read outside of the thread's stack.
///
/// Two plain words, no atomics: generated code writes them and ordinary code reads them, on one thread, and one is a
/// call away from the other. Handlers never read the cell. They see what a nested call copied when it began.
#[repr(C)]
pub struct Exit {
    fp: Cell<usize>,
    pc: Cell<usize>,
}

/// What an [`Exit`] holds, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExitFrame {
    pub(super) fp: usize,
    pub(super) pc: usize,
}

impl Exit {
    /// An exit that holds no frame.
    #[must_use]
    pub const fn new() -> Self {
        Exit { fp: Cell::new(0), pc: Cell::new(0) }
    }

    /// The frame pointer; 0 if nothing is noted.
    #[must_use]
    pub fn fp(&self) -> usize {
        self.fp.get()
    }

    /// The return address; 0 if nothing is noted.
    #[must_use]
    pub fn pc(&self) -> usize {
        self.pc.get()
    }

    /// Notes a frame, as generated code does.
    pub fn set(&self, fp: usize, pc: usize) {
        self.fp.set(fp);
        self.pc.set(pc);
    }

    /// Forgets what was noted.
    pub fn clear(&self) {
        self.set(0, 0);
    }

    pub(super) fn frame(&self) -> Option<ExitFrame> {
        (self.fp() != 0).then(|| ExitFrame { fp: self.fp(), pc: self.pc() })
    }
}

impl Default for Exit {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exit(fp {:#x}, pc {:#x})", self.fp(), self.pc())
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;
    use std::mem::offset_of;

    #[test]
    fn generated_code_finds_the_words_where_it_was_told() {
        assert_eq!((offset_of!(Exit, fp), offset_of!(Exit, pc), size_of::<Exit>()), (0, 8, 16));
    }
}
