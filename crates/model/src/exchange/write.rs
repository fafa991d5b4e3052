//! The parameters of a decoder into the files of other programs, tensor by tensor.

use std::io::{self, Write};
use std::path::Path;

use smidgen_codec::{Format, Packed, Rounding};
use smidgen_store::{Dtype, GgufInfo, GgufType, GgufValue, TensorInfo, write_tensors};
use smidgen_tensor::{Param, Params};

use super::Family;
use super::names::Scheme;
use super::rows::{half_of, turns};
use crate::{Error, Spec};

/// Writes `model.safetensors` of a Hugging Face folder. `format` is `f32`, `f16` or `bf16`; `file` is
/// only named in errors.
///
/// # Errors
/// [`Error::NoFamily`], [`Error::Store`].
pub fn write_safetensors(
    out: &mut dyn Write,
    file: &Path,
    spec: &Spec,
    params: &Params,
    format: &Format,
) -> Result<(), Error> {
    Family::of(spec)?;
    let dtype = match format.name() {
        "f32" => Dtype::F32,
        "f16" => Dtype::F16,
        "bf16" => Dtype::BF16,
        _ => return Err(unknown_format(file, "f32, f16 or bf16", format)),
    };
    let list: Vec<&Param> = params.iter().map(|(_, param)| param).collect();
    let info = |param: &&Param| {
        let [rows, cols] = param.value.shape();
        let shape = if is_vector(param) { vec![cols] } else { vec![rows, cols] };
        TensorInfo::new(Scheme::HuggingFace.name(&param.name), dtype, shape)
    };
    let infos: Vec<TensorInfo> = list.iter().map(info).collect();
    let metadata = [("format", "pt")];
    write_tensors(out, file, &infos, &metadata, |i, out| {
        write_rows(out, list[i], format, |row| row)
    })?;
    Ok(())
}

/// Writes a GGUF file with these keys. `format` is `f32`, `f16`, `bf16` or `q8_0`; vectors stay f32.
///
/// Gives the names of tensors whose rows are no whole blocks, and which are f16 in place of `q8_0`.
///
/// # Errors
/// [`Error::NoFamily`], [`Error::Store`].
pub fn write_gguf(
    out: &mut dyn Write,
    file: &Path,
    spec: &Spec,
    params: &Params,
    format: &Format,
    keys: &[(String, GgufValue<'_>)],
) -> Result<Vec<String>, Error> {
    let family = Family::of(spec)?;
    let wanted = match format.name() {
        "f32" => GgufType::F32,
        "f16" => GgufType::F16,
        "bf16" => GgufType::BF16,
        "q8_0" => GgufType::Q8_0,
        _ => return Err(unknown_format(file, "f32, f16, bf16 or q8_0", format)),
    };
    let list: Vec<&Param> = params.iter().map(|(_, param)| param).collect();
    let mut coarser = Vec::new();
    let mut info = |param: &&Param| {
        let [rows, cols] = param.value.shape().map(|size| size as u64);
        let name = Scheme::Gguf.name(&param.name);
        let kind = match is_vector(param) {
            true => GgufType::F32,
            false if wanted.bytes(&[cols]).is_none() => {
                coarser.push(name.clone());
                GgufType::F16
            }
            false => wanted,
        };
        let dims = if is_vector(param) { vec![cols] } else { vec![cols, rows] };
        GgufInfo { name, kind, dims }
    };
    let infos: Vec<GgufInfo> = list.iter().map(&mut info).collect();
    smidgen_store::write_gguf(out, file, keys, &infos, |i, out| {
        let format = if infos[i].kind == wanted { format.clone() } else { own(infos[i].kind) };
        let paired = family.paired_rows && turns(&list[i].name);
        let head = spec.head_dim;
        let order =
            |row: usize| if paired { row / head * head + half_of(row % head, head) } else { row };
        write_rows(out, list[i], &format, order)
    })?;
    Ok(coarser)
}

/// The format of a type that a tensor has in spite of the one asked for.
fn own(kind: GgufType) -> Format {
    if kind == GgufType::F16 { Format::F16 } else { Format::F32 }
}

fn is_vector(param: &Param) -> bool {
    use smidgen_tensor::Role;
    matches!(param.role, Role::Norm | Role::Bias)
}

/// Writes a parameter row by row, in the order that `from` says; the values of a vector are rows of
/// one value then.
fn write_rows(
    out: &mut dyn Write,
    param: &Param,
    format: &Format,
    from: impl Fn(usize) -> usize,
) -> io::Result<()> {
    let [rows, cols] = param.value.shape();
    let (rows, cols) = if is_vector(param) { (cols, 1) } else { (rows, cols) };
    let mut packed = Packed::encode(format.clone(), [1, cols], &vec![0.0; cols], Rounding::Nearest)
        .map_err(io::Error::other)?;
    let mut values = vec![0.0; cols];
    for row in (0..rows).map(from) {
        param.value.read_f32(row * cols, &mut values);
        packed.encode_from(&values, Rounding::Nearest).map_err(io::Error::other)?;
        out.write_all(packed.bytes())?;
    }
    Ok(())
}

fn unknown_format(file: &Path, expected: &str, format: &Format) -> Error {
    let (file, key) = (file.to_path_buf(), "type".to_string());
    Error::Foreign { file, key, expected: expected.into(), got: format.to_string() }
}
