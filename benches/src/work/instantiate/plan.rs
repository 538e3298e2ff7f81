//! What stores are made of.

use super::{Maps, Ours};
use trapline::image::{DefinedFunctionIndex, FunctionKey, Image, ImageBuilder, ModuleDescription, ModuleIndex};

/// Someone who makes stores.
pub trait Instantiate: Sync {
    /// Makes a store, registers modules, looks one frame up, and drops the store; on thread `thread`. The result
    /// depends on the answer: the function's index in its module.
    fn instantiate(&self, thread: usize) -> usize;
}

/// What a store is made of, and what it is not made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How many images.
    pub images: usize,
    /// How many modules each image has; with more than one it is a component.
    pub modules: u32,
    /// How many functions each module has.
    pub functions: u32,
    /// Whether each thread has images of its own.
    pub own: bool,
    /// Whether the store executes private copies.
    pub private: bool,
}

/// From one function to the next, in bytes. The last sixteen of them belong to none.
pub(super) const FUNCTION_LEN: u32 = 256;

impl Plan {
    /// One module for all threads.
    pub const SHARED: Plan = Plan { images: 1, modules: 1, functions: 64, own: false, private: false };

    /// trapline, and the maps, checked against each other.
    pub fn contenders(&self, threads: usize) -> [Box<dyn Instantiate>; 2] {
        let contenders: [Box<dyn Instantiate>; 2] =
            [Box::new(Ours::new(self, threads)), Box::new(Maps::new(self, threads))];
        for thread in 0..threads {
            for contender in &contenders {
                assert_eq!(contender.instantiate(thread), self.function() as usize, "{self:?}");
            }
        }
        contenders
    }

    /// How many sets of images there are for so many threads.
    pub(super) fn sets(&self, threads: usize) -> usize {
        if self.own { threads } else { 1 }
    }

    /// The image that the frame is in.
    pub(super) fn image(&self) -> usize {
        6 % self.images
    }

    /// The module of the image that the frame is in.
    pub(super) fn module(&self) -> u32 {
        6 % self.modules
    }

    /// The function of the module that the frame is in.
    pub(super) fn function(&self) -> u32 {
        37 % self.functions
    }

    /// The frame's offset in the text.
    pub(super) fn offset(&self) -> usize {
        ((self.module() * self.functions + self.function()) * FUNCTION_LEN + 20) as usize
    }

    /// Whether images are registered as components.
    pub(super) fn is_component(&self) -> bool {
        self.modules > 1
    }

    /// Where each function begins, and its module: in the order of the text.
    pub(super) fn layout(&self) -> impl Iterator<Item = (u32, u32)> {
        let functions = self.functions;
        (0..self.modules * functions).map(move |i| (i * FUNCTION_LEN, i / functions))
    }

    /// A loaded image.
    pub(super) fn publish(&self) -> Image {
        let mut image = ImageBuilder::new();
        image.text(vec![0x90; (self.modules * self.functions * FUNCTION_LEN) as usize]);
        for _ in 0..self.modules {
            image.module(ModuleDescription::default());
        }
        for (start, module) in self.layout() {
            let function = start / FUNCTION_LEN - module * self.functions;
            let key = FunctionKey::Defined {
                module: ModuleIndex::new(module),
                function: DefinedFunctionIndex::new(function),
            };
            let start = start as usize;
            image.compiled(start..start + FUNCTION_LEN as usize - 16, key, None);
        }
        let image = image.finish().expect("a valid image");
        Image::parse(&image).and_then(|image| Ok(image.publish()?)).expect("loads")
    }
}
