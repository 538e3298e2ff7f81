//! Data of the embedder's own, and from a store's code to what it was made from.

use crate::base_of;
use crate::compile::{Linker, compile, load, named};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use trapline::PcKind;
use trapline::image::{DefinedFunctionIndex, Image, ModuleIndex};
use trapline::store::{Engine, EngineCode, ModuleRegistry, StorePc};

fn image() -> Vec<u8> {
    let mut linker = Linker::default();
    linker.image.module(named("m"));
    linker.add_all(compile("function %f(i64) -> i64 system_v { block0(v0: i64): return v0 }")).link().0
}

fn load_with<T: Send + Sync + 'static>(engine: &Engine, data: T) -> EngineCode {
    EngineCode::with_data(engine, Image::parse(&image()).unwrap().publish().unwrap(), data).unwrap()
}

struct Counted(&'static AtomicUsize);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn data_is_reached_from_a_pc_while_any_store_that_registered_the_code_lives() {
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    let engine = Engine::new();
    let code = load_with(&engine, (42, Counted(&DROPS)));
    for debugging in [false, true] {
        let mut stores = [(); 2].map(|()| match debugging {
            true => ModuleRegistry::with_guest_debugging(&engine),
            false => ModuleRegistry::new(&engine),
        });
        for store in &mut stores {
            store.register_module(code.module(ModuleIndex::new(0)).unwrap()).unwrap();
            let function = store.all_modules().next().unwrap().function_pc(DefinedFunctionIndex::new(0));
            let pc = function.unwrap().as_usize();
            let (frame, _) = store.lookup_frame_info(pc, PcKind::Interrupted).unwrap();
            assert_eq!(frame.module().engine_code().data::<(i32, Counted)>().unwrap().0, 42);
            let data = store.lookup_module(pc).unwrap().engine_code().data::<(i32, Counted)>();
            assert_eq!(data.unwrap().0, 42);
        }
    }
    let mut last = ModuleRegistry::new(&engine);
    last.register_code(&code).unwrap();
    drop(code);
    assert_eq!(DROPS.load(SeqCst), 0, "a store has it");
    drop(last);
    assert_eq!(DROPS.load(SeqCst), 1);
}

#[test]
fn data_is_asked_for_by_its_type() {
    let engine = Engine::new();
    let shared: Arc<str> = "shared".into();
    let code = load_with(&engine, Arc::clone(&shared));
    assert!(Arc::ptr_eq(code.data::<Arc<str>>().unwrap(), &shared));
    assert!(code.data::<&str>().is_none(), "another type");
    assert!(load(&engine, &image()).data::<()>().is_none(), "loaded without");
}

#[test]
fn the_text_of_a_store_is_what_it_executes() {
    let engine = Engine::new();
    let code = load(&engine, &image());
    let mut debugged = ModuleRegistry::with_guest_debugging(&engine);
    let mut plain = ModuleRegistry::new(&engine);
    for store in [&mut debugged, &mut plain] {
        store.register_code(&code).unwrap();
        assert_eq!(store.store_code(&code).unwrap().text(), code.image().text());
    }
    let base = base_of(&debugged, &code);
    let mut patched = debugged.store_code_mut(base).unwrap();
    let mut expected = code.image().text().to_vec();
    expected[3] ^= 0xff;
    patched.patch(3, &expected[3..4]).unwrap();
    assert_eq!(patched.store_code().text(), expected);
    let private = debugged.store_code(&code).unwrap();
    assert_eq!(private.text(), expected);
    assert_eq!(private.text().as_ptr().addr(), base.as_usize());
    assert_eq!(private.engine_code().image().text(), plain.store_code(&code).unwrap().text());
    assert_ne!(private.text(), code.image().text());
}

#[test]
fn an_entry_is_a_function_of_this_store_or_none() {
    let engine = Engine::new();
    let (code, other) = (load(&engine, &image()), load(&engine, &image()));
    type Identity = unsafe extern "C" fn(u64) -> u64;
    for mut store in [ModuleRegistry::new(&engine), ModuleRegistry::with_guest_debugging(&engine)] {
        store.register_module(code.module(ModuleIndex::new(0)).unwrap()).unwrap();
        let module = store.all_modules().next().unwrap();
        let elsewhere = StorePc::new(other.text_range().start.as_usize());
        // SAFETY: a function of this type, which needs nothing and is called while the store lives.
        unsafe {
            let entry = module.entry::<Identity>(DefinedFunctionIndex::new(0)).unwrap();
            assert_eq!(entry as usize, module.function_pc(DefinedFunctionIndex::new(0)).unwrap().as_usize());
            assert_eq!(entry(42), 42);
            assert!(module.entry::<Identity>(DefinedFunctionIndex::new(1)).is_none());
            for outside in [module.store_code().text_range().end, elsewhere] {
                assert!(module.store_code().entry::<Identity>(outside).is_none());
            }
        }
    }
}
