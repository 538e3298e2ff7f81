//! When there is no memory: what needs some fails and changes nothing, what takes away succeeds.
//!
//! Allocations of fixed size abort the process instead, so each failure happens in a process of its own. That their
//! size is fixed is shown by what a store of another size, and an image of another size, abort for: the same.

use crate::allocator::with_allocations;
use crate::image::Image;
use crate::loaded::Loaded;
use crate::random::Random;
use crate::twin::Twin;
use crate::{alone, image};

use std::process::Command;
use std::sync::Arc;
use trapline::{
    BreakpointError, Component, DefinedFunctionIndex, Engine, EngineCode, FunctionKey, LoadError, Module,
    RegisterError, StaticModuleIndex, StoreError, code_stats, reclaim_code,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Load,
    RegisterModule,
    RegisterAnotherModule,
    RegisterComponent,
    SetBreakpoint,
}

/// What there is before the operation whose allocations fail.
#[derive(Clone, Copy, Debug)]
struct Scene {
    operation: Operation,
    debugging: bool,
    /// How many images the engine has, and the store.
    images: usize,
    functions: usize,
}

/// How a child says what happened. Neither is what a child exits with that has found no test of its name.
const REFUSED: i32 = 41;
const DONE: i32 = 42;

const SELECTED: &str = "STORE_MODEL_REFUSE";

/// What became of each failed allocation, the first, the second and so on, until none failed.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    refused: usize,
    /// The bytes of those that aborted.
    aborted: Vec<usize>,
}

fn outcome(test: &str, scene: Scene) -> Outcome {
    let mut outcome = Outcome::default();
    for allocations in 0..200 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
        let ended = command.env(SELECTED, format!("{scene:?} {allocations}")).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        match ended.status.code() {
            Some(REFUSED) => outcome.refused += 1,
            Some(DONE) => return outcome,
            None if said.contains("memory allocation of") => {
                let bytes = said.split("memory allocation of ").nth(1).and_then(|rest| rest.split(' ').next());
                outcome.aborted.push(bytes.unwrap().parse().unwrap());
            }
            _ => panic!("{scene:?}, {allocations} allocations: {}\n{said}", ended.status),
        }
    }
    panic!("{scene:?}: no end of allocations")
}

/// In a child that was started for this scene: does it, and exits.
fn play(scene: Scene) {
    let Ok(selected) = std::env::var(SELECTED) else { return };
    let Some(allocations) = selected.strip_prefix(&format!("{scene:?} ")) else { return };
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid structure. Aborts are expected here; nobody wants their cores.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) }, 0);
    let refused = perform(scene, allocations.parse().unwrap());
    assert_eq!(code_stats().live_ranges, 0, "something stayed behind");
    std::process::exit(if refused { REFUSED } else { DONE })
}

struct Stage {
    engine: Engine,
    all: Vec<(Arc<Loaded>, EngineCode)>,
    store: Twin,
}

impl Stage {
    fn set(scene: Scene, random: &mut Random) -> Stage {
        // The first registration of a process has more to set up; `CodeRegistry` says what aborts then.
        drop(EngineCode::new(&Engine::new(), Image::of(random, 0, b"", 1, 1, 8).memory()));
        let engine = Engine::new();
        let mut store = Twin::new(&engine, scene.debugging);
        let mut all = Vec::new();
        for serial in 0..scene.images {
            let image = Image::of(random, serial as u64, b"", 3, 10, 200);
            let code = EngineCode::new(&engine, image.memory()).unwrap();
            let loaded = Arc::new(Loaded::new(image, &code));
            store.register_module(&loaded, module(&code, 0));
            all.push((loaded, code));
        }
        Stage { engine, all, store }
    }

    fn check(&self, random: &mut Random) {
        let types: Vec<_> = self.all.iter().flat_map(|(loaded, _)| loaded.signatures.clone()).take(10).collect();
        self.store.check_lists(&types);
        self.store.check_some(random, 50, &types);
        self.store.check_texts();
        self.all.iter().for_each(|(loaded, _)| self.store.check_ids(loaded, &self.store.ids));
    }
}

fn module(code: &EngineCode, index: u32) -> Module {
    code.module(StaticModuleIndex::new(index)).unwrap()
}

/// A new image with trampolines, patches and types of its own.
fn rich(random: &mut Random, functions: usize) -> Image {
    loop {
        let image = Image::of(random, 1_000, b"", 4, functions, 40 * functions);
        let trampolines =
            image.functions.iter().filter(|function| matches!(function.key, FunctionKey::WasmToArray { .. }));
        if trampolines.count() > 1 && breakpoint(&image).is_some() {
            return image;
        }
    }
}

/// A function of module 1 with a patch point.
fn breakpoint(image: &Image) -> Option<DefinedFunctionIndex> {
    image.functions.iter().find_map(|function| match function.key {
        FunctionKey::Defined { module, function: index } => {
            let point = image.patches.iter().any(|patch| function.range.contains(&patch.offset));
            (module == StaticModuleIndex::new(1) && point).then_some(index)
        }
        _ => None,
    })
}

/// Whether the operation was refused for want of memory. If so, nothing has changed, and it succeeds when there is
/// some.
fn perform(scene: Scene, allocations: usize) -> bool {
    let random = &mut Random::new(scene.images as u64);
    let mut stage = Stage::set(scene, random);
    let image = rich(random, scene.functions);
    if scene.operation == Operation::Load {
        return load(&stage, image, allocations, random);
    }
    let code = EngineCode::new(&stage.engine, image.memory()).unwrap();
    let loaded = Arc::new(Loaded::new(image, &code));
    let function = breakpoint(&loaded.image).unwrap();
    match scene.operation {
        Operation::RegisterAnotherModule => stage.store.register_module(&loaded, module(&code, 2)),
        Operation::SetBreakpoint => {
            stage.store.register_module(&loaded, module(&code, 1));
            // A breakpoint of each module that was there before; `code` is another.
            for (other, code) in stage.all.clone() {
                if let Some(function) = breakpoint(&other.image) {
                    stage.store.set_breakpoint(&other, &module(&code, 1), function, 0);
                }
            }
        }
        _ => {}
    }
    stage.all.push((Arc::clone(&loaded), code.clone()));
    let live = code_stats().live_ranges;
    let (one, component) = (module(&code, 1), Component::new(code.clone()));
    let real = &mut stage.store.real;
    let result = with_allocations(allocations, || match scene.operation {
        Operation::RegisterComponent => real.register_component(component).map_err(refused),
        Operation::SetBreakpoint => {
            let set = real.set_breakpoint(&one, function, 0);
            set.map(|_| ()).map_err(|error| matches!(error, BreakpointError::OutOfMemory))
        }
        _ => real.register_module(one).map(|_| ()).map_err(refused),
    });
    let was_refused = match result {
        Ok(()) => {
            // The model learns of it by the same once more, which changes nothing.
            assert!(scene.operation != Operation::SetBreakpoint || real.breakpoints().any(|set| set.count == 1));
            false
        }
        Err(out_of_memory) => {
            assert!(out_of_memory, "another error");
            assert_eq!(code_stats().live_ranges, live);
            stage.check(random);
            true
        }
    };
    match scene.operation {
        Operation::RegisterComponent => stage.store.register_component(&loaded, Component::new(code.clone())),
        Operation::SetBreakpoint if was_refused => stage.store.set_breakpoint(&loaded, &module(&code, 1), function, 0),
        Operation::SetBreakpoint => {
            stage.store.real.clear_breakpoint(module(&code, 1).id(), function, 0).unwrap();
        }
        _ => stage.store.register_module(&loaded, module(&code, 1)),
    }
    stage.check(random);
    end(stage, code);
    was_refused
}

fn refused(error: StoreError) -> bool {
    matches!(error, StoreError::OutOfMemory { .. } | StoreError::Register(RegisterError::OutOfMemory { .. }))
}

fn load(stage: &Stage, image: Image, allocations: usize, random: &mut Random) -> bool {
    let ids = || image::SIGNATURES.map(|signature| stage.engine.signature_id(signature.as_bytes()));
    let (live, types) = (code_stats().live_ranges, ids());
    let memory = image.memory();
    let (was_refused, code) = match with_allocations(allocations, || EngineCode::new(&stage.engine, memory)) {
        Ok(code) => (false, code),
        Err(LoadError::OutOfMemory | LoadError::Register(RegisterError::OutOfMemory { .. })) => {
            assert_eq!((code_stats().live_ranges, ids()), (live, types));
            (true, EngineCode::new(&stage.engine, image.memory()).unwrap())
        }
        Err(other) => panic!("{other}"),
    };
    Loaded::new(image, &code);
    assert_eq!(code_stats().live_ranges, live + 1);
    drop(code);
    assert_eq!((code_stats().live_ranges, ids()), (live, types), "a type was forgotten, or not");
    stage.check(random);
    was_refused
}

/// Taking away needs no memory.
fn end(stage: Stage, code: EngineCode) {
    let Stage { engine, all, mut store } = stage;
    with_allocations(0, || {
        if store.model.debugging {
            store.real.set_single_step(true).unwrap();
            store.real.set_single_step(false).unwrap();
        }
        loop {
            let set = store.real.breakpoints().next();
            let Some(set) = set else { break };
            store.real.clear_breakpoint(set.module, set.function, set.offset).unwrap();
        }
        drop(store);
        drop((all, code));
        reclaim_code();
    });
    assert!(image::SIGNATURES.iter().all(|signature| engine.signature_id(signature.as_bytes()).is_none()));
}

/// How many allocations were refused in scenes with little and with much. What aborts is the same in all.
#[track_caller]
fn refused_where_only_fixed_sizes_abort(test: &str, operation: Operation, debugging: bool, aborts: usize) -> usize {
    // Images at which lists and maps are full, or just grown.
    let scenes = [(0, 12), (1, 12), (8, 40), (16, 40), (28, 40)];
    let scenes = scenes.map(|(images, functions)| Scene { operation, debugging, images, functions });
    scenes.into_iter().for_each(play);
    let outcomes = scenes.map(|scene| outcome(test, scene));
    println!("{operation:?}, debugging: {debugging}: {outcomes:?}");
    for outcome in &outcomes {
        assert_eq!(outcome.aborted.len(), aborts, "{outcome:?}");
        assert_eq!(outcome.aborted, outcomes[0].aborted, "a size that is not fixed");
    }
    outcomes.iter().map(|outcome| outcome.refused).sum()
}

#[test]
fn loading_an_image_without_memory_changes_nothing() {
    let _alone = alone();
    let test = "out_of_memory::loading_an_image_without_memory_changes_nothing";
    assert!(refused_where_only_fixed_sizes_abort(test, Operation::Load, false, 4) > 10);
}

#[test]
fn a_foreign_image_is_refused_without_memory_too() {
    let _alone = alone();
    let engine = Engine::with_configuration("fuel");
    let image = Image::of(&mut Random::new(0), 0, b"epochs", 1, 5, 100);
    for allocations in 0..3 {
        let memory = image.memory();
        let error = with_allocations(allocations, || EngineCode::new(&engine, memory)).unwrap_err();
        assert_eq!(matches!(error, LoadError::ForeignConfiguration { .. }), allocations == 2, "{error:?}");
        assert_eq!(matches!(error, LoadError::OutOfMemory), allocations < 2, "{error:?}");
        assert_eq!(code_stats().live_ranges, 0);
    }
}

#[test]
fn registering_a_module_without_memory_changes_nothing() {
    let _alone = alone();
    let test = "out_of_memory::registering_a_module_without_memory_changes_nothing";
    assert!(refused_where_only_fixed_sizes_abort(test, Operation::RegisterModule, false, 0) > 5);
    assert!(refused_where_only_fixed_sizes_abort(test, Operation::RegisterModule, true, 2) > 5);
}

#[test]
fn registering_another_module_without_memory_changes_nothing() {
    let _alone = alone();
    let test = "out_of_memory::registering_another_module_without_memory_changes_nothing";
    // A store that shares its code begins its lists with this one; the lists of one that debugs have room.
    assert!(refused_where_only_fixed_sizes_abort(test, Operation::RegisterAnotherModule, false, 0) > 2);
    refused_where_only_fixed_sizes_abort(test, Operation::RegisterAnotherModule, true, 0);
}

#[test]
fn registering_a_component_without_memory_changes_nothing() {
    let _alone = alone();
    let test = "out_of_memory::registering_a_component_without_memory_changes_nothing";
    assert!(refused_where_only_fixed_sizes_abort(test, Operation::RegisterComponent, false, 0) > 5);
    assert!(refused_where_only_fixed_sizes_abort(test, Operation::RegisterComponent, true, 2) > 5);
}

#[test]
fn setting_a_breakpoint_without_memory_changes_nothing() {
    let _alone = alone();
    let test = "out_of_memory::setting_a_breakpoint_without_memory_changes_nothing";
    assert!(refused_where_only_fixed_sizes_abort(test, Operation::SetBreakpoint, true, 0) >= 2);
}
