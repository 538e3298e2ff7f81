//! Which modules of an image a store has registered.

use crate::allocate::{self, OutOfMemory};
use crate::image::ModuleIndex;

/// A bit for each module of an image. Those of up to 64 modules, which nearly all images have, are inline.
pub(super) struct Registered {
    first: u64,
    rest: Box<[u64]>,
}

impl Registered {
    /// `module`, if any, of an image with the given number of `modules`.
    #[inline]
    pub(super) fn new(modules: u32, module: Option<ModuleIndex>) -> Result<Self, OutOfMemory> {
        let words = modules.div_ceil(u64::BITS) as usize;
        let rest = if words > 1 { allocate::collect((1..words).map(|_| 0))? } else { Box::default() };
        let mut registered = Registered { first: 0, rest };
        if let Some(module) = module {
            registered.add(module);
        }
        Ok(registered)
    }

    #[inline]
    pub(super) fn has(&self, module: ModuleIndex) -> bool {
        let (word, bit) = place(module);
        let word = word.checked_sub(1).map_or(Some(&self.first), |rest| self.rest.get(rest));
        word.is_some_and(|word| word & bit != 0)
    }

    /// Does nothing if the image has no such module.
    #[inline]
    pub(super) fn add(&mut self, module: ModuleIndex) {
        let (word, bit) = place(module);
        if let Some(word) = word.checked_sub(1).map_or(Some(&mut self.first), |rest| self.rest.get_mut(rest)) {
            *word |= bit;
        }
    }
}

/// The word, the first one included, and the bit in it.
#[inline]
fn place(module: ModuleIndex) -> (usize, u64) {
    let index = module.as_u32();
    ((index / u64::BITS) as usize, 1 << (index % u64::BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_has_a_bit_of_its_own() {
        for modules in [0, 1, 63, 64, 65, 128, 129, 1_000] {
            for index in (0..modules).map(ModuleIndex::new) {
                let mut registered = Registered::new(modules, None).unwrap();
                registered.add(index);
                let others = (0..modules + 200).map(ModuleIndex::new).filter(|other| registered.has(*other));
                assert_eq!(others.collect::<Vec<_>>(), [index], "of {modules}");
            }
        }
    }
}
