//! Breakpoints in a store's private code.
//!
//! A compiler that is asked to leaves *patch points* in the text, at boundaries of its choice: a few bytes that do
//! nothing, and in the image's patch table the bytes to write over them to make a call. A hit is that call, from guest
//! code to a function that the compiler chose; no handler is involved. A breakpoint is set at an offset of a function,
//! and slips forward to the function's next patch point.
//!
//! Breakpoints are remembered by module, registered or not; the private text shows those of registered modules.

use std::fmt;

use super::engine::EngineId;
use super::error::{PatchError, StoreError};
use super::many::Many;
use super::module::{Module, ModuleId};
use super::registry::ModuleRegistry;
use super::store_code::PrivateCode;
use crate::allocate::{self, OutOfMemory};
use crate::image::{DefinedFunctionIndex, PatchTable};
use crate::words::Bytes;

/// The breakpoints of one store.
pub(super) struct Breakpoints {
    single_step: bool,
    /// By ascending key.
    asked: Vec<Asked>,
    /// The patch points that these slipped to, ascending.
    points: Vec<Point>,
}

struct Asked {
    key: Key,
    /// The index of the patch point in the image's patch table.
    patch: usize,
    /// Where the patch point is in the text.
    text_offset: usize,
    count: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    module: ModuleId,
    function: DefinedFunctionIndex,
    offset: usize,
}

struct Point {
    module: ModuleId,
    patch: usize,
    /// How many of `asked` slipped here. Not zero.
    keys: usize,
}

impl Point {
    fn key(&self) -> (ModuleId, usize) {
        (self.module, self.patch)
    }
}

/// One breakpoint of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Breakpoint {
    /// The module.
    pub module: ModuleId,
    /// The function, by its index among those that the module defines.
    pub function: DefinedFunctionIndex,
    /// Where it was set, in bytes from the start of the function.
    pub offset: usize,
    /// Where the guest stops, in bytes from the start of the text: at the first patch point from there on.
    pub text_offset: usize,
    /// How many times it was set and not cleared again.
    pub count: u32,
}

/// Why a breakpoint was not set or cleared. Breakpoints and code are as before, except where [`PatchError`] says so.
#[derive(Debug)]
#[non_exhaustive]
pub enum BreakpointError {
    /// The store executes the engine's code, which other stores share.
    SharedCode {
        /// The engine of the store.
        engine: EngineId,
    },
    /// The module is another engine's.
    ForeignModule(StoreError),
    /// The module does not define that function.
    UnknownFunction {
        /// The module.
        module: ModuleId,
        /// What it does not define.
        function: DefinedFunctionIndex,
    },
    /// The function has no patch point from that offset on.
    NoPatchPoint {
        /// The module.
        module: ModuleId,
        /// The function.
        function: DefinedFunctionIndex,
        /// Where it was to be set, in bytes from the start of the function.
        offset: usize,
        /// The function's length in bytes.
        len: usize,
    },
    /// There is no such breakpoint.
    NotSet {
        /// The module.
        module: ModuleId,
        /// The function.
        function: DefinedFunctionIndex,
        /// The offset.
        offset: usize,
    },
    /// The breakpoint is set 2^32 - 1 times already.
    TooMany {
        /// The module.
        module: ModuleId,
        /// The function.
        function: DefinedFunctionIndex,
        /// The offset.
        offset: usize,
    },
    /// There is no memory to remember it.
    OutOfMemory {
        /// How many bytes were asked for, at least.
        bytes: usize,
    },
    /// The code could not be patched.
    Patch(PatchError),
}

impl From<OutOfMemory> for BreakpointError {
    fn from(OutOfMemory { bytes }: OutOfMemory) -> Self {
        BreakpointError::OutOfMemory { bytes }
    }
}

impl ModuleRegistry {
    /// Sets a breakpoint in `function` of `module`, at the first patch point from `offset` on, in bytes from the start
    /// of the function.
    ///
    /// The module need not be registered yet: the breakpoint is in force as soon as it is. Set more than once, it must
    /// be cleared as often.
    ///
    /// O(b + log p) for b breakpoints and p patch points, and system calls if the code changes.
    ///
    /// # Errors
    ///
    /// See [`BreakpointError`].
    pub fn set_breakpoint(
        &mut self,
        module: Module<'_>,
        function: DefinedFunctionIndex,
        offset: usize,
    ) -> Result<Breakpoint, BreakpointError> {
        if !self.debugs_guests() {
            return Err(BreakpointError::SharedCode { engine: self.engine() });
        }
        self.check_engine(module.engine_code()).map_err(BreakpointError::ForeignModule)?;
        let id = module.id();
        let range = module.function(function).ok_or(BreakpointError::UnknownFunction { module: id, function })?.range();
        let patches = module.engine_code().image().patches();
        let found = range.start.checked_add(offset).and_then(|from| patches.next_from(from));
        let Some((patch, point)) = found.filter(|(_, point)| point.offset() < range.end) else {
            return Err(BreakpointError::NoPatchPoint { module: id, function, offset, len: range.len() });
        };
        let text_offset = point.offset();
        let key = Key { module: id, function, offset };
        let many = self.many_mut()?;
        let asked = match many.breakpoints.find(key) {
            Ok(at) => &mut many.breakpoints.asked[at],
            Err(at) => {
                many.breakpoints.reserve()?;
                show(many, id, patch, true)?;
                many.breakpoints.point(id, patch);
                many.breakpoints.asked.insert(at, Asked { key, patch, text_offset, count: 0 });
                &mut many.breakpoints.asked[at]
            }
        };
        asked.count = asked.count.checked_add(1).ok_or(BreakpointError::TooMany { module: id, function, offset })?;
        Ok(Breakpoint { module: id, function, offset, text_offset, count: asked.count })
    }

    /// Clears a breakpoint that was set at `offset` of `function`, once, and says how many times it is still set.
    ///
    /// O(b), and system calls if the code changes.
    ///
    /// # Errors
    ///
    /// See [`BreakpointError`].
    pub fn clear_breakpoint(
        &mut self,
        module: ModuleId,
        function: DefinedFunctionIndex,
        offset: usize,
    ) -> Result<u32, BreakpointError> {
        let not_set = BreakpointError::NotSet { module, function, offset };
        // What was never asked for needs no memory.
        let Some(many) = self.held_many() else { return Err(not_set) };
        let Ok(at) = many.breakpoints.find(Key { module, function, offset }) else { return Err(not_set) };
        let Asked { patch, count, .. } = many.breakpoints.asked[at];
        if count > 1 {
            many.breakpoints.asked[at].count = count - 1;
            return Ok(count - 1);
        }
        if many.breakpoints.is_last(module, patch) && !many.breakpoints.single_step {
            show(many, module, patch, false)?;
        }
        many.breakpoints.unpoint(module, patch);
        many.breakpoints.asked.remove(at);
        Ok(0)
    }

    /// All breakpoints by module, function and offset, those of modules that are not registered included.
    #[must_use]
    pub fn breakpoints(&self) -> impl ExactSizeIterator<Item = Breakpoint> + '_ {
        self.many().map_or(&[][..], |many| &many.breakpoints.asked).iter().map(|asked| Breakpoint {
            module: asked.key.module,
            function: asked.key.function,
            offset: asked.key.offset,
            text_offset: asked.text_offset,
            count: asked.count,
        })
    }

    /// Stops, or no longer stops, at every patch point of every module, registered now or later.
    ///
    /// O(p) for p patch points, and system calls for each image whose code changes.
    ///
    /// # Errors
    ///
    /// [`BreakpointError::SharedCode`], [`BreakpointError::OutOfMemory`], and [`BreakpointError::Patch`] for the first
    /// module whose code could not be changed.
    pub fn set_single_step(&mut self, on: bool) -> Result<(), BreakpointError> {
        if !self.debugs_guests() {
            return Err(BreakpointError::SharedCode { engine: self.engine() });
        }
        if self.is_single_stepping() == on {
            return Ok(());
        }
        let many = self.many_mut()?;
        many.breakpoints.single_step = on;
        let result = many.for_each_copied(|module, code, breakpoints| breakpoints.apply_all(code, module));
        if result.is_err() {
            many.breakpoints.single_step = !on;
            // As it was, as far as the operating system lets us.
            let _ = many.for_each_copied(|module, code, breakpoints| {
                let _ = breakpoints.apply_all(code, module);
                Ok::<(), PatchError>(())
            });
        }
        result.map_err(BreakpointError::Patch)
    }

    /// Whether the store stops at every patch point.
    #[must_use]
    pub fn is_single_stepping(&self) -> bool {
        self.many().is_some_and(|many| many.breakpoints.single_step)
    }
}

/// Writes one patch point of `module` if that is registered.
fn show(many: &mut Many, module: ModuleId, patch: usize, enabled: bool) -> Result<(), BreakpointError> {
    let Some((module, code)) = many.module_and_copy(module) else { return Ok(()) };
    write(code, module.engine_code().image().patches(), || [patch].into_iter(), |_| enabled)
        .map_err(BreakpointError::Patch)
}

impl Breakpoints {
    pub(super) const fn new() -> Self {
        Breakpoints { single_step: false, asked: Vec::new(), points: Vec::new() }
    }

    /// Writes the breakpoints of `module`, which is registered or about to be, into its code. Clears none.
    pub(super) fn apply(&self, code: &mut PrivateCode, module: Module<'_>) -> Result<(), PatchError> {
        if self.single_step {
            return self.apply_all(code, module);
        }
        let id = module.id();
        let first = self.points.partition_point(|point| point.module < id);
        let points = self.points.get(first..).unwrap_or_default();
        let points = || points.iter().take_while(|point| point.module == id).map(|point| point.patch);
        write(code, module.engine_code().image().patches(), points, |_| true)
    }

    /// Writes every patch point of `module` as it should be, set or cleared.
    pub(super) fn apply_all(&self, code: &mut PrivateCode, module: Module<'_>) -> Result<(), PatchError> {
        let patches = module.engine_code().image().patches();
        let all = || module.functions().flat_map(|function| patches.in_range(function.range()));
        write(code, patches, all, |patch| self.wants(module.id(), patch))
    }

    fn wants(&self, module: ModuleId, patch: usize) -> bool {
        self.single_step || self.find_point(module, patch).is_ok()
    }

    fn find(&self, key: Key) -> Result<usize, usize> {
        self.asked.binary_search_by_key(&key, |asked| asked.key)
    }

    fn find_point(&self, module: ModuleId, patch: usize) -> Result<usize, usize> {
        self.points.binary_search_by_key(&(module, patch), Point::key)
    }

    /// Makes room for one more.
    fn reserve(&mut self) -> Result<(), BreakpointError> {
        allocate::reserve(&mut self.asked, 1)?;
        Ok(allocate::reserve(&mut self.points, 1)?)
    }

    fn point(&mut self, module: ModuleId, patch: usize) {
        match self.find_point(module, patch) {
            Ok(at) => self.points[at].keys += 1,
            Err(at) => self.points.insert(at, Point { module, patch, keys: 1 }),
        }
    }

    fn unpoint(&mut self, module: ModuleId, patch: usize) {
        if let Ok(at) = self.find_point(module, patch) {
            self.points[at].keys -= 1;
            if self.points[at].keys == 0 {
                self.points.remove(at);
            }
        }
    }

    fn is_last(&self, module: ModuleId, patch: usize) -> bool {
        self.find_point(module, patch).is_ok_and(|at| self.points[at].keys == 1)
    }
}

/// Writes `which` patch points as `wanted`: all of them, or none if the operating system refuses at once.
fn write<I: Iterator<Item = usize>>(
    code: &mut PrivateCode,
    patches: &PatchTable,
    which: impl Fn() -> I,
    wanted: impl Fn(usize) -> bool,
) -> Result<(), PatchError> {
    let all = || {
        which().filter_map(|index| {
            let patch = patches.get(index)?;
            let bytes = if wanted(index) { patch.enabled() } else { patch.disabled() };
            Some((patch.offset(), bytes))
        })
    };
    let mut wrong = all().filter(|patch| code.holds(*patch) == Some(false)).map(|(at, bytes)| at..at + bytes.len());
    // Even if nothing is wrong: an earlier write may not have been finished.
    let Some(first) = wrong.next() else {
        return code.write(0..0, [].into_iter());
    };
    let span = wrong.fold(first, |span, patch| span.start.min(patch.start)..span.end.max(patch.end));
    let inside = |(at, bytes): &(usize, &[u8])| span.start <= *at && at + bytes.len() <= span.end;
    code.write(span.clone(), all().filter(inside))
}

impl fmt::Display for BreakpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BreakpointError::SharedCode { engine } => write!(
                f,
                "the store shares its code with others of {engine} and can set no breakpoints; make its registry with \
                 guest debugging"
            ),
            BreakpointError::ForeignModule(error) => error.fmt(f),
            BreakpointError::UnknownFunction { module, function } => {
                write!(f, "{module} does not define function {function}")
            }
            BreakpointError::NoPatchPoint { module, function, offset, len } => write!(
                f,
                "function {function} of {module}, {len:#x} bytes, has no patch point from offset {offset:#x} on; \
                 compile it with patch points, or ask for an earlier offset"
            ),
            BreakpointError::NotSet { module, function, offset } => {
                write!(f, "no breakpoint is set at offset {offset:#x} of function {function} of {module}")
            }
            BreakpointError::TooMany { module, function, offset } => {
                write!(
                    f,
                    "the breakpoint at offset {offset:#x} of function {function} of {module} is set 2^32 - 1 times already; clear it as often"
                )
            }
            BreakpointError::OutOfMemory { bytes } => {
                write!(
                    f,
                    "no memory for another breakpoint: could not allocate {}; free some and try again",
                    Bytes(*bytes as u64)
                )
            }
            BreakpointError::Patch(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BreakpointError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BreakpointError::ForeignModule(error) => error.source(),
            BreakpointError::Patch(error) => error.source(),
            _ => None,
        }
    }
}
