//! What is registered, and what is looked up.

use core::ops::Range;
use std::sync::Arc;

/// What a range is registered with: as large as a small description of code.
#[derive(Debug)]
pub struct Payload {
    /// Which range it belongs to. Every lookup reads it.
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
    let start = 0x7f00_0000_0000 + place * PLACE;
    start..start + 0x8000 + (place.wrapping_mul(2_654_435_761) & 0x3fff)
}

/// From one place to the next, in bytes. No range takes more than three quarters of it.
const PLACE: usize = 0x1_0000;

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

    /// A number from 0 to 1.
    fn part(&mut self) -> f64 {
        self.below(1 << 32) as f64 / (1u64 << 32) as f64
    }

    /// Puts the items in random order.
    pub fn shuffle<X>(&mut self, items: &mut [X]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// Ranges that are registered, and some that could be.
#[derive(Debug)]
pub struct World {
    /// What is registered, in the order of registration. The payload's id is the index here.
    pub live: Vec<(Range<usize>, Arc<Payload>)>,
    /// Ranges that are free. They lie between the live ones.
    pub free: Vec<Range<usize>>,
}

impl World {
    /// 2n places, of which a random half is live, in random order.
    pub fn new(n: usize) -> Self {
        let mut places: Vec<usize> = (0..2 * n).collect();
        Rng::new(88_172_645_463_325_252).shuffle(&mut places);
        let free = places.split_off(n);
        Self { free: free.into_iter().map(range_of).collect(), ..Self::of(places.into_iter().map(range_of)) }
    }

    /// These ranges, and none that is free.
    pub fn of(ranges: impl Iterator<Item = Range<usize>>) -> Self {
        Self { live: ranges.enumerate().map(|(i, range)| (range, Payload::new(i))).collect(), free: Vec::new() }
    }

    /// The same ranges, registered in order of their addresses.
    pub fn in_order(mut self) -> Self {
        self.live.sort_by_key(|(range, _)| range.start);
        self
    }

    /// So many pcs.
    pub fn pcs(&self, count: usize, kind: Pcs) -> Vec<usize> {
        let mut rng = Rng::new(99);
        let within = |rng: &mut Rng, range: &Range<usize>| range.start + rng.below(range.len());
        let uniform = |rng: &mut Rng| {
            let i = rng.below(self.live.len());
            within(rng, &self.live[i].0)
        };
        match kind {
            Pcs::Uniform => (0..count).map(|_| uniform(&mut rng)).collect(),
            Pcs::Skewed => {
                // Zipf's law with exponent 1: the weight of rank k is 1 / k, of the first k ranks about ln k.
                let n = self.live.len() as f64;
                let rank = |rng: &mut Rng| ((n + 1.0).powf(rng.part()) as usize).clamp(1, self.live.len()) - 1;
                let pc = |rng: &mut Rng| {
                    let rank = rank(rng);
                    within(rng, &self.live[rank].0)
                };
                (0..count).map(|_| pc(&mut rng)).collect()
            }
            Pcs::Misses => {
                let mut pc = |i: usize| match i % 2 {
                    0 => within(&mut rng, &self.free[i / 2 % self.free.len()]),
                    _ => (uniform(&mut rng) & !(PLACE - 1)) + PLACE * 7 / 8,
                };
                (0..count).map(&mut pc).collect()
            }
        }
    }
}

/// Which pcs are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pcs {
    /// In live ranges, each as often as any other.
    Uniform,
    /// In live ranges, by Zipf's law: a few of them most of the time.
    Skewed,
    /// In no live range: half of them in free ranges, half in gaps between ranges.
    Misses,
}
