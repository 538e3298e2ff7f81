//! Bytes per range.

use super::{Options, short, thousands};
use crate::section::{Glance, Section, Table};
use crate::world::{Payload, World, range_of};
use trapline::CodeRegistry;

/// Measures it.
pub fn measure(options: &Options) -> Section {
    let (mut rows, mut random, mut in_order) = (Vec::new(), Vec::new(), Vec::new());
    for n in options.ns(&[16, 1_000, 10_000, 100_000, 1_000_000]) {
        let mut world = World::new(n);
        random.push((Some(n), short(bytes_per_range(&world))));
        world.live.sort_by_key(|(place, _)| *place);
        in_order.push((Some(n), short(bytes_per_range(&world))));
    }
    for (random, in_order) in random.iter().zip(&in_order) {
        rows.push(vec![thousands(random.0.unwrap_or(0)), random.1.clone(), in_order.1.clone()]);
    }
    Section {
        intro: "Bytes of the nodes that lookups read, for each live range, payload apart.".into(),
        glance: vec![
            Glance { what: "bytes per live range, registered in random order".into(), ratios: random },
            Glance { what: "bytes per live range, registered in order of address".into(), ratios: in_order },
        ],
        tables: vec![Table {
            title: "Bytes per live range".into(),
            columns: ["ranges", "registered in random order", "in order of address"].map(String::from).to_vec(),
            rows,
            ..Table::default()
        }],
        ..Section::default()
    }
}

fn bytes_per_range(world: &World) -> f64 {
    let registry: CodeRegistry<Payload> = CodeRegistry::new();
    let payload = Payload::new(0);
    for (place, _) in &world.live {
        registry.register(range_of(*place), payload.clone()).expect("places do not overlap").leak();
    }
    registry.stats().live_bytes as f64 / world.live.len() as f64
}
