//! Why guest code trapped, in one byte.

use std::fmt;

/// What went wrong at a trap site.
///
/// The list is what WebAssembly engines and their kin agree on; whatever else an engine needs is a
/// [`user`](TrapCode::user) code. Images store a code as one byte: the built-in codes grow from 0 upwards, user codes
/// fill 64 and above, and what lies between is kept for later built-in codes.
///
/// # Signal safety
///
/// Everything but formatting is async-signal-safe: a value is two bytes, copied, and the conversions neither allocate
/// nor panic.
///
/// # Examples
///
/// ```
/// use trapline::TrapCode;
///
/// let code = TrapCode::IntegerDivisionByZero;
/// assert_eq!(TrapCode::from_u8(code.to_u8()), Some(code));
/// assert_eq!(code.to_string(), "integer division by zero");
/// assert_eq!(TrapCode::from_u8(63), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TrapCode {
    /// The guest ran out of stack.
    StackOverflow,
    /// A load or store outside its linear memory.
    MemoryOutOfBounds,
    /// An atomic access to an address that is not a multiple of its size.
    HeapMisaligned,
    /// An access outside its table.
    TableOutOfBounds,
    /// An indirect call through an empty table slot.
    IndirectCallToNull,
    /// An indirect call to a function of another signature.
    BadSignature,
    /// An integer result that does not fit, as of the smallest number divided by -1.
    IntegerOverflow,
    /// An integer divided by zero.
    IntegerDivisionByZero,
    /// A floating-point number without an integer of the wanted type.
    BadConversionToInteger,
    /// Code that its author declared unreachable.
    Unreachable,
    /// The host asked the guest to stop.
    Interrupt,
    /// The guest used up the fuel that it was given.
    OutOfFuel,
    /// A null reference where an object was needed.
    NullReference,
    /// An access outside its array.
    ArrayOutOfBounds,
    /// A reference that is not of the type it was cast to.
    CastFailure,
    /// A code that means something to the embedder alone. Made by [`TrapCode::user`].
    User(UserTrap),
}

/// The number of a user-defined trap, `0..UserTrap::COUNT`.
///
/// A type of its own, so that every [`TrapCode`] has an encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserTrap(u8);

/// The encoding of user trap 0.
const FIRST_USER: u8 = 64;

impl UserTrap {
    /// How many user-defined traps there are.
    pub const COUNT: u8 = u8::MAX - FIRST_USER + 1;

    /// User trap `number`, or `None` from [`UserTrap::COUNT`] on.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::COUNT { Some(UserTrap(number)) } else { None }
    }

    /// The number given to [`UserTrap::new`].
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TrapCode {
    /// Every built-in code, in the order of their encodings, which start at 0.
    pub const BUILT_IN: [TrapCode; 15] = [
        TrapCode::StackOverflow,
        TrapCode::MemoryOutOfBounds,
        TrapCode::HeapMisaligned,
        TrapCode::TableOutOfBounds,
        TrapCode::IndirectCallToNull,
        TrapCode::BadSignature,
        TrapCode::IntegerOverflow,
        TrapCode::IntegerDivisionByZero,
        TrapCode::BadConversionToInteger,
        TrapCode::Unreachable,
        TrapCode::Interrupt,
        TrapCode::OutOfFuel,
        TrapCode::NullReference,
        TrapCode::ArrayOutOfBounds,
        TrapCode::CastFailure,
    ];

    /// User-defined code `number`, or `None` from [`UserTrap::COUNT`] (192) on.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    ///
    /// # Examples
    ///
    /// ```
    /// use trapline::{TrapCode, UserTrap};
    ///
    /// const ASSERTION: TrapCode = TrapCode::user(3).unwrap();
    /// assert_eq!(ASSERTION.to_string(), "user-defined trap 3");
    /// assert_eq!(TrapCode::user(UserTrap::COUNT), None);
    /// ```
    #[must_use]
    pub const fn user(number: u8) -> Option<TrapCode> {
        match UserTrap::new(number) {
            Some(user) => Some(TrapCode::User(user)),
            None => None,
        }
    }

    /// The byte that stands for this code in an image.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub const fn to_u8(self) -> u8 {
        match self {
            TrapCode::StackOverflow => 0,
            TrapCode::MemoryOutOfBounds => 1,
            TrapCode::HeapMisaligned => 2,
            TrapCode::TableOutOfBounds => 3,
            TrapCode::IndirectCallToNull => 4,
            TrapCode::BadSignature => 5,
            TrapCode::IntegerOverflow => 6,
            TrapCode::IntegerDivisionByZero => 7,
            TrapCode::BadConversionToInteger => 8,
            TrapCode::Unreachable => 9,
            TrapCode::Interrupt => 10,
            TrapCode::OutOfFuel => 11,
            TrapCode::NullReference => 12,
            TrapCode::ArrayOutOfBounds => 13,
            TrapCode::CastFailure => 14,
            // A `UserTrap` is below `COUNT`, so the sum fits; `wrapping` only keeps a panic out of the handler's code.
            TrapCode::User(user) => FIRST_USER.wrapping_add(user.0),
        }
    }

    /// The code that `byte` stands for, or `None` for a byte that no version of this crate has given a meaning.
    ///
    /// # Signal safety
    ///
    /// Async-signal-safe.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<TrapCode> {
        Some(match byte {
            0 => TrapCode::StackOverflow,
            1 => TrapCode::MemoryOutOfBounds,
            2 => TrapCode::HeapMisaligned,
            3 => TrapCode::TableOutOfBounds,
            4 => TrapCode::IndirectCallToNull,
            5 => TrapCode::BadSignature,
            6 => TrapCode::IntegerOverflow,
            7 => TrapCode::IntegerDivisionByZero,
            8 => TrapCode::BadConversionToInteger,
            9 => TrapCode::Unreachable,
            10 => TrapCode::Interrupt,
            11 => TrapCode::OutOfFuel,
            12 => TrapCode::NullReference,
            13 => TrapCode::ArrayOutOfBounds,
            14 => TrapCode::CastFailure,
            15..FIRST_USER => return None,
            FIRST_USER.. => TrapCode::User(UserTrap(byte.wrapping_sub(FIRST_USER))),
        })
    }
}

impl fmt::Display for TrapCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrapCode::StackOverflow => "stack overflow",
            TrapCode::MemoryOutOfBounds => "memory access out of bounds",
            TrapCode::HeapMisaligned => "misaligned atomic memory access",
            TrapCode::TableOutOfBounds => "table access out of bounds",
            TrapCode::IndirectCallToNull => "indirect call to null",
            TrapCode::BadSignature => "indirect call to a function of another signature",
            TrapCode::IntegerOverflow => "integer overflow",
            TrapCode::IntegerDivisionByZero => "integer division by zero",
            TrapCode::BadConversionToInteger => "number has no integer of the wanted type",
            TrapCode::Unreachable => "unreachable code reached",
            TrapCode::Interrupt => "interrupted by the host",
            TrapCode::OutOfFuel => "out of fuel",
            TrapCode::NullReference => "null reference",
            TrapCode::ArrayOutOfBounds => "array access out of bounds",
            TrapCode::CastFailure => "reference cast to a type it does not have",
            TrapCode::User(user) => return write!(f, "user-defined trap {}", user.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{TrapCode, UserTrap};

    #[test]
    fn every_code_has_one_byte_and_every_meaningful_byte_one_code() {
        for (byte, code) in TrapCode::BUILT_IN.into_iter().enumerate() {
            assert_eq!(usize::from(code.to_u8()), byte);
        }
        let users = (0..UserTrap::COUNT).map(|number| TrapCode::user(number).unwrap());
        for code in TrapCode::BUILT_IN.into_iter().chain(users) {
            assert_eq!(TrapCode::from_u8(code.to_u8()), Some(code));
        }
        let meaningful = (0..=u8::MAX).filter_map(TrapCode::from_u8).count();
        assert_eq!(meaningful, TrapCode::BUILT_IN.len() + usize::from(UserTrap::COUNT));
        for byte in 0..=u8::MAX {
            if let Some(code) = TrapCode::from_u8(byte) {
                assert_eq!(code.to_u8(), byte);
            }
        }
    }

    #[test]
    fn user_codes_end_where_the_byte_does() {
        assert_eq!(TrapCode::user(UserTrap::COUNT), None);
        assert_eq!(TrapCode::user(UserTrap::COUNT - 1).unwrap().to_u8(), u8::MAX);
    }

    #[test]
    fn no_two_codes_read_alike() {
        let mut words: Vec<_> = (0..=u8::MAX).filter_map(TrapCode::from_u8).map(|code| code.to_string()).collect();
        words.sort();
        let all = words.len();
        words.dedup();
        assert_eq!(words.len(), all);
    }
}
