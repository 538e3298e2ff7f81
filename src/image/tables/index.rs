//! Numbers that count different things, kept apart by the compiler.

use std::fmt;

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// The index that is this number, counted from 0.
            #[must_use]
            pub const fn new(index: u32) -> Self {
                $name(index)
            }

            /// The number.
            #[must_use]
            pub const fn as_u32(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index! {
    /// Which module of an image.
    ModuleIndex
}

index! {
    /// Which of the functions that a module defines: imported functions do not count.
    DefinedFunctionIndex
}

index! {
    /// Which signature of an image's [`SignatureTable`](crate::image::SignatureTable).
    SignatureIndex
}
