//! What a call of `catch_trap` leaves as it was: registers, floating-point control, mask, alternate stack.
//!
//! Each body runs in a child process: signal actions belong to a whole process.

#![cfg(all(feature = "signal", target_os = "linux", target_arch = "x86_64"))]

mod common;

use common::{DIVIDE, Guest, UD2, alternate_stack, in_child, install_all, load, run};
use std::arch::{asm, naked_asm};
use std::ffi::c_void;
use std::{mem, ptr};
use trapline::TrapCode;
use trapline::signal::{Trap, catch_trap};

/// Calls `function(arg)` with known values in all callee-saved registers and stores what they are afterwards.
#[unsafe(naked)]
unsafe extern "C" fn with_known_registers(
    function: unsafe extern "C" fn(*mut c_void),
    arg: *mut c_void,
    after: *mut [u64; 6],
) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdx",
        "mov rbp, 1",
        "mov rbx, 2",
        "mov r12, 3",
        "mov r13, 4",
        "mov r14, 5",
        "mov r15, 6",
        "mov rax, rdi",
        "mov rdi, rsi",
        "call rax",
        "pop rdx",
        "mov [rdx], rbp",
        "mov [rdx + 8], rbx",
        "mov [rdx + 16], r12",
        "mov [rdx + 24], r13",
        "mov [rdx + 32], r14",
        "mov [rdx + 40], r15",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

#[derive(Debug, PartialEq)]
struct FloatingPoint {
    mxcsr_control: u32,
    x87_control: u16,
    x87_status: u16,
    x87_tags: u16,
    direction: bool,
}

fn floating_point() -> FloatingPoint {
    let (mut mxcsr, mut environment, flags) = (0_u32, [0_u16; 14], 0_u64);
    let mut flags = flags;
    // SAFETY: reads state; `fnstenv` masks x87 exceptions, which are masked already, and `fldenv` undoes that.
    unsafe {
        asm!(
            "stmxcsr [{m}]", "fnstenv [{e}]", "fldenv [{e}]", "pushfq", "pop {f}",
            m = in(reg) &raw mut mxcsr, e = in(reg) &raw mut environment, f = inout(reg) flags,
        );
    }
    FloatingPoint {
        mxcsr_control: mxcsr & 0xffc0,
        x87_control: environment[0],
        x87_status: environment[2],
        x87_tags: environment[4],
        direction: flags & (1 << 10) != 0,
    }
}

/// mxcsr and the x87 control word.
const AT_START: (u32, u16) = (0x1f80, 0x037f);
/// Not what `fninit` makes of them.
const ROUND_UP: (u32, u16) = (0x5f80, 0x0b7f);

fn set_floating_point_control((mxcsr, x87): (u32, u16)) {
    // SAFETY: exceptions stay masked; nothing is computed until they are reset.
    unsafe { asm!("ldmxcsr [{m}]", "fldcw [{x}]", m = in(reg) &mxcsr, x = in(reg) &x87) };
}

#[test]
fn a_trap_restores_callee_saved_registers_and_floating_point_control() {
    in_child("", || {
        install_all();
        let text = [
            0x48, 0x83, 0xec, 0x08, // sub rsp, 8
            0xc7, 0x04, 0x24, 0x80, 0x3f, 0x00, 0x00, // mov dword [rsp], 0x3f80
            0x0f, 0xae, 0x14, 0x24, // ldmxcsr [rsp]: round down
            0xc7, 0x04, 0x24, 0x7f, 0x0e, 0x00, 0x00, // mov dword [rsp], 0x0e7f
            0xd9, 0x2c, 0x24, // fldcw [rsp]: round towards zero, 53 bits
            0xd9, 0xee, 0xd9, 0xee, 0xd9, 0xee, // fldz, three times
            0x31, 0xdb, // xor ebx, ebx
            0x31, 0xed, // xor ebp, ebp
            0x45, 0x31, 0xe4, // xor r12d, r12d
            0x45, 0x31, 0xed, // xor r13d, r13d
            0x45, 0x31, 0xf6, // xor r14d, r14d
            0x45, 0x31, 0xff, // xor r15d, r15d
            0xfd, // std
            0x0f, 0x0b, // ud2
        ];
        let site = u32::try_from(text.len() - 2).unwrap();
        let code = load(&text, &[(site, TrapCode::Unreachable)]);
        struct Call {
            guest: Guest,
            trap: Option<Trap>,
            before: Option<FloatingPoint>,
            after: Option<FloatingPoint>,
        }
        unsafe extern "C" fn call(arg: *mut c_void) {
            // SAFETY: the test's own `Call`.
            let call = unsafe { &mut *arg.cast::<Call>() };
            set_floating_point_control(ROUND_UP);
            call.before = Some(floating_point());
            // SAFETY: the guest skips only its own frame.
            call.trap = unsafe { catch_trap(call.guest, ptr::null_mut()) }.err();
            call.after = Some(floating_point());
            set_floating_point_control(AT_START);
        }
        let mut this = Call { guest: code.guest(), trap: None, before: None, after: None };
        let mut after = [0; 6];
        // SAFETY: `call` takes a `Call`; `after` has room.
        unsafe { with_known_registers(call, (&raw mut this).cast(), &mut after) };
        assert_eq!(this.trap.unwrap().code, TrapCode::Unreachable);
        assert_eq!(after, [1, 2, 3, 4, 5, 6]);
        assert_eq!(this.after, this.before);
        assert_eq!(this.after.unwrap().x87_control, ROUND_UP.1);
    })
    .well();
}

#[test]
fn a_guest_that_returns_restores_callee_saved_registers() {
    in_child("", || {
        let code = load(&[0xc3], &[]);
        unsafe extern "C" fn call(arg: *mut c_void) {
            // SAFETY: the test's own guest, which only returns.
            unsafe { catch_trap(*arg.cast::<Guest>(), ptr::null_mut()) }.unwrap();
        }
        let (mut guest, mut after) = (code.guest(), [0; 6]);
        // SAFETY: `call` takes a `Guest`; `after` has room.
        unsafe { with_known_registers(call, (&raw mut guest).cast(), &mut after) };
        assert_eq!(after, [1, 2, 3, 4, 5, 6]);
    })
    .well();
}

#[test]
fn unwinders_find_the_caller_of_catch_trap() {
    unsafe extern "C" fn capture(arg: *mut c_void) {
        // SAFETY: the test's own.
        unsafe { *arg.cast::<String>() = std::backtrace::Backtrace::force_capture().to_string() };
    }
    in_child("", || {
        let mut trace = String::new();
        // SAFETY: no frame is skipped.
        unsafe { catch_trap(capture, (&raw mut trace).cast()) }.unwrap();
        let entry = trace.find("capture").expect(&trace);
        assert!(trace[entry..].contains("unwinders_find_the_caller_of_catch_trap::{{closure}}"), "{trace}");
    })
    .well();
}

fn signal_mask() -> Vec<bool> {
    // SAFETY: queries into a valid set.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut set);
        (1..65).map(|signum| libc::sigismember(&set, signum) == 1).collect()
    }
}

#[test]
fn ten_thousand_traps_leave_the_mask_and_the_alternate_stack_alone() {
    in_child("", || {
        install_all();
        let invalid = load(UD2, &[(0, TrapCode::Unreachable)]);
        let divide = load(DIVIDE, &[(6, TrapCode::IntegerDivisionByZero)]);
        run(&invalid, ptr::null_mut()).unwrap_err();
        let (mask, stack) = (signal_mask(), alternate_stack());
        for _ in 0..5_000 {
            run(&invalid, ptr::null_mut()).unwrap_err();
            run(&divide, ptr::null_mut()).unwrap_err();
        }
        let after = alternate_stack();
        assert_eq!(mask, signal_mask());
        assert_eq!((stack.ss_sp, stack.ss_size), (after.ss_sp, after.ss_size));
        assert_eq!(after.ss_flags, 0);
    })
    .well();
}
