//! What `main.c` opens: code that is registered, and the questions its handlers ask.

use std::ffi::c_void;
use std::mem;
use std::ptr;
use std::sync::Arc;
use trapline::image::{Image, ImageBuilder};
use trapline::signal::{Signals, catch_trap, install};
use trapline::{TrapCode, process};

const CODE: TrapCode = TrapCode::Unreachable;

/// Registers a function that traps, takes over the signals of traps, and returns the function's address.
#[unsafe(no_mangle)]
pub extern "C" fn library_start() -> usize {
    let invalid: &[u8] = if cfg!(target_arch = "aarch64") { &[0, 0, 0, 0] } else { &[0x0f, 0x0b] };
    let mut image = ImageBuilder::new();
    image.text(invalid).trap(0, CODE);
    let image = image.finish().expect("two instructions make an image");
    let memory = Image::parse(&image).and_then(|code| Ok(code.publish()?)).map(Arc::new);
    let memory = memory.expect("the image is right, and there is memory");
    process::register(memory.clone()).expect("nobody else is there").leak();
    // SAFETY: the program expects it.
    unsafe { install(Signals::all()) }.expect("the signals are there");
    memory.text_range().start
}

/// For handlers: why the instruction at `pc` traps, or -1.
#[unsafe(no_mangle)]
pub extern "C" fn library_lookup(pc: usize) -> i32 {
    #[cfg(feature = "lazy")]
    {
        thread_local!(static LAST: std::cell::RefCell<Vec<usize>> = const { std::cell::RefCell::new(Vec::new()) });
        LAST.with(|last| std::hint::black_box(last.borrow().len()));
    }
    process::trap_code(pc).map_or(-1, |code| i32::from(code.to_u8()))
}

/// Calls the function at `start`: why it trapped, or -1.
///
/// # Safety
///
/// `start` is what [`library_start`] returned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn library_enter(start: usize) -> i32 {
    let start = ptr::with_exposed_provenance::<()>(start);
    // SAFETY: the function that was published there, which skips no frame but its own.
    let trapped = unsafe {
        let function = mem::transmute::<*const (), unsafe extern "C" fn(*mut c_void)>(start);
        catch_trap(function, ptr::null_mut())
    };
    trapped.map_or_else(|trap| i32::from(trap.code.to_u8()), |()| -1)
}

/// What both must answer at the function's start.
#[unsafe(no_mangle)]
pub extern "C" fn library_expects() -> i32 {
    i32::from(CODE.to_u8())
}

/// Takes over the signals of traps, and nothing else.
#[unsafe(no_mangle)]
pub extern "C" fn library_install() -> i32 {
    // SAFETY: the program expects it.
    unsafe { install(Signals::all()) }.map_or(-1, |()| 0)
}
