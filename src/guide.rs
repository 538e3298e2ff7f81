//! What to know around the types: one page each.

#[doc = include_str!("../docs/guide/handlers.md")]
pub mod handlers {}

#[doc = include_str!("../docs/guide/own_handlers.md")]
pub mod own_handlers {}

#[doc = include_str!("../docs/guide/own_registries.md")]
pub mod own_registries {}

#[doc = include_str!("../docs/guide/stores.md")]
pub mod stores {}

#[doc = include_str!("../docs/guide/performance.md")]
#[doc = include_str!("../docs/guide/lookup.svg")]
pub mod performance {}

#[doc = include_str!("../docs/guide/verification.md")]
pub mod verification {}

#[doc = include_str!("../docs/guide/glossary.md")]
pub mod glossary {}
