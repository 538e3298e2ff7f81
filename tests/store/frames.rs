//! Frames of a module that a real compiler made.

use crate::compile::{Linker, compile, load, named};
use trapline::image::ModuleIndex;
use trapline::store::{Engine, ModuleRegistry};
use trapline::{PcKind, TrapCode};

const ARITHMETIC: [(&str, &str); 7] = [
    ("add", "iadd"),
    ("sub", "isub"),
    ("mul", "imul"),
    ("div_s", "sdiv"),
    ("div_u", "udiv"),
    ("rem_s", "srem"),
    ("rem_u", "urem"),
];

fn arithmetic() -> String {
    ARITHMETIC
        .iter()
        .enumerate()
        .map(|(index, (name, instruction))| {
            format!(
                "function %{name}(i32, i32) -> i32 system_v {{
                 block0(v0: i32, v1: i32):
                 @{:04x} v2 = {instruction} v0, v1
                 @{:04x} return v2
                 }}\n",
                0x100 * index + 0x10,
                0x100 * index + 0x20,
            )
        })
        .collect()
}

#[test]
fn every_pc_of_every_function_names_it_and_the_bytes_between_name_none() {
    let engine = Engine::new();
    let (image, layout) = Linker::default().add_all(compile(&arithmetic())).link();
    let code = load(&engine, &image);
    let module = code.module(ModuleIndex::new(0)).unwrap();
    for debugging in [false, true] {
        let mut store =
            if debugging { ModuleRegistry::with_guest_debugging(&engine) } else { ModuleRegistry::new(&engine) };
        let base = store.store_code_base_or_register(module).unwrap().unwrap().as_usize();
        assert_eq!(base != code.text_range().start.as_usize(), debugging);
        let len = code.image().text().len();
        let mut named = 0;
        // Before, in, and past the end.
        for offset in -64..len as i64 + 64 {
            let pc = base.wrapping_add_signed(offset as isize);
            let expected = layout.iter().position(|(_, range)| range.contains(&(offset as usize)) && offset >= 0);
            let found = store.lookup_frame_info(pc, PcKind::Interrupted);
            assert_eq!(found.as_ref().map(|(frame, _)| frame.function_index() as usize), expected, "offset {offset}");
            // A return address after an instruction names the instruction.
            let after = store.lookup_frame_info(pc + 1, PcKind::ReturnAddress);
            assert_eq!(after.map(|(frame, _)| frame.function_index() as usize), expected, "after offset {offset}");
            assert_eq!(store.lookup_module(pc).map(|module| module.id()), expected.map(|_| module.id()));
            let inside = (0..len as i64).contains(&offset);
            assert_eq!(store.store_code_by_pc(pc).map(|(_, at)| at as i64), inside.then_some(offset));
            if let (Some((frame, with_code)), Some(function)) = (found, expected) {
                let start = layout[function].1.start;
                assert_eq!(frame.function().name(), Some(ARITHMETIC[function].0));
                assert_eq!(frame.text_offset(), offset as usize);
                assert_eq!(frame.function_offset(), offset as usize - start);
                assert_eq!(frame.module().id(), module.id());
                assert_eq!(with_code.store_code().is_private(), debugging);
                assert_eq!(with_code.store_code().base().unwrap().as_usize(), base);
                if let Some(source) = frame.source_offset() {
                    assert_eq!(source >> 8, function as u32, "a position of another function at offset {offset}");
                }
                named += 1;
            }
        }
        assert_eq!(named, layout.iter().map(|(_, range)| range.len()).sum::<usize>());
    }
}

#[test]
fn trap_sites_tell_their_function_their_cause_and_their_place_in_the_source() {
    let engine = Engine::new();
    let (image, layout) = Linker::default().add_all(compile(&arithmetic())).link();
    let code = load(&engine, &image);
    let mut store = ModuleRegistry::new(&engine);
    store.register_module(code.module(ModuleIndex::new(0)).unwrap()).unwrap();
    let base = code.text_range().start.as_usize();
    let mut divisions = [0; 7];
    for (offset, cause) in code.image().traps().iter() {
        let pc = base + offset;
        assert_eq!(store.lookup_trap_code(pc), Some(cause));
        assert_eq!(store.lookup_trap_code(pc + 1), code.image().trap_code(offset + 1));
        let (frame, _) = store.lookup_frame_info(pc, PcKind::Interrupted).unwrap();
        let function = frame.function_index();
        assert!(layout[function as usize].1.contains(&offset));
        assert_eq!(frame.source_offset(), Some(0x100 * function + 0x10), "the division is where the trap is");
        divisions[function as usize] += u32::from(cause == TrapCode::IntegerDivisionByZero);
    }
    assert_eq!(divisions.map(|count| count > 0), [false, false, false, true, true, true, true]);
    assert_eq!(store.lookup_trap_code(base.wrapping_sub(1)), None);
    assert_eq!(store.lookup_trap_code(code.text_range().end.as_usize()), None);
}

#[test]
fn a_frame_prints_as_module_function_and_offset() {
    let engine = Engine::new();
    let mut linker = Linker::default();
    linker.image.module(named("calculator"));
    let (image, layout) = linker.add_all(compile(&arithmetic())).link();
    let code = load(&engine, &image);
    let mut store = ModuleRegistry::new(&engine);
    store.register_module(code.module(ModuleIndex::new(0)).unwrap()).unwrap();
    let pc = code.text_range().start.as_usize() + layout[3].1.start;
    let (frame, _) = store.lookup_frame_info(pc, PcKind::Interrupted).unwrap();
    assert!(frame.to_string().starts_with("calculator!div_s + 0x0"), "{frame}");
}
