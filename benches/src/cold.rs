//! Single lookups out of cold caches.

use crate::contenders::Session;
use core::hint::black_box;
use std::time::Instant;

/// More memory than all caches hold.
pub struct Sweep(Vec<u64>);

impl Sweep {
    /// Twice the largest cache.
    pub fn new() -> Self {
        let bytes = (2 * largest_cache()).clamp(64 << 20, 1 << 30);
        Self(vec![1; bytes / size_of::<u64>()])
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Replaces all that is in the caches.
    pub fn flush(&mut self) {
        // Written, so that no level can keep older lines because it holds shared ones.
        for line in self.0.chunks_mut(64 / size_of::<u64>()) {
            line[0] = line[0].wrapping_add(1);
        }
        black_box(&mut self.0);
    }
}

impl Default for Sweep {
    fn default() -> Self {
        Self::new()
    }
}

/// In bytes; 0 if the system does not tell.
fn largest_cache() -> usize {
    let size = |i: usize| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size")).ok()?;
        let text = text.trim();
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let unit = [("", 0), ("K", 10), ("M", 20), ("G", 30)].iter().find(|(name, _)| *name == unit)?.1;
        Some(number.parse::<usize>().ok()? << unit)
    };
    (0..8).filter_map(size).max().unwrap_or(0)
}

/// Nanoseconds of one lookup, the clock's own included.
pub fn shot(session: &mut dyn Session, pc: usize) -> f64 {
    // The thread's own state is on its stack, or a constant in its code; here it is in a box, so it has to be fetched
    // first. The clock, too.
    let state: *const dyn Session = &*session;
    for byte in (0..size_of_val(&*session)).step_by(64) {
        // SAFETY: within the object.
        black_box(unsafe { state.cast::<u8>().add(byte).read_volatile() });
    }
    black_box(Instant::now());
    let begin = Instant::now();
    black_box(session.one(black_box(pc)));
    begin.elapsed().as_nanos() as f64
}
