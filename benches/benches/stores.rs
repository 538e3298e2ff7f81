//! A store's life, by what it is made of.

use benches::harness::pin_to;
use benches::work::instantiate::PLANS;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn stores(criterion: &mut Criterion) {
    pin_to(0);
    let mut group = criterion.benchmark_group("store");
    // With one thread, what threads share makes no difference.
    for (name, plan, _) in PLANS.iter().filter(|(_, plan, _)| !plan.own) {
        for (contender, who) in plan.contenders(1).iter().zip(["trapline", "maps"]) {
            group.bench_function(BenchmarkId::new(who, name), |bencher| bencher.iter(|| contender.instantiate(0)));
        }
    }
}

criterion_group!(group, stores);
criterion_main!(group);
