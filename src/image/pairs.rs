//! Neighbours in a list.

/// Each element with the one after it: `array_windows`, which Rust 1.88 does not have.
pub(super) fn pairs<T>(elements: &[T]) -> impl Iterator<Item = &[T; 2]> {
    elements.windows(2).filter_map(|two| two.first_chunk())
}
