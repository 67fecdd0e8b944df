//! The way forward: blocks of queries against blocks of keys, the softmax corrected as it goes.

use std::cell::RefCell;
use std::mem::take;
use std::ops::Range;

use half::bf16;

use super::{Mask, Operands, Queries, block_queries};
use crate::arena::Arena;
use crate::elementwise::{expand, multiply_by};
use crate::matmul::{
    Block, Format, Geometry, Layout, Left, Source, Target, left_tiling, multiply_block, one_row, pack,
    right_tiling,
};
use crate::simd::{Element, Simd, exp2, for_lanes, kernel, load, store};
use crate::tensor::AlignedVec;
use crate::threads::Parts;
use crate::{Cpu, Isa};

/// Keys of a block: whole panels and whole groups of every instruction set.
pub(crate) const BLOCK_KEYS: usize = 256;
/// Units from one row of probabilities to the next.
const PITCH: usize = 256;

#[derive(Default)]
struct Scratch {
    queries: AlignedVec<u32>,
    /// Of a tile of queries: scores, and probabilities in rows of f32 or bf16, [`PITCH`] units apart.
    scores: AlignedVec<f32>,
    probabilities: AlignedVec<u32>,
    /// The same as a left operand, where they cannot be used as they are.
    left: AlignedVec<u32>,
    /// Keys and values of a block that are held as bytes.
    keys: AlignedVec<u32>,
    values: AlignedVec<u32>,
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
    let (key_tiling, value_tiling) = (right_tiling(geometry, heads.dim), right_tiling(geometry, mask.keys));
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
    let elements = Elements::Units(packed.as_slice());
    let keys = PackedKeys { geometry, elements, key_len, value_len, slots: mask.keys };
    attend(cpu, &x.queries(), keys, out, Some(log_sums));
}

/// Keys and values of every row and head, packed: `key_len` units of keys and `value_len` of values each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedKeys<'a> {
    pub(crate) geometry: Geometry,
    pub(crate) elements: Elements<'a>,
    pub(crate) key_len: usize,
    pub(crate) value_len: usize,
    /// Tokens that there is room for: token `t` is at slot `t mod slots`. Blocks must not straddle the end, unless
    /// there is room for all tokens.
    pub(crate) slots: usize,
}

/// What is packed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Elements<'a> {
    /// Units as products take them.
    Units(&'a [u32]),
    /// Whole numbers in the place of elements, and the scales of every row and head: those of keys by slot, then those of
    /// values.
    Bytes(&'a [i8], &'a [f32]),
}

impl<'a> PackedKeys<'a> {
    /// The part of head number `head` of all rows.
    fn of_head(&self, head: usize) -> HeadKeys<'a> {
        let len = self.key_len + self.value_len;
        let (geometry, slots) = (self.geometry, self.slots);
        let elements = match self.elements {
            Elements::Units(units) => Elements::Units(&units[head * len..(head + 1) * len]),
            Elements::Bytes(bytes, scales) => {
                let len = len * elements_of_unit(geometry.format);
                let scales = &scales[2 * head * slots..2 * (head + 1) * slots];
                Elements::Bytes(&bytes[head * len..(head + 1) * len], scales)
            }
        };
        HeadKeys { geometry, elements, key_len: self.key_len, slots }
    }
}

/// Elements of a unit, for formats in one plane.
pub(crate) fn elements_of_unit(format: Format) -> usize {
    format.group_elements() / 16
}

/// A head's part of [`PackedKeys`].
#[derive(Clone, Copy)]
struct HeadKeys<'a> {
    geometry: Geometry,
    elements: Elements<'a>,
    key_len: usize,
    slots: usize,
}

/// Panels of a block.
#[derive(Clone, Copy)]
enum Panels<'a> {
    Units(&'a [u32]),
    /// Whole numbers, which only a single query is multiplied with as they are.
    Pairs(&'a [[i8; 2]]),
}

impl Panels<'_> {
    /// Multiplies a block that has no panels with these.
    ///
    /// # Safety
    /// As [`multiply_block`].
    unsafe fn multiply(self, isa: Isa, block: Block<'_>, target: Target) {
        // SAFETY: by the caller's promise; an `Isa` with a tile of one row has the vectors for it.
        unsafe {
            match self {
                Self::Units(b) => multiply_block(isa, &Block { b, ..block }, target),
                Self::Pairs(b) => {
                    let Block { a, rows, panel_stride, cols, groups, geometry, .. } = block;
                    one_row::multiply(&Block { a, rows, b, panel_stride, cols, groups, geometry }, target);
                }
            }
        }
    }
}

/// Keys and values of a block.
#[derive(Clone, Copy)]
struct KeyBlock<'a> {
    keys: Panels<'a>,
    values: Panels<'a>,
    /// Units from a panel of values to the next.
    value_stride: usize,
    /// What keys and values must be multiplied with; nothing, if these are empty.
    key_scales: &'a [f32],
    value_scales: &'a [f32],
}

impl<'a> HeadKeys<'a> {
    /// Keys `key..key + count`, of a block; `keys` and `values` are memory to unpack them in.
    fn block(
        &self,
        cpu: &Cpu,
        dim: usize,
        key: usize,
        count: usize,
        keys: &'a mut AlignedVec<u32>,
        values: &'a mut AlignedVec<u32>,
    ) -> KeyBlock<'a> {
        let Self { geometry, slots, .. } = *self;
        let (format, slot) = (geometry.format, key % slots);
        let (key_at, value_at) = (slot * format.units(dim), format.units(slot) * geometry.width);
        let value_stride = format.units(slots) * geometry.width;
        match self.elements {
            Elements::Units(units) => KeyBlock {
                keys: Panels::Units(&units[key_at..self.key_len]),
                values: Panels::Units(&units[self.key_len + value_at..]),
                value_stride,
                key_scales: &[],
                value_scales: &[],
            },
            Elements::Bytes(bytes, scales) if geometry.is_one_row() => {
                let pairs: &[[i8; 2]] = bytemuck::cast_slice(bytes);
                KeyBlock {
                    keys: Panels::Pairs(&pairs[key_at..self.key_len]),
                    values: Panels::Pairs(&pairs[self.key_len + value_at..]),
                    value_stride,
                    key_scales: &scales[slot..],
                    value_scales: &scales[slots + slot..],
                }
            }
            Elements::Bytes(bytes, scales) => {
                let count = count.next_multiple_of(geometry.width).next_multiple_of(format.group_elements());
                let each = elements_of_unit(format);
                let len = count * format.units(dim);
                keys.grow(len);
                expand(cpu.isa, format, &bytes[key_at * each..][..len * each], &mut keys[..len]);
                let (panels, panel) = (dim.div_ceil(geometry.width), format.units(count) * geometry.width);
                values.grow(panels * panel);
                for (i, values) in values[..panels * panel].chunks_exact_mut(panel).enumerate() {
                    let from = &bytes[(self.key_len + value_at + i * value_stride) * each..][..panel * each];
                    expand(cpu.isa, format, from, values);
                }
                KeyBlock {
                    keys: Panels::Units(keys),
                    values: Panels::Units(values),
                    value_stride: panel,
                    key_scales: &scales[slot..],
                    value_scales: &scales[slots + slot..],
                }
            }
        }
    }
}

/// [`forward`] with keys and values that were packed before; where there is no way back it needs no `log_sums`.
pub(crate) fn attend<E: Element>(
    cpu: &Cpu,
    x: &Queries<'_>,
    packed: PackedKeys<'_>,
    out: &mut [E],
    log_sums: Option<&mut [f32]>,
) {
    let bytes = x.bytes() + size_of_val(out);
    let _span = cpu.profile.span("attention: forward", 4 * x.multiplications(), bytes);
    let (heads, mask) = (x.heads, x.mask);
    let geometry = packed.geometry;
    let block = block_queries(geometry);
    let blocks = mask.queries.div_ceil(block);
    // Of a single token, heads that share keys are the rows of a block, unless threads would be idle then.
    let together =
        if mask.queries == 1 && mask.rows * heads.kv >= cpu.threads.count() { x.group() } else { 1 };
    let parts = heads.query / together;
    let (out, log_sums) = (Parts::new(out), log_sums.map(Parts::new));
    cpu.threads.run(mask.rows * parts * blocks, |task| {
        // The longest blocks, those with the most keys before them, go first.
        let index = blocks - 1 - task / (mask.rows * parts);
        let (batch_row, head) = (task / parts % mask.rows, task % parts * together);
        let keys = packed.of_head(batch_row * heads.kv + head / x.group());
        let token = index * block;
        let rows = if together > 1 {
            QueryRows { batch_row, heads: head..head + together, tokens: token..token + 1 }
        } else {
            let end = (token + block).min(mask.queries);
            QueryRows { batch_row, heads: head..head + 1, tokens: token..end }
        };
        SCRATCH.with_borrow_mut(|scratch| {
            query_block(cpu, x, keys, &rows, scratch);
            for i in 0..rows.len() {
                let at = (batch_row * mask.queries + rows.token(i)) * heads.query + rows.head(i);
                // SAFETY: every token and head is written by one task.
                let out = unsafe { out.part(at * heads.dim..(at + 1) * heads.dim) };
                let sums = &scratch.sums[i * heads.dim..(i + 1) * heads.dim];
                finish_row(cpu.isa, sums, scratch.totals[i], out);
                if let Some(log_sums) = &log_sums {
                    // SAFETY: as above.
                    let log_sum = unsafe { log_sums.part(at..at + 1) };
                    log_sum[0] = scratch.largest[i] + scratch.totals[i].log2();
                }
            }
        });
    });
}

/// Queries that see the keys of one head: tokens of one query head, or query heads of one token.
struct QueryRows {
    batch_row: usize,
    heads: Range<usize>,
    tokens: Range<usize>,
}

impl QueryRows {
    fn len(&self) -> usize {
        self.heads.len() * self.tokens.len()
    }

    fn head(&self, i: usize) -> usize {
        self.heads.start + i / self.tokens.len()
    }

    fn token(&self, i: usize) -> usize {
        self.tokens.start + i % self.tokens.len()
    }

    /// The keys that the mask lets row `i` see.
    fn seen(&self, mask: &Mask<'_>, i: usize) -> Range<usize> {
        let token = self.token(i);
        mask.starts[self.batch_row * mask.queries + token] as usize..mask.past() + token + 1
    }
}

/// Weighted sums of the values, not yet divided by the totals.
fn query_block(cpu: &Cpu, x: &Queries<'_>, keys: HeadKeys<'_>, queries: &QueryRows, scratch: &mut Scratch) {
    let rows = queries.len();
    let geometry = keys.geometry.for_rows(rows);
    let keys = HeadKeys { geometry, ..keys };
    let (heads, mask, format) = (x.heads, x.mask, geometry.format);
    let dim_units = format.units(heads.dim);
    let packed_rows = geometry.packed_rows(rows);
    scratch.queries.grow(packed_rows * dim_units);
    scratch.scores.grow(geometry.rows * BLOCK_KEYS);
    scratch.probabilities.grow(geometry.rows * PITCH);
    scratch.left.grow(geometry.packed_rows(geometry.rows) * format.units(BLOCK_KEYS));
    scratch.sums.grow(rows * heads.dim);
    scratch.sums[..rows * heads.dim].fill(0.0);
    scratch.largest.clear();
    scratch.largest.resize(rows, f32::NEG_INFINITY);
    scratch.totals.clear();
    scratch.totals.resize(rows, 0.0);

    let (token, column) =
        (queries.batch_row * mask.queries + queries.tokens.start, queries.heads.start * heads.dim);
    let stride = if queries.tokens.len() == 1 { heads.dim } else { x.query.stride };
    let query = Source::along_cols(x.query.from(token, column), stride);
    let tiling = left_tiling(geometry, Layout::Lines, heads.dim);
    pack(cpu.isa, &query, 0..rows, 0..heads.dim, tiling, &mut scratch.queries);
    let (start, end) = (queries.seen(&mask, 0).start, queries.seen(&mask, rows - 1).end);
    // Blocks that a sparse pattern leaves out are skipped where they are whole panels and groups.
    let step = match x.blocks {
        Some(sparse) if sparse.block.is_multiple_of(64) && BLOCK_KEYS.is_multiple_of(sparse.block) => {
            sparse.block
        }
        _ => BLOCK_KEYS,
    };
    for key in (start / step * step..end).step_by(step) {
        if let Some(sparse) = x.blocks
            && step < BLOCK_KEYS
            && !(0..rows).any(|i| {
                let query = mask.past() + queries.token(i);
                query >= key && sparse.sees(queries.head(i), query, key)
            })
        {
            continue;
        }
        let (mut unpacked_keys, mut unpacked_values) = (take(&mut scratch.keys), take(&mut scratch.values));
        let count = (end - key).min(step);
        let block = keys.block(cpu, heads.dim, key, count, &mut unpacked_keys, &mut unpacked_values);
        // One tile of queries at a time: its scores stay in the first-level cache until they are used.
        for tile in (0..rows).step_by(geometry.rows) {
            let tile = tile..(tile + geometry.rows).min(rows);
            // Trimmed to whole panels and groups around the last key that the tile sees.
            let cols = queries.seen(&mask, tile.end - 1).end.saturating_sub(key).min(step);
            if cols > 0 {
                query_tile(cpu, x, geometry, block, key, cols, queries, tile, scratch);
            }
        }
        (scratch.keys, scratch.values) = (unpacked_keys, unpacked_values);
    }
}

/// Adds what the queries `tile` of a block see of `cols` keys from `key` on.
#[expect(clippy::too_many_arguments, reason = "a tile of a block takes this many")]
fn query_tile(
    cpu: &Cpu,
    x: &Queries<'_>,
    geometry: Geometry,
    block: KeyBlock<'_>,
    key: usize,
    cols: usize,
    queries: &QueryRows,
    tile: Range<usize>,
    scratch: &mut Scratch,
) {
    let (dim, mask, format) = (x.heads.dim, x.mask, geometry.format);
    let dim_units = format.units(dim);
    let groups = format.groups(cols);
    let product = Block {
        a: Left::Packed(&scratch.queries[tile.start * dim_units..], Layout::Lines),
        rows: tile.len(),
        b: &[],
        panel_stride: dim_units * geometry.width,
        cols,
        groups: format.groups(dim),
        geometry,
    };
    let scores = Target::f32(scratch.scores.as_mut_ptr(), BLOCK_KEYS, false);
    // SAFETY: the scores are this thread's own, as many rows of `BLOCK_KEYS`.
    unsafe { block.keys.multiply(cpu.isa, product, scores) };

    let softmax = if format == Format::Bf16 { softmax_row::<bf16> } else { softmax_row::<f32> };
    for (row, i) in tile.clone().enumerate() {
        let seen = queries.seen(&mask, i);
        let (low, high) = (seen.start.saturating_sub(key).min(cols), seen.end.saturating_sub(key).min(cols));
        let scores = &mut scratch.scores[row * BLOCK_KEYS..][..groups * format.group_elements()];
        if !block.key_scales.is_empty() {
            multiply_by(cpu.isa, &block.key_scales[..cols], &mut scores[..cols]);
        }
        if let Some(sparse) = x.blocks {
            for (j, score) in (low..high).zip(&mut scores[low..high.max(low)]) {
                if !sparse.sees(queries.head(i), seen.end - 1, key + j) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        let out = &mut scratch.probabilities[row * PITCH..][..PITCH];
        let state = (scratch.largest[i], scratch.totals[i]);
        let (largest, total, correction) = softmax(cpu.isa, scores, low, high, x.scale_log2(), state, out);
        if !block.value_scales.is_empty() {
            let scales = &block.value_scales[..cols];
            match format {
                Format::Bf16 => {
                    multiply_by::<bf16>(cpu.isa, scales, &mut bytemuck::cast_slice_mut(out)[..cols])
                }
                _ => multiply_by::<f32>(cpu.isa, scales, &mut bytemuck::cast_slice_mut(out)[..cols]),
            }
        }
        (scratch.largest[i], scratch.totals[i]) = (largest, total);
        if correction != 1.0 {
            crate::elementwise::scale(cpu.isa, correction, &mut scratch.sums[i * dim..(i + 1) * dim]);
        }
    }
    let probabilities = if geometry.loads_rows(tile.len(), PITCH) {
        Left::Rows(&scratch.probabilities, PITCH)
    } else {
        let source = match format {
            Format::Bf16 => {
                let values: &[bf16] = bytemuck::cast_slice(&scratch.probabilities);
                Source::along_cols(values, 2 * PITCH)
            }
            _ => {
                let values: &[f32] = bytemuck::cast_slice(&scratch.probabilities);
                Source::along_cols(values, PITCH)
            }
        };
        let tiling = left_tiling(geometry, Layout::Lines, cols);
        pack(cpu.isa, &source, 0..tile.len(), 0..cols, tiling, &mut scratch.left);
        Left::Packed(&scratch.left, Layout::Lines)
    };
    let product = Block {
        a: probabilities,
        rows: tile.len(),
        b: &[],
        panel_stride: block.value_stride,
        cols: dim,
        groups,
        geometry,
    };
    let sums = Target::f32(scratch.sums[tile.start * dim..].as_mut_ptr(), dim, true);
    // SAFETY: the sums are this thread's own, as many rows of `dim`.
    unsafe { block.values.multiply(cpu.isa, product, sums) };
}

/// The vector of scores at `i`, those outside `low..high` as low as can be. A function and no closure: a closure
/// is not compiled for the instruction set of the kernel around it.
#[inline(always)]
fn seen<S: Simd>(s: S, scores: &[f32], i: usize, low: usize, high: usize) -> S::F {
    let lowest = s.splat(f32::NEG_INFINITY);
    let x = s.first_lanes(s.load(&scores[i..i + S::LANES]), high - i, lowest);
    s.first_lanes(lowest, low.saturating_sub(i), x)
}

kernel! {
    /// Writes `2^(score · scale − largest)` for scores `low..high` of a row, zero for the others. `state` is the
    /// largest scaled score and the total so far; gives both anew, and what the sums up to now must be multiplied
    /// with.
    fn softmax_row[D: Element](
        s, scores: &[f32], low: usize, high: usize, scale: f32, state: (f32, f32), out: &mut [u32],
    ) -> (f32, f32, f32) {
        let lanes = crate::simd::lanes_of(s);
        let (before, total) = state;
        let out: &mut [D] = &mut bytemuck::cast_slice_mut(out)[..scores.len()];
        if low >= high {
            out.fill(D::ZERO);
            return (before, total, 1.0);
        }
        // Whole vectors around what is seen; other lanes count as scores as low as can be.
        let (first, end) = (low / lanes * lanes, high.next_multiple_of(lanes));
        let inner = if first < low { first + lanes } else { first }..(high / lanes * lanes).max(first);
        let mut largest = s.max(seen(s, scores, first, low, high), seen(s, scores, end - lanes, low, high));
        for chunk in scores[inner.start.min(inner.end)..inner.end].chunks_exact(lanes) {
            largest = s.max(largest, s.load(chunk));
        }
        let largest = before.max(s.largest(largest) * scale);
        // If all scores are as low as can be, there is no difference to take.
        let shift = s.splat(if largest == f32::NEG_INFINITY { 0.0 } else { -largest });
        let scale = s.splat(scale);
        let mut sum = s.splat(0.0);
        out[..first].fill(D::ZERO);
        out[end..].fill(D::ZERO);
        let (before_inner, after_inner) = (first..inner.start.min(end), inner.end.max(inner.start).min(end)..end);
        for range in [before_inner, after_inner] {
            for i in range.step_by(lanes) {
                let p = exp2(s, s.fma(seen(s, scores, i, low, high), scale, shift));
                sum = s.add(sum, p);
                D::store(s, p, &mut out[i..i + lanes]);
            }
        }
        let inner = inner.start.min(inner.end)..inner.end;
        let vectors = scores[inner.clone()].chunks_exact(lanes);
        for (scores, out) in vectors.zip(out[inner].chunks_exact_mut(lanes)) {
            let p = exp2(s, s.fma(s.load(scores), scale, shift));
            sum = s.add(sum, p);
            D::store(s, p, out);
        }
        let correction = match before {
            f32::NEG_INFINITY => 0.0,
            _ if before == largest => 1.0,
            _ => (before - largest).exp2(),
        };
        (largest, total * correction + s.sum(sum), correction)
    }
}

kernel! {
    fn finish_row[E: Element](s, sums: &[f32], total: f32, out: &mut [E]) {
        let factor = s.splat(total.recip());
        for_lanes!(s, sums.len(), |i, n| { store(s, s.mul(load(s, sums, i, n), factor), out, i, n); });
    }
}
