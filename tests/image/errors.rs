//! What errors say: things by the names that users know them by, one thing in the singular.

use std::env::consts::ARCH;
use std::error::Error;

use trapline::image::{Image, ImageBuilder, ImageError, Target};

use crate::support::{built, defined, error, find, out_of_guest, small, small_with, words};

/// The builder's error.
fn refused(image: &mut ImageBuilder) -> String {
    image.finish().unwrap_err().to_string()
}

#[test]
fn a_foreign_machine_is_named() {
    for (target, name) in [(Target::X86_64, "x86_64"), (Target::Aarch64, "aarch64"), (Target::Riscv64, "riscv64")] {
        if Some(target) != Target::host() {
            let text = error(&built(small().target(target))).to_string();
            assert_eq!(text, format!("the image is for {name}; this process is {ARCH}; build it for {ARCH}"));
        }
    }
    let mut other = built(&mut small());
    for (number, name) in [(40_u16, "arm"), (3, "x86"), (258, "loongarch64"), (4711, "ELF machine 4711")] {
        other[18..20].copy_from_slice(&number.to_le_bytes());
        let text = error(&other).to_string();
        assert!(text.starts_with(&format!("the image is for {name}; this process is {ARCH}; ")), "{text}");
    }
}

#[test]
fn a_foreign_width_is_said_in_bits() {
    let mut narrow = built(&mut small());
    narrow[4] = 1;
    let text = error(&narrow).to_string();
    assert!(text.starts_with("the image is for a machine of 32 bits; ") && text.contains(ARCH), "{text}");
}

#[test]
fn a_foreign_byte_order_is_named() {
    let text = error(&built(small().target(Target::S390x))).to_string();
    assert!(text.starts_with("the image is big-endian; this process is little-endian "), "{text}");
}

#[test]
fn what_a_linker_made_of_an_image_is_named() {
    let mut linked = built(&mut small());
    linked[16] = 3;
    let text = error(&linked).to_string();
    assert!(text.starts_with("the image is a shared object, not a relocatable file"), "{text}");
}

#[test]
fn a_section_is_named_by_what_it_is() {
    for (name, what) in [
        (".text", "the text (section .text)"),
        (".trapline.traps", "the table of trap sites (section .trapline.traps)"),
        (".trapline.funcs", "the table of functions (section .trapline.funcs)"),
        (".trapline.keys", "the table of function keys (section .trapline.keys)"),
        (".trapline.names", "the table of function names (section .trapline.names)"),
        (".trapline.modules", "the table of modules (section .trapline.modules)"),
        (".trapline.sigs", "the table of signatures (section .trapline.sigs)"),
        (".trapline.addrs", "the map of source offsets (section .trapline.addrs)"),
        (".trapline.patches", "the table of patches (section .trapline.patches)"),
        (".trapline.config", "the configuration (section .trapline.config)"),
        (".trapline.user.types", "the embedder's section \"types\""),
    ] {
        let mut file = built(&mut small());
        let (header, _) = find(&file, name);
        file[header + 32..header + 40].copy_from_slice(&u64::MAX.to_le_bytes());
        let text = error(&file).to_string();
        assert!(text.starts_with(what), "{text}");
        let (_, checksum) = find(&file, ".trapline.check");
        let mut shared = built(&mut small());
        shared[header + 24..header + 32].copy_from_slice(&(checksum.start as u64).to_le_bytes());
        let text = error(&shared).to_string();
        assert!(text.contains(what) && text.contains("the checksum (section .trapline.check)"), "{text}");
    }
}

#[test]
fn one_thing_is_singular() {
    let missing = |image: &mut ImageBuilder| refused(image.text([0x90; 8]).compiled(0..4, out_of_guest(3), None));
    assert_eq!(
        missing(ImageBuilder::new().signature([1])),
        "trampoline for signature 3, but the image declares only 1 signature; add its signature"
    );
    assert_eq!(
        missing(&mut ImageBuilder::new()),
        "trampoline for signature 3, but the image declares no signature; add its signature"
    );
    let missing = |image: &mut ImageBuilder| refused(image.text([0x90; 8]).compiled(0..4, defined(5, 0), None));
    assert_eq!(
        missing(&mut ImageBuilder::new()),
        "function 0 of module 5, but the image declares only 1 module; describe its module"
    );
    let mut two = ImageBuilder::new();
    assert_eq!(
        missing(two.module(Default::default()).module(Default::default())),
        "function 0 of module 5, but the image declares only 2 modules; describe its module"
    );
    let text = refused(ImageBuilder::new().text([0x90]).function(0..1, None).patch(0, [1], []));
    assert!(text.contains("has 1 byte when enabled and 0 when disabled"), "{text}");
    let text = error(&small_with(&[(".trapline.traps", &[0])])).to_string();
    assert!(text.contains(" has 1 byte, but its contents call for 4"), "{text}");
    let text = error(&small_with(&[(".trapline.traps", &words(&[1]))])).to_string();
    assert!(text.contains(" has 4 bytes, but its contents call for 9"), "{text}");
}

#[test]
fn an_error_does_not_say_what_its_source_says() {
    let directory = std::fs::File::open(std::env::temp_dir()).unwrap();
    // SAFETY: no directory can be mapped.
    let error = unsafe { Image::from_file(&directory) }.unwrap_err();
    let ImageError::Io(source) = &error else { panic!("{error:?}") };
    assert_eq!(error.source().unwrap().to_string(), source.to_string());
    assert!(!error.to_string().contains(&source.to_string()), "{error}");
}
