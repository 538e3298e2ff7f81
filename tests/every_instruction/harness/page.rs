//! The page that a scenario's process shares with the one that watches it.
//!
//! A handler cannot print, and a process that hangs or is killed tells nothing: so all figures and the verdict are left
//! in shared memory, where the watching process finds them whatever happened.

use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// How a scenario ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every answer was right, nothing was allocated, the stack was bounded.
    Fine,
    /// A lookup said something else than the truth.
    WrongAnswer,
    /// Memory was asked for or given back inside a handler.
    Allocation,
    /// Freed memory was read.
    UseAfterFree,
    /// A handler took more stack than it may.
    Stack,
    /// A handler made a system call.
    SystemCall,
    /// Nothing was interrupted any more: somebody waits for ever.
    Stuck,
    /// It ended in a way that nobody foresaw.
    Crashed,
}

/// Everything here is Relaxed: counters, and words that are read after their writer is gone.
#[repr(C)]
pub struct Page {
    /// Instructions after which lookups were made and checked.
    points: AtomicU64,
    /// Lookups that were checked.
    lookups: AtomicU64,
    /// How often the scenario was begun anew.
    rounds: AtomicU64,
    /// The most bytes of stack that a handler used, its frame by the kernel not counted.
    stack: AtomicU64,
    /// Of how many instructions one was interrupted; 0 where all were.
    stride: AtomicU64,
    /// Whether an operation ran to its end without interruptions, for there had been enough.
    cut: AtomicU32,
    verdict: AtomicU32,
    /// What the verdict is about: an address or a pc, what was found there, what was expected.
    details: [AtomicU64; 3],
}

const UNDECIDED: u32 = 0;
const VERDICTS: [(u32, Verdict); 6] = [
    (1, Verdict::Fine),
    (2, Verdict::WrongAnswer),
    (3, Verdict::Allocation),
    (4, Verdict::UseAfterFree),
    (5, Verdict::Stack),
    (6, Verdict::SystemCall),
];

static SHARED: AtomicPtr<Page> = AtomicPtr::new(ptr::null_mut());

/// This process's page.
pub fn page() -> &'static Page {
    // SAFETY: `map` stored a mapping that stays; nothing runs before it.
    unsafe { &*SHARED.load(Ordering::Relaxed) }
}

/// Makes the memory behind `fd` this process's page.
pub fn map(fd: RawFd) {
    SHARED.store(map_another(fd).cast_mut(), Ordering::Relaxed);
}

/// Maps a page, zeroed if the file is new; for ever.
pub fn map_another(fd: RawFd) -> *const Page {
    // SAFETY: a fresh shared mapping of a file of that length; zeroes are a valid page.
    unsafe {
        assert_eq!(libc::ftruncate(fd, size_of::<Page>() as libc::off_t), 0);
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let page = libc::mmap(ptr::null_mut(), size_of::<Page>(), access, libc::MAP_SHARED, fd, 0);
        assert_ne!(page, libc::MAP_FAILED);
        page.cast()
    }
}

impl Page {
    pub fn points(&self) -> u64 {
        self.points.load(Ordering::Relaxed)
    }

    pub fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    pub fn stack(&self) -> u64 {
        self.stack.load(Ordering::Relaxed)
    }

    pub fn stride(&self) -> u64 {
        self.stride.load(Ordering::Relaxed)
    }

    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed) != 0
    }

    pub fn details(&self) -> [u64; 3] {
        [0, 1, 2].map(|i: usize| self.details[i].load(Ordering::Relaxed))
    }

    /// What the process said before it ended.
    pub fn verdict(&self) -> Option<Verdict> {
        let said = self.verdict.load(Ordering::Relaxed);
        VERDICTS.iter().find(|(code, _)| *code == said).map(|(_, verdict)| *verdict)
    }

    pub fn count_point(&self) {
        self.points.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_lookup(&self) {
        self.lookups.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    pub fn note_stack(&self, bytes: usize) {
        self.stack.fetch_max(bytes as u64, Ordering::Relaxed);
    }

    pub fn note_cut(&self) {
        self.cut.store(1, Ordering::Relaxed);
    }

    pub fn note_stride(&self, stride: u64) {
        self.stride.fetch_max(stride, Ordering::Relaxed);
    }

    /// Leaves a verdict; the first one counts.
    fn say(&self, verdict: Verdict, details: [u64; 3]) {
        let code = VERDICTS.iter().find(|(_, v)| *v == verdict).map_or(UNDECIDED, |(code, _)| *code);
        if self.verdict.compare_exchange(UNDECIDED, code, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            for (place, detail) in self.details.iter().zip(details) {
                place.store(detail, Ordering::Relaxed);
            }
        }
    }
}

/// Ends this process with a verdict. Async-signal-safe.
pub fn end(verdict: Verdict, details: [u64; 3]) -> ! {
    page().say(verdict, details);
    // SAFETY: ends the process, without running anything of it.
    unsafe { libc::_exit(i32::from(verdict != Verdict::Fine)) }
}
