//! A chart as data: axes, series and marks. How it looks is [`draw`]'s affair, what it becomes
//! (text of an SVG, bytes of a PNG) is [`image`]'s.

mod draw;
mod image;
mod palette;
mod ticks;

pub(crate) use image::{Size, png, svg};
pub(crate) use palette::{Ink, dark_rules};
pub(crate) use ticks::{Scale, Unit, shown};

/// A point: step (or whatever the x axis is), value.
pub(crate) type Point = (f64, f64);

/// One chart, to be drawn at any size.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// The name of its file, without an ending.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) title: &'static str,
    /// A sentence below it, where one is needed to read it.
    pub(crate) note: String,
    /// Below.
    pub(crate) x: Axis,
    /// To the left.
    pub(crate) y: Axis,
    /// Drawn in this order.
    pub(crate) series: Vec<Series>,
    /// Things that happened, as vertical lines.
    pub(crate) marks: Vec<Mark>,
    /// Whether it takes the whole width of a page.
    pub(crate) wide: bool,
}

/// One axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// Name and unit.
    pub(crate) label: String,
    /// How its ticks are written.
    pub(crate) unit: Unit,
    /// Equal differences or equal ratios.
    pub(crate) scale: Scale,
    /// Shown in any case.
    pub(crate) include: Vec<f64>,
}

/// Values that belong together.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// In the legend; an empty one stands in no legend.
    pub(crate) name: String,
    pub(crate) ink: Ink,
    pub(crate) kind: Kind,
    /// By x; a value that is not finite is a gap.
    pub(crate) points: Vec<Point>,
}

/// How a series is drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Line,
    /// Raw values behind their smoothed line; the axis does not stretch for the last of them.
    Faint,
    /// A limit.
    Dashed,
    /// Filled down to these values, one for each point; `alpha` of 255.
    Area {
        lower: Vec<f64>,
        alpha: u8,
    },
}

/// A thing that happened at a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mark {
    pub(crate) at: f64,
    pub(crate) ink: Ink,
    pub(crate) name: &'static str,
}

impl Axis {
    /// A linear axis.
    pub(crate) fn new(label: impl Into<String>, unit: Unit) -> Axis {
        Axis { label: label.into(), unit, scale: Scale::Linear, include: Vec::new() }
    }

    /// The same axis in decades; nothing has to be on it.
    pub(crate) fn log(self) -> Axis {
        Axis { scale: Scale::Log, include: Vec::new(), ..self }
    }

    /// The same axis, with these values on it.
    pub(crate) fn including(self, values: impl IntoIterator<Item = f64>) -> Axis {
        Axis { include: values.into_iter().collect(), ..self }
    }
}

impl Series {
    /// A line.
    pub(crate) fn line(name: impl Into<String>, ink: Ink, points: Vec<Point>) -> Series {
        Series { name: name.into(), ink, kind: Kind::Line, points }
    }

    /// The same points, drawn in another way.
    pub(crate) fn kind(self, kind: Kind) -> Series {
        Series { kind, ..self }
    }
}

impl Chart {
    /// A chart without series over `x`.
    pub(crate) fn new(name: &'static str, title: &'static str, x: Axis, y: Axis) -> Chart {
        let (series, marks) = (Vec::new(), Vec::new());
        Chart { name, title, note: String::new(), x, y, series, marks, wide: false }
    }

    /// Whether there is anything to draw.
    pub(crate) fn is_empty(&self) -> bool {
        !self.series.iter().flat_map(|series| &series.points).any(|(_, y)| y.is_finite())
    }
}
