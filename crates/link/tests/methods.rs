//! The loop that measures, with stubs for models and methods.

use std::collections::BTreeMap;

use smidgen_codec::Ledger;
use smidgen_link::Error;
use smidgen_link::methods::{
    Answer, Contents, Entry, Measured, Method, Pair, Payload, PayloadKind, Question, ReceiverOnly,
    Reply, Stage, measure,
};
use smidgen_link::record::BudgetRecord;
use smidgen_link::wire::{self, Group, PerBlock, Plan, Precision, encode, reference, wire_bytes};
use smidgen_tensor::Device;

struct Item {
    id: String,
    number: u64,
}

impl Question for Item {
    fn id(&self) -> &str {
        &self.id
    }

    fn cluster(&self) -> u64 {
        self.number / 2
    }
}

/// A receiver that is right where the payload ends with the number, or by chance on every fourth.
#[derive(Default)]
struct Stub {
    asked: Vec<u64>,
}

impl Pair for Stub {
    type Question = Item;

    fn full_bytes(&self, question: &Item) -> Result<u64, Error> {
        Ok(100 + question.number)
    }

    fn apply(&mut self, question: &Item, payload: &Payload) -> Result<Reply, Error> {
        self.asked.push(question.number);
        let told = payload.body().last() == Some(&(question.number as u8));
        let is_right = told || question.number.is_multiple_of(4);
        let text = if is_right { "A" } else { "B" }.into();
        Ok(Reply { text, tokens: 1, is_right, timings_ms: BTreeMap::new() })
    }
}

fn holding(selected_tokens: u64) -> Contents {
    Contents { selected_tokens, ..Contents::default() }
}

/// Sends so many bytes, the last of which is the number.
struct Sends(&'static str, fn(&Item, Option<u64>) -> u64);

impl Method<Stub> for Sends {
    fn name(&self) -> String {
        self.0.into()
    }

    fn is_upper_bound(&self) -> bool {
        self.0 == "oracle"
    }

    fn answer(&self, pair: &mut Stub, item: &Item, cap: Option<u64>) -> Result<Answer, Error> {
        let count = self.1(item, cap);
        let payload = match count {
            0 => Payload::empty(),
            count => Payload::kv(vec![item.number as u8; count as usize], holding(1)),
        };
        let reply = pair.apply(item, &payload)?;
        let timings_ms = [(Stage::EndToEnd, 1.0)].into();
        Ok(Answer { reply, payload, selection: None, timings_ms })
    }
}

const OBEYS: Sends = Sends("oracle", |_, cap| cap.unwrap_or(200));
const EXCEEDS: Sends = Sends("exceeds", |item, cap| cap.unwrap_or(0) + item.number / 3);

fn items(count: u64) -> Vec<Item> {
    (0..count).map(|number| Item { id: format!("item-{number}"), number }).collect()
}

fn entry<'a>(method: &'a dyn Method<Stub>, budget: &str) -> Entry<'a, Stub> {
    Entry { method, budget: budget.parse().unwrap() }
}

fn measured(count: u64) -> Measured {
    let entries = [entry(&ReceiverOnly, "none"), entry(&OBEYS, "1/8"), entry(&OBEYS, "64")];
    measure(&mut Stub::default(), &entries, &items(count), |_| {}).unwrap()
}

#[test]
fn every_method_answers_every_question_under_its_own_cap() {
    let mut pair = Stub::default();
    let entries = [entry(&ReceiverOnly, "none"), entry(&OBEYS, "1/8"), entry(&OBEYS, "none")];
    let mut seen = Vec::new();
    let found = measure(&mut pair, &entries, &items(8), |n| seen.push(n)).unwrap();
    assert_eq!(pair.asked, (0..8).flat_map(|n| [n; 3]).collect::<Vec<_>>(), "paired");
    assert_eq!(seen, (1..=8).collect::<Vec<_>>());
    let caps: Vec<_> = found.columns[1].rows.iter().map(|row| row.cap_bytes.unwrap()).collect();
    assert_eq!(caps, [12, 12, 12, 12, 13, 13, 13, 13]);
    assert!(found.columns[1].rows.iter().all(|row| row.bytes == row.cap_bytes.unwrap()));
    let alone = &found.columns[0].rows;
    assert!(alone.iter().all(|row| row.kind == PayloadKind::Empty && row.bytes == 0));
    assert_eq!(alone.iter().filter(|row| row.is_right).count(), 2);
    assert!(found.columns[2].rows.iter().all(|row| row.is_right && row.bytes == 200));
    assert_eq!(found.clusters, [0, 0, 1, 1, 2, 2, 3, 3]);
    let text = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Measured>(&text).unwrap(), found);
    assert_ne!(found.ids_sha256().unwrap(), measured(7).ids_sha256().unwrap());
}

#[test]
fn a_payload_above_its_cap_and_tokens_without_bytes_are_errors() {
    let run = |method: &dyn Method<Stub>, budget| {
        measure(&mut Stub::default(), &[entry(method, budget)], &items(8), |_| {}).unwrap_err()
    };
    let error = run(&EXCEEDS, "50").to_string();
    assert_eq!(error, "`exceeds` on `item-3`: expected at most 50 bytes, got 51");

    struct Lost;
    impl Method<Stub> for Lost {
        fn name(&self) -> String {
            "lost".into()
        }
        fn answer(&self, pair: &mut Stub, item: &Item, _: Option<u64>) -> Result<Answer, Error> {
            let payload = Payload::kv(Vec::new(), holding(7));
            let reply = pair.apply(item, &payload)?;
            Ok(Answer { reply, payload, selection: None, timings_ms: BTreeMap::new() })
        }
    }
    let error = run(&Lost, "none").to_string();
    assert_eq!(error, "`lost` on `item-0`: expected the bytes of 7 selected tokens, got 0");
}

#[test]
fn a_question_or_an_entry_twice_is_an_error() {
    let mut twice = items(3);
    twice[2].id = "item-0".into();
    let entries = [entry(&OBEYS, "50")];
    let error = measure(&mut Stub::default(), &entries, &twice, |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "`question`: expected each once, got `item-0` twice");
    let entries = [entry(&OBEYS, "50"), entry(&OBEYS, "50 B")];
    let error = measure(&mut Stub::default(), &entries, &items(3), |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "`method`: expected each once, got `oracle at 50` twice");
}

#[test]
fn requests_count_and_no_words_are_nothing() {
    let mut payload = Payload::text("né".into());
    payload.request_bytes = 10;
    assert_eq!((payload.kind(), payload.bytes()), (PayloadKind::Text, 13));
    assert_eq!(Payload::text(String::new()), Payload::empty());
}

#[test]
fn what_a_container_holds_is_read_from_it() {
    let (device, cache) = (Device::cpu(Ledger::new(), 1), reference(1, 3, 2, 16, 10));
    let group = |tokens: &[u32], keys, values| Group {
        tokens: PerBlock::Same(tokens.to_vec()),
        precision: PerBlock::Same(wire::Pair { keys: Some(keys), values: Some(values) }),
    };
    let groups = vec![
        group(&[1, 4, 5], Precision::Int8, Precision::Int8),
        group(&[9], Precision::Int8, Precision::Int4),
    ];
    let plan = Plan { layers_per_block: 2, ..Plan::new(3, groups) };
    let container = encode(&device, cache.view(), &plan).unwrap();
    let planned = wire_bytes(cache.view().shape, 10, &plan).unwrap();
    let contents = Contents::of(&container, planned).unwrap();
    assert_eq!((contents.selected_tokens, contents.left_tokens), (4, 6));
    let expected = [("int8".into(), 3), ("int8/int4".into(), 1)];
    assert_eq!(contents.precisions, expected.into());
    // Four tokens of three layers, keys and values of two heads of sixteen.
    assert_eq!(contents.values, 4 * 3 * 2 * 2 * 16);
    assert_eq!((contents.bytes.total(), planned), (container.len() as u64, container.len() as u64));
    // One byte a number but for the values of the last token.
    assert_eq!(contents.bytes.payload_k, 4 * 3 * 2 * 16);
    assert_eq!(contents.bytes.payload_v, 3 * 3 * 2 * 16 + 3 * 2 * 8);
    assert!(Contents::of(&container[..20], 0).is_err());
}

#[test]
fn a_column_says_its_part_of_the_record() {
    let found = measured(8);
    let capped = BudgetRecord::of(&found.columns[1]).unwrap();
    assert_eq!((capped.cap_bytes.unwrap().max, capped.empty_items), (13.0, 0));
    assert_eq!(capped.slack_bytes.unwrap().max, 0.0);
    let alone = BudgetRecord::of(&found.columns[0]).unwrap();
    assert_eq!((alone.cap_bytes, alone.actual_bytes.max, alone.empty_items), (None, 0.0, 8));
    assert_eq!(found.columns[0].answer_histogram(), [("A".into(), 2), ("B".into(), 6)].into());
    let timings = found.columns[1].timings_ms();
    assert_eq!(timings.len(), Stage::ALL.len());
    assert_eq!(timings[&Stage::EndToEnd].unwrap().mean, 1.0);
    assert!(
        timings[&Stage::Encode].is_none()
            && found.columns[0].timings_ms()[&Stage::EndToEnd].is_none()
    );
}
