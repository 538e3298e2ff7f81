//! Calls of WebAssembly functions that trap.

use crate::engines::engine;
use benches::crowd;
use wasmtime::{Engine, Instance, Module, Result, Store, Trap, TypedFunc, bail};

const MODULE: &str = r#"
(module
  (memory 1)
  (func (export "nothing") (param i32) (result i32) (local.get 0))
  (func (export "unreachable") (param i32) (result i32) unreachable)
  (func (export "divide") (param i32) (result i32) (i32.div_u (i32.const 1) (local.get 0)))
  (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
  (func $deep (export "deep") (param i32) (result i32)
    (if (i32.eqz (local.get 0)) (then unreachable))
    (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1))))))
"#;

/// The argument that makes each function trap, and what it traps with. The `deep` one traps 100 frames down.
fn expected(kind: &str) -> Result<(i32, Option<Trap>)> {
    Ok(match kind {
        "nothing" => (0, None),
        "unreachable" => (0, Some(Trap::UnreachableCodeReached)),
        "divide" => (0, Some(Trap::IntegerDivisionByZero)),
        // Far outside, where the reservation of the memory is not accessible.
        "load" => (0xffff_0000_u32.cast_signed(), Some(Trap::MemoryOutOfBounds)),
        "deep" => (99, Some(Trap::UnreachableCodeReached)),
        _ => bail!("no function is called {kind}"),
    })
}

/// Nanoseconds for one call.
pub fn measure(kind: &str, setting: &str, threads: usize, count: usize) -> Result<f64> {
    let (argument, trap) = expected(kind)?;
    let engine = engine(setting)?;
    let module = Module::new(&engine, MODULE)?;
    check(&engine, &module, kind, argument, trap)?;
    Ok(crowd::time(threads, 15, count, |_, _| {
        // Each thread has a store of its own. It is made and dropped once in `count` calls.
        let (mut store, function) = prepare(&engine, &module, kind).expect("was done before");
        (0..count).filter(|_| function.call(&mut store, argument).is_err()).count()
    }))
}

fn prepare(engine: &Engine, module: &Module, kind: &str) -> Result<(Store<()>, TypedFunc<i32, i32>)> {
    let mut store = Store::new(engine, ());
    let instance = Instance::new(&mut store, module, &[])?;
    let function = instance.get_typed_func(&mut store, kind)?;
    Ok((store, function))
}

/// What is measured is what it says.
fn check(engine: &Engine, module: &Module, kind: &str, argument: i32, trap: Option<Trap>) -> Result<()> {
    let (mut store, function) = prepare(engine, module, kind)?;
    let found = match function.call(&mut store, argument) {
        Ok(_) => None,
        Err(error) => Some(error.downcast::<Trap>()?),
    };
    if found != trap {
        bail!("{kind} ended in {found:?}");
    }
    Ok(())
}
