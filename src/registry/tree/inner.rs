//! Inner nodes, as the writer sees them.

use super::node::{Link, Tree};
use crate::handler::node::{NarrowInner, Node, NodeRef, Shape, WIDE_CHILDREN, WideInner};
use crate::handler::search::{KEYS, MAX_OFFSET, PAD};

/// A node and the least address its ranges may start at.
#[derive(Clone, Copy)]
pub(super) struct Child<'w> {
    pub(super) from: usize,
    pub(super) node: Link<'w>,
}

/// What the children of an inner node are gathered in while it is rearranged: two nodes' worth.
pub(super) type Children<'w> = super::Buffer<Child<'w>, { 2 * KEYS }>;

/// An inner node that can be read.
#[derive(Clone, Copy)]
pub(super) enum InnerRef<'t> {
    Narrow(&'t NarrowInner),
    Wide(&'t WideInner),
}

impl<'t> InnerRef<'t> {
    fn head(self) -> &'t Node {
        match self {
            Self::Narrow(inner) => &inner.node,
            Self::Wide(inner) => &inner.node,
        }
    }

    pub(super) fn len(self) -> usize {
        usize::from(self.head().len)
    }

    /// Child `i`.
    ///
    /// # Panics
    /// If there is no such child.
    #[inline]
    pub(super) fn child(self, i: usize) -> NodeRef<'t> {
        match self {
            Self::Narrow(inner) => inner.child(i),
            Self::Wide(inner) => inner.child(i),
        }
    }

    /// The least address that the ranges of child `i` may start at. That of child 0 is not meaningful: the parent knows
    /// better.
    pub(super) fn from(self, i: usize) -> usize {
        match self {
            Self::Narrow(inner) => {
                let units = inner.keys[i] as usize;
                inner.node.base + (units << inner.node.shift)
            }
            Self::Wide(inner) => inner.keys[i],
        }
    }

    /// Which child's ranges `address` belongs with.
    #[inline]
    pub(super) fn rank(self, address: usize) -> usize {
        match self {
            Self::Narrow(inner) => inner.rank(address),
            Self::Wide(inner) => inner.rank(address),
        }
    }
}

/// Copies a published node, with another child in slot `at`.
pub(super) fn copy_with<'w>(tree: &mut Tree<'w>, old: Link<'w>, at: usize, child: Link<'w>) -> Link<'w> {
    if let Some((link, new, old)) = tree.make_from::<NarrowInner>(old) {
        new.node.copy(&old.node);
        let len = usize::from(old.node.len);
        // All of the keys: those that are not used matter too.
        new.keys = old.keys;
        new.children[..len].copy_from_slice(&old.children[..len]);
        new.children[at] = child.as_ptr();
        return link;
    }
    let (link, new, old) = tree.make_from::<WideInner>(old).expect("leaves have no children");
    new.node.copy(&old.node);
    (new.keys, new.children) = (old.keys, old.children);
    new.children[at] = child.as_ptr();
    link
}

/// Has slot `at` of a new node lead to another child.
pub(super) fn set_child<'w>(tree: &mut Tree<'w>, link: Link<'w>, at: usize, child: Link<'w>) {
    if let Some(inner) = tree.own::<NarrowInner>(link) {
        inner.children[at] = child.as_ptr();
    } else if let Some(inner) = tree.own::<WideInner>(link) {
        inner.children[at] = child.as_ptr();
    }
}

/// A layout that fits some children.
pub(super) struct Fit {
    shape: Shape,
    base: usize,
    shift: u8,
}

/// Whether these children, ascending, fit in one node, and how.
///
/// Narrow keys count in the smallest unit that spans them all, which has to divide every key: keys are chosen as well
/// aligned as they can be ([`super::split::most_aligned`]), so that it usually does.
pub(super) fn fit(children: &[Child<'_>]) -> Option<Fit> {
    // Child 0 counts as the smallest address whatever its key: the others' keys are what has to be represented.
    let (second, last) = match children {
        [] => return None,
        [only] => (only.from, only.from),
        [_, second, ..] => (second.from, children[children.len() - 1].from),
    };
    let mut shift = 0_u8;
    while (last - second) >> shift >= MAX_OFFSET as usize {
        shift += 1;
    }
    let unit = (1_usize << shift) - 1;
    // One unit below the second key stands for the first; there is room for it but at the bottom of memory.
    let base = second.saturating_sub(1 << shift);
    let whole = children.get(1..).is_none_or(|rest| rest.iter().all(|c| (c.from - base) & unit == 0));
    match children.len() {
        ..=KEYS if whole => Some(Fit { shape: Shape::NarrowInner, base, shift }),
        ..=WIDE_CHILDREN => Some(Fit { shape: Shape::WideInner, base, shift: 0 }),
        _ => None,
    }
}

/// Lays `children` out in a new node, as they [`fit`].
pub(super) fn lay_out<'w>(tree: &mut Tree<'w>, fit: Fit, children: &[Child<'w>]) -> Link<'w> {
    let level = tree.get(children[0].node).head().level + 1;
    let link = tree.make(fit.shape);
    let set_head = |node: &mut Node| {
        node.len = children.len() as u16;
        (node.base, node.shift, node.level) = (fit.base, fit.shift, level);
    };
    if let Some(inner) = tree.own::<NarrowInner>(link) {
        set_head(&mut inner.node);
        inner.keys = [PAD; KEYS];
        for (i, child) in children.iter().enumerate() {
            let units = if i == 0 { 0 } else { (child.from - fit.base) >> fit.shift };
            (inner.keys[i], inner.children[i]) = (units as u32, child.node.as_ptr());
        }
    } else if let Some(inner) = tree.own::<WideInner>(link) {
        set_head(&mut inner.node);
        for (i, child) in children.iter().enumerate() {
            (inner.keys[i], inner.children[i]) = (child.from, child.node.as_ptr());
        }
    }
    link
}

#[cfg(test)]
mod tests {
    use super::super::{List, Pool, leaf};
    use super::*;
    use crate::handler::node::Entry;
    use core::ptr;

    /// The distances at which one more bit of a unit is needed, and those beside them.
    #[test]
    fn keys_that_just_fit_lead_to_their_children() {
        let mut pool = Pool::new();
        for shift in 0..12.min(usize::BITS - 31) {
            let unit = 1_usize << shift;
            let most = (MAX_OFFSET as usize).saturating_mul(unit);
            for span in [most - 2 * unit, most - unit, most, most + unit, most + 2 * unit] {
                for second in [unit, 2 * unit, 1 << (usize::BITS - 2)] {
                    let starts = [second - unit / 2, second + unit, second.saturating_add(span)];
                    let starts = starts.map(|start| start & !(unit - 1));
                    if starts[0] + 2 <= starts[1] && starts[2] < usize::MAX - 2 {
                        check(&mut pool, starts);
                    }
                }
            }
        }
    }

    /// A node over leaves of one range each, which start at these addresses and are two bytes long.
    fn check(pool: &mut Pool, starts: [usize; 3]) {
        let mut retired = List::new();
        pool.reserve(starts.len(), 1).unwrap();
        // SAFETY: the nodes are this test's.
        let mut tree = unsafe { Tree::new(pool, &mut retired, ptr::null_mut(), 1) };
        let mut number = 0;
        let children = starts.map(|from| {
            number += 1;
            let code = ptr::without_provenance(8 * number);
            let entry = Entry { start: from, end: from + 2, birth: 1, code };
            Child { from, node: leaf::lay_out(&mut tree, Shape::NarrowLeaf, &[entry]) }
        });
        let fit = fit(&children).expect("they are few");
        let what = format!("{starts:#x?} in {:?} of unit 2^{}", fit.shape, fit.shift);
        let node = lay_out(&mut tree, fit, &children);
        for (i, start) in starts.into_iter().enumerate() {
            for pc in [start, start + 1] {
                let found = tree.get(node).find(pc).map(|entry| entry.code.addr());
                assert_eq!(found, Some(8 * (i + 1)), "{pc:#x} of {what}");
            }
            let after = tree.get(node).find(start + 2);
            assert!(after.is_none_or(|entry| entry.start == start + 2), "{what}");
        }
        tree.set_root(Some(node));
        tree.abandon();
    }
}
