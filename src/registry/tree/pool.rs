//! Node memory: the writer's own reserve, and lists of nodes.
//!
//! Nodes come and go with every write, in two sizes. Keeping freed ones saves the allocator's time, and lets a writer
//! set aside what it will need *before* it changes anything: an edit takes from the reserve only, so that it cannot run
//! out half-way, and a removal lives on what registrations set aside.

use super::node::{FreeNode, memory_of};
use crate::handler::node::Shape;
use crate::sync::{self, NoMemory};

/// How many nodes of a size are kept at most when memory is given back.
const KEPT: usize = 128;

/// Bytes that a node of this shape takes.
pub(crate) const fn bytes_of(shape: Shape) -> usize {
    memory_of(shape).size()
}

/// Nodes that nobody reads, last in, first out: the one that is taken next is the likeliest to be in a near cache.
pub(crate) struct Stack {
    first: Option<FreeNode>,
    len: usize,
}

impl Stack {
    pub(crate) const fn new() -> Self {
        Self { first: None, len: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn push(&mut self, mut node: FreeNode) {
        node.set_next(self.first.take());
        self.first = Some(node);
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<FreeNode> {
        let mut node = self.first.take()?;
        self.first = node.take_next();
        self.len -= 1;
        Some(node)
    }
}

impl Drop for Stack {
    #[inline]
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// The reserve.
pub(crate) struct Pool {
    leaves: Stack,
    inners: Stack,
    /// Bytes of the nodes that were taken and not put back.
    taken: usize,
    /// What the last [`reserve`](Self::reserve) allows to take: an edit that takes more would run out some day. Checked in
    /// debug builds.
    allowed: [usize; 2],
}

impl Pool {
    pub(crate) const fn new() -> Self {
        Self { leaves: Stack::new(), inners: Stack::new(), taken: 0, allowed: [0; 2] }
    }

    /// Sets aside at least the given numbers of nodes.
    #[inline]
    pub(crate) fn reserve(&mut self, leaves: usize, inners: usize) -> Result<(), NoMemory> {
        if cfg!(debug_assertions) {
            self.allowed = [leaves, inners];
        }
        if self.leaves.len < leaves || self.inners.len < inners {
            self.fill(leaves, inners)?;
        }
        Ok(())
    }

    #[cold]
    fn fill(&mut self, leaves: usize, inners: usize) -> Result<(), NoMemory> {
        let shapes = [(&mut self.leaves, leaves, Shape::NarrowLeaf), (&mut self.inners, inners, Shape::NarrowInner)];
        for (stack, wanted, shape) in shapes {
            while stack.len < wanted {
                stack.push(FreeNode::allocate(shape).ok_or(NoMemory::of(memory_of(shape)))?);
            }
        }
        Ok(())
    }

    /// A node of this shape, born at `tick`, with no slots in use.
    ///
    /// # Panics
    /// If the caller did not [`reserve`](Self::reserve) it.
    #[inline]
    pub(super) fn take(&mut self, shape: Shape, tick: u64) -> FreeNode {
        let stack = self.stack(shape);
        let mut node = stack.pop().expect("an edit takes no more nodes than were set aside for it");
        if cfg!(debug_assertions) {
            let allowed = &mut self.allowed[usize::from(!shape.is_leaf())];
            debug_assert!(*allowed > 0, "an edit took more nodes than it set aside");
            *allowed = allowed.saturating_sub(1);
        }
        self.taken += bytes_of(shape);
        node.reset(shape, tick);
        node
    }

    /// Takes a node back. Payloads that are left in it are leaked.
    pub(crate) fn put(&mut self, mut node: FreeNode) {
        debug_assert_eq!(node.payloads(), 0);
        let shape = node.shape();
        self.taken -= bytes_of(shape);
        node.end_life();
        if let Some(node) = sync::quarantine(node) {
            self.stack(shape).push(node);
        }
    }

    fn stack(&mut self, shape: Shape) -> &mut Stack {
        if shape.is_leaf() { &mut self.leaves } else { &mut self.inners }
    }

    /// A node that is more than worth keeping, for the caller to drop.
    pub(crate) fn surplus(&mut self) -> Option<FreeNode> {
        let stack = if self.leaves.len > KEPT { &mut self.leaves } else { &mut self.inners };
        if stack.len > KEPT { stack.pop() } else { None }
    }

    /// Bytes of memory set aside.
    pub(crate) fn bytes(&self) -> usize {
        self.leaves.len * bytes_of(Shape::NarrowLeaf) + self.inners.len * bytes_of(Shape::NarrowInner)
    }

    /// Bytes of the nodes in use, live or retired.
    pub(crate) fn bytes_taken(&self) -> usize {
        self.taken
    }
}
