//! A JIT with a code type of its own: emit, register, run, look up, replace.
//!
//! `cargo run --example own_registry`

use memmap2::{Mmap, MmapMut};
use std::error::Error;
use std::sync::Arc;
use trapline::{CodeRegistry, Registration, Unregistered};

/// What this JIT knows about a function it emitted. The registry keeps it, and with it the pages, as long as a lookup
/// may see it.
struct Function {
    name: &'static str,
    pages: Mmap,
}

/// A static: signal handlers need no pointer to it, and may be the first to use it.
static CODE: CodeRegistry<Function> = CodeRegistry::new();

/// Emits a function that returns `value`.
fn emit(name: &'static str, value: u16) -> Result<Arc<Function>, Box<dyn Error>> {
    let mut code = Vec::new();
    if cfg!(target_arch = "x86_64") {
        code.push(0xb8); // mov eax, value
        code.extend(u32::from(value).to_le_bytes());
        code.push(0xc3); // ret
    } else if cfg!(target_arch = "aarch64") {
        code.extend((0x5280_0000 | u32::from(value) << 5).to_le_bytes()); // mov w0, value
        code.extend(0xd65f_03c0_u32.to_le_bytes()); // ret
    } else {
        return Err("this example emits code for x86-64 and AArch64".into());
    }
    let mut pages = MmapMut::map_anon(code.len())?;
    pages[..code.len()].copy_from_slice(&code);
    let pages = pages.make_exec()?;
    clear_instruction_cache(&pages);
    Ok(Arc::new(Function { name, pages }))
}

fn clear_instruction_cache(_pages: &Mmap) {
    #[cfg(target_arch = "aarch64")]
    {
        unsafe extern "C" {
            fn __clear_cache(start: *const u8, end: *const u8);
        }
        let pages = _pages.as_ptr_range();
        // SAFETY: the pages are mapped.
        unsafe { __clear_cache(pages.start, pages.end) }
    }
}

fn register(function: Arc<Function>) -> Result<Registration<'static, Function>, Box<dyn Error>> {
    let pages = function.pages.as_ptr_range();
    Ok(CODE.register(pages.start.addr()..pages.end.addr(), function)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let function = emit("answer", 42)?;
    let start = function.pages.as_ptr();
    let registration = register(function)?;

    // SAFETY: `emit` wrote a function of this type there, and the registration keeps it mapped.
    let answer = unsafe { std::mem::transmute::<*const u8, extern "C" fn() -> u32>(start) };
    println!("answer() = {}", answer());

    // What a signal handler does with an interrupted pc. It may not print, of course.
    let pc = start.addr() + 1;
    let hit = CODE.with(pc, |found| (found.payload().name, found.offset()));
    println!("{pc:#x} is in {hit:x?}");

    // A snapshot sees one moment, and keeps what it sees: here it is why the function is not unmapped yet.
    let snapshot = CODE.snapshot();
    println!("unregistered: {:?}", registration.unregister()?);
    println!("a lookup finds {:?}", CODE.with(pc, |found| found.payload().name));
    println!("the snapshot still finds {:?}", snapshot.get(pc).map(|found| found.payload().name));
    drop(snapshot);

    // Without readers, pages are unmapped before `unregister` returns.
    assert_eq!(register(emit("answer", 43)?)?.unregister()?, Unregistered::Gone);
    Ok(())
}
