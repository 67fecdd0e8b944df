//! Making tokens that were there already less likely.

/// How much less likely a token gets that stands among the last ones; see [`Sampling`](crate::Sampling).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Penalties {
    /// Divides a positive logit and multiplies a negative one.
    pub repeat: f32,
    /// Taken off once.
    pub presence: f32,
    /// Taken off for each time the token was there.
    pub frequency: f32,
}

impl Penalties {
    /// Changes nothing.
    pub(crate) const NONE: Self = Self { repeat: 1.0, presence: 0.0, frequency: 0.0 };

    /// Lowers the logits of all tokens in `recent`.
    ///
    /// # Source
    /// `repeat`: Keskar et al. 2019, arXiv:1909.05858, section 4.1, but a negative logit is multiplied, or it would rise.
    /// `presence` and `frequency`: OpenAI's API.
    pub(crate) fn apply(self, recent: &[u32], logits: &mut [f32]) {
        let mut recent = recent.to_vec();
        recent.sort_unstable();
        for same in recent.chunk_by(|a, b| a == b) {
            let Some(logit) = logits.get_mut(same[0] as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / self.repeat } else { *logit * self.repeat };
            *logit -= self.presence + self.frequency * same.len() as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_gets_less_likely() {
        let apply = |repeat, presence, frequency, recent: &[u32]| {
            let mut logits = [3.0, -3.0, 1.0, f32::NEG_INFINITY];
            Penalties { repeat, presence, frequency }.apply(recent, &mut logits);
            logits
        };
        let same = [3.0, -3.0, 1.0, f32::NEG_INFINITY];
        assert_eq!(apply(1.0, 0.0, 0.0, &[0, 1, 2, 3, 9]), same);
        assert_eq!(apply(2.0, 0.5, 0.25, &[]), same);
        assert_eq!(apply(2.0, 0.0, 0.0, &[1, 0, 1, 3]), [1.5, -6.0, 1.0, f32::NEG_INFINITY]);
        assert_eq!(apply(1.0, 0.5, 0.25, &[1, 0, 1]), [2.25, -4.0, 1.0, f32::NEG_INFINITY]);
    }
}
