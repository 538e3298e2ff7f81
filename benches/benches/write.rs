//! One registration and its removal, by contender and number of ranges.

use benches::contenders::{Handler, Locked, Write, registry};
use benches::harness::pin_to;
use benches::world::{Payload, Rng, World};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn write(criterion: &mut Criterion) {
    pin_to(0);
    let payload = Payload::new(0);
    let mut group = criterion.benchmark_group("register and unregister");
    for n in [16, 1_000, 10_000, 100_000, 1_000_000] {
        let world = World::new(n);
        let (ours, locked) = (Handler(registry(&world)), Locked::new(&world));
        let contenders: [(&str, &dyn Write); 2] = [("trapline", &ours), ("locked map", &locked)];
        for (name, contender) in contenders {
            let mut rng = Rng::new(4711);
            group.bench_function(BenchmarkId::new(name, n), |bencher| {
                bencher.iter(|| contender.pair(world.free[rng.below(world.free.len())], &payload));
            });
        }
    }
}

criterion_group!(group, write);
criterion_main!(group);
