//! Ways to answer a question over a link, and the loop that measures all of them alike.
//!
//! A method gets a question and a cap, lets the sharer say something, and gives the receiver's
//! answer together with the very bytes that travelled. Baselines are methods too. What a pair of
//! models can do is the pair's own type; a new method is one file, and one line of the list that
//! goes with the pair.
//!
//! Read first: [`Method`], [`Payload`], [`measure`].

mod measure;
mod payload;
mod receiver_only;

pub use measure::{Column, Entry, Measured, Row, measure};
pub use payload::{Answer, Contents, Payload, PayloadKind, Reply, Stage};
pub use receiver_only::ReceiverOnly;

use crate::Error;
use crate::plan::SelectionConfig;

/// Something to be asked.
pub trait Question {
    /// Unique among the questions of an evaluation.
    fn id(&self) -> &str;

    /// What is drawn together when figures are resampled: the entity it is about.
    fn cluster(&self) -> u64;
}

/// A sharer and a receiver that can be asked.
pub trait Pair {
    /// What they are asked.
    type Question: Question;

    /// Bytes of the sharer's whole cache of a question at int8: what caps are shares of. A function
    /// of shapes; nothing is computed.
    ///
    /// # Errors
    /// Those of the pair.
    fn full_bytes(&self, question: &Self::Question) -> Result<u64, Error>;

    /// The receiver's answer after a payload: one prompt builder, one decode setting and one scorer
    /// for every method.
    ///
    /// # Errors
    /// Those of the pair; a payload that does not decode, or was made for other models.
    fn apply(&mut self, question: &Self::Question, payload: &Payload) -> Result<Reply, Error>;
}

/// A way to answer.
pub trait Method<P: Pair>: Sync {
    /// The name in configs and tables.
    fn name(&self) -> String;

    /// Whether it knows what it could not know over a real link.
    fn is_upper_bound(&self) -> bool {
        false
    }

    /// How it selects tokens, where it takes a share of them.
    fn selection(&self) -> Option<SelectionConfig> {
        None
    }

    /// Who chooses tokens and precisions under its cap.
    fn allocator(&self) -> Option<&'static str> {
        None
    }

    /// Answers a question; the payload has at most `cap_bytes`, if there is a cap. Where nothing
    /// fits it sends nothing, and the receiver answers alone.
    ///
    /// # Errors
    /// Those of the pair.
    fn answer(
        &self,
        pair: &mut P,
        question: &P::Question,
        cap_bytes: Option<u64>,
    ) -> Result<Answer, Error>;
}
