//! A sampling profiler of generated code: SIGPROF, names, a top ten.
//!
//! `cargo run --release --example profiler` (Linux on x86-64 and AArch64)

use std::cmp::Reverse;
use std::error::Error;
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{collections::HashMap, io, mem, ptr};
use trapline::image::{Image, ImageBuilder};
use trapline::process::{register, symbolize};
use trapline::{Backtrace, PcKind, signal};

const ROOM: usize = 1 << 16;
/// The sampled addresses. A handler cannot grow a vector.
static SAMPLES: [AtomicUsize; ROOM] = [const { AtomicUsize::new(0) }; ROOM];
static TAKEN: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_sigprof(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    let mut innermost = Backtrace::<1>::new();
    // SAFETY: the kernel's argument, on the thread that it interrupted.
    unsafe { signal::sample(context, &mut innermost) };
    if let Some((pc, _)) = innermost.pcs().next()
        && let Some(slot) = SAMPLES.get(TAKEN.fetch_add(1, Relaxed))
    {
        slot.store(pc, Relaxed);
    }
}

/// `fn(rounds)`, a loop of the given number of instructions, and one more.
fn spin(instructions: usize) -> Vec<u8> {
    let back = -(instructions as i32 - 1);
    if cfg!(target_arch = "aarch64") {
        // nop, ..., subs x0, x0, 1; b.ne to the start; ret
        let mut code = vec![0xd503_201f; instructions - 2];
        code.extend([0xf100_0400, 0x5400_0001 | (back as u32 & 0x7_ffff) << 5, 0xd65f_03c0_u32]);
        code.iter().flat_map(|word| word.to_le_bytes()).collect()
    } else {
        // nop, ..., dec rdi; jnz to the start; ret
        let jump = [[0x0f, 0x85].as_slice(), &(back - 8).to_le_bytes()].concat();
        [&vec![0x90; instructions - 2], [0x48, 0xff, 0xcf].as_slice(), &jump, &[0xc3]].concat()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut builder, mut text, mut starts) = (ImageBuilder::new(), Vec::new(), Vec::new());
    for number in 1..=12 {
        starts.push(text.len());
        text.extend(spin(number * 20));
        builder.function(*starts.last().unwrap()..text.len(), Some(&format!("spin_{number}")));
        text.resize(text.len().next_multiple_of(16), 0);
    }
    let image = Arc::new(Image::parse(&builder.text(text).finish()?)?.publish()?);
    let _registered = register(image.clone())?;

    // SAFETY: the handler is of the type that SA_SIGINFO asks for; a zeroed action has no other flags.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = on_sigprof as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        let period = libc::timeval { tv_sec: 0, tv_usec: 1_000 };
        let timer = libc::itimerval { it_interval: period, it_value: period };
        if libc::sigaction(libc::SIGPROF, &action, ptr::null_mut()) != 0
            || libc::setitimer(libc::ITIMER_PROF, &timer, ptr::null_mut()) != 0
        {
            return Err(io::Error::last_os_error().into());
        }
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        for &start in &starts {
            // SAFETY: a function of this type begins there.
            let spin: extern "C" fn(u64) = unsafe { image.entry(start) }.ok_or("no function")?;
            spin(1_000);
        }
    }

    let mut counts = HashMap::<String, usize>::new();
    let taken = TAKEN.load(Relaxed).min(ROOM);
    for pc in SAMPLES[..taken].iter().map(|slot| slot.load(Relaxed)) {
        // Names are looked up in ordinary code, while the image is registered.
        let symbol = symbolize(pc, PcKind::Interrupted).ok_or("not registered any more")?;
        *counts.entry(symbol.function().and_then(|f| f.name()).unwrap_or("?").into()).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    println!("{taken} samples of generated code");
    for (name, count) in counts.iter().take(10) {
        println!("{:5.1} %  {name}", 100.0 * *count as f64 / taken as f64);
    }
    Ok(())
}
