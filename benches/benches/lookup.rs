//! One lookup, by contender and number of ranges.

use benches::contenders::{ALL, Job, make};
use benches::harness::pin_to;
use benches::world::{Pcs, World};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn lookup(criterion: &mut Criterion) {
    const COUNT: usize = 4096;
    pin_to(0);
    for n in [16, 1_000, 10_000, 100_000] {
        let world = World::new(n);
        let pcs = world.pcs(1 << 16, Pcs::Uniform);
        let mut group = criterion.benchmark_group(format!("lookup/{n}"));
        group.throughput(Throughput::Elements(COUNT as u64));
        for kind in ALL {
            let contender = make(kind, &world);
            for (chain, dependent) in [("independent", false), ("dependent", true)] {
                let mut first = 0;
                let mut session = contender.session();
                group.bench_function(BenchmarkId::new(kind.name, chain), |bencher| {
                    bencher.iter(|| {
                        first += COUNT;
                        session.run(&Job { pcs: &pcs, first, count: COUNT, dependent })
                    });
                });
            }
        }
    }
}

criterion_group!(group, lookup);
criterion_main!(group);
