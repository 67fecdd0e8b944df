//! What the codes of each block format mean, and how a strip of sixteen rows holds them.
//!
//! Sixteen rows of a quantised matrix lie together as a *strip*, cut into blocks of 256 columns. A block is
//!
//! | part | bytes |
//! |---|---|
//! | scales as f16, a row each: one of the block, or one of each group of 32 | 32, or 256 |
//! | minima as f16, if the format has them, likewise | 32, or 256 |
//! | whole-numbered scales of the groups where the block has one: `[256 / group][16]` | 16 a group |
//! | whole-numbered minima, likewise | 16 a group |
//! | up to the next cache line | |
//! | codes: eight times 32 columns | 8 · 64 · bits |
//!
//! 32 columns are eight *quads* of 64 bytes, a quad being four columns of each row, `[16][4]`: what one
//! instruction multiplies with four activations into sixteen sums. The lower bits of the codes come first, two or
//! four quads sharing 64 bytes where they are that narrow; then the upper bits, likewise. A code takes as many bits as
//! in the file; scales of 6 or 4 bits take a byte, 3 % of a block of 4 bits.

use crate::quant::BlockFormat;

/// Rows of a strip.
pub(crate) const ROWS: usize = 16;
/// Columns of a block.
pub(crate) const BLOCK: usize = 256;
/// Columns that are multiplied as integers before anything is rounded.
pub(crate) const GROUP: usize = 32;
/// Groups of a block.
pub(crate) const GROUPS: usize = BLOCK / GROUP;
/// Bytes of four columns of sixteen rows.
pub(crate) const QUAD: usize = 64;

/// Values of the non-linear formats, raised by 128.
pub(crate) const LEVELS: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// One block format: `weight = scale · (code − BIAS) − minimum`, or `+ minimum` where minima are f16.
pub(crate) trait Form: Copy + 'static {
    /// Lower bits of a code, which are stored together.
    const LOW_BITS: usize;
    /// Upper bits of a code.
    const HIGH_BITS: usize;
    /// What code stands for zero.
    const BIAS: i32;
    /// Whether codes stand for [`LEVELS`].
    const LEVELED: bool = false;
    /// Columns with a scale of their own: 16 or 32.
    const SCALED: usize = GROUP;
    /// Whether a block has one f16 scale and groups whole-numbered ones; else every group has an f16 scale.
    const WHOLE: bool;
    /// Whether whole-numbered scales have a sign.
    const SIGNED: bool = false;
    /// Whether there are minima.
    const MINIMA: bool;

    /// Bytes of f16 scales, and of f16 minima if there are any.
    const HALVES: usize = if Self::WHOLE { 2 * ROWS } else { 2 * ROWS * GROUPS };
    /// Bytes of whole-numbered scales, and of such minima if there are any.
    const WHOLES: usize = if Self::WHOLE { BLOCK / Self::SCALED * ROWS } else { 0 };
    /// Where whole-numbered scales begin.
    const WHOLES_AT: usize = Self::HALVES * (1 + Self::MINIMA as usize);
    /// Where codes begin.
    const CODES_AT: usize =
        (Self::WHOLES_AT + Self::WHOLES * (1 + Self::MINIMA as usize)).next_multiple_of(QUAD);
    /// Bytes of the codes of a group.
    const GROUP_BYTES: usize = QUAD * (Self::LOW_BITS + Self::HIGH_BITS);
    /// Bytes of a block.
    const BYTES: usize = Self::CODES_AT + GROUPS * Self::GROUP_BYTES;
}

macro_rules! forms {
    ($($name:ident { $($constant:ident = $value:expr),* $(,)? })*) => {$(
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $name;
        impl Form for $name {
            $(const $constant: forms!(@type $constant) = $value;)*
        }
    )*};
    (@type LOW_BITS) => { usize };
    (@type HIGH_BITS) => { usize };
    (@type SCALED) => { usize };
    (@type BIAS) => { i32 };
    (@type $other:ident) => { bool };
}

forms! {
    Q4_0 { LOW_BITS = 4, HIGH_BITS = 0, BIAS = 8, WHOLE = false, MINIMA = false }
    Q4_1 { LOW_BITS = 4, HIGH_BITS = 0, BIAS = 0, WHOLE = false, MINIMA = true }
    Q5_0 { LOW_BITS = 4, HIGH_BITS = 1, BIAS = 16, WHOLE = false, MINIMA = false }
    Q5_1 { LOW_BITS = 4, HIGH_BITS = 1, BIAS = 0, WHOLE = false, MINIMA = true }
    Q8_0 { LOW_BITS = 8, HIGH_BITS = 0, BIAS = 128, WHOLE = false, MINIMA = false }
    Q2K { LOW_BITS = 2, HIGH_BITS = 0, BIAS = 0, SCALED = 16, WHOLE = true, MINIMA = true }
    Q3K { LOW_BITS = 2, HIGH_BITS = 1, BIAS = 4, SCALED = 16, WHOLE = true, SIGNED = true, MINIMA = false }
    Q4K { LOW_BITS = 4, HIGH_BITS = 0, BIAS = 0, WHOLE = true, MINIMA = true }
    Q5K { LOW_BITS = 4, HIGH_BITS = 1, BIAS = 0, WHOLE = true, MINIMA = true }
    Q6K { LOW_BITS = 4, HIGH_BITS = 2, BIAS = 32, SCALED = 16, WHOLE = true, SIGNED = true, MINIMA = false }
    Iq4Nl { LOW_BITS = 4, HIGH_BITS = 0, BIAS = 128, LEVELED = true, WHOLE = false, MINIMA = false }
    Iq4Xs { LOW_BITS = 4, HIGH_BITS = 0, BIAS = 128, LEVELED = true, WHOLE = true, SIGNED = true, MINIMA = false }
}

/// Calls `$body` with `$Form` as the type that stands for a [`BlockFormat`].
macro_rules! by_format {
    ($format:expr, $Form:ident => $body:expr) => {
        by_format!(@each $format, $Form => $body, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K Iq4Nl Iq4Xs)
    };
    (@each $format:expr, $Form:ident => $body:expr, $($name:ident)*) => {
        match $format {
            $($crate::quant::BlockFormat::$name => {
                type $Form = $crate::interleaved::form::$name;
                $body
            })*
        }
    };
}
pub(crate) use by_format;

/// Bytes of a block of sixteen rows.
pub(crate) fn block_bytes(format: BlockFormat) -> usize {
    by_format!(format, F => F::BYTES)
}
