//! The `tokenizer.bin` of llama2.c: SentencePiece's tokens and scores, and nothing else.
//!
//! Little endian: i32 longest token, then for every token f32 score, i32 length, bytes. Blanks are
//! plain. Id 0 is unknown, 1 begins and 2 ends a text; bytes have the names `<0x00>` to `<0xFF>`.

use super::alphabet::byte_of_name;
use super::sentence::{Lead, Order, Sentence};
use super::vocab::{Kind, Vocab};
use super::{Borders, Encoder, Parts, Tokenizer};

/// Bytes of the smallest token.
const LEAST: usize = 9;

const BEGIN: u32 = 1;
const END: u32 = 2;

pub(super) fn read(bin: &[u8], tokens: usize) -> Result<Tokenizer, String> {
    let (_, mut rest) = number(bin, "the longest token")?;
    if tokens <= END as usize || tokens > rest.len() / LEAST {
        return Err(format!("{} bytes do not hold the {tokens} tokens of the model", bin.len()));
    }
    let (mut vocab, mut scores) = (Vocab::with_capacity(tokens), Vec::with_capacity(tokens));
    for id in 0..tokens {
        let (score, behind) = number(rest, "a score")?;
        let (len, behind) = number(behind, "a length")?;
        let len = usize::try_from(i32::from_le_bytes(len)).ok().filter(|len| *len <= behind.len());
        let len = len.ok_or_else(|| format!("token {id}: its length is beyond the file"))?;
        let (text, behind) = behind.split_at(len);
        match id {
            0 => vocab.push(b"<unk>", Kind::Control)?,
            1 => vocab.push(b"<s>", Kind::Control)?,
            2 => vocab.push(b"</s>", Kind::Control)?,
            _ if byte_of_name(text).is_some() => vocab.push(text, Kind::Byte)?,
            _ => vocab.push(text, Kind::Normal)?,
        };
        scores.push(f32::from_le_bytes(score));
        rest = behind;
    }
    if !rest.is_empty() {
        return Err(format!("expected {tokens} tokens, got {} bytes behind them", rest.len()));
    }
    let sentence = Sentence::new(&vocab, Order::Scores(scores), Lead::First, Some(0))?;
    let borders = Borders { prefix: BEGIN, begins: true, ends: vec![END] };
    Parts::assemble(vocab, &[], Encoder::Sentence(sentence), borders)
}

fn number<'a>(bin: &'a [u8], what: &str) -> Result<([u8; 4], &'a [u8]), String> {
    let (bytes, rest) = bin.split_first_chunk().ok_or_else(|| format!("it ends within {what}"))?;
    Ok((*bytes, rest))
}
