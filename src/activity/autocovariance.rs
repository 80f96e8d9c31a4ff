//! The indicator's time constants, from the autocovariance of the baseline.
//!
//! In: one ROI's dF/F in the baseline. Out: its poles, or none. White noise adds to the autocovariance at lag 0 alone,
//! so that lag is left out, and what is left of an AR(p) process follows its own recursion: for lags k = 1..K,
//! `C(k + p) = g1 C(k + p - 1) + g2 C(k + p - 2)`, solved for g by least squares. A baseline without events has no such
//! law, and gives none.
//!
//! Sums run in the order of the frames, then of the lags. Cost: 13 passes over the row, 15 us for 1,500 frames.

use super::oasis::Poles;

/// Lags that enter.
const LAGS: usize = 10;
/// Above this a decay is a drift of the baseline: 2,000 frames.
const DECAY_MAX: f64 = 0.9995;

/// Poles of the process that gave `values`; those that are not finite are left out. None where there is no decay to be
/// seen, or the row is shorter than 100 frames.
pub fn estimate_poles(values: &[f64], second_order: bool) -> Option<Poles> {
    let covariances = autocovariances(values)?;
    let c = |lag: usize| covariances[lag];
    let poles = if second_order {
        // The normal equations of the two unknowns.
        let [mut aa, mut ab, mut bb, mut ay, mut by] = [0.0; 5];
        for k in 1..=LAGS {
            let (a, b, y) = (c(k + 1), c(k), c(k + 2));
            (aa, ab, bb, ay, by) = (aa + a * a, ab + a * b, bb + b * b, ay + a * y, by + b * y);
        }
        let determinant = aa * bb - ab * ab;
        let (g1, g2) = ((ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant);
        let root = g1 * g1 + 4.0 * g2;
        // A pair of complex poles swings; the calcium does not. The nearest that does not has two equal ones.
        let root = if root > 0.0 { root.sqrt() } else { 0.0 };
        let decay = (g1 + root) / 2.0;
        // Equal poles have no two parts to be kept apart.
        Poles { decay, rise: ((g1 - root) / 2.0).max(0.0).min(0.98 * decay) }
    } else {
        let (mut products, mut squares) = (0.0, 0.0);
        for k in 1..=LAGS {
            products += c(k) * c(k + 1);
            squares += c(k) * c(k);
        }
        Poles { decay: products / squares, rise: 0.0 }
    };
    (poles.are_sound() && c(1) > 0.0 && poles.decay <= DECAY_MAX).then_some(poles)
}

/// Autocovariances at lags 0 to `LAGS` + 2, each over the pairs that are there.
fn autocovariances(values: &[f64]) -> Option<[f64; LAGS + 3]> {
    let (mut sum, mut count) = (0.0, 0.0);
    for &value in values.iter().filter(|v| v.is_finite()) {
        sum += value;
        count += 1.0;
    }
    if count < 100.0 {
        return None;
    }
    let mean = sum / count;
    let mut covariances = [0.0; LAGS + 3];
    for (lag, covariance) in covariances.iter_mut().enumerate() {
        let (mut sum, mut pairs) = (0.0, 0.0);
        for (a, b) in values.iter().zip(values.iter().skip(lag)) {
            let product = (a - mean) * (b - mean);
            if product.is_finite() {
                sum += product;
                pairs += 1.0;
            }
        }
        *covariance = if pairs > 0.0 { sum / pairs } else { 0.0 };
    }
    Some(covariances)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};

    /// Events in one frame of twenty through the poles, with white noise.
    fn trace(poles: Poles, frames: usize, noise: f64) -> Vec<f64> {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let mut draw = || f64::from(random.next_u32()) / 4_294_967_296.0;
        let (mut c1, mut c2) = (0.0, 0.0);
        (0..frames)
            .map(|_| {
                let event = if draw() < 0.05 { 1.0 } else { 0.0 };
                let c = (poles.decay + poles.rise) * c1 - poles.decay * poles.rise * c2 + event;
                (c1, c2) = (c, c1);
                c + noise * (draw() + draw() + draw() + draw() - 2.0)
            })
            .collect()
    }

    #[test]
    fn the_time_constants_are_found_under_noise() {
        for (decay_frames, rise_frames) in [(12.0, 0.0), (30.0, 0.0), (30.0, 4.0)] {
            let poles = Poles::of_frames(decay_frames, rise_frames);
            let mut values = trace(poles, 60_000, 0.5);
            values[100..120].fill(f64::NAN);
            let found = estimate_poles(&values, rise_frames > 0.0).unwrap();
            let tau = -1.0 / libm::log(found.decay);
            assert!((tau / decay_frames - 1.0).abs() < 0.15, "{tau} frames, expected {decay_frames}");
        }
    }

    #[test]
    fn a_baseline_without_events_gives_no_time_constant() {
        assert_eq!(estimate_poles(&[0.0; 500], false), None);
        assert_eq!(estimate_poles(&[1.0; 50], false), None);
        assert_eq!(estimate_poles(&[f64::NAN; 500], true), None);
        let alternating: Vec<f64> = (0..500).map(|k| f64::from(k % 2)).collect();
        assert_eq!(estimate_poles(&alternating, false), None);
    }
}
