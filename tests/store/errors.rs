//! What is refused, and that nothing changes then.

use crate::base_of;
use crate::compile::load;
use trapline::image::{Image, ImageBuilder, ModuleIndex};
use trapline::store::{Engine, EngineCode, LoadError, ModuleRegistry, StoreError, StorePc};

fn small() -> Vec<u8> {
    ImageBuilder::new().text([0x90; 32]).function(0..32, Some("f")).finish().unwrap()
}

#[test]
fn code_of_another_engine_is_refused_by_name_and_the_store_stays_as_it_was() {
    let (ours, theirs) = (Engine::new(), Engine::new());
    let (mine, foreign) = (load(&ours, &small()), load(&theirs, &small()));
    let mut store = ModuleRegistry::new(&ours);
    store.register_module(mine.module(ModuleIndex::new(0)).unwrap()).unwrap();
    let module = foreign.module(ModuleIndex::new(0)).unwrap();
    for error in [
        store.register_module(module).unwrap_err(),
        store.register_code(&foreign).unwrap_err(),
        store.store_code_base_or_register(module).unwrap_err(),
    ] {
        let StoreError::ForeignEngine { text, code, store } = &error else { panic!("{error:?}") };
        assert_eq!((text, *code, *store), (&foreign.text_range(), theirs.id(), ours.id()));
        for part in [text.start.to_string(), code.to_string(), store.to_string()] {
            assert!(error.to_string().contains(&part), "{error}");
        }
    }
    assert_eq!(store.all_modules().count(), 1);
    assert!(store.store_code(&foreign).is_none());
    assert!(store.store_code_by_pc(foreign.text_range().start.as_usize()).is_none());
}

#[test]
fn code_of_another_configuration_is_refused_and_not_registered() {
    // Nothing else in this process has this configuration: what it is registered with cannot be another test's.
    let image = ImageBuilder::new().text([0x90; 32]).configuration("epochs, fuel").finish().unwrap();
    let memory = || Image::parse(&image).unwrap().publish().unwrap();
    for engine in [Engine::new(), Engine::with_configuration("fuel")] {
        let memory = memory();
        let text = memory.text_range();
        let error = EngineCode::new(&engine, memory).unwrap_err();
        assert!(matches!(&error, LoadError::ForeignConfiguration { image, .. } if **image == *b"epochs, fuel"));
        assert!(error.to_string().contains("epochs, fuel"), "{error}");
        // The address may be another test's code by now.
        let refused = |found: &trapline::Found<'_, trapline::process::RegisteredText>| {
            found.payload().image().configuration() == b"epochs, fuel"
        };
        assert_ne!(trapline::process::with(text.start, |found| refused(&found)), Some(true));
    }
    let engine = Engine::with_configuration("epochs, fuel");
    assert_eq!(EngineCode::new(&engine, memory()).unwrap().image().configuration(), b"epochs, fuel");
}

#[test]
fn an_address_that_is_no_base_is_an_error_that_names_what_it_is_in() {
    let engine = Engine::new();
    let codes: Vec<_> = (0..3).map(|_| load(&engine, &small())).collect();
    let mut store = ModuleRegistry::new(&engine);
    for code in &codes {
        store.register_module(code.module(ModuleIndex::new(0)).unwrap()).unwrap();
    }
    for code in &codes {
        let base = base_of(&store, code);
        assert_eq!(store.store_code_mut(base).unwrap().store_code().base(), Some(base));
        for off in [1, 31] {
            let pc = StorePc::new(base.as_usize() + off);
            let Err(StoreError::NotABase { pc: named, inside: Some(text) }) = store.store_code_mut(pc) else {
                panic!("{pc} was taken for a base")
            };
            assert_eq!((named, text.start), (pc, base));
        }
        let past = StorePc::new(base.as_usize() + 32);
        assert!(matches!(store.store_code_mut(past), Err(StoreError::NotABase { inside: None, .. })));
    }
}

#[test]
fn registering_again_changes_nothing() {
    let engine = Engine::new();
    let code = load(&engine, &small());
    let module = code.module(ModuleIndex::new(0)).unwrap();
    let mut store = ModuleRegistry::new(&engine);
    store.register_module(module).unwrap();
    for _ in 0..3 {
        store.register_module(module).unwrap();
        store.register_code(&code).unwrap();
        assert_eq!(store.store_code_base_or_register(module).unwrap(), Some(base_of(&store, &code)));
    }
    assert_eq!(store.all_modules().count(), 1);
    assert_eq!(store.module(module.id()).unwrap().module(), module);
    let pc = code.text_range().start.as_usize();
    let id_at_pc = || trapline::process::with(pc, |found| found.id());
    drop(code);
    assert!(store.lookup_module(pc).is_some());
    let id = id_at_pc();
    assert!(id.is_some());
    drop(store);
    // The address may be another test's code by now; ids are never given twice.
    assert_ne!(id_at_pc(), id, "a handle was left behind");
}

#[test]
fn loading_one_image_twice_makes_two_modules() {
    let engine = Engine::new();
    let image = small();
    let codes = [load(&engine, &image), load(&engine, &image)];
    let ids = codes.each_ref().map(|code| code.module(ModuleIndex::new(0)).unwrap().id());
    assert_ne!(ids[0], ids[1]);
    assert!(!(codes[0] == codes[1]) && (codes[0] == codes[0].clone()));
    assert!(codes[0].module(ModuleIndex::new(1)).is_none());
}

#[test]
fn registries_and_handles_can_be_sent_and_shared() {
    fn sent_and_shared<T: Send + Sync>() {}
    sent_and_shared::<Engine>();
    sent_and_shared::<EngineCode>();
    sent_and_shared::<ModuleRegistry>();
}
