//! Lookups make no system call (P2): a thread that the kernel would kill for one makes a million.
#![cfg(target_os = "linux")]

use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use trapline::CodeRegistry;

static REGISTRY: CodeRegistry<usize> = CodeRegistry::new();
const LOOKUPS: usize = 1_000_000;
const STABLE: usize = 1_000;

fn stable(i: usize) -> usize {
    0x1000_0000 + i * 0x1000
}

/// What a child reports, in memory that it shares with its parent: it may not write to a pipe, nor exit as it likes.
#[derive(Default)]
struct Report {
    confined: AtomicUsize,
    lookups: AtomicUsize,
    wrong: AtomicUsize,
    writes_meanwhile: AtomicUsize,
    survived: AtomicUsize,
}

fn shared_report() -> &'static Report {
    // SAFETY: a fresh mapping, zeroed, large enough, and never unmapped.
    unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let page = libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED);
        &*page.cast::<Report>()
    }
}

/// From here on the calling thread may read, write and exit; for anything else the kernel kills it.
fn confine() -> bool {
    // SAFETY: changes what this thread may ask of the kernel, nothing in memory.
    unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT, 0, 0, 0) == 0 }
}

/// The end of a confined thread; `exit_group` is not among what it may call.
fn exit_thread() -> ! {
    // SAFETY: ends this thread on the spot, which is what is wanted.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

/// Runs `confined` on a thread in strict mode while another one writes to the registry, in a child process.
fn in_strict_mode(report: &'static Report, confined: fn(&'static Report)) {
    // SAFETY: the child is a single thread, which calls what `malloc` and thread creation keep usable after a fork.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork failed");
    if pid == 0 {
        // SAFETY: ends a child that hangs.
        unsafe { libc::alarm(120) };
        child(report, confined);
    }
    let mut status = 0;
    // SAFETY: a valid place for the status of our own child.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the child process itself failed: {status:#x}");
}

fn child(report: &'static Report, confined: fn(&'static Report)) -> ! {
    static OVER: AtomicBool = AtomicBool::new(false);
    let all = (0..STABLE).map(|i| (stable(i)..stable(i) + 0x800, Arc::new(i)));
    for registration in REGISTRY.register_all(all).unwrap() {
        registration.leak();
    }
    let writer = thread::spawn(|| {
        let mut i = 0;
        while !OVER.load(Ordering::Relaxed) {
            i += 1;
            let start = stable(i % STABLE) + 0x800;
            drop(REGISTRY.register(start..start + 0x400, Arc::new(usize::MAX)).unwrap());
            report.writes_meanwhile.fetch_add(2, Ordering::Relaxed);
        }
    });
    while report.writes_meanwhile.load(Ordering::Relaxed) < 100 {
        thread::yield_now();
    }
    let (tid, told) = std::sync::mpsc::channel();
    let _never_joined = thread::spawn(move || {
        // SAFETY: no preconditions.
        tid.send(unsafe { libc::syscall(libc::SYS_gettid) }).unwrap();
        drop(tid);
        if confine() {
            report.confined.store(1, Ordering::SeqCst);
            confined(report);
            report.survived.store(1, Ordering::SeqCst);
        }
        exit_thread();
    });
    // Whether it exits or is killed, its entry in /proc goes. (It cannot be joined: it ends behind the library's back.)
    let task = format!("/proc/self/task/{}", told.recv().unwrap());
    while std::path::Path::new(&task).exists() {
        thread::yield_now();
    }
    OVER.store(true, Ordering::Relaxed);
    let fine = writer.join().is_ok();
    // SAFETY: ends the process, without running what the test harness registered.
    unsafe { libc::_exit(i32::from(!fine)) }
}

#[test]
fn a_million_lookups_in_strict_mode() {
    let report = shared_report();
    in_strict_mode(report, |report| {
        for n in 0..LOOKUPS {
            let i = n % STABLE;
            let inside = REGISTRY.with(stable(i) + 0x7ff, |found| *found.payload());
            let outside = REGISTRY.with(stable(i) + 0xc00, |found| *found.payload());
            if inside != Some(i) || outside.is_some() {
                report.wrong.fetch_add(1, Ordering::Relaxed);
            }
            report.lookups.fetch_add(1, Ordering::Relaxed);
        }
    });
    let writes = report.writes_meanwhile.load(Ordering::SeqCst);
    println!("{} lookups in seccomp strict mode, {writes} writes meanwhile", report.lookups.load(Ordering::SeqCst));
    assert_eq!(report.confined.load(Ordering::SeqCst), 1, "strict mode was refused: nothing was shown");
    assert_eq!(report.lookups.load(Ordering::SeqCst), LOOKUPS, "killed on the way");
    assert_eq!(report.survived.load(Ordering::SeqCst), 1);
    assert_eq!(report.wrong.load(Ordering::SeqCst), 0);
    assert!(writes > 100);
}

#[test]
fn a_system_call_in_strict_mode_is_noticed() {
    let report = shared_report();
    in_strict_mode(report, |report| {
        report.lookups.fetch_add(1, Ordering::SeqCst);
        // SAFETY: no preconditions; the kernel kills the thread for it.
        unsafe { libc::syscall(libc::SYS_getpid) };
        report.lookups.fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(report.confined.load(Ordering::SeqCst), 1);
    assert_eq!(report.lookups.load(Ordering::SeqCst), 1, "getpid went through: strict mode shows nothing here");
    assert_eq!(report.survived.load(Ordering::SeqCst), 0, "a killed thread looks like success");
}
