//! A shared library whose code is the process's signal handler must not be unloaded.
//!
//! Only the loader of glibc unloads libraries: musl's `dlclose` does nothing, and programs without a loader have no
//! libraries.

use std::io;

/// Keeps the library that holds this crate loaded until the process ends, if it is in one.
#[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
pub(super) fn keep_loaded() -> io::Result<()> {
    use crate::sync::Ordering;
    use crate::sync::unmodelled::AtomicBool;
    use std::ffi::{CStr, c_char, c_int, c_void};
    use std::mem::MaybeUninit;
    use std::ptr;

    /// A reference of our own is taken once.
    static KEPT: AtomicBool = AtomicBool::new(false);

    /// The name and the address of the library or program that has `address`.
    fn loaded_at(address: *const c_void) -> Option<(*const c_char, *mut c_void)> {
        let mut info = MaybeUninit::<libc::Dl_info>::uninit();
        // SAFETY: fills the structure in if it finds something.
        let info = unsafe { (libc::dladdr(address, info.as_mut_ptr()) != 0).then(|| info.assume_init()) };
        info.filter(|info| !info.dli_fname.is_null()).map(|info| (info.dli_fname, info.dli_fbase))
    }

    // Relaxed: nothing is published with it.
    if KEPT.load(Ordering::Relaxed) {
        return Ok(());
    }
    // What the loader does not know it does not unload, and it does not unload the program.
    let Some((name, base)) = loaded_at(ptr::from_ref(&KEPT).cast()) else { return Ok(()) };
    // SAFETY: no preconditions. The kernel's word on where the program's headers are.
    let program = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
    let program = loaded_at(ptr::with_exposed_provenance(program));
    if program.is_none_or(|(_, program)| program != base) {
        const MODE: c_int = libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        // SAFETY: the loader's own string; nothing is loaded or initialised. The handle is never closed. `dlerror`
        // returns null or a string that lives until this thread's next call.
        unsafe {
            if libc::dlopen(name, MODE).is_null() {
                let why = libc::dlerror();
                let why = if why.is_null() { "".into() } else { CStr::from_ptr(why).to_string_lossy() };
                return Err(io::Error::other(format!(
                    "the library of the signal handlers cannot be kept loaded: {why}"
                )));
            }
        }
    }
    KEPT.store(true, Ordering::Relaxed);
    Ok(())
}

#[cfg(not(all(target_env = "gnu", not(target_feature = "crt-static"))))]
pub(super) fn keep_loaded() -> io::Result<()> {
    Ok(())
}
