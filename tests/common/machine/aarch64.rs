use std::arch::naked_asm;
use std::ffi::c_void;

/// Pushes the callee-saved registers, and stores the stack pointer to where `x0` points.
macro_rules! save {
    () => {
        "stp x29, x30, [sp, #-160]!
        stp x19, x20, [sp, #16]
        stp x21, x22, [sp, #32]
        stp x23, x24, [sp, #48]
        stp x25, x26, [sp, #64]
        stp x27, x28, [sp, #80]
        stp d8, d9, [sp, #96]
        stp d10, d11, [sp, #112]
        stp d12, d13, [sp, #128]
        stp d14, d15, [sp, #144]
        mov x9, sp
        str x9, [x0]"
    };
}

macro_rules! restore {
    () => {
        "ldp d14, d15, [sp, #144]
        ldp d12, d13, [sp, #128]
        ldp d10, d11, [sp, #112]
        ldp d8, d9, [sp, #96]
        ldp x27, x28, [sp, #80]
        ldp x25, x26, [sp, #64]
        ldp x23, x24, [sp, #48]
        ldp x21, x22, [sp, #32]
        ldp x19, x20, [sp, #16]
        ldp x29, x30, [sp], #160"
    };
}

/// How long the first instruction of [`INVALID`], [`LOAD`] and [`ENDLESS`] is, in bytes: a handler that skips it lets
/// the function return.
pub const SKIPPED: usize = 4;

/// `ret`.
pub const RETURN: &[u8] = &[0xc0, 0x03, 0x5f, 0xd6];

/// `udf #0; ret`: an invalid instruction at 0.
pub const INVALID: &[u8] = &[0x00, 0x00, 0x00, 0x00, 0xc0, 0x03, 0x5f, 0xd6];

/// `ldr w0, [x0]; ret`: a load through the argument at 0.
pub const LOAD: &[u8] = &[0x00, 0x00, 0x40, 0xb9, 0xc0, 0x03, 0x5f, 0xd6];

/// `mov w1, #1; str w1, [x0, #16]; ret`: a store.
pub const STORE: &[u8] = &[0x21, 0x00, 0x80, 0x52, 0x01, 0x10, 0x00, 0xb9, 0xc0, 0x03, 0x5f, 0xd6];
/// Where [`STORE`] stores.
pub const STORE_AT: usize = 4;

/// Calls the host function that the argument points at with the argument.
pub const CALL_HOST: &[u8] = &[
    0xfd, 0x7b, 0xbf, 0xa9, // stp x29, x30, [sp, #-16]!
    0xfd, 0x03, 0x00, 0x91, // mov x29, sp
    0x09, 0x00, 0x40, 0xf9, // ldr x9, [x0]
    0x20, 0x01, 0x3f, 0xd6, // blr x9
    0x00, 0x00, 0x00, 0x00, // udf #0
];
/// Where [`CALL_HOST`] ends, in an invalid instruction.
pub const CALL_HOST_INVALID: usize = 16;

/// Calls itself until the stack ends.
pub const RECURSE: &[u8] = &[
    0xfd, 0x7b, 0xbf, 0xa9, // stp x29, x30, [sp, #-16]!
    0xff, 0xff, 0xff, 0x97, // bl to the start
    0xfd, 0x7b, 0xc1, 0xa8, // ldp x29, x30, [sp], #16
    0xc0, 0x03, 0x5f, 0xd6, // ret
];

/// `b` to itself; `ret`.
pub const ENDLESS: &[u8] = &[0x00, 0x00, 0x00, 0x14, 0xc0, 0x03, 0x5f, 0xd6];

/// Ends the loop of [`ENDLESS`] at `start`, under whoever executes it.
///
/// # Safety
///
/// The code there is writable.
pub unsafe fn end(start: usize) {
    let branch = std::ptr::with_exposed_provenance_mut::<u32>(start);
    // SAFETY: the caller's. A branch may become a `nop` while it is executed; the rest makes that visible.
    unsafe {
        branch.write_volatile(0xd503_201f);
        std::arch::asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", in(reg) branch);
    }
}

/// `tgkill(arg[0], arg[1], arg[2])` of three `i32`s, with a stack pointer below which nothing is mapped; then a load
/// through the argument, where the signal arrives.
pub const SEND_WITHOUT_A_STACK: &[u8] = &[
    0xe9, 0x03, 0x00, 0x91, // mov x9, sp
    0xea, 0x03, 0x00, 0xaa, // mov x10, x0
    0x40, 0x01, 0x40, 0xb9, // ldr w0, [x10]
    0x41, 0x05, 0x40, 0xb9, // ldr w1, [x10, #4]
    0x42, 0x09, 0x40, 0xb9, // ldr w2, [x10, #8]
    0x68, 0x10, 0x80, 0xd2, // mov x8, #131
    0x2b, 0x00, 0xa0, 0xd2, // mov x11, #0x10000
    0x7f, 0x01, 0x00, 0x91, // mov sp, x11
    0x01, 0x00, 0x00, 0xd4, // svc #0
    0x42, 0x01, 0x40, 0xb9, // ldr w2, [x10]
    0x3f, 0x01, 0x00, 0x91, // mov sp, x9
    0xc0, 0x03, 0x5f, 0xd6, // ret
];
/// Where the signal of [`SEND_WITHOUT_A_STACK`] arrives.
pub const SENT_AT: usize = 36;

/// # Safety
///
/// `context` is what the kernel passed to a handler, which has not returned.
pub unsafe fn pc(context: *mut c_void) -> usize {
    // SAFETY: the caller's.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.pc as usize }
}

/// # Safety
///
/// As for [`pc`]; and the interrupted thread may go on at `pc`.
pub unsafe fn set_pc(context: *mut c_void, pc: usize) {
    // SAFETY: the caller's.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.pc = pc as u64 };
}

/// Saves the callee-saved registers and the stack pointer to `*from`, and goes on where the stack pointer `to` was saved,
/// by this or by [`start`] or [`with_way_out`].
#[unsafe(naked)]
pub unsafe extern "C" fn switch(from: *mut usize, to: usize) {
    naked_asm!(save!(), "mov sp, x1", restore!(), "ret")
}

/// Saves as [`switch`] does, and calls `f(arg)` on the stack that ends at `top`, a multiple of 16. `f` does not return.
#[unsafe(naked)]
pub unsafe extern "C" fn start(from: *mut usize, top: usize, f: unsafe extern "C" fn(*mut c_void), arg: *mut c_void) {
    naked_asm!(save!(), "mov sp, x1", "mov x29, xzr", "mov x0, x3", "blr x2", "udf #0")
}

/// Saves as [`switch`] does, which makes it what `setjmp` is, and calls `f(arg)` on this stack.
#[unsafe(naked)]
pub unsafe extern "C" fn with_way_out(from: *mut usize, f: unsafe extern "C" fn(*mut c_void), arg: *mut c_void) {
    naked_asm!(save!(), "mov x0, x2", "blr x1", restore!(), "ret")
}
