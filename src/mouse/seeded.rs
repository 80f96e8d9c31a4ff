//! Seeded draws: uniform, Gaussian, Poisson, on ChaCha8, whose stream is fixed by its definition.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// A stream of random numbers with a purpose of its own, so that one more draw here moves nothing there.
#[derive(Debug, Clone)]
pub(super) struct Draws {
    rng: ChaCha8Rng,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Anatomy = 1,
    Animal = 2,
    Motion = 3,
    Spikes = 4,
    Glow = 5,
    Pixels = 6,
}

impl Draws {
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        // The key is the seed itself and zeros: `seed_from_u64` would tie the bytes to that function's definition.
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(purpose as u64);
        Self { rng }
    }

    pub fn bits(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Gaussian with mean 0 and standard deviation 1 (Box and Muller, the second value thrown away).
    pub fn gaussian(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform())
    }

    /// Poisson count of a small mean (Knuth's product of uniforms); means above 50 are taken as 50.
    pub fn poisson(&mut self, mean: f64) -> u32 {
        if mean.is_nan() || mean <= 0.0 {
            return 0;
        }
        let limit = libm::exp(-mean.min(50.0));
        let mut product = self.uniform();
        let mut count = 0;
        while product > limit {
            product *= self.uniform();
            count += 1;
        }
        count
    }
}

/// A fluctuation that is pulled back to 0 (Ornstein and Uhlenbeck), exact at the frames' times.
#[derive(Debug, Clone)]
pub(super) struct Fluctuation {
    keep: f64,
    kick: f64,
    pub value: f64,
}

impl Fluctuation {
    /// Of the given standard deviation and time constant, beginning somewhere in its stationary distribution.
    pub fn new(sd: f64, tau_s: f64, period_s: f64, draws: &mut Draws) -> Self {
        let keep = libm::exp(-period_s / tau_s);
        Self { keep, kick: sd * (1.0 - keep * keep).sqrt(), value: sd * draws.gaussian() }
    }

    pub fn step(&mut self, draws: &mut Draws) -> f64 {
        self.value = self.value * self.keep + self.kick * draws.gaussian();
        self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f64]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        (mean, values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n)
    }

    #[test]
    fn draws_have_the_stated_mean_and_variance() {
        let mut draws = Draws::new(3, Purpose::Spikes);
        let gaussian: Vec<f64> = (0..20_000).map(|_| draws.gaussian()).collect();
        let poisson: Vec<f64> = (0..20_000).map(|_| f64::from(draws.poisson(1.7))).collect();
        let (mean, variance) = moments(&gaussian);
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.04, "{mean} {variance}");
        let (mean, variance) = moments(&poisson);
        assert!((mean - 1.7).abs() < 0.04 && (variance - 1.7).abs() < 0.08, "{mean} {variance}");
    }

    #[test]
    fn streams_of_one_seed_differ_and_seeds_differ() {
        let first = |seed, purpose| Draws::new(seed, purpose).bits();
        assert_ne!(first(1, Purpose::Spikes), first(1, Purpose::Motion));
        assert_ne!(first(1, Purpose::Spikes), first(2, Purpose::Spikes));
        assert_eq!(first(1, Purpose::Spikes), first(1, Purpose::Spikes));
    }

    #[test]
    fn a_fluctuation_keeps_its_standard_deviation() {
        let mut draws = Draws::new(4, Purpose::Glow);
        let mut fluctuation = Fluctuation::new(0.5, 0.1, 1.0 / 30.0, &mut draws);
        let values: Vec<f64> = (0..20_000).map(|_| fluctuation.step(&mut draws)).collect();
        let (mean, variance) = moments(&values);
        assert!(mean.abs() < 0.03 && (variance.sqrt() - 0.5).abs() < 0.02, "{mean} {variance}");
    }
}
