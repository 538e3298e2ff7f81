//! The handle of something registered.

use super::{CodeId, CodeRegistry, UnregisterError, Unregistered};
use core::fmt;

/// Unregisters its range when dropped.
///
/// Unregistering hides the code from lookups that begin afterwards. It does not stop threads that are executing it: be
/// sure that none is before you drop this and unmap the code. A payload that owns the mapping is safe from lookups in
/// any case.
///
/// Dropping it may panic as [`CodeRegistry::unregister`] may.
///
/// Of a `static` registry, this is a `Registration<'static, T>`.
#[must_use = "dropping the registration unregisters the code"]
pub struct Registration<'r, T: Send + Sync + 'static> {
    registry: &'r CodeRegistry<T>,
    id: Option<CodeId>,
}

impl<'r, T: Send + Sync + 'static> Registration<'r, T> {
    pub(super) fn new(registry: &'r CodeRegistry<T>, id: Option<CodeId>) -> Self {
        Self { registry, id }
    }

    /// The id of the registration; none if the range was empty.
    #[must_use]
    pub fn id(&self) -> Option<CodeId> {
        self.id
    }

    /// Unregisters the range, as dropping this does, and says what became of the payload.
    ///
    /// # Errors
    ///
    /// As [`CodeRegistry::unregister`]. An empty range was not registered, and is [`Gone`](Unregistered::Gone).
    ///
    /// # Panics
    ///
    /// As [`CodeRegistry::unregister`].
    ///
    /// # Signal safety
    ///
    /// Not for handlers: takes a lock, and may run destructors.
    pub fn unregister(mut self) -> Result<Unregistered, UnregisterError> {
        self.id.take().map_or(Ok(Unregistered::Gone), |id| self.registry.unregister(id))
    }

    /// Leaves the code registered: until [`CodeRegistry::unregister`] is called with the id, or for good.
    #[expect(clippy::must_use_candidate, reason = "called for its effect")]
    pub fn leak(mut self) -> Option<CodeId> {
        self.id.take()
    }
}

impl<T: Send + Sync + 'static> Drop for Registration<'_, T> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // It may have been unregistered by its id already, which is what was wanted. In the child of a fork that
            // left the registry locked there is nothing to be done, and lookups go on finding it.
            let _ = self.registry.unregister(id);
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Registration<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registration").field(&self.id).finish()
    }
}
