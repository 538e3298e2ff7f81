//! Breakpoints in private code, hit by running it.

use crate::base_of;
use crate::compile::{Linker, compile, defined, load};
use std::ffi::c_void;
use trapline::image::{DefinedFunctionIndex, FunctionKey, ModuleIndex};
use trapline::signal::{Signals, Trap, catch_trap, install};
use trapline::store::{BreakpointError, Engine, EngineCode, Module, ModuleRegistry, PatchError};
use trapline::{PcKind, TrapCode};

/// `work` stops before each of its three steps if it is asked to; so does `other`, once.
const GUEST: &str = "
function %main(i64) system_v {
    fn0 = colocated %work(i64, i64, i64) -> i64 system_v
block0(v0: i64):
    v1 = load.i64 notrap aligned v0+8
    v2 = load.i64 notrap aligned v0+16
    v3 = call fn0(v0, v1, v2)
    store.i64 notrap aligned v3, v0+24
    return
}
function %work(i64, i64, i64) -> i64 system_v {
    fn0 = colocated patchable %breakpoint(i64) preserve_all
    fn1 = colocated %other(i64, i64) -> i64 system_v
block0(v0: i64, v1: i64, v2: i64):
    call fn0(v0)
    v3 = call fn1(v0, v1)
    call fn0(v0)
    v4 = udiv v3, v2
    call fn0(v0)
    v5 = iconst.i64 1
    v6 = iadd v4, v5
    return v6
}
function %other(i64, i64) -> i64 system_v {
    fn0 = colocated patchable %breakpoint(i64) preserve_all
block0(v0: i64, v1: i64):
    call fn0(v0)
    v2 = iadd v1, v1
    return v2
}
function %breakpoint(i64) preserve_all {
    sig0 = (i64) system_v
block0(v0: i64):
    v1 = get_return_address.i64
    v2 = load.i64 notrap aligned v0
    store.i64 notrap aligned v1, v0+32
    call_indirect sig0, v2(v0)
    return
}";

const MAIN: u32 = 0;
const WORK: u32 = 1;
const OTHER: u32 = 2;

/// What guest code gets. The offsets are in the source above.
#[repr(C)]
struct Context {
    host: unsafe extern "C" fn(*mut Context),
    a: u64,
    b: u64,
    result: u64,
    hit_at: usize,
    hits: Vec<usize>,
}

unsafe extern "C" fn hit(context: *mut Context) {
    // SAFETY: the context that the guest was called with, which is in use nowhere else.
    let context = unsafe { &mut *context };
    context.hits.push(context.hit_at);
}

fn guest(engine: &Engine) -> EngineCode {
    let mut linker = Linker::default();
    for (index, piece) in compile(GUEST).into_iter().enumerate() {
        let key = if piece.name == "breakpoint" { FunctionKey::Builtin { index: 0 } } else { defined(0, index as u32) };
        linker.add(key, piece);
    }
    load(engine, &linker.link().0)
}

fn module(code: &EngineCode) -> Module<'_> {
    code.module(ModuleIndex::new(0)).unwrap()
}

fn function(index: u32) -> DefinedFunctionIndex {
    DefinedFunctionIndex::new(index)
}

/// Runs `main(a, b)` in `store`: its result, and the functions that stopped, in order.
fn run(store: &ModuleRegistry, module: Module<'_>, a: u64, b: u64) -> (Result<u64, Trap>, Vec<(String, usize)>) {
    // SAFETY: nothing else in this process relies on these signals.
    unsafe { install(Signals::all()) }.unwrap();
    // SAFETY: `main` is of this type; the store outlives the call.
    let main: unsafe extern "C" fn(*mut c_void) =
        unsafe { store.module(module.id()).unwrap().entry(function(MAIN)) }.unwrap();
    let mut context = Context { host: hit, a, b, result: 0, hit_at: 0, hits: Vec::new() };
    // SAFETY: guest code that owns nothing; `hit` has returned wherever it traps.
    let result = unsafe { catch_trap(main, (&raw mut context).cast()) };
    let hits = context.hits.iter().map(|pc| {
        let (frame, _) = store.lookup_frame_info(*pc, PcKind::ReturnAddress).expect("a hit is in a function");
        (frame.function().name().unwrap().to_owned(), frame.text_offset())
    });
    (result.map(|()| context.result), hits.collect())
}

fn names(hits: &[(String, usize)]) -> Vec<&str> {
    hits.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_breakpoint_stops_one_store_and_not_the_other_until_it_is_cleared() {
    let engine = Engine::new();
    let code = guest(&engine);
    let module = module(&code);
    let canonical = code.image().text().to_vec();
    let mut debugged = ModuleRegistry::with_guest_debugging(&engine);
    let mut plain = ModuleRegistry::new(&engine);
    debugged.register_module(module).unwrap();
    plain.register_module(module).unwrap();
    assert_ne!(base_of(&debugged, &code), base_of(&plain, &code));

    for store in [&debugged, &plain] {
        assert_eq!(run(store, module, 20, 4), (Ok(11), vec![]));
    }
    let set = debugged.set_breakpoint(module, function(WORK), 0).unwrap();
    assert_eq!(set.count, 1);
    let patches = code.image().patches();
    assert_eq!(
        set.text_offset,
        patches.next_from(module.function(function(WORK)).unwrap().range().start).unwrap().1.offset()
    );

    let (result, hits) = run(&debugged, module, 20, 4);
    assert_eq!((result, names(&hits)), (Ok(11), vec!["work"]));
    let patch = patches.next_from(set.text_offset).unwrap().1;
    assert!(patch.range().contains(&hits[0].1), "the hit names its patch point");
    assert_eq!(run(&plain, module, 20, 4), (Ok(11), vec![]));
    assert_eq!(code.image().text(), canonical, "the engine's copy is never written");

    assert_eq!(debugged.clear_breakpoint(module.id(), function(WORK), 0).unwrap(), 0);
    for store in [&debugged, &plain] {
        assert_eq!(run(store, module, 20, 4), (Ok(11), vec![]));
    }
}

#[test]
fn a_trap_in_the_private_copy_reports_the_modules_own_trap_code_and_function() {
    let engine = Engine::new();
    let code = guest(&engine);
    let module = module(&code);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.register_module(module).unwrap();
    store.set_breakpoint(module, function(WORK), 0).unwrap();
    let (result, hits) = run(&store, module, 20, 0);
    let trap = result.unwrap_err();
    assert_eq!(names(&hits), ["work"]);
    assert_eq!(trap.code, TrapCode::IntegerDivisionByZero);
    let pc = trap.site.unwrap().pc;
    let private = store.store_code(&code).unwrap().text_range();
    assert!((private.start.as_usize()..private.end.as_usize()).contains(&pc));
    assert!(!code.image().text_range().contains(&pc));
    assert_eq!(store.lookup_trap_code(pc), Some(TrapCode::IntegerDivisionByZero));
    let (frame, with_code) = store.lookup_frame_info(pc, PcKind::Interrupted).unwrap();
    assert_eq!(frame.function().name(), Some("work"));
    assert_eq!(frame.module().id(), module.id());
    assert_eq!(with_code.store_code().text_range(), private);
    let found =
        trapline::process::with(pc, |found| (found.payload().is_private(), found.payload().image().text_range()));
    assert_eq!(found, Some((true, code.image().text_range())), "a handler finds the image through the copy");
}

#[test]
fn a_breakpoint_slips_forward_to_the_next_patch_point_of_its_function() {
    let engine = Engine::new();
    let code = guest(&engine);
    let module = module(&code);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.register_module(module).unwrap();
    let range = module.function(function(WORK)).unwrap().range();
    let points: Vec<_> = code.image().patches().iter().filter(|patch| range.contains(&patch.offset())).collect();
    assert_eq!(points.len(), 3);
    for offset in 0..range.len() + 2 {
        let expected = points.iter().find(|point| point.offset() >= range.start + offset);
        match (store.set_breakpoint(module, function(WORK), offset), expected) {
            (Ok(set), Some(point)) => {
                assert_eq!(set.text_offset, point.offset());
                let (_, hits) = run(&store, module, 20, 4);
                let [(_, at)] = hits[..] else { panic!("{hits:?}") };
                assert!(point.range().contains(&at));
                store.clear_breakpoint(module.id(), function(WORK), offset).unwrap();
            }
            (Err(BreakpointError::NoPatchPoint { offset: named, len, .. }), None) => {
                assert_eq!((named, len), (offset, range.len()));
            }
            (other, _) => panic!("offset {offset}: {other:?}"),
        }
    }
}

#[test]
fn what_was_set_twice_is_cleared_twice_and_two_that_slip_to_one_point_hold_it_both() {
    let engine = Engine::new();
    let code = guest(&engine);
    let module = module(&code);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.register_module(module).unwrap();
    let stops = |store: &ModuleRegistry| run(store, module, 20, 4).1.len();
    assert_eq!(store.set_breakpoint(module, function(OTHER), 0).unwrap().count, 1);
    assert_eq!(store.set_breakpoint(module, function(OTHER), 0).unwrap().count, 2);
    assert_eq!(store.set_breakpoint(module, function(OTHER), 1).unwrap().count, 1);
    let listed: Vec<_> = store.breakpoints().map(|set| (set.function, set.offset, set.count)).collect();
    assert_eq!(listed, [(function(OTHER), 0, 2), (function(OTHER), 1, 1)]);
    assert_eq!(stops(&store), 1);
    assert_eq!(store.clear_breakpoint(module.id(), function(OTHER), 0).unwrap(), 1);
    assert_eq!(stops(&store), 1);
    assert_eq!(store.clear_breakpoint(module.id(), function(OTHER), 0).unwrap(), 0);
    assert_eq!(stops(&store), 1, "the one at offset 1 is at the same point");
    assert_eq!(store.clear_breakpoint(module.id(), function(OTHER), 1).unwrap(), 0);
    assert_eq!(stops(&store), 0);
    assert!(matches!(
        store.clear_breakpoint(module.id(), function(OTHER), 1),
        Err(BreakpointError::NotSet { offset: 1, .. })
    ));
    assert_eq!(store.breakpoints().len(), 0);
}

#[test]
fn single_step_leaves_the_breakpoints_as_they_were() {
    let engine = Engine::new();
    let code = guest(&engine);
    let module = module(&code);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.register_module(module).unwrap();
    store.set_breakpoint(module, function(OTHER), 0).unwrap();
    store.set_single_step(true).unwrap();
    assert!(store.is_single_stepping());
    let (result, hits) = run(&store, module, 20, 4);
    assert_eq!((result, names(&hits)), (Ok(11), vec!["work", "other", "work", "work"]));
    store.clear_breakpoint(module.id(), function(OTHER), 0).unwrap();
    assert_eq!(run(&store, module, 20, 4).1.len(), 4, "clearing one does not stop the stepping");
    store.set_breakpoint(module, function(OTHER), 0).unwrap();
    store.set_single_step(false).unwrap();
    assert_eq!(names(&run(&store, module, 20, 4).1), ["other"]);
}

#[test]
fn what_is_asked_for_before_a_module_is_registered_is_in_force_when_it_is() {
    let engine = Engine::new();
    let code = guest(&engine);
    let module = module(&code);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.set_breakpoint(module, function(OTHER), 0).unwrap();
    assert!(store.store_code(&code).is_none(), "setting a breakpoint registers nothing");
    store.register_module(module).unwrap();
    assert_eq!(names(&run(&store, module, 20, 4).1), ["other"]);

    let mut stepping = ModuleRegistry::with_guest_debugging(&engine);
    stepping.set_single_step(true).unwrap();
    stepping.register_module(module).unwrap();
    assert_eq!(run(&stepping, module, 20, 4).1.len(), 4);
}

#[test]
fn registering_again_brings_breakpoints_back_into_force() {
    let engine = Engine::new();
    let code = guest(&engine);
    let module = module(&code);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.register_module(module).unwrap();
    let set = store.set_breakpoint(module, function(OTHER), 0).unwrap();
    let base = base_of(&store, &code);
    let disabled = code.image().patches().next_from(set.text_offset).unwrap().1.disabled();
    store.store_code_mut(base).unwrap().patch(set.text_offset, disabled).unwrap();
    assert_eq!(run(&store, module, 20, 4).1.len(), 0, "somebody patched it away");
    store.register_module(module).unwrap();
    assert_eq!(run(&store, module, 20, 4).1.len(), 1);
    assert_eq!(store.all_modules().count(), 1);
}

#[test]
fn shared_code_takes_neither_breakpoints_nor_patches() {
    let engine = Engine::new();
    let code = guest(&engine);
    let module = module(&code);
    let mut store = ModuleRegistry::new(&engine);
    let base = store.store_code_base_or_register(module).unwrap().unwrap();
    assert!(matches!(store.set_breakpoint(module, function(WORK), 0), Err(BreakpointError::SharedCode { .. })));
    assert!(matches!(store.set_single_step(true), Err(BreakpointError::SharedCode { .. })));
    let mut shared = store.store_code_mut(base).unwrap();
    assert!(matches!(shared.patch(0, &[0]), Err(PatchError::Shared { .. })));
    let mut debugging = ModuleRegistry::with_guest_debugging(&engine);
    let base = debugging.store_code_base_or_register(module).unwrap().unwrap();
    let mut private = debugging.store_code_mut(base).unwrap();
    let len = code.image().text().len();
    for (offset, bytes) in [(len, 1), (len - 1, 2), (usize::MAX, 1)] {
        let refused = private.patch(offset, &vec![0; bytes]);
        assert!(matches!(refused, Err(PatchError::OutsideText { offset: named, .. }) if named == offset));
    }
    private.patch(len, &[]).unwrap();
    assert!(matches!(debugging.set_breakpoint(module, function(77), 0), Err(BreakpointError::UnknownFunction { .. })));
}

#[test]
fn private_text_is_never_writable_and_executable_at_once() {
    let engine = Engine::new();
    let code = guest(&engine);
    let module = module(&code);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.register_module(module).unwrap();
    let rights = |store: &ModuleRegistry| {
        let base = base_of(store, &code).as_usize();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let address = |hex| usize::from_str_radix(hex, 16).unwrap();
            (address(start)..address(end)).contains(&base)
        });
        line.unwrap().split_whitespace().nth(1).unwrap().to_owned()
    };
    assert!(rights(&store).starts_with("r-x"));
    store.set_breakpoint(module, function(WORK), 0).unwrap();
    let set = rights(&store);
    assert!(set.starts_with("r-x"), "{set}");
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.lines().any(|line| line.contains(" rwx")), "{maps}");
}
