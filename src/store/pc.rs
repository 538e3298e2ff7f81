//! Addresses of code, of two kinds that do not mix.

use std::fmt;
use std::ops::Range;

macro_rules! pc {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(usize);

        impl $name {
            /// The address `pc` as one of this kind.
            #[inline]
            #[must_use]
            pub const fn new(pc: usize) -> Self {
                Self(pc)
            }

            /// The absolute address.
            #[inline]
            #[must_use]
            pub const fn as_usize(self) -> usize {
                self.0
            }

            /// How many bytes this is past the start of `range`, if it lies in it; the range's end is exclusive.
            #[inline]
            #[must_use]
            pub fn offset_in(self, range: &Range<Self>) -> Option<usize> {
                range.contains(&self).then(|| self.0.wrapping_sub(range.start.0))
            }

            /// The address `offset` bytes past the start of `range`, if it lies in it; the range's end is exclusive.
            #[inline]
            #[must_use]
            pub fn at(range: &Range<Self>, offset: usize) -> Option<Self> {
                let pc = Self(range.start.0.checked_add(offset)?);
                range.contains(&pc).then_some(pc)
            }

            #[inline]
            pub(crate) fn range(range: Range<usize>) -> Range<Self> {
                Self(range.start)..Self(range.end)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

pc! {
    /// An address in an engine's canonical copy of some code, an [`EngineCode`](crate::store::EngineCode).
    ///
    /// Not to be called: the store that runs the code may have a copy of its own. Confusing the two does not compile:
    ///
    /// ```compile_fail
    /// # use trapline::store::{EnginePc, StorePc};
    /// let engine: EnginePc = EnginePc::new(0x1000);
    /// let store: StorePc = engine;
    /// ```
    EnginePc
}

pc! {
    /// An address in the code that one store executes, a [`StoreCode`](crate::store::StoreCode).
    StorePc
}
