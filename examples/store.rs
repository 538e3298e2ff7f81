//! From source text to a caught trap with a symbolised backtrace: `cargo run --example store`

use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, FinalizedRelocTarget, control::ControlPlane, ir::TrapCode as Cause};
use std::{collections::HashMap, error::Error, ptr};
use trapline::image::{DefinedFunctionIndex, Image, ImageBuilder, ModuleDescription, ModuleIndex};
use trapline::signal::{Entry, Signals, catch_trap_with, install};
use trapline::store::{Engine, EngineCode, ModuleRegistry};
use trapline::{Backtrace, TrapCode};

const SOURCE: &str = "
function %main(i64) system_v {
    fn0 = colocated %average(i64, i64) -> i64 system_v
block0(v0: i64):
@0010 v1 = iconst.i64 42
@0011 v2 = iconst.i64 0
@0012 v3 = call fn0(v1, v2)
@0013 return
}
function %average(i64, i64) -> i64 system_v {
block0(v0: i64, v1: i64):
@0020 v2 = udiv v0, v1
@0021 return v2
}";

/// Compiles functions to an image: code, names, trap sites, source positions.
fn compile(source: &str) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut flags = settings::builder();
    flags.set("preserve_frame_pointers", "true")?; // backtraces follow them
    let isa = cranelift_native::builder()?.finish(settings::Flags::new(flags))?;
    let (mut image, mut text, mut starts, mut calls) = (ImageBuilder::new(), Vec::new(), HashMap::new(), Vec::new());
    image.module(ModuleDescription::new().name("demo"));
    for function in cranelift_reader::parse_functions(source)? {
        let name = function.name.to_string();
        let mut context = Context::for_function(function);
        context.compile(&*isa, &mut ControlPlane::default()).map_err(|error| format!("{name}: {:?}", error.inner))?;
        let code = &context.compiled_code().ok_or("not compiled")?.buffer;
        let start = text.len();
        text.extend_from_slice(code.data());
        image.function(start..text.len(), Some(name.trim_start_matches('%')));
        for trap in code.traps() {
            let Cause::INTEGER_DIVISION_BY_ZERO = trap.code else { return Err("another trap".into()) };
            image.trap(start + trap.offset as usize, TrapCode::IntegerDivisionByZero);
        }
        for place in code.get_srclocs_sorted() {
            image.address(start + place.start as usize, (!place.loc.is_default()).then(|| place.loc.bits()));
        }
        for reloc in code.relocs() {
            let FinalizedRelocTarget::ExternalName(target) = &reloc.target else { return Err("not a call".into()) };
            calls.push((start + reloc.offset as usize, target.display(None).to_string(), reloc.addend));
        }
        starts.insert(name, start);
        text.resize(text.len().next_multiple_of(16), 0xcc);
    }
    for (at, target, addend) in calls {
        let distance = starts[&target] as i64 + addend - at as i64; // of an x86-64 call
        text[at..][..4].copy_from_slice(&i32::try_from(distance)?.to_le_bytes());
    }
    Ok(image.text(text).finish()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::new();
    let code = EngineCode::new(&engine, Image::parse(&compile(SOURCE)?)?.publish()?)?;
    let mut store = ModuleRegistry::new(&engine);
    store.register_module(code.module(ModuleIndex::new(0)).ok_or("no module")?)?;
    let module = store.all_modules().next().ok_or("no module")?;

    let mut backtrace: Backtrace = Backtrace::new();
    // SAFETY: nothing else here relies on these signals; `main` is of this type, leaves nothing to be dropped, and is
    // called while the store lives.
    let trap = unsafe {
        install(Signals::all())?;
        let main = module.entry(DefinedFunctionIndex::new(0)).ok_or("no main")?;
        catch_trap_with(main, ptr::null_mut(), Entry::new().backtrace(&mut backtrace)).unwrap_err()
    };
    println!("{trap}");
    store.resolve(&backtrace).flatten().for_each(|(frame, _)| println!("    at {frame}"));
    Ok(())
}
