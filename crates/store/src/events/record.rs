//! The frame around a payload: its length and two checksums.

/// Bytes around a payload.
const FRAME_BYTES: usize = 16;

/// The checksum as the format stores it, so that a checksum over checksums stays useful.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A whole record of a payload.
pub(super) fn framed(payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(payload.len() + FRAME_BYTES);
    record.extend_from_slice(&len);
    record.extend_from_slice(&masked(&len).to_le_bytes());
    record.extend_from_slice(payload);
    record.extend_from_slice(&masked(payload).to_le_bytes());
    record
}

/// What is wrong with a record: what was expected, and what was found.
pub(super) type Wrong = (&'static str, String);

/// The payload at the start of `bytes`, and what follows its record; nothing is copied.
pub(super) fn unframed(bytes: &[u8]) -> Result<(&[u8], &[u8]), Wrong> {
    let short = || ("a whole record", format!("{} bytes to the end of the file", bytes.len()));
    let (len, rest) = bytes.split_first_chunk::<8>().ok_or_else(short)?;
    let (sum, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    if u32::from_le_bytes(*sum) != masked(len) {
        return Err(("a length with its checksum", "another checksum".into()));
    }
    let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| short())?;
    let (payload, rest) = rest.split_at_checked(len).ok_or_else(short)?;
    let (sum, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    if u32::from_le_bytes(*sum) != masked(payload) {
        return Err(("a payload with its checksum", "another checksum".into()));
    }
    Ok((payload, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // The check value of every list of CRCs.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn records_come_back_and_what_follows_is_left() {
        for payload in [&b""[..], b"a", &[7; 300]] {
            let mut bytes = framed(payload);
            assert_eq!(bytes.len(), payload.len() + FRAME_BYTES);
            bytes.extend_from_slice(b"rest");
            assert_eq!(unframed(&bytes).unwrap(), (payload, &b"rest"[..]));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let whole = framed(b"payload");
        for len in 0..whole.len() {
            assert!(unframed(&whole[..len]).is_err(), "{len} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unframed(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_huge_length_with_a_right_checksum_is_short_of_bytes() {
        for len in [u64::MAX, 1 << 40, u64::MAX - 15] {
            let len = len.to_le_bytes();
            let mut bytes = len.to_vec();
            bytes.extend_from_slice(&masked(&len).to_le_bytes());
            bytes.extend_from_slice(&[0; 64]);
            assert_eq!(unframed(&bytes).unwrap_err().0, "a whole record");
        }
    }
}
