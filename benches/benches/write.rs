//! One registration and its removal, by contender and number of ranges.

use benches::contenders::{ALL, make};
use benches::harness::pin_to;
use benches::work::write::WRITERS;
use benches::world::{Payload, Rng, World};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn write(criterion: &mut Criterion) {
    pin_to(0);
    let payload = Payload::new(0);
    let mut group = criterion.benchmark_group("register and unregister");
    for n in [16, 1_000, 10_000, 100_000, 1_000_000] {
        let world = World::new(n);
        // What is copied as a whole takes too long for many.
        for kind in ALL.iter().filter(|kind| WRITERS.contains(&kind.name) && (n <= 10_000 || !kind.copies)) {
            let contender = make(kind, &world);
            let Some(writer) = contender.writer() else { continue };
            let mut rng = Rng::new(4711);
            group.bench_function(BenchmarkId::new(kind.name, n), |bencher| {
                bencher.iter(|| writer.pair(&world.free[rng.below(world.free.len())], &payload));
            });
        }
    }
}

criterion_group!(group, write);
criterion_main!(group);
