//! What one element may be on the wire: numbers of the container, names and arithmetic of `codec`.

use std::fmt;
use std::str::FromStr;

use smidgen_codec::element::row::RowCode;

/// The format of the elements of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 8-bit integers.
    Int8,
    /// 4-bit integers.
    Int4,
    /// 4-bit quantiles of the normal distribution.
    Nf4,
    /// 8-bit floats up to 448.
    E4M3,
    /// 8-bit floats up to 57344.
    E5M2,
    /// 16-bit floats of IEEE 754.
    F16,
    /// The upper half of a 32-bit float.
    Bf16,
    /// 32-bit floats.
    F32,
    /// 6-bit integers.
    Int6,
    /// 2-bit integers.
    Int2,
}

/// How an element is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// A code under a scale.
    Scaled(RowCode),
    F16,
    Bf16,
    F32,
}

/// One line of the table.
struct Line {
    precision: Precision,
    /// The number in containers. Never reused.
    number: u8,
    /// The name in `codec`, and in every output.
    name: &'static str,
    /// Another name that is understood.
    alias: &'static str,
    element: Element,
    /// The code with a zero point, for integers.
    with_zero: Option<RowCode>,
}

const fn line(
    precision: Precision,
    number: u8,
    name: &'static str,
    alias: &'static str,
    element: Element,
    with_zero: Option<RowCode>,
) -> Line {
    Line { precision, number, name, alias, element, with_zero }
}

/// The one table of wire precisions, in the order of the enum.
static TABLE: [Line; 10] = {
    use Element::Scaled;
    [
        line(Precision::Int8, 1, "int8", "", Scaled(RowCode::Int8), Some(RowCode::Uint8)),
        line(Precision::Int4, 2, "int4", "", Scaled(RowCode::Int4), Some(RowCode::Uint4)),
        line(Precision::Nf4, 3, "nf4", "", Scaled(RowCode::Nf4), None),
        line(Precision::E4M3, 4, "fp8-e4m3", "fp8-e4m3fn", Scaled(RowCode::E4M3), None),
        line(Precision::E5M2, 5, "fp8-e5m2", "", Scaled(RowCode::E5M2), None),
        line(Precision::F16, 6, "f16", "fp16", Element::F16, None),
        line(Precision::Bf16, 7, "bf16", "", Element::Bf16, None),
        line(Precision::F32, 8, "f32", "fp32", Element::F32, None),
        line(Precision::Int6, 9, "int6", "", Scaled(RowCode::Int6), Some(RowCode::Uint6)),
        line(Precision::Int2, 10, "int2", "", Scaled(RowCode::Int2), Some(RowCode::Uint2)),
    ]
};

/// No precision has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown precision `{name}`, expected one of: {}", names().join(", "))]
pub struct UnknownPrecision {
    /// The name as written.
    pub name: String,
}

fn names() -> Vec<&'static str> {
    TABLE.iter().map(|line| line.name).collect()
}

impl Precision {
    /// Every precision.
    pub fn all() -> impl Iterator<Item = Precision> {
        TABLE.iter().map(|line| line.precision)
    }

    fn line(self) -> &'static Line {
        &TABLE[self as usize]
    }

    /// The number in containers.
    pub fn number(self) -> u8 {
        self.line().number
    }

    /// The precision with this number in containers.
    pub fn by_number(number: u8) -> Option<Precision> {
        TABLE.iter().find(|line| line.number == number).map(|line| line.precision)
    }

    /// The precisions of keys and of values: `int8/int4`, or one name for both.
    ///
    /// # Errors
    /// A name that is none.
    pub fn pair(names: &str) -> Result<[Precision; 2], UnknownPrecision> {
        let (keys, values) = names.split_once('/').unwrap_or((names, names));
        Ok([keys.parse()?, values.parse()?])
    }

    /// The name, which is that of the format in `codec` with the same elements.
    pub fn name(self) -> &'static str {
        self.line().name
    }

    /// Bits of an element, without scales.
    pub fn bits(self) -> usize {
        match self.line().element {
            Element::Scaled(code) => code.bits(),
            Element::F16 | Element::Bf16 => 16,
            Element::F32 => 32,
        }
    }

    /// Whether elements are integers, which may have a zero point.
    pub fn is_integer(self) -> bool {
        self.line().with_zero.is_some()
    }

    /// Whether elements need a scale.
    pub fn is_scaled(self) -> bool {
        matches!(self.line().element, Element::Scaled(_))
    }

    /// Bytes of a row of `dim` elements; a row ends with a byte.
    pub fn row_bytes(self, dim: usize) -> usize {
        (dim * self.bits()).div_ceil(8)
    }

    /// How elements are made; integers with a zero point if `asymmetric`.
    pub(super) fn element(self, asymmetric: bool) -> Element {
        let line = self.line();
        let with_zero = line.with_zero.filter(|_| asymmetric).map(Element::Scaled);
        with_zero.unwrap_or(line.element)
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        let named = |line: &&Line| line.name == name || !name.is_empty() && line.alias == name;
        let found = TABLE.iter().find(named).map(|line| line.precision);
        found.ok_or_else(|| UnknownPrecision { name: name.into() })
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for Precision {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_the_format_and_of_codec() {
        for (place, precision) in Precision::all().enumerate() {
            assert_eq!(precision as usize, place);
            assert_eq!(Precision::by_number(precision.number()), Some(precision));
            assert_eq!(precision.name().parse(), Ok(precision));
            let format = smidgen_codec::Format::by_name(precision.name()).unwrap();
            let bits = format.layout([1, 1 << 16]).bits_per_value();
            assert!(bits >= precision.bits() as f64 && bits < precision.bits() as f64 + 1.0);
        }
        assert_eq!("fp16".parse(), Ok(Precision::F16));
        assert_eq!("fp8-e4m3fn".parse(), Ok(Precision::E4M3));
        assert_eq!(Precision::by_number(0), None);
        let message = "".parse::<Precision>().unwrap_err().to_string();
        assert!(message.starts_with("unknown precision ``, expected one of: int8, int4"));
        assert_eq!([Precision::Int6.row_bytes(5), Precision::Int2.row_bytes(5)], [4, 2]);
    }
}
