//! The drawing of a chart on any surface that `plotters` knows.
//!
//! The frame is our own: ticks at round numbers, the unit above the axis, a legend that wraps, all
//! in place before the series are drawn.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::ticks::{Ticks, ticks};
use super::{Axis, Chart, Ink, Kind, Point, Scale, Series};

/// The font of every text; the image module registers it.
pub(super) const FONT: &str = "sans-serif";
/// Series of fewer points show each of them.
const DOTTED: usize = 40;
/// Marks of one chart at most, so that they stay lines and do not become a wall.
const MARKS: usize = 60;

type Area<'a, DB> = DrawingArea<DB, Shift>;
type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;
type Pixel = (i32, i32);

/// How a chart is drawn besides what it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Height of a line of text in pixels; every distance follows it.
    pub(super) em: f64,
    /// How far below its place a text is put, in pixels: a bitmap has it too high.
    pub(super) lower: f64,
    /// Whether the title stands above.
    pub(super) titled: bool,
}

/// The range of the data and the pixels it goes to, along one axis.
struct Line {
    low: f64,
    high: f64,
    scale: Scale,
    from: f64,
    to: f64,
}

impl Line {
    /// The pixel of a value; a value beyond the axis is drawn at its edge.
    fn at(&self, value: f64) -> i32 {
        let place = |value: f64| if self.scale == Scale::Log { value.log10() } else { value };
        let value = value.clamp(self.low, self.high);
        let share = (place(value) - place(self.low)) / (place(self.high) - place(self.low));
        (self.from + share * (self.to - self.from)).round() as i32
    }
}

/// The chart's inside: both axes.
struct Plot {
    x: Line,
    y: Line,
}

impl Plot {
    fn pixel(&self, (x, y): Point) -> Pixel {
        (self.x.at(x), self.y.at(y))
    }

    /// Points without gaps, as pixels.
    fn runs(&self, points: &[Point]) -> Vec<Vec<Pixel>> {
        let shows =
            |value: f64| value.is_finite() && (self.y.scale == Scale::Linear || value > 0.0);
        let whole = points.split(|(_, y)| !shows(*y)).filter(|run| !run.is_empty());
        whole.map(|run| thinned(run.iter().map(|point| self.pixel(*point)))).collect()
    }
}

/// First, lowest, highest and last of the pixels in each column: nothing that shows is lost.
fn thinned(pixels: impl Iterator<Item = Pixel>) -> Vec<Pixel> {
    let mut out: Vec<Pixel> = Vec::new();
    let mut column: Vec<Pixel> = Vec::new();
    let flush = |column: &mut Vec<Pixel>, out: &mut Vec<Pixel>| {
        let (Some(first), Some(last)) = (column.first().copied(), column.last().copied()) else {
            return;
        };
        let low = column.iter().copied().min_by_key(|pixel| pixel.1).unwrap_or(first);
        let high = column.iter().copied().max_by_key(|pixel| pixel.1).unwrap_or(first);
        out.extend([first, low, high, last]);
        column.clear();
    };
    for pixel in pixels {
        if column.first().is_some_and(|first| first.0 != pixel.0) {
            flush(&mut column, &mut out);
        }
        column.push(pixel);
    }
    flush(&mut column, &mut out);
    out.dedup();
    out
}

/// Draws `chart` over the whole of `area`.
pub(super) fn draw<DB: DrawingBackend>(
    area: &Area<'_, DB>,
    chart: &Chart,
    look: Look,
) -> Drawn<DB> {
    let (width, height) = area.dim_in_pixel();
    let (width, height, em) = (f64::from(width), f64::from(height), look.em);
    let mut top = 0.3 * em;
    if look.titled {
        text(
            area,
            look,
            chart.title,
            (0.6 * em, top),
            1.25 * em,
            Ink::Text,
            (HPos::Left, VPos::Top),
        )?;
        top += 2.0 * em;
    }
    text(
        area,
        look,
        &chart.y.label,
        (0.6 * em, top),
        0.95 * em,
        Ink::Muted,
        (HPos::Left, VPos::Top),
    )?;
    top = legend(area, chart, top + 1.5 * em, width, look)? + 0.5 * em;

    let bottom = height - 3.2 * em;
    let (low, high) = range(&chart.y, &values(chart));
    let wanted = ((bottom - top) / (2.4 * em)) as usize;
    let y_ticks = ticks(chart.y.unit, chart.y.scale, low, high, wanted.clamp(2, 8));
    let widest = y_ticks.iter().map(|(_, label)| text_width(area, label, em)).fold(0.0, f64::max);
    let left = widest + 1.2 * em;
    let right = width - 1.4 * em;
    let y = Line { low, high, scale: chart.y.scale, from: bottom, to: top };
    let steps: Vec<f64> = chart.series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).collect();
    let (low, high) = span(&chart.x, &steps);
    let x = Line { low, high, scale: chart.x.scale, from: left, to: right };
    let x_ticks =
        ticks(chart.x.unit, chart.x.scale, low, high, ((right - left) / (6.0 * em)) as usize);

    let plot = Plot { x, y };
    frame(area, chart, &plot, (&x_ticks, &y_ticks), look)?;
    chart.series.iter().try_for_each(|series| self::series(area, series, &plot, em))?;
    for mark in chart.marks.iter().filter(|mark| mark.at <= plot.x.high).take(MARKS) {
        let x = plot.x.at(mark.at);
        line(
            area,
            (x, top as i32),
            (x, bottom as i32),
            mark.ink.light().mix(0.7),
            (0.09 * em) as u32,
        )?;
    }
    Ok(())
}

/// Grid, ticks, and the name of the x axis.
fn frame<DB: DrawingBackend>(
    area: &Area<'_, DB>,
    chart: &Chart,
    plot: &Plot,
    (x_ticks, y_ticks): (&Ticks, &Ticks),
    look: Look,
) -> Drawn<DB> {
    let em = look.em;
    let (left, right) = (plot.x.from as i32, plot.x.to as i32);
    let (bottom, hair) = (plot.y.from as i32, (0.08 * em).max(1.0) as u32);
    for (value, label) in y_ticks {
        let y = plot.y.at(*value);
        line(area, (left, y), (right, y), Ink::Grid.light().to_rgba(), hair)?;
        let place = (plot.x.from - 0.5 * em, f64::from(y));
        text(area, look, label, place, em, Ink::Text, (HPos::Right, VPos::Center))?;
    }
    line(area, (left, bottom), (right, bottom), Ink::Axis.light().to_rgba(), hair)?;
    for (value, label) in x_ticks {
        let x = plot.x.at(*value);
        let end = bottom + (0.3 * em) as i32;
        line(area, (x, bottom), (x, end), Ink::Axis.light().to_rgba(), hair)?;
        let place = (f64::from(x), plot.y.from + 0.5 * em);
        text(area, look, label, place, em, Ink::Text, (HPos::Center, VPos::Top))?;
    }
    let place = ((plot.x.from + plot.x.to) / 2.0, plot.y.from + 1.9 * em);
    text(area, look, &chart.x.label, place, 0.95 * em, Ink::Muted, (HPos::Center, VPos::Top))
}

/// Names and colours in rows; gives the height where they end.
fn legend<DB: DrawingBackend>(
    area: &Area<'_, DB>,
    chart: &Chart,
    top: f64,
    width: f64,
    look: Look,
) -> Result<f64, DrawingAreaErrorKind<DB::ErrorType>> {
    let em = look.em;
    let mut entries: Vec<(&str, Ink)> = Vec::new();
    let named = chart.series.iter().map(|series| (series.name.as_str(), series.ink));
    for entry in named.chain(chart.marks.iter().map(|mark| (mark.name, mark.ink))) {
        if !entry.0.is_empty() && !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    // One line that the title already names needs no legend.
    if chart.series.len() + chart.marks.len() < 2 {
        return Ok(top - 0.2 * em);
    }
    let (mut x, mut y) = (0.6 * em, top);
    for (name, ink) in entries {
        let name = shortened(name);
        let needed = text_width(area, &name, em) + 2.9 * em;
        if x > em && x + needed > width {
            (x, y) = (0.6 * em, y + 1.5 * em);
        }
        let middle = y + 0.5 * em;
        let swatch = [(x, middle - 0.18 * em), (x + 1.3 * em, middle + 0.18 * em)];
        let swatch = swatch.map(|(x, y)| (x as i32, y as i32));
        area.draw(&Rectangle::new(swatch, ink.light().filled()))?;
        text(area, look, &name, (x + 1.7 * em, middle), em, Ink::Text, (HPos::Left, VPos::Center))?;
        x += needed;
    }
    Ok(y + 1.4 * em)
}

/// A legend has no room for long names; their end tells runs apart.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= 28 {
        return name.to_string();
    }
    let end: String = name.chars().skip(length - 27).collect();
    format!("…{end}")
}

fn series<DB: DrawingBackend>(
    area: &Area<'_, DB>,
    series: &Series,
    plot: &Plot,
    em: f64,
) -> Drawn<DB> {
    let colour = series.ink.light();
    let thick = (0.16 * em) as u32;
    if let Kind::Area { lower, alpha } = &series.kind {
        let upper = plot.runs(&series.points);
        let floor: Vec<Point> =
            series.points.iter().zip(lower).map(|(p, low)| (p.0, *low)).collect();
        let floor = plot.runs(&floor).into_iter().flatten().rev();
        let outline: Vec<Pixel> = upper.into_iter().flatten().chain(floor).collect();
        let fill = colour.mix(f64::from(*alpha) / 255.0);
        return area.draw(&Polygon::new(outline, fill));
    }
    for run in plot.runs(&series.points) {
        match series.kind {
            Kind::Dashed => dashes(area, &run, colour.to_rgba(), em)?,
            Kind::Faint => {
                // The closer the points, the paler, or they would hide the line before them.
                let alpha = 0.35 * ((plot.x.to - plot.x.from) / run.len() as f64).clamp(0.4, 1.0);
                let width = (0.08 * em) as u32;
                area.draw(&PathElement::new(run, colour.mix(alpha).stroke_width(width)))?;
            }
            _ => {
                if run.len() < DOTTED {
                    for pixel in &run {
                        area.draw(&Circle::new(*pixel, (0.2 * em) as i32, colour.filled()))?;
                    }
                }
                area.draw(&PathElement::new(run, colour.stroke_width(thick)))?;
            }
        }
    }
    Ok(())
}

/// A straight line from the first to the last pixel, in pieces.
fn dashes<DB: DrawingBackend>(
    area: &Area<'_, DB>,
    run: &[Pixel],
    ink: RGBAColor,
    em: f64,
) -> Drawn<DB> {
    let (Some(from), Some(to)) = (run.first(), run.last()) else { return Ok(()) };
    let (dx, dy) = (f64::from(to.0 - from.0), f64::from(to.1 - from.1));
    let count = (dx.hypot(dy) / (1.1 * em)).max(1.0);
    let at = |share: f64| {
        let share = share.min(1.0);
        (from.0 + (dx * share).round() as i32, from.1 + (dy * share).round() as i32)
    };
    for i in 0..count.ceil() as u32 {
        let begin = f64::from(i) / count;
        line(area, at(begin), at(begin + 0.6 / count), ink, (0.14 * em) as u32)?;
    }
    Ok(())
}

fn line<DB: DrawingBackend>(
    area: &Area<'_, DB>,
    from: Pixel,
    to: Pixel,
    ink: RGBAColor,
    width: u32,
) -> Drawn<DB> {
    area.draw(&PathElement::new(vec![from, to], ink.stroke_width(width.max(1))))
}

fn text<DB: DrawingBackend>(
    area: &Area<'_, DB>,
    look: Look,
    text: &str,
    (x, y): Point,
    size: f64,
    ink: Ink,
    (h, v): (HPos, VPos),
) -> Drawn<DB> {
    // A font's size is that of its em square; plotters takes the height of a line.
    let (font, colour) = ((FONT, 1.24 * size).into_font(), ink.light());
    let style = TextStyle::from(font).color(&colour);
    area.draw_text(
        text,
        &style.pos(Pos::new(h, v)),
        (x.round() as i32, (y + look.lower).round() as i32),
    )
}

fn text_width<DB: DrawingBackend>(area: &Area<'_, DB>, text: &str, em: f64) -> f64 {
    let style = TextStyle::from((FONT, 1.24 * em).into_font());
    area.estimate_text_size(text, &style)
        .map_or(0.6 * em * text.len() as f64, |(w, _)| f64::from(w))
}

/// The values that decide the range of the y axis.
fn values(chart: &Chart) -> Vec<f64> {
    let mut all = chart.y.include.clone();
    for series in &chart.series {
        let mut values: Vec<f64> = series.points.iter().map(|point| point.1).collect();
        values.retain(|value| value.is_finite());
        match &series.kind {
            // In decades a spike takes little room.
            Kind::Faint if chart.y.scale == Scale::Linear => {
                // One spike must not flatten all the rest.
                values.sort_by(f64::total_cmp);
                let at = |share: f64| values.get((share * values.len() as f64) as usize).copied();
                all.extend([at(0.01), at(0.98)].into_iter().flatten());
            }
            Kind::Area { lower, .. } => all.extend(lower.iter().chain(&values)),
            _ => all.append(&mut values),
        }
    }
    all
}

/// The range of the y axis: all that has to be seen, with some air.
fn range(axis: &Axis, values: &[f64]) -> (f64, f64) {
    let (low, high) = span(axis, values);
    if axis.scale == Scale::Log {
        return (low / 1.15, high * 1.15);
    }
    let air = 0.05 * (high - low);
    // No air below zero, where nothing can be.
    let low = if low >= 0.0 && low < air {
        0.0
    } else if low == 0.0 {
        low
    } else {
        low - air
    };
    (low, high + air)
}

/// The least and the greatest value, never the same.
fn span(axis: &Axis, values: &[f64]) -> (f64, f64) {
    let shows = |value: &&f64| value.is_finite() && (axis.scale == Scale::Linear || **value > 0.0);
    let all = values.iter().chain(&axis.include).filter(shows);
    let (low, high) = all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(*value), high.max(*value))
    });
    match (low, high) {
        (low, high) if low > high => (if axis.scale == Scale::Log { 0.1 } else { 0.0 }, 1.0),
        (low, high) if high - low > 1e-9 * high.abs().max(low.abs()) => (low, high),
        (0.0, _) => (0.0, 1.0),
        (low, _) => (low.min(low * 1.1).min(low * 0.9), low.max(low * 1.1).max(low * 0.9)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Unit;
    use super::*;

    #[test]
    fn thinning_keeps_what_shows_in_each_column() {
        let pixels = [(0, 5), (0, 1), (0, 9), (0, 4), (1, 4), (2, 7), (2, 7)];
        let expected = [(0, 5), (0, 1), (0, 9), (0, 4), (1, 4), (2, 7)];
        assert_eq!(thinned(pixels.into_iter()), expected);
        assert!(thinned(std::iter::empty()).is_empty());
        let many = (0..1_000_000).map(|i| (i / 1000, i % 977));
        assert!(thinned(many).len() <= 4000);
    }

    #[test]
    fn ranges_are_never_empty() {
        let axis = Axis::new("y", Unit::Number);
        for values in
            [vec![], vec![0.0], vec![5.0, 5.0], vec![-3.0], vec![f64::NAN], vec![1e300, -1e300]]
        {
            for axis in [axis.clone(), axis.clone().log()] {
                let (low, high) = range(&axis, &values);
                assert!(low < high, "{values:?}: {low} to {high}");
                assert!(axis.scale == Scale::Linear || low > 0.0);
            }
        }
        assert_eq!(range(&axis, &[0.0, 10.0]).0, 0.0);
        assert!(range(&axis, &[5.0, 10.0]).0 < 5.0);
    }

    #[test]
    fn one_spike_does_not_stretch_the_axis() {
        let mut points: Vec<Point> = (0..1000).map(|i| (f64::from(i), 2.0)).collect();
        points[500].1 = 1e6;
        let raw = Series::line("", Ink::Series(0), points).kind(Kind::Faint);
        let (x, y) = (Axis::new("step", Unit::Count), Axis::new("loss", Unit::Number));
        let mut chart = Chart::new("loss", "Loss", x, y);
        chart.series.push(raw);
        assert!(values(&chart).iter().all(|value| *value == 2.0));
    }
}
