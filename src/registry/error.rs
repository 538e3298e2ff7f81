//! What can go wrong in a registry, and with which addresses.

use super::CodeId;
use core::fmt;
use core::ops::Range;

/// Why nothing was registered. The registry is as it was before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegisterError {
    /// The range ends before it starts. A range that wraps around the end of memory looks like this too.
    Inverted {
        /// The range that was to be registered.
        range: Range<usize>,
    },
    /// The range shares addresses with a registered one.
    Overlap {
        /// The range that was to be registered.
        range: Range<usize>,
        /// The registered range that is in the way.
        existing: Range<usize>,
    },
    /// Two ranges of one batch share addresses. Neither is registered.
    OverlapInBatch {
        /// The range of the two that starts later, or that comes later in the batch if they start at one address.
        range: Range<usize>,
        /// The other one.
        other: Range<usize>,
    },
    /// There was no memory for the registry to grow.
    OutOfMemory {
        /// The range that was to be registered; of a batch, one of its ranges.
        range: Range<usize>,
        /// How many bytes were asked for.
        bytes: usize,
    },
    /// This process was forked while another thread of its parent was writing to the registry, or reclaiming. The
    /// registry can therefore never be written to here. Lookups still work.
    Forked,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inverted { range } => write!(
                f,
                "code range {:#x}..{:#x} ends before it starts; give its start and, exclusively, its end",
                range.start, range.end
            ),
            Self::Overlap { range, existing } => write!(
                f,
                "code range {:#x}..{:#x} overlaps {:#x}..{:#x}, which is registered; unregister that first",
                range.start, range.end, existing.start, existing.end
            ),
            Self::OverlapInBatch { range, other } => write!(
                f,
                "code range {:#x}..{:#x} overlaps {:#x}..{:#x} of the same batch; nothing of the batch was registered",
                range.start, range.end, other.start, other.end
            ),
            Self::OutOfMemory { range, bytes } => {
                write!(f, "no {bytes} bytes of memory to register code range {:#x}..{:#x}", range.start, range.end)
            }
            Self::Forked => f.write_str(FORKED),
        }
    }
}

impl core::error::Error for RegisterError {}

/// Why nothing was unregistered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnregisterError {
    /// The registration was removed before, or is another registry's.
    NotRegistered {
        /// The id that is not there.
        id: CodeId,
    },
    /// See [`RegisterError::Forked`].
    Forked,
}

impl fmt::Display for UnregisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegistered { id } => {
                write!(f, "code {id} is not registered here: it was removed before, or belongs to another registry")
            }
            Self::Forked => f.write_str(FORKED),
        }
    }
}

impl core::error::Error for UnregisterError {}

const FORKED: &str = "this process was forked while another thread was writing to the code registry, which cannot be \
                      written to any more; lookups still work";
