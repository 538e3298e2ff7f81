//! Node memory: the writer's own stock.
//!
//! Nodes come and go with every write, in two sizes. Keeping freed ones saves the allocator's time, and lets a writer
//! set aside what it will need *before* it changes anything: an edit takes from the stock only, so that it cannot run
//! out half-way, and a removal lives on what registrations set aside.

use crate::handler::node::{Book, NarrowInner, NarrowLeaf, Node, Shape, WideInner, WideLeaf};
use crate::sync::{self, NoMemory, Witness};
use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ptr;

/// How many nodes of a size are kept at most when memory is given back.
const KEPT: usize = 128;

/// The memory of every leaf, narrow or wide.
const LEAF: Layout = either(Layout::new::<NarrowLeaf>(), Layout::new::<WideLeaf>());
/// The memory of every inner node.
const INNER: Layout = either(Layout::new::<NarrowInner>(), Layout::new::<WideInner>());

const fn either(a: Layout, b: Layout) -> Layout {
    assert!(a.align() == b.align());
    if a.size() > b.size() { a } else { b }
}

/// Bytes that a node of this shape takes.
pub(crate) const fn bytes_of(shape: Shape) -> usize {
    if shape.is_leaf() { LEAF.size() } else { INNER.size() }
}

/// The writer's part of a node.
///
/// # Safety
/// `node` is alive, and the caller holds the writer lock or shares the node with nobody; no other reference to the
/// book is in use.
pub(crate) unsafe fn book<'n>(node: *mut Node) -> &'n mut Book {
    // SAFETY: the caller's; readers never touch the book (N1).
    unsafe { &mut *(*node).book.get() }
}

/// Nodes linked through their books, first in, first out.
pub(crate) struct List {
    first: *mut Node,
    last: *mut Node,
    len: usize,
    bytes: usize,
}

// SAFETY: the nodes of a list belong to whoever owns the list.
unsafe impl Send for List {}

impl List {
    pub(crate) const fn new() -> Self {
        Self { first: ptr::null_mut(), last: ptr::null_mut(), len: 0, bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What the nodes take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The node to be popped next.
    pub(crate) fn first(&self) -> *mut Node {
        self.first
    }

    /// The node that was pushed last.
    pub(crate) fn last(&self) -> *mut Node {
        self.last
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = *mut Node> {
        let next = |node: *mut Node| {
            // SAFETY: the nodes of the list are the list's.
            (!node.is_null()).then(|| (node, unsafe { book(node).next }))
        };
        core::iter::successors(next(self.first), move |(_, after)| next(*after)).map(|(node, _)| node)
    }

    /// # Safety
    /// The book of `node` is the caller's to change, and `node` is in no other list.
    pub(crate) unsafe fn push(&mut self, node: *mut Node) {
        // SAFETY: the caller's; the nodes of the list are the list's.
        unsafe {
            book(node).next = ptr::null_mut();
            self.bytes += bytes_of((*node).shape);
            if self.last.is_null() {
                self.first = node;
            } else {
                book(self.last).next = node;
            }
        }
        self.last = node;
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<*mut Node> {
        if self.first.is_null() {
            return None;
        }
        let node = self.first;
        // SAFETY: the nodes of the list are the list's.
        unsafe {
            self.first = book(node).next;
            self.bytes -= bytes_of((*node).shape);
        }
        if self.first.is_null() {
            self.last = ptr::null_mut();
        }
        self.len -= 1;
        Some(node)
    }

    /// Moves all of `other` behind what is here.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if other.first.is_null() {
            return;
        }
        if self.last.is_null() {
            self.first = other.first;
        } else {
            // SAFETY: the nodes of the list are the list's.
            unsafe { book(self.last).next = other.first };
        }
        self.last = other.last;
        self.len += other.len;
        self.bytes += other.bytes;
        *other = Self::new();
    }
}

/// Unused nodes of one size, last in, first out: the one that is taken next is the likeliest to be in a near cache.
struct Stack {
    first: *mut Node,
    len: usize,
    layout: Layout,
}

// SAFETY: the nodes of a stack belong to whoever owns the stack.
unsafe impl Send for Stack {}

impl Stack {
    const fn new(layout: Layout) -> Self {
        Self { first: ptr::null_mut(), len: 0, layout }
    }

    /// # Safety
    /// The node is of our layout, and is the caller's alone to give.
    unsafe fn push(&mut self, node: *mut Node) {
        // SAFETY: the caller's.
        unsafe { book(node).next = self.first };
        self.first = node;
        self.len += 1;
    }

    fn pop(&mut self) -> Option<*mut Node> {
        if self.first.is_null() {
            return None;
        }
        let node = self.first;
        // SAFETY: the nodes of the stack are the stack's.
        self.first = unsafe { book(node).next };
        self.len -= 1;
        Some(node)
    }

    /// Allocates until there are so many.
    #[cold]
    fn fill(&mut self, wanted: usize, shape: Shape) -> Result<(), NoMemory> {
        while self.len < wanted {
            // SAFETY: the layout has a size; zeroes are valid in every slot, and the head is written.
            unsafe {
                let node = alloc_zeroed(self.layout).cast::<Node>();
                if node.is_null() {
                    return Err(NoMemory::of(self.layout));
                }
                node.write(blank(shape, 0));
                self.push(node);
            }
        }
        Ok(())
    }
}

/// The stock. Unused memory: nobody else has a pointer to it.
pub(crate) struct Pool {
    leaves: Stack,
    inners: Stack,
    /// Bytes of the nodes that were taken and not put back.
    taken: usize,
    /// What the last stocking allows to take: an edit that takes more would run out some day. Checked in debug builds.
    allowed: [usize; 2],
}

impl Pool {
    pub(crate) const fn new() -> Self {
        Self { leaves: Stack::new(LEAF), inners: Stack::new(INNER), taken: 0, allowed: [0; 2] }
    }

    /// Sets aside at least so many nodes.
    #[inline]
    pub(crate) fn stock(&mut self, leaves: usize, inners: usize) -> Result<(), NoMemory> {
        if cfg!(debug_assertions) {
            self.allowed = [leaves, inners];
        }
        if self.leaves.len < leaves {
            self.leaves.fill(leaves, Shape::NarrowLeaf)?;
        }
        if self.inners.len < inners {
            self.inners.fill(inners, Shape::NarrowInner)?;
        }
        Ok(())
    }

    /// Memory for a node of this shape, born at `tick`, its head blank otherwise.
    ///
    /// # Panics
    /// If the caller did not [`stock`](Self::stock) it.
    #[inline]
    pub(crate) fn take(&mut self, shape: Shape, tick: u64) -> *mut Node {
        let node = self.take_unwritten(shape);
        // SAFETY: stocked nodes are nobody else's.
        unsafe { node.write(blank(shape, tick)) };
        node
    }

    /// As [`take`](Self::take), but the caller has to write the whole head.
    #[inline]
    pub(crate) fn take_unwritten(&mut self, shape: Shape) -> *mut Node {
        let stack = if shape.is_leaf() { &mut self.leaves } else { &mut self.inners };
        let node = stack.pop().expect("an edit takes no more nodes than were set aside for it");
        if cfg!(debug_assertions) {
            let allowed = &mut self.allowed[usize::from(!shape.is_leaf())];
            debug_assert!(*allowed > 0, "an edit took more nodes than it set aside");
            *allowed = allowed.saturating_sub(1);
        }
        self.taken += bytes_of(shape);
        node
    }

    /// Takes a node back.
    ///
    /// # Safety
    /// The node came from a pool, nobody else has a pointer to it that is still used, and it owns no payload.
    pub(crate) unsafe fn put(&mut self, node: *mut Node) {
        // SAFETY: the caller's.
        unsafe {
            self.taken -= bytes_of((*node).shape);
            (*node).witness.free();
            // A model must not mistake a node's next life for its last one.
            if sync::bury(node, free) {
                return;
            }
            let stack = if (*node).shape.is_leaf() { &mut self.leaves } else { &mut self.inners };
            stack.push(node);
        }
    }

    /// A node that is more than worth keeping, for the caller to [`free`].
    pub(crate) fn surplus(&mut self) -> Option<*mut Node> {
        let stack = if self.leaves.len > KEPT { &mut self.leaves } else { &mut self.inners };
        if stack.len > KEPT { stack.pop() } else { None }
    }

    /// Bytes of memory set aside.
    pub(crate) fn bytes(&self) -> usize {
        self.leaves.len * LEAF.size() + self.inners.len * INNER.size()
    }

    /// Bytes of the nodes in use, live or retired.
    pub(crate) fn bytes_taken(&self) -> usize {
        self.taken
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        while let Some(node) = self.leaves.pop().or_else(|| self.inners.pop()) {
            // SAFETY: stocked nodes are nobody else's.
            unsafe { free(node) };
        }
    }
}

/// Gives a node's memory back to the allocator.
///
/// # Safety
/// As [`Pool::put`].
pub(crate) unsafe fn free(node: *mut Node) {
    // SAFETY: the caller's; the shape tells which of the two layouts it was allocated with.
    unsafe {
        let layout = if (*node).shape.is_leaf() { LEAF } else { INNER };
        ptr::drop_in_place(&raw mut (*node).witness);
        dealloc(node.cast(), layout);
    }
}

/// The head of a node born at that tick.
#[inline(always)]
pub(crate) fn blank(shape: Shape, birth: u64) -> Node {
    Node {
        base: 0,
        birth_base: 0,
        shape,
        shift: 0,
        level: 0,
        len: 0,
        witness: Witness::new(),
        book: UnsafeCell::new(Book { birth, death: 0, next: ptr::null_mut(), doomed: 0 }),
    }
}
