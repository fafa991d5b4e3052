//! A fuser in a file: its weights, what it is made of, and the models that it was made for.
//!
//! One safetensors file; settings and facts are its metadata. Reading it counts the layers: a file that
//! holds none would let the receiver answer alone and pass for a fuser without effect.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smidgen_store::{Dtype, Files, TensorFile, TensorInfo, write_tensors, write_whole};
use smidgen_tensor::{Device, Format, Param, Params};

use super::{Fuser, FuserConfig, PREFIX, PairShape};
use crate::Error;

/// The name of the file in a folder.
pub(crate) const FILE: &str = "fuser.safetensors";
/// The key of its metadata.
const ABOUT: &str = "smidgen.fuser";

/// Where a fuser comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuserFacts {
    /// Fingerprint of the sharer's weights.
    pub sharer: String,
    /// Fingerprint of the receiver's weights.
    pub receiver: String,
    /// SHA-256 of the sharer's tokenizer in hexadecimal; empty where it is not on record.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tokenizer: String,
    /// Steps it was trained for; 0 where it was computed.
    pub steps: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    config: FuserConfig,
    pair: PairShape,
    facts: FuserFacts,
}

/// A fuser with weights of its own, ready to be used.
#[derive(Debug)]
pub struct LoadedFuser {
    /// The fuser.
    pub fuser: Fuser,
    /// Its weights.
    pub params: Params,
    /// Where it comes from.
    pub facts: FuserFacts,
    path: PathBuf,
}

impl Fuser {
    /// Writes the fuser that these parameters hold, all or nothing, to a file or as `fuser.safetensors`
    /// into a folder that is there.
    ///
    /// # Errors
    /// [`Error::Store`] when it cannot be written.
    pub fn save(
        &self,
        files: &dyn Files,
        path: &Path,
        params: &Params,
        facts: &FuserFacts,
    ) -> Result<(), Error> {
        let path = &file_at(path);
        let about = self.about(facts);
        let ours: Vec<&Param> = own(params).collect();
        let infos: Vec<TensorInfo> = ours
            .iter()
            .map(|param| TensorInfo::new(param.name.clone(), Dtype::F32, param.value.shape()))
            .collect();
        Ok(write_whole::<smidgen_store::Error>(files, path, |out| {
            write_tensors(out, path, &infos, &[(ABOUT, &about)], |i, out| {
                let values = ours[i].value.to_vec();
                values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
            })
        })?)
    }

    /// Settings and origin, as they are written.
    fn about(&self, facts: &FuserFacts) -> String {
        let about =
            About { config: self.config().clone(), pair: *self.pair(), facts: facts.clone() };
        serde_json::to_string(&about).expect("settings have a JSON form")
    }
}

impl LoadedFuser {
    /// Its numbers, all of them.
    pub fn param_count(&self) -> usize {
        self.params.iter().map(|(_, param)| param.value.rows() * param.value.cols()).sum()
    }

    /// Layers of the receiver that it changes.
    pub fn layers(&self) -> usize {
        self.fuser.sources().iter().flatten().count()
    }

    /// Halves of sharer layers, keys or values, that an open gate reads.
    pub fn open_gates(&self) -> usize {
        self.fuser.needed(&self.params).iter().flatten().filter(|is_open| **is_open).count()
    }

    /// A fuser with first values: closed, until it is trained or computed.
    ///
    /// # Errors
    /// As for [`Fuser::add`].
    pub fn fresh(
        device: &Device,
        config: FuserConfig,
        pair: PairShape,
        facts: FuserFacts,
        seed: u64,
    ) -> Result<LoadedFuser, Error> {
        let mut params = Params::new();
        let fuser = Fuser::add(device, config, pair, &mut params)?;
        fuser.init(&mut params, seed);
        Ok(LoadedFuser { fuser, params, facts, path: FILE.into() })
    }

    /// A fuser out of parameters that hold others too, such as those of a training.
    ///
    /// # Errors
    /// As for [`Fuser::add`], and [`Error::Value`] where a parameter is missing.
    pub fn taken_from(
        device: &Device,
        fuser: &Fuser,
        params: &Params,
        facts: FuserFacts,
    ) -> Result<LoadedFuser, Error> {
        let (config, pair) = (fuser.config().clone(), *fuser.pair());
        let mut own = LoadedFuser::fresh(device, config, pair, facts, 0)?;
        super::blocks::copy(&mut own.params, params)?;
        Ok(own)
    }

    /// Reads a fuser from a file, or from `fuser.safetensors` in a folder.
    ///
    /// # Errors
    /// [`Error::NoFuserLayers`] where there is no layer of one, [`Error::Foreign`] where tensors and
    /// settings do not fit each other, [`Error::Store`].
    pub fn open(path: &Path, device: &Device) -> Result<LoadedFuser, Error> {
        let path = file_at(path);
        let (file, About { config, pair, facts }) = open(&path)?;
        let mut params = Params::new();
        let fuser = Fuser::add(device, config, pair, &mut params)?;
        let held = layers_of(&file);
        let expected = fuser.sources().iter().filter(|source| source.is_some()).count();
        if held == 0 {
            return Err(Error::NoFuserLayers { path, layers: pair.receiver.layers });
        }
        if held != expected {
            return Err(foreign(&file, "layers", expected.to_string(), held.to_string()));
        }
        fill(&file, &mut params)?;
        Ok(LoadedFuser { fuser, params, facts, path })
    }

    /// The settings of a fuser in a file or folder; its weights are not read.
    ///
    /// # Errors
    /// As for [`LoadedFuser::open`].
    pub fn config_at(path: &Path) -> Result<FuserConfig, Error> {
        Ok(open(&file_at(path))?.1.config)
    }

    /// Where a file of this name lies that belongs to it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// A name for weights, settings and origin: SHA-256 in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.fuser.about(&self.facts));
        own(&self.params).for_each(|param| hash.update(param.value.as_bytes()));
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether it was made for models of these fingerprints.
    ///
    /// # Errors
    /// [`Error::Foreign`] naming the side that is another.
    pub fn check(&self, sharer: &str, receiver: &str) -> Result<(), Error> {
        self.check_fact("sharer", sharer, &self.facts.sharer)?;
        self.check_fact("receiver", receiver, &self.facts.receiver)
    }

    /// Whether it was made for a sharer with this tokenizer, where that is on record.
    ///
    /// # Errors
    /// [`Error::Foreign`].
    pub fn check_tokenizer(&self, sha256: &str) -> Result<(), Error> {
        match &*self.facts.tokenizer {
            "" => Ok(()),
            known => self.check_fact("tokenizer", sha256, known),
        }
    }

    fn check_fact(&self, field: &str, expected: &str, got: &str) -> Result<(), Error> {
        if expected == got {
            return Ok(());
        }
        let (field, expected, got) = (field.into(), expected.into(), got.into());
        Err(Error::Foreign { path: self.path.clone(), field, expected, got })
    }
}

fn file_at(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(FILE) } else { path.to_path_buf() }
}

fn foreign(file: &TensorFile, field: &str, expected: String, got: String) -> Error {
    Error::Foreign { path: file.path().to_path_buf(), field: field.into(), expected, got }
}

/// A file and what it says of itself.
fn open(path: &Path) -> Result<(TensorFile, About), Error> {
    if !path.exists() {
        return Err(Error::NoFuserLayers { path: path.to_path_buf(), layers: 0 });
    }
    let file = TensorFile::open(path)?;
    let about = serde_json::from_str(file.metadata(ABOUT).unwrap_or_default());
    let about = about
        .map_err(|error| foreign(&file, ABOUT, "a fuser's settings".into(), error.to_string()))?;
    Ok((file, about))
}

/// The parameters that belong to a fuser.
fn own(params: &Params) -> impl Iterator<Item = &Param> {
    params.iter().map(|(_, param)| param).filter(|param| param.name.starts_with(PREFIX))
}

/// Layers that a file holds tensors of.
fn layers_of(file: &TensorFile) -> usize {
    let layer = |name: &String| name.strip_prefix(PREFIX)?.split('.').next()?.parse::<usize>().ok();
    file.names().iter().filter_map(layer).collect::<BTreeSet<_>>().len()
}

fn fill(file: &TensorFile, params: &mut Params) -> Result<(), Error> {
    if let Some(name) = file.names().iter().find(|name| params.find(name).is_none()) {
        return Err(foreign(file, name, "no such tensor".into(), "one".into()));
    }
    for (_, param) in params.iter_mut() {
        let (view, shape) = (file.tensor(&param.name)?, param.value.shape());
        if view.shape != shape || view.dtype != Dtype::F32 || param.value.format() != Format::F32 {
            let got = format!("{} {:?}", view.dtype, view.shape);
            return Err(foreign(file, &param.name, format!("F32 {shape:?}"), got));
        }
        file.read_into(&param.name, param.value.as_bytes_mut())?;
    }
    Ok(())
}
