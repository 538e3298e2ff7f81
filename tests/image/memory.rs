//! Where text lies, what may be done there, and when it goes.

use std::sync::Arc;

use trapline::TrapCode;
use trapline::image::{Image, ImageBuilder, ImageError, Unpublished};

use crate::support::{
    Temporary, assert_error, built, elf_with_text_first, find, mappings_of, marker, only_publisher, page_size, small,
    words,
};

#[test]
fn code_memory_may_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Image>();
    shared::<Unpublished>();
    shared::<ImageError>();
}

#[test]
fn empty_text_is_legal_and_maps_nothing() {
    let file = built(&mut ImageBuilder::new());
    let code = Image::parse_verified(&file).unwrap().publish().unwrap();
    assert!(code.text().is_empty());
    if cfg!(target_os = "linux") {
        let address = code.text().as_ptr().addr();
        assert!(mappings_of(address..address + 1).is_empty());
    }
    assert!(code.text_range().is_empty());
    assert_eq!(code.trap_code(0), None);
    assert_eq!(code.functions().by_offset(0), None);
    let temporary = Temporary::new("empty", &file);
    // SAFETY: only this test knows the file.
    let code = unsafe { Image::from_file(&temporary.open()) }.unwrap().publish().unwrap();
    assert!(code.text_range().is_empty());
    assert!(temporary.mappings().is_empty());
    let registration = trapline::process::register(Arc::new(code)).unwrap();
    assert_eq!(registration.id(), None);
}

#[test]
fn registered_code_is_found_by_its_addresses_until_it_is_dropped() {
    let _alone = only_publisher();
    let code = Image::parse(&built(&mut small())).unwrap().publish().unwrap();
    let range = code.text_range();
    let registration = trapline::process::register(Arc::new(code)).unwrap();
    let found = trapline::process::with(range.start + 17, |found| {
        (found.range(), found.offset(), Some(found.id()), found.payload().text_range())
    });
    assert_eq!(found, Some((range.clone(), 17, registration.id(), range.clone())));
    assert_eq!(trapline::process::trap_code(range.start + 17), TrapCode::user(7));
    assert!(trapline::process::trap_code(range.start + 47).is_some());
    assert!(trapline::process::trap_code(range.start + 46).is_none());
    assert_eq!(trapline::process::trap_code(range.end), None);
    drop(registration);
    assert_eq!(trapline::process::with(range.start, |_| ()), None);
    trapline::process::reclaim();
}

#[test]
#[cfg(target_os = "linux")]
fn only_published_text_is_executable_and_only_its_own_pages() {
    let _alone = only_publisher();
    let page = page_size();
    let text = vec![0xcc; 2 * page + 1];
    let mut unpublished = Image::parse(&built(ImageBuilder::new().text(text))).unwrap();
    let address = unpublished.text().as_ptr().addr();
    for mapping in mappings_of(address..address + 2 * page + 1) {
        assert!(mapping.rights.starts_with("rw-"), "{}", mapping.line);
    }
    unpublished.text_mut()[0] = 0xc3;
    let code = unpublished.publish().unwrap();
    assert_eq!(code.text_range().start, address);
    assert_eq!(code.text()[0], 0xc3);
    let mappings = mappings_of(code.text_range());
    assert_eq!(mappings.len(), 1);
    assert_eq!(mappings[0].rights, "r-xp");
    assert_eq!(mappings[0].range, address..address + 3 * page);
    let end = code.text_range();
    drop(code);
    for mapping in mappings_of(end) {
        assert!(!mapping.rights.contains('x'), "still mapped: {}", mapping.line);
    }
}

#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn published_text_runs() {
    let _alone = only_publisher();
    #[cfg(target_arch = "x86_64")]
    let (text, number, with_42) = ([0xb8, 41, 0, 0, 0, 0xc3], 1, 42); // mov eax, 41; ret
    #[cfg(target_arch = "aarch64")]
    let (text, number, with_42) = ([0x20, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6], 0, 0x40); // mov w0, #41; ret
    let mut image = ImageBuilder::new();
    image.text(text).function(0..text.len(), Some("answer"));
    let mut unpublished = Image::parse(&built(&mut image)).unwrap();
    unpublished.text_mut()[number] = with_42;
    let code = unpublished.publish().unwrap();
    // SAFETY: the text is a whole function of this type, and `code` outlives the call.
    let answer: extern "C" fn() -> i32 = unsafe { code.entry(0) }.unwrap();
    assert_eq!(answer(), 42);
}

#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn an_entry_is_the_code_at_its_offset() {
    let _alone = only_publisher();
    #[cfg(target_arch = "x86_64")]
    let number = |n| [0xb8, n, 0, 0, 0, 0xc3, 0xcc, 0xcc]; // mov eax, n; ret
    #[cfg(target_arch = "aarch64")]
    let number = |n: u8| [n << 5, n >> 3, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6]; // mov w0, #n; ret
    let text = [number(1), number(2), number(3)].concat();
    let code = Image::parse(&built(ImageBuilder::new().text(text))).unwrap().publish().unwrap();
    for (offset, expected) in [(0, Some(1)), (8, Some(2)), (16, Some(3)), (24, None), (usize::MAX, None)] {
        // SAFETY: at the offsets in the text that are tried, there are functions of this type; `code` outlives the calls.
        let entry = unsafe { code.entry::<extern "C" fn() -> i32>(offset) };
        assert_eq!(entry.map(|function| function()), expected, "at {offset}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn page_aligned_text_runs_from_the_file_and_leaves_with_the_memory() {
    let _alone = only_publisher();
    let text = vec![0xc3; 5000];
    let whole = 5000_usize.next_multiple_of(page_size());
    let mut image = ImageBuilder::new();
    image.text(text.clone()).trap(4999, TrapCode::Unreachable).section("s", *b"bytes");
    let original = built(&mut image);
    let temporary = Temporary::new("aligned", &original);

    // SAFETY: only this test knows the file.
    let mut unpublished = unsafe { Image::from_file_verified(&temporary.open()) }.unwrap();
    let mappings = temporary.mappings();
    assert_eq!(mappings.len(), 1, "the text only");
    assert_eq!(mappings[0].rights, "rw-p");
    unpublished.text_mut()[0] = 0x90;
    drop(unpublished);
    assert!(temporary.mappings().is_empty(), "an unpublished text leaves too");

    // SAFETY: only this test knows the file.
    let mut unpublished = unsafe { Image::from_file(&temporary.open()) }.unwrap();
    assert_eq!(unpublished.text(), text, "the change above was private");
    unpublished.text_mut()[0] = 0x90;
    let code = unpublished.publish().unwrap();
    assert_eq!(std::fs::read(&temporary.0).unwrap(), original);
    let mappings = temporary.mappings();
    assert!(mappings.iter().all(|mapping| mapping.rights == "r-xp"));
    let start = code.text_range().start;
    assert_eq!((mappings[0].range.start, mappings.last().unwrap().range.end), (start, start + whole));
    // SAFETY: the pages are mapped whole, and nobody writes to them.
    let rest = unsafe { std::slice::from_raw_parts((start + 5000) as *const u8, whole - 5000) };
    assert!(rest.iter().all(|&byte| byte == 0), "bytes that are no text are executable");
    assert_eq!(code.text()[..2], [0x90, 0xc3]);
    assert_eq!(code.trap_code(4999), Some(TrapCode::Unreachable));
    assert_eq!(code.section("s"), Some(b"bytes".as_slice()));
    drop(code);
    assert!(temporary.mappings().is_empty());
}

/// As earlier versions of the builder laid files out: tables behind the text.
#[test]
#[cfg(target_os = "linux")]
fn what_follows_the_text_in_the_file_is_not_executable() {
    let _alone = only_publisher();
    let text = vec![0xc3; page_size() + 100];
    let (marker, none) = (marker(), words(&[0]));
    let tables: [(&str, &[u8]); 3] =
        [(".trapline.image", &marker), (".trapline.traps", &none), (".trapline.funcs", &none)];
    let temporary = Temporary::new("text-first", &elf_with_text_first(page_size() as u64, &text, &tables));
    // SAFETY: only this test knows the file.
    let code = unsafe { Image::from_file(&temporary.open()) }.unwrap().publish().unwrap();
    assert_eq!(code.text(), text);
    assert!(!temporary.mappings().is_empty(), "in place");
    assert!(temporary.mappings().iter().all(|mapping| mapping.rights == "r-xp"));
    // SAFETY: the pages are mapped whole, and nobody writes to them.
    let behind = unsafe { std::slice::from_raw_parts(code.text().as_ptr_range().end, page_size() - 100) };
    assert!(behind.iter().all(|&byte| byte == 0), "bytes that are no text are executable");
}

#[test]
#[cfg(target_os = "linux")]
fn text_that_begins_no_page_of_the_file_is_copied() {
    let _alone = only_publisher();
    let temporary = Temporary::new("unaligned", &built(&mut small()));
    // SAFETY: only this test knows the file.
    let code = unsafe { Image::from_file_verified(&temporary.open()) }.unwrap().publish().unwrap();
    assert!(temporary.mappings().is_empty());
    assert_eq!(code.text(), (0..48).collect::<Vec<u8>>());
    assert_eq!(code.text_range().start % page_size(), 0);
    assert_eq!(code.trap_code(3), Some(TrapCode::IntegerDivisionByZero));
}

#[test]
fn a_damaged_file_is_an_error_when_it_is_verified() {
    let mut file = built(&mut small());
    let (_, text) = find(&file, ".text");
    file[text.start] ^= 1;
    let temporary = Temporary::new("damaged", &file);
    // SAFETY: only this test knows the file.
    let result = unsafe { Image::from_file_verified(&temporary.open()) };
    assert_error!(result, Err(ImageError::WrongChecksum { .. }));
    let empty = Temporary::new("no-bytes", b"");
    // SAFETY: only this test knows the file.
    let result = unsafe { Image::from_file(&empty.open()) };
    assert_error!(result, Err(ImageError::NotElf));
}
