//! Stores of maps, as engines have them today.
//!
//! A store has three maps: its code by address, that address by the engine's, and its modules by id. It holds a
//! reference to each module, to the image, and to the table of functions; a frame holds one more to its module.
//! That is all that it counts: what is compared is the structure, so functions are found by the same kind of search,
//! and nothing is looked up that trapline's store does not look up.

use super::plan::FUNCTION_LEN;
use super::{Instantiate, Plan};
use core::hint::black_box;
use core::ops::Range;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, RwLock};
use trapline::image::Image;

/// Three maps for each store.
pub struct Maps {
    plan: Plan,
    sets: Vec<Vec<MappedImage>>,
}

/// What was loaded, and its modules.
struct MappedImage {
    code: Arc<Code>,
    modules: Vec<Module>,
}

/// The engine's copy of an image.
struct Code {
    memory: Arc<Image>,
    functions: Arc<Functions>,
}

/// The table of functions: parallel columns, so that the search touches starts only.
struct Functions {
    starts: Vec<u32>,
    modules: Vec<u32>,
    first: Vec<u32>,
}

type ModuleId = u64;

#[derive(Clone)]
struct Module(Arc<ModuleInner>);

struct ModuleInner {
    id: ModuleId,
    index: u32,
    code: Arc<Code>,
}

/// A store's.
#[derive(Default)]
struct Registry {
    code: BTreeMap<usize, LoadedCode>,
    /// Where this store has what the engine has there.
    bases: BTreeMap<usize, usize>,
    modules: BTreeMap<ModuleId, Module>,
}

struct LoadedCode {
    code: StoreCode,
    functions: Arc<Functions>,
    /// By their index in the image.
    modules: Vec<Option<ModuleId>>,
}

enum StoreCode {
    Shared(Arc<Image>),
    Private(PrivateCopy),
}

/// What a frame is resolved to.
struct Frame {
    module: Module,
    function: u32,
}

/// What handlers look up in.
static HANDLERS: RwLock<BTreeMap<usize, (usize, Arc<Image>)>> = RwLock::new(BTreeMap::new());

impl Functions {
    fn new(plan: &Plan) -> Self {
        let (starts, modules): (Vec<_>, Vec<_>) = plan.layout().unzip();
        Functions { starts, modules, first: (0..plan.modules).map(|module| module * plan.functions).collect() }
    }

    /// The module that the function at `offset` belongs to, and its index in that module.
    fn find(&self, offset: u32) -> Option<(u32, u32)> {
        let i = self.starts.partition_point(|start| *start <= offset).checked_sub(1)?;
        if offset - self.starts[i] >= FUNCTION_LEN - 16 {
            return None;
        }
        let module = self.modules[i];
        Some((module, i as u32 - self.first[module as usize]))
    }
}

impl MappedImage {
    fn new(plan: &Plan, first_id: ModuleId) -> Self {
        let code = Arc::new(Code { memory: Arc::new(plan.publish()), functions: Arc::new(Functions::new(plan)) });
        let module = |index: u32| {
            Module(Arc::new(ModuleInner { id: first_id + u64::from(index), index, code: Arc::clone(&code) }))
        };
        MappedImage { modules: (0..plan.modules).map(module).collect(), code }
    }
}

impl Registry {
    fn register_module(&mut self, module: &Module, private: bool) {
        let Module(inner) = module;
        self.modules.entry(inner.id).or_insert_with(|| module.clone());
        let base = self.register_code(&inner.code, private);
        let modules = &mut self.code.get_mut(&base).expect("was registered").modules;
        let index = inner.index as usize;
        if modules.len() <= index {
            modules.resize(index + 1, None);
        }
        modules[index] = Some(inner.id);
    }

    /// Where the store has the code, from now on at the latest.
    fn register_code(&mut self, code: &Arc<Code>, private: bool) -> usize {
        match self.bases.entry(code.memory.text_range().start) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                let store_code = StoreCode::new(&code.memory, private);
                let text = store_code.text_range();
                let next = self.code.range(text.start..).next();
                assert!(next.is_none_or(|(start, _)| *start >= text.end));
                let before = self.code.range(..text.end).next_back();
                assert!(before.is_none_or(|(_, code)| code.code.text_range().end <= text.start));
                let functions = Arc::clone(&code.functions);
                self.code.insert(text.start, LoadedCode { code: store_code, functions, modules: Vec::new() });
                *new.insert(text.start)
            }
        }
    }

    fn frame(&self, pc: usize) -> Option<Frame> {
        let (_, code) = self.code.range(..=pc).next_back()?;
        let text = code.code.text_range();
        let offset = text.contains(&pc).then(|| pc - text.start)?;
        let (module, function) = code.functions.find(u32::try_from(offset).ok()?)?;
        let id = (*code.modules.get(module as usize)?)?;
        Some(Frame { module: self.modules.get(&id)?.clone(), function })
    }
}

impl StoreCode {
    fn new(memory: &Arc<Image>, private: bool) -> Self {
        if private { Self::Private(PrivateCopy::new(memory)) } else { Self::Shared(Arc::clone(memory)) }
    }

    fn text_range(&self) -> Range<usize> {
        match self {
            Self::Shared(memory) => memory.text_range(),
            Self::Private(copy) => copy.range(),
        }
    }
}

/// A store's own copy of a text, which handlers know.
struct PrivateCopy {
    map: *mut libc::c_void,
    len: usize,
}

impl PrivateCopy {
    fn new(memory: &Arc<Image>) -> Self {
        let text = memory.text();
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let map = unsafe { libc::mmap(core::ptr::null_mut(), text.len(), access, flags, -1, 0) };
        assert_ne!(map, libc::MAP_FAILED);
        // SAFETY: that many bytes were just mapped, writable, and nobody else knows of them.
        unsafe {
            map.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
            assert_eq!(libc::mprotect(map, text.len(), libc::PROT_READ | libc::PROT_EXEC), 0);
        }
        let copy = Self { map, len: text.len() };
        let range = copy.range();
        let before = HANDLERS.write().expect("no panics").insert(range.end - 1, (range.start, Arc::clone(memory)));
        assert!(before.is_none());
        copy
    }

    fn range(&self) -> Range<usize> {
        self.map.addr()..self.map.addr() + self.len
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        let removed = HANDLERS.write().expect("no panics").remove(&(self.range().end - 1));
        assert!(removed.is_some());
        // SAFETY: our own mapping, which nobody executes.
        unsafe { libc::munmap(self.map, self.len) };
    }
}

impl Maps {
    /// For stores of `plan` on so many threads.
    pub fn new(plan: &Plan, threads: usize) -> Self {
        let images = plan.images as u64;
        let id = |set: usize, image: u64| (set as u64 * images + image) * u64::from(plan.modules);
        let set = |set: usize| (0..images).map(|image| MappedImage::new(plan, id(set, image))).collect();
        Self { plan: *plan, sets: (0..plan.sets(threads)).map(set).collect() }
    }
}

impl Instantiate for Maps {
    fn instantiate(&self, thread: usize) -> usize {
        let set = black_box(&self.sets[thread % self.sets.len()]);
        let Plan { private, .. } = self.plan;
        let mut store = Registry::default();
        if self.plan.is_component() {
            for image in set {
                store.register_code(&image.code, private);
            }
        }
        for module in set.iter().flat_map(|image| &image.modules) {
            store.register_module(module, private);
        }
        let engine_base = set[self.plan.image()].code.memory.text_range().start;
        let base = if private { store.bases[&engine_base] } else { engine_base };
        let frame = store.frame(black_box(base + self.plan.offset())).expect("is found");
        black_box(&frame.module);
        frame.function as usize
    }
}
