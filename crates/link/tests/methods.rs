//! The loop that measures, and its table, with stubs for models and methods.

use std::collections::BTreeMap;

use smidgen_link::Error;
use smidgen_link::methods::{
    Answer, Entry, Measured, Method, Pair, Payload, PayloadKind, Question, ReceiverOnly, Reply,
    Stage, measure, method_by_name,
};
use smidgen_link::plan::Budget;
use smidgen_link::record::{BudgetRecord, Interval, Table};

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
        Ok(Reply { text: if is_right { "A" } else { "B" }.into(), is_right })
    }
}

/// Sends so many bytes, the last of which is the number.
struct Sends(&'static str, fn(&Item, Option<u64>) -> u64);

impl Method<Stub> for Sends {
    fn name(&self) -> &'static str {
        self.0
    }

    fn is_upper_bound(&self) -> bool {
        self.0 == "oracle"
    }

    fn answer(&self, pair: &mut Stub, item: &Item, cap: Option<u64>) -> Result<Answer, Error> {
        let count = self.1(item, cap);
        let payload = match count {
            0 => Payload::empty(),
            count => Payload::kv(vec![item.number as u8; count as usize], 1),
        };
        let reply = pair.apply(item, &payload)?;
        let timings_ms = [(Stage::EndToEnd, 1.0)].into();
        Ok(Answer { reply, payload, timings_ms })
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
        fn name(&self) -> &'static str {
            "lost"
        }
        fn answer(&self, pair: &mut Stub, item: &Item, _: Option<u64>) -> Result<Answer, Error> {
            let payload = Payload::kv(Vec::new(), 7);
            let reply = pair.apply(item, &payload)?;
            Ok(Answer { reply, payload, timings_ms: BTreeMap::new() })
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
    let methods: [&dyn Method<Stub>; 2] = [&ReceiverOnly, &OBEYS];
    let error = method_by_name(&methods, "recever-only").err().unwrap().to_string();
    assert!(error.ends_with("did you mean `receiver-only`?"), "{error}");
    assert_eq!(method_by_name(&methods, "oracle").unwrap().name(), "oracle");
}

#[test]
fn requests_count_and_no_words_are_nothing() {
    let mut payload = Payload::text("né".into());
    payload.request_bytes = 10;
    assert_eq!((payload.kind(), payload.bytes()), (PayloadKind::Text, 13));
    assert_eq!(Payload::text(String::new()), Payload::empty());
}

/// The mean with a band that shows the clusters were passed on.
fn band(values: &[f64], clusters: &[u64]) -> Result<Interval, Error> {
    assert_eq!(values.len(), clusters.len());
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    Ok(Interval { mean, low: mean - 0.125, high: mean + 0.125 })
}

#[test]
fn the_table_is_the_same_as_json_csv_and_markdown() {
    let table = Table::of("T1", &measured(8), "receiver-only", &band).unwrap();
    assert_eq!((table.n, table.rows.len()), (8, 3));
    assert!(table.rows[0].difference.is_none());
    assert_eq!(table.rows[1].difference.unwrap().mean, 0.75);
    let csv = table.to_csv();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "task,method,budget,upper_bound,n,bytes_mean,bytes_p50,bytes_p95,\
         accuracy,accuracy_low,accuracy_high,difference,difference_low,difference_high"
    );
    assert_eq!(lines[1], "T1,receiver-only,none,0,8,0,0,0,0.25,0.125,0.375,,,");
    assert_eq!(lines[2], "T1,oracle,1/8,1,8,12.5,12.5,13,1,0.875,1.125,0.75,0.625,0.875");
    let columns = lines.iter().map(|line| line.split(',').count());
    assert!(columns.clone().all(|count| count == 14));
    let markdown = table.to_markdown();
    assert!(markdown.contains("| receiver-only | none | 0 | 0 | 0 | 25.0 [12.5, 37.5] | - |"));
    assert!(markdown.contains(
        "| oracle (upper bound) | 64 | 64 | 64 | 64 | 100.0 [87.5, 112.5] | +75.0 [+62.5, +87.5] |"
    ));
    let text = serde_json::to_string(&table).unwrap();
    assert_eq!(serde_json::from_str::<Table>(&text).unwrap(), table);
    assert!(Table::of("T1", &measured(4), "text", &band).is_err());
}

#[test]
fn methods_that_never_differ_are_doubted() {
    let ignored = Sends("ignored", |_, _| 0);
    let deaf = Sends("deaf", |item, _| u64::from(item.number.is_multiple_of(4)));
    let entries = [entry(&ReceiverOnly, "none"), entry(&ignored, "none"), entry(&deaf, "none")];
    let found = measure(&mut Stub::default(), &entries, &items(8), |_| {}).unwrap();
    // Two that send nothing are alike by right; one that sends in vain is not.
    assert_eq!(found.alike(), [(0, 2), (1, 2)]);
    let table = Table::of("T1", &found, "receiver-only", &band).unwrap();
    let warning = "`receiver-only` at none and `deaf` at none gave the same answers";
    assert_eq!(table.warnings[0], warning);
    assert!(table.to_markdown().ends_with("gave the same answers\n"));
    let budgets = found.column("deaf", Some(Budget::Unlimited));
    assert!(budgets.is_some() && found.column("deaf", Some(Budget::Bytes(1))).is_none());
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
