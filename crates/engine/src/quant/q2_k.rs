//! Q2_K: 2 bits, `d·scale·q - dmin·min`, with a scale and a min of 4 bits for each 16 weights.
//!
//! 84 bytes: one for each of 16 groups, scale in its low half and min in its high; 64 bytes of `q`, 128 weights
//! in 32 bytes, those 32 apart together; `d` and `dmin` as f16.

use bytemuck::{Pod, Zeroable};

use super::bits::{pack, unpack};
use super::group::number;
use super::search::Whole;
use super::superblock::fit_lines;
use super::{Block, SUPERBLOCK, from_f16};

/// Weights of a group.
const GROUP: usize = 16;
const LEVELS: Whole = Whole { low: 0.0, high: 3.0 };
/// Parts of the largest scale and min to start from. With 15 factors, one group with an outlier would leave all
/// others next to none.
const SHARES: [[f32; 2]; 4] = [[1.0, 1.0], [0.5, 1.0], [1.0, 0.5], [0.5, 0.5]];

/// The block.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q2K {
    groups: [u8; SUPERBLOCK / GROUP],
    q: [u8; SUPERBLOCK / 4],
    d: [u8; 2],
    dmin: [u8; 2],
}

impl Block for Q2K {
    const WEIGHTS: usize = SUPERBLOCK;

    fn dequantize(&self, out: &mut [f32]) {
        let mut q = [0; SUPERBLOCK];
        unpack(2, 32, 0, &self.q, &mut q);
        let (d, dmin) = (from_f16(self.d), from_f16(self.dmin));
        for ((group, q), out) in self.groups.iter().zip(q.chunks(GROUP)).zip(out.chunks_mut(GROUP)) {
            let (scale, min) = (d * f32::from(group & 15), dmin * f32::from(group >> 4));
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * f32::from(q) - min;
            }
        }
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let lines = fit_lines::<GROUP>(LEVELS, 15.0, &SHARES, x, w);
        let mut q = [0; SUPERBLOCK];
        let mut block = Self { d: lines.d.to_le_bytes(), dmin: lines.dmin.to_le_bytes(), ..Self::zeroed() };
        for (g, (x, q)) in x.chunks(GROUP).zip(q.chunks_mut(GROUP)).enumerate() {
            number(LEVELS, x, lines.line(g), q);
            block.groups[g] = lines.scales[g] as u8 | (lines.mins[g] as u8) << 4;
        }
        pack(2, 32, 0, &q, &mut block.q);
        block
    }
}
