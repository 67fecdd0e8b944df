//! A forward pass of frozen parameters: what a tape computes, with quantised matrices, and with a cache.
//!
//! Results are f32 throughout; matrices and the cache may hold less. A row's result depends neither on the other rows
//! nor on whether earlier ones were computed with it or are in the cache.

use std::sync::Arc;

use crate::elementwise::add_assign;
use crate::frozen::{Frozen, FrozenParameters};
use crate::interleaved;
use crate::matmul::{Output, Precision, Source, Values, multiply};
use crate::ops::attention::{AttentionCache, Mask, Queries, SparseBlocks, Strided, attend};
use crate::ops::qk_norm_rope::{Heads, RopeTable};
use crate::ops::rope::{HeadNorms, rotate};
use crate::ops::{geglu, layer_norm, rms_norm, swiglu};
use crate::parameters::ParameterId;
use crate::threads::Parts;
use crate::{Arena, Cpu, Dtype, Tensor};

/// A matrix and perhaps a bias.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// `[features out, features in]`.
    pub weight: ParameterId,
    /// `[features out]`.
    pub bias: Option<ParameterId>,
}

/// A normalisation of rows.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// `[features]`.
    pub weight: ParameterId,
    /// `[features]`, for layer normalisation; root-mean-square normalisation has none.
    pub bias: Option<ParameterId>,
    /// Added to the mean square, or the variance.
    pub eps: f32,
}

/// The attention of one layer.
#[derive(Debug, Clone)]
pub struct AttentionPlan {
    /// How queries, keys and values share the columns.
    pub heads: Heads,
    /// Norms of query and key heads, and what is added to the mean square.
    pub norms: Option<([ParameterId; 2], f32)>,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many of the nearest tokens are seen; all, if there is no window.
    pub window: Option<usize>,
    /// A sparse pattern.
    pub blocks: Option<SparseBlocks>,
}

/// What lies between the two matrices of the feed-forward half, on rows `[a | b]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gate {
    /// `silu(a) · b`.
    SwiGlu,
    /// `a · σ(1.702 a) · (b + 1)`, both cut off at the limit.
    GeGlu(f32),
}

/// New tokens on their way through a model.
#[derive(Debug)]
pub struct Pass<'a> {
    cpu: &'a Cpu,
    arena: &'a mut Arena,
    parameters: &'a FrozenParameters,
    tokens: &'a [u32],
    past: usize,
}

impl<'a> Pass<'a> {
    /// A pass of `tokens` that follow `past` earlier ones.
    pub fn new(
        cpu: &'a Cpu,
        arena: &'a mut Arena,
        parameters: &'a FrozenParameters,
        past: usize,
        tokens: &'a [u32],
    ) -> Self {
        Self { cpu, arena, parameters, tokens, past }
    }

    fn tensor(&mut self, rows: usize, cols: usize) -> Tensor {
        self.arena.tensor(rows, cols, Dtype::F32)
    }

    /// Rows of a table by the tokens, times `scale`.
    ///
    /// # Panics
    /// If a token is not in the table.
    pub fn embedding(&mut self, table: ParameterId, scale: f32) -> Tensor {
        let Frozen::Table(table) = self.parameters.get(table) else { panic!("an embedding is a table") };
        let row_bytes = table.format.row_bytes(table.cols).expect("checked when it was added");
        let mut y = self.tensor(self.tokens.len(), table.cols);
        for (y, &token) in y.f32_mut().chunks_exact_mut(table.cols).zip(self.tokens) {
            assert!((token as usize) < table.rows, "token {token} is not in a table of {}", table.rows);
            table.format.read(&table.bytes[token as usize * row_bytes..][..row_bytes], y);
            if scale != 1.0 {
                crate::elementwise::scale(self.cpu.isa, scale, y);
            }
        }
        y
    }

    /// Normalised rows.
    pub fn norm(&mut self, x: &Tensor, norm: Norm) -> Tensor {
        let mut y = self.tensor(x.rows(), x.cols());
        let weight = self.parameters.vector(norm.weight);
        if let Some(bias) = norm.bias {
            let bias = self.parameters.vector(bias);
            layer_norm::forward(self.cpu, x.f32(), weight, bias, norm.eps, y.f32_mut());
        } else {
            rms_norm::forward(self.cpu, x.f32(), weight, norm.eps, y.f32_mut(), None);
        }
        y
    }

    /// `x · weightᵀ + bias`.
    pub fn linear(&mut self, x: &Tensor, linear: Linear) -> Tensor {
        let mut y = self.tensor(x.rows(), self.features(linear.weight));
        self.multiply(x.f32(), x.cols(), linear.weight, Output::F32(y.f32_mut()));
        self.add_bias(linear.bias, &mut y);
        y
    }

    /// `residual += x · weightᵀ + bias`.
    pub fn add_linear(&mut self, x: &Tensor, linear: Linear, residual: &mut Tensor) {
        self.multiply(x.f32(), x.cols(), linear.weight, Output::Accumulate(residual.f32_mut()));
        self.add_bias(linear.bias, residual);
    }

    /// Turns queries and keys of rows `[queries | keys | values]` (after their norms, if there are any), adds keys and
    /// values to the cache and lets every query look at what it may see.
    ///
    /// # Panics
    /// If the cache is full, or holds other tokens than those before.
    pub fn attention(
        &mut self,
        mut qkv: Tensor,
        plan: &AttentionPlan,
        rope: &Arc<RopeTable>,
        cache: &mut AttentionCache,
    ) -> Tensor {
        assert_eq!(cache.len(), self.past, "the cache holds the tokens before");
        let heads = plan.heads;
        let norms = plan.norms.map(|([query, key], eps)| HeadNorms {
            query: self.parameters.vector(query),
            key: self.parameters.vector(key),
            eps,
        });
        rotate(self.cpu, heads, norms, rope, self.past, qkv.f32_mut());
        cache.append(self.cpu, qkv.f32());
        let n = self.tokens.len();
        let first_seen =
            |i: usize| plan.window.map_or(0, |window| (self.past + i + 1).saturating_sub(window));
        let starts: Vec<u32> = (0..n).map(|i| first_seen(i) as u32).collect();
        let queries = Queries {
            heads,
            precision: Precision::from(cache.dtype()),
            query: Strided { values: Values::F32(qkv.f32()), stride: heads.qkv_cols(), offset: 0 },
            mask: Mask { rows: 1, queries: n, keys: self.past + n, starts: &starts },
            blocks: plan.blocks,
            scale: plan.scale,
        };
        let mut y = self.arena.tensor(n, heads.query * heads.dim, Dtype::F32);
        attend::<f32>(self.cpu, &queries, cache.packed(), y.f32_mut(), None);
        y
    }

    /// A gate on rows `[a | b]`.
    pub fn gate(&mut self, x: &Tensor, gate: Gate) -> Tensor {
        let features = x.cols() / 2;
        let mut y = self.tensor(x.rows(), features);
        match gate {
            Gate::SwiGlu => swiglu::forward(self.cpu, x.f32(), features, y.f32_mut()),
            Gate::GeGlu(limit) => geglu::forward(self.cpu, x.f32(), features, limit, y.f32_mut()),
        }
        y
    }

    /// The logits of `rows` rows of `x` from `first_row` on, times `scale`: `[rows, features of the head]`.
    pub fn logits(
        &mut self,
        x: &Tensor,
        first_row: usize,
        rows: usize,
        head: ParameterId,
        scale: f32,
    ) -> Tensor {
        let x_rows = &x.f32()[first_row * x.cols()..(first_row + rows) * x.cols()];
        let mut y = self.tensor(rows, self.features(head));
        self.multiply(x_rows, x.cols(), head, Output::F32(y.f32_mut()));
        if scale != 1.0 {
            crate::elementwise::scale(self.cpu.isa, scale, y.f32_mut());
        }
        y
    }

    fn features(&self, weight: ParameterId) -> usize {
        match self.parameters.get(weight) {
            Frozen::Dense(_, rows) => *rows,
            Frozen::Quantised(matrices) => matrices.iter().map(interleaved::QuantMatrix::rows).sum(),
            other => panic!("a matrix, not {other:?}"),
        }
    }

    fn multiply(&mut self, x: &[f32], cols: usize, weight: ParameterId, output: Output<'_>) {
        match self.parameters.get(weight) {
            Frozen::Dense(packed, _) => {
                let source = Source::along_cols(x, cols);
                multiply(self.cpu, "linear: forward", &source, x.len() / cols, packed, output);
            }
            Frozen::Quantised(matrices) => {
                interleaved::multiply(self.cpu, "linear: forward", x, cols, matrices, output);
            }
            other => panic!("a matrix, not {other:?}"),
        }
    }

    fn add_bias(&mut self, bias: Option<ParameterId>, y: &mut Tensor) {
        let Some(bias) = bias else { return };
        let bias = self.parameters.vector(bias);
        let rows = y.rows();
        let y = Parts::new(y.f32_mut());
        self.cpu.threads.run_ranges(rows, crate::ops::CHUNK_ROWS, |range| {
            for row in range {
                // SAFETY: every row is changed by one task.
                let y = unsafe { y.part(row * bias.len()..(row + 1) * bias.len()) };
                add_assign(self.cpu.isa, bias, y);
            }
        });
    }
}
