//! Causal attention over packed documents, in blocks, with grouped heads.
//!
//! `out_i = sum over visible j of softmax_j(q_i · k_j / sqrt(dim)) · v_j`. Token `i` sees tokens
//! `starts[i]..=i` of its row: the tokens of its own document up to itself. No matrix of scores is ever held
//! whole (Dao et al. 2022, arXiv:2205.14135): memory grows with the number of tokens. Query head `h` reads
//! key and value head `h / (query / kv)`.

mod append;
mod backward;
mod cache;
mod forward;

pub(crate) use backward::{Gradients, backward};
pub use cache::{AttentionCache, CacheFormat};
pub(crate) use forward::{attend, forward};

use super::qk_norm_rope::Heads;
use crate::matmul::{Geometry, Precision, Source, Values};

/// Which tokens see which, for rows of equal length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mask<'a> {
    /// Rows of the batch.
    pub(crate) rows: usize,
    /// New tokens in each row.
    pub(crate) queries: usize,
    /// Keys of each row: the past ones, if any, then those of the new tokens.
    pub(crate) keys: usize,
    /// For every new token the first key of its row that it sees; never falls within a row.
    pub(crate) starts: &'a [u32],
}

impl Mask<'_> {
    /// Keys that were there before the new tokens.
    fn past(&self) -> usize {
        self.keys - self.queries
    }
}

/// A head's columns in a matrix of `stride` columns: row `t` begins at `offset + t * stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub(crate) values: Values<'a>,
    pub(crate) stride: usize,
    pub(crate) offset: usize,
}

impl<'a> Strided<'a> {
    /// The values from column `offset` of token `token` on.
    fn from(&self, token: usize, column: usize) -> Values<'a> {
        let start = self.offset + token * self.stride + column;
        match self.values {
            Values::F32(x) => Values::F32(&x[start..]),
            Values::Bf16(x) => Values::Bf16(&x[start..]),
        }
    }

    /// Tokens as the outer index, coordinates as the reduction.
    fn by_coordinate(&self, token: usize, column: usize) -> Source<'a> {
        Source::along_cols(self.from(token, column), self.stride)
    }

    /// Coordinates as the outer index, tokens as the reduction.
    fn by_token(&self, token: usize, column: usize) -> Source<'a> {
        Source::along_rows(self.from(token, column), self.stride)
    }
}

/// Queries, keys and values of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands<'a> {
    pub(crate) heads: Heads,
    pub(crate) precision: Precision,
    pub(crate) query: Strided<'a>,
    pub(crate) key: Strided<'a>,
    pub(crate) value: Strided<'a>,
    pub(crate) mask: Mask<'a>,
}

/// Queries of a layer, with what they see.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queries<'a> {
    pub(crate) heads: Heads,
    pub(crate) precision: Precision,
    pub(crate) query: Strided<'a>,
    pub(crate) mask: Mask<'a>,
    /// Which of the keys that the mask lets through are seen; all, if there are no blocks.
    pub(crate) blocks: Option<SparseBlocks>,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
}

impl Queries<'_> {
    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads.query / self.heads.kv
    }

    /// What scores are multiplied with, in units of log 2: `2^(score · scale) = e^(score · scale)`.
    fn scale_log2(&self) -> f32 {
        std::f32::consts::LOG2_E * self.scale
    }

    /// Multiplications of queries with the keys that they see, in one of the products.
    fn multiplications(&self) -> usize {
        let mask = self.mask;
        let last = |i: usize| mask.past() + i % mask.queries.max(1);
        let seen = mask.starts.iter().enumerate().map(|(i, start)| last(i) + 1 - *start as usize);
        seen.sum::<usize>() * self.heads.query * self.heads.dim
    }

    /// Bytes of queries, keys and values.
    fn bytes(&self) -> usize {
        let (heads, mask) = (self.heads, self.mask);
        let element = if self.precision == Precision::F32 { 4 } else { 2 };
        mask.rows * (mask.queries * heads.query + 2 * mask.keys * heads.kv) * heads.dim * element
    }
}

/// Attention by blocks: a query sees the keys of the `local` blocks nearby, its own among them, and of those further
/// away block `k` if `stride` divides `k + head · shift + 1`. Each head keeps other ones, so that every token stays in
/// sight of some (Abdin et al. 2024, arXiv:2404.14219, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseBlocks {
    /// Tokens of a block.
    pub block: usize,
    /// Blocks nearby.
    pub local: usize,
    /// One block in so many is seen from afar.
    pub stride: usize,
    /// Blocks by which a head's pattern lies beside that of the one before it.
    pub shift: usize,
}

impl SparseBlocks {
    /// Whether a query sees the block of an earlier key.
    fn sees(self, head: usize, query: usize, key: usize) -> bool {
        let (query, key) = (query / self.block, key / self.block);
        query - key < self.local || (key + head * self.shift + 1).is_multiple_of(self.stride)
    }
}

impl<'a> Operands<'a> {
    /// The queries, without keys and values.
    fn queries(&self) -> Queries<'a> {
        let Self { heads, precision, query, mask, .. } = *self;
        Queries { heads, precision, query, mask, blocks: None, scale: self.scale() }
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.heads.query / self.heads.kv
    }

    /// What scores are multiplied with, in units of log 2: `2^(score · scale) = e^(score / sqrt(dim))`.
    fn scale_log2(&self) -> f32 {
        std::f32::consts::LOG2_E * self.scale()
    }

    fn scale(&self) -> f32 {
        (self.heads.dim as f32).sqrt().recip()
    }
}

/// Rows of a block of queries: whole tiles, about 64.
fn block_queries(geometry: Geometry) -> usize {
    (64 / geometry.rows).max(1) * geometry.rows
}

#[cfg(test)]
mod tests;
