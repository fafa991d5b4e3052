//! A cache under a plan to a container.
//!
//! The places of all sections follow from the plan, so every part writes where it belongs. Codes are
//! made in chunks of about [`CHUNK`] values over all threads; the checksum of a chunk is taken while
//! it is in the cache, and those of a section are joined. What a chunk computes depends on the plan
//! alone, so any number of threads makes the same bytes.

use std::ops::Range;
use std::sync::Mutex;

use smidgen_codec::element::row::RowScale;
use smidgen_tensor::Device;

use super::checksum::joined;
use super::compress;
use super::error::EncodeError;
use super::header::Header;
use super::outline::{DESCRIPTOR_BYTES, Outline, Planned};
use super::plan::Plan;
use super::quant::{Source, Span, Uncodable};
use super::scale::Side;
use super::section::Kind;
use super::size::Places;
use super::table;
use crate::KvView;

/// Values that are coded at once: small enough for the second cache, many enough to be worth a task.
const CHUNK: usize = 1 << 16;

/// Makes the container of a cache under a plan.
///
/// # Errors
/// [`EncodeError`]: a plan that does not fit the cache, values that are no finite numbers or too
/// large for their format, a container above the cap of the plan.
pub fn encode(device: &Device, view: KvView<'_>, plan: &Plan) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    encode_into(device, view, plan, &mut out)?;
    Ok(out)
}

/// [`encode`] into a buffer that is used again; what was in it is gone.
///
/// # Errors
/// As for [`encode`]; the buffer then holds nothing of use.
pub fn encode_into(
    device: &Device,
    view: KvView<'_>,
    plan: &Plan,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let outline = plan.outline(view.shape, view.tokens)?;
    let places = Places::of(&outline)?;
    if plan.zstd.is_none() {
        check_cap(plan, places.total)?;
    }
    out.resize(places.total as usize, 0);
    let sums = write_sections(device, view, plan, &outline, &places, out)?;
    write_header(view, plan, outline, &places, &sums, out);
    if let Some(level) = plan.zstd {
        *out = compress::compressed(out, level);
        check_cap(plan, out.len() as u64)?;
    }
    Ok(())
}

fn check_cap(plan: &Plan, bytes: u64) -> Result<(), EncodeError> {
    match plan.about.cap {
        Some(cap) if bytes > cap.into() => Err(EncodeError::Cap { cap, bytes }),
        _ => Ok(()),
    }
}

/// Writes the header in front of sections whose checksums are known.
fn write_header(
    view: KvView<'_>,
    plan: &Plan,
    outline: Outline,
    places: &Places,
    sums: &[u32],
    out: &mut [u8],
) {
    let sections = places.sections.iter().zip(&places.offsets).zip(sums);
    let entries = sections
        .map(|((planned, offset), crc)| table::entry(&outline, planned, *offset, *crc))
        .collect();
    let header = Header {
        minor: u16::from(outline.has_gaps()),
        total_bytes: places.total,
        upgrade: plan.upgrade,
        about: plan.about,
        seq_len: view.tokens as u32,
        selected: outline.selected() as u32,
        descriptor_bytes: DESCRIPTOR_BYTES as u16,
        outline,
        entries,
    };
    let mut bytes = Vec::with_capacity(header.header_bytes());
    header.write(&mut bytes);
    out[..bytes.len()].copy_from_slice(&bytes);
}

/// The bytes of one payload: where its codes, scales and zero points go, by the numbers of sections.
struct Job<'a> {
    side: Side,
    source: Source<'a>,
    sections: [Option<usize>; 3],
    shared: Vec<RowScale>,
}

/// One task: some tokens of a payload, and the checksums of what they became.
struct Chunk<'a> {
    job: usize,
    slots: Range<usize>,
    bytes: [&'a mut [u8]; 3],
    sums: Result<[u32; 3], Uncodable>,
}

/// Fills the sections, and gives their checksums.
fn write_sections(
    device: &Device,
    view: KvView<'_>,
    plan: &Plan,
    outline: &Outline,
    places: &Places,
    out: &mut [u8],
) -> Result<Vec<u32>, EncodeError> {
    let mut slices = split(places, out);
    let mut sums = vec![0; slices.len()];
    for (number, planned) in places.sections.iter().enumerate() {
        let mut bytes = Vec::new();
        match (planned.kind, planned.group) {
            (Kind::Layers, _) => bytes.extend(plan.layers.iter().flat_map(|l| l.to_le_bytes())),
            (Kind::Meta, _) => bytes.extend(plan.note.iter().flat_map(|note| note.bytes())),
            (Kind::Index, Some(group)) => {
                let (encoding, _) = outline.part(planned.block, group).index.expect("it is listed");
                let tokens = plan.groups[group].tokens.of(planned.block);
                encoding.write(tokens, view.tokens, &mut bytes);
            }
            _ => continue,
        }
        sums[number] = crc32c::crc32c(&bytes);
        slices[number].copy_from_slice(&bytes);
    }
    let mut jobs = jobs(view, plan, outline, places);
    for job in &mut jobs {
        let failed = |_| blame(job, plan);
        let [_, scales, zeros] = job.sections;
        if let Some(scales) = scales.filter(|_| job.source.shares_scales()) {
            let zero = zeros.map(|at| std::mem::take(&mut slices[at]));
            let zero_bytes = zero.unwrap_or_default();
            let spans = spans(device, &job.source);
            let shared = job.source.shared_scales(&spans, slices[scales], zero_bytes);
            let shared = shared.map_err(failed)?;
            sums[scales] = crc32c::crc32c(slices[scales]);
            if let Some(at) = zeros {
                sums[at] = crc32c::crc32c(zero_bytes);
            }
            job.shared = shared;
        }
    }
    let chunks = chunks(&jobs, slices);
    device.team().run(chunks.len(), |number| {
        let mut chunk = chunks[number].lock().expect("each chunk has one task");
        run(device, &jobs, &mut chunk);
    });
    for chunk in chunks {
        let chunk = chunk.into_inner().expect("no task panicked");
        let job = &jobs[chunk.job];
        let made = chunk.sums.map_err(|_| blame(job, plan))?;
        for ((section, bytes), sum) in job.sections.iter().zip(chunk.bytes).zip(made) {
            if let Some(section) = section.filter(|_| !bytes.is_empty()) {
                sums[section] = joined(sums[section], sum, bytes.len());
            }
        }
    }
    Ok(sums)
}

/// The sections as slices of their own; what lies between them becomes zero.
fn split<'a>(places: &Places, out: &'a mut [u8]) -> Vec<&'a mut [u8]> {
    let (mut rest, mut at) = (out, 0);
    let cut = |(planned, offset): (&Planned, &u64)| {
        let (between, behind) = std::mem::take(&mut rest).split_at_mut(*offset as usize - at);
        between.fill(0);
        let (section, behind) = behind.split_at_mut(planned.bytes as usize);
        at = *offset as usize + section.len();
        rest = behind;
        section
    };
    places.sections.iter().zip(&places.offsets).map(cut).collect()
}

/// Every payload, with the numbers of its sections.
fn jobs<'a>(view: KvView<'a>, plan: &'a Plan, outline: &Outline, places: &Places) -> Vec<Job<'a>> {
    let mut jobs: Vec<Job<'a>> = Vec::new();
    // Scales follow their codes, and zero points the codes of both sides.
    let mut of_side = [0; 2];
    for (number, planned) in places.sections.iter().enumerate() {
        let (side, part) = match planned.kind {
            Kind::PayloadK => (Side::Keys, 0),
            Kind::ScaleK => (Side::Keys, 1),
            Kind::ZeroK => (Side::Keys, 2),
            Kind::PayloadV => (Side::Values, 0),
            Kind::ScaleV => (Side::Values, 1),
            Kind::ZeroV => (Side::Values, 2),
            _ => continue,
        };
        if part > 0 {
            jobs[of_side[side as usize]].sections[part] = Some(number);
            continue;
        }
        of_side[side as usize] = jobs.len();
        let (block, group) = (planned.block, planned.group.expect("a payload has a group"));
        let precision = plan.precision(block, group, side).expect("the section comes from it");
        let first = block * plan.layers_per_block;
        let source = Source {
            grid: outline.grid(block, group, side),
            granularity: plan.granularity.of(side),
            scale: plan.scale,
            precision,
            element: precision.element(plan.asymmetric),
            values: if side == Side::Keys { view.keys } else { view.values },
            seq_len: view.tokens,
            layers: &plan.layers[first..first + outline.block_layers(block)],
            tokens: plan.groups[group].tokens.of(block),
        };
        jobs.push(Job { side, source, sections: [Some(number), None, None], shared: Vec::new() });
    }
    jobs
}

/// What the values of each scale of a payload span, one plane a task.
fn spans(device: &Device, source: &Source<'_>) -> Vec<Span> {
    let each = source.spans_per_plane();
    let mut spans = vec![Span::default(); each * source.grid.planes()];
    let planes: Vec<_> = spans.chunks_mut(each).map(Mutex::new).collect();
    device.team().run(planes.len(), |plane| {
        let mut spans = planes[plane].lock().expect("each plane has one task");
        source.plane_spans(device.level(), plane, &mut spans);
    });
    drop(planes);
    spans
}

/// Cuts every payload into tasks.
fn chunks<'a>(jobs: &[Job<'_>], mut slices: Vec<&'a mut [u8]>) -> Vec<Mutex<Chunk<'a>>> {
    let mut chunks = Vec::new();
    for (number, job) in jobs.iter().enumerate() {
        let slots = job.source.slots();
        let step = (CHUNK / job.source.token_len()).max(1);
        let each = job.source.token_bytes();
        let mut rest = job.sections.map(|section| {
            section.map(|section| std::mem::take(&mut slices[section])).unwrap_or_default()
        });
        for first in (0..slots).step_by(step) {
            let slots = first..slots.min(first + step);
            let bytes = [0, 1, 2].map(|i| {
                let (taken, behind) =
                    std::mem::take(&mut rest[i]).split_at_mut(slots.len() * each[i]);
                rest[i] = behind;
                taken
            });
            chunks.push(Mutex::new(Chunk { job: number, slots, bytes, sums: Ok([0; 3]) }));
        }
    }
    chunks
}

fn run(device: &Device, jobs: &[Job<'_>], chunk: &mut Chunk<'_>) {
    let Job { source, shared, .. } = &jobs[chunk.job];
    let [codes, scales, zeros] = &mut chunk.bytes;
    let coded = source.code(device.level(), chunk.slots.clone(), shared, codes, scales, zeros);
    chunk.sums = coded.map(|()| [codes, scales, zeros].map(|bytes| crc32c::crc32c(bytes)));
}

/// The error for the first value of a payload that cannot be coded.
fn blame(job: &Job<'_>, plan: &Plan) -> EncodeError {
    let source = &job.source;
    let place @ [plane, token, head, at] = source.culprit();
    let layer = source.layers[plane / plan.batch].into();
    let value = source.value(place);
    let side = job.side;
    if value.is_finite() {
        let precision = source.precision;
        return EncodeError::TooLarge { side, layer, token, head, at, value, precision };
    }
    EncodeError::NotFinite { side, layer, token, head, at, value }
}
