//! A run that begins with the weights of another model: shape and tokenizer are that model's, and its
//! weights are the first values.
//!
//! They are copied into the run before anything else, so that neither a resume nor a way back to the
//! beginning needs the other model any more.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use smidgen_codec::Ledger;
use smidgen_model::Decoder;
use smidgen_store::{Dtype, RunDir, TensorFile, TensorInfo, write_tensors, write_whole};
use smidgen_tensor::{Device, Param, Params};

use crate::checkpoint::{Exact, fill};
use crate::model::Found;
use crate::open::find;
use crate::{Config, Error, Opening};

/// The first values of a run, by name, in f32.
const INIT: &str = "init.safetensors";

/// The model that a run begins with.
pub(crate) struct Init {
    path: PathBuf,
    pub(crate) found: Found,
}

impl Init {
    /// The model that a configuration names, if any, and the configuration with all that follows from
    /// it filled in.
    pub(crate) fn of(config: &Config) -> Result<(Config, Option<Init>), Error> {
        let Some(path) = &config.model.init else { return Ok((config.clone(), None)) };
        // The run may be resumed from another folder.
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        let init = Init { found: find(&path, &Opening::default())?, path };
        Ok((init.adopt(config)?, Some(init)))
    }

    fn adopt(&self, config: &Config) -> Result<Config, Error> {
        let mut config = config.clone();
        let (spec, model) = (&self.found.spec, &mut config.model);
        if let Some(preset) = &model.preset {
            let expected = format!("none beside `model.init` = {}", self.path.display());
            return Err(Error::value("model.preset", expected, preset));
        }
        self.agree("data.vocab", &mut config.data.vocab, spec.vocab)?;
        self.agree("model.width", &mut model.width, spec.width)?;
        self.agree("model.layers", &mut model.layers, spec.layers)?;
        self.agree("model.heads", &mut model.heads, spec.heads)?;
        self.agree("model.kv_heads", &mut model.kv_heads, spec.kv_heads)?;
        self.agree("model.head_dim", &mut model.head_dim, spec.head_dim)?;
        self.agree("model.ffn", &mut model.ffn, spec.ffn)?;
        self.agree("model.context", &mut model.context, spec.context)?;
        self.agree("model.rope_theta", &mut model.rope_theta, spec.rope_theta)?;
        self.agree("model.norm_eps", &mut model.norm_eps, spec.norm_eps)?;
        self.agree("model.qk_norm", &mut model.qk_norm, spec.qk_norm)?;
        self.agree("model.qkv_bias", &mut model.qkv_bias, spec.qkv_bias)?;
        self.agree("model.tied", &mut model.tied, spec.tied)?;
        model.init = Some(self.path.clone());
        Ok(config)
    }

    /// What is written must be what the model has.
    fn agree<T: Copy + PartialEq + Display>(
        &self,
        key: &'static str,
        written: &mut Option<T>,
        has: T,
    ) -> Result<(), Error> {
        match written.replace(has) {
            Some(other) if other != has => {
                let expected = format!("{has}, as in `model.init` = {}", self.path.display());
                Err(Error::value(key, expected, other))
            }
            _ => Ok(()),
        }
    }

    /// Copies the weights into the run, all or nothing. They are held once meanwhile, and no longer.
    pub(crate) fn write(&self, run: &RunDir, threads: usize) -> Result<(), Error> {
        let device = Device::cpu(Ledger::new(), threads);
        let mut params = Params::new();
        Decoder::new(&device, self.found.spec.clone(), &mut params)?;
        self.found.load(&device, &mut params)?;
        let list: Vec<&Param> = params.iter().map(|(_, param)| param).collect();
        let info =
            |param: &&Param| TensorInfo::new(param.name.clone(), Dtype::F32, param.value.shape());
        let infos: Vec<TensorInfo> = list.iter().map(info).collect();
        let path = run.file(INIT);
        write_whole(run.files(), &path, |out| {
            write_tensors(out, &path, &infos, &[], |i, out| out.write_all(list[i].value.as_bytes()))
        })?;
        Ok(())
    }
}

/// Where a run with this configuration has its first values, if they are another model's.
pub(crate) fn first_values(run: &Path, config: &Config) -> Option<PathBuf> {
    config.model.init.as_ref().map(|_| run.join(INIT))
}

/// Reads first values into the parameters of the same names.
pub(crate) fn load(path: &Path, params: &mut Params) -> Result<(), Error> {
    fill(&TensorFile::open(path)?, 0, Exact::No, params, |_| true)
}
