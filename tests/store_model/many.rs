//! One store with ten thousand modules, and others that come and go beside it.

use crate::alone;
use crate::image::Blueprint;
use crate::loaded::Loaded;
use crate::random::Random;
use crate::twin::Twin;
use std::sync::Arc;
use trapline::image::ModuleIndex;
use trapline::process;
use trapline::store::{Engine, EngineCode};

const MODULES: usize = 10_000;

/// Images with `MODULES` modules in all: components of five hundred, and many of five or fewer.
fn load_all(engine: &Engine, random: &mut Random) -> Vec<(Arc<Loaded>, EngineCode)> {
    let mut all = Vec::new();
    let mut modules = 0;
    while modules < MODULES {
        let serial = all.len() as u64;
        let image = match serial {
            100 | 700 | 701 | 1_500 => Blueprint::of(random, serial, b"", 500, 300, 8_000),
            n if n % 8 == 0 => Blueprint::random(random, serial, b""),
            _ => {
                let modules = random.within(3..6);
                Blueprint::of(random, serial, b"", modules, 20, 300)
            }
        };
        modules += image.modules.len();
        let code = EngineCode::new(engine, image.image()).unwrap();
        all.push((Arc::new(Loaded::new(image, &code)), code));
    }
    all
}

/// Some of the images as a whole, all modules, in an order of their own.
fn fill(store: &mut Twin, all: &[(Arc<Loaded>, EngineCode)], random: &mut Random) {
    let mut parts = Vec::new();
    for (loaded, code) in all {
        parts.extend(code.modules().map(|module| (loaded, code, Some(module))));
        if random.once_in(3) {
            parts.push((loaded, code, None));
        }
    }
    random.shuffle(&mut parts);
    for (loaded, code, module) in parts {
        match module {
            Some(module) => store.register_module(loaded, module),
            None => store.register_code(loaded, code),
        }
    }
}

fn check_everywhere(store: &Twin, random: &mut Random) {
    let mut found = 0;
    for placed in &store.model.images {
        let image = &placed.loaded.image;
        let signature = random.pick(&placed.loaded.signatures);
        for pc in [0, image.text.len(), image.offset(random)].map(|offset| placed.base.wrapping_add(offset)) {
            store.check_pc(pc, signature.map_or(&[], std::slice::from_ref));
            found += usize::from(store.real.lookup_module(pc).is_some());
        }
        store.check_ids(&placed.loaded);
    }
    assert!(found > store.model.images.len() / 4, "few pcs were of a module");
}

#[test]
fn a_store_with_ten_thousand_modules_finds_every_one_while_other_stores_end() {
    let _alone = alone();
    let random = &mut Random::new(0x7e57);
    let engine = Engine::new();
    let all = load_all(&engine, random);
    let mut shared = Twin::new(&engine, false);
    let mut private = Twin::new(&engine, cfg!(unix));
    let mut passing = Twin::new(&engine, cfg!(unix));
    fill(&mut shared, &all, random);
    fill(&mut private, &all[..1_000], random);
    fill(&mut passing, &all[500..800], random);
    assert!(shared.model.modules.len() >= MODULES);
    let with_text = |loaded: &Loaded| !loaded.text.is_empty();
    let texts = all.iter().filter(|(loaded, _)| with_text(loaded)).count();
    let copies = private.model.images.iter().chain(&passing.model.images).filter(|placed| placed.is_private()).count();
    assert_eq!(process::stats().live_ranges, texts + copies);
    let types: Vec<_> =
        (0..).map(trapline::image::SignatureIndex::new).map_while(|index| all[100].1.signature_id(index)).collect();
    private.step(true);
    for store in [&shared, &private, &passing] {
        store.check_lists(&types);
        check_everywhere(store, random);
    }
    private.check_texts();

    let gone: Vec<_> =
        passing.model.images.iter().filter(|placed| placed.is_private()).map(|placed| placed.base).collect();
    drop(passing);
    assert!(gone.iter().all(|base| process::with(*base, |_| ()).is_none()));
    // From here on the stores alone keep the code.
    let unregistered =
        all.iter().filter(|(loaded, _)| shared.model.image(loaded).is_none() && with_text(loaded)).count();
    drop(all);
    private.step(false);
    for store in [&shared, &private] {
        store.check_lists(&types);
        check_everywhere(store, random);
        store.check_texts();
    }
    drop(private);
    check_everywhere(&shared, random);
    assert_eq!(process::stats().live_ranges, texts - unregistered);
    let first = shared.real.all_modules().next().unwrap();
    assert!(first.engine_code().module(ModuleIndex::new(500)).is_none());
    drop(shared);
    process::reclaim();
    let stats = process::stats();
    assert_eq!((stats.live_ranges, stats.retired_ranges, stats.retired_nodes), (0, 0, 0));
}
