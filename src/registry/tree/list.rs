//! Lists of retired nodes.

use super::node::{Retired, Tail};

/// Retired nodes, first in, first out. Dropping it leaks them.
pub(crate) struct List {
    first: Option<Retired>,
    last: Option<Tail>,
    len: usize,
    bytes: usize,
}

impl List {
    pub(crate) const fn new() -> Self {
        Self { first: None, last: None, len: 0, bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What the nodes take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The node to be popped next.
    pub(crate) fn first(&self) -> Option<&Retired> {
        self.first.as_ref()
    }

    /// The node that was pushed last.
    pub(crate) fn last(&self) -> Option<&Retired> {
        // SAFETY: the last node of a list is the list's.
        self.last.as_ref().map(|last| unsafe { last.get() })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Retired> {
        core::iter::successors(self.first(), |node| node.next())
    }

    pub(crate) fn push(&mut self, node: Retired) {
        self.len += 1;
        self.bytes += node.bytes();
        let last = node.tail();
        self.link(node, last);
    }

    pub(crate) fn pop(&mut self) -> Option<Retired> {
        let mut node = self.first.take()?;
        self.first = node.take_next();
        if self.first.is_none() {
            self.last = None;
        }
        self.len -= 1;
        self.bytes -= node.bytes();
        Some(node)
    }

    /// Moves all of `other` to the end.
    pub(crate) fn append(&mut self, other: &mut Self) {
        if let (Some(first), Some(last)) = (other.first.take(), other.last.take()) {
            self.link(first, last);
            self.len += core::mem::take(&mut other.len);
            self.bytes += core::mem::take(&mut other.bytes);
        }
    }

    /// Puts `first`, and what comes after it up to `last`, at the end.
    fn link(&mut self, first: Retired, last: Tail) {
        match &mut self.last {
            // SAFETY: the last node of a list is the list's.
            Some(end) => unsafe { end.set_next(first) },
            None => self.first = Some(first),
        }
        self.last = Some(last);
    }
}
