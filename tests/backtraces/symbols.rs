//! What frames are called.

use std::sync::Arc;
use trapline::image::{FunctionKey, Image, ImageBuilder, ModuleDescription, SignatureIndex};
use trapline::{Backtrace, PcKind, Registers, process};

/// `demo` with `main` in 0..16, `average` in 16..48, padding, and a trampoline without a name in 56..64.
fn demo() -> Arc<Image> {
    let mut image = ImageBuilder::new();
    let to_host = FunctionKey::GuestToHost { signature: SignatureIndex::new(0) };
    image.text([0x90; 64]).module(ModuleDescription::new().name("demo")).signature(*b"()");
    image.function(0..16, Some("main")).function(16..48, Some("average")).compiled(56..64, to_host, None);
    image.address(0, Some(0x10)).address(12, None).address(18, Some(0x20));
    Arc::new(Image::parse(&image.finish().unwrap()).unwrap().publish().unwrap())
}

/// The backtrace of a thread that was interrupted at text offset `pc`, with these offsets to return to.
fn backtrace(image: &Image, pc: usize, returns: &[usize]) -> Backtrace {
    let start = image.text_range().start;
    let mut stack = vec![[0_usize; 2]; returns.len() + 1];
    let record = |stack: &[[usize; 2]], index: usize| stack[index].as_ptr().addr();
    for (index, offset) in returns.iter().enumerate() {
        stack[index] = [record(&stack, index + 1), start + offset];
    }
    let (low, end) = (record(&stack, 0), record(&stack, returns.len()));
    stack.as_ptr().expose_provenance();
    let mut backtrace = Backtrace::new();
    // SAFETY: the addresses are those of the vector, which lives.
    unsafe { backtrace.walk(Registers::new(start + pc, low, low), end) };
    backtrace
}

#[test]
fn a_backtrace_prints_a_frame_a_line() {
    let image = demo();
    let _registration = process::register(image.clone()).unwrap();
    let start = image.text_range().start;
    let printed = backtrace(&image, 20, &[10, 30, 60]).to_string();
    let expected = [
        format!("#0 {:#x} demo!average + 0x4 (source 0x20)\n", start + 20),
        format!("#1 {:#x} demo!main + 0x9 (source 0x10)\n", start + 10),
        format!("#2 {:#x} demo!average + 0xd (source 0x20)\n", start + 30),
        format!("#3 {:#x} trampoline for signature 0 + 0x3\n", start + 60),
    ];
    assert_eq!(printed, expected.concat());
}

#[test]
fn a_call_at_the_end_of_a_function_is_named_after_that_function() {
    let image = demo();
    let _registration = process::register(image.clone()).unwrap();
    let backtrace = backtrace(&image, 16, &[16]);
    let names: Vec<_> = backtrace.symbols().map(|symbol| symbol.unwrap().to_string()).collect();
    assert_eq!(names, ["demo!average + 0x0", "demo!main + 0xf"]);
}

#[test]
fn code_between_functions_is_named_by_its_text_offset() {
    let image = demo();
    let _registration = process::register(image.clone()).unwrap();
    let symbol = process::symbolize(image.text_range().start + 50, PcKind::Interrupted).unwrap();
    assert_eq!((symbol.function(), symbol.module(), symbol.function_offset()), (None, None, None));
    assert_eq!(symbol.to_string(), "text + 0x32 (source 0x20)");
}

#[test]
fn code_that_was_unregistered_has_an_address_but_no_name() {
    let image = demo();
    let registration = process::register(image.clone()).unwrap();
    let backtrace = backtrace(&image, 20, &[10]);
    drop(registration);
    assert!(backtrace.symbols().all(|symbol| symbol.is_none()));
    let start = image.text_range().start;
    assert_eq!(backtrace.to_string(), format!("#0 {:#x}\n#1 {:#x}\n", start + 20, start + 10));
}

#[test]
fn a_symbol_keeps_its_image() {
    let image = demo();
    let alive = Arc::downgrade(&image);
    let registration = process::register(image.clone()).unwrap();
    let symbol = process::symbolize(image.text_range().start, PcKind::Interrupted).unwrap();
    drop((registration, image));
    process::reclaim();
    assert_eq!(symbol.to_string(), "demo!main + 0x0 (source 0x10)");
    assert_eq!(symbol.module().unwrap().name(), Some("demo"));
    assert!(alive.upgrade().is_some());
    drop(symbol);
    process::reclaim();
    assert!(alive.upgrade().is_none());
}

#[test]
fn a_name_cannot_forge_a_line_of_a_backtrace() {
    let name = "ok + 0x0\n#1 0xdead libc!system\x1b[2J, \"quoted\" und schön";
    let file = ImageBuilder::new().text([0x90; 16]).function(0..16, Some(name)).finish().unwrap();
    let image = Arc::new(Image::parse(&file).unwrap().publish().unwrap());
    let _registered = process::register(image.clone()).unwrap();
    let symbol = process::symbolize(image.text_range().start, PcKind::Interrupted).unwrap();
    assert_eq!(symbol.to_string(), "ok + 0x0\\n#1 0xdead libc!system\\u{1b}[2J, \"quoted\" und schön + 0x0");
    assert_eq!(symbol.function().unwrap().name(), Some(name));
}
