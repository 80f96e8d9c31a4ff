//! One mask as runs of neighbouring pixels, and the integer sums of a frame under it.
//!
//! In: pixels with weights, a shift, rows of samples. Out: four sums for each mask, `sum(w * v)` at the shift's whole
//! part `(0, 0)`, one column right, one row below, and both. Bilinear interpolation at the fraction `(fy, fx)` is linear
//! in these four, so it happens once a mask and not once a pixel:
//!
//! ```text
//! F = ((1 - fy) ((1 - fx) S00 + fx S01) + fy ((1 - fx) S10 + fx S11)) / sum(w)
//! ```
//!
//! Units: weights are 16-bit, the largest of a mask is [`WEIGHT_ONE`]; fractions are 1/256 pixel. A product has 31 bits,
//! a sum over all pixels of the largest frame 57, with the fractions 73: it is combined in 128 bits.
//! Cost: two reads of each pixel under the mask (its row and the one below), whatever the fraction; a run costs two
//! to five nanoseconds more. Uniform masks (annuli, plain means) need no multiplication, and their right neighbour's
//! sum follows from the run's ends.

use std::ops::Range;

/// The fixed-point weight of a mask's heaviest pixel.
pub(crate) const WEIGHT_ONE: u16 = 32_767;

/// Steps in which a shift is counted within a pixel.
pub(crate) const FRACTION_ONE: u32 = 256;

/// Neighbouring pixels in one row.
#[derive(Debug, Clone, Copy)]
struct Run {
    row: i32,
    col: i32,
    len: u32,
    /// Where its weights begin.
    weights: u32,
}

/// A shift in whole pixels and 1/256 of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shift {
    pub row: i32,
    pub col: i32,
    pub row_fraction: u32,
    pub col_fraction: u32,
}

impl Shift {
    /// Rounds to 1/256 pixel, or to whole pixels. `None` when a value is not finite. Shifts beyond a million pixels
    /// leave every frame anyway and are cut there.
    pub fn quantised(dy_px: f64, dx_px: f64, whole_pixel: bool) -> Option<Shift> {
        let parts = |px: f64| {
            let px = if whole_pixel { px.round() } else { px };
            let steps = (px.clamp(-1e6, 1e6) * f64::from(FRACTION_ONE)).round() as i32;
            let one = FRACTION_ONE as i32;
            px.is_finite().then_some((steps.div_euclid(one), steps.rem_euclid(one) as u32))
        };
        let ((row, row_fraction), (col, col_fraction)) = (parts(dy_px)?, parts(dx_px)?);
        Some(Shift { row, col, row_fraction, col_fraction })
    }
}

/// The mask pixels that stay inside the frame under a shift: a rectangle, since a shift moves all pixels alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inside {
    pub top: i32,
    pub bottom: i32,
    pub left: i32,
    pub right: i32,
}

impl Inside {
    /// Rows `top..bottom` and columns `left..right`. A pixel between two samples needs both of them.
    pub fn new(height_px: usize, width_px: usize, shift: Shift) -> Inside {
        Inside {
            top: -shift.row,
            bottom: height_px as i32 - shift.row - i32::from(shift.row_fraction > 0),
            left: -shift.col,
            right: width_px as i32 - shift.col - i32::from(shift.col_fraction > 0),
        }
    }
}

/// What has been added up under one mask so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    /// `taps[row below][column right]`.
    taps: [[u64; 2]; 2],
    pub saturated: u32,
}

/// A strip of a frame with the shift that holds for it.
#[derive(Clone, Copy)]
pub(crate) struct Strip<'a> {
    pub samples: &'a [u16],
    pub width_px: usize,
    /// First row that may be read, and the one after the last.
    pub rows: (i32, i32),
    pub shift: Shift,
    pub inside: Inside,
    /// The saturated sample, where it is to be counted.
    pub saturation: Option<u16>,
}

/// A mask, made once.
#[derive(Debug)]
pub(crate) struct Mask {
    runs: Vec<Run>,
    /// Empty when all weights are 1.
    weights: Vec<u16>,
    weight_sum: u64,
    pub pixel_count: u32,
    rows: Range<i32>,
    cols: Range<i32>,
}

impl Mask {
    /// All pixels alike. `pixels` are sorted by row and column, each once.
    pub fn uniform(pixels: impl Iterator<Item = (u32, u32)>) -> Mask {
        Mask::of_runs(pixels.map(|(row, col)| (row, col, 1)), false)
    }

    /// Weights scaled so that the largest is [`WEIGHT_ONE`] and rounded; pixels that round to 0 leave the mask.
    pub fn weighted(pixels: impl Iterator<Item = (u32, u32, f32)> + Clone) -> Mask {
        let largest = f64::from(pixels.clone().fold(0.0_f32, |largest, (_, _, weight)| largest.max(weight)));
        let fixed = |weight: f32| (f64::from(weight) / largest * f64::from(WEIGHT_ONE)).round() as u16;
        let kept = pixels.map(|(row, col, weight)| (row, col, fixed(weight))).filter(|&(_, _, weight)| weight > 0);
        Mask::of_runs(kept, true)
    }

    fn of_runs(pixels: impl Iterator<Item = (u32, u32, u16)>, keep_weights: bool) -> Mask {
        let mut mask = Mask {
            runs: Vec::new(),
            weights: Vec::new(),
            weight_sum: 0,
            pixel_count: 0,
            rows: i32::MAX..i32::MIN,
            cols: i32::MAX..i32::MIN,
        };
        for (row, col, weight) in pixels {
            let (row, col) = (row as i32, col as i32);
            match mask.runs.last_mut() {
                Some(run) if run.row == row && run.col + run.len as i32 == col => run.len += 1,
                _ => mask.runs.push(Run { row, col, len: 1, weights: mask.weights.len() as u32 }),
            }
            if keep_weights {
                mask.weights.push(weight);
            }
            mask.weight_sum += u64::from(weight);
            mask.pixel_count += 1;
            mask.rows = mask.rows.start.min(row)..mask.rows.end.max(row + 1);
            mask.cols = mask.cols.start.min(col)..mask.cols.end.max(col + 1);
        }
        mask
    }

    /// Row and column of every pixel.
    pub fn pixels(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().flat_map(|run| (0..run.len).map(|k| (run.row as u32, run.col as u32 + k)))
    }

    /// Rows of the mask at rest, `first..after the last`.
    pub fn rows(&self) -> Range<i32> {
        self.rows.clone()
    }

    /// Adds what the strip holds.
    pub fn accumulate(&self, strip: &Strip, sums: &mut Sums) {
        let clip = self.cols.start < strip.inside.left || self.cols.end > strip.inside.right;
        match (clip, strip.shift.col_fraction > 0) {
            (false, false) => self.accumulate_rows::<false, false>(strip, sums),
            (false, true) => self.accumulate_rows::<false, true>(strip, sums),
            (true, false) => self.accumulate_rows::<true, false>(strip, sums),
            (true, true) => self.accumulate_rows::<true, true>(strip, sums),
        }
    }

    fn accumulate_rows<const CLIP: bool, const RIGHT: bool>(&self, strip: &Strip, sums: &mut Sums) {
        let Strip { shift, inside, .. } = *strip;
        // a saturated sample is counted where the shift, rounded to whole pixels, puts the mask's pixel
        let nearest_row = i32::from(shift.row_fraction >= FRACTION_ONE / 2);
        for below in 0..=i32::from(shift.row_fraction > 0) {
            let offset = shift.row + below;
            let top = inside.top.max(strip.rows.0 - offset);
            let bottom = inside.bottom.min(strip.rows.1 - offset);
            let whole = top <= self.rows.start && bottom >= self.rows.end;
            let first = if whole { 0 } else { self.runs.partition_point(|run| run.row < top) };
            let last = if whole { self.runs.len() } else { self.runs.partition_point(|run| run.row < bottom) };
            let Some(runs) = self.runs.get(first..last) else { continue };
            let saturation = strip.saturation.filter(|_| below == nearest_row);
            let [here, right] = self.sum_runs::<CLIP, RIGHT>(runs, offset, saturation, strip, &mut sums.saturated);
            sums.taps[below as usize][0] += here;
            sums.taps[below as usize][1] += right;
        }
    }

    #[inline]
    fn sum_runs<const CLIP: bool, const RIGHT: bool>(
        &self,
        runs: &[Run],
        row_offset: i32,
        saturation: Option<u16>,
        strip: &Strip,
        saturated: &mut u32,
    ) -> [u64; 2] {
        let Strip { samples, width_px, shift, inside, .. } = *strip;
        let nearest_col = usize::from(shift.col_fraction >= FRACTION_ONE / 2);
        let uniform = self.weights.is_empty();
        let (mut here, mut right) = (0_u64, 0_u64);
        for run in runs {
            let (mut col, mut len, mut cut) = (run.col, run.len as i32, 0);
            if CLIP {
                cut = (inside.left - col).max(0);
                len = len.min(inside.right - col) - cut;
                col += cut;
                if len <= 0 {
                    continue;
                }
            }
            let (len, start) = (len as usize, (run.row + row_offset) as usize * width_px + (col + shift.col) as usize);
            let Some(under) = samples.get(start..start + len + usize::from(RIGHT)) else { continue };
            if uniform {
                let sum = sum_samples(&under[..len]);
                here += sum;
                if RIGHT {
                    right += sum + u64::from(under[len]) - u64::from(under[0]);
                }
            } else {
                let from = run.weights as usize + cut as usize;
                let weights = &self.weights[from..from + len];
                here += dot(weights, &under[..len]);
                if RIGHT {
                    right += dot(weights, &under[1..]);
                }
            }
            if let Some(saturation) = saturation {
                *saturated += count_equal(&under[nearest_col..nearest_col + len], saturation);
            }
        }
        [here, right]
    }

    /// Weight and number of the pixels that stay inside.
    fn remaining(&self, inside: &Inside) -> (u64, u32) {
        let contains = |outer: (i32, i32), inner: &Range<i32>| outer.0 <= inner.start && outer.1 >= inner.end;
        if contains((inside.top, inside.bottom), &self.rows) && contains((inside.left, inside.right), &self.cols) {
            return (self.weight_sum, self.pixel_count);
        }
        let (mut weight, mut count) = (0_u64, 0_u32);
        for run in self.runs.iter().filter(|run| (inside.top..inside.bottom).contains(&run.row)) {
            let cut = (inside.left - run.col).max(0);
            let len = (run.len as i32).min(inside.right - run.col) - cut;
            if len <= 0 {
                continue;
            }
            count += len as u32;
            if self.weights.is_empty() {
                weight += len as u64;
            } else {
                let from = (run.weights + cut as u32) as usize;
                weight += self.weights[from..from + len as usize].iter().map(|&w| u64::from(w)).sum::<u64>();
            }
        }
        (weight, count)
    }

    /// The mean sample under the mask, NaN when nothing of it is inside; and how many pixels are outside.
    pub fn mean(&self, sums: &Sums, shift: Shift, inside: &Inside) -> (f64, u32) {
        let (weight, count) = self.remaining(inside);
        let outside = self.pixel_count - count;
        if weight == 0 {
            return (f64::NAN, outside);
        }
        let one = u128::from(FRACTION_ONE);
        let (fy, fx) = (u128::from(shift.row_fraction), u128::from(shift.col_fraction));
        let across = |taps: [u64; 2]| (one - fx) * u128::from(taps[0]) + fx * u128::from(taps[1]);
        let total = (one - fy) * across(sums.taps[0]) + fy * across(sums.taps[1]);
        (total as f64 / (u128::from(weight) * one * one) as f64, outside)
    }
}

/// Sum of a run. Eight lanes let the compiler use vector registers; short runs, which neighbours cut out of annuli,
/// are added one by one.
#[inline]
fn sum_samples(samples: &[u16]) -> u64 {
    let (chunks, rest) = samples.as_chunks::<8>();
    let mut lanes = [0_u32; 8];
    for chunk in chunks {
        for (lane, &sample) in lanes.iter_mut().zip(chunk) {
            *lane += u32::from(sample);
        }
    }
    let mut sum = 0_u64;
    if !chunks.is_empty() {
        sum += lanes.iter().map(|&lane| u64::from(lane)).sum::<u64>();
    }
    for &sample in rest {
        sum += u64::from(sample);
    }
    sum
}

#[inline]
fn dot(weights: &[u16], samples: &[u16]) -> u64 {
    // a product has at most 31 bits
    weights.iter().zip(samples).map(|(&w, &v)| u64::from(u32::from(w) * u32::from(v))).sum()
}

#[inline]
fn count_equal(samples: &[u16], value: u16) -> u32 {
    samples.iter().map(|&sample| u32::from(sample == value)).sum()
}
