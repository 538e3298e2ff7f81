//! The scenarios, and the process that watches each of them.
//!
//! | file | what is in it |
//! |---|---|
//! | `scenario` | the list of what is shown, and of the controls |
//! | `page` | what a scenario's process tells the watching one |
//! | `step` | the trap flag |
//! | `stack` | how much stack handlers use |
//! | `memory` | the allocators: who allocates in a handler, who reads what was freed |
//! | `world` | the registries and payloads |
//! | `watch` | what lookups must answer at each moment of an operation |
//! | `writer`, `process`, `stores` | mode A |
//! | `case`, `turn` | what a lookup is about in modes B and C, and the other thread that changes it |
//! | `lookup` | mode B |
//! | `nested` | mode C |
//! | `lifetime`, `tracer` | mode D |
//! | `controls` | lookups known to be unsafe |

mod case;
mod controls;
mod lifetime;
mod lookup;
mod memory;
mod nested;
mod page;
mod process;
mod scenario;
mod stack;
mod step;
mod stores;
mod tracer;
mod turn;
mod watch;
mod world;
mod writer;

use page::{Page, Verdict};
use scenario::Scenario;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The index of the scenario that a child runs, and its share of the points.
const SELECTED: &str = "TRAPLINE_SCENARIO";
/// How many interruption points a whole run has at least.
const POINTS: &str = "TRAPLINE_POINTS";
const USUAL_POINTS: u64 = 80_000;
/// Where a child finds its page.
const PAGE_FD: i32 = 100;

/// For how long nothing may be interrupted before we say that somebody waits for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for controls, which are expected to.
const PATIENCE_WITH_CONTROLS: Duration = Duration::from_secs(2);

pub fn main() -> ExitCode {
    let scenarios = scenario::all();
    if let Ok(selected) = std::env::var(SELECTED) {
        let (index, points) = selected.split_once(' ').expect("an index and a number");
        run_here(&scenarios[index.parse::<usize>().expect("an index")], points.parse().expect("a number"));
    }
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let points = std::env::var(POINTS).map_or(USUAL_POINTS, |n| n.parse().expect("TRAPLINE_POINTS is a number"));
    let begin = Instant::now();
    let sums = Mutex::new(Sums::default());
    let is_wanted = |scenario: &Scenario| {
        let title = title(scenario);
        wanted.is_empty() || wanted.iter().any(|word| title.contains(word.as_str()))
    };
    let mut todo = scenarios.iter().enumerate().filter(|(_, scenario)| is_wanted(scenario)).collect::<Vec<_>>();
    todo.reverse();
    let todo = Mutex::new(todo);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(4) {
            scope.spawn(|| {
                // A statement of its own: the lock is not held meanwhile.
                let next = || todo.lock().expect("no panics").pop();
                while let Some((index, scenario)) = next() {
                    let share = (points * scenario.share).div_ceil(scenario::SHARES);
                    let start = Instant::now();
                    let (verdict, page) = run_apart(scenario, index, share);
                    let mut sums = sums.lock().expect("no panics");
                    sums.add(scenario, verdict, page);
                    println!("{}", line(scenario, verdict, page, start.elapsed()));
                }
            });
        }
    });
    let Sums { points: total, lookups, bad } = sums.into_inner().expect("no panics");
    println!("{lookups} lookups checked, {bad} scenarios not as expected, {:.1} s", begin.elapsed().as_secs_f64());
    println!("{total} interruption points");
    let enough = total >= points || !wanted.is_empty();
    if bad == 0 && enough { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Over all scenarios; points and lookups without those of the controls.
#[derive(Default)]
struct Sums {
    points: u64,
    lookups: u64,
    bad: u32,
}

impl Sums {
    fn add(&mut self, scenario: &Scenario, verdict: Verdict, page: &Page) {
        self.bad += u32::from(verdict != scenario.expected);
        if scenario.expected == Verdict::Fine {
            self.points += page.points();
            self.lookups += page.lookups();
        }
    }
}

fn title(scenario: &Scenario) -> String {
    let control = if scenario.expected == Verdict::Fine { "" } else { "control: " };
    format!("{} {control}{}", scenario.mode, scenario.name)
}

fn line(scenario: &Scenario, verdict: Verdict, page: &Page, took: Duration) -> String {
    let (title, took) = (title(scenario), took.as_secs_f64());
    if scenario.expected != Verdict::Fine {
        let caught = if verdict == scenario.expected { "caught" } else { "NOT CAUGHT" };
        return format!("{title}: {caught}: {} after {} points, {took:.1} s", tell(verdict, page), page.points());
    }
    let mut line = format!("{title}: {} points, {} rounds", page.points(), page.rounds());
    if page.stride() > 1 {
        line += &format!(", one instruction of {}", page.stride());
    }
    if page.is_cut() {
        line += ", the rest uninterrupted";
    }
    // In mode B the lookup is what is interrupted, not what interrupts.
    if page.stack() > 0 && scenario.mode != 'B' {
        line += &format!(", {} bytes of stack", page.stack());
    }
    line += &format!(", {took:.1} s");
    if verdict != Verdict::Fine {
        line += &format!(": FAILED: {}", tell(verdict, page));
    }
    line
}

fn tell(verdict: Verdict, page: &Page) -> String {
    let [a, b, c] = page.details();
    let who = |number: u64| number.checked_sub(1).map_or("nothing".to_owned(), |who| format!("{who}"));
    match verdict {
        Verdict::Fine => "fine".to_owned(),
        Verdict::WrongAnswer => format!("wrong answer at pc {a:#x}: {} instead of {}", who(b), who(c)),
        Verdict::Allocation => format!("allocation in a handler ({a} bytes)"),
        Verdict::UseAfterFree => format!("use after free of {a:#x}"),
        Verdict::Stack => format!("{a} bytes of stack, allowed are {b}"),
        Verdict::SystemCall => format!("system call {a} in a handler"),
        Verdict::Stuck => "stuck".to_owned(),
        Verdict::Crashed => format!("panicked or killed (status {a:#x})"),
    }
}

/// In the child: runs a scenario to its end, which is the end of the process.
fn run_here(scenario: &Scenario, points: u64) -> ! {
    page::map(PAGE_FD);
    let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid structure.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &no_core) }, 0);
    // Whichever thread panics: others may be waiting for it.
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        page::end(Verdict::Crashed, [0; 3]);
    }));
    step::install();
    (scenario.run)(points);
    page::end(Verdict::Fine, [0; 3]);
}

/// Runs a scenario in a child, and waits until it ends or nothing is interrupted any more.
fn run_apart(scenario: &Scenario, index: usize, points: u64) -> (Verdict, &'static Page) {
    // SAFETY: a fresh descriptor, owned by the result.
    let memory = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"page".as_ptr(), libc::MFD_CLOEXEC)) };
    let fd = memory.as_raw_fd();
    assert!(fd >= 0, "no memory for a page");
    // SAFETY: mapped for ever.
    let page = unsafe { &*page::map_another(fd) };
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.env(SELECTED, format!("{index} {points}"));
    // SAFETY: between fork and exec only async-signal-safe calls.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::dup2(fd, PAGE_FD) == PAGE_FD { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        })
    };
    let mut child = command.spawn().expect("a process");
    let patience = if scenario.expected == Verdict::Fine { PATIENCE } else { PATIENCE_WITH_CONTROLS };
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        if let Some(status) = child.try_wait().expect("our child") {
            let verdict = page.verdict().filter(|verdict| status.success() || *verdict != Verdict::Fine);
            return (verdict.unwrap_or(Verdict::Crashed), page);
        }
        let now = page.points() + page.lookups();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        if since.elapsed() > patience {
            child.kill().and_then(|()| child.wait()).expect("our child");
            return (page.verdict().unwrap_or(Verdict::Stuck), page);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
