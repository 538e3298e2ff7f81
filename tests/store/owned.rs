//! Frames that outlive their store.

use crate::base_of;
use crate::compile::{Linker, compile, load, named};
use std::collections::HashSet;
use trapline::image::ModuleIndex;
use trapline::store::{Engine, EngineCode, ModuleRegistry, OwnedFrame};
use trapline::{Backtrace, PcKind, Registers, TrapCode, process};

/// Two functions that call nothing, and where the division is that may trap.
fn loaded(engine: &Engine) -> (EngineCode, usize) {
    let mut linker = Linker::default();
    linker.image.module(named("m"));
    let source = "
        function %divide(i64, i64) -> i64 system_v { block0(v0: i64, v1: i64):
        @0010 v2 = udiv v0, v1
        @0011 return v2 }
        function %other(i64) -> i64 system_v { block0(v0: i64): return v0 }";
    let code = load(engine, &linker.add_all(compile(source)).link().0);
    let (site, _) = code.image().traps().iter().next().unwrap();
    (code, site)
}

/// A backtrace of `other`, called by the instruction that may trap, which is called by code that is not registered.
fn backtrace(base: usize, code: &EngineCode, site: usize) -> Backtrace {
    let other = code.image().functions().get(1).unwrap().range().start;
    let mut stack = [0_usize; 6];
    let start = (&raw const stack).expose_provenance();
    stack[..4].copy_from_slice(&[start + 16, base + site + 1, start + 32, 1]);
    let mut backtrace = Backtrace::new();
    // SAFETY: the array is readable, and nobody writes to it.
    unsafe { backtrace.walk(Registers::new(base + other, start, start), start + size_of_val(&stack)) };
    assert_eq!(backtrace.len(), 2);
    backtrace
}

#[test]
fn an_owned_backtrace_says_after_its_store_what_the_store_said() {
    let engine = Engine::new();
    for debugging in [false, true] {
        let (code, site) = loaded(&engine);
        let text = code.text_range();
        let mut store = match debugging {
            true => ModuleRegistry::with_guest_debugging(&engine),
            false => ModuleRegistry::new(&engine),
        };
        store.register_module(code.module(ModuleIndex::new(0)).unwrap()).unwrap();
        let backtrace = backtrace(base_of(&store, &code).as_usize(), &code, site);
        let frames = store.resolve_owned(&backtrace).unwrap();
        let said: Vec<_> = store.resolve(&backtrace).map(|frame| frame.unwrap().0.to_string()).collect();
        drop((store, code));
        let kept: Vec<_> = frames.iter().map(|frame| frame.as_ref().unwrap().to_string()).collect();
        assert_eq!(kept, said);
        assert!(kept[0].starts_with("m!other + 0x0"), "{kept:?}");
        assert!(kept[1].starts_with("m!divide + ") && kept[1].ends_with("(source 0x10)"), "{kept:?}");
        let frame = frames[1].as_ref().unwrap();
        assert_eq!((frame.info().text_offset(), frame.info().function().name()), (site, Some("divide")));
        assert_eq!(frame.info().module().engine_code().text_range(), text);
    }
}

#[test]
fn an_owned_frame_keeps_its_image_loaded_and_lets_it_go() {
    let engine = Engine::new();
    let (code, site) = loaded(&engine);
    let pc = code.text_range().start.as_usize() + site;
    let mut store = ModuleRegistry::new(&engine);
    store.register_module(code.module(ModuleIndex::new(0)).unwrap()).unwrap();
    let frame = store.lookup_frame_info(pc, PcKind::Interrupted).unwrap().0.into_owned();
    let clone = frame.clone();
    drop((store, code, frame));
    assert_eq!(process::trap_code(pc), Some(TrapCode::IntegerDivisionByZero));
    let id = process::with(pc, |found| found.id());
    drop(clone);
    // The address may be another test's code by now; ids are never given twice.
    assert_ne!(process::with(pc, |found| found.id()), id);
}

#[test]
fn frames_of_other_stores_are_missing_from_an_owned_backtrace() {
    let engine = Engine::new();
    let (code, site) = loaded(&engine);
    let backtrace = backtrace(code.text_range().start.as_usize(), &code, site);
    let frames = ModuleRegistry::new(&engine).resolve_owned(&backtrace).unwrap();
    assert_eq!(frames.len(), 2);
    assert!(frames.iter().all(Option::is_none));
}

#[test]
fn owned_frames_fit_in_errors() {
    fn fits<T: Send + Sync + Clone + std::fmt::Debug + std::fmt::Display + 'static>() {}
    fits::<OwnedFrame>();
}

#[test]
fn equal_handles_hash_equally() {
    let engine = Engine::new();
    let (code, _) = loaded(&engine);
    let other = loaded(&engine).0;
    assert_eq!(HashSet::from([engine.clone(), engine.clone(), Engine::new()]).len(), 2);
    assert_eq!(HashSet::from([code.clone(), code.clone(), other.clone()]).len(), 2);
    let modules = [&code, &code, &other].map(|code| code.module(ModuleIndex::new(0)).unwrap());
    assert_eq!(HashSet::from(modules).len(), 2);
}
