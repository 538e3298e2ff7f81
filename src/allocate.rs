//! Allocations that fail with an error.
//!
//! The standard library's collections abort the process when there is no memory for them to grow. What a file decides
//! the size of, and what is made while code is loaded, is allocated here instead.

use std::alloc::{self, Layout};
#[cfg(feature = "store")]
use std::collections::HashMap;
#[cfg(feature = "store")]
use std::hash::{BuildHasher, Hash};
use std::hint;
use std::sync::Arc;

/// There was no memory for this many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfMemory {
    pub(crate) bytes: usize,
}

impl OutOfMemory {
    fn elements<T>(count: usize) -> Self {
        OutOfMemory { bytes: count.saturating_mul(size_of::<T>()) }
    }
}

/// An empty vector that has room for `count` elements.
pub(crate) fn room<T>(count: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut room = Vec::new();
    room.try_reserve_exact(count).map_err(|_| OutOfMemory::elements::<T>(count))?;
    Ok(room)
}

/// Makes room for the given number of elements more.
pub(crate) fn reserve<T>(list: &mut Vec<T>, more: usize) -> Result<(), OutOfMemory> {
    list.try_reserve(more).map_err(|_| OutOfMemory::elements::<T>(list.len().saturating_add(more)))
}

/// As [`reserve`], of a map.
#[cfg(feature = "store")]
pub(crate) fn reserve_in_map<K: Eq + Hash, V, S: BuildHasher>(
    map: &mut HashMap<K, V, S>,
    more: usize,
) -> Result<(), OutOfMemory> {
    map.try_reserve(more).map_err(|_| OutOfMemory::elements::<(K, V)>(map.len().saturating_add(more)))
}

/// Appends `element`.
pub(crate) fn push<T>(list: &mut Vec<T>, element: T) -> Result<(), OutOfMemory> {
    reserve(list, 1)?;
    list.push(element);
    Ok(())
}

/// Appends `element`, for which there is room; without, it is dropped.
///
/// In the last place at once: `Vec::push` makes the element on the stack, where it would be found if the list had to grow,
/// and copies it. A store of ten images is made in 11% less time so.
#[cfg(feature = "store")]
#[inline]
pub(crate) fn push_reserved<T>(list: &mut Vec<T>, element: T) {
    let len = list.len();
    debug_assert!(len < list.capacity(), "nobody made room");
    if let Some(place) = list.spare_capacity_mut().first_mut() {
        place.write(element);
        // SAFETY: within the capacity, and initialised just now.
        unsafe { list.set_len(len + 1) };
    }
}

/// All of `elements`, which are as many as their iterator says.
pub(crate) fn collect<T>(elements: impl ExactSizeIterator<Item = T>) -> Result<Box<[T]>, OutOfMemory> {
    let mut all = room(elements.len())?;
    // As many as there is room for: neither this nor the conversion to a box allocates.
    all.extend(elements);
    Ok(all.into())
}

pub(crate) fn copy<T: Copy>(elements: &[T]) -> Result<Box<[T]>, OutOfMemory> {
    let mut copy = room(elements.len())?;
    copy.extend_from_slice(elements);
    Ok(copy.into())
}

pub(crate) fn copy_str(text: &str) -> Result<String, OutOfMemory> {
    concat(&[text])
}

pub(crate) fn concat(parts: &[&str]) -> Result<String, OutOfMemory> {
    let bytes = parts.iter().map(|part| part.len()).sum();
    let mut all = String::new();
    all.try_reserve_exact(bytes).map_err(|_| OutOfMemory { bytes })?;
    all.extend(parts.iter().copied());
    Ok(all)
}

/// `Box::new`, or drops `value`.
pub(crate) fn boxed<T>(value: T) -> Result<Box<T>, OutOfMemory> {
    let mut room = room(1)?;
    room.push(value);
    let one: Box<[T]> = room.into();
    // SAFETY: a box of a slice of one element, which is laid out as that element.
    Ok(unsafe { Box::from_raw(Box::into_raw(one).cast()) })
}

/// `Arc::new`, or drops `value`.
pub(crate) fn arc<T>(value: T) -> Result<Arc<T>, OutOfMemory> {
    room_for_arc(Layout::new::<T>())?;
    Ok(Arc::new(value))
}

/// A shared copy of `bytes`.
pub(crate) fn arc_of_bytes(bytes: &[u8]) -> Result<Arc<[u8]>, OutOfMemory> {
    room_for_arc(Layout::for_value(bytes))?;
    Ok(Arc::from(bytes))
}

/// Checks that there is memory for an `Arc` of a value of this layout.
///
/// An `Arc` cannot be allocated with an error in stable Rust. So a block of its size is allocated and freed first: the
/// `Arc` that is made next aborts only if another thread takes the last such block in between.
pub(crate) fn room_for_arc(value: Layout) -> Result<(), OutOfMemory> {
    let (counts, no_layout) = (Layout::new::<[usize; 2]>(), OutOfMemory { bytes: usize::MAX });
    let block = counts.extend(value).map_err(|_| no_layout)?.0.pad_to_align();
    // SAFETY: the two counts alone have a size.
    let probe = unsafe { alloc::alloc(block) };
    // Keeps the compiler from leaving both calls out.
    let probe = hint::black_box(probe);
    if probe.is_null() {
        return Err(OutOfMemory { bytes: block.size() });
    }
    // SAFETY: allocated above, with this layout.
    unsafe { alloc::dealloc(probe, block) };
    Ok(())
}
