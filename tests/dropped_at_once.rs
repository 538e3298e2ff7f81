//! Gone means gone (P6): what is unregistered with nobody inside is dropped before the removal returns.
//!
//! Payloads here are as large as a module's code, so that a backlog of them would be noticed by who has to pay for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use trapline::image::{Image, ImageBuilder};
use trapline::store::{Engine, EngineCode};
use trapline::{CodeRegistry, Unregistered, process};

const MODULES: usize = 200;
const BYTES: usize = 4 << 20;

/// Memory of an embedder's own that goes when the registry lets go of it.
struct Module {
    code: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl Module {
    fn new(alive: &Arc<AtomicUsize>) -> Arc<Self> {
        alive.fetch_add(1, Ordering::SeqCst);
        Arc::new(Module { code: vec![0xcc; BYTES], alive: alive.clone() })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Loads and unloads modules, one at a time.
fn one_at_a_time(registry: &CodeRegistry<Module>) {
    let alive = Arc::new(AtomicUsize::new(0));
    for i in 0..MODULES {
        // At few addresses in turn, so that leaves grow and shrink, and at ever new ones.
        let start = 0x1000_0000 * (i % 7 + 1) + 0x10_0000_0000 * (i % 13);
        let registration = registry.register(start..start + BYTES, Module::new(&alive)).unwrap();
        assert_eq!(alive.load(Ordering::SeqCst), 1, "module {i}");
        assert_eq!(registry.with(start + 7, |found| found.payload().code[7]), Some(0xcc));
        if i % 2 == 0 {
            drop(registration);
        } else {
            assert_eq!(registration.unregister(), Ok(Unregistered::Gone));
        }
        assert_eq!(alive.load(Ordering::SeqCst), 0, "module {i} is there after its removal returned");
        let stats = registry.stats();
        assert_eq!((stats.retired_ranges, stats.retired_nodes, stats.retired_bytes), (0, 0, 0));
    }
}

#[test]
fn a_module_is_gone_when_its_removal_returns() {
    one_at_a_time(&CodeRegistry::new());
}

#[test]
fn readers_of_another_registry_keep_nothing_alive() {
    static OTHER: CodeRegistry<()> = CodeRegistry::new();
    let _code = OTHER.register(0x1000..0x2000, Arc::new(())).unwrap();
    let (leave, told) = channel::<()>();
    let (inside, wait) = channel();
    let parked = thread::spawn(move || {
        OTHER.with(0x1800, |_| {
            inside.send(()).unwrap();
            told.recv().unwrap();
        })
    });
    wait.recv().unwrap();
    let guard = OTHER.pin();
    let snapshot = OTHER.snapshot();
    assert!(guard.get(0x1800).is_some() && snapshot.get(0x1800).is_some());

    one_at_a_time(&CodeRegistry::new());
    // Also where guards were used, and snapshots taken.
    let registry = CodeRegistry::new();
    drop(registry.pin());
    drop(registry.snapshot());
    one_at_a_time(&registry);

    leave.send(()).unwrap();
    assert_eq!(parked.join().unwrap(), Some(()));
}

/// Who came after the removal does not see what it removed, and does not keep it.
#[test]
fn readers_that_see_nothing_of_it_keep_nothing_alive() {
    let registry: Arc<CodeRegistry<Module>> = Arc::default();
    let alive = Arc::new(AtomicUsize::new(0));
    let _standing = registry.register(0x1000..0x2000, Module::new(&alive)).unwrap();
    let (leave, told) = channel::<()>();
    let (inside, wait) = channel();
    let theirs = registry.clone();
    let parked = thread::spawn(move || {
        theirs.with(0x1800, |_| {
            inside.send(()).unwrap();
            told.recv().unwrap();
        })
    });
    wait.recv().unwrap();
    let snapshot = registry.snapshot();
    for _ in 0..MODULES {
        let later = registry.register(0x10_0000..0x20_0000, Module::new(&alive)).unwrap();
        assert_eq!(later.unregister(), Ok(Unregistered::Gone));
        assert_eq!(alive.load(Ordering::SeqCst), 1);
    }
    assert_eq!(snapshot.len(), 1);
    leave.send(()).unwrap();
    assert_eq!(parked.join().unwrap(), Some(()));
}

/// An image's text with its number in it.
fn image(number: u32) -> Image {
    let mut text = vec![0xcc; 1 << 16];
    text[..4].copy_from_slice(&number.to_le_bytes());
    Image::parse(&ImageBuilder::new().text(text).finish().unwrap()).unwrap().publish().unwrap()
}

/// Whether something is mapped at `address`.
fn is_mapped(address: usize) -> bool {
    let page = std::ptr::without_provenance_mut(address & !4095);
    // SAFETY: asks which pages are resident; writes one byte of ours.
    unsafe { libc::mincore(page, 1, &mut 0) == 0 }
}

#[test]
fn code_is_unmapped_when_its_last_handle_is_gone() {
    let engine = Engine::new();
    // Other tests of this process may map something of theirs there at once, now and then.
    let mut mapped = 0;
    let mut gone = |at: usize| {
        mapped += usize::from(is_mapped(at));
        assert!(process::with(at, |_| ()).is_none());
    };
    for number in 0..MODULES as u32 {
        let memory = Arc::new(image(number));
        let at = memory.text_range().start;
        let registration = process::register(memory).unwrap();
        assert!(is_mapped(at));
        assert_eq!(registration.unregister(), Ok(Unregistered::Gone));
        gone(at);

        let code = EngineCode::new(&engine, image(number)).unwrap();
        let at = code.text_range().start.as_usize();
        drop(code);
        gone(at);
    }
    assert!(mapped < MODULES / 10, "{mapped} of {} texts are mapped still", 2 * MODULES);
}
