//! A message in the compact form: its schema once, and then little more than the codes.

use std::ops::Range;

use smidgen_tensor::Device;

use crate::wire::{
    self, COMPACT_HEAD_BYTES, Header, Limits, PerBlock, Plan, Precision, Schema, to_compact,
};
use crate::{Error, KvView};

/// A message as it travels.
pub(super) struct Message {
    /// What has to be published before it; none for a whole container.
    pub(super) schema: Option<Schema>,
    pub(super) bytes: Vec<u8>,
    /// The first part of it, which is sent ahead.
    pub(super) head_bytes: usize,
    /// The rest, in the parts that are of use when they are there.
    pub(super) blocks: Vec<Range<usize>>,
}

impl Message {
    /// The container of a plan.
    ///
    /// # Errors
    /// Those of the encoder.
    pub(super) fn whole(device: &Device, cache: KvView<'_>, plan: &Plan) -> Result<Message, Error> {
        let bytes = wire::encode(device, cache, plan)?;
        let header = Header::parse(&bytes, &Limits::default())?;
        let block = |number| {
            let Range { start, end } = header.block_bytes(number);
            start as usize..end as usize
        };
        let blocks = (0..header.blocks()).map(block).collect();
        Ok(Message { schema: None, bytes, head_bytes: header.header_bytes(), blocks })
    }

    /// The same, compact. A schema names neither prompt nor cap.
    ///
    /// # Errors
    /// Those of the encoder, and [`Error::Compact`] for a plan that no schema can say.
    pub(super) fn compact(
        device: &Device,
        cache: KvView<'_>,
        mut plan: Plan,
    ) -> Result<Message, Error> {
        (plan.about.prompt, plan.about.cap) = ([0; 8], None);
        let container = wire::encode(device, cache, &plan)?;
        let header = Header::parse(&container, &Limits::default())?;
        let schema = Schema::new(&header, &plan.layers, &precisions(&plan));
        let bytes = to_compact(&schema, &container)?;
        let (head_bytes, end) = (COMPACT_HEAD_BYTES, bytes.len());
        let blocks = std::iter::once(head_bytes..end).collect();
        Ok(Message { schema: Some(schema), bytes, head_bytes, blocks })
    }
}

/// Every precision in a plan.
fn precisions(plan: &Plan) -> Vec<Precision> {
    let pairs = plan.groups.iter().flat_map(|group| match &group.precision {
        PerBlock::Same(pair) => std::slice::from_ref(pair),
        PerBlock::Each(pairs) => pairs,
    });
    pairs.flat_map(|pair| [pair.keys, pair.values]).flatten().collect()
}
