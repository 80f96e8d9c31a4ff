//! The rigid tracker: one shift for the whole frame.
//!
//! In: frames. Out: [`Registration`]s, and the template's offset to the reference image. A frame is measured at the
//! whole pixel nearest to the last good shift, the moments are solved for the shift beyond it, and measured again only
//! when that lies further than a pixel. A score below [`REACQUIRE`] starts the wide search, in the same step.
//!
//! **Score**: the contrast that the frame shares with the band-passed template, as a multiple of what a baseline frame
//! has, times `sqrt(typical variance / the frame's variance)`; so it is a normalised correlation divided by its
//! expectation. 1 is a typical frame at any photon rate, about 0 a frame of another place. Where the light falls to
//! a half, a noise-limited frame scores 0.7. For a loaded template (another day's gain) the expectation is learned
//! from the first 32 good frames.
//!
//! Cost for 512 x 512: 32 us a pass when the frame is in the cache, 40-50 us from memory, one or two passes a frame; a
//! wide search about 1 ms; a template refresh 12-20 ms, at the baseline's frames 1, 2, 4, 8, ... and at its end.

use realfft::num_complex::Complex;

use super::ahead::Ahead;
use super::bank::{Bank, Filters, Margin, margins};
use super::fit::Fit;
use super::kernel::{Path, Plane};
use super::learn::CONTRAST_MIN;
use super::phase::LinePhase;
use super::piecewise::Piecewise;
use super::state::{Reader, Record, load_values, save_values};
use super::template::Accumulator;
use super::update::Update;
use super::wide::Wide;
use super::{BlockGrid, FitVerdict, RegisterError, Registration, TemplateOffset};
use crate::config::register::RegisterConfig;
use crate::frame::{Arrival, FrameView, Geometry, Image};

/// The wide search starts below this score, or below 1.25 times `min_score` if that is more.
const REACQUIRE: f64 = 0.5;
/// ... or when it falls to this fraction of the last good frame's.
const REACQUIRE_FALL: f64 = 0.75;
/// A match that stands out of all other lags this much is believed where no score is known yet.
const PROMINENT: f64 = 0.3;

/// Estimates the motion of frames of one size against one template.
pub struct Rigid {
    pub(super) config: RegisterConfig,
    pub(super) geometry: Geometry,
    pub(super) path: Path,
    pub(super) margins: Vec<Margin>,
    pub(super) max: (i32, i32),
    pub(super) record: Record,
    pub(super) filters: Filters,
    pub(super) wide: Wide,
    pub(super) bank: Bank,
    pub(super) spectrum: Vec<Complex<f32>>,
    pub(super) mean: Vec<f32>,
    pub(super) accumulator: Accumulator,
    pub(super) phase: LinePhase,
    pub(super) blocks: Option<Piecewise>,
    pub(super) update: Option<Update>,
    pub(super) ahead: Option<Ahead>,
    pub(super) reference_bank: Bank,
    pub(super) reference_spectrum: Vec<Complex<f32>>,
    pub(super) reference: Vec<f32>,
}

impl Rigid {
    /// The largest shift that is looked for on frames of this size, rows and columns in pixels.
    pub fn largest_shift_px(config: &RegisterConfig, geometry: Geometry) -> (usize, usize) {
        let fraction =
            if config.max_shift_fraction.is_finite() { config.max_shift_fraction.clamp(0.0, 0.25) } else { 0.15 };
        let largest = |size: usize| ((size as f64 * fraction).floor() as usize).max(2);
        (largest(geometry.height_px), largest(geometry.width_px))
    }

    /// A tracker for frames of `geometry`; allocates everything that it will need.
    pub fn new(config: &RegisterConfig, geometry: Geometry) -> Self {
        let sigma = if config.sigma_px.is_finite() { config.sigma_px.clamp(0.5, 8.0) } else { 1.0 };
        let (max_y, max_x) = Self::largest_shift_px(config, geometry);
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
            accumulator: Accumulator::new(count, geometry.width_px, config.bidirectional_phase.is_on()),
            phase: LinePhase::new(config.bidirectional_phase, geometry, sigma, max_x),
            blocks: Piecewise::new(config, geometry),
            update: Update::new(config.template_update_frames, config.template_update_share, count),
            ahead: None,
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
        self.restart_update();
        self.phase.begin();
        self.blocks.iter_mut().for_each(Piecewise::rest);
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
        self.restart_update();
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

    /// By how many columns the content of odd lines lies to the right of the even lines', whose shift is given: what
    /// was configured, or what the baseline has told so far; 0 while `register.bidirectional_phase` is off.
    pub fn odd_lines_px(&self) -> f64 {
        self.phase.px
    }

    /// How far each block lay beyond the shift of the last frame whose shift was believed, down and right, in pixels,
    /// in the order of [`BlockGrid`]; empty while `register.piecewise` is off.
    pub fn block_shifts(&self) -> (&[f32], &[f32]) {
        self.blocks.as_ref().map_or((&[], &[]), |blocks| (&blocks.dy, &blocks.dx))
    }

    /// Where the blocks lie; `None` while `register.piecewise` is off.
    pub fn block_grid(&self) -> Option<&BlockGrid> {
        self.blocks.as_ref().map(|blocks| &blocks.grid)
    }

    /// The template in counts, if there is one. Allocates.
    pub fn template(&self) -> Option<Image> {
        self.record.template.then(|| Image { geometry: self.geometry, values: self.mean.clone() })
    }

    /// Whether there is a template.
    pub(super) fn has_template(&self) -> bool {
        self.record.template
    }

    /// The template, in counts.
    pub(super) fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// How well an image fits the template, and where it lies on it, in whole pixels.
    pub(super) fn place_of(&mut self, plane: Plane) -> (f64, (i32, i32)) {
        let (fit, _) = self.reacquire(plane, true);
        (fit.score, (fit.shift.0.round() as i32, fit.shift.1.round() as i32))
    }

    /// Takes another day's template, frozen; the gain may differ.
    pub fn load_template(&mut self, image: &Image) -> Result<(), RegisterError> {
        self.check(image)?;
        let old = std::mem::take(&mut self.record);
        self.record =
            Record { size: old.size, reference: old.reference, template: true, learning: true, ..Record::default() };
        self.mean.copy_from_slice(&image.values);
        self.restart_update();
        self.blocks.iter_mut().for_each(Piecewise::rest);
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
        self.step_arrived(frame, Arrival::default())
    }

    /// The same of a frame whose lines [`Rigid::look_ahead`] may have seen while they arrived. The bits are the same.
    pub fn step_arrived(&mut self, frame: &FrameView, arrival: Arrival) -> Registration {
        self.keep_ahead_of(arrival);
        self.settle();
        let registration = self.step_on_template(frame);
        let (dy, dx) = self.origin();
        Registration { dy_px: registration.dy_px + dy, dx_px: registration.dx_px + dx, ..registration }
    }

    /// The same relative to the present template.
    fn step_on_template(&mut self, frame: &FrameView) -> Registration {
        if !self.config.enabled {
            return Registration::none();
        }
        let Some(plane) = self.plane_of(frame) else { return self.held(FitVerdict::NotReady, 0.0) };
        if self.update.is_some() {
            self.record.bias = frame.bias;
        }
        if self.record.template {
            let (registration, fit) = self.register(plane);
            self.refine_blocks(plane, &registration);
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

    /// The frame as the kernels read it; `None` for one of another size.
    pub(super) fn plane_of<'a>(&self, frame: &FrameView<'a>) -> Option<Plane<'a>> {
        let fits = frame.geometry == self.geometry && frame.samples.len() == self.geometry.count();
        let plane = Plane { samples: frame.samples, width: self.geometry.width_px, saturation: frame.saturation };
        (fits && !self.margins.is_empty()).then_some(plane)
    }

    /// Appends everything that changes; does not allocate when `out` has the capacity.
    pub fn save(&self, out: &mut Vec<u8>) {
        self.record.save(out);
        if self.phase.is_on() {
            out.extend_from_slice(&self.phase.px.to_le_bytes());
        }
        self.blocks.iter().for_each(|blocks| blocks.save(out));
        if self.record.template {
            save_values(&self.mean, out);
        }
        if self.record.reference {
            save_values(&self.reference, out);
        }
        if let Some(update) = &self.update {
            // a plain record of numbers into memory: there is no error to report
            let _ = postcard::to_io(&update.record, &mut *out);
        }
        if self.record.baseline || self.update.is_some() {
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
        let mut phase_px = 0.0;
        if self.phase.is_on() {
            let b = reader.take(8)?;
            phase_px = f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
            if !self.phase.accepts(phase_px) {
                let (got, expected) = (bytes.len(), bytes.len());
                return Err(RegisterError::BadState { why: "its phase of odd lines is out of range", got, expected });
            }
        }
        let blocks = self.blocks.as_ref().map(|blocks| blocks.check(&mut reader)).transpose()?;
        let count = self.geometry.count();
        let (images, sums) =
            (usize::from(record.template) + usize::from(record.reference), self.accumulator.saved_len());
        let has_sums = record.baseline || self.update.is_some();
        let expected = reader.consumed() + images * count * 4 + if has_sums { sums } else { 0 };
        if bytes.len() < expected {
            // said before anything is changed
            return Err(RegisterError::BadState { why: "it is cut short", got: bytes.len(), expected });
        }
        self.phase.px = phase_px;
        if let (Some(blocks), Some(saved)) = (&mut self.blocks, blocks) {
            blocks.load(saved);
        }
        if record.template {
            load_values(&mut reader, &mut self.mean)?;
        }
        if record.reference {
            load_values(&mut reader, &mut self.reference)?;
        }
        if let Some(update) = &mut self.update {
            update.record = reader.record()?;
            update.check()?;
        }
        if has_sums {
            let saved = reader.take(self.accumulator.saved_len())?;
            let gathered = self.update.as_ref().filter(|_| !record.baseline).map(|update| update.record.frames);
            self.accumulator.load(saved, gathered.unwrap_or(record.frames));
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

    pub(super) fn held(&self, verdict: FitVerdict, score: f64) -> Registration {
        let (dy_px, dx_px) = self.record.shift;
        Registration { dy_px, dx_px, score, verdict, reacquired: false }
    }

    /// Refines the blocks, before the frame itself becomes part of the template.
    fn refine_blocks(&mut self, plane: Plane, registration: &Registration) {
        let (dy, dx) = (registration.dy_px, registration.dx_px);
        let lag = self.clamp((dy.round() as i32, dx.round() as i32));
        if let (Some(blocks), FitVerdict::Good | FitVerdict::Jump) = (&mut self.blocks, registration.verdict) {
            blocks.refine(self.path, &self.bank, plane, lag, (dy, dx));
        }
    }

    /// The frame's verdict and fit; moves the tracker when the frame deserves it.
    fn register(&mut self, plane: Plane) -> (Registration, Fit) {
        let measured = self.first_pass(plane);
        let mut fit = self.track_from(&self.bank, plane, measured);
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
            if (found.converged, found.score) > (fit.converged, fit.score) {
                fit = found;
                reacquired = true;
            }
            let contrast = fit.converged && fit.solution.gain > if self.record.baseline { CONTRAST_MIN } else { 0.0 };
            if unknown && prominence >= PROMINENT && contrast {
                // the first frame seen with this template says what to expect
                fit.score = 1.0;
            } else if unknown && !self.record.baseline {
                fit.score = 0.0;
            }
        }
        if self.is_torn(plane, &fit) {
            return (self.held(FitVerdict::Torn, fit.score.clamp(0.0, 1.0)), fit);
        }
        // an unconverged fit at the edge of the largest shift knows only a direction
        if !fit.converged || fit.score.is_nan() || fit.score < self.config.min_score {
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
}
