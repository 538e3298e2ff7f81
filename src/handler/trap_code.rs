//! Why guest code trapped, in one byte.

use core::error::Error;
use core::fmt;

/// Declares [`TrapCode`], everything about a built-in code from its one line.
macro_rules! trap_codes {
    ($($name:ident = $byte:literal, $words:literal, $doc:literal;)*) => {
        /// What went wrong at a trap site.
        ///
        /// The list is what WebAssembly engines and their kin agree on; whatever else an engine needs is a
        /// [`user`](TrapCode::user) code. Images store a code as one byte: the built-in codes grow from 0 upwards, user
        /// codes fill 64 and above, and the bytes between are reserved for later built-in codes.
        ///
        /// # Signal safety
        ///
        /// Async-signal-safe, except for formatting.
        ///
        /// # Examples
        ///
        /// ```
        /// use trapline::TrapCode;
        ///
        /// let code = TrapCode::IntegerDivisionByZero;
        /// assert_eq!(TrapCode::from_u8(code.to_u8()), Some(code));
        /// assert_eq!(code.to_string(), "integer division by zero");
        /// assert_eq!(TrapCode::try_from(63).unwrap_err().to_string(), "no trap code is stored as 63");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum TrapCode {
            $(#[doc = $doc] $name,)*
            /// A code that means something to the embedder alone. Made by [`TrapCode::user`].
            User(UserTrap),
        }

        impl TrapCode {
            /// Every built-in code, in the order of their encodings, which start at 0.
            pub const BUILT_IN: [TrapCode; [$($byte),*].len()] = [$(TrapCode::$name),*];

            /// The byte that stands for this code in an image.
            ///
            /// # Signal safety
            ///
            /// Async-signal-safe.
            #[must_use]
            pub const fn to_u8(self) -> u8 {
                match self {
                    $(TrapCode::$name => $byte,)*
                    // A `UserTrap` is below `COUNT`, so the sum fits; `wrapping` only keeps a panic out of the
                    // handler's code.
                    TrapCode::User(user) => FIRST_USER.wrapping_add(user.0),
                }
            }

            /// The code that `byte` stands for, or `None` if it has no meaning to this version of the crate.
            ///
            /// # Signal safety
            ///
            /// Async-signal-safe.
            #[must_use]
            pub const fn from_u8(byte: u8) -> Option<TrapCode> {
                match byte {
                    $($byte => Some(TrapCode::$name),)*
                    FIRST_USER.. => Some(TrapCode::User(UserTrap(byte.wrapping_sub(FIRST_USER)))),
                    _ => None,
                }
            }

            const fn words(self) -> &'static str {
                match self {
                    $(TrapCode::$name => $words,)*
                    TrapCode::User(_) => "user-defined trap",
                }
            }
        }
    };
}
trap_codes! {
    // To add a code, add a line: its name, the next byte, what it prints as, and its documentation.
    StackOverflow = 0, "stack overflow", "The guest ran out of stack.";
    MemoryOutOfBounds = 1, "memory access out of bounds", "A load or store outside its linear memory.";
    HeapMisaligned = 2, "misaligned atomic memory access", "An atomic access to an address that is not a multiple of its size.";
    TableOutOfBounds = 3, "table access out of bounds", "An access outside its table.";
    IndirectCallToNull = 4, "indirect call to null", "An indirect call through an empty table slot.";
    BadSignature = 5, "indirect call to a function of another signature", "An indirect call to a function of another signature.";
    IntegerOverflow = 6, "integer overflow", "An integer result that does not fit, as of the smallest number divided by -1.";
    IntegerDivisionByZero = 7, "integer division by zero", "An integer divided by zero.";
    BadConversionToInteger = 8, "number has no integer of the wanted type", "A floating-point number without an integer of the wanted type.";
    Unreachable = 9, "unreachable code reached", "Code that its author declared unreachable.";
    Interrupt = 10, "interrupted by the host", "The host asked the guest to stop.";
    OutOfFuel = 11, "out of fuel", "The guest used up the fuel that it was given.";
    NullReference = 12, "null reference", "A null reference where an object was needed.";
    ArrayOutOfBounds = 13, "array access out of bounds", "An access outside its array.";
    CastFailure = 14, "reference cast to a type it does not have", "A reference that is not of the type it was cast to.";
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
}

impl fmt::Display for TrapCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())?;
        match self {
            TrapCode::User(user) => write!(f, " {}", user.0),
            _ => Ok(()),
        }
    }
}

/// A byte that no [`TrapCode`] is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnknownTrapCode(pub u8);

impl TryFrom<u8> for TrapCode {
    type Error = UnknownTrapCode;

    fn try_from(byte: u8) -> Result<TrapCode, UnknownTrapCode> {
        TrapCode::from_u8(byte).ok_or(UnknownTrapCode(byte))
    }
}

impl fmt::Display for UnknownTrapCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no trap code is stored as {}", self.0)
    }
}

impl Error for UnknownTrapCode {}

#[cfg(test)]
mod tests {
    use super::{TrapCode, UnknownTrapCode, UserTrap};

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
            match TrapCode::try_from(byte) {
                Ok(code) => assert_eq!(code.to_u8(), byte),
                Err(error) => assert_eq!(error, UnknownTrapCode(byte)),
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
