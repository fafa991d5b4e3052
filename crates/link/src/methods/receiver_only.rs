//! `receiver alone`: the receiver answers alone. 0 bytes; the floor under every gain.

use super::{Answer, Method, Pair, Payload};
use crate::Error;

/// No link at all.
#[derive(Clone, Copy, Debug)]
pub struct ReceiverOnly;

impl<P: Pair> Method<P> for ReceiverOnly {
    fn name(&self) -> String {
        "receiver alone".into()
    }

    fn answer(
        &self,
        pair: &mut P,
        question: &P::Question,
        _cap_bytes: Option<u64>,
    ) -> Result<Answer, Error> {
        let payload = Payload::empty();
        let reply = pair.apply(question, &payload)?;
        let timings_ms = reply.timings_ms.clone();
        Ok(Answer { reply, payload, selection: None, timings_ms })
    }
}
