//! Stores that come and go: what a runtime does for every instance.

use core::hint::black_box;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use trapline::{CodeMemory, Engine, EngineCode, ImageBuilder, Module, ModuleRegistry, PcKind, StaticModuleIndex};

/// Functions of the module that is instantiated.
const FUNCTIONS: u32 = 64;
const FUNCTION_LEN: u32 = 256;

/// Someone who makes a store, registers a module, looks one frame up, and drops the store.
pub trait Instantiate: Sync {
    /// Once, with the module that thread `thread` uses; the result depends on the answer.
    fn instantiate(&self, thread: usize) -> usize;
}

fn image() -> Vec<u8> {
    let mut image = ImageBuilder::new();
    image.text(vec![0x90; (FUNCTIONS * FUNCTION_LEN) as usize]);
    for function in 0..FUNCTIONS {
        image.function(function * FUNCTION_LEN..(function + 1) * FUNCTION_LEN - 16, None);
    }
    image.finish().expect("a valid image")
}

fn memory() -> CodeMemory {
    CodeMemory::parse(&image()).and_then(|image| Ok(image.publish()?)).expect("loads")
}

/// The offset that is looked up.
const OFFSET: usize = (37 * FUNCTION_LEN + 20) as usize;

/// trapline.
pub struct Ours {
    engine: Engine,
    modules: Vec<(Module, usize)>,
}

impl Ours {
    /// Shares one module among all threads, or has one for each of `modules`.
    pub fn new(modules: usize) -> Self {
        let engine = Engine::new();
        let modules = (0..modules).map(|_| {
            let code = EngineCode::new(&engine, memory()).expect("loads");
            let pc = code.text_range().start.as_usize() + OFFSET;
            (code.module(StaticModuleIndex::new(0)).expect("has a module"), pc)
        });
        Ours { modules: modules.collect(), engine }
    }
}

impl Instantiate for Ours {
    fn instantiate(&self, thread: usize) -> usize {
        let (module, pc) = &self.modules[thread % self.modules.len()];
        let mut store = ModuleRegistry::new(&self.engine);
        store.register_module(black_box(module).clone()).expect("registers");
        let (frame, _) = store.lookup_frame_info(black_box(*pc), PcKind::Faulting).expect("is found");
        frame.function_index() as usize
    }
}

/// The maps that engines have today: code by address, code by engine address, modules by id, and a reference count for
/// each of the things that a store keeps.
pub struct Maps {
    modules: Vec<MapModule>,
}

#[derive(Clone)]
struct MapModule(Arc<MapModuleInner>);

struct MapModuleInner {
    id: u64,
    engine: Arc<Vec<u8>>,
    code: Arc<CodeMemory>,
    starts: Arc<Vec<u32>>,
}

#[derive(Default)]
struct MapRegistry {
    by_address: BTreeMap<usize, MapCode>,
    by_engine_address: BTreeMap<usize, usize>,
    modules: BTreeMap<u64, MapModule>,
}

struct MapCode {
    code: Arc<CodeMemory>,
    starts: Arc<Vec<u32>>,
    modules: Vec<Option<u64>>,
}

impl MapRegistry {
    fn register(&mut self, module: &MapModule) {
        let engine = Arc::clone(&module.0.engine);
        let id = module.0.id;
        self.modules.entry(id).or_insert_with(|| module.clone());
        let text = module.0.code.text_range();
        let base = match self.by_engine_address.entry(text.start) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let next = self.by_address.range(text.start..).next();
                assert!(next.is_none_or(|(start, _)| *start >= text.end));
                let before = self.by_address.range(..text.end).next_back();
                assert!(before.is_none_or(|(_, code)| code.code.text_range().end <= text.start));
                let (code, starts) = (Arc::clone(&module.0.code), Arc::clone(&module.0.starts));
                self.by_address.insert(text.start, MapCode { code, starts, modules: Vec::new() });
                *new.insert(text.start)
            }
        };
        let modules = &mut self.by_address.get_mut(&base).expect("was inserted").modules;
        if modules.is_empty() {
            modules.resize(1, None);
        }
        modules[0] = Some(id);
        drop(engine);
    }

    fn frame(&self, pc: usize) -> Option<(MapModule, u32)> {
        let (start, code) = self.by_address.range(..=pc).next_back()?;
        let offset = u32::try_from(pc - start).ok().filter(|offset| (*offset as usize) < code.code.text().len())?;
        let function = code.starts.partition_point(|start| *start <= offset).checked_sub(1)?;
        if offset - code.starts[function] >= FUNCTION_LEN - 16 {
            return None;
        }
        let module = self.modules.get(&(*code.modules.first()?)?)?;
        // A frame keeps its module.
        Some((module.clone(), function as u32))
    }
}

impl Maps {
    /// As [`Ours::new`].
    pub fn new(modules: usize) -> Self {
        let engine = Arc::new(vec![0]);
        let starts: Arc<Vec<u32>> = Arc::new((0..FUNCTIONS).map(|function| function * FUNCTION_LEN).collect());
        let module = |id| {
            let (engine, starts) = (Arc::clone(&engine), Arc::clone(&starts));
            MapModule(Arc::new(MapModuleInner { id, engine, code: Arc::new(memory()), starts }))
        };
        Maps { modules: (0..modules as u64).map(module).collect() }
    }
}

impl Instantiate for Maps {
    fn instantiate(&self, thread: usize) -> usize {
        let module = &self.modules[thread % self.modules.len()];
        let mut store = MapRegistry::default();
        store.register(black_box(module));
        let pc = module.0.code.text_range().start + OFFSET;
        store.frame(black_box(pc)).expect("is found").1 as usize
    }
}
