//! x86-64 Linux, System V calling convention.
//!
//! The frame of [`enter`], from its stack pointer upwards:
//!
//! ```text
//! sp + 0    mxcsr (4 bytes), x87 control word (2 bytes)
//!    + 8    where the stack pointer was stored: `OWNER`
//!    + 24   r15, r14, r13, r12, rbx, rbp
//!    + 72   return address
//!    + 80   the caller's frame (the CFA)
//! ```
//!
//! [`land`] is reached with the stack pointer of that frame and nothing else: every other register, the floating-point
//! state and the flags other than those that [`redirect`] clears are whatever the trapped code left.

use crate::handler::walk::Registers;
use std::arch::{asm, naked_asm};
use std::ffi::c_void;

/// Where the frame of [`enter`] has the address that it was told to store its stack pointer to.
pub(in crate::signal) const OWNER: usize = 8;

/// The direction flag, which the calling convention wants clear.
const DF: i64 = 1 << 10;

/// Whether alignment is checked, which compiled code does not survive.
const AC: i64 = 1 << 18;

/// Has alignment no longer checked in this handler. The kernel leaves that as the interrupted code had it, and gives it
/// back to that code.
pub(in crate::signal) fn stop_alignment_checks() {
    // SAFETY: changes one flag, on which no compiled code relies.
    unsafe { asm!("pushfq", "and dword ptr [rsp], {}", "popfq", const !AC as i32) };
}

/// The interrupted program counter, stack pointer and frame pointer.
///
/// # Safety
///
/// `context` is the third argument of a handler installed with `SA_SIGINFO`.
pub(in crate::signal) unsafe fn frame(context: *const c_void) -> Registers {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the caller passes what the kernel built. The registers' names are constants within the array.
    unsafe {
        let registers = &(*context).uc_mcontext.gregs;
        Registers {
            pc: registers[libc::REG_RIP as usize] as usize,
            sp: registers[libc::REG_RSP as usize] as usize,
            fp: registers[libc::REG_RBP as usize] as usize,
        }
    }
}

/// Whether the last fault of the interrupted thread was a general protection fault, as of an access to an address that
/// is not canonical.
///
/// # Safety
///
/// As for [`frame`].
pub(in crate::signal) unsafe fn is_protection_fault(context: *const c_void) -> bool {
    const GENERAL_PROTECTION: i64 = 13;
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the caller passes what the kernel built. For a signal that is no fault the kernel leaves the number of the fault before, or zero.
    unsafe { (*context).uc_mcontext.gregs[libc::REG_TRAPNO as usize] == GENERAL_PROTECTION }
}

/// Makes the interrupted thread continue in [`land`], on the frame of [`enter`] at `sp`, once the handler returns.
///
/// # Safety
///
/// As for [`frame`]; `sp` was stored by an [`enter`] of this thread that has not returned.
pub(in crate::signal) unsafe fn redirect(context: *mut c_void, sp: usize) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the caller passes what the kernel built. The trap flag stays: a debugger may be single-stepping.
    unsafe {
        let registers = &mut (*context).uc_mcontext.gregs;
        registers[libc::REG_RIP as usize] = land as *const () as i64;
        registers[libc::REG_RSP as usize] = sp as i64;
        registers[libc::REG_EFL as usize] &= !(DF | AC);
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
        "push rbp",
        ".cfi_def_cfa_offset 16",
        ".cfi_offset rbp, -16",
        "mov rbp, rsp",
        ".cfi_def_cfa_register rbp",
        "push rbx",
        ".cfi_offset rbx, -24",
        "push r12",
        ".cfi_offset r12, -32",
        "push r13",
        ".cfi_offset r13, -40",
        "push r14",
        ".cfi_offset r14, -48",
        "push r15",
        ".cfi_offset r15, -56",
        // Twenty-four bytes keep the stack aligned to 16 at the call.
        "sub rsp, 24",
        "stmxcsr [rsp]",
        "fnstcw [rsp + 4]",
        "mov [rsp + 8], rdx",
        "mov [rdx], rsp",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "xor eax, eax",
        // The callee preserved everything else.
        "leave",
        ".cfi_def_cfa rsp, 8",
        ".cfi_restore rbp",
        ".cfi_restore rbx",
        ".cfi_restore r12",
        ".cfi_restore r13",
        ".cfi_restore r14",
        ".cfi_restore r15",
        "ret",
        ".cfi_endproc",
    )
}

/// Returns 1 from the [`enter`] whose frame the stack pointer addresses.
#[unsafe(naked)]
unsafe extern "C" fn land() -> ! {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_def_cfa rsp, 80",
        ".cfi_offset rbp, -16",
        ".cfi_offset rbx, -24",
        ".cfi_offset r12, -32",
        ".cfi_offset r13, -40",
        ".cfi_offset r14, -48",
        ".cfi_offset r15, -56",
        // Empties the x87 stack and clears pending exceptions, which a changed control word might unmask.
        "fninit",
        "fldcw [rsp + 4]",
        "ldmxcsr [rsp]",
        "add rsp, 24",
        ".cfi_def_cfa_offset 56",
        "pop r15",
        ".cfi_def_cfa_offset 48",
        "pop r14",
        ".cfi_def_cfa_offset 40",
        "pop r13",
        ".cfi_def_cfa_offset 32",
        "pop r12",
        ".cfi_def_cfa_offset 24",
        "pop rbx",
        ".cfi_def_cfa_offset 16",
        "pop rbp",
        ".cfi_def_cfa_offset 8",
        "mov eax, 1",
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
        "mov rsp, rdi",
        "cld",
        "jmp {land}",
        land = sym land,
    )
}
