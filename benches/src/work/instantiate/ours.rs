//! trapline's stores.

use super::{Instantiate, Plan};
use core::hint::black_box;
use trapline::PcKind;
use trapline::image::ModuleIndex;
use trapline::store::{Component, Engine, EngineCode, Module, ModuleRegistry};

/// A `ModuleRegistry` for each store.
pub struct Ours {
    plan: Plan,
    engine: Engine,
    sets: Vec<Set>,
}

/// What one store is made of.
struct Set {
    components: Vec<Component>,
    modules: Vec<Module>,
    /// Where the frame is.
    module: Module,
    pc: usize,
}

impl Ours {
    /// For stores of `plan` on so many threads.
    pub fn new(plan: &Plan, threads: usize) -> Self {
        let engine = Engine::new();
        let sets = (0..plan.sets(threads)).map(|_| Set::new(plan, &engine)).collect();
        Self { plan: *plan, engine, sets }
    }
}

impl Set {
    fn new(plan: &Plan, engine: &Engine) -> Self {
        let codes: Vec<_> = (0..plan.images).map(|_| EngineCode::new(engine, plan.publish()).expect("loads")).collect();
        let code = &codes[plan.image()];
        Set {
            module: code.module(ModuleIndex::new(plan.module())).expect("has the module"),
            pc: code.text_range().start.as_usize() + plan.offset(),
            modules: codes.iter().flat_map(EngineCode::modules).collect(),
            components: if plan.is_component() { codes.into_iter().map(Component::new).collect() } else { Vec::new() },
        }
    }
}

impl Instantiate for Ours {
    fn instantiate(&self, thread: usize) -> usize {
        let set = black_box(&self.sets[thread % self.sets.len()]);
        let mut store = if self.plan.private {
            ModuleRegistry::with_guest_debugging(&self.engine)
        } else {
            ModuleRegistry::new(&self.engine)
        };
        for component in &set.components {
            store.register_component(component.clone()).expect("registers");
        }
        for module in &set.modules {
            store.register_module(module.clone()).expect("registers");
        }
        let pc = if self.plan.private {
            let base = store.store_code_base(set.module.engine_code()).expect("is registered");
            base.as_usize() + self.plan.offset()
        } else {
            set.pc
        };
        let (frame, _) = store.lookup_frame_info(black_box(pc), PcKind::Interrupted).expect("is found");
        frame.function_index() as usize
    }
}
