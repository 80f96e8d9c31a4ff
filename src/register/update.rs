//! The frozen template follows slowly what bleaches, grows or comes into focus (`register.template_update_frames`).
//!
//! In: good frames behind the baseline. Out: after so many of them a new template, a share of it their mean, and a
//! new bank. The mean of frames that are aligned by whole pixels lies where the rest of their shifts, on average,
//! leaves it; the template would wander by that, update after update. So what it wandered is kept as its origin, and
//! shifts are given relative to the template as it was frozen.
//!
//! Every frame that is gathered costs some 100 us for 512 x 512. A new bank takes as long as a refresh in the baseline
//! (12 to 20 ms), which no decision shall wait for: [`Rigid::settle`] makes it when somebody has the time, or else the
//! next frame does. The bits are the same.

use super::fit::Fit;
use super::kernel::Plane;
use super::learn::CONTRAST_MIN;
use super::rigid::Rigid;
use super::state::Learned;
use super::{RegisterError, Registration};
use serde::{Deserialize, Serialize};

/// What the template's next update is made of.
pub(super) struct Update {
    every: u32,
    share: f64,
    pub record: UpdateRecord,
    fresh: Vec<f32>,
}

/// The part of it that is saved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct UpdateRecord {
    /// Frames since the last update.
    pub frames: u32,
    /// Sums of what their shifts are beyond whole pixels.
    pub rests: (f64, f64),
    /// Sum of the frames' variances.
    pub variance: f64,
    /// Where the present template's content lies relative to the frozen one's.
    pub origin: (f64, f64),
}

impl Update {
    /// None where the template stays as it is.
    pub(super) fn new(every: u32, share: f64, pixels: usize) -> Option<Self> {
        let fresh = || vec![0.0; pixels];
        (every > 0).then(|| Self { every, share, record: UpdateRecord::default(), fresh: fresh() })
    }

    /// Whether what was read can have been saved.
    pub(super) fn check(&self) -> Result<(), RegisterError> {
        let UpdateRecord { frames, rests, variance, origin } = self.record;
        let all_finite = [rests.0, rests.1, variance, origin.0, origin.1].iter().all(|value| value.is_finite());
        if frames <= self.every && all_finite {
            return Ok(());
        }
        let (got, expected) = (frames as usize, self.every as usize);
        Err(RegisterError::BadState { why: "its template's update is out of range", got, expected })
    }
}

impl Rigid {
    /// Makes the template's update, if one is due: never needed for what comes out, only for when.
    pub fn settle(&mut self) -> bool {
        let Some(mut update) = self.update.take_if(|update| update.record.frames >= update.every) else { return false };
        self.renew(&mut update);
        self.update = Some(update);
        true
    }

    /// Forgets what it was to be updated with.
    pub(super) fn restart_update(&mut self) {
        if let Some(update) = &mut self.update {
            update.record = UpdateRecord::default();
            self.accumulator.clear();
        }
    }

    /// Where the present template's content lies relative to the frozen one's.
    pub(super) fn origin(&self) -> (f64, f64) {
        self.update.as_ref().map_or((0.0, 0.0), |update| update.record.origin)
    }

    /// A good frame behind the baseline.
    pub(super) fn gather_update(&mut self, plane: Plane, registration: &Registration, fit: &Fit) {
        let Some(update) = &mut self.update else { return };
        let lag = (registration.dy_px.round() as i32, registration.dx_px.round() as i32);
        if !self.accumulator.add(plane, lag) {
            return;
        }
        let record = &mut update.record;
        record.frames += 1;
        record.rests.0 += registration.dy_px - f64::from(lag.0);
        record.rests.1 += registration.dx_px - f64::from(lag.1);
        record.variance += fit.measured.all.variance();
        let is_last = record.frames == update.every;
        if is_last {
            self.measure_noise(plane);
        }
    }

    fn renew(&mut self, update: &mut Update) {
        let (share, frames) = (update.share, f64::from(update.record.frames));
        update.fresh.copy_from_slice(&self.mean);
        self.accumulator.mean(self.record.bias, self.phase.px, &mut update.fresh);
        for (mean, &fresh) in self.mean.iter_mut().zip(&update.fresh) {
            *mean = (f64::from(*mean) * (1.0 - share) + f64::from(fresh) * share) as f32;
        }
        let record = &mut self.record;
        let noise = record.frame_noise.0 / f64::from(record.frame_noise.1.max(1)) / frames;
        record.template_noise = record.template_noise * ((1.0 - share) * (1.0 - share)) + noise * share * share;
        record.frame_noise = (0.0, 0);
        // what a frame like these shares with a template that has become more like them
        record.learned.tell(&mut record.typical);
        // brighter frames (another day's gain) move it further than their share
        let contrast = record.typical.mean[0].max(CONTRAST_MIN);
        let pull = share * contrast / (1.0 - share + share * contrast);
        for (mean, deviation) in record.typical.mean.iter_mut().zip(&mut record.typical.deviation) {
            *mean = mean.max(CONTRAST_MIN);
            let strength = 1.0 - share + share * *mean;
            *mean /= strength;
            *deviation /= strength;
        }
        record.learned = Learned::default();
        record.variance = (update.record.variance, update.record.frames);
        let (rests, origin) = (update.record.rests, update.record.origin);
        let moved = (pull * rests.0 / frames, pull * rests.1 / frames);
        record.shift = (record.shift.0 - moved.0, record.shift.1 - moved.1);
        let origin = (origin.0 + moved.0, origin.1 + moved.1);
        update.record = UpdateRecord { origin, ..UpdateRecord::default() };
        self.accumulator.clear();
        self.build_template();
    }
}
