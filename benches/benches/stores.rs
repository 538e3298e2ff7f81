//! A store that comes and goes: created, one loaded module registered, one frame looked up, dropped.

use benches::harness::pin_to;
use benches::stores::{Instantiate, Maps, Ours};
use criterion::{Criterion, criterion_group, criterion_main};

fn stores(criterion: &mut Criterion) {
    pin_to(0);
    let (ours, maps) = (Ours::new(1), Maps::new(1));
    let contenders: [(&str, &dyn Instantiate); 2] = [("trapline", &ours), ("maps", &maps)];
    let mut group = criterion.benchmark_group("create a store, register, look up, drop");
    for (name, contender) in contenders {
        group.bench_function(name, |bencher| bencher.iter(|| contender.instantiate(0)));
    }
}

criterion_group!(group, stores);
criterion_main!(group);
