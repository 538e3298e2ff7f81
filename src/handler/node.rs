//! The nodes of the published tree, and the search from root to range.
//!
//! The registry's sorted array of ranges is cut into nodes. A **leaf** holds ranges; an **inner** node holds children,
//! and for each the least address its ranges may start at. Both come in two shapes:
//!
//! | shape | keys | slots | when |
//! |---|---|---|---|
//! | narrow | 32-bit offsets from the node's base, inner ones shifted right | 63 (leaf), 64 (inner) | the usual one |
//! | wide | whole addresses | 36 (leaf), 48 (inner) | more than 4 GiB from first to last, births 2^32 apart, payloads above 2^48 |
//!
//! Both shapes of a node have one size, so that memory of one serves the other.
//!
//! # Invariants
//!
//! - **N1** A published node is not changed, with two exceptions: the writer's [`Book`], which readers never touch, and
//!   the length of a range (atomic), which a removal that finds no memory sets to zero.
//! - **N2** `len` is at least 1 and at most the shape's slots; keys ascend; narrow keys past `len` are
//!   [`PAD`](super::search::PAD). The slot of a narrow leaf that is never used has a range of no length.
//! - **N3** All ranges below child i start at or after key i and end at or before key i + 1. Key 0 counts as the
//!   smallest address.
//! - **N4** Who holds a root inside the gate, under a guard or as a snapshot may read every node below it.

use super::search::{self, KEYS, MAX_OFFSET};
use crate::sync::unmodelled::{AtomicU32, AtomicUsize};
use crate::sync::{Ordering, Witness};
use core::cell::UnsafeCell;
use core::ptr;

/// Slots of a narrow leaf that are used: one less than there are keys, for what is not in the leaf's window to find.
pub(crate) const NARROW_RANGES: usize = KEYS - 1;
/// Slots of a wide leaf: as many as fit in the bytes of a narrow one.
pub(crate) const WIDE_RANGES: usize = 36;
/// Slots of a wide inner node.
pub(crate) const WIDE_CHILDREN: usize = 48;

/// Which of the four layouts follows a [`Node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Shape {
    NarrowLeaf,
    WideLeaf,
    NarrowInner,
    WideInner,
}

impl Shape {
    #[inline(always)]
    pub(crate) const fn is_leaf(self) -> bool {
        matches!(self, Self::NarrowLeaf | Self::WideLeaf)
    }
}

/// What every node begins with. A pointer to it stands for the whole node.
#[repr(C, align(64))]
pub(crate) struct Node {
    /// Narrow: the address that offsets count from; in a leaf, whose offsets are signed, the middle of its window.
    pub(crate) base: usize,
    /// Narrow leaf: the tick that births count from.
    pub(crate) birth_base: u64,
    pub(crate) shape: Shape,
    /// Narrow inner: the unit of the offsets is `1 << shift` bytes.
    pub(crate) shift: u8,
    /// How many levels of inner nodes there are from here on: 0 for a leaf.
    pub(crate) level: u8,
    pub(crate) len: u16,
    pub(crate) witness: Witness,
    pub(crate) book: UnsafeCell<Book>,
}

/// What the writer notes in a node. Readers never touch it; writers do under their lock, or once nobody else can.
pub(crate) struct Book {
    /// The tick of the first snapshot that has this node or one of its doomed ranges.
    pub(crate) birth: u64,
    /// Retired: the tick of the first snapshot without it.
    pub(crate) death: u64,
    /// The next node of the list this one is in.
    pub(crate) next: *mut Node,
    /// A bit for each slot of a leaf whose payload is dropped when this node is freed.
    pub(crate) doomed: u64,
}

/// All ranges lie in the 4 GiB around the base.
#[repr(C)]
pub(crate) struct NarrowLeaf {
    pub(crate) node: Node,
    pub(crate) starts: [i32; KEYS],
    pub(crate) lens: [AtomicU32; KEYS],
    pub(crate) births: [u32; KEYS],
    pub(crate) codes: [Code; KEYS],
}

/// The address of a payload, in the 48 bits that the page tables of today's machines map unless they are asked for
/// more.
///
/// (A leak checker that looks for whole, aligned pointers in memory does not see these.)
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Code([u16; 3]);

impl Code {
    /// None if the address has more bits.
    #[inline(always)]
    pub(crate) fn new(code: *const ()) -> Option<Self> {
        // The payload is found again from its address alone.
        let code = code.expose_provenance() as u64;
        let word = |i: u32| (code >> (16 * i)) as u16;
        (word(3) == 0).then_some(Self([word(0), word(1), word(2)]))
    }

    /// The code behind a pointer to it.
    ///
    /// Three aligned loads: a handler may run with the interrupted code's alignment checks (EFLAGS.AC) on.
    ///
    /// # Safety
    /// The code can be read.
    #[inline(always)]
    unsafe fn read(code: *const Self) -> *const () {
        // SAFETY: the caller's. Volatile, or the compiler makes one load of them.
        let word = |i: usize| u64::from(unsafe { code.cast::<u16>().add(i).read_volatile() });
        ptr::with_exposed_provenance((word(0) | word(1) << 16 | word(2) << 32) as usize)
    }
}

#[repr(C)]
pub(crate) struct WideLeaf {
    pub(crate) node: Node,
    pub(crate) starts: [usize; WIDE_RANGES],
    pub(crate) ends: [AtomicUsize; WIDE_RANGES],
    pub(crate) births: [u64; WIDE_RANGES],
    pub(crate) codes: [*const (); WIDE_RANGES],
}

#[repr(C)]
pub(crate) struct NarrowInner {
    pub(crate) node: Node,
    pub(crate) keys: [i32; KEYS],
    pub(crate) children: [*mut Node; KEYS],
}

#[repr(C)]
pub(crate) struct WideInner {
    pub(crate) node: Node,
    pub(crate) keys: [usize; WIDE_CHILDREN],
    pub(crate) children: [*mut Node; WIDE_CHILDREN],
}

/// One registered range, as read from a leaf.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) start: usize,
    /// Exclusive. Equal to `start` once hidden.
    pub(crate) end: usize,
    /// The tick that published it.
    pub(crate) birth: u64,
    /// The payload: a pointer from `Arc::into_raw`.
    pub(crate) code: *const (),
}

impl Entry {
    /// The entry, if `pc` is in its range.
    #[inline(always)]
    fn holding(self, pc: usize) -> Option<Self> {
        (pc.wrapping_sub(self.start) < self.end.wrapping_sub(self.start)).then_some(self)
    }
}

impl NarrowLeaf {
    /// # Safety
    /// `i` is below the slots of the node.
    #[inline(always)]
    pub(crate) unsafe fn entry(&self, i: usize) -> Entry {
        // SAFETY: the caller's.
        unsafe {
            let start = self.start(i);
            Entry {
                start,
                // Relaxed: see `hide` in `registry::tree::leaf`.
                end: start.wrapping_add(self.lens.get_unchecked(i).load(Ordering::Relaxed) as usize),
                birth: self.node.birth_base.wrapping_add(u64::from(*self.births.get_unchecked(i))),
                code: Code::read(self.codes.as_ptr().add(i)),
            }
        }
    }

    /// # Safety
    /// `i` is below the slots of the node.
    #[inline(always)]
    pub(crate) unsafe fn start(&self, i: usize) -> usize {
        // SAFETY: the caller's.
        self.node.base.wrapping_add(unsafe { *self.starts.get_unchecked(i) } as usize)
    }

    /// The last slot whose range starts at `pc` or before, or the first, if `pc` is in the window. If it is not, any
    /// slot that is used, or the last one, whose range has no length: no range in the leaf holds such a `pc`.
    #[inline(always)]
    pub(crate) fn rank(&self, pc: usize) -> usize {
        search::rank(&self.starts, pc.wrapping_sub(self.node.base) as i32)
    }
}

impl WideLeaf {
    /// # Safety
    /// `i` is below the slots of the node.
    #[inline(always)]
    pub(crate) unsafe fn entry(&self, i: usize) -> Entry {
        // SAFETY: the caller's.
        unsafe {
            Entry {
                start: *self.starts.get_unchecked(i),
                // Relaxed: see `hide` in `registry::tree::leaf`.
                end: self.ends.get_unchecked(i).load(Ordering::Relaxed),
                birth: *self.births.get_unchecked(i),
                code: *self.codes.get_unchecked(i),
            }
        }
    }

    #[inline(always)]
    pub(crate) fn rank(&self, pc: usize) -> usize {
        search::rank_wide(self.starts.get(..self.node.len as usize).unwrap_or_default(), pc)
    }
}

impl NarrowInner {
    #[inline(always)]
    pub(crate) fn rank(&self, pc: usize) -> usize {
        let units = pc.saturating_sub(self.node.base) >> (self.node.shift & (usize::BITS as u8 - 1));
        let offset = units.min(MAX_OFFSET as usize) as u32;
        search::rank(&self.keys, search::key(offset))
    }
}

impl WideInner {
    #[inline(always)]
    pub(crate) fn rank(&self, pc: usize) -> usize {
        search::rank_wide(self.keys.get(..self.node.len as usize).unwrap_or_default(), pc)
    }
}

/// Finds the range that holds `pc`.
///
/// Constant time per level, O(log n) levels. Async-signal-safe.
///
/// # Safety
/// `root` is null, or the caller may read it and what is below it (N4).
#[inline(always)]
pub(crate) unsafe fn find(root: *const Node, pc: usize) -> Option<Entry> {
    if root.is_null() {
        return None;
    }
    let mut node = root;
    // SAFETY: N4 for every node on the way; the shape says which layout it has; ranks are below `len` (N2).
    unsafe {
        while (*node).shape == Shape::NarrowInner {
            (*node).witness.read();
            let inner = &*node.cast::<NarrowInner>();
            node = *inner.children.get_unchecked(inner.rank(pc));
        }
        if (*node).shape == Shape::NarrowLeaf {
            (*node).witness.read();
            let leaf = &*node.cast::<NarrowLeaf>();
            leaf.entry(leaf.rank(pc)).holding(pc)
        } else {
            find_in_any(node, pc)
        }
    }
}

/// The rest of [`find`] from the first wide node on. Apart, so that the usual search is small where it is inlined.
///
/// # Safety
/// The caller may read `node` and what is below it (N4).
#[inline(never)]
unsafe fn find_in_any(mut node: *const Node, pc: usize) -> Option<Entry> {
    // SAFETY: as in `find`.
    unsafe {
        loop {
            (*node).witness.read();
            match (*node).shape {
                Shape::NarrowInner => {
                    let inner = &*node.cast::<NarrowInner>();
                    node = *inner.children.get_unchecked(inner.rank(pc));
                }
                Shape::WideInner => {
                    let inner = &*node.cast::<WideInner>();
                    node = *inner.children.get_unchecked(inner.rank(pc));
                }
                Shape::NarrowLeaf => {
                    let leaf = &*node.cast::<NarrowLeaf>();
                    return leaf.entry(leaf.rank(pc)).holding(pc);
                }
                Shape::WideLeaf => {
                    let leaf = &*node.cast::<WideLeaf>();
                    return leaf.entry(leaf.rank(pc)).holding(pc);
                }
            }
        }
    }
}
