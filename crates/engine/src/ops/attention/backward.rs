//! The way back: probabilities are computed again, block by block, from the kept log-sums.
//!
//! With `P` the probabilities, `dP = dO · Vᵀ`, `delta_i = dO_i · O_i` and `dS = P ∘ (dP − delta)`:
//! `dV = Pᵀ · dO`, `dK = dSᵀ · Q · scale`, `dQ = dS · K · scale`. Scores are computed transposed (rows keys,
//! columns queries), so that `P` and `dS` are the left operands of `dV` and `dK` as they are, and log-sums and
//! deltas are vectors along the row. One task has a key head and all queries that read it, and adds in a
//! fixed order.

use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::{Operands, Strided};
use crate::Cpu;
use crate::matmul::{
    Block, Geometry, Layout, Left, Precision, Source, Target, Values, left_tiling, multiply_block, pack,
    right_tiling,
};
use crate::simd::{Element, exp2, for_lanes, kernel, load, store};
use crate::tensor::AlignedVec;
use crate::threads::Parts;

/// Where the gradients go: the columns of query and key heads of `dqk`, of value heads of `dqkv`.
pub(crate) struct Gradients<'a, E> {
    pub(crate) dqk: &'a mut [E],
    pub(crate) dqkv: &'a mut [E],
}

/// Units from one row of probabilities and score gradients to the next.
const PITCH: usize = 128;

/// Rows and columns of a block of scores: whole tiles, panels and groups.
fn block_side(geometry: Geometry) -> usize {
    if 128 % geometry.rows == 0 { 128 } else { 96 }
}

/// A matrix packed block by block: block `i` begins at `i * stride` units.
#[derive(Default)]
struct Packed {
    units: AlignedVec<u32>,
    stride: usize,
}

#[derive(Default)]
struct Scratch {
    /// Left operands, block by block: keys, values.
    keys: Packed,
    values: Packed,
    /// Right operands in panels: queries and output gradients as columns (tokens) and as coordinates, and
    /// keys as coordinates.
    queries_by_token: AlignedVec<u32>,
    queries_by_coordinate: AlignedVec<u32>,
    douts_by_token: AlignedVec<u32>,
    douts_by_coordinate: AlignedVec<u32>,
    keys_by_coordinate: AlignedVec<u32>,
    /// Scores, then probabilities; products with the values, then score gradients.
    scores: AlignedVec<f32>,
    dscores: AlignedVec<f32>,
    probabilities: AlignedVec<u32>,
    gradients: AlignedVec<u32>,
    left: AlignedVec<u32>,
    deltas: AlignedVec<f32>,
    log_sums: AlignedVec<f32>,
    /// For every key the first query that no longer sees it.
    ends: Vec<usize>,
    dq: AlignedVec<f32>,
    dk: AlignedVec<f32>,
    dv: AlignedVec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Writes the gradients of queries, keys and values; `out`, `dout` are `[tokens, query · dim]`, `log_sums`
/// `[tokens, query]` from the way forward. There is no cache on the way back: as many keys as queries.
pub(crate) fn backward<E: Element>(
    cpu: &Cpu,
    x: &Operands<'_>,
    out: &[E],
    dout: &[E],
    log_sums: &[f32],
    gradients: Gradients<'_, E>,
) where
    for<'a> &'a [E]: Into<Values<'a>>,
{
    let bytes = 2 * x.bytes() + 2 * size_of_val(dout);
    let _span = cpu.profile.span("attention: backward", 10 * x.multiplications(), bytes);
    let (heads, mask) = (x.heads, x.mask);
    assert_eq!(mask.queries, mask.keys, "gradients flow through whole rows, not through a cache");
    let (dqk, dqkv) = (Parts::new(gradients.dqk), Parts::new(gradients.dqkv));
    cpu.threads.run(mask.rows * heads.kv, |task| {
        let (row, kv_head) = (task / heads.kv, task % heads.kv);
        let first_token = row * mask.keys;
        SCRATCH.with_borrow_mut(|scratch| {
            let geometry = Geometry::of(cpu.isa, x.precision);
            pack_keys(cpu, x, geometry, first_token, kv_head, scratch);
            for head in kv_head * x.group()..(kv_head + 1) * x.group() {
                let stride = heads.query * heads.dim;
                let dout_view = Strided { values: dout.into(), stride, offset: 0 };
                pack_queries(cpu, x, geometry, &dout_view, first_token, head, scratch);
                scratch.deltas.grow(mask.queries);
                scratch.log_sums.grow(mask.queries);
                for i in 0..mask.queries {
                    let at = (first_token + i) * heads.query + head;
                    let range = at * heads.dim..(at + 1) * heads.dim;
                    scratch.deltas[i] = dot(cpu.isa, &out[range.clone()], &dout[range]);
                    scratch.log_sums[i] = log_sums[at];
                }
                for key in (0..mask.keys).step_by(block_side(geometry)) {
                    key_block(cpu, x, geometry, key, scratch);
                }
                for i in 0..mask.queries {
                    let start = (first_token + i) * heads.qk_cols() + head * heads.dim;
                    // SAFETY: the columns of this head of this row are written by this task alone.
                    let to = unsafe { dqk.part(start..start + heads.dim) };
                    scaled(cpu.isa, &scratch.dq[i * heads.dim..][..heads.dim], x.scale(), to);
                }
            }
            for i in 0..mask.keys {
                let token = first_token + i;
                let k_start = token * heads.qk_cols() + (heads.query + kv_head) * heads.dim;
                let v_start = token * heads.qkv_cols() + (heads.query + heads.kv + kv_head) * heads.dim;
                // SAFETY: as above.
                let (k, v) = unsafe {
                    (dqk.part(k_start..k_start + heads.dim), dqkv.part(v_start..v_start + heads.dim))
                };
                scaled(cpu.isa, &scratch.dk[i * heads.dim..][..heads.dim], x.scale(), k);
                scaled(cpu.isa, &scratch.dv[i * heads.dim..][..heads.dim], 1.0, v);
            }
        });
    });
}

/// Packs what all query heads of a key head share, and clears its gradients.
fn pack_keys(
    cpu: &Cpu,
    x: &Operands<'_>,
    geometry: Geometry,
    token: usize,
    head: usize,
    scratch: &mut Scratch,
) {
    let (dim, keys) = (x.heads.dim, x.mask.keys);
    let side = block_side(geometry);
    for (view, packed) in [(x.key, &mut scratch.keys), (x.value, &mut scratch.values)] {
        let source = view.by_coordinate(token, head * dim);
        packed.stride = geometry.packed_rows(side) * geometry.format.units(dim);
        let needed = keys.div_ceil(side) * packed.stride;
        packed.units.grow(needed);
        let tiling = left_tiling(geometry, Layout::Lines, dim);
        for (block, out) in packed.units[..needed].chunks_exact_mut(packed.stride).enumerate() {
            let rows = block * side..((block + 1) * side).min(keys);
            pack(cpu.isa, &source, rows, 0..dim, tiling, out);
        }
    }
    let by_token = x.key.by_token(token, head * dim);
    pack_right(cpu, geometry, &by_token, dim, keys, &mut scratch.keys_by_coordinate);
    for gradient in [&mut scratch.dk, &mut scratch.dv] {
        gradient.grow(keys * dim);
        gradient[..keys * dim].fill(0.0);
    }
    // Starts never fall, so the queries that see a key follow each other.
    let starts = &x.mask.starts[token..token + keys];
    scratch.ends.clear();
    let mut end = 0;
    for key in 0..keys {
        end = end.max(key);
        while end < keys && starts[end] as usize <= key {
            end += 1;
        }
        scratch.ends.push(end);
    }
}

/// Packs one query head and its output gradient, and clears the query gradient.
fn pack_queries(
    cpu: &Cpu,
    x: &Operands<'_>,
    geometry: Geometry,
    dout: &Strided<'_>,
    token: usize,
    head: usize,
    scratch: &mut Scratch,
) {
    let (dim, queries) = (x.heads.dim, x.mask.queries);
    let views = [
        (x.query, &mut scratch.queries_by_token, &mut scratch.queries_by_coordinate),
        (*dout, &mut scratch.douts_by_token, &mut scratch.douts_by_coordinate),
    ];
    for (view, by_token, by_coordinate) in views {
        let source = view.by_coordinate(token, head * dim);
        pack_right(cpu, geometry, &source, queries, dim, by_token);
        let source = view.by_token(token, head * dim);
        pack_right(cpu, geometry, &source, dim, queries, by_coordinate);
    }
    scratch.dq.grow(queries * dim);
    scratch.dq[..queries * dim].fill(0.0);
}

/// Packs columns as a right operand, in panels.
fn pack_right(
    cpu: &Cpu,
    geometry: Geometry,
    source: &Source<'_>,
    cols: usize,
    k: usize,
    out: &mut AlignedVec<u32>,
) {
    let tiling = right_tiling(geometry, k);
    out.grow(cols.div_ceil(geometry.width) * tiling.stride);
    pack(cpu.isa, source, 0..cols, 0..k, tiling, out);
}

/// Adds the part of all gradients that goes through one block of keys.
fn key_block(cpu: &Cpu, x: &Operands<'_>, geometry: Geometry, key: usize, scratch: &mut Scratch) {
    let side = block_side(geometry);
    let keys = side.min(x.mask.keys - key);
    let last_query = scratch.ends[key + keys - 1];
    // Queries before the keys do not see them; blocks of queries begin at multiples of `side`, as keys do.
    for query in (key..last_query).step_by(side) {
        let queries = side.min(x.mask.queries - query);
        let (dim, precision, format) = (x.heads.dim, x.precision, geometry.format);
        let dim_units = format.units(dim);
        let token_stride = format.units(x.mask.keys) * geometry.width;
        let strip_rows = geometry.rows;
        scratch.scores.grow(strip_rows * side);
        scratch.dscores.grow(strip_rows * side);
        scratch.probabilities.grow(side * PITCH);
        scratch.gradients.grow(side * PITCH);
        for strip in (0..keys).step_by(strip_rows) {
            // So few keys at a time that scores stay in the first-level cache until they are probabilities.
            let strip = strip..(strip + strip_rows).min(keys);
            let product = |a: &Packed, b: &[u32], c: &mut [f32]| {
                let block = Block {
                    a: Left::Packed(
                        &a.units[key / side * a.stride + strip.start * dim_units..],
                        Layout::Lines,
                    ),
                    rows: strip.len(),
                    b: &b[query * dim_units..],
                    panel_stride: dim_units * geometry.width,
                    cols: queries,
                    groups: format.groups(dim),
                    geometry,
                };
                // SAFETY: the result is this thread's own, as many rows of `side`.
                unsafe { multiply_block(cpu.isa, &block, Target::f32(c.as_mut_ptr(), side, false)) };
            };
            product(&scratch.keys, &scratch.queries_by_token, &mut scratch.scores);
            product(&scratch.values, &scratch.douts_by_token, &mut scratch.dscores);
            match precision {
                Precision::F32 => score_gradients::<f32>(cpu, x, key, strip, query, queries, side, scratch),
                Precision::Bf16 => score_gradients::<bf16>(cpu, x, key, strip, query, queries, side, scratch),
            }
        }

        // dV += Pᵀ · dO and dK += dSᵀ · Q: the rows are keys, the reduction goes over the queries.
        scratch.left.grow(geometry.packed_rows(side) * format.units(side));
        let over_queries = [
            (&scratch.probabilities, &scratch.douts_by_coordinate, &mut scratch.dv),
            (&scratch.gradients, &scratch.queries_by_coordinate, &mut scratch.dk),
        ];
        for (matrix, right, gradient) in over_queries {
            let a = if geometry.loads_rows(keys, PITCH) && queries.is_multiple_of(format.group_elements()) {
                Left::Rows(matrix, PITCH)
            } else {
                let (values, pitch) = values_of(matrix, precision);
                let tiling = left_tiling(geometry, Layout::Lines, queries);
                let source = Source::along_cols(values, pitch);
                pack(cpu.isa, &source, 0..keys, 0..queries, tiling, &mut scratch.left);
                Left::Packed(&scratch.left, Layout::Lines)
            };
            let block = Block {
                a,
                rows: keys,
                b: &right[format.units(query) * geometry.width..],
                panel_stride: token_stride,
                cols: dim,
                groups: format.groups(queries),
                geometry,
            };
            let target = &mut gradient[key * dim..(key + keys) * dim];
            // SAFETY: the gradient is this thread's own.
            unsafe { multiply_block(cpu.isa, &block, Target::f32(target.as_mut_ptr(), dim, true)) };
        }
        // dQ += dS · K: the rows are queries, the reduction goes over the keys.
        let (values, pitch) = values_of(&scratch.gradients, precision);
        let source = Source::along_rows(values, pitch);
        let layout = geometry.layout_for(&source);
        let tiling = left_tiling(geometry, layout, keys);
        pack(cpu.isa, &source, 0..queries, 0..keys, tiling, &mut scratch.left);
        let block = Block {
            a: Left::Packed(&scratch.left, layout),
            rows: queries,
            b: &scratch.keys_by_coordinate[format.units(key) * geometry.width..],
            panel_stride: token_stride,
            cols: dim,
            groups: format.groups(keys),
            geometry,
        };
        let target = &mut scratch.dq[query * dim..(query + queries) * dim];
        // SAFETY: the gradient is this thread's own.
        unsafe { multiply_block(cpu.isa, &block, Target::f32(target.as_mut_ptr(), dim, true)) };
    }
}

/// Rows [`PITCH`] units apart as elements, and the elements between them.
fn values_of(units: &[u32], precision: Precision) -> (Values<'_>, usize) {
    match precision {
        Precision::F32 => (Values::F32(bytemuck::cast_slice(units)), PITCH),
        Precision::Bf16 => (Values::Bf16(bytemuck::cast_slice(units)), 2 * PITCH),
    }
}

/// Probabilities and score gradients of the rows `strip` of a block; rows are keys.
#[expect(clippy::too_many_arguments, reason = "a block of scores takes this many")]
fn score_gradients<D: Element>(
    cpu: &Cpu,
    x: &Operands<'_>,
    key: usize,
    strip: Range<usize>,
    query: usize,
    queries: usize,
    side: usize,
    scratch: &mut Scratch,
) {
    let pitch = PITCH * 4 / size_of::<D>();
    let probabilities: &mut [D] = bytemuck::cast_slice_mut(&mut scratch.probabilities);
    let gradients: &mut [D] = bytemuck::cast_slice_mut(&mut scratch.gradients);
    for i in strip.clone() {
        let low = (key + i).saturating_sub(query).min(queries);
        let high = scratch.ends[key + i].saturating_sub(query).min(queries).max(low);
        let row = i * pitch..i * pitch + queries;
        let (p, ds) = (&mut probabilities[row.clone()], &mut gradients[row]);
        for out in [&mut *p, &mut *ds] {
            out[..low].fill(D::ZERO);
            out[high..].fill(D::ZERO);
        }
        let row = (i - strip.start) * side;
        let seen = row + low..row + high;
        let range = query + low..query + high;
        gradient_row(
            cpu.isa,
            &scratch.scores[seen.clone()],
            &scratch.dscores[seen],
            &scratch.log_sums[range.clone()],
            &scratch.deltas[range],
            x.scale_log2(),
            &mut p[low..high],
            &mut ds[low..high],
        );
    }
}

kernel! {
    fn gradient_row[D: Element](
        s, scores: &[f32], dscores: &[f32], log_sums: &[f32], deltas: &[f32], scale: f32, p_out: &mut [D], ds_out: &mut [D],
    ) {
        let scale = s.splat(scale);
        for_lanes!(s, scores.len(), |i, n| {
            let p = exp2(s, s.sub(s.mul(load(s, scores, i, n), scale), load(s, log_sums, i, n)));
            let ds = s.mul(p, s.sub(load(s, dscores, i, n), load(s, deltas, i, n)));
            store(s, p, p_out, i, n);
            store(s, ds, ds_out, i, n);
        });
    }
}

kernel! {
    fn dot[E: Element](s, a: &[E], b: &[E]) -> f32 {
        let mut sum = s.splat(0.0);
        for_lanes!(s, a.len(), |i, n| { sum = s.fma(load(s, a, i, n), load(s, b, i, n), sum); });
        s.sum(sum)
    }
}

kernel! {
    fn scaled[E: Element](s, from: &[f32], factor: f32, to: &mut [E]) {
        let factor = s.splat(factor);
        for_lanes!(s, from.len(), |i, n| { store(s, s.mul(load(s, from, i, n), factor), to, i, n); });
    }
}
