//! Q4_K and Q5_K: `d·scale·q - dmin·min`, with a scale and a min of 6 bits for each 32 weights.
//!
//! 144 bytes: `d` and `dmin` as f16, 12 bytes of scales and mins, 128 with the low four bits of each `q`, 64
//! weights in 32 bytes, those 32 apart together. Q5_K has 32 bytes more, before those: the fifth bits, weights 32
//! apart together.

use bytemuck::{Pod, Zeroable};

use super::bits::{pack, unpack};
use super::group::number;
use super::search::Whole;
use super::superblock::{Lines, fit_lines};
use super::{Block, SUPERBLOCK, from_f16};

/// Weights of a group, and how many groups there are.
const GROUP: usize = 32;
const GROUPS: usize = SUPERBLOCK / GROUP;
/// The largest scale or min.
const MOST: f32 = 63.0;

/// What both formats begin with.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Header {
    d: [u8; 2],
    dmin: [u8; 2],
    /// Scales of groups 0 to 3 in the low six bits of bytes 0 to 3, their mins likewise in bytes 4 to 7. Groups
    /// 4 to 7 have the low four bits of scale and min in the halves of bytes 8 to 11, and the high two bits on
    /// top of the scales and of the mins before.
    factors: [u8; 12],
}

impl Header {
    #[inline(always)]
    fn new(lines: &Lines) -> Self {
        let mut factors = [0; 12];
        for g in 0..4 {
            let [s, m, s4, m4] =
                [lines.scales[g], lines.mins[g], lines.scales[g + 4], lines.mins[g + 4]].map(|f| f as u8);
            factors[g] = s | (s4 >> 4) << 6;
            factors[g + 4] = m | (m4 >> 4) << 6;
            factors[g + 8] = (s4 & 15) | (m4 & 15) << 4;
        }
        Self { d: lines.d.to_le_bytes(), dmin: lines.dmin.to_le_bytes(), factors }
    }

    /// Scale and min of group `g` as they multiply.
    fn line(&self, g: usize) -> (f32, f32) {
        let f = &self.factors;
        let (scale, min) = if g < 4 {
            (f[g] & 63, f[g + 4] & 63)
        } else {
            ((f[g + 4] & 15) | (f[g - 4] >> 6) << 4, (f[g + 4] >> 4) | (f[g] >> 6) << 4)
        };
        (from_f16(self.d) * f32::from(scale), from_f16(self.dmin) * f32::from(min))
    }

    fn dequantize(&self, q: &[u8], out: &mut [f32]) {
        for (g, (q, out)) in q.chunks(GROUP).zip(out.chunks_mut(GROUP)).enumerate() {
            let (scale, min) = self.line(g);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * f32::from(q) - min;
            }
        }
    }

    #[inline(always)]
    fn quantize(levels: Whole, x: &[f32], w: &[f32]) -> (Self, [u8; SUPERBLOCK]) {
        let lines = fit_lines::<GROUP>(levels, MOST, &[[1.0, 1.0]], x, w);
        let mut q = [0; SUPERBLOCK];
        for g in 0..GROUPS {
            let range = g * GROUP..(g + 1) * GROUP;
            number(levels, &x[range.clone()], lines.line(g), &mut q[range]);
        }
        (Self::new(&lines), q)
    }
}

/// 4 bits.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4K {
    header: Header,
    q: [u8; SUPERBLOCK / 2],
}

impl Block for Q4K {
    const WEIGHTS: usize = SUPERBLOCK;

    fn dequantize(&self, out: &mut [f32]) {
        let mut q = [0; SUPERBLOCK];
        unpack(4, 32, 0, &self.q, &mut q);
        self.header.dequantize(&q, out);
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let (header, q) = Header::quantize(Whole { low: 0.0, high: 15.0 }, x, w);
        let mut block = Self { header, ..Self::zeroed() };
        pack(4, 32, 0, &q, &mut block.q);
        block
    }
}

/// 5 bits.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5K {
    header: Header,
    high: [u8; SUPERBLOCK / 8],
    low: [u8; SUPERBLOCK / 2],
}

impl Block for Q5K {
    const WEIGHTS: usize = SUPERBLOCK;

    fn dequantize(&self, out: &mut [f32]) {
        let mut q = [0; SUPERBLOCK];
        unpack(4, 32, 0, &self.low, &mut q);
        unpack(1, 32, 4, &self.high, &mut q);
        self.header.dequantize(&q, out);
    }

    #[inline(always)]
    fn quantize(x: &[f32], w: &[f32]) -> Self {
        let (header, q) = Header::quantize(Whole { low: 0.0, high: 31.0 }, x, w);
        let mut block = Self { header, ..Self::zeroed() };
        pack(4, 32, 0, &q, &mut block.low);
        pack(1, 32, 4, &q, &mut block.high);
        block
    }
}
