//! Several modules in one image.

use crate::base_of;
use crate::compile::{Linker, compile, defined, load, named};
use std::ops::Range;
use trapline::image::{DefinedFunctionIndex, FunctionKey, ImageBuilder, ImageError, ModuleIndex, SignatureIndex};
use trapline::store::{Direction, Engine, EngineCode, Module, ModuleRegistry, StoreError};
use trapline::{PcKind, TrapCode, process};

const MODULES: u32 = 3;

/// Three modules with two functions each, woven into one another; two trampolines that belong to none, and one to a
/// function.
fn image() -> (Vec<u8>, Vec<(FunctionKey, Range<usize>)>) {
    let mut linker = Linker::default();
    for name in ["zero", "one", "two"] {
        linker.image.module(named(name).imported_functions(10));
    }
    linker.image.signature("(i64) -> i64");
    for function in 0..2 {
        for module in 0..MODULES {
            let source = format!(
                "function %f{module}_{function}(i64, i64) -> i64 system_v {{
                 block0(v0: i64, v1: i64):
                     v2 = udiv v0, v1
                     v3 = iconst.i64 {}
                     v4 = iadd v2, v3
                     return v4
                 }}",
                100 * module + function
            );
            linker.add(defined(module, function), compile(&source).pop().unwrap());
        }
    }
    let trampoline = |name| format!("function %{name}(i64) -> i64 system_v {{ block0(v0: i64): return v0 }}");
    let signature = SignatureIndex::new(0);
    linker.add(FunctionKey::GuestToHost { signature }, compile(&trampoline("out")).pop().unwrap());
    linker.add(FunctionKey::HostToGuestBySignature { signature }, compile(&trampoline("in")).pop().unwrap());
    let entry = "function %entry(i64) -> i64 system_v { block0(v0: i64): return v0 }";
    let key = FunctionKey::HostToGuest { module: ModuleIndex::new(1), function: DefinedFunctionIndex::new(0) };
    linker.add(key, compile(entry).pop().unwrap());
    linker.link()
}

fn module(code: &EngineCode, index: u32) -> Module<'_> {
    code.module(ModuleIndex::new(index)).unwrap()
}

/// Every pc of the image stands for what it should, if exactly `registered` modules are.
fn check(store: &ModuleRegistry, code: &EngineCode, layout: &[(FunctionKey, Range<usize>)], registered: &[u32]) {
    let base = base_of(store, code).as_usize();
    for offset in 0..code.image().text().len() {
        let pc = base + offset;
        let key = layout.iter().find(|(_, range)| range.contains(&offset)).map(|(key, _)| *key);
        let frame = store.lookup_frame_info(pc, PcKind::Interrupted).map(|(frame, with_code)| {
            assert_eq!(with_code.module().id(), frame.module().id());
            (frame.module().static_index().as_u32(), frame.defined_index().as_u32(), frame.function_index())
        });
        let module = store.lookup_module(pc).map(|module| module.static_index().as_u32());
        let known = |module: ModuleIndex| registered.contains(&module.as_u32());
        match key {
            Some(FunctionKey::Defined { module: m, function }) if known(m) => {
                assert_eq!(frame, Some((m.as_u32(), function.as_u32(), 10 + function.as_u32())));
                assert_eq!(module, Some(m.as_u32()));
            }
            Some(FunctionKey::HostToGuest { module: m, .. }) if known(m) => {
                assert_eq!((frame, module), (None, Some(m.as_u32())), "a trampoline has a module but makes no frame");
            }
            _ => assert_eq!((frame, module), (None, None), "offset {offset}"),
        }
        assert_eq!(store.lookup_trap_code(pc), code.image().trap_code(offset));
    }
}

#[test]
fn a_component_and_its_modules_are_registered_in_every_order() {
    let (image, layout) = image();
    let engine = Engine::new();
    let code = load(&engine, &image);
    // The component is number 3.
    for order in permutations(&[0, 1, 2, 3]) {
        for debugging in [false, true] {
            let mut store =
                if debugging { ModuleRegistry::with_guest_debugging(&engine) } else { ModuleRegistry::new(&engine) };
            let mut registered = Vec::new();
            let mut bases = Vec::new();
            for &each in &order {
                if each == MODULES {
                    store.register_code(&code).unwrap();
                } else {
                    let module = module(&code, each);
                    store.register_module(module).unwrap();
                    assert_eq!(store.module(module.id()).unwrap().module(), module);
                    registered.push(each);
                    registered.sort_unstable();
                }
                bases.push(base_of(&store, &code));
                check(&store, &code, &layout, &registered);
            }
            bases.dedup();
            assert_eq!(bases.len(), 1, "one place for the image, whatever comes first");
            let all: Vec<_> = store.all_modules().map(|module| module.static_index().as_u32()).collect();
            assert_eq!(all, registered, "by their index in the image");
        }
    }
}

fn permutations(of: &[u32]) -> Vec<Vec<u32>> {
    if of.is_empty() {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for first in of {
        let rest: Vec<u32> = of.iter().copied().filter(|each| each != first).collect();
        for mut permutation in permutations(&rest) {
            permutation.insert(0, *first);
            all.push(permutation);
        }
    }
    all
}

#[test]
fn code_whose_handles_are_dropped_traps_as_long_as_a_store_runs_it() {
    let (image, layout) = image();
    let engine = Engine::new();
    let mut by_module = ModuleRegistry::new(&engine);
    let mut by_component = ModuleRegistry::new(&engine);
    let (text, site) = {
        let code = load(&engine, &image);
        by_module.register_module(module(&code, 1)).unwrap();
        by_component.register_code(&code).unwrap();
        (code.text_range(), code.image().traps().iter().next().unwrap().0)
    };
    let pc = text.start.as_usize() + site;
    for store in [&by_module, &by_component] {
        assert_eq!(store.lookup_trap_code(pc), Some(TrapCode::IntegerDivisionByZero));
    }
    let inside = layout.iter().find(|(key, _)| *key == defined(1, 0)).unwrap().1.start;
    let (frame, _) = by_module.lookup_frame_info(text.start.as_usize() + inside, PcKind::Interrupted).unwrap();
    assert_eq!(frame.to_string().split(' ').next(), Some("one!f1_0"));
    assert_eq!(process::trap_code(pc), Some(TrapCode::IntegerDivisionByZero));
    drop(by_component);
    assert_eq!(process::trap_code(pc), Some(TrapCode::IntegerDivisionByZero), "one store still runs it");
    drop(by_module);
    assert_eq!(process::trap_code(pc), None);
}

#[test]
fn trampolines_are_found_by_type_and_direction_in_the_image_and_in_the_store() {
    let engine = Engine::new();
    let (first, layout) = image();
    let code = load(&engine, &first);
    let signature = engine.signature_id(b"(i64) -> i64").unwrap();
    assert_eq!(signature.to_string(), format!("signature {}", signature.as_u32()));
    let offset = |key| layout.iter().find(|(other, _)| *other == key).unwrap().1.start;
    let index = SignatureIndex::new(0);
    let both = [
        (Direction::GuestToHost, offset(FunctionKey::GuestToHost { signature: index })),
        (Direction::HostToGuest, offset(FunctionKey::HostToGuestBySignature { signature: index })),
    ];
    let in_code = both.map(|(direction, offset)| {
        let pc = code.trampoline(direction, signature).unwrap();
        assert_eq!(pc.offset_in(&code.text_range()), Some(offset));
        pc
    });

    let mut store = ModuleRegistry::with_guest_debugging(&engine);
    assert_eq!(store.trampoline(Direction::GuestToHost, signature), None);
    // Images without it come before: not only the first image may be asked.
    for _ in 0..3 {
        let other = load(&engine, &ImageBuilder::new().text([0x90; 4]).function(0..4, None).finish().unwrap());
        store.register_module(module(&other, 0)).unwrap();
    }
    store.register_module(module(&code, 2)).unwrap();
    let foreign = store.all_modules().next().unwrap().engine_code().clone();
    let (base, elsewhere) = (base_of(&store, &code).as_usize(), base_of(&store, &foreign).as_usize());
    for ((direction, offset), engine_pc) in both.into_iter().zip(in_code) {
        let expected = store.store_code(&code).unwrap().pc(offset);
        assert!(expected.is_some());
        assert_eq!(store.trampoline(direction, signature), expected, "{direction:?}");
        assert_eq!(store.lookup_trampoline(base + 20, direction, signature), expected);
        assert_ne!(expected.unwrap().as_usize(), engine_pc.as_usize(), "the store's copy, not the engine's");
        assert_eq!(
            store.lookup_trampoline(elsewhere, direction, signature),
            None,
            "another image has none of that type"
        );
        assert_eq!(store.lookup_trampoline(engine_pc.as_usize(), direction, signature), None, "not this store's code");
    }

    let again = load(&engine, &first);
    assert_eq!(again.signature_id(index), Some(signature), "equal types have one id in an engine");
    drop((code, again, foreign, store));
    assert_eq!(engine.signature_id(b"(i64) -> i64"), None, "types go with the code that has them");
}

#[test]
fn a_trampoline_to_one_function_is_found_by_the_function() {
    let engine = Engine::new();
    let (image, layout) = image();
    let code = load(&engine, &image);
    let key = FunctionKey::HostToGuest { module: ModuleIndex::new(1), function: DefinedFunctionIndex::new(0) };
    let entry = layout.iter().find(|(other, _)| *other == key).unwrap().1.start;
    let to_one = module(&code, 1).host_to_guest_trampoline(DefinedFunctionIndex::new(0)).unwrap();
    assert_eq!(to_one.offset_in(&code.text_range()), Some(entry));
    assert_eq!(module(&code, 0).host_to_guest_trampoline(DefinedFunctionIndex::new(0)), None);
}

#[test]
fn modules_without_text_and_without_functions_are_kept_and_have_no_pc() {
    let engine = Engine::new();
    let empty = load(&engine, &ImageBuilder::new().finish().unwrap());
    let also_empty = load(&engine, &ImageBuilder::new().finish().unwrap());
    let mut image = ImageBuilder::new();
    image.text([0x90; 64]).module(named("functions")).module(named("none")).function(0..64, Some("f"));
    let code = load(&engine, &image.finish().unwrap());
    for debugging in [false, true] {
        let mut store =
            if debugging { ModuleRegistry::with_guest_debugging(&engine) } else { ModuleRegistry::new(&engine) };
        for without in [&empty, &also_empty] {
            assert_eq!(store.store_code_base_or_register(module(without, 0)).unwrap(), None);
            assert!(store.store_code(without).unwrap().text_range().is_empty());
        }
        store.register_module(module(&code, 1)).unwrap();
        assert_eq!(store.all_modules().count(), 3);
        assert_eq!(store.module(module(&code, 1).id()).unwrap().info().name(), Some("none"));
        assert_eq!(store.module(module(&also_empty, 0).id()).unwrap().module(), module(&also_empty, 0));
        let base = base_of(&store, &code).as_usize();
        for pc in base..base + 64 {
            assert!(store.lookup_frame_info(pc, PcKind::Interrupted).is_none());
            assert!(store.lookup_module(pc).is_none());
            assert!(store.store_code_by_pc(pc).is_some());
        }
        for text in [&empty, &also_empty].map(|code| code.text_range()) {
            assert!(store.store_code_by_pc(text.start.as_usize()).is_none());
            assert!(matches!(
                store.store_code_mut(trapline::store::StorePc::new(text.start.as_usize())),
                Err(StoreError::NotABase { inside: None, .. })
            ));
        }
    }
}

#[test]
fn a_trampoline_for_a_signature_that_the_image_does_not_have_is_refused() {
    let key = FunctionKey::HostToGuestBySignature { signature: SignatureIndex::new(1) };
    let with = |signatures: &[&str]| {
        let mut image = ImageBuilder::new();
        image.text([0x90; 8]).compiled(0..8, key, None);
        signatures.iter().for_each(|signature| _ = image.signature(*signature));
        image.finish()
    };
    assert!(with(&["()", "(i32)"]).is_ok());
    let error = with(&["()"]).unwrap_err();
    assert!(matches!(error, ImageError::NoSuchSignature { key: named, signatures: 1 } if named == key), "{error:?}");
}
