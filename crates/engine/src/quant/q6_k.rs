//! Q6_K: 6 bits, `d·scale·(q - 32)`, with a signed scale of 8 bits for each 16 weights.
//!
//! 210 bytes: 128 with the low four bits of each `q`, 128 weights in 64 bytes, those 64 apart together; 64 with
//! the high two bits, 128 weights in 32 bytes, those 32 apart together; 16 scales; `d` as f16.

use bytemuck::{Pod, Zeroable};

use super::bits::{pack, unpack};
use super::group::number;
use super::search::Whole;
use super::superblock::fit_scales;
use super::{Block, SUPERBLOCK, from_f16};

/// Weights of a group.
const GROUP: usize = 16;
const LEVELS: Whole = Whole { low: -32.0, high: 31.0 };
const SCALES: Whole = Whole { low: -128.0, high: 127.0 };

/// The block.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q6K {
    low: [u8; SUPERBLOCK / 2],
    high: [u8; SUPERBLOCK / 4],
    scales: [i8; SUPERBLOCK / GROUP],
    d: [u8; 2],
}

impl Block for Q6K {
    const WEIGHTS: usize = SUPERBLOCK;

    fn dequantize(&self, out: &mut [f32]) {
        let mut q = [0; SUPERBLOCK];
        unpack(4, 64, 0, &self.low, &mut q);
        unpack(2, 32, 4, &self.high, &mut q);
        let d = from_f16(self.d);
        for ((scale, q), out) in self.scales.iter().zip(q.chunks(GROUP)).zip(out.chunks_mut(GROUP)) {
            let scale = d * f32::from(*scale);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * (f32::from(q) + LEVELS.low);
            }
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let fit = fit_scales::<GROUP>(LEVELS, SCALES, x, w);
        let mut q = [0; SUPERBLOCK];
        let mut block = Self { d: fit.d.to_le_bytes(), ..Self::zeroed() };
        for (g, (x, q)) in x.chunks(GROUP).zip(q.chunks_mut(GROUP)).enumerate() {
            number(LEVELS, x, fit.line(g), q);
            block.scales[g] = fit.factors[g] as i8;
        }
        pack(4, 64, 0, &q, &mut block.low);
        pack(2, 32, 4, &q, &mut block.high);
        block
    }
}
