//! One step from the tree of a tick to the tree of the next.

use super::inner::{self, Child, Children};
use super::leaf::{self, Entries};
use super::path::{LEVELS, Leaves, Path, height, leaves};
use super::pool::{List, Pool, book, bytes_of};
use super::split::{Growth, roundest, split};
use crate::handler::node::{Entry, Node, Shape};
use crate::handler::search::KEYS;
use crate::sync::NoMemory;
use core::ops::Range;
use core::ptr;

/// A node with fewer slots in use is merged with a neighbour, if the result leaves room for growth.
const SPARSE: usize = KEYS / 4;
/// Merged nodes have at most so many slots in use.
const MERGED: usize = KEYS * 3 / 4;

/// A full leaf and a neighbour share their ranges if they have at most so many in all: an eighth is left for growth.
const SHARED: usize = KEYS * 2 * 7 / 8;

/// What becomes of one child (or two neighbours) of an inner node: `count` children from `at` on are replaced.
struct Change {
    /// None: from the child that the path goes through.
    at: Option<usize>,
    count: usize,
    with: [Child; 2],
    len: usize,
}

/// Where a range is, in the tree that it was located in.
pub(crate) struct Place {
    path: Path,
    slot: usize,
}

impl Place {
    /// To be filled in by [`Edit::locate`].
    #[inline]
    pub(crate) fn new() -> Self {
        Self { path: Path::new(), slot: 0 }
    }
}

/// Sets aside what one removal takes in a tree of this height.
pub(crate) fn stock_removal(pool: &mut Pool, height: usize) -> Result<(), NoMemory> {
    pool.stock(LEAVES_TO_REMOVE, inners_to_remove(height))
}

/// A removal makes one leaf, copied or merged.
const LEAVES_TO_REMOVE: usize = 2;

/// A removal makes one inner node a level, or two where keys do not fit the shape they had.
const fn inners_to_remove(height: usize) -> usize {
    2 * height + 1
}

/// A tree in the making.
pub(crate) struct Edit<'p> {
    pool: &'p mut Pool,
    root: *mut Node,
    tick: u64,
    /// What the new tree no longer has.
    retired: &'p mut List,
}

/// Everything here dereferences nodes of the tree being edited.
///
/// # Invariant
/// The caller of [`Edit::new`] holds the writer lock for as long as the edit lives, so the tree is alive and nobody
/// else changes it; nodes born at `tick` are the edit's own.
impl<'p> Edit<'p> {
    /// Starts from the tree `root`, towards the one of `tick`. What that no longer has goes on an empty list.
    ///
    /// # Safety
    /// The caller holds the writer lock of the registry that `root` and `pool` belong to while the edit lives, and no
    /// published node was born at `tick`.
    pub(crate) unsafe fn new(pool: &'p mut Pool, retired: &'p mut List, root: *mut Node, tick: u64) -> Self {
        Self { pool, root, tick, retired }
    }

    /// Sets aside what one insertion takes, and what a removal takes after it.
    pub(crate) fn stock(&mut self) -> Result<(), NoMemory> {
        // An insertion splits at most every node of a path, after moving a boundary has done so once, and adds a level
        // each time.
        // SAFETY: the invariant of Edit.
        let height = unsafe { height(self.root) };
        if height + 2 > LEVELS {
            // As many ranges as make such a tree do not fit the address space.
            return Err(NoMemory { bytes: bytes_of(Shape::NarrowInner) });
        }
        self.pool.stock(2 + LEAVES_TO_REMOVE, 4 * height + 2 + inners_to_remove(height + 2))
    }

    /// Adds a range, which is not empty; the range it overlaps if there is one.
    ///
    /// O(log n). The pool was [`stock`](Self::stock)ed, and nothing in the tree is hidden.
    pub(crate) fn insert(&mut self, entry: &Entry) -> Result<(), Range<usize>> {
        if self.root.is_null() {
            self.root = leaf::lay_out(self.pool, shape_of_one(entry), &[*entry], self.tick);
            return Ok(());
        }
        let mut path = Path::new();
        self.go_to(&mut path, entry.start);
        // SAFETY: the invariant of Edit.
        let at = unsafe { leaf::starts_up_to(path.leaf, entry.start) };
        let next = self.neighbours(&path, at, entry)?;
        if self.make_way(&path, entry.end, next) {
            self.go_to(&mut path, entry.start);
        }
        // SAFETY: as above.
        unsafe {
            let old = path.leaf;
            if !leaf::has_room_for(old, entry) {
                self.insert_rearranging(&path, entry);
            } else if book(old).birth == self.tick {
                leaf::insert(old, at, entry);
            } else {
                let fresh = leaf::copy_inserting(self.pool, old, at, entry, self.tick);
                self.discard(old);
                self.relink(path.steps.as_slice(), fresh);
            }
        }
        Ok(())
    }

    /// The rest of [`insert`](Self::insert) where the leaf cannot take the range as it is.
    #[cold]
    fn insert_rearranging(&mut self, path: &Path, entry: &Entry) {
        let mut entries = Entries::new();
        // SAFETY: the invariant of Edit.
        unsafe {
            leaf::live_entries(path.leaf, &mut entries);
            let at = entries.as_slice().partition_point(|e| e.start < entry.start);
            entries.insert(at, *entry);
            let growth = path.growth(path.steps.len(), at, entries.len());
            let shared = self.share(path, entries.as_slice(), growth);
            self.discard(path.leaf);
            let change = shared.unwrap_or_else(|| self.leaves_of(entries.as_slice(), growth));
            self.climb(path, change);
        }
    }

    /// Two leaves in place of the path's, which is to have `entries`, and a neighbour, if they are too many for one
    /// leaf and the neighbour has room: splitting less often keeps leaves fuller. At either end of the tree leaves are
    /// left full instead.
    fn share(&mut self, path: &Path, entries: &[Entry], growth: Growth) -> Option<Change> {
        if !matches!(growth, Growth::Inside) || leaf::shape_for(entries).is_some() {
            return None;
        }
        let (parent, i) = *path.steps.as_slice().last()?;
        // SAFETY: the invariant of Edit.
        unsafe {
            for (left, sibling) in siblings(parent, i) {
                let sibling = inner::child(parent, sibling).node;
                if entries.len() + usize::from((*sibling).len) > SHARED {
                    continue;
                }
                let mut both = Entries::new();
                if left == i {
                    both.extend(entries);
                }
                leaf::live_entries(sibling, &mut both);
                if left != i {
                    both.extend(entries);
                }
                let (first, second) = both.as_slice().split_at(both.len() / 2);
                let (Some(a), Some(b)) = (leaf::shape_for(first), leaf::shape_for(second)) else { continue };
                let from = roundest(first[first.len() - 1].end, second[0].start);
                let first = leaf::lay_out(self.pool, a, first, self.tick);
                let second = leaf::lay_out(self.pool, b, second, self.tick);
                self.discard(sibling);
                let with = [Child { from: inner::child(parent, left).from, node: first }, Child { from, node: second }];
                return Some(Change { at: Some(left), count: 2, with, len: 2 });
            }
        }
        None
    }

    /// Finds the range that starts at `start` and was born at `birth`; false if there is none.
    #[inline]
    pub(crate) fn locate(&self, start: usize, birth: u64, place: &mut Place) -> bool {
        if self.root.is_null() {
            return false;
        }
        let Place { path, slot } = place;
        self.go_to(path, start);
        // SAFETY: the invariant of Edit.
        unsafe {
            let Some(last) = leaf::starts_up_to(path.leaf, start).checked_sub(1) else { return false };
            *slot = last;
            let entry = leaf::entry(path.leaf, last);
            entry.start == start && entry.birth == birth && book(path.leaf).doomed & 1 << last == 0
        }
    }

    /// Takes a range out. The leaf it was in is retired, and its payload with it.
    ///
    /// O(log n). The place was located in this edit's tree, which is as it was published, and the pool was
    /// [`stock_removal`]ed for its height.
    pub(crate) fn remove(&mut self, place: &Place) {
        let path = &place.path;
        let old = path.leaf;
        // SAFETY: the invariant of Edit.
        unsafe {
            let sparse = usize::from((*old).len) <= SPARSE && path.steps.len() > 0;
            if (*old).shape == Shape::NarrowLeaf && book(old).doomed == 0 && (*old).len > 1 && !sparse {
                let fresh = leaf::copy_removing(self.pool, old, place.slot, self.tick);
                leaf::doom(old, place.slot);
                self.discard(old);
                self.relink(path.steps.as_slice(), fresh);
            } else {
                leaf::doom(old, place.slot);
                self.rewrite(path);
            }
        }
    }

    /// As [`remove`](Self::remove), but leaves the payload to the caller, who drops it once the leaf, which is returned, has
    /// been freed.
    pub(crate) fn take(&mut self, place: &Place) -> (*const Node, *const ()) {
        let (leaf, slot) = (place.path.leaf, place.slot);
        self.remove(place);
        // SAFETY: the invariant of Edit: retired is not freed.
        unsafe {
            book(leaf).doomed &= !(1 << slot);
            (leaf, leaf::entry(leaf, slot).code)
        }
    }

    /// Makes the range vanish without any memory; see [`leaf::hide`].
    pub(crate) fn hide(&mut self, place: &Place) {
        // SAFETY: the invariant of Edit.
        unsafe { leaf::hide(place.path.leaf, place.slot) };
    }

    /// Rewrites the first leaf that has hidden ranges without them. Returns how many it had; none if there is no such
    /// leaf.
    ///
    /// O(n / 64) to find one. The pool was [`stock_removal`]ed.
    pub(crate) fn sweep_one(&mut self) -> Option<usize> {
        // SAFETY: the invariant of Edit.
        unsafe {
            let leaf = leaves(self.root).find(|leaf| book(*leaf).doomed != 0)?;
            let mut path = Path::new();
            self.go_to(&mut path, leaf::entry(leaf, 0).start);
            debug_assert_eq!(path.leaf, leaf);
            self.rewrite(&path);
            Some(book(leaf).doomed.count_ones() as usize)
        }
    }

    /// The new root.
    pub(crate) fn finish(self) -> *mut Node {
        self.root
    }

    /// Takes back every node that was made. The old tree is as it was.
    pub(crate) fn abandon(mut self) {
        self.take_back(self.root);
        *self.retired = List::new();
    }

    fn take_back(&mut self, node: *mut Node) {
        // SAFETY: the invariant of Edit: the nodes born now are this edit's, and only they have children born now. An
        // insertion dooms nothing, so they own no payload.
        unsafe {
            if node.is_null() || book(node).birth != self.tick {
                return;
            }
            if !(*node).shape.is_leaf() {
                for i in 0..usize::from((*node).len) {
                    self.take_back(inner::child(node, i).node);
                }
            }
            self.pool.put(node);
        }
    }

    #[inline]
    fn go_to(&self, path: &mut Path, address: usize) {
        // SAFETY: the invariant of Edit.
        unsafe { path.go_to(self.root, address) }
    }

    /// Checks a new range, which belongs before slot `at` of the path's leaf, against those beside it. Returns where
    /// the next one starts.
    fn neighbours(&self, path: &Path, at: usize, new: &Entry) -> Result<Option<usize>, Range<usize>> {
        // SAFETY: the invariant of Edit.
        unsafe {
            // Everything left of this leaf ends where its own addresses begin (N3).
            if let Some(before) = at.checked_sub(1).map(|i| leaf::entry(path.leaf, i))
                && before.end > new.start
            {
                return Err(before.start..before.end);
            }
            let next = if at < usize::from((*path.leaf).len) {
                Some(leaf::entry(path.leaf, at))
            } else {
                Leaves::after(path).next().map(|leaf| leaf::entry(leaf, 0))
            };
            match next {
                Some(next) if next.start < new.end => Err(next.start..next.end),
                next => Ok(next.map(|n| n.start)),
            }
        }
    }

    /// Moves the boundary of the path's leaf up to let a range end at `end`, if it is lower (N3); true if it was.
    fn make_way(&mut self, path: &Path, end: usize, next: Option<usize>) -> bool {
        // The boundary is the key behind the path in the lowest node where there is one.
        // SAFETY: the invariant of Edit.
        unsafe {
            let steps = path.steps.as_slice();
            let Some(level) = steps.iter().rposition(|(node, i)| i + 1 < usize::from((**node).len)) else {
                return false;
            };
            let (node, i) = steps[level];
            let behind = inner::child(node, i + 1);
            if behind.from >= end {
                return false;
            }
            let from = roundest(end, next.unwrap_or(end));
            let change = Change { at: Some(i + 1), count: 1, with: [Child { from, ..behind }; 2], len: 1 };
            self.carry_up(path, level + 1, change, true);
            true
        }
    }

    /// Replaces the path's leaf by one with its live ranges only, merged with a neighbour when there are few.
    fn rewrite(&mut self, path: &Path) {
        let mut entries = Entries::new();
        // SAFETY: the invariant of Edit.
        unsafe {
            leaf::live_entries(path.leaf, &mut entries);
            let mut change = None;
            if let Some((parent, i)) = path.steps.as_slice().last().copied().filter(|_| entries.len() < SPARSE) {
                for (left, sibling) in siblings(parent, i) {
                    let sibling = inner::child(parent, sibling).node;
                    let mut merged = Entries::new();
                    if left == i {
                        merged.extend(entries.as_slice());
                    }
                    leaf::live_entries(sibling, &mut merged);
                    if left != i {
                        merged.extend(entries.as_slice());
                    }
                    let Some(shape) = leaf::shape_for(merged.as_slice()).filter(|_| merged.len() <= MERGED) else {
                        continue;
                    };
                    let node = leaf::lay_out(self.pool, shape, merged.as_slice(), self.tick);
                    self.discard(sibling);
                    let with = [Child { from: inner::child(parent, left).from, node }; 2];
                    change = Some(Change { at: Some(left), count: 2, with, len: 1 });
                    break;
                }
            }
            self.discard(path.leaf);
            let change = change.unwrap_or_else(|| self.leaves_of(entries.as_slice(), Growth::Inside));
            self.climb(path, change);
        }
    }

    /// One or two leaves of these ranges, or none.
    fn leaves_of(&mut self, entries: &[Entry], growth: Growth) -> Change {
        if entries.is_empty() {
            return Change { at: None, count: 1, with: [Child { from: 0, node: ptr::null_mut() }; 2], len: 0 };
        }
        if let Some(shape) = leaf::shape_for(entries) {
            return Change::replace(leaf::lay_out(self.pool, shape, entries, self.tick));
        }
        let (left, right) = entries.split_at(split(entries.len(), growth, |part| {
            let (left, right) = entries.split_at(part);
            leaf::shape_for(left).is_some() && leaf::shape_for(right).is_some()
        }));
        let from = roundest(left[left.len() - 1].end, right[0].start);
        let mut half = |entries: &[Entry]| {
            let shape = leaf::shape_for(entries).expect("half of what is one too many for a leaf fits in one");
            leaf::lay_out(self.pool, shape, entries, self.tick)
        };
        let with = [Child { from: 0, node: half(left) }, Child { from, node: half(right) }];
        Change { at: None, count: 1, with, len: 2 }
    }

    /// Carries a change of the path's leaf up to the root. Its keys are those of the children it replaces.
    fn climb(&mut self, path: &Path, change: Change) {
        self.carry_up(path, path.steps.len(), change, false);
    }

    /// Has what comes up these steps, from the root on, lead to `node`.
    fn relink(&mut self, steps: &[(*mut Node, usize)], mut node: *mut Node) {
        for (parent, i) in steps.iter().rev() {
            // SAFETY: the invariant of Edit.
            unsafe {
                if book(*parent).birth == self.tick {
                    // So is everything above it, and linked.
                    return inner::set_child(*parent, *i, node);
                }
                node = inner::copy_with(self.pool, *parent, *i, node, self.tick);
                self.retire(*parent);
            }
        }
        self.root = node;
    }

    /// Carries a change of what the first `steps` of a path lead to up to the root. With `new_keys` it brings keys.
    fn carry_up(&mut self, path: &Path, steps: usize, mut change: Change, mut new_keys: bool) {
        let steps = &path.steps.as_slice()[..steps];
        // SAFETY: the invariant of Edit, throughout.
        unsafe {
            for level in (0..steps.len()).rev() {
                let (node, i) = steps[level];
                let at = change.at.unwrap_or(i);
                if change.count == 1 && change.len == 1 && !new_keys {
                    return self.relink(&steps[..=level], change.with[0].node);
                }
                let mut children = Children::new();
                inner::children(node, &mut children);
                if change.len > 0 && !new_keys {
                    change.with[0].from = children.as_slice()[at].from;
                }
                new_keys = false;
                children.replace(at, change.count, &change.with[..change.len]);
                let above = level.checked_sub(1).map(|l| steps[l]);
                self.discard(node);
                // Of two new children at the right end, the second is where growth is expected.
                let grown = if at == 0 { 0 } else { at + change.len.saturating_sub(1) };
                let growth = path.growth(level, grown, children.len());
                change = self.inners_of(children, growth, above);
            }
            self.root = match change.len {
                0 => ptr::null_mut(),
                1 => self.without_idle_levels(change.with[0].node),
                _ => {
                    let fit = inner::fit(&change.with).expect("two children fit in a node");
                    inner::lay_out(self.pool, &fit, &change.with, self.tick)
                }
            };
        }
    }

    /// One or two inner nodes of these children, or none, or one merged with a neighbour below `above`.
    fn inners_of(&mut self, children: Children, growth: Growth, above: Option<(*mut Node, usize)>) -> Change {
        let all = children.as_slice();
        if all.is_empty() {
            return Change { at: None, count: 1, with: [Child { from: 0, node: ptr::null_mut() }; 2], len: 0 };
        }
        if let Some((parent, i)) = above.filter(|_| all.len() < SPARSE) {
            // SAFETY: the invariant of Edit.
            unsafe {
                for (left, sibling) in siblings(parent, i) {
                    let right = inner::child(parent, left + 1).from;
                    let sibling = inner::child(parent, sibling).node;
                    let mut merged = Children::new();
                    if left == i {
                        merged.extend(all);
                    }
                    inner::children(sibling, &mut merged);
                    if left != i {
                        merged.extend(all);
                    }
                    // The first child of the right one starts where the parent says.
                    let first_right = if left == i { all.len() } else { merged.len() - all.len() };
                    merged.as_mut_slice()[first_right].from = right;
                    let Some(fit) = inner::fit(merged.as_slice()).filter(|_| merged.len() <= MERGED) else {
                        continue;
                    };
                    let node = inner::lay_out(self.pool, &fit, merged.as_slice(), self.tick);
                    self.discard(sibling);
                    let with = [Child { from: inner::child(parent, left).from, node }; 2];
                    return Change { at: Some(left), count: 2, with, len: 1 };
                }
            }
        }
        if let Some(fit) = inner::fit(all) {
            return Change::replace(inner::lay_out(self.pool, &fit, all, self.tick));
        }
        let (left, right) = all.split_at(split(all.len(), growth, |part| {
            let (left, right) = all.split_at(part);
            inner::fit(left).is_some() && inner::fit(right).is_some()
        }));
        let from = right[0].from;
        let mut half = |children: &[Child]| {
            let fit = inner::fit(children).expect("half of what is one too many for a node fits in one");
            inner::lay_out(self.pool, &fit, children, self.tick)
        };
        let with = [Child { from: 0, node: half(left) }, Child { from, node: half(right) }];
        Change { at: None, count: 1, with, len: 2 }
    }

    /// An only child needs no parent.
    fn without_idle_levels(&mut self, root: *mut Node) -> *mut Node {
        let mut root = root;
        // SAFETY: the invariant of Edit.
        unsafe {
            while !(*root).shape.is_leaf() && (*root).len == 1 {
                let only = inner::child(root, 0).node;
                self.discard(root);
                root = only;
            }
        }
        root
    }

    /// Drops a node from the tree: back to the pool if this edit made it, else retired.
    ///
    /// # Safety
    /// The node is of this tree, and the caller takes it out.
    unsafe fn discard(&mut self, node: *mut Node) {
        // SAFETY: the caller's, and the invariant of Edit. An edit's own nodes own no payload: removals doom in nodes
        // that were published.
        unsafe {
            if book(node).birth == self.tick {
                self.pool.put(node);
            } else {
                self.retire(node);
            }
        }
    }

    /// Retires a node that was published.
    ///
    /// # Safety
    /// The node is of this tree, was not made by this edit, and the caller takes it out.
    unsafe fn retire(&mut self, node: *mut Node) {
        // SAFETY: the caller's, and the invariant of Edit.
        unsafe {
            book(node).death = self.tick;
            self.retired.push(node);
        }
    }
}

impl Change {
    /// One child becomes another, with the same key.
    fn replace(node: *mut Node) -> Self {
        Self { at: None, count: 1, with: [Child { from: 0, node }; 2], len: 1 }
    }
}

fn shape_of_one(entry: &Entry) -> Shape {
    leaf::shape_for(core::slice::from_ref(entry)).unwrap_or(Shape::WideLeaf)
}

/// The neighbours of child `i`, right one first, each with the left of the two.
///
/// # Safety
/// `parent` is an inner node that the caller may read.
unsafe fn siblings(parent: *const Node, i: usize) -> impl Iterator<Item = (usize, usize)> {
    // SAFETY: the caller's.
    let len = usize::from(unsafe { (*parent).len });
    let right = (i + 1 < len).then_some((i, i + 1));
    let left = i.checked_sub(1).map(|left| (left, left));
    right.into_iter().chain(left)
}
