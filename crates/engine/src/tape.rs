//! A forward pass that remembers what the way back needs.
//!
//! A model calls one method per fused operator; each returns the [`Var`] of its result. While recording, the
//! tape keeps results and a list of [`Node`]s, and [`Tape::backward`] goes through that list in reverse,
//! giving every buffer back to the arena as soon as nothing needs it any more. Without recording, the same
//! calls compute the same bits, and [`Tape::keep_only`] frees what lies behind.
//!
//! Activations that enter or leave a product are of the tape's type (f32 or bf16); the residual stream, the
//! norms' statistics and all parameters are f32.

use std::sync::Arc;

use crate::batch::Batch;
use crate::matmul::{Output, PackedMatrix, Precision, Source, multiply};
use crate::ops::attention::{self, Mask, Operands, Strided};
use crate::ops::cross_entropy::{self, Loss};
use crate::ops::qk_norm_rope::{self, Heads, RopeTable};
use crate::ops::{embedding, rms_norm, swiglu};
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::{Arena, Cpu, Dtype, Tensor};

/// A result on the tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var(usize);

/// The attention of one layer.
#[derive(Debug, Clone)]
pub struct AttentionLayer {
    /// How queries, keys and values share the columns.
    pub heads: Heads,
    /// Norm weight of the query heads, `[1, dim]`.
    pub q_norm: ParameterId,
    /// Norm weight of the key heads, `[1, dim]`.
    pub k_norm: ParameterId,
    /// Added to the mean square.
    pub eps: f32,
    /// Rotations by position.
    pub rope: Arc<RopeTable>,
}

/// The loss that [`Tape::cross_entropy`] differentiates: `grad_scale · Σ (−log p + z · log²Z)`.
#[derive(Debug)]
pub struct LossGradient<'g> {
    /// Where gradients of the head go.
    pub gradients: &'g mut Gradients,
    /// The weight of the z-loss.
    pub z: f32,
    /// What all gradients are multiplied with: one over the number of targets, for a mean.
    pub grad_scale: f32,
}

/// Operators that are run again on the way back; see [`Tape::segment`].
type Segment<'a> = Box<dyn Fn(&mut Tape<'a>, Var) -> Var + 'a>;

/// One operator that was called, with what its way back reads.
enum Node<'a> {
    Embedding { table: ParameterId, y: Var },
    RmsNorm { x: Var, weight: ParameterId, r: Tensor, y: Var },
    Linear { x: Var, weight: ParameterId, y: Var },
    LinearAdd { x: Var, weight: ParameterId, residual: Var, y: Var },
    Attention { qkv: Var, layer: AttentionLayer, qk: Tensor, r: Tensor, log_sums: Tensor, y: Var },
    SwiGlu { x: Var, y: Var },
    Segment { x: Var, run: Segment<'a>, y: Var },
}

/// One forward pass over one batch, and the way back.
pub struct Tape<'a> {
    cpu: &'a Cpu,
    arena: &'a mut Arena,
    parameters: &'a Parameters,
    batch: &'a Batch,
    dtype: Dtype,
    recording: bool,
    /// Whether segments are run again on the way back.
    recompute: bool,
    /// Whether a segment is run that will be run again.
    in_segment: bool,
    packed: Option<&'a PackedParameters>,
    values: Vec<Option<Tensor>>,
    gradients: Vec<Option<Tensor>>,
    nodes: Vec<Node<'a>>,
}

impl std::fmt::Debug for Tape<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tape")
            .field("dtype", &self.dtype)
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

/// Calls a function generic over the element type with slices of that type.
macro_rules! by_dtype {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::Dtype::F32 => {
                type $E = f32;
                $body
            }
            $crate::Dtype::Bf16 => {
                type $E = half::bf16;
                $body
            }
        }
    };
}
pub(crate) use by_dtype;

impl<'a> Tape<'a> {
    /// A tape that records, for training.
    pub fn recording(
        cpu: &'a Cpu,
        arena: &'a mut Arena,
        parameters: &'a Parameters,
        batch: &'a Batch,
        dtype: Dtype,
    ) -> Self {
        let mut tape = Self::forgetting(cpu, arena, parameters, batch, dtype);
        tape.recording = true;
        tape
    }

    /// A tape that only computes, for evaluation.
    pub fn forgetting(
        cpu: &'a Cpu,
        arena: &'a mut Arena,
        parameters: &'a Parameters,
        batch: &'a Batch,
        dtype: Dtype,
    ) -> Self {
        let (values, gradients, nodes) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            cpu,
            arena,
            parameters,
            batch,
            dtype,
            recording: false,
            recompute: false,
            in_segment: false,
            packed: None,
            values,
            gradients,
            nodes,
        }
    }

    /// Uses matrices that were packed before, for several batches of one step.
    #[must_use]
    pub fn with_packed(mut self, packed: &'a PackedParameters) -> Self {
        self.packed = Some(packed);
        self
    }

    /// Keeps nothing of a segment but what enters it, and runs it again on the way back: the same bits for less
    /// memory, at the cost of a second way forward.
    #[must_use]
    pub fn recomputing(mut self, recompute: bool) -> Self {
        self.recompute = recompute;
        self
    }

    /// A part of the model, a layer for instance, from one result to another. It may use parameters, but no other
    /// results.
    pub fn segment(&mut self, x: Var, run: impl Fn(&mut Tape<'a>, Var) -> Var + 'a) -> Var {
        if !(self.recording && self.recompute) {
            return run(self, x);
        }
        let first = self.values.len();
        self.in_segment = true;
        let y = run(self, x);
        self.in_segment = false;
        for i in (first..self.values.len()).filter(|i| *i != y.0) {
            self.values[i] = None;
        }
        self.nodes.push(Node::Segment { x, run: Box::new(run), y });
        y
    }

    /// The value of a result that is still kept.
    #[must_use]
    pub fn value(&self, var: Var) -> &Tensor {
        self.values[var.0].as_ref().expect("a value that is still kept")
    }

    /// Rows of a parameter by the tokens of the batch: `[tokens, features]`, f32.
    ///
    /// # Panics
    /// If a token is not in the table.
    pub fn embedding(&mut self, table: ParameterId) -> Var {
        let table_values = self.parameters.get(table);
        let features = table_values.cols();
        let mut y = self.arena.tensor(self.batch.tokens.len(), features, Dtype::F32);
        embedding::forward(self.cpu, table_values.f32(), features, &self.batch.tokens, y.f32_mut());
        let y = self.push(y);
        self.record(|| Node::Embedding { table, y });
        y
    }

    /// Normalises f32 rows; the result is of the tape's type.
    pub fn rms_norm(&mut self, x: Var, weight: ParameterId, eps: f32) -> Var {
        let (rows, cols) = self.shape(x);
        let mut y = self.arena.tensor(rows, cols, self.dtype);
        let mut r = self.arena.tensor(1, rows, Dtype::F32);
        let weight_values = self.parameters.get(weight).f32();
        by_dtype!(self.dtype, E => {
            rms_norm::forward::<E>(self.cpu, self.value(x).f32(), weight_values, eps, y.as_mut_slice(), Some(r.f32_mut()));
        });
        let y = self.push(y);
        self.record(|| Node::RmsNorm { x, weight, r, y });
        y
    }

    /// `x · weightᵀ`, of the tape's type; the weight is `[features out, features in]`.
    pub fn linear(&mut self, x: Var, weight: ParameterId) -> Var {
        let features = self.parameters.get(weight).rows();
        let mut y = self.arena.tensor(self.shape(x).0, features, self.dtype);
        self.project(x, weight, Output::overwrite(&mut y));
        let y = self.push(y);
        self.record(|| Node::Linear { x, weight, y });
        y
    }

    /// `residual + x · weightᵀ`, f32.
    pub fn linear_add(&mut self, x: Var, weight: ParameterId, residual: Var) -> Var {
        let features = self.parameters.get(weight).rows();
        let mut y = self.arena.tensor(self.shape(x).0, features, Dtype::F32);
        // Lent out for the product, which needs the arena as well.
        let addend = self.values[residual.0].take().expect("a value that is still kept");
        self.project(x, weight, Output::AddTo(addend.f32(), y.f32_mut()));
        self.values[residual.0] = Some(addend);
        let y = self.push(y);
        self.record(|| Node::LinearAdd { x, weight, residual, y });
        y
    }

    /// Normalises and rotates queries and keys, then lets every token look at the earlier ones of its
    /// document: `[tokens, query · dim]`.
    pub fn attention(&mut self, qkv: Var, layer: &AttentionLayer) -> Var {
        let heads = layer.heads;
        let tokens = self.shape(qkv).0;
        let mut qk = self.arena.tensor(tokens, heads.qk_cols(), self.dtype);
        let mut r = self.arena.tensor(tokens, heads.query + heads.kv, Dtype::F32);
        let mut y = self.arena.tensor(tokens, heads.query * heads.dim, self.dtype);
        let mut log_sums = self.arena.tensor(tokens, heads.query, Dtype::F32);
        // Lent out, since the arena is needed at the same time.
        let qkv_values = self.values[qkv.0].take().expect("a value that is still kept");
        by_dtype!(self.dtype, E => {
            let norm = norm_of(self.parameters, layer);
            let positions = &self.batch.positions;
            qk_norm_rope::forward::<E>(self.cpu, &norm, qkv_values.as_slice(), positions, qk.as_mut_slice(), r.f32_mut());
            let operands = operands(self.batch, self.dtype, heads, &qk, &qkv_values);
            attention::forward::<E>(self.cpu, self.arena, &operands, y.as_mut_slice(), log_sums.f32_mut());
        });
        self.values[qkv.0] = Some(qkv_values);
        let y = self.push(y);
        self.record(|| Node::Attention { qkv, layer: layer.clone(), qk, r, log_sums, y });
        y
    }

    /// `silu(a) · b` of rows `[a | b]`.
    pub fn swiglu(&mut self, x: Var) -> Var {
        let (rows, cols) = self.shape(x);
        let mut y = self.arena.tensor(rows, cols / 2, self.dtype);
        by_dtype!(self.dtype, E => {
            swiglu::forward::<E>(self.cpu, self.value(x).as_slice(), cols / 2, y.as_mut_slice());
        });
        let y = self.push(y);
        self.record(|| Node::SwiGlu { x, y });
        y
    }

    /// The loss of the batch's targets under `head[vocab, features]`, never all logits at once. `per_token`
    /// receives −log p of every target, 0 where there is none. With `gradient`, the way back begins here:
    /// call [`Tape::backward`] next.
    pub fn cross_entropy(
        &mut self,
        hidden: Var,
        head: ParameterId,
        per_token: &mut [f32],
        gradient: Option<LossGradient<'_>>,
    ) -> Loss {
        let hidden_values = self.values[hidden.0].take().expect("a value that is still kept");
        let head_values = self.parameters.get(head);
        let mut dhidden = gradient
            .as_ref()
            .map(|_| self.arena.tensor(hidden_values.rows(), hidden_values.cols(), self.dtype));
        let backward =
            gradient.zip(dhidden.as_mut()).map(|(LossGradient { gradients, z, grad_scale }, dhidden)| {
                let (dhead, fresh) = gradients.accumulate(self.arena, head);
                cross_entropy::Backward { z, grad_scale, dhidden, dhead: dhead.f32_mut(), fresh }
            });
        let loss = cross_entropy::cross_entropy(
            self.cpu,
            self.arena,
            &hidden_values,
            &cross_entropy::Head {
                values: head_values.f32(),
                vocab: head_values.rows(),
                packed: self.packed.and_then(|packed| packed.forward(head)),
                packed_back: self.packed.and_then(|packed| packed.back(head)),
            },
            &self.batch.targets,
            per_token,
            backward,
        );
        self.values[hidden.0] = Some(hidden_values);
        self.gradients[hidden.0] = dhidden;
        loss
    }

    /// The logits of one row of `hidden`: `vocab` values.
    pub fn logits(&mut self, hidden: Var, row: usize, head: ParameterId, out: &mut [f32]) {
        let hidden_values = self.values[hidden.0].take().expect("a value that is still kept");
        let range = row * hidden_values.cols()..(row + 1) * hidden_values.cols();
        by_dtype!(self.dtype, E => {
            let values: &[E] = &hidden_values.as_slice()[range];
            self.multiply_by(&Source::along_cols(values, values.len()), 1, head, Output::F32(out));
        });
        self.values[hidden.0] = Some(hidden_values);
    }

    /// Frees all results but `var`; does nothing while recording.
    pub fn keep_only(&mut self, var: Var) {
        if self.recording {
            return;
        }
        for (i, value) in self.values.iter_mut().enumerate() {
            if i != var.0 {
                *value = None;
            }
        }
    }

    /// The way back from [`Tape::cross_entropy`]: adds to the gradients of all parameters that took part.
    pub fn backward(mut self, gradients: &mut Gradients) {
        while let Some(node) = self.nodes.pop() {
            let y = match node {
                Node::Segment { x, run, y } => {
                    let again = run(&mut self, x);
                    self.gradients[again.0] = self.gradients[y.0].take();
                    y
                }
                Node::Embedding { table, y } => {
                    let dy = self.take_gradient(y);
                    let (dtable, fresh) = gradients.accumulate(self.arena, table);
                    if fresh {
                        dtable.f32_mut().fill(0.0);
                    }
                    embedding::backward(self.cpu, dy.f32(), dy.cols(), &self.batch.tokens, dtable.f32_mut());
                    y
                }
                Node::RmsNorm { x, weight, r, y } => {
                    let dy = self.take_gradient(y);
                    let x_values = self.values[x.0].take().expect("a value that is still kept");
                    let mut dx = self.gradients[x.0].take().unwrap_or_else(|| {
                        let mut dx = self.arena.tensor(x_values.rows(), x_values.cols(), Dtype::F32);
                        dx.f32_mut().fill(0.0);
                        dx
                    });
                    let weight_values = self.parameters.get(weight).f32();
                    let (dweight, fresh) = gradients.accumulate(self.arena, weight);
                    by_dtype!(self.dtype, E => {
                        let (dy, dx) = (dy.as_slice::<E>(), dx.f32_mut());
                        let (x, r, dweight) = (x_values.f32(), r.f32(), dweight.f32_mut());
                        rms_norm::backward(self.cpu, self.arena, dy, x, weight_values, r, dx, dweight, fresh);
                    });
                    self.values[x.0] = Some(x_values);
                    self.gradients[x.0] = Some(dx);
                    y
                }
                Node::Linear { x, weight, y } => {
                    let dy = self.take_gradient(y);
                    self.project_back(&dy, x, weight, gradients);
                    y
                }
                Node::LinearAdd { x, weight, residual, y } => {
                    let dy = self.take_gradient(y);
                    self.project_back(&dy, x, weight, gradients);
                    self.add_gradient(residual, dy);
                    y
                }
                Node::Attention { qkv, layer, qk, r, log_sums, y } => {
                    let dy = self.take_gradient(y);
                    let heads = layer.heads;
                    let qkv_values = self.values[qkv.0].take().expect("a value that is still kept");
                    let mut dqk = self.arena.tensor(qk.rows(), qk.cols(), self.dtype);
                    let mut dqkv = self.arena.tensor(qkv_values.rows(), qkv_values.cols(), self.dtype);
                    by_dtype!(self.dtype, E => {
                        let operands = operands(self.batch, self.dtype, heads, &qk, &qkv_values);
                        let out = self.value(y).as_slice::<E>();
                        let to = attention::Gradients { dqk: dqk.as_mut_slice(), dqkv: dqkv.as_mut_slice() };
                        attention::backward(self.cpu, &operands, out, dy.as_slice(), log_sums.f32(), to);
                        let norm = norm_of(self.parameters, &layer);
                        let norms = [layer.q_norm, layer.k_norm];
                        let ([dq_norm, dk_norm], fresh) = gradients.accumulate_two(self.arena, norms);
                        qk_norm_rope::backward::<E>(
                            self.cpu,
                            self.arena,
                            &norm,
                            dqk.as_slice(),
                            qkv_values.as_slice(),
                            &self.batch.positions,
                            r.f32(),
                            dqkv.as_mut_slice(),
                            [dq_norm.f32_mut(), dk_norm.f32_mut()],
                            fresh,
                        );
                    });
                    self.values[qkv.0] = Some(qkv_values);
                    self.add_gradient(qkv, dqkv);
                    y
                }
                Node::SwiGlu { x, y } => {
                    let dy = self.take_gradient(y);
                    let (rows, cols) = self.shape(x);
                    let mut dx = self.arena.tensor(rows, cols, self.dtype);
                    by_dtype!(self.dtype, E => {
                        let x = self.value(x).as_slice::<E>();
                        swiglu::backward(self.cpu, dy.as_slice(), x, cols / 2, dx.as_mut_slice());
                    });
                    self.add_gradient(x, dx);
                    y
                }
            };
            // All who read this result have been gone through.
            self.values[y.0] = None;
        }
    }

    fn push(&mut self, value: Tensor) -> Var {
        self.values.push(Some(value));
        self.gradients.push(None);
        Var(self.values.len() - 1)
    }

    /// Remembers an operator, unless the tape forgets or will run it again.
    fn record(&mut self, node: impl FnOnce() -> Node<'a>) {
        if self.recording && !self.in_segment {
            self.nodes.push(node());
        }
    }

    fn shape(&self, var: Var) -> (usize, usize) {
        let value = self.value(var);
        (value.rows(), value.cols())
    }

    fn take_gradient(&mut self, var: Var) -> Tensor {
        self.gradients[var.0].take().expect("a result that the loss depends on")
    }

    /// Adds `gradient` to what was there.
    fn add_gradient(&mut self, var: Var, gradient: Tensor) {
        match &mut self.gradients[var.0] {
            empty @ None => *empty = Some(gradient),
            Some(sum) => {
                by_dtype!(sum.dtype(), E => {
                    crate::elementwise::add_assign::<E, E>(self.cpu.isa, gradient.as_slice(), sum.as_mut_slice());
                });
            }
        }
    }

    /// `x · weightᵀ` into `output`.
    fn project(&mut self, x: Var, weight: ParameterId, output: Output<'_>) {
        let x_values = self.values[x.0].take().expect("a value that is still kept");
        assert_eq!(x_values.cols(), self.parameters.get(weight).cols(), "a weight for other features");
        self.multiply_by(&along_cols(&x_values), x_values.rows(), weight, output);
        self.values[x.0] = Some(x_values);
    }

    /// `x · weightᵀ` for `rows` rows of `x`, with the weight packed before or for this once.
    fn multiply_by(&mut self, x: &Source<'_>, rows: usize, weight: ParameterId, output: Output<'_>) {
        if let Some(packed) = self.packed.and_then(|packed| packed.forward(weight)) {
            multiply(self.cpu, "linear: forward", x, rows, packed, output);
            return;
        }
        let weight = self.parameters.get(weight);
        let precision = Precision::from(self.dtype);
        let packed = PackedMatrix::new(
            self.cpu,
            self.arena,
            &along_cols(weight),
            weight.rows(),
            weight.cols(),
            precision,
        );
        multiply(self.cpu, "linear: forward", x, rows, &packed, output);
    }

    /// The way back of [`Tape::project`]: `dx = dy · weight`, `dweight += dyᵀ · x`.
    fn project_back(&mut self, dy: &Tensor, x: Var, weight: ParameterId, gradients: &mut Gradients) {
        let precision = Precision::from(self.dtype);
        let weight_values = self.parameters.get(weight);
        let (out_features, in_features) = (weight_values.rows(), weight_values.cols());
        let mut dx = self.arena.tensor(dy.rows(), in_features, self.dtype);
        let (name, output) = ("linear: input gradient", Output::overwrite(&mut dx));
        if let Some(packed) = self.packed.and_then(|packed| packed.back(weight)) {
            multiply(self.cpu, name, &along_cols(dy), dy.rows(), packed, output);
        } else {
            let source = along_rows(weight_values);
            let packed =
                PackedMatrix::new(self.cpu, self.arena, &source, in_features, out_features, precision);
            multiply(self.cpu, name, &along_cols(dy), dy.rows(), &packed, output);
        }

        let x_values = self.values[x.0].as_ref().expect("a value that is still kept");
        let packed = PackedMatrix::new(
            self.cpu,
            self.arena,
            &along_rows(x_values),
            in_features,
            x_values.rows(),
            precision,
        );
        let (dweight, fresh) = gradients.accumulate(self.arena, weight);
        let output =
            if fresh { Output::F32(dweight.f32_mut()) } else { Output::Accumulate(dweight.f32_mut()) };
        multiply(self.cpu, "linear: weight gradient", &along_rows(dy), out_features, &packed, output);
        self.add_gradient(x, dx);
    }
}

fn operands<'t>(
    batch: &'t Batch,
    dtype: Dtype,
    heads: Heads,
    qk: &'t Tensor,
    qkv: &'t Tensor,
) -> Operands<'t> {
    Operands {
        heads,
        precision: dtype.into(),
        query: columns(qk, 0),
        key: columns(qk, heads.query * heads.dim),
        value: columns(qkv, heads.qk_cols()),
        mask: Mask { rows: batch.rows, queries: batch.seq, keys: batch.seq, starts: &batch.starts },
    }
}

/// Every matrix of a model, packed once for many products with it.
///
/// The same bits come out as with a tape that packs for itself, without the time that packing takes.
#[derive(Debug)]
pub struct PackedParameters {
    dtype: Dtype,
    arena: Arena,
    matrices: Vec<Option<PackedPair>>,
}

/// A matrix for the way forward, and for the way back.
#[derive(Debug)]
struct PackedPair {
    forward: PackedMatrix,
    back: PackedMatrix,
}

impl PackedParameters {
    /// Nothing yet, for training of type `dtype`: to be filled by [`PackedParameters::update`] before the first of
    /// several batches.
    #[must_use]
    pub fn for_training(dtype: Dtype) -> Self {
        Self { dtype, arena: Arena::default(), matrices: Vec::new() }
    }

    /// Packs all matrices anew, into the same memory; vectors (one row) stay as they are.
    pub fn update(&mut self, cpu: &Cpu, parameters: &Parameters) {
        self.matrices.clear();
        let precision = self.dtype.into();
        for matrix in parameters.iter() {
            let (rows, cols) = (matrix.rows(), matrix.cols());
            let pair = (rows > 1).then(|| PackedPair {
                forward: PackedMatrix::new(cpu, &mut self.arena, &along_cols(matrix), rows, cols, precision),
                back: PackedMatrix::new(cpu, &mut self.arena, &along_rows(matrix), cols, rows, precision),
            });
            self.matrices.push(pair);
        }
    }

    fn forward(&self, id: ParameterId) -> Option<&PackedMatrix> {
        self.matrices[id.index()].as_ref().map(|pair| &pair.forward)
    }

    fn back(&self, id: ParameterId) -> Option<&PackedMatrix> {
        self.matrices[id.index()].as_ref().map(|pair| &pair.back)
    }
}

fn norm_of<'p>(parameters: &'p Parameters, layer: &'p AttentionLayer) -> qk_norm_rope::Layer<'p> {
    qk_norm_rope::Layer {
        heads: layer.heads,
        q_weight: parameters.get(layer.q_norm).f32(),
        k_weight: parameters.get(layer.k_norm).f32(),
        eps: layer.eps,
        rope: &layer.rope,
    }
}

fn columns(tensor: &Tensor, offset: usize) -> Strided<'_> {
    Strided { values: tensor.into(), stride: tensor.cols(), offset }
}

fn along_cols(tensor: &Tensor) -> Source<'_> {
    Source::along_cols(tensor, tensor.cols())
}

fn along_rows(tensor: &Tensor) -> Source<'_> {
    Source::along_rows(tensor, tensor.cols())
}

#[cfg(test)]
mod tests;
