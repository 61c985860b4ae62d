//! How long to wait after a failure.

use std::time::Duration;

use rand::Rng;

/// Waits that double from `first` to `max`, each shortened by up to a quarter at random so that pollers spread out.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(200), max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The wait after the given number of failures in a row, counted from zero.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(failures));
        doubled.min(self.max).mul_f64(rand::rng().random_range(0.75..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(1) };
        for (failures, most) in [(0, 100), (1, 200), (2, 400), (3, 800), (4, 1000), (40, 1000), (u32::MAX, 1000)] {
            let delay = backoff.delay(failures);
            let most = Duration::from_millis(most);
            assert!(delay <= most && delay >= most.mul_f64(0.74), "{failures}: {delay:?}");
        }
    }
}
