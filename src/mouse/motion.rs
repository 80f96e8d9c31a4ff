//! How the brain moves: a slow drift in rows and columns, and rare jumps that decay.
//!
//! Out: the shift of each frame in 1/256 pixel, so that the truth is exactly what is rendered.

use super::seeded::{Draws, Fluctuation};
use crate::config::synthetic::MotionConfig;

/// Parts of a pixel that shifts are rounded to.
pub(super) const PARTS: i32 = 256;

#[derive(Debug, Clone)]
pub(super) struct Motion {
    drift: [Fluctuation; 2],
    jump: [f64; 2],
    jump_keep: f64,
    jump_probability: f64,
    jump_sd_px: f64,
    limit_px: f64,
}

impl Motion {
    pub fn new(config: &MotionConfig, period_s: f64, draws: &mut Draws) -> Self {
        let drift = [(); 2].map(|()| Fluctuation::new(config.drift_sd_px, config.drift_tau_s, period_s, draws));
        Self {
            drift,
            jump: [0.0; 2],
            jump_keep: libm::exp(-period_s / config.jump_tau_s),
            jump_probability: config.jump_rate_hz * period_s,
            jump_sd_px: config.jump_sd_px,
            limit_px: config.limit_px,
        }
    }

    /// The next frame's shift (rows, columns) in 1/256 pixel.
    pub fn step(&mut self, draws: &mut Draws) -> [i32; 2] {
        let jumps = draws.uniform() < self.jump_probability;
        let mut shift = [0; 2];
        for (axis, shift) in shift.iter_mut().enumerate() {
            self.jump[axis] *= self.jump_keep;
            if jumps {
                self.jump[axis] += self.jump_sd_px * draws.gaussian();
            }
            let px = self.drift[axis].step(draws) + self.jump[axis];
            *shift = (px.clamp(-self.limit_px, self.limit_px) * f64::from(PARTS)).round() as i32;
        }
        shift
    }
}

#[cfg(test)]
mod tests {
    use super::super::seeded::Purpose;
    use super::*;

    #[test]
    fn drift_has_the_stated_deviation_and_no_shift_passes_the_limit() {
        let mut draws = Draws::new(6, Purpose::Motion);
        let quiet = MotionConfig { jump_rate_hz: 0.0, drift_tau_s: 0.2, ..MotionConfig::default() };
        let mut motion = Motion::new(&quiet, 1.0 / 30.0, &mut draws);
        let squares: f64 =
            (0..20_000).map(|_| f64::from(motion.step(&mut draws)[0]) / f64::from(PARTS)).map(|y| y * y).sum();
        let sd = (squares / 20_000.0).sqrt();
        assert!((sd / quiet.drift_sd_px - 1.0).abs() < 0.05, "{sd}");
        let wild = MotionConfig { jump_rate_hz: 5.0, jump_sd_px: 20.0, limit_px: 3.0, ..MotionConfig::default() };
        let mut motion = Motion::new(&wild, 1.0 / 30.0, &mut draws);
        let largest = (0..2_000).flat_map(|_| motion.step(&mut draws)).map(i32::abs).max();
        assert_eq!(largest, Some(3 * PARTS));
    }
}
