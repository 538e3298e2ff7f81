//! Bytes: of what is registered, and of what waits to be freed.

use super::{Options, short, thousands};
use crate::contenders::{Handler, registry};
use crate::harness::{processors, while_reading};
use crate::programs;
use crate::section::{Glance, Section, Table};
use crate::world::{Payload, Pcs, Rng, World};
use std::process::Command;

/// Numbers of ranges.
const NS: &[usize] = &[16, 1_000, 10_000, 100_000, 1_000_000];

/// Measures it.
pub fn measure(options: &Options) -> Section {
    let ns = options.ns(NS);
    let bytes = |world: World| registry(&world).stats().live_bytes as f64 / world.live.len() as f64;
    let random: Vec<_> = ns.iter().map(|n| (Some(*n), short(bytes(World::new(*n))))).collect();
    let in_order: Vec<_> = ns.iter().map(|n| (Some(*n), short(bytes(World::new(*n).in_order())))).collect();
    let garbage: Vec<_> = ns.iter().map(|n| Garbage::of(*n, if options.quick { 2_000 } else { 50_000 })).collect();

    let mut columns = vec!["ranges".to_owned()];
    columns.extend(ns.iter().map(|n| thousands(*n)));
    let row = |name: &str, cells: Vec<String>| [name.to_owned()].into_iter().chain(cells).collect::<Vec<_>>();
    let cells = |ratios: &[(Option<usize>, String)]| ratios.iter().map(|(_, cell)| cell.clone()).collect();
    let of_garbage = |f: &dyn Fn(&Garbage) -> usize| garbage.iter().map(|g| thousands(f(g))).collect();
    let ours = Table {
        title: "trapline, by its own counts".into(),
        note: "Bytes of the nodes that lookups read, for each live range. Garbage: the most that waited to be freed after \
               any write, while ranges came and went at full speed beside readers on the other processors."
            .into(),
        columns: columns.clone(),
        rows: vec![
            row("bytes per range, registered in random order", cells(&random)),
            row("bytes per range, registered in order of address", cells(&in_order)),
            row("most garbage, bytes", of_garbage(&|g| g.bytes)),
            row("most garbage, nodes", of_garbage(&|g| g.nodes)),
            row("set aside for the next writes at most, bytes", of_garbage(&|g| g.spare)),
        ],
    };
    let tables = match peers(&ns) {
        Ok(peers) => [vec![ours], peers_tables(&columns, &peers)].concat(),
        Err(why) => {
            vec![ours, Table { title: "Everyone".into(), note: format!("Not measured: {why}"), ..Table::default() }]
        }
    };
    Section {
        intro: "Payloads, which are everybody's alike, are not counted.".into(),
        glance: vec![
            Glance { what: "bytes per live range, registered in random order".into(), ratios: random },
            Glance { what: "bytes per live range, registered in order of address".into(), ratios: in_order },
        ],
        tables,
        ..Section::default()
    }
}

/// The most there was while ranges came and went.
#[derive(Clone, Copy, Default)]
struct Garbage {
    bytes: usize,
    nodes: usize,
    spare: usize,
}

impl Garbage {
    fn of(n: usize, pairs: usize) -> Self {
        let world = World::new(n);
        let pcs = world.pcs(1 << 14, Pcs::Uniform);
        let handler = Handler::new(&world);
        let payload = Payload::new(0);
        let mut most = Self::default();
        while_reading(&handler, &pcs, 1..processors().max(2), || {
            let mut rng = Rng::new(7);
            for _ in 0..pairs {
                let range = world.free[rng.below(world.free.len())].clone();
                let registration = handler.0.register(range, payload.clone()).expect("the place is free");
                most.note(&handler.0.stats());
                drop(registration);
                most.note(&handler.0.stats());
            }
        });
        most
    }

    fn note(&mut self, stats: &trapline::Stats) {
        self.bytes = self.bytes.max(stats.retired_bytes);
        self.nodes = self.nodes.max(stats.retired_nodes);
        self.spare = self.spare.max(stats.spare_bytes);
    }
}

/// A contender's name, what it takes, and how much more at most.
type Weight = (String, usize, Option<usize>);
/// For each number of ranges, everyone's.
type Peers = Vec<(usize, Vec<Weight>)>;

/// Has them weighed.
fn peers(ns: &[usize]) -> Result<Peers, String> {
    let program = programs::build("weigh")?;
    let weigh = |n: &usize| {
        let text = programs::run(Command::new(&program).arg(n.to_string()))?;
        let line = |line: &str| {
            let mut cells = line.split('\t');
            let (name, live, most) = (cells.next()?, cells.next()?.parse().ok()?, cells.next()?.parse().ok());
            Some((name.to_owned(), live, most))
        };
        Ok((*n, text.lines().filter_map(line).collect()))
    };
    ns.iter().map(weigh).collect()
}

fn peers_tables(columns: &[String], peers: &Peers) -> Vec<Table> {
    let Some((_, first)) = peers.first() else { return Vec::new() };
    let table = |title: &str, note: &str, cell: &dyn Fn(usize, usize, Option<usize>) -> Option<String>| {
        let row = |(name, ..): &Weight| {
            let of = |(n, all): &(usize, Vec<Weight>)| {
                let (_, live, most) = all.iter().find(|(other, ..)| other == name)?;
                cell(*n, *live, *most)
            };
            let cells: Vec<_> = peers.iter().map(|n| of(n).unwrap_or_default()).collect();
            let shown = cells.iter().any(|cell| !cell.is_empty());
            shown.then(|| [name.clone()].into_iter().chain(cells).collect::<Vec<_>>())
        };
        Table {
            title: title.into(),
            note: note.into(),
            columns: columns.to_vec(),
            rows: first.iter().filter_map(row).collect(),
        }
    };
    vec![
        table(
            "Everyone, by the allocator's count: bytes per range",
            "What was asked of the allocator and not given back, after registration in random order; divided by the \
             number of ranges, fixed costs and reserves included.",
            &|n, live, _| Some(short(live as f64 / n as f64)),
        ),
        table(
            "Everyone, by the allocator's count: how much more at most while ranges came and went, bytes",
            "Beside readers on the other processors. Copies that are being made count.",
            &|_, _, most| most.map(thousands),
        ),
    ]
}
