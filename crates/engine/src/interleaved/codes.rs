//! Blocks of the file taken apart into codes and scales, and put together again sixteen rows at a time.
//!
//! Where the bits lie in each format is described in [`crate::quant`].

use super::form::{BLOCK, Form, GROUP, GROUPS, QUAD, ROWS, by_format};
use crate::quant::BlockFormat;

/// 256 weights of one row.
struct Codes {
    codes: [u8; BLOCK],
    /// f16 scales and minima: of the block, or of every group of 32.
    scales: [[u8; 2]; GROUPS],
    minima: [[u8; 2]; GROUPS],
    /// Whole-numbered ones of the groups.
    whole_scales: [u8; 16],
    whole_minima: [u8; 16],
}

impl Codes {
    /// Weights that are zero, which is what rows and columns beyond the matrix are.
    const ZERO: Self = Self {
        codes: [0; BLOCK],
        scales: [[0; 2]; GROUPS],
        minima: [[0; 2]; GROUPS],
        whole_scales: [0; 16],
        whole_minima: [0; 16],
    };

    /// Reads up to 256 weights of a row.
    fn read(&mut self, format: BlockFormat, blocks: &[u8]) {
        if format.weights() == BLOCK {
            self.read_block(format, blocks);
        } else {
            for (group, block) in blocks.chunks_exact(format.bytes()).enumerate() {
                self.read_group(format, group, block);
            }
        }
    }

    /// 32 weights of the formats with small blocks.
    fn read_group(&mut self, format: BlockFormat, group: usize, block: &[u8]) {
        let codes = &mut self.codes[GROUP * group..GROUP * (group + 1)];
        self.scales[group] = [block[0], block[1]];
        let has_minimum = matches!(format, BlockFormat::Q4_1 | BlockFormat::Q5_1);
        if has_minimum {
            self.minima[group] = [block[2], block[3]];
        }
        let block = &block[if has_minimum { 4 } else { 2 }..];
        if format == BlockFormat::Q8_0 {
            for (code, byte) in codes.iter_mut().zip(block) {
                *code = byte ^ 0x80;
            }
            return;
        }
        let fifth = matches!(format, BlockFormat::Q5_0 | BlockFormat::Q5_1);
        nibbles(&block[if fifth { 4 } else { 0 }..][..16], codes);
        if fifth {
            let bits = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            for (i, code) in codes.iter_mut().enumerate() {
                *code |= ((bits >> i & 1) as u8) << 4;
            }
        }
    }

    /// 256 weights of the formats with large blocks.
    fn read_block(&mut self, format: BlockFormat, block: &[u8]) {
        let half = |at: usize| [block[at], block[at + 1]];
        match format {
            BlockFormat::Q4K | BlockFormat::Q5K => {
                (self.scales[0], self.minima[0]) = (half(0), half(2));
                self.six_bit_pairs(&block[4..16]);
                let quants = if format == BlockFormat::Q4K { &block[16..] } else { &block[48..] };
                for (pair, codes) in quants.chunks_exact(GROUP).zip(self.codes.chunks_exact_mut(2 * GROUP)) {
                    nibbles(pair, codes);
                }
                if format == BlockFormat::Q5K {
                    for (group, codes) in self.codes.chunks_exact_mut(GROUP).enumerate() {
                        for (code, bits) in codes.iter_mut().zip(&block[16..48]) {
                            *code |= (bits >> group & 1) << 4;
                        }
                    }
                }
            }
            BlockFormat::Q6K => {
                self.scales[0] = half(208);
                self.whole_scales.copy_from_slice(&block[192..208]);
                for (i, codes) in self.codes.chunks_exact_mut(GROUP).enumerate() {
                    let (part, quarter) = (i / 4, i % 4);
                    let low = &block[64 * part + GROUP * (quarter % 2)..][..GROUP];
                    let high = &block[128 + GROUP * part..][..GROUP];
                    let (low_shift, high_shift) = (4 * (quarter / 2), 2 * quarter);
                    for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
                        *code = (low >> low_shift & 15) | (high >> high_shift & 3) << 4;
                    }
                }
            }
            BlockFormat::Q2K => {
                (self.scales[0], self.minima[0]) = (half(80), half(82));
                for (i, byte) in block[..16].iter().enumerate() {
                    (self.whole_scales[i], self.whole_minima[i]) = (byte & 15, byte >> 4);
                }
                self.two_bits(&block[16..80]);
            }
            BlockFormat::Q3K => {
                self.scales[0] = half(108);
                let packed = &block[96..108];
                for (i, scale) in self.whole_scales.iter_mut().enumerate() {
                    let low = packed[i % 8] >> (4 * (i / 8)) & 15;
                    let high = packed[8 + i % 4] >> (2 * (i / 4)) & 3;
                    *scale = (low | high << 4).wrapping_sub(32);
                }
                self.two_bits(&block[32..96]);
                for (group, codes) in self.codes.chunks_exact_mut(GROUP).enumerate() {
                    for (code, bits) in codes.iter_mut().zip(&block[..32]) {
                        *code |= (bits >> group & 1) << 2;
                    }
                }
            }
            BlockFormat::Iq4Xs => {
                self.scales[0] = half(0);
                let high = u16::from_le_bytes(half(2));
                for i in 0..GROUPS {
                    let low = block[4 + i / 2] >> (4 * (i % 2)) & 15;
                    let high = (high >> (2 * i) & 3) as u8;
                    self.whole_scales[i] = (low | high << 4).wrapping_sub(32);
                }
                for (pair, codes) in block[8..].chunks_exact(16).zip(self.codes.chunks_exact_mut(GROUP)) {
                    nibbles(pair, codes);
                }
            }
            _ => unreachable!("{format:?} has small blocks"),
        }
    }

    /// Twelve bytes that hold eight scales and eight minima of six bits.
    fn six_bit_pairs(&mut self, packed: &[u8]) {
        for i in 0..4 {
            (self.whole_scales[i], self.whole_minima[i]) = (packed[i] & 63, packed[i + 4] & 63);
            self.whole_scales[i + 4] = (packed[i + 8] & 15) | (packed[i] >> 6) << 4;
            self.whole_minima[i + 4] = (packed[i + 8] >> 4) | (packed[i + 4] >> 6) << 4;
        }
    }

    /// 64 bytes of four codes each; 32 bytes hold four times 32 columns.
    fn two_bits(&mut self, quants: &[u8]) {
        for (i, codes) in self.codes.chunks_exact_mut(GROUP).enumerate() {
            for (code, byte) in codes.iter_mut().zip(&quants[GROUP * (i / 4)..]) {
                *code = byte >> (2 * (i % 4)) & 3;
            }
        }
    }
}

/// Lower halves of the bytes, then upper halves.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// Puts up to sixteen rows of `cols` columns together as a strip of [`super::form::block_bytes`] per block.
/// `rows` holds them one after the other as in the file; rows that are missing are zeros.
pub(crate) fn interleave(format: BlockFormat, rows: &[u8], cols: usize, strip: &mut [u8]) {
    let row_bytes = cols / format.weights() * format.bytes();
    let block_in = BLOCK / format.weights() * format.bytes();
    let mut codes = [const { Codes::ZERO }; ROWS];
    by_format!(format, F => {
        for (b, block) in strip.chunks_exact_mut(F::BYTES).enumerate() {
            if cols - b * BLOCK < BLOCK {
                codes = [const { Codes::ZERO }; ROWS];
            }
            for (codes, row) in codes.iter_mut().zip(rows.chunks_exact(row_bytes)) {
                codes.read(format, &row[b * block_in..((b + 1) * block_in).min(row_bytes)]);
            }
            write_block::<F>(&codes, block);
        }
    });
}

fn write_block<F: Form>(rows: &[Codes; ROWS], block: &mut [u8]) {
    for (l, row) in rows.iter().enumerate() {
        for g in 0..F::HALVES / (2 * ROWS) {
            let at = 2 * (g * ROWS + l);
            block[at..at + 2].copy_from_slice(&row.scales[g]);
            if F::MINIMA {
                block[F::HALVES + at..F::HALVES + at + 2].copy_from_slice(&row.minima[g]);
            }
        }
        for g in 0..F::WHOLES / ROWS {
            block[F::WHOLES_AT + g * ROWS + l] = row.whole_scales[g];
            if F::MINIMA {
                block[F::WHOLES_AT + F::WHOLES + g * ROWS + l] = row.whole_minima[g];
            }
        }
    }
    let mut quads = [[0_u8; QUAD]; 8];
    for (g, group) in block[F::CODES_AT..].chunks_exact_mut(F::GROUP_BYTES).enumerate() {
        for (t, quad) in quads.iter_mut().enumerate() {
            for (four, row) in quad.chunks_exact_mut(4).zip(rows) {
                four.copy_from_slice(&row.codes[g * GROUP + 4 * t..][..4]);
            }
        }
        let (low, high) = group.split_at_mut(QUAD * F::LOW_BITS);
        write_field(&quads, 0, F::LOW_BITS, low);
        write_field(&quads, F::LOW_BITS, F::HIGH_BITS, high);
    }
}

/// `bits` bits of every code from bit `from` on: 64 bytes hold those of `8 / bits` quads, which lie `bits` apart.
fn write_field(quads: &[[u8; QUAD]; 8], from: usize, bits: usize, out: &mut [u8]) {
    for (i, out) in out.chunks_exact_mut(QUAD).enumerate() {
        out.fill(0);
        for j in 0..8 / bits {
            let mask = ((1_u16 << bits) - 1) as u8;
            for (out, code) in out.iter_mut().zip(&quads[quad_of(bits, i, j)]) {
                *out |= (code >> from & mask) << (bits * j);
            }
        }
    }
}

/// The quad whose bits are field `j` of the `i`-th 64 bytes.
pub(crate) const fn quad_of(bits: usize, i: usize, j: usize) -> usize {
    i + bits * j
}
