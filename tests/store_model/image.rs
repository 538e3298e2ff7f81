//! Images of arbitrary bytes, and what they say in plain lists.

use crate::random::Random;
use std::ops::Range;
use trapline::TrapCode;
use trapline::image::{
    DefinedFunctionIndex, FunctionKey, Image, ImageBuilder, ModuleDescription, ModuleIndex, SignatureIndex,
};

/// The function types that all images draw from, so that images share some.
pub const SIGNATURES: [&str; 6] = ["() -> ()", "(i32) -> ()", "(i64) -> i64", "(f32, f64) -> ()", "", "\u{ff}\0"];

#[derive(Debug, Default)]
pub struct Blueprint {
    /// Empty, or the serial number and whatever comes.
    pub text: Vec<u8>,
    pub modules: Vec<ModuleDescription>,
    pub functions: Vec<Compiled>,
    pub addresses: Vec<(usize, Option<u32>)>,
    pub patches: Vec<Patch>,
    pub signatures: Vec<Vec<u8>>,
    pub configuration: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Compiled {
    pub range: Range<usize>,
    pub key: FunctionKey,
    pub name: Option<String>,
}

#[derive(Debug)]
pub struct Patch {
    pub offset: usize,
    pub enabled: Vec<u8>,
    pub disabled: Vec<u8>,
}

/// How many bytes of a text are its serial number, and never patched.
pub const SERIAL: usize = 8;

/// What traps is written in the text, for those who have nothing else of an image.
pub fn trap(text: &[u8], offset: usize) -> Option<TrapCode> {
    let byte = *text.get(offset)?;
    match byte % 8 {
        0 => TrapCode::BUILT_IN.get(usize::from(byte / 8) % 15).copied(),
        1 => TrapCode::user(byte / 8),
        _ => None,
    }
}

impl Blueprint {
    /// Up to 5 modules with up to 20 functions in all, and something missing now and then.
    pub fn random(random: &mut Random, serial: u64, configuration: &[u8]) -> Blueprint {
        let modules = random.below(6);
        let len = if random.once_in(8) { 0 } else { random.within(SERIAL..400) };
        let functions = if random.once_in(8) { 0 } else { random.below(21) };
        Blueprint::of(random, serial, configuration, modules, functions, len)
    }

    /// `functions` functions at most: as many as there is text for.
    pub fn of(
        random: &mut Random,
        serial: u64,
        configuration: &[u8],
        modules: usize,
        functions: usize,
        len: usize,
    ) -> Blueprint {
        let mut text: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        if let Some(place) = text.first_chunk_mut() {
            *place = serial.to_le_bytes();
        }
        let mut signatures: Vec<_> = SIGNATURES.iter().map(|signature| signature.as_bytes().to_vec()).collect();
        random.shuffle(&mut signatures);
        signatures.truncate(random.below(SIGNATURES.len() + 1));
        let mut image = Blueprint { text, signatures, configuration: configuration.to_vec(), ..Blueprint::default() };
        image.modules = (0..modules).map(|_| description(random)).collect();
        image.add_functions(random, functions);
        for offset in 0..len {
            if random.once_in(7) {
                let source = (!random.once_in(4)).then(|| random.next() as u32 >> 1);
                image.addresses.push((offset, source));
            }
        }
        image.add_patches(random);
        image
    }

    fn add_functions(&mut self, random: &mut Random, count: usize) {
        let mut end = 0;
        while self.functions.len() < count {
            let gap = if random.once_in(2) { 0 } else { random.below(9) };
            let (start, len) = (end + gap, random.within(1..40));
            if start + len > self.text.len() {
                break;
            }
            end = start + len;
            let key = self.key(random);
            if self.functions.iter().any(|function| Some(function.key) == key) {
                continue;
            }
            let Some(key) = key else { continue };
            let name = random.once_in(2).then(|| format!("f{}", random.below(1_000)));
            self.functions.push(Compiled { range: start..end, key, name });
        }
    }

    /// A key that the image can have.
    fn key(&self, random: &mut Random) -> Option<FunctionKey> {
        let index = random.below(24) as u32;
        let module = ModuleIndex::new(random.below(self.modules.len().max(1)) as u32);
        let function = DefinedFunctionIndex::new(random.below(12) as u32);
        match random.below(10) {
            0 if self.signatures.is_empty() => None,
            0 => {
                let signature = SignatureIndex::new(index % self.signatures.len() as u32);
                Some(if random.once_in(2) {
                    FunctionKey::GuestToHost { signature }
                } else {
                    FunctionKey::HostToGuestBySignature { signature }
                })
            }
            2 if index.is_multiple_of(2) => Some(FunctionKey::Builtin { index }),
            2 => Some(FunctionKey::Adapter { index }),
            _ if self.modules.is_empty() => None,
            3 | 4 => Some(FunctionKey::HostToGuest { module, function }),
            _ => Some(FunctionKey::Defined { module, function }),
        }
    }

    fn add_patches(&mut self, random: &mut Random) {
        for function in self.functions.iter().filter(|function| function.key.is_defined()) {
            let (mut at, end) = (function.range.start.max(SERIAL), function.range.end);
            loop {
                at += random.below(12);
                let len = if random.once_in(8) { 16 } else { random.within(1..6) };
                if random.once_in(4) || at + len > end {
                    break;
                }
                let disabled = self.text[at..at + len].to_vec();
                let mut enabled = disabled.clone();
                enabled.iter_mut().for_each(|byte| *byte ^= random.next() as u8 | 1);
                self.patches.push(Patch { offset: at, enabled, disabled });
                at += len;
            }
        }
    }

    pub fn image(&self) -> Image {
        Image::parse(&self.file()).unwrap().publish().unwrap()
    }

    fn file(&self) -> Vec<u8> {
        let mut builder = ImageBuilder::new();
        builder.text(self.text.clone()).text_align(16).configuration(self.configuration.clone()).without_modules();
        self.modules.iter().for_each(|module| {
            builder.module(module.clone());
        });
        self.signatures.iter().for_each(|signature| {
            builder.signature(signature.clone());
        });
        for Compiled { range, key, name } in &self.functions {
            builder.compiled(range.clone(), *key, name.as_deref());
        }
        for (offset, code) in (0..self.text.len()).filter_map(|offset| Some((offset, trap(&self.text, offset)?))) {
            builder.trap(offset, code);
        }
        for &(offset, source) in &self.addresses {
            builder.address(offset, source);
        }
        for Patch { offset, enabled, disabled } in &self.patches {
            builder.patch(*offset, enabled.clone(), disabled.clone());
        }
        builder.finish().unwrap()
    }

    /// The function with this key.
    pub fn function(&self, key: FunctionKey) -> Option<&Compiled> {
        self.functions.iter().find(|function| function.key == key)
    }

    /// An offset worth asking about: on an edge, just beyond one, or anywhere.
    pub fn offset(&self, random: &mut Random) -> usize {
        match (random.below(4), random.pick(&self.functions)) {
            (0, Some(function)) => function.range.start,
            (1, Some(function)) => function.range.end - random.below(2),
            (2, _) => self.text.len() - random.below(2).min(self.text.len()),
            _ => random.below(self.text.len() + 1),
        }
    }
}

fn description(random: &mut Random) -> ModuleDescription {
    let name = random.once_in(2).then(|| format!("m{}", random.below(1_000)));
    let module = ModuleDescription::new().imported_functions(random.below(5) as u32);
    let module = module.unparsed_debug_info(random.once_in(2)).debug_info_from_environment(random.once_in(2));
    match name {
        Some(name) => module.name(name),
        None => module,
    }
}
