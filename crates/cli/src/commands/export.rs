//! `export`: a model into the files of other programs.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use smidgen_codec::Format;
use smidgen_store::{Bytes, Disk, Which};
use smidgen_train::{Export, Exported, TrainedModel, export_folder, export_gguf};

use crate::commands::late::LateBar;
use crate::commands::model::ModelArgs;
use crate::exit::Fault;
use crate::out;

/// Write a model for other programs: a folder for transformers, or a GGUF file for llama.cpp.
#[derive(Debug, clap::Args)]
#[command(after_help = "The tokenizer goes with the weights. Nothing that is there already is \
    replaced, and\nwhat cannot be written whole is not left half.\n\nExamples:\n  \
    smidgen export runs/notes --to safetensors --out notes-hf\n  \
    smidgen export runs/notes --to gguf --type q8_0 --out notes.gguf\n  \
    smidgen export model.gguf --to safetensors --type bf16 --out model-hf")]
pub(crate) struct Args {
    /// What to write
    #[arg(long, value_name = "KIND")]
    to: To,
    /// The format of the matrices; q8_0 for GGUF alone
    #[arg(long = "type", value_name = "FORMAT", default_value = "f32")]
    format: Type,
    /// The folder or file, which must be new; an empty folder will do
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    #[command(flatten)]
    from: ModelArgs,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum To {
    /// A Hugging Face folder
    Safetensors,
    /// One file with weights, tokenizer and sizes
    Gguf,
}

/// The format of matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    /// 4 bytes for each number, exactly as trained
    F32,
    /// 2 bytes
    F16,
    /// 2 bytes, the range of f32
    Bf16,
    /// 8.5 bits
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(Debug, Serialize)]
struct Report {
    to: To,
    r#type: String,
    #[serde(flatten)]
    exported: Exported,
    params: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let format = match args.format {
        Type::F32 => Format::F32,
        Type::F16 => Format::F16,
        Type::Bf16 => Format::BF16,
        Type::Q8_0 if args.to == To::Safetensors => {
            let text = "`--type`: expected f32, f16 or bf16 for safetensors, got q8_0\n  \
                        hint: `--to gguf` has it";
            return Err(Fault::usage(text).into());
        }
        Type::Q8_0 => Format::Q8_0,
    };
    let (_device, model) = args.from.open()?;
    let exported = export(&args, &model, format.clone())?;
    let (to, step) = (args.to, model.step);
    let params = model.decoder.spec().param_count() as u64;
    let report = Report { to, r#type: format.to_string(), exported, params, step };
    if args.json { out::json(&report) } else { show(&args, &report) }
}

fn export(args: &Args, model: &TrainedModel, format: Format) -> Result<Exported> {
    let bar = LateBar::new("  {bytes} written, {bytes_per_sec}", None);
    let mut progress = |bytes| bar.at(bytes);
    let from = &args.from.model;
    let export = Export { model, from, format, files: &Disk, progress: &mut progress };
    Ok(match args.to {
        To::Safetensors => export_folder(export, &args.out),
        To::Gguf => export_gguf(export, &args.out),
    }?)
}

fn show(args: &Args, report: &Report) -> Result<()> {
    let Exported { path, bytes, kind, coarser } = &report.exported;
    let path = path.display();
    if let Some(first) = coarser.first() {
        let count = coarser.len();
        out::note(format_args!(
            "note: {count} tensors such as `{first}` have rows that are no multiple of 32; they are f16"
        ));
    }
    let step = match (report.step, args.from.ckpt) {
        (Some(step), Some(Which::Step(_))) | (Some(step), None) => format!(", step {step}"),
        (Some(step), Some(which)) => format!(", step {step} ({which})"),
        (None, _) => String::new(),
    };
    out::line(format_args!("{path}: {kind}, {}, {}{step}", report.r#type, Bytes(*bytes)))?;
    let next = match args.to {
        To::Safetensors => format!("AutoModelForCausalLM.from_pretrained(\"{path}\")"),
        To::Gguf => format!("llama-cli -m {path} -p \"...\""),
    };
    out::line(format_args!("\nNext:\n  {next}\n  smidgen generate {path} --prompt \"...\""))
}
