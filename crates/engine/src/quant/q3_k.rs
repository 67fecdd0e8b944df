//! Q3_K: 3 bits, `d·(scale - 32)·(q - 4)`, with a scale of 6 bits for each 16 weights.
//!
//! 110 bytes: 32 with the high bit of each `q`, weights 32 apart together; 64 with the low two bits, 128 weights
//! in 32 bytes, those 32 apart together; 12 of scales; `d` as f16. The first 8 bytes of the scales hold the low
//! four bits of the 16, those 8 apart together, the last 4 the high two, those 4 apart together.

use bytemuck::{Pod, Zeroable};

use super::bits::{pack, unpack};
use super::group::number;
use super::search::Whole;
use super::superblock::fit_scales;
use super::{Block, SUPERBLOCK, from_f16};

/// Weights of a group, and how many groups there are.
const GROUP: usize = 16;
const GROUPS: usize = SUPERBLOCK / GROUP;
const LEVELS: Whole = Whole { low: -4.0, high: 3.0 };
const SCALES: Whole = Whole { low: -32.0, high: 31.0 };

/// The block.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q3K {
    high: [u8; SUPERBLOCK / 8],
    low: [u8; SUPERBLOCK / 4],
    scales_low: [u8; GROUPS / 2],
    scales_high: [u8; GROUPS / 4],
    d: [u8; 2],
}

impl Block for Q3K {
    const WEIGHTS: usize = SUPERBLOCK;

    fn dequantize(&self, out: &mut [f32]) {
        let (mut q, mut scales) = ([0; SUPERBLOCK], [0; GROUPS]);
        unpack(2, 32, 0, &self.low, &mut q);
        unpack(1, 32, 2, &self.high, &mut q);
        unpack(4, 8, 0, &self.scales_low, &mut scales);
        unpack(2, 4, 4, &self.scales_high, &mut scales);
        let d = from_f16(self.d);
        for ((scale, q), out) in scales.iter().zip(q.chunks(GROUP)).zip(out.chunks_mut(GROUP)) {
            let scale = d * (f32::from(*scale) + SCALES.low);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * (f32::from(q) + LEVELS.low);
            }
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let fit = fit_scales::<GROUP>(LEVELS, SCALES, x, w);
        let (mut q, mut scales) = ([0; SUPERBLOCK], [0; GROUPS]);
        for (g, (x, q)) in x.chunks(GROUP).zip(q.chunks_mut(GROUP)).enumerate() {
            number(LEVELS, x, fit.line(g), q);
            scales[g] = (fit.factors[g] - SCALES.low) as u8;
        }
        let mut block = Self { d: fit.d.to_le_bytes(), ..Self::zeroed() };
        pack(2, 32, 0, &q, &mut block.low);
        pack(1, 32, 2, &q, &mut block.high);
        pack(4, 8, 0, &scales, &mut block.scales_low);
        pack(2, 4, 4, &scales, &mut block.scales_high);
        block
    }
}
