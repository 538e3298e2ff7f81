//! What is registered, and what is looked up.

use core::ops::Range;
use std::sync::Arc;

/// What a range is registered with: as large as a small description of code.
#[derive(Debug)]
pub struct Payload {
    /// Which place it belongs to. Every lookup reads it.
    pub id: usize,
    /// Zero, which the compiler does not know: makes one lookup's pc depend on the last one's answer.
    pub zero: usize,
    /// Makes it 96 bytes.
    pub padding: [usize; 10],
}

impl Payload {
    /// The payload of a place.
    pub fn new(id: usize) -> Arc<Self> {
        Arc::new(Self { id, zero: 0, padding: [id; 10] })
    }
}

/// The code range of a place.
pub fn range_of(place: usize) -> Range<usize> {
    let start = 0x7f00_0000_0000 + place * 0x1_0000;
    start..start + 0x8000 + (place.wrapping_mul(2_654_435_761) & 0x3fff)
}

/// A random number generator (xorshift64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from a seed, not 0.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`.
    #[inline]
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) as usize % limit
    }

    /// Puts the items in random order.
    pub fn shuffle<X>(&mut self, items: &mut [X]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// 2n places, of which n are live.
#[derive(Debug)]
pub struct World {
    /// The live places, in the order of their registration.
    pub live: Vec<(usize, Arc<Payload>)>,
    /// The places that are free.
    pub free: Vec<usize>,
}

impl World {
    /// With `n` live places, registered in random order.
    pub fn new(n: usize) -> Self {
        let mut places: Vec<usize> = (0..2 * n).collect();
        Rng::new(88_172_645_463_325_252).shuffle(&mut places);
        let free = places.split_off(n);
        Self { live: places.into_iter().map(|place| (place, Payload::new(place))).collect(), free }
    }

    /// So many pcs in live ranges.
    pub fn pcs(&self, count: usize) -> Vec<usize> {
        let mut rng = Rng::new(99);
        let mut pc = || {
            let range = range_of(self.live[rng.below(self.live.len())].0);
            range.start + rng.below(range.len())
        };
        (0..count).map(|_| pc()).collect()
    }
}
