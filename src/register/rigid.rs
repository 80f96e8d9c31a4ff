//! The rigid tracker: one shift for the whole frame.
//!
//! In: frames. Out: [`Registration`]s, and the template's offset to the reference image. A frame is measured at the
//! whole pixel nearest to the last good shift, the moments are solved for the shift beyond it, and measured again only
//! when that lies further than [`REACH_PX`]. A score below [`REACQUIRE`] starts the wide search, in the same step.
//!
//! **Score**: the contrast that the frame shares with the band-passed template, as a multiple of what a baseline frame
//! has, times `sqrt(typical variance / the frame's variance)`; so it is a normalised correlation divided by its
//! expectation. 1 is a typical frame at any photon rate, about 0 a frame of another place. Where the light falls to
//! a half, a noise-limited frame scores 0.7. For a loaded template (another day's gain) the expectation is learned
//! from the first [`LEARNING_FRAMES`] good frames.
//!
//! Cost for 512 x 512: one pass, 40-60 us; a wide search about 1 ms; a template refresh some 20 ms, at the baseline's
//! frames 1, 2, 4, 8, ... and at its end.

use realfft::num_complex::Complex;

use super::bank::{Bank, Filters, Margin, Measured, Solution, margins};
use super::kernel::{Path, Plane, Region, accumulate};
use super::state::{Contrasts, Learned, Reader, Record, load_values, save_values};
use super::template::Accumulator;
use super::wide::Wide;
use super::{FitVerdict, RegisterError, Registration, TemplateOffset, filter};
use crate::config::register::RegisterConfig;
use crate::frame::{FrameView, Geometry, Image};

/// A solution further than this from its whole-pixel lag is measured again from nearer by.
const REACH_PX: f64 = 0.8;
/// The wide search starts below this score, or below 1.25 times `min_score` if that is more.
const REACQUIRE: f64 = 0.5;
/// ... or when it falls to this fraction of the last good frame's.
const REACQUIRE_FALL: f64 = 0.75;
/// A match that stands out of all other lags this much is believed where no score is known yet.
const PROMINENT: f64 = 0.3;
/// A baseline starts anew when this many frames in a row do not fit its first few.
const MISFITS_MAX: u32 = 8;
/// Good frames from which the expectation for a loaded template is learned.
const LEARNING_FRAMES: u32 = 32;
/// A frame whose variance is below this fraction of the typical one has no image in it.
const BLANK_VARIANCE: f64 = 0.05;
/// A band that fits less than this, while others fit better than [`BAND_GOOD`], tears the frame.
const BAND_LOST: f64 = 0.25;
const BAND_GOOD: f64 = 0.6;
/// ... and less than its mean by this many of its standard deviations over the good frames: cells come and go.
const BAND_DEVIATIONS: f64 = 6.0;
/// Bands whose fit is noisier than this say nothing.
const BAND_NOISE: f64 = 0.12;

/// Estimates the motion of frames of one size against one template.
pub struct Rigid {
    config: RegisterConfig,
    geometry: Geometry,
    path: Path,
    margins: Vec<Margin>,
    max: (i32, i32),
    record: Record,
    filters: Filters,
    wide: Wide,
    bank: Bank,
    spectrum: Vec<Complex<f32>>,
    mean: Vec<f32>,
    accumulator: Accumulator,
    reference_bank: Bank,
    reference_spectrum: Vec<Complex<f32>>,
    reference: Vec<f32>,
}

/// A frame's fit at one place.
#[derive(Clone, Copy)]
struct Fit {
    measured: Measured,
    solution: Solution,
    shift: (f64, f64),
    score: f64,
    converged: bool,
}

impl Rigid {
    /// A tracker for frames of `geometry`; allocates everything that it will need.
    pub fn new(config: &RegisterConfig, geometry: Geometry) -> Self {
        let fraction = if config.max_shift_fraction.is_finite() { config.max_shift_fraction.clamp(0.0, 0.25) } else { 0.15 };
        let sigma = if config.sigma_px.is_finite() { config.sigma_px.clamp(0.5, 8.0) } else { 1.0 };
        let largest = |size: usize| ((size as f64 * fraction).floor() as usize).max(2);
        let (max_y, max_x) = (largest(geometry.height_px), largest(geometry.width_px));
        let margins = margins(geometry, max_y, max_x);
        let wide = Wide::new(geometry, max_y, max_x);
        let count = geometry.count();
        Self {
            config: config.clone(),
            geometry,
            path: Path::choose(config.simd),
            max: (max_y as i32, max_x as i32),
            record: Record { size: (geometry.height_px as u32, geometry.width_px as u32), ..Record::default() },
            filters: Filters::new(geometry, sigma),
            bank: Bank::new(geometry, &margins),
            spectrum: wide.spectrum(),
            mean: vec![0.0; count],
            accumulator: Accumulator::new(count, geometry.width_px),
            reference_bank: Bank::new(geometry, &margins),
            reference_spectrum: wide.spectrum(),
            reference: vec![0.0; count],
            wide,
            margins,
        }
    }

    /// Starts a baseline: forgets the template, and makes a new one from the frames to come.
    pub fn begin_baseline(&mut self) {
        let old = std::mem::take(&mut self.record);
        self.record = Record { size: old.size, reference: old.reference, baseline: true, ..Record::default() };
        self.accumulator.clear();
    }

    /// Ends the baseline: the template is the mean of its good frames from now on.
    pub fn freeze_template(&mut self) -> Result<(), RegisterError> {
        if !self.record.baseline {
            return Err(RegisterError::NoBaseline);
        }
        let (have, need) = (self.record.frames, self.config.min_template_frames.max(1));
        if have < need {
            return Err(RegisterError::TooFewFrames { have, need });
        }
        self.refresh();
        self.record.baseline = false;
        Ok(())
    }

    /// Whether frames are registered at all.
    pub fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Whether a template is there and its baseline, if it had one, has ended.
    pub fn is_frozen(&self) -> bool {
        self.record.template && !self.record.baseline
    }

    /// Frames that the baseline's template is made of so far.
    pub fn template_frames(&self) -> u32 {
        self.record.frames
    }

    /// The template in counts, if there is one. Allocates.
    pub fn template(&self) -> Option<Image> {
        let bias = self.record.bias as f32;
        let values = || self.mean.iter().map(|v| v - bias).collect();
        self.record.template.then(|| Image { geometry: self.geometry, values: values() })
    }

    /// Takes another day's template, frozen; the gain may differ.
    pub fn load_template(&mut self, image: &Image) -> Result<(), RegisterError> {
        self.check(image)?;
        let old = std::mem::take(&mut self.record);
        self.record = Record {
            size: old.size,
            reference: old.reference,
            template: true,
            learning: true,
            ..Record::default()
        };
        self.mean.copy_from_slice(&image.values);
        self.build_template();
        self.update_offset();
        Ok(())
    }

    /// Takes the ROI set's reference image; the template, if there is one, is registered to it at once.
    pub fn set_reference(&mut self, image: &Image) -> Result<(), RegisterError> {
        self.check(image)?;
        self.reference.copy_from_slice(&image.values);
        self.record.reference = true;
        self.build_reference();
        self.update_offset();
        Ok(())
    }

    /// Where the template's content lies relative to the reference; `None` while one of them is missing.
    pub fn offset(&self) -> Option<TemplateOffset> {
        self.record.offset
    }

    /// Registers one frame, and during a baseline adds it to the template.
    pub fn step(&mut self, frame: &FrameView) -> Registration {
        if !self.config.enabled {
            return Registration::none();
        }
        if frame.geometry != self.geometry || frame.samples.len() != self.geometry.count() || self.margins.is_empty() {
            return self.held(FitVerdict::NotReady, 0.0);
        }
        let plane = Plane { samples: frame.samples, width: self.geometry.width_px, saturation: frame.saturation };
        if self.record.template {
            let (registration, fit) = self.register(plane);
            match registration.verdict {
                FitVerdict::Good => self.take_good(plane, &registration, &fit),
                FitVerdict::LowScore if self.starts_anew() => {
                    self.begin_baseline();
                    self.record.bias = frame.bias;
                    return self.first_frame(plane);
                }
                _ => {}
            }
            registration
        } else if self.record.baseline {
            self.record.bias = frame.bias;
            self.first_frame(plane)
        } else {
            self.held(FitVerdict::NotReady, 0.0)
        }
    }

    /// Appends everything that changes; does not allocate when `out` has the capacity.
    pub fn save(&self, out: &mut Vec<u8>) {
        self.record.save(out);
        if self.record.template {
            save_values(&self.mean, out);
        }
        if self.record.reference {
            save_values(&self.reference, out);
        }
        if self.record.baseline {
            self.accumulator.save(out);
        }
    }

    /// Takes back what `save` appended, for the same configuration and size; returns the bytes that it used.
    pub fn load(&mut self, bytes: &[u8]) -> Result<usize, RegisterError> {
        let mut reader = Reader::new(bytes);
        let record = Record::load(&mut reader)?;
        if record.size != self.record.size {
            let (got, expected) = (record.size.0 * record.size.1, self.record.size.0 * self.record.size.1);
            let (got, expected) = (got as usize, expected as usize);
            return Err(RegisterError::BadState { why: "it is for frames of another size", got, expected });
        }
        if record.template {
            load_values(&mut reader, &mut self.mean)?;
        }
        if record.reference {
            load_values(&mut reader, &mut self.reference)?;
        }
        if record.baseline {
            let saved = reader.take(self.accumulator.saved_len())?;
            self.accumulator.load(saved, record.frames);
        }
        self.record = record;
        if self.record.template {
            self.build_template();
        }
        if self.record.reference {
            self.build_reference();
        }
        Ok(reader.consumed())
    }

    fn check(&self, image: &Image) -> Result<(), RegisterError> {
        if image.geometry != self.geometry || image.values.len() != self.geometry.count() {
            return Err(RegisterError::WrongSize {
                got_height_px: image.geometry.height_px,
                got_width_px: image.geometry.width_px,
                got_values: image.values.len(),
                height_px: self.geometry.height_px,
                width_px: self.geometry.width_px,
            });
        }
        let count = image.values.iter().filter(|v| !v.is_finite()).count();
        if count > 0 {
            return Err(RegisterError::NotFinite { count });
        }
        if image.values.windows(2).all(|w| w[0] == w[1]) {
            return Err(RegisterError::Featureless);
        }
        Ok(())
    }

    fn held(&self, verdict: FitVerdict, score: f64) -> Registration {
        let (dy_px, dx_px) = self.record.shift;
        Registration { dy_px, dx_px, score, verdict, reacquired: false }
    }

    /// The frame's verdict and fit; moves the tracker when the frame deserves it.
    fn register(&mut self, plane: Plane) -> (Registration, Fit) {
        let start = (self.record.shift.0.round() as i32, self.record.shift.1.round() as i32);
        let mut fit = self.track(&self.bank, plane, start);
        let all = &fit.measured.all;
        if all.saturated as f64 > self.config.saturated_fraction * all.count as f64 {
            return (self.held(FitVerdict::Saturated, 0.0), fit);
        }
        if self.is_blank(&fit.measured) {
            return (self.held(FitVerdict::Blank, 0.0), fit);
        }
        let mut reacquired = false;
        let floor = REACQUIRE.max(1.25 * self.config.min_score).max(REACQUIRE_FALL * self.record.last_score);
        let unknown = self.record.learning && self.record.learned.count == 0;
        if !self.record.locked || unknown || !fit.converged || fit.score < floor {
            let (found, prominence) = self.reacquire(plane, unknown);
            if found.score > fit.score {
                fit = found;
                reacquired = true;
            }
            if unknown && prominence >= PROMINENT && (reacquired || fit.score >= found.score) {
                // the first frame seen with this template says what to expect
                fit.score = 1.0;
            } else if unknown && !self.record.baseline {
                fit.score = 0.0;
            }
        }
        if self.is_torn(&fit) {
            return (self.held(FitVerdict::Torn, fit.score.clamp(0.0, 1.0)), fit);
        }
        if !(fit.score >= self.config.min_score) {
            return (self.held(FitVerdict::LowScore, fit.score.clamp(0.0, 1.0)), fit);
        }
        let (dy, dx) = (fit.shift.0 - self.record.shift.0, fit.shift.1 - self.record.shift.1);
        let jumped = self.record.locked && (dy * dy + dx * dx).sqrt() > self.config.max_jump_px;
        self.record.locked = true;
        self.record.shift = fit.shift;
        let score = fit.score.clamp(0.0, 1.0);
        self.record.last_score = score;
        let verdict = if jumped { FitVerdict::Jump } else { FitVerdict::Good };
        let (dy_px, dx_px) = fit.shift;
        (Registration { dy_px, dx_px, score, verdict, reacquired }, fit)
    }

    /// Whether the first few frames of a baseline were the odd ones, and not those that do not fit them.
    fn starts_anew(&mut self) -> bool {
        if !self.record.baseline || self.record.frames >= MISFITS_MAX {
            return false;
        }
        self.record.misfits += 1;
        self.record.misfits >= MISFITS_MAX
    }

    fn clamp(&self, lag: (i32, i32)) -> (i32, i32) {
        (lag.0.clamp(-self.max.0, self.max.0), lag.1.clamp(-self.max.1, self.max.1))
    }

    /// Follows the content from a whole-pixel lag.
    fn track(&self, bank: &Bank, plane: Plane, start: (i32, i32)) -> Fit {
        let mut lag = self.clamp(start);
        let mut passes = 1;
        loop {
            let measured = bank.measure(self.path, plane, lag);
            let solution = bank.solve(&measured);
            let next = self.clamp((lag.0 + solution.dy.round() as i32, lag.1 + solution.dx.round() as i32));
            let near = solution.dy.abs() <= REACH_PX && solution.dx.abs() <= REACH_PX;
            if near || next == lag || passes >= self.config.max_iterations {
                // beyond a pixel the expansion is only a direction: the contrast at the lag itself is what is known
                let far = solution.dy.abs() > 1.0 || solution.dx.abs() > 1.0;
                let gain = if far { bank.gain_at_lag(&measured) } else { solution.gain };
                let shift = (f64::from(lag.0) + solution.dy, f64::from(lag.1) + solution.dx);
                return Fit { measured, solution, shift, score: gain * self.norm(&measured, 0), converged: near };
            }
            lag = next;
            passes += 1;
        }
    }

    /// What turns a contrast into a score: the whole frame's (0) or a band's (1 to 8).
    fn norm(&self, measured: &Measured, which: usize) -> f64 {
        let record = &self.record;
        let variance = measured.all.variance();
        let typical = record.variance.0 / f64::from(record.variance.1.max(1));
        let ratio = if variance > 0.0 && record.variance.1 > 0 { (typical / variance).sqrt() } else { 1.0 };
        ratio / record.typical.mean[which]
    }

    /// Looks for the content everywhere within the largest shift; with `field` also says how prominent it is.
    fn reacquire(&mut self, plane: Plane, field: bool) -> (Fit, f64) {
        let nominees = self.wide.search(plane, &self.spectrum, field);
        (self.best_of(&self.bank, plane, &nominees.lags[..nominees.count]), nominees.prominence())
    }

    /// Of the nominated lags the one with the highest exact contrast, tracked from there.
    fn best_of(&self, bank: &Bank, plane: Plane, lags: &[(i32, i32)]) -> Fit {
        let mut best = ((0, 0), f64::NEG_INFINITY);
        for &lag in lags {
            let lag = self.clamp(lag);
            let gain = bank.gain_at_lag(&bank.measure(self.path, plane, lag));
            if gain > best.1 {
                best = (lag, gain);
            }
        }
        self.track(bank, plane, best.0)
    }

    fn is_blank(&self, measured: &Measured) -> bool {
        let (all, record) = (&measured.all, &self.record);
        let rows = all.count / (self.geometry.width_px as i64).max(1);
        let variance = all.variance();
        let typical = record.variance.0 / f64::from(record.variance.1.max(1));
        variance <= 0.0 || variance < BLANK_VARIANCE * typical || all.flat_rows > record.flat_rows + rows / 2
    }

    /// Rows without content where the baseline had some, or bands that do not fit while others do.
    fn is_torn(&self, fit: &Fit) -> bool {
        let excess = (self.geometry.height_px as i64 / 50).max(3);
        if fit.measured.all.flat_rows > self.record.flat_rows + excess && !self.record.learning {
            return true;
        }
        let (mut lost, mut good) = (0, 0);
        let typical = &self.record.typical;
        for (k, gain) in self.bank.band_gains(&fit.measured).iter().enumerate() {
            let Some((gain, noise)) = gain else { continue };
            let norm = self.norm(&fit.measured, k + 1);
            if noise * norm < BAND_NOISE {
                let deviation = typical.deviation[k + 1];
                // while the deviation is unknown only a band that shows nothing at all counts
                let limit = if deviation.is_finite() {
                    BAND_LOST.min(1.0 - BAND_DEVIATIONS * deviation / typical.mean[k + 1])
                } else {
                    0.1
                };
                lost += u32::from(gain * norm < limit);
                good += u32::from(gain * norm > BAND_GOOD);
            }
        }
        lost > 0 && good > 0
    }

    /// The baseline's first frame is the first template.
    fn first_frame(&mut self, plane: Plane) -> Registration {
        let Geometry { height_px, width_px } = self.geometry;
        let whole = Region { rows: 0..height_px, columns: 0..width_px, lag_y: 0, lag_x: 0 };
        let mut measured = Measured::default();
        accumulate(self.path, plane, self.bank.weights(), &whole, &mut measured.all);
        if measured.all.saturated as f64 > self.config.saturated_fraction * measured.all.count as f64 {
            return self.held(FitVerdict::Saturated, 0.0);
        }
        if self.is_blank(&measured) {
            return self.held(FitVerdict::Blank, 0.0);
        }
        self.record.flat_rows = measured.all.flat_rows;
        self.record.variance = (measured.all.variance(), 1);
        self.record.locked = true;
        self.accumulator.add(plane, (0, 0));
        self.record.frames = 1;
        self.measure_noise(plane);
        self.refresh();
        Registration { dy_px: 0.0, dx_px: 0.0, score: 1.0, verdict: FitVerdict::Good, reacquired: false }
    }

    /// A good frame teaches: the template during a baseline, the expectation after a template was loaded.
    fn take_good(&mut self, plane: Plane, registration: &Registration, fit: &Fit) {
        let record = &mut self.record;
        let variance = fit.measured.all.variance();
        if record.variance.1 == 0 {
            record.variance = (variance, 1);
        }
        if record.learning || record.baseline {
            let mut contrasts: Contrasts = Contrasts::default();
            contrasts[0] = fit.solution.gain;
            for (contrast, gain) in contrasts[1..].iter_mut().zip(self.bank.band_gains(&fit.measured)) {
                *contrast = gain.map_or(1.0, |(gain, _)| gain);
            }
            record.learned.add(&contrasts);
        }
        if record.learning {
            record.learned.tell(&mut record.typical);
            record.flat_rows = record.flat_rows.max(fit.measured.all.flat_rows);
            record.learning = record.learned.count < LEARNING_FRAMES;
        }
        if !record.baseline {
            return;
        }
        record.misfits = 0;
        let lag = (registration.dy_px.round() as i32, registration.dx_px.round() as i32);
        if self.accumulator.add(plane, lag) {
            record.frames = self.accumulator.frames();
            record.variance.0 += variance;
            record.variance.1 += 1;
            record.flat_rows = record.flat_rows.max(fit.measured.all.flat_rows);
            if record.frames.is_power_of_two() {
                self.measure_noise(plane);
                self.refresh();
            }
        }
    }

    fn measure_noise(&mut self, plane: Plane) {
        self.record.frame_noise.0 += filter::white_noise(plane);
        self.record.frame_noise.1 += 1;
    }

    /// Makes the template from the frames accumulated so far.
    fn refresh(&mut self) {
        self.accumulator.mean(&mut self.mean);
        let (sum, count) = self.record.frame_noise;
        self.expect_more();
        self.record.template_noise = sum / f64::from(count.max(1)) / f64::from(self.record.frames.max(1));
        self.record.template = true;
        self.record.built_from = self.record.frames;
        self.build_template();
        self.update_offset();
    }

    /// What the new template's typical contrast will be. Noise of a template that is not white escapes the correction
    /// and makes typical contrasts `1 / (1 + c / n)` for one of n frames: c is known from the last template.
    fn expect_more(&mut self) {
        let record = &mut self.record;
        record.learned.tell(&mut record.typical);
        if record.learned.count > 0 && record.built_from > 0 {
            let share = f64::from(record.built_from) / f64::from(record.frames.max(1));
            for (mean, deviation) in record.typical.mean.iter_mut().zip(&mut record.typical.deviation) {
                let next = 1.0 / (1.0 + (1.0 / *mean - 1.0) * share);
                *deviation *= next / *mean;
                *mean = next;
            }
        }
        record.learned = Learned::default();
        record.learning = record.frames == 1;
    }

    fn build_template(&mut self) {
        self.bank.build(self.path, &mut self.filters, &self.mean, self.record.template_noise);
        self.wide.store(self.filters.band(), &mut self.spectrum);
    }

    fn build_reference(&mut self) {
        self.reference_bank.build(self.path, &mut self.filters, &self.reference, 0.0);
        self.wide.store(self.filters.band(), &mut self.reference_spectrum);
    }

    /// Registers the template to the reference.
    fn update_offset(&mut self) {
        if !self.record.template || !self.record.reference || self.margins.is_empty() {
            self.record.offset = None;
            return;
        }
        let plane = self.bank.as_plane();
        let nominees = self.wide.search(plane, &self.reference_spectrum, true);
        let fit = self.best_of(&self.reference_bank, plane, &nominees.lags[..nominees.count]);
        let score = nominees.prominence();
        let (dy_px, dx_px) = fit.shift;
        self.record.offset =
            Some(TemplateOffset { dy_px, dx_px, score, trusted: score >= self.config.min_reference_score });
    }
}
