//! Layer-wise scaling: how wide each layer is.
//!
//! OpenELM's one idea: layers near the input get fewer attention heads and a narrower feed-forward network,
//! layers near the output more. Two multipliers grow linearly from the first layer to the last, and every
//! width is rounded to a multiple of a divisor. The roundings are part of the definition: leave one out and
//! some layer of a published model gets another shape.
//!
//! Source: Mehta et al. 2024, arXiv:2404.14619, section 2.1; the roundings as in Apple's CoreNet.

/// One multiplier per layer, in a straight line from `first` to `last`, rounded to two decimals.
///
/// The last value is `last` itself; a single layer gets `first`.
///
/// # Source
/// `numpy.linspace` followed by `numpy.round(_, 2)`, operation by operation, in f64.
#[must_use]
pub fn multipliers(first: f64, last: f64, n_layers: usize) -> Vec<f64> {
    if n_layers == 1 {
        return vec![round2(first)];
    }
    let step = (last - first) / (n_layers as f64 - 1.0);
    let straight = |layer: usize| if layer + 1 == n_layers { last } else { layer as f64 * step + first };
    (0..n_layers).map(|layer| round2(straight(layer))).collect()
}

/// Query heads of a layer: `model_dim · multiplier` rounded to whole groups of heads.
///
/// The group ratio (query heads per key-value head) belongs to the divisor, so the heads of every layer
/// can be shared out evenly.
#[must_use]
pub fn query_heads(model_dim: usize, multiplier: f64, head_dim: usize, num_gqa_groups: usize) -> usize {
    make_divisible(model_dim as f64 * multiplier, head_dim * num_gqa_groups) / head_dim
}

/// Width of the feed-forward network of a layer: `multiplier · model_dim` rounded to the divisor.
#[must_use]
pub fn ffn_dim(model_dim: usize, multiplier: f64, ffn_dim_divisor: usize) -> usize {
    make_divisible(multiplier * model_dim as f64, ffn_dim_divisor)
}

/// `value` rounded to the nearest multiple of `divisor`, at least one of them, and the next one up where
/// rounding down would lose more than a tenth.
fn make_divisible(value: f64, divisor: usize) -> usize {
    let whole = (value + divisor as f64 / 2.0) as usize;
    let rounded = (whole / divisor * divisor).max(divisor);
    if (rounded as f64) < 0.9 * value { rounded + divisor } else { rounded }
}

/// Two decimals, ties to even, as numpy rounds an f64.
fn round2(value: f64) -> f64 {
    (value * 100.0).round_ties_even() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipliers_are_those_of_the_published_270m_file() {
        let expected =
            [0.5, 0.73, 0.97, 1.2, 1.43, 1.67, 1.9, 2.13, 2.37, 2.6, 2.83, 3.07, 3.3, 3.53, 3.77, 4.0];
        assert_eq!(multipliers(0.5, 4.0, 16), expected);
        assert_eq!(multipliers(0.5, 4.0, 1), [0.5]);
        assert_eq!(multipliers(0.5, 4.0, 2), [0.5, 4.0]);
    }

    #[test]
    fn a_loss_of_more_than_a_tenth_rounds_up() {
        assert_eq!(make_divisible(1.0, 256), 256);
        assert_eq!(make_divisible(300.0, 256), 512, "256 would be less than 0.9 x 300");
        assert_eq!(make_divisible(284.0, 256), 256);
        assert_eq!(make_divisible(383.5, 256), 512, "the half is added before the cut");
    }
}
