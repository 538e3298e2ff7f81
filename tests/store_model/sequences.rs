//! Random operations on images and stores, and every answer compared.

use crate::alone;
use crate::image::{Blueprint, SIGNATURES};
use crate::loaded::Loaded;
use crate::random::Random;
use crate::twin::Twin;
use std::sync::{Arc, Weak};
use trapline::image::{DefinedFunctionIndex, FunctionKey, Image, ModuleIndex};
use trapline::process;
use trapline::store::{Engine, EngineCode, LoadError, Module, SignatureId};

const CONFIGURATIONS: [&str; 2] = ["", "fuel"];

/// Everything there is, and a list of it.
struct World {
    engines: Vec<Engine>,
    /// All that were ever loaded.
    loaded: Vec<Arc<Loaded>>,
    /// What keeps images loaded, besides stores.
    handles: Vec<(Arc<Loaded>, EngineCode)>,
    stores: Vec<Twin>,
    types: Vec<(usize, SignatureId, &'static str)>,
    /// Every text that was mapped.
    memories: Vec<Weak<Image>>,
    /// How many images and modules came and went.
    modules: usize,
    private_copies: usize,
}

impl World {
    fn new() -> World {
        let engines = [0, 1, 0].map(|which| Engine::with_configuration(CONFIGURATIONS[which])).to_vec();
        World {
            engines,
            loaded: Vec::new(),
            handles: Vec::new(),
            stores: Vec::new(),
            types: Vec::new(),
            memories: Vec::new(),
            modules: 0,
            private_copies: 0,
        }
    }

    fn is_held(&self, loaded: &Loaded) -> bool {
        self.handles.iter().any(|(held, _)| held.id == loaded.id)
            || self.stores.iter().any(|store| store.model.image(loaded).is_some())
    }

    fn act(&mut self, random: &mut Random) {
        match random.below(100) {
            0..14 => self.load(random),
            14..20 => self.clone_handle(random),
            20..31 if !self.handles.is_empty() => drop(self.handles.swap_remove(random.below(self.handles.len()))),
            31..37 if self.stores.len() < 6 => {
                let engine = &self.engines[random.below(3)];
                self.stores.push(Twin::new(engine, cfg!(unix) && !random.once_in(3)));
            }
            37..40 if !self.stores.is_empty() => drop(self.stores.swap_remove(random.below(self.stores.len()))),
            40..42 => process::reclaim(),
            _ => (0..3).for_each(|_| self.act_on_store(random)),
        }
    }

    fn load(&mut self, random: &mut Random) {
        let configuration = CONFIGURATIONS[random.below(2)].as_bytes();
        let engine = self.engines[random.below(3)].clone();
        let image = Blueprint::random(random, self.loaded.len() as u64, configuration);
        let before = process::stats().live_ranges;
        match EngineCode::new(&engine, image.image()) {
            Ok(code) => {
                assert_eq!(engine.configuration(), configuration);
                let loaded = Arc::new(Loaded::new(image, &code));
                let old = self.loaded.iter().flat_map(|old| old.modules.iter().chain([&old.id]));
                let new: Vec<_> = loaded.modules.iter().chain([&loaded.id]).copied().collect();
                assert!(old.into_iter().all(|id| !new.contains(id)), "a name was given twice");
                self.memories.push(Arc::downgrade(code.image()));
                self.modules += loaded.modules.len();
                self.loaded.push(Arc::clone(&loaded));
                self.handles.push((loaded, code));
            }
            Err(LoadError::ForeignConfiguration { image, engine: theirs }) => {
                assert_eq!((&*image, &*theirs), (configuration, engine.configuration()));
                assert_ne!(image, theirs);
                assert_eq!(process::stats().live_ranges, before);
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn clone_handle(&mut self, random: &mut Random) {
        if let Some(handle) = random.pick(&self.handles) {
            let clone = handle.clone();
            self.handles.push(clone);
        }
    }

    fn act_on_store(&mut self, random: &mut Random) {
        let World { loaded: all, handles, stores, .. } = self;
        if stores.is_empty() {
            return;
        }
        let which = random.below(stores.len());
        let store = &mut stores[which];
        if random.once_in(12) {
            return store.step(random.once_in(2));
        }
        if random.once_in(5)
            && let Some(asked) = random.pick(&store.model.asked).copied()
        {
            return store.clear_breakpoint(asked.module, asked.function, asked.offset + random.below(7) / 6);
        }
        if random.once_in(6)
            && let Some(placed) = random.pick(&store.model.images)
        {
            let loaded = Arc::clone(&placed.loaded);
            if !loaded.image.patches.is_empty() {
                store.poke(&loaded, random.below(loaded.image.patches.len()), random.once_in(2));
            }
            return;
        }
        // Some image through a handle, or what the store itself has.
        let (loaded, code) = match random.below(3) {
            0 => {
                let Some(module) = store.real.all_modules().next() else { return };
                let id = module.id();
                (all.iter().find(|loaded| loaded.modules.contains(&id)).unwrap(), module.engine_code().clone())
            }
            _ => {
                // Mostly one of the store's engine.
                let ours: Vec<_> = handles.iter().filter(|(loaded, _)| loaded.engine == store.model.engine).collect();
                let any: Vec<_> = handles.iter().collect();
                let from = if random.once_in(6) { any } else { ours };
                let Some((loaded, code)) = random.pick(&from) else { return };
                (loaded, code.clone())
            }
        };
        let (loaded, copies) = (Arc::clone(loaded), store.model.images.len());
        let index = ModuleIndex::new(random.below(loaded.modules.len().max(1)) as u32);
        let module = code.module(index);
        match (random.below(10), module) {
            (0 | 1, _) => store.register_code(&loaded, &code),
            (2, Some(module)) => store.base_or_register(&loaded, module),
            (3..6, Some(module)) => {
                let (module, function, offset) = breakpoint(&loaded, &code, random).unwrap_or_else(|| {
                    let offset = u32::MAX as usize - random.below(2);
                    (module, DefinedFunctionIndex::new(random.below(12) as u32), offset)
                });
                store.set_breakpoint(&loaded, module, function, offset);
            }
            (_, Some(module)) => store.register_module(&loaded, module),
            (_, None) => {}
        }
        if store.model.debugging {
            self.private_copies += store.model.images.len() - copies;
        }
    }

    fn check(&mut self, random: &mut Random) {
        self.check_types();
        let types: Vec<_> = self.types.iter().map(|(_, id, _)| *id).collect();
        for which in 0..self.stores.len() {
            let foreign = self.some_pc(random);
            let store = &mut self.stores[which];
            store.check_some(random, 6, &types);
            store.check_pc(foreign, &types);
            store.check_base(foreign);
            if let Some(placed) = random.pick(&store.model.images) {
                let pc = placed.base + random.below(2);
                store.check_base(pc);
            }
            store.check_lists(&types);
            if let Some(loaded) = random.pick(&self.loaded) {
                store.check_ids(loaded);
            }
            store.check_texts();
        }
        for _ in 0..6 {
            self.check_process(self.some_pc(random));
        }
        let live = self.live();
        assert_eq!(process::stats().live_ranges, live.len(), "code that nobody holds is registered, or the reverse");
        for (_, code) in &self.handles {
            let loaded = self.loaded.iter().find(|loaded| loaded.id == code.id());
            assert_eq!(code.image().text(), loaded.unwrap().image.text, "the engine's copy was written");
        }
    }

    /// An address in code that there is or was, or near it.
    fn some_pc(&self, random: &mut Random) -> usize {
        let store = random.pick(&self.stores);
        match (random.below(8), random.pick(&self.loaded), store.and_then(|store| random.pick(&store.model.images))) {
            (0, ..) => [0, 1, usize::MAX][random.below(3)],
            (1..5, Some(loaded), _) => loaded.text.start.wrapping_add(loaded.image.offset(random)),
            (_, _, Some(placed)) => placed.base.wrapping_add(placed.loaded.image.offset(random)),
            _ => random.next() as usize,
        }
    }

    /// All code that handlers have to find: where it is, whether it is private, and what of.
    fn live(&self) -> Vec<(std::ops::Range<usize>, bool, &Loaded)> {
        let shared = self.loaded.iter().filter(|loaded| self.is_held(loaded));
        let shared = shared.map(|loaded| (loaded.text.clone(), false, &**loaded));
        let placed = self.stores.iter().flat_map(|store| &store.model.images).filter(|placed| placed.is_private());
        let private = placed.map(|placed| (placed.range(), true, &*placed.loaded));
        shared.chain(private).filter(|(range, ..)| !range.is_empty()).collect()
    }

    fn check_process(&self, pc: usize) {
        let expected = self.live().into_iter().find(|(range, ..)| range.contains(&pc));
        let found = process::with(pc, |found| {
            let code = found.payload();
            (found.range(), code.is_private(), code.image().text_range(), found.offset())
        });
        let expected_code = expected
            .clone()
            .map(|(range, private, loaded)| (range.clone(), private, loaded.text.clone(), pc - range.start));
        assert_eq!(found, expected_code, "{pc:#x}");
        let trap = expected.and_then(|(range, _, loaded)| crate::image::trap(&loaded.image.text, pc - range.start));
        assert_eq!(process::trap_code(pc), trap, "{pc:#x}");
    }

    /// A type has an id while code has the type, and no id is ever that of two types.
    fn check_types(&mut self) {
        for (which, engine) in self.engines.iter().enumerate() {
            for signature in SIGNATURES {
                let with_it = self.loaded.iter().filter(|loaded| loaded.engine == engine.id() && self.is_held(loaded));
                let ids: Vec<_> = with_it
                    .filter_map(|loaded| {
                        let at = loaded.image.signatures.iter().position(|bytes| bytes == signature.as_bytes())?;
                        Some(loaded.signatures[at])
                    })
                    .collect();
                assert_eq!(engine.signature_id(signature.as_bytes()), ids.first().copied(), "{signature:?}");
                assert!(ids.iter().all(|id| *id == ids[0]), "one type, two ids");
                if let Some(&id) = ids.first()
                    && !self.types.contains(&(which, id, signature))
                {
                    let taken = self.types.iter().any(|(engine, other, _)| (*engine, *other) == (which, id));
                    assert!(!taken, "{id:?} was another type's");
                    self.types.push((which, id, signature));
                }
            }
        }
    }
}

/// Somewhere in a function that a module of the image defines: mostly before a patch point.
fn breakpoint<'c>(
    loaded: &Loaded,
    code: &'c EngineCode,
    random: &mut Random,
) -> Option<(Module<'c>, DefinedFunctionIndex, usize)> {
    let functions: Vec<_> = loaded.image.functions.iter().filter(|function| function.key.is_defined()).collect();
    let with_patch = random.pick(&loaded.image.patches).map(|patch| patch.offset).filter(|_| !random.once_in(4));
    let function = match with_patch {
        Some(at) => *functions.iter().find(|function| function.range.contains(&at))?,
        None => *random.pick(&functions)?,
    };
    let FunctionKey::Defined { module, function: index } = function.key else { return None };
    let len = with_patch.map_or(function.range.end + 2, |at| at + 1) - function.range.start;
    // Near the patch point, so that the same ones come again.
    let offset = len - 1 - random.below(len.min(4));
    Some((code.module(module)?, index, offset))
}

#[test]
fn whatever_is_done_to_stores_they_answer_as_lists_would() {
    let _alone = alone();
    let baseline = process::stats().live_ranges;
    assert_eq!(baseline, 0);
    let (mut modules, mut copies, mut frames) = (0, 0, 0);
    let seeds = std::env::var("STORE_MODEL_SEEDS").map_or(150, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let random = &mut Random::new(seed);
        let mut world = World::new();
        for step in 0..120 {
            random.step = step;
            world.act(random);
            world.check(random);
        }
        for store in &world.stores {
            for placed in &store.model.images {
                for pc in placed.base.saturating_sub(1)..=placed.base + placed.text.len() + 1 {
                    store.check_pc(pc, &[]);
                    frames += usize::from(store.real.lookup_module(pc).is_some());
                }
            }
        }
        modules += world.modules;
        copies += world.private_copies;
        // Handles first, so that stores are the last to let go; or the other way round.
        if seed % 2 == 0 {
            world.handles.clear();
            world.check(random);
        }
        while !world.stores.is_empty() {
            world.stores.swap_remove(random.below(world.stores.len()));
            world.check(random);
        }
        let memories = std::mem::take(&mut world.memories);
        drop(world);
        process::reclaim();
        assert!(memories.iter().all(|memory| memory.upgrade().is_none()), "a text is still mapped");
        let stats = process::stats();
        assert_eq!((stats.live_ranges, stats.retired_ranges, stats.retired_nodes), (0, 0, 0));
    }
    println!("{modules} modules loaded, {copies} private copies made, {frames} pcs of modules at the ends");
    assert!(seeds < 150 || (modules > 2_000 && copies > 500 && frames > 10_000), "too little to show anything");
}
