//! This library.

use super::{Answer, Contender, Write, read};
use crate::world::{Payload, World};
use core::ops::Range;
use std::sync::Arc;
use trapline::{CodeRegistry, Guard, Snapshot};

/// A registry with a world in it.
pub fn registry(world: &World) -> CodeRegistry<Payload> {
    let registry = CodeRegistry::new();
    for (range, payload) in &world.live {
        registry.register(range.clone(), payload.clone()).expect("places do not overlap").leak();
    }
    registry
}

fn pair(registry: &CodeRegistry<Payload>, range: &Range<usize>, payload: &Arc<Payload>) {
    drop(registry.register(range.clone(), payload.clone()).expect("the place is free"));
}

macro_rules! contender {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name(pub CodeRegistry<Payload>);

        impl $name {
            /// With a world in it.
            pub fn new(world: &World) -> Self {
                Self(registry(world))
            }
        }

        impl Write for $name {
            fn pair(&self, range: &Range<usize>, payload: &Arc<Payload>) {
                pair(&self.0, range, payload);
            }
        }
    };
}

contender! {
    /// As a signal handler looks up: through the gate.
    Handler
}

impl Contender for Handler {
    type State<'s> = &'s CodeRegistry<Payload>;

    fn start(&self) -> Self::State<'_> {
        &self.0
    }

    #[inline(always)]
    fn find(registry: &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        registry.with(pc, |found| read(found.payload()))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Some(self)
    }
}

contender! {
    /// Under one guard for many lookups.
    Pinned
}

impl Contender for Pinned {
    type State<'s> = (&'s CodeRegistry<Payload>, Option<Guard<'s, Payload>>);

    fn start(&self) -> Self::State<'_> {
        (&self.0, Some(self.0.pin()))
    }

    fn renew((registry, guard): &mut Self::State<'_>) {
        // A new one beside the old one would not be a new one.
        *guard = None;
        *guard = Some(registry.pin());
    }

    #[inline(always)]
    fn find((_, guard): &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        guard.as_ref()?.get(pc).map(|found| read(found.payload()))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Some(self)
    }
}

contender! {
    /// With a guard for each lookup.
    PinEach
}

impl Contender for PinEach {
    type State<'s> = &'s CodeRegistry<Payload>;

    fn start(&self) -> Self::State<'_> {
        &self.0
    }

    #[inline(always)]
    fn find(registry: &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        registry.pin().get(pc).map(|found| read(found.payload()))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Some(self)
    }
}

contender! {
    /// In a snapshot that is kept, and replaced now and then.
    Kept
}

impl Contender for Kept {
    type State<'s> = (&'s CodeRegistry<Payload>, Snapshot<Payload>);

    fn start(&self) -> Self::State<'_> {
        (&self.0, self.0.snapshot())
    }

    fn renew((registry, snapshot): &mut Self::State<'_>) {
        *snapshot = registry.snapshot();
    }

    #[inline(always)]
    fn find((_, snapshot): &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        snapshot.get(pc).map(|found| read(found.payload()))
    }

    fn writer(&self) -> Option<&dyn Write> {
        Some(self)
    }
}
