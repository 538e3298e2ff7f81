//! The copy-on-write sorted array of ranges: a B+tree whose published nodes are never changed.
//!
//! An [`Edit`] turns the tree of one tick into the tree of the next. It copies the nodes on the path to what it
//! changes, and changes the copies; what the copies replace is *retired*: it goes on a list, for readers may still be
//! in it. A node that the edit itself made has no readers yet, and is changed in place: so a batch copies each node
//! once. Until [`Edit::finish`] nothing is published, and [`Edit::abandon`] leaves the old tree as it was.
//!
//! | file | what is in it |
//! |---|---|
//! | `edit` | insertion and removal, carried up to the root |
//! | `leaf`, `inner` | how one node is read out, laid out and changed |
//! | `path` | the way to a leaf |
//! | `ranges` | all ranges, in order |
//! | `split` | where a full node is cut |
//! | `node` | handles of nodes, and what each may be used for: nearly all of the `unsafe` |
//! | `list`, `pool` | retired nodes; node memory |
//!
//! Changes allocate nothing: [`Edit::reserve`] and [`reserve_removal`] set nodes aside first.

mod buffer;
mod edit;
mod inner;
mod leaf;
mod list;
mod node;
mod path;
mod pool;
#[cfg(feature = "snapshot")]
mod ranges;
mod split;

pub(crate) use buffer::Buffer;
pub(crate) use edit::{Edit, reserve_removal};
pub(crate) use list::List;
pub(crate) use node::Retired;
pub(crate) use pool::{Pool, Stack};
#[cfg(feature = "snapshot")]
pub(crate) use ranges::Ranges;

use crate::handler::node::{Node, NodeRef};

/// How many levels of inner nodes there are.
///
/// # Safety
/// `root` is null, or the caller may read it (N4).
pub(crate) unsafe fn height(root: *const Node) -> usize {
    // SAFETY: the caller's (N4).
    unsafe { NodeRef::new(root) }.map_or(0, |root| usize::from(root.head().level))
}
