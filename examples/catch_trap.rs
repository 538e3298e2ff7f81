//! A hardware trap of hand-emitted machine code, as an error of the call.
//!
//! `cargo run --example catch_trap` (Linux on x86-64 and AArch64)

use std::error::Error;
use std::ffi::c_void;
use std::sync::Arc;
use trapline::image::{Image, ImageBuilder};
use trapline::signal::{Signals, catch_trap, install};
use trapline::{TrapCode, process};

/// `fn(*mut [i32; 2])` replaces the first number by its quotient with the second: the code, and where it traps.
fn divide() -> (Vec<u8>, usize) {
    if cfg!(target_arch = "aarch64") {
        // AArch64 divides by zero without a trap: a check and a `udf` do what `idiv` does elsewhere.
        let code: [u32; 6] = [
            0x2940_0801, // ldp  w1, w2, [x0]
            0x3500_0042, // cbnz w2, +8
            0x0000_0000, // udf  #0
            0x1ac2_0c21, // sdiv w1, w1, w2
            0xb900_0001, // str  w1, [x0]
            0xd65f_03c0, // ret
        ];
        (code.iter().flat_map(|word| word.to_le_bytes()).collect(), 8)
    } else {
        let code = [
            0x8b, 0x07, // mov  eax, [rdi]
            0x99, // cdq
            0xf7, 0x7f, 0x04, // idiv dword ptr [rdi + 4]
            0x89, 0x07, // mov  [rdi], eax
            0xc3, // ret
        ];
        (code.into(), 3)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (code, traps_at) = divide();
    let mut builder = ImageBuilder::new();
    builder.function(0..code.len(), Some("divide")).trap(traps_at, TrapCode::IntegerDivisionByZero).text(code);
    let image = Arc::new(Image::parse(&builder.finish()?)?.publish()?);
    let _registered = process::register(image.clone())?;

    // SAFETY: the text begins with a function of this type, and `image` outlives all calls.
    let divide: unsafe extern "C" fn(*mut c_void) = unsafe { image.entry(0) }.ok_or("no text")?;
    // SAFETY: nothing else in this program relies on these signals.
    unsafe { install(Signals::all())? };

    for divisor in [6, 0] {
        let mut numbers = [42, divisor];
        // SAFETY: `divide` reads and writes two numbers, and leaves nothing to clean up when it traps.
        match unsafe { catch_trap(divide, numbers.as_mut_ptr().cast()) } {
            Ok(()) => println!("42 / {divisor} = {}", numbers[0]),
            Err(trap) => println!("42 / {divisor}: {trap}"),
        }
    }
    Ok(())
}
