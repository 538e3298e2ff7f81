//! What a measurement hands over: tables and curves, for the report and for a reader of the terminal.

use serde::{Deserialize, Serialize};

/// The result of one kind of work, as the report shows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Section {
    /// The name by which the section is asked for, such as `lookup`.
    pub name: String,
    /// What was measured and how, in Markdown.
    pub intro: String,
    /// The command that measures it again.
    pub command: String,
    /// What of it is shown at the top of the report.
    pub glance: Vec<Glance>,
    /// In the order in which they are shown.
    pub tables: Vec<Table>,
    /// In the order in which they are shown.
    pub plots: Vec<Plot>,
}

/// A ratio that is shown at the top of the report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Glance {
    /// What is compared with what, and which of them is better.
    pub what: String,
    /// The ratio for each number of ranges; for one that does not depend on it there is none.
    pub ratios: Vec<(Option<usize>, String)>,
}

/// A table; cells are text, as shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Table {
    /// Shown above it.
    pub title: String,
    /// What to know before reading it, in Markdown; may be empty.
    pub note: String,
    /// The first is the heading of the rows' names.
    pub columns: Vec<String>,
    /// Each as long as `columns`.
    pub rows: Vec<Vec<String>>,
}

/// A picture of curves.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plot {
    /// The file's name, without its ending.
    pub file: String,
    /// Shown above it.
    pub title: String,
    /// Of the horizontal axis.
    pub x: Axis,
    /// Of the vertical axis.
    pub y: Axis,
    /// One for each contender.
    pub curves: Vec<Curve>,
}

/// What an axis is labelled with, and how it is divided.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Axis {
    /// With the unit.
    pub label: String,
    /// Whether it is logarithmic.
    pub logarithmic: bool,
}

/// One contender's points.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Curve {
    /// As in the tables.
    pub name: String,
    /// By ascending x.
    pub points: Vec<(f64, f64)>,
}
