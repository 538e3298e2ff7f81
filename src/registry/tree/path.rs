//! Ways through the tree.

use super::buffer::Buffer;
use super::inner;
use super::split::Growth;
use crate::handler::node::Node;
use core::ptr;

/// More levels than a tree comes to: inside of it nodes are split in the middle and merged when sparse, so that two
/// neighbours have more than sixteen slots in use. An insertion that would exceed it fails as if for want of memory.
pub(super) const LEVELS: usize = 16;

/// The way from the root to a leaf: inner nodes and which child was taken.
///
/// # Invariant
/// Whoever made the path may read the tree (N4) for as long as it is used.
#[derive(Clone, Copy)]
pub(super) struct Path {
    pub(super) steps: Steps,
    pub(super) leaf: *mut Node,
}

/// Inner nodes from the root on, and which child of each was taken.
type Steps = Buffer<(*mut Node, usize), LEVELS>;

impl Path {
    /// No way yet. Paths are filled in where they are, not moved: they take a few hundred bytes.
    #[inline]
    pub(super) fn new() -> Self {
        Self { steps: Steps::new(), leaf: ptr::null_mut() }
    }

    /// Becomes the way to the leaf that the ranges at `address` belong in.
    ///
    /// # Safety
    /// The caller may read the tree for as long as the path is used, and `root` is not null.
    #[inline]
    pub(super) unsafe fn go_to(&mut self, root: *mut Node, address: usize) {
        self.steps.clear();
        let mut node = root;
        // SAFETY: the caller's.
        unsafe {
            while (*node).level > 0 {
                let i = inner::rank(node, address);
                self.steps.push((node, i));
                node = inner::child_node(node, i);
            }
        }
        self.leaf = node;
    }

    /// What a change at slot `at` of `len` slots means, in the node below so many steps.
    pub(super) fn growth(&self, steps: usize, at: usize, len: usize) -> Growth {
        let above = &self.steps.as_slice()[..steps];
        if at == 0 && above.iter().all(|(_, i)| *i == 0) {
            return Growth::First;
        }
        // SAFETY: the invariant of Path.
        let is_last = |(node, i): &(*mut Node, usize)| i + 1 == usize::from(unsafe { (**node).len });
        if at + 1 == len && above.iter().all(is_last) { Growth::Last } else { Growth::Inside }
    }

    fn go_down_left(&mut self) {
        // SAFETY: the invariant of Path.
        unsafe {
            while !self.leaf.is_null() && (*self.leaf).level > 0 {
                self.steps.push((self.leaf, 0));
                self.leaf = inner::child_node(self.leaf, 0);
            }
        }
    }

    fn go_right(&mut self) -> bool {
        while let Some((node, i)) = self.steps.pop() {
            // SAFETY: the invariant of Path.
            unsafe {
                if i + 1 < usize::from((*node).len) {
                    self.steps.push((node, i + 1));
                    self.leaf = inner::child_node(node, i + 1);
                    self.go_down_left();
                    return true;
                }
            }
        }
        false
    }
}

/// The leaves of a tree from left to right.
pub(crate) struct Leaves {
    path: Path,
    at_first: bool,
}

/// All leaves below `root`.
///
/// # Safety
/// `root` is null or a node that the caller may read (N4), for as long as the result is used.
pub(crate) unsafe fn leaves(root: *mut Node) -> Leaves {
    let mut path = Path { steps: Steps::new(), leaf: root };
    path.go_down_left();
    Leaves { path, at_first: true }
}

impl Leaves {
    /// Those right of the path's leaf.
    pub(super) fn after(path: &Path) -> Self {
        Self { path: *path, at_first: false }
    }
}

impl Iterator for Leaves {
    type Item = *mut Node;

    fn next(&mut self) -> Option<*mut Node> {
        if self.path.leaf.is_null() {
            return None;
        }
        if !core::mem::take(&mut self.at_first) && !self.path.go_right() {
            self.path.leaf = ptr::null_mut();
            return None;
        }
        Some(self.path.leaf)
    }
}

/// How many levels of inner nodes there are.
///
/// # Safety
/// The caller may read the root, if it is not null.
pub(crate) unsafe fn height(root: *const Node) -> usize {
    // SAFETY: the caller's.
    if root.is_null() { 0 } else { unsafe { usize::from((*root).level) } }
}
