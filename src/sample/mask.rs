//! One mask, and the integer sum of a frame under it.
//!
//! In: pixels with weights, a shift, rows of samples. Out: `sum(w * bilinear(v))` in units of 1/65536 of a weight, as
//! an integer. With the fraction `(fy, fx)` of the shift and the four sums `S(j, i) = sum(w(p) v(p + whole + (j, i)))`,
//!
//! ```text
//! F = ((1 - fy) ((1 - fx) S(0,0) + fx S(0,1)) + fy ((1 - fx) S(1,0) + fx S(1,1))) / sum(w)
//! ```
//!
//! so the interpolation happens once a mask and not once a pixel. There are three ways to the same integer:
//! * inside the frame, pieces of sixteen samples are multiplied with as many weights at once (`pieces.rs`);
//! * at the border of the frame or of a strip, runs of neighbouring pixels are cut to what may be read;
//! * where very many masks read a whole frame, it is interpolated once for all of them (`blend.rs`).
//!
//! Units: weights are 16-bit, the largest of a mask is [`WEIGHT_ONE`]; fractions are 1/256 pixel. A product has 31
//! bits, a sum over all pixels of the largest frame 57, with the fractions 73: it is kept in 128 bits.

use crate::sample::pieces::{Pieces, Taps};
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
    /// Whether a mask's pixel is among them.
    pub fn holds(&self, row: i32, col: i32) -> bool {
        (self.top..self.bottom).contains(&row) && (self.left..self.right).contains(&col)
    }

    /// Whether all pixels of a box are among them.
    pub fn holds_all(&self, area: &PixelBox) -> bool {
        let PixelBox { rows, cols } = area;
        rows.start >= self.top && rows.end <= self.bottom && cols.start >= self.left && cols.end <= self.right
    }

    /// Rows `top..bottom` and columns `left..right`. A pixel between two samples needs both of them.
    pub fn new(height_px: usize, width_px: usize, shift: Shift) -> Inside {
        Inside {
            top: -shift.row,
            bottom: height_px as i32 - shift.row - i32::from(shift.row_fraction > 0),
            left: -shift.col,
            right: width_px as i32 - shift.col - i32::from(shift.col_fraction > 0),
        }
    }

    /// What stays inside in both.
    pub fn and(self, other: Inside) -> Inside {
        Inside {
            top: self.top.max(other.top),
            bottom: self.bottom.min(other.bottom),
            left: self.left.max(other.left),
            right: self.right.min(other.right),
        }
    }
}

/// What has been added up under one mask so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    /// Weights times samples, in 1/65536.
    total: u128,
    /// Saturated samples.
    pub saturated: u32,
}

impl Sums {
    /// Adds what was summed up with a shift without a fraction of rows, times a weight in 1/256.
    pub fn add_lines(&mut self, lines: &Sums, weight: u32) {
        // such a sum is a multiple of one: see `combined`
        self.total += lines.total / u128::from(FRACTION_ONE) * u128::from(weight);
        self.saturated += lines.saturated;
    }

    /// Adds weights times samples, in 1/65536.
    pub fn add(&mut self, total: u64) {
        self.total += u128::from(total);
    }

    /// Weights times samples.
    pub fn weighted(&self) -> f64 {
        let one = f64::from(FRACTION_ONE);
        self.total as f64 / (one * one)
    }
}

/// A strip of a frame with the shift that holds for it.
#[derive(Clone, Copy)]
pub(crate) struct Strip<'a> {
    pub samples: &'a [u16],
    pub height_px: usize,
    pub width_px: usize,
    /// First row that may be read, and the one after the last.
    pub rows: (i32, i32),
    pub shift: Shift,
    pub inside: Inside,
    /// The saturated sample, where it is to be counted.
    pub saturation: Option<u16>,
    /// Whether the processor's vector instructions may be used.
    pub simd: bool,
}

/// A box of pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PixelBox {
    /// Rows, in pixels; with a margin it may begin above the frame.
    pub rows: Range<i32>,
    /// Columns, in pixels; with a margin it may begin left of the frame.
    pub cols: Range<i32>,
}

impl PixelBox {
    /// The box around both.
    pub(crate) fn and(&self, other: &PixelBox) -> PixelBox {
        let hull = |a: &Range<i32>, b: &Range<i32>| a.start.min(b.start)..a.end.max(b.end);
        PixelBox { rows: hull(&self.rows, &other.rows), cols: hull(&self.cols, &other.cols) }
    }

    /// Whether nothing in it has to be cut at the frame's border, with one row and column to spare whatever the
    /// fraction.
    pub(crate) fn is_inside(&self, strip: &Strip) -> bool {
        let (PixelBox { rows, cols }, Strip { shift, inside, .. }) = (self, strip);
        // the strip's own limits are narrower where lines of one mask are read at several places
        inside.holds_all(self)
            && rows.start + shift.row >= 0
            && rows.end + shift.row < strip.height_px as i32
            && cols.start + shift.col >= 0
            && cols.end + shift.col < strip.width_px as i32
    }
}

/// A mask, made once.
#[derive(Debug)]
pub(crate) struct Mask {
    runs: Vec<Run>,
    pieces: Pieces,
    /// Empty when all weights are 1.
    weights: Vec<u16>,
    weight_sum: u64,
    pub pixel_count: u32,
    /// Around its pixels, at rest; no pixels, no rows.
    pub area: PixelBox,
}

impl Mask {
    /// All pixels alike. `pixels` are sorted by row and column, each once.
    pub fn uniform(width_px: usize, pixels: impl Iterator<Item = (u32, u32)>) -> Mask {
        Mask::of_runs(width_px, pixels.map(|(row, col)| (row, col, 1)), false)
    }

    /// Weights scaled so that the largest is [`WEIGHT_ONE`] and rounded; pixels that round to 0 leave the mask.
    pub fn weighted(width_px: usize, pixels: impl Iterator<Item = (u32, u32, f32)> + Clone) -> Mask {
        let largest = f64::from(pixels.clone().fold(0.0_f32, |largest, (_, _, weight)| largest.max(weight)));
        let fixed = |weight: f32| (f64::from(weight) / largest * f64::from(WEIGHT_ONE)).round() as u16;
        let kept = pixels.map(|(row, col, weight)| (row, col, fixed(weight))).filter(|&(_, _, weight)| weight > 0);
        Mask::of_runs(width_px, kept, true)
    }

    fn of_runs(width_px: usize, pixels: impl Iterator<Item = (u32, u32, u16)>, keep_weights: bool) -> Mask {
        let pixels: Vec<(u32, u32, u16)> = pixels.collect();
        let mut mask = Mask {
            runs: Vec::new(),
            pieces: Pieces::of(width_px, &pixels, !keep_weights),
            weights: Vec::new(),
            weight_sum: 0,
            pixel_count: 0,
            area: PixelBox { rows: 0..0, cols: 0..0 },
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
            let pixel = PixelBox { rows: row..row + 1, cols: col..col + 1 };
            mask.area = if mask.pixel_count == 1 { pixel } else { mask.area.and(&pixel) };
        }
        mask
    }

    /// The even rows and the odd rows of this mask, each a mask with the same weights.
    pub fn rows_apart(&self, width_px: usize) -> [Mask; 2] {
        [0, 1].map(|parity| {
            let runs = self.runs.iter().filter(|run| run.row % 2 == parity);
            Mask::of_runs(width_px, runs.flat_map(|run| self.pixels_of(run)), !self.weights.is_empty())
        })
    }

    /// Row, column and weight of every pixel.
    pub fn weighted_pixels(&self) -> impl Iterator<Item = (u32, u32, u16)> + '_ {
        self.runs.iter().flat_map(|run| self.pixels_of(run))
    }

    fn pixels_of<'s>(&'s self, run: &'s Run) -> impl Iterator<Item = (u32, u32, u16)> + 's {
        let weight = move |k: u32| self.weights.get((run.weights + k) as usize).copied().unwrap_or(1);
        (0..run.len).map(move |k| (run.row as u32, run.col as u32 + k, weight(k)))
    }

    /// Row and column of every pixel.
    pub fn pixels(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.runs.iter().flat_map(|run| (0..run.len).map(|k| (run.row as u32, run.col as u32 + k)))
    }

    /// Centre of weight at rest, row and column; (0, 0) without pixels.
    pub fn centre_px(&self) -> (f64, f64) {
        let (mut rows, mut cols, mut sum) = (0, 0, 0);
        for run in &self.runs {
            for k in 0..run.len {
                let weight = self.weights.get((run.weights + k) as usize).map_or(1, |&weight| u64::from(weight));
                rows += weight * run.row as u64;
                cols += weight * (run.col as u64 + u64::from(k));
                sum += weight;
            }
        }
        let mean = |total: u64| if sum > 0 { total as f64 / sum as f64 } else { 0.0 };
        (mean(rows), mean(cols))
    }

    /// Samples that [`Mask::accumulate`] reads of a frame inside which it is.
    pub fn reads(&self) -> usize {
        self.pieces.reads()
    }

    /// Row, column and length of each run of neighbouring pixels, sorted.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = (i32, i32, u32)> + '_ {
        self.runs.iter().map(|run| (run.row, run.col, run.len))
    }

    /// The weight of every pixel; empty where all are 1.
    pub fn weights(&self) -> &[u16] {
        &self.weights
    }

    /// What a strip holds that the mask is inside, with a row and a column to spare; nothing where a piece of the mask
    /// would leave the frame.
    fn sum_pieces(&self, strip: &Strip) -> Option<Sums> {
        let Strip { samples, width_px, shift, saturation, simd, .. } = *strip;
        let base = shift.row as isize * width_px as isize + shift.col as isize;
        let taps = self.pieces.taps(base, (width_px, shift.row_fraction > 0), samples, simd)?;
        let mut saturated = 0;
        if let Some(saturation) = saturation {
            // counted where the shift, rounded to whole pixels, puts the mask's pixels
            let below = if shift.row_fraction >= FRACTION_ONE / 2 { width_px as isize } else { 0 };
            let right = isize::from(shift.col_fraction >= FRACTION_ONE / 2);
            saturated = self.pieces.count(base + below + right, samples, saturation, simd)?;
        }
        Some(Sums { total: combined(taps, shift), saturated })
    }

    /// Adds what the strip holds.
    pub fn accumulate(&self, strip: &Strip, sums: &mut Sums) {
        let Strip { shift, inside, rows, .. } = *strip;
        // With one row and column to spare, whatever the fraction, nothing has to be cut.
        let (first, last) = (self.area.rows.start + shift.row, self.area.rows.end + shift.row + 1);
        if last <= rows.0 || first >= rows.1 {
            return;
        }
        let uncut = first >= rows.0 && last <= rows.1 && self.area.is_inside(strip);
        if let Some(all) = uncut.then(|| self.sum_pieces(strip)).flatten() {
            sums.total += all.total;
            sums.saturated += all.saturated;
            return;
        }
        let clip = self.area.cols.start < inside.left || self.area.cols.end > inside.right;
        match (clip, shift.col_fraction > 0) {
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
        let mut taps = [[0_u64; 2]; 2];
        for below in 0..=i32::from(shift.row_fraction > 0) {
            let offset = shift.row + below;
            let top = inside.top.max(strip.rows.0 - offset);
            let bottom = inside.bottom.min(strip.rows.1 - offset);
            let whole = top <= self.area.rows.start && bottom >= self.area.rows.end;
            let first = if whole { 0 } else { self.runs.partition_point(|run| run.row < top) };
            let last = if whole { self.runs.len() } else { self.runs.partition_point(|run| run.row < bottom) };
            let Some(runs) = self.runs.get(first..last) else { continue };
            let saturation = strip.saturation.filter(|_| below == nearest_row);
            taps[below as usize] = self.sum_runs::<CLIP, RIGHT>(runs, offset, saturation, strip, &mut sums.saturated);
        }
        sums.total += combined(taps, shift);
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
    pub fn remaining(&self, inside: &Inside) -> (u64, u32) {
        if inside.holds_all(&self.area) {
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
    pub fn mean(&self, sums: &Sums, inside: &Inside) -> (f64, u32) {
        let (weight, count) = self.remaining(inside);
        let outside = self.pixel_count - count;
        if weight == 0 {
            return (f64::NAN, outside);
        }
        let one = u128::from(FRACTION_ONE);
        (sums.total as f64 / (u128::from(weight) * one * one) as f64, outside)
    }
}

/// The four sums weighed by the fraction.
fn combined(taps: Taps, shift: Shift) -> u128 {
    let one = u128::from(FRACTION_ONE);
    let (fy, fx) = (u128::from(shift.row_fraction), u128::from(shift.col_fraction));
    let across = |taps: [u64; 2]| (one - fx) * u128::from(taps[0]) + fx * u128::from(taps[1]);
    (one - fy) * across(taps[0]) + fy * across(taps[1])
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEIGHT: usize = 300;
    const WIDTH: usize = 256;

    /// Four products for each pixel, one after the other.
    fn brute(pixels: &[(u32, u32, u16)], samples: &[u16], shift: Shift) -> u128 {
        let one = u128::from(FRACTION_ONE);
        let (fy, fx) = (u128::from(shift.row_fraction), u128::from(shift.col_fraction));
        let mut total = 0;
        for &(row, col, weight) in pixels {
            for (below, right, part) in
                [(0, 0, (one - fy) * (one - fx)), (0, 1, (one - fy) * fx), (1, 0, fy * (one - fx)), (1, 1, fy * fx)]
            {
                if part > 0 {
                    let at = (row as i32 + shift.row + below) * WIDTH as i32 + col as i32 + shift.col + right;
                    total += u128::from(weight) * part * u128::from(samples[at as usize]);
                }
            }
        }
        total
    }

    fn strip(samples: &[u16], shift: Shift, rows: (i32, i32)) -> Strip<'_> {
        let inside = Inside::new(HEIGHT, WIDTH, shift);
        Strip {
            samples,
            height_px: HEIGHT,
            width_px: WIDTH,
            rows,
            shift,
            inside,
            saturation: Some(65_535),
            simd: shift.row % 2 == 0,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        // Masks at the right border and in the last rows have pieces that leave the row, or the frame.
        #[test]
        fn every_way_of_summing_gives_the_integer_of_the_definition(
            top in 0_u32..299, height in prop_oneof![1_u32..20, 250_u32..300], left in 0_u32..255, width in 1_u32..12,
            whole in (-3_i32..3, -3_i32..3),
            fraction in (0_u32..256, 0_u32..256), zero in (any::<bool>(), any::<bool>()),
            cut in 0_i32..300, seed in 1_u32..1000,
        ) {
            let value = |k: u32| (k.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 13) as u16;
            let sample = |k| if value(k) > 64_000 { 65_535 } else { value(k) };
            let samples: Vec<u16> = (0..(HEIGHT * WIDTH) as u32).map(sample).collect();
            let shift = Shift {
                row: whole.0,
                col: whole.1,
                row_fraction: if zero.0 { 0 } else { fraction.0 },
                col_fraction: if zero.1 { 0 } else { fraction.1 },
            };
            let inside = Inside::new(HEIGHT, WIDTH, shift);
            let pixels: Vec<(u32, u32, u16)> = (top..(top + height).min(HEIGHT as u32))
                .flat_map(|row| (left..(left + width).min(WIDTH as u32)).map(move |col| (row, col)))
                .filter(|&(row, col)| (row * 7 + col * 5 + seed) % 6 != 0)
                .enumerate()
                .map(|(k, (row, col))| (row, col, if k == 0 { WEIGHT_ONE } else { value(k as u32) % WEIGHT_ONE + 1 }))
                .collect();
            let weighted = Mask::weighted(WIDTH, pixels.iter().map(|&(row, col, w)| (row, col, f32::from(w))));
            let uniform = Mask::uniform(WIDTH, pixels.iter().map(|&(row, col, _)| (row, col)));
            let kept: Vec<_> = pixels.iter().copied().filter(|&(row, col, _)| {
                let (row, col) = (row as i32, col as i32);
                (inside.top..inside.bottom).contains(&row) && (inside.left..inside.right).contains(&col)
            }).collect();
            let flat: Vec<_> = kept.iter().map(|&(row, col, _)| (row, col, 1)).collect();
            let rounded = |px: i32, fraction: u32| px + i32::from(fraction >= 128);
            let near = (rounded(shift.row, shift.row_fraction), rounded(shift.col, shift.col_fraction));
            let saturated = kept.iter().filter(|p| {
                samples[((p.0 as i32 + near.0) * WIDTH as i32 + p.1 as i32 + near.1) as usize] == 65_535
            }).count();
            let expected = [brute(&kept, &samples, shift), brute(&flat, &samples, shift)];
            for (mask, expected) in [&weighted, &uniform].into_iter().zip(expected) {
                let mut at_once = Sums::default();
                mask.accumulate(&strip(&samples, shift, (0, HEIGHT as i32)), &mut at_once);
                prop_assert_eq!(at_once.total, expected);
                prop_assert_eq!(at_once.saturated as usize, saturated);
                let mut in_two = Sums::default();
                mask.accumulate(&strip(&samples, shift, (cut, HEIGHT as i32)), &mut in_two);
                mask.accumulate(&strip(&samples, shift, (0, cut)), &mut in_two);
                prop_assert_eq!((in_two.total, in_two.saturated), (at_once.total, at_once.saturated));
                prop_assert_eq!(mask.remaining(&inside).1 as usize, kept.len());
            }
        }
    }
}
