//! A store and its model, told and asked the same.

use crate::loaded::{DIRECTIONS, Loaded};
use crate::model::{Asked, Frame, Store};
use crate::random::Random;
use std::ops::Range;
use std::sync::Arc;
use trapline::PcKind;
use trapline::image::DefinedFunctionIndex;
use trapline::store::{
    Breakpoint, BreakpointError, Engine, EngineCode, EnginePc, FrameInfo, Module, ModuleId, ModuleRegistry,
    ModuleWithCode, PatchError, SignatureId, StoreCode, StoreError, StorePc,
};

pub struct Twin {
    pub real: ModuleRegistry,
    pub model: Store,
}

impl Twin {
    pub fn new(engine: &Engine, debugging: bool) -> Twin {
        let real = if debugging { ModuleRegistry::with_guest_debugging(engine) } else { ModuleRegistry::new(engine) };
        assert_eq!((real.engine(), real.debugs_guests()), (engine.id(), debugging));
        Twin { real, model: Store::new(engine.id(), debugging) }
    }

    pub fn register_module(&mut self, loaded: &Arc<Loaded>, module: Module<'_>) {
        match self.real.register_module(module) {
            Ok(()) => {
                self.place(loaded, module.engine_code());
                self.model.add_module(loaded, module.static_index().as_u32());
            }
            Err(error) => self.refused_as_foreign(loaded, &error),
        }
    }

    pub fn register_code(&mut self, loaded: &Arc<Loaded>, code: &EngineCode) {
        match self.real.register_code(code) {
            Ok(()) => self.place(loaded, code),
            Err(error) => self.refused_as_foreign(loaded, &error),
        }
    }

    pub fn base_or_register(&mut self, loaded: &Arc<Loaded>, module: Module<'_>) {
        let index = module.static_index().as_u32();
        let new = self.model.image(loaded).is_none();
        match self.real.store_code_base_or_register(module) {
            Ok(base) => {
                self.place(loaded, module.engine_code());
                if new {
                    self.model.add_module(loaded, index);
                }
                let placed = self.model.image(loaded).unwrap();
                assert_eq!(base.map(StorePc::as_usize), (!placed.text.is_empty()).then_some(placed.base));
            }
            Err(error) => self.refused_as_foreign(loaded, &error),
        }
    }

    /// The model learns where the image is, which has to be a place of the right kind.
    fn place(&mut self, loaded: &Arc<Loaded>, code: &EngineCode) {
        assert_eq!(loaded.engine, self.model.engine, "code of another engine was taken");
        let store_code = self.real.store_code(code).unwrap();
        let range = addresses(store_code.text_range());
        assert_eq!(store_code.is_private(), self.model.debugging && !loaded.text.is_empty());
        if store_code.is_private() {
            assert!(range.end <= loaded.text.start || loaded.text.end <= range.start);
            assert_eq!(range.len(), loaded.text.len());
        } else {
            assert_eq!(range, loaded.text);
        }
        self.model.add_image(loaded, range.start);
        assert_eq!(self.model.image(loaded).unwrap().base, range.start, "an image that was there has moved");
        let base = self.real.store_code(code).and_then(StoreCode::base);
        assert_eq!(base.map(StorePc::as_usize), (!range.is_empty()).then_some(range.start));
    }

    #[track_caller]
    fn refused_as_foreign(&self, loaded: &Loaded, error: &StoreError) {
        let StoreError::ForeignEngine { text, code, store } = error else { panic!("{error}") };
        assert_ne!(loaded.engine, self.model.engine);
        assert_eq!((text.start.as_usize(), text.end.as_usize()), (loaded.text.start, loaded.text.end));
        assert_eq!((*code, *store), (loaded.engine, self.model.engine));
    }

    pub fn set_breakpoint(
        &mut self,
        loaded: &Loaded,
        module: Module<'_>,
        function: DefinedFunctionIndex,
        offset: usize,
    ) {
        let index = module.static_index().as_u32();
        let slipped = Store::slip(loaded, index, function, offset);
        match self.real.set_breakpoint(module, function, offset) {
            Ok(set) => {
                let text_offset = slipped.expect("there is no patch point");
                assert!(self.model.debugging && loaded.engine == self.model.engine);
                assert_eq!(as_asked(set), self.model.set(loaded, index, function, offset, text_offset));
            }
            Err(BreakpointError::SharedCode { .. }) => assert!(!self.model.debugging),
            Err(BreakpointError::ForeignModule(error)) => self.refused_as_foreign(loaded, &error),
            Err(BreakpointError::UnknownFunction { module: named, function: unknown }) => {
                assert_eq!((named, unknown), (module.id(), function));
                assert!(module.function(function).is_none());
            }
            Err(BreakpointError::NoPatchPoint { module: named, function: in_function, offset: at, len }) => {
                assert_eq!((named, in_function, at), (module.id(), function, offset));
                assert_eq!(len, module.function(function).unwrap().range().len());
                assert_eq!(slipped, None);
            }
            Err(other) => panic!("{other}"),
        }
    }

    pub fn clear_breakpoint(&mut self, module: ModuleId, function: DefinedFunctionIndex, offset: usize) {
        let left = self.model.clear(module, function, offset);
        match self.real.clear_breakpoint(module, function, offset) {
            Ok(count) => assert_eq!(Some(count), left),
            Err(BreakpointError::NotSet { module: m, function: f, offset: o }) => {
                assert_eq!((left, m, f, o), (None, module, function, offset));
            }
            Err(other) => panic!("{other}"),
        }
    }

    pub fn step(&mut self, on: bool) {
        match self.real.set_single_step(on) {
            Ok(()) => {
                assert!(self.model.debugging);
                self.model.step(on);
            }
            Err(BreakpointError::SharedCode { .. }) => assert!(!self.model.debugging),
            Err(other) => panic!("{other}"),
        }
        assert_eq!(self.real.is_single_stepping(), self.model.stepping);
    }

    /// Overwrites the patch point at `patch` of an image that is there with one of its forms.
    pub fn poke(&mut self, loaded: &Loaded, patch: usize, enabled: bool) {
        let placed = self.model.image(loaded).unwrap();
        let patch = &loaded.image.patches[patch];
        let bytes = if enabled { &patch.enabled } else { &patch.disabled };
        let mut code = self.real.store_code_mut(StorePc::new(placed.base)).unwrap();
        match code.patch(patch.offset, bytes) {
            Ok(()) => {
                assert!(placed.is_private());
                self.model.poke(loaded, patch.offset, bytes);
            }
            Err(PatchError::Shared { .. }) => assert!(!placed.is_private()),
            Err(other) => panic!("{other}"),
        }
    }

    /// Compares what both say about `pc`.
    pub fn check_pc(&self, pc: usize, signatures: &[SignatureId]) {
        let code = self.real.store_code_by_pc(pc).map(|(code, offset)| (addresses(code.text_range()), offset));
        assert_eq!(code, self.model.image_at(pc).map(|(placed, offset)| (placed.range(), offset)), "code at {pc:#x}");
        assert_eq!(self.real.lookup_trap_code(pc), self.model.trap_at(pc), "trap at {pc:#x}");
        assert_eq!(
            self.real.lookup_module(pc).map(|module| module.id()),
            self.model.module_at(pc),
            "module at {pc:#x}"
        );
        for kind in [PcKind::Interrupted, PcKind::ReturnAddress] {
            let real = self.real.lookup_frame_info(pc, kind).map(|(frame, with_code)| self.frame(&frame, with_code));
            assert_eq!(real, self.model.frame_at(pc, kind), "{kind:?} at {pc:#x}");
        }
        for &signature in signatures {
            for direction in DIRECTIONS {
                let real = self.real.lookup_trampoline(pc, direction, signature).map(StorePc::as_usize);
                let model = self.model.trampoline_at(pc, direction, signature);
                assert_eq!(real, model, "{direction:?} trampoline for {signature} from {pc:#x}");
            }
        }
    }

    fn frame(&self, frame: &FrameInfo<'_>, with_code: ModuleWithCode<'_>) -> Frame {
        let code = with_code.store_code();
        let function = frame.function();
        assert_eq!(with_code.module().id(), frame.module().id());
        assert_eq!(with_code.function_pc(frame.defined_index()), code.pc(function.range().start));
        let in_engine = frame.module().engine_code().text_range().start.as_usize() + frame.text_offset();
        assert_eq!(code.store_pc(EnginePc::new(in_engine)), code.pc(frame.text_offset()));
        let in_store = code.pc(frame.text_offset()).unwrap();
        assert_eq!(code.engine_pc(in_store), Some(EnginePc::new(in_engine)));
        let owned = frame.clone().into_owned();
        assert_eq!(owned.to_string(), frame.to_string());
        assert_eq!(format!("{:?}", owned.info()), format!("{frame:?}"));
        Frame {
            module: frame.module().id(),
            static_index: frame.module().static_index(),
            function_index: frame.function_index(),
            defined_index: frame.defined_index(),
            key: function.key(),
            place: function.index(),
            range: function.range(),
            name: function.name().map(str::to_owned),
            text_offset: frame.text_offset(),
            function_offset: frame.function_offset(),
            source_offset: frame.source_offset(),
            unparsed_debug_info: frame.module().info().has_unparsed_debug_info(),
            debug_info_from_environment: frame.module().info().debug_info_depends_on_environment(),
            text: addresses(code.text_range()),
            shown: frame.to_string(),
        }
    }

    /// Compares what both say about some pcs of the store's code, and of the engine's copy of it.
    pub fn check_some(&self, random: &mut Random, times: usize, signatures: &[SignatureId]) {
        for _ in 0..times {
            let Some(placed) = random.pick(&self.model.images) else { return };
            let start = if random.once_in(5) { placed.loaded.text.start } else { placed.base };
            self.check_pc(start.wrapping_add(placed.loaded.image.offset(random)), signatures);
        }
    }

    /// Compares everything that does not depend on a pc.
    pub fn check_lists(&self, signatures: &[SignatureId]) {
        let real: Vec<_> = self.real.all_modules().map(|module| module.id()).collect();
        assert_eq!(real, self.model.modules_in_order(), "modules, in order");
        for &signature in signatures {
            for direction in DIRECTIONS {
                let real = self.real.trampoline(direction, signature).map(StorePc::as_usize);
                assert_eq!(real, self.model.trampoline(direction, signature), "{direction:?}, {signature}");
            }
        }
        let real: Vec<_> = self.real.breakpoints().map(as_asked).collect();
        let mut model = self.model.asked.clone();
        model.sort_by_key(|asked| (asked.module, asked.function, asked.offset));
        assert_eq!(real, model, "breakpoints, in order");
        assert_eq!(self.real.is_single_stepping(), self.model.stepping);
    }

    /// Whether the store has exactly the modules of `loaded` that the model has.
    pub fn check_ids(&self, loaded: &Loaded) {
        for &id in &loaded.modules {
            let real = self.real.module(id).map(|module| (module.id(), addresses(module.store_code().text_range())));
            let expected = self.model.image(loaded).filter(|_| self.model.has_module(id));
            assert_eq!(real, expected.map(|placed| (id, placed.range())));
        }
        assert!(self.real.module(loaded.id).is_none(), "an image's name is no module's");
    }

    /// Compares the bytes that the store executes.
    pub fn check_texts(&self) {
        for placed in &self.model.images {
            // SAFETY: the store keeps its code mapped.
            let text = unsafe { bytes_at(placed.range()) };
            assert_eq!(text, placed.text, "{:#x?}, private: {}", placed.range(), placed.is_private());
            if let Some((code, _)) = self.real.store_code_by_pc(placed.base) {
                assert_eq!((code.text(), code.engine_code().id()), (&*placed.text, placed.loaded.id));
            }
        }
    }

    /// What is a base, and what is not.
    pub fn check_base(&mut self, pc: usize) {
        let model = self.model.image_at(pc).map(|(placed, offset)| (placed.range(), offset));
        match (self.real.store_code_mut(StorePc::new(pc)), model) {
            (Ok(code), Some((range, 0))) => assert_eq!(addresses(code.store_code().text_range()), range),
            (Err(StoreError::NotABase { pc: named, inside }), model) => {
                assert_eq!((named.as_usize(), inside.map(addresses)), (pc, model.clone().map(|(range, _)| range)));
                assert!(model.is_none_or(|(_, offset)| offset > 0), "{pc:#x} is a base");
            }
            (other, model) => panic!("{other:?}, but {model:?}"),
        }
    }
}

fn as_asked(set: Breakpoint) -> Asked {
    let Breakpoint { module, function, offset, text_offset, count, .. } = set;
    Asked { module, function, offset, text_offset, count }
}

fn addresses(range: Range<StorePc>) -> Range<usize> {
    range.start.as_usize()..range.end.as_usize()
}

/// # Safety
///
/// The addresses are mapped, readable, and not written meanwhile.
pub unsafe fn bytes_at(range: Range<usize>) -> Vec<u8> {
    // SAFETY: our caller's; volatile, since the language knows nothing of these bytes.
    range.map(|address| unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() }).collect()
}
