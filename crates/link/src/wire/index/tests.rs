use super::*;
use proptest::prelude::*;

fn written(encoding: Encoding, tokens: &[u32], seq_len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoding.write(tokens, seq_len, &mut bytes);
    assert_eq!(bytes.len(), encoding.bytes(tokens, seq_len), "{encoding:?}");
    bytes
}

proptest! {
    #[test]
    fn every_encoding_brings_the_list_back(
        mut tokens in prop::collection::vec(0u32..2000, 1..80),
        behind in 1usize..300,
    ) {
        tokens.sort_unstable();
        tokens.dedup();
        let seq_len = *tokens.last().unwrap() as usize + behind;
        for encoding in Encoding::WRITTEN {
            let bytes = written(encoding, &tokens, seq_len);
            let index = Index::read(encoding, bytes.as_slice().into(), tokens.len(), seq_len as u32).unwrap();
            prop_assert!(index.tokens().eq(tokens.iter().copied()));
            let (least, most) =
                encoding.possible_bytes(tokens.len() as u64, seq_len as u64);
            prop_assert!((least..=most).contains(&(bytes.len() as u64)));
        }
    }

    #[test]
    fn any_bytes_are_a_list_or_an_error(
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        number in 0u8..6,
        count in 0usize..60,
        seq_len in 0u32..200,
    ) {
        let encoding = Encoding::by_number(number).unwrap();
        if let Ok(index) = Index::read(encoding, bytes.as_slice().into(), count, seq_len) {
            let tokens: Vec<u32> = index.tokens().collect();
            prop_assert!(tokens.len() == count && tokens.is_sorted_by(|a, b| a < b));
            prop_assert!(tokens.last().is_none_or(|last| *last < seq_len));
        }
    }
}

#[test]
fn the_shortest_is_taken_and_ties_go_to_the_lowest_number() {
    let shortest = |tokens: &[u32], seq_len| Encoding::shortest(tokens, seq_len);
    assert_eq!(shortest(&[0, 1, 2], 3), (Encoding::All, 0));
    assert_eq!(shortest(&[0, 2], 3), (Encoding::Bitmap, 1));
    // One number of two bytes, against a gap of two and three bytes of ranges.
    assert_eq!(shortest(&[300], 4000), (Encoding::U16, 2));
    assert_eq!(shortest(&[5], 4000), (Encoding::Gaps, 1));
    let run: Vec<u32> = (36..40).collect();
    assert_eq!(shortest(&run, 40), (Encoding::Ranges, 3));
    assert_eq!(written(Encoding::Ranges, &run, 40), [1, 0x24, 3]);
    assert_eq!(shortest(&[1 << 20], 1 << 24), (Encoding::Gaps, 3));
    assert_eq!(Encoding::U16.bytes(&[70_000], 100_000), usize::MAX);
}

#[test]
fn each_fault_has_its_name() {
    let fault = |encoding, bytes: &[u8], count| {
        Index::read(encoding, bytes.into(), count, 10).unwrap_err().1
    };
    assert_eq!(fault(Encoding::U16, &[1, 0, 1, 0], 2), IndexFault::Unsorted);
    assert_eq!(fault(Encoding::U32, &[10, 0, 0, 0], 1), IndexFault::OutOfRange);
    assert_eq!(fault(Encoding::U16, &[1, 0, 2], 2), IndexFault::Cut);
    assert_eq!(fault(Encoding::U16, &[1, 0], 2), IndexFault::Count);
    assert_eq!(fault(Encoding::Bitmap, &[3, 0x84], 2), IndexFault::SpareBits);
    assert_eq!(fault(Encoding::Bitmap, &[1], 1), IndexFault::Cut);
    assert_eq!(fault(Encoding::Gaps, &[0x81, 0], 1), IndexFault::Overlong);
    assert_eq!(fault(Encoding::Gaps, &[0xff, 0xff, 0xff, 0xff, 0x7f], 1), IndexFault::Overlong);
    assert_eq!(fault(Encoding::Ranges, &[2, 0, 0], 2), IndexFault::Cut);
    assert_eq!(fault(Encoding::Ranges, &[1, 0, 1, 0], 2), IndexFault::Count);
    // Three bytes that claim more than there is.
    assert_eq!(fault(Encoding::Ranges, &[1, 0, 0x7f], 10), IndexFault::OutOfRange);
}

#[test]
fn groups_that_share_an_index_are_found() {
    let list = |tokens: &[u32]| {
        let bytes = written(Encoding::Gaps, tokens, 50);
        Index::read(Encoding::Gaps, bytes.into(), tokens.len(), 50).unwrap()
    };
    let (a, b, c) = (list(&[1, 4, 9]), list(&[0, 5, 40]), list(&[2, 9]));
    assert!(disjoint([&a, &b].into_iter()));
    assert!(!disjoint([&a, &b, &c].into_iter()));
}
