//! Calibration: how hard the task is, from a baseline.
//!
//! In: the corrected F of the baseline's valid frames, how F0 is found, the ensembles, the length of a trial. Out: the
//! threshold T and the bottom of the range (`range_low`), in the units of the decoded signal, and what they rest on.
//!
//! 1. `x` of every frame of the baseline, against the circular F0 (`activity`): a segment that goes around the
//!    baseline sees at a frame what any other segment sees there, so as many values as frames are all there are.
//!    With one population x is clipped at 0, as in the task.
//! 2. 200 segments of one trial length, starting at frames drawn without replacement, going around. `range_low` is the
//!    smallest x in them.
//! 3. Candidates `range_low + k * 0.005`, up to the largest x. T is the first at which at most half of the segments
//!    exceed it with the centred 3-frame moving mean of x (of 2 frames at a segment's ends) anywhere.
//! 4. A normal distribution on the lower half of the segments' x, mirrored at its median m: all `d <= m` together with
//!    `2m - d`; `z_half = (T - mu_half) / sigma_half`.
//! 5. From day 2 on, the demand never grows beyond day 1's: where day 1's z_half is below today's,
//!    `T = mu_half + sigma_half * (day 1's z_half)`.
//!
//! Order of the sums: x as the decoder sums it; the moving mean from its first frame to its last; mu and sigma over
//! the baseline's frames in ascending order, each weighted by how often the segments visit it. The draw: ChaCha8,
//! whose key is the seed as 8 little-endian bytes followed by 24 zeros, stream 0; partial Fisher-Yates over the frames
//! 0 to N - 1, entry i exchanged with entry `i + bounded(N - i)`; `bounded(n)` is the high half of the 128-bit
//! product of n and the next 64-bit word, where a low half below `2^64 mod n` is drawn again (Lemire 2019).
//!
//! Cost: the pass over the ROIs of the ensembles dominates, 0.05 us for each of them and each frame: some 5 ms for 10
//! ROIs and 9,000 frames. It does not allocate once its workspace exists. Method: Francioni et al. (Nature 2026), as
//! CLOOSE calibrates; the mirror image and the window of F0 are those of the session's definition.
//!
//! It is the one place that calls the activity's and the decoder's arithmetic on a whole baseline, so that the session
//! and the command line calibrate with the very code that the task runs on.

use crate::activity::{ActivitySettings, BaselineBlock, BaselineScratch, baseline_signal};
use crate::config::calibration::CalibrationConfig;
use crate::config::decode::{ENSEMBLE_MAX, Signal};
use crate::decode::{EnsembleError, Ensembles};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a calibration rests on.
#[derive(Debug, Clone, Copy)]
pub struct CalibrationInput<'a> {
    /// Corrected F of the baseline's valid frames.
    pub block: BaselineBlock<'a>,
    /// How F becomes the signal.
    pub settings: ActivitySettings,
    /// Where each ROI's F0 is at or below this, the ROI is invalid, counts; empty: `settings.floor` for all.
    pub floors: &'a [f64],
    /// The two populations.
    pub ensembles: &'a Ensembles,
    /// Which value of an ROI enters the cursor.
    pub signal: Signal,
    /// Frames over which x is averaged, centred (an even number has one more before than after).
    pub smooth_frames: u32,
    /// Length of a trial, and of a segment, in frames; 1 or more.
    pub trial_frames: u32,
}

/// The difficulty of a session. Thresholds and x are in the units of the decoded signal (dF/F, or z).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Calibration {
    /// T: the cursor at which the grating reaches the target is `threshold - range_low`.
    pub threshold: f64,
    /// The smallest x of the segments: the cursor's zero.
    pub range_low: f64,
    /// Mean of the mirrored lower half of x.
    pub mu_half: f64,
    /// Standard deviation (n - 1) of the mirrored lower half of x.
    pub sigma_half: f64,
    /// `(threshold_today - mu_half) / sigma_half`; none where sigma_half is 0. Day 1's is what later days keep.
    pub z_half: Option<f64>,
    /// The fraction of segments that exceed `threshold_today`, 0 to 1.
    pub chance_fraction: f64,
    /// First frames of the segments, from 0 on, in the order in which they were drawn.
    pub segment_starts: Vec<u32>,
    /// The threshold that this baseline gives by itself, without day 1.
    pub threshold_today: f64,
    /// Whether `threshold` is day 1's demand instead of today's.
    pub carried_over: bool,
    /// Frames of the baseline that were used.
    pub baseline_frames: u32,
}

impl Calibration {
    /// An empty result with room for `segments` starts.
    pub fn with_capacity(segments: usize) -> Self {
        Self { segment_starts: Vec::with_capacity(segments), ..Default::default() }
    }

    /// Copies `from` into this one; does not allocate where there is room for the segments' starts.
    pub fn copy_from(&mut self, from: &Calibration) {
        let mut segment_starts = std::mem::take(&mut self.segment_starts);
        segment_starts.clear();
        segment_starts.extend_from_slice(&from.segment_starts);
        *self = Self { segment_starts, ..*from };
    }
}

/// Why a baseline gives no threshold.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CalibrationError {
    /// Fewer frames than segments to draw.
    #[error("calibration: the baseline has {got} valid frames, expected at least {expected}")]
    TooFewFrames {
        /// Valid frames of the baseline.
        got: usize,
        /// Segments to draw.
        expected: usize,
    },
    /// The ensembles cannot be used.
    #[error("calibration: {0}")]
    Ensembles(#[from] EnsembleError),
    /// A population without a valid cell.
    #[error("calibration: frame {frame} of the baseline has no x, expected a valid cell in each population")]
    NotFinite {
        /// The frame, counted from 0 among the valid ones.
        frame: usize,
    },
    /// No candidate is exceeded in few enough segments.
    #[error(
        "calibration: x lies between {low} and {high}, and no threshold in steps of {step} is exceeded in few enough \
         segments"
    )]
    NoThreshold {
        /// Smallest x.
        low: f64,
        /// Largest x.
        high: f64,
        /// Step between candidates.
        step: f64,
    },
    /// The threshold is not above the bottom of the range, so no rotation can be defined.
    #[error("calibration: the threshold is {threshold}, expected above the lowest x, {range_low}")]
    ThresholdTooLow {
        /// T.
        threshold: f64,
        /// Smallest x.
        range_low: f64,
    },
    /// Day 1's difficulty cannot be compared with a baseline without spread.
    #[error(
        "calibration: the lower half of x has a standard deviation of 0, expected above 0 to keep day 1's difficulty"
    )]
    NoSpread,
    /// The workspace was made for less.
    #[error("calibration: the workspace has room for {got} {what}, expected {expected}")]
    Workspace {
        /// What there is too little room for.
        what: &'static str,
        /// Room that there is.
        got: usize,
        /// Room that is needed.
        expected: usize,
    },
    /// A trial of no frames, or a baseline that cannot be counted.
    #[error("calibration: {what} is {got}, expected {expected}")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// Its value.
        got: u64,
        /// What it may be.
        expected: &'static str,
    },
}

/// Memory for calibrations, taken once.
#[derive(Debug, Clone)]
pub struct CalibrationWorkspace {
    frames: usize,
    cells: usize,
    /// Signal of the ensembles' cells, `frames` apart.
    signal: Vec<f64>,
    scratch: BaselineScratch,
    x: Vec<f64>,
    /// Frames: to draw from, then in ascending order of x.
    order: Vec<u32>,
    starts: Vec<u32>,
    /// Largest moving mean of each segment.
    peaks: Vec<f64>,
    /// How often the segments visit each frame.
    visits: Vec<u64>,
}

impl CalibrationWorkspace {
    /// Room for a baseline of `baseline_frames` with these settings, `segments`, and ensembles of `cells` ROIs together
    /// (at most 128 are ever used).
    pub fn new(settings: &ActivitySettings, baseline_frames: usize, segments: usize, cells: usize) -> Self {
        let cells = cells.min(2 * ENSEMBLE_MAX);
        Self {
            frames: baseline_frames,
            cells,
            signal: vec![0.0; cells * baseline_frames],
            scratch: BaselineScratch::new(settings, baseline_frames),
            x: vec![0.0; baseline_frames],
            order: vec![0; baseline_frames],
            starts: vec![0; segments],
            peaks: vec![0.0; segments],
            visits: vec![0; baseline_frames],
        }
    }

    /// x of the last calibration's baseline, frame after frame (also after an error that came later than x).
    pub fn x(&self) -> &[f64] {
        &self.x
    }
}

/// Calibrates from a baseline into `out`, which stays as it was on an error. Allocates nothing where `out` has room
/// for the segments' starts.
pub fn calibrate(
    input: &CalibrationInput<'_>,
    config: &CalibrationConfig,
    workspace: &mut CalibrationWorkspace,
    out: &mut Calibration,
) -> Result<(), CalibrationError> {
    let frames = input.block.frames();
    let segments = config.segments as usize;
    check(input, segments, workspace)?;
    baseline_x(input, workspace)?;
    let x = &workspace.x[..frames];
    let starts = &mut workspace.starts[..segments];
    draw_starts(config.seed, &mut workspace.order[..frames], starts);
    let visits = &mut workspace.visits[..frames];
    count_visits(starts, input.trial_frames as usize, visits);
    let (range_low, high) = extremes(x, visits);
    for (peak, &start) in workspace.peaks.iter_mut().zip(starts.iter()) {
        *peak = segment_peak(x, start as usize, input.trial_frames as usize, input.smooth_frames as usize);
    }
    let peaks = &workspace.peaks[..segments];
    let fraction = |threshold: f64| peaks.iter().filter(|&&peak| peak > threshold).count() as f64 / segments as f64;
    let step = config.threshold_step;
    let threshold_today = first_candidate(range_low, high, step, |t| fraction(t) <= config.target_fraction)
        .ok_or(CalibrationError::NoThreshold { low: range_low, high, step })?;
    let (mu_half, sigma_half) = mirrored_half(x, visits, &mut workspace.order[..frames]);
    let z_half = (sigma_half > 0.0).then(|| (threshold_today - mu_half) / sigma_half);
    let (threshold, carried_over) = match (config.day1_z_half, z_half) {
        (None, _) => (threshold_today, false),
        (Some(_), None) => return Err(CalibrationError::NoSpread),
        (Some(day1), Some(today)) if day1 >= today => (threshold_today, false),
        (Some(day1), Some(_)) => (mu_half + sigma_half * day1, true),
    };
    // Written so that a NaN among the two is an error.
    if !(threshold > range_low && threshold.is_finite()) {
        return Err(CalibrationError::ThresholdTooLow { threshold, range_low });
    }
    out.segment_starts.clear();
    out.segment_starts.extend_from_slice(starts);
    out.chance_fraction = fraction(threshold_today);
    (out.threshold, out.range_low, out.threshold_today) = (threshold, range_low, threshold_today);
    (out.mu_half, out.sigma_half, out.z_half) = (mu_half, sigma_half, z_half);
    out.carried_over = carried_over;
    out.baseline_frames = frames as u32;
    Ok(())
}

/// What has to hold before anything is computed.
fn check(
    input: &CalibrationInput<'_>,
    segments: usize,
    workspace: &CalibrationWorkspace,
) -> Result<(), CalibrationError> {
    let frames = input.block.frames();
    input.ensembles.check(input.block.roi_count())?;
    if frames < segments.max(1) {
        return Err(CalibrationError::TooFewFrames { got: frames, expected: segments.max(1) });
    }
    let counts = [
        ("trial_frames", u64::from(input.trial_frames)),
        ("smooth_frames", u64::from(input.smooth_frames)),
        ("segments", segments as u64),
        ("frames of the baseline", frames as u64),
    ];
    for (what, got) in counts {
        if got == 0 || got > u64::from(u32::MAX) {
            return Err(CalibrationError::OutOfRange { what, got, expected: "1 to 4294967295" });
        }
    }
    let cells = input.ensembles.plus.len() + input.ensembles.minus.len();
    let rooms = [
        ("baseline frames", workspace.frames, frames),
        ("F0 window frames", workspace.scratch.window_frames(), input.settings.history_frames().max(frames)),
        ("segments", workspace.starts.len(), segments),
        ("cells", workspace.cells, cells),
    ];
    match rooms.into_iter().find(|(_, got, expected)| got < expected) {
        Some((what, got, expected)) => Err(CalibrationError::Workspace { what, got, expected }),
        None => Ok(()),
    }
}

/// x of every frame of the baseline, into the workspace.
fn baseline_x(input: &CalibrationInput<'_>, workspace: &mut CalibrationWorkspace) -> Result<(), CalibrationError> {
    let frames = input.block.frames();
    for (roi, signal) in input.ensembles.rois().zip(workspace.signal.chunks_exact_mut(frames)) {
        let f = input.block.row(roi as usize).unwrap_or_default();
        let floor = input.floors.get(roi as usize).copied().unwrap_or(input.settings.floor);
        let settings = ActivitySettings { floor, ..input.settings };
        baseline_signal(f, &settings, input.signal, &mut workspace.scratch, signal);
    }
    let signal = &workspace.signal;
    for (frame, x) in workspace.x[..frames].iter_mut().enumerate() {
        *x = input.ensembles.difference(|cell| signal[cell * frames + frame]);
        if !x.is_finite() {
            return Err(CalibrationError::NotFinite { frame });
        }
    }
    Ok(())
}

/// Draws `starts.len()` of `frames.len()` frames without replacement (at most as many); `frames` is scratch.
fn draw_starts(seed: u64, frames: &mut [u32], starts: &mut [u32]) {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);
    for (index, frame) in frames.iter_mut().enumerate() {
        *frame = index as u32;
    }
    for (index, start) in starts.iter_mut().enumerate().take(frames.len()) {
        let other = index + bounded(&mut random, (frames.len() - index) as u64) as usize;
        frames.swap(index, other);
        *start = frames[index];
    }
}

/// A number from 0 to below `bound` (1 or more), each equally likely.
fn bounded(random: &mut impl RngCore, bound: u64) -> u64 {
    let refused_below = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(random.next_u64()) * u128::from(bound);
        if product as u64 >= refused_below {
            return (product >> 64) as u64;
        }
    }
}

/// How often segments of `length` frames visit each frame, going around.
fn count_visits(starts: &[u32], length: usize, visits: &mut [u64]) {
    let frames = visits.len();
    visits.fill((starts.len() * (length / frames)) as u64);
    for &start in starts {
        let (start, rest) = (start as usize, length % frames);
        let end = start + rest;
        visits[start..end.min(frames)].iter_mut().for_each(|count| *count += 1);
        visits[..end.saturating_sub(frames)].iter_mut().for_each(|count| *count += 1);
    }
}

/// Smallest and largest x among the frames that a segment visits.
fn extremes(x: &[f64], visits: &[u64]) -> (f64, f64) {
    let visited = x.iter().zip(visits).filter(|&(_, &count)| count > 0);
    visited.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (&x, _)| (low.min(x), high.max(x)))
}

/// The largest centred moving mean of x in the segment of `length` frames from `start` on.
fn segment_peak(x: &[f64], start: usize, length: usize, smooth: usize) -> f64 {
    let (before, after) = (smooth / 2, (smooth - 1) / 2);
    let mut peak = f64::NEG_INFINITY;
    for at in 0..length {
        let first = at.saturating_sub(before);
        let last = (at + after).min(length - 1);
        let mut sum = 0.0;
        let mut frame = (start + first) % x.len();
        for _ in first..=last {
            sum += x[frame];
            frame += 1;
            if frame == x.len() {
                frame = 0;
            }
        }
        peak = peak.max(sum / (last - first + 1) as f64);
    }
    peak
}

/// The first `low + k * step`, k = 0, 1, .., that is at most `high` and good enough. Whether one is good enough does
/// not fall as they rise, so halving finds it, also where a wild x makes them countless.
fn first_candidate(low: f64, high: f64, step: f64, good: impl Fn(f64) -> bool) -> Option<f64> {
    let candidate = |k: u64| low + k as f64 * step;
    let done = |k: u64| candidate(k) > high || good(candidate(k));
    // Below 2^53 every k is a double of its own.
    let (mut from, mut to) = (0u64, 1u64 << 53);
    while from < to {
        let middle = from + (to - from) / 2;
        if done(middle) {
            to = middle;
        } else {
            from = middle + 1;
        }
    }
    let found = candidate(from);
    (found <= high && good(found)).then_some(found)
}

/// Mean and standard deviation of the values of x up to their median m, together with their mirror images at m. A
/// frame counts as often as the segments visit it. `order` is scratch.
fn mirrored_half(x: &[f64], visits: &[u64], order: &mut [u32]) -> (f64, f64) {
    for (index, frame) in order.iter_mut().enumerate() {
        *frame = index as u32;
    }
    order.sort_unstable_by(|&a, &b| x[a as usize].total_cmp(&x[b as usize]).then(a.cmp(&b)));
    let total: u64 = visits.iter().sum();
    let ranked = |rank: u64| {
        let mut below = 0;
        let found = order.iter().find(|&&frame| {
            below += visits[frame as usize];
            below > rank
        });
        found.map_or(f64::NAN, |&frame| x[frame as usize])
    };
    let median = if total % 2 == 1 {
        ranked(total / 2)
    } else {
        (ranked((total / 2).saturating_sub(1)) + ranked(total / 2)) / 2.0
    };
    let lower = || x.iter().zip(visits).filter(|&(&d, &count)| count > 0 && d <= median);
    let (mut sum, mut count) = (0.0, 0.0);
    for (&d, &visits) in lower() {
        sum += visits as f64 * (d + (2.0 * median - d));
        count += 2.0 * visits as f64;
    }
    let mean = sum / count;
    let mut squares = 0.0;
    for (&d, &visits) in lower() {
        let (below, above) = (d - mean, 2.0 * median - d - mean);
        squares += visits as f64 * (below * below + above * above);
    }
    (mean, (squares / (count - 1.0)).sqrt())
}

#[cfg(test)]
#[path = "calibration_tests.rs"]
mod tests;
