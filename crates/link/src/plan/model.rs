//! What a message weighs, asked by planners: exactly for a finished choice, linearly while choosing.

use crate::Error;

/// Some tokens that travel with one recipe.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// Its number among the recipes of the model.
    pub recipe: usize,
    /// Which tokens.
    pub tokens: Tokens<'a>,
}

/// Which tokens travel, ascending.
#[derive(Clone, Copy, Debug)]
pub enum Tokens<'a> {
    /// One list for all layers.
    Shared(&'a [u32]),
    /// A list for each layer that travels.
    PerLayer(&'a [Vec<u32>]),
}

/// The bytes of messages about one example.
///
/// The exact size is the encoder's own: `wire_bytes(groups) == encode(groups).len()`. A planner needs
/// more than that, for asking about every step would be slow: sizes that are linear in the number
/// of tokens. Because a list of tokens can be written in several ways, there are several
/// [`Piece`]s, and the size of a message is at most that of every piece that takes it.
pub trait ByteModel {
    /// T.
    fn tokens(&self) -> usize;

    /// M, the recipes to choose from.
    fn recipes(&self) -> usize;

    /// Bytes of the message with these groups, none of which is empty and no two of which share a
    /// recipe.
    ///
    /// # Errors
    /// [`Error::Value`] where the lists are not ascending, not below T, or not disjoint.
    fn wire_bytes(&self, groups: &[Group<'_>]) -> Result<u64, Error>;

    /// Upper bounds on the size of every message.
    fn pieces(&self) -> Vec<Piece>;
}

/// A bound that is linear in the counts: `fixed_bytes` + the sum of count times `row_bytes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Header, section table, scales and lists whose size does not depend on the counts.
    pub fixed_bytes: u64,
    /// `[M]`, what one more token of a recipe adds; none where the piece has no tokens of it.
    pub row_bytes: Vec<Option<u64>>,
    /// Holds only where every one of the T tokens has the one recipe that is open.
    pub is_whole: bool,
}

impl Piece {
    /// The bound for these counts `[M]`; none where the piece does not take them.
    pub fn bytes(&self, counts: &[u64], total_tokens: usize) -> Option<u64> {
        let count = counts.iter().sum::<u64>();
        if self.is_whole && count != total_tokens as u64 {
            return None;
        }
        let rows = counts.iter().zip(&self.row_bytes).map(|(count, row)| match (count, row) {
            (0, _) => Some(0),
            (count, row) => row.map(|row| count * row),
        });
        rows.sum::<Option<u64>>().map(|rows| self.fixed_bytes + rows)
    }
}

/// The least bound of all pieces for these counts; 0 for no tokens, for then nothing is sent.
pub fn planned_bytes(pieces: &[Piece], counts: &[u64], total_tokens: usize) -> u64 {
    if counts.iter().all(|count| *count == 0) {
        return 0;
    }
    let bytes = pieces.iter().filter_map(|piece| piece.bytes(counts, total_tokens));
    bytes.min().expect("the piece with every recipe open takes any counts")
}
