//! The container in which parts of a cache travel, every byte of it counted.
//!
//! [`Plan`] says what is sent: source layers, groups of tokens, the precision of their keys and
//! values, who shares a scale. [`wire_bytes`] says how many bytes that is, [`encode`] makes them, and
//! [`open`] or a [`Reader`] reads them back, strictly. The layout stands in [`Header`] and the files
//! beside it; a [`Schema`] lets tiny messages do without most of it.
//!
//! ```
//! use smidgen_codec::Ledger;
//! use smidgen_link::wire::{self, Group, Pair, Plan, Precision, Side};
//! use smidgen_tensor::Device;
//!
//! let device = Device::cpu(Ledger::new(), 1);
//! let cache = wire::reference(1, 2, 2, 32, 40);
//! let group = Group::new((8..24).collect(), Pair::both(Precision::Int8));
//! let plan = Plan::new(2, vec![group]);
//!
//! let bytes = wire::encode(&device, cache.view(), &plan)?;
//! assert_eq!(bytes.len() as u64, wire::wire_bytes(cache.view().shape, 40, &plan)?);
//!
//! let payload = wire::decode(&device, &bytes, &Default::default())?;
//! let keys = payload.layer(1, Side::Keys).expect("it travelled");
//! assert_eq!((keys.tokens.len(), keys.values.len()), (16, 16 * 2 * 32));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod checksum;
mod codes;
mod compact;
mod compress;
mod decode;
mod encode;
mod error;
mod expected;
mod header;
mod index;
mod outline;
mod payload;
mod plan;
mod precision;
mod quant;
mod report;
mod scale;
mod section;
mod size;
mod table;
mod vector;

pub use codes::Codes;
pub use compact::{CompactError, Schema, compact_bytes, from_compact, to_compact};
pub(crate) use compact::{HEAD_BYTES as COMPACT_HEAD_BYTES, is_compact};
pub use decode::{Block, BlockPart, Container, Options, Reader, open};
pub use encode::{encode, encode_into};
pub use error::{EncodeError, Fault, Incompatible, WireError};
pub use expected::Expected;
pub(crate) use expected::hex;
pub use header::{Header, Limits};
pub(crate) use index::leb_bytes;
pub use index::{Encoding, Index, IndexFault};
pub use payload::{DenseBlock, LayerRows, Payload, Rows, decode};
pub use plan::{About, Group, KeySpace, Pair, PerBlock, Plan, TokenSpace};
pub use precision::{Precision, UnknownPrecision};
pub use report::{Difference, Report, difference};
pub use scale::{Granularity, ScaleType, Side, UnknownGranularity};
pub use section::{Entry, Kind};
pub use size::wire_bytes;
pub use vector::{Reference, reference};

/// CRC32C of bytes: the checksum of sections, headers and messages.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}
