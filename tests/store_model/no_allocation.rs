//! What a store with one shared module costs, and what lookups cost.

use crate::allocator::counted;
use crate::alone;
use crate::image::Blueprint;
use crate::loaded::Loaded;
use crate::random::Random;
use crate::twin::Twin;
use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use trapline::PcKind;
use trapline::image::ModuleIndex;
use trapline::store::{Direction, Engine, EngineCode, ModuleRegistry, StorePc};

fn load(engine: &Engine, random: &mut Random, serial: u64) -> (Arc<Loaded>, EngineCode) {
    let image = Blueprint::of(random, serial, b"", 2, 20, 300);
    let code = EngineCode::new(engine, image.image()).unwrap();
    (Arc::new(Loaded::new(image, &code)), code)
}

/// What `f` allocates and frees when it has been done before, as deep in the stack: the first clone of a handle made on
/// another stack, or 64 KiB further down this one, opens a lane.
fn second_time(f: impl Fn()) -> (usize, usize) {
    let [_, (_, allocations, frees)] = [(); 2].map(|()| counted(&f));
    (allocations, frees)
}

#[test]
fn what_is_allocated_and_freed_is_counted() {
    let (_, allocations, frees) = counted(|| drop(black_box(Box::new(1))));
    assert_eq!((allocations, frees), (1, 1));
}

#[test]
fn a_store_with_one_shared_module_allocates_and_frees_nothing() {
    let _alone = alone();
    let random = &mut Random::new(1);
    let engine = Engine::new();
    let (loaded, code) = load(&engine, random, 0);
    let module = code.module(ModuleIndex::new(1)).unwrap();
    let pc = loaded.text.start;
    let costs = second_time(|| {
        let mut store = ModuleRegistry::new(&engine);
        store.register_module(module).unwrap();
        assert!(store.module(module.id()).is_some());
        assert!(store.store_code_by_pc(pc).is_some());
    });
    assert_eq!(costs, (0, 0));
    let again = second_time(|| {
        let mut store = ModuleRegistry::new(&engine);
        store.store_code_base_or_register(module).unwrap();
        store.register_module(module).unwrap();
        store.register_code(&code).unwrap();
    });
    assert_eq!(again, (0, 0), "registered again, and as a whole");
}

#[test]
fn other_threads_that_register_a_module_allocate_once_and_then_no_more() {
    let _alone = alone();
    let random = &mut Random::new(2);
    let engine = Engine::new();
    let (_, code) = load(&engine, random, 0);
    let module = code.module(ModuleIndex::new(0)).unwrap();
    for _ in 0..8 {
        thread::scope(|scope| {
            scope.spawn(|| {
                let costs = second_time(|| {
                    let mut store = ModuleRegistry::new(&engine);
                    store.register_module(module).unwrap();
                });
                assert_eq!(costs, (0, 0));
                assert!(code.clone() == code, "the same code, on whatever lane");
            });
        });
    }
}

#[test]
fn registering_another_module_of_an_image_that_is_there_allocates_nothing() {
    let _alone = alone();
    let random = &mut Random::new(4);
    let engine = Engine::new();
    let image = Blueprint::of(random, 0, b"", 200, 100, 2_000);
    let code = EngineCode::new(&engine, image.image()).unwrap();
    let mut store = ModuleRegistry::new(&engine);
    store.register_code(&code).unwrap();
    let (_, allocations, frees) = counted(|| code.modules().for_each(|module| store.register_module(module).unwrap()));
    assert_eq!((allocations, frees), (0, 0));
    assert_eq!(store.all_modules().count(), 200);
}

#[test]
fn lookups_in_stores_of_any_size_allocate_and_free_nothing() {
    let _alone = alone();
    let random = &mut Random::new(3);
    let engine = Engine::new();
    let all: Vec<_> = (0..60).map(|serial| load(&engine, random, serial)).collect();
    for (count, debugging) in [(1, false), (1, cfg!(unix)), (60, false), (60, cfg!(unix))] {
        let mut twin = Twin::new(&engine, debugging);
        for (loaded, code) in &all[..count] {
            code.modules().for_each(|module| twin.register_module(loaded, module));
        }
        let store = &twin.real;
        let mut found = [0; 8];
        let mut look = || {
            for placed in &twin.model.images {
                let signature = placed.loaded.signatures.first();
                for pc in placed.base..=placed.base + placed.text.len() {
                    let frame = store.lookup_frame_info(pc, PcKind::ReturnAddress);
                    found[0] += usize::from(frame.is_some_and(|(frame, _)| frame.source_offset().is_some()));
                    found[1] += usize::from(store.lookup_module(pc).is_some());
                    found[2] += usize::from(store.lookup_trap_code(pc).is_some());
                    found[3] += usize::from(store.store_code_by_pc(pc).is_some());
                    let trampoline = signature.and_then(|id| store.lookup_trampoline(pc, Direction::GuestToHost, *id));
                    found[4] += usize::from(trampoline.is_some());
                }
                let any = |id: &_| store.trampoline(Direction::GuestToHost, *id);
                found[5] += placed.loaded.signatures.iter().filter_map(any).count();
            }
            found[6] += store.all_modules().filter(|module| store.module(module.id()).is_some()).count();
            found[7] += store.all_modules().filter(|module| store.store_code(module.engine_code()).is_some()).count();
        };
        let ((), allocations, frees) = counted(&mut look);
        assert_eq!((allocations, frees), (0, 0), "{count} images, debugging: {debugging}");
        assert!(found[..4].iter().chain(&found[6..]).all(|found| *found > 0), "{found:?}");
        assert!(count == 1 || found[4] > 0 && found[5] > 0, "{found:?}");
        let base = StorePc::new(twin.model.images[count - 1].base);
        let (_, allocations, frees) = counted(|| twin.real.store_code_mut(base).map(|_| ()).unwrap());
        assert_eq!((allocations, frees), (0, 0));
    }
}
