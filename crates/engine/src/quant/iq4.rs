//! IQ4_NL and IQ4_XS: 4 bits that choose from a table of 16 levels, denser around zero as weights are.
//!
//! IQ4_NL is `d·TABLE[q]`, 32 weights in 18 bytes: `d` as f16, then `q` with weight `i` beside weight `i + 16`.
//!
//! IQ4_XS is `d·(scale - 32)·TABLE[q]`, with a scale of 6 bits for each 32 weights, 256 weights in 136 bytes: `d`
//! as f16; 2 bytes with the high two bits of the 8 scales, 4 with the low four, in order; 128 of `q`, each 32
//! weights as above.

use bytemuck::{Pod, Zeroable};

use super::bits::{pack, unpack};
use super::group::best_scale;
use super::search::{Levels, Whole, inverse};
use super::superblock::fit_scales;
use super::{Block, SUPERBLOCK, from_f16, to_f16};

/// The levels.
const TABLE: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// Weights of a group.
const GROUP: usize = 32;
const GROUPS: usize = SUPERBLOCK / GROUP;
const SCALES: Whole = Whole { low: -32.0, high: 31.0 };

/// The levels of [`TABLE`].
#[derive(Clone, Copy)]
struct Table;

impl Levels for Table {
    #[inline(always)]
    fn nearest(self, v: f32) -> f32 {
        let mut level = TABLE[0];
        for pair in TABLE.windows(2) {
            level = if v > 0.5 * (pair[0] + pair[1]) { pair[1] } else { level };
        }
        level
    }

    #[inline(always)]
    fn range(self) -> (f32, f32) {
        (TABLE[0], TABLE[15])
    }

    #[inline(always)]
    fn gap(self) -> f32 {
        TABLE[15] - TABLE[14]
    }
}

/// The number of the level nearest to each weight.
#[inline(always)]
fn number(x: &[f32], scale: f32, q: &mut [u8]) {
    let inverse = inverse(scale);
    for (q, &x) in q.iter_mut().zip(x) {
        let v = x * inverse;
        *q = TABLE.windows(2).map(|pair| u8::from(v > 0.5 * (pair[0] + pair[1]))).sum();
    }
}

/// One scale.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Iq4Nl {
    d: [u8; 2],
    q: [u8; GROUP / 2],
}

impl Block for Iq4Nl {
    const WEIGHTS: usize = GROUP;

    fn dequantize(&self, out: &mut [f32]) {
        let (d, mut q) = (from_f16(self.d), [0; GROUP]);
        unpack(4, 16, 0, &self.q, &mut q);
        for (out, q) in out.iter_mut().zip(q) {
            *out = d * TABLE[usize::from(q)];
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let mut q = [0; GROUP];
        let mut block = Self { d: to_f16(best_scale(Table, x, w)).to_le_bytes(), ..Self::zeroed() };
        number(x, from_f16(block.d), &mut q);
        pack(4, 16, 0, &q, &mut block.q);
        block
    }
}

/// A scale for each group.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Iq4Xs {
    d: [u8; 2],
    scales_high: [u8; GROUPS / 4],
    scales_low: [u8; GROUPS / 2],
    q: [u8; SUPERBLOCK / 2],
}

impl Block for Iq4Xs {
    const WEIGHTS: usize = SUPERBLOCK;

    fn dequantize(&self, out: &mut [f32]) {
        let (mut q, mut scales) = ([0; SUPERBLOCK], [0; GROUPS]);
        unpack(4, 16, 0, &self.q, &mut q);
        unpack(4, 1, 0, &self.scales_low, &mut scales);
        unpack(2, 1, 4, &self.scales_high, &mut scales);
        let d = from_f16(self.d);
        for ((scale, q), out) in scales.iter().zip(q.chunks(GROUP)).zip(out.chunks_mut(GROUP)) {
            let scale = d * (f32::from(*scale) + SCALES.low);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * TABLE[usize::from(q)];
            }
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let fit = fit_scales::<GROUP>(Table, SCALES, x, w);
        let (mut q, mut scales) = ([0; SUPERBLOCK], [0; GROUPS]);
        for (g, (x, q)) in x.chunks(GROUP).zip(q.chunks_mut(GROUP)).enumerate() {
            number(x, fit.line(g).scale, q);
            scales[g] = (fit.factors[g] - SCALES.low) as u8;
        }
        let mut block = Self { d: fit.d.to_le_bytes(), ..Self::zeroed() };
        pack(4, 16, 0, &q, &mut block.q);
        pack(4, 1, 0, &scales, &mut block.scales_low);
        pack(2, 1, 4, &scales, &mut block.scales_high);
        block
    }
}
