use super::*;
use crate::{Rng, Stream};

const LENGTHS: [usize; 9] = [1, 3, 4, 16, 31, 32, 64, 65, 130];

/// Rows of very different sizes, one of zeros, and their scales; zero points off the middle.
fn rows(code: RowCode, len: usize) -> (Vec<f32>, Vec<RowScale>) {
    let mut values = vec![0.0; 7 * len];
    Rng::new(3, Stream::Init).fill_normal(0, 0, 1.0, &mut values);
    let sizes = [1.0, 1e-6, 0.0, 300.0, 1e30, 0.1, 1e-30];
    for (row, size) in values.chunks_exact_mut(len).zip(sizes) {
        row.iter_mut().for_each(|value| *value *= size);
    }
    let mut largest = [0.0; 7];
    super::largest(Level::Portable, len, &values, &mut largest);
    let scale = |(row, size): (u8, &f32)| RowScale {
        scale: size / code.top() * if code.has_zero() { 2.0 } else { 1.0 },
        zero: if code.has_zero() && *size > 0.0 { row } else { 0 },
    };
    let scales = (0..).zip(&largest).map(scale).collect();
    (values, scales)
}

/// What one value becomes, one at a time and without a row.
fn plainly(code: RowCode, value: f32, scale: RowScale) -> f32 {
    fn one<C: Code>(value: f32, RowScale { scale, zero }: RowScale) -> f32 {
        let scaled = if scale == 0.0 { 0.0 } else { value / scale };
        // Packing cuts off the bits above a code.
        C::value(C::code(scaled, zero) & (255 >> (8 - C::BITS)), zero) * scale
    }
    dispatch!(code, one(value, scale))
}

#[test]
fn rows_come_back_alike_at_every_level_and_one_by_one() {
    for code in RowCode::ALL {
        for len in LENGTHS {
            let (values, scales) = rows(code, len);
            let expected: Vec<f32> =
                (0..).zip(&values).map(|(i, x)| plainly(code, *x, scales[i / len])).collect();
            let row_bytes = code.row_bytes(len);
            let mut reference = Vec::new();
            for level in Level::available() {
                let mut bytes = vec![0xa5; 7 * row_bytes];
                code.pack(level, len, &scales, &values, &mut bytes);
                if level == Level::Portable {
                    reference.clone_from(&bytes);
                }
                assert!(bytes == reference, "{code:?} {len} {level:?}");
                assert_eq!(code.fault(level, len, &scales, &bytes, false), None, "{code:?} {len}");
                let mut back = vec![0.5; values.len()];
                code.unpack(level, len, &scales, &bytes, &mut back);
                assert_eq!(back, expected, "{code:?} {len} {level:?}");
                let rows = bytes.chunks_exact(row_bytes).zip(values.chunks_exact(len)).zip(&scales);
                for ((bytes, values), scale) in rows {
                    let scales = vec![*scale; len];
                    let (mut each, mut back) = (vec![0xa5; row_bytes], vec![0.5; len]);
                    code.pack_each(level, &scales, values, &mut each);
                    assert!(each == bytes, "{code:?} {len} {level:?}: each");
                    assert_eq!(code.fault_each(&scales, bytes, false), None);
                    code.unpack_each(level, &scales, bytes, &mut back);
                    assert!(back.iter().zip(values).all(|(b, v)| *b == plainly(code, *v, *scale)));
                }
            }
        }
    }
}

#[test]
fn largest_sizes_are_alike_at_every_level_and_show_what_is_no_number() {
    let mut values = vec![0.0; 5 * 33];
    Rng::new(4, Stream::Init).fill_normal(0, 0, 1.0, &mut values);
    values[33 + 7] = f32::NAN;
    values[2 * 33] = f32::NEG_INFINITY;
    values[3 * 33..4 * 33].fill(-0.0);
    for level in Level::available() {
        let mut sizes = [9.0; 5];
        largest(level, 33, &values, &mut sizes);
        let size = |row: usize| values[33 * row..][..33].iter().fold(0f32, |m, x| m.max(x.abs()));
        assert_eq!([sizes[0], sizes[3], sizes[4]], [size(0), 0.0, size(4)]);
        assert!(sizes[1].is_nan() && sizes[2] == f32::INFINITY);
    }
}

/// Of all codes that may be, under a scale of 1.
#[test]
fn no_value_is_larger_than_the_largest() {
    for code in RowCode::ALL {
        for lenient in [false, true] {
            let size = (0..=255).map(|byte: u8| {
                let scales = [RowScale { scale: 1.0, zero: 0 }];
                let mut value = [0.0];
                let bytes = [byte & (255 >> (8 - code.bits()))];
                if code.fault(Level::Portable, 1, &scales, &bytes, lenient).is_none() {
                    code.unpack(Level::Portable, 1, &scales, &bytes, &mut value);
                }
                value[0].abs()
            });
            assert_eq!(size.fold(0.0, f32::max), code.largest(lenient), "{code:?} {lenient}");
        }
    }
}

#[test]
fn each_fault_is_found_and_named() {
    let one = RowScale { scale: 1.0, zero: 0 };
    let none = RowScale { scale: 0.0, zero: 0 };
    let cases = [
        (RowCode::Int8, 2, one, &[1, 0x80][..], RowFault::Unused),
        (RowCode::Int4, 3, one, &[0x18, 0], RowFault::Unused),
        (RowCode::Int4, 3, one, &[0x11, 0x11], RowFault::Spare),
        (RowCode::Int6, 4, one, &[0, 0, 0x80], RowFault::Unused),
        (RowCode::Int2, 4, one, &[0x20], RowFault::Unused),
        (RowCode::Int8, 2, none, &[0, 1], RowFault::NotZero),
        (RowCode::Nf4, 2, none, &[0x70], RowFault::NotZero),
        (RowCode::E4M3, 1, one, &[0x7f], RowFault::NoNumber),
        (RowCode::E5M2, 1, one, &[0xfc], RowFault::NoNumber),
    ];
    for (code, len, scale, bytes, fault) in cases {
        for level in Level::available() {
            let found = code.fault(level, len, &[scale], bytes, false);
            assert_eq!(found, Some((0, fault)), "{code:?} {bytes:x?}");
            let lenient = code.fault(level, len, &[scale], bytes, true);
            assert_eq!(lenient.is_none(), fault == RowFault::Unused, "{code:?} {bytes:x?}");
        }
        assert_eq!(code.fault_each(&vec![scale; len], bytes, false), Some(fault));
    }
    let rows = [one; 4];
    assert_eq!(
        RowCode::Int8.fault(Level::Portable, 2, &rows, &[1, 2, 3, 4, 5, 0x80, 7, 8], false),
        Some((2, RowFault::Unused))
    );
}
