//! What holds of every image that loads: no table leaves the text or names what is not there, and every lookup agrees
//! with a walk over its table.

use std::collections::BTreeSet;

use trapline::image::{FunctionKey, FunctionTable, ModuleIndex, SignatureIndex, TrapTable, Unpublished};

pub fn check_unpublished(image: &Unpublished) {
    check_traps(image.text().len(), image.traps());
    check_functions(image.text().len(), image.functions());
    check_modules(image);
    check_keys(image);
    check_addresses(image);
    check_patches(image);
}

/// Every offset that may matter, and some that are far outside.
fn offsets(text_len: usize) -> impl Iterator<Item = usize> + Clone {
    (0..text_len + 2).chain([u32::MAX - 1, u32::MAX].map(|far| far as usize)).chain([usize::MAX])
}

pub fn check_traps(text_len: usize, traps: &TrapTable) {
    let sites: Vec<_> = traps.iter().collect();
    assert_eq!(sites.len(), traps.len());
    assert!(sites.iter().all(|site| site.0 < text_len));
    assert!(sites.is_sorted_by(|a, b| a.0 < b.0));
    for offset in offsets(text_len) {
        let site = sites.iter().find(|site| site.0 == offset);
        assert_eq!(traps.get(offset), site.map(|site| site.1));
    }
}

pub fn check_functions(text_len: usize, functions: &FunctionTable) {
    let listed: Vec<_> = functions.iter().collect();
    assert_eq!(listed.len(), functions.len());
    assert!(listed.iter().zip(0..).all(|(function, place)| function.index() == place));
    assert!(listed.iter().all(|f| !f.range().is_empty() && f.range().end <= text_len));
    assert!(listed.is_sorted_by(|a, b| a.range().end <= b.range().start));
    for offset in offsets(text_len) {
        let function = listed.iter().find(|function| function.range().contains(&offset));
        assert_eq!(functions.by_offset(offset).as_ref(), function);
    }
    let keys: BTreeSet<_> = listed.iter().map(|function| function.key()).collect();
    assert_eq!(keys.len(), listed.len());
    for function in &listed {
        assert_eq!(functions.by_key(function.key()).as_ref(), Some(function));
    }
    let modules: BTreeSet<_> = keys.iter().filter_map(|key| key.module()).collect();
    for module in modules.into_iter().chain([0, 1, u32::MAX].map(ModuleIndex::new)) {
        let defined: Vec<_> = functions.defined(module).map(|function| function.key()).collect();
        let expected = keys.iter().filter(|key| key.is_defined() && key.module() == Some(module));
        assert!(defined.iter().eq(expected), "functions of module {module}: {defined:?}");
    }
}

fn check_modules(image: &Unpublished) {
    let (modules, signatures) = (image.modules(), image.signatures());
    assert_eq!(modules.iter().count(), modules.len());
    for (module, index) in modules.iter().zip(0..) {
        assert_eq!(module.static_index(), ModuleIndex::new(index));
        assert_eq!(modules.get(module.static_index()), Some(module));
        assert_ne!(module.name(), Some(""));
    }
    assert_eq!(modules.get(ModuleIndex::new(modules.len() as u32)), None);
    assert_eq!(modules.get(ModuleIndex::new(u32::MAX)), None);
    assert_eq!(signatures.iter().count(), signatures.len());
    assert_eq!(signatures.iter().collect::<BTreeSet<_>>().len(), signatures.len());
    assert_eq!(signatures.get(SignatureIndex::new(signatures.len() as u32)), None);
}

fn check_keys(image: &Unpublished) {
    for function in image.functions().iter() {
        match function.key() {
            FunctionKey::Defined { module, function } | FunctionKey::HostToGuest { module, function } => {
                let module = image.modules().get(module).expect("a key names a module that exists");
                assert!(module.imported_functions().checked_add(function.as_u32()).is_some());
            }
            FunctionKey::GuestToHost { signature } => assert!(image.signatures().get(signature).is_some()),
            _ => {}
        }
    }
}

fn check_addresses(image: &Unpublished) {
    let map = image.address_map();
    let entries: Vec<_> = map.iter().collect();
    assert_eq!((entries.len(), entries.is_empty()), (map.len(), map.is_empty()));
    assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
    assert!(entries.iter().all(|entry| entry.0 < image.text().len()));
    for offset in offsets(image.text().len()) {
        let last = entries.iter().rfind(|entry| entry.0 <= offset);
        assert_eq!(map.source_offset(offset), last.and_then(|entry| entry.1));
        for floor in [offset.saturating_sub(3), offset] {
            let last = last.filter(|entry| floor <= entry.0);
            assert_eq!(map.source_offset_from(floor, offset), last.and_then(|entry| entry.1));
        }
    }
}

fn check_patches(image: &Unpublished) {
    let (text, patches) = (image.text(), image.patches());
    let listed: Vec<_> = patches.iter().collect();
    assert_eq!(listed.len(), patches.len());
    assert!(listed.is_sorted_by(|a, b| a.range().end <= b.range().start));
    for (index, patch) in listed.iter().enumerate() {
        assert_eq!(patches.get(index).as_ref(), Some(patch));
        assert!((1..=16).contains(&patch.range().len()));
        assert_eq!((patch.range().start, patch.range().len()), (patch.offset(), patch.enabled().len()));
        assert_ne!(patch.enabled(), patch.disabled());
        assert_eq!(&text[patch.offset()..patch.range().end], patch.disabled());
        let function = image.functions().by_offset(patch.offset()).expect("a patch lies in a function");
        assert!(function.key().is_defined() && patch.range().end <= function.range().end);
    }
    assert_eq!(patches.get(listed.len()), None);
    for offset in offsets(text.len()) {
        let next = listed.iter().position(|patch| patch.offset() >= offset);
        assert_eq!(patches.next_from(offset), next.map(|index| (index, listed[index])));
        for end in [offset.saturating_sub(1), offset, offset.saturating_add(5)] {
            let inside = listed.iter().filter(|patch| (offset..end).contains(&patch.offset()));
            assert!(listed[patches.in_range(offset..end)].iter().eq(inside));
        }
    }
}
