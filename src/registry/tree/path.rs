//! Ways through the tree.

use super::buffer::Buffer;
use super::node::{Kind, Link, Tree};
use super::split::Growth;
use crate::handler::node::Entry;

/// More levels than a tree comes to: inside of it nodes are split in the middle and merged when sparse, so that two
/// neighbours have more than sixteen slots in use. An insertion that would exceed it fails as if for want of memory.
pub(super) const LEVELS: usize = 16;

/// An inner node on the way to a leaf, and which of its children comes next.
#[derive(Clone, Copy)]
pub(super) struct Step<'w> {
    pub(super) node: Link<'w>,
    pub(super) index: usize,
}

/// The way from the root of a tree that is edited to a leaf.
pub(super) struct Path<'w> {
    pub(super) steps: Buffer<Step<'w>, LEVELS>,
    pub(super) leaf: Link<'w>,
}

impl<'w> Path<'w> {
    /// No way yet. It is gone in place and not moved: a path takes a few hundred bytes.
    #[inline]
    pub(super) fn at(root: Link<'w>) -> Self {
        Self { steps: Buffer::new(), leaf: root }
    }

    /// Goes on to the leaf that the ranges at `address` belong in.
    #[inline]
    pub(super) fn go_to(&mut self, tree: &Tree<'w>, address: usize) {
        while let Some((index, child)) = tree.step(self.leaf, |inner| inner.rank(address)) {
            self.steps.push(Step { node: self.leaf, index });
            self.leaf = child;
        }
    }

    #[inline]
    fn go_down(&mut self, tree: &Tree<'w>, index: usize) {
        self.steps.push(Step { node: self.leaf, index });
        self.leaf = tree.child(self.leaf, index);
    }

    /// Goes on to the first leaf below that is `wanted`; false, and back where it was, if there is none.
    pub(super) fn go_to_first(&mut self, tree: &Tree<'w>, wanted: &impl Fn(Link<'w>) -> bool) -> bool {
        let node = self.leaf;
        let Kind::Inner(inner) = tree.get(node).kind() else { return wanted(node) };
        (0..inner.len()).any(|index| {
            self.go_down(tree, index);
            let found = self.go_to_first(tree, wanted);
            if !found {
                self.leaf = node;
                self.steps.pop();
            }
            found
        })
    }

    /// The last step that has a child right of the way.
    pub(super) fn fork(&self, tree: &Tree<'w>) -> Option<usize> {
        self.steps.as_slice().iter().rposition(|step| step.index + 1 < tree.inner(step.node).len())
    }

    /// The first range right of the leaf.
    pub(super) fn next_after(&self, tree: &Tree<'w>) -> Option<Entry> {
        let Step { node, index } = self.steps.as_slice()[self.fork(tree)?];
        let mut node = tree.inner(node).child(index + 1);
        loop {
            match node.kind() {
                Kind::Inner(inner) => node = inner.child(0),
                Kind::Leaf(leaf) => return Some(leaf.entry(0)),
            }
        }
    }

    /// What a change at slot `at` of `len` slots means, in the node below the first `steps`.
    pub(super) fn growth(&self, tree: &Tree<'w>, steps: usize, at: usize, len: usize) -> Growth {
        let above = &self.steps.as_slice()[..steps];
        if at == 0 && above.iter().all(|step| step.index == 0) {
            return Growth::First;
        }
        let is_last = |step: &Step<'w>| step.index + 1 == tree.inner(step.node).len();
        if at + 1 == len && above.iter().all(is_last) { Growth::Last } else { Growth::Inside }
    }
}
