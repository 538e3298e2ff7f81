//! Loading hand-assembled code, and running a test's body in a child process of its own.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod fiber;
pub mod machine;
pub mod old_handler;

use std::ffi::c_void;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{mem, ptr};
use trapline::image::{Image, ImageBuilder};
use trapline::signal::{Signals, Trap, catch_trap, install};
use trapline::{TrapCode, process};

/// What [`trapline::signal::catch_trap`] calls.
pub type Guest = unsafe extern "C" fn(*mut c_void);

/// Registered machine code. Dropping it unregisters and unmaps.
pub struct Loaded {
    pub start: usize,
    _registration: process::Registration,
    image: Arc<Image>,
}

/// Loads `text` with trap sites at the given offsets and registers it.
pub fn load(text: &[u8], traps: &[(usize, TrapCode)]) -> Loaded {
    let mut image = ImageBuilder::new();
    image.text(text);
    for &(offset, code) in traps {
        image.trap(offset, code);
    }
    let image = image.finish().unwrap();
    let image = Arc::new(Image::parse(&image).unwrap().publish().unwrap());
    let registration = process::register(image.clone()).unwrap();
    Loaded { start: image.text_range().start, _registration: registration, image }
}

impl Loaded {
    /// The function at the start of the text.
    pub fn guest(&self) -> Guest {
        // SAFETY: calling it is the caller's responsibility.
        unsafe { self.image.entry(0) }.unwrap()
    }

    /// Hides the code from lookups and keeps it executable.
    pub fn unregister(self) -> (Guest, Arc<Image>) {
        (self.guest(), self.image.clone())
    }
}

pub fn install_all() {
    // SAFETY: called in child processes, which are about these signals.
    unsafe { install(Signals::all()) }.unwrap();
}

pub fn run(code: &Loaded, arg: *mut c_void) -> Result<(), Trap> {
    // SAFETY: the tests' functions skip only their own frames.
    unsafe { catch_trap(code.guest(), arg) }
}

pub fn alternate_stack() -> libc::stack_t {
    // SAFETY: queries into a valid structure.
    unsafe {
        let mut stack = mem::zeroed();
        assert_eq!(libc::sigaltstack(ptr::null(), &mut stack), 0);
        stack
    }
}

/// A page without access.
pub fn forbidden_page() -> *mut c_void {
    // SAFETY: a fresh mapping.
    let page = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(ptr::null_mut(), 4096, libc::PROT_NONE, flags, -1, 0)
    };
    assert_ne!(page, libc::MAP_FAILED);
    page
}

/// A page of a mapped file that is too short to have it.
pub fn page_past_the_end_of_a_file() -> *mut c_void {
    // SAFETY: a fresh file and a fresh mapping of two pages of it, of which it has one.
    unsafe {
        let file = libc::memfd_create(c"short".as_ptr(), 0);
        assert_eq!(libc::ftruncate(file, 4096), 0);
        let pages = libc::mmap(ptr::null_mut(), 8192, libc::PROT_READ, libc::MAP_SHARED, file, 0);
        assert_ne!(pages, libc::MAP_FAILED);
        pages.add(4096)
    }
}

/// The environment variable that names the body a child runs.
pub const SELECTED: &str = "TRAPLINE_TEST_CHILD";
/// Not 0: a child that finds no test of the name runs none, and reports success.
const RETURNED: i32 = 23;

const DEADLINE: Duration = Duration::from_secs(60);

/// How the child ended; `None` inside a child that was started for another body.
pub struct Ended(Option<ExitStatus>);

/// Runs `body` in a process of its own and returns how that ended.
///
/// The process is this test binary again, running the test that calls this. Only this call's body runs in it: a test
/// may have several, told apart by `variant`. It is killed after a deadline, or when this process dies.
pub fn in_child<F: FnOnce()>(variant: &str, body: F) -> Ended {
    // The closure's type is named after the function around it, which is the test.
    let name = std::any::type_name::<F>();
    let test = name.split_once("::").unwrap().1.split("::{{closure}}").next().unwrap();
    let selection = format!("{test} {variant}");
    match std::env::var(SELECTED) {
        Ok(selected) if selected == selection => {
            no_core_dump();
            body();
            // `exit` would have the standard library unmap the main thread's alternate stack, with a signal perhaps
            // still on its way to that thread.
            // SAFETY: nothing is left to clean up.
            unsafe { libc::_exit(RETURNED) }
        }
        Ok(_) => return Ended(None),
        Err(_) => {}
    }
    let mut command = this_program();
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(SELECTED, &selection);
    command.stdout(std::process::Stdio::null());
    // SAFETY: between fork and exec only async-signal-safe calls.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    };
    let status = wait(command.spawn().unwrap()).unwrap_or_else(|| panic!("{selection}: deadline"));
    Ended(Some(status))
}

/// Names the emulator that test binaries run under, and its arguments; unset where the machine runs them itself.
const RUNNER: &str = "TRAPLINE_TEST_RUNNER";

fn this_program() -> Command {
    let program = std::env::current_exe().unwrap();
    let runner = std::env::var(RUNNER).unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(first) = words.next() else {
        return Command::new(program);
    };
    let mut command = Command::new(first);
    command.args(words).arg(program);
    command
}

fn wait(mut child: Child) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() > DEADLINE {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn no_core_dump() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid structure.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) }, 0);
}

impl Ended {
    /// The body returned.
    #[track_caller]
    pub fn well(self) {
        self.with_status(RETURNED);
    }

    #[track_caller]
    pub fn with_status(self, code: i32) {
        if let Some(status) = self.0 {
            assert_eq!(status.code(), Some(code), "{status}");
        }
    }

    #[track_caller]
    pub fn by_signal(self, signum: i32) {
        if let Some(status) = self.0 {
            // QEMU's user mode takes a SIGSEGV that a program sends itself with the code of a fault for one of its own, and
            // exits.
            let died_of_itself = std::env::var_os(RUNNER).is_some() && signum == libc::SIGSEGV;
            if !(died_of_itself && status.code() == Some(127)) {
                assert_eq!(status.signal(), Some(signum), "{status}");
            }
        }
    }
}
