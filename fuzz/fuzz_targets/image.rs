//! Any bytes are an error or an image whose tables stay inside its text, agree with each other and with a walk over
//! them, and survive being written again.
//!
//! The input is tried as a file, and as a list of changes to a file that has every section.
#![no_main]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use trapline::TrapCode;
use trapline::image::{
    DefinedFunctionIndex, FunctionKey, Image, ImageBuilder, ModuleDescription, ModuleIndex, SignatureIndex, Unpublished,
};

fuzz_target!(|data: &[u8]| {
    try_file(data);
    let mut file = ORIGINAL.clone();
    for &[low, high, byte] in data.as_chunks().0 {
        let at = usize::from(u16::from_le_bytes([low, high])) % file.len();
        file[at] = byte;
    }
    try_file(&file);
});

static ORIGINAL: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let (module, function) = (ModuleIndex::new(1), DefinedFunctionIndex::new(0));
    let mut image = ImageBuilder::new();
    image
        .text_align(16)
        .text((0..48).collect::<Vec<u8>>())
        .trap(3, TrapCode::IntegerDivisionByZero)
        .trap(47, TrapCode::Unreachable)
        .compiled(0..10, FunctionKey::Defined { module, function }, Some("first"))
        .compiled(10..12, FunctionKey::GuestToHost { signature: SignatureIndex::new(1) }, None)
        .compiled(12..16, FunctionKey::Builtin { index: 5 }, None)
        .function(16..48, Some("last"))
        .module(ModuleDescription::new().name("main").imported_functions(3))
        .module(ModuleDescription::new().debug_info_from_environment(true))
        .signature(*b"i32")
        .signature([])
        .address(0, Some(70))
        .address(10, None)
        .address(20, Some(90))
        .patch(4, [0xcc, 0xcd], [4, 5])
        .patch(20, [0xce], [20])
        .configuration(*b"settings")
        .section("types", *b"bytes");
    image.finish().expect("a valid image")
});

fn try_file(file: &[u8]) {
    let verified = Image::parse_verified(file);
    let Ok(image) = Image::parse(file) else {
        assert!(verified.is_err(), "verified, but not parsed");
        return;
    };
    check_code(&image);
    check_references(&image);
    check_patches_and_addresses(&image);
    let again = rebuild(&image);
    let copy = Image::parse_verified(&again).expect("an image built from a sound one is sound");
    assert_eq!(copy.text(), image.text());
    assert_eq!(copy.traps(), image.traps());
    assert_eq!(copy.functions(), image.functions());
    assert_eq!(copy.modules(), image.modules());
    assert_eq!(copy.signatures(), image.signatures());
    assert_eq!(copy.address_map(), image.address_map());
    assert_eq!(copy.patches(), image.patches());
    assert_eq!(copy.configuration(), image.configuration());
    assert_eq!(rebuild(&copy), again);
}

/// Offsets to ask about.
fn probes(image: &Unpublished) -> impl Iterator<Item = usize> {
    let len = image.text().len();
    (0..len.min(512)).chain([len, u32::MAX as usize, usize::MAX])
}

fn check_code(image: &Unpublished) {
    let len = image.text().len();
    let mut before = None;
    for (offset, code) in image.traps().iter() {
        assert!(offset < len && before < Some(offset));
        assert_eq!(image.traps().get(offset), Some(code));
        before = Some(offset);
    }
    let mut end = 0;
    for function in image.functions().iter() {
        let range = function.range();
        assert!(end <= range.start && !range.is_empty() && range.end <= len);
        end = range.end;
        assert_eq!(image.functions().get(function.index()).as_ref(), Some(&function));
        assert_eq!(image.functions().by_key(function.key()), Some(function));
    }
    for offset in probes(image) {
        let site = image.traps().iter().find(|site| site.0 == offset);
        assert_eq!(image.traps().get(offset), site.map(|site| site.1));
        let function = image.functions().iter().find(|function| function.range().contains(&offset));
        assert_eq!(image.functions().by_offset(offset), function);
    }
}

fn check_references(image: &Unpublished) {
    assert_eq!(image.modules().iter().count(), image.modules().len());
    let signatures: BTreeSet<_> = image.signatures().iter().collect();
    assert_eq!(signatures.len(), image.signatures().len());
    let mut defined = 0;
    for function in image.functions().iter() {
        match function.key() {
            FunctionKey::Defined { module, function } | FunctionKey::HostToGuest { module, function } => {
                let module = image.modules().get(module).expect("a key names a module that exists");
                assert!(module.imported_functions().checked_add(function.as_u32()).is_some());
            }
            FunctionKey::GuestToHost { signature } => assert!(image.signatures().get(signature).is_some()),
            _ => {}
        }
        defined += usize::from(function.key().is_defined());
    }
    let listed = image.modules().iter().map(|module| {
        let functions = image.functions().defined(module.static_index());
        assert!(functions.map(|function| function.key()).is_sorted_by(|a, b| a < b));
        image.functions().defined(module.static_index()).count()
    });
    assert_eq!(listed.sum::<usize>(), defined);
}

fn check_patches_and_addresses(image: &Unpublished) {
    let text = image.text();
    let mut end = 0;
    for patch in image.patches().iter() {
        let range = patch.range();
        assert!(end <= range.start && (1..=16).contains(&range.len()) && patch.enabled() != patch.disabled());
        assert_eq!(&text[range.start..range.end], patch.disabled());
        let function = image.functions().by_offset(range.start).expect("a patch lies in a function");
        assert!(function.key().is_defined() && range.end <= function.range().end);
        end = range.end;
    }
    for (offset, _) in image.address_map().iter() {
        assert!(offset < text.len());
    }
    for offset in probes(image) {
        let next = image.patches().iter().enumerate().find(|(_, patch)| offset <= patch.offset());
        assert_eq!(image.patches().next_from(offset), next);
        assert!(image.patches().in_range(0..offset).end <= image.patches().len());
        let map = image.address_map();
        let last = map.iter().take_while(|entry| entry.0 <= offset).last();
        assert_eq!(map.source_offset(offset), last.and_then(|entry| entry.1));
    }
}

fn rebuild(image: &Unpublished) -> Vec<u8> {
    let mut builder = ImageBuilder::new();
    builder.text(image.text()).text_align(16).without_modules().configuration(image.configuration());
    for (offset, code) in image.traps().iter() {
        builder.trap(offset, code);
    }
    for function in image.functions().iter() {
        builder.compiled(function.range(), function.key(), function.name());
    }
    for module in image.modules().iter() {
        let description = ModuleDescription::new()
            .name(module.name().unwrap_or_default())
            .imported_functions(module.imported_functions())
            .unparsed_debug_info(module.has_unparsed_debug_info())
            .debug_info_from_environment(module.debug_info_depends_on_environment());
        builder.module(description);
    }
    for signature in image.signatures().iter() {
        builder.signature(signature);
    }
    for (offset, source) in image.address_map().iter() {
        builder.address(offset, source);
    }
    for patch in image.patches().iter() {
        builder.patch(patch.offset(), patch.enabled(), patch.disabled());
    }
    builder.finish().expect("what was parsed can be built")
}
