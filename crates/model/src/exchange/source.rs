//! A model of another program: what it is, and its weights into the parameters of a decoder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use smidgen_codec::{Format, Packed, Tag};
use smidgen_store::{Dtype, Error as Store, GgufFile, GgufType, TensorFile};
use smidgen_tensor::{Device, Param, Params, Tensor};

use super::family::Family;
use super::llama2c::Llama2c;
use super::names::Scheme;
use super::rows::{pairs_to_halves, turns};
use super::shards::{open_shards, read};
use super::{spec_of_config, spec_of_gguf};
use crate::spec::ParamShape;
use crate::{Error, Spec};

const CONFIG: &str = "config.json";
/// Parameters of a block at least.
const LEAST_OF_BLOCK: usize = 9;

/// Where a model came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    /// A folder with `config.json` and safetensors files.
    HuggingFace,
    /// A GGUF file.
    Gguf,
    /// A llama2.c file of version 0.
    Llama2c,
}

/// A model of another program, opened and checked: every tensor a decoder needs is there, in its
/// shape, and none besides.
#[derive(Debug)]
pub struct ModelSource {
    path: PathBuf,
    spec: Spec,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Safetensors(Vec<TensorFile>),
    Gguf { file: GgufFile, family: &'static Family },
    Llama2c(Llama2c),
}

/// A tensor as it lies in a file.
struct Stored<'a> {
    /// How its bytes are read, and what that is called there; `None` for what nobody here decodes.
    format: Option<Format>,
    format_name: String,
    /// Rows and columns; `None` for more than two dimensions.
    shape: Option<[usize; 2]>,
    data: &'a [u8],
}

impl ModelSource {
    /// Opens a Hugging Face folder, a GGUF file or a llama2.c file, whichever it is.
    ///
    /// # Errors
    /// [`Error::Store`] for a file that is damaged or none of these, [`Error::Foreign`] for a model
    /// that is not computed exactly here, [`Error::Spec`].
    pub fn open(path: &Path) -> Result<ModelSource, Error> {
        let (spec, weights) = if path.is_dir() {
            folder(path)?
        } else if is_gguf(path)? {
            let file = GgufFile::open(path)?;
            let (spec, family) = spec_of_gguf(&file)?;
            (spec, Weights::Gguf { file, family })
        } else {
            let file = Llama2c::open(path)?;
            (file.spec.clone(), Weights::Llama2c(file))
        };
        let source = ModelSource { path: path.to_path_buf(), spec, weights };
        source.check()?;
        Ok(source)
    }

    /// The shape of its decoder.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it is.
    pub fn kind(&self) -> ModelKind {
        match &self.weights {
            Weights::Safetensors(_) => ModelKind::HuggingFace,
            Weights::Gguf { .. } => ModelKind::Gguf,
            Weights::Llama2c(_) => ModelKind::Llama2c,
        }
    }

    /// The files its weights lie in.
    pub fn files(&self) -> Vec<&Path> {
        match &self.weights {
            Weights::Safetensors(files) => files.iter().map(TensorFile::path).collect(),
            Weights::Gguf { .. } | Weights::Llama2c(_) => vec![&self.path],
        }
    }

    /// The GGUF file it lies in, for its tokenizer.
    pub fn gguf(&self) -> Option<&GgufFile> {
        if let Weights::Gguf { file, .. } = &self.weights { Some(file) } else { None }
    }

    /// Fills the parameters of a decoder of [`ModelSource::spec`]. What is stored in another format
    /// is decoded to f32 and rounded to that of the parameter; no second copy of the model exists.
    ///
    /// # Errors
    /// [`Error::Store`] when reading fails, and those of the engine.
    pub fn load(&self, device: &Device, params: &mut Params) -> Result<(), Error> {
        let head = [self.spec.head_dim, self.spec.width];
        let mut scratch =
            Tensor::zeros(device.pool(), Tag::Workspace, head, smidgen_tensor::Format::F32)?;
        for (_, param) in params.iter_mut() {
            let narrow = widen(device, param)?;
            self.read(param)?;
            if self.has_paired_rows() && turns(&param.name) {
                // A bias is a column: one value in each row of the map.
                let cols = if param.value.rows() == 1 { 1 } else { param.value.cols() };
                let scratch = &mut scratch.slice_mut::<f32>()[..self.spec.head_dim * cols];
                let values = param.value.slice_mut::<f32>();
                pairs_to_halves(values, self.spec.head_dim, cols, scratch);
            }
            if let Some(mut narrow) = narrow {
                narrow.write_f32(0, param.value.slice());
                param.value = narrow;
            }
        }
        Ok(())
    }

    fn has_paired_rows(&self) -> bool {
        match &self.weights {
            Weights::Safetensors(_) => false,
            Weights::Gguf { family, .. } => family.paired_rows,
            Weights::Llama2c(_) => true,
        }
    }

    /// Reads one parameter in the order of rows that the file has.
    fn read(&self, param: &mut Param) -> Result<(), Error> {
        let name = match &self.weights {
            Weights::Safetensors(_) => Scheme::HuggingFace.name(&param.name),
            Weights::Gguf { .. } => Scheme::Gguf.name(&param.name),
            Weights::Llama2c(_) => param.name.clone(),
        };
        let coded = self.stored(&name)?.and_then(|stored| Some((stored.format?, stored.data)));
        match coded.filter(|(format, _)| !format.is_plain_f32()) {
            Some((format, data)) => {
                let fits = "a tensor has the bytes of its shape";
                let packed = Packed::from_parts(format, param.value.shape(), Vec::new(), data);
                packed.expect(fits).decode_into(param.value.slice_mut()).expect(fits);
                Ok(())
            }
            None => self.read_f32(&name, param.value.as_bytes_mut()),
        }
    }

    /// Reads plain numbers past the map.
    fn read_f32(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        match &self.weights {
            Weights::Safetensors(files) => {
                let file = files.iter().find(|file| file.contains(name));
                file.expect("the source was checked").read_into(name, out)?;
            }
            Weights::Gguf { file, .. } => file.read_into(name, out)?,
            Weights::Llama2c(file) => file.read_into(name, out)?,
        }
        Ok(())
    }

    /// A tensor by its name in the file.
    fn stored(&self, name: &str) -> Result<Option<Stored<'_>>, Error> {
        match &self.weights {
            Weights::Safetensors(files) => {
                let Some(file) = files.iter().find(|file| file.contains(name)) else {
                    return Ok(None);
                };
                let view = file.tensor(name)?;
                let format = match view.dtype {
                    Dtype::F32 => Some(Format::F32),
                    Dtype::F16 => Some(Format::F16),
                    Dtype::BF16 => Some(Format::BF16),
                    _ => None,
                };
                let shape = matrix(view.shape.iter().copied());
                let format_name = view.dtype.to_string();
                Ok(Some(Stored { format, format_name, shape, data: view.data }))
            }
            Weights::Gguf { file, .. } => {
                let Ok(tensor) = file.tensor(name) else { return Ok(None) };
                let format = match tensor.kind {
                    GgufType::F32 => Some(Format::F32),
                    GgufType::F16 => Some(Format::F16),
                    GgufType::BF16 => Some(Format::BF16),
                    GgufType::Q8_0 => Some(Format::Q8_0),
                    _ => None,
                };
                let shape = matrix(tensor.dims.iter().rev().map(|dim| *dim as usize));
                let format_name = tensor.kind.to_string();
                Ok(Some(Stored { format, format_name, shape, data: tensor.data }))
            }
            // The length of the file was checked; it has no names.
            Weights::Llama2c(_) => Ok(None),
        }
    }

    /// Everything that is needed is there, and nothing else: a tensor nobody reads would be a part
    /// of the model that is not computed.
    fn check(&self) -> Result<(), Error> {
        let (scheme, names) = match &self.weights {
            Weights::Llama2c(_) => return Ok(()),
            Weights::Safetensors(files) => {
                (Scheme::HuggingFace, files.iter().flat_map(TensorFile::names).collect())
            }
            Weights::Gguf { file, .. } => {
                (Scheme::Gguf, file.names().map(str::to_string).collect::<Vec<_>>())
            }
        };
        // Before the list is made: a damaged description may promise any number of layers.
        if self.spec.layers > names.len() / LEAST_OF_BLOCK {
            let expected = format!("the tensors of {} layers", self.spec.layers);
            return Err(self.corrupt(expected, format!("{} tensors", names.len())));
        }
        let mut needed = HashSet::new();
        for param in self.spec.params() {
            let name = scheme.name(&param.name);
            self.check_tensor(&name, &param)?;
            needed.insert(name);
        }
        match names.iter().find(|name| !needed.contains(*name) && !self.is_idle(name)) {
            Some(name) => Err(self.wrong(name, "no such tensor in this family", "one".into())),
            None => Ok(()),
        }
    }

    /// Tensors that are kept but not used: the head beside a tied table, and old rotary tables.
    fn is_idle(&self, name: &str) -> bool {
        let is_head = self.spec.tied && name == Scheme::HuggingFace.name("head.weight");
        is_head || name.ends_with(".self_attn.rotary_emb.inv_freq")
    }

    fn check_tensor(&self, name: &str, param: &ParamShape) -> Result<(), Error> {
        let Some(stored) = self.stored(name)? else {
            return Err(self.wrong(name, "a tensor of that name", "none".into()));
        };
        if stored.format.is_none() {
            let expected = match &self.weights {
                Weights::Gguf { .. } => "f32, f16, bf16 or q8_0",
                _ => "F32, F16 or BF16",
            };
            return Err(self.wrong(name, expected, stored.format_name));
        }
        if stored.shape != Some(param.shape) {
            let got = stored.shape.map_or("more dimensions".into(), |shape| format!("{shape:?}"));
            return Err(self.wrong(name, format!("shape {:?}", param.shape), got));
        }
        Ok(())
    }

    fn wrong(&self, tensor: &str, expected: impl Into<String>, got: String) -> Error {
        let (file, tensor) = (self.path.clone(), tensor.chars().take(80).collect());
        Store::Tensor { file, tensor, expected: expected.into(), got }.into()
    }

    fn corrupt(&self, expected: impl Into<String>, got: impl Into<String>) -> Error {
        let (expected, got) = (expected.into(), got.into());
        Store::Corrupt { file: self.path.clone(), expected, got }.into()
    }
}

/// Gives a parameter room in f32, and its own values where they are kept in fewer bits.
fn widen(device: &Device, param: &mut Param) -> Result<Option<Tensor>, Error> {
    let (shape, wide) = (param.value.shape(), smidgen_tensor::Format::F32);
    if param.value.format() == wide {
        return Ok(None);
    }
    let wide = Tensor::uninit(device.pool(), Tag::Workspace, shape, wide)?;
    Ok(Some(std::mem::replace(&mut param.value, wide)))
}

/// Sizes, rows first, as those of a matrix; a vector is a row.
fn matrix(sizes: impl Iterator<Item = usize>) -> Option<[usize; 2]> {
    match sizes.collect::<Vec<_>>()[..] {
        [cols] => Some([1, cols]),
        [rows, cols] => Some([rows, cols]),
        _ => None,
    }
}

fn is_gguf(path: &Path) -> Result<bool, Error> {
    use std::io::Read;
    let mut magic = [0; 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut magic));
    let io = |source| Store::Io { action: "open", path: path.into(), source };
    Ok(read.map_err(io)? == 4 && &magic == b"GGUF")
}

fn folder(path: &Path) -> Result<(Spec, Weights), Error> {
    let config = path.join(CONFIG);
    let text = read(&config, "a model folder with `config.json`")?;
    let (spec, _) = spec_of_config(&text, &config)?;
    Ok((spec, Weights::Safetensors(open_shards(path)?)))
}
