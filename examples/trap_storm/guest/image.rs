//! From functions to an image: compile, place, link, list the trap sites.

use super::{Cause, Constants, Kind, cause, ir};
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{ExternalName, Function as IrFunction};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context as CodegenContext, FinalizedRelocTarget};
use cranelift_frontend::FunctionBuilderContext;
use std::error::Error;
use trapline::TrapCode;
use trapline::image::ImageBuilder;

/// Where one function lies in its image's text, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    pub kind: Kind,
    pub offset: u32,
    pub len: u32,
}

/// One compiled image: machine code, and what must be known of it to check an answer.
pub struct GuestImage {
    pub constants: Constants,
    pub text: Vec<u8>,
    /// In the order of [`Kind::ALL`].
    pub functions: Vec<Function>,
    /// Sorted by offset.
    pub traps: Vec<(u32, Cause)>,
}

impl GuestImage {
    pub fn function(&self, kind: Kind) -> Function {
        self.functions[kind as usize]
    }

    /// Whether `offset` is a trap site of `function` with this cause.
    pub fn is_site(&self, function: Function, offset: u32, cause: Cause) -> bool {
        function.contains(offset)
            && self.traps.binary_search_by_key(&offset, |site| site.0).is_ok_and(|found| self.traps[found].1 == cause)
    }

    /// The image in trapline's own format.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut builder = ImageBuilder::new();
        builder.text(self.text.as_slice());
        for &(offset, cause) in &self.traps {
            builder.trap(offset as usize, trap_code(cause));
        }
        for function in &self.functions {
            let start = function.offset as usize;
            let range = start..start + function.len as usize;
            builder.function(range, Some(function.kind.name()));
        }
        Ok(builder.finish()?)
    }
}

impl Function {
    pub fn contains(self, offset: u32) -> bool {
        (self.offset..self.offset + self.len).contains(&offset)
    }
}

/// What trapline calls a cause.
pub fn trap_code(cause: Cause) -> TrapCode {
    match cause {
        cause::OVERFLOW => TrapCode::IntegerOverflow,
        cause::DIVISION_BY_ZERO => TrapCode::IntegerDivisionByZero,
        cause::BAD_CONVERSION => TrapCode::BadConversionToInteger,
        cause::STACK => TrapCode::StackOverflow,
        cause::MEMORY => TrapCode::MemoryOutOfBounds,
        cause::UNREACHABLE => TrapCode::Unreachable,
        cause::TABLE => TrapCode::TableOutOfBounds,
        cause::NULL_CALL => TrapCode::IndirectCallToNull,
        cause::BAD_SIGNATURE => TrapCode::BadSignature,
        cause::INTERRUPT => TrapCode::Interrupt,
        cause::OUT_OF_FUEL => TrapCode::OutOfFuel,
        other => unreachable!("no guest function traps with {other}"),
    }
}

/// Cranelift for the machine this runs on.
pub struct Compiler {
    isa: OwnedTargetIsa,
    codegen: CodegenContext,
    scratch: FunctionBuilderContext,
}

impl Compiler {
    pub fn new() -> Result<Compiler, Box<dyn Error>> {
        let mut flags = settings::builder();
        flags.set("opt_level", "speed")?;
        // Recursion without a limit check relies on touching every page in order.
        flags.set("enable_probestack", "true")?;
        flags.set("probestack_strategy", "inline")?;
        flags.set("preserve_frame_pointers", "true")?;
        let isa = cranelift_native::builder()?.finish(settings::Flags::new(flags))?;
        Ok(Compiler { isa, codegen: CodegenContext::new(), scratch: FunctionBuilderContext::new() })
    }

    /// One function of each kind, with `constants` baked in.
    pub fn image(&mut self, constants: Constants) -> Result<GuestImage, Box<dyn Error>> {
        let mut image = GuestImage { constants, text: Vec::new(), functions: Vec::new(), traps: Vec::new() };
        let mut calls = Vec::new();
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            let function = ir::function(kind, index as u32, constants, self.isa.frontend_config(), &mut self.scratch);
            self.place(kind, function, &mut image, &mut calls)?;
        }
        for call in calls {
            call.resolve(&mut image)?;
        }
        Ok(image)
    }

    fn place(
        &mut self,
        kind: Kind,
        function: IrFunction,
        image: &mut GuestImage,
        calls: &mut Vec<LinkedCall>,
    ) -> Result<(), Box<dyn Error>> {
        self.codegen.clear();
        self.codegen.func = function;
        self.codegen
            .compile(&*self.isa, &mut ControlPlane::default())
            .map_err(|error| format!("{}: {:?}", kind.name(), error.inner))?;
        let compiled = self.codegen.take_compiled_code().expect("compile leaves its result behind");
        let alignment = compiled.buffer.alignment.max(self.isa.function_alignment().preferred) as usize;
        // Padding is never executed; a breakpoint says so to a disassembler.
        image.text.resize(image.text.len().next_multiple_of(alignment), 0xcc);
        let offset = u32::try_from(image.text.len())?;
        image.text.extend_from_slice(compiled.buffer.data());
        image.functions.push(Function { kind, offset, len: compiled.buffer.total_size() });
        for trap in compiled.buffer.traps() {
            image.traps.push((offset + trap.offset, trap.code));
        }
        for reloc in compiled.buffer.relocs() {
            let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = &reloc.target else {
                return Err(format!("{}: unexpected relocation {reloc:?}", kind.name()).into());
            };
            let target = &self.codegen.func.params.user_named_funcs()[*name];
            calls.push(LinkedCall {
                at: offset + reloc.offset,
                target: target.index as usize,
                addend: reloc.addend,
                kind: reloc.kind,
            });
        }
        Ok(())
    }
}

/// A direct call between two functions of one image, to be filled in once both have their place.
struct LinkedCall {
    at: u32,
    target: usize,
    addend: i64,
    kind: Reloc,
}

impl LinkedCall {
    fn resolve(self, image: &mut GuestImage) -> Result<(), Box<dyn Error>> {
        let target = i64::from(image.functions[self.target].offset);
        let distance = i32::try_from(target + self.addend - i64::from(self.at))?;
        let at = self.at as usize;
        let place = image.text[at..].first_chunk_mut().ok_or("a relocation past the end of the text")?;
        *place = match self.kind {
            Reloc::X86CallPCRel4 => distance.to_le_bytes(),
            // Words, in the lower 26 bits of the instruction. Images are far shorter than what these reach.
            Reloc::Arm64Call => {
                let words = (distance >> 2).cast_unsigned() & 0x03ff_ffff;
                (u32::from_le_bytes(*place) | words).to_le_bytes()
            }
            other => return Err(format!("no rule for relocation {other:?}").into()),
        };
        Ok(())
    }
}
