//! Mode A, what stores do.

use super::process::stable_code;
use super::watch::{Change, Watch};
use super::world;
use super::writer::{self, Operation};
use std::ops::Range;
use trapline::TrapCode;
use trapline::image::{DefinedFunctionIndex, Image, ImageBuilder, ModuleIndex};
use trapline::store::{Engine, EngineCode, Module, ModuleRegistry};

pub const OPERATIONS: &[Operation] = &[
    ("loading code into an engine", code_is_loaded),
    ("unloading the code of an engine", code_is_unloaded),
    ("a store that shares its code, from its creation to its end", shared_store),
    ("a store that makes a private copy", private_copy),
    ("the end of a store with a private copy", private_copy_ends),
    ("setting and clearing a breakpoint", breakpoint),
];

const WHO: u64 = 77;

/// Code that says who it is, and can be stopped behind that.
fn memory() -> Image {
    let text = [&world::text(WHO)[..], &[0x90; 20]].concat();
    let mut image = ImageBuilder::new();
    image.text(text).trap(0, TrapCode::Unreachable).function(0..32, Some("f"));
    image.patch(12, [0xcc; 5], [0x90; 5]).patch(20, [0xcc; 5], [0x90; 5]);
    let file = image.finish().expect("a small image");
    Image::parse(&file).expect("our own image").publish().expect("memory for a page")
}

fn load(engine: &Engine) -> EngineCode {
    EngineCode::new(engine, memory()).expect("fresh memory")
}

fn module(code: &EngineCode) -> Module<'_> {
    code.module(ModuleIndex::new(0)).expect("one module")
}

/// Both ends of a text that comes or goes, and what is behind it.
fn ends(text: &Range<usize>, before: Option<u64>, after: Option<u64>) -> [Change; 3] {
    [(text.start, before, after), (text.end - 1, before, after), (text.end, None, None)]
}

/// What does not change: other code, and what the engine has of this.
fn stable(code: &EngineCode) -> Vec<(usize, Option<u64>)> {
    let text = code.image().text_range();
    let mut stable = stable_code();
    stable.extend([(text.start, Some(WHO)), (text.end - 1, Some(WHO)), (text.end, None)]);
    stable
}

fn private_text(store: &ModuleRegistry, code: &EngineCode) -> Range<usize> {
    let text = store.store_code(code).expect("registered").text_range();
    text.start.as_usize()..text.end.as_usize()
}

fn code_is_loaded() {
    let engine = Engine::new();
    let stable = stable_code();
    let memory = memory();
    let text = memory.text_range();
    let watch = Watch::new(world::global, stable).changing(ends(&text, None, Some(WHO)));
    let code = writer::step(&watch, || watch.change(|| EngineCode::new(&engine, memory)));
    drop(code.expect("fresh memory"));
    trapline::process::reclaim();
}

fn code_is_unloaded() {
    let stable = stable_code();
    let code = load(&Engine::new());
    let text = code.image().text_range();
    let watch = Watch::new(world::global, stable).changing(ends(&text, Some(WHO), None));
    writer::step(&watch, || {
        watch.change(|| drop(code));
        trapline::process::reclaim();
    });
}

fn shared_store() {
    let engine = Engine::new();
    let code = load(&engine);
    let watch = Watch::new(world::global, stable(&code));
    writer::step(&watch, || {
        let mut store = ModuleRegistry::new(&engine);
        store.register_module(module(&code)).expect("of this engine");
    });
}

fn private_copy() {
    let engine = Engine::new();
    let code = load(&engine);
    // Nobody knows beforehand where the copy will be.
    let watch = Watch::new(world::global, stable(&code));
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    writer::step(&watch, || store.register_module(module(&code)).expect("of this engine"));
    let text = private_text(&store, &code);
    let copy = Watch::new(world::global, [(text.start, Some(WHO)), (text.end - 1, Some(WHO)), (text.end, None)]);
    copy.during(|| ());
    drop(store);
    trapline::process::reclaim();
}

fn private_copy_ends() {
    let engine = Engine::new();
    let code = load(&engine);
    let stable = stable(&code);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.register_module(module(&code)).expect("of this engine");
    let text = private_text(&store, &code);
    let watch = Watch::new(world::global, stable).changing(ends(&text, Some(WHO), None));
    writer::step(&watch, || {
        watch.change(|| drop(store));
        trapline::process::reclaim();
    });
}

fn breakpoint() {
    let engine = Engine::new();
    let code = load(&engine);
    let mut stable = stable(&code);
    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    store.register_module(module(&code)).expect("of this engine");
    let text = private_text(&store, &code);
    stable.extend([(text.start, Some(WHO)), (text.end - 1, Some(WHO)), (text.end, None)]);
    let watch = Watch::new(world::global, stable);
    let function = DefinedFunctionIndex::new(0);
    writer::step(&watch, || {
        store.set_breakpoint(module(&code), function, 0).expect("a patch point");
        store.set_single_step(true).expect("two patch points");
        store.set_single_step(false).expect("two patch points");
        store.clear_breakpoint(module(&code).id(), function, 0).expect("was set");
    });
    drop(store);
    trapline::process::reclaim();
}
