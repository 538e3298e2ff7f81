//! A signal handler of one's own, over a registry of one's own: loads that may fault, with a place to go on.
//!
//! The registry's payload says where each piece of code recovers, as the exception tables of kernels do. The handler
//! asks it, and either sends the thread there or lets the signal do what it would have done.
//!
//! `cargo run --example embedder` (Linux on x86-64)

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod linux_x86_64 {
    use memmap2::{Mmap, MmapMut};
    use std::ffi::{c_int, c_void};
    use std::sync::Arc;
    use std::{error::Error, io, mem, ptr};
    use trapline::CodeRegistry;

    /// Code that may fault, and the offset at which it goes on then.
    struct Probe {
        pages: Mmap,
        recovery: usize,
    }

    static PROBES: CodeRegistry<Probe> = CodeRegistry::new();

    /// `fn(address) -> i32`: the byte at `address`, or -1 where nothing can be read.
    const LOAD: [u8; 10] = [
        0x0f, 0xb6, 0x07, // movzx eax, byte ptr [rdi]
        0xc3, // ret
        0xb8, 0xff, 0xff, 0xff, 0xff, // mov eax, -1
        0xc3, // ret
    ];

    extern "C" fn on_segv(signal: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel's argument.
        let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let pc = &mut registers[libc::REG_RIP as usize];
        // Everything is copied out of the closure: what it was lent is given back when it returns.
        match PROBES.with(*pc as usize, |found| found.range().start + found.payload().recovery) {
            Some(recovery) => *pc = recovery as i64,
            // Not ours: the fault happens again, and does what it would have done. (A program with other handlers
            // would call the old one here.)
            // SAFETY: resets one action.
            None => unsafe {
                libc::signal(signal, libc::SIG_DFL);
            },
        }
    }

    pub fn main() -> Result<(), Box<dyn Error>> {
        let mut pages = MmapMut::map_anon(LOAD.len())?;
        pages[..LOAD.len()].copy_from_slice(&LOAD);
        let probe = Arc::new(Probe { pages: pages.make_exec()?, recovery: 4 });
        let code = probe.pages.as_ptr();
        let _registered = PROBES.register(code.addr()..code.addr() + LOAD.len(), probe)?;

        // SAFETY: a zeroed action is one without flags; the handler is of the type that SA_SIGINFO asks for.
        let installed = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = on_segv as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut())
        };
        if installed != 0 {
            return Err(io::Error::last_os_error().into());
        }
        // SAFETY: `LOAD` is a function of this type; the registration keeps its pages.
        let load = unsafe { mem::transmute::<*const u8, extern "C" fn(*const u8) -> i32>(code) };
        println!("a byte of this program: {}", load(b"*".as_ptr()));
        println!("nothing is at address 8: {}", load(ptr::without_provenance(8)));
        Ok(())
    }
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    linux_x86_64::main()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("this example is for Linux on x86-64: it reads the registers of an interrupted thread");
}
