//! Images that are registered together are found together: also when memory runs out half-way, and also by a lookup that
//! comes in the middle.

#![cfg(feature = "image")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering::SeqCst};
use trapline::image::{Image, ImageBuilder};
use trapline::{RegisterError, process};

/// Looks up whenever memory is taken or given back, as a handler may; and has no blocks of a size from some time on.
struct Watched;

static LOOK_AT: AtomicUsize = AtomicUsize::new(0);
static SEEN: AtomicBool = AtomicBool::new(false);
static SCARCE: AtomicUsize = AtomicUsize::new(usize::MAX);
static LEFT: AtomicIsize = AtomicIsize::new(0);

fn look() {
    let pc = LOOK_AT.load(SeqCst);
    if pc != 0 && process::with(pc, |_| ()).is_some() {
        SEEN.store(true, SeqCst);
    }
}

// SAFETY: the system's allocator, which now and then has nothing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        look();
        if layout.size() == SCARCE.load(SeqCst) && LEFT.fetch_sub(1, SeqCst) <= 0 {
            return ptr::null_mut();
        }
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        look();
        // SAFETY: the caller's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

fn image() -> Arc<Image> {
    let file = ImageBuilder::new().text([0x90; 32]).finish().unwrap();
    Arc::new(Image::parse(&file).unwrap().publish().unwrap())
}

#[test]
fn no_lookup_finds_an_image_of_a_batch_that_is_refused() {
    drop(process::register(image()).unwrap());
    let images = [image(), image(), image()];
    LOOK_AT.store(images[0].text_range().start, SeqCst);
    // What the first image takes is there: a probe, and the `Arc` itself.
    LEFT.store(2, SeqCst);
    SCARCE.store(size_of::<process::RegisteredText>() + 2 * size_of::<usize>(), SeqCst);
    let result = process::register_all(images.clone());
    SCARCE.store(usize::MAX, SeqCst);
    assert!(matches!(result, Err(RegisterError::OutOfMemory { ref range, .. }) if *range == images[1].text_range()));
    assert!(!SEEN.load(SeqCst), "a lookup found the first image, and none was registered");

    let registrations = process::register_all(images.clone()).unwrap();
    assert!(images.iter().all(|image| process::with(image.text_range().start, |_| ()).is_some()));
    LOOK_AT.store(0, SeqCst);
    assert_eq!(registrations.len(), 3);
}
