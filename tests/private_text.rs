//! What the kernel is asked for when private code is made, patched and dropped, and what happens if it refuses.
#![cfg(target_os = "linux")]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};
use trapline::image::{DefinedFunctionIndex, FunctionKey, Image, ImageBuilder, ModuleIndex};
use trapline::store::{BreakpointError, Engine, EngineCode, Module, ModuleRegistry, PatchError, StoreError};

/// What was asked for: address, length, rights.
static ASKED: Mutex<Vec<(usize, usize, c_int)>> = Mutex::new(Vec::new());
/// Calls until one is refused, that one included, counted down; 0: none is.
static REFUSE: AtomicUsize = AtomicUsize::new(0);
/// How many calls are refused in a row.
static IN_A_ROW: AtomicUsize = AtomicUsize::new(1);
/// Whether the refused call changes all pages but the last, as the kernel may when they are of several mappings.
static HALFWAY: AtomicBool = AtomicBool::new(false);
/// The thread of the test that runs. Other threads ask for guard pages when they begin and end.
static WATCHED: AtomicUsize = AtomicUsize::new(0);

fn this_thread() -> usize {
    // SAFETY: only asks.
    unsafe { libc::gettid() as usize }
}

/// In place of the C library's, for this program.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
unsafe extern "C" fn mprotect(address: *mut c_void, len: usize, rights: c_int) -> c_int {
    if WATCHED.load(SeqCst) == this_thread() {
        if let Ok(mut asked) = ASKED.try_lock() {
            asked.push((address.addr(), len, rights));
        }
        let refuse = REFUSE.load(SeqCst);
        if refuse > 0 {
            REFUSE.store(refuse - 1, SeqCst);
            if refuse == 1 {
                // The next one, too?
                REFUSE.store(usize::from(IN_A_ROW.fetch_sub(1, SeqCst) > 1), SeqCst);
                if HALFWAY.swap(false, SeqCst) {
                    let most = (len - 1) & !(PAGE - 1);
                    // SAFETY: the caller's.
                    assert_eq!(unsafe { libc::syscall(libc::SYS_mprotect, address, most, rights) }, 0);
                }
                // SAFETY: where the C library keeps it.
                unsafe { *libc::__errno_location() = libc::EACCES };
                return -1;
            }
        }
    }
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_mprotect, address, len, rights) as c_int }
}

/// Has the `n`th call from here on refused.
fn refuse(n: usize) {
    refuse_in_a_row(n, 1);
}

/// Has so many calls refused, from the `n`th from here on.
fn refuse_in_a_row(n: usize, many: usize) {
    IN_A_ROW.store(many, SeqCst);
    REFUSE.store(n, SeqCst);
}

/// One test at a time, with an empty record.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    refuse(0);
    HALFWAY.store(false, SeqCst);
    WATCHED.store(this_thread(), SeqCst);
    ASKED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    one
}

fn asked() -> Vec<(usize, usize, c_int)> {
    std::mem::take(&mut ASKED.lock().unwrap())
}

const PAGE: usize = 4096;
const PAGES: usize = 5;
const NOPS: [u8; 4] = [0x90; 4];
const STOP: [u8; 4] = [0xcc; 4];

/// One function over five pages, with a patch point on the first, across the next two, and on the last.
const POINTS: [usize; 3] = [16, 2 * PAGE - 2, 4 * PAGE + 8];

fn load(engine: &Engine) -> EngineCode {
    let mut image = ImageBuilder::new();
    image.text([0x90; PAGES * PAGE - 100]).function(0..PAGES * PAGE - 100, Some("long"));
    for point in POINTS {
        image.patch(point, STOP, NOPS);
    }
    let memory = Image::parse(&image.finish().unwrap()).unwrap().publish().unwrap();
    EngineCode::new(engine, memory).unwrap()
}

fn module(code: &EngineCode) -> Module<'_> {
    code.module(ModuleIndex::new(0)).unwrap()
}

/// A store that debugs, with such a module.
fn debugged() -> (EngineCode, ModuleRegistry) {
    let engine = Engine::new();
    let code = load(&engine);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.register_module(module(&code)).unwrap();
    (code, store)
}

fn base(store: &ModuleRegistry, code: &EngineCode) -> usize {
    store.store_code(code).unwrap().base().unwrap().as_usize()
}

fn bytes_at(address: usize) -> [u8; 4] {
    // SAFETY: mapped readable, and nobody writes meanwhile.
    unsafe { std::ptr::with_exposed_provenance::<[u8; 4]>(address).read_volatile() }
}

/// What every patch point shows.
fn shown(store: &ModuleRegistry, code: &EngineCode) -> [[u8; 4]; 3] {
    POINTS.map(|point| bytes_at(base(store, code) + point))
}

/// The rights to every page of a mapping of so many, as the kernel tells them.
fn rights(base: usize) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of = |address: usize| {
        let line = maps.lines().find(|line| {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let parse = |hex| usize::from_str_radix(hex, 16).unwrap();
            (parse(start)..parse(end)).contains(&address)
        });
        line.map_or("none".into(), |line| line.split_whitespace().nth(1).unwrap()[..3].to_owned())
    };
    (0..PAGES).map(|page| of(base + page * PAGE)).collect()
}

const FUNCTION: DefinedFunctionIndex = DefinedFunctionIndex::new(0);

#[test]
fn no_page_is_ever_asked_to_be_writable_and_executable() {
    let _alone = alone();
    let (code, mut store) = debugged();
    for offset in POINTS {
        store.set_breakpoint(module(&code), FUNCTION, offset).unwrap();
    }
    assert_eq!(shown(&store, &code), [STOP; 3]);
    store.set_single_step(true).unwrap();
    for offset in POINTS {
        store.clear_breakpoint(module(&code).id(), FUNCTION, offset).unwrap();
    }
    store.set_single_step(false).unwrap();
    assert_eq!(shown(&store, &code), [NOPS; 3]);
    let text = base(&store, &code);
    assert_eq!(rights(text), ["r-x"; PAGES]);
    let both = libc::PROT_WRITE | libc::PROT_EXEC;
    let asked = asked();
    assert!(asked.iter().filter(|(at, ..)| (text..text + PAGES * PAGE).contains(at)).count() >= 8, "{asked:?}");
    assert!(asked.iter().all(|(.., rights)| rights & both != both), "{asked:?}");
}

#[test]
fn only_the_pages_of_a_patch_change_their_rights() {
    let _alone = alone();
    let (code, mut store) = debugged();
    let text = base(&store, &code);
    for (offset, pages) in POINTS.into_iter().zip([0..1, 1..3, 4..5]) {
        asked();
        store.set_breakpoint(module(&code), FUNCTION, offset).unwrap();
        let touched = |(at, len, _): &(usize, usize, c_int)| (at - text) / PAGE..(at + len - text).div_ceil(PAGE);
        let changes: Vec<_> = asked().iter().map(touched).collect();
        assert_eq!(changes, [pages.clone(), pages]);
    }
    assert_eq!(shown(&store, &code), [STOP; 3]);
}

#[test]
fn a_refused_right_to_write_changes_nothing() {
    let _alone = alone();
    let (code, mut store) = debugged();
    store.set_breakpoint(module(&code), FUNCTION, POINTS[2]).unwrap();
    refuse(1);
    let error = store.set_breakpoint(module(&code), FUNCTION, 0).unwrap_err();
    assert!(matches!(error, BreakpointError::Patch(PatchError::Unchanged { .. })), "{error:?}");
    refuse(1);
    assert!(store.clear_breakpoint(module(&code).id(), FUNCTION, POINTS[2]).is_err());
    refuse(1);
    assert!(store.set_single_step(true).is_err());
    assert!(!store.is_single_stepping());
    assert_eq!(shown(&store, &code), [NOPS, NOPS, STOP]);
    assert_eq!(store.breakpoints().map(|set| set.offset).collect::<Vec<_>>(), [POINTS[2]]);
    assert_eq!(rights(base(&store, &code)), ["r-x"; PAGES]);
    store.set_breakpoint(module(&code), FUNCTION, 0).unwrap();
    assert_eq!(shown(&store, &code), [STOP, NOPS, STOP]);
}

#[test]
fn a_refused_right_to_execute_is_an_error_until_it_is_given() {
    let _alone = alone();
    let (code, mut store) = debugged();
    refuse(2);
    let error = store.set_breakpoint(module(&code), FUNCTION, POINTS[1]).unwrap_err();
    assert!(matches!(error, BreakpointError::Patch(PatchError::NotExecutable { .. })), "{error:?}");
    assert_eq!(rights(base(&store, &code)), ["r-x", "rw-", "rw-", "r-x", "r-x"]);
    assert_eq!(store.breakpoints().len(), 0);
    // The bytes are as wanted by now, and it is still an error while the kernel refuses.
    refuse(2);
    assert!(store.set_breakpoint(module(&code), FUNCTION, POINTS[1]).is_err());
    refuse(2);
    assert!(matches!(store.register_module(module(&code)), Err(StoreError::Patch(PatchError::NotExecutable { .. }))));
    store.register_module(module(&code)).unwrap();
    assert_eq!(rights(base(&store, &code)), ["r-x"; PAGES], "registering again mended it");
    // Nothing was set: stepping on and off shows what is.
    store.set_single_step(true).unwrap();
    store.set_single_step(false).unwrap();
    assert_eq!(shown(&store, &code), [NOPS; 3]);
}

#[test]
fn what_a_failed_registration_wrote_is_gone_when_the_next_succeeds() {
    let _alone = alone();
    let engine = Engine::new();
    let mut image = ImageBuilder::new();
    image.text([0x90; 64]).module(Default::default()).module(Default::default());
    for (module, range) in [(0, 0..32), (1, 32..64)] {
        let key = FunctionKey::Defined { module: ModuleIndex::new(module), function: FUNCTION };
        image.compiled(range.clone(), key, None).patch(range.start + 8, STOP, NOPS);
    }
    let memory = Image::parse(&image.finish().unwrap()).unwrap().publish().unwrap();
    let code = EngineCode::new(&engine, memory).unwrap();
    let [first, second] = [0, 1].map(|index| code.module(ModuleIndex::new(index)).unwrap());
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.register_module(first).unwrap();
    store.set_breakpoint(second, FUNCTION, 0).unwrap();
    refuse(2);
    assert!(store.register_module(second).is_err(), "written, but not registered");
    store.clear_breakpoint(second.id(), FUNCTION, 0).unwrap();
    store.register_module(second).unwrap();
    let base = base(&store, &code);
    assert_eq!([bytes_at(base + 8), bytes_at(base + 40)], [NOPS; 2], "no breakpoint is set");
}

#[test]
fn an_unfinished_patch_is_finished_by_one_elsewhere() {
    let _alone = alone();
    let (code, mut store) = debugged();
    refuse(2);
    assert!(store.set_breakpoint(module(&code), FUNCTION, POINTS[2]).is_err());
    store.set_breakpoint(module(&code), FUNCTION, 0).unwrap();
    assert_eq!(rights(base(&store, &code)), ["r-x"; PAGES]);
}

/// One patch that could not be finished, on the last page, and after it one on the first that fails half-way: at its
/// first request, and with the given number of requests refused from there on.
fn half_way_after_an_unfinished_one(refused: usize) -> (EngineCode, ModuleRegistry) {
    let (code, mut store) = debugged();
    refuse(2);
    assert!(store.set_breakpoint(module(&code), FUNCTION, POINTS[2]).is_err());
    assert_eq!(rights(base(&store, &code)), ["r-x", "r-x", "r-x", "r-x", "rw-"]);
    HALFWAY.store(true, SeqCst);
    refuse_in_a_row(1, refused);
    let error = store.set_breakpoint(module(&code), FUNCTION, POINTS[0]).unwrap_err();
    assert_eq!(matches!(error, BreakpointError::Patch(PatchError::Unchanged { .. })), refused == 1, "{error:?}");
    assert_eq!(matches!(error, BreakpointError::Patch(PatchError::NotExecutable { .. })), refused == 2, "{error:?}");
    (code, store)
}

#[test]
fn a_first_write_that_fails_half_way_leaves_everything_executable() {
    let _alone = alone();
    let (code, mut store) = debugged();
    HALFWAY.store(true, SeqCst);
    refuse(1);
    assert!(store.set_single_step(true).is_err());
    assert_eq!(rights(base(&store, &code)), ["r-x"; PAGES]);
    assert_eq!(shown(&store, &code), [NOPS; 3]);
}

#[test]
fn a_write_that_fails_half_way_leaves_everything_executable() {
    let _alone = alone();
    let (code, store) = half_way_after_an_unfinished_one(1);
    assert_eq!(rights(base(&store, &code)), ["r-x"; PAGES]);
    assert_eq!(shown(&store, &code), [NOPS, NOPS, STOP], "the first patch was written, the second was not");
}

#[test]
fn a_write_that_fails_half_way_for_good_is_mended_as_a_whole_by_the_next() {
    let _alone = alone();
    let (code, mut store) = half_way_after_an_unfinished_one(2);
    assert_eq!(rights(base(&store, &code)), ["rw-"; PAGES]);
    store.register_module(module(&code)).unwrap();
    assert_eq!(rights(base(&store, &code)), ["r-x"; PAGES]);
    store.set_single_step(true).unwrap();
    store.set_single_step(false).unwrap();
    assert_eq!(shown(&store, &code), [NOPS; 3]);
}

#[test]
fn a_step_that_fails_in_the_second_module_is_taken_back_in_the_first() {
    let _alone = alone();
    let engine = Engine::new();
    let codes = [load(&engine), load(&engine)];
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    for code in &codes {
        store.register_module(module(code)).unwrap();
    }
    refuse(3);
    assert!(store.set_single_step(true).is_err());
    for code in &codes {
        assert_eq!(shown(&store, code), [NOPS; 3]);
        assert_eq!(rights(base(&store, code)), ["r-x"; PAGES]);
    }
}

#[test]
fn a_refused_copy_registers_nothing() {
    let _alone = alone();
    let engine = Engine::new();
    let code = load(&engine);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    let live = trapline::process::stats().live_ranges;
    refuse(1);
    let error = store.register_module(module(&code)).unwrap_err();
    assert!(matches!(&error, StoreError::PrivateCopy { text, .. } if *text == code.text_range()));
    assert!(store.store_code(&code).is_none());
    assert_eq!((store.all_modules().count(), trapline::process::stats().live_ranges), (0, live));
    store.set_breakpoint(module(&code), FUNCTION, 0).unwrap();
    // The copy is made; the breakpoint in it is not.
    refuse(2);
    assert!(matches!(store.register_module(module(&code)), Err(StoreError::Patch(PatchError::Unchanged { .. }))));
    assert_eq!((store.all_modules().count(), trapline::process::stats().live_ranges), (0, live));
    store.register_module(module(&code)).unwrap();
    assert_eq!(shown(&store, &code), [STOP, NOPS, NOPS]);
}

#[test]
fn a_store_that_ends_unmaps_its_copy_at_once_and_so_does_code_that_nobody_holds() {
    let _alone = alone();
    let (code, store) = debugged();
    let text = base(&store, &code);
    drop(store);
    assert!(rights(text).iter().all(|rights| rights != "r-x"), "{:?}", rights(text));
    let text = code.text_range().start.as_usize();
    assert_eq!(rights(text), ["r-x"; PAGES]);
    drop(code);
    assert!(rights(text).iter().all(|rights| rights != "r-x"), "{:?}", rights(text));
}
