//! The nodes of the published tree, and the search from root to range.
//!
//! The registry's sorted array of ranges is cut into nodes. A **leaf** holds ranges; an **inner** node holds children,
//! and for each the least address its ranges may start at. Both come in two shapes:
//!
//! | shape | keys | slots | when |
//! |---|---|---|---|
//! | narrow | 32-bit offsets from the node's base, inner ones shifted right | 63 (leaf), 64 (inner) | the usual one |
//! | wide | whole addresses | 40 (leaf), 48 (inner) | more than 4 GiB from first to last, births 2^32 apart |
//!
//! (With pointers of 32 bits a wide node has as many slots as a narrow one.) Both shapes of a node have one size, so that
//! memory of one serves the other.
//!
//! # Invariants
//!
//! - **N1** A published node is not changed, with two exceptions: the writer's [`Bookkeeping`], which readers never touch,
//!   and the length of a range (atomic), which a removal that finds no memory sets to zero.
//! - **N2** `len` is at least 1 and at most the shape's slots; keys ascend; narrow keys past `len` are
//!   [`PAD`](super::search::PAD). The slot of a narrow leaf that is never used has a range of no length.
//! - **N3** All ranges below child i start at or after key i and end at or before key i + 1. Key 0 counts as the
//!   smallest address. The children are nodes of the same tree.
//! - **N4** Who holds a root inside the gate, under a guard or as a snapshot may read every node below it. A [`NodeRef`]
//!   is that permission, and its lifetime says how long it lasts.
//! - **N5** All bytes of a node are initialised, also those of unused slots: a node may be read as what its shape says.

use super::search::{self, KEYS, MAX_OFFSET};
use crate::sync::unmodelled::{AtomicU32, AtomicUsize};
use crate::sync::{Liveness, Ordering};
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// Slots of a narrow leaf that are used: one less than there are keys, for what is not in the leaf's window to find.
pub(crate) const NARROW_RANGES: usize = KEYS - 1;
/// Slots of a wide leaf: as many as fit in the bytes of a narrow one, and there is a bit of [`Bookkeeping`] for.
pub(crate) const WIDE_RANGES: usize = fitting(size_of::<NarrowLeaf>(), size_of::<usize>() + size_of::<WideSlot>());
/// Slots of a wide inner node: as many as fit in the bytes of a narrow one.
pub(crate) const WIDE_CHILDREN: usize = fitting(size_of::<NarrowInner>(), 2 * size_of::<usize>());

/// How many slots fit in the bytes of a node.
const fn fitting(node: usize, slot: usize) -> usize {
    let slots = (node - size_of::<Node>()) / slot;
    if slots < KEYS { slots } else { KEYS }
}

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

/// What every node begins with.
#[repr(C, align(64))]
pub(crate) struct Node {
    /// Narrow: the address that offsets count from, where the window of a leaf begins.
    pub(crate) base: usize,
    /// Narrow leaf: the tick that births count from.
    pub(crate) birth_base: u64,
    shape: Shape,
    /// Narrow inner: the unit of the offsets is `1 << shift` bytes.
    pub(crate) shift: u8,
    /// How many levels of inner nodes there are from here on: 0 for a leaf.
    pub(crate) level: u8,
    pub(crate) len: u16,
    pub(crate) liveness: Liveness,
    pub(crate) bookkeeping: UnsafeCell<Bookkeeping>,
}

/// What the writer notes in a node. Readers never touch it; writers do under their lock, or once nobody else can.
pub(crate) struct Bookkeeping {
    /// The tick of the first snapshot that has this node or one of its removed ranges.
    pub(crate) birth: u64,
    /// Retired: the tick of the first snapshot without it.
    pub(crate) death: u64,
    /// The next node of the list this one is in.
    pub(crate) next: Option<NonNull<Node>>,
    /// A bit for each slot of a leaf whose range was removed: its payload is dropped when this node is freed.
    pub(crate) removed: u64,
}

impl Node {
    /// The head of a node without slots in use.
    #[inline(always)]
    pub(crate) fn blank(shape: Shape, birth: u64) -> Self {
        Self {
            base: 0,
            birth_base: 0,
            shape,
            shift: 0,
            level: 0,
            len: 0,
            liveness: Liveness::new(),
            bookkeeping: UnsafeCell::new(Bookkeeping { birth, death: 0, next: None, removed: 0 }),
        }
    }

    #[inline(always)]
    pub(crate) const fn shape(&self) -> Shape {
        self.shape
    }

    /// Describes slots as another head of the same shape does.
    pub(crate) fn copy(&mut self, other: &Self) {
        (self.base, self.birth_base) = (other.base, other.birth_base);
        (self.shift, self.level, self.len) = (other.shift, other.level, other.len);
    }
}

/// One of the four layouts.
///
/// # Safety
/// It is `repr(C)` and begins with a [`Node`]; every node of `SHAPE` has the memory of one; and whatever bytes are there
/// (N5) are valid values of its other fields.
pub(crate) unsafe trait Layout {
    const SHAPE: Shape;
}

/// All ranges lie in the 4 GiB from the base on.
#[repr(C)]
pub(crate) struct NarrowLeaf {
    pub(crate) node: Node,
    pub(crate) starts: [u32; KEYS],
    // Apart from the starts, which a search reads many of, and together, for it reads one of these: a single cache line.
    pub(crate) slots: [NarrowSlot; KEYS],
}

/// The rest of a range in a narrow leaf.
#[repr(C)]
pub(crate) struct NarrowSlot {
    // A whole pointer: in six bytes it would make a leaf 9.5% smaller, and each lookup 5% slower.
    pub(crate) code: *const (),
    /// Since the leaf's `birth_base`.
    pub(crate) birth: u32,
    pub(crate) len: AtomicU32,
}

#[repr(C)]
pub(crate) struct WideLeaf {
    pub(crate) node: Node,
    pub(crate) starts: [usize; WIDE_RANGES],
    pub(crate) slots: [WideSlot; WIDE_RANGES],
}

/// The rest of a range in a wide leaf.
#[repr(C)]
pub(crate) struct WideSlot {
    pub(crate) code: *const (),
    pub(crate) end: AtomicUsize,
    pub(crate) birth: u64,
}

#[repr(C)]
pub(crate) struct NarrowInner {
    pub(crate) node: Node,
    pub(crate) keys: [u32; KEYS],
    pub(crate) children: [*mut Node; KEYS],
}

#[repr(C)]
pub(crate) struct WideInner {
    pub(crate) node: Node,
    pub(crate) keys: [usize; WIDE_CHILDREN],
    pub(crate) children: [*mut Node; WIDE_CHILDREN],
}

// SAFETY: as `Layout` says: `repr(C)`, a head, and integers and pointers; pools allocate the larger of the two leaves.
unsafe impl Layout for NarrowLeaf {
    const SHAPE: Shape = Shape::NarrowLeaf;
}
// SAFETY: as `Layout` says: `repr(C)`, a head, and integers and pointers; pools allocate the larger of the two leaves.
unsafe impl Layout for WideLeaf {
    const SHAPE: Shape = Shape::WideLeaf;
}
// SAFETY: as `Layout` says: `repr(C)`, a head, and integers and pointers; pools allocate the larger of the two inner nodes.
unsafe impl Layout for NarrowInner {
    const SHAPE: Shape = Shape::NarrowInner;
}
// SAFETY: as `Layout` says: `repr(C)`, a head, and integers and pointers; pools allocate the larger of the two inner nodes.
unsafe impl Layout for WideInner {
    const SHAPE: Shape = Shape::WideInner;
}

/// A node that may be read for as long as `'t`, and so may what is below it (N4).
#[derive(Clone, Copy)]
pub(crate) struct NodeRef<'t> {
    node: NonNull<Node>,
    tree: PhantomData<&'t Node>,
}

impl<'t> NodeRef<'t> {
    /// `None` for null.
    ///
    /// # Safety
    /// `node` is null, or for `'t` the caller may read it and what is below it (N4).
    #[inline(always)]
    pub(crate) unsafe fn new(node: *const Node) -> Option<Self> {
        NonNull::new(node.cast_mut()).map(|node| Self { node, tree: PhantomData })
    }

    /// The pointer that it was made from: to the whole node.
    #[inline(always)]
    pub(crate) fn as_ptr(self) -> NonNull<Node> {
        self.node
    }

    /// What it begins with.
    #[inline(always)]
    pub(crate) fn head(self) -> &'t Node {
        // SAFETY: N4.
        unsafe { self.node.as_ref() }
    }

    /// The node as an `L`, if its shape is that of one.
    #[inline(always)]
    pub(crate) fn get<L: Layout>(self) -> Option<&'t L> {
        self.head().liveness.read();
        self.get_dead()
    }

    /// As [`get`](Self::get), but of a node that its owner has to itself, and that is dead to models.
    #[inline(always)]
    pub(crate) fn get_dead<L: Layout>(self) -> Option<&'t L> {
        // SAFETY: N4, and the shape says that it is an `L` (N5).
        (self.head().shape == L::SHAPE).then(|| unsafe { self.node.cast().as_ref() })
    }

    /// Finds the range that holds `pc`.
    ///
    /// Constant time per level, O(log n) levels. Async-signal-safe.
    #[inline(always)]
    pub(crate) fn find(self, pc: usize) -> Option<Entry> {
        let mut node = self;
        while let Some(inner) = node.get::<NarrowInner>() {
            node = inner.child_for(pc);
        }
        match node.get::<NarrowLeaf>() {
            Some(leaf) => leaf.entry(leaf.rank(pc)).holding(pc),
            None => node.find_below_wide(pc),
        }
    }

    /// The rest of [`find`](Self::find) from the first wide node on. Apart, so that the usual search is small where it is
    /// inlined.
    #[inline(never)]
    fn find_below_wide(self, pc: usize) -> Option<Entry> {
        let mut node = self;
        loop {
            if let Some(inner) = node.get::<WideInner>() {
                node = inner.child_for(pc);
            } else if let Some(inner) = node.get::<NarrowInner>() {
                node = inner.child_for(pc);
            } else if let Some(leaf) = node.get::<NarrowLeaf>() {
                return leaf.entry(leaf.rank(pc)).holding(pc);
            } else {
                let leaf = node.get::<WideLeaf>()?;
                return leaf.entry(leaf.rank(pc)).holding(pc);
            }
        }
    }
}

/// Finds the range that holds `pc` in the tree below a root; see [`NodeRef::find`].
///
/// # Safety
/// `root` is null, or the caller may read it and what is below it (N4).
#[inline(always)]
pub(crate) unsafe fn find(root: *const Node, pc: usize) -> Option<Entry> {
    // SAFETY: the caller's (N4).
    unsafe { NodeRef::new(root) }?.find(pc)
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
    /// The range in slot `i`, which is below [`KEYS`].
    #[inline(always)]
    pub(crate) fn entry(&self, i: usize) -> Entry {
        // The remainder changes no rank, and lets the compiler see that the index is in bounds.
        let (start, slot) = (self.start(i), &self.slots[i % KEYS]);
        Entry {
            start,
            // Relaxed: see `hide` in `registry::tree::leaf`.
            end: start.wrapping_add(slot.len.load(Ordering::Relaxed) as usize),
            birth: self.node.birth_base.wrapping_add(u64::from(slot.birth)),
            code: slot.code,
        }
    }

    /// Where the range in slot `i` starts, which is below [`KEYS`].
    #[inline(always)]
    pub(crate) fn start(&self, i: usize) -> usize {
        self.node.base.wrapping_add(self.starts[i % KEYS] as usize)
    }

    /// The last slot whose range starts at `pc` or before, or the first, if `pc` is in the window. Otherwise an arbitrary
    /// slot, which [`Entry::holding`] rejects: no range in the leaf holds such a `pc`.
    #[inline(always)]
    pub(crate) fn rank(&self, pc: usize) -> usize {
        search::rank(&self.starts, pc.wrapping_sub(self.node.base) as u32)
    }
}

impl WideLeaf {
    /// The range in slot `i`, which is below [`WIDE_RANGES`].
    #[inline(always)]
    pub(crate) fn entry(&self, i: usize) -> Entry {
        // The minimum changes no rank, and lets the compiler see that the index is in bounds.
        let i = i.min(WIDE_RANGES - 1);
        let slot = &self.slots[i];
        // Relaxed: see `hide` in `registry::tree::leaf`.
        let end = slot.end.load(Ordering::Relaxed);
        Entry { start: self.starts[i], end, birth: slot.birth, code: slot.code }
    }

    /// The last slot whose range starts at `pc` or before, or the first.
    #[inline(always)]
    pub(crate) fn rank(&self, pc: usize) -> usize {
        search::rank_wide(self.starts.get(..usize::from(self.node.len)).unwrap_or_default(), pc)
    }
}

impl NarrowInner {
    /// Which child's ranges `pc` belongs with.
    #[inline(always)]
    pub(crate) fn rank(&self, pc: usize) -> usize {
        let units = pc.saturating_sub(self.node.base) >> (self.node.shift & (usize::BITS as u8 - 1));
        let offset = units.min(MAX_OFFSET as usize) as u32;
        search::rank(&self.keys, offset)
    }

    #[inline(always)]
    fn child_for(&self, pc: usize) -> NodeRef<'_> {
        // SAFETY: the rank is below `len` (N2), so this is a child (N3), which may be read for as long as we are (N4).
        unsafe { child(self.children[self.rank(pc) % KEYS]) }
    }
}

impl WideInner {
    /// Which child's ranges `pc` belongs with.
    #[inline(always)]
    pub(crate) fn rank(&self, pc: usize) -> usize {
        search::rank_wide(self.keys.get(..usize::from(self.node.len)).unwrap_or_default(), pc)
    }

    #[inline(always)]
    fn child_for(&self, pc: usize) -> NodeRef<'_> {
        // SAFETY: the rank is below `len` (N2), so this is a child (N3), which may be read for as long as we are (N4).
        unsafe { child(self.children[self.rank(pc).min(WIDE_CHILDREN - 1)]) }
    }
}

/// # Safety
/// `node` is a child of a node that may be read for `'t` (N4).
#[inline(always)]
unsafe fn child<'t>(node: *mut Node) -> NodeRef<'t> {
    // SAFETY: the caller's; children are not null.
    NodeRef { node: unsafe { NonNull::new_unchecked(node) }, tree: PhantomData }
}
