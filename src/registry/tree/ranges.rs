//! All that is in a tree, from left to right.

use super::buffer::Buffer;
use super::inner::InnerRef;
use super::leaf::LeafRef;
use super::node::Kind;
use super::path::LEVELS;
use crate::handler::node::{Entry, NodeRef};

/// The ranges of a tree that lookups find.
pub(crate) struct Ranges<'t> {
    leaves: Leaves<'t>,
    leaf: Option<LeafRef<'t>>,
    /// Of the leaf, comes next.
    slot: usize,
}

impl<'t> Ranges<'t> {
    pub(crate) fn new(root: Option<NodeRef<'t>>) -> Self {
        Self { leaves: Leaves { steps: Buffer::new(), next: root }, leaf: None, slot: 0 }
    }
}

impl Iterator for Ranges<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        loop {
            let Some(leaf) = self.leaf.filter(|leaf| self.slot < leaf.len()) else {
                self.leaf = Some(self.leaves.next()?);
                self.slot = 0;
                continue;
            };
            let entry = leaf.entry(self.slot);
            self.slot += 1;
            // Hidden ranges are empty.
            if entry.start < entry.end {
                return Some(entry);
            }
        }
    }
}

/// The leaves of a tree from left to right.
struct Leaves<'t> {
    /// The inner nodes on the way to the next leaf, and which child of each comes after that.
    steps: Buffer<(InnerRef<'t>, usize), LEVELS>,
    next: Option<NodeRef<'t>>,
}

impl<'t> Iterator for Leaves<'t> {
    type Item = LeafRef<'t>;

    fn next(&mut self) -> Option<LeafRef<'t>> {
        let mut node = self.next.take().or_else(|| {
            loop {
                let (inner, index) = self.steps.pop()?;
                if index < inner.len() {
                    self.steps.push((inner, index + 1));
                    return Some(inner.child(index));
                }
            }
        })?;
        loop {
            match node.kind() {
                Kind::Leaf(leaf) => return Some(leaf),
                Kind::Inner(inner) => {
                    self.steps.push((inner, 1));
                    node = inner.child(0);
                }
            }
        }
    }
}
