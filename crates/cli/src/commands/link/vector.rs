//! `link vector`: the container of reference data, for other implementations to compare with.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use serde::Serialize;
use smidgen_link::Error;
use smidgen_link::wire::{self, Granularity, Group, Pair, Plan, Precision, ScaleType};
use smidgen_store::{Disk, sha256_bytes, write_atomic};

use super::{check_elements, device};
use crate::exit::Fault;
use crate::out;

/// Write the container of reference data, to be compared byte by byte.
///
/// The data: splitmix64 of the seed, each draw z gives ((z >> 40) - 2^23) / 2^23, times 4 for keys
/// where the element's number is 3 modulo 16, in order of layer, keys then values, token, head,
/// element. Fingerprints are zero, the base of rotations is 10000.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    smidgen link vector --seed 1 --layers 2 --heads 2 --dim 32 --tokens 40 --select 0,1,5..7,30 \
    --precision int4 -o vector.kvw\n  \
    smidgen link vector --layers 2 --heads 2 --dim 32 --tokens 40 --group 3..5:int8/int4 \
    --group 0,10,20:int4/int4 -o mixed.kvw\n\n\
    Ranges include both ends.")]
pub(crate) struct Args {
    /// Seed of the data
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Layers of the data
    #[arg(long, value_name = "L", value_parser = clap::value_parser!(u16).range(1..=1024))]
    layers: u16,
    /// Heads of keys and values
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..=1024))]
    heads: u16,
    /// Elements of a head
    #[arg(long, value_name = "E", value_parser = clap::value_parser!(u16).range(1..=4096))]
    dim: u16,
    /// Tokens of the data
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    tokens: u32,
    /// Tokens of the first group: all, or indices and ranges such as 0,4,8..23 [default: all, or
    /// none where there is a --group]
    #[arg(long, value_name = "SELECT")]
    select: Option<Select>,
    /// Precision of keys and values of the first group
    #[arg(long, default_value_t = Precision::Int8, value_name = "NAME")]
    precision: Precision,
    /// A further group: tokens, and precision of keys and of values, or none; may be repeated
    #[arg(long = "group", value_name = "SELECT:K/V")]
    groups: Vec<GroupText>,
    /// Who shares a scale: tensor, layer, head, block, group/SIZE, channel/SIZE
    #[arg(long, default_value_t = Granularity::Block, value_name = "WHO")]
    granularity: Granularity,
    /// Type of scales: f16, bf16, f32
    #[arg(long, default_value = "f16", value_name = "TYPE", value_parser = scale_type)]
    scale: ScaleType,
    /// Layers of the sharer [default: those of the data]
    #[arg(long, value_name = "L", requires = "layer_list")]
    of_layers: Option<u16>,
    /// Which layers of the sharer those of the data are
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "of_layers")]
    layer_list: Vec<u16>,
    /// Layers of a block [default: all of them]
    #[arg(long, value_name = "L")]
    layers_per_block: Option<u16>,
    /// Begin sections at multiples of 8
    #[arg(long)]
    align8: bool,
    /// Give integers a zero point
    #[arg(long)]
    asymmetric: bool,
    /// Compress sections at this level where that makes them smaller
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=22))]
    zstd: Option<i32>,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// Tokens as they are written: ranges with both ends, in order; `None` for all.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Select(Option<Vec<(u32, u32)>>);

impl FromStr for Select {
    type Err = String;

    fn from_str(text: &str) -> Result<Select, String> {
        if text == "all" {
            return Ok(Select(None));
        }
        let number = |part: &str| {
            part.parse::<u32>().map_err(|_| format!("expected an index or a range, got `{part}`"))
        };
        let range = |part: &str| match part.split_once("..") {
            None => number(part).map(|index| (index, index)),
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                let ends = || format!("a range from {first} to {last} has no token");
                if first <= last { Ok((first, last)) } else { Err(ends()) }
            }
        };
        let ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?;
        match ranges.windows(2).find(|pair| pair[0].1 >= pair[1].0) {
            None => Ok(Select(Some(ranges))),
            Some(pair) => {
                Err(format!("indices have to increase, but {} follows {}", pair[1].0, pair[0].1))
            }
        }
    }
}

impl Select {
    fn tokens(&self, tokens: u32) -> Result<Vec<u32>> {
        let Some(ranges) = &self.0 else { return Ok((0..tokens).collect()) };
        let last = ranges.last().map_or(0, |(_, last)| *last);
        if last >= tokens {
            let text = format!("expected indices below --tokens {tokens}, got {last}");
            return Err(Fault::usage(text).into());
        }
        Ok(ranges.iter().flat_map(|(first, last)| *first..=*last).collect())
    }
}

/// `SELECT:K/V`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct GroupText {
    select: Select,
    pair: Pair,
}

impl FromStr for GroupText {
    type Err = String;

    fn from_str(text: &str) -> Result<GroupText, String> {
        let expected = || format!("expected SELECT:K/V such as 3..5:int8/int4, got `{text}`");
        let (select, pair) = text.rsplit_once(':').ok_or_else(expected)?;
        let (keys, values) = pair.split_once('/').ok_or_else(expected)?;
        let precision = |name: &str| match name {
            "none" => Ok(None),
            name => name.parse::<Precision>().map(Some).map_err(|error| error.to_string()),
        };
        let pair = Pair { keys: precision(keys)?, values: precision(values)? };
        Ok(GroupText { select: select.parse()?, pair })
    }
}

fn scale_type(name: &str) -> Result<ScaleType, String> {
    let found = ScaleType::ALL.into_iter().find(|scale| scale.name() == name);
    found.ok_or_else(|| "expected f16, bf16 or f32".into())
}

#[derive(Serialize)]
struct Written {
    file: PathBuf,
    total_bytes: usize,
    crc32c: String,
    sha256: String,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let of_layers = args.of_layers.unwrap_or(args.layers).max(args.layers);
    let sizes = [of_layers.into(), args.heads.into(), args.dim.into(), args.tokens.into()];
    check_elements("the data", sizes)?;
    let plan = plan(args)?;
    let [layers, heads, dim] = [args.layers, args.heads, args.dim].map(usize::from);
    let data = wire::reference(args.seed, layers, heads, dim, args.tokens as usize);
    let data = match args.of_layers {
        None => data,
        Some(of_layers) => data.spread(of_layers.into(), &args.layer_list).map_err(|_| {
            let text = format!("`--layer-list`: expected {layers} layers below {of_layers}");
            Fault::usage(text)
        })?,
    };
    let bytes = wire::encode(&device(), data.view(), &plan).map_err(Error::from)?;
    write_atomic(&Disk, &args.output, |out| out.write_all(&bytes))?;
    let written = Written {
        file: args.output.clone(),
        total_bytes: bytes.len(),
        crc32c: format!("{:08x}", wire::crc(&bytes)),
        sha256: sha256_bytes(&bytes),
    };
    if args.json {
        out::json(&written)?;
        return Ok(0);
    }
    out::line(format_args!(
        "  {}: {} bytes, crc32c {}, sha256 {}",
        args.output.display(),
        written.total_bytes,
        written.crc32c,
        written.sha256
    ))?;
    Ok(0)
}

fn plan(args: &Args) -> Result<Plan> {
    let first = match &args.select {
        None if !args.groups.is_empty() => None,
        select => Some(GroupText {
            select: select.clone().unwrap_or(Select(None)),
            pair: Pair::both(args.precision),
        }),
    };
    let groups = first.iter().chain(&args.groups);
    let groups = groups.map(|group| {
        let tokens = group.select.tokens(args.tokens)?;
        Ok(Group::new(tokens, group.pair))
    });
    let groups = groups.collect::<Result<Vec<_>>>()?;
    let mut plan = Plan::new(args.layers.into(), groups);
    if args.of_layers.is_some() {
        plan.layers.clone_from(&args.layer_list);
    }
    plan.layers_per_block = args.layers_per_block.unwrap_or(args.layers).into();
    (plan.granularity, plan.scale) = (args.granularity, args.scale);
    (plan.align8, plan.asymmetric, plan.zstd) = (args.align8, args.asymmetric, args.zstd);
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_lists_of_indices_and_inclusive_ranges() {
        let tokens = |text: &str| text.parse::<Select>().unwrap().tokens(40).unwrap();
        assert_eq!(tokens("8..11"), [8, 9, 10, 11]);
        assert_eq!(tokens("0,3..4,39"), [0, 3, 4, 39]);
        assert_eq!(tokens("all").len(), 40);
        for wrong in ["", "a", "3..", "4..3", "3,3", "1..5,4", "1,,2", "-1", "all,3"] {
            assert!(wrong.parse::<Select>().is_err(), "{wrong}");
        }
        assert!("40".parse::<Select>().unwrap().tokens(40).is_err());
    }

    #[test]
    fn groups_have_a_precision_for_each_side() {
        let group: GroupText = "3,4,5:int8/int4".parse().unwrap();
        assert_eq!(group.select.tokens(40).unwrap(), [3, 4, 5]);
        let pair = Pair { keys: Some(Precision::Int8), values: Some(Precision::Int4) };
        assert_eq!(group.pair, pair);
        let none: GroupText = "all:none/fp16".parse().unwrap();
        assert_eq!(none.pair, Pair { keys: None, values: Some(Precision::F16) });
        for wrong in ["3", "3:int8", "3:int8/int5", ":int8/int8"] {
            assert!(wrong.parse::<GroupText>().is_err(), "{wrong}");
        }
    }
}
