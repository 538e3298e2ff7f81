//! Images: what goes in comes out, and nothing that is damaged, foreign or absurd gets past the parser unnoticed or
//! makes it panic.

mod absurd;
#[path = "../common/allocator.rs"]
mod allocator;
mod damage;
mod errors;
mod foreign;
mod functions;
mod memory;
mod out_of_memory;
mod round_trip;
mod side_tables;
mod sound;
mod support;
mod tables;
