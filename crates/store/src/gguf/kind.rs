//! The number types of tensors in a GGUF file, with the sizes of their blocks.

/// A type of tensor: values come in blocks of a fixed number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgufType {
    /// The number in the file.
    pub number: u32,
    /// The name people know it by: `q8_0`.
    pub name: &'static str,
    /// Values of a block.
    pub block_values: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

const fn kind(number: u32, name: &'static str, block_values: u64, block_bytes: u64) -> GgufType {
    GgufType { number, name, block_values, block_bytes }
}

/// Every type of the format that is in use. Sizes are needed also of those nobody here computes
/// with: they say where a tensor ends.
static TYPES: &[GgufType] = &[
    GgufType::F32,
    GgufType::F16,
    kind(2, "q4_0", 32, 18),
    kind(3, "q4_1", 32, 20),
    kind(6, "q5_0", 32, 22),
    kind(7, "q5_1", 32, 24),
    GgufType::Q8_0,
    kind(9, "q8_1", 32, 40),
    kind(10, "q2_k", 256, 84),
    kind(11, "q3_k", 256, 110),
    kind(12, "q4_k", 256, 144),
    kind(13, "q5_k", 256, 176),
    kind(14, "q6_k", 256, 210),
    kind(15, "q8_k", 256, 292),
    kind(16, "iq2_xxs", 256, 66),
    kind(17, "iq2_xs", 256, 74),
    kind(18, "iq3_xxs", 256, 98),
    kind(19, "iq1_s", 256, 50),
    kind(20, "iq4_nl", 32, 18),
    kind(21, "iq3_s", 256, 110),
    kind(22, "iq2_s", 256, 82),
    kind(23, "iq4_xs", 256, 136),
    kind(24, "i8", 1, 1),
    kind(25, "i16", 1, 2),
    kind(26, "i32", 1, 4),
    kind(27, "i64", 1, 8),
    kind(28, "f64", 1, 8),
    kind(29, "iq1_m", 256, 56),
    GgufType::BF16,
    kind(34, "tq1_0", 256, 54),
    kind(35, "tq2_0", 256, 66),
    kind(39, "mxfp4", 32, 17),
    kind(40, "nvfp4", 64, 36),
];

impl GgufType {
    /// 32-bit floats.
    pub const F32: GgufType = kind(0, "f32", 1, 4);
    /// IEEE half precision.
    pub const F16: GgufType = kind(1, "f16", 1, 2);
    /// 8-bit integers in blocks of 32 with an f16 scale.
    pub const Q8_0: GgufType = kind(8, "q8_0", 32, 34);
    /// The upper half of a 32-bit float.
    pub const BF16: GgufType = kind(30, "bf16", 1, 2);

    /// The type of a number.
    pub fn by_number(number: u32) -> Option<GgufType> {
        TYPES.iter().copied().find(|kind| kind.number == number)
    }

    /// Bytes of a tensor whose rows have `dims[0]` values; `None` where rows are no whole blocks or
    /// the product does not fit.
    pub fn bytes(self, dims: &[u64]) -> Option<u64> {
        let row = dims.first()?;
        let values = dims.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim))?;
        let whole = row.is_multiple_of(self.block_values);
        (values / self.block_values).checked_mul(self.block_bytes).filter(|_| whole)
    }
}

impl std::fmt::Display for GgufType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_sizes_are_checked() {
        for (i, kind) in TYPES.iter().enumerate() {
            assert_eq!(GgufType::by_number(kind.number), Some(*kind));
            assert!(TYPES[i + 1..].iter().all(|other| other.number > kind.number), "{kind}");
        }
        assert_eq!(GgufType::by_number(4), None);
        assert_eq!(GgufType::Q8_0.bytes(&[64, 3]), Some(6 * 34));
        assert_eq!(GgufType::Q8_0.bytes(&[33, 32]), None);
        assert_eq!(GgufType::F32.bytes(&[u64::MAX, 1]), None);
        assert_eq!(GgufType::F32.bytes(&[u64::MAX, 2]), None);
        assert_eq!(GgufType::F32.bytes(&[]), None);
    }
}
