//! Random words as a stack: the walk reads nothing else, ends, and finds what a naive one finds.

use proptest::prelude::*;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;
use trapline::image::{Image, ImageBuilder};
use trapline::{Backtrace, BacktraceEnd, CodeRegistry, PcKind, Registers, process};

const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;

/// One page of stack between two without access: a read outside kills the process.
struct Stack {
    words: *mut usize,
}

impl Stack {
    fn new() -> Stack {
        // SAFETY: a fresh mapping, of whose three pages the middle one is opened.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let mapping = libc::mmap(ptr::null_mut(), 3 * PAGE, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(mapping, libc::MAP_FAILED);
            let words = mapping.byte_add(PAGE);
            assert_eq!(libc::mprotect(words, PAGE, libc::PROT_READ | libc::PROT_WRITE), 0);
            words.expose_provenance();
            Stack { words: words.cast() }
        }
    }

    fn range(&self) -> Range<usize> {
        self.words.addr()..self.words.addr() + PAGE
    }

    fn fill(&mut self, words: &[usize]) {
        assert_eq!(words.len(), WORDS);
        // SAFETY: the page is this object's own and has room for so many words.
        unsafe { ptr::copy_nonoverlapping(words.as_ptr(), self.words, WORDS) };
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.words.cast::<libc::c_void>().byte_sub(PAGE), 3 * PAGE) };
    }
}

fn some_code() -> (process::Registration, Range<usize>) {
    let mut image = ImageBuilder::new();
    image.text([0x90; 256]);
    let image = Arc::new(Image::parse(&image.finish().unwrap()).unwrap().publish().unwrap());
    (process::register(image.clone()).unwrap(), image.text_range())
}

/// A word of the stack, before addresses are known.
#[derive(Clone, Copy, Debug)]
enum Word {
    /// So many bytes into the code, or just outside.
    Code(usize),
    /// So many bytes from the start of the stack, or just outside.
    Stack(usize),
    Any(usize),
}

impl Word {
    fn at(self, stack: &Range<usize>, code: &Range<usize>) -> usize {
        match self {
            Word::Code(offset) => code.start.wrapping_sub(1).wrapping_add(offset),
            Word::Stack(offset) => stack.start.wrapping_sub(32).wrapping_add(offset),
            Word::Any(word) => word,
        }
    }
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        8 => (0_usize..259).prop_map(Word::Code),
        8 => (0..PAGE / 16 + 4).prop_map(|index| Word::Stack(16 * index)),
        2 => (0..PAGE + 64).prop_map(Word::Stack),
        1 => prop::sample::select(vec![0, 1, 8, 16, usize::MAX, usize::MAX - 15, usize::MAX - 7]).prop_map(Word::Any),
        1 => any::<usize>().prop_map(Word::Any),
    ]
}

/// A record with a plausible chain: the next one a little above, the return address in the code.
fn plausible(index: usize, step: usize) -> [Word; 2] {
    [Word::Stack(32 + 16 * (index + 1 + step)), Word::Code(2 + (index * 7 + step) % 255)]
}

fn words() -> impl Strategy<Value = Vec<Word>> {
    let record = (0..3_usize, any::<bool>(), [word(), word()]);
    prop::collection::vec(record, WORDS / 2).prop_flat_map(|records| {
        // How many of the records are plausible: between none and all.
        (Just(records), 0..4_u8).prop_map(|(records, order)| {
            let pick = |(index, (step, wild, words)): (usize, (usize, bool, [Word; 2]))| match (order, wild) {
                (0, _) | (1, true) => words,
                (2, true) if index % 16 == 0 => words,
                _ => plausible(index, step),
            };
            records.into_iter().enumerate().flat_map(pick).collect()
        })
    })
}

/// The walk as its documentation tells it, over a slice.
fn naive(
    words: &[usize],
    page: &Range<usize>,
    code: &Range<usize>,
    frame: Registers,
    entry: usize,
    room: usize,
) -> (Vec<usize>, BacktraceEnd) {
    let mut found = vec![];
    if !code.contains(&frame.pc) {
        return (found, BacktraceEnd::HostFrame);
    }
    if room == 0 {
        return (found, BacktraceEnd::Full);
    }
    found.push(frame.pc);
    let (mut low, mut fp) = (frame.sp as u128, frame.fp as u128);
    let end = entry as u128;
    loop {
        if fp == 0 || fp >= end {
            return (found, BacktraceEnd::Complete);
        }
        if fp % 8 != 0 || fp < low || fp + 16 > end {
            return (found, BacktraceEnd::Corrupt);
        }
        let index = (fp as usize - page.start) / 8;
        let (saved, pc) = (words[index], words[index + 1]);
        if !code.contains(&pc.wrapping_sub(1)) {
            let left = saved == 0 || saved as u128 >= end;
            return (found, if left { BacktraceEnd::Complete } else { BacktraceEnd::HostFrame });
        }
        if found.len() == room {
            return (found, BacktraceEnd::Full);
        }
        found.push(pc);
        (low, fp) = (fp + 16, saved as u128);
    }
}

fn compare<const N: usize>(
    words: &[usize],
    stack: &Stack,
    code: &Range<usize>,
    frame: Registers,
    entry: usize,
) -> usize {
    let mut backtrace = Backtrace::<N>::new();
    // SAFETY: `frame.sp..entry` lies within the page, or is empty.
    unsafe { backtrace.walk(frame, entry) };
    let (found, end) = naive(words, &stack.range(), code, frame, entry, N);
    assert_eq!((crate::pcs(&backtrace), backtrace.end()), (found, end));
    crate::assert_kinds(&backtrace, PcKind::Interrupted);
    // In a registry of one's own.
    let own = CodeRegistry::new();
    let _registration = own.register(code.clone(), Arc::new(())).unwrap();
    let mut walked_in = Backtrace::<N>::new();
    // SAFETY: `frame.sp..entry` lies within the page, or is empty.
    own.view(|view| unsafe { walked_in.walk_in(view, frame, entry) });
    assert_eq!((crate::pcs(&walked_in), walked_in.end()), (crate::pcs(&backtrace), backtrace.end()));
    assert!(backtrace.len() <= 1 + entry.saturating_sub(frame.sp) / 16);
    backtrace.len()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn random_stacks_are_walked_within_their_bounds(
        words in words(),
        pc in word(),
        fp in prop_oneof![3 => (0_usize..8).prop_map(|index| Word::Stack(32 + 16 * index)), 1 => word()],
        sp in prop_oneof![3 => Just(0_usize), 1 => 0..=PAGE],
        entry in prop_oneof![3 => Just(PAGE), 1 => 0..=PAGE],
    ) {
        let (_registration, code) = some_code();
        let mut stack = Stack::new();
        let page = stack.range();
        let words: Vec<_> = words.iter().map(|word| word.at(&page, &code)).collect();
        stack.fill(&words);
        let frame = Registers::new(code.start + 5, page.start + sp, fp.at(&page, &code));
        let entry = page.start + entry;
        compare::<512>(&words, &stack, &code, frame, entry);
        compare::<5>(&words, &stack, &code, frame, entry);
        compare::<0>(&words, &stack, &code, frame, entry);
        compare::<512>(&words, &stack, &code, Registers::new(pc.at(&page, &code), frame.sp, frame.fp), entry);
        // Every frame pointer near the bounds.
        for fp in (page.start - 24..page.start + 24).chain(page.end - 24..page.end + 24) {
            compare::<512>(&words, &stack, &code, Registers::new(frame.pc, frame.sp, fp), entry);
        }
    }
}

#[test]
fn a_stack_full_of_records_is_walked_to_its_end() {
    let (_registration, code) = some_code();
    let mut stack = Stack::new();
    let page = stack.range();
    let words: Vec<_> = (0..WORDS / 2).flat_map(|index| [page.start + 16 * (index + 1), code.start + 9]).collect();
    stack.fill(&words);
    let frame = Registers::new(code.start, page.start, page.start);
    assert_eq!(compare::<512>(&words, &stack, &code, frame, page.end), 1 + WORDS / 2);
}

#[test]
fn a_frame_pointer_that_points_at_itself_or_back_ends_the_walk() {
    let (_registration, code) = some_code();
    let mut stack = Stack::new();
    let page = stack.range();
    for step in [-64_isize, -16, -8, 0, 8] {
        let words: Vec<_> = (0..WORDS / 2)
            .flat_map(|index| [(page.start + 16 * index).wrapping_add_signed(step), code.start + 9])
            .collect();
        stack.fill(&words);
        let frame = Registers::new(code.start, page.start, page.start + 256);
        assert_eq!(compare::<512>(&words, &stack, &code, frame, page.end), 2, "{step}");
    }
}
