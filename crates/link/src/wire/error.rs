//! What can be wrong with a container that was received, and with one that is to be made.

use smidgen_codec::element::row::RowFault;

use super::index::IndexFault;
use super::precision::Precision;
use super::scale::Side;
use super::section::Kind;

/// What is wrong with a container, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}, at byte {offset}")]
pub struct WireError {
    /// From the start of the container.
    pub offset: u64,
    /// What it is.
    pub fault: Fault,
}

impl WireError {
    pub(super) fn new(offset: u64, fault: Fault) -> WireError {
        WireError { offset, fault }
    }
}

/// Everything that can be wrong with a container. The list is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Fewer bytes than there have to be.
    #[error("the container is cut off: expected {expected} bytes, got {got}")]
    Truncated {
        /// Bytes that are needed.
        expected: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// More bytes than the container has.
    #[error("bytes behind the end: expected {expected} bytes, got {got}")]
    Trailing {
        /// Bytes of the container.
        expected: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// These are not the first bytes of a container.
    #[error("no container: the first bytes are not those of KVW")]
    Magic,
    /// Another major version.
    #[error("`major`: expected version 1, got {0}")]
    Version(u16),
    /// A number that must be another one.
    #[error("`{field}`: expected {expected}, got {got}")]
    Number {
        /// Which.
        field: &'static str,
        /// The only right one.
        expected: u64,
        /// The one that stands there.
        got: u64,
    },
    /// A number outside of what is allowed.
    #[error("`{field}`: expected {least} to {most}, got {got}")]
    Range {
        /// Which.
        field: &'static str,
        /// The least that is allowed.
        least: u64,
        /// The most that is allowed.
        most: u64,
        /// The one that stands there.
        got: u64,
    },
    /// A number that stands for nothing.
    #[error("`{field}`: {got} stands for nothing")]
    Unknown {
        /// Which.
        field: &'static str,
        /// The one that stands there.
        got: u64,
    },
    /// The base of rotations is not a finite number from 0 on.
    #[error("`rope_theta`: expected a finite number from 0 on")]
    Theta,
    /// A checksum is not that of its bytes.
    #[error("checksum of `{what}`: expected {expected:08x}, got {got:08x}")]
    Checksum {
        /// `header`, or the kind of a section.
        what: &'static str,
        /// The one that stands there.
        expected: u32,
        /// That of the bytes.
        got: u32,
    },
    /// A section stands where another one has to, or none may be.
    #[error("section `{got}` where `{expected}` has to be")]
    Section {
        /// The kind that has to be here; `end` behind the last.
        expected: &'static str,
        /// The kind that is here.
        got: &'static str,
    },
    /// A section does not have the length that follows from the sizes.
    #[error("bytes of section `{}`: expected {expected}, got {got}", kind.name())]
    Length {
        /// The kind of the section.
        kind: Kind,
        /// The length that follows.
        expected: u64,
        /// The length that stands there.
        got: u64,
    },
    /// Sizes whose product is larger than any memory.
    #[error("sizes too large for any memory")]
    Overflow,
    /// Bytes between sections that are not 0.
    #[error("padding is not zero")]
    Padding,
    /// The list of layers does not increase below the sharer's layers.
    #[error("layers do not increase below {0}")]
    Layers(u16),
    /// A list of token indices.
    #[error("token indices: {0}")]
    Index(#[from] IndexFault),
    /// A scale that is negative, infinite or NaN, or one that makes a code infinite.
    #[error("a scale is not a finite number from 0 on, or a code times it is not finite")]
    Scale,
    /// A zero point that its scale or precision does not allow.
    #[error("zero point {0} is not possible here")]
    Zero(u8),
    /// The codes of a row.
    #[error("{}", row_text(*.0))]
    Row(RowFault),
    /// Compressed bytes that do not come out at the length they claim.
    #[error("compressed bytes do not come out at their length")]
    Compressed,
    /// A compressed section larger than memory may be used for.
    #[error("compressed sections claim {claimed} bytes, allowed are {allowed}")]
    Expansion {
        /// Bytes they claim to become.
        claimed: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// A note that is not UTF-8.
    #[error("the note is not UTF-8")]
    Note,
    /// A block before those in front of it, or after the last.
    #[error("block {got} where {expected} has to be")]
    Order {
        /// The block that is next.
        expected: u64,
        /// The block that came.
        got: u64,
    },
    /// A message for another schema.
    #[error("schema: expected {expected:08x}, got {got:08x}")]
    Schema {
        /// The one agreed on.
        expected: u32,
        /// The one of the message.
        got: u32,
    },
}

fn row_text(fault: RowFault) -> &'static str {
    match fault {
        RowFault::Unused => "a code that no encoder makes",
        RowFault::NoNumber => "an element that is no finite number",
        RowFault::NotZero => "a code other than that of 0 under a scale of 0",
        RowFault::Spare => "spare bits of a row are not zero",
    }
}

/// Why a container cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// A plan that cannot be.
    #[error("`{field}`: expected {expected}, got {got}")]
    Plan {
        /// The field of the plan.
        field: &'static str,
        /// What is possible.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A value that is infinite or NaN.
    #[error("{} of layer {layer}, token {token}, head {head}, element {at}: {value} is no finite number", side_name(*.side))]
    NotFinite {
        /// Keys or values.
        side: Side,
        /// The sharer's layer.
        layer: usize,
        /// The token of the sequence.
        token: usize,
        /// The head.
        head: usize,
        /// The element of the head.
        at: usize,
        /// The value.
        value: f32,
    },
    /// A value or its scale is past the largest number of its format.
    #[error("{} of layer {layer}, token {token}, head {head}, element {at}: {value} is too large for {precision} and its scale", side_name(*.side))]
    TooLarge {
        /// Keys or values.
        side: Side,
        /// The sharer's layer.
        layer: usize,
        /// The token of the sequence.
        token: usize,
        /// The head.
        head: usize,
        /// The element of the head.
        at: usize,
        /// The value.
        value: f32,
        /// The precision of the payload.
        precision: Precision,
    },
    /// A container larger than its format can say.
    #[error("a section of {bytes} bytes, the most is {most}", most = u32::MAX)]
    SectionBytes {
        /// Bytes of the section.
        bytes: u64,
    },
    /// More sections than a container has room for.
    #[error("{got} sections, the most is {most}\n  hint: more layers per block, or fewer groups")]
    Sections {
        /// Sections of the plan.
        got: usize,
        /// The most.
        most: usize,
    },
    /// The cap is below what the plan needs.
    #[error("cap of {cap} bytes, the container has {bytes}")]
    Cap {
        /// The cap.
        cap: u32,
        /// Bytes of the container.
        bytes: u64,
    },
}

impl EncodeError {
    pub(super) fn plan(
        field: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> EncodeError {
        EncodeError::Plan { field, expected: expected.into(), got: got.to_string() }
    }
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Keys => "key",
        Side::Values => "value",
    }
}

/// A container that is right in itself, but for another model or prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: expected {expected}, got {got}")]
pub struct Incompatible {
    /// Which field.
    pub field: &'static str,
    /// What this side has.
    pub expected: String,
    /// What the container says.
    pub got: String,
}
