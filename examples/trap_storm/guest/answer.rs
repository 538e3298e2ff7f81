//! What a call must do, computed without running it.

use super::memory::{self, FILE_LEN, FILE_MAP, MEMORY_LEN, Slot, Table};
use super::{Cause, Constants, Kind, Rng, cause};
use std::hint::black_box;

/// One call of a guest function: which, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub kind: Kind,
    pub a: u64,
    pub b: u64,
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Value(u64),
    Trap(Expected),
}

/// The trap a call must end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub cause: Cause,
    /// The function that traps, which is not the one that was called when the call went through the table.
    pub site: Site,
    /// Where memory was touched, if that is what trapped.
    pub fault: Option<Fault>,
}

/// Where the trap comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// A trap site of this function.
    Function(Kind),
    /// Any instruction of this function that touches its stack.
    Anywhere(Kind),
    /// A host function that raised it.
    Host,
}

/// A faulting address, relative to the thread's own mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Memory(u64),
    File(u64),
}

/// What the host function of [`Kind::CallHost`] is asked to do, in `a`.
pub mod host {
    /// Raise "out of fuel".
    pub const FUEL: u64 = 0;
    /// Raise "interrupt".
    pub const INTERRUPT: u64 = 1;
    /// Enter guest code again, catch the trap there, and return [`CAUGHT`].
    pub const NEST: u64 = 2;
    pub const CAUGHT: u64 = 0x6361_7567_6874;
}

/// Deep enough to overflow any stack the storm gives to a thread.
const BOTTOMLESS: u64 = 1 << 40;

impl Call {
    /// A call of `kind` that traps about as often as not, where it can.
    pub fn random(kind: Kind, constants: Constants, rng: &mut Rng) -> Call {
        let (x, y) = (rng.next(), rng.next());
        let trap = rng.next() & 1 == 0;
        let (a, b) = match kind {
            Kind::Add => (x, y),
            Kind::CheckedAdd if trap => (x, (!x).wrapping_add(1 + y % x.max(1))),
            Kind::CheckedAdd => (x >> 1, y >> 1),
            Kind::UnsignedDiv | Kind::UnsignedRem | Kind::SignedRem if trap => (x, 0),
            Kind::SignedDiv if trap && y & 1 == 0 => (x, 0),
            Kind::SignedDiv if trap => (i64::MIN as u64, -1_i64 as u64),
            Kind::SignedRem if y & 7 == 0 => (i64::MIN as u64, -1_i64 as u64),
            Kind::UnsignedDiv | Kind::UnsignedRem | Kind::SignedDiv | Kind::SignedRem => (x, (y >> (x % 60)) | 1),
            Kind::Truncate if trap && y & 1 == 0 => (f64::NAN.to_bits(), y),
            Kind::Truncate if trap => ((1e19 + (x >> 12) as f64).to_bits(), y),
            Kind::Truncate => (((x as i64 >> 11) as f64).to_bits(), y),
            // One in eight straddles the end: its first bytes are there, its last are not.
            Kind::Load | Kind::Store if trap && y & 7 == 0 => (MEMORY_LEN as u64 - 1 - x % 7, y),
            Kind::Load | Kind::Store if trap => {
                let beyond = MEMORY_LEN as u64;
                (beyond + x % ((1 << 32) - beyond), y)
            }
            // The low half is for loads, the high half for stores: a load's answer never depends on a store.
            Kind::Load => ((x % (MEMORY_LEN as u64 / 2)) & !7, y),
            Kind::Store => ((MEMORY_LEN as u64 / 2 + x % (MEMORY_LEN as u64 / 2)) & !7, y),
            Kind::FileLoad if trap => {
                let beyond = FILE_LEN as u64;
                ((beyond + x % (FILE_MAP as u64 - beyond)) & !7, y)
            }
            Kind::FileLoad => ((x % FILE_LEN as u64) & !7, y),
            Kind::Unreachable if trap => (constants.k, y),
            Kind::Unreachable => (x, y),
            Kind::CallIndirect if y & 3 == 0 => (x, constants.k),
            Kind::CallIndirect => (x % (Table::SLOTS.len() as u64 + 1), if trap { constants.k } else { y }),
            Kind::RecurseChecked | Kind::RecurseGuarded if trap && y & 3 == 0 => (BOTTOMLESS, y),
            Kind::RecurseChecked => (x % 64, y),
            Kind::RecurseGuarded => (x % 8, y),
            Kind::Spin => (x % 8192, y),
            Kind::CallHost => (x % 6, y),
        };
        Call { kind, a, b }
    }

    /// The known answer.
    pub fn answer(self, constants: Constants) -> Answer {
        let Call { kind, a, b } = self;
        let k = constants.k;
        let at = |cause| trap(cause, Site::Function(kind), None);
        match kind {
            Kind::Add => Answer::Value(a.wrapping_add(b).wrapping_add(k)),
            Kind::CheckedAdd => match a.checked_add(b) {
                Some(sum) => Answer::Value(sum ^ k),
                None => at(cause::OVERFLOW),
            },
            Kind::UnsignedDiv | Kind::UnsignedRem if b == 0 => at(cause::DIVISION_BY_ZERO),
            Kind::UnsignedDiv => Answer::Value((a / b) ^ k),
            Kind::UnsignedRem => Answer::Value((a % b) ^ k),
            Kind::SignedDiv | Kind::SignedRem if b == 0 => at(cause::DIVISION_BY_ZERO),
            Kind::SignedDiv => match (a as i64).checked_div(b as i64) {
                Some(quotient) => Answer::Value(quotient as u64 ^ k),
                None => at(cause::OVERFLOW),
            },
            Kind::SignedRem => Answer::Value((a as i64).wrapping_rem(b as i64) as u64 ^ k),
            Kind::Truncate => {
                let float = f64::from_bits(a);
                if float.is_nan() {
                    at(cause::BAD_CONVERSION)
                } else if (-(2_f64.powi(63))..2_f64.powi(63)).contains(&float) {
                    Answer::Value(float as i64 as u64 ^ k)
                } else {
                    at(cause::OVERFLOW)
                }
            }
            Kind::Load | Kind::Store => {
                let address = u64::from(a as u32);
                if address + 8 > MEMORY_LEN as u64 {
                    // The processor reports the first byte that is missing.
                    let fault = Fault::Memory(address.max(MEMORY_LEN as u64));
                    trap(cause::MEMORY, Site::Function(kind), Some(fault))
                } else if kind == Kind::Load {
                    Answer::Value(memory::initial_word(address / 8).wrapping_add(k))
                } else {
                    Answer::Value(a.wrapping_add(k))
                }
            }
            Kind::FileLoad => {
                let offset = a % FILE_MAP as u64;
                if offset >= FILE_LEN as u64 {
                    trap(cause::MEMORY, Site::Function(kind), Some(Fault::File(offset)))
                } else {
                    Answer::Value(memory::initial_word(offset / 8).wrapping_add(k))
                }
            }
            Kind::Unreachable if a == k => at(cause::UNREACHABLE),
            Kind::Unreachable => Answer::Value(a ^ k),
            Kind::CallIndirect => {
                let Some(slot) = usize::try_from(a).ok().and_then(|a| Table::SLOTS.get(a)) else {
                    return at(cause::TABLE);
                };
                match *slot {
                    Slot::Null => at(cause::NULL_CALL),
                    Slot::ForeignSignature => at(cause::BAD_SIGNATURE),
                    Slot::Function(kind) => match (Call { kind, a: b, b: k }).answer(constants) {
                        Answer::Value(value) => Answer::Value(value.wrapping_add(k)),
                        trap => trap,
                    },
                }
            }
            Kind::RecurseChecked if a >= BOTTOMLESS => at(cause::STACK),
            Kind::RecurseGuarded if a >= BOTTOMLESS => trap(cause::STACK, Site::Anywhere(kind), None),
            Kind::RecurseChecked | Kind::RecurseGuarded => {
                let bottom = (1..=a).fold(b, u64::wrapping_add) ^ k;
                Answer::Value(bottom.wrapping_add(k.wrapping_mul(a)))
            }
            Kind::Spin => {
                // `black_box` keeps the host's compiler from finding a closed form: both sides do the work.
                let x = (0..black_box(a)).fold(b, |x, _| x.rotate_left(7).wrapping_mul(k));
                Answer::Value(x)
            }
            Kind::CallHost => match a {
                host::FUEL => trap(cause::OUT_OF_FUEL, Site::Host, None),
                host::INTERRUPT => trap(cause::INTERRUPT, Site::Host, None),
                host::NEST => Answer::Value(host::CAUGHT.wrapping_add(k)),
                _ => Answer::Value((a ^ b).wrapping_add(k)),
            },
        }
    }

    /// What linear memory must hold after the call returned: an address and a word.
    pub fn effect(self, constants: Constants) -> Option<(u64, u64)> {
        (self.kind == Kind::Store).then_some((u64::from(self.a as u32), self.b ^ constants.k))
    }
}

fn trap(cause: Cause, site: Site, fault: Option<Fault>) -> Answer {
    Answer::Trap(Expected { cause, site, fault })
}
