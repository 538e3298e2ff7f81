//! In place of `pages` and `leftover` where there is no `mmap`: anonymous pages only, executable or not as a whole.

use std::fs::File;
use std::io;
use std::mem;
use std::ops::Range;

use memmap2::{Mmap, MmapMut};

use crate::allocate::OutOfMemory;

pub(crate) struct Slot;

impl Slot {
    pub(crate) fn new() -> Result<Slot, OutOfMemory> {
        Ok(Slot)
    }
}

pub(super) enum Pages {
    Writable(MmapMut),
    Executable(Mmap),
    /// An attempt to change the rights failed.
    Gone,
}

#[derive(Clone, Copy)]
pub(super) enum Rights {
    Write,
    Execute,
}

impl Pages {
    pub(super) fn anonymous(len: usize, _: Slot) -> io::Result<Self> {
        MmapMut::map_anon(len).map(Pages::Writable)
    }

    pub(super) unsafe fn of_file(_: &File, _: u64, _: usize, _: Slot) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        match self {
            Pages::Writable(map) => map.as_ptr().cast_mut(),
            Pages::Executable(map) => map.as_ptr().cast_mut(),
            Pages::Gone => std::ptr::dangling_mut(),
        }
    }

    pub(super) unsafe fn bytes(&self, len: usize) -> &[u8] {
        match self {
            Pages::Writable(map) => &map[..len],
            Pages::Executable(map) => &map[..len],
            Pages::Gone => &[],
        }
    }

    pub(super) unsafe fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        match self {
            Pages::Writable(map) => &mut map[..len],
            _ => &mut [],
        }
    }

    pub(super) unsafe fn execute(&mut self) -> io::Result<()> {
        if let Pages::Writable(map) = mem::replace(self, Pages::Gone) {
            *self = Pages::Executable(map.make_exec()?);
        }
        Ok(())
    }

    /// Private copies of code are not implemented here.
    pub(super) unsafe fn protect(&self, _: Range<usize>, _: Rights) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) unsafe fn execute_file(&mut self, _: &File, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn detach(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

pub(super) fn page_size() -> Option<usize> {
    None
}
