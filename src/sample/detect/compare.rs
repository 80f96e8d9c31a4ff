//! A set of ROIs held against another that is taken for the truth.
//!
//! **Found** means, as in Neurofinder's contest (2016): the centres lie within a distance, 5 px unless said otherwise,
//! and every ROI serves once; the nearest pairs are made first (of equally near ones the first). Recall is the part of
//! the truth that was found, precision the part of what was detected that is true, F1 their harmonic mean.
//!
//! An ROI **has a transient** when its F, less 0.7 of its neuropil's, stands more than [`TRANSIENT_SDS`] robust
//! standard deviations of its noise above its running median in at least [`TRANSIENT_FRAMES`] frames that follow one
//! another. The noise is that of successive frames' differences, so a slow change does not count as noise.

use serde::Serialize;

use super::filter::quantile;
use crate::sample::{Roi, RoiSet};

/// Largest distance of two centres that match, in pixels, where none is given.
pub const MATCH_PX: f64 = 5.0;
/// Standard deviations that a transient exceeds.
pub const TRANSIENT_SDS: f64 = 3.0;
/// Frames in a row for which it does so.
pub const TRANSIENT_FRAMES: usize = 2;
/// How much of the neuropil is subtracted.
pub const NEUROPIL_COEFFICIENT: f64 = 0.7;
/// Frames of the running median.
const MEDIAN_FRAMES: usize = 301;

/// One ROI and the one of the truth that it found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Position in the set that was detected.
    pub found: usize,
    /// Position in the truth.
    pub truth: usize,
    /// Distance of the centres, in pixels.
    pub distance_px: f64,
    /// Pixels that both have over pixels that one of them has, 0 to 1.
    pub overlap: f64,
}

/// How well a set agrees with the truth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Part of the truth that was found, 0 to 1; `None` where the truth is empty.
    pub recall: Option<f64>,
    /// Part of what was detected that is true, 0 to 1; `None` where nothing was.
    pub precision: Option<f64>,
    /// Their harmonic mean, 0 to 1; `None` where one of them is.
    pub f1: Option<f64>,
    /// Median overlap of those found, 0 to 1; `None` where none was.
    pub overlap_median: Option<f64>,
}

impl Agreement {
    /// Of these pairs, between sets of these sizes.
    pub fn of(pairs: &[Pair], found: usize, truth: usize) -> Self {
        let part = |of: usize| (of > 0).then(|| pairs.len() as f64 / of as f64);
        let (recall, precision) = (part(truth), part(found));
        let f1 = (found + truth > 0).then(|| 2.0 * pairs.len() as f64 / (found + truth) as f64);
        let mut overlaps: Vec<f64> = pairs.iter().map(|pair| pair.overlap).collect();
        overlaps.sort_by(f64::total_cmp);
        Self {
            recall,
            precision,
            f1: f1.filter(|_| found > 0 && truth > 0),
            overlap_median: overlaps.get(overlaps.len() / 2).copied(),
        }
    }
}

/// The pairs of two sets on frames of the same size, nearest first, where the truth lies `moved_px` (rows, columns)
/// from where it was drawn. Only ROIs of one plane make a pair.
pub fn pairs(found: &RoiSet, truth: &RoiSet, moved_px: (f64, f64), within_px: f64) -> Vec<Pair> {
    let centres = |set: &RoiSet| -> Vec<(f64, f64)> { set.rois.iter().map(centre).collect() };
    let (ours, theirs) = (centres(found), centres(truth));
    let mut near = Vec::new();
    for (f, a) in ours.iter().enumerate() {
        for (t, b) in theirs.iter().enumerate() {
            let (down, right) = (a.0 - b.0 - moved_px.0, a.1 - b.1 - moved_px.1);
            let distance_px = (down * down + right * right).sqrt();
            if distance_px <= within_px && found.rois[f].plane == truth.rois[t].plane {
                near.push((distance_px, f, t));
            }
        }
    }
    near.sort_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let (mut free_found, mut free_truth) = (vec![true; ours.len()], vec![true; theirs.len()]);
    let mut pairs = Vec::new();
    for (distance_px, f, t) in near {
        if free_found[f] && free_truth[t] {
            (free_found[f], free_truth[t]) = (false, false);
            pairs.push(Pair {
                found: f,
                truth: t,
                distance_px,
                overlap: overlap(&found.rois[f], &truth.rois[t], moved_px),
            });
        }
    }
    pairs
}

fn centre(roi: &Roi) -> (f64, f64) {
    let (mut sum, mut row, mut col) = (0.0, 0.0, 0.0);
    for p in &roi.pixels {
        let weight = f64::from(p.weight);
        sum += weight;
        row += weight * f64::from(p.row);
        col += weight * f64::from(p.col);
    }
    (row / sum, col / sum)
}

/// Pixels of both over pixels of either, the second moved by whole pixels.
fn overlap(a: &Roi, b: &Roi, moved_px: (f64, f64)) -> f64 {
    let by = (moved_px.0.round() as i64, moved_px.1.round() as i64);
    let theirs: Vec<(i64, i64)> = b.pixels.iter().map(|p| (i64::from(p.row) + by.0, i64::from(p.col) + by.1)).collect();
    let ours = a.pixels.iter().map(|p| (i64::from(p.row), i64::from(p.col)));
    let both = ours.filter(|place| theirs.binary_search(place).is_ok()).count();
    both as f64 / (a.pixels.len() + b.pixels.len() - both) as f64
}

/// Whether a trace has a transient; frames in which either value is missing are left out.
pub fn has_transient(f: &[f64], f_neuropil: &[f64]) -> bool {
    let less = f.iter().zip(f_neuropil).map(|(f, n)| (f - NEUROPIL_COEFFICIENT * n) as f32);
    let trace: Vec<f32> = less.filter(|v| v.is_finite()).collect();
    let mut steps: Vec<f32> = trace.windows(2).map(|w| (w[1] - w[0]).abs()).collect();
    let noise = 1.4826 * quantile(&mut steps, 0.5) / std::f32::consts::SQRT_2;
    if noise <= 0.0 {
        return false;
    }
    let mut run = 0;
    (0..trace.len()).any(|t| {
        let first = t.saturating_sub(MEDIAN_FRAMES / 2).min(trace.len().saturating_sub(MEDIAN_FRAMES));
        let end = (first + MEDIAN_FRAMES).min(trace.len());
        let above = trace[t] - quantile(&mut trace[first..end].to_vec(), 0.5);
        run = if f64::from(above) > TRANSIENT_SDS * f64::from(noise) { run + 1 } else { 0 };
        run >= TRANSIENT_FRAMES
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Geometry;
    use crate::sample::rois::RawRoi;

    fn set(centres: &[(i64, i64)]) -> RoiSet {
        let square = |&(r, c): &(i64, i64)| RawRoi {
            pixels: (-1..=1).flat_map(|y| (-1..=1).map(move |x| (r + y, c + x, 1.0))).collect(),
            ..RawRoi::default()
        };
        RoiSet::from_raw(Geometry::new(50, 50), centres.iter().map(square).collect(), None, "test".into()).unwrap()
    }

    #[test]
    fn every_roi_serves_once_and_the_nearest_pairs_come_first() {
        let (found, truth) = (set(&[(10, 10), (10, 14), (40, 40)]), set(&[(10, 13), (20, 30)]));
        let pairs = pairs(&found, &truth, (0.0, 0.0), MATCH_PX);
        assert_eq!(pairs.len(), 1);
        assert_eq!((pairs[0].found, pairs[0].truth, pairs[0].distance_px, pairs[0].overlap), (1, 0, 1.0, 0.5));
        let agreement = Agreement::of(&pairs, 3, 2);
        assert_eq!((agreement.recall, agreement.precision, agreement.f1), (Some(0.5), Some(1.0 / 3.0), Some(0.4)));
    }

    #[test]
    fn nothing_detected_has_no_precision() {
        let agreement = Agreement::of(&[], 0, 3);
        assert_eq!((agreement.recall, agreement.precision, agreement.f1), (Some(0.0), None, None));
    }

    #[test]
    fn one_bright_frame_is_no_transient_and_two_are() {
        let noise = |t: usize| ((t * 37 % 101) as f64 - 50.0) / 50.0;
        let mut f: Vec<f64> = (0..90).map(noise).collect();
        f[40] = 20.0;
        assert!(!has_transient(&f, &[0.0; 90]));
        f[41] = 20.0;
        assert!(has_transient(&f, &[0.0; 90]));
        assert!(!has_transient(&[], &[]));
        assert!(!has_transient(&[3.0; 90], &[0.0; 90]));
    }
}
