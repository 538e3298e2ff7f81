//! One step from the tree of a tick to the tree of the next.

use super::buffer::Buffer;
use super::inner::{self, Child, Children};
use super::leaf::{self, Entries};
use super::list::List;
use super::node::{Kind, Link, Tree};
use super::path::{LEVELS, Path, Step};
use super::pool::{Pool, bytes_of};
use super::split::{Growth, most_aligned, split};
use crate::handler::node::{Entry, NarrowLeaf, Node, Shape};
use crate::handler::search::KEYS;
use crate::sync::NoMemory;
use core::ops::Range;

/// A node with fewer slots in use is merged with a neighbour, if the result leaves room for growth.
const SPARSE: usize = KEYS / 4;
/// Merged nodes have at most this many slots in use.
const MERGED: usize = KEYS * 3 / 4;

/// A full leaf and a neighbour share their ranges if they have at most this many in all: an eighth is left for growth.
const SHARED: usize = KEYS * 2 * 7 / 8;

/// What becomes of one child (or two neighbours) of an inner node: `count` children from `at` on are replaced.
struct Change<'w> {
    /// None: from the child that the path goes through.
    at: Option<usize>,
    count: usize,
    with: Buffer<Child<'w>, 2>,
}

impl<'w> Change<'w> {
    /// The child that the path goes through becomes these. The first one has the key of the child that it replaces.
    fn of_one(with: &[Child<'w>]) -> Self {
        Self::of(None, 1, with)
    }

    fn of(at: Option<usize>, count: usize, with: &[Child<'w>]) -> Self {
        let mut change = Self { at, count, with: Buffer::new() };
        change.with.extend(with);
        change
    }
}

/// Sets aside what one removal takes in a tree of this height.
#[inline]
pub(crate) fn reserve_removal(pool: &mut Pool, height: usize) -> Result<(), NoMemory> {
    pool.reserve(LEAVES_TO_REMOVE, inners_to_remove(height))
}

/// A removal makes one leaf, copied or merged.
const LEAVES_TO_REMOVE: usize = 2;

/// A removal makes one inner node a level, or two where keys do not fit the shape they had.
const fn inners_to_remove(height: usize) -> usize {
    2 * height + 1
}

/// A tree in the making, and how it is changed.
pub(crate) struct Edit<'w> {
    tree: Tree<'w>,
}

impl<'w> Edit<'w> {
    /// Starts from the tree `root`, towards the one of `tick`. What that no longer has goes on an empty list.
    ///
    /// # Safety
    /// While the edit lives, the caller holds the writer lock of the registry that `root` and `pool` belong to, and frees
    /// no node of it. No published node of it was born at `tick`.
    #[inline]
    pub(crate) unsafe fn new(pool: &'w mut Pool, retired: &'w mut List, root: *mut Node, tick: u64) -> Self {
        // SAFETY: the caller's.
        Self { tree: unsafe { Tree::new(pool, retired, root, tick) } }
    }

    /// How many levels of inner nodes there are.
    #[inline]
    pub(crate) fn height(&self) -> usize {
        self.tree.root().map_or(0, |root| usize::from(self.tree.get(root).head().level))
    }

    /// Sets aside what one insertion takes, and what a removal takes after it.
    #[inline]
    pub(crate) fn reserve(&mut self) -> Result<(), NoMemory> {
        // An insertion splits at most every node of a path, after moving a boundary has done so once, and adds a level
        // each time.
        let height = self.height();
        if height + 2 > LEVELS {
            // As many ranges as make such a tree do not fit the address space.
            return Err(NoMemory { bytes: bytes_of(Shape::NarrowInner) });
        }
        self.tree.reserve(2 + LEAVES_TO_REMOVE, 4 * height + 2 + inners_to_remove(height + 2))
    }

    /// Adds a range, which is not empty; the range it overlaps if there is one.
    ///
    /// O(log n). Nodes were [set aside](Self::reserve), and nothing in the tree is hidden.
    pub(crate) fn insert(&mut self, entry: &Entry) -> Result<(), Range<usize>> {
        let Some(root) = self.tree.root() else {
            // The first range of a registry.
            let only = self.leaves_of(&[*entry], Growth::Inside).with;
            self.tree.set_root(only.as_slice().first().map(|child| child.node));
            return Ok(());
        };
        let mut path = Path::at(root);
        path.go_to(&self.tree, entry.start);
        let at = self.tree.leaf(path.leaf).starts_up_to(entry.start);
        let next = self.neighbours(&path, at, entry)?;
        if self.make_way(&path, entry.end, next)
            && let Some(root) = self.tree.root()
        {
            // The same leaf as before, but by way of nodes that were replaced.
            path = Path::at(root);
            path.go_to(&self.tree, entry.start);
        }
        let old = path.leaf;
        // A batch finds most leaves as it made them, and writes in place; a single registration copies one.
        if !self.tree.leaf(old).has_room_for(self.tree.removed(old), entry) {
            self.insert_rearranging(&path, entry);
        } else if let Some(leaf) = self.tree.own::<NarrowLeaf>(old) {
            leaf.insert(at, entry);
        } else if let Some(fresh) = leaf::copy_inserting(&mut self.tree, old, at, entry) {
            self.tree.discard(old);
            self.relink(path.steps.as_slice(), fresh);
        }
        Ok(())
    }

    /// The rest of [`insert`](Self::insert) where the leaf cannot take the range as it is.
    #[cold]
    fn insert_rearranging(&mut self, path: &Path<'w>, entry: &Entry) {
        let mut entries = self.entries(path.leaf);
        let at = entries.as_slice().partition_point(|e| e.start < entry.start);
        entries.insert(at, *entry);
        let growth = path.growth(&self.tree, path.steps.len(), at, entries.len());
        // Ranges that are too many for one leaf are shared with a neighbour that has room: splitting less often keeps
        // leaves fuller. At either end of the tree leaves are left full instead, for there no ranges follow.
        let share = matches!(growth, Growth::Inside) && leaf::shape_for(entries.as_slice()).is_none();
        self.replace_leaf(path, entries, growth, share, |both| {
            let (first, second) = both.split_at(both.len() / 2);
            both.len() <= SHARED && leaf::shape_for(first).is_some() && leaf::shape_for(second).is_some()
        });
    }

    /// Takes out the range that starts at `start` and was born at `birth`. The leaf it was in is retired, and its payload
    /// with it. `None` if there is no such range; then nothing has changed.
    ///
    /// O(log n). The edit has changed nothing before, and [`reserve_removal`] set nodes aside.
    pub(crate) fn remove(&mut self, start: usize, birth: u64) -> Option<()> {
        self.at(start, birth, Self::remove_at)
    }

    /// As [`remove`](Self::remove), but leaves the payload to the caller, who drops it once the leaf, which is returned,
    /// has been freed.
    pub(crate) fn take(&mut self, start: usize, birth: u64) -> Option<(*const Node, *const ())> {
        self.at(start, birth, |edit, path, slot| {
            edit.remove_at(path, slot);
            edit.tree.unmark_removed(path.leaf, slot);
            (path.leaf.as_ptr().cast_const(), edit.tree.leaf(path.leaf).entry(slot).code)
        })
    }

    /// Makes the range that starts at `start` and was born at `birth` vanish without any memory; see
    /// [`leaf::LeafRef::hide`]. `None` if there is no such range.
    pub(crate) fn hide(&mut self, start: usize, birth: u64) -> Option<()> {
        self.at(start, birth, |edit, path, slot| {
            edit.tree.leaf(path.leaf).hide(slot);
            edit.tree.mark_removed(path.leaf, slot);
        })
    }

    /// Does something where the range is that starts at `start`, was born at `birth`, and is not hidden, if there is one.
    #[inline]
    fn at<R>(&mut self, start: usize, birth: u64, f: impl FnOnce(&mut Self, &Path<'w>, usize) -> R) -> Option<R> {
        let mut path = Path::at(self.tree.root()?);
        path.go_to(&self.tree, start);
        let leaf = self.tree.leaf(path.leaf);
        let slot = leaf.starts_up_to(start).checked_sub(1)?;
        let entry = leaf.entry(slot);
        let is_it = entry.start == start && entry.birth == birth && self.tree.removed(path.leaf) & 1 << slot == 0;
        is_it.then(|| f(self, &path, slot))
    }

    /// The range stays readable in the leaf that it was in, which keeps its payload alive as long as a reader may see it.
    fn remove_at(&mut self, path: &Path<'w>, slot: usize) {
        let old = path.leaf;
        let len = self.tree.leaf(old).len();
        // What is left of these is laid out anew: nothing, what may be merged with a neighbour, or what was hidden beside.
        let sparse = len <= SPARSE && path.steps.len() > 0;
        let copied = len > 1 && !sparse && self.tree.removed(old) == 0;
        let fresh = if copied { leaf::copy_removing(&mut self.tree, old, slot) } else { None };
        self.tree.mark_removed(old, slot);
        if let Some(fresh) = fresh {
            self.tree.discard(old);
            self.relink(path.steps.as_slice(), fresh);
        } else {
            self.rewrite(path);
        }
    }

    /// Rewrites the first leaf that has hidden ranges without them. Returns how many it had; none if there is no such
    /// leaf.
    ///
    /// O(n / 64) to find one. [`reserve_removal`] set nodes aside.
    pub(crate) fn sweep_one(&mut self) -> Option<usize> {
        let mut path = Path::at(self.tree.root()?);
        let has_hidden = |leaf| self.tree.removed(leaf) != 0;
        path.go_to_first(&self.tree, &has_hidden).then(|| {
            self.rewrite(&path);
            self.tree.removed(path.leaf).count_ones() as usize
        })
    }

    /// Retires the whole tree. Payloads go with its leaves that were registered at tick `newest` or before, and those
    /// that `take` does not take.
    pub(crate) fn clear(&mut self, newest: u64, take: &mut impl FnMut(*const ()) -> bool) {
        if let Some(root) = self.tree.root() {
            self.clear_below(root, newest, take);
        }
        self.tree.set_root(None);
    }

    fn clear_below(&mut self, node: Link<'w>, newest: u64, take: &mut impl FnMut(*const ()) -> bool) {
        match self.tree.get(node).kind() {
            Kind::Inner(inner) => {
                for i in 0..inner.len() {
                    self.clear_below(self.tree.child(node, i), newest, take);
                }
            }
            Kind::Leaf(leaf) => {
                for i in 0..leaf.len() {
                    let entry = self.tree.leaf(node).entry(i);
                    if self.tree.removed(node) & 1 << i == 0 && (entry.birth <= newest || !take(entry.code)) {
                        self.tree.mark_removed(node, i);
                    }
                }
            }
        }
        self.tree.discard(node);
    }

    /// The new root.
    #[inline]
    pub(crate) fn finish(self) -> *mut Node {
        self.tree.finish()
    }

    /// Takes back every node that was made. The old tree is as it was.
    pub(crate) fn abandon(self) {
        self.tree.abandon();
    }

    /// Checks a new range, which belongs before slot `at` of the path's leaf, against those beside it. Returns where
    /// the next one starts.
    fn neighbours(&self, path: &Path<'w>, at: usize, new: &Entry) -> Result<Option<usize>, Range<usize>> {
        let leaf = self.tree.leaf(path.leaf);
        // Everything left of this leaf ends where its own addresses begin (N3).
        if let Some(before) = at.checked_sub(1).map(|i| leaf.entry(i))
            && before.end > new.start
        {
            return Err(before.start..before.end);
        }
        let next = if at < leaf.len() { Some(leaf.entry(at)) } else { path.next_after(&self.tree) };
        match next {
            Some(next) if next.start < new.end => Err(next.start..next.end),
            next => Ok(next.map(|n| n.start)),
        }
    }

    /// Moves the boundary of the path's leaf up to let a range end at `end`, if it is lower (N3); true if it was.
    ///
    /// The boundary is the key after the path's child, in the deepest node that has one.
    fn make_way(&mut self, path: &Path<'w>, end: usize, next: Option<usize>) -> bool {
        let Some(level) = path.fork(&self.tree) else { return false };
        let Step { node, index } = path.steps.as_slice()[level];
        let right = index + 1;
        if self.tree.inner(node).from(right) >= end {
            return false;
        }
        // Up to where the next range starts every key would do.
        let child = Child { from: most_aligned(end, next.unwrap_or(end)), node: self.tree.child(node, right) };
        self.carry_up(path, level + 1, Change::of(Some(right), 1, &[child]), true);
        true
    }

    /// Replaces the path's leaf by one with its live ranges only, merged with a neighbour when there are few.
    fn rewrite(&mut self, path: &Path<'w>) {
        let entries = self.entries(path.leaf);
        let merge = entries.len() < SPARSE;
        self.replace_leaf(path, entries, Growth::Inside, merge, |both| {
            both.len() <= MERGED && leaf::shape_for(both).is_some()
        });
    }

    /// Replaces the path's leaf by leaves of these ranges; if it is to `join` them, together with those of a neighbour, if
    /// there is one such that all ranges of the two are `accepted`.
    fn replace_leaf(
        &mut self,
        path: &Path<'w>,
        entries: Entries,
        growth: Growth,
        join: bool,
        accepted: impl Fn(&[Entry]) -> bool,
    ) {
        let step = path.steps.as_slice().last().filter(|_| join);
        let read = |sibling, _| self.entries(sibling);
        let joined = step.and_then(|step| self.joined(*step, entries.as_slice(), read, accepted));
        self.tree.discard(path.leaf);
        let change = match joined {
            Some(Joined { left, sibling, all }) => {
                self.tree.discard(sibling);
                Change { at: Some(left), count: 2, ..self.leaves_of(all.as_slice(), Growth::Inside) }
            }
            None => self.leaves_of(entries.as_slice(), growth),
        };
        self.carry_up(path, path.steps.len(), change, false);
    }

    /// What is in the child that a step goes to, together with what is in a neighbour of it, the right one rather than the
    /// left; `None` if neither is `accepted`.
    ///
    /// `read` is given a node and the least address its ranges may start at.
    fn joined<X: Copy, const N: usize>(
        &self,
        step: Step<'w>,
        own: &[X],
        read: impl Fn(Link<'w>, usize) -> Buffer<X, N>,
        accepted: impl Fn(&[X]) -> bool,
    ) -> Option<Joined<'w, X, N>> {
        let Step { node: parent, index } = step;
        // Siblings only: the ancestors of a cousin would have to be copied, too.
        let right = Some(index + 1).filter(|right| *right < self.tree.inner(parent).len());
        [right, index.checked_sub(1)].into_iter().flatten().find_map(|other| {
            let sibling = self.tree.child(parent, other);
            let theirs = read(sibling, self.tree.inner(parent).from(other));
            let (first, second) = if index < other { (own, theirs.as_slice()) } else { (theirs.as_slice(), own) };
            let mut all = Buffer::new();
            all.extend(first);
            all.extend(second);
            accepted(all.as_slice()).then_some(Joined { left: index.min(other), sibling, all })
        })
    }

    /// The ranges of a leaf that were not removed.
    fn entries(&self, leaf: Link<'w>) -> Entries {
        let mut entries = Entries::new();
        self.tree.leaf(leaf).entries_but(self.tree.removed(leaf)).for_each(|entry| entries.push(entry));
        entries
    }

    /// The children of an inner node, whose ranges start at `from` or above.
    fn children(&self, node: Link<'w>, from: usize) -> Children<'w> {
        let (mut children, inner) = (Children::new(), self.tree.inner(node));
        for i in 0..inner.len() {
            // The parent alone knows the key of the first.
            let from = if i == 0 { from } else { inner.from(i) };
            children.push(Child { from, node: self.tree.child(node, i) });
        }
        children
    }

    /// One or two leaves of these ranges, or none.
    fn leaves_of(&mut self, entries: &[Entry], growth: Growth) -> Change<'w> {
        // Any key between the two will do.
        let key = |left: &Entry, right: &Entry| most_aligned(left.end, right.start);
        self.nodes_of(entries, growth, leaf::shape_for, leaf::lay_out, key)
    }

    /// One or two inner nodes of these children, or none, or one merged with a neighbour below `above`.
    fn inners_of(&mut self, children: Children<'w>, growth: Growth, above: Option<Step<'w>>) -> Change<'w> {
        let merge = above.filter(|_| (1..SPARSE).contains(&children.len()));
        let read = |sibling, from| self.children(sibling, from);
        let accepted = |both: &[Child<'w>]| both.len() <= MERGED && inner::fit(both).is_some();
        let joined = merge.and_then(|step| self.joined(step, children.as_slice(), read, accepted));
        if let Some(Joined { left, sibling, all }) = joined {
            self.tree.discard(sibling);
            return Change { at: Some(left), count: 2, ..self.inners_of(all, growth, None) };
        }
        self.nodes_of(children.as_slice(), growth, inner::fit, inner::lay_out, |_, right| right.from)
    }

    /// One node of these slots, or two if they do not fit in one, or none if there are none.
    fn nodes_of<X, F>(
        &mut self,
        slots: &[X],
        growth: Growth,
        fit: impl Fn(&[X]) -> Option<F>,
        lay_out: impl Fn(&mut Tree<'w>, F, &[X]) -> Link<'w>,
        key: impl Fn(&X, &X) -> usize,
    ) -> Change<'w> {
        if slots.is_empty() {
            return Change::of_one(&[]);
        }
        if let Some(fit) = fit(slots) {
            return Change::of_one(&[Child { from: 0, node: lay_out(&mut self.tree, fit, slots) }]);
        }
        let (left, right) = slots.split_at(split(slots.len(), growth, |part| {
            let (left, right) = slots.split_at(part);
            fit(left).is_some() && fit(right).is_some()
        }));
        let from = key(&left[left.len() - 1], &right[0]);
        let [left, right] = [left, right].map(|half| {
            let fit = fit(half).expect("half of what is one too many for a node fits in one");
            lay_out(&mut self.tree, fit, half)
        });
        Change::of_one(&[Child { from: 0, node: left }, Child { from, node: right }])
    }

    /// Has what comes up these steps, from the root on, lead to `node`.
    #[inline]
    fn relink(&mut self, steps: &[Step<'w>], mut node: Link<'w>) {
        for step in steps.iter().rev() {
            // A published node is never changed (N1): its copy leads to the new node instead.
            if self.tree.is_new(step.node) {
                // So is everything above it, and linked.
                return inner::set_child(&mut self.tree, step.node, step.index, node);
            }
            node = inner::copy_with(&mut self.tree, step.node, step.index, node);
            self.tree.discard(step.node);
        }
        self.tree.set_root(Some(node));
    }

    /// Carries a change of what the first `steps` of a path lead to up to the root. Its first child has the key of the one
    /// that it replaces, unless it is to have a `new_key`.
    fn carry_up(&mut self, path: &Path<'w>, steps: usize, mut change: Change<'w>, mut new_key: bool) {
        let steps = &path.steps.as_slice()[..steps];
        for (level, step) in steps.iter().enumerate().rev() {
            if let (1, [only], false) = (change.count, change.with.as_slice(), new_key) {
                // From here on up nothing but pointers changes.
                return self.relink(&steps[..=level], only.node);
            }
            let at = change.at.unwrap_or(step.index);
            let from = level.checked_sub(1).map_or(0, |l| self.tree.inner(steps[l].node).from(steps[l].index));
            let mut children = self.children(step.node, from);
            if !new_key && let Some(first) = change.with.as_mut_slice().first_mut() {
                first.from = children.as_slice()[at].from;
            }
            new_key = false;
            children.replace(at, change.count, change.with.as_slice());
            self.tree.discard(step.node);
            // Of two new children at the right end, the second is where growth is expected.
            let grown = if at == 0 { 0 } else { at + change.with.len().saturating_sub(1) };
            let growth = path.growth(&self.tree, level, grown, children.len());
            change = self.inners_of(children, growth, level.checked_sub(1).map(|l| steps[l]));
        }
        let root = match change.with.as_slice() {
            [] => None,
            [only] => Some(self.without_idle_levels(only.node)),
            two => {
                let fit = inner::fit(two).expect("two children fit in a node");
                Some(inner::lay_out(&mut self.tree, fit, two))
            }
        };
        self.tree.set_root(root);
    }

    /// An only child needs no parent.
    fn without_idle_levels(&mut self, mut root: Link<'w>) -> Link<'w> {
        while let Kind::Inner(inner) = self.tree.get(root).kind()
            && inner.len() == 1
        {
            let only = self.tree.child(root, 0);
            self.tree.discard(root);
            root = only;
        }
        root
    }
}

/// What is in two neighbours, the right one of which is the `left` child's.
struct Joined<'w, X: Copy, const N: usize> {
    left: usize,
    sibling: Link<'w>,
    all: Buffer<X, N>,
}
