//! The sizes of a KVW container, from shapes and counts alone.
//!
//! header 112 + 32 n + 8 for n sections; then LAYERS (2 bytes each, where not all layers travel) and
//! per block and group INDEX (where the group is not all of 0..T), PAYLOAD_K, SCALE_K, PAYLOAD_V,
//! SCALE_V. A row of a head begins at a byte; floats have no scales. With `align8` each section
//! begins at a multiple of eight.
//!
//! Compact: 17 bytes and LEB128 of T; 3 bytes and LEB128 of n for each group; INDEX, payloads and scales
//! as above.

use super::index::{bitmap_bytes, index_bytes, token_bytes};
use super::model::{ByteModel, Group, Piece, Tokens};
use super::recipe::{LayerPrecision, Recipe, block_step};
use crate::wire::{Granularity, Precision, leb_bytes};
use crate::{Error, KvShape};

/// Prefix and descriptor.
const HEAD_BYTES: u64 = 48 + 64;
/// An entry of the section table.
const ENTRY_BYTES: u64 = 32;
/// Checksum of the header.
const TAIL_BYTES: u64 = 8;
/// A compact message without T, groups and what is in them, the number of which has one byte.
const COMPACT_BYTES: u64 = 12 + 1 + 4;
/// A group of one without its count.
const COMPACT_GROUP_BYTES: u64 = 3;
/// More recipes would make the pieces many: there are 3^M of them.
const MOST_RECIPES: usize = 5;

/// What a container looks like, apart from what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Who shares a scale.
    pub granularity: Granularity,
    /// Bytes of a scale: 2 for f16 and bf16, 4 for f32.
    pub scale_bytes: u64,
    /// Sections begin at multiples of eight.
    pub align8: bool,
    /// Layers that arrive together; none: as many as have one precision.
    pub block_layers: Option<usize>,
    /// The layers have lists of their own.
    pub per_layer_index: bool,
    /// The message is compact, its schema is not counted: all layers have the same formats and lists.
    pub compact: bool,
}

impl Default for Layout {
    fn default() -> Self {
        let granularity = Granularity::Block;
        Layout {
            granularity,
            scale_bytes: 2,
            align8: false,
            block_layers: None,
            per_layer_index: false,
            compact: false,
        }
    }
}

/// Keys or values of a layer.
struct Half {
    precision: Precision,
    /// E.
    dim: usize,
    /// K.
    heads: u64,
    granularity: Granularity,
}

impl Half {
    fn rows(&self, layers: u64, n: u64) -> u64 {
        layers * n * self.heads
    }

    fn row_bytes(&self) -> u64 {
        self.precision.row_bytes(self.dim) as u64
    }

    fn scales(&self, layers: u64, n: u64) -> u64 {
        let dim = self.dim as u64;
        match self.granularity {
            Granularity::Tensor => 1,
            Granularity::Layer => layers,
            Granularity::Head => layers * self.heads,
            Granularity::Block => self.rows(layers, n),
            Granularity::Group(size) => self.rows(layers, n) * dim.div_ceil(size.into()),
            Granularity::Channel(size) => self.rows(layers, n.div_ceil(size.into())) * dim,
        }
    }

    /// Bytes of scales that do not depend on n, and of those that one more token brings at most.
    fn linear_scale_bytes(&self, layers: u64, scale_bytes: u64) -> (u64, u64) {
        let one = self.scales(layers, 1) * scale_bytes;
        match self.granularity {
            Granularity::Block | Granularity::Group(_) => (0, one),
            // ceil(n/g) is at most 1 + n/g.
            Granularity::Channel(size) => (one, one.div_ceil(size.into())),
            _ => (one, 0),
        }
    }
}

/// The sizes of the containers that carry one example's cache.
#[derive(Clone, Debug)]
pub struct ContainerModel {
    shape: KvShape,
    tokens: usize,
    layout: Layout,
    recipes: Vec<Recipe>,
    /// Layers that travel.
    sent: usize,
    block_layers: usize,
}

impl ContainerModel {
    /// Sizes for a sharer of `shape` that read `tokens`, with a choice of recipes.
    ///
    /// # Errors
    /// [`Error::Value`] where the recipes do not send the same halves of the same layers, where
    /// there are too many, where blocks would have several precisions, or a compact message any that
    /// differ between them, or for a group of nothing.
    pub fn new(
        shape: KvShape,
        tokens: usize,
        layout: Layout,
        recipes: Vec<Recipe>,
    ) -> Result<ContainerModel, Error> {
        let first = recipes.first().ok_or_else(|| Error::value("recipes", "at least 1", 0))?;
        if recipes.len() > MOST_RECIPES {
            let expected = format!("at most {MOST_RECIPES}");
            return Err(Error::value("recipes", expected, recipes.len()));
        }
        for recipe in &recipes {
            if recipe.layers.len() != shape.layers || !recipe.fits(first) {
                let expected =
                    format!("the halves of `{}` in {} layers", first.name(), shape.layers);
                let got = format!("`{}` in {} layers", recipe.name(), recipe.layers.len());
                return Err(Error::value("recipes", expected, got));
            }
        }
        if matches!(layout.granularity, Granularity::Group(0) | Granularity::Channel(0)) {
            return Err(Error::value("granularity", "a size above 0", 0));
        }
        let sent = first.sent().len();
        let block_layers = block_layers(&layout, &recipes, sent)?;
        Ok(ContainerModel { shape, tokens, layout, recipes, sent, block_layers })
    }

    /// The recipes, as they are numbered.
    pub fn recipe_list(&self) -> &[Recipe] {
        &self.recipes
    }

    /// Layers of a block.
    pub fn block_layers(&self) -> usize {
        self.block_layers
    }

    /// The layers that travel, block by block.
    fn blocks(&self, recipe: usize) -> Vec<Vec<LayerPrecision>> {
        let sent = self.recipes[recipe].layers.iter().copied().filter(|layer| layer.is_sent());
        sent.collect::<Vec<_>>().chunks(self.block_layers).map(<[_]>::to_vec).collect()
    }

    /// The halves of a layer that travel.
    fn halves(&self, layer: LayerPrecision) -> impl Iterator<Item = Half> {
        let (shape, granularity) = (self.shape, self.layout.granularity);
        let of_values = match granularity {
            Granularity::Channel(_) => Granularity::Block,
            other => other,
        };
        let half = move |precision: Option<Precision>, dim, granularity| {
            precision.map(|precision| Half {
                precision,
                dim,
                heads: shape.kv_heads as u64,
                granularity,
            })
        };
        let keys = half(layer.key, shape.key_dim, granularity);
        keys.into_iter().chain(half(layer.value, shape.value_dim, of_values))
    }

    /// Lengths of the sections of a block with `n` tokens, their list left out.
    fn block_sections(&self, block: &[LayerPrecision], n: u64) -> Vec<u64> {
        let mut lengths = Vec::with_capacity(4);
        for half in self.halves(block[0]) {
            lengths.push(half.rows(block.len() as u64, n) * half.row_bytes());
            if half.precision.is_scaled() {
                lengths.push(half.scales(block.len() as u64, n) * self.layout.scale_bytes);
            }
        }
        lengths
    }

    /// Lengths of the sections of all groups, block by block, as they lie in the container.
    fn sections(&self, groups: &[Group<'_>]) -> Vec<u64> {
        let mut lengths = Vec::new();
        if self.sent < self.shape.layers && !self.layout.compact {
            lengths.push(2 * self.sent as u64);
        }
        let blocks: Vec<_> = groups.iter().map(|group| self.blocks(group.recipe)).collect();
        for block in 0..self.sent.div_ceil(self.block_layers) {
            for (group, blocks) in groups.iter().zip(&blocks) {
                let (tokens, has_index) = match group.tokens {
                    Tokens::Shared(tokens) => (tokens, block == 0),
                    Tokens::PerLayer(lists) => (lists[block].as_slice(), true),
                };
                if has_index && self.layout.compact {
                    lengths.push(compact_group_bytes(tokens.len()));
                }
                if has_index && tokens.len() < self.tokens {
                    lengths.push(index_bytes(tokens, self.tokens));
                }
                lengths.extend(self.block_sections(&blocks[block], tokens.len() as u64));
            }
        }
        lengths
    }

    /// Bytes of a container with these sections.
    fn total(&self, lengths: &[u64]) -> u64 {
        if self.layout.compact {
            return self.base() + lengths.iter().sum::<u64>();
        }
        let header = HEAD_BYTES + ENTRY_BYTES * lengths.len() as u64 + TAIL_BYTES;
        lengths.iter().fold(header, |end, length| {
            let start = if self.layout.align8 { end.next_multiple_of(8) } else { end };
            start + length
        })
    }

    /// What a group costs beyond its list: bytes that do not depend on n, and bytes per token.
    fn linear(&self, recipe: usize) -> (u64, u64) {
        let (mut fixed, mut row) = (0, 0);
        if self.layout.compact {
            fixed += compact_group_bytes(self.tokens);
        }
        for block in self.blocks(recipe) {
            for half in self.halves(block[0]) {
                let layers = block.len() as u64;
                fixed += self.entry();
                row += half.rows(layers, 1) * half.row_bytes();
                if half.precision.is_scaled() {
                    let (once, each) = half.linear_scale_bytes(layers, self.layout.scale_bytes);
                    fixed += self.entry() + once;
                    row += each;
                }
            }
        }
        (fixed, row)
    }

    /// A section's entry, and the most that goes into its alignment.
    fn entry(&self) -> u64 {
        if self.layout.compact {
            return 0;
        }
        ENTRY_BYTES + if self.layout.align8 { 7 } else { 0 }
    }

    /// Header and list of layers.
    fn base(&self) -> u64 {
        if self.layout.compact {
            return COMPACT_BYTES + leb_bytes(self.tokens as u32) as u64;
        }
        let layers =
            if self.sent < self.shape.layers { self.entry() + 2 * self.sent as u64 } else { 0 };
        HEAD_BYTES + TAIL_BYTES + layers
    }

    /// The lists of a group: one, or one for each layer that travels.
    fn lists<'a>(&self, tokens: Tokens<'a>) -> Result<Vec<&'a [u32]>, Error> {
        match (tokens, self.layout.per_layer_index) {
            (Tokens::Shared(list), false) => Ok(vec![list]),
            (Tokens::PerLayer(lists), true) if lists.len() == self.sent => {
                Ok(lists.iter().map(Vec::as_slice).collect())
            }
            (_, true) => Err(Error::value("tokens", format!("{} lists", self.sent), "others")),
            (_, false) => Err(Error::value("tokens", "one list", "one for each layer")),
        }
    }

    fn check(&self, groups: &[Group<'_>]) -> Result<(), Error> {
        let mut seen = vec![false; self.tokens];
        for group in groups {
            for list in self.lists(group.tokens)? {
                let ascends = list.windows(2).all(|pair| pair[0] < pair[1]);
                if !ascends || list.last().is_none_or(|last| *last as usize >= self.tokens) {
                    let expected = format!("a list that ascends, below {}", self.tokens);
                    return Err(Error::value("tokens", expected, "another"));
                }
                let twice = |token: &u32| std::mem::replace(&mut seen[*token as usize], true);
                // Lists of several layers have tokens in common.
                if !self.layout.per_layer_index && list.iter().any(twice) {
                    return Err(Error::value("tokens", "groups without common tokens", "others"));
                }
            }
        }
        Ok(())
    }
}

impl ByteModel for ContainerModel {
    fn tokens(&self) -> usize {
        self.tokens
    }

    fn recipes(&self) -> usize {
        self.recipes.len()
    }

    fn wire_bytes(&self, groups: &[Group<'_>]) -> Result<u64, Error> {
        self.check(groups)?;
        Ok(self.total(&self.sections(groups)))
    }

    fn pieces(&self) -> Vec<Piece> {
        let linear: Vec<(u64, u64)> = (0..self.recipes.len()).map(|m| self.linear(m)).collect();
        let indices = if self.layout.per_layer_index { self.sent as u64 } else { 1 };
        let (each, bits) = (token_bytes(self.tokens), bitmap_bytes(self.tokens));
        // How a group's list is bounded: closed, by its count, by the number of all tokens.
        let states = 3usize.pow(self.recipes.len() as u32);
        let open = (1..states).map(|state| {
            let mut piece =
                Piece { fixed_bytes: self.base(), row_bytes: Vec::new(), is_whole: false };
            for (m, (fixed, row)) in linear.iter().enumerate() {
                let kind = state / 3usize.pow(m as u32) % 3;
                let (list, token) = [(0, 0), (0, each), (bits, 0)][kind];
                piece.row_bytes.push((kind > 0).then_some(row + indices * token));
                if kind > 0 {
                    piece.fixed_bytes += fixed + indices * (self.entry() + list);
                }
            }
            piece
        });
        let whole = linear.iter().enumerate().map(|(m, (fixed, row))| Piece {
            fixed_bytes: self.base() + fixed,
            row_bytes: (0..linear.len()).map(|other| (other == m).then_some(*row)).collect(),
            is_whole: true,
        });
        open.chain(whole).collect()
    }
}

/// Bytes of all of a cache at int8 with everything else at its default: what caps are shares of.
pub fn full_bytes(shape: KvShape, tokens: usize) -> u64 {
    let recipe = Recipe::uniform(shape.layers, Precision::Int8, Precision::Int8);
    let model = ContainerModel::new(shape, tokens, Layout::default(), vec![recipe]);
    let model = model.expect("one recipe with one precision fits any shape");
    let all: Vec<u32> = (0..tokens as u32).collect();
    let group = Group { recipe: 0, tokens: Tokens::Shared(&all) };
    if tokens == 0 { 0 } else { model.total(&model.sections(&[group])) }
}

/// Of a group of so many tokens in a compact message, its list and codes left out.
fn compact_group_bytes(tokens: usize) -> u64 {
    COMPACT_GROUP_BYTES + leb_bytes(tokens as u32) as u64
}

/// Layers of a block, such that each block has one precision.
fn block_layers(layout: &Layout, recipes: &[Recipe], sent: usize) -> Result<usize, Error> {
    let step = block_step(recipes);
    if layout.compact && (layout.per_layer_index || step > 0) {
        return Err(Error::value(
            "compact",
            "the same formats and tokens in every layer",
            "others",
        ));
    }
    if layout.per_layer_index {
        // Each layer has a list of its own, and a block has one list.
        return Ok(1);
    }
    match layout.block_layers {
        None => Ok(if step == 0 { sent.max(1) } else { step }),
        Some(asked) if (1..=sent).contains(&asked) && step.is_multiple_of(asked) => Ok(asked),
        Some(asked) => {
            let expected = match step {
                0 => format!("1 to {sent}"),
                step => format!("a divisor of {step}, where the precision changes"),
            };
            Err(Error::value("layers_per_block", expected, asked))
        }
    }
}
