//! Counts in messages: one thing, two things.

use core::fmt;

/// A number of bytes.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 byte"),
            many => write!(f, "{many} bytes"),
        }
    }
}

/// Fewer things than are needed, whose name takes an s: `no module`, `only 2 modules`.
pub(crate) struct Only(pub(crate) usize, pub(crate) &'static str);

impl fmt::Display for Only {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Only(0, thing) => write!(f, "no {thing}"),
            Only(1, thing) => write!(f, "only 1 {thing}"),
            Only(many, thing) => write!(f, "only {many} {thing}s"),
        }
    }
}
