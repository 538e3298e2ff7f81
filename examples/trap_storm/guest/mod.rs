//! Guest code: real machine code whose behaviour is known in advance.
//!
//! [`ir`] says what each [`Kind`] of function does, to Cranelift; [`answer`] says the same to the host, independently,
//! as a plain Rust model. Every image bakes its own [`Constants`] into its code, so that two images never agree on an
//! answer: a lookup that returned a neighbour, or the former tenant of an address, gives itself away.
//! [`image`] compiles a set of functions and lays them out in trapline's image format, with their trap sites.
//! [`memory`] is the world that guest code runs in: a guarded linear memory, a truncated file, a table.

pub mod answer;
pub mod image;
mod ir;
pub mod memory;

pub use answer::{Answer, Call};
pub use cranelift_codegen::ir::TrapCode as Cause;
pub use image::{Compiler, GuestImage};
pub use memory::{Context, Table, World};

/// Numbers small enough for any generator: the storm wants speed and a seed, not quality.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// SplitMix64: a counter and a finaliser, so that any seed will do, zero included.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// The finaliser of SplitMix64, a bijection: also what fills guest memory.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What one image bakes into its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Constants {
    /// Part of every result.
    pub k: u64,
    /// The id of the one signature this image's table accepts.
    pub signature: u64,
}

impl Constants {
    pub fn random(rng: &mut Rng) -> Constants {
        Constants { k: rng.next() | 1, signature: rng.next() | 1 }
    }
}

/// The functions of an image, in the order in which they lie in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `a + b + k`, wrapping: never traps.
    Add,
    /// `(a + b) ^ k`, trapping on unsigned overflow.
    CheckedAdd,
    /// `(a / b) ^ k`, unsigned: the division instruction itself traps.
    UnsignedDiv,
    /// `(a / b) ^ k`, signed: zero is checked, the overflow traps in the instruction.
    SignedDiv,
    /// `(a % b) ^ k`, unsigned.
    UnsignedRem,
    /// `(a % b) ^ k`, signed.
    SignedRem,
    /// `a`'s bits as an `f64`, truncated to `i64`, `^ k`.
    Truncate,
    /// The eight bytes at `a as u32` of linear memory, `+ k`.
    Load,
    /// Stores `b ^ k` at `a as u32` of linear memory; `a + k`.
    Store,
    /// The eight bytes at `a % FILE_MAP` of a mapped file that is shorter than its mapping, `+ k`.
    FileLoad,
    /// `a ^ k`, and unreachable when `a == k`.
    Unreachable,
    /// Calls entry `a` of the table with `(b, k)`, after the checks a WebAssembly compiler would emit.
    CallIndirect,
    /// Recursion `a` deep under a stack limit check.
    RecurseChecked,
    /// Recursion `a` deep in large frames, with stack probes and nothing but the guard page below.
    RecurseGuarded,
    /// A loop of `a` rounds: where a profiler finds a program.
    Spin,
    /// Calls the host, which may raise a trap of its own or enter guest code again.
    CallHost,
}

impl Kind {
    pub const ALL: [Kind; 16] = [
        Kind::Add,
        Kind::CheckedAdd,
        Kind::UnsignedDiv,
        Kind::SignedDiv,
        Kind::UnsignedRem,
        Kind::SignedRem,
        Kind::Truncate,
        Kind::Load,
        Kind::Store,
        Kind::FileLoad,
        Kind::Unreachable,
        Kind::CallIndirect,
        Kind::RecurseChecked,
        Kind::RecurseGuarded,
        Kind::Spin,
        Kind::CallHost,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Add => "add",
            Kind::CheckedAdd => "checked_add",
            Kind::UnsignedDiv => "unsigned_div",
            Kind::SignedDiv => "signed_div",
            Kind::UnsignedRem => "unsigned_rem",
            Kind::SignedRem => "signed_rem",
            Kind::Truncate => "truncate",
            Kind::Load => "load",
            Kind::Store => "store",
            Kind::FileLoad => "file_load",
            Kind::Unreachable => "unreachable",
            Kind::CallIndirect => "call_indirect",
            Kind::RecurseChecked => "recurse_checked",
            Kind::RecurseGuarded => "recurse_guarded",
            Kind::Spin => "spin",
            Kind::CallHost => "call_host",
        }
    }
}

/// Why guest code traps, in the compiler's words: what a front end would pass to Cranelift.
pub mod cause {
    use super::Cause;

    pub const OVERFLOW: Cause = Cause::INTEGER_OVERFLOW;
    pub const DIVISION_BY_ZERO: Cause = Cause::INTEGER_DIVISION_BY_ZERO;
    pub const BAD_CONVERSION: Cause = Cause::BAD_CONVERSION_TO_INTEGER;
    pub const STACK: Cause = Cause::STACK_OVERFLOW;
    pub const MEMORY: Cause = Cause::HEAP_OUT_OF_BOUNDS;
    pub const UNREACHABLE: Cause = Cause::unwrap_user(1);
    pub const TABLE: Cause = Cause::unwrap_user(2);
    pub const NULL_CALL: Cause = Cause::unwrap_user(3);
    pub const BAD_SIGNATURE: Cause = Cause::unwrap_user(4);
    pub const INTERRUPT: Cause = Cause::unwrap_user(5);
    pub const OUT_OF_FUEL: Cause = Cause::unwrap_user(6);
}
