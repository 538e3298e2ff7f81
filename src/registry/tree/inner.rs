//! Inner nodes, as the writer sees them.

use super::pool::Pool;
use crate::handler::node::{NarrowInner, Node, Shape, WIDE_CHILDREN, WideInner};
use crate::handler::search::{self, KEYS, MAX_OFFSET, PAD};
use core::ptr;

/// A node and the least address its ranges may start at.
#[derive(Clone, Copy)]
pub(super) struct Child {
    pub(super) from: usize,
    pub(super) node: *mut Node,
}

/// What the children of an inner node are gathered in while it is rearranged: two nodes' worth.
pub(super) type Children = super::Buffer<Child, { 2 * KEYS }>;

/// Child `i`. The key of child 0 is not meaningful: the parent knows better.
///
/// # Safety
/// `inner` is an inner node that the caller may read, and `i` is below its `len`.
pub(super) unsafe fn child(inner: *const Node, i: usize) -> Child {
    // SAFETY: the caller's; the shape says which layout it is.
    unsafe {
        match (*inner).shape {
            Shape::NarrowInner => {
                let narrow = &*inner.cast::<NarrowInner>();
                let units = search::offset(narrow.keys[i]) as usize;
                Child { from: (*inner).base + (units << (*inner).shift), node: narrow.children[i] }
            }
            _ => {
                let wide = &*inner.cast::<WideInner>();
                Child { from: wide.keys[i], node: wide.children[i] }
            }
        }
    }
}

/// Child `i`, without its key.
///
/// # Safety
/// As [`child`].
pub(super) unsafe fn child_node(inner: *const Node, i: usize) -> *mut Node {
    // SAFETY: the caller's; the shape says which layout it is.
    unsafe {
        match (*inner).shape {
            Shape::NarrowInner => (*inner.cast::<NarrowInner>()).children[i],
            _ => (*inner.cast::<WideInner>()).children[i],
        }
    }
}

/// Which child's ranges `address` belongs with.
///
/// # Safety
/// As [`child`].
pub(super) unsafe fn rank(inner: *const Node, address: usize) -> usize {
    // SAFETY: the caller's; the shape says which layout it is.
    unsafe {
        match (*inner).shape {
            Shape::NarrowInner => (*inner.cast::<NarrowInner>()).rank(address),
            _ => (*inner.cast::<WideInner>()).rank(address),
        }
    }
}

/// # Safety
/// As [`child`].
pub(super) unsafe fn children(inner: *const Node, into: &mut Children) {
    // SAFETY: the caller's.
    unsafe {
        for i in 0..usize::from((*inner).len) {
            into.push(child(inner, i));
        }
    }
}

/// Copies a node, with another child in slot `at`, for the tree of `tick`.
///
/// # Safety
/// `inner` is an inner node, alive, `at` is below its `len`, and the caller holds the writer lock.
pub(super) unsafe fn copy_with(
    pool: &mut Pool,
    inner: *const Node,
    at: usize,
    child: *mut Node,
    tick: u64,
) -> *mut Node {
    // SAFETY: the caller's. The copy is nobody else's and of the same shape. Every key of a narrow node is copied, the
    // unused ones too, and every slot up to `len`.
    unsafe {
        let len = usize::from((*inner).len);
        let copy = pool.take((*inner).shape, tick);
        (*copy).base = (*inner).base;
        (*copy).shift = (*inner).shift;
        (*copy).level = (*inner).level;
        (*copy).len = (*inner).len;
        if (*inner).shape == Shape::NarrowInner {
            let (from, to) = (inner.cast::<NarrowInner>(), copy.cast::<NarrowInner>());
            ptr::copy_nonoverlapping(&raw const (*from).keys, &raw mut (*to).keys, 1);
            copy_some(&raw const (*from).children, &raw mut (*to).children, len);
        } else {
            let (from, to) = (inner.cast::<WideInner>(), copy.cast::<WideInner>());
            copy_some(&raw const (*from).keys, &raw mut (*to).keys, len);
            copy_some(&raw const (*from).children, &raw mut (*to).children, len);
        }
        set_child(copy, at, child);
        copy
    }
}

/// Copies the first `len` items of an array.
///
/// # Safety
/// The arrays are two, the one is readable and the other writable, and `len` is at most `N`.
unsafe fn copy_some<X: Copy, const N: usize>(from: *const [X; N], to: *mut [X; N], len: usize) {
    // SAFETY: the caller's.
    unsafe { ptr::copy_nonoverlapping(from.cast::<X>(), to.cast::<X>(), len) };
}

/// # Safety
/// `inner` is an inner node that is not published, and `i` is below its `len`.
pub(super) unsafe fn set_child(inner: *mut Node, i: usize, node: *mut Node) {
    // SAFETY: the caller's.
    unsafe {
        match (*inner).shape {
            Shape::NarrowInner => (*inner.cast::<NarrowInner>()).children[i] = node,
            _ => (*inner.cast::<WideInner>()).children[i] = node,
        }
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
/// Narrow keys count in the smallest unit that spans them all, which has to divide every key: keys are chosen as round
/// as they can be ([`super::split::roundest`]), so that it usually does.
pub(super) fn fit(children: &[Child]) -> Option<Fit> {
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
pub(super) fn lay_out(pool: &mut Pool, fit: &Fit, children: &[Child], tick: u64) -> *mut Node {
    let node = pool.take(fit.shape, tick);
    // SAFETY: a new node is nobody else's, and large enough for the shape; every key of a narrow node and every slot
    // up to `len` is written below.
    unsafe {
        (*node).len = children.len() as u16;
        (*node).base = fit.base;
        (*node).shift = fit.shift;
        (*node).level = (*children[0].node).level + 1;
        if fit.shape == Shape::NarrowInner {
            let inner = node.cast::<NarrowInner>();
            (&raw mut (*inner).keys).write([PAD; KEYS]);
            for (i, child) in children.iter().enumerate() {
                let units = if i == 0 { 0 } else { (child.from - fit.base) >> fit.shift };
                (*inner).keys[i] = search::key(units as u32);
                (&raw mut (*inner).children).cast::<*mut Node>().add(i).write(child.node);
            }
        } else {
            let inner = node.cast::<WideInner>();
            for (i, child) in children.iter().enumerate() {
                (&raw mut (*inner).keys).cast::<usize>().add(i).write(child.from);
                (&raw mut (*inner).children).cast::<*mut Node>().add(i).write(child.node);
            }
        }
    }
    node
}

#[cfg(test)]
mod tests {
    use super::super::leaf;
    use super::*;
    use crate::handler::node::{Entry, find};

    /// A node over leaves of one range each, which start at these addresses and are two bytes long.
    fn over(pool: &mut Pool, starts: &[usize]) -> (Fit, *mut Node) {
        pool.stock(starts.len(), 1).unwrap();
        let children: Vec<Child> = (0..)
            .zip(starts)
            .map(|(i, &from)| {
                let code = ptr::without_provenance(8 * (i + 1));
                let entry = Entry { start: from, end: from + 2, birth: 1, code };
                Child { from, node: leaf::lay_out(pool, Shape::NarrowLeaf, &[entry], 1) }
            })
            .collect();
        let fit = fit(&children).expect("they are few");
        let node = lay_out(pool, &fit, &children, 1);
        (fit, node)
    }

    /// The distances at which one more bit of a unit is needed, and those beside them.
    #[test]
    fn keys_that_just_fit_lead_to_their_children() {
        let mut pool = Pool::new();
        for shift in 0..12 {
            let unit = 1_usize << shift;
            let most = MAX_OFFSET as usize * unit;
            for span in [most - 2 * unit, most - unit, most, most + unit, most + 2 * unit] {
                for second in [unit, 2 * unit, 0x7000_0000_0000] {
                    let starts = [second - unit / 2, second + unit, second + span].map(|start| start & !(unit - 1));
                    if starts[0] + 2 > starts[1] {
                        continue;
                    }
                    let (fit, node) = over(&mut pool, &starts);
                    let what = format!("{starts:#x?} in {:?} of unit 2^{}", fit.shape, fit.shift);
                    for (i, start) in starts.into_iter().enumerate() {
                        for pc in [start, start + 1] {
                            // SAFETY: the nodes are this test's, and never freed.
                            let found = unsafe { find(node, pc) }.map(|entry| entry.code.addr());
                            assert_eq!(found, Some(8 * (i + 1)), "{pc:#x} of {what}");
                        }
                        // SAFETY: as above.
                        let behind = unsafe { find(node, start + 2) };
                        assert!(behind.is_none_or(|entry| entry.start == start + 2), "{what}");
                    }
                }
            }
        }
    }
}
