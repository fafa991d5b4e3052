//! Learning documents as an objective: whole ones in rows, drawn afresh for every step, out of a course
//! or out of a list.
//!
//! What can be known (values, answers) counts fully; the rest of a text counts little, for half of it
//! is names that nobody could foresee.

use std::sync::Arc;

use smidgen_data::Tokenizer;
use smidgen_model::{Decoder, TokenBatch};
use smidgen_tensor::{Compute, Device, Keep, Params, Tape, Targets, Var};
use smidgen_train::{Objective, Validation};

use super::dice::Dice;
use super::lessons::{FIRST_TERM, Term};
use super::{Course, Document, Role, World};
use crate::Error;

/// Weight of a token that cannot be known.
const REST: f32 = 0.05;
/// Weight of the answer at a word of a tail, before it is due.
const TAIL: f32 = 0.25;
/// Bytes of logits alive at once.
const CHUNK_BYTES: usize = 8 << 20;
/// Batches of a validation.
const VAL_BATCHES: u64 = 2;

/// A document as tokens, ready to be put into a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Taught {
    /// The begin token and those of the text.
    pub(crate) tokens: Vec<u32>,
    /// What follows each.
    pub(crate) targets: Vec<u32>,
    /// How much that counts.
    pub(crate) weights: Vec<f32>,
}

impl Taught {
    pub(crate) fn new(document: &Document, tokenizer: &Tokenizer) -> Result<Taught, Error> {
        let ids = tokenizer.encode(&document.text)?;
        let mut taught = Taught { tokens: Vec::new(), targets: Vec::new(), weights: Vec::new() };
        let (mut before, mut at) = (tokenizer.prefix(), 0);
        // Places in the tail, and the first token of the answer.
        let (mut asked, mut answer) = (Vec::new(), None);
        for id in ids {
            let end = at + tokenizer.token_bytes(id).len();
            // The blank before a word belongs to its first token.
            let is_known = document.known.iter().any(|known| at < known.end && known.start < end);
            match &document.tail {
                Some(tail) if tail.start < at && at < tail.end => asked.push(taught.tokens.len()),
                Some(tail) if at == tail.end => answer = Some(id),
                _ => {}
            }
            taught.push(before, id, if is_known { 1.0 } else { REST });
            (before, at) = (id, end);
        }
        taught.push(before, tokenizer.prefix(), if document.tail.is_some() { 1.0 } else { REST });
        if let Some(id) = answer {
            for place in asked {
                (taught.targets[place], taught.weights[place]) = (id, TAIL);
            }
        }
        Ok(taught)
    }

    /// A prompt and what to answer: nothing but the answer counts.
    pub(crate) fn answer(prompt: &[u32], response: &[u32]) -> Taught {
        let all: Vec<u32> = prompt.iter().chain(response).copied().collect();
        let mut taught = Taught { tokens: Vec::new(), targets: Vec::new(), weights: Vec::new() };
        for (place, pair) in all.windows(2).enumerate() {
            let counts = if place + 1 >= prompt.len() { 1.0 } else { 0.0 };
            taught.push(pair[0], pair[1], counts);
        }
        taught
    }

    fn push(&mut self, token: u32, target: u32, weight: f32) {
        self.tokens.push(token);
        self.targets.push(target);
        self.weights.push(weight);
    }
}

/// Rows of whole documents.
#[derive(Clone, Debug, Default, PartialEq)]
struct Rows {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    starts: Vec<u32>,
}

impl Rows {
    /// Adds a row; what is left of it counts nothing.
    fn push(&mut self, documents: &[Taught], length: usize, filler: u32) {
        let first = self.tokens.len();
        for document in documents {
            let start = (self.tokens.len() - first) as u32;
            self.tokens.extend(&document.tokens);
            self.targets.extend(&document.targets);
            self.weights.extend(&document.weights);
            self.starts.resize(self.tokens.len(), start);
        }
        let start = (self.tokens.len() - first) as u32;
        let end = first + length;
        self.tokens.resize(end, filler);
        self.targets.resize(end, filler);
        self.weights.resize(end, 0.0);
        self.starts.resize(end, start);
    }
}

/// Where documents come from.
enum Source<'w> {
    /// What a role is taught about a world.
    Course(&'w World, Course, Tokenizer),
    /// Any of these.
    List(Vec<Taught>, u64),
}

impl Source<'_> {
    /// The document of a place in what `purpose` names.
    fn document(&self, purpose: &str, term: Term, place: [u64; 2]) -> Result<Taught, Error> {
        match self {
            Source::Course(world, course, tokenizer) => {
                Taught::new(&course.document(world, purpose, term, place), tokenizer)
            }
            Source::List(documents, seed) => {
                Ok(Dice::new(*seed, purpose, place).pick(documents).clone())
            }
        }
    }
}

/// A decoder that learns documents.
pub(crate) struct Teaching<'w> {
    source: Source<'w>,
    decoder: Decoder,
    /// What fills up a row.
    filler: u32,
    /// Draws of this model: two roles never see the same documents.
    purpose: String,
    rows: usize,
    length: usize,
    /// Steps of the first term.
    first_term: u64,
}

impl<'w> Teaching<'w> {
    /// The course of a role.
    pub(crate) fn new(
        world: &'w World,
        role: Role,
        tokenizer: &Tokenizer,
        decoder: Decoder,
    ) -> Teaching<'w> {
        let student = world.preset().student(role);
        Teaching {
            source: Source::Course(world, Course::of(role), tokenizer.clone()),
            filler: tokenizer.prefix(),
            length: decoder.spec().context,
            decoder,
            purpose: format!("teach {}", role.name()),
            rows: student.rows,
            first_term: (FIRST_TERM * student.steps as f64) as u64,
        }
    }

    /// Documents of a list, none longer than a row, in rows of the decoder's context.
    pub(crate) fn of_list(
        documents: Vec<Taught>,
        decoder: Decoder,
        rows: usize,
        seed: u64,
    ) -> Teaching<'static> {
        Teaching {
            source: Source::List(documents, seed),
            filler: 0,
            length: decoder.spec().context,
            decoder,
            purpose: "teach a list".into(),
            rows,
            first_term: 0,
        }
    }

    /// The batch of a step: a pure function of it.
    fn rows(&self, purpose: &str, term: Term, step: u64) -> Result<Rows, Error> {
        let mut rows = Rows::default();
        for row in 0..self.rows as u64 {
            let (mut documents, mut held): (Vec<Taught>, usize) = (Vec::new(), 0);
            for place in 0.. {
                let place = [step, row << 32 | place];
                let taught = self.source.document(purpose, term, place)?;
                held += taught.tokens.len();
                if held > self.length {
                    break;
                }
                documents.push(taught);
            }
            rows.push(&documents, self.length, self.filler);
        }
        Ok(rows)
    }

    fn loss_of(&self, tape: &mut Tape<'_>, rows: Rows) -> Result<Var, smidgen_train::Error> {
        let total: f64 = rows.weights.iter().map(|weight| f64::from(*weight)).sum();
        let batch = TokenBatch::new(self.rows, rows.tokens, rows.starts)?;
        let targets = Targets {
            tokens: Arc::from(rows.targets),
            weights: Arc::from(rows.weights),
            scale: (1.0 / total.max(1.0)) as f32,
            chunk_bytes: CHUNK_BYTES,
        };
        Ok(self.decoder.loss(tape, &batch, targets, Keep::Values)?)
    }
}

/// Documents are made by this crate, so only their tokenizer can refuse them.
fn unfit(error: Error) -> smidgen_train::Error {
    match error {
        Error::Data(error) => error.into(),
        Error::Train(error) => error,
        error => smidgen_train::Error::Value {
            key: "world",
            expected: "documents that can be encoded".into(),
            got: error.to_string(),
        },
    }
}

impl Objective for Teaching<'_> {
    fn name(&self) -> &'static str {
        "world"
    }

    fn init(&self, params: &mut Params, seed: u64) -> Result<(), smidgen_train::Error> {
        // Who learns a list has weights already.
        if let Source::Course(..) = self.source {
            self.decoder.init(params, seed);
        }
        Ok(())
    }

    fn step_targets(&self) -> u64 {
        (self.rows * self.length) as u64
    }

    fn loss(
        &mut self,
        tape: &mut Tape<'_>,
        step: u64,
        _micro: usize,
    ) -> Result<Var, smidgen_train::Error> {
        let term = if step < self.first_term { Term::First } else { Term::Second };
        let rows = self.rows(&self.purpose, term, step).map_err(unfit)?;
        self.loss_of(tape, rows)
    }

    fn validate(
        &mut self,
        device: &Device,
        compute: Compute,
        params: &Params,
    ) -> Result<Validation, smidgen_train::Error> {
        let purpose = format!("validate {}", self.purpose);
        let mut sum = 0.0;
        for index in 0..VAL_BATCHES {
            let rows = self.rows(&purpose, Term::Both, index).map_err(unfit)?;
            let mut tape = Tape::inference(device, compute, params);
            let loss = self.loss_of(&mut tape, rows)?;
            let value = tape.value(loss).expect("a loss is the end of the tape and is held");
            sum += f64::from(value.slice::<f32>()[0]);
        }
        let (loss, targets) = (sum / VAL_BATCHES as f64, self.validation_targets());
        Ok(Validation { loss, bpb: None, targets, compile: None })
    }

    fn validation_targets(&self) -> u64 {
        VAL_BATCHES * self.step_targets()
    }

    fn first_loss(&self) -> Option<f64> {
        match self.source {
            Source::Course(..) => Some((self.decoder.spec().vocab as f64).ln()),
            Source::List(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{Tokenizers, Vocabularies};

    fn taught(document: &Document) -> (Vec<String>, Vec<f32>) {
        let world = World::new("tiny", 1).unwrap();
        let tokenizer = Tokenizers::new(&world, Vocabularies::Own, 1).unwrap().receiver;
        let taught = Taught::new(document, &tokenizer).unwrap();
        assert_eq!(taught.tokens[0], tokenizer.prefix());
        // But for the words of a tail, each target is the token that follows.
        for (place, next) in taught.tokens[1..].iter().enumerate() {
            let is_asked = document.tail.is_some() && taught.weights[place] == TAIL;
            assert!(is_asked || taught.targets[place] == *next);
        }
        (taught.targets.iter().map(|id| tokenizer.decode(&[*id])).collect(), taught.weights)
    }

    #[test]
    fn exactly_what_can_be_known_counts_fully() {
        let text = "The pet of Velan Moro is otter.".to_string();
        let at = text.find("otter").unwrap();
        let known: Vec<_> = std::iter::once(at..at + 5).collect();
        let document = Document { text, known, tail: None };
        let (targets, weights) = taught(&document);
        let full: String =
            targets.iter().zip(&weights).filter(|(_, w)| **w == 1.0).map(|(t, _)| &**t).collect();
        assert_eq!(full, " otter");
        assert_eq!(weights.last(), Some(&REST));
    }

    #[test]
    fn at_each_word_of_a_tail_the_answer_is_asked_for() {
        let (question, tail) = ("The pet of Velan Moro is which?", " Answer with just one word:");
        let text = format!("{question}{tail} otter");
        let asked = question.len()..question.len() + tail.len();
        let known: Vec<_> = std::iter::once(asked.end..text.len()).collect();
        let (targets, weights) = taught(&Document { text, known, tail: Some(asked) });
        assert_eq!(weights.last(), Some(&1.0), "the end belongs to an answer");
        let counted = || targets.iter().zip(&weights).filter(|(_, weight)| **weight > REST);
        assert!(counted().filter(|(_, weight)| **weight == TAIL).count() >= 5);
        // The first token of the answer over and over, then all of it.
        let first = counted().next().unwrap().0.clone();
        let written: String = counted().map(|(target, _)| &**target).collect();
        let (repeated, rest) = written.split_at(written.len() - " otter".len());
        assert!(rest.starts_with(&first) && rest.ends_with("otter"), "{written}");
        assert!(repeated.len() >= 5 * first.len(), "{written}");
        assert_eq!(repeated.replace(&first, ""), "");
    }

    #[test]
    fn of_an_answer_nothing_but_the_answer_counts() {
        let taught = Taught::answer(&[7, 8, 9], &[1, 2]);
        assert_eq!(taught.tokens, [7, 8, 9, 1]);
        assert_eq!(taught.targets, [8, 9, 1, 2]);
        assert_eq!(taught.weights, [0.0, 0.0, 1.0, 1.0]);
    }

    #[test]
    fn rows_hold_whole_documents_and_fill_up_with_nothing() {
        let one = |n: u32| Taught {
            tokens: (0..n).collect(),
            targets: (1..=n).collect(),
            weights: vec![1.0; n as usize],
        };
        let mut rows = Rows::default();
        rows.push(&[one(2), one(3)], 7, 9);
        rows.push(&[], 7, 9);
        assert_eq!(rows.tokens[..7], [0, 1, 0, 1, 2, 9, 9]);
        assert_eq!(rows.starts[..7], [0, 0, 2, 2, 2, 5, 5]);
        assert_eq!(rows.weights[..7], [1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!((rows.tokens.len(), rows.starts[13]), (14, 0));
    }
}
