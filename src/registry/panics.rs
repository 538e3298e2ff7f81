//! Panics of the user's destructors, held back until everything is in order.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The first panic of several pieces of user code that all have to run.
#[derive(Default)]
pub(crate) struct Panics(Option<Box<dyn Any + Send>>);

impl Panics {
    /// Drops `value`, whatever its destructor does.
    pub(crate) fn drop<V>(&mut self, value: V) {
        let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) else { return };
        if self.0.is_none() {
            self.0 = Some(panic);
        } else if let Err(worse) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            // What a panic was thrown with panicked in its turn. There is no end to this; a leak is one.
            core::mem::forget(worse);
        }
    }

    /// Whether there was one.
    pub(crate) fn is_any(&self) -> bool {
        self.0.is_some()
    }

    /// Lets the first panic go on, if there was one. Nothing else is left to be done.
    pub(crate) fn go_on(self) {
        if let Some(panic) = self.0 {
            resume_unwind(panic);
        }
    }
}
