//! Leaves, as the writer sees them: reading one out, laying one out, and changing one that is not published yet.

use super::pool::{Pool, blank, book};
use crate::handler::node::{Code, Entry, NARROW_RANGES, NarrowLeaf, Node, Shape, WIDE_RANGES, WideLeaf};
use crate::handler::search::{KEYS, MAX_OFFSET, PAD};
use crate::sync::Ordering;
use core::mem::MaybeUninit;
use core::ptr;

/// What the ranges of a leaf are gathered in while it is rearranged: two leaves' worth.
pub(super) type Entries = super::Buffer<Entry, { 2 * KEYS }>;

/// The range in slot `i`.
///
/// # Safety
/// `leaf` is a leaf that the caller may read, and `i` is below its `len`.
pub(super) unsafe fn entry(leaf: *const Node, i: usize) -> Entry {
    // SAFETY: the caller's; the shape says which layout it is.
    unsafe {
        match (*leaf).shape {
            Shape::NarrowLeaf => (*leaf.cast::<NarrowLeaf>()).entry(i),
            _ => (*leaf.cast::<WideLeaf>()).entry(i),
        }
    }
}

/// Where the range in slot `i` starts.
///
/// # Safety
/// As [`entry`].
unsafe fn start(leaf: *const Node, i: usize) -> usize {
    // SAFETY: the caller's; the shape says which layout it is.
    unsafe {
        match (*leaf).shape {
            Shape::NarrowLeaf => (*leaf.cast::<NarrowLeaf>()).start(i),
            _ => (*leaf.cast::<WideLeaf>()).starts[i],
        }
    }
}

/// Where the window of a narrow leaf begins.
///
/// # Safety
/// As [`entry`].
unsafe fn window(leaf: *const Node) -> usize {
    // SAFETY: the caller's.
    unsafe { (*leaf).base.wrapping_sub(MIDDLE) }
}

/// The base of a narrow leaf is so far into its window.
const MIDDLE: usize = 1 << 31;

/// How many ranges of the leaf start at or before `address`.
///
/// # Safety
/// As [`entry`].
pub(super) unsafe fn starts_up_to(leaf: *const Node, address: usize) -> usize {
    // SAFETY: the caller's; `rank` is below `len`.
    unsafe {
        let rank = match (*leaf).shape {
            // Unlike a handler's, this search has to tell an address below the window from one above it.
            Shape::NarrowLeaf if address < window(leaf) => return 0,
            Shape::NarrowLeaf if address - window(leaf) > MAX_OFFSET as usize => return usize::from((*leaf).len),
            Shape::NarrowLeaf => (*leaf.cast::<NarrowLeaf>()).rank(address),
            _ => (*leaf.cast::<WideLeaf>()).rank(address),
        };
        rank + usize::from(start(leaf, rank) <= address)
    }
}

/// The ranges of a leaf that are not hidden.
///
/// # Safety
/// `leaf` is a leaf, alive, and the caller holds the writer lock.
pub(super) unsafe fn live_entries(leaf: *mut Node, into: &mut Entries) {
    // SAFETY: the caller's.
    unsafe {
        let hidden = book(leaf).doomed;
        for i in 0..usize::from((*leaf).len) {
            if hidden & 1 << i == 0 {
                into.push(entry(leaf, i));
            }
        }
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

/// Lays `entries` out in a new leaf of a shape that [`shape_for`] allows.
pub(super) fn lay_out(pool: &mut Pool, shape: Shape, entries: &[Entry], tick: u64) -> *mut Node {
    let node = pool.take(shape, tick);
    // SAFETY: a new node is nobody else's, and large enough for the shape; every field of the slots up to `len`, and
    // every key, is written below.
    unsafe {
        (*node).len = entries.len() as u16;
        if shape == Shape::NarrowLeaf {
            (*node).base = entries[0].start.wrapping_add(MIDDLE);
            (*node).birth_base = entries.iter().map(|e| e.birth).min().unwrap_or(tick);
            let leaf = node.cast::<NarrowLeaf>();
            let starts = &raw mut (*leaf).starts;
            starts.write([PAD; KEYS]);
            (&raw mut (*leaf).lens).cast::<u32>().add(NARROW_RANGES).write(0);
            for (i, entry) in entries.iter().enumerate() {
                write_narrow(leaf, i, entry);
            }
        } else {
            let leaf = node.cast::<WideLeaf>();
            for (i, entry) in entries.iter().enumerate() {
                (&raw mut (*leaf).starts).cast::<usize>().add(i).write(entry.start);
                (&raw mut (*leaf).ends).cast::<usize>().add(i).write(entry.end);
                (&raw mut (*leaf).births).cast::<u64>().add(i).write(entry.birth);
                (&raw mut (*leaf).codes).cast::<*const ()>().add(i).write(entry.code);
            }
        }
    }
    node
}

/// # Safety
/// The leaf is not published, the entry fits its window, and `i` is a slot.
unsafe fn write_narrow(leaf: *mut NarrowLeaf, i: usize, entry: &Entry) {
    // SAFETY: the caller's.
    unsafe {
        let code = Code::new(entry.code).expect("a range in a narrow leaf was found to fit");
        (&raw mut (*leaf).starts).cast::<i32>().add(i).write(entry.start.wrapping_sub((*leaf).node.base) as i32);
        (&raw mut (*leaf).lens).cast::<u32>().add(i).write((entry.end - entry.start) as u32);
        (&raw mut (*leaf).births).cast::<u32>().add(i).write((entry.birth - (*leaf).node.birth_base) as u32);
        (&raw mut (*leaf).codes).cast::<Code>().add(i).write(code);
    }
}

/// Whether a narrow leaf with a window that begins at `window` can have this range.
#[inline]
fn fits(entry: &Entry, window: usize, birth_base: u64) -> bool {
    entry.start >= window
        && entry.end - window <= MAX_OFFSET as usize
        && entry.birth >= birth_base
        && entry.birth - birth_base <= u64::from(u32::MAX)
        && Code::new(entry.code).is_some()
}

/// Whether `insert` can take this range as the leaf is: narrow, nothing hidden, room, and inside the window.
///
/// # Safety
/// `leaf` is a leaf, alive, and the caller holds the writer lock.
pub(super) unsafe fn has_room_for(leaf: *mut Node, entry: &Entry) -> bool {
    // SAFETY: the caller's.
    unsafe {
        (*leaf).shape == Shape::NarrowLeaf
            && usize::from((*leaf).len) < NARROW_RANGES
            && book(leaf).doomed == 0
            && fits(entry, window(leaf), (*leaf).birth_base)
    }
}

/// Puts a range into slot `at` of a leaf.
///
/// # Safety
/// The leaf is not published, [`has_room_for`] the entry, and `at` is where its start belongs.
pub(super) unsafe fn insert(leaf: *mut Node, at: usize, entry: &Entry) {
    // SAFETY: the caller's: there is a slot past the last, and nobody else sees the node.
    unsafe {
        let narrow = leaf.cast::<NarrowLeaf>();
        let behind = usize::from((*leaf).len) - at;
        shift((&raw mut (*narrow).starts).cast::<i32>(), at, behind);
        shift((&raw mut (*narrow).lens).cast::<u32>(), at, behind);
        shift((&raw mut (*narrow).births).cast::<u32>(), at, behind);
        shift((&raw mut (*narrow).codes).cast::<Code>(), at, behind);
        write_narrow(narrow, at, entry);
        (*leaf).len += 1;
    }
}

/// # Safety
/// `at + n` is within the array, but for its last slot.
unsafe fn shift<X>(array: *mut X, at: usize, n: usize) {
    // SAFETY: the caller's.
    unsafe { ptr::copy(array.add(at), array.add(at + 1), n) };
}

/// Copies a leaf with one more range, in slot `at`, for the tree of `tick`.
///
/// # Safety
/// The leaf is published, [`has_room_for`] the entry, `at` is where its start belongs, and the caller holds the writer
/// lock.
pub(super) unsafe fn copy_inserting(
    pool: &mut Pool,
    leaf: *const Node,
    at: usize,
    entry: &Entry,
    tick: u64,
) -> *mut Node {
    // SAFETY: the caller's: the copy is as large and nobody else's, and has a slot past the last.
    unsafe {
        let copy = pool.take_unwritten(Shape::NarrowLeaf);
        let len = (*leaf).len + 1;
        copy_around::<1, 0>(leaf.cast(), copy.cast(), at, usize::from(len));
        copy.write(Node { base: (*leaf).base, birth_base: (*leaf).birth_base, len, ..blank(Shape::NarrowLeaf, tick) });
        write_narrow(copy.cast(), at, entry);
        copy
    }
}

/// Copies a leaf without the range in slot `at`, for the tree of `tick`.
///
/// # Safety
/// The leaf is published, narrow, has nothing hidden and another range, `at` is below its `len`, and the caller holds
/// the writer lock.
pub(super) unsafe fn copy_removing(pool: &mut Pool, leaf: *const Node, at: usize, tick: u64) -> *mut Node {
    // SAFETY: the caller's: the copy is as large and nobody else's.
    unsafe {
        let copy = pool.take_unwritten(Shape::NarrowLeaf);
        let len = (*leaf).len - 1;
        copy_around::<0, 1>(leaf.cast(), copy.cast(), at, usize::from(len));
        copy.write(Node { base: (*leaf).base, birth_base: (*leaf).birth_base, len, ..blank(Shape::NarrowLeaf, tick) });
        copy
    }
}

/// How many slots are moved at once.
const BLOCK: usize = 8;

/// Copies the columns of a leaf: what is in front of `at` to where it is, and what is at `at + SKIPPED` and behind to
/// `at + MADE` and behind, so that there are `len` ranges. What is at `at` must be written afterwards if a slot is made,
/// and so must the head be in any case.
///
/// How much there is to be moved on either side of `at` is as good as random, so whatever depends on it would end in
/// mispredicted branches, which cost more than the moves. So whole columns are moved, or their halves, in blocks, each
/// of which is taken from its place or from beside it. The block that `at` is in is taken from beside it, and repaired
/// by a block that ends at `at`, whatever that runs into in front of the column: so columns are written from the last
/// to the first, the head being the last to be written.
///
/// # Safety
/// Both are narrow leaves, the first readable and the other the caller's to write; `MADE + SKIPPED` is 1, and `at` is
/// below [`NARROW_RANGES`].
#[inline(always)]
unsafe fn copy_around<const MADE: usize, const SKIPPED: usize>(
    from: *const NarrowLeaf,
    to: *mut NarrowLeaf,
    at: usize,
    len: usize,
) {
    // SAFETY: in front of each column is another or the head, which are longer than a block, and behind each another,
    // or else the block at the end begins one slot earlier: the slot behind those that are used does not matter.
    unsafe {
        if len > KEYS / 2 {
            move_slots::<MADE, SKIPPED, KEYS>(from, to, at);
        } else {
            move_slots::<MADE, SKIPPED, { KEYS / 2 }>(from, to, at);
        }
        (&raw mut (*to).lens).cast::<u32>().add(NARROW_RANGES).write(0);
        // All of the keys: those that are not used matter too.
        move_column::<i32, MADE, SKIPPED>((&raw const (*from).starts).cast(), (&raw mut (*to).starts).cast(), at, KEYS);
        (&raw mut (*to).starts).cast::<i32>().add(NARROW_RANGES).write(PAD);
    }
}

/// # Safety
/// As [`copy_around`].
#[inline(always)]
unsafe fn move_slots<const MADE: usize, const SKIPPED: usize, const COUNT: usize>(
    from: *const NarrowLeaf,
    to: *mut NarrowLeaf,
    at: usize,
) {
    // SAFETY: as in `copy_around`.
    unsafe {
        let ends_at = COUNT.min(NARROW_RANGES);
        move_column::<Code, MADE, SKIPPED>(
            (&raw const (*from).codes).cast(),
            (&raw mut (*to).codes).cast(),
            at,
            ends_at,
        );
        move_column::<u32, MADE, SKIPPED>(
            (&raw const (*from).births).cast(),
            (&raw mut (*to).births).cast(),
            at,
            COUNT,
        );
        move_column::<u32, MADE, SKIPPED>((&raw const (*from).lens).cast(), (&raw mut (*to).lens).cast(), at, COUNT);
    }
}

/// # Safety
/// As [`copy_around`]; a block in front of the column, and one item behind the first `count`, can be read, and the
/// former can be written.
#[inline(always)]
unsafe fn move_column<X, const MADE: usize, const SKIPPED: usize>(from: *const X, to: *mut X, at: usize, count: usize) {
    // SAFETY: the caller's.
    unsafe {
        for block in 0..count.div_ceil(BLOCK) {
            let start = (block * BLOCK).min(count - BLOCK);
            let beside = if start + BLOCK <= at { from } else { from.wrapping_add(SKIPPED).wrapping_sub(MADE) };
            move_block(beside.wrapping_add(start), to.add(start));
        }
        move_block(from.wrapping_add(at).wrapping_sub(BLOCK), to.wrapping_add(at).wrapping_sub(BLOCK));
    }
}

/// # Safety
/// A block can be read from the one and written to the other, which may overlap in no way.
#[inline(always)]
unsafe fn move_block<X>(from: *const X, to: *mut X) {
    // SAFETY: the caller's. Bytes that may be uninitialised are moved as such.
    unsafe {
        to.cast::<[MaybeUninit<X>; BLOCK]>().write_unaligned(from.cast::<[MaybeUninit<X>; BLOCK]>().read_unaligned())
    };
}

/// Hides the range in slot `i` of a published leaf: what a removal does when there is no memory for a new leaf.
///
/// A single store makes the range empty, for every lookup that begins after the removal returned; Relaxed, since
/// whatever orders such a lookup after the removal orders this store too. Owned snapshots that share the leaf lose
/// sight of it as well. The payload stays until the leaf goes.
///
/// # Safety
/// `leaf` is a leaf, alive, `i` is below its `len`, and the caller holds the writer lock.
pub(super) unsafe fn hide(leaf: *mut Node, i: usize) {
    // SAFETY: the caller's; the length is atomic (N1).
    unsafe {
        match (*leaf).shape {
            Shape::NarrowLeaf => (*leaf.cast::<NarrowLeaf>()).lens[i].store(0, Ordering::Relaxed),
            _ => {
                let wide = &*leaf.cast::<WideLeaf>();
                wide.ends[i].store(wide.starts[i], Ordering::Relaxed);
            }
        }
        doom(leaf, i);
    }
}

/// Notes that the payload in slot `i` goes when this leaf does.
///
/// # Safety
/// As [`hide`].
pub(super) unsafe fn doom(leaf: *mut Node, i: usize) {
    // SAFETY: the caller's. A snapshot may have the range in an older leaf than this one: it counts from there.
    unsafe {
        let birth = entry(leaf, i).birth;
        let book = book(leaf);
        book.doomed |= 1 << i;
        book.birth = book.birth.min(birth);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tree::pool;

    fn range(i: usize) -> Entry {
        let start = 0x7000_0000_0000 + i * 0x1_0001;
        Entry {
            start,
            end: start + 0x1_0000 - i,
            birth: 1_000_000_000_000 - (i as u64) * 7,
            code: ptr::without_provenance(0xffff_ffff_fff8 - i * 8),
        }
    }

    fn same(a: &Entry, b: &Entry) -> bool {
        (a.start, a.end, a.birth, a.code) == (b.start, b.end, b.birth, b.code)
    }

    /// The ranges of a leaf, and nothing behind them that a search could find.
    fn check(leaf: *mut Node, expected: &[Entry]) {
        // SAFETY: the leaf is this test's.
        unsafe {
            assert_eq!(usize::from((*leaf).len), expected.len());
            for (i, e) in expected.iter().enumerate() {
                assert!(same(&entry(leaf, i), e), "slot {i} of {}", expected.len());
                assert_eq!(starts_up_to(leaf, e.start), i + 1);
                assert_eq!(starts_up_to(leaf, e.start - 1), i);
            }
            let narrow = &*leaf.cast::<NarrowLeaf>();
            assert!(narrow.starts[expected.len()..].iter().all(|key| *key == PAD), "keys behind {}", expected.len());
            assert_eq!(narrow.lens[NARROW_RANGES].load(Ordering::Relaxed), 0);
            for pc in [0, 1, window(leaf) - 1, window(leaf) + MAX_OFFSET as usize + 1, usize::MAX] {
                assert!(crate::handler::node::find(leaf, pc).is_none(), "{pc:#x}");
            }
            // An address whose distance from the base has the bits of the padding.
            let like_padding = (*leaf).base.wrapping_add(PAD as usize);
            for turn in [0, 1_usize << 32, 5 << 32] {
                assert!(crate::handler::node::find(leaf, like_padding.wrapping_add(turn)).is_none());
            }
        }
    }

    #[test]
    fn a_copy_has_one_range_more_or_less_wherever_it_is() {
        let mut pool = Pool::new();
        for len in 1..NARROW_RANGES {
            let all: Vec<Entry> = (0..=len).map(range).collect();
            for at in 0..=len {
                let mut without = all.clone();
                let one = without.remove(at);
                pool.stock(3, 0).unwrap();
                // SAFETY: the leaves are this test's, narrow, and freed at the end only.
                unsafe {
                    // The window begins where the first range of all does, wherever the new one goes.
                    let whole = lay_out(&mut pool, shape_for(&all).unwrap(), &all, 1);
                    check(whole, &all);
                    let less = copy_removing(&mut pool, whole, at, 2);
                    check(less, &without);
                    assert!(has_room_for(less, &one));
                    let more = copy_inserting(&mut pool, less, at, &one, 3);
                    check(more, &all);
                    assert_eq!((book(less).birth, book(more).birth), (2, 3));
                    // Used again as they are: what is left in a node must not matter.
                    [whole, less, more].into_iter().for_each(|node| pool.put(node));
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_a_narrow_leaf_makes_a_wide_one() {
        let shape = |change: &dyn Fn(&mut [Entry])| {
            let mut entries: Vec<Entry> = (0..3).map(range).collect();
            change(&mut entries);
            shape_for(&entries).unwrap()
        };
        let start = range(0).start;
        assert_eq!(shape(&|_| ()), Shape::NarrowLeaf);
        assert_eq!(shape(&|e| e[2].end = start + MAX_OFFSET as usize), Shape::NarrowLeaf);
        assert_eq!(shape(&|e| e[2].end = start + MAX_OFFSET as usize + 1), Shape::WideLeaf);
        assert_eq!(shape(&|e| e[1].birth = e[2].birth + u64::from(u32::MAX)), Shape::NarrowLeaf);
        assert_eq!(shape(&|e| e[1].birth = e[2].birth + u64::from(u32::MAX) + 1), Shape::WideLeaf);
        assert_eq!(shape(&|e| e[1].code = ptr::without_provenance((1 << 48) - 1)), Shape::NarrowLeaf);
        assert_eq!(shape(&|e| e[1].code = ptr::without_provenance(1 << 48)), Shape::WideLeaf);
        let full: Vec<Entry> = (0..=NARROW_RANGES).map(range).collect();
        assert_eq!(shape_for(&full[..NARROW_RANGES]), Some(Shape::NarrowLeaf));
        assert_eq!(shape_for(&full), None);
    }

    #[test]
    fn all_leaves_are_of_one_size() {
        assert!(size_of::<WideLeaf>() <= size_of::<NarrowLeaf>());
        assert_eq!(pool::bytes_of(Shape::WideLeaf), size_of::<NarrowLeaf>());
        assert_eq!(size_of::<NarrowLeaf>(), 1_216);
    }
}
