//! A shared library has the crate in it, as this program does. It installs its handlers, too, or is closed afterwards.
//!
//! Only glibc's loader unloads libraries.

#![cfg(all(
    feature = "signal",
    target_os = "linux",
    target_env = "gnu",
    not(target_feature = "crt-static"),
    any(target_arch = "x86_64", target_arch = "aarch64")
))]

mod common;

use common::machine::{INVALID, LOAD};
use common::old_handler::*;
use common::{SELECTED, forbidden_page, in_child, install_all, load, run};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{mem, ptr};
use trapline::TrapCode;

/// Builds `verification/cdylib`, once, for the children.
fn library() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if std::env::var_os(SELECTED).is_none() {
        BUILT.get_or_init(|| {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args(["build", "--quiet", "--offline", "--package", "dlopened", "--manifest-path"]);
            cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).arg("--target-dir").arg(target);
            cargo.env_remove("CARGO_BUILD_TARGET");
            assert!(cargo.status().unwrap().success(), "the library does not build");
        });
    }
    target.join("debug/libdlopened.so")
}

fn open(library: &Path) -> *mut c_void {
    let name = CString::new(library.as_os_str().as_bytes()).unwrap();
    // SAFETY: the library's constructors are Rust's.
    let opened = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!opened.is_null(), "{library:?} cannot be opened");
    opened
}

/// Calls the function `name` of the library.
fn call(library: *mut c_void, name: &CStr) -> c_int {
    // SAFETY: functions without arguments.
    unsafe {
        let function = libc::dlsym(library, name.as_ptr());
        assert!(!function.is_null());
        mem::transmute::<*mut c_void, extern "C" fn() -> c_int>(function)()
    }
}

fn close(library: *mut c_void) {
    // SAFETY: opened above.
    assert_eq!(unsafe { libc::dlclose(library) }, 0);
}

/// The file that `address` is mapped from, as the loader knows it.
fn file_of(address: usize) -> Option<String> {
    // SAFETY: fills the structure in if it finds something, with strings of the loader's.
    unsafe {
        let mut info: libc::Dl_info = mem::zeroed();
        let name: *const c_char = match libc::dladdr(ptr::without_provenance(address), &mut info) {
            0 => return None,
            _ => info.dli_fname,
        };
        Some(CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

#[test]
fn handlers_outlive_the_closing_of_their_library() {
    let built = library();
    for relative in [false, true] {
        in_child(&relative.to_string(), || {
            let page = forbidden_page();
            for signum in FOUR {
                set_action(signum, handler(SKIP), libc::SA_SIGINFO, &[]);
            }
            let opened = if relative {
                std::env::set_current_dir(built.parent().unwrap()).unwrap();
                let opened = open(Path::new("./libdlopened.so"));
                // The name that the loader has means nothing from here on.
                std::env::set_current_dir("/").unwrap();
                opened
            } else {
                open(&built)
            };
            assert_eq!(call(opened, c"library_install"), 0);
            close(opened);
            call_as_host(LOAD, page);
            assert_eq!(calls(), 1);
            for signum in FOUR {
                let file = file_of(action_of(signum).sa_sigaction);
                assert!(file.is_some_and(|file| file.ends_with("libdlopened.so")));
            }
        })
        .well();
    }
}

#[test]
fn two_copies_of_the_crate_in_turn_in_front_of_each_other_reach_the_oldest_handler() {
    let built = library();
    for (variant, old) in [("handler", handler(SKIP)), ("default", libc::SIG_DFL)] {
        for rounds in 1..4 {
            let ended = in_child(&format!("{variant} {rounds}"), || {
                set_action(libc::SIGILL, old, libc::SA_SIGINFO, &[]);
                let opened = open(&built);
                for _ in 0..rounds {
                    install_all();
                    assert_eq!(call(opened, c"library_install"), 0);
                }
                let ours = load(INVALID, &[(0, TrapCode::Interrupt)]);
                assert_eq!(run(&ours, ptr::null_mut()).unwrap_err().code, TrapCode::Interrupt);
                for times in 1..4 {
                    call_as_host(INVALID, ptr::null_mut());
                    assert_eq!(calls(), times);
                }
            });
            if old == libc::SIG_DFL { ended.by_signal(libc::SIGILL) } else { ended.well() }
        }
    }
}

#[test]
fn each_of_two_copies_of_the_crate_catches_the_traps_of_its_own_code() {
    let built = library();
    for variant in ["the library last", "the library first"] {
        in_child(variant, || {
            let opened = open(&built);
            let [start, enter, lookup] = [c"library_start", c"library_enter", c"library_lookup"].map(|name| {
                // SAFETY: the library is open.
                let function = unsafe { libc::dlsym(opened, name.as_ptr()) };
                assert!(!function.is_null());
                function
            });
            // SAFETY: these are their types in the library.
            let (start, enter, lookup) = unsafe {
                (
                    mem::transmute::<*mut c_void, extern "C" fn() -> usize>(start),
                    mem::transmute::<*mut c_void, unsafe extern "C" fn(usize) -> i32>(enter),
                    mem::transmute::<*mut c_void, extern "C" fn(usize) -> i32>(lookup),
                )
            };
            let theirs = if variant == "the library first" {
                let theirs = start();
                install_all();
                theirs
            } else {
                install_all();
                start()
            };
            let ours = load(INVALID, &[(0, TrapCode::Interrupt)]);
            for _ in 0..3 {
                assert_eq!(run(&ours, ptr::null_mut()).unwrap_err().code, TrapCode::Interrupt);
                // SAFETY: what `library_start` returned.
                assert_eq!(unsafe { enter(theirs) }, i32::from(TrapCode::Unreachable.to_u8()));
            }
            // Neither knows of the other's code.
            assert_eq!(trapline::process::with(theirs, |_| ()), None);
            assert_eq!((lookup(theirs), lookup(ours.start)), (i32::from(TrapCode::Unreachable.to_u8()), -1));
        })
        .well();
    }
}

#[test]
fn a_library_that_installed_nothing_is_unloaded() {
    // So the test above is about `install`.
    let built = library();
    in_child("", || {
        let opened = open(&built);
        assert_eq!(call(opened, c"library_expects"), i32::from(TrapCode::Unreachable.to_u8()));
        // SAFETY: the library has it.
        let inside = unsafe { libc::dlsym(opened, c"library_expects".as_ptr()) }.addr();
        assert!(file_of(inside).is_some());
        close(opened);
        assert_eq!(file_of(inside), None);
    })
    .well();
}
