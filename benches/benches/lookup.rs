//! One lookup, by contender and number of ranges.

use benches::contenders::{Job, lookups};
use benches::harness::pin_to;
use benches::world::World;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn lookup(criterion: &mut Criterion) {
    const COUNT: usize = 4096;
    pin_to(0);
    for n in [16, 1_000, 10_000, 100_000] {
        let world = World::new(n);
        let pcs = world.pcs(1 << 16);
        let mut group = criterion.benchmark_group(format!("lookup/{n}"));
        group.throughput(Throughput::Elements(COUNT as u64));
        for (name, contender) in lookups(&world) {
            for (chain, dependent) in [("independent", false), ("dependent", true)] {
                let mut first = 0;
                group.bench_function(BenchmarkId::new(name, chain), |bencher| {
                    bencher.iter(|| {
                        first += COUNT;
                        contender.run(&Job { pcs: &pcs, first, count: COUNT, dependent })
                    });
                });
            }
        }
    }
}

criterion_group!(group, lookup);
criterion_main!(group);
