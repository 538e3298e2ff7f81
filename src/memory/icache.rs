//! Making freshly written instructions visible to the instruction fetch.
//!
//! x86 and IBM Z keep it coherent in hardware. AArch64 does not: each data cache line must be cleaned to, and each
//! instruction cache line invalidated from, the point where the two caches meet. Machines whose rules are not written
//! down here refuse to publish code instead of running stale bytes.

use std::io;

/// Makes `text` executable as it now reads, on every core. It must be mapped readable.
#[cfg(any(target_arch = "x86", target_arch = "x86_64", target_arch = "s390x"))]
pub(super) fn make_coherent(_text: &[u8]) -> io::Result<()> {
    Ok(())
}

/// Makes `text` executable as it now reads, on every core. It must be mapped readable.
#[cfg(target_arch = "aarch64")]
pub(super) fn make_coherent(text: &[u8]) -> io::Result<()> {
    use std::arch::asm;

    let range = text.as_ptr_range();
    let (start, end) = (range.start.addr(), range.end.addr());
    let types: usize;
    // SAFETY: reads the cache type register, which user mode may on every system that runs Rust.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) types, options(nomem, nostack, preserves_flags)) };
    // Both fields count words of four bytes, as a power of two.
    let data_line = 4_usize << ((types >> 16) & 0xf);
    let instruction_line = 4_usize << (types & 0xf);
    for line in (start & !(data_line - 1)..end).step_by(data_line) {
        // SAFETY: cleaning a line changes no memory; `text` is readable, and a line does not cross its page.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: a barrier. Orders the cleaning above before the invalidation below, on all cores.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) };
    for line in (start & !(instruction_line - 1)..end).step_by(instruction_line) {
        // SAFETY: as for cleaning; what is invalidated is fetched again.
        unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers. The invalidation is complete on all cores, and this one refetches what it had prefetched.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
    refetch_on_other_cores();
    Ok(())
}

/// Other cores may have prefetched what these addresses held before. The kernel makes each core that runs this process
/// refetch; where it cannot, a thread does so when the kernel next returns to it.
#[cfg(all(target_arch = "aarch64", any(target_os = "linux", target_os = "android")))]
fn refetch_on_other_cores() {
    const SYNC_CORE: libc::c_int = 1 << 5;
    const REGISTER_SYNC_CORE: libc::c_int = 1 << 6;
    for command in [REGISTER_SYNC_CORE, SYNC_CORE] {
        // SAFETY: membarrier takes numbers only and touches no memory.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    }
}

#[cfg(all(target_arch = "aarch64", not(any(target_os = "linux", target_os = "android"))))]
fn refetch_on_other_cores() {}

/// Refuses: what this machine needs is not known here.
#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "s390x", target_arch = "aarch64")))]
pub(super) fn make_coherent(_text: &[u8]) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "making instruction caches coherent is not implemented here"))
}
