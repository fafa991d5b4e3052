//! One question with everything that is known about it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What the answer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Answer {
    /// One of the options.
    Choice {
        /// The options as they are listed, no two of them beginning alike.
        options: Vec<String>,
        /// The place of the right one.
        gold: usize,
    },
    /// A word that is written out.
    Word {
        /// The right one.
        gold: String,
    },
}

impl Answer {
    /// The right word.
    pub fn gold(&self) -> &str {
        match self {
            Answer::Choice { options, gold } => &options[*gold],
            Answer::Word { gold } => gold,
        }
    }
}

/// A question. Texts have no begin token and no answer; an answer follows behind one blank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Unique in the world: task, split, place, relation.
    pub id: String,
    /// What items are resampled by: the entity, or the document.
    pub cluster: u64,
    /// What the sharer reads before it sends its cache. Where it is not the receiver's text, its bytes
    /// lie at the same places.
    pub sharer: String,
    /// What the sharer reads when it is asked itself.
    pub asked: String,
    /// What the receiver reads.
    pub receiver: String,
    /// Bytes of the receiver's text that are blotted out: where the information lies.
    pub blots: Vec<Range<usize>>,
    /// The answer.
    pub answer: Answer,
    /// What a helpful sharer would write.
    pub hint: String,
    /// Whether no item like it was in the fuser's training: a city whose country it never had to tell.
    pub held_out: bool,
}
