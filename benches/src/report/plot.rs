//! Curves as pictures.

use crate::section::{Axis, Curve, Plot};
use crate::work::{short, thousands};
use core::ops::Range;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use std::error::Error;

/// Told apart by people who see few colours too, on white.
const COLOURS: &[RGBColor] = &[
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
    RGBColor(130, 90, 40),
    RGBColor(150, 150, 150),
    RGBColor(110, 60, 180),
    RGBColor(160, 30, 50),
    RGBColor(90, 140, 60),
];

/// Who has which colour in all pictures, in the order of [`COLOURS`]. Others have what is left, in turn.
const NAMES: &[&str] = &[
    "trapline, handler",
    "locked map",
    "trapline, pinned",
    "parking_lot map, no clone",
    "arc-swap of flat",
    "arc-swap of flat, cached",
    "flat, unprotected",
    "half_lock of flat",
    "flat, no writer",
    "left-right of maps",
    "reader count, flat",
    "left-right of flat",
];

/// The picture of a plot, as SVG.
pub fn svg(plot: &Plot) -> Result<String, Box<dyn Error>> {
    let mut out = String::new();
    match (plot.x.logarithmic, plot.y.logarithmic) {
        (true, true) => draw(&mut out, plot, range(plot, true).log_scale(), range(plot, false).log_scale())?,
        (true, false) => draw(&mut out, plot, range(plot, true).log_scale(), range(plot, false))?,
        (false, true) => draw(&mut out, plot, range(plot, true), range(plot, false).log_scale())?,
        (false, false) => draw(&mut out, plot, range(plot, true), range(plot, false))?,
    }
    Ok(out)
}

/// What an axis has to show.
fn range(plot: &Plot, is_x: bool) -> Range<f64> {
    let axis: &Axis = if is_x { &plot.x } else { &plot.y };
    let values = plot.curves.iter().flat_map(|curve| &curve.points).map(|(x, y)| if is_x { *x } else { *y });
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    match (axis.logarithmic, is_x) {
        (true, true) => low..high.max(low * 2.0),
        (true, false) => low / 1.3..high * 1.3,
        (false, true) => low..high.max(low + 1.0),
        (false, false) => 0.0..high * 1.05,
    }
}

fn draw<X, Y>(out: &mut String, plot: &Plot, x: X, y: Y) -> Result<(), Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let root = SVGBackend::with_string(out, (900, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    // Curves on the left, their names on the right: a legend inside would hide points.
    let (left, right) = root.split_horizontally(680);
    let mut chart = ChartBuilder::on(&left)
        .caption(&plot.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(74)
        .build_cartesian_2d(x, y)?;
    let number = |value: &f64| if *value >= 10.0 { thousands(value.round() as usize) } else { trim(&short(*value)) };
    chart
        .configure_mesh()
        .light_line_style(RGBColor(240, 240, 240))
        .bold_line_style(RGBColor(215, 215, 215))
        .x_desc(&plot.x.label)
        .y_desc(&plot.y.label)
        .axis_desc_style(("sans-serif", 15))
        .label_style(("sans-serif", 13))
        .x_label_formatter(&number)
        .y_label_formatter(&number)
        .draw()?;
    for (i, curve) in plot.curves.iter().enumerate() {
        let style = style(plot, i);
        chart.draw_series(LineSeries::new(curve.points.iter().copied(), style))?;
        if curve.points.len() <= 16 {
            chart.draw_series(curve.points.iter().map(|point| Circle::new(*point, 3, style.filled())))?;
        }
        legend(&right, i, curve, style)?;
    }
    root.present()?;
    Ok(())
}

fn style(plot: &Plot, i: usize) -> ShapeStyle {
    let place = |curve: &Curve| NAMES.iter().position(|name| *name == curve.name);
    let taken: Vec<_> = plot.curves.iter().filter_map(place).collect();
    let mut left = (0..COLOURS.len()).filter(|colour| !taken.contains(colour)).cycle();
    let nameless = plot.curves[..i].iter().filter(|curve| place(curve).is_none()).count();
    let colour = place(&plot.curves[i]).or_else(|| left.nth(nameless)).unwrap_or(i % COLOURS.len());
    COLOURS[colour].stroke_width(if plot.curves[i].name.starts_with("trapline") { 3 } else { 2 })
}

fn legend(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    i: usize,
    curve: &Curve,
    style: ShapeStyle,
) -> Result<(), Box<dyn Error>> {
    let y = 60 + 24 * i as i32;
    area.draw(&PathElement::new([(4, y), (28, y)], style))?;
    area.draw(&Circle::new((16, y), 3, style.filled()))?;
    area.draw(&Text::new(curve.name.clone(), (34, y - 8), ("sans-serif", 15)))?;
    Ok(())
}

/// Without zeros at its end.
fn trim(number: &str) -> String {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.').into() } else { number.into() }
}
