//! The copy-on-write sorted array of ranges: a B+tree whose published nodes are never changed.
//!
//! An [`Edit`] turns the tree of one tick into the tree of the next. It copies the nodes on the path to what it
//! changes, and changes the copies; what the copies replace is *retired*: it goes on a list, for readers may still be
//! in it. A node that the edit itself made is nobody else's yet, and is changed in place: so a batch copies each node
//! once. Until [`Edit::finish`] nothing is published, and [`Edit::abandon`] leaves the old tree as it was.
//!
//! | file | what is in it |
//! |---|---|
//! | `edit` | insertion and removal, carried up to the root |
//! | `leaf`, `inner` | how one node is read out, laid out and changed |
//! | `path` | the way to a leaf, and from leaf to leaf |
//! | `split` | where a full node is cut |
//! | `pool` | node memory, and lists of nodes |
//!
//! Changes allocate nothing: [`Edit::stock`] and [`stock_removal`] set nodes aside first.

mod buffer;
mod edit;
mod inner;
mod leaf;
mod path;
pub(crate) mod pool;
mod split;

pub(crate) use buffer::Buffer;
pub(crate) use edit::{Edit, Place, stock_removal};
pub(crate) use path::height;
#[cfg(feature = "snapshot")]
pub(crate) use path::leaves;

#[cfg(feature = "snapshot")]
use crate::handler::node::Entry;
use crate::handler::node::Node;
use pool::book;

/// The ranges of a leaf that lookups find.
///
/// # Safety
/// `leaf` is a leaf that the caller may read (N4).
#[cfg(feature = "snapshot")]
pub(crate) unsafe fn visible(leaf: *const Node) -> impl DoubleEndedIterator<Item = Entry> {
    // SAFETY: the caller's.
    unsafe {
        let len = usize::from((*leaf).len);
        (0..len).map(move |i| leaf::entry(leaf, i)).filter(|e| e.start < e.end)
    }
}

/// Calls `f` for every node below `root`, children first.
///
/// # Safety
/// The caller may read the tree.
pub(crate) unsafe fn for_each_node(root: *mut Node, f: &mut impl FnMut(*mut Node)) {
    if root.is_null() {
        return;
    }
    // SAFETY: the caller's.
    unsafe {
        if !(*root).shape.is_leaf() {
            for i in 0..usize::from((*root).len) {
                for_each_node(inner::child(root, i).node, f);
            }
        }
    }
    f(root);
}

/// Dooms the ranges of a leaf that were registered at tick `newest` or before, and those that `take` does not take the
/// payloads of.
///
/// # Safety
/// `leaf` is a leaf, alive, and the caller holds the writer lock. What is taken is the caller's to drop, and was not
/// doomed; nobody sees it later.
pub(crate) unsafe fn doom_up_to(leaf: *mut Node, newest: u64, take: &mut impl FnMut(*const ()) -> bool) {
    // SAFETY: the caller's.
    unsafe {
        let hidden = book(leaf).doomed;
        for i in 0..usize::from((*leaf).len) {
            let entry = leaf::entry(leaf, i);
            if hidden & 1 << i == 0 && (entry.birth <= newest || !take(entry.code)) {
                leaf::doom(leaf, i);
            }
        }
    }
}

/// Takes the doomed payloads out of a leaf that is being freed, one by one.
///
/// # Safety
/// The leaf is the caller's alone, and the payloads taken are the caller's to drop.
pub(crate) unsafe fn take_doomed(leaf: *mut Node) -> Option<*const ()> {
    // SAFETY: the caller's.
    unsafe {
        let doomed = &mut book(leaf).doomed;
        if *doomed == 0 {
            return None;
        }
        let slot = doomed.trailing_zeros() as usize;
        *doomed &= *doomed - 1;
        Some(leaf::entry(leaf, slot).code)
    }
}
