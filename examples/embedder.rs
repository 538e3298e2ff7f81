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
    use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};
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

    /// The action that was there before ours.
    static OLD: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

    extern "C" fn on_segv(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel's arguments.
        let (code, registers) =
            unsafe { ((*info).si_code, &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs) };
        let pc = &mut registers[libc::REG_RIP as usize];
        // A signal that somebody sent says nothing about the instruction it interrupted. The answer is copied out of the
        // closure: what it was lent is given back when it returns.
        let recovery =
            if code > 0 { PROBES.with(*pc as usize, |f| f.range().start + f.payload().recovery) } else { None };
        let Some(recovery) = recovery else {
            // Not ours. The old action gets it: a fault happens again, and what was sent is sent again.
            // SAFETY: an action that was there before; `OLD` was set before the handler was installed.
            unsafe {
                libc::sigaction(signal, OLD.load(Relaxed), ptr::null_mut());
                if code <= 0 {
                    libc::raise(signal);
                }
            }
            return;
        };
        *pc = recovery as i64;
    }

    pub fn main() -> Result<(), Box<dyn Error>> {
        let mut pages = MmapMut::map_anon(LOAD.len())?;
        pages[..LOAD.len()].copy_from_slice(&LOAD);
        let probe = Arc::new(Probe { pages: pages.make_exec()?, recovery: 4 });
        let code = probe.pages.as_ptr();
        let _registered = PROBES.register(code.addr()..code.addr() + LOAD.len(), probe)?;

        // SAFETY: a zeroed action is one without flags; the handler is of the type that SA_SIGINFO asks for.
        let installed = unsafe {
            let (mut action, mut old): (libc::sigaction, libc::sigaction) = (mem::zeroed(), mem::zeroed());
            libc::sigaction(libc::SIGSEGV, ptr::null(), &mut old);
            OLD.store(Box::into_raw(Box::new(old)), Relaxed);
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
