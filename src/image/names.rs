//! Names of the sections of an image.

pub(crate) const MARKER: &str = ".trapline.image";
pub(crate) const TEXT: &str = ".text";
pub(crate) const TRAPS: &str = ".trapline.traps";
pub(crate) const FUNCTIONS: &str = ".trapline.funcs";
pub(crate) const KEYS: &str = ".trapline.keys";
pub(crate) const NAMES: &str = ".trapline.names";
pub(crate) const MODULES: &str = ".trapline.modules";
pub(crate) const SIGNATURES: &str = ".trapline.sigs";
pub(crate) const ADDRESSES: &str = ".trapline.addrs";
pub(crate) const PATCHES: &str = ".trapline.patches";
pub(crate) const CONFIGURATION: &str = ".trapline.config";
pub(crate) const CHECK: &str = ".trapline.check";
/// What all names but `.text` begin with.
pub(crate) const OURS: &str = ".trapline.";
/// What the sections of the embedder begin with.
pub(crate) const USER: &str = ".trapline.user.";
/// Not ours, but every file's: the names of all sections.
pub(crate) const SECTION_NAMES: &str = ".shstrtab";
/// No name of ours is longer, in bytes.
pub(crate) const MAX_LEN: usize = 255;
