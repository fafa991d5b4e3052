//! Two models that are there already, linked over plain text.
//!
//! A document is cut into a context and a continuation. Both models read the context, each in tokens of
//! its own that meet where their bytes do; the receiver says how likely the continuation is, with what
//! the fuser makes of both caches. The fuser learns on some documents and is measured on others, in bits
//! per byte, beside the receiver alone and beside payloads that say nothing: the cache of another
//! document, and zeros. Read first: [`TextConfig`], [`fuse_text`], [`TextRecord`].

mod documents;
mod items;
mod measure;
mod record;
mod records;
mod training;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smidgen_codec::Ledger;
use smidgen_data::Tokenizer;
use smidgen_store::{RUN_TOML, RunDir, config, sha256_bytes};
use smidgen_tensor::Device;
use smidgen_train::{Context, Event, Opening, open};

pub use self::documents::Documents;
pub use self::record::{
    Comparison, DocumentCounts, FuserSummary, Rates, TEXT_SCHEMA_VERSION, TextLine, TextModel,
    TextRecord,
};

use self::items::{Cut, TextItem, items};
use crate::fuse::LoadedFuser;
use crate::record::LINK_JSON;
use crate::{Error, Side};

/// The fuser in the run directory.
pub const FUSER: &str = "fuser.safetensors";

/// How a fuser is trained on text, and measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// The name in [`FUSERS`](crate::fuse::FUSERS).
    pub variant: String,
    /// Width of the fuser's stream and inside its blocks.
    pub hidden: usize,
    /// Steps of the whole run.
    pub steps: u64,
    /// Items of a step.
    pub batch: usize,
    /// Peak rate of learning.
    pub lr: f64,
    /// Of everything that is drawn.
    pub seed: u64,
    /// Bytes of text that both models read, about: cuts lie before blanks.
    pub context_bytes: usize,
    /// Bytes of text that the receiver is scored on, about.
    pub continuation_bytes: usize,
    /// Bytes before the context that only the sharer reads, at most.
    pub more_context_bytes: usize,
    /// What the first paragraph of a document begins with, where nothing else divides documents.
    pub document_start: Option<String>,
    /// Whether every run of blanks and line ends becomes one blank: some vocabularies have no line end.
    pub one_line: bool,
    /// Trains for links of every budget: through the rounding of the wire, with tokens and layers missing.
    pub any_rate: bool,
}

impl Default for TextConfig {
    fn default() -> TextConfig {
        TextConfig {
            variant: "c2c".into(),
            hidden: 96,
            steps: 1000,
            batch: 16,
            lr: 1e-3,
            seed: 1,
            context_bytes: 128,
            continuation_bytes: 64,
            more_context_bytes: 0,
            document_start: None,
            one_line: false,
            any_rate: false,
        }
    }
}

impl TextConfig {
    /// # Errors
    /// [`Error::Value`] naming the first key that cannot be.
    fn validate(&self) -> Result<(), Error> {
        let sizes = [("context_bytes", self.context_bytes), ("batch", self.batch)];
        let sizes = [&sizes[..], &[("continuation_bytes", self.continuation_bytes)]].concat();
        if let Some((key, size)) = sizes.iter().find(|(_, size)| !(1..=1 << 20).contains(size)) {
            return Err(Error::value(key, "1 to 1048576", size));
        }
        if self.steps == 0 {
            return Err(Error::value("steps", "at least 1", 0));
        }
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::value("lr", "a number over 0", self.lr));
        }
        Ok(())
    }

    fn cut(&self) -> Cut {
        Cut {
            context: self.context_bytes,
            continuation: self.continuation_bytes,
            more: self.more_context_bytes,
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct TextJob {
    /// The model that gives its cache away, and its tokenizer where it has none.
    pub sharer: (PathBuf, Option<PathBuf>),
    /// The model that is helped.
    pub receiver: (PathBuf, Option<PathBuf>),
    /// All documents.
    pub text: String,
    /// A run of the same pair whose fuser is where this one begins, and what it is compared with.
    pub from: Option<PathBuf>,
    /// How.
    pub config: TextConfig,
    /// The run directory: new, or one of the same job, which goes on.
    pub out: PathBuf,
}

/// A model and its tokenizer.
struct Model {
    side: Side,
    tokenizer: Tokenizer,
}

impl Model {
    fn open(
        (path, tokenizer): &(PathBuf, Option<PathBuf>),
        device: &Device,
    ) -> Result<Model, Error> {
        let opening = Opening { tokenizer: tokenizer.clone(), ..Opening::default() };
        let model = open(path, &opening, device)?;
        let tokenizer = model.tokenizer.clone();
        Ok(Model { side: Side::of(model, device), tokenizer })
    }
}

/// The items of all three parts.
struct Parts {
    train: Vec<TextItem>,
    val: Vec<TextItem>,
    test: Vec<TextItem>,
    counts: DocumentCounts,
}

impl Parts {
    fn new(job: &TextJob, sharer: &Model, receiver: &Model) -> Result<Parts, Error> {
        let mut documents = Documents::of(&job.text, job.config.document_start.as_deref())?;
        if job.config.one_line {
            documents.join_lines();
        }
        let (cut, mut left_out) = (job.config.cut(), 0);
        // Lessons begin twice as often as what is scored, where every byte counts once.
        let lesson = cut.continuation.div_ceil(2);
        let mut of = |part: &[String], stride: usize| {
            let (items, not_read) = items(part, &cut, stride, sharer, receiver)?;
            left_out += not_read;
            Ok::<_, Error>(items)
        };
        let train = of(&documents.train, lesson)?;
        let val = of(&documents.val, cut.continuation)?;
        let test = of(&documents.test, cut.continuation)?;
        for (part, items) in [("train", &train), ("validation", &val), ("test", &test)] {
            if items.is_empty() {
                let got = format!("none in its {part} documents");
                return Err(Error::value("text", "contexts with a continuation", got));
            }
        }
        let [used_train, used_val, used_test] =
            [&train, &val, &test].map(|items| documents_of(items));
        if used_test < 2 {
            let expected = "at least 2 documents that are held out for the test and long enough: the \
                            control sends the cache of another one";
            return Err(Error::value("text", expected, used_test));
        }
        let counts = DocumentCounts { train: used_train, val: used_val, test: used_test, left_out };
        Ok(Parts { train, val, test, counts })
    }
}

/// Distinct documents of items, which lie together.
fn documents_of(items: &[TextItem]) -> usize {
    items.chunk_by(|a, b| a.document == b.document).count()
}

/// What a run directory was made for; a resume has to ask for the same.
#[derive(Serialize)]
struct Asked<'a> {
    objective: &'static str,
    text_sha256: String,
    sharer: String,
    receiver: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    fuse: &'a TextConfig,
}

/// Trains the fuser of two models on the documents of a text, or goes on with it, measures it on
/// documents that training never saw, and writes the record to `link.json` in the run directory; each line
/// has a [`LinkRecord`](crate::record::LinkRecord) besides, in `evals/text/LINE-HASH`.
///
/// # Errors
/// [`Error::Value`] for settings and texts that cannot be, [`Error::Foreign`] for a run directory of
/// another job, [`Error::NoFuserLayers`], [`Error::Interrupted`], and those of every part.
pub fn fuse_text(job: &TextJob, cx: &mut Context<'_>) -> Result<TextRecord, Error> {
    job.config.validate()?;
    let device = Device::cpu_at(Ledger::new(), cx.machine.threads, cx.machine.level);
    let (sharer, receiver) =
        (Model::open(&job.sharer, &device)?, Model::open(&job.receiver, &device)?);
    let (ours, theirs) = (sharer.side.fingerprint(), receiver.side.fingerprint());
    let from = job.from.as_deref().map(|run| LoadedFuser::open(run, &device)).transpose()?;
    from.as_ref().map_or(Ok(()), |from| from.check(&ours, &theirs))?;
    let parts = Parts::new(job, &sharer, &receiver)?;
    let text = format!(
        "{} documents to learn from, {} to validate, {} held out for the test; {}, {} and {} items",
        parts.counts.train,
        parts.counts.val,
        parts.counts.test,
        parts.train.len(),
        parts.val.len(),
        parts.test.len(),
    );
    cx.progress.event(Event::Notice(&text));
    let asked = Asked {
        objective: "fuser",
        text_sha256: sha256_bytes(job.text.as_bytes()),
        sharer: ours.clone(),
        receiver: theirs.clone(),
        from: from.as_ref().map(LoadedFuser::fingerprint),
        fuse: &job.config,
    };
    let run = open_run(&job.out, &config::to_text(&asked)?, cx)?;
    let fuser = training::fuser(job, &run, &device, (sharer, receiver), &parts, from.as_ref(), cx)?;
    fuser.check(&ours, &theirs)?;
    let (sharer, receiver) =
        (Model::open(&job.sharer, &device)?, Model::open(&job.receiver, &device)?);
    let record = measure::record(job, (&sharer, &receiver), &fuser, from.as_ref(), &parts, cx)?;
    run.write_json(LINK_JSON, &record)?;
    Ok(record)
}

/// A new run directory, or that of the same job.
fn open_run(path: &Path, asked: &str, cx: &Context<'_>) -> Result<RunDir, Error> {
    if !path.join(RUN_TOML).is_file() {
        return Ok(RunDir::create(cx.files.clone(), path, asked)?);
    }
    let run = RunDir::open(cx.files.clone(), path)?;
    let written = run.read_text(RUN_TOML)?;
    let (mut now, mut then) = (asked.lines(), written.lines());
    loop {
        let (expected, got) = (now.next(), then.next());
        if expected == got {
            match expected {
                Some(_) => continue,
                None => return Ok(run),
            }
        }
        let key =
            |line: Option<&str>| line.and_then(|line| line.split(" =").next()).map(String::from);
        return Err(Error::Foreign {
            path: run.file(RUN_TOML),
            field: key(expected).or(key(got)).unwrap_or_default(),
            expected: format!("`{}`", expected.unwrap_or_default()),
            got: format!("`{}`", got.unwrap_or_default()),
        });
    }
}
