//! Writing: the header is known before the first byte of data, so tensors are written one after
//! another from wherever they live, and no second copy of a model exists.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::Path;

use super::{ALIGNMENT, GgufType, GgufValue, MAGIC, VERSION};
use crate::Error;
use crate::tensors::Counted;

/// What the header says of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufInfo {
    /// Name, unique in the file.
    pub name: String,
    /// Number type.
    pub kind: GgufType,
    /// Sizes, the columns of a row first, then the rows.
    pub dims: Vec<u64>,
}

/// Writes a whole GGUF file of version 3 to `out`, aligned to 32 bytes.
///
/// `data(index, out)` is called once per tensor, in order, and writes exactly its blocks. The bytes
/// depend on the arguments alone. `file` is only named in errors.
///
/// Fails with [`Error::Tensor`] for a name used twice, an impossible size or a wrong number of
/// bytes, and with [`Error::Io`].
///
/// ```
/// use smidgen_store::{GgufFile, GgufInfo, GgufType, GgufValue, write_gguf};
/// let (path, mut file) = ("m.gguf".as_ref(), Vec::new());
/// let keys = [("general.architecture".to_string(), GgufValue::from("llama"))];
/// let infos = [GgufInfo { name: "norm".into(), kind: GgufType::F32, dims: vec![2] }];
/// write_gguf(&mut file, path, &keys, &infos, |_, out| out.write_all(&[0; 8]))?;
/// let file = GgufFile::from_bytes(path, file)?;
/// assert_eq!(file.tensor("norm")?.data, [0; 8]);
/// # Ok::<(), smidgen_store::Error>(())
/// ```
pub fn write_gguf(
    out: &mut dyn Write,
    file: &Path,
    keys: &[(String, GgufValue<'_>)],
    infos: &[GgufInfo],
    mut data: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let io = |error| Error::at("write", file)(error);
    let sizes = check(file, keys, infos)?;
    let header = header(keys, infos, &sizes);
    out.write_all(&header).map_err(io)?;
    for (index, (info, size)) in infos.iter().zip(&sizes).enumerate() {
        let mut counted = Counted::new(&mut *out);
        data(index, &mut counted).map_err(io)?;
        let written = counted.bytes() as u64;
        if written != *size {
            let (expected, got) = (format!("{size} bytes"), format!("{written} bytes"));
            return Err(wrong(file, info, expected, got));
        }
        out.write_all(&[0; ALIGNMENT][..padding(*size)]).map_err(io)?;
    }
    Ok(())
}

/// Bytes from `size` to the next place where a tensor may begin.
fn padding(size: u64) -> usize {
    (size.next_multiple_of(ALIGNMENT as u64) - size) as usize
}

/// Bytes of every tensor, where names and sizes are sound.
fn check(
    file: &Path,
    keys: &[(String, GgufValue<'_>)],
    infos: &[GgufInfo],
) -> Result<Vec<u64>, Error> {
    let mut names = HashSet::new();
    if let Some((key, _)) = keys.iter().find(|(key, _)| key.is_empty() || !names.insert(key)) {
        return Err(Error::corrupt(file, "each key once", format!("`{key}` twice")));
    }
    let mut names = HashSet::new();
    let (mut sizes, mut total) = (Vec::with_capacity(infos.len()), 0u64);
    for info in infos {
        if info.name.is_empty() || !names.insert(&info.name) {
            return Err(wrong(file, info, "a name of its own".into(), "one in use".into()));
        }
        let size = info.kind.bytes(&info.dims).filter(|_| info.dims.len() <= 4);
        let sum = size.and_then(|size| size.checked_add(total)?.checked_add(ALIGNMENT as u64));
        let Some((size, sum)) = size.zip(sum) else {
            let got = format!("{} {:?}", info.kind, info.dims);
            let expected = "a size that fits, with rows of whole blocks".to_string();
            return Err(wrong(file, info, expected, got));
        };
        sizes.push(size);
        total = sum;
    }
    Ok(sizes)
}

/// Everything before the data, padding included.
fn header(keys: &[(String, GgufValue<'_>)], infos: &[GgufInfo], sizes: &[u64]) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
    bytes.extend((infos.len() as u64).to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in keys {
        bytes.extend(GgufValue::from(key.as_str()).bytes());
        bytes.extend(value.kind().to_le_bytes());
        bytes.extend(value.bytes());
    }
    let mut offset = 0u64;
    for (info, size) in infos.iter().zip(sizes) {
        bytes.extend(GgufValue::from(info.name.as_str()).bytes());
        bytes.extend((info.dims.len() as u32).to_le_bytes());
        bytes.extend(info.dims.iter().flat_map(|dim| dim.to_le_bytes()));
        bytes.extend(info.kind.number.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += size + padding(*size) as u64;
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

fn wrong(file: &Path, info: &GgufInfo, expected: String, got: String) -> Error {
    Error::Tensor { file: file.to_path_buf(), tensor: info.name.clone(), expected, got }
}
