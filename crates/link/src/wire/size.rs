//! Where the sections of a plan lie, and so how many bytes it has: the encoder's own size function.

use super::error::EncodeError;
use super::header::MOST_SECTIONS;
use super::outline::{Outline, Planned, header_bytes};
use super::plan::Plan;
use crate::KvShape;

/// The sections of a container, where each begins, and where the last one ends.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) sections: Vec<Planned>,
    pub(super) offsets: Vec<u64>,
    pub(super) total: u64,
}

impl Places {
    pub(super) fn of(outline: &Outline) -> Result<Places, EncodeError> {
        let too_large = EncodeError::SectionBytes { bytes: u64::MAX };
        // A list of too many is not made.
        let got = outline.count();
        if got > MOST_SECTIONS {
            return Err(EncodeError::Sections { got, most: MOST_SECTIONS });
        }
        let sections = outline.sections().ok_or(too_large.clone())?;
        if let Some(section) = sections.iter().find(|section| section.bytes > u32::MAX.into()) {
            return Err(EncodeError::SectionBytes { bytes: section.bytes });
        }
        let mut end = header_bytes(sections.len()) as u64;
        let mut offsets = Vec::with_capacity(sections.len());
        for section in &sections {
            let begin = outline.begin(end).ok_or(too_large.clone())?;
            offsets.push(begin);
            end = begin + section.bytes;
        }
        Ok(Places { sections, offsets, total: end })
    }
}

/// The bytes of the container that [`encode`](super::encode) makes of a cache of this shape and
/// `seq_len` tokens under `plan`, to the last one. With compression it has at most as many.
///
/// # Errors
/// Where the plan cannot be; a cap is not compared with.
pub fn wire_bytes(shape: KvShape, seq_len: usize, plan: &Plan) -> Result<u64, EncodeError> {
    Ok(Places::of(&plan.outline(shape, seq_len)?)?.total)
}
