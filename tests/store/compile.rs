//! From Cranelift's textual language to images: what a front end with a compiler of its own would do.

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::ExternalName;
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, FinalizedRelocTarget};
use std::collections::HashMap;
use std::ops::Range;
use trapline::image::{DefinedFunctionIndex, FunctionKey, Image, ImageBuilder, ModuleDescription, ModuleIndex};
use trapline::store::{Engine, EngineCode};

/// One compiled function, not linked yet. Offsets are from its start.
pub struct Piece {
    pub name: String,
    code: Vec<u8>,
    traps: Vec<(usize, trapline::TrapCode)>,
    calls: Vec<Call>,
    /// Where calls can be switched off.
    patchable: Vec<Range<usize>>,
    /// Source positions: where each begins and ends.
    sources: Vec<(Range<usize>, u32)>,
    nops: Vec<Vec<u8>>,
}

struct Call {
    at: usize,
    target: String,
    addend: i64,
    kind: Reloc,
}

/// Compiles every function of `clif`.
pub fn compile(clif: &str) -> Vec<Piece> {
    let isa = isa();
    let functions = cranelift_reader::parse_functions(clif).unwrap_or_else(|error| panic!("{error}"));
    functions.into_iter().map(|function| piece(function, &isa)).collect()
}

fn isa() -> OwnedTargetIsa {
    let mut flags = settings::builder();
    flags.set("opt_level", "speed").unwrap();
    flags.set("preserve_frame_pointers", "true").unwrap();
    cranelift_native::builder().unwrap().finish(settings::Flags::new(flags)).unwrap()
}

fn piece(function: cranelift_codegen::ir::Function, isa: &OwnedTargetIsa) -> Piece {
    let name = function.name.to_string().trim_start_matches('%').to_owned();
    let mut context = Context::for_function(function);
    context.compile(&**isa, &mut ControlPlane::default()).unwrap_or_else(|error| panic!("{name}: {:?}", error.inner));
    let buffer = &context.compiled_code().unwrap().buffer;
    Piece {
        name,
        code: buffer.data().to_vec(),
        traps: buffer.traps().iter().map(|trap| (trap.offset as usize, trap_code(trap.code))).collect(),
        calls: buffer
            .relocs()
            .iter()
            .map(|reloc| match &reloc.target {
                FinalizedRelocTarget::ExternalName(target @ ExternalName::TestCase(_)) => Call {
                    at: reloc.offset as usize,
                    target: target.display(None).to_string().trim_start_matches('%').to_owned(),
                    addend: reloc.addend,
                    kind: reloc.kind,
                },
                other => panic!("no rule to link {other:?}"),
            })
            .collect(),
        patchable: buffer
            .patchable_call_sites()
            .map(|site| (site.ret_addr - site.len) as usize..site.ret_addr as usize)
            .collect(),
        sources: buffer
            .get_srclocs_sorted()
            .iter()
            .filter(|place| !place.loc.is_default())
            .map(|place| (place.start as usize..place.end as usize, place.loc.bits()))
            .collect(),
        nops: buffer.nop_units.clone(),
    }
}

fn trap_code(code: cranelift_codegen::ir::TrapCode) -> trapline::TrapCode {
    use cranelift_codegen::ir::TrapCode as Cause;
    match code {
        Cause::INTEGER_DIVISION_BY_ZERO => trapline::TrapCode::IntegerDivisionByZero,
        Cause::INTEGER_OVERFLOW => trapline::TrapCode::IntegerOverflow,
        Cause::HEAP_OUT_OF_BOUNDS => trapline::TrapCode::MemoryOutOfBounds,
        Cause::STACK_OVERFLOW => trapline::TrapCode::StackOverflow,
        other if other == Cause::unwrap_user(1) => trapline::TrapCode::Unreachable,
        other => panic!("no trap code for {other}"),
    }
}

/// The function `function` that module `module` defines.
pub fn defined(module: u32, function: u32) -> FunctionKey {
    FunctionKey::Defined { module: ModuleIndex::new(module), function: DefinedFunctionIndex::new(function) }
}

/// Pieces laid out in a text, in the order they are added, with what is known of them in `image`.
#[derive(Default)]
pub struct Linker {
    pub image: ImageBuilder,
    text: Vec<u8>,
    placed: Vec<(FunctionKey, Piece, usize)>,
}

impl Linker {
    /// Adds functions that module 0 defines, in their order.
    pub fn add_all(&mut self, pieces: Vec<Piece>) -> &mut Self {
        for (index, piece) in pieces.into_iter().enumerate() {
            self.add(defined(0, index as u32), piece);
        }
        self
    }

    pub fn add(&mut self, key: FunctionKey, piece: Piece) -> &mut Self {
        // At least one byte between functions, which belongs to none.
        self.text.resize((self.text.len() + 1).next_multiple_of(16), 0xcc);
        self.placed.push((key, piece, self.text.len()));
        let (_, piece, _) = self.placed.last().unwrap();
        self.text.extend_from_slice(&piece.code);
        self
    }

    /// The image, and where everything is in its text.
    pub fn link(&mut self) -> (Vec<u8>, Vec<(FunctionKey, Range<usize>)>) {
        self.text.extend([0xcc; 7]);
        let starts: HashMap<&str, usize> =
            self.placed.iter().map(|(_, piece, start)| (piece.name.as_str(), *start)).collect();
        for (_, piece, start) in &self.placed {
            for call in &piece.calls {
                resolve(&mut self.text, start + call.at, starts[call.target.as_str()], call);
            }
        }
        let mut layout = Vec::new();
        for (key, piece, start) in &self.placed {
            let range = *start..start + piece.code.len();
            self.image.compiled(range.clone(), *key, Some(&piece.name));
            for (offset, code) in &piece.traps {
                self.image.trap(start + offset, *code);
            }
            for (source, position) in &piece.sources {
                self.image.address(start + source.start, Some(*position));
                let followed = piece.sources.iter().any(|(next, _)| next.start == source.end);
                if !followed && source.end < piece.code.len() {
                    self.image.address(start + source.end, None);
                }
            }
            for patch in &piece.patchable {
                let place = start + patch.start..start + patch.end;
                let enabled = self.text[place.clone()].to_vec();
                let disabled = nops(&piece.nops, enabled.len());
                self.text[place].copy_from_slice(&disabled);
                self.image.patch(start + patch.start, enabled, disabled);
            }
            layout.push((*key, range));
        }
        self.image.text(self.text.as_slice());
        (self.image.finish().unwrap(), layout)
    }
}

/// Instructions that do nothing, `len` bytes of them.
fn nops(units: &[Vec<u8>], len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let unit = units.iter().rev().find(|unit| unit.len() <= len - bytes.len()).unwrap();
        bytes.extend_from_slice(unit);
    }
    bytes
}

fn resolve(text: &mut [u8], at: usize, target: usize, call: &Call) {
    let distance = target as i64 + call.addend - at as i64;
    let field: &mut [u8; 4] = text[at..].first_chunk_mut().unwrap();
    match call.kind {
        Reloc::X86CallPCRel4 => *field = i32::try_from(distance).unwrap().to_le_bytes(),
        Reloc::Arm64Call => {
            let words = u32::from_le_bytes(*field) & 0xfc00_0000 | (distance >> 2) as u32 & 0x03ff_ffff;
            *field = words.to_le_bytes();
        }
        other => panic!("no rule for relocation {other:?}"),
    }
}

/// Loads an image into `engine`.
pub fn load(engine: &Engine, image: &[u8]) -> EngineCode {
    EngineCode::new(engine, Image::parse_verified(image).unwrap().publish().unwrap()).unwrap()
}

/// A module of that name.
pub fn named(name: &str) -> ModuleDescription {
    ModuleDescription::new().name(name)
}
