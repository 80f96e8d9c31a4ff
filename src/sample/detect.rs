//! Cells found in a recording: what they do, and what they look like.
//!
//! In: aligned frames of one plane, one after another ([`Detector::add`]): f32 rows, counts, any offset. Out
//! ([`Detector::finish`]): a [`RoiSet`] with weights, whose reference image is the mean of the frames.
//!
//! Memory is bounded: sums for each pixel, and the recording averaged into at most `bins_max` bins, kept twice while
//! the search runs (8 bytes for each bin and pixel: 0.5 GB for 256 bins of 512 x 512). One pass over the frames.
//!
//! The search has two steps. `activity.rs`: neighbourhoods that brighten together, beyond the noise that the frames
//! themselves show; a region grows from each by the correlation of its pixels with the seed's transients (as in
//! CNMF-E's seeds, Zhou et al. 2018, and suite2p's functional detection). `anatomy.rs`: spots of the mean image that
//! look like those cells; a soma that stayed silent can be found in no other way. At last regions too small or too
//! large are dropped.
//!
//! Everything is derived from the recording but the thresholds of [`DetectConfig`], which are ratios. Unless it is
//! given, the diameter is the one of [`DIAMETERS_PX`] that the most energetic places speak for. Sums have a written
//! order: the same frames give the same ROIs.
//!
//! It is not a stage: it runs off the real-time path, allocates, and takes seconds.

mod activity;
mod anatomy;
pub mod compare;
mod filter;
mod movie;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use self::activity::{Activity, Pace};
use self::movie::Movie;
use super::rois::{RawRoi, RoiSet, RoiSetError, check_geometry};
use crate::frame::{Geometry, Image};

/// Diameters that are tried where none is given, in pixels.
pub const DIAMETERS_PX: [f64; 3] = [8.5, 12.0, 17.0];
/// Places that vote for the diameter.
const VOTERS: usize = 100;
/// Frames below which activity cannot be told from noise.
pub const FRAMES_MIN: usize = 20;

/// Parameters of the search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DetectConfig {
    /// Diameter of a cell in pixels, 3 to 60; absent: estimated from the recording.
    pub diameter_px: Option<f64>,
    /// Energy of a seed: robust standard deviations above the median of all pixels, 1 to 1000.
    pub min_energy: f64,
    /// Part of the seeds that may be noise, by how many places darken as much as they brighten, 0 to 1.
    pub max_false: f64,
    /// A seed whose transients correlate so with a stronger one's nearby is a part of the same cell, 0 to 1.
    pub same_cell_correlation: f64,
    /// How far a spot of the mean image may be from what active cells look like, in standard deviations
    /// (Mahalanobis' distance in four dimensions), 0 (only active cells are found) to 10.
    pub max_unlikeness: f64,
    /// Silent cells for each active one, at most, 0 to 100.
    pub max_silent: f64,
    /// Smallest area of a ROI as a fraction of the disc of the diameter, 0 to 1.
    pub min_area: f64,
    /// Largest area of a ROI as a multiple of that disc, above `min_area` to 100.
    pub max_area: f64,
    /// Length of a transient's top in frames, 1 to 10,000: traces are averaged over so many, or over a twentieth of the
    /// recording where that is less.
    pub transient_frames: u32,
    /// What is slower than this is no activity, in frames, above `transient_frames` to 1,000,000.
    pub high_pass_frames: u32,
    /// Bins that the recording is averaged into, at most, 16 to 4,096; memory grows with it.
    pub bins_max: usize,
}

impl Default for DetectConfig {
    fn default() -> Self {
        Self {
            diameter_px: None,
            min_energy: 3.0,
            max_false: 0.1,
            same_cell_correlation: 0.5,
            max_unlikeness: 1.4,
            max_silent: 0.6,
            min_area: 0.15,
            max_area: 4.0,
            transient_frames: 12,
            high_pass_frames: 300,
            bins_max: 256,
        }
    }
}

impl DetectConfig {
    /// Pushes one sentence for each value out of its range.
    pub fn validate(&self, section: &str, violations: &mut Vec<String>) {
        let mut range = |key: &str, value: f64, low: f64, high: f64| {
            if !(low..=high).contains(&value) {
                violations.push(format!("{section}.{key}: {value}, expected {low} to {high}"));
            }
        };
        if let Some(diameter_px) = self.diameter_px {
            range("diameter_px", diameter_px, 3.0, 60.0);
        }
        range("min_energy", self.min_energy, 1.0, 1_000.0);
        range("max_false", self.max_false, 0.0, 1.0);
        range("same_cell_correlation", self.same_cell_correlation, 0.0, 1.0);
        range("max_unlikeness", self.max_unlikeness, 0.0, 10.0);
        range("max_silent", self.max_silent, 0.0, 100.0);
        range("min_area", self.min_area, 0.0, 1.0);
        range("max_area", self.max_area, 0.0, 100.0);
        range("transient_frames", f64::from(self.transient_frames), 1.0, 10_000.0);
        range("high_pass_frames", f64::from(self.high_pass_frames), 1.0, 1_000_000.0);
        range("bins_max", self.bins_max as f64, 16.0, 4_096.0);
        if self.max_area <= self.min_area {
            violations
                .push(format!("{section}.max_area: {}, expected more than min_area, {}", self.max_area, self.min_area));
        }
        if self.high_pass_frames <= self.transient_frames {
            violations.push(format!(
                "{section}.high_pass_frames: {}, expected more than transient_frames, {}",
                self.high_pass_frames, self.transient_frames
            ));
        }
    }
}

/// Why nothing could be searched.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DetectError {
    /// Parameters out of range, one sentence each.
    #[error("{}", .0.join("; "))]
    Config(Vec<String>),
    /// A recording too short to tell activity from noise.
    #[error("the recording has {frames} usable frames, expected at least {} to find cells in", FRAMES_MIN)]
    TooFewFrames {
        /// Frames that were given.
        frames: usize,
    },
    /// A frame of another size.
    #[error("a frame of {got} pixels, expected {expected}")]
    FrameSize {
        /// Pixels that came.
        got: usize,
        /// Pixels that were expected.
        expected: usize,
    },
    /// A value that is no number.
    #[error("a frame with the value {value}, expected finite numbers")]
    NotFinite {
        /// The first one.
        value: f32,
    },
    /// The geometry, or what came of the search, makes no set of ROIs.
    #[error(transparent)]
    Rois(#[from] RoiSetError),
}

/// How a ROI was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// It brightened beyond noise.
    Activity,
    /// It looks like those that did.
    Anatomy,
}

/// What the search found.
#[derive(Debug, Clone)]
pub struct Detection {
    /// The ROIs: those that were active first, the most energetic first, then those that look like them.
    pub set: RoiSet,
    /// How each was found, in the order of the set.
    pub found_by: Vec<FoundBy>,
    /// Energy of a seed, or unlikeness of a spot, in the order of the set.
    pub scores: Vec<f64>,
    /// The diameter that was used, in pixels.
    pub diameter_px: f64,
    /// Frames that were searched.
    pub frames: usize,
    /// Frames averaged into a bin.
    pub frames_per_bin: usize,
    /// Active cells that said what a cell looks like.
    pub examples: usize,
    /// Active cells that are needed for that.
    pub examples_needed: usize,
}

/// A region before it is one of a set.
struct Found {
    /// Place in the frame and weight.
    pixels: Vec<(usize, f32)>,
    by: FoundBy,
    score: f64,
}

impl Found {
    /// Row and column of the centre, by weight.
    fn centre(&self, geometry: Geometry) -> (f64, f64) {
        let (mut sum, mut row, mut col) = (0.0, 0.0, 0.0);
        for &(at, weight) in &self.pixels {
            let weight = f64::from(weight);
            sum += weight;
            row += weight * (at / geometry.width_px) as f64;
            col += weight * (at % geometry.width_px) as f64;
        }
        (row / sum, col / sum)
    }
}

/// Takes frames, then finds cells.
pub struct Detector {
    config: DetectConfig,
    movie: Movie,
}

impl Detector {
    /// A detector for frames of this size.
    ///
    /// # Errors
    /// A parameter is out of its range, or the frame has no size that a scanner delivers.
    pub fn new(config: &DetectConfig, geometry: Geometry) -> Result<Self, DetectError> {
        let mut violations = Vec::new();
        config.validate("detect", &mut violations);
        if !violations.is_empty() {
            return Err(DetectError::Config(violations));
        }
        check_geometry(geometry)?;
        Ok(Self { config: config.clone(), movie: Movie::new(geometry, config.bins_max) })
    }

    /// Takes one frame, moved to where the others lie; row-major, in counts. Only its `rows` and `cols` were recorded:
    /// what is outside does not matter. A frame of which nothing was recorded is passed over.
    ///
    /// # Errors
    /// The frame has another size, or a value in it is no number.
    pub fn add(&mut self, frame: &[f32], rows: Range<usize>, cols: Range<usize>) -> Result<(), DetectError> {
        let geometry = self.movie.geometry;
        if frame.len() != geometry.count() {
            return Err(DetectError::FrameSize { got: frame.len(), expected: geometry.count() });
        }
        let (rows, cols) = (rows.start..rows.end.min(geometry.height_px), cols.start..cols.end.min(geometry.width_px));
        if rows.is_empty() || cols.is_empty() {
            return Ok(());
        }
        if let Some(value) = frame.iter().find(|v| !v.is_finite()) {
            return Err(DetectError::NotFinite { value: *value });
        }
        self.movie.add(frame, &rows, &cols);
        Ok(())
    }

    /// Finds cells in what was taken. None is no error: the set is empty then.
    ///
    /// # Errors
    /// There were fewer frames than [`FRAMES_MIN`].
    pub fn finish(self) -> Result<Detection, DetectError> {
        let Self { config, movie } = self;
        if movie.frames < FRAMES_MIN {
            return Err(DetectError::TooFewFrames { frames: movie.frames });
        }
        let geometry = movie.geometry;
        let (mean, noise, pace) = (movie.mean(), movie.noise(), Pace::of(&config, &movie));
        let diameter_px = config.diameter_px.unwrap_or_else(|| estimate_diameter(&movie, &noise, &config, &pace));
        let fits = |found: &Found| {
            let disc = std::f64::consts::FRAC_PI_4 * diameter_px * diameter_px;
            (config.min_area * disc..=config.max_area * disc).contains(&(found.pixels.len() as f64))
        };
        let activity = Activity::new(&movie, &noise, diameter_px, &pace);
        let seeds = activity.seeds(&config, diameter_px);
        let mut found: Vec<Found> =
            seeds.into_iter().map(|seed| activity.region(&movie, seed, diameter_px, &pace)).filter(fits).collect();
        let energy = activity.energy;
        let (silent, examples) = anatomy::cells(&mean, &noise, geometry, diameter_px, &found, &energy, &config);
        found.extend(silent.into_iter().filter(fits));
        let reference = Image { geometry, values: mean };
        Ok(Detection {
            set: set_of(&found, reference)?,
            found_by: found.iter().map(|found| found.by).collect(),
            scores: found.iter().map(|found| found.score).collect(),
            diameter_px,
            frames: movie.frames,
            frames_per_bin: movie.frames_per_bin,
            examples,
            examples_needed: anatomy::EXAMPLES_MIN,
        })
    }
}

/// The diameter at which the most energetic places are most energetic: the median of their votes.
fn estimate_diameter(movie: &Movie, noise: &[f32], config: &DetectConfig, pace: &Pace) -> f64 {
    let maps: Vec<(f64, Vec<f32>)> =
        DIAMETERS_PX.iter().map(|&px| (px, Activity::new(movie, noise, px, pace).energy)).collect();
    let mut votes = Vec::new();
    for (px, map) in &maps {
        let radius = (px / 4.0).round().max(2.0) as usize;
        for at in filter::peaks(map, movie.geometry, radius, 2, config.min_energy as f32).into_iter().take(VOTERS) {
            let best = maps.iter().max_by(|a, b| a.1[at].total_cmp(&b.1[at]));
            votes.extend(best.map(|best| best.0));
        }
    }
    votes.sort_by(f64::total_cmp);
    votes.get(votes.len() / 2).copied().unwrap_or(DIAMETERS_PX[0])
}

fn set_of(found: &[Found], reference: Image) -> Result<RoiSet, RoiSetError> {
    let geometry = reference.geometry;
    let raw = |found: &Found| {
        let largest = found.pixels.iter().map(|p| p.1).fold(0.0, f32::max);
        let place = |at: usize| ((at / geometry.width_px) as i64, (at % geometry.width_px) as i64);
        let pixels = found.pixels.iter().map(|&(at, weight)| (place(at).0, place(at).1, weight / largest)).collect();
        let name = match found.by {
            FoundBy::Activity => "active",
            FoundBy::Anatomy => "silent",
        };
        RawRoi { name: Some(name.to_owned()), pixels, ..RawRoi::default() }
    };
    RoiSet::from_raw(geometry, found.iter().map(raw).collect(), Some(reference), "detected".to_owned())
}
