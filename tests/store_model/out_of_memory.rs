//! When there is no memory: what needs some fails and changes nothing, what takes away succeeds.

use crate::allocator::{bytes_held, with_allocations};
use crate::image::Blueprint;
use crate::loaded::Loaded;
use crate::random::Random;
use crate::twin::Twin;
use crate::{alone, image};

use std::sync::Arc;
use std::thread;
use trapline::image::{DefinedFunctionIndex, FunctionKey, ModuleIndex};
use trapline::store::{BreakpointError, Engine, EngineCode, LoadError, Module, ModuleRegistry, StoreError};
use trapline::{Backtrace, PcKind, RegisterError, Registers, process};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Load,
    RegisterModule,
    RegisterAnotherModule,
    RegisterCode,
    SetBreakpoint,
}

/// What there is before the operation whose allocations fail.
#[derive(Clone, Copy, Debug)]
struct Scene {
    operation: Operation,
    debugging: bool,
    /// How many images the engine has, and the store.
    images: usize,
    /// How many the new image has.
    modules: usize,
    functions: usize,
}

struct Stage {
    engine: Engine,
    all: Vec<(Arc<Loaded>, EngineCode)>,
    store: Twin,
}

impl Stage {
    fn set(scene: Scene, random: &mut Random) -> Stage {
        // The first registration of a process has more to set up; `CodeRegistry` says what aborts then.
        drop(EngineCode::new(&Engine::new(), Blueprint::of(random, 0, b"", 1, 1, 8).image()));
        let engine = Engine::new();
        let mut store = Twin::new(&engine, scene.debugging);
        let mut all = Vec::new();
        for serial in 0..scene.images {
            let image = Blueprint::of(random, serial as u64, b"", 3, 10, 200);
            let code = EngineCode::new(&engine, image.image()).unwrap();
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
        self.all.iter().for_each(|(loaded, _)| self.store.check_ids(loaded));
    }
}

fn module(code: &EngineCode, index: u32) -> Module<'_> {
    code.module(ModuleIndex::new(index)).unwrap()
}

/// A new image with trampolines, patches and types of its own.
fn rich(random: &mut Random, modules: usize, functions: usize) -> Blueprint {
    loop {
        let image = Blueprint::of(random, 1_000, b"", modules, functions, 40 * functions);
        let trampolines =
            image.functions.iter().filter(|function| matches!(function.key, FunctionKey::GuestToHost { .. }));
        if trampolines.count() > 1 && breakpoint(&image).is_some() {
            return image;
        }
    }
}

/// A function of module 1 with a patch point.
fn breakpoint(image: &Blueprint) -> Option<DefinedFunctionIndex> {
    image.functions.iter().find_map(|function| match function.key {
        FunctionKey::Defined { module, function: index } => {
            let point = image.patches.iter().any(|patch| function.range.contains(&patch.offset));
            (module == ModuleIndex::new(1) && point).then_some(index)
        }
        _ => None,
    })
}

/// Whether the operation was refused for want of memory. If so, nothing has changed, and it succeeds when there is
/// some.
fn perform(scene: Scene, allocations: usize) -> bool {
    let random = &mut Random::new(scene.images as u64);
    let mut stage = Stage::set(scene, random);
    let image = rich(random, scene.modules, scene.functions);
    if scene.operation == Operation::Load {
        return load(&stage, image, allocations, random);
    }
    let code = EngineCode::new(&stage.engine, image.image()).unwrap();
    let loaded = Arc::new(Loaded::new(image, &code));
    let function = breakpoint(&loaded.image).unwrap();
    match scene.operation {
        Operation::RegisterAnotherModule => stage.store.register_module(&loaded, module(&code, 2)),
        Operation::SetBreakpoint => {
            stage.store.register_module(&loaded, module(&code, 1));
            // A breakpoint of each module that was there before; `code` is another.
            for (other, code) in stage.all.clone() {
                if let Some(function) = breakpoint(&other.image) {
                    stage.store.set_breakpoint(&other, module(&code, 1), function, 0);
                }
            }
        }
        _ => {}
    }
    stage.all.push((Arc::clone(&loaded), code.clone()));
    let live = process::stats().live_ranges;
    let one = module(&code, 1);
    let real = &mut stage.store.real;
    let result = with_allocations(allocations, || match scene.operation {
        Operation::RegisterCode => real.register_code(&code).map_err(refused),
        Operation::SetBreakpoint => {
            let set = real.set_breakpoint(one, function, 0);
            set.map(|_| ()).map_err(|error| matches!(error, BreakpointError::OutOfMemory { bytes: 1.. }))
        }
        _ => real.register_module(one).map_err(refused),
    });
    let was_refused = match result {
        Ok(()) => {
            // The model learns of it by the same once more, which changes nothing.
            assert!(scene.operation != Operation::SetBreakpoint || real.breakpoints().any(|set| set.count == 1));
            false
        }
        Err(out_of_memory) => {
            assert!(out_of_memory, "another error");
            assert_eq!(process::stats().live_ranges, live);
            stage.check(random);
            true
        }
    };
    match scene.operation {
        Operation::RegisterCode => stage.store.register_code(&loaded, &code),
        Operation::SetBreakpoint if was_refused => stage.store.set_breakpoint(&loaded, module(&code, 1), function, 0),
        Operation::SetBreakpoint => {
            stage.store.real.clear_breakpoint(module(&code, 1).id(), function, 0).unwrap();
        }
        _ => stage.store.register_module(&loaded, module(&code, 1)),
    }
    stage.check(random);
    end(stage, code);
    was_refused
}

/// Bytes that this thread allocated, but for the nodes of the process-wide registry.
fn bytes_of_others() -> isize {
    let stats = process::stats();
    bytes_held() - (stats.live_bytes + stats.retired_bytes + stats.spare_bytes) as isize
}

fn refused(error: StoreError) -> bool {
    matches!(
        error,
        StoreError::OutOfMemory { bytes: 1.., .. } | StoreError::Register(RegisterError::OutOfMemory { .. })
    )
}

fn load_refused(error: &LoadError) -> bool {
    matches!(error, LoadError::OutOfMemory { bytes: 1.. } | LoadError::Register(RegisterError::OutOfMemory { .. }))
}

fn load(stage: &Stage, image: Blueprint, allocations: usize, random: &mut Random) -> bool {
    let ids = || image::SIGNATURES.map(|signature| stage.engine.signature_id(signature.as_bytes()));
    let (live, types) = (process::stats().live_ranges, ids());
    let memory = image.image();
    let (was_refused, code) = match with_allocations(allocations, || EngineCode::new(&stage.engine, memory)) {
        Ok(code) => (false, code),
        Err(error) if load_refused(&error) => {
            assert_eq!((process::stats().live_ranges, ids()), (live, types));
            (true, EngineCode::new(&stage.engine, image.image()).unwrap())
        }
        Err(other) => panic!("{other}"),
    };
    Loaded::new(image, &code);
    assert_eq!(process::stats().live_ranges, live + 1);
    drop(code);
    assert_eq!((process::stats().live_ranges, ids()), (live, types), "a type was forgotten, or not");
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
        process::reclaim();
    });
    assert!(image::SIGNATURES.iter().all(|signature| engine.signature_id(signature.as_bytes()).is_none()));
}

/// Plays scenes with little and with much in them, each with one allocation, two, three and so on until none is refused.
/// Returns how many were refused.
fn every_allocation_fails(operation: Operation, debugging: bool) -> usize {
    // Images at which lists are full, or just grown; modules that have their bits in the list, or apart.
    let scenes = [(0, 70, 40), (1, 70, 40), (8, 4, 40), (16, 70, 40), (28, 4, 12)];
    let refused = scenes.map(|(images, modules, functions)| {
        let scene = Scene { operation, debugging, images, modules, functions };
        // What the process and the thread keep for good is there after the first time.
        perform(scene, usize::MAX);
        let refused = |allocations: &usize| {
            let before = bytes_of_others();
            let refused = perform(scene, *allocations);
            assert_eq!(bytes_of_others(), before, "allocation {allocations} was refused, and memory leaked");
            refused
        };
        let refused = (0..).take_while(refused).count();
        assert_eq!(process::stats().live_ranges, 0, "something stayed behind");
        refused
    });
    println!("{operation:?}, debugging: {debugging}: {refused:?}");
    refused.into_iter().sum()
}

#[test]
fn loading_an_image_without_memory_changes_nothing() {
    let _alone = alone();
    assert!(every_allocation_fails(Operation::Load, false) >= 30);
}

#[test]
fn loading_code_in_an_arc_of_its_owners_without_memory_changes_nothing() {
    let _alone = alone();
    let memory = Arc::new(rich(&mut Random::new(3), 4, 12).image());
    let engine = Engine::new();
    drop(EngineCode::new(&engine, Arc::clone(&memory)).unwrap());
    let load = || EngineCode::new(&engine, Arc::clone(&memory));
    assert!(crate::allocator::every_allocation_fails(load, load_refused) > 8);
    assert_eq!((Arc::strong_count(&memory), process::stats().live_ranges), (1, 0));
}

#[test]
fn data_of_code_that_is_not_loaded_for_want_of_memory_is_dropped() {
    let _alone = alone();
    let image = Arc::new(rich(&mut Random::new(3), 4, 12).image());
    let (engine, data) = (Engine::new(), Arc::new([7_u8; 100]));
    drop(EngineCode::new(&engine, Arc::clone(&image)).unwrap());
    let load = || EngineCode::with_data(&engine, Arc::clone(&image), Arc::clone(&data));
    assert!(crate::allocator::every_allocation_fails(load, load_refused) > 9);
    assert_eq!((Arc::strong_count(&data), Arc::strong_count(&image), process::stats().live_ranges), (1, 1, 0));
}

#[test]
fn a_backtrace_is_kept_or_refused_by_what_memory_there_is() {
    let _alone = alone();
    let engine = Engine::new();
    let code = EngineCode::new(&engine, rich(&mut Random::new(3), 4, 12).image()).unwrap();
    let mut store = ModuleRegistry::new(&engine);
    code.modules().for_each(|module| store.register_module(module).unwrap());
    let defined = code.image().functions().iter().find(|function| function.key().is_defined()).unwrap();
    let pc = code.text_range().start.as_usize() + defined.range().start;
    let mut backtrace: Backtrace = Backtrace::new();
    // SAFETY: nothing is read from a stack that is empty.
    unsafe { backtrace.walk(Registers::new(pc, 0, 0), 0) };
    assert_eq!(backtrace.len(), 1);
    let resolve = || store.resolve_owned(&backtrace);
    assert_eq!(crate::allocator::every_allocation_fails(resolve, |_| true), 1);
    let frames = resolve().unwrap();
    let (frame, _) = store.lookup_frame_info(pc, PcKind::Interrupted).unwrap();
    assert_eq!(frames[0].as_ref().unwrap().to_string(), frame.to_string());
    drop((frames, store, code));
    assert_eq!(process::stats().live_ranges, 0);
}

#[test]
fn registering_code_without_memory_changes_nothing() {
    let _alone = alone();
    let memory = Arc::new(rich(&mut Random::new(3), 4, 12).image());
    drop(process::register(Arc::clone(&memory)).unwrap());
    process::reclaim();
    let register = || process::register(Arc::clone(&memory));
    let refused = |error: &RegisterError| matches!(error, RegisterError::OutOfMemory { range, .. } if *range == memory.text_range());
    assert!(crate::allocator::every_allocation_fails(register, refused) >= 1);
    process::reclaim();
    assert_eq!((Arc::strong_count(&memory), process::stats().live_ranges), (1, 0));
}

#[test]
fn a_foreign_image_is_refused_without_memory_too() {
    let _alone = alone();
    let engine = Engine::with_configuration("fuel");
    let memory = Arc::new(Blueprint::of(&mut Random::new(0), 0, b"epochs", 1, 5, 100).image());
    let load = || match EngineCode::new(&engine, Arc::clone(&memory)) {
        Err(LoadError::ForeignConfiguration { .. }) => Ok(()),
        other => other.map(|_| panic!("a foreign image was loaded")),
    };
    assert_eq!(crate::allocator::every_allocation_fails(load, load_refused), 3);
    assert_eq!(process::stats().live_ranges, 0);
}

#[test]
fn registering_a_module_without_memory_changes_nothing() {
    let _alone = alone();
    assert!(every_allocation_fails(Operation::RegisterModule, false) > 5);
    assert!(every_allocation_fails(Operation::RegisterModule, true) > 15);
}

#[test]
fn registering_another_module_without_memory_changes_nothing() {
    let _alone = alone();
    // A store that shares its code begins its list with this one; that of one that debugs has the image.
    assert!(every_allocation_fails(Operation::RegisterAnotherModule, false) > 2);
    assert_eq!(every_allocation_fails(Operation::RegisterAnotherModule, true), 0);
}

#[test]
fn registering_an_image_without_memory_changes_nothing() {
    let _alone = alone();
    assert!(every_allocation_fails(Operation::RegisterCode, false) > 5);
    assert!(every_allocation_fails(Operation::RegisterCode, true) > 15);
}

#[test]
fn setting_a_breakpoint_without_memory_changes_nothing() {
    let _alone = alone();
    assert!(every_allocation_fails(Operation::SetBreakpoint, true) >= 2);
}

#[test]
fn a_handle_is_cloned_without_memory_by_any_thread() {
    let _alone = alone();
    let engine = Engine::new();
    let code = EngineCode::new(&engine, rich(&mut Random::new(3), 4, 12).image()).unwrap();
    thread::scope(|scope| {
        // Far from the first lane, and from each other.
        for _ in 0..16 {
            scope.spawn(|| {
                for allocations in 0..3 {
                    let clones = with_allocations(allocations, || [code.clone(), code.clone()]);
                    assert!(clones.iter().all(|clone| *clone == code));
                    with_allocations(0, || drop(clones));
                }
            });
        }
    });
    drop(code);
    assert_eq!(process::stats().live_ranges, 0);
}
