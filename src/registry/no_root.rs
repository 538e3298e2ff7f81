//! In place of `root` in a build without snapshots: there are no roots, and a publication is what handlers read only.

use super::limbo::Limbo;
use super::tree::List;
use crate::handler::node::Node;
use crate::sync::NoMemory;

pub(super) struct RootCell;

impl RootCell {
    pub(super) const fn empty() -> Self {
        Self
    }
}

/// Nobody makes one.
pub(crate) struct RootRef(core::convert::Infallible);

impl RootRef {
    pub(super) const fn is_unique(&self) -> bool {
        true
    }

    pub(super) const fn tick(&self) -> u64 {
        0
    }

    #[expect(clippy::mut_from_ref, reason = "as in a build with snapshots")]
    pub(super) const unsafe fn kept_mut(&self) -> &mut List {
        match self.0 {}
    }

    pub(super) const unsafe fn kept(&self) -> &List {
        const { &List::new() }
    }

    pub(super) const unsafe fn take_kept(&self) -> List {
        List::new()
    }
}

pub(super) struct Roots;

impl Roots {
    pub(super) const fn new() -> Self {
        Self
    }

    pub(super) const fn set_aside(&mut self, _: usize, _: &mut Limbo) -> Result<(), NoMemory> {
        Ok(())
    }

    pub(super) fn put(&mut self, _: RootRef) {}

    pub(super) const fn publish(&mut self, _: &RootCell, _: &mut Limbo, _: u64, _: *mut Node, _: usize) {}

    pub(super) const fn close(&mut self, _: &RootCell, _: &mut Limbo) {}

    pub(super) const fn uncount_one(&self) {}
}
