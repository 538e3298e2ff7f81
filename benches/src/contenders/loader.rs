//! What the C library knows: glibc's `_dl_find_object` finds the loaded object that holds an address. Unwinders use it.

use super::{Answer, Contender};
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ops::Range;
use core::ptr;

/// What it finds, as `dlfcn.h` has it.
#[repr(C)]
struct Object {
    flags: u64,
    map_start: *const c_void,
    map_end: *const c_void,
    link_map: *const usize,
    eh_frame: *const c_void,
    reserved: [u64; 7],
}

type Find = unsafe extern "C" fn(*const c_void, *mut Object) -> c_int;

/// glibc's function, from 2.35 on.
pub struct Loader(Find);

impl Loader {
    /// If the C library has it.
    pub fn new() -> Option<Self> {
        // SAFETY: the name is a string; the result is null or a function of this type.
        unsafe {
            let function = libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr());
            (!function.is_null()).then(|| Self(core::mem::transmute::<*mut c_void, Find>(function)))
        }
    }

    #[inline(always)]
    fn object(&self, pc: usize) -> Option<Object> {
        let mut object = MaybeUninit::<Object>::uninit();
        // SAFETY: takes any address, and fills in what it is given if it returns 0.
        unsafe { (self.0(ptr::without_provenance(pc), object.as_mut_ptr()) == 0).then(|| object.assume_init()) }
    }

    /// The addresses of the object that holds `pc`.
    pub fn range(&self, pc: usize) -> Option<Range<usize>> {
        self.object(pc).map(|object| object.map_start.addr()..object.map_end.addr())
    }
}

impl Contender for Loader {
    type State<'s> = &'s Self;

    fn start(&self) -> Self::State<'_> {
        self
    }

    #[inline(always)]
    fn find(this: &mut Self::State<'_>, pc: usize) -> Option<Answer> {
        // As much as the others read of a payload.
        // SAFETY: the object is loaded and stays so, and has a record that begins with a number.
        this.object(pc).map(|object| (object.map_start.addr(), unsafe { object.link_map.read() } & (1 << 63)))
    }
}

/// The addresses of the objects that are loaded into this process, as `loader` finds them.
pub fn objects(loader: &Loader) -> Vec<Range<usize>> {
    unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, list: *mut c_void) -> c_int {
        // SAFETY: the caller's list, and what the C library promises of its record.
        unsafe {
            let headers = core::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum));
            let text = headers.iter().find(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0);
            if let Some(text) = text {
                (*list.cast::<Vec<usize>>()).push(((*info).dlpi_addr + text.p_vaddr) as usize);
            }
        }
        0
    }
    let mut addresses: Vec<usize> = Vec::new();
    // SAFETY: `note` gets the list that it expects.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut addresses).cast()) };
    let mut ranges: Vec<_> = addresses.into_iter().filter_map(|pc| loader.range(pc)).collect();
    ranges.sort_by_key(|range| range.start);
    ranges.dedup();
    ranges
}
