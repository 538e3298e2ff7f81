//! Words in messages: counts of things, and names that others chose.

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

/// A name that an image brought, with what would move the cursor or end the line written as escapes.
pub(crate) struct Name<'n>(pub(crate) &'n str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .chars()
            .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
    }
}
