//! Leaves, as the writer sees them: reading one out, laying one out, and changing one that is not published yet.

use super::pool::{Pool, book};
use crate::handler::node::{Entry, NarrowLeaf, Node, Shape, WIDE_RANGES, WideLeaf};
use crate::handler::search::{self, KEYS, MAX_OFFSET, PAD};
use core::ptr;
use core::sync::atomic::Ordering;

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

/// How many ranges of the leaf start at or before `address`.
///
/// # Safety
/// As [`entry`].
pub(super) unsafe fn starts_up_to(leaf: *const Node, address: usize) -> usize {
    // SAFETY: the caller's; `rank` is below `len`.
    unsafe {
        let rank = match (*leaf).shape {
            Shape::NarrowLeaf => {
                // Unlike a handler's, this search has to tell an address below the window from one above it.
                if address < (*leaf).base { 0 } else { (*leaf.cast::<NarrowLeaf>()).rank(address) }
            }
            _ => (*leaf.cast::<WideLeaf>()).rank(address),
        };
        rank + usize::from(entry(leaf, rank).start <= address)
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
    let (first, last) = (entries.first()?, entries.last()?);
    let births = || entries.iter().map(|e| e.birth);
    let narrow = last.start - first.start <= MAX_OFFSET as usize
        && births().max()? - births().min()? <= u64::from(u32::MAX)
        && entries.iter().all(|e| u32::try_from(e.end - e.start).is_ok());
    match entries.len() {
        ..=KEYS if narrow => Some(Shape::NarrowLeaf),
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
            (*node).base = entries[0].start;
            (*node).birth_base = entries.iter().map(|e| e.birth).min().unwrap_or(tick);
            let leaf = node.cast::<NarrowLeaf>();
            let starts = &raw mut (*leaf).starts;
            starts.write([PAD; KEYS]);
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
        let offset = (entry.start - (*leaf).node.base) as u32;
        (&raw mut (*leaf).starts).cast::<i32>().add(i).write(search::key(offset));
        (&raw mut (*leaf).lens).cast::<u32>().add(i).write((entry.end - entry.start) as u32);
        (&raw mut (*leaf).births).cast::<u32>().add(i).write((entry.birth - (*leaf).node.birth_base) as u32);
        (&raw mut (*leaf).codes).cast::<*const ()>().add(i).write(entry.code);
    }
}

/// Whether `insert` can take this range as the leaf is: narrow, nothing hidden, room, and inside the window.
///
/// # Safety
/// `leaf` is a leaf, alive, and the caller holds the writer lock.
pub(super) unsafe fn has_room_for(leaf: *mut Node, entry: &Entry) -> bool {
    // SAFETY: the caller's.
    unsafe {
        (*leaf).shape == Shape::NarrowLeaf
            && usize::from((*leaf).len) < KEYS
            && book(leaf).doomed == 0
            && entry.start >= (*leaf).base
            && entry.start - (*leaf).base <= MAX_OFFSET as usize
            && entry.birth >= (*leaf).birth_base
            && entry.birth - (*leaf).birth_base <= u64::from(u32::MAX)
            && u32::try_from(entry.end - entry.start).is_ok()
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
        shift((&raw mut (*narrow).starts).cast::<i32>(), at, at + 1, behind);
        shift((&raw mut (*narrow).lens).cast::<u32>(), at, at + 1, behind);
        shift((&raw mut (*narrow).births).cast::<u32>(), at, at + 1, behind);
        shift((&raw mut (*narrow).codes).cast::<*const ()>(), at, at + 1, behind);
        write_narrow(narrow, at, entry);
        (*leaf).len += 1;
    }
}

/// Copies a leaf with one more range, in slot `at`, for the tree of `tick`.
///
/// # Safety
/// The leaf is alive, [`has_room_for`] the entry, `at` is where its start belongs, and the caller holds the writer lock.
pub(super) unsafe fn copy_inserting(
    pool: &mut Pool,
    leaf: *const Node,
    at: usize,
    entry: &Entry,
    tick: u64,
) -> *mut Node {
    // SAFETY: the caller's: the copy is as large and nobody else's, and has a slot past the last. Every key is written.
    unsafe {
        let copy = copy_head(pool, leaf, 1, tick);
        let (from, to) = (leaf.cast::<NarrowLeaf>(), copy.cast::<NarrowLeaf>());
        let behind = usize::from((*leaf).len) - at;
        copy_in_two(
            (&raw const (*from).starts).cast::<i32>(),
            (&raw mut (*to).starts).cast::<i32>(),
            at,
            [0, 1],
            KEYS - 1 - at,
        );
        copy_in_two((&raw const (*from).lens).cast::<u32>(), (&raw mut (*to).lens).cast::<u32>(), at, [0, 1], behind);
        copy_in_two(
            (&raw const (*from).births).cast::<u32>(),
            (&raw mut (*to).births).cast::<u32>(),
            at,
            [0, 1],
            behind,
        );
        copy_in_two(
            (&raw const (*from).codes).cast::<*const ()>(),
            (&raw mut (*to).codes).cast::<*const ()>(),
            at,
            [0, 1],
            behind,
        );
        write_narrow(to, at, entry);
        copy
    }
}

/// Copies a leaf without the range in slot `at`, for the tree of `tick`.
///
/// # Safety
/// The leaf is alive, narrow, has nothing hidden and another range, `at` is below its `len`, and the caller holds the
/// writer lock.
pub(super) unsafe fn copy_removing(pool: &mut Pool, leaf: *const Node, at: usize, tick: u64) -> *mut Node {
    // SAFETY: the caller's: the copy is as large and nobody else's. Every key is written.
    unsafe {
        let copy = copy_head(pool, leaf, -1, tick);
        let (from, to) = (leaf.cast::<NarrowLeaf>(), copy.cast::<NarrowLeaf>());
        let behind = usize::from((*copy).len) - at;
        copy_in_two(
            (&raw const (*from).starts).cast::<i32>(),
            (&raw mut (*to).starts).cast::<i32>(),
            at,
            [1, 0],
            KEYS - 1 - at,
        );
        copy_in_two((&raw const (*from).lens).cast::<u32>(), (&raw mut (*to).lens).cast::<u32>(), at, [1, 0], behind);
        copy_in_two(
            (&raw const (*from).births).cast::<u32>(),
            (&raw mut (*to).births).cast::<u32>(),
            at,
            [1, 0],
            behind,
        );
        copy_in_two(
            (&raw const (*from).codes).cast::<*const ()>(),
            (&raw mut (*to).codes).cast::<*const ()>(),
            at,
            [1, 0],
            behind,
        );
        (&raw mut (*to).starts).cast::<i32>().add(KEYS - 1).write(PAD);
        copy
    }
}

/// # Safety
/// As [`copy_inserting`].
unsafe fn copy_head(pool: &mut Pool, leaf: *const Node, growth: i16, tick: u64) -> *mut Node {
    // SAFETY: the caller's.
    unsafe {
        let copy = pool.take(Shape::NarrowLeaf, tick);
        (*copy).base = (*leaf).base;
        (*copy).birth_base = (*leaf).birth_base;
        (*copy).len = (*leaf).len.wrapping_add_signed(growth);
        copy
    }
}

/// Copies the first `at` items, and `behind` from there on, skipping so many in the one array and in the other.
///
/// # Safety
/// The arrays are two, the one is readable and the other writable, and both have so many items.
#[inline(always)]
unsafe fn copy_in_two<X>(from: *const X, to: *mut X, at: usize, skip: [usize; 2], behind: usize) {
    // SAFETY: the caller's.
    unsafe {
        ptr::copy_nonoverlapping(from, to, at);
        ptr::copy_nonoverlapping(from.add(at + skip[0]), to.add(at + skip[1]), behind);
    }
}

/// # Safety
/// `from + n` and `to + n` are within the array.
unsafe fn shift<X>(array: *mut X, from: usize, to: usize, n: usize) {
    // SAFETY: the caller's.
    unsafe { ptr::copy(array.add(from), array.add(to), n) };
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
