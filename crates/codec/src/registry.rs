//! Every format, and a handle to one of them with its parameters.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use crate::formats::{
    Bf16, E2M1Scaled, F16, F32, Fixed, Fp8E4M3, Fp8E5M2, Int2, Int4, Int4Asym, Int6, Int8,
    Int8Dynamic, Mxfp4, Nf4, Nf4Dq, Nvfp4, Q8_0, Scaled, Ternary, Tq1_0, Tq2_0,
};
use crate::{Codec, Error, Sign};

/// Every format with its default parameters. Configs, errors and the test matrix read this list.
pub static CODECS: &[&dyn Codec] = &[
    &F32,
    &Bf16,
    &F16,
    &INT8,
    &INT8_DYNAMIC,
    &Scaled::new(Int6),
    &INT4,
    &Scaled::new(Int4Asym),
    &Scaled::new(Int2),
    &NF4,
    &Nf4Dq,
    &Scaled::new(Fp8E4M3),
    &Scaled::new(Fp8E5M2),
    &Scaled::new(E2M1Scaled),
    &Fixed(Mxfp4),
    &Fixed(Nvfp4),
    &Fixed(Ternary),
    &Fixed(Tq1_0),
    &Fixed(Tq2_0),
    &Q8,
];

static Q8: Fixed<Q8_0> = Fixed(Q8_0);
static INT8: Scaled<Int8> = Scaled::new(Int8);
static INT8_DYNAMIC: Scaled<Int8Dynamic> = Scaled::new(Int8Dynamic);
static INT4: Scaled<Int4> = Scaled::new(Int4);
static NF4: Scaled<Nf4> = Scaled::new(Nf4);

/// A format with its parameters: a cheap handle to a [`Codec`].
///
/// Written `name`, `name/block` or `name/block/unsigned`; two handles are equal when their full
/// names are.
#[derive(Clone)]
pub struct Format(Handle);

#[derive(Clone)]
enum Handle {
    Listed(&'static dyn Codec),
    Shared(Arc<dyn Codec>),
}

impl Format {
    /// 32-bit floats, as they are in memory.
    pub const F32: Format = Format(Handle::Listed(&F32));
    /// The upper half of a 32-bit float.
    pub const BF16: Format = Format(Handle::Listed(&Bf16));
    /// 16-bit floats of IEEE 754.
    pub const F16: Format = Format(Handle::Listed(&F16));
    /// 8-bit integers in blocks of 64.
    pub const INT8: Format = Format(Handle::Listed(&INT8));
    /// 8-bit codes of seven decades in blocks of 256.
    pub const INT8_DYNAMIC: Format = Format(Handle::Listed(&INT8_DYNAMIC));
    /// 4-bit integers in blocks of 64.
    pub const INT4: Format = Format(Handle::Listed(&INT4));
    /// 16 quantiles of the normal distribution in blocks of 64.
    pub const NF4: Format = Format(Handle::Listed(&NF4));
    /// 8-bit integers in blocks of 32, as in GGUF.
    pub const Q8_0: Format = Format(Handle::Listed(&Q8));

    /// A handle to a codec that is not in the registry with these parameters.
    pub fn new(codec: impl Codec + 'static) -> Self {
        Self(Handle::Shared(Arc::new(codec)))
    }

    /// The format written `name[/block][/unsigned]`.
    ///
    /// # Errors
    /// [`Error::UnknownFormat`] lists the registry and the nearest name; [`Error::Parameter`] says
    /// which parameters the format takes.
    pub fn by_name(name: &str) -> Result<Self, Error> {
        let mut parts = name.split('/');
        let family = parts.next().expect("split yields at least one part");
        let unknown = || Error::UnknownFormat { name: family.into(), known: names() };
        let codec = CODECS.iter().find(|codec| codec.name() == family).ok_or_else(unknown)?;
        parts.try_fold(Self(Handle::Listed(*codec)), |format, part| format.with_part(name, part))
    }

    /// The format with this number in state files, with its default parameters.
    ///
    /// # Errors
    /// [`Error::UnknownId`] for a number that no format has.
    pub fn by_id(id: u16) -> Result<Self, Error> {
        let unknown = || Error::UnknownId { id, known: CODECS.iter().map(|c| c.id()).collect() };
        let codec = CODECS.iter().find(|codec| codec.id() == id).ok_or_else(unknown)?;
        Ok(Self(Handle::Listed(*codec)))
    }

    /// The name with all parameters, as [`Format::by_name`] reads it.
    pub fn full_name(&self) -> String {
        let mut name = self.name().to_owned();
        if let Some(block) = self.block() {
            name += &format!("/{block}");
        }
        if self.sign() == Sign::Unsigned {
            name += "/unsigned";
        }
        name
    }

    /// This format with the map for values of this sign; itself where one map serves both.
    pub fn signed_as(&self, sign: Sign) -> Self {
        self.for_sign(sign).unwrap_or_else(|| self.clone())
    }

    fn with_part(self, name: &str, part: &str) -> Result<Self, Error> {
        let found = match (part, part.parse()) {
            ("unsigned", _) => self.for_sign(Sign::Unsigned),
            (_, Ok(block)) if block > 0 => self.with_block(block),
            _ => None,
        };
        found.ok_or_else(|| Error::Parameter {
            name: name.into(),
            expected: self.parameters(),
            got: part.into(),
        })
    }

    fn parameters(&self) -> String {
        let block = self.block().map(|block| format!("a block size such as {block}"));
        let sign = self.for_sign(Sign::Unsigned).map(|_| "`unsigned`".to_owned());
        match [block, sign].into_iter().flatten().collect::<Vec<_>>() {
            none if none.is_empty() => "no parameter".into(),
            some => some.join(" or "),
        }
    }
}

fn names() -> Vec<&'static str> {
    CODECS.iter().map(|codec| codec.name()).collect()
}

impl Deref for Format {
    type Target = dyn Codec;

    fn deref(&self) -> &Self::Target {
        match &self.0 {
            Handle::Listed(codec) => *codec,
            Handle::Shared(codec) => codec.as_ref(),
        }
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.full_name() == other.full_name()
    }
}

impl Eq for Format {}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full_name())
    }
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Format({self})")
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::by_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique_and_found() {
        for codec in CODECS {
            let format = Format::by_name(codec.name()).unwrap();
            assert_eq!(format, Format::by_id(codec.id()).unwrap());
            assert_eq!(CODECS.iter().filter(|c| c.id() == codec.id()).count(), 1);
            assert_eq!(format.full_name().parse::<Format>().unwrap(), format);
        }
    }

    #[test]
    fn a_wrong_name_lists_the_registry_and_the_nearest() {
        let message = Format::by_name("bf61").unwrap_err().to_string();
        let known = names().join(", ");
        assert_eq!(
            message,
            format!(
                "unknown format `bf61`, expected one of: {known}\n  hint: did you mean `bf16`?"
            )
        );
        assert!(Format::by_id(999).unwrap_err().to_string().contains("999"));
    }

    #[test]
    fn a_wrong_parameter_is_an_error() {
        for name in ["f32/64", "bf16/unsigned", "f32/", "f32/0"] {
            let message = Format::by_name(name).unwrap_err().to_string();
            assert!(message.contains("expected no parameter"), "{message}");
        }
    }
}
