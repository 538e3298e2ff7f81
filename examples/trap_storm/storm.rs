//! The threads, and the order in which they start and stop.

use crate::call::{Caller, Loaded};
use crate::guest::{Call, Compiler, Constants, GuestImage, Kind, Rng};
use crate::handlers::{self, Facts};
use crate::options::Options;
use crate::record::{self, Record};
use crate::report::{Resident, Run};
use crate::sampler;
use std::collections::HashSet;
use std::error::Error;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};
use trapline::signal::{Signals, install};

/// Small, so that a stack overflow is quick to reach; large enough for Cranelift in the churn threads.
const STACK: usize = 1 << 20;
/// Compiled images that each churn thread loads again and again.
const POOL: usize = 8;
/// Images that a churn thread keeps loaded at a time.
const WINDOW: usize = 12;
/// A churn thread compiles a new image after so many loads: allocation-heavy code for samples to land in.
const LOADS_PER_COMPILATION: u64 = 256;
/// What a visiting thread does before it ends.
const CALLS_PER_VISIT: usize = 4;
/// Often enough to be sampled at birth and death, seldom enough to leave the processor to the others.
const BETWEEN_VISITS: Duration = Duration::from_millis(1);
/// How long signals that were sent may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a thread ends with: an error in words, since errors need not be sendable.
type Outcome = Result<(), String>;

/// How threads are told to stop: first to leave their loops, then, once every signal has arrived, to end. A thread
/// that ended early would take its queued signals with it.
struct Stop {
    now: AtomicBool,
    everyone_ready: Barrier,
    all_signals_arrived: Barrier,
}

/// Runs the storm; `progress` is called about ten times a second.
pub fn run(options: &Options, progress: impl Fn(f64)) -> Result<Run, Box<dyn Error>> {
    let main = Record::of_new_thread("main");
    let mut resident = vec![Resident::now("start")];
    let mut rng = Rng::new(options.seed);

    // SAFETY: nothing else in this program needs these signals; the standard library's handlers are chained to.
    unsafe { install(Signals::all())? };
    handlers::install_in_front()?;
    handlers::install_sample_handler()?;

    let images = load_images(options.images, main, &mut rng)?;
    let mut facts = Facts::default();
    for loaded in &images {
        facts.add(&loaded.image, loaded.base(), loaded.id());
    }
    facts.publish()?;

    // Those that were asked for, the host of the visitors, and the sampler.
    let threads = options.threads + options.churn_threads + 2;
    let stop = Stop {
        now: AtomicBool::new(false),
        everyone_ready: Barrier::new(threads + 1),
        all_signals_arrived: Barrier::new(threads + 1),
    };
    let stop_sampling = AtomicBool::new(false);
    let sampling_over = AtomicBool::new(false);
    let mut elapsed = Duration::ZERO;
    let mut ticks = 0;
    let mut failures = Vec::new();

    thread::scope(|scope| {
        let mut running = Vec::new();
        for number in 0..options.threads {
            let (rng, images, stop) = (Rng::new(rng.next()), &images[..], &stop);
            let body = move || worker("guest", stop, |record| guest(images, rng, record, &stop.now));
            running.push(spawn(scope, format!("guest {number}"), body));
        }
        for number in 0..options.churn_threads {
            let (rng, stop) = (Rng::new(rng.next()), &stop);
            let body = move || worker("churn", stop, |record| churn(rng, record, &stop.now));
            running.push(spawn(scope, format!("churn {number}"), body));
        }
        let (visitor_rng, images, stop_ref) = (Rng::new(rng.next()), &images[..], &stop);
        let body = move || worker("host", stop_ref, |record| receive(images, visitor_rng, record, &stop_ref.now));
        running.push(spawn(scope, "host".into(), body));
        let (hz, rng) = (options.sample_hz, Rng::new(rng.next()));
        let (stop_ref, stop_sampling_ref, over) = (&stop, &stop_sampling, &sampling_over);
        let body = move || {
            // Every thread has its record once all have come to the first barrier, inside `worker`.
            worker("sampler", stop_ref, |_| {
                sampler::run(&record::residents(), hz, rng, stop_sampling_ref);
                over.store(true, Relaxed);
                Ok(())
            })
        };
        running.push(spawn(scope, "sampler".into(), body));

        stop.everyone_ready.wait();
        let start = Instant::now();
        let start_ticks = handlers::ticks();
        let duration = Duration::from_secs_f64(options.seconds);
        let mut half_time = false;
        while start.elapsed() < duration && !stop.now.load(Relaxed) {
            thread::sleep(Duration::from_millis(100).min(duration.saturating_sub(start.elapsed())));
            if !half_time && start.elapsed() * 2 >= duration {
                half_time = true;
                resident.push(Resident::now("middle"));
            }
            progress(start.elapsed().as_secs_f64());
        }
        stop.now.store(true, Relaxed);
        elapsed = start.elapsed();
        ticks = handlers::ticks() - start_ticks;

        stop_sampling.store(true, Relaxed);
        let deadline = Instant::now() + PATIENCE;
        while !(sampling_over.load(Relaxed) && all_samples_arrived()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        resident.push(Resident::now("end"));
        stop.all_signals_arrived.wait();
        for thread in running {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failures.push(error),
                Err(_) => failures.push("a thread panicked outside its work".into()),
            }
        }
    });
    for loaded in images {
        loaded.unload(main);
    }
    trapline::process::reclaim();
    Ok(Run {
        elapsed,
        ns_per_tick: elapsed.as_nanos() as f64 / ticks.max(1) as f64,
        clock_overhead: handlers::clock_overhead(),
        resident: resident.into_iter().collect::<std::io::Result<_>>()?,
        failures,
        garbage: left_over(),
        records: record::all(),
    })
}

fn spawn<'scope, F>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: String,
    body: F,
) -> thread::ScopedJoinHandle<'scope, Outcome>
where
    F: FnOnce() -> Outcome + Send + 'scope,
{
    thread::Builder::new().name(name).stack_size(STACK).spawn_scoped(scope, body).unwrap_or_else(|error| {
        // The threads that did start wait for one that never comes: there is no way back.
        eprintln!("cannot start a thread: {error}");
        std::process::exit(1)
    })
}

/// What every thread does around its work. A thread that fails or panics still waits for its signals, and stops the
/// others.
fn worker(
    role: &'static str,
    stop: &Stop,
    work: impl FnOnce(&'static Record) -> Result<(), Box<dyn Error>>,
) -> Outcome {
    let record = Record::of_new_thread(role);
    stop.everyone_ready.wait();
    let result = match panic::catch_unwind(AssertUnwindSafe(|| work(record))) {
        Ok(result) => result.map_err(|error| format!("{role} thread: {error}")),
        Err(_) => Err(format!("{role} thread: panicked")),
    };
    if result.is_err() {
        stop.now.store(true, Relaxed);
    }
    stop.all_signals_arrived.wait();
    result
}

fn all_samples_arrived() -> bool {
    record::residents().iter().all(|record| record.samples_handled.get() >= record.samples_sent.get())
}

fn load_images(count: u32, record: &Record, rng: &mut Rng) -> Result<Vec<Loaded>, Box<dyn Error>> {
    let mut compiler = Compiler::new()?;
    (0..count)
        .map(|_| {
            let (image, bytes) = compile(&mut compiler, record, rng)?;
            let loaded = Loaded::new(&bytes, image, record)?;
            record.loads.add(1);
            Ok(loaded)
        })
        .collect()
}

fn compile(
    compiler: &mut Compiler,
    record: &Record,
    rng: &mut Rng,
) -> Result<(Arc<GuestImage>, Vec<u8>), Box<dyn Error>> {
    let image = compiler.image(Constants::random(rng))?;
    let bytes = image.to_bytes()?;
    record.compiled.add(1);
    Ok((Arc::new(image), bytes))
}

/// Calls functions of long-lived images.
fn guest(images: &[Loaded], mut rng: Rng, record: &'static Record, stop: &AtomicBool) -> Result<(), Box<dyn Error>> {
    let mut caller = Caller::new(record)?;
    while !stop.load(Relaxed) {
        let loaded = &images[rng.below(images.len() as u64) as usize];
        call(&mut caller, loaded, &mut rng);
    }
    Ok(())
}

/// Loads, runs and unloads, as fast as it goes.
fn churn(mut rng: Rng, record: &'static Record, stop: &AtomicBool) -> Result<(), Box<dyn Error>> {
    let mut caller = Caller::new(record)?;
    let mut compiler = Compiler::new()?;
    let mut pool = Vec::new();
    for _ in 0..POOL {
        pool.push(compile(&mut compiler, record, &mut rng)?);
    }
    let mut addresses = HashSet::new();
    let mut window: Vec<Loaded> = Vec::new();
    while !stop.load(Relaxed) {
        if record.loads.get() % LOADS_PER_COMPILATION == LOADS_PER_COMPILATION - 1 {
            let old = rng.below(POOL as u64) as usize;
            pool[old] = compile(&mut compiler, record, &mut rng)?;
        }
        let (image, bytes) = &pool[rng.below(POOL as u64) as usize];
        let loaded = Loaded::new(bytes, image.clone(), record)?;
        record.loads.add(1);
        if !addresses.insert(loaded.base()) {
            record.addresses_reused.add(1);
        }
        call(&mut caller, &loaded, &mut rng);
        window.push(loaded);
        let other = rng.below(window.len() as u64) as usize;
        call(&mut caller, &window[other], &mut rng);
        if window.len() > WINDOW {
            let victim = rng.below(window.len() as u64) as usize;
            window.swap_remove(victim).unload(record);
            record.unloads.add(1);
        }
    }
    for loaded in window {
        loaded.unload(record);
        record.unloads.add(1);
    }
    Ok(())
}

/// Starts one short-lived thread after the other, each of which runs guest code as the first thing it does.
fn receive(images: &[Loaded], mut rng: Rng, record: &'static Record, stop: &AtomicBool) -> Result<(), Box<dyn Error>> {
    while !stop.load(Relaxed) {
        let mut rng = Rng::new(rng.next());
        let visit = move || -> Outcome {
            let mut caller = Caller::new(&record::VISITORS).map_err(|error| error.to_string())?;
            for _ in 0..CALLS_PER_VISIT {
                let loaded = &images[rng.below(images.len() as u64) as usize];
                call(&mut caller, loaded, &mut rng);
            }
            Ok(())
        };
        record.threads_started.add(1);
        thread::scope(|scope| spawn(scope, "visitor".into(), visit).join()).map_err(|_| "a visitor panicked")??;
        thread::sleep(BETWEEN_VISITS);
    }
    Ok(())
}

fn call(caller: &mut Caller, loaded: &Loaded, rng: &mut Rng) {
    let kind = Kind::ALL[rng.below(Kind::ALL.len() as u64) as usize];
    caller.call(loaded, Call::random(kind, loaded.image.constants, rng));
}

/// What the registry still holds although everything was unregistered, and nobody can see any of it.
fn left_over() -> usize {
    let stats = trapline::process::stats();
    stats.live_ranges + stats.retired_ranges + stats.retired_nodes
}
