//! Stores coming and going on several threads, over images that come and go, while signals interrupt all of them and
//! the handler looks up what is there, what was, and what is just leaving.

use crate::alone;
use crate::image::{Blueprint, SERIAL, SIGNATURES, trap};
use crate::loaded::Loaded;
use crate::random::Random;
use crate::twin::{Twin, bytes_at};
use std::array;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use trapline::image::{DefinedFunctionIndex, FunctionKey, Image};
use trapline::process::RegisteredText;
use trapline::store::{Engine, EngineCode};
use trapline::{CodeId, Found, process};

const THREADS: usize = 4;
const POOL: usize = 24;
/// The first of the pool stay.
const STABLE: usize = 6;
/// Places in which a thread shows its private copies to the handler.
const SHOWN: usize = 8;

/// One registration, as the thread that made it knows it. Never freed: a handler may look at it at any time.
struct Record {
    range: std::ops::Range<usize>,
    id: CodeId,
    serial: u64,
    private: bool,
    /// `LIVE`, then `LEAVING`, then perhaps `GONE`.
    state: AtomicU8,
}

/// Registered for certain.
const LIVE: u8 = 0;
const LEAVING: u8 = 1;
/// Unregistered for certain.
const GONE: u8 = 2;

impl Record {
    /// Of the code at `base`, which is registered.
    fn of(base: usize, loaded: &Loaded) -> &'static Record {
        let (id, range, private) =
            process::with(base, |found| (found.id(), found.range(), found.payload().is_private()))
                .expect("registered code is found");
        assert_eq!((range.start, range.len(), private), (base, loaded.text.len(), base != loaded.text.start));
        let serial = serial(&loaded.image.text).unwrap();
        Box::leak(Box::new(Record { range, id, serial, private, state: AtomicU8::new(LIVE) }))
    }

    fn become_(&self, state: u8) {
        self.state.store(state, Ordering::SeqCst);
    }

    fn show(&'static self, place: usize) {
        RECORDS[place].store(ptr::from_ref(self).cast_mut(), Ordering::SeqCst);
    }
}

fn serial(text: &[u8]) -> Option<u64> {
    text.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// What the handler looks up: the pool, and private copies of each thread.
static RECORDS: [AtomicPtr<Record>; POOL + THREADS * SHOWN] =
    [const { AtomicPtr::new(ptr::null_mut()) }; POOL + THREADS * SHOWN];

static HANDLED: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicUsize = AtomicUsize::new(0);
/// Lookups that had to find the code, that must not find it, and that found something else at its address.
static HITS: AtomicUsize = AtomicUsize::new(0);
static MISSES: AtomicUsize = AtomicUsize::new(0);
static OTHERS: AtomicUsize = AtomicUsize::new(0);
static PRIVATE: AtomicUsize = AtomicUsize::new(0);

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn sample(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    let n = HANDLED.fetch_add(1, Ordering::Relaxed);
    for k in (n % 2..RECORDS.len()).step_by(2) {
        // SAFETY: null, or a record, and those are never freed.
        if let Some(record) = unsafe { RECORDS[k].load(Ordering::SeqCst).as_ref() } {
            look(record, record.range.start + (n * 31 + k * 7) % record.range.len());
        }
    }
}

fn look(record: &Record, pc: usize) {
    let before = record.state.load(Ordering::SeqCst);
    let found = process::with(pc, |found| (found.id() == record.id, is_itself(found, pc, record)));
    let after = record.state.load(Ordering::SeqCst);
    let wrong = match found {
        Some((_, false)) => true,
        Some((true, _)) => before == GONE,
        _ => after == LIVE,
    };
    let site = process::trap_code(pc).is_some();
    if wrong {
        count(&WRONG);
    }
    if after == LIVE {
        count(&HITS);
        if record.private {
            count(&PRIVATE);
        }
    }
    if before == GONE {
        count(&MISSES);
        if found.is_some() || site {
            count(&OTHERS);
        }
    }
}

/// Whether what was found is in itself what its text says, and the record's if it has the record's id.
fn is_itself(found: Found<'_, RegisteredText>, pc: usize, record: &Record) -> bool {
    // Time for its owner, on another thread, to drop and reclaim it.
    (0..200).for_each(|_| std::hint::spin_loop());
    let (code, range) = (found.payload(), found.range());
    let text = code.image().text();
    // SAFETY: what was found stays mapped; its serial number is never written.
    let first: [u8; SERIAL] =
        unsafe { array::from_fn(|i| ptr::with_exposed_provenance::<u8>(range.start + i).read_volatile()) };
    let same = (serial(text), code.is_private(), &range) == (Some(record.serial), record.private, &record.range);
    range.contains(&pc)
        && found.offset() == pc - range.start
        && code.text_range() == range
        && text.starts_with(&first)
        && code.is_private() != (code.image().text_range() == range)
        && code.trap_code(found.offset()) == trap(text, found.offset())
        && (same || found.id() != record.id)
}

fn handle() {
    // SAFETY: a zeroed sigaction is a valid one, and the handler is async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = sample as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut()), 0);
    }
}

/// What all threads share.
struct Shared {
    engines: [Engine; 2],
    pool: Mutex<Vec<Pooled>>,
    /// Everything that was ever mapped.
    memories: Mutex<Vec<Weak<Image>>>,
    serial: AtomicU64,
    modules: AtomicUsize,
    copies: AtomicUsize,
}

#[derive(Clone)]
struct Pooled {
    loaded: Arc<Loaded>,
    code: EngineCode,
    record: Option<&'static Record>,
}

impl Shared {
    fn load(&self, random: &mut Random) -> Pooled {
        let image = Blueprint::random(random, self.serial.fetch_add(1, Ordering::Relaxed), b"");
        let code = EngineCode::new(&self.engines[random.below(2)], image.image()).unwrap();
        self.memories.lock().unwrap().push(Arc::downgrade(code.image()));
        let loaded = Arc::new(Loaded::new(image, &code));
        self.modules.fetch_add(loaded.modules.len(), Ordering::Relaxed);
        let record = (!loaded.text.is_empty()).then(|| Record::of(loaded.text.start, &loaded));
        Pooled { loaded, code, record }
    }

    /// Puts another image in a place of the pool. Stores may go on with the one before.
    fn replace(&self, random: &mut Random) {
        let place = random.within(STABLE..POOL);
        let new = self.load(random);
        let record = new.record;
        let old = {
            let mut pool = self.pool.lock().unwrap();
            if let Some(record) = record {
                record.show(place);
            }
            std::mem::replace(&mut pool[place], new)
        };
        if let Some(record) = old.record {
            record.become_(LEAVING);
        }
    }

    fn any(&self, random: &mut Random) -> Pooled {
        self.pool.lock().unwrap()[random.below(POOL)].clone()
    }
}

/// A store, and the records of its private copies.
struct Debugged {
    twin: Twin,
    records: Vec<&'static Record>,
}

impl Debugged {
    fn end(self) {
        self.records.iter().for_each(|record| record.become_(LEAVING));
        drop(self.twin);
        self.records.iter().for_each(|record| record.become_(GONE));
    }
}

fn work(thread: usize, shared: &Shared, over: &AtomicBool, steps: &AtomicUsize) {
    let random = &mut Random::new(thread as u64);
    let mut stores: Vec<Debugged> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        random.step = steps.fetch_add(1, Ordering::Relaxed);
        match random.below(12) {
            0..2 => shared.replace(random),
            2 if !stores.is_empty() => stores.swap_remove(random.below(stores.len())).end(),
            2..5 if stores.len() < 6 => {
                let engine = &shared.engines[random.below(2)];
                stores.push(Debugged { twin: Twin::new(engine, random.once_in(2)), records: Vec::new() });
            }
            5 if random.once_in(4) => process::reclaim(),
            _ => {
                if let Some(which) = (!stores.is_empty()).then(|| random.below(stores.len())) {
                    act(&mut stores[which], thread, shared, random);
                }
            }
        }
        for Debugged { twin, .. } in &stores {
            let placed = random.pick(&twin.model.images);
            let types = placed.map_or(&[][..], |placed| &placed.loaded.signatures);
            twin.check_some(random, 2, types);
            twin.check_lists(types);
        }
    }
    stores.into_iter().for_each(Debugged::end);
}

fn act(store: &mut Debugged, thread: usize, shared: &Shared, random: &mut Random) {
    let Pooled { loaded, code, .. } = shared.any(random);
    let Debugged { twin, records } = store;
    let before = twin.model.images.len();
    let module = random.pick(&loaded.modules).and_then(|id| code.modules().find(|module| module.id() == *id));
    match (random.below(8), module) {
        (0, _) => twin.step(random.once_in(2)),
        (1, _) => {
            if let Some(asked) = random.pick(&twin.model.asked).copied() {
                twin.clear_breakpoint(asked.module, asked.function, asked.offset);
            }
        }
        (2, _) => twin.register_code(&loaded, &code),
        (3, Some(module)) => twin.base_or_register(&loaded, module),
        (4 | 5, Some(module)) => {
            let own = loaded.image.functions.iter().filter_map(|function| match function.key {
                FunctionKey::Defined { module: of, function } if of == module.static_index() => Some(function),
                _ => None,
            });
            let function = random.pick(&own.collect::<Vec<_>>()).copied().unwrap_or(DefinedFunctionIndex::new(0));
            twin.set_breakpoint(&loaded, module, function, random.below(16));
        }
        (_, Some(module)) => twin.register_module(&loaded, module),
        (_, None) => {}
    }
    for placed in &twin.model.images[before..] {
        assert!(placed.text.is_empty() || process::with(placed.base, |_| ()).is_some());
        if placed.is_private() {
            let record = Record::of(placed.base, &placed.loaded);
            record.show(POOL + thread * SHOWN + random.below(SHOWN));
            records.push(record);
            shared.copies.fetch_add(1, Ordering::Relaxed);
        }
        // Equal types have one id, however they were loaded.
        for other in &twin.model.images {
            let types = |loaded: &'_ Loaded| loaded.image.signatures.clone().into_iter().zip(loaded.signatures.clone());
            for ((a, a_id), (b, b_id)) in
                types(&placed.loaded).flat_map(|a| types(&other.loaded).map(move |b| (a.clone(), b)))
            {
                assert_eq!(a == b, a_id == b_id);
            }
        }
    }
    twin.check_texts();
}

#[test]
fn stores_on_many_threads_and_handlers_among_them_get_right_answers() {
    let _alone = alone();
    assert_eq!(process::stats().live_ranges, 0);
    handle();
    const SIGNALS: usize = 1_000;
    const STEPS: usize = 4_000;
    let shared = Shared {
        engines: [Engine::new(), Engine::new()],
        pool: Mutex::new(Vec::new()),
        memories: Mutex::new(Vec::new()),
        serial: AtomicU64::new(0),
        modules: AtomicUsize::new(0),
        copies: AtomicUsize::new(0),
    };
    let random = &mut Random::new(0xface);
    for place in 0..POOL {
        let pooled = loop {
            let pooled = shared.load(random);
            if pooled.record.is_some() {
                break pooled;
            }
        };
        pooled.record.unwrap().show(place);
        shared.pool.lock().unwrap().push(pooled);
    }
    let (over, steps) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let (shared, over, steps) = (&shared, &over, &steps);
        let (ready, targets) = std::sync::mpsc::channel();
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let ready = ready.clone();
                scope.spawn(move || {
                    // SAFETY: no preconditions.
                    ready.send(unsafe { libc::pthread_self() } as usize).unwrap();
                    work(thread, shared, over, steps);
                })
            })
            .collect();
        let targets: Vec<_> = targets.iter().take(THREADS).collect();
        let enough = || HANDLED.load(Ordering::Relaxed) >= SIGNALS && steps.load(Ordering::Relaxed) >= STEPS;
        while !enough() && threads.iter().all(|thread| !thread.is_finished()) {
            for target in &targets {
                // SAFETY: the threads are not joined yet.
                assert_eq!(unsafe { libc::pthread_kill(*target as libc::pthread_t, libc::SIGUSR1) }, 0);
            }
            // A signal that is pending already is merged with the next.
            thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });

    let n = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    println!(
        "{} steps, {} modules, {} private copies, {} signals; lookups that had to hit {} ({} private copies), or to \
         miss {} ({} found newer code there), {} wrong",
        n(&steps),
        n(&shared.modules),
        n(&shared.copies),
        n(&HANDLED),
        n(&HITS),
        n(&PRIVATE),
        n(&MISSES),
        n(&OTHERS),
        n(&WRONG)
    );
    assert_eq!(n(&WRONG), 0);
    assert!(n(&shared.modules) > 1_000 && n(&shared.copies) > 100, "too little came and went");
    assert!(n(&HITS) > 8_000 && n(&PRIVATE) > 1_000 && n(&MISSES) > 1_000, "too few lookups to show anything");
    let Shared { engines, pool, memories, .. } = shared;
    let pool = pool.into_inner().unwrap();
    assert_eq!(process::stats().live_ranges, pool.iter().filter(|pooled| pooled.record.is_some()).count());
    for pooled in &pool[..STABLE] {
        // SAFETY: still loaded.
        assert_eq!(unsafe { bytes_at(pooled.loaded.text.clone()) }, pooled.loaded.image.text);
    }
    pool.iter().filter_map(|pooled| pooled.record).for_each(|record| record.become_(LEAVING));
    drop(pool);
    for signature in SIGNATURES {
        assert!(engines.iter().all(|engine| engine.signature_id(signature.as_bytes()).is_none()));
    }
    process::reclaim();
    let stats = process::stats();
    assert_eq!((stats.live_ranges, stats.retired_ranges, stats.retired_nodes), (0, 0, 0));
    assert!(memories.into_inner().unwrap().iter().all(|memory| memory.upgrade().is_none()), "a text is still mapped");
}
