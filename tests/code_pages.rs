//! The pages that code lies on: where they come from, and that none stays executable when the code is gone.
//!
//! What changes the process for good, or brings it to its limits, happens in children.
#![cfg(target_os = "linux")]

mod common;

use std::ffi::c_void;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use common::in_child;
use trapline::image::{Image, ImageBuilder, ModuleIndex};
use trapline::process;
use trapline::store::{Engine, EngineCode, ModuleRegistry};

const PAGE: usize = 4096;

#[cfg(target_arch = "x86_64")]
const RETURN_41: &[u8] = &[0xb8, 41, 0, 0, 0, 0xc3]; // mov eax, 41; ret
#[cfg(target_arch = "x86_64")]
const TO_42: (usize, u8) = (1, 42);
#[cfg(target_arch = "aarch64")]
const RETURN_41: &[u8] = &[0x20, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6]; // mov w0, #41; ret
#[cfg(target_arch = "aarch64")]
const TO_42: (usize, u8) = (0, 0x40);

/// An image whose text begins a page of its file, and ends in the middle of its third.
fn image() -> Vec<u8> {
    let mut text = RETURN_41.to_vec();
    text.resize(2 * PAGE + 100, 0xcc);
    let len = text.len();
    ImageBuilder::new().text(text).function(0..len, Some("answer")).section("more", *b"bytes").finish().unwrap()
}

fn call(code: &Image) -> i32 {
    // SAFETY: the text begins with a whole function of this type, and `code` outlives the call.
    let function: extern "C" fn() -> i32 = unsafe { code.entry(0) }.unwrap();
    function()
}

/// A file that is gone when the test is.
struct Temporary(PathBuf);

impl Temporary {
    fn new(directory: &Path, name: &str, bytes: &[u8]) -> Self {
        let path = directory.join(format!("trapline-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Temporary(path)
    }

    fn load(&self) -> trapline::image::Unpublished {
        // SAFETY: only this test knows the file.
        unsafe { Image::from_file_verified(&File::open(&self.0).unwrap()) }.unwrap()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What `/proc/self/smaps` says of the mappings that share bytes with `range`.
fn mappings(range: Range<usize>) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let bounds = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
    };
    let mut mappings: Vec<(Range<usize>, String)> = Vec::new();
    for line in all.lines() {
        match (bounds(line), mappings.last_mut()) {
            (Some(bounds), _) => mappings.push((bounds, line.to_owned())),
            (None, Some((_, mapping))) => *mapping = format!("{mapping}\n{line}"),
            (None, None) => {}
        }
    }
    mappings.retain(|(bounds, _)| bounds.start < range.end && range.start < bounds.end);
    mappings.into_iter().map(|(_, mapping)| mapping).collect()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn unchanged_code_is_executed_from_the_pages_of_its_file() {
    in_child("", || {
        let temporary = Temporary::new(&std::env::temp_dir(), "unchanged", &image());
        let before = descriptors();
        let unpublished = temporary.load();
        let address = unpublished.text().as_ptr().addr();
        assert!(mappings(address..address + 1)[0].contains(" rw-p "), "not executable yet");
        let code = unpublished.publish().unwrap();
        assert_eq!(descriptors(), before);
        assert_eq!(code.text_range().start, address);
        assert_eq!(call(&code), 41);
        let [mapping] = &mappings(code.text_range())[..] else { panic!("more than one mapping") };
        assert!(mapping.contains(" r-xp ") && mapping.contains(temporary.0.to_str().unwrap()), "{mapping}");
        assert!(mapping.lines().any(|line| line.split_whitespace().eq(["Anonymous:", "0", "kB"])), "{mapping}");
        // SAFETY: the pages are mapped whole, and nobody writes to them.
        let behind = unsafe { std::slice::from_raw_parts(code.text().as_ptr_range().end, PAGE - 100) };
        assert!(behind.iter().all(|byte| *byte == 0), "bytes that are no text are executable");
    })
    .well();
}

#[test]
fn code_that_was_changed_is_executed_as_it_was_changed() {
    in_child("", || {
        let file = image();
        let temporary = Temporary::new(&std::env::temp_dir(), "changed", &file);
        let before = descriptors();
        let mut unpublished = temporary.load();
        unpublished.text_mut()[TO_42.0] = TO_42.1;
        let code = unpublished.publish().unwrap();
        assert_eq!((call(&code), descriptors()), (42, before));
        assert_eq!(std::fs::read(&temporary.0).unwrap(), file);
    })
    .well();
}

/// From here on nothing that was writable becomes executable. Whether the kernel can do that.
fn deny_write_then_execute() -> bool {
    const PR_SET_MDWE: i32 = 65;
    const REFUSE_EXEC_GAIN: libc::c_ulong = 1;
    let none: libc::c_ulong = 0;
    // SAFETY: takes numbers only.
    let denied = unsafe { libc::prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, none, none, none) } == 0;
    if !denied {
        eprintln!("not tested: this kernel cannot deny execution of what was writable ({})", Error::last_os_error());
    }
    denied
}

#[test]
fn unchanged_code_is_published_where_nothing_writable_may_become_executable() {
    in_child("", || {
        let file = image();
        let temporary = Temporary::new(&std::env::temp_dir(), "denied", &file);
        if !deny_write_then_execute() {
            return;
        }
        let copied = Image::parse(&file).unwrap().publish();
        assert_eq!(copied.unwrap_err().kind(), ErrorKind::PermissionDenied, "the control");
        let unpublished = temporary.load();
        let address = unpublished.text().as_ptr().addr();
        let code = unpublished.publish().unwrap();
        assert_eq!((call(&code), code.text_range().start), (41, address));
    })
    .well();
}

#[test]
fn changed_code_is_an_error_where_nothing_writable_may_become_executable() {
    in_child("", || {
        let temporary = Temporary::new(&std::env::temp_dir(), "denied-changed", &image());
        if !deny_write_then_execute() {
            return;
        }
        let mut unpublished = temporary.load();
        unpublished.text_mut()[TO_42.0] = TO_42.1;
        let text = unpublished.text().as_ptr().addr();
        assert_eq!(unpublished.publish().unwrap_err().kind(), ErrorKind::PermissionDenied);
        assert!(!is_mapped(text), "what was not published is unmapped");
    })
    .well();
}

/// A directory on a file system that nothing may be executed from, as this thread sees it.
fn mounted_noexec() -> Option<PathBuf> {
    let directory = std::env::temp_dir().join(format!("trapline-noexec-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let place = std::ffi::CString::new(directory.to_str().unwrap()).unwrap();
    // SAFETY: strings that end, and a thread whose view of the file system is its own from the first call on.
    let mounted = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), libc::MS_REC | libc::MS_PRIVATE, ptr::null()) == 0
            && libc::mount(c"none".as_ptr(), place.as_ptr(), c"tmpfs".as_ptr(), libc::MS_NOEXEC, ptr::null()) == 0
    };
    if !mounted {
        eprintln!("not tested: no file system can be mounted here ({})", Error::last_os_error());
        let _ = std::fs::remove_dir(directory);
        return None;
    }
    Some(directory)
}

#[test]
fn code_on_a_file_system_without_execution_is_executed_from_a_copy_at_its_address() {
    in_child("", || {
        let Some(directory) = mounted_noexec() else { return };
        let temporary = Temporary::new(&directory, "noexec", &image());
        let opened = File::open(&temporary.0).unwrap();
        // SAFETY: a mapping that nothing uses.
        let by_hand = unsafe {
            use std::os::fd::AsRawFd;
            let rights = libc::PROT_READ | libc::PROT_EXEC;
            libc::mmap(ptr::null_mut(), PAGE, rights, libc::MAP_PRIVATE, opened.as_raw_fd(), 0)
        };
        assert_eq!(by_hand, libc::MAP_FAILED, "the control");
        for change in [false, true] {
            let mut unpublished = temporary.load();
            let address = unpublished.text().as_ptr().addr();
            if change {
                unpublished.text_mut()[TO_42.0] = TO_42.1;
            }
            let code = unpublished.publish().unwrap();
            assert_eq!((call(&code), code.text_range().start), (if change { 42 } else { 41 }, address));
            assert_eq!(code.text()[RETURN_41.len()..], [0xcc; 2 * PAGE + 100][RETURN_41.len()..]);
            let [mapping] = &mappings(code.text_range())[..] else { panic!("more than one mapping") };
            assert!(mapping.contains(" r-xp ") && !mapping.contains("noexec"), "{mapping}");
            let text = code.text_range().start;
            drop(code);
            assert!(!is_mapped(text));
        }
        drop(temporary);
        // Only this thread sees the mount, and it is about to end.
        let _ = std::fs::remove_dir(directory);
    })
    .well();
}

fn is_mapped(address: usize) -> bool {
    let mut resident = 0_u8;
    let page = ptr::with_exposed_provenance_mut::<c_void>(address & !(PAGE - 1));
    // SAFETY: asks about addresses.
    unsafe { libc::mincore(page, PAGE, (&raw mut resident).cast()) == 0 }
}

/// Whether a byte can be read, found out without a signal.
fn is_readable(address: usize) -> bool {
    let mut pipe = [0; 2];
    // SAFETY: room for two descriptors, which are closed again; the kernel checks the address.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        let read = libc::write(pipe[1], ptr::with_exposed_provenance(address), 1) == 1;
        pipe.iter().for_each(|descriptor| assert_eq!(libc::close(*descriptor), 0));
        read
    }
}

/// So many mappings that the kernel allows no more.
struct Filler {
    start: usize,
    pages: usize,
}

impl Filler {
    fn new() -> Option<Filler> {
        let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        if limit > 1 << 21 {
            eprintln!("not tested: this kernel allows {limit} mappings");
            return None;
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a mapping that nothing uses.
        let start = unsafe { libc::mmap(ptr::null_mut(), 2 * limit * PAGE, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        let mut filler = Filler { start: start.expose_provenance(), pages: 0 };
        // Every second page has other rights than its neighbours: two more mappings each.
        while filler.protect(filler.pages, libc::PROT_READ) {
            filler.pages += 1;
        }
        assert!(filler.pages < limit, "no limit was reached");
        Some(filler)
    }

    fn protect(&self, page: usize, rights: i32) -> bool {
        // SAFETY: pages of our own that nothing uses.
        unsafe {
            libc::mprotect(ptr::with_exposed_provenance_mut(self.start + 2 * page * PAGE + PAGE), PAGE, rights) == 0
        }
    }

    /// Makes room for so many mappings.
    fn give_back(&mut self, mappings: usize) {
        for _ in 0..mappings.div_ceil(2) {
            self.pages -= 1;
            assert!(self.protect(self.pages, libc::PROT_NONE));
        }
    }
}

#[test]
fn code_dropped_at_the_limit_of_mappings_is_not_executable_any_more() {
    in_child("", || {
        const ROOM: usize = 1_000;
        let file = ImageBuilder::new().text(RETURN_41).text_align(16).finish().unwrap();
        let load = || Image::parse(&file).ok()?.publish().ok();
        let mut all = Vec::with_capacity(3 * ROOM);
        let mut places = Vec::with_capacity(3 * ROOM);
        let Some(mut filler) = Filler::new() else { return };
        filler.give_back(ROOM);
        while let Some(code) = load()
            && all.len() < 3 * ROOM
        {
            places.push(code.text_range().start);
            all.push(Some(code));
        }
        assert!(all.len() > ROOM / 2, "{} images", all.len());
        all.iter_mut().step_by(2).for_each(|code| drop(code.take()));
        assert_eq!(process::mapping_stats().refused_ranges, 0, "nothing had to be split");
        let executable = places.iter().step_by(2).filter(|place| is_readable(**place)).count();
        assert_eq!(executable, 0, "texts of {} that were dropped", all.len() / 2);
        assert!(all.iter().flatten().all(|code| call(code) == 41));
        assert!(load().is_some(), "there is room again");
        all.clear();
        assert_eq!(places.iter().filter(|place| is_mapped(**place)).count(), 0);
        assert_eq!((process::mapping_stats().refused_ranges, process::mapping_stats().refused_bytes), (0, 0));
    })
    .well();
}

#[test]
fn private_copies_dropped_at_the_limit_of_mappings_are_not_executable_any_more() {
    in_child("", || {
        const ROOM: usize = 1_000;
        let file = ImageBuilder::new().text(RETURN_41).text_align(16).finish().unwrap();
        let engine = Engine::new();
        let code = EngineCode::new(&engine, Image::parse(&file).unwrap().publish().unwrap()).unwrap();
        let module = code.module(ModuleIndex::new(0)).unwrap();
        let mut all = Vec::with_capacity(3 * ROOM);
        let mut places = Vec::with_capacity(3 * ROOM);
        // What the registry allocates on the way up is there when it is needed again.
        let store = |count: usize| {
            let mut store = ModuleRegistry::with_guest_debugging(&engine);
            (count < 3 * ROOM && store.register_module(module).is_ok()).then_some(store)
        };
        let Some(mut filler) = Filler::new() else { return };
        filler.give_back(ROOM);
        while let Some(store) = store(all.len()) {
            places.push(store.store_code(&code).unwrap().base().unwrap().as_usize());
            all.push(Some(store));
        }
        assert!(all.len() > ROOM / 2, "{} copies", all.len());
        all.iter_mut().step_by(2).for_each(|store| drop(store.take()));
        process::reclaim();
        assert_eq!(process::mapping_stats().refused_ranges, 0, "nothing had to be split");
        let executable = places.iter().step_by(2).filter(|place| is_readable(**place)).count();
        assert_eq!(executable, 0, "copies of {} that were dropped", all.len() / 2);
        all.clear();
        process::reclaim();
        assert_eq!(places.iter().filter(|place| is_mapped(**place)).count(), 0);
        assert_eq!(process::mapping_stats().refused_ranges, 0);
    })
    .well();
}

/// Executable pages of somebody else's on both sides of a text, so that the kernel takes all three for one mapping.
fn hem_in(text: usize) -> bool {
    [text - PAGE, text + PAGE].into_iter().all(|place| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let place = ptr::with_exposed_provenance_mut(place);
        // SAFETY: replaces nothing. As other compilers do: written, then executable.
        unsafe {
            if libc::mmap(place, PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) != place {
                return false;
            }
            place.cast::<u8>().write(0xc3);
            libc::mprotect(place, PAGE, libc::PROT_READ | libc::PROT_EXEC) == 0
        }
    })
}

/// Whether the kernel can make pages inaccessible without splitting a mapping.
fn has_guard_pages() -> bool {
    const MADV_GUARD_INSTALL: i32 = 102;
    let page = common::forbidden_page();
    // SAFETY: a page that nothing uses.
    unsafe { libc::madvise(page, PAGE, MADV_GUARD_INSTALL) == 0 }
}

#[test]
fn code_that_the_kernel_refuses_to_unmap_is_inaccessible_until_it_agrees() {
    in_child("", || {
        let file = ImageBuilder::new().text(RETURN_41).text_align(16).finish().unwrap();
        let load = || Image::parse(&file).unwrap().publish().unwrap();
        let mut codes: Vec<_> = (0..40).map(|_| Arc::new(load())).collect();
        let start = |code: &Arc<Image>| code.text_range().start;
        let Some(at) = codes.iter().position(|code| hem_in(start(code))) else {
            return eprintln!("not tested: no text has room on both sides");
        };
        let (code, guards) = (codes.swap_remove(at), has_guard_pages());
        let text = start(&code);
        if mappings(text - PAGE..text + 2 * PAGE).len() != 1 {
            return eprintln!("not tested: the kernel did not merge the mappings");
        }
        let Some(mut filler) = Filler::new() else { return };
        assert_eq!(call(&code), 41);
        drop(code);
        let stats = process::mapping_stats();
        assert_eq!((stats.refused_ranges, stats.refused_bytes), (1, PAGE));
        assert!(!guards || !is_readable(text), "what is dropped can be executed");
        assert!(is_readable(text - PAGE) && is_readable(text + PAGE), "somebody else's is left alone");
        // Still refused.
        process::reclaim();
        assert_eq!(process::mapping_stats(), stats);
        filler.give_back(20);
        // Any other unmapping takes it along.
        drop(codes);
        assert_eq!(process::mapping_stats().refused_ranges, 0);
        assert!(!is_mapped(text));
        assert!(is_readable(text - PAGE) && is_readable(text + PAGE), "somebody else's is left alone");
    })
    .well();
}

#[test]
fn what_the_kernel_refused_to_unmap_is_unmapped_by_reclaiming() {
    in_child("", || {
        let file = ImageBuilder::new().text(RETURN_41).text_align(16).finish().unwrap();
        let load = || Image::parse(&file).unwrap().publish().unwrap();
        let mut refused = Vec::new();
        let codes: Vec<_> = (0..40).map(|_| load()).filter(|code| hem_in(code.text_range().start)).collect();
        let Some(mut filler) = Filler::new() else { return };
        for code in codes {
            refused.push(code.text_range().start);
            drop(code);
        }
        // Neighbours of some were neighbours of others.
        let there = refused.iter().filter(|text| is_mapped(**text)).count();
        assert_eq!(process::mapping_stats().refused_ranges, there);
        filler.give_back(200);
        process::reclaim();
        assert_eq!(process::mapping_stats().refused_ranges, 0);
        assert!(!refused.iter().any(|text| is_mapped(*text)));
        if there == 0 {
            eprintln!("not tested: the kernel refused nothing");
        }
    })
    .well();
}
