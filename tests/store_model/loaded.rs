//! An image in an engine, as its loader remembers it.

use crate::image::Blueprint;
use std::ops::Range;
use trapline::image::{DefinedFunctionIndex, FunctionKey, ModuleIndex, SignatureIndex};
use trapline::store::{Direction, EngineCode, EngineId, Module, ModuleId, SignatureId};

pub const DIRECTIONS: [Direction; 2] = [Direction::HostToGuest, Direction::GuestToHost];

/// Holds nothing alive.
#[derive(Debug)]
pub struct Loaded {
    pub image: Blueprint,
    pub engine: EngineId,
    pub id: ModuleId,
    pub text: Range<usize>,
    pub modules: Vec<ModuleId>,
    /// Of each signature of the image.
    pub signatures: Vec<SignatureId>,
}

impl Loaded {
    /// Notes where and under which names `image` was loaded as `code`, which has to say the same about it.
    pub fn new(image: Blueprint, code: &EngineCode) -> Loaded {
        let text = code.text_range().start.as_usize()..code.text_range().end.as_usize();
        assert_eq!(code.image().text(), image.text);
        assert_eq!(text, code.image().text_range());
        assert_eq!(code.modules().len(), image.modules.len());
        assert!(code.module(ModuleIndex::new(image.modules.len() as u32)).is_none());
        for (index, module) in code.modules().enumerate() {
            check_module(&image, index as u32, module);
        }
        let signatures: Vec<_> =
            (0..).map_while(|index| code.signature_id(SignatureIndex::new(index))).take(1 << 20).collect();
        assert_eq!(signatures.len(), image.signatures.len());
        let loaded = Loaded {
            engine: code.engine().id(),
            id: code.id(),
            text,
            modules: code.modules().map(|module| module.id()).collect(),
            signatures,
            image,
        };
        for &signature in &loaded.signatures {
            for direction in DIRECTIONS {
                let found = code.trampoline(direction, signature).map(|pc| pc.as_usize());
                assert_eq!(found, loaded.trampoline(direction, signature).map(|offset| loaded.text.start + offset));
            }
        }
        loaded
    }

    /// The offset of the trampoline that leads in `direction` for functions of type `signature`.
    pub fn trampoline(&self, direction: Direction, signature: SignatureId) -> Option<usize> {
        let index = self.signatures.iter().position(|id| *id == signature)? as u32;
        let signature = SignatureIndex::new(index);
        let key = match direction {
            Direction::HostToGuest => FunctionKey::HostToGuestBySignature { signature },
            Direction::GuestToHost => FunctionKey::GuestToHost { signature },
        };
        Some(self.image.function(key)?.range.start)
    }
}

fn check_module(image: &Blueprint, index: u32, module: Module<'_>) {
    let description = &image.modules[index as usize];
    assert_eq!(module.static_index(), ModuleIndex::new(index));
    assert_eq!(module.info().name(), description.name.as_deref());
    assert_eq!(module.info().imported_functions(), description.imported_functions);
    let module_index = ModuleIndex::new(index);
    for function in (0..13).map(DefinedFunctionIndex::new) {
        let found = module.function(function).map(|function| function.range());
        let key = FunctionKey::Defined { module: module_index, function };
        assert_eq!(found, image.function(key).map(|function| function.range.clone()));
        let key = FunctionKey::HostToGuest { module: module_index, function };
        let found = module.host_to_guest_trampoline(function);
        let found = found.map(|pc| pc.offset_in(&module.engine_code().text_range()).unwrap());
        assert_eq!(found, image.function(key).map(|function| function.range.start));
    }
}
