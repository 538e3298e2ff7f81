//! Code that traps.

use std::ffi::c_void;
use std::sync::Arc;
use std::{mem, ptr};
use trapline::image::{Image, ImageBuilder};
use trapline::{TrapCode, process};

/// What [`trapline::signal::catch_trap`] calls.
pub type Guest = unsafe extern "C" fn(*mut c_void);

/// Loads `text`, a function, which may trap at that offset.
pub fn load(text: &[u8], trap: Option<(usize, TrapCode)>) -> Image {
    let mut image = ImageBuilder::new();
    image.text(text).function(0..text.len(), None);
    if let Some((offset, code)) = trap {
        image.trap(offset, code);
    }
    let image = image.finish().expect("a valid image");
    Image::parse(&image).and_then(|image| Ok(image.publish()?)).expect("loads")
}

/// The function at an address.
pub fn guest(pc: usize) -> Guest {
    // SAFETY: an address is an address; those who call it answer for that.
    unsafe { mem::transmute::<usize, Guest>(pc) }
}

/// Registered machine code, with one function at its start.
pub struct Code {
    pub memory: Arc<Image>,
    _registration: process::Registration,
}

impl Code {
    fn new(text: &[u8], trap: Option<(usize, TrapCode)>) -> Self {
        let memory = Arc::new(load(text, trap));
        let registration = process::register(Arc::clone(&memory)).expect("registers");
        Self { memory, _registration: registration }
    }

    pub fn guest(&self) -> Guest {
        guest(self.memory.text_range().start)
    }
}

/// A call that traps.
pub struct Trapping {
    pub name: &'static str,
    pub code: Code,
    /// What it is called with.
    pub arg: *mut c_void,
    pub trap: TrapCode,
    /// How long the instruction is that traps.
    pub skipped: i64,
}

/// Returns at once.
pub fn returning() -> Code {
    Code::new(&[0xc3], None)
}

/// Divides by zero.
pub fn dividing() -> Code {
    let text = [
        0x31, 0xc9, // xor ecx, ecx
        0x8d, 0x41, 0x01, // lea eax, [rcx + 1]
        0x99, // cdq
        0xf7, 0xf9, // idiv ecx
        0xc3, // ret
    ];
    Code::new(&text, Some((6, TrapCode::IntegerDivisionByZero)))
}

/// An invalid instruction, a division by zero, and a load from a page that is not accessible.
pub fn trapping() -> [Trapping; 3] {
    let ud2 = [0x0f, 0x0b, 0xc3]; // ud2; ret
    let read = [0x8b, 0x07, 0xc3]; // mov eax, [rdi]; ret
    let trapping = |name, code, trap, arg| Trapping { name, code, arg, trap, skipped: 2 };
    [
        trapping(
            "`ud2` (SIGILL)",
            Code::new(&ud2, Some((0, TrapCode::Unreachable))),
            TrapCode::Unreachable,
            ptr::null_mut(),
        ),
        trapping("division by zero (SIGFPE)", dividing(), TrapCode::IntegerDivisionByZero, ptr::null_mut()),
        trapping(
            "load from a guard page (SIGSEGV)",
            Code::new(&read, Some((0, TrapCode::MemoryOutOfBounds))),
            TrapCode::MemoryOutOfBounds,
            forbidden_page(),
        ),
    ]
}

/// A function that calls itself until there are as many frames as its argument says, with frame pointers, and traps in
/// the innermost.
pub fn deep() -> Image {
    let text = [
        0x55, // push rbp
        0x48, 0x89, 0xe5, // mov rbp, rsp
        0x48, 0xff, 0xcf, // dec rdi
        0x74, 0x07, // jz to the trap
        0xe8, 0xf2, 0xff, 0xff, 0xff, // call the start
        0x5d, // pop rbp
        0xc3, // ret
        0x0f, 0x0b, // ud2
    ];
    load(&text, Some((16, TrapCode::Unreachable)))
}

/// A page without access, for ever.
fn forbidden_page() -> *mut c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let page = unsafe { libc::mmap(ptr::null_mut(), 4096, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    page
}
