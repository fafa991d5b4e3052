//! A chart as the text of an SVG or the bytes of a PNG. Nothing of the system is needed: the font
//! is in the program.

use std::sync::Once;

use anyhow::{Context, Result};
use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::drawing::IntoDrawingArea;
use plotters::style::{FontStyle, register_font};

use super::draw::{FONT, Look, draw};
use super::{Chart, Ink};

/// Pixels of a drawing per unit: coordinates are whole numbers, and halves show.
const FINE: u32 = 2;
/// Pixels of a PNG for each unit of its chart.
const PNG_SCALE: u32 = 2;

/// What a drawing is made for, and so its size in units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// A whole row of a page.
    Wide,
    /// Half a row of a page.
    Half,
    /// A telephone.
    Narrow,
    /// A file of its own, with its title and paper under it.
    File,
}

impl Size {
    /// Width and height.
    pub(crate) fn units(self) -> (u32, u32) {
        match self {
            Size::Wide => (920, 310),
            Size::Half => (528, 290),
            Size::Narrow => (358, 270),
            Size::File => (960, 480),
        }
    }

    fn look(self, scale: u32) -> Look {
        let em = if self == Size::File { 15.0 } else { 12.5 };
        Look { em: em * f64::from(scale), lower: 0.0, titled: self == Size::File }
    }

    fn pixels(self, scale: u32) -> (u32, u32) {
        let (width, height) = self.units();
        (width * scale, height * scale)
    }
}

/// The font that text is measured with, and that a PNG's text is drawn with.
fn with_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let font = epaint_default_fonts::UBUNTU_LIGHT;
        register_font(FONT, FontStyle::Normal, font).ok().expect("the font comes with its crate");
    });
}

/// The chart as one `svg` element.
pub(crate) fn svg(chart: &Chart, size: Size) -> String {
    with_font();
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size.pixels(FINE)).into_drawing_area();
        let filled = if size == Size::File { area.fill(&Ink::Paper.light()) } else { Ok(()) };
        filled
            .and_then(|()| draw(&area, chart, size.look(FINE)))
            .and_then(|()| area.present())
            .expect("a string takes any text, and the font is registered");
    }
    // Sharp peaks would otherwise get long tips.
    let label =
        format!("<svg role=\"img\" aria-label=\"{}\" stroke-linejoin=\"round\" ", chart.title);
    text.replacen("<svg ", &label, 1)
}

/// The chart as the bytes of a PNG file.
///
/// # Errors
/// When it cannot be drawn or encoded.
pub(crate) fn png(chart: &Chart) -> Result<Vec<u8>> {
    with_font();
    let (width, height) = Size::File.pixels(PNG_SCALE);
    let look = Size::File.look(PNG_SCALE);
    let look = Look { lower: 0.18 * look.em, ..look };
    let mut pixels = vec![0; (width * height * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
        area.fill(&Ink::Paper.light())
            .and_then(|()| draw(&area, chart, look))
            .and_then(|()| area.present())
            .with_context(|| format!("cannot draw the chart `{}`", chart.name))?;
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::{Axis, Kind, Mark, Series, Unit};
    use super::*;

    fn chart(points: Vec<(f64, f64)>) -> Chart {
        let (x, y) = (Axis::new("step", Unit::Count), Axis::new("loss in nats", Unit::Number));
        let mut chart = Chart::new("loss", "Loss", x, y);
        chart.series.push(Series::line("raw", Ink::Series(0), points.clone()).kind(Kind::Faint));
        chart.series.push(Series::line("<smooth> & \"co\"", Ink::Series(1), points));
        chart.marks.push(Mark { at: 3.0, ink: Ink::Alarm, name: "alarm" });
        chart
    }

    #[test]
    fn odd_series_are_drawn_at_every_size() {
        let spiky = vec![(0.0, f64::NAN), (1.0, 1e300), (2.0, f64::INFINITY), (3.0, -1e300)];
        for points in [vec![], vec![(1.0, 2.0)], spiky, vec![(5.0, 0.0), (5.0, 0.0)]] {
            for size in [Size::Wide, Size::Half, Size::Narrow, Size::File] {
                for chart in [
                    chart(points.clone()),
                    Chart { y: chart(vec![]).y.log(), ..chart(points.clone()) },
                ] {
                    let text = svg(&chart, size);
                    assert!(text.starts_with("<svg role=") && text.trim_end().ends_with("</svg>"));
                    assert!(!text.contains("NaN") && !text.contains("<smooth>"), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_png_decodes_to_its_size_and_is_not_blank() {
        let bytes =
            png(&chart((0..50).map(|i| (f64::from(i), f64::from(i % 7))).collect())).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (1920, 960));
        let dark = pixels.chunks(3).filter(|pixel| pixel.iter().all(|part| *part < 100)).count();
        assert!(dark > 500, "text is drawn: {dark} dark pixels");
        let [_, red, green, blue] = 0x00D9_660Bu32.to_be_bytes();
        assert!(pixels.chunks(3).any(|pixel| pixel == [red, green, blue]), "the second series");
    }
}
