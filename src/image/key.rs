//! What a piece of compiled code is, and the numbers that say which.

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

/// What a compiled function is: a function of the guest, or one of the pieces of glue that a compiler adds.
///
/// Keys are ordered by kind, then module, then index.
///
/// An image stores one as two numbers, its space (`kind << 24 | module`) and its index, whose order is that of the
/// keys. Kinds are numbered in the order of this list; those without a module have 0 for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FunctionKey {
    /// A function of the guest. The only kind that makes frames.
    Defined {
        /// The module that defines it.
        module: ModuleIndex,
        /// Which of the module's own functions.
        function: DefinedFunctionIndex,
    },
    /// The trampoline through which the host calls a function of the guest.
    HostToGuest {
        /// The module that defines the function.
        module: ModuleIndex,
        /// The function called.
        function: DefinedFunctionIndex,
    },
    /// The trampoline through which the guest calls a function of the host.
    GuestToHost {
        /// The signature of the functions called.
        signature: SignatureIndex,
    },
    /// The trampoline through which the guest calls a builtin of the runtime.
    Builtin {
        /// The runtime's number for it.
        index: u32,
    },
    /// A trampoline between modules of one image.
    Adapter {
        /// The compiler's number for it.
        index: u32,
    },
    /// The trampoline through which the host calls any function of the guest that has this signature, and whose address
    /// it passes on.
    HostToGuestBySignature {
        /// The signature of the functions called.
        signature: SignatureIndex,
    },
}

/// Bits of a space that hold the module.
const MODULE_BITS: u32 = 24;
const MODULE_MASK: u32 = (1 << MODULE_BITS) - 1;

const DEFINED: u32 = 0;
const HOST_TO_GUEST: u32 = 1;
const GUEST_TO_HOST: u32 = 2;
const BUILTIN: u32 = 3;
const ADAPTER: u32 = 4;
const HOST_TO_GUEST_BY_SIGNATURE: u32 = 5;

impl FunctionKey {
    /// The module that the key names, if it is of a kind that does.
    #[must_use]
    pub const fn module(self) -> Option<ModuleIndex> {
        match self {
            FunctionKey::Defined { module, .. } | FunctionKey::HostToGuest { module, .. } => Some(module),
            FunctionKey::GuestToHost { .. }
            | FunctionKey::Builtin { .. }
            | FunctionKey::Adapter { .. }
            | FunctionKey::HostToGuestBySignature { .. } => None,
        }
    }

    /// Whether the key is that of a function of the guest.
    #[must_use]
    pub const fn is_defined(self) -> bool {
        matches!(self, FunctionKey::Defined { .. })
    }

    /// Space and index, or `None` if the module's number does not fit.
    pub(super) fn encode(self) -> Option<(u32, u32)> {
        let (kind, index) = match self {
            FunctionKey::Defined { function, .. } => (DEFINED, function.as_u32()),
            FunctionKey::HostToGuest { function, .. } => (HOST_TO_GUEST, function.as_u32()),
            FunctionKey::GuestToHost { signature } => (GUEST_TO_HOST, signature.as_u32()),
            FunctionKey::Builtin { index } => (BUILTIN, index),
            FunctionKey::Adapter { index } => (ADAPTER, index),
            FunctionKey::HostToGuestBySignature { signature } => (HOST_TO_GUEST_BY_SIGNATURE, signature.as_u32()),
        };
        let module = self.module().map_or(0, ModuleIndex::as_u32);
        (module <= MODULE_MASK).then_some((kind << MODULE_BITS | module, index))
    }

    /// The key that a space and an index stand for, or `None` if no key is stored like that.
    pub(super) fn decode(space: u32, index: u32) -> Option<FunctionKey> {
        let module = ModuleIndex::new(space & MODULE_MASK);
        let function = DefinedFunctionIndex::new(index);
        match (space >> MODULE_BITS, module.as_u32()) {
            (DEFINED, _) => Some(FunctionKey::Defined { module, function }),
            (HOST_TO_GUEST, _) => Some(FunctionKey::HostToGuest { module, function }),
            (GUEST_TO_HOST, 0) => Some(FunctionKey::GuestToHost { signature: SignatureIndex::new(index) }),
            (BUILTIN, 0) => Some(FunctionKey::Builtin { index }),
            (ADAPTER, 0) => Some(FunctionKey::Adapter { index }),
            (HOST_TO_GUEST_BY_SIGNATURE, 0) => {
                Some(FunctionKey::HostToGuestBySignature { signature: SignatureIndex::new(index) })
            }
            _ => None,
        }
    }
}

impl fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FunctionKey::Defined { module, function } => write!(f, "function {function} of module {module}"),
            FunctionKey::HostToGuest { module, function } => {
                write!(f, "trampoline into function {function} of module {module}")
            }
            FunctionKey::GuestToHost { signature } => write!(f, "trampoline for signature {signature}"),
            FunctionKey::Builtin { index } => write!(f, "trampoline to builtin {index}"),
            FunctionKey::Adapter { index } => write!(f, "adapter {index}"),
            FunctionKey::HostToGuestBySignature { signature } => {
                write!(f, "trampoline into functions of signature {signature}")
            }
        }
    }
}
