//! safetensors files: written as a stream, read in place.
//!
//! Layout: 8 bytes little-endian header length, a JSON header padded with spaces to 8 bytes, then
//! the data without gaps.

mod header;
mod read;
mod write;

pub(crate) use read::map;
pub use read::{TensorFile, TensorView};
pub use safetensors::Dtype;
pub(crate) use write::Counted;
pub use write::write_tensors;

/// What the header says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Element type: `F32`, `BF16`, `U8` (packed codes) ...
    pub dtype: Dtype,
    /// Row-major shape; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Describes a tensor.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        TensorInfo { name: name.into(), dtype, shape: shape.into() }
    }

    /// Bytes of its data; `None` where that is no whole number or does not fit.
    pub fn bytes(&self) -> Option<usize> {
        bytes_of(self.dtype, &self.shape)
    }
}

fn bytes_of(dtype: Dtype, shape: &[usize]) -> Option<usize> {
    let bits = shape.iter().try_fold(dtype.bitsize(), |product, dim| product.checked_mul(*dim))?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use proptest::prelude::*;
    use std::path::Path;

    const NAME: &str = "m.safetensors";

    fn sample() -> (Vec<TensorInfo>, Vec<Vec<u8>>) {
        let infos = vec![
            TensorInfo::new("codes", Dtype::U8, [3]),
            TensorInfo::new("weight", Dtype::F32, [2, 2]),
            TensorInfo::new("half", Dtype::BF16, [3]),
            TensorInfo::new("empty", Dtype::F32, [0, 4]),
            TensorInfo::new("scalar", Dtype::F32, []),
        ];
        let data = infos.iter().enumerate();
        let data = data.map(|(i, info)| vec![i as u8 + 1; info.bytes().unwrap()]).collect();
        (infos, data)
    }

    fn encode(infos: &[TensorInfo], data: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        write_tensors(&mut out, Path::new(NAME), infos, &[("k", "v")], |i, out| {
            out.write_all(&data[i])
        })?;
        Ok(out)
    }

    fn open(bytes: &[u8]) -> Result<TensorFile, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(&path, bytes).unwrap();
        TensorFile::open(&path)
    }

    #[test]
    fn written_files_read_back_aligned() {
        let (infos, data) = sample();
        let bytes = encode(&infos, &data).unwrap();
        let file = open(&bytes).unwrap();
        for (info, data) in infos.iter().zip(&data) {
            let view = file.tensor(&info.name).unwrap();
            assert_eq!((view.dtype, view.shape), (info.dtype, &info.shape[..]));
            assert_eq!(view.data, data);
            let width = info.dtype.bitsize() / 8;
            assert_eq!(view.data.as_ptr().align_offset(width), 0, "{}", info.name);
        }
        assert_eq!(file.metadata("k"), Some("v"));
        assert_eq!(file.names().len(), infos.len());
        assert_eq!(file.names().last().unwrap(), "codes");
    }

    #[test]
    fn the_reference_implementation_reads_it() {
        let (infos, data) = sample();
        let bytes = encode(&infos, &data).unwrap();
        let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(parsed.tensor("weight").unwrap().data(), &data[1][..]);
        assert_eq!(parsed.len(), infos.len());
    }

    #[test]
    fn reading_past_the_map_gives_the_same_bytes() {
        let (infos, data) = sample();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(&path, encode(&infos, &data).unwrap()).unwrap();
        let file = TensorFile::open(&path).unwrap();
        let mut out = vec![0; 16];
        file.read_into("weight", &mut out).unwrap();
        assert_eq!(out, data[1]);
        let error = file.read_into("weight", &mut out[1..]).unwrap_err().to_string();
        assert!(error.contains("expected 15 bytes, got 16 bytes"), "{error}");
        assert!(file.tensor("wieght").unwrap_err().to_string().contains("`wieght`"));
    }

    #[test]
    fn contradictions_are_refused() {
        let (infos, data) = sample();
        let mut twice = infos.clone();
        twice[1].name = "codes".into();
        let mut reserved = infos.clone();
        reserved[1].name = write::METADATA.into();
        let mut huge = infos.clone();
        huge[1].shape = vec![usize::MAX, 2];
        for infos in [twice, reserved, huge] {
            assert!(matches!(encode(&infos, &data), Err(Error::Tensor { .. })));
        }
        let mut short = data.clone();
        short[1].pop();
        let error = encode(&infos, &short).unwrap_err().to_string();
        assert_eq!(error, "`weight` in m.safetensors: expected 16 bytes, got 15 bytes");
    }

    #[test]
    fn every_cut_and_extension_is_refused() {
        let (infos, data) = sample();
        let bytes = encode(&infos, &data).unwrap();
        for len in 0..bytes.len() {
            assert!(matches!(open(&bytes[..len]), Err(Error::Corrupt { .. })), "{len}");
        }
        assert!(open(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn offsets_near_the_end_of_the_number_line_are_refused() {
        let size = 1_usize << 60;
        let entries: Vec<String> = (0..15)
            .map(|i| {
                let (start, end) = (i * size, (i + 1) * size);
                format!(
                    r#""t{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#
                )
            })
            .collect();
        let header = format!("{{{}}}", entries.join(","));
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        assert!(matches!(open(&bytes), Err(Error::Corrupt { .. })));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(read::parse(&bytes).is_err() || bytes.len() >= 10);
        }

        #[test]
        fn no_header_panics(text in "[\\[\\]{}\",:0-9a-zA-Z_]{0,60}") {
            let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
            let _ = read::parse(&bytes);
        }

        #[test]
        fn no_damage_panics(at in any::<prop::sample::Index>(), bit in 0_u32..8) {
            let (infos, data) = sample();
            let mut bytes = encode(&infos, &data).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
            let _ = read::parse(&bytes);
        }
    }
}
