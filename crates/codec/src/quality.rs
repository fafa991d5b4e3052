//! What formats keep of two kinds of data: the figures of a format that no machine changes.

use crate::{CODECS, Format, Packed, Rng, Rounding, Sign, Stream};

/// Values measured: what the reference tables took.
const COUNT: usize = 131_072;
/// Values in a row, for formats whose blocks end there.
const COLUMNS: usize = 4096;

/// What one format keeps.
#[derive(Clone, Debug)]
pub struct Row {
    /// The name with its parameters.
    pub name: String,
    /// Bytes of the tensor, header and all, in bits per value.
    pub bits: f64,
    /// Root of the mean squared error on N(0, 1), nearest rounding.
    pub normal: f64,
    /// The same with stochastic rounding.
    pub stochastic: f64,
    /// Error on values like second moments.
    pub moments: Moments,
}

impl Row {
    /// The columns of the published table, but for those of speed.
    pub fn columns(&self) -> String {
        let Moments { median, upper, flushed } = self.moments;
        format!(
            "| `{}` | {:.3} | {:.4} | {:.4} | {median:.3} | {upper:.2} | {:.1} % |",
            self.name,
            self.bits,
            self.normal,
            self.stochastic,
            100.0 * flushed
        )
    }
}

/// Relative error of values like second moments, exp(N(-8, 3)).
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    /// Its median.
    pub median: f64,
    /// What 95 % of the values stay below.
    pub upper: f64,
    /// The share of positive values that become 0.
    pub flushed: f64,
}

/// Every format of the registry, with another block where that is worth knowing.
pub fn rows() -> Vec<Row> {
    let mut names: Vec<String> = CODECS.iter().map(|codec| codec.name().to_owned()).collect();
    for (after, name) in [
        ("int8", "int8/256"),
        ("int8/256", "int8/2048"),
        ("int8-dynamic", "int8-dynamic/2048"),
        ("int4", "int4/128"),
        ("nf4", "nf4/128"),
    ] {
        let place = names.iter().position(|known| known == after).expect("a name before it");
        names.insert(place + 1, name.to_owned());
    }
    names.iter().map(|name| row(&Format::by_name(name).expect("a name of the registry"))).collect()
}

/// What `format` keeps.
pub fn row(format: &Format) -> Row {
    let normal = normals();
    Row {
        name: format.full_name(),
        bits: format.layout([4096, 4096]).bits_per_value(),
        normal: error(format, &normal, Rounding::Nearest),
        stochastic: error(format, &normal, Rounding::Stochastic { key: 7, first_index: 0 }),
        moments: moments(&format.signed_as(Sign::Unsigned)),
    }
}

/// The standard normals that errors are measured on.
pub fn normals() -> Vec<f32> {
    let mut values = vec![0.0; COUNT];
    Rng::new(17, Stream::Init).fill_normal(0, 0, 1.0, &mut values);
    values
}

/// The root of the mean squared error over that of the values.
pub fn error(format: &Format, values: &[f32], rounding: Rounding) -> f64 {
    let back = there_and_back(format, values, rounding);
    let squares = values.iter().zip(&back).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
    let power = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    (squares / power).sqrt()
}

/// The relative errors of `format` on values like second moments.
pub fn moments(format: &Format) -> Moments {
    let mut values = vec![0.0; COUNT];
    Rng::new(18, Stream::Init).fill_normal(0, 0, 3.0, &mut values);
    values.iter_mut().for_each(|x| *x = (*x - 8.0).exp());
    Moments::of(&values, &there_and_back(format, &values, Rounding::Nearest))
}

impl Moments {
    /// The relative errors of positive `values` that came `back`.
    pub fn of(values: &[f32], back: &[f32]) -> Self {
        let count = values.len();
        let flushed = back.iter().filter(|x| **x == 0.0).count() as f64 / count as f64;
        let relative = |(x, y): (&f32, &f32)| (f64::from(*y) / f64::from(*x) - 1.0).abs();
        let mut relative: Vec<f64> = values.iter().zip(back).map(relative).collect();
        relative.sort_by(f64::total_cmp);
        Self { median: relative[count / 2], upper: relative[count / 20 * 19], flushed }
    }
}

/// What is left of `values`.
///
/// # Panics
/// When there are more than 4096 of them and no whole rows of that many.
pub fn there_and_back(format: &Format, values: &[f32], rounding: Rounding) -> Vec<f32> {
    let shape = [values.len().div_ceil(COLUMNS), values.len().min(COLUMNS)];
    let packed = Packed::encode(format.clone(), shape, values, rounding);
    let mut back = vec![0.0; values.len()];
    let packed = packed.expect("as many values as the shape says");
    packed.decode_into(&mut back).expect("as many values as were coded");
    back
}
