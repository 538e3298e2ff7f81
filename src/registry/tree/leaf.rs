//! Leaves, as the writer sees them: reading one out, laying one out, and changing one that is not published yet.

use super::node::{Link, Tree};
use crate::handler::node::{
    Entry, NARROW_RANGES, NarrowLeaf, NarrowSlot, Node, Shape, WIDE_RANGES, WideLeaf, WideSlot,
};
use crate::handler::search::{KEYS, MAX_OFFSET, PAD};
use crate::sync::Ordering;
use crate::sync::unmodelled::{AtomicU32, AtomicUsize};
use core::ptr;

/// What the ranges of a leaf are gathered in while it is rearranged: two leaves' worth.
pub(super) type Entries = super::Buffer<Entry, { 2 * KEYS }>;

/// A leaf that can be read.
#[derive(Clone, Copy)]
pub(super) enum LeafRef<'t> {
    Narrow(&'t NarrowLeaf),
    Wide(&'t WideLeaf),
}

impl<'t> LeafRef<'t> {
    fn head(self) -> &'t Node {
        match self {
            Self::Narrow(leaf) => &leaf.node,
            Self::Wide(leaf) => &leaf.node,
        }
    }

    pub(super) fn len(self) -> usize {
        usize::from(self.head().len)
    }

    /// The range in slot `i`.
    ///
    /// # Panics
    /// If the slot is not in use.
    pub(super) fn entry(self, i: usize) -> Entry {
        assert!(i < self.len());
        match self {
            Self::Narrow(leaf) => leaf.entry(i),
            Self::Wide(leaf) => leaf.entry(i),
        }
    }

    /// How many ranges start at or before `address`.
    pub(super) fn starts_up_to(self, address: usize) -> usize {
        match self {
            // Unlike a handler's, this search has to tell an address below the window from one above it.
            Self::Narrow(leaf) if address < leaf.node.base => 0,
            Self::Narrow(leaf) if address - leaf.node.base > MAX_OFFSET as usize => self.len(),
            Self::Narrow(leaf) => {
                let rank = leaf.rank(address);
                rank + usize::from(leaf.start(rank) <= address)
            }
            Self::Wide(leaf) => {
                let rank = leaf.rank(address);
                rank + usize::from(leaf.starts[rank] <= address)
            }
        }
    }

    /// All ranges but those in the slots whose bits are set.
    pub(super) fn entries_but(self, removed: u64) -> impl Iterator<Item = Entry> + use<'t> {
        (0..self.len()).filter(move |i| removed & 1 << i == 0).map(move |i| self.entry(i))
    }

    /// Hides the range in slot `i` of a published leaf: what a removal does when there is no memory for a new leaf.
    ///
    /// A single store makes the range empty, for every lookup that begins after the removal returned; Relaxed, since
    /// whatever orders such a lookup after the removal orders this store too. Owned snapshots that share the leaf lose
    /// sight of it as well. The payload stays until the leaf goes.
    pub(super) fn hide(self, i: usize) {
        match self {
            Self::Narrow(leaf) => leaf.slots[i].len.store(0, Ordering::Relaxed),
            Self::Wide(leaf) => leaf.slots[i].end.store(leaf.starts[i], Ordering::Relaxed),
        }
    }

    /// Whether one more range fits in: narrow, nothing removed, room, and inside the window.
    pub(super) fn has_room_for(self, removed: u64, entry: &Entry) -> bool {
        let Self::Narrow(leaf) = self else { return false };
        self.len() < NARROW_RANGES && removed == 0 && fits(entry, leaf.node.base, leaf.node.birth_base)
    }
}

/// Whether these ranges, ascending, fit in a leaf, and of which shape.
pub(super) fn shape_for(entries: &[Entry]) -> Option<Shape> {
    let first = entries.first()?;
    let birth_base = entries.iter().map(|e| e.birth).min()?;
    let narrow = entries.iter().all(|e| fits(e, first.start, birth_base));
    match entries.len() {
        ..=NARROW_RANGES if narrow => Some(Shape::NarrowLeaf),
        ..=WIDE_RANGES => Some(Shape::WideLeaf),
        _ => None,
    }
}

/// Whether a narrow leaf with a window that begins at `window` can have this range.
#[inline]
fn fits(entry: &Entry, window: usize, birth_base: u64) -> bool {
    entry.start >= window
        && entry.end - window <= MAX_OFFSET as usize
        && entry.birth >= birth_base
        && entry.birth - birth_base <= u64::from(u32::MAX)
}

/// Lays `entries` out in a new leaf of a shape that [`shape_for`] allows.
pub(super) fn lay_out<'w>(tree: &mut Tree<'w>, shape: Shape, entries: &[Entry]) -> Link<'w> {
    let link = tree.make(shape);
    if let Some(leaf) = tree.own::<NarrowLeaf>(link) {
        leaf.node.len = entries.len() as u16;
        // The window begins at the first range: ranges above are likelier to come than ranges below.
        leaf.node.base = entries[0].start;
        leaf.node.birth_base = entries.iter().map(|e| e.birth).min().unwrap_or(0);
        leaf.starts = [PAD; KEYS];
        *leaf.slots[NARROW_RANGES].len.get_mut() = 0;
        for (i, entry) in entries.iter().enumerate() {
            leaf.set(i, entry);
        }
    } else if let Some(leaf) = tree.own::<WideLeaf>(link) {
        leaf.node.len = entries.len() as u16;
        for (i, entry) in entries.iter().enumerate() {
            leaf.starts[i] = entry.start;
            leaf.slots[i] = WideSlot { code: entry.code, end: AtomicUsize::new(entry.end), birth: entry.birth };
        }
    }
    link
}

/// Copies a published leaf with one more range, in slot `at`, which it [has room for](LeafRef::has_room_for). `None` if it
/// is a wide one.
///
/// By the column: to read all ranges out and lay them out anew makes a registration and its removal take 2.2 times as long
/// among 16 ranges, and 2.9 times among 1,000.
pub(super) fn copy_inserting<'w>(tree: &mut Tree<'w>, old: Link<'w>, at: usize, entry: &Entry) -> Option<Link<'w>> {
    let (link, new, old) = tree.make_from::<NarrowLeaf>(old)?;
    new.node.copy(&old.node);
    new.node.len += 1;
    let len = usize::from(old.node.len);
    // All of the keys: those that are not used matter too.
    new.starts[..at].copy_from_slice(&old.starts[..at]);
    new.starts[at + 1..].copy_from_slice(&old.starts[at..NARROW_RANGES]);
    copy_slots(&old.slots[..at], &mut new.slots[..at]);
    copy_slots(&old.slots[at..len], &mut new.slots[at + 1..=len]);
    *new.slots[NARROW_RANGES].len.get_mut() = 0;
    new.set(at, entry);
    Some(link)
}

/// Copies a published leaf without the range in slot `at`. `None` if it is a wide one. By the column, as
/// [`copy_inserting`].
pub(super) fn copy_removing<'w>(tree: &mut Tree<'w>, old: Link<'w>, at: usize) -> Option<Link<'w>> {
    let (link, new, old) = tree.make_from::<NarrowLeaf>(old)?;
    new.node.copy(&old.node);
    new.node.len -= 1;
    let len = usize::from(new.node.len);
    // All of the keys: those that are not used matter too.
    new.starts[..at].copy_from_slice(&old.starts[..at]);
    new.starts[at..NARROW_RANGES].copy_from_slice(&old.starts[at + 1..]);
    new.starts[NARROW_RANGES] = PAD;
    copy_slots(&old.slots[..at], &mut new.slots[..at]);
    copy_slots(&old.slots[at + 1..=len], &mut new.slots[at..len]);
    *new.slots[NARROW_RANGES].len.get_mut() = 0;
    Some(link)
}

/// Copies slots of a published leaf.
#[inline]
fn copy_slots(from: &[NarrowSlot], to: &mut [NarrowSlot]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: as many are written as there are, in another node. Their lengths are atomic, but only the holder of the
    // writer lock stores to those of published leaves, as we are (W1).
    unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to.as_mut_ptr(), to.len()) };
}

impl NarrowLeaf {
    /// Writes slot `i`. The range [`fits`].
    fn set(&mut self, i: usize, entry: &Entry) {
        self.starts[i] = entry.start.wrapping_sub(self.node.base) as u32;
        let (birth, len) = ((entry.birth - self.node.birth_base) as u32, (entry.end - entry.start) as u32);
        self.slots[i] = NarrowSlot { code: entry.code, birth, len: AtomicU32::new(len) };
    }

    /// Puts a range into slot `at`, where its start belongs, of a leaf that [has room for](LeafRef::has_room_for) it.
    pub(super) fn insert(&mut self, at: usize, entry: &Entry) {
        let moved = at..=usize::from(self.node.len);
        self.starts[moved.clone()].rotate_right(1);
        self.slots[moved].rotate_right(1);
        self.node.len += 1;
        self.set(at, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{List, Pool};
    use super::*;
    use crate::handler::node::NodeRef;

    const START: usize = 1 << (usize::BITS - 2);

    fn range(i: usize) -> Entry {
        let start = START + i * 0x1_0001;
        Entry {
            start,
            end: start + 0x1_0000 - i,
            birth: 1_000_000_000_000 - (i as u64) * 7,
            code: ptr::without_provenance(usize::MAX - 7 - i * 8),
        }
    }

    fn same(a: &Entry, b: &Entry) -> bool {
        (a.start, a.end, a.birth, a.code) == (b.start, b.end, b.birth, b.code)
    }

    /// The ranges of a narrow leaf, and nothing past them that a search could find.
    fn check(node: NodeRef<'_>, expected: &[Entry]) {
        let narrow = node.get::<NarrowLeaf>().expect("a narrow leaf");
        let leaf = LeafRef::Narrow(narrow);
        assert_eq!(leaf.len(), expected.len());
        for (i, e) in expected.iter().enumerate() {
            assert!(same(&leaf.entry(i), e), "slot {i} of {}", expected.len());
            assert_eq!(leaf.starts_up_to(e.start), i + 1);
            assert_eq!(leaf.starts_up_to(e.start - 1), i);
            assert!(node.find(e.start).is_some_and(|found| same(&found, e)));
        }
        assert!(narrow.starts[expected.len()..].iter().all(|key| *key == PAD), "keys past {}", expected.len());
        assert_eq!(narrow.slots[NARROW_RANGES].len.load(Ordering::Relaxed), 0);
        for pc in [0, 1, narrow.node.base - 1, narrow.node.base.wrapping_add(MAX_OFFSET as usize + 1), usize::MAX] {
            assert!(node.find(pc).is_none(), "{pc:#x}");
        }
        // An address whose distance from the base has the bits of the padding.
        let like_padding = narrow.node.base.wrapping_add(PAD as usize);
        for turn in [0_u64, 1 << 32, 5 << 32] {
            assert!(node.find(like_padding.wrapping_add(turn as usize)).is_none());
        }
    }

    /// Does something with the tree of a tick, and publishes it.
    fn edit(pool: &mut Pool, root: *mut Node, tick: u64, change: impl FnOnce(&mut Tree<'_>)) -> *mut Node {
        let mut retired = List::new();
        pool.reserve(1, 0).unwrap();
        // SAFETY: the nodes are this test's.
        let mut tree = unsafe { Tree::new(pool, &mut retired, root, tick) };
        change(&mut tree);
        let root = tree.finish();
        while let Some(node) = retired.pop() {
            assert_eq!(node.death(), tick);
            // Used again as they are: what is left in a node must not matter.
            // SAFETY: nobody reads what this test retired.
            pool.put(unsafe { node.into_free() });
        }
        root
    }

    #[test]
    fn a_copy_has_one_range_more_or_less_wherever_it_is() {
        let mut pool = Pool::new();
        for len in 1..NARROW_RANGES {
            let all: Vec<Entry> = (0..=len).map(range).collect();
            for at in 0..=len {
                let mut without = all.clone();
                let one = without.remove(at);
                // The window begins where the first range of all does, wherever the new one goes.
                let whole = edit(&mut pool, ptr::null_mut(), 1, |tree| {
                    let leaf = lay_out(tree, shape_for(&all).unwrap(), &all);
                    check(tree.get(leaf), &all);
                    tree.set_root(Some(leaf));
                });
                let less = edit(&mut pool, whole, 2, |tree| {
                    let old = tree.root().unwrap();
                    let less = copy_removing(tree, old, at).unwrap();
                    check(tree.get(less), &without);
                    check(tree.get(old), &all);
                    assert!(tree.leaf(less).has_room_for(0, &one));
                    tree.discard(old);
                    tree.set_root(Some(less));
                });
                edit(&mut pool, less, 3, |tree| {
                    let old = tree.root().unwrap();
                    let more = copy_inserting(tree, old, at, &one).unwrap();
                    check(tree.get(more), &all);
                    check(tree.get(old), &without);
                    assert_eq!((tree.is_new(old), tree.is_new(more)), (false, true));
                    [more, old].into_iter().for_each(|leaf| tree.discard(leaf));
                    tree.set_root(None);
                });
            }
        }
    }

    #[test]
    fn a_published_node_cannot_be_written() {
        let mut pool = Pool::new();
        let lay_out = |tree: &mut Tree<'_>| {
            let leaf = lay_out(tree, Shape::NarrowLeaf, &[range(0)]);
            assert!(tree.own::<WideLeaf>(leaf).is_none(), "of another shape");
            assert!(tree.own::<NarrowLeaf>(leaf).is_some());
            tree.set_root(Some(leaf));
        };
        let root = edit(&mut pool, ptr::null_mut(), 1, lay_out);
        edit(&mut pool, root, 2, |tree| {
            let leaf = tree.root().unwrap();
            assert!(tree.own::<NarrowLeaf>(leaf).is_none());
            tree.discard(leaf);
        });
    }

    #[test]
    fn what_does_not_fit_a_narrow_leaf_makes_a_wide_one() {
        let shape = |change: &dyn Fn(&mut [Entry])| {
            let mut entries: Vec<Entry> = (0..3).map(range).collect();
            change(&mut entries);
            shape_for(&entries).unwrap()
        };
        assert_eq!(shape(&|_| ()), Shape::NarrowLeaf);
        if let Some(end) = START.checked_add(MAX_OFFSET as usize) {
            assert_eq!(shape(&|e| e[2].end = end), Shape::NarrowLeaf);
            assert_eq!(shape(&|e| e[2].end = end + 1), Shape::WideLeaf);
        }
        assert_eq!(shape(&|e| e[1].birth = e[2].birth + u64::from(u32::MAX)), Shape::NarrowLeaf);
        assert_eq!(shape(&|e| e[1].birth = e[2].birth + u64::from(u32::MAX) + 1), Shape::WideLeaf);
        let full: Vec<Entry> = (0..=NARROW_RANGES).map(range).collect();
        assert_eq!(shape_for(&full[..NARROW_RANGES]), Some(Shape::NarrowLeaf));
        assert_eq!(shape_for(&full), None);
    }

    #[test]
    fn all_leaves_are_of_one_size() {
        assert!(size_of::<WideLeaf>() <= size_of::<NarrowLeaf>());
        assert!(size_of::<NarrowLeaf>() - size_of::<WideLeaf>() < 64 || WIDE_RANGES == KEYS);
    }
}
