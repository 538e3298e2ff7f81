//! The registries that are looked up in, and payloads that know who they are.

use super::page::{Verdict, end, page};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use trapline::image::{Image, ImageBuilder};
use trapline::process::RegisteredText;
use trapline::{CodeRegistry, Found, TrapCode};

/// How a pc is looked up, and who the payload says it is.
pub type Look = fn(usize) -> Option<u64>;

/// Says who it is, until it is dropped. Of the registry's own alignment, so that freed ones can be told
/// ([`memory::quarantine`](super::memory::quarantine)).
#[repr(align(64))]
pub struct Payload {
    who: u64,
    check: u64,
}

const KEY: u64 = 0x5a5a_0f0f_3c3c_9669;
static DROPPED: AtomicUsize = AtomicUsize::new(0);

impl Payload {
    pub fn new(who: u64) -> Arc<Self> {
        Arc::new(Self { who, check: who ^ KEY })
    }

    /// Who it is. A payload that was dropped is a verdict.
    #[inline(never)]
    pub fn who(&self) -> u64 {
        // SAFETY: references; volatile, so that each call reads memory.
        let (who, check) = unsafe { ((&raw const self.who).read_volatile(), (&raw const self.check).read_volatile()) };
        if who ^ check != KEY {
            end(Verdict::UseAfterFree, [ptr::from_ref(self).addr() as u64, who, check]);
        }
        who
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: ours; volatile, so that the compiler does not think it useless.
        unsafe { (&raw mut self.check).write_volatile(self.who ^ !KEY) };
    }
}

/// How many payloads were dropped in this process.
pub fn dropped() -> usize {
    DROPPED.load(Ordering::Relaxed)
}

static LOCAL: AtomicPtr<CodeRegistry<Payload>> = AtomicPtr::new(ptr::null_mut());

/// A fresh registry, the one that [`local`] asks from now on. Leaked: a handler may be asking it.
pub fn fresh_registry() -> &'static CodeRegistry<Payload> {
    let registry = Box::leak(Box::new(CodeRegistry::new()));
    // Relaxed: handlers of this thread read it, and threads that it is handed to by other means.
    LOCAL.store(registry, Ordering::Relaxed);
    registry
}

/// The registry that was made last.
pub fn registry() -> &'static CodeRegistry<Payload> {
    // SAFETY: leaked boxes; every scenario makes one first.
    unsafe { &*LOCAL.load(Ordering::Relaxed) }
}

fn identify(found: Found<'_, Payload>) -> u64 {
    found.payload().who()
}

/// As a handler looks up.
pub fn local(pc: usize) -> Option<u64> {
    page().count_lookup();
    registry().with(pc, identify)
}

/// As a handler looks up whose code is in the process-wide registry. The three ways to ask it must agree, and the text
/// must be mapped.
pub fn global(pc: usize) -> Option<u64> {
    page().count_lookup();
    let (who, offset) = trapline::process::with(pc, |found| (code_identity(&found), found.offset()))?;
    // Images begin with a trap site.
    let traps = (offset == 0).then_some(TrapCode::Unreachable);
    if trapline::process::trap_code(pc) != traps {
        end(Verdict::WrongAnswer, [pc as u64, u64::MAX, who]);
    }
    Some(who)
}

/// Text that says who it is: `ud2; ret; nop`, and the number.
pub fn text(who: u64) -> Vec<u8> {
    [&[0x0f, 0x0b, 0xc3, 0x90], &who.to_le_bytes()[..]].concat()
}

/// The file of an image with such a text.
pub fn file(who: u64) -> Vec<u8> {
    ImageBuilder::new().text(text(who)).trap(0, TrapCode::Unreachable).finish().expect("a small image")
}

/// A published image from a file of ours.
pub fn load(file: &[u8]) -> Arc<Image> {
    Arc::new(Image::parse(file).expect("our own image").publish().expect("memory for a page"))
}

/// A published image that says who it is.
pub fn image(who: u64) -> Arc<Image> {
    load(&file(who))
}

/// Who the code found says it is: by the image's text, and by the text that is executed.
pub fn code_identity(found: &Found<'_, RegisteredText>) -> u64 {
    let who = text_identity(found.payload().image().text());
    // SAFETY: executed text is readable for as long as it is found; private copies are handed out as addresses only.
    let executed = unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(found.range().start), 12) };
    if text_identity(executed) == who { who } else { u64::MAX - 2 }
}

pub fn text_identity(text: &[u8]) -> u64 {
    let number = text.get(4..12).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    // SAFETY: a reference; volatile, so that the mapping is read now.
    let first = unsafe { text.as_ptr().read_volatile() };
    if first == 0x0f { number } else { u64::MAX }
}
