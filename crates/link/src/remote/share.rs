//! The sharer: reads a text and sends what a receiver needs of its cache.

use serde::Serialize;
use smidgen_data::Tokenizer;
use smidgen_model::KeySpace;

use super::compact::Message;
use super::compat::as_sharer;
use super::pack::{Empty, Packed, Packing};
use super::prompt::Prompt;
use super::stages::Stages;
use super::terms::{ReceiverTerms, Said, SharerTerms};
use crate::fuse::LoadedFuser;
use crate::net::{Kind, NetError, Options, Reply, Sender, Stage, Stats, Traffic, Transport};
use crate::wire::Plan;
use crate::{Error, Side};

/// How a sharer sends.
pub struct Share<'a> {
    /// Its model.
    pub side: &'a Side,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The space in which the receiver's fuser reads keys.
    pub keys: KeySpace,
    /// The fuser that the receiver has to have; none for any.
    pub fuser: Option<&'a LoadedFuser>,
    /// Whether the text travels, or only its name.
    pub says_text: bool,
    /// What is asked of the message.
    pub packing: Packing,
}

/// What was sent, and what the receiver said.
#[derive(Clone, Debug, Serialize)]
pub struct Sent {
    /// Why nothing was; none where a container was sent.
    pub empty: Option<Empty>,
    /// T, tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens whose rows are in the container.
    pub sent_tokens: usize,
    /// The selector that chose them; none where all travel unasked, and where nothing was sent.
    pub chosen_by: Option<String>,
    /// Bytes of the container, or of the compact message without its schema, which `link_bytes` has;
    /// 0 where nothing was sent.
    pub container_bytes: u64,
    /// The most it was allowed to have.
    pub cap_bytes: Option<u64>,
    /// All bytes of the session, as this side saw them.
    pub link_bytes: Traffic,
    /// What each part of the work took here.
    pub stages: Vec<Stage>,
    /// What the receiver counted; none where nothing was sent, and from a file.
    pub receiver: Option<Stats>,
}

impl Share<'_> {
    /// Sends one message about `text` in a session of its own, to whom `connect` finds once all is
    /// ready. The terms of `options` are made here.
    ///
    /// # Errors
    /// [`Error::Value`] for a text that cannot be, [`Error::OverCap`] rather than a byte too many,
    /// [`Error::Net`] for what the peer or the connection does, those of model and encoder.
    pub fn send(
        &self,
        text: &str,
        options: &Options,
        connect: impl FnOnce() -> Result<Box<dyn Transport>, NetError>,
    ) -> Result<Sent, Error> {
        let mut stages = Stages::default();
        self.packing.check(self.side.kv_shape().layers)?;
        let prompt = Prompt::new(self.tokenizer, text)?;
        let said = match self.says_text {
            true => Said::Text(text.into()),
            false => Said::Digest(Said::digest_of(text)),
        };
        let terms = SharerTerms { said, ends: prompt.ends }.to_bytes();
        let fuser = self.fuser.map(LoadedFuser::fingerprint);
        let compat = as_sharer(self.side, self.tokenizer, self.keys, fuser.as_deref())?;
        let options = Options { terms, ..options.clone() };
        let transport = connect()?;
        let mut link = stages.time("handshake", || Sender::open(transport, &compat, &options))?;
        let layers = compat.shape.layers;
        let needed = match link.peer().map(|peer| ReceiverTerms::read(&peer.terms, layers)) {
            // Whoever reads a file has this fuser, or may need anything.
            None => match self.fuser {
                Some(own) => own.fuser.needed(&own.params),
                None => vec![[true; 2]; layers],
            },
            Some(Ok(terms)) => terms.needed,
            Some(Err(reject)) => return Err(link.refuse(reject).into()),
        };
        let mut sent = Sent {
            empty: None,
            prompt_tokens: prompt.tokens.len(),
            sent_tokens: 0,
            chosen_by: None,
            container_bytes: 0,
            cap_bytes: self.packing.cap_bytes,
            link_bytes: Traffic::default(),
            stages: Vec::new(),
            receiver: None,
        };
        // Into a cap of nothing nothing fits, whatever is read.
        if self.packing.cap_bytes == Some(0) {
            sent.empty = Some(Empty::CapTooSmall);
            link.nothing(Empty::CapTooSmall.reason())?;
            (sent.link_bytes, sent.stages) = (link.finish()?.1, stages.0);
            return Ok(sent);
        }
        let read = || self.side.read(&[&prompt.tokens], self.keys);
        let cache = stages.time("prefill", read)?.pop().expect("one prompt has one cache");
        let (device, view) = (&self.side.device, cache.view());
        let plan = || self.packing.plan(device, view, &needed, self.keys);
        match stages.time("allocate", plan)? {
            Packed::Nothing(empty) => {
                link.nothing(empty.reason())?;
                sent.empty = Some(empty);
            }
            Packed::Plan { mut plan, tokens, chosen_by, score } => {
                stages.split("score", score);
                self.name(&mut plan, &compat.weights, &compat.tokenizer, text);
                let encode = || match self.packing.compact {
                    true => Message::compact(device, view, *plan),
                    false => Message::whole(device, view, &plan),
                };
                let message = stages.time("encode", encode)?;
                (sent.sent_tokens, sent.chosen_by) = (tokens, chosen_by);
                sent.container_bytes = message.bytes.len() as u64;
                self.check_cap(sent.container_bytes)?;
                send_blocks(&mut link, &message, &mut stages)?;
                sent.receiver = match stages.time("reply", || link.reply())? {
                    Reply::Taken(stats) => Some(stats),
                    Reply::Unheard => None,
                    Reply::Request(_) => {
                        let (expected, got) = ("STATS", Kind::Request);
                        return Err(NetError::Unexpected { expected, got }.into());
                    }
                };
            }
        }
        sent.link_bytes = link.finish()?.1;
        sent.stages = stages.0;
        Ok(sent)
    }

    /// Says in the container what it is of.
    fn name(&self, plan: &mut Plan, weights: &[u8; 32], tokenizer: &[u8; 32], text: &str) {
        let about = &mut plan.about;
        about.rope_theta = self.side.decoder.spec().rope_theta as f32;
        (about.sharer, about.tokenizer) = (first(weights), first(tokenizer));
        about.prompt = first(&Said::digest_of(text));
    }

    fn check_cap(&self, got_bytes: u64) -> Result<(), Error> {
        match self.packing.cap_bytes {
            Some(cap_bytes) if got_bytes > cap_bytes => {
                Err(Error::OverCap { what: "the container".into(), cap_bytes, got_bytes })
            }
            _ => Ok(()),
        }
    }
}

/// Sends a message so that each block is there when its last byte is.
fn send_blocks(link: &mut Sender, message: &Message, stages: &mut Stages) -> Result<(), Error> {
    let Message { schema, bytes, head_bytes, blocks } = message;
    if let Some(schema) = schema {
        link.schema(schema.id(), &schema.to_bytes())?;
    }
    let total = bytes.len() as u64;
    let mut out = stages.time("first_byte", || link.begin(total, &bytes[..*head_bytes]))?;
    Ok(stages.time("last_byte", || {
        for block in blocks {
            out.write(&bytes[block.clone()])?;
            out.flush()?;
        }
        out.end()
    })?)
}

/// The part of a fingerprint that stands in containers.
pub(super) fn first(digest: &[u8; 32]) -> [u8; 8] {
    *digest.first_chunk().expect("32 bytes begin with 8")
}
