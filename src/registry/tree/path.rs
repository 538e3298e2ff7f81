//! Ways through the tree.

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
pub(super) struct Path {
    pub(super) steps: [(*mut Node, usize); LEVELS],
    pub(super) len: usize,
    pub(super) leaf: *mut Node,
}

impl Path {
    /// The way to the leaf that the ranges at `address` belong in.
    ///
    /// # Safety
    /// The caller may read the tree for as long as the path is used, and `root` is not null.
    pub(super) unsafe fn to(root: *mut Node, address: usize) -> Self {
        let mut path = Self { steps: [(ptr::null_mut(), 0); LEVELS], len: 0, leaf: root };
        // SAFETY: the caller's.
        unsafe {
            while !(*path.leaf).shape.is_leaf() {
                let i = inner::rank(path.leaf, address);
                path.steps[path.len] = (path.leaf, i);
                path.len += 1;
                path.leaf = inner::child(path.leaf, i).node;
            }
        }
        path
    }

    /// What a change at slot `at` of `len` slots means, in the node below so many steps.
    pub(super) fn growth(&self, steps: usize, at: usize, len: usize) -> Growth {
        let above = &self.steps[..steps];
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
            while !self.leaf.is_null() && !(*self.leaf).shape.is_leaf() {
                self.steps[self.len] = (self.leaf, 0);
                self.len += 1;
                self.leaf = inner::child(self.leaf, 0).node;
            }
        }
    }

    fn go_right(&mut self) -> bool {
        while let Some(last) = self.len.checked_sub(1) {
            let (node, i) = self.steps[last];
            // SAFETY: the invariant of Path.
            unsafe {
                if i + 1 < usize::from((*node).len) {
                    self.steps[last].1 = i + 1;
                    self.leaf = inner::child(node, i + 1).node;
                    self.go_down_left();
                    return true;
                }
            }
            self.len -= 1;
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
    let mut path = Path { steps: [(ptr::null_mut(), 0); LEVELS], len: 0, leaf: root };
    path.go_down_left();
    Leaves { path, at_first: true }
}

impl Leaves {
    /// Those right of the path's leaf.
    pub(super) fn after(path: &Path) -> Self {
        Self { path: Path { ..*path }, at_first: false }
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
/// The caller may read the tree.
pub(crate) unsafe fn height(root: *const Node) -> usize {
    let mut node = root;
    let mut levels = 0;
    // SAFETY: the caller's.
    unsafe {
        while !node.is_null() && !(*node).shape.is_leaf() {
            node = inner::child(node, 0).node;
            levels += 1;
        }
    }
    levels
}
