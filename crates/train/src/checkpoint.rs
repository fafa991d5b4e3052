//! A trainer to a checkpoint and back. Tensors are written from where they live and read into where
//! they belong; no second copy of them exists.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use smidgen_codec::Format as Codec;
use smidgen_optim::StateTensor;
use smidgen_store::{Checkpoint, Commit, Dtype, RunDir, TensorFile, TensorInfo};
use smidgen_tensor::{Format, Param, Params, Tensor};

use crate::trainer::Standing;
use crate::{Error, Trainer};

/// The weights that are trained, by name, as they are kept: f32 or bf16. Frozen ones are another model's,
/// and whoever goes on brings them.
pub const MODEL: &str = "model.safetensors";
/// The optimizer's slots, by slot and name, as coded.
pub const STATE: &str = "state.safetensors";
/// The averaged weights, by name, in f32, where they are kept.
pub const EMA: &str = "ema.safetensors";
/// Where the run stands.
pub const CURSOR: &str = "cursor.json";

/// Values that are converted at once.
const PIECE: usize = 1 << 14;
/// The format of a slot that is plain f32 numbers.
const F32: &str = "f32";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    standing: Standing,
    /// Formats and shapes of the slots that are not plain f32.
    coded: BTreeMap<String, Coded>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Coded {
    format: String,
    shape: [usize; 2],
}

impl Trainer<'_> {
    /// Saves everything. `facts` are kept in the manifest, for whoever opens the checkpoint.
    ///
    /// # Errors
    /// Those of the store, naming the file; the run keeps its earlier checkpoints then.
    pub fn save(
        &mut self,
        run: &RunDir,
        best: bool,
        keep: usize,
        facts: Value,
    ) -> Result<(), Error> {
        self.standing.data = self.objective.cursor(self.standing.step);
        let mut writer = run.begin_checkpoint(self.standing.step)?;
        let weights: Vec<_> =
            self.params.iter().map(|(_, param)| param).filter(|param| param.trainable).collect();
        let infos: Vec<TensorInfo> = weights
            .iter()
            .map(|param| {
                TensorInfo::new(param.name.clone(), dtype(&param.value), param.value.shape())
            })
            .collect();
        writer.tensors(MODEL, &infos, |i, out| out.write_all(weights[i].value.as_bytes()))?;
        let slots: Vec<StateTensor<'_>> = self.optim.tensors().collect();
        let infos: Vec<TensorInfo> = slots.iter().map(slot_info).collect();
        writer.tensors(STATE, &infos, |i, out| out.write_all(slots[i].bytes))?;
        if let Some(ema) = &self.ema {
            let values: Vec<_> = ema.tensors(&self.params).collect();
            let info = |(name, value): &(&str, &Tensor)| {
                TensorInfo::new(name.to_string(), Dtype::F32, value.shape())
            };
            let infos: Vec<TensorInfo> = values.iter().map(info).collect();
            writer.tensors(EMA, &infos, |i, out| out.write_all(values[i].1.as_bytes()))?;
        }
        let coded = slots.iter().filter(|slot| slot.format != F32).map(|slot| {
            (slot.name.clone(), Coded { format: slot.format.clone(), shape: slot.shape })
        });
        let saved = Saved { standing: self.standing.clone(), coded: coded.collect() };
        writer.json(CURSOR, &saved)?;
        writer.commit(Commit { best, keep_last: keep, facts })?;
        Ok(())
    }

    /// Takes everything from a checkpoint whose files were checked.
    ///
    /// # Errors
    /// [`Error::Foreign`] and those of the store and the optimizer where it is not one of this run.
    pub fn load(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        load_weights(checkpoint, MODEL, Exact::Yes, &mut self.params)?;
        let mut saved: Saved = checkpoint.json(CURSOR)?;
        if !self.load_ema(checkpoint)? {
            // The average begins with the next update.
            saved.standing.ema_updates = 0;
        }
        let file = checkpoint.tensors(STATE)?;
        let slots = file.names().into_iter().map(|name| slot(file, name, &saved.coded));
        self.optim.load(slots.collect::<Result<Vec<_>, Error>>()?)?;
        self.objective.set_thrift(saved.standing.thrift)?;
        self.objective.resume(saved.standing.step, &saved.standing.data)?;
        self.standing = saved.standing;
        Ok(())
    }

    /// Takes the weights alone, averaged ones included: the result of a run, and no place to go on.
    pub(crate) fn load_result(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        load_weights(checkpoint, MODEL, Exact::Yes, &mut self.params)?;
        self.load_ema(checkpoint)?;
        Ok(())
    }

    /// Whether averaged weights are kept and were there.
    fn load_ema(&mut self, checkpoint: &Checkpoint) -> Result<bool, Error> {
        let Some(ema) = &mut self.ema else { return Ok(false) };
        if !checkpoint.manifest().files.contains_key(EMA) {
            return Ok(false);
        }
        ema.swap(&mut self.params);
        let loaded = load_weights(checkpoint, EMA, Exact::Yes, &mut self.params);
        ema.swap(&mut self.params);
        loaded.map(|()| true)
    }
}

fn slot_info(slot: &StateTensor<'_>) -> TensorInfo {
    if slot.format == F32 {
        TensorInfo::new(slot.name.clone(), Dtype::F32, slot.shape)
    } else {
        TensorInfo::new(slot.name.clone(), Dtype::U8, [slot.bytes.len()])
    }
}

fn slot<'a>(
    file: &'a TensorFile,
    name: String,
    coded: &BTreeMap<String, Coded>,
) -> Result<StateTensor<'a>, Error> {
    let view = file.tensor(&name)?;
    let (format, shape) = match coded.get(&name) {
        Some(coded) => (coded.format.clone(), coded.shape),
        None => {
            (F32.to_string(), [view.shape.first(), view.shape.get(1)].map(|n| *n.unwrap_or(&0)))
        }
    };
    Ok(StateTensor { name, format, shape, bytes: view.data })
}

/// Reads the weights of a checkpoint's file straight into the parameters of the same names; frozen ones
/// are not there.
///
/// # Errors
/// [`Error::Foreign`] for a tensor of another shape, one too many or one too few.
pub(crate) fn load_weights(
    checkpoint: &Checkpoint,
    name: &str,
    exact: Exact,
    params: &mut Params,
) -> Result<(), Error> {
    let step = checkpoint.step();
    fill(checkpoint.tensors(name)?, step, exact, params, |param| param.trainable)
}

/// Whether a file must have the formats of the parameters, as that of a run that goes on does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exact {
    /// It must.
    Yes,
    /// Values are widened, or rounded to nearest.
    No,
}

/// The type that a tensor's values have in a file.
fn dtype(value: &Tensor) -> Dtype {
    match value.format() {
        Format::F32 => Dtype::F32,
        Format::Bf16 => Dtype::BF16,
    }
}

/// Decodes numbers of a file into a tensor of another format, a piece at a time.
fn convert(dtype: Dtype, data: &[u8], value: &mut Tensor) {
    let (codec, bytes) = match dtype {
        Dtype::BF16 => (Codec::BF16, 2),
        _ => (Codec::F32, 4),
    };
    let mut piece = vec![0.0; PIECE];
    for (at, data) in data.chunks(PIECE * bytes).enumerate() {
        let piece = &mut piece[..data.len() / bytes];
        codec.decode(data, &[], piece);
        value.write_f32(at * PIECE, piece);
    }
}

/// Reads the tensors of a file of step `step` straight into those parameters that `wants` names; the
/// file must hold these and no others.
pub(crate) fn fill(
    file: &TensorFile,
    step: u64,
    exact: Exact,
    params: &mut Params,
    wants: impl Fn(&Param) -> bool,
) -> Result<(), Error> {
    let foreign = |what: &str, expected: String, got: String| Error::Foreign {
        step,
        what: what.to_string(),
        expected,
        got,
    };
    let names = file.names();
    if let Some(name) = names.iter().find(|name| params.find(name).is_none()) {
        return Err(foreign(name, "no such tensor".into(), "one".into()));
    }
    for (_, param) in params.iter_mut().filter(|(_, param)| wants(param)) {
        if !file.contains(&param.name) {
            return Err(foreign(&param.name, "a tensor".into(), "none".into()));
        }
        let (view, shape) = (file.tensor(&param.name)?, param.value.shape());
        let (ours, theirs) = (dtype(&param.value), view.dtype);
        let known = exact == Exact::No && [Dtype::F32, Dtype::BF16].contains(&theirs);
        if view.shape != shape || (theirs != ours && !known) {
            let got = format!("{theirs} {:?}", view.shape);
            return Err(foreign(&param.name, format!("{ours} {shape:?}"), got));
        }
        if theirs == ours {
            file.read_into(&param.name, param.value.as_bytes_mut())?;
        } else {
            convert(theirs, view.data, &mut param.value);
        }
    }
    Ok(())
}
