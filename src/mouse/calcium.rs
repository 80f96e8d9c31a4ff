//! From spikes to fluorescence: dF/F of each cell, a difference of two exponentials.
//!
//! In: spikes of each cell in this frame. Out: dF/F. For one spike at frame 0 and frame period h, after k frames
//!
//! `dF/F(k) = A (exp(-k h / decay_tau) - exp(-k h / rise_tau))`,
//!
//! with A such that the peak of the continuous curve is `dff_per_spike`; spikes add. No saturation, no
//! cooperativity: the indicator's non-linearity is not modelled.

use crate::config::synthetic::CalciumConfig;

/// Calcium state of every cell.
#[derive(Debug, Clone)]
pub struct Calcium {
    amplitude: f64,
    decay_keep: f64,
    rise_keep: f64,
    decaying: Vec<f64>,
    rising: Vec<f64>,
    dff: Vec<f64>,
}

impl Calcium {
    /// `cells` cells at rest, stepped once a frame.
    pub fn new(config: &CalciumConfig, cells: usize, frame_rate_hz: f64) -> Self {
        let (rise, decay) = (config.rise_tau_s, config.decay_tau_s);
        let peak_at_s = libm::log(decay / rise) * decay * rise / (decay - rise);
        let peak = libm::exp(-peak_at_s / decay) - libm::exp(-peak_at_s / rise);
        Self {
            amplitude: config.dff_per_spike / peak,
            decay_keep: libm::exp(-1.0 / (frame_rate_hz * decay)),
            rise_keep: libm::exp(-1.0 / (frame_rate_hz * rise)),
            decaying: vec![0.0; cells],
            rising: vec![0.0; cells],
            dff: vec![0.0; cells],
        }
    }

    /// One frame on: `spikes` of each cell; returns dF/F of each cell.
    pub fn step(&mut self, spikes: &[u32]) -> &[f64] {
        let states = self.decaying.iter_mut().zip(&mut self.rising).zip(&mut self.dff);
        for (((decaying, rising), dff), &count) in states.zip(spikes) {
            let kick = self.amplitude * f64::from(count);
            *decaying = *decaying * self.decay_keep + kick;
            *rising = *rising * self.rise_keep + kick;
            *dff = *decaying - *rising;
        }
        &self.dff
    }

    /// dF/F of each cell after the last step.
    pub fn dff(&self) -> &[f64] {
        &self.dff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spike_peaks_at_the_stated_dff_and_decays_with_the_stated_time_constant() {
        let config = CalciumConfig::default();
        let mut calcium = Calcium::new(&config, 1, 1000.0);
        calcium.step(&[1]);
        let trace: Vec<f64> = (0..3000).map(|_| calcium.step(&[0])[0]).collect();
        let peak = trace.iter().copied().fold(0.0, f64::max);
        assert!((peak - config.dff_per_spike).abs() < 1e-3, "{peak}");
        let tau_s = 1.0 / (trace[1000] / trace[2000]).ln();
        assert!((tau_s - config.decay_tau_s).abs() < 1e-6, "{tau_s}");
    }
}
