//! What the System V calling convention promises to preserve.

use std::arch::{asm, naked_asm};
use std::ffi::c_void;

pub type Registers = [u64; 6];
pub const KNOWN: Registers = [1, 2, 3, 4, 5, 6];

/// Calls `function(arg)` with [`KNOWN`] values in all callee-saved registers and stores what they are afterwards.
#[unsafe(naked)]
pub unsafe extern "C" fn with_known_registers(
    function: unsafe extern "C" fn(*mut c_void),
    arg: *mut c_void,
    after: *mut Registers,
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

/// Changes all of it, then traps with its last two bytes.
pub const CHANGE_EVERYTHING: &[u8] = &[
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
pub const TRAP_LENGTH: usize = 2;

#[derive(Debug, PartialEq)]
pub struct FloatingPoint {
    mxcsr_control: u32,
    x87_control: u16,
    x87_status: u16,
    x87_tags: u16,
    direction: bool,
}

pub fn floating_point() -> FloatingPoint {
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

impl FloatingPoint {
    pub fn rounds_up(&self) -> bool {
        (self.mxcsr_control, self.x87_control) == ROUND_UP
    }
}

/// mxcsr and the x87 control word.
const AT_START: (u32, u16) = (0x1f80, 0x037f);
/// Not what `fninit` makes of them.
const ROUND_UP: (u32, u16) = (0x5f80, 0x0b7f);

pub fn round_up() {
    set_control(ROUND_UP);
}

pub fn round_as_at_start() {
    set_control(AT_START);
}

fn set_control((mxcsr, x87): (u32, u16)) {
    // SAFETY: exceptions stay masked; nothing is computed until they are reset.
    unsafe { asm!("ldmxcsr [{m}]", "fldcw [{x}]", m = in(reg) &mxcsr, x = in(reg) &x87) };
}
