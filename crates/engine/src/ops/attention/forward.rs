//! The way forward: blocks of queries against blocks of keys, the softmax corrected as it goes.

use std::cell::RefCell;

use super::{Operands, block_queries};
use crate::Cpu;
use crate::matmul::{Block, Geometry, Layout, Left, groups_of, multiply_block, pack_tile};
use crate::simd::{Element, exp2, for_lanes, kernel, load, store};
use crate::tensor::Arena;
use crate::threads::Parts;

/// Keys of a block: whole panels and whole groups of every instruction set.
const BLOCK_KEYS: usize = 256;

#[derive(Default)]
struct Scratch {
    queries: Vec<u32>,
    probabilities: Vec<u32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
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
    let (heads, mask, precision) = (x.heads, x.mask, x.precision);
    let geometry = Geometry::of(cpu.isa, precision);
    let width = geometry.width;
    let (dim_units, key_units) = (groups_of(heads.dim, precision) * 16, groups_of(mask.keys, precision) * 16);
    let (key_panels, value_panels) = (mask.keys.div_ceil(width), heads.dim.div_ceil(width));
    let (key_len, value_len) = (key_panels * dim_units * width, value_panels * key_units * width);

    // Keys and values are packed once per head; keys with tokens as columns, values with coordinates.
    let mut packed = arena.units(mask.rows * heads.kv * (key_len + value_len));
    let parts = Parts::new(packed.as_mut_slice());
    cpu.threads.run(mask.rows * heads.kv, |task| {
        let (row, head) = (task / heads.kv, task % heads.kv);
        let start = task * (key_len + value_len);
        // SAFETY: every head of every row is packed by one task.
        let (keys, values) = unsafe { parts.part(start..start + key_len + value_len) }.split_at_mut(key_len);
        let by_coordinate = x.key.by_coordinate(row * mask.keys, head * heads.dim);
        for (panel, out) in keys.chunks_exact_mut(dim_units * width).enumerate() {
            let valid = width.min(mask.keys - panel * width);
            pack_tile(
                cpu.isa,
                precision,
                &by_coordinate,
                panel * width,
                valid,
                width,
                0..heads.dim,
                Layout::Panels,
                out,
            );
        }
        let by_token = x.value.by_token(row * mask.keys, head * heads.dim);
        for (panel, out) in values.chunks_exact_mut(key_units * width).enumerate() {
            let valid = width.min(heads.dim - panel * width);
            pack_tile(
                cpu.isa,
                precision,
                &by_token,
                panel * width,
                valid,
                width,
                0..mask.keys,
                Layout::Panels,
                out,
            );
        }
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
    let (heads, mask, precision, width) = (x.heads, x.mask, x.precision, geometry.width);
    let (dim_groups, per_group) = (groups_of(heads.dim, precision), 16 * precision.per_unit());
    let packed_rows = geometry.packed_rows(rows);
    let fit = |len: usize, have: usize| len.max(have);
    scratch.queries.resize(fit(packed_rows * dim_groups * 16, scratch.queries.len()), 0);
    scratch.probabilities.resize(fit(packed_rows * BLOCK_KEYS, scratch.probabilities.len()), 0);
    scratch.scores.resize(fit(rows * BLOCK_KEYS, scratch.scores.len()), 0.0);
    scratch.sums.resize(fit(rows * heads.dim, scratch.sums.len()), 0.0);
    scratch.largest.clear();
    scratch.largest.resize(rows, f32::NEG_INFINITY);
    scratch.totals.clear();
    scratch.totals.resize(rows, 0.0);

    let query = x.query.by_coordinate(batch_row * mask.queries, head * heads.dim);
    for tile in (0..rows).step_by(geometry.rows) {
        let valid = geometry.rows.min(rows - tile);
        let height = geometry.packed_rows(valid);
        let out = &mut scratch.queries[tile * dim_groups * 16..][..height * dim_groups * 16];
        pack_tile(cpu.isa, precision, &query, first + tile, valid, height, 0..heads.dim, Layout::Lines, out);
    }
    let starts = &mask.starts[batch_row * mask.queries + first..][..rows];
    let end = mask.past() + first + rows;
    let mut key = starts[0] as usize / BLOCK_KEYS * BLOCK_KEYS;
    let mut continued = false;
    while key < end {
        // Trimmed to whole panels and groups around the last visible key.
        let cols = (end - key).min(BLOCK_KEYS);
        let groups = cols.div_ceil(per_group);
        let scores = Block {
            a: Left::Packed(&scratch.queries, Layout::Lines),
            rows,
            b: &keys[key * dim_groups * 16..],
            panel_stride: dim_groups * 16 * width,
            cols,
            groups: dim_groups,
            precision,
        };
        // SAFETY: the scores are this thread's own, `rows` rows of `BLOCK_KEYS`.
        unsafe { multiply_block(cpu.isa, &scores, scratch.scores.as_mut_ptr(), BLOCK_KEYS, false) };
        for (i, start) in starts.iter().enumerate() {
            let low = (*start as usize).saturating_sub(key).min(cols);
            let high = (mask.past() + first + i + 1).saturating_sub(key).min(cols);
            let tile = i / geometry.rows * geometry.rows;
            let height = geometry.packed_rows(geometry.rows.min(rows - tile));
            let line = tile * groups * 16 + (i - tile) * 16;
            let lines = &mut scratch.probabilities[line..];
            let scores = &mut scratch.scores[i * BLOCK_KEYS..][..groups * per_group];
            let state = (scratch.largest[i], scratch.totals[i]);
            let (largest, total, correction) = match precision {
                crate::matmul::Precision::F32 => {
                    softmax_row::<f32>(cpu.isa, scores, low, high, x.scale_log2(), state, lines, 16 * height)
                }
                crate::matmul::Precision::Bf16 => softmax_row::<half::bf16>(
                    cpu.isa,
                    scores,
                    low,
                    high,
                    x.scale_log2(),
                    state,
                    lines,
                    16 * height,
                ),
            };
            (scratch.largest[i], scratch.totals[i]) = (largest, total);
            if continued && correction != 1.0 {
                crate::elementwise::scale(
                    cpu.isa,
                    correction,
                    &mut scratch.sums[i * heads.dim..(i + 1) * heads.dim],
                );
            }
        }
        let product = Block {
            a: Left::Packed(&scratch.probabilities, Layout::Lines),
            rows,
            b: &values[key / precision.per_unit() * width..],
            panel_stride: groups_of(mask.keys, precision) * 16 * width,
            cols: heads.dim,
            groups,
            precision,
        };
        // SAFETY: the sums are this thread's own, `rows` rows of `dim`.
        unsafe { multiply_block(cpu.isa, &product, scratch.sums.as_mut_ptr(), heads.dim, continued) };
        continued = true;
        key += BLOCK_KEYS;
    }
}

kernel! {
    /// Turns scores `low..high` of a row into `2^(score · scale − largest)`, packed in lines `stride` units
    /// apart, the others zero. `state` is the largest scaled score and the total so far; gives both anew, and
    /// what the sums up to now must be multiplied with.
    fn softmax_row[D: Element](
        s, scores: &mut [f32], low: usize, high: usize, scale: f32, state: (f32, f32), lines: &mut [u32],
        stride: usize,
    ) -> (f32, f32, f32) {
        let lanes = crate::simd::lanes_of(s);
        scores[..low].fill(f32::NEG_INFINITY);
        scores[high..].fill(f32::NEG_INFINITY);
        let (before, total) = state;
        let mut largest = s.splat(f32::NEG_INFINITY);
        for chunk in scores.chunks_exact(lanes) {
            largest = s.max(largest, s.load(chunk));
        }
        let largest = before.max(s.largest(largest) * scale);
        // A row that sees nothing of this block, nor of an earlier one, has no largest score yet.
        let shift = s.splat(if largest == f32::NEG_INFINITY { 0.0 } else { -largest });
        let scale = s.splat(scale);
        let mut sum = s.splat(0.0);
        let per_group = 64 / size_of::<D>();
        for (g, scores) in scores.chunks_exact(per_group).enumerate() {
            let line: &mut [D] = bytemuck::cast_slice_mut(&mut lines[g * stride..g * stride + 16]);
            for_lanes!(s, per_group, |i, n| {
                let p = exp2(s, s.fma(load(s, scores, i, n), scale, shift));
                sum = s.add(sum, p);
                store(s, p, line, i, n);
            });
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
