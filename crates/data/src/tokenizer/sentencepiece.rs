//! SentencePiece's `.model`: a protocol buffer with the pieces, their scores, and how text is
//! prepared.
//!
//! `ModelProto`: 1 pieces {1 text, 2 score, 3 type}, 2 trainer {3 kind of model, 24 blank as suffix,
//! 41 begin, 42 end}, 3 normalizer {2 character map, 3 blank before the text, 4 no extra blanks, 5
//! blanks as `▁`}. What is absent has SentencePiece's default.

use super::alphabet::without_marks;
use super::sentence::{Lead, Order, Sentence};
use super::vocab::{Kind, Vocab};
use super::{Borders, Encoder, Parts, Tokenizer};

/// What the fields besides the pieces say.
struct Settings {
    model_type: u64,
    blank_as_suffix: bool,
    begin: u32,
    end: u32,
    character_map: bool,
    leading_blank: bool,
    trims: bool,
    escapes: bool,
}

const DEFAULTS: Settings = Settings {
    model_type: 1,
    blank_as_suffix: false,
    begin: 1,
    end: 2,
    character_map: false,
    leading_blank: true,
    trims: true,
    escapes: true,
};

pub(super) fn read(model: &[u8]) -> Result<Tokenizer, String> {
    let (mut vocab, mut scores, mut unknown) = (Vocab::default(), Vec::new(), None);
    let mut settings = DEFAULTS;
    let mut fields = Fields { rest: model };
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(piece)) => {
                let (score, is_unknown) = push_piece(&mut vocab, piece)?;
                scores.push(score);
                if is_unknown {
                    unknown = Some(vocab.len() as u32 - 1);
                }
            }
            (2, Value::Bytes(trainer)) => settings.trainer(trainer)?,
            (3, Value::Bytes(normalizer)) => settings.normalizer(normalizer)?,
            _ => {}
        }
    }
    settings.check()?;
    let lead = if settings.leading_blank { Lead::First } else { Lead::Never };
    let mut sentence = Sentence::new(&vocab, Order::Scores(scores), lead, unknown)?;
    sentence.trims = settings.trims;
    let is_control = |id: &u32| (*id as usize) < vocab.len() && vocab.kind(*id) == Kind::Control;
    let ends: Vec<u32> = [settings.end].into_iter().filter(is_control).collect();
    let begin = Some(settings.begin).filter(is_control);
    let prefix = begin.or(ends.first().copied());
    let prefix = prefix.ok_or("expected a token that begins or ends a text, got neither")?;
    let borders = Borders { prefix, begins: begin.is_some(), ends };
    Parts::assemble(vocab, &[], Encoder::Sentence(sentence), borders)
}

/// Adds a piece; gives its score, and whether it is the unknown one.
fn push_piece(vocab: &mut Vocab, piece: &[u8]) -> Result<(f32, bool), String> {
    let id = vocab.len();
    let (mut text, mut score, mut kind) = ("", 0.0, 1);
    let mut fields = Fields { rest: piece };
    while let Some((field, value)) = fields.next()? {
        match (field, value) {
            (1, Value::Bytes(bytes)) => {
                let utf8 = std::str::from_utf8(bytes);
                text = utf8.map_err(|_| format!("piece {id}: expected UTF-8"))?;
            }
            (2, Value::Fixed32(bytes)) => score = f32::from_le_bytes(bytes),
            (3, Value::Varint(number)) => kind = number,
            _ => {}
        }
    }
    let kind = match kind {
        1 => Kind::Normal,
        2 | 3 => {
            vocab.push(text.as_bytes(), Kind::Control)?;
            return Ok((score, kind == 2));
        }
        4 => Kind::UserDefined,
        6 => Kind::Byte,
        other => return Err(format!("piece {id} (`{text}`): type {other} is not supported")),
    };
    vocab.push(without_marks(text).as_bytes(), kind)?;
    Ok((score, false))
}

impl Settings {
    fn trainer(&mut self, message: &[u8]) -> Result<(), String> {
        let mut fields = Fields { rest: message };
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (3, Value::Varint(number)) => self.model_type = number,
                (24, Value::Varint(number)) => self.blank_as_suffix = number != 0,
                // -1 stands for a token that is not there; no vocabulary has such an id.
                (41, Value::Varint(number)) => self.begin = number as u32,
                (42, Value::Varint(number)) => self.end = number as u32,
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, message: &[u8]) -> Result<(), String> {
        let mut fields = Fields { rest: message };
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (2, Value::Bytes(map)) => self.character_map = !map.is_empty(),
                (3, Value::Varint(number)) => self.leading_blank = number != 0,
                (4, Value::Varint(number)) => self.trims = number != 0,
                (5, Value::Varint(number)) => self.escapes = number != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let kind = match self.model_type {
            1 => "UNIGRAM",
            2 => "BPE",
            3 => "WORD",
            4 => "CHAR",
            _ => "unknown",
        };
        if kind != "BPE" {
            return Err(format!("`trainer_spec.model_type`: expected `BPE`, got `{kind}`"));
        }
        for (refused, what) in [
            (self.character_map, "`normalizer_spec.precompiled_charsmap`: only `identity`"),
            (self.blank_as_suffix, "`trainer_spec.treat_whitespace_as_suffix`: only `false`"),
            (!self.escapes, "`normalizer_spec.escape_whitespaces`: only `true`"),
        ] {
            if refused {
                return Err(format!("{what} is supported"));
            }
        }
        Ok(())
    }
}

/// A field's value, as far as its type is known from the bytes.
enum Value<'a> {
    Varint(u64),
    Fixed64,
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, String> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed32(self.take(4)?.try_into().expect("four bytes were taken")),
            other => {
                return Err(format!("expected a protocol buffer, got a field of type {other}"));
            }
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("expected a protocol buffer, got a number of more than 64 bits".into())
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let len = usize::try_from(len).ok().filter(|len| *len <= self.rest.len());
        let len = len.ok_or("expected a whole protocol buffer, got one that is cut short")?;
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(taken)
    }
}
