//! All that is in a tree, from left to right.

use super::buffer::Buffer;
use super::inner::InnerRef;
use super::leaf::LeafRef;
use super::node::Kind;
use super::path::LEVELS;
use crate::handler::node::{Entry, NodeRef};

/// The ranges of a tree that lookups find: hidden ones are empty.
pub(crate) fn ranges(root: Option<NodeRef<'_>>) -> impl Iterator<Item = Entry> {
    Leaves { steps: Buffer::new(), next: root }
        .flat_map(|leaf| leaf.entries_but(0))
        .filter(|entry| entry.start < entry.end)
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
