//! The loss of a language model, without ever holding all its logits.
//!
//! For a chunk of tokens at a time: logits = hidden · headᵀ, then per token
//! `−log softmax(logits)[target] + z · (log Σ exp(logits))²`, and on the way back the gradient of that chunk
//! at once, so that the largest thing in memory is `[chunk, vocab]`. Tokens without a target take no part
//! in the loss, the z-loss or the gradient.

use half::bf16;

use crate::arena::Arena;
use crate::matmul::{Output, PackedMatrix, Precision, Source, Values, multiply};
use crate::simd::{Element, exp2, for_lanes, kernel, load, store};
use crate::threads::Parts;
use crate::{Cpu, Dtype, Tensor};

/// The target of a token that has none.
pub const NO_TARGET: u32 = u32::MAX;

/// Tokens whose logits are held at a time.
const CHUNK: usize = 512;

/// The losses of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Sum of −log p(target) over the tokens that have one, in nats.
    pub cross_entropy: f64,
    /// Sum of squared log-partition values over those tokens; the loss adds this times the z factor.
    pub squared_log_z: f64,
    /// Tokens that have a target.
    pub targets: usize,
}

/// What the gradient is taken of: `grad_scale · (cross_entropy + z · squared_log_z)`.
pub(crate) struct Backward<'a> {
    pub(crate) z: f32,
    pub(crate) grad_scale: f32,
    /// `[tokens, features]` of the type of `hidden`; overwritten.
    pub(crate) dhidden: &'a mut Tensor,
    /// `[vocab, features]`; added to, or overwritten where `fresh`.
    pub(crate) dhead: &'a mut [f32],
    pub(crate) fresh: bool,
}

/// The output matrix.
pub(crate) struct Head<'a> {
    /// `[vocab, features]`.
    pub(crate) values: &'a [f32],
    pub(crate) vocab: usize,
    /// The same packed for either way, where it was packed before.
    pub(crate) packed: Option<&'a PackedMatrix>,
    pub(crate) packed_back: Option<&'a PackedMatrix>,
}

/// The loss of `hidden[tokens, features]` under a head; writes −log p of every target
/// (0 where there is none) to `per_token`.
pub(crate) fn cross_entropy(
    cpu: &Cpu,
    arena: &mut Arena,
    hidden: &Tensor,
    head: &Head<'_>,
    targets: &[u32],
    per_token: &mut [f32],
    mut backward: Option<Backward<'_>>,
) -> Loss {
    let features = hidden.cols();
    let precision = Precision::from(hidden.dtype());
    let vocab = head.vocab;
    // Packed here, unless it was before.
    let own = head.packed.is_none().then(|| {
        let along_features = Source::along_cols(Values::F32(head.values), features);
        PackedMatrix::new(cpu, arena, &along_features, vocab, features, precision)
    });
    let own_back = (backward.is_some() && head.packed_back.is_none()).then(|| {
        let along_vocab = Source::along_rows(Values::F32(head.values), features);
        PackedMatrix::new(cpu, arena, &along_vocab, features, vocab, precision)
    });
    let packed = head.packed.or(own.as_ref()).expect("packed before or here");
    let packed_back = head.packed_back.or(own_back.as_ref());
    let chunk = CHUNK.min(hidden.rows().max(1));
    let mut logits = arena.tensor(chunk, vocab, Dtype::F32);
    let mut dlogits = backward.as_ref().map(|_| arena.tensor(chunk, vocab, hidden.dtype()));
    let mut squared_log_z = arena.tensor(1, chunk, Dtype::F32);
    let mut loss = Loss::default();
    for first in (0..hidden.rows()).step_by(chunk) {
        let rows = chunk.min(hidden.rows() - first);
        let range = first..first + rows;
        let x = rows_of(hidden, first, rows);
        let logits = &mut logits.f32_mut()[..rows * vocab];
        multiply(cpu, "head: forward", &Source::along_cols(x, features), rows, packed, Output::F32(logits));
        let squares = &mut squared_log_z.f32_mut()[..rows];
        let chunk_loss = &mut per_token[range.clone()];
        match (&mut backward, &mut dlogits, packed_back) {
            (Some(backward), Some(dlogits), Some(packed_back)) => {
                let scales = (backward.z, backward.grad_scale);
                match dlogits.dtype() {
                    Dtype::F32 => {
                        let d = &mut dlogits.as_mut_slice::<f32>()[..rows * vocab];
                        softmax_rows(
                            cpu,
                            logits,
                            vocab,
                            &targets[range],
                            chunk_loss,
                            squares,
                            Some((scales, d)),
                        );
                    }
                    Dtype::Bf16 => {
                        let d = &mut dlogits.as_mut_slice::<bf16>()[..rows * vocab];
                        softmax_rows(
                            cpu,
                            logits,
                            vocab,
                            &targets[range],
                            chunk_loss,
                            squares,
                            Some((scales, d)),
                        );
                    }
                }
                let d = rows_of(dlogits, 0, rows);
                let features_range = first * features..(first + rows) * features;
                let output = match backward.dhidden.dtype() {
                    Dtype::F32 => Output::F32(&mut backward.dhidden.as_mut_slice()[features_range]),
                    Dtype::Bf16 => Output::Bf16(&mut backward.dhidden.as_mut_slice()[features_range]),
                };
                multiply(
                    cpu,
                    "head: input gradient",
                    &Source::along_cols(d, vocab),
                    rows,
                    packed_back,
                    output,
                );
                let packed_x = PackedMatrix::new(
                    cpu,
                    arena,
                    &Source::along_rows(x, features),
                    features,
                    rows,
                    precision,
                );
                let output = if backward.fresh {
                    Output::F32(backward.dhead)
                } else {
                    Output::Accumulate(backward.dhead)
                };
                multiply(
                    cpu,
                    "head: weight gradient",
                    &Source::along_rows(d, vocab),
                    vocab,
                    &packed_x,
                    output,
                );
                backward.fresh = false;
            }
            _ => {
                let none: Option<((f32, f32), &mut [f32])> = None;
                softmax_rows(cpu, logits, vocab, &targets[range], chunk_loss, squares, none);
            }
        }
        loss.cross_entropy += chunk_loss.iter().map(|x| f64::from(*x)).sum::<f64>();
        loss.squared_log_z += squares.iter().map(|x| f64::from(*x)).sum::<f64>();
    }
    if let Some(backward) = backward.filter(|backward| backward.fresh) {
        // No token came by that could have overwritten it.
        backward.dhead.fill(0.0);
    }
    loss.targets = targets.iter().filter(|target| **target != NO_TARGET).count();
    loss
}

/// A chunk of rows, borrowed.
fn rows_of(tensor: &Tensor, first: usize, rows: usize) -> Values<'_> {
    let range = first * tensor.cols()..(first + rows) * tensor.cols();
    match tensor.dtype() {
        Dtype::F32 => Values::F32(&tensor.as_slice()[range]),
        Dtype::Bf16 => Values::Bf16(&tensor.as_slice()[range]),
    }
}

/// Loss, squared log-partition and, where asked for, the gradient of every row of logits.
fn softmax_rows<E: Element>(
    cpu: &Cpu,
    logits: &mut [f32],
    vocab: usize,
    targets: &[u32],
    losses: &mut [f32],
    squares: &mut [f32],
    gradient: Option<((f32, f32), &mut [E])>,
) {
    let bytes = logits.len() * (4 + gradient.as_ref().map_or(0, |_| size_of::<E>()));
    let _span = cpu.profile.span("softmax and loss", 0, bytes);
    let (logits, losses, squares) = (Parts::new(logits), Parts::new(losses), Parts::new(squares));
    let gradient = gradient.map(|(scales, d)| (scales, Parts::new(d)));
    cpu.threads.run_ranges(targets.len(), 8, |rows| {
        for row in rows {
            let range = row * vocab..(row + 1) * vocab;
            // SAFETY: every row is written by one task.
            let (logits, loss, square) = unsafe {
                (logits.part(range.clone()), losses.part(row..row + 1), squares.part(row..row + 1))
            };
            // SAFETY: as above.
            let d = gradient.as_ref().map(|(scales, d)| (*scales, unsafe { d.part(range) }));
            (loss[0], square[0]) = (0.0, 0.0);
            if targets[row] == NO_TARGET {
                if let Some((_, d)) = d {
                    d.fill(E::ZERO);
                }
                continue;
            }
            let target = targets[row] as usize;
            assert!(target < vocab, "target {target} is not in a vocabulary of {vocab}");
            let target_logit = logits[target];
            let log_z = log_partition(cpu.isa, logits);
            loss[0] = log_z - target_logit;
            square[0] = log_z * log_z;
            if let Some(((z, scale), d)) = d {
                // d/dlogit of the loss is p · (1 + 2 z log_z) − [target].
                let factor = scale * (1.0 + 2.0 * z * log_z);
                gradient_row(cpu.isa, logits, log_z, factor, d);
                let p = (target_logit - log_z).exp();
                d[target] = E::from_f32(p * factor - scale);
            }
        }
    });
}

kernel! {
    fn log_partition(s, logits: &[f32]) -> f32 {
        let mut largest = s.splat(f32::NEG_INFINITY);
        for_lanes!(s, logits.len(), |i, n| {
            let x = if n == crate::simd::lanes_of(s) {
                s.load(&logits[i..i + n])
            } else {
                // Lanes beyond the end must not count as logits of zero.
                let mut lanes = [f32::NEG_INFINITY; 16];
                lanes[..n].copy_from_slice(&logits[i..i + n]);
                s.load(&lanes)
            };
            largest = s.max(largest, x);
        });
        let largest = s.largest(largest);
        let (log2e, shift) = (s.splat(std::f32::consts::LOG2_E), s.splat(-largest * std::f32::consts::LOG2_E));
        let mut sum = s.splat(0.0);
        let mut rest = 0.0;
        for_lanes!(s, logits.len(), |i, n| {
            let e = exp2(s, s.fma(load(s, logits, i, n), log2e, shift));
            if n == crate::simd::lanes_of(s) {
                sum = s.add(sum, e);
            } else {
                let mut lanes = [0.0_f32; 16];
                s.store(e, &mut lanes);
                rest = lanes[..n].iter().sum();
            }
        });
        largest + (s.sum(sum) + rest).ln()
    }
}

kernel! {
    fn gradient_row[E: Element](s, logits: &[f32], log_z: f32, factor: f32, d: &mut [E]) {
        let (log2e, shift) = (s.splat(std::f32::consts::LOG2_E), s.splat(-log_z * std::f32::consts::LOG2_E));
        let factor = s.splat(factor);
        for_lanes!(s, logits.len(), |i, n| {
            let p = exp2(s, s.fma(load(s, logits, i, n), log2e, shift));
            store(s, s.mul(p, factor), d, i, n);
        });
    }
}
