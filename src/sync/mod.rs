//! The only room that knows about loom: what ships is what is modelled.
//!
//! Everything else in the crate takes its atomics, its root cell, its writer lock and its epoch from here, and nothing
//! here knows of anything else in the crate. A normal build gets `core`'s atomics, arc-swap, a fork-aware lock and a
//! private crossbeam-epoch collector, as far as its features go. The package `loom-tests` compiles the same files with
//! `--cfg trapline_loom`, and gets loom's atomics and lock, a model of the root cell (arc-swap is not loom-aware), and
//! crossbeam's own loom build.

#[cfg(all(feature = "guard", not(trapline_loom)))]
pub(crate) mod epoch;
#[cfg(not(trapline_loom))]
mod lock;
#[cfg(trapline_loom)]
pub(crate) mod model;
mod once;
mod shared;
#[cfg(not(trapline_loom))]
mod shipped;
mod site;

pub(crate) use core::sync::atomic::Ordering;
#[cfg(trapline_loom)]
pub(crate) use model::*;
pub(crate) use once::set_once;
pub(crate) use shared::{Counted, NoMemory, Shared};
#[cfg(not(trapline_loom))]
pub(crate) use shipped::*;
pub(crate) use site::{Site, fence, in_one_order, ordering, plain};

/// Atomics that no model watches: statistics, hints, and what signal handlers keep in statics.
pub(crate) mod unmodelled {
    #[allow(unused_imports, reason = "which of them are used depends on the features")]
    pub(crate) use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};
}

/// Whether this is a model, which has fewer stripes.
pub(crate) const MODELLED: bool = cfg!(trapline_loom);

/// The tick before any publication, of any registry.
pub(crate) const FIRST_TICK: u64 = 1;

/// A function that is `const`, unless it is modelled: loom's atomics are made at run time.
macro_rules! const_fn {
    ($(#[$attribute:meta])* $visibility:vis fn $($rest:tt)*) => {
        #[cfg(not(trapline_loom))]
        $(#[$attribute])*
        $visibility const fn $($rest)*
        #[cfg(trapline_loom)]
        $(#[$attribute])*
        $visibility fn $($rest)*
    };
}
pub(crate) use const_fn;

/// An array of what holds atomics, in a [`const_fn`].
macro_rules! array {
    ($element:expr; $count:expr) => {{
        #[cfg(not(trapline_loom))]
        let array = [const { $element }; $count];
        #[cfg(trapline_loom)]
        let array: [_; $count] = core::array::from_fn(|_| $element);
        array
    }};
}
pub(crate) use array;
