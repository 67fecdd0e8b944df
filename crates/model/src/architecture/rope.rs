//! How positions turn queries and keys.
//!
//! Coordinate `j` and `j + dims / 2` of a head are a pair, turned by `position · frequency_j`, where
//! `frequency_j = base^(−2j / dims)` unless it is scaled (Su et al. 2021, arXiv:2104.09864). Coordinates from `dims`
//! on are left alone.

use crate::Error;
use crate::error::config_error;

/// Turns by position.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// What frequencies are powers of.
    pub base: f64,
    /// Coordinates of a head that are turned, from the first on.
    pub dims: usize,
    /// How frequencies are scaled.
    pub scaling: RopeScaling,
}

/// How frequencies are changed for contexts longer than those in training.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Each is divided by a factor.
    Factors(Vec<f64>),
    /// Low frequencies are divided by `factor`, high ones kept, with a ramp between (Llama 3.1).
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Frequencies below so many turns in the original context are low.
        low: f64,
        /// Frequencies above so many turns are high.
        high: f64,
        /// Context in training, in tokens.
        original: usize,
    },
    /// Each is divided by a factor, other ones for sequences longer than the original context (LongRoPE, Ding et al.
    /// 2024, arXiv:2402.13753). A sequence that grows beyond it is computed anew with the factors for long ones: all
    /// that was computed for its earlier tokens changes.
    Long {
        /// Factors up to the original context.
        short: Vec<f64>,
        /// Factors of longer sequences.
        long: Vec<f64>,
        /// Context in training, in tokens.
        original: usize,
        /// What cosines and sines are multiplied with: of short and of long sequences.
        magnitudes: [f64; 2],
    },
}

impl RopeScaling {
    /// What cosines and sines of LongRoPE are multiplied with unless a model says otherwise.
    pub(super) fn usual_magnitude(context_length: usize, original: usize) -> f64 {
        let scale = context_length as f64 / original.max(1) as f64;
        if scale <= 1.0 { 1.0 } else { (1.0 + scale.ln() / (original as f64).ln()).sqrt() }
    }

    /// Every frequency divided by the same factor. Files may claim any number of coordinates before they are checked;
    /// for more than a head can have, nothing is made.
    pub(super) fn linear(factor: f64, dims: usize) -> Self {
        Self::Factors(vec![factor; dims.min(super::MAX_HEAD_DIM) / 2])
    }
}

impl Rope {
    /// Unscaled turns of all `dims` coordinates.
    #[must_use]
    pub fn plain(base: f64, dims: usize) -> Self {
        Self { base, dims, scaling: RopeScaling::None }
    }

    /// Longest sequence of the first of two kinds that are turned differently, if there are two kinds.
    #[must_use]
    pub fn switch(&self) -> Option<usize> {
        match self.scaling {
            RopeScaling::Long { original, .. } => Some(original),
            _ => None,
        }
    }

    /// The frequency of every pair, and what cosines and sines are multiplied with, for long or short sequences.
    #[must_use]
    pub fn frequencies(&self, long_sequence: bool) -> (Vec<f32>, f32) {
        let pairs = self.dims / 2;
        let plain = |pair: usize| self.base.powf(-2.0 * pair as f64 / self.dims as f64);
        let divided = |factors: &[f64]| (0..pairs).map(|pair| (plain(pair) / factors[pair]) as f32).collect();
        match &self.scaling {
            RopeScaling::None => ((0..pairs).map(|pair| plain(pair) as f32).collect(), 1.0),
            RopeScaling::Factors(factors) => (divided(factors), 1.0),
            RopeScaling::Long { short, long, magnitudes, .. } => {
                let (factors, magnitude) =
                    if long_sequence { (long, magnitudes[1]) } else { (short, magnitudes[0]) };
                (divided(factors), magnitude as f32)
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                let scaled = |pair| {
                    let frequency = plain(pair);
                    let turns = *original as f64 * frequency / std::f64::consts::TAU;
                    // 0 for low frequencies, 1 for high ones.
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (frequency * (kept + (1.0 - kept) / factor)) as f32
                };
                ((0..pairs).map(scaled).collect(), 1.0)
            }
        }
    }

    /// What the frequency of every pair of a short sequence is divided by.
    pub(super) fn factors(&self) -> Vec<f64> {
        let plain = Self::plain(self.base, self.dims).frequencies(false).0;
        let scaled = self.frequencies(false).0;
        plain.iter().zip(scaled).map(|(plain, scaled)| f64::from(*plain) / f64::from(scaled)).collect()
    }

    pub(super) fn check(&self, head_dim: usize) -> Result<(), Error> {
        if !(1.0..=1e12).contains(&self.base) {
            return Err(config_error("rope_theta", format!("`{}` is not between 1 and 10^12", self.base)));
        }
        if self.dims == 0 || !self.dims.is_multiple_of(2) || self.dims > head_dim {
            let reason = format!("{} of {head_dim} coordinates cannot be turned in pairs", self.dims);
            return Err(config_error("partial_rotary_factor", reason));
        }
        let check_factors = |factors: &[f64]| {
            if factors.len() != self.dims / 2 {
                let reason = format!("{} factors for {} pairs of coordinates", factors.len(), self.dims / 2);
                return Err(config_error("rope_scaling", reason));
            }
            match factors.iter().find(|factor| !(**factor > 0.0 && **factor <= 1e6)) {
                Some(factor) => {
                    Err(config_error("rope_scaling", format!("`{factor}` is no positive factor")))
                }
                None => Ok(()),
            }
        };
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Factors(factors) => check_factors(factors),
            RopeScaling::Long { short, long, magnitudes, .. } => {
                check_factors(short)?;
                check_factors(long)?;
                if magnitudes.iter().all(|magnitude| (1e-3..=1e3).contains(magnitude)) {
                    return Ok(());
                }
                Err(config_error("rope_scaling", format!("the magnitudes {magnitudes:?} are absurd")))
            }
            RopeScaling::Llama3 { factor, low, high, .. } => {
                if *factor > 0.0 && *low > 0.0 && high > low && high.is_finite() {
                    return Ok(());
                }
                Err(config_error("rope_scaling", format!("factor {factor}, from {low} to {high} turns")))
            }
        }
    }
}
