//! Does one kind of thing often, for callgrind: `probe with|guard|write [ranges] [times]`, `probe store [times]`.

use benches::contenders::{Handler, Write, registry};
use benches::probe::{probe_guard, probe_with};
use benches::stores::{Instantiate, Ours};
use benches::world::{Payload, World};
use core::hint::black_box;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize, or| args.get(i).map_or(or, |arg| arg.parse().expect("a number"));
    if args.get(1).is_some_and(|arg| arg == "store") {
        return probe_stores(&Ours::new(1), number(2, 10_000));
    }
    let (n, times): (usize, usize) = (number(2, 1_000), number(3, 10_000));
    let world = World::new(n);
    let registry = registry(&world);
    let pcs = world.pcs(times);
    match args.get(1).map(String::as_str) {
        Some("with") => pcs.iter().for_each(|pc| _ = black_box(probe_with(registry, *pc))),
        Some("guard") => {
            let guard = registry.pin();
            pcs.iter().for_each(|pc| _ = black_box(probe_guard(&guard, *pc)));
        }
        Some("write") => {
            let (handler, payload) = (Handler(registry), Payload::new(0));
            probe_pairs(&handler, &world, &payload, times);
        }
        _ => eprintln!("probe with|guard|write [ranges] [times] | store [times]"),
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
fn probe_pairs(handler: &Handler, world: &World, payload: &std::sync::Arc<Payload>, times: usize) {
    for place in world.free.iter().cycle().take(times) {
        handler.pair(*place, payload);
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
fn probe_stores(instances: &Ours, times: usize) {
    (0..times).for_each(|_| _ = black_box(instances.instantiate(0)));
}
