//! Choosing a token from logits.

use elmwood_model::random::philox4x32;
use serde::{Deserialize, Serialize};

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Logits are divided by this; 0 always takes the most likely token.
    pub temperature: f32,
    /// Only this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together have this probability; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the most likely one; 0 for all.
    pub min_p: f32,
    /// Where random choices start.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 0, top_p: 0.95, min_p: 0.0, seed: 1 }
    }
}

/// Draws tokens; the n-th draw depends on the logits, the seed and n alone.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    draws: u64,
    /// Tokens by probability, kept to reuse the memory.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler that has drawn nothing yet.
    #[must_use]
    pub fn new(sampling: Sampling) -> Self {
        Self { sampling, draws: 0, candidates: Vec::new() }
    }

    /// Chooses a token; of equally likely ones the smaller id comes first. Logits that are no numbers are
    /// never chosen.
    ///
    /// # Panics
    /// Without a single logit that is a number.
    pub fn draw(&mut self, logits: &[f32]) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, seed } = self.sampling;
        let counter = [self.draws as u32, (self.draws >> 32) as u32, 0, 0];
        self.draws += 1;
        let all = logits.iter().zip(0..).filter(|(logit, _)| !logit.is_nan()).map(|(logit, id)| (*logit, id));
        self.candidates.clear();
        self.candidates.extend(all);
        let by_logit = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if temperature <= 0.0 {
            return self.candidates.iter().copied().min_by(by_logit).expect("a logit that is a number").1;
        }
        if top_k > 0 && top_k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(top_k - 1, by_logit);
            self.candidates.truncate(top_k);
        }
        self.candidates.sort_unstable_by(by_logit);
        let largest = self.candidates.first().expect("a logit that is a number").0;
        let mut total = 0.0_f64;
        for (value, _) in &mut self.candidates {
            *value = ((*value - largest) / temperature).exp();
            total += f64::from(*value);
        }
        // Cut by probability: the smallest set of the most likely ones that reaches `top_p`.
        let (mut kept, mut sum) = (0, 0.0_f64);
        for (p, _) in &self.candidates {
            if kept > 0 && (sum >= f64::from(top_p) * total || *p < min_p) {
                break;
            }
            sum += f64::from(*p);
            kept += 1;
        }
        let [low, high, ..] = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
        let uniform = (u64::from(low) | u64::from(high) << 32) as f64 / 2.0_f64.powi(64);
        let mut rest = uniform * sum;
        for (p, id) in &self.candidates[..kept] {
            rest -= f64::from(*p);
            if rest < 0.0 {
                return *id;
            }
        }
        self.candidates[kept - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, f32::NAN, 1.0, 2.0];

    fn shares(sampling: Sampling) -> [f64; 5] {
        let mut sampler = Sampler::new(sampling);
        let mut shares = [0.0; 5];
        for _ in 0..20_000 {
            shares[sampler.draw(&LOGITS) as usize] += 1.0 / 20_000.0;
        }
        shares
    }

    #[test]
    fn draws_follow_the_softmax() {
        let all = Sampling { temperature: 1.0, top_p: 1.0, ..Sampling::default() };
        let weights = [0.0_f64.exp(), 2.0_f64.exp(), 0.0, 1.0_f64.exp(), 2.0_f64.exp()];
        let total: f64 = weights.iter().sum();
        for (share, weight) in shares(all).iter().zip(weights) {
            // Five standard deviations of a share of 20,000 draws.
            assert!((share - weight / total).abs() < 5.0 * (0.25_f64 / 20_000.0).sqrt(), "{share}");
        }
    }

    #[test]
    fn cuts_keep_the_most_likely() {
        let base = Sampling { temperature: 1.0, top_p: 1.0, ..Sampling::default() };
        let kept = |sampling| shares(sampling).map(|share| share > 0.0);
        assert_eq!(kept(Sampling { top_k: 3, ..base }), [false, true, false, true, true]);
        assert_eq!(kept(Sampling { top_k: 1, ..base }), [false, true, false, false, false]);
        assert_eq!(kept(Sampling { top_p: 0.5, ..base }), [false, true, false, false, true]);
        assert_eq!(kept(Sampling { min_p: 0.2, ..base }), [false, true, false, true, true]);
        assert_eq!(kept(Sampling { temperature: 0.0, ..base }), [false, true, false, false, false]);
    }

    #[test]
    fn the_seed_decides() {
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling { seed, temperature: 1.0, ..Sampling::default() });
            (0..50).map(|_| sampler.draw(&LOGITS)).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }
}
