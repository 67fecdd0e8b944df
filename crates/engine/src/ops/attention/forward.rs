//! The way forward: blocks of queries against blocks of keys, the softmax corrected as it goes.

use std::cell::RefCell;

use super::{Operands, block_queries};
use crate::Cpu;
use crate::matmul::{
    Block, Geometry, Layout, Left, Source, left_tiling, multiply_block, pack, right_tiling,
};
use crate::simd::{Element, exp2, for_lanes, kernel, load, store};
use crate::tensor::{AlignedVec, Arena};
use crate::threads::Parts;

/// Keys of a block: whole panels and whole groups of every instruction set.
const BLOCK_KEYS: usize = 256;

#[derive(Default)]
struct Scratch {
    queries: AlignedVec<u32>,
    probabilities: AlignedVec<u32>,
    scores: AlignedVec<f32>,
    sums: AlignedVec<f32>,
    /// Per query: the largest score so far (in units of log 2), and the sum of exponentials below it.
    largest: Vec<f32>,
    totals: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// `out[tokens, query · dim]`, and `log2 Σ 2^(score · scale)` of every token and query head for the way
/// back.
pub(crate) fn forward<E: Element>(
    cpu: &Cpu,
    arena: &mut Arena,
    x: &Operands<'_>,
    out: &mut [E],
    log_sums: &mut [f32],
) {
    let (heads, mask) = (x.heads, x.mask);
    let geometry = Geometry::of(cpu.isa, x.precision);
    let (key_tiling, value_tiling) =
        (right_tiling(geometry, heads.dim), right_tiling(geometry, mask.keys));
    let key_len = mask.keys.div_ceil(geometry.width) * key_tiling.stride;
    let value_len = heads.dim.div_ceil(geometry.width) * value_tiling.stride;

    // Keys and values are packed once per head; keys with tokens as columns, values with coordinates.
    let mut packed = arena.units(mask.rows * heads.kv * (key_len + value_len));
    let parts = Parts::new(packed.as_mut_slice());
    cpu.threads.run(mask.rows * heads.kv, |task| {
        let (row, head) = (task / heads.kv, task % heads.kv);
        let start = task * (key_len + value_len);
        // SAFETY: every head of every row is packed by one task.
        let (keys, values) = unsafe { parts.part(start..start + key_len + value_len) }.split_at_mut(key_len);
        let by_coordinate = x.key.by_coordinate(row * mask.keys, head * heads.dim);
        pack(cpu.isa, &by_coordinate, 0..mask.keys, 0..heads.dim, key_tiling, keys);
        let by_token = x.value.by_token(row * mask.keys, head * heads.dim);
        pack(cpu.isa, &by_token, 0..heads.dim, 0..mask.keys, value_tiling, values);
    });
    let packed_slice = packed.as_slice();

    let block = block_queries(geometry);
    let blocks = mask.queries.div_ceil(block);
    let (out, log_sums) = (Parts::new(out), Parts::new(log_sums));
    cpu.threads.run(mask.rows * heads.query * blocks, |task| {
        // The longest blocks, those with the most keys before them, go first.
        let index = blocks - 1 - task / (mask.rows * heads.query);
        let (row, head) = (task / heads.query % mask.rows, task % heads.query);
        let start = (row * heads.kv + head / x.group()) * (key_len + value_len);
        let (keys, values) = packed_slice[start..start + key_len + value_len].split_at(key_len);
        let first = index * block;
        let rows = block.min(mask.queries - first);
        SCRATCH.with_borrow_mut(|scratch| {
            query_block(cpu, x, geometry, keys, values, row, head, first, rows, scratch);
            for i in 0..rows {
                let token = row * mask.queries + first + i;
                let at = token * heads.query + head;
                // SAFETY: every token and head is written by one task.
                let (out, log_sum) =
                    unsafe { (out.part(at * heads.dim..(at + 1) * heads.dim), log_sums.part(at..at + 1)) };
                let sums = &scratch.sums[i * heads.dim..(i + 1) * heads.dim];
                finish_row(cpu.isa, sums, scratch.totals[i], out);
                log_sum[0] = scratch.largest[i] + scratch.totals[i].log2();
            }
        });
    });
    arena.give_back_units(packed);
}

/// Weighted sums of the values, not yet divided by the totals, for `rows` queries of one head.
#[expect(clippy::too_many_arguments, reason = "a block of a head takes this many")]
fn query_block(
    cpu: &Cpu,
    x: &Operands<'_>,
    geometry: Geometry,
    keys: &[u32],
    values: &[u32],
    batch_row: usize,
    head: usize,
    first: usize,
    rows: usize,
    scratch: &mut Scratch,
) {
    let (heads, mask, format) = (x.heads, x.mask, geometry.format);
    let dim_units = format.units(heads.dim);
    let packed_rows = geometry.packed_rows(rows);
    scratch.queries.grow(packed_rows * dim_units);
    scratch.probabilities.grow(packed_rows * format.units(BLOCK_KEYS));
    scratch.scores.grow(rows * BLOCK_KEYS);
    scratch.sums.grow(rows * heads.dim);
    scratch.largest.clear();
    scratch.largest.resize(rows, f32::NEG_INFINITY);
    scratch.totals.clear();
    scratch.totals.resize(rows, 0.0);

    let query = x.query.by_coordinate(batch_row * mask.queries, head * heads.dim);
    let tiling = left_tiling(geometry, Layout::Lines, heads.dim);
    pack(cpu.isa, &query, first..first + rows, 0..heads.dim, tiling, &mut scratch.queries);
    let starts = &mask.starts[batch_row * mask.queries + first..][..rows];
    let end = mask.past() + first + rows;
    let mut key = starts[0] as usize / BLOCK_KEYS * BLOCK_KEYS;
    let mut continued = false;
    while key < end {
        // Trimmed to whole panels and groups around the last visible key.
        let cols = (end - key).min(BLOCK_KEYS);
        let groups = format.groups(cols);
        let scores = Block {
            a: Left::Packed(&scratch.queries, Layout::Lines),
            rows,
            b: &keys[key * dim_units..],
            panel_stride: dim_units * geometry.width,
            cols,
            groups: format.groups(heads.dim),
            geometry,
        };
        // SAFETY: the scores are this thread's own, `rows` rows of `BLOCK_KEYS`.
        unsafe { multiply_block(cpu.isa, &scores, scratch.scores.as_mut_ptr(), BLOCK_KEYS, false) };
        let tiling = left_tiling(geometry, Layout::Lines, cols);
        for (i, start) in starts.iter().enumerate() {
            let low = (*start as usize).saturating_sub(key).min(cols);
            let high = (mask.past() + first + i + 1).saturating_sub(key).min(cols);
            let scores = &mut scratch.scores[i * BLOCK_KEYS..][..groups * format.group_elements()];
            let state = (scratch.largest[i], scratch.totals[i]);
            let (largest, total, correction) =
                softmax_row(cpu.isa, scores, low, high, x.scale_log2(), state);
            (scratch.largest[i], scratch.totals[i]) = (largest, total);
            if continued && correction != 1.0 {
                let sums = &mut scratch.sums[i * heads.dim..(i + 1) * heads.dim];
                crate::elementwise::scale(cpu.isa, correction, sums);
            }
        }
        let probabilities = Source::along_cols(&scratch.scores[..], BLOCK_KEYS);
        pack(cpu.isa, &probabilities, 0..rows, 0..cols, tiling, &mut scratch.probabilities);
        let product = Block {
            a: Left::Packed(&scratch.probabilities, Layout::Lines),
            rows,
            b: &values[format.units(key) * geometry.width..],
            panel_stride: format.units(mask.keys) * geometry.width,
            cols: heads.dim,
            groups,
            geometry,
        };
        // SAFETY: the sums are this thread's own, `rows` rows of `dim`.
        unsafe { multiply_block(cpu.isa, &product, scratch.sums.as_mut_ptr(), heads.dim, continued) };
        continued = true;
        key += BLOCK_KEYS;
    }
}

kernel! {
    /// Turns scores `low..high` of a row into `2^(score · scale − largest)`, the others into zero. `state` is the
    /// largest scaled score and the total so far; gives both anew, and what the sums up to now must be multiplied
    /// with.
    fn softmax_row(
        s, scores: &mut [f32], low: usize, high: usize, scale: f32, state: (f32, f32),
    ) -> (f32, f32, f32) {
        let lanes = crate::simd::lanes_of(s);
        let (before, total) = state;
        // Whole vectors around what is seen.
        let (first, last) = (low / lanes * lanes, high.next_multiple_of(lanes));
        scores[..first].fill(0.0);
        scores[last..].fill(0.0);
        let seen = &mut scores[first..last];
        seen[..low - first].fill(f32::NEG_INFINITY);
        seen[high - first..].fill(f32::NEG_INFINITY);
        let mut largest = s.splat(f32::NEG_INFINITY);
        for chunk in seen.chunks_exact(lanes) {
            largest = s.max(largest, s.load(chunk));
        }
        let largest = before.max(s.largest(largest) * scale);
        // A row that sees nothing of this block, nor of an earlier one, has no largest score yet.
        let shift = s.splat(if largest == f32::NEG_INFINITY { 0.0 } else { -largest });
        let scale = s.splat(scale);
        let mut sum = s.splat(0.0);
        for chunk in seen.chunks_exact_mut(lanes) {
            let p = exp2(s, s.fma(s.load(chunk), scale, shift));
            sum = s.add(sum, p);
            s.store(p, chunk);
        }
        let correction = if before == largest { 1.0 } else { (before - largest).exp2() };
        (largest, total * correction + s.sum(sum), correction)
    }
}

kernel! {
    fn finish_row[E: Element](s, sums: &[f32], total: f32, out: &mut [E]) {
        let factor = s.splat(total.recip());
        for_lanes!(s, sums.len(), |i, n| { store(s, s.mul(load(s, sums, i, n), factor), out, i, n); });
    }
}
