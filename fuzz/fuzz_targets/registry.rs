//! Any sequence of writes, lookups and snapshots gives what a naive registry gives.
//!
//! Bytes rarely make two addresses that have anything to do with each other, so addresses are folded: a few regions,
//! far apart, with slots in them that lie close, aligned or not. That, long ranges and runs of neighbours make nodes of
//! every shape, split and merge.
#![no_main]

#[path = "../../tests/oracle/mod.rs"]
mod oracle;

use arbitrary::Arbitrary;
use core::ops::Range;
use libfuzzer_sys::fuzz_target;
use oracle::{Op, Oracle};

/// More ranges than this are not registered: the oracle's comparisons are linear.
const MOST: usize = 3_000;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Region {
    /// From address 0 on.
    Bottom,
    /// Up to the last address.
    Top,
    Near,
    /// Some GiB from `Near`, in units of 1 GiB.
    Off(u8),
    /// Anywhere: a multiple of 1 TiB.
    Far(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Spacing {
    Byte,
    Odd,
    Page,
    Image,
    Giant,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Length {
    Inverted,
    Empty,
    Bytes(u8),
    /// The whole slot.
    Slot,
    /// So many slots: overlaps what is behind, unless nothing is.
    Slots(u8),
    /// A multiple of 1 GiB.
    Gigabytes(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Place {
    region: Region,
    spacing: Spacing,
    slot: u16,
    length: Length,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Register(Place),
    /// One by one, upwards or downwards from a place.
    Run {
        first: Place,
        count: u8,
        down: bool,
    },
    RegisterAll(Vec<Place>),
    Batch {
        first: Place,
        count: u8,
        stride: u8,
    },
    Unregister(u16),
    UnregisterMany {
        first: u16,
        count: u8,
    },
    UnregisterStale(u16),
    Lookup(Place, u8),
    TakeSnapshot,
    DropSnapshot(u8),
    Reclaim,
    CompareAll,
}

impl Spacing {
    fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Odd => 37,
            Self::Page => 1 << 12,
            Self::Image => 1 << 16,
            Self::Giant => (1 << 32) + (1 << 12),
        }
    }
}

impl Place {
    fn start(self) -> usize {
        const NEAR: usize = 0x7f00_0000_0000;
        let offset = usize::from(self.slot % 1024) * self.spacing.bytes();
        match self.region {
            Region::Bottom => offset,
            Region::Top => usize::MAX - offset,
            Region::Near => NEAR + offset,
            Region::Off(gigabytes) => NEAR + (usize::from(gigabytes % 16) << 30) + offset,
            Region::Far(terabytes) => (usize::from(terabytes) << 40) + offset,
        }
    }

    fn range(self) -> Range<usize> {
        let start = self.start();
        let len = match self.length {
            Length::Inverted => return start..start.saturating_sub(1),
            Length::Empty => 0,
            Length::Bytes(bytes) => usize::from(bytes),
            Length::Slot => self.spacing.bytes(),
            Length::Slots(slots) => usize::from(slots) * self.spacing.bytes(),
            Length::Gigabytes(gigabytes) => usize::from(gigabytes) << 30,
        };
        start..start.saturating_add(len)
    }

    /// The place so many slots behind this one.
    fn plus(self, slots: usize) -> Self {
        Self { slot: self.slot.wrapping_add(slots as u16), ..self }
    }
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (pins, steps) = input;
    let mut oracle = Oracle::new(pins);
    let mut most = 0;
    let mut snapshots = 0;
    for step in steps {
        match step {
            Step::Register(place) => {
                most += 1;
                oracle.apply(&Op::Register(place.range()));
            }
            Step::Run { first, count, down } => {
                most += usize::from(count);
                for i in 0..usize::from(count) {
                    let slots = if down { i.wrapping_neg() } else { i };
                    oracle.apply(&Op::Register(first.plus(slots).range()));
                }
            }
            Step::RegisterAll(places) => {
                most += places.len();
                oracle.apply(&Op::RegisterAll(places.into_iter().map(Place::range).collect()));
            }
            Step::Batch { first, count, stride } => {
                most += usize::from(count);
                let places = (0..usize::from(count)).map(|i| first.plus(i * usize::from(stride)).range());
                oracle.apply(&Op::RegisterAll(places.collect()));
            }
            Step::Unregister(which) => oracle.apply(&Op::Unregister(which.into())),
            Step::UnregisterMany { first, count } => {
                for i in 0..usize::from(count) {
                    oracle.apply(&Op::Unregister(usize::from(first) + i));
                }
            }
            Step::UnregisterStale(which) => oracle.apply(&Op::UnregisterStale(which.into())),
            Step::Lookup(place, offset) => oracle.apply(&Op::Lookup(place.start().saturating_add(offset.into()))),
            Step::TakeSnapshot if snapshots < 8 => {
                snapshots += 1;
                oracle.apply(&Op::TakeSnapshot);
            }
            Step::TakeSnapshot => {}
            Step::DropSnapshot(which) => {
                snapshots = usize::saturating_sub(snapshots, 1);
                oracle.apply(&Op::DropSnapshot(which.into()));
            }
            Step::Reclaim => oracle.apply(&Op::Reclaim),
            Step::CompareAll => oracle.apply(&Op::CompareAll),
        }
        if most > MOST {
            break;
        }
    }
    oracle.end();
});
