//! What AAPCS64 promises to preserve.

use std::arch::{asm, naked_asm};
use std::ffi::c_void;

/// x19 to x29, d8 to d15.
pub type Registers = [u64; 19];
pub const KNOWN: Registers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19];

/// Calls `function(arg)` with [`KNOWN`] values in all callee-saved registers and stores what they are afterwards.
#[unsafe(naked)]
pub unsafe extern "C" fn with_known_registers(
    function: unsafe extern "C" fn(*mut c_void),
    arg: *mut c_void,
    after: *mut Registers,
) {
    naked_asm!(
        "stp x29, x30, [sp, #-176]!",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "stp d8, d9, [sp, #96]",
        "stp d10, d11, [sp, #112]",
        "stp d12, d13, [sp, #128]",
        "stp d14, d15, [sp, #144]",
        "str x2, [sp, #160]",
        "mov x19, #1",
        "mov x20, #2",
        "mov x21, #3",
        "mov x22, #4",
        "mov x23, #5",
        "mov x24, #6",
        "mov x25, #7",
        "mov x26, #8",
        "mov x27, #9",
        "mov x28, #10",
        "mov x29, #11",
        "mov x9, #12",
        "fmov d8, x9",
        "mov x9, #13",
        "fmov d9, x9",
        "mov x9, #14",
        "fmov d10, x9",
        "mov x9, #15",
        "fmov d11, x9",
        "mov x9, #16",
        "fmov d12, x9",
        "mov x9, #17",
        "fmov d13, x9",
        "mov x9, #18",
        "fmov d14, x9",
        "mov x9, #19",
        "fmov d15, x9",
        "mov x9, x0",
        "mov x0, x1",
        "blr x9",
        "ldr x2, [sp, #160]",
        "stp x19, x20, [x2]",
        "stp x21, x22, [x2, #16]",
        "stp x23, x24, [x2, #32]",
        "stp x25, x26, [x2, #48]",
        "stp x27, x28, [x2, #64]",
        "str x29, [x2, #80]",
        "stp d8, d9, [x2, #88]",
        "stp d10, d11, [x2, #104]",
        "stp d12, d13, [x2, #120]",
        "stp d14, d15, [x2, #136]",
        "ldp x19, x20, [sp, #16]",
        "ldp x21, x22, [sp, #32]",
        "ldp x23, x24, [sp, #48]",
        "ldp x25, x26, [sp, #64]",
        "ldp x27, x28, [sp, #80]",
        "ldp d8, d9, [sp, #96]",
        "ldp d10, d11, [sp, #112]",
        "ldp d12, d13, [sp, #128]",
        "ldp d14, d15, [sp, #144]",
        "ldp x29, x30, [sp], #176",
        "ret",
    )
}

/// Changes all of it, and the link register, then traps with its last four bytes.
pub const CHANGE_EVERYTHING: &[u8] = &[
    0x09, 0x10, 0xa0, 0xd2, // mov x9, #0x800000
    0x09, 0x44, 0x1b, 0xd5, // msr fpcr, x9: round down
    0xf3, 0x03, 0x1f, 0xaa, // mov x19, xzr
    0xf4, 0x03, 0x1f, 0xaa, // mov x20, xzr
    0xf5, 0x03, 0x1f, 0xaa, // mov x21, xzr
    0xf6, 0x03, 0x1f, 0xaa, // mov x22, xzr
    0xf7, 0x03, 0x1f, 0xaa, // mov x23, xzr
    0xf8, 0x03, 0x1f, 0xaa, // mov x24, xzr
    0xf9, 0x03, 0x1f, 0xaa, // mov x25, xzr
    0xfa, 0x03, 0x1f, 0xaa, // mov x26, xzr
    0xfb, 0x03, 0x1f, 0xaa, // mov x27, xzr
    0xfc, 0x03, 0x1f, 0xaa, // mov x28, xzr
    0xfd, 0x03, 0x1f, 0xaa, // mov x29, xzr
    0xfe, 0x03, 0x1f, 0xaa, // mov x30, xzr
    0x08, 0xe4, 0x00, 0x2f, // movi d8, #0
    0x09, 0xe4, 0x00, 0x2f, // movi d9, #0
    0x0a, 0xe4, 0x00, 0x2f, // movi d10, #0
    0x0b, 0xe4, 0x00, 0x2f, // movi d11, #0
    0x0c, 0xe4, 0x00, 0x2f, // movi d12, #0
    0x0d, 0xe4, 0x00, 0x2f, // movi d13, #0
    0x0e, 0xe4, 0x00, 0x2f, // movi d14, #0
    0x0f, 0xe4, 0x00, 0x2f, // movi d15, #0
    0x00, 0x00, 0x00, 0x00, // udf #0
];
pub const TRAP_LENGTH: usize = 4;

#[derive(Debug, PartialEq)]
pub struct FloatingPoint {
    fpcr: u64,
}

pub fn floating_point() -> FloatingPoint {
    let fpcr;
    // SAFETY: reads a register.
    unsafe { asm!("mrs {}, fpcr", out(reg) fpcr, options(nomem, nostack)) };
    FloatingPoint { fpcr }
}

impl FloatingPoint {
    pub fn rounds_up(&self) -> bool {
        self.fpcr == ROUND_UP
    }
}

const AT_START: u64 = 0;
const ROUND_UP: u64 = 1 << 22;

pub fn round_up() {
    set_control(ROUND_UP);
}

pub fn round_as_at_start() {
    set_control(AT_START);
}

fn set_control(fpcr: u64) {
    // SAFETY: nothing is computed until it is reset.
    unsafe { asm!("msr fpcr, {}", in(reg) fpcr, options(nomem, nostack)) };
}
