//! A registry's whole life, with every kind of write and read, small enough for Miri: it finds pointers that are used
//! for more than what they were made for, reads of freed memory, and leaks.
//!
//! Without guards: crossbeam-epoch does not pass Miri's default rules.

use std::sync::Arc;
use trapline::{CodeRegistry, Holder, Registration, Unregistered};

const RANGES: usize = 150;

/// Where the range with this number starts; more than a leaf's worth of them.
fn start(number: usize) -> usize {
    0x1000 + number * 0x100
}

fn main() {
    let code: CodeRegistry<String> = CodeRegistry::new();
    // Not in order of address.
    let order = (0..RANGES).map(|number| start(number * 37 % RANGES));
    let one_by_one: Vec<_> = order.map(|at| code.register(at..at + 0x80, Arc::new(at.to_string())).unwrap()).collect();
    assert!(code.register(0x1000..0x2000, Arc::new("overlaps".into())).is_err());
    let snapshot = code.snapshot();
    let clone = snapshot.clone();
    for at in (0..RANGES).map(start) {
        assert_eq!(code.with(at + 3, |found| found.payload().parse()), Some(Ok(at)));
        assert!(code.with(at + 0x80, |_| ()).is_none());
    }
    let batch = (0..80).map(|number| 0x10_0000 + number * 16).map(|at| (at..at + 8, Arc::new(at.to_string())));
    let mut batch = code.register_all(batch).unwrap();

    for (number, registration) in one_by_one.into_iter().enumerate() {
        if number % 2 == 0 {
            assert_eq!(registration.unregister().unwrap(), Unregistered::Held(Holder::Snapshot));
        }
    }
    assert_eq!(snapshot.iter().count(), RANGES);
    drop(snapshot);
    assert_eq!(batch.pop().map(Registration::unregister).unwrap().unwrap(), Unregistered::Gone);
    let last = batch.pop().and_then(Registration::leak).unwrap();
    assert_eq!(*code.unregister_and_wait(last).unwrap(), (0x10_0000 + 78 * 16).to_string());
    drop(batch);
    // The snapshot ends the registry.
    drop(code);
    assert_eq!(clone.get(start(0)).map(|found| found.payload().as_str()), Some("4096"));
}
