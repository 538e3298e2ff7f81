//! What became of something that was unregistered.

use core::fmt;

/// What became of the payload of a range that was unregistered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unregistered {
    /// The registry has let go of it: its `Arc` was dropped before the call returned.
    Gone,
    /// Somebody may still see it. It is let go of by the first write, or call of
    /// [`reclaim`](super::CodeRegistry::reclaim), after the last one who does has gone.
    Held(Holder),
}

/// Who may still see a payload that was unregistered. There may be others, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Holder {
    /// A lookup under way: a closure of [`with`](super::CodeRegistry::with) or [`view`](super::CodeRegistry::view)
    /// that has not returned.
    Lookup,
    /// A [`Guard`](super::Guard).
    Guard,
    /// A [`Snapshot`](super::Snapshot).
    Snapshot,
    /// The registry itself: there was no memory for a leaf without the range, which was made empty in place. The first
    /// registration that finds memory, or call of [`reclaim`](super::CodeRegistry::reclaim), lets go of it.
    OutOfMemory,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lookup => "a lookup that has not returned",
            Self::Guard => "a guard",
            Self::Snapshot => "a snapshot",
            Self::OutOfMemory => "the registry, which has no memory for a leaf without the range",
        })
    }
}
