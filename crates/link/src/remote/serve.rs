//! The receiver: takes a sharer's messages and answers each.

use std::cell::Cell;
use std::time::{Duration, Instant};

use smidgen_data::{TokenStream, Tokenizer};
use smidgen_model::Session;

use super::blend::Blend;
use super::compat::as_wanted;
use super::intake::Intake;
use super::prompt::Prompt;
use super::share::first;
use super::stages::Stages;
use super::terms::{ReceiverTerms, Said, SharerTerms};
use crate::align::{Alignment, Overlap};
use crate::net::{self, Code, Discarded, Event, Hello, Options, Reject, Stage, Traffic};
use crate::wire::{About, Expected, TokenSpace};
use crate::{Error, Receiver};

/// A receiver that other programs can reach.
pub struct Host<'a> {
    /// The model and its fuser.
    pub receiver: &'a Receiver<'a>,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The text that sharers have to have read; none for any that they say.
    pub prompt: Option<String>,
    /// The longest answer, at least 1.
    pub max_tokens: usize,
}

/// What the receiver answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In words.
    pub text: String,
    /// In tokens, the one that ends it included.
    pub tokens: Vec<u32>,
    /// Its first token: the prompt but for its last token was read before, and what arrived fused.
    pub first_token: Duration,
    /// From there to the last.
    pub rest: Duration,
}

/// How one message was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The receiver's.
    pub answer: Answer,
    /// Why it answered alone; none where it answered with what arrived.
    pub alone: Option<String>,
    /// Bytes of the container; 0 where none came.
    pub container_bytes: u64,
    /// All bytes of the session so far, as this side saw them.
    pub link_bytes: Traffic,
    /// Messages that were thrown away.
    pub discarded: Discarded,
    /// What each part of the work took here.
    pub stages: Vec<Stage>,
}

/// A session with one sharer.
pub struct Serving<'a> {
    host: &'a Host<'a>,
    /// None where it is over.
    link: Option<net::Receiver>,
    text: String,
    tokens: Vec<u32>,
    alignment: Alignment,
    intake: Intake,
    /// What was done before the next message came.
    stages: Stages,
}

impl<'a> Host<'a> {
    /// Agrees with a sharer. The terms of `options` are made here.
    ///
    /// # Errors
    /// [`Error::Net`] for another sharer, tokenizer, fuser, key or text, and for what the peer or the
    /// connection does.
    pub fn open(
        &'a self,
        transport: Box<dyn net::Transport>,
        options: &Options,
    ) -> Result<Serving<'a>, Error> {
        let fuser = self.receiver.fuser();
        let needed = fuser.fuser.needed(&fuser.params);
        let terms = ReceiverTerms { needed }.to_bytes();
        let options = Options { terms, ..options.clone() };
        let link = net::Receiver::open(transport, &as_wanted(fuser)?, &options)?;
        let mut stages = Stages::default();
        match stages.time("align", || self.meet(link.peer())) {
            Ok((text, tokens, alignment, intake)) => Ok(Serving {
                host: self,
                link: Some(link),
                text,
                tokens,
                alignment,
                intake,
                stages,
            }),
            Err(reject) => Err(link.refuse(reject).into()),
        }
    }

    /// The sharer's text in this side's tokens, and what stands for them.
    fn meet(&self, peer: &Hello) -> Result<(String, Vec<u32>, Alignment, Intake), Reject> {
        let terms = SharerTerms::read(&peer.terms, self.most_tokens())?;
        let text = self.text_of(terms.said)?;
        let end = terms.ends.last().map_or(0, |end| *end as usize);
        if end != text.len() {
            let wanted = format!("the last at byte {}", text.len());
            return Err(Reject::new(Code::Protocol, "terms: ends of tokens", wanted, end));
        }
        let unread =
            |error: Error| Reject::new(Code::Failed, "prompt", "a text that is read", error);
        let own = self.prompt_of(&text).map_err(unread)?;
        let (ours, theirs) = (Prompt::spans(&own.ends), Prompt::spans(&terms.ends));
        let alignment = Alignment::by_spans(&ours, &theirs, Overlap::CoverLast);
        let block = &peer.compatibility;
        let about = About {
            sharer: first(&block.weights),
            tokenizer: first(&block.tokenizer),
            prompt: first(&Said::digest_of(&text)),
            tokens: TokenSpace::Sharer,
            keys: block.k_space,
            rope_theta: block.rope_theta,
            ..About::default()
        };
        let (shape, seq_len) = (block.shape, terms.ends.len());
        let expected = Expected { shape, seq_len, batch: 1, about };
        let device = self.receiver.side().device.clone();
        Ok((text, own.tokens, alignment, Intake::new(device, expected)))
    }

    /// The text that a sharer read, where it is one that this side may answer.
    fn text_of(&self, said: Said) -> Result<String, Reject> {
        let theirs = match &said {
            Said::Text(text) => Said::digest_of(text),
            Said::Digest(digest) => *digest,
        };
        match (said, &self.prompt) {
            (_, Some(own)) if Said::digest_of(own) != theirs => {
                let short =
                    |digest: &[u8; 32]| format!("{:016x}", u64::from_be_bytes(first(digest)));
                let (wanted, got) = (short(&Said::digest_of(own)), short(&theirs));
                Err(Reject::new(Code::Incompatible, "prompt", wanted, got))
            }
            (_, Some(own)) => Ok(own.clone()),
            (Said::Text(text), None) => Ok(text),
            (Said::Digest(_), None) => {
                Err(Reject::new(Code::Unsupported, "prompt", "its text", "only its digest"))
            }
        }
    }

    /// Of a text, in this side's tokens or a sharer's. Far beyond what the model ever saw an answer
    /// says nothing, and costs the square of it.
    fn most_tokens(&self) -> usize {
        (64 * self.receiver.side().decoder.spec().context).max(1 << 14)
    }

    fn prompt_of(&self, text: &str) -> Result<Prompt, Error> {
        let prompt = Prompt::new(self.tokenizer, text)?;
        let most = self.most_tokens();
        match prompt.tokens.len() {
            got if got > most => {
                Err(Error::value("prompt", format!("at most {most} tokens for this model"), got))
            }
            _ => Ok(prompt),
        }
    }

    /// The receiver's own answer, without any link.
    ///
    /// # Errors
    /// [`Error::Value`] for a text that cannot be, those of the model.
    pub fn alone(&self, text: &str) -> Result<Answer, Error> {
        let tokens = self.prompt_of(text)?.tokens;
        self.answer(self.enter(&tokens)?, &tokens)
    }

    /// Reads a prompt as far as that needs nothing from anybody.
    fn enter(&self, prompt: &[u32]) -> Result<Session<'a>, Error> {
        let mut session = self.receiver.session(prompt.len() + self.max_tokens)?;
        self.receiver.enter(&mut session, prompt)?;
        Ok(session)
    }

    /// Answers over a prompt that was read, and over what was fused into it.
    fn answer(&self, mut session: Session<'_>, prompt: &[u32]) -> Result<Answer, Error> {
        let (started, first) = (Instant::now(), Cell::new(None));
        let ends = |token| {
            first.set(first.get().or_else(|| Some(started.elapsed())));
            self.tokenizer.ends(token)
        };
        let (receiver, most) = (self.receiver, self.max_tokens);
        let tokens = receiver.answer_entered(&mut session, prompt, None, most, ends)?;
        let (first_token, whole) = (first.get().unwrap_or_default(), started.elapsed());
        let mut stream = TokenStream::within(self.tokenizer);
        let mut text: String = tokens.iter().filter_map(|token| stream.push(*token)).collect();
        text.extend(stream.finish());
        Ok(Answer { text, tokens, first_token, rest: whole.saturating_sub(first_token) })
    }
}

impl Serving<'_> {
    /// The text that the session is about.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Bytes of the session so far; none where it is over.
    pub fn link_bytes(&self) -> Option<Traffic> {
        self.link.as_ref().map(net::Receiver::traffic)
    }

    /// Waits for the next message and answers it; none where the sharer is done.
    ///
    /// # Errors
    /// [`Error::Wire`] and [`Error::Incompatible`] for a container that is wrong, [`Error::Net`] for
    /// what the peer or the connection does, those of the model. The session is then over, and nothing
    /// of the message counted.
    pub fn serve(&mut self) -> Result<Option<Served>, Error> {
        let Some(mut link) = self.link.take() else { return Ok(None) };
        let failed = |link: net::Receiver, error: Error| {
            link.refuse(Reject::new(Code::Failed, "answer", "one", &error));
            error
        };
        // While the sharer reads and sends.
        let mut stages = std::mem::take(&mut self.stages);
        let mut session = match stages.time("prefill", || self.host.enter(&self.tokens)) {
            Ok(session) => session,
            Err(error) => return Err(failed(link, error)),
        };
        let (intake, receiver) = (&mut self.intake, self.host.receiver);
        let mut blend = Blend::new(intake, receiver, &mut session, &self.alignment);
        let event = link.receive(&mut blend);
        let fuse = blend.spent;
        let event = event.map_err(|error| {
            // What the sink saw says more than what the peer is told.
            self.intake.fault.take().unwrap_or(Error::Net(error))
        })?;
        let (arrived, reason) = match event {
            Event::Bye => return Ok(None),
            Event::Cancelled { reason } => (None, Some(reason.escape_debug().to_string())),
            Event::Message(arrived) => (Some(arrived), None),
        };
        if let Some(arrived) = arrived {
            let verify = self.intake.verified;
            let decode = arrived.in_sink.saturating_sub(verify + fuse);
            // Work on a block is no part of the way of the next one.
            let transfer = arrived.transfer.saturating_sub(arrived.in_sink);
            for (name, time) in
                [("transfer", transfer), ("verify", verify), ("decode", decode), ("fuse", fuse)]
            {
                stages.0.push(Stage::new(name, time));
            }
        }
        let answer = match self.answer(&mut stages, session) {
            Ok(answer) => answer,
            Err(error) => return Err(failed(link, error)),
        };
        stages.0.push(Stage::new("first_token", answer.first_token));
        stages.0.push(Stage::new("rest", answer.rest));
        if arrived.is_some() {
            link.taken(stages.0.clone())?;
        }
        let served = Served {
            answer,
            alone: reason,
            container_bytes: arrived.map_or(0, |arrived| arrived.container_bytes),
            link_bytes: link.traffic(),
            discarded: link.discarded(),
            stages: stages.0,
        };
        self.link = Some(link);
        Ok(Some(served))
    }

    fn answer(&self, stages: &mut Stages, mut session: Session<'_>) -> Result<Answer, Error> {
        // A message that was withdrawn half way has taken the prompt with it.
        if session.is_empty() {
            let read = || self.host.receiver.enter(&mut session, &self.tokens);
            stages.time("prefill", read)?;
        }
        self.host.answer(session, &self.tokens)
    }
}
