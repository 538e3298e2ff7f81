//! trapline's stores.

use super::{Instantiate, Plan};
use core::hint::black_box;
use trapline::PcKind;
use trapline::image::ModuleIndex;
use trapline::store::{Engine, EngineCode, ModuleRegistry};

/// A `ModuleRegistry` for each store.
pub struct Ours {
    plan: Plan,
    engine: Engine,
    sets: Vec<Set>,
}

/// What one store is made of.
struct Set {
    /// Images that are registered as a whole first.
    components: Vec<EngineCode>,
    modules: Vec<(EngineCode, ModuleIndex)>,
    /// Where the frame is.
    code: EngineCode,
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
        let code = codes[plan.image()].clone();
        Set {
            modules: codes
                .iter()
                .flat_map(|code| code.modules().map(|module| (code.clone(), module.static_index())))
                .collect(),
            pc: code.text_range().start.as_usize() + plan.offset(),
            components: if plan.is_component() { codes } else { Vec::new() },
            code,
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
        for code in &set.components {
            store.register_code(code).expect("registers");
        }
        for (code, index) in &set.modules {
            store.register_module(code.module(*index).expect("has it")).expect("registers");
        }
        let pc = if self.plan.private {
            let code = store.store_code(&set.code).expect("is registered");
            code.base().expect("has text").as_usize() + self.plan.offset()
        } else {
            set.pc
        };
        let (frame, _) = store.lookup_frame_info(black_box(pc), PcKind::Interrupted).expect("is found");
        frame.function_index() as usize
    }
}
