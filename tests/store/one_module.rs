//! A store with one module, which takes another way through the code than one with many; every question is asked of
//! both.

use crate::base_of;
use crate::compile::{Linker, compile, defined, load, named};
use std::ffi::c_void;
use trapline::image::{DefinedFunctionIndex, FunctionKey, Image, ImageBuilder, ModuleIndex, SignatureIndex};
use trapline::signal::{Signals, catch_trap, install};
use trapline::store::{
    Direction, Engine, EngineCode, EnginePc, LoadError, Module, ModuleRegistry, StoreError, StorePc,
};
use trapline::{Backtrace, BacktraceEnd, PcKind, Registers, TrapCode};

const SOURCE: &str = "
function %first(i64) system_v {
block0(v0: i64):
    v1 = load.i64 notrap aligned v0
    v2 = load.i64 notrap aligned v0+8
    v3 = udiv v1, v2
    store.i64 notrap aligned v3, v0
    return
}
function %second(i64) -> i64 system_v { block0(v0: i64): return v0 }
function %trampoline(i64) -> i64 system_v { block0(v0: i64): return v0 }";

fn image() -> Vec<u8> {
    let mut linker = Linker::default();
    linker.image.module(named("m")).signature("(i64)").signature("(i64) -> i64");
    for piece in compile(SOURCE) {
        let key = match piece.name.as_str() {
            "first" => defined(0, 0),
            "second" => defined(0, 1),
            _ => FunctionKey::GuestToHost { signature: SignatureIndex::new(1) },
        };
        linker.add(key, piece);
    }
    linker.link().0
}

fn first_module(code: &EngineCode) -> Module<'_> {
    code.module(ModuleIndex::new(0)).unwrap()
}

/// A store with `module` and nothing else; one with another module before it, and one with another after it.
fn stores(engine: &Engine, module: Module<'_>) -> [ModuleRegistry; 3] {
    let other = || load(engine, &ImageBuilder::new().text([0x90; 8]).function(0..8, None).finish().unwrap());
    [[0, 0], [1, 0], [0, 1]].map(|[before, after]| {
        let mut store = ModuleRegistry::new(engine);
        for _ in 0..before {
            store.register_module(first_module(&other())).unwrap();
        }
        store.register_module(module).unwrap();
        for _ in 0..after {
            store.register_module(first_module(&other())).unwrap();
        }
        store
    })
}

#[test]
fn everything_is_answered_for_one_module_as_it_is_for_many() {
    let engine = Engine::new();
    let code = load(&engine, &image());
    let foreign = load(&engine, &image());
    let module = first_module(&code);
    let (present, absent) = (code.signature_id(SignatureIndex::new(1)), code.signature_id(SignatureIndex::new(0)));
    let functions = code.image().functions();
    let trampoline = functions.by_key(FunctionKey::GuestToHost { signature: SignatureIndex::new(1) }).unwrap().range();
    for (many, mut store) in stores(&engine, module).into_iter().enumerate() {
        let text = store.store_code(&code).unwrap().text_range();
        let base = base_of(&store, &code);
        let at = |offset: usize| StorePc::new(base.as_usize() + offset);

        let expected = Some(at(trampoline.start));
        let out = Direction::GuestToHost;
        assert_eq!(store.trampoline(out, present.unwrap()), expected);
        assert_eq!(store.lookup_trampoline(base.as_usize() + 3, out, present.unwrap()), expected);
        assert_eq!(store.trampoline(out, absent.unwrap()), None);
        assert_eq!(store.lookup_trampoline(base.as_usize() + 3, out, absent.unwrap()), None);
        assert_eq!(store.trampoline(Direction::HostToGuest, present.unwrap()), None);

        assert!(store.store_code(&foreign).is_none());
        assert!(store.module(first_module(&foreign).id()).is_none());
        for id in [code.id(), foreign.id()] {
            assert!(store.module(id).is_none(), "an image's name is no module's");
        }

        store.register_module(module).unwrap();
        let with_code = store.module(module.id()).unwrap();
        let in_store = with_code.store_code();
        assert_eq!((with_code.module(), in_store.text_range()), (module, text.clone()));
        assert_eq!((in_store.engine_code(), in_store.text()), (&code, code.image().text()));
        for index in 0..2 {
            let function = DefinedFunctionIndex::new(index);
            let start = module.function(function).unwrap().range().start;
            assert_eq!(with_code.function_pc(function), Some(at(start)));
            let engine_pc = EnginePc::new(code.text_range().start.as_usize() + start);
            assert_eq!(in_store.store_pc(engine_pc), Some(at(start)));
            assert_eq!(in_store.engine_pc(at(start)), Some(engine_pc));
        }
        assert_eq!(with_code.function_pc(DefinedFunctionIndex::new(2)), None);
        assert_eq!(in_store.store_pc(code.text_range().end), None);
        assert_eq!(in_store.store_pc(foreign.text_range().start), None);
        assert_eq!(in_store.engine_pc(text.end), None);
        assert_eq!(in_store.engine_pc(StorePc::new(foreign.text_range().start.as_usize())), None);

        assert_eq!(store.store_code_mut(base).unwrap().store_code().base(), Some(base));
        let Err(StoreError::NotABase { inside, .. }) = store.store_code_mut(at(1)) else { panic!("taken for a base") };
        assert_eq!(inside, Some(text));
        let nowhere = StorePc::new(foreign.text_range().start.as_usize());
        assert!(matches!(store.store_code_mut(nowhere), Err(StoreError::NotABase { inside: None, .. })));
        assert_eq!(store.all_modules().count(), if many == 0 { 1 } else { 2 });
    }
}

#[test]
fn a_resolved_backtrace_names_calls_by_their_return_addresses() {
    let engine = Engine::new();
    let code = load(&engine, &image());
    let module = first_module(&code);
    let mut store = ModuleRegistry::new(&engine);
    let base = store.store_code_base_or_register(module).unwrap().unwrap().as_usize();
    let [first, second] = [0, 1].map(|index| module.function(DefinedFunctionIndex::new(index)).unwrap().range());
    // A stack made up: `second` was called by the last bytes of `first`; what called that is no guest.
    let end_of_first = base + first.end;
    let mut stack = [0_usize; 6];
    let start = (&raw const stack).expose_provenance();
    stack[..4].copy_from_slice(&[start + 16, end_of_first, start + 32, 1]);
    let frame = Registers::new(base + second.start, start, start);
    let mut backtrace: Backtrace = Backtrace::new();
    // SAFETY: the array is readable, and nobody writes to it.
    unsafe { backtrace.walk(frame, start + size_of_val(&stack)) };
    assert_eq!((backtrace.len(), backtrace.end()), (2, BacktraceEnd::HostFrame));
    let names: Vec<_> = store.resolve(&backtrace).map(|frame| frame.unwrap().0.function().name()).collect();
    assert_eq!(names, [Some("second"), Some("first")]);
    let strangers = ModuleRegistry::new(&engine);
    assert!(strangers.resolve(&backtrace).all(|frame| frame.is_none()));
    assert_eq!(strangers.resolve(&backtrace).count(), 2);
    assert!(store.lookup_frame_info(end_of_first, PcKind::Interrupted).is_none(), "padding");
}

#[test]
fn code_whose_handles_are_all_dropped_runs_and_traps_while_a_store_has_it() {
    // SAFETY: nothing else in this process relies on these signals.
    unsafe { install(Signals::all()) }.unwrap();
    let engine = Engine::new();
    let mut store = ModuleRegistry::new(&engine);
    store.register_module(first_module(&load(&engine, &image()))).unwrap();
    let module = store.all_modules().next().unwrap();
    // SAFETY: the function is of this type; the store outlives the calls.
    let entry: unsafe extern "C" fn(*mut c_void) = unsafe { module.entry(DefinedFunctionIndex::new(0)) }.unwrap();
    let run = |a: u64, b: u64| {
        let mut arguments = [a, b];
        // SAFETY: the function owns nothing.
        unsafe { catch_trap(entry, (&raw mut arguments).cast()) }.map(|()| arguments[0])
    };
    assert_eq!(run(84, 2), Ok(42));
    assert_eq!(run(84, 0).unwrap_err().code, TrapCode::IntegerDivisionByZero);
}

#[test]
fn ids_of_types_are_an_engines_own_and_are_never_given_again() {
    let (one, two) = (Engine::new(), Engine::new());
    let codes = [load(&one, &image()), load(&two, &image())];
    let ids = codes.each_ref().map(|code| code.signature_id(SignatureIndex::new(1)).unwrap());
    assert_ne!(ids[0], ids[1]);
    let mut store = ModuleRegistry::new(&one);
    store.register_module(first_module(&codes[0])).unwrap();
    assert!(store.trampoline(Direction::GuestToHost, ids[0]).is_some());
    assert_eq!(store.trampoline(Direction::GuestToHost, ids[1]), None, "another engine's type");
    drop((store, codes));
    assert_eq!(one.signature_id(b"(i64) -> i64"), None);
    let again = load(&one, &image()).signature_id(SignatureIndex::new(1)).unwrap();
    assert!(!ids.contains(&again));
}

#[test]
fn patch_points_that_were_relocated_are_refused() {
    let mut image = ImageBuilder::new();
    image.text([0x90; 32]).function(0..32, None).patch(8, [0xcc; 4], [0x90; 4]);
    let mut memory = Image::parse(&image.finish().unwrap()).unwrap();
    memory.text_mut()[9] = 0xf4;
    let error = EngineCode::new(&Engine::new(), memory.publish().unwrap()).unwrap_err();
    assert!(matches!(&error, LoadError::PatchNotInText { range } if *range == (8..12)), "{error:?}");
}

#[test]
fn configurations_of_equal_length_are_told_apart() {
    let image = ImageBuilder::new().configuration("fuel").finish().unwrap();
    let memory = Image::parse(&image).unwrap().publish().unwrap();
    assert!(EngineCode::new(&Engine::with_configuration("tail"), memory).is_err());
}
