//! Photon and electronic noise, fast: from an expected rate and 64 random bits to detector counts.
//!
//! In: the expected photons of a pixel in steps of `unit_photons`. Out: counts `offset + gain * photons + read noise`.
//!
//! Poisson numbers come from the inverse of their distribution, tabulated for up to about a thousand rates with 16
//! random bits: the upper 8 choose one of 256 buckets that holds its count and the place at which the next count
//! begins; only buckets with more than one step (the tails) search on. A rate between two tabulated ones takes either
//! at random in proportion (6 bits), so that the mean is exact and the variance grows by less than 0.1 % at the mean
//! rate. Tails beyond 1/65,536 are cut. Read noise: 1,024 Gaussian quantiles.
//!
//! The 64 bits of a pixel are the finaliser of splitmix64 (Steele, Lea, Flood, 2014) over a key of the frame and the
//! pixel's number: no state runs from pixel to pixel. Cost: about 4 ns a pixel.

use crate::config::synthetic::DetectorConfig;

/// Bits of a rate below one tabulated step.
const DITHER_BITS: u32 = 6;
const BUCKETS: usize = 256;
const MOST_LEVELS: f64 = 1000.0;
/// Set in a bucket whose counts rise by more than one.
const SEARCH: u32 = 1 << 15;
const NOISE_QUANTILES: usize = 1024;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Debug, Clone)]
pub(super) struct Photons {
    /// Photons that one unit of a rate stands for.
    pub unit_photons: f64,
    /// The largest rate that is tabulated, in units.
    pub largest: u16,
    /// `count << 16 | flag | place of the next count`, 256 for each tabulated rate.
    buckets: Vec<u32>,
    /// For each tabulated rate: the 16-bit numbers at which counts 1, 2, .. begin.
    steps: Vec<Vec<u32>>,
    noise_q8: Vec<i32>,
    gain_q8: i32,
    offset_q8: i32,
    gain_q8_per_unit: f64,
    is_random: bool,
}

impl Photons {
    /// Tables for rates up to `largest_photons`, with a step that suits `config.photons_per_px`.
    pub fn new(config: &DetectorConfig, largest_photons: f64) -> Self {
        let step = (config.photons_per_px.sqrt() / 16.0).max(largest_photons / MOST_LEVELS);
        let levels = (largest_photons / step).ceil() as usize + 2;
        let mut buckets = Vec::with_capacity(levels * BUCKETS);
        let mut steps = Vec::with_capacity(levels);
        for level in 0..levels {
            let table = poisson_steps(level as f64 * step);
            fill_buckets(&table, &mut buckets);
            steps.push(table);
        }
        let unit_photons = step / f64::from(1u32 << DITHER_BITS);
        Self {
            unit_photons,
            largest: ((levels as u32 - 2) << DITHER_BITS) as u16,
            buckets,
            steps,
            noise_q8: noise_quantiles(config.read_noise_counts),
            gain_q8: (config.gain_counts * 256.0).round() as i32,
            offset_q8: (config.offset_counts * 256.0).round() as i32,
            gain_q8_per_unit: config.gain_counts * 256.0 * unit_photons,
            is_random: config.photon_noise,
        }
    }

    /// Counts of a row of pixels with the given rates; `first` is the number of its first pixel in the frame.
    pub fn row(&self, key: u64, first: usize, rates: &[u16], mut put: impl FnMut(usize, i32)) {
        let mut counter = key.wrapping_add((first as u64).wrapping_mul(GOLDEN));
        for (column, &rate) in rates.iter().enumerate() {
            counter = counter.wrapping_add(GOLDEN);
            let bits = finalise(counter);
            let noise_q8 = self.noise_q8[(bits >> 40) as usize & (NOISE_QUANTILES - 1)];
            let light_q8 = if self.is_random {
                self.count(rate, bits) as i32 * self.gain_q8
            } else {
                (f64::from(rate) * self.gain_q8_per_unit).round() as i32
            };
            put(column, (self.offset_q8 + light_q8 + noise_q8 + 128) >> 8);
        }
    }

    /// The mean of what a pixel of `units` shows, in counts.
    pub fn expected_counts(&self, units: f64) -> f64 {
        (f64::from(self.offset_q8) + units * self.gain_q8_per_unit) / 256.0
    }

    /// Photons of one pixel.
    #[inline]
    fn count(&self, rate: u16, bits: u64) -> u32 {
        let dither = bits as u32 & ((1 << DITHER_BITS) - 1);
        let level = ((u32::from(rate.min(self.largest)) + dither) >> DITHER_BITS) as usize;
        let number = (bits >> 16) as u32 & 0xffff;
        let bucket = self.buckets[level * BUCKETS + (number >> 8) as usize];
        if bucket & SEARCH == 0 {
            return (bucket >> 16) + u32::from((number & 0xff) >= (bucket & 0x1ff));
        }
        let steps = &self.steps[level];
        let mut count = (bucket >> 16) as usize;
        while steps.get(count).is_some_and(|&step| number >= step) {
            count += 1;
        }
        count as u32
    }
}

#[inline]
fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `steps[k]`: of the numbers 0 .. 65,535, how many give a count of at most k; the last one below 65,536.
fn poisson_steps(mean: f64) -> Vec<u32> {
    let spread = 9.0 * mean.sqrt() + 10.0;
    let first = (mean - spread).max(0.0).floor();
    let mut steps = vec![0u32; first as usize];
    if mean <= 0.0 {
        return steps;
    }
    let mut probability = libm::exp(first * libm::log(mean) - mean - libm::lgamma(first + 1.0));
    let mut cumulated = 0.0;
    let mut count = first;
    while count <= mean + spread {
        cumulated += probability;
        let step = (65_536.0 * cumulated).round();
        if step >= 65_536.0 {
            break;
        }
        steps.push(step as u32);
        count += 1.0;
        probability *= mean / count;
    }
    steps
}

fn fill_buckets(steps: &[u32], buckets: &mut Vec<u32>) {
    let mut count = 0;
    for bucket in 0..BUCKETS as u32 {
        let (start, end) = (bucket << 8, (bucket + 1) << 8);
        while steps.get(count).is_some_and(|&step| step <= start) {
            count += 1;
        }
        let entry = match (steps.get(count), steps.get(count + 1)) {
            (Some(_), Some(&next)) if next < end => SEARCH,
            (Some(&step), _) if step < end => step - start,
            _ => 0x100,
        };
        buckets.push(((count as u32) << 16) | entry);
    }
}

/// Quantiles of a Gaussian in 1/256 count, scaled so that their variance is exact.
fn noise_quantiles(sd_counts: f64) -> Vec<i32> {
    let half: Vec<f64> = (0..NOISE_QUANTILES / 2)
        .map(|i| {
            // P(|x| > q) of the i-th quantile from the outside.
            let outside = (2 * i + 1) as f64 / NOISE_QUANTILES as f64;
            let (mut low, mut high) = (0.0, 8.0);
            for _ in 0..60 {
                let middle = 0.5 * (low + high);
                if libm::erfc(middle / std::f64::consts::SQRT_2) > outside { low = middle } else { high = middle }
            }
            0.5 * (low + high)
        })
        .collect();
    let mean_square = half.iter().map(|q| q * q).sum::<f64>() / half.len() as f64;
    let scale = sd_counts * 256.0 / mean_square.sqrt();
    let outward = half.iter().map(|q| -(q * scale).round() as i32);
    outward.chain(half.iter().rev().map(|q| (q * scale).round() as i32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detector(photons_per_px: f64) -> DetectorConfig {
        DetectorConfig { photons_per_px, ..DetectorConfig::default() }
    }

    #[test]
    fn counts_follow_the_poisson_distribution_at_every_rate() {
        let photons = Photons::new(&detector(1.0), 20.0);
        for rate in [0.05, 0.4, 1.0, 3.3, 17.0] {
            let units = (rate / photons.unit_photons).round() as u16;
            let rate = f64::from(units) * photons.unit_photons;
            let n = 200_000u64;
            let counts = (0..n).map(|i| u64::from(photons.count(units, finalise(i.wrapping_mul(GOLDEN)))));
            let (sum, squares) = counts.fold((0, 0), |(s, q), c| (s + c, q + c * c));
            let mean = sum as f64 / n as f64;
            let variance = squares as f64 / n as f64 - mean * mean;
            let error = (rate / n as f64).sqrt();
            assert!((mean - rate).abs() < 4.0 * error, "rate {rate}: mean {mean}");
            assert!((variance / rate - 1.0).abs() < 0.03, "rate {rate}: variance {variance}");
        }
    }

    #[test]
    fn buckets_agree_with_the_steps_for_every_number() {
        let photons = Photons::new(&detector(50.0), 900.0);
        for (level, steps) in photons.steps.iter().enumerate().step_by(37) {
            let mut expected = 0;
            for number in 0..65_536u32 {
                while steps.get(expected).is_some_and(|&step| number >= step) {
                    expected += 1;
                }
                let units = (level as u32) << DITHER_BITS;
                if units <= u32::from(photons.largest) {
                    assert_eq!(
                        photons.count(units as u16, u64::from(number) << 16) as usize,
                        expected,
                        "{level} {number}"
                    );
                }
            }
        }
    }

    #[test]
    fn read_noise_has_the_stated_standard_deviation_and_no_mean() {
        let quantiles = noise_quantiles(12.0);
        assert_eq!(quantiles.iter().sum::<i32>(), 0);
        let square: f64 = quantiles.iter().map(|&q| f64::from(q) * f64::from(q)).sum();
        let sd = (square / quantiles.len() as f64).sqrt() / 256.0;
        assert!((sd - 12.0).abs() < 0.01, "{sd}");
    }
}
