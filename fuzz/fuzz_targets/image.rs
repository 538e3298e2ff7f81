//! Any bytes are an error or an image whose tables stay inside its text, agree with a walk over them, and survive
//! being written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trapline::{CodeMemory, ImageBuilder, Unpublished};

fuzz_target!(|data: &[u8]| {
    let verified = CodeMemory::parse_verified(data);
    let Ok(image) = CodeMemory::parse(data) else {
        assert!(verified.is_err(), "verified, but not parsed");
        return;
    };
    check(&image);
    let again = rebuild(&image);
    let copy = CodeMemory::parse_verified(&again).expect("an image built from a sound one is sound");
    assert_eq!(copy.text(), image.text());
    assert_eq!(copy.traps(), image.traps());
    assert_eq!(copy.functions(), image.functions());
    assert_eq!(rebuild(&copy), again);
});

fn check(image: &Unpublished) {
    let len = image.text().len();
    let mut before = None;
    for (offset, code) in image.traps().iter() {
        assert!((offset as usize) < len && before < Some(offset));
        assert_eq!(image.traps().get(offset), Some(code));
        before = Some(offset);
    }
    let mut end = 0;
    for function in image.functions().iter() {
        let range = function.range();
        assert!(end <= range.start && !range.is_empty() && range.end as usize <= len);
        end = range.end;
        assert_eq!(image.functions().get(function.index()).as_ref(), Some(&function));
    }
    for offset in (0..len.min(512) as u32).chain([len as u32, u32::MAX]) {
        let site = image.traps().iter().find(|site| site.0 == offset);
        assert_eq!(image.traps().get(offset), site.map(|site| site.1));
        let function = image.functions().iter().find(|function| function.range().contains(&offset));
        assert_eq!(image.functions().by_offset(offset), function);
    }
}

fn rebuild(image: &Unpublished) -> Vec<u8> {
    let mut builder = ImageBuilder::new();
    builder.text(image.text()).text_align(16);
    for (offset, code) in image.traps().iter() {
        builder.trap(offset, code);
    }
    for function in image.functions().iter() {
        builder.function(function.range(), function.name());
    }
    builder.finish().expect("what was parsed can be built")
}
