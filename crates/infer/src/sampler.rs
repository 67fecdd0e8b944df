//! Choosing a token from logits.

use std::cmp::Ordering;

use elmwood_model::random::philox4x32;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::constraint::Mask;
use crate::penalties::Penalties;

/// How tokens are chosen.
///
/// Penalties come first, then `top_k`, then the temperature, then `top_p` and `min_p` on the probabilities.
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
    /// Logits of recent tokens are divided by this if positive, else multiplied; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Taken off the logits of recent tokens; 0 changes nothing.
    pub presence_penalty: f32,
    /// Taken off the logits of recent tokens, for each time they were there; 0 changes nothing.
    pub frequency_penalty: f32,
    /// How many tokens are recent, those of the prompt among them.
    pub repeat_last: usize,
    /// Where random choices start.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last: 64,
            seed: 1,
        }
    }
}

impl Sampling {
    /// Always the most likely token.
    #[must_use]
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    fn check(&self) -> Result<(), Error> {
        let settings = [
            ("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "from 0 to 100"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            (
                "repeat_penalty",
                self.repeat_penalty,
                self.repeat_penalty > 0.0 && self.repeat_penalty <= 100.0,
                "above 0, at most 100",
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                (-100.0..=100.0).contains(&self.presence_penalty),
                "from -100 to 100",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                (-100.0..=100.0).contains(&self.frequency_penalty),
                "from -100 to 100",
            ),
        ];
        match settings.into_iter().find(|(_, _, good, _)| !good) {
            Some((name, value, _, expected)) => {
                Err(Error::Setting { name, value: f64::from(value), expected })
            }
            None => Ok(()),
        }
    }
}

/// Draws tokens; the n-th draw depends on the logits, the recent tokens, what is allowed, the seed and n alone.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    draws: u64,
    /// Logits after penalties, and tokens with theirs: kept to reuse the memory.
    logits: Vec<f32>,
    candidates: Candidates,
}

/// Tokens with their logits, of which only as many are put in order as are looked at: most draws need a few of many
/// thousands.
#[derive(Debug, Clone, Default)]
struct Candidates {
    tokens: Vec<(f32, u32)>,
    /// The most likely ones, which are in order.
    sorted: usize,
}

impl Candidates {
    /// Larger logits first, of equal ones the smaller id.
    fn by_logit(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
        b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
    }

    fn set(&mut self, tokens: impl Iterator<Item = (f32, u32)>) {
        self.tokens.clear();
        self.tokens.extend(tokens);
        self.sorted = 0;
    }

    /// Leaves the `n` most likely.
    fn truncate(&mut self, n: usize) {
        if n < self.tokens.len() {
            if n > self.sorted {
                self.tokens[self.sorted..].select_nth_unstable_by(n - 1 - self.sorted, Self::by_logit);
            }
            self.tokens.truncate(n);
            self.sorted = self.sorted.min(n);
        }
    }

    /// The most likely token but `i`.
    fn get(&mut self, i: usize) -> (f32, u32) {
        if i >= self.sorted {
            let end = (4 * i).max(64).min(self.tokens.len());
            let rest = &mut self.tokens[self.sorted..];
            let n = end - self.sorted;
            if n < rest.len() {
                rest.select_nth_unstable_by(n, Self::by_logit);
            }
            rest[..n].sort_unstable_by(Self::by_logit);
            self.sorted = end;
        }
        self.tokens[i]
    }
}

impl Sampler {
    /// A sampler that has drawn nothing yet.
    ///
    /// # Errors
    /// [`Error::Setting`] for a setting out of its range.
    pub fn new(sampling: Sampling) -> Result<Self, Error> {
        sampling.check()?;
        Ok(Self { sampling, draws: 0, logits: Vec::new(), candidates: Candidates::default() })
    }

    /// Chooses the token after `text`, one of `allowed` if there is such a mask; of equally likely ones the smaller id
    /// comes first. Logits that are no numbers are never chosen; nothing is where no other is left.
    pub fn draw(&mut self, logits: &[f32], text: &[u32], allowed: Option<&Mask>) -> Option<u32> {
        let Sampling { temperature, top_k, top_p, min_p, repeat_last, seed, .. } = self.sampling;
        let counter = [self.draws as u32, (self.draws >> 32) as u32, 0, 0];
        self.draws += 1;
        let penalties = Penalties {
            repeat: self.sampling.repeat_penalty,
            presence: self.sampling.presence_penalty,
            frequency: self.sampling.frequency_penalty,
        };
        let logits = if penalties == Penalties::NONE {
            logits
        } else {
            self.logits.clear();
            self.logits.extend_from_slice(logits);
            penalties.apply(&text[text.len().saturating_sub(repeat_last)..], &mut self.logits);
            &self.logits
        };
        if temperature <= 0.0 && allowed.is_none() {
            return most_likely(logits);
        }
        let candidates = &mut self.candidates;
        let numbers = logits.iter().copied().zip(0..).filter(|(logit, _)| !logit.is_nan());
        match allowed {
            None => candidates.set(numbers),
            Some(mask) => candidates.set(numbers.filter(|&(_, id)| mask.allows(id))),
        }
        if candidates.tokens.is_empty() {
            return None;
        }
        let (largest, most_likely) = candidates.get(0);
        if temperature <= 0.0 {
            return Some(most_likely);
        }
        if top_k > 0 {
            candidates.truncate(top_k);
        }
        // Relative to the most likely one.
        let probability = |logit: f32| f64::from(((logit - largest) / temperature).exp());
        let total: f64 = candidates.tokens.iter().map(|(logit, _)| probability(*logit)).sum();
        // Cut by probability: the smallest set of the most likely ones that reaches `top_p`.
        let (mut kept, mut sum) = (candidates.tokens.len(), total);
        if top_p < 1.0 || min_p > 0.0 {
            (kept, sum) = (0, 0.0);
            while kept < candidates.tokens.len() {
                let p = probability(candidates.get(kept).0);
                if kept > 0 && (sum >= f64::from(top_p) * total || p < f64::from(min_p)) {
                    break;
                }
                sum += p;
                kept += 1;
            }
        }
        let [low, high, ..] = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
        let uniform = (u64::from(low) | u64::from(high) << 32) as f64 / 2.0_f64.powi(64);
        let mut rest = uniform * sum;
        for i in 0..kept {
            let (logit, id) = candidates.get(i);
            rest -= probability(logit);
            if rest < 0.0 {
                return Some(id);
            }
        }
        Some(candidates.get(kept - 1).1)
    }
}

/// The first of the largest logits that are numbers.
fn most_likely(logits: &[f32]) -> Option<u32> {
    /// Logits whose largest is found at once: whole numbers are compared by vectors.
    const CHUNK: usize = 64;
    /// In the order of [`f32::total_cmp`], but for what is no number, which comes first.
    fn order(logit: f32) -> i32 {
        let bits = logit.to_bits() as i32;
        if logit.is_nan() { i32::MIN } else { bits ^ (((bits >> 31) as u32) >> 1) as i32 }
    }
    let mut largest = i32::MIN;
    let mut start = 0;
    for (i, chunk) in logits.chunks(CHUNK).enumerate() {
        let here = chunk.iter().fold(i32::MIN, |largest, logit| largest.max(order(*logit)));
        if here > largest {
            (largest, start) = (here, i * CHUNK);
        }
    }
    let at = logits[start..].iter().position(|logit| !logit.is_nan() && order(*logit) == largest)?;
    Some((start + at) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, f32::NAN, 1.0, 2.0];

    fn shares(sampling: Sampling) -> [f64; 5] {
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut shares = [0.0; 5];
        for _ in 0..20_000 {
            shares[sampler.draw(&LOGITS, &[], None).unwrap() as usize] += 1.0 / 20_000.0;
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
    fn the_most_likely_is_the_first_of_the_largest() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let mut cases: Vec<Vec<f32>> =
            vec![vec![], vec![nan, -nan], vec![nan, -inf], vec![-0.0, 0.0, 0.0], vec![-2.0, -1.0, nan, -1.0]];
        // Ties and rows of all lengths around the chunks.
        let random = |i: u32| (philox4x32([i, 0, 0, 0], [7, 7])[0] % 41) as f32 - 20.0;
        cases.extend((1..300).map(|len| (0..len).map(|i| random(1000 * len + i)).collect()));
        for logits in cases {
            let numbers = logits.iter().zip(0..).filter(|(logit, _)| !logit.is_nan());
            let twin = numbers.min_by(|a, b| b.0.total_cmp(a.0).then(a.1.cmp(&b.1))).map(|(_, id)| id);
            assert_eq!(most_likely(&logits), twin, "{logits:?}");
        }
    }

    #[test]
    fn candidates_come_in_order_however_many_are_looked_at() {
        let random = |i: u32| philox4x32([i, 0, 0, 0], [3, 3])[0] % 500;
        for len in [1, 63, 64, 65, 1000] {
            let tokens: Vec<(f32, u32)> = (0..len).map(|i| (random(i) as f32, i)).collect();
            let mut twin = tokens.clone();
            twin.sort_by(Candidates::by_logit);
            for kept in [1, 64, 100, len as usize] {
                let mut candidates = Candidates::default();
                candidates.set(tokens.iter().copied());
                candidates.get(0);
                candidates.truncate(kept);
                let kept = kept.min(len as usize);
                assert_eq!(candidates.tokens.len(), kept);
                let order: Vec<_> = (0..kept).map(|i| candidates.get(i)).collect();
                assert_eq!(order, twin[..kept], "{kept} of {len}");
            }
        }
    }

    #[test]
    fn the_seed_decides() {
        let draw = |seed| {
            let sampling = Sampling { seed, temperature: 1.0, ..Sampling::default() };
            let mut sampler = Sampler::new(sampling).unwrap();
            (0..50).map(|_| sampler.draw(&LOGITS, &[], None)).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }

    #[test]
    fn recent_tokens_are_those_of_the_last_ones() {
        let sampling = Sampling { repeat_penalty: 3.0, repeat_last: 2, ..Sampling::greedy() };
        let mut sampler = Sampler::new(sampling).unwrap();
        let mut draw = |text: &[u32]| sampler.draw(&LOGITS, text, None).unwrap();
        assert_eq!([draw(&[]), draw(&[1]), draw(&[1, 4]), draw(&[1, 0, 0])], [1, 4, 3, 1]);
    }

    #[test]
    fn a_mask_comes_before_everything_but_penalties() {
        let sampling = Sampling { top_k: 1, ..Sampling::default() };
        let draw = |ids: &[u32]| {
            Sampler::new(sampling).unwrap().draw(&LOGITS, &[], Some(&ids.iter().copied().collect()))
        };
        assert_eq!(draw(&[3, 0]), Some(3));
        assert_eq!(draw(&[0, 77]), Some(0));
        assert_eq!(draw(&[2]), None, "a logit that is no number");
        assert_eq!(draw(&[]), None);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let fails = |sampling| Sampler::new(sampling).unwrap_err().to_string();
        let base = Sampling::default();
        assert_eq!(fails(Sampling { top_p: 0.0, ..base }), "`top_p` is 0, but must be above 0, at most 1");
        assert!(fails(Sampling { temperature: f32::NAN, ..base }).starts_with("`temperature` is NaN"));
        assert!(fails(Sampling { repeat_penalty: 0.0, ..base }).starts_with("`repeat_penalty` is 0"));
        assert!(fails(Sampling { min_p: 1.5, ..base }).starts_with("`min_p` is 1.5"));
        assert!(fails(Sampling { presence_penalty: f32::INFINITY, ..base }).contains("inf"));
        assert!(fails(Sampling { frequency_penalty: -101.0, ..base }).contains("from -100 to 100"));
    }
}
