//! The learning rate: up in a line, down along a cosine.

/// Where the warm-up begins.
const FIRST: f64 = 1e-6;

/// A linear warm-up from 1e-6 to the peak, then half a cosine to the floor.
///
/// # Source
/// OpenELM's recipe: `floor + (peak − floor) / 2 · (1 + cos(π · t / (steps − warmup + 1)))`, t from 0 after
/// the warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// The rate that the cosine leads to.
    pub floor: f64,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Steps of the run.
    pub steps: u64,
}

impl Schedule {
    /// The rate of step `step`, from 0.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return FIRST + step as f64 * (self.peak - FIRST) / self.warmup_steps as f64;
        }
        let (done, length) =
            (step - self.warmup_steps, (self.steps + 1).saturating_sub(self.warmup_steps).max(1));
        let angle = std::f64::consts::PI * done.min(length) as f64 / length as f64;
        self.floor + 0.5 * (self.peak - self.floor) * (1.0 + angle.cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_peak_and_falls_to_the_floor() {
        let schedule = Schedule { peak: 5.3e-3, floor: 5.3e-4, warmup_steps: 5000, steps: 350_000 };
        assert_eq!(schedule.at(0), 1e-6);
        assert!((schedule.at(2500) - (1e-6 + 0.5 * (5.3e-3 - 1e-6))).abs() < 1e-12);
        assert_eq!(schedule.at(5000), 5.3e-3);
        assert!((schedule.at(5000 + 345_001 / 2) - 0.5 * (5.3e-3 + 5.3e-4)).abs() < 1e-7);
        assert!((schedule.at(350_001) - 5.3e-4).abs() < 1e-15);
        let rates: Vec<f64> = (5000..350_000).step_by(1000).map(|step| schedule.at(step)).collect();
        assert!(rates.is_sorted_by(|a, b| a > b));
    }

    #[test]
    fn a_run_that_is_all_warm_up_never_divides_by_zero() {
        let schedule = Schedule { peak: 1.0, floor: 0.1, warmup_steps: 10, steps: 5 };
        assert!((0..20).all(|step| schedule.at(step).is_finite()));
    }
}
