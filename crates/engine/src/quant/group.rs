//! The scale, or scale and offset, of one group of weights: where the [`search`](super::search) looks.

use super::search::{Levels, Line, TRIES, Whole, extreme, fit_lines, fit_scales, inverse};

/// Steps of the second round of [`best_line`]: of how much wider the levels lie, and of how far they are moved,
/// in parts of a level. Errors of all formats are within 0.3 % for anything between half and twice these.
const WIDER: f32 = 0.5;
const MOVED: f32 = 0.3;

/// Where try `t` is: from -1 to 7/8, try 8 in the middle.
#[inline(always)]
fn spread(t: usize) -> f32 {
    (2 * t) as f32 / TRIES as f32 - 1.0
}

/// The scale, of either sign, for which the levels come nearest to `x`.
///
/// The tries put the extreme weight at either end of the levels, or up to a level inside or outside of it. A second
/// round around the best of these gains less than 0.1 %.
#[inline(always)]
pub(super) fn best_scale(levels: impl Levels, x: &[f32], w: &[f32]) -> f32 {
    let extreme = extreme(x);
    let (low, high) = levels.range();
    let around = |end: f32| std::array::from_fn(|t| extreme / (end + spread(t) * levels.gap()));
    let (at_low, low_error) = fit_scales(levels, x, w, &around(low));
    let (at_high, high_error) = fit_scales(levels, x, w, &around(high));
    if high_error < low_error { at_high } else { at_low }
}

/// The line for which the levels `0..=high` come nearest to `x`; with `below`, its offset is not above 0.
///
/// The first tries start at the least weight and reach the largest with the last level, or with up to one more
/// or less. The second are around the best of these, four wider or narrower by four moved.
#[inline(always)]
pub(super) fn best_line(levels: Whole, x: &[f32], w: &[f32], below: bool) -> Line {
    let least = x.iter().fold(if below { 0.0 } else { x[0] }, |least, &x| if x < least { x } else { least });
    let largest = x.iter().fold(x[0], |largest, &x| if x > largest { x } else { largest });
    if largest <= least {
        return Line { scale: 0.0, offset: least };
    }
    let starts =
        std::array::from_fn(|t| Line { scale: (largest - least) / (levels.high + spread(t)), offset: least });
    let (first, first_error) = fit_lines(levels, x, w, &starts, below);
    let starts = std::array::from_fn(|t| {
        let (wider, moved) = (WIDER * ((t / 4) as f32 - 1.5), MOVED * ((t % 4) as f32 - 1.5));
        let scale = first.scale * (1.0 + wider / levels.high);
        // Wider to both sides.
        Line { scale, offset: first.offset + scale * (moved - 0.5 * wider) }
    });
    let (second, second_error) = fit_lines(levels, x, w, &starts, below);
    if second_error < first_error { second } else { first }
}

/// The number of the level nearest to each weight, counted from the lowest.
#[inline(always)]
pub(super) fn number(levels: Whole, x: &[f32], line: Line, q: &mut [u8]) {
    let inverse = inverse(line.scale);
    for (q, &x) in q.iter_mut().zip(x) {
        *q = (levels.nearest((x - line.offset) * inverse) - levels.low) as u8;
    }
}
