//! One call of guest code: enter, catch, compare with the known answer.

use crate::guest::answer::{Expected, Fault, Site, host};
use crate::guest::{Answer, Call, Context, GuestImage, Kind, Table, World, image};
use crate::record::{self, Record, Running, Wrong};
use std::error::Error;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use trapline::image::Image;
use trapline::signal::{Trap, catch_trap, raise};
use trapline::{CodeId, TrapCode, process};

type GuestFunction = unsafe extern "C" fn(*mut Context, u64, u64) -> u64;

/// Below the frame that enters a guest with a limit check. Less than any thread of the storm has left.
const STACK_FOR_GUESTS: usize = 128 << 10;

/// An image that is mapped, published and registered.
///
/// Fields drop in order: first nobody finds the code any more, then its memory goes.
pub struct Loaded {
    registration: process::Registration,
    memory: Arc<Image>,
    pub image: Arc<GuestImage>,
    pub running: Running,
    table: Table,
}

impl Loaded {
    pub fn new(bytes: &[u8], image: Arc<GuestImage>, record: &Record) -> Result<Loaded, Box<dyn Error>> {
        let memory = Arc::new(Image::parse(bytes)?.publish()?);
        let text = memory.text_range();
        if trapline::process::with(text.start, |_| ()).is_some() {
            record.wrong(Wrong::Lifetime);
        }
        let registration = trapline::process::register(memory.clone())?;
        let found = trapline::process::with(text.start, |found| (found.id(), found.range()));
        let (id, range) = found.ok_or("registered code is not found")?;
        if range != text {
            record.wrong(Wrong::Lifetime);
        }
        let table = Table::new(&image, text.start, image.constants);
        Ok(Loaded { registration, memory, image, running: Running { start: text.start, end: text.end, id }, table })
    }

    pub fn id(&self) -> CodeId {
        self.running.id
    }

    pub fn base(&self) -> usize {
        self.running.start
    }

    /// Unregisters, and checks that no lookup finds the code while its memory is still there.
    pub fn unload(self, record: &Record) {
        let Loaded { registration, memory, image, .. } = self;
        drop(registration);
        let text = memory.text_range();
        let somewhere = image.traps.first().map_or(0, |site| site.0 as usize);
        for pc in [text.start, text.start + somewhere, text.end - 1] {
            if trapline::process::with(pc, |_| ()).is_some() {
                record.wrong(Wrong::Lifetime);
            }
        }
    }
}

/// A thread's means to call guest code.
pub struct Caller {
    world: World,
    context: Context,
    record: &'static Record,
}

/// What `enter` needs to know, behind the one pointer it is given.
struct Entry {
    code: usize,
    context: *mut Context,
    a: u64,
    b: u64,
    result: u64,
}

/// Between `catch_trap` and the guest: a trap skips this frame, so it owns nothing.
unsafe extern "C" fn enter(entry: *mut c_void) {
    let entry = entry.cast::<Entry>();
    // SAFETY: `Caller::call` and `host_function` pass a valid entry, whose code is a guest function with a context.
    unsafe {
        let function: GuestFunction = std::mem::transmute((*entry).code);
        (*entry).result = function((*entry).context, (*entry).a, (*entry).b);
    }
}

/// What guest code calls through its context. A raised trap skips this frame, so it owns nothing either.
unsafe extern "C" fn host_function(context: *mut Context, a: u64, b: u64) -> u64 {
    match a {
        // SAFETY: called from guest code under `catch_trap`; no frame in between has a destructor.
        host::FUEL => unsafe { raise(TrapCode::OutOfFuel) },
        // SAFETY: the same.
        host::INTERRUPT => unsafe { raise(TrapCode::Interrupt) },
        // SAFETY: the guest passed on the context that it was called with.
        host::NEST => unsafe { nest(context) },
        _ => a ^ b,
    }
}

/// Guest calls host calls guest: the inner trap must end the inner call only.
unsafe fn nest(context: *mut Context) -> u64 {
    // SAFETY: the caller's context is alive and no other reference to it is in use.
    let (code, k) = unsafe { ((*context).unreachable, (*context).k) };
    let mut entry = Entry { code, context, a: k, b: 0, result: 0 };
    // SAFETY: `enter` and the guest's frames own nothing.
    match unsafe { catch_trap(enter, ptr::from_mut(&mut entry).cast()) } {
        Err(trap) if trap.code == TrapCode::Unreachable => {
            // SAFETY: as above.
            unsafe { (*context).nested_traps += 1 };
            host::CAUGHT
        }
        _ => 0,
    }
}

impl Caller {
    pub fn new(record: &'static Record) -> Result<Caller, Box<dyn Error>> {
        let world = World::new()?;
        let context = Context {
            memory: world.memory(),
            table: ptr::null(),
            table_len: 0,
            stack_limit: 0,
            file: world.file(),
            host: host_function as *const () as usize,
            unreachable: 0,
            k: 0,
            nested_traps: 0,
        };
        Ok(Caller { world, context, record })
    }

    /// Calls, and compares with the known answer. What is wrong goes to the record, and in words to standard error.
    pub fn call(&mut self, loaded: &Loaded, call: Call) {
        let constants = loaded.image.constants;
        let answer = call.answer(constants);
        let expected_hardware = u64::from(answer.is_hardware_trap()) + u64::from(call.nests());
        self.record.traps_expected.add(expected_hardware);
        let result = self.enter(loaded, call);
        self.record.calls.add(1);
        self.count_nested();
        if let Err(trap) = &result {
            self.count(call.kind, trap);
        }
        match self.compare(loaded, call, answer, &result) {
            Ok(()) => {}
            Err(wrong) => {
                self.record.wrong(wrong);
                complain(wrong, call, answer, &result, loaded);
            }
        }
    }

    fn enter(&mut self, loaded: &Loaded, call: Call) -> Result<u64, Trap> {
        let function = |kind| loaded.base() + loaded.image.function(kind).offset as usize;
        self.context.table = loaded.table.0.as_ptr();
        self.context.table_len = loaded.table.0.len() as u64;
        self.context.unreachable = function(Kind::Unreachable);
        self.context.k = loaded.image.constants.k;
        self.context.nested_traps = 0;
        let mut entry =
            Entry { code: function(call.kind), context: &raw mut self.context, a: call.a, b: call.b, result: 0 };
        self.context.stack_limit = ((&raw const entry).addr() - STACK_FOR_GUESTS) as u64;
        record::set_running(Some(loaded.running));
        // SAFETY: the code is a guest function of an image that stays loaded, and gets the context it was compiled
        // for; `enter` and the guest's frames own nothing.
        let result = unsafe { catch_trap(enter, (&raw mut entry).cast()) };
        record::set_running(None);
        result.map(|()| entry.result)
    }

    fn count(&self, kind: Kind, trap: &Trap) {
        match trap.site {
            Some(_) => self.record.traps_caught.add(1),
            None => self.record.traps_raised.add(1),
        }
        self.record.traps_by_kind[kind as usize].add(1);
        self.record.traps_by_code[usize::from(trap.code.to_u8())].add(1);
    }

    /// What the host function caught inside the call.
    fn count_nested(&self) {
        let nested = self.context.nested_traps;
        self.record.traps_caught.add(nested);
        self.record.traps_by_kind[Kind::CallHost as usize].add(nested);
        self.record.traps_by_code[usize::from(TrapCode::Unreachable.to_u8())].add(nested);
    }

    fn compare(&self, loaded: &Loaded, call: Call, answer: Answer, result: &Result<u64, Trap>) -> Result<(), Wrong> {
        match (answer, result) {
            (Answer::Value(expected), Ok(value)) => {
                let effect = call.effect(loaded.image.constants);
                let stored = effect.is_none_or(|(at, word)| self.world.word(at) == word);
                if *value == expected && stored { Ok(()) } else { Err(Wrong::Value) }
            }
            (Answer::Value(_), Err(_)) => Err(Wrong::Trapped),
            (Answer::Trap(_), Ok(_)) => Err(Wrong::Returned),
            (Answer::Trap(expected), Err(trap)) => self.compare_trap(loaded, expected, trap),
        }
    }

    fn compare_trap(&self, loaded: &Loaded, expected: Expected, trap: &Trap) -> Result<(), Wrong> {
        if trap.code != image::trap_code(expected.cause) {
            return Err(Wrong::Code);
        }
        let Some(site) = trap.site else {
            let raised = expected.site == Site::Host;
            return if raised { Ok(()) } else { Err(Wrong::Site) };
        };
        if site.id != loaded.id() {
            return Err(Wrong::Id);
        }
        let image = &loaded.image;
        let offset = u32::try_from(site.text_offset).map_err(|_| Wrong::Site)?;
        let place = match expected.site {
            Site::Function(kind) => image.is_site(image.function(kind), offset, expected.cause),
            Site::Anywhere(kind) => image.function(kind).contains(offset),
            Site::Host => false,
        };
        if !place || site.pc != loaded.base() + site.text_offset {
            return Err(Wrong::Site);
        }
        let fault = expected.fault.map(|fault| match fault {
            Fault::Memory(offset) => self.world.memory().addr() + offset as usize,
            Fault::File(offset) => self.world.file().addr() + offset as usize,
        });
        if fault.is_some() && fault != trap.fault_address {
            return Err(Wrong::Fault);
        }
        Ok(())
    }
}

impl Answer {
    fn is_hardware_trap(self) -> bool {
        matches!(self, Answer::Trap(expected) if expected.site != Site::Host)
    }
}

impl Call {
    fn nests(self) -> bool {
        self.kind == Kind::CallHost && self.a == host::NEST
    }
}

/// The first few wrong answers in full; a broken lookup would produce millions.
fn complain(wrong: Wrong, call: Call, answer: Answer, result: &Result<u64, Trap>, loaded: &Loaded) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COMPLAINTS: AtomicU32 = AtomicU32::new(0);
    if COMPLAINTS.fetch_add(1, Ordering::Relaxed) < 10 {
        let range = loaded.base()..loaded.running.end;
        eprintln!("wrong ({wrong:?}): {call:x?} in {range:x?}: expected {answer:x?}, got {result:x?}");
    }
}
