//! Stores that come and go.

use crate::engines::engine;
use benches::crowd;
use wasmtime::{Engine, Linker, Module, Result, Store, bail};

/// As little as a module can be.
const FUNCTION: &str = r#"(module (func (export "answer") (result i32) (i32.const 42)))"#;

/// A page of memory with something in it, a table, a global.
const MEMORY: &str = r#"
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "some bytes that are there from the beginning")
  (table 4 funcref)
  (elem (i32.const 0) $answer)
  (global (mut i32) (i32.const 0))
  (func $answer (export "answer") (result i32) (i32.const 42)))
"#;

/// Nanoseconds for one store with one instance, from its making to its end.
pub fn measure(module: &str, setting: &str, threads: usize, count: usize) -> Result<f64> {
    let engine = engine(setting)?;
    let (module, maps) = match module {
        "function" => (Module::new(&engine, FUNCTION)?, false),
        "memory" => (Module::new(&engine, MEMORY)?, true),
        _ => bail!("no module is called {module}"),
    };
    // Imports are checked once, here.
    let ready = Linker::new(&engine).instantiate_pre(&module)?;
    let instantiate = |engine: &Engine| {
        let mut store = Store::new(engine, ());
        ready.instantiate(&mut store).map(|_| ())
    };
    instantiate(&engine)?;
    let instances = |_, _| (0..count).filter(|_| instantiate(&engine).is_ok()).count();
    // Those who map memory wait for each other.
    Ok(if maps {
        crowd::time_with_waits(threads, 15, count, instances)
    } else {
        crowd::time(threads, 15, count, instances)
    })
}
