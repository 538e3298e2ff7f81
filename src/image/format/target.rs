//! Which machine an image is for.

use object::{Endianness, elf};

/// A machine that images can be made for. Only the host's own can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// x86-64, little-endian.
    X86_64,
    /// AArch64, little-endian.
    Aarch64,
    /// RISC-V, 64 bits, little-endian.
    Riscv64,
    /// IBM Z, 64 bits, big-endian.
    S390x,
}

impl Target {
    /// The machine that this program was compiled for, or `None` if there are no images for it.
    #[must_use]
    pub const fn host() -> Option<Target> {
        if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
            Some(Target::X86_64)
        } else if cfg!(all(target_arch = "aarch64", target_endian = "little", target_pointer_width = "64")) {
            Some(Target::Aarch64)
        } else if cfg!(target_arch = "riscv64") {
            Some(Target::Riscv64)
        } else if cfg!(target_arch = "s390x") {
            Some(Target::S390x)
        } else {
            None
        }
    }

    /// The number in the header's `e_machine`.
    pub(crate) fn machine(self) -> u16 {
        match self {
            Target::X86_64 => elf::EM_X86_64,
            Target::Aarch64 => elf::EM_AARCH64,
            Target::Riscv64 => elf::EM_RISCV,
            Target::S390x => elf::EM_S390,
        }
        .0
    }

    pub(crate) fn endianness(self) -> Endianness {
        match self {
            Target::S390x => Endianness::Big,
            Target::X86_64 | Target::Aarch64 | Target::Riscv64 => Endianness::Little,
        }
    }

    /// The largest page that the machine is run with, in bytes.
    pub(crate) fn max_page_size(self) -> u64 {
        match self {
            Target::Aarch64 => 0x1_0000,
            Target::X86_64 | Target::Riscv64 | Target::S390x => 0x1000,
        }
    }
}
