//! AArch64 Linux, the base procedure call standard (AAPCS64).
//!
//! The frame of [`enter`], from its stack pointer upwards:
//!
//! ```text
//! sp + 0    x29, x30: the frame record that x29 addresses
//!    + 16   x19 to x28
//!    + 96   d8 to d15
//!    + 160  fpcr
//!    + 168  where the stack pointer was stored: `OWNER`
//!    + 176  the caller's frame (the CFA)
//! ```
//!
//! [`land`] is reached with the stack pointer of that frame and nothing else: every other register is whatever the
//! trapped code left. `fpsr` stays so: its flags are nobody's across a call.
//!
//! Branch target identification is provided for: what may be reached by an indirect branch or a linker's veneer begins
//! with `bti c` (written as the hint that older assemblers and processors know), and `land` is reached as if by no
//! branch at all. Return addresses are not signed here, and signed ones in skipped frames are never used.

use crate::handler::walk::Registers;
use std::arch::naked_asm;
use std::ffi::c_void;

/// Where the frame of [`enter`] has the address that it was told to store its stack pointer to.
pub(in crate::signal) const OWNER: usize = 168;

/// What kind of branch led to the interrupted instruction. Not zero: only a matching `bti` may come next.
const BTYPE: u64 = 0b11 << 10;

/// Whether memory tags are unchecked: the trapped code's own choice.
const TCO: u64 = 1 << 25;

/// Programs cannot have alignment checked here.
pub(in crate::signal) fn stop_alignment_checks() {}

/// Tells unwinders where the frame of [`enter`] keeps its caller's registers, other than the frame record.
///
/// Needed from the call on only: until then the registers themselves still hold their values.
macro_rules! cfi_saved {
    () => {
        ".cfi_offset x19, -160
        .cfi_offset x20, -152
        .cfi_offset x21, -144
        .cfi_offset x22, -136
        .cfi_offset x23, -128
        .cfi_offset x24, -120
        .cfi_offset x25, -112
        .cfi_offset x26, -104
        .cfi_offset x27, -96
        .cfi_offset x28, -88
        .cfi_offset d8, -80
        .cfi_offset d9, -72
        .cfi_offset d10, -64
        .cfi_offset d11, -56
        .cfi_offset d12, -48
        .cfi_offset d13, -40
        .cfi_offset d14, -32
        .cfi_offset d15, -24"
    };
}

/// The interrupted program counter, stack pointer and frame pointer.
///
/// # Safety
///
/// `context` is the third argument of a handler installed with `SA_SIGINFO`.
pub(in crate::signal) unsafe fn frame(context: *const c_void) -> Registers {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the caller passes what the kernel built.
    unsafe {
        let registers = &(*context).uc_mcontext;
        Registers { pc: registers.pc as usize, sp: registers.sp as usize, fp: registers.regs[29] as usize }
    }
}

/// Never: each fault of an instruction has a code of its own here.
///
/// # Safety
///
/// As for [`frame`].
pub(in crate::signal) unsafe fn is_protection_fault(_context: *const c_void) -> bool {
    false
}

/// Makes the interrupted thread continue in [`land`], on the frame of [`enter`] at `sp`, once the handler returns.
///
/// # Safety
///
/// As for [`frame`]; `sp` was stored by an [`enter`] of this thread that has not returned.
pub(in crate::signal) unsafe fn redirect(context: *mut c_void, sp: usize) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the caller passes what the kernel built. The other state bits stay: a debugger may be single-stepping.
    unsafe {
        let registers = &mut (*context).uc_mcontext;
        registers.pc = land as *const () as u64;
        registers.sp = sp as u64;
        registers.pstate &= !(BTYPE | TCO);
    }
}

/// Calls `f(arg)` and returns 0; returns 1 if a trap lands. Stores its stack pointer to `*sp` before the call.
///
/// The C library may unwind it to end the thread.
///
/// # Safety
///
/// `f` may be called with `arg`. `sp` is writable.
#[unsafe(naked)]
pub(in crate::signal) unsafe extern "C-unwind" fn enter(
    f: unsafe extern "C" fn(*mut c_void),
    arg: *mut c_void,
    sp: *mut usize,
) -> u32 {
    naked_asm!(
        ".cfi_startproc",
        "hint #34", // bti c
        ".cfi_remember_state",
        "stp x29, x30, [sp, #-176]!",
        ".cfi_def_cfa_offset 176",
        ".cfi_offset x29, -176",
        ".cfi_offset x30, -168",
        "mov x29, sp",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "stp d8, d9, [sp, #96]",
        "stp d10, d11, [sp, #112]",
        "stp d12, d13, [sp, #128]",
        "stp d14, d15, [sp, #144]",
        cfi_saved!(),
        "mrs x9, fpcr",
        "str x9, [sp, #160]",
        "str x2, [sp, #168]",
        "mov x9, sp",
        "str x9, [x2]",
        "mov x9, x0",
        "mov x0, x1",
        "blr x9",
        "mov w0, wzr",
        // The callee preserved everything else.
        "ldp x29, x30, [sp], #176",
        ".cfi_restore_state",
        "ret",
        ".cfi_endproc",
    )
}

/// Returns 1 from the [`enter`] whose frame the stack pointer addresses.
#[unsafe(naked)]
unsafe extern "C" fn land() -> ! {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_remember_state",
        ".cfi_def_cfa sp, 176",
        ".cfi_offset x29, -176",
        ".cfi_offset x30, -168",
        cfi_saved!(),
        "ldr x9, [sp, #160]",
        "msr fpcr, x9",
        "ldp d14, d15, [sp, #144]",
        "ldp d12, d13, [sp, #128]",
        "ldp d10, d11, [sp, #112]",
        "ldp d8, d9, [sp, #96]",
        "ldp x27, x28, [sp, #80]",
        "ldp x25, x26, [sp, #64]",
        "ldp x23, x24, [sp, #48]",
        "ldp x21, x22, [sp, #32]",
        "ldp x19, x20, [sp, #16]",
        "mov w0, #1",
        "ldp x29, x30, [sp], #176",
        ".cfi_restore_state",
        "ret",
        ".cfi_endproc",
    )
}

/// Lands on the frame of [`enter`] at `sp`, from ordinary code.
///
/// # Safety
///
/// `sp` was stored by an [`enter`] of this thread that has not returned. The frames skipped need no cleanup.
#[unsafe(naked)]
pub(in crate::signal) unsafe extern "C" fn unwind_to(sp: usize) -> ! {
    naked_asm!(
        "hint #34", // bti c
        "mov sp, x0",
        "b {land}",
        land = sym land,
    )
}
