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

/// Queries of a block of scores.
const BLOCK_QUERIES: usize = 256;
/// Parts of a block begin and end at multiples of this: whole panels and groups of every instruction set.
const GRANULE: usize = 32;

/// Keys of a block of scores: whole tiles and granules.
fn block_keys(geometry: Geometry) -> usize {
    if 128 % geometry.rows == 0 { 128 } else { 96 }
}

/// Units from one row of probabilities and score gradients to the next.
fn pitch(precision: Precision) -> usize {
    match precision {
        Precision::F32 => BLOCK_QUERIES,
        Precision::Bf16 => BLOCK_QUERIES / 2,
    }
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
    /// Of a tile of keys: scores, then probabilities; products with the values.
    scores: AlignedVec<f32>,
    dscores: AlignedVec<f32>,
    probabilities: AlignedVec<u32>,
    /// Score gradients of a block of keys.
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
    let bytes = 2 * x.queries().bytes() + 2 * size_of_val(dout);
    let _span = cpu.profile.span("attention: backward", 10 * x.queries().multiplications(), bytes);
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
                for key in (0..mask.keys).step_by(block_keys(geometry)) {
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
    let side = block_keys(geometry);
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
    let (dim, format, pitch) = (x.heads.dim, geometry.format, pitch(x.precision));
    let side = block_keys(geometry);
    let keys = side.min(x.mask.keys - key);
    scratch.scores.grow(geometry.rows * BLOCK_QUERIES);
    scratch.dscores.grow(geometry.rows * BLOCK_QUERIES);
    scratch.probabilities.grow(geometry.rows * pitch);
    scratch.gradients.grow(side * pitch);
    scratch.left.grow(geometry.packed_rows(geometry.rows) * format.units(BLOCK_QUERIES.max(side)));
    // Queries before the keys do not see them.
    let (first_query, last_query) = (key / BLOCK_QUERIES * BLOCK_QUERIES, scratch.ends[key + keys - 1]);
    for query in (first_query..last_query).step_by(BLOCK_QUERIES) {
        let queries = BLOCK_QUERIES.min(x.mask.queries - query);
        // So few keys at a time that scores stay in the first-level cache until they are used.
        for strip in (0..keys).step_by(geometry.rows) {
            let strip = strip..(strip + geometry.rows).min(keys);
            // The queries that see any of these keys, from a whole granule on.
            let from = (key + strip.start).saturating_sub(query) / GRANULE * GRANULE;
            let to = scratch.ends[key + strip.end - 1].saturating_sub(query).min(queries);
            if from < to {
                strip_of_keys(cpu, x, geometry, key, strip, query, from..to, scratch);
            } else {
                scratch.gradients[strip.start * pitch..strip.end * pitch].fill(0);
            }
        }
        // dQ += dS · K: the rows are queries, the reduction goes over the keys that they see.
        let values = values_of(&scratch.gradients, x.precision);
        let source = Source::along_rows(values, BLOCK_QUERIES);
        let layout = geometry.layout_for(&source);
        let seen_by = |query: usize| (query + 1).saturating_sub(key).min(keys);
        for tile in (0..queries).step_by(geometry.rows) {
            let tile = tile..(tile + geometry.rows).min(queries);
            let seen = seen_by(query + tile.end - 1);
            if seen == 0 || query + tile.start >= last_query {
                continue;
            }
            let tiling = left_tiling(geometry, layout, seen);
            pack(cpu.isa, &source, tile.clone(), 0..seen, tiling, &mut scratch.left);
            let block = Block {
                a: Left::Packed(&scratch.left, layout),
                rows: tile.len(),
                b: &scratch.keys_by_coordinate[format.units(key) * geometry.width..],
                panel_stride: format.units(x.mask.keys) * geometry.width,
                cols: dim,
                groups: format.groups(seen),
                geometry,
            };
            let target = &mut scratch.dq[(query + tile.start) * dim..(query + tile.end) * dim];
            // SAFETY: the gradient is this thread's own.
            unsafe { multiply_block(cpu.isa, &block, Target::f32(target.as_mut_ptr(), dim, true)) };
        }
    }
}

/// Probabilities and score gradients of a tile of keys and the queries `seen` of a block, and what they add to the
/// gradients of these keys and values.
#[expect(clippy::too_many_arguments, reason = "a block of scores takes this many")]
fn strip_of_keys(
    cpu: &Cpu,
    x: &Operands<'_>,
    geometry: Geometry,
    key: usize,
    strip: Range<usize>,
    query: usize,
    seen: Range<usize>,
    scratch: &mut Scratch,
) {
    let (dim, format, pitch) = (x.heads.dim, geometry.format, pitch(x.precision));
    let dim_units = format.units(dim);
    let side = block_keys(geometry);
    let product = |a: &Packed, b: &[u32], c: &mut [f32]| {
        let block = Block {
            a: Left::Packed(&a.units[key / side * a.stride + strip.start * dim_units..], Layout::Lines),
            rows: strip.len(),
            b: &b[(query + seen.start) * dim_units..],
            panel_stride: dim_units * geometry.width,
            cols: seen.len(),
            groups: format.groups(dim),
            geometry,
        };
        let target = Target::f32(c[seen.start..].as_mut_ptr(), BLOCK_QUERIES, false);
        // SAFETY: the result is this thread's own, as many rows of `BLOCK_QUERIES`.
        unsafe { multiply_block(cpu.isa, &block, target) };
    };
    product(&scratch.keys, &scratch.queries_by_token, &mut scratch.scores);
    product(&scratch.values, &scratch.douts_by_token, &mut scratch.dscores);
    match x.precision {
        Precision::F32 => score_gradients::<f32>(cpu, x, key, &strip, query, &seen, scratch),
        Precision::Bf16 => score_gradients::<bf16>(cpu, x, key, &strip, query, &seen, scratch),
    }

    // dV += Pᵀ · dO and dK += dSᵀ · Q: the rows are keys, the reduction goes over the queries.
    let groups = format.groups(seen.len());
    let over_queries = [
        (&scratch.probabilities[..], &scratch.douts_by_coordinate, &mut scratch.dv),
        (&scratch.gradients[strip.start * pitch..], &scratch.queries_by_coordinate, &mut scratch.dk),
    ];
    for (matrix, right, gradient) in over_queries {
        let a = if geometry.loads_rows(strip.len(), pitch) {
            Left::Rows(&matrix[seen.start * pitch / BLOCK_QUERIES..], pitch)
        } else {
            let source = Source::along_cols(values_of(matrix, x.precision), BLOCK_QUERIES);
            let tiling = left_tiling(geometry, Layout::Lines, seen.len());
            pack(cpu.isa, &source, 0..strip.len(), seen.clone(), tiling, &mut scratch.left);
            Left::Packed(&scratch.left, Layout::Lines)
        };
        let block = Block {
            a,
            rows: strip.len(),
            b: &right[format.units(query + seen.start) * geometry.width..],
            panel_stride: format.units(x.mask.keys) * geometry.width,
            cols: dim,
            groups,
            geometry,
        };
        let target = &mut gradient[(key + strip.start) * dim..(key + strip.end) * dim];
        // SAFETY: the gradient is this thread's own.
        unsafe { multiply_block(cpu.isa, &block, Target::f32(target.as_mut_ptr(), dim, true)) };
    }
}

/// Rows of probabilities or score gradients as elements, [`BLOCK_QUERIES`] apart.
fn values_of(units: &[u32], precision: Precision) -> Values<'_> {
    match precision {
        Precision::F32 => Values::F32(bytemuck::cast_slice(units)),
        Precision::Bf16 => Values::Bf16(bytemuck::cast_slice(units)),
    }
}

/// Probabilities and score gradients of the rows `strip` of a block for the queries `seen`; rows are keys.
fn score_gradients<D: Element>(
    cpu: &Cpu,
    x: &Operands<'_>,
    key: usize,
    strip: &Range<usize>,
    query: usize,
    seen: &Range<usize>,
    scratch: &mut Scratch,
) {
    let probabilities: &mut [D] = bytemuck::cast_slice_mut(&mut scratch.probabilities);
    let gradients: &mut [D] = bytemuck::cast_slice_mut(&mut scratch.gradients);
    for i in strip.clone() {
        let row = (i - strip.start) * BLOCK_QUERIES;
        let p = &mut probabilities[row..row + BLOCK_QUERIES];
        let ds = &mut gradients[i * BLOCK_QUERIES..][..BLOCK_QUERIES];
        let low = (key + i).saturating_sub(query).clamp(seen.start, seen.end);
        let high = scratch.ends[key + i].saturating_sub(query).clamp(low, seen.end);
        // Products with these rows take whole granules; the way to the queries takes all of a row.
        p[seen.start..low].fill(D::ZERO);
        p[high..seen.end.next_multiple_of(GRANULE)].fill(D::ZERO);
        ds[..low].fill(D::ZERO);
        ds[high..].fill(D::ZERO);
        let range = query + low..query + high;
        gradient_row(
            cpu.isa,
            &scratch.scores[row + low..row + high],
            &scratch.dscores[row + low..row + high],
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
