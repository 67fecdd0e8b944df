//! The operators in f64, one token at a time, each in the order of its equation.

/// `x / sqrt(mean(x²) + eps) · weight`: Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4, with `eps`
/// under the root.
pub(crate) fn rms_norm(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
    let rms = root_mean_square(x, eps);
    x.iter().zip(weight).map(|(x, weight)| x / rms * weight).collect()
}

pub(crate) fn root_mean_square(x: &[f64], eps: f64) -> f64 {
    (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt()
}

/// The angle of a pair of coordinates: Su et al. 2021 (arXiv:2104.09864), equation 15.
pub(crate) fn angle(position: u32, pair: usize, dim: usize, base: f64) -> f64 {
    f64::from(position) * base.powf(-2.0 * pair as f64 / dim as f64)
}

/// The same as the published models have it, whose frequency and angle are rounded to f32.
pub(crate) fn rounded_angle(position: u32, pair: usize, dim: usize, base: f64) -> f64 {
    let frequency = base.powf(-2.0 * pair as f64 / dim as f64) as f32;
    f64::from(position as f32 * frequency)
}

/// The sine and cosine of every pair.
pub(crate) fn turns(dim: usize, angle: impl Fn(usize) -> f64) -> Vec<(f64, f64)> {
    (0..dim / 2).map(|pair| angle(pair).sin_cos()).collect()
}

/// Turns coordinates `j` and `j + dim / 2` as one point of the plane: equation 34, the pairs laid out in
/// halves.
pub(crate) fn rotate(x: &[f64], turns: &[(f64, f64)]) -> Vec<f64> {
    let (first, second) = x.split_at(turns.len());
    let pairs = || first.iter().zip(second).zip(turns);
    let turned_first = pairs().map(|((a, b), (sin, cos))| a * cos - b * sin);
    let turned_second = pairs().map(|((a, b), (sin, cos))| b * cos + a * sin);
    turned_first.chain(turned_second).collect()
}

/// `x · weightᵀ`.
pub(crate) fn linear(x: &[f64], weight: &[f64]) -> Vec<f64> {
    weight.chunks_exact(x.len()).map(|weight| dot(x, weight)).collect()
}

/// Softmax of `q · k / sqrt(dim)` over the keys, as weights of the values: Vaswani et al. 2017
/// (arXiv:1706.03762), equation 1.
pub(crate) fn attention(query: &[f64], keys: &[&[f64]], values: &[&[f64]]) -> Vec<f64> {
    let root = (query.len() as f64).sqrt();
    let scores: Vec<f64> = keys.iter().map(|key| dot(query, key) / root).collect();
    let log_z = log_partition(&scores);
    let mut out = vec![0.0; query.len()];
    for (score, value) in scores.iter().zip(values) {
        let p = (score - log_z).exp();
        out.iter_mut().zip(*value).for_each(|(out, value)| *out += p * value);
    }
    out
}

/// `swish(a) · b` of `[a | b]`: Shazeer 2020 (arXiv:2002.05202), equation 5, without biases.
pub(crate) fn swiglu(x: &[f64]) -> Vec<f64> {
    let (a, b) = x.split_at(x.len() / 2);
    a.iter().zip(b).map(|(a, b)| a * sigmoid(*a) * b).collect()
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `log Σ exp(logit)`.
pub(crate) fn log_partition(logits: &[f64]) -> f64 {
    let largest = logits.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    largest + logits.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
}

/// `−log softmax(logits)[target]`, and the square that PaLM's z-loss takes (arXiv:2204.02311, section 5).
pub(crate) fn cross_entropy(logits: &[f64], target: usize) -> [f64; 2] {
    let log_z = log_partition(logits);
    [log_z - logits[target], log_z * log_z]
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
