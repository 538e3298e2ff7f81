//! A stack of one's own to run on, and ways between stacks.

use super::machine::{start, switch};
use std::cell::Cell;
use std::ffi::c_void;
use std::ops::Range;
use std::ptr;

const PAGE: usize = 4096;

type Body = Box<dyn FnOnce(&Fiber)>;

/// A fiber: it runs until it yields, and goes on from there. It lies on a stack with a guard of one page.
pub struct Fiber {
    mapping: *mut c_void,
    length: usize,
    fiber: Cell<usize>,
    resumer: Cell<usize>,
    body: Cell<Option<Body>>,
    ended: Cell<bool>,
}

/// Some whose mappings have this length in bytes, each right above the one before.
pub fn fibers<const N: usize>(length: usize) -> [Fiber; N] {
    let mapping = map(N * length);
    std::array::from_fn(|index| Fiber::at(mapping.wrapping_byte_add(index * length), length))
}

fn map(length: usize) -> *mut c_void {
    // SAFETY: a fresh mapping.
    let mapping = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    assert_ne!(mapping, libc::MAP_FAILED);
    mapping
}

impl Fiber {
    pub fn new(length: usize) -> Fiber {
        Fiber::at(map(length), length)
    }

    fn at(mapping: *mut c_void, length: usize) -> Fiber {
        // SAFETY: the lowest page of the caller's fresh mapping.
        assert_eq!(unsafe { libc::mprotect(mapping, PAGE, libc::PROT_NONE) }, 0);
        let (fiber, resumer, ended) = (Cell::new(0), Cell::new(0), Cell::new(false));
        Fiber { mapping, length, fiber, resumer, body: Cell::new(None), ended }
    }

    /// The addresses that can be used, and the size of the guard below.
    pub fn stack(&self) -> (Range<usize>, usize) {
        let start = self.mapping.addr();
        (start + PAGE..start + self.length, PAGE)
    }

    /// Begins `body` there, and returns when it yields or ends.
    pub fn start(&self, body: impl FnOnce(&Fiber) + 'static) {
        unsafe extern "C" fn run(this: *mut c_void) {
            // SAFETY: the fiber that `start` was called on.
            let this = unsafe { &*this.cast::<Fiber>() };
            (this.body.take().unwrap())(this);
            this.ended.set(true);
            this.pause();
        }
        self.body.set(Some(Box::new(body)));
        self.ended.set(false);
        let top = self.stack().0.end;
        // SAFETY: the stack is this fiber's and nothing runs on it; `run` does not return, since nobody resumes it then.
        unsafe { start(self.resumer.as_ptr(), top, run, ptr::from_ref(self).cast_mut().cast()) };
    }

    /// On the fiber: goes back to where it was started or resumed.
    pub fn pause(&self) {
        // SAFETY: saved by `start` or `resume`, which wait for this.
        unsafe { switch(self.fiber.as_ptr(), self.resumer.get()) };
    }

    /// Goes on with a fiber that has paused.
    pub fn resume(&self) {
        assert!(!self.ended.get());
        // SAFETY: saved by `pause`.
        unsafe { switch(self.resumer.as_ptr(), self.fiber.get()) };
    }

    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Takes the stack away, whatever is on it.
    pub fn unmap(&self) {
        // SAFETY: nothing runs there any more.
        assert_eq!(unsafe { libc::munmap(self.mapping, self.length) }, 0);
    }
}
