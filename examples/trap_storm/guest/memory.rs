//! The world of one guest thread: guarded linear memory, a truncated file, a function table.

use super::{Constants, GuestImage, Kind, mix};
use std::ffi::c_void;
use std::io;
use std::ptr;

/// Accessible bytes of linear memory.
pub const MEMORY_LEN: usize = 64 << 10;
/// Reserved behind the base: every 32-bit address and an access of eight bytes at the last one. Whatever guest code
/// computes, it cannot reach host memory.
const RESERVED: usize = (4 << 30) + (64 << 10);
/// Bytes in the file.
pub const FILE_LEN: usize = 4 << 10;
/// Bytes mapped of it, a power of two: what lies beyond the file's last page is a bus error, not a segmentation fault.
pub const FILE_MAP: usize = 64 << 10;

/// What guest code finds through its first argument. The offsets of the fields are baked into the code.
#[repr(C)]
pub struct Context {
    pub memory: *mut u8,
    pub table: *const TableEntry,
    pub table_len: u64,
    pub stack_limit: u64,
    pub file: *const u8,
    pub host: usize,
    /// Guest code looks no further; the rest is for the host function: what to enter again.
    pub unreachable: usize,
    pub k: u64,
    /// How many traps the host function caught.
    pub nested_traps: u64,
}

/// One entry of a function table: 16 bytes, which guest code indexes by a shift.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TableEntry {
    code: usize,
    signature: u64,
}

/// What a slot of every image's table holds.
#[derive(Clone, Copy, Debug)]
pub enum Slot {
    Function(Kind),
    Null,
    ForeignSignature,
}

/// A table for one image, at the addresses where it was loaded.
pub struct Table(pub Vec<TableEntry>);

impl Table {
    pub const SLOTS: [Slot; 6] = [
        Slot::Function(Kind::Add),
        Slot::Function(Kind::Unreachable),
        Slot::Null,
        Slot::Function(Kind::SignedDiv),
        Slot::ForeignSignature,
        Slot::Function(Kind::CheckedAdd),
    ];

    /// The table of `image` with its text at `base`.
    pub fn new(image: &GuestImage, base: usize, constants: Constants) -> Table {
        let entry = |slot: &Slot| match *slot {
            Slot::Function(kind) => {
                TableEntry { code: base + image.function(kind).offset as usize, signature: constants.signature }
            }
            Slot::Null => TableEntry { code: 0, signature: constants.signature },
            Slot::ForeignSignature => TableEntry { code: base, signature: constants.signature ^ 2 },
        };
        Table(Self::SLOTS.iter().map(entry).collect())
    }
}

/// The word at `index` of fresh linear memory and of the file.
pub fn initial_word(index: u64) -> u64 {
    mix(index)
}

fn initial_bytes(len: usize) -> Vec<u8> {
    (0..len as u64 / 8).flat_map(|index| initial_word(index).to_ne_bytes()).collect()
}

/// A mapping, unmapped on drop.
struct Mapping {
    start: *mut c_void,
    len: usize,
}

impl Mapping {
    fn new(len: usize, protection: i32, flags: i32, file: i32) -> io::Result<Mapping> {
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, file, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this object's own, and whoever holds its address has borrowed the object.
        unsafe { libc::munmap(self.start, self.len) };
    }
}

/// The mappings that one guest thread works on.
pub struct World {
    memory: Mapping,
    file: Mapping,
}

impl World {
    pub fn new() -> io::Result<World> {
        let memory =
            Mapping::new(RESERVED, libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1)?;
        // SAFETY: the range is the start of the mapping made above.
        let opened = unsafe { libc::mprotect(memory.start, MEMORY_LEN, libc::PROT_READ | libc::PROT_WRITE) };
        if opened != 0 {
            return Err(io::Error::last_os_error());
        }
        let bytes = initial_bytes(MEMORY_LEN);
        // SAFETY: `MEMORY_LEN` bytes from the start were just made writable, and nobody else knows of them.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), memory.start.cast(), MEMORY_LEN) };
        Ok(World { memory, file: truncated_file()? })
    }

    pub fn memory(&self) -> *mut u8 {
        self.memory.start.cast()
    }

    pub fn file(&self) -> *const u8 {
        self.file.start.cast()
    }

    /// The word at a byte address of linear memory.
    pub fn word(&self, address: u64) -> u64 {
        assert!(address + 8 <= MEMORY_LEN as u64);
        // SAFETY: in bounds of the accessible part, by the assertion; only this thread's guest code writes to it.
        unsafe { self.memory().add(address as usize).cast::<u64>().read_unaligned() }
    }
}

/// A mapping that is longer than the file behind it.
fn truncated_file() -> io::Result<Mapping> {
    use std::io::Write;
    use std::os::fd::{AsRawFd, FromRawFd};

    // SAFETY: the name is a C string; the flags are valid.
    let descriptor = unsafe { libc::memfd_create(c"trap_storm".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open and nobody else's.
    let mut file = unsafe { std::fs::File::from_raw_fd(descriptor) };
    file.write_all(&initial_bytes(FILE_LEN))?;
    Mapping::new(FILE_MAP, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd())
}
