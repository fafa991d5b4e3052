//! Answers of a receiver that is linked, with both models in memory or with one after the other.
//!
//! One after the other, the sharer's caches lie in files in between, exactly as they were; each file is
//! there whole or not at all and says what it was made from, so a phase that was cut off goes on where it
//! stopped. Prompts are read one at a time either way: the answers are equal to the last bit.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytemuck::cast_slice;
use serde::{Deserialize, Serialize};
use smidgen_codec::Ledger;
use smidgen_data::Tokenizer;
use smidgen_model::KeySpace;
use smidgen_store::{
    Dtype, Files, TensorFile, TensorInfo, read_json, write_json, write_tensors, write_whole,
};

use crate::align::{Alignment, Overlap};
use crate::fuse::Arrival;
use crate::remote::prompt::Prompt;
use crate::{Error, KvCache, KvShape, KvView, Receiver, Side};

/// The key of the metadata of a cache file.
const ABOUT: &str = "smidgen.cache";

/// A prompt as both models read it.
#[derive(Clone, Debug)]
pub struct Question {
    /// In the sharer's tokens.
    pub sharer: Vec<u32>,
    /// In the receiver's tokens, at least two.
    pub receiver: Vec<u32>,
    /// What stands for the receiver's tokens.
    pub alignment: Alignment,
}

impl Question {
    /// A text as both models read it, each in tokens of its own.
    ///
    /// # Errors
    /// [`Error::Value`] for an empty text, or one that a tokenizer does not spell.
    pub fn of_text(
        text: &str,
        sharer: &Tokenizer,
        receiver: &Tokenizer,
    ) -> Result<Question, Error> {
        let [theirs, ours] = [sharer, receiver].map(|tokenizer| Prompt::new(tokenizer, text));
        let (theirs, ours) = (theirs?, ours?);
        let spans = [&ours, &theirs].map(|prompt| Prompt::spans(&prompt.ends));
        let alignment = Alignment::by_spans(&spans[0], &spans[1], Overlap::CoverLast);
        Ok(Question { sharer: theirs.tokens, receiver: ours.tokens, alignment })
    }
}

/// What a receiver answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    /// Fingerprint of the fuser it answered with.
    fuser: String,
    /// The receiver's prompt.
    prompt: Vec<u32>,
    /// The most tokens its answer could have.
    limit: usize,
    /// Its answer.
    pub tokens: Vec<u32>,
}

/// What a cache in a file was made from.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    sharer: String,
    prompt: Vec<u32>,
    space: KeySpace,
    shape: KvShape,
}

/// A folder for what lies between the phases.
pub struct Phases<'a> {
    files: &'a dyn Files,
    folder: PathBuf,
    /// The longest answer, in tokens.
    limit: usize,
}

impl<'a> Phases<'a> {
    /// A folder, made where it is not there, for answers of at most `limit` tokens.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub fn new(files: &'a dyn Files, folder: &Path, limit: usize) -> Result<Phases<'a>, Error> {
        for name in ["caches", "answers"] {
            let path = folder.join(name);
            files.create_dir_all(&path).map_err(|source| smidgen_store::Error::Io {
                action: "create",
                path,
                source,
            })?;
        }
        Ok(Phases { files, folder: folder.to_path_buf(), limit })
    }

    fn cache_file(&self, index: usize) -> PathBuf {
        self.folder.join(format!("caches/{index:06}.safetensors"))
    }

    fn answer_file(&self, index: usize) -> PathBuf {
        self.folder.join(format!("answers/{index:06}.json"))
    }

    /// The first phase: the sharer reads what it has not read yet, and its caches are kept. Gives how
    /// many that were. A cache that is no whole file is made again. `done` is told of every question and
    /// may end the phase.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a cache of another sharer or prompt, those of model and store.
    pub fn share(
        &self,
        sharer: &Side,
        questions: &[Question],
        space: KeySpace,
        mut done: impl FnMut() -> ControlFlow<()>,
    ) -> Result<usize, Error> {
        let (fingerprint, mut made) = (sharer.fingerprint(), 0);
        for (index, question) in questions.iter().enumerate() {
            let path = self.cache_file(index);
            let about = About {
                sharer: fingerprint.clone(),
                prompt: needed(question).to_vec(),
                space,
                shape: sharer.kv_shape(),
            };
            if !has_cache(&path, &about)? {
                let cache = read_alone(sharer, question, space)?;
                write_cache(self.files, &path, &cache.view(), &about)?;
                made += 1;
            }
            if done().is_break() {
                break;
            }
        }
        Ok(made)
    }

    /// The second phase: the receiver answers what it has not answered yet. Gives all answers. One that
    /// is no whole file is answered again. `done` is told each answer and may end the phase.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a cache or an answer that was made from something else, those of model and
    /// store.
    pub fn answer(
        &self,
        receiver: &Receiver<'_>,
        questions: &[Question],
        ends: impl Fn(u32) -> bool,
        mut done: impl FnMut(&[u32]) -> ControlFlow<()>,
    ) -> Result<Vec<Answered>, Error> {
        let mut session = receiver.session(capacity(questions, self.limit))?;
        let (fuser, fingerprint) = (receiver.fuser(), receiver.fuser().fingerprint());
        let mut answers = Vec::with_capacity(questions.len());
        for (index, question) in questions.iter().enumerate() {
            let path = self.answer_file(index);
            let answer = match known_answer(&path, &fingerprint, question, self.limit)? {
                Some(answer) => answer,
                None => {
                    let about = About {
                        sharer: fuser.facts.sharer.clone(),
                        prompt: needed(question).to_vec(),
                        space: fuser.fuser.config().k_space,
                        shape: fuser.fuser.pair().sharer,
                    };
                    let ledger = receiver.side().device.ledger();
                    let cache = read_cache(ledger, &self.cache_file(index), &about)?;
                    let tokens =
                        answer_alone(receiver, &mut session, question, &cache, self.limit, &ends)?;
                    let (fuser, prompt) = (fingerprint.clone(), question.receiver.clone());
                    let answer = Answered { fuser, prompt, limit: self.limit, tokens };
                    write_json(self.files, &path, &answer)?;
                    answer
                }
            };
            answers.push(answer);
            if done(&answers[index].tokens).is_break() {
                break;
            }
        }
        Ok(answers)
    }
}

/// Answers with both models in memory, and no files. `done` is told each answer and may end it.
///
/// # Errors
/// Those of the models.
pub fn answer_together(
    sharer: &Side,
    receiver: &Receiver<'_>,
    questions: &[Question],
    limit: usize,
    ends: impl Fn(u32) -> bool,
    mut done: impl FnMut(&[u32]) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>, Error> {
    let mut session = receiver.session(capacity(questions, limit))?;
    let space = receiver.fuser().fuser.config().k_space;
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        let cache = read_alone(sharer, question, space)?;
        let answer = answer_alone(receiver, &mut session, question, &cache, limit, &ends)?;
        let flow = done(&answer);
        answers.push(answer);
        if flow.is_break() {
            break;
        }
    }
    Ok(answers)
}

/// The sharer's tokens that anything stands for.
fn needed(question: &Question) -> &[u32] {
    let count = question.alignment.needed().clamp(1, question.sharer.len().max(1));
    &question.sharer[..count.min(question.sharer.len())]
}

fn read_alone(sharer: &Side, question: &Question, space: KeySpace) -> Result<KvCache, Error> {
    let mut caches = sharer.read(&[needed(question)], space)?;
    Ok(caches.pop().expect("one prompt has one cache"))
}

fn capacity(questions: &[Question], limit: usize) -> usize {
    questions.iter().map(|question| question.receiver.len()).max().unwrap_or(0) + limit
}

fn answer_alone(
    receiver: &Receiver<'_>,
    session: &mut smidgen_model::Session<'_>,
    question: &Question,
    cache: &KvCache,
    limit: usize,
    ends: impl Fn(u32) -> bool,
) -> Result<Vec<u32>, Error> {
    let arrival = Arrival::whole(cache.view(), &question.alignment);
    receiver.answer(session, &question.receiver, Some(&arrival), limit, ends)
}

fn write_cache(
    files: &dyn Files,
    path: &Path,
    kv: &KvView<'_>,
    about: &About,
) -> Result<(), Error> {
    let text = serde_json::to_string(about).expect("names and numbers have a JSON form");
    let info = |name, width| TensorInfo::new(name, Dtype::F32, [kv.shape.layers, kv.tokens, width]);
    let infos = [info("keys", kv.shape.key_row()), info("values", kv.shape.value_row())];
    let arrays: [&[u8]; 2] = [cast_slice(kv.keys), cast_slice(kv.values)];
    Ok(write_whole::<smidgen_store::Error>(files, path, |out| {
        write_tensors(out, path, &infos, &[(ABOUT, &text)], |i, out| out.write_all(arrays[i]))
    })?)
}

fn read_cache(ledger: &Ledger, path: &Path, about: &About) -> Result<KvCache, Error> {
    let file = TensorFile::open(path)?;
    check_about(&file, about)?;
    let mut cache = KvCache::zeroed(ledger, about.shape, about.prompt.len())?;
    let (keys, values) = cache.parts_mut();
    file.read_into("keys", bytemuck::cast_slice_mut(keys))?;
    file.read_into("values", bytemuck::cast_slice_mut(values))?;
    Ok(cache)
}

fn check_about(file: &TensorFile, expected: &About) -> Result<(), Error> {
    let text = file.metadata(ABOUT).unwrap_or_default();
    let got: About = serde_json::from_str(text).map_err(|error| {
        foreign(file.path(), ABOUT, "what a cache was made from".into(), error.to_string())
    })?;
    if expected.sharer != got.sharer {
        return Err(foreign(file.path(), "sharer", expected.sharer.clone(), got.sharer));
    }
    if *expected != got {
        let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
        return Err(foreign(file.path(), "prompt", expected, got));
    }
    Ok(())
}

/// Whether a cache is there, whole.
fn has_cache(path: &Path, about: &About) -> Result<bool, Error> {
    if !path.exists() {
        return Ok(false);
    }
    match whole(TensorFile::open(path))? {
        Some(file) => check_about(&file, about).map(|()| true),
        None => Ok(false),
    }
}

/// None for a file that is not whole: it is made again.
fn whole<T>(read: Result<T, smidgen_store::Error>) -> Result<Option<T>, Error> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(smidgen_store::Error::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The answer that is there, whole.
fn known_answer(
    path: &Path,
    fuser: &str,
    question: &Question,
    limit: usize,
) -> Result<Option<Answered>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    let Some(answer) = whole(read_json::<Answered>(path))? else { return Ok(None) };
    if answer.fuser != fuser {
        return Err(foreign(path, "fuser", fuser.into(), answer.fuser));
    }
    if answer.prompt != question.receiver {
        let (expected, got) = (format!("{:?}", question.receiver), format!("{:?}", answer.prompt));
        return Err(foreign(path, "prompt", expected, got));
    }
    if answer.limit != limit {
        return Err(foreign(path, "limit", limit.to_string(), answer.limit.to_string()));
    }
    Ok(Some(answer))
}

fn foreign(path: &Path, field: &str, expected: String, got: String) -> Error {
    Error::Foreign { path: path.to_path_buf(), field: field.into(), expected, got }
}
