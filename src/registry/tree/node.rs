//! The writer's handles of nodes: the one place in which it dereferences them.
//!
//! | handle | is | may be |
//! |---|---|---|
//! | [`NodeRef`] | a node that its holder may read (N4) | read |
//! | [`Link`] | a node of the tree that is being edited | read, and its bookkeeping changed, by way of the [`Tree`] |
//! | [`Tree::own`] | a node born this tick | written |
//! | [`Retired`] | a node that is in no tree any more, and may still be read | put on a list |
//! | [`FreeNode`] | a node that nobody reads | used again, given back |
//!
//! # Invariants
//!
//! - **W1** While a [`Tree`] lives, its caller holds the writer lock, so nobody else changes or frees a node of it, and no
//!   memory of its pool goes back to the allocator. So every link stays readable (N5) for as long as the tree lives,
//!   discarded nodes included: those are only ever used as nodes again.
//! - **W2** Nodes born at the tick of a [`Tree`] were made by it: no reader has ever seen them.
//! - **W3** A node's bookkeeping belongs to the holder of the writer lock while the node is in the tree, and then to the
//!   owner of its [`Retired`] or [`FreeNode`].

use super::inner::InnerRef;
use super::leaf::LeafRef;
use super::list::List;
use super::pool::{Pool, bytes_of};
use crate::handler::node::{Bookkeeping, Layout, NarrowInner, NarrowLeaf, Node, NodeRef, Shape, WideInner, WideLeaf};
use crate::sync::NoMemory;
use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout as Memory;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ptr::{self, NonNull};

/// What a node is, checked once.
pub(super) enum Kind<'t> {
    Leaf(LeafRef<'t>),
    Inner(InnerRef<'t>),
}

impl<'t> NodeRef<'t> {
    #[inline]
    pub(super) fn kind(self) -> Kind<'t> {
        if let Some(leaf) = self.get::<NarrowLeaf>() {
            Kind::Leaf(LeafRef::Narrow(leaf))
        } else if let Some(inner) = self.get::<NarrowInner>() {
            Kind::Inner(InnerRef::Narrow(inner))
        } else if let Some(leaf) = self.get::<WideLeaf>() {
            Kind::Leaf(LeafRef::Wide(leaf))
        } else {
            Kind::Inner(InnerRef::Wide(self.get::<WideInner>().expect("there are four shapes")))
        }
    }
}

impl NarrowInner {
    /// Child `i`.
    ///
    /// # Panics
    /// If there is no such child.
    #[inline]
    pub(super) fn child(&self, i: usize) -> NodeRef<'_> {
        let children = &self.children[..usize::from(self.node.len)];
        // SAFETY: a child (N3) of a node that may be read for as long as `self` (N4).
        unsafe { NodeRef::new(children[i]) }.expect("children are not null")
    }
}

impl WideInner {
    /// Child `i`.
    ///
    /// # Panics
    /// If there is no such child.
    #[inline]
    pub(super) fn child(&self, i: usize) -> NodeRef<'_> {
        let children = &self.children[..usize::from(self.node.len)];
        // SAFETY: a child (N3) of a node that may be read for as long as `self` (N4).
        unsafe { NodeRef::new(children[i]) }.expect("children are not null")
    }
}

/// A node of the tree that is edited, for as long as the edit.
#[derive(Clone, Copy)]
pub(super) struct Link<'w> {
    node: NonNull<Node>,
    tree: PhantomData<&'w Node>,
}

impl Link<'_> {
    /// What a parent notes of its child.
    pub(super) fn as_ptr(self) -> *mut Node {
        self.node.as_ptr()
    }
}

/// A tree in the making: nodes that were published, and new ones.
pub(super) struct Tree<'w> {
    pool: &'w mut Pool,
    root: Option<Link<'w>>,
    tick: u64,
    /// What the new tree no longer has.
    retired: &'w mut List,
}

impl<'w> Tree<'w> {
    /// Starts from the tree `root`, towards the one of `tick`. What that no longer has goes on an empty list.
    ///
    /// # Safety
    /// While the tree lives, the caller holds the writer lock of the registry that `root` and `pool` belong to and frees
    /// no node of it (W1). No node of it was born at `tick` (W2).
    #[inline]
    pub(super) unsafe fn new(pool: &'w mut Pool, retired: &'w mut List, root: *mut Node, tick: u64) -> Self {
        let root = NonNull::new(root).map(|node| Link { node, tree: PhantomData });
        Self { pool, root, tick, retired }
    }

    #[inline]
    pub(super) fn root(&self) -> Option<Link<'w>> {
        self.root
    }

    #[inline]
    pub(super) fn set_root(&mut self, root: Option<Link<'w>>) {
        self.root = root;
    }

    /// Sets nodes aside, for [`make`](Self::make).
    #[inline]
    pub(super) fn reserve(&mut self, leaves: usize, inners: usize) -> Result<(), NoMemory> {
        self.pool.reserve(leaves, inners)
    }

    /// A node, to be read. The tree cannot change meanwhile.
    #[inline]
    pub(super) fn get(&self, link: Link<'w>) -> NodeRef<'_> {
        // SAFETY: readable for as long as we live (W1), and the borrow keeps new nodes as they are. Not null.
        unsafe { NodeRef::new(link.as_ptr()).unwrap_unchecked() }
    }

    /// # Panics
    /// If it is an inner node.
    #[inline]
    pub(super) fn leaf(&self, link: Link<'w>) -> LeafRef<'_> {
        match self.get(link).kind() {
            Kind::Leaf(leaf) => leaf,
            Kind::Inner(_) => unreachable!("paths end at leaves"),
        }
    }

    /// # Panics
    /// If it is a leaf.
    #[inline]
    pub(super) fn inner(&self, link: Link<'w>) -> InnerRef<'_> {
        match self.get(link).kind() {
            Kind::Inner(inner) => inner,
            Kind::Leaf(_) => unreachable!("leaves have no children"),
        }
    }

    /// Child `i` of an inner node.
    ///
    /// # Panics
    /// If it is a leaf, or has no such child.
    #[inline]
    pub(super) fn child(&self, link: Link<'w>, i: usize) -> Link<'w> {
        self.step(link, |_| i).expect("leaves have no children").1
    }

    /// Which child `choose` takes of an inner node, and that child; `None` if it is a leaf.
    #[inline]
    pub(super) fn step(&self, link: Link<'w>, choose: impl FnOnce(InnerRef<'_>) -> usize) -> Option<(usize, Link<'w>)> {
        let Kind::Inner(inner) = self.get(link).kind() else { return None };
        let i = choose(inner);
        // The children of our nodes are ours (N3).
        Some((i, Link { node: inner.child(i).as_ptr(), tree: PhantomData }))
    }

    /// What is noted of a node.
    #[inline]
    fn bookkeeping(&self, link: Link<'w>) -> &Bookkeeping {
        // SAFETY: the node's bookkeeping is ours (W1, W3), and `&self` keeps it from being changed meanwhile.
        unsafe { &*self.get(link).head().bookkeeping.get() }
    }

    /// What is noted of a node, to be changed.
    #[inline]
    fn bookkeeping_mut(&mut self, link: Link<'w>) -> &mut Bookkeeping {
        // SAFETY: the node's bookkeeping is ours (W1, W3), and `&mut self` keeps others from using it meanwhile.
        unsafe { &mut *self.get(link).head().bookkeeping.get() }
    }

    /// The slots of a leaf whose ranges were removed in it, a bit each.
    #[inline]
    pub(super) fn removed(&self, link: Link<'w>) -> u64 {
        self.bookkeeping(link).removed
    }

    /// Notes that the payload in slot `i` goes when this leaf does.
    #[inline]
    pub(super) fn mark_removed(&mut self, link: Link<'w>, i: usize) {
        let birth = self.leaf(link).entry(i).birth;
        let bookkeeping = self.bookkeeping_mut(link);
        bookkeeping.removed |= 1 << i;
        // A snapshot may have the range in an older leaf than this one: it counts from there.
        bookkeeping.birth = bookkeeping.birth.min(birth);
    }

    /// Notes that the payload in slot `i` is the caller's.
    pub(super) fn unmark_removed(&mut self, link: Link<'w>, i: usize) {
        self.bookkeeping_mut(link).removed &= !(1 << i);
    }

    /// Whether this edit made the node.
    #[inline]
    pub(super) fn is_new(&self, link: Link<'w>) -> bool {
        self.bookkeeping(link).birth == self.tick
    }

    /// A new node as an `L`, to be written; `None` if it is of another shape, or was published.
    #[inline]
    pub(super) fn own<L: Layout>(&mut self, link: Link<'w>) -> Option<&mut L> {
        if !self.is_new(link) {
            return None;
        }
        self.get(link).get::<L>()?;
        let mut node = link.node.cast::<L>();
        // SAFETY: it is an `L` (N5) that we made (W2); references to nodes of ours borrow from us, so none is left.
        Some(unsafe { node.as_mut() })
    }

    /// A new node, with no slots in use.
    ///
    /// # Panics
    /// If the pool has none: the caller did not [`reserve`](Pool::reserve) it.
    #[inline]
    pub(super) fn make(&mut self, shape: Shape) -> Link<'w> {
        let node = self.pool.take(shape, self.tick).into_raw();
        Link { node, tree: PhantomData }
    }

    /// A new node beside a published one of the same shape, which it is to be made from; `None` if that has another shape
    /// than `L`.
    #[inline]
    pub(super) fn make_from<L: Layout>(&mut self, old: Link<'w>) -> Option<(Link<'w>, &mut L, &L)> {
        debug_assert!(!self.is_new(old));
        self.get(old).get::<L>()?;
        let link = self.make(L::SHAPE);
        let (mut new, old) = (link.node.cast::<L>(), old.node.cast::<L>());
        // SAFETY: both are an `L` (N5), the new one is ours to write (W2), and they are two: pools have no node of a tree.
        unsafe { Some((link, new.as_mut(), old.as_ref())) }
    }

    /// Takes a node out of the tree: back to the pool if this edit made it, else retired.
    #[inline]
    pub(super) fn discard(&mut self, link: Link<'w>) {
        if self.is_new(link) {
            debug_assert_eq!(self.removed(link), 0, "ranges are removed from published leaves");
            // No reader has seen it (W2), and a link that is left can only be read, as a node (W1).
            self.pool.put(FreeNode(link.node));
        } else {
            self.bookkeeping_mut(link).death = self.tick;
            self.retired.push(Retired(link.node));
        }
    }

    /// The new root.
    #[inline]
    pub(super) fn finish(self) -> *mut Node {
        self.root.map_or(ptr::null_mut(), Link::as_ptr)
    }

    /// Takes back every node that was made. The old tree is as it was.
    pub(super) fn abandon(mut self) {
        if let Some(root) = self.root {
            self.discard_new(root);
        }
        // What was retired is in the old tree.
        while self.retired.pop().is_some() {}
    }

    fn discard_new(&mut self, link: Link<'w>) {
        // Only new nodes have new children.
        if !self.is_new(link) {
            return;
        }
        if let Kind::Inner(inner) = self.get(link).kind() {
            for i in 0..inner.len() {
                self.discard_new(self.child(link, i));
            }
        }
        self.discard(link);
    }
}

/// A node that is in no tree any more. Readers that came before may read it still.
///
/// Dropping it leaks the node.
#[repr(transparent)]
pub(crate) struct Retired(NonNull<Node>);

// SAFETY: what others may do with the node is to read it, from any thread (N1); its bookkeeping is the owner's (W3).
unsafe impl Send for Retired {}

impl Retired {
    fn head(&self) -> &Node {
        // SAFETY: retired nodes are not freed, and readers change nothing.
        unsafe { self.0.as_ref() }
    }

    fn bookkeeping(&self) -> &Bookkeeping {
        // SAFETY: the owner's (W3).
        unsafe { &*self.head().bookkeeping.get() }
    }

    pub(crate) fn bytes(&self) -> usize {
        bytes_of(self.head().shape())
    }

    /// The tick of the first snapshot that has this node or one of its removed ranges.
    pub(crate) fn birth(&self) -> u64 {
        self.bookkeeping().birth
    }

    /// The tick of the first snapshot without it.
    pub(crate) fn death(&self) -> u64 {
        self.bookkeeping().death
    }

    /// Whether payloads go with it.
    pub(crate) fn owns_payloads(&self) -> bool {
        self.bookkeeping().removed != 0
    }

    /// Whether this is the node at an address.
    pub(crate) fn is_at(&self, node: *const Node) -> bool {
        ptr::eq(self.0.as_ptr(), node)
    }

    /// What comes after this one in its list.
    pub(super) fn next(&self) -> Option<&Self> {
        // SAFETY: `set_next` put a `Retired` there, which is a pointer and nothing else.
        self.bookkeeping().next.as_ref().map(|next| unsafe { &*ptr::from_ref(next).cast::<Self>() })
    }

    pub(super) fn take_next(&mut self) -> Option<Self> {
        // SAFETY: the owner's (W3).
        unsafe { &mut *self.head().bookkeeping.get() }.next.take().map(Self)
    }

    /// The node once more, as the end of a list that owns it.
    pub(super) fn tail(&self) -> Tail {
        Tail(Self(self.0))
    }

    /// The node, now that it can be used again.
    ///
    /// # Safety
    /// Nobody reads it any more, nor what its removed ranges refer to.
    pub(crate) unsafe fn into_free(self) -> FreeNode {
        self.head().liveness.end();
        FreeNode(self.0)
    }
}

/// The last node of a list, which owns it by way of those before it.
pub(super) struct Tail(Retired);

impl Tail {
    /// # Safety
    /// The node is in the caller's list.
    pub(super) unsafe fn get(&self) -> &Retired {
        &self.0
    }

    /// # Safety
    /// The node is in the caller's list.
    pub(super) unsafe fn set_next(&mut self, next: Retired) {
        // SAFETY: the caller owns the list, and so its nodes' bookkeeping (W3).
        unsafe { (*self.0.head().bookkeeping.get()).next = Some(next.0) };
    }
}

/// A node that nobody reads: unused memory, or a leaf whose removed payloads are to be dropped first.
///
/// Dropping it gives its memory back.
pub(crate) struct FreeNode(NonNull<Node>);

// SAFETY: the node is its owner's alone, and payloads may be dropped on any thread.
unsafe impl Send for FreeNode {}

impl FreeNode {
    /// Zeroed memory for nodes of this shape and for the other one that has its size; `None` if there is none.
    pub(super) fn allocate(shape: Shape) -> Option<Self> {
        // SAFETY: the layout has a size. Zeroes are valid in every slot (N5), and the head is written.
        unsafe {
            let node = NonNull::new(alloc_zeroed(memory_of(shape)).cast::<Node>())?;
            node.write(Node::blank(shape, 0));
            Some(Self(node))
        }
    }

    /// Makes it a node of another life.
    ///
    /// # Panics
    /// If nodes of that shape have another size.
    #[inline]
    pub(super) fn reset(&mut self, shape: Shape, birth: u64) {
        assert_eq!(shape.is_leaf(), self.head().shape().is_leaf());
        // SAFETY: the node is ours alone, and large enough.
        unsafe { self.0.write(Node::blank(shape, birth)) };
    }

    fn into_raw(self) -> NonNull<Node> {
        ManuallyDrop::new(self).0
    }

    fn head(&self) -> &Node {
        // SAFETY: the node is ours alone.
        unsafe { self.0.as_ref() }
    }

    fn bookkeeping(&mut self) -> &mut Bookkeeping {
        // SAFETY: the node is ours alone, and its bookkeeping too (W3).
        unsafe { self.0.as_mut() }.bookkeeping.get_mut()
    }

    pub(super) fn shape(&self) -> Shape {
        self.head().shape()
    }

    /// Notes that nobody reads the node, which a model checks.
    pub(super) fn end_life(&self) {
        self.head().liveness.end();
    }

    /// Has `next` come after this one; what did so before is leaked.
    pub(super) fn set_next(&mut self, next: Option<Self>) {
        self.bookkeeping().next = next.map(Self::into_raw);
    }

    /// What came after this one.
    pub(super) fn take_next(&mut self) -> Option<Self> {
        // Only `set_next` puts something there, but for the lists of retired nodes, which take it out again.
        self.bookkeeping().next.take().map(Self)
    }

    /// How many payloads are still to be taken.
    pub(crate) fn payloads(&mut self) -> usize {
        self.bookkeeping().removed.count_ones() as usize
    }

    /// Takes the removed payloads out, one by one: they are the caller's to drop.
    pub(crate) fn take_payload(&mut self) -> Option<*const ()> {
        let removed = &mut self.bookkeeping().removed;
        if *removed == 0 {
            return None;
        }
        let slot = removed.trailing_zeros() as usize;
        *removed &= *removed - 1;
        // SAFETY: the node is ours alone.
        let node = unsafe { NodeRef::new(self.0.as_ptr()) }?;
        let narrow = node.get_dead::<NarrowLeaf>().map(|leaf| leaf.entry(slot));
        narrow.or_else(|| node.get_dead::<WideLeaf>().map(|leaf| leaf.entry(slot))).map(|entry| entry.code)
    }
}

impl Drop for FreeNode {
    fn drop(&mut self) {
        let memory = memory_of(self.shape());
        // SAFETY: the node is ours alone, and came from `allocate`; all shapes of its memory have the same layout.
        unsafe {
            self.0.drop_in_place();
            dealloc(self.0.as_ptr().cast(), memory);
        }
    }
}

/// The memory of nodes of a shape: every leaf has the same, and every inner node.
pub(super) const fn memory_of(shape: Shape) -> Memory {
    const LEAF: Memory = larger(Memory::new::<NarrowLeaf>(), Memory::new::<WideLeaf>());
    const INNER: Memory = larger(Memory::new::<NarrowInner>(), Memory::new::<WideInner>());
    if shape.is_leaf() { LEAF } else { INNER }
}

const fn larger(a: Memory, b: Memory) -> Memory {
    assert!(a.align() == b.align());
    if a.size() > b.size() { a } else { b }
}
