//! The readers under test: how each is called, and valid inputs to begin from.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use smidgen_codec::{CODECS, Format, Packed, Rounding, Sign};
use smidgen_data::Tokenizer;
use smidgen_store::{
    Disk, Dtype, GgufFile, GgufInfo, GgufType, GgufValue, RunDir, TensorFile, TensorInfo, config,
    events::{EventFile, EventWriter},
    write_gguf, write_tensors,
};

use super::link;
use super::wire;

/// A reader of bytes that a stranger made.
pub(super) struct Target {
    pub(super) name: &'static str,
    /// Valid inputs.
    pub(super) seeds: fn() -> anyhow::Result<Vec<Vec<u8>>>,
    /// Makes the checksums of a changed input right again.
    pub(super) mend: fn(&mut [u8]),
    /// Reads an input to its end, with a folder for a file; whether it was accepted.
    pub(super) read: fn(&Path, &[u8]) -> bool,
}

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "safetensors",
        seeds: safetensors_seeds,
        mend: as_it_is,
        read: read_safetensors,
    },
    Target { name: "gguf", seeds: gguf_seeds, mend: as_it_is, read: read_gguf },
    Target { name: "events", seeds: event_seeds, mend: new_checksums, read: read_events },
    Target { name: "config", seeds: config_seeds, mend: as_it_is, read: read_config },
    Target { name: "tokenizer", seeds: tokenizer_seeds, mend: as_it_is, read: read_tokenizer },
    Target {
        name: "sentencepiece",
        seeds: sentencepiece_seeds,
        mend: as_it_is,
        read: read_sentencepiece,
    },
    Target { name: "llama2c", seeds: llama2c_seeds, mend: as_it_is, read: read_llama2c },
    Target {
        name: "link-stream",
        seeds: link::stream_seeds,
        mend: link::new_frames,
        read: link::read_stream,
    },
    Target {
        name: "link-answers",
        seeds: link::answer_seeds,
        mend: link::new_frames,
        read: link::read_answers,
    },
    Target { name: "link-terms", seeds: link::term_seeds, mend: as_it_is, read: link::read_terms },
    Target { name: "format", seeds: format_seeds, mend: as_it_is, read: read_format },
    wire::HEADER,
    wire::CONTAINER,
    wire::DENSE,
    wire::INTAKE,
    wire::INDEX,
    wire::COMPACT,
];

pub(super) fn as_it_is(_: &mut [u8]) {}

fn safetensors_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let infos = [
        TensorInfo::new("embed.weight", Dtype::F32, [4, 8]),
        TensorInfo::new("blocks.0.norm.weight", Dtype::BF16, [8]),
        TensorInfo::new("codes", Dtype::U8, [13]),
    ];
    let mut bytes = Vec::new();
    let metadata = [("format", "pt"), ("step", "7")];
    write_tensors(&mut bytes, Path::new("seed"), &infos, &metadata, |index, out| {
        out.write_all(&vec![index as u8; infos[index].bytes().expect("a small tensor")])
    })?;
    let mut empty = Vec::new();
    write_tensors(&mut empty, Path::new("seed"), &[], &[], |_, _| Ok(()))?;
    Ok(vec![bytes, empty])
}

fn read_safetensors(folder: &Path, input: &[u8]) -> bool {
    let path = folder.join("input.safetensors");
    write(&path, input);
    let Ok(file) = TensorFile::open(&path) else { return false };
    file.metadata("format");
    let mut rows = [0; 128];
    file.names().iter().all(|name| {
        let bytes = file.tensor(name).map(|tensor| tensor.data.len());
        bytes.is_ok_and(|len| len > rows.len() || file.read_into(name, &mut rows[..len]).is_ok())
    })
}

fn gguf_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let tokens = smidgen_store::GgufArray::of_strings(["<s>", "a", "b", "ab"]);
    let keys = [
        ("general.architecture".to_string(), GgufValue::from("llama")),
        ("llama.block_count".to_string(), GgufValue::U32(2)),
        ("llama.rope.freq_base".to_string(), GgufValue::F32(1e4)),
        ("tokenizer.ggml.tokens".to_string(), GgufValue::Array(tokens)),
    ];
    let info =
        |name: &str, kind, dims: &[u64]| GgufInfo { name: name.into(), kind, dims: dims.to_vec() };
    let infos = [
        info("token_embd.weight", GgufType::F32, &[8, 4]),
        info("blk.0.attn_q.weight", GgufType::Q8_0, &[32, 2]),
        info("output_norm.weight", GgufType::F16, &[8]),
    ];
    let mut bytes = Vec::new();
    write_gguf(&mut bytes, Path::new("seed"), &keys, &infos, |index, out| {
        let info: &GgufInfo = &infos[index];
        let len = info.kind.bytes(&info.dims).expect("whole blocks");
        out.write_all(&vec![index as u8; len as usize])
    })?;
    let mut empty = Vec::new();
    write_gguf(&mut empty, Path::new("seed"), &[], &[], |_, _| Ok(()))?;
    Ok(vec![bytes, empty])
}

fn read_gguf(folder: &Path, input: &[u8]) -> bool {
    let path = folder.join("input.gguf");
    write(&path, input);
    let Ok(file) = GgufFile::open(&path) else { return false };
    for key in file.keys() {
        let value = file.get(key);
        let array = value.as_ref().and_then(GgufValue::as_array);
        array.map(|array| {
            (array.byte_strings().map(Iterator::count), array.numbers().map(Iterator::count))
        });
    }
    file.names().all(|name| file.tensor(name).is_ok())
}

fn event_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let folder = tempfile::tempdir()?;
    let run = RunDir::create(Arc::new(Disk), &folder.path().join("run"), "")?;
    let mut writer = EventWriter::create(&run, 1)?;
    writer.scalars(1, &[("loss/train".into(), 3.5), ("lr".into(), 1e-3)])?;
    writer.text(1, "samples", "once upon a time")?;
    writer.restart(1)?;
    Ok(vec![std::fs::read(writer.path())?])
}

/// Every record: length, its checksum, payload, its checksum.
fn new_checksums(mut input: &mut [u8]) {
    let masked = |bytes: &[u8]| {
        crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    };
    while input.len() >= 16 {
        let (head, rest) = input.split_at_mut(12);
        let len = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
        let sum = masked(&head[..8]);
        head[8..].copy_from_slice(&sum);
        let Some(len) = usize::try_from(len).ok().filter(|len| *len <= rest.len() - 4) else {
            return;
        };
        let (payload, rest) = rest.split_at_mut(len);
        rest[..4].copy_from_slice(&masked(payload));
        input = &mut rest[4..];
    }
}

fn read_events(_: &Path, input: &[u8]) -> bool {
    let file = EventFile::from_bytes(Path::new("input"), input.to_vec());
    file.events().all(|event| event.is_ok_and(|event| event.values().count() < usize::MAX))
}

fn config_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let files = std::fs::read_dir(folder)?.map(|entry| Ok(std::fs::read(entry?.path())?));
    let mut seeds = files.collect::<anyhow::Result<Vec<_>>>()?;
    // A folder has no order.
    seeds.sort();
    Ok(seeds)
}

fn read_config(_: &Path, input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    config::parse::<smidgen_train::Config>(&text, Path::new("input.toml")).is_ok()
}

fn tokenizer_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let text = "to be or not to be, that is the question; ".repeat(40);
    let ours = Tokenizer::train(&[&text], 270, 1)?;
    let theirs = Tokenizer::from_sentencepiece(&sentencepiece_model(), Path::new("seed"))?;
    Ok(vec![ours.to_json().into_bytes(), theirs.to_json().into_bytes()])
}

fn read_tokenizer(_: &Path, input: &[u8]) -> bool {
    uses(Tokenizer::from_json(input, Path::new("tokenizer.json")))
}

fn sentencepiece_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    Ok(vec![sentencepiece_model()])
}

fn read_sentencepiece(_: &Path, input: &[u8]) -> bool {
    uses(Tokenizer::from_sentencepiece(input, Path::new("tokenizer.model")))
}

fn llama2c_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let mut bin = 6_i32.to_le_bytes().to_vec();
    for (text, score, _) in pieces() {
        let text = text.replace('▁', " ");
        bin.extend(score.to_le_bytes());
        bin.extend((text.len() as i32).to_le_bytes());
        bin.extend(text.as_bytes());
    }
    Ok(vec![bin])
}

fn read_llama2c(_: &Path, input: &[u8]) -> bool {
    uses(Tokenizer::from_llama2c(input, pieces().count(), Path::new("tokenizer.bin")))
}

fn uses(tokenizer: Result<Tokenizer, smidgen_data::Error>) -> bool {
    let Ok(tokenizer) = tokenizer else { return false };
    let ids = tokenizer.encode("to be, or not \u{1f600}\n");
    ids.is_ok_and(|ids| !tokenizer.decode(&ids).is_empty())
}

/// Text, score and type of every piece of a small SentencePiece model.
fn pieces() -> impl Iterator<Item = (String, f32, u8)> {
    let special = [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("<|a|>", 4)];
    let special = special.map(|(text, kind)| (text.to_owned(), 0.0, kind));
    let bytes = (0..=255).map(|byte: u8| (format!("<0x{byte:02X}>"), 0.0, 6));
    let normal = ["to", "be", "▁to", "▁be", "not", "▁", "t", "o", "b", "e", "n", ",", "o▁"];
    let normal =
        normal.into_iter().zip(0u8..).map(|(text, rank)| (text.to_owned(), -f32::from(rank), 1));
    special.into_iter().chain(bytes).chain(normal)
}

fn sentencepiece_model() -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let piece = |(text, score, kind): (String, f32, u8)| {
        let (text, score) = (field(1, text.as_bytes()), score.to_le_bytes());
        field(1, &[&text, &[0x15][..], &score, &[0x18, kind]].concat())
    };
    let (trainer, normalizer) = (field(2, &[0x18, 2]), field(3, &[0x18, 1, 0x20, 0]));
    pieces().map(piece).chain([trainer, normalizer]).flatten().collect()
}

/// The number of a format, rows, columns, then its bytes; each with its default parameters.
fn format_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let values: Vec<f32> = (0..3 * 70).map(|i| (i % 17) as f32 - 8.0).collect();
    let seed = |number: usize| {
        let format = Format::by_name(CODECS[number].name())?;
        let packed = Packed::encode(format, [3, 70], &values, Rounding::Nearest)?;
        Ok([&[number as u8, 3, 70], packed.header(), packed.bytes()].concat())
    };
    (0..CODECS.len()).map(seed).collect()
}

/// Decodes what is there as often as the shape asks for; also with the map without a sign.
fn read_format(_: &Path, input: &[u8]) -> bool {
    let [number, rows, columns, bytes @ ..] = input else { return false };
    let number = usize::from(*number) % CODECS.len();
    let format = Format::by_name(CODECS[number].name()).expect("a name of the registry");
    let shape = [usize::from(*rows), usize::from(*columns)];
    let decoded = |format: &Format| {
        let layout = format.layout(shape);
        let filled = |count: usize| bytes.iter().copied().cycle().take(count).collect::<Vec<u8>>();
        let (header, bytes) = (filled(layout.header_bytes), filled(layout.code_bytes()));
        let packed = Packed::from_parts(format.clone(), shape, header, bytes);
        packed.and_then(|packed| packed.decode_into(&mut vec![0.0; layout.values()])).is_ok()
    };
    decoded(&format) && decoded(&format.signed_as(Sign::Unsigned))
}

fn write(path: &Path, input: &[u8]) {
    let mut file = std::fs::File::create(path).expect("the folder is ours");
    file.write_all(input).expect("the folder has room");
}
