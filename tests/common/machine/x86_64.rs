use std::arch::naked_asm;
use std::ffi::c_void;

/// How long the first instruction of [`INVALID`], [`LOAD`] and [`ENDLESS`] is, in bytes: a handler that skips it lets
/// the function return.
pub const SKIPPED: usize = 2;

/// `ret`.
pub const RETURN: &[u8] = &[0xc3];

/// `ud2; ret`: an invalid instruction at 0.
pub const INVALID: &[u8] = &[0x0f, 0x0b, 0xc3];

/// `mov eax, [rdi]; ret`: a load through the argument at 0.
pub const LOAD: &[u8] = &[0x8b, 0x07, 0xc3];

/// `mov dword [rdi + 16], 1; ret`: a store.
pub const STORE: &[u8] = &[0xc7, 0x47, 0x10, 0x01, 0x00, 0x00, 0x00, 0xc3];
/// Where [`STORE`] stores.
pub const STORE_AT: usize = 0;

/// `xor ecx, ecx; lea eax, [rcx + 1]; cdq; idiv ecx; ret`: a division by zero at 6.
pub const DIVIDE: &[u8] = &[0x31, 0xc9, 0x8d, 0x41, 0x01, 0x99, 0xf7, 0xf9, 0xc3];

/// Calls the host function that the argument points at with the argument.
pub const CALL_HOST: &[u8] = &[
    0x57, // push rdi
    0xff, 0x17, // call [rdi]
    0x5f, // pop rdi
    0x0f, 0x0b, // ud2
];
/// Where [`CALL_HOST`] ends, in an invalid instruction.
pub const CALL_HOST_INVALID: usize = 4;

/// Calls itself until the stack ends.
pub const RECURSE: &[u8] = &[
    0x50, // push rax
    0xe8, 0xfa, 0xff, 0xff, 0xff, // call to the start
    0x58, // pop rax
    0xc3, // ret
];

/// `jmp` to itself; `ret`.
pub const ENDLESS: &[u8] = &[0xeb, 0xfe, 0xc3];

/// Ends the loop of [`ENDLESS`] at `start`, under whoever executes it.
///
/// # Safety
///
/// The code there is writable.
pub unsafe fn end(start: usize) {
    // SAFETY: the caller's; the two bytes become `nop; nop` at once.
    unsafe { std::ptr::with_exposed_provenance_mut::<u16>(start).write_volatile(0x9090) };
}

/// `tgkill(arg[0], arg[1], arg[2])` of three `i32`s, with a stack pointer below which nothing is mapped; then a load
/// through the argument, where the signal arrives.
pub const SEND_WITHOUT_A_STACK: &[u8] = &[
    0x49, 0x89, 0xe0, // mov r8, rsp
    0x49, 0x89, 0xf9, // mov r9, rdi
    0x41, 0x8b, 0x39, // mov edi, [r9]
    0x41, 0x8b, 0x71, 0x04, // mov esi, [r9 + 4]
    0x41, 0x8b, 0x51, 0x08, // mov edx, [r9 + 8]
    0xb8, 0xea, 0x00, 0x00, 0x00, // mov eax, 234
    0xbc, 0x00, 0x00, 0x01, 0x00, // mov esp, 0x10000
    0x0f, 0x05, // syscall
    0x41, 0x8b, 0x11, // mov edx, [r9]
    0x4c, 0x89, 0xc4, // mov rsp, r8
    0xc3, // ret
];
/// Where the signal of [`SEND_WITHOUT_A_STACK`] arrives.
pub const SENT_AT: usize = 29;

/// # Safety
///
/// `context` is what the kernel passed to a handler, which has not returned.
pub unsafe fn pc(context: *mut c_void) -> usize {
    // SAFETY: the caller's.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] as usize }
}

/// # Safety
///
/// As for [`pc`]; and the interrupted thread may go on at `pc`.
pub unsafe fn set_pc(context: *mut c_void, pc: usize) {
    // SAFETY: the caller's.
    unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] = pc as i64 };
}

/// Saves the callee-saved registers and the stack pointer to `*from`, and goes on where the stack pointer `to` was saved,
/// by this or by [`start`] or [`with_way_out`].
#[unsafe(naked)]
pub unsafe extern "C" fn switch(from: *mut usize, to: usize) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// Saves as [`switch`] does, and calls `f(arg)` on the stack that ends at `top`, a multiple of 16. `f` does not return.
#[unsafe(naked)]
pub unsafe extern "C" fn start(from: *mut usize, top: usize, f: unsafe extern "C" fn(*mut c_void), arg: *mut c_void) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "xor ebp, ebp",
        "mov rdi, rcx",
        "call rdx",
        "ud2",
    )
}

/// Saves as [`switch`] does, which makes it what `setjmp` is, and calls `f(arg)` on this stack.
#[unsafe(naked)]
pub unsafe extern "C" fn with_way_out(from: *mut usize, f: unsafe extern "C" fn(*mut c_void), arg: *mut c_void) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "sub rsp, 8",
        "mov rdi, rdx",
        "call rsi",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}
