//! The frame between its pixels, made once where many masks read it.
//!
//! In: a frame and the shift that holds for all of it. Out: row after row the bilinear sample at each pixel, in 1/65536
//! of a count (an integer of 32 bits, nothing rounded), and the running sum of these along the row. A run of a uniform
//! mask is then a difference of two running sums, however long it is, and a pixel of a weighted one a single product.
//! The sums are the same integers that [`Mask::accumulate`] gives, so it matters to nobody which way was taken.
//!
//! It pays where masks and annuli together read each pixel a few times: from several hundred ROIs on 512 x 512. Only as
//! many rows are kept as the tallest mask needs, so what is read was written a moment ago: masks are taken in the order
//! of their last rows.
//!
//! Cost: see `benches/sampling.rs`.

use multiversion::multiversion;

use crate::sample::mask::{FRACTION_ONE, Mask, PixelBox, Shift, Strip, Sums};
use crate::sample::sampler::Probe;

/// Reads of a pixel, on average, from which on it pays.
const READS_MIN: f64 = 2.0;

/// What is read of a frame by masks that it pays for, in the order of their last rows.
#[derive(Debug)]
pub(super) struct Blend {
    places: Vec<Place>,
    /// Of one mask after the other, so that memory is read from its beginning to its end.
    runs: Vec<Run>,
    weights: Vec<u16>,
    rows: Rows,
}

/// A mask, by its place.
#[derive(Debug)]
struct Place {
    probe: u32,
    is_annulus: bool,
    area: PixelBox,
    runs: u32,
    /// None where all are 1.
    weights: u32,
}

/// Neighbouring pixels in one row.
#[derive(Debug, Clone, Copy)]
struct Run {
    row: u16,
    col: u16,
    len: u16,
}

impl Blend {
    /// For masks and annuli on a frame of this size; nothing where they read too little of it. Allocates.
    pub fn new((height_px, width_px): (usize, usize), probes: &[Probe], simd: bool) -> Option<Blend> {
        let reads: usize = probes.iter().flat_map(Probe::masks).map(Mask::reads).sum();
        if (reads as f64) < READS_MIN * (height_px * width_px) as f64 {
            return None;
        }
        let masks = (0..).zip(probes).flat_map(|(k, probe)| {
            std::iter::once((k, false, &probe.mask)).chain(probe.annulus.as_ref().map(|annulus| (k, true, annulus)))
        });
        let mut masks: Vec<(u32, bool, &Mask)> = masks.filter(|(_, _, mask)| mask.pixel_count > 0).collect();
        masks.sort_by_key(|&(probe, is_annulus, mask)| (mask.area.rows.end, probe, is_annulus));
        let tallest = masks.iter().map(|(_, _, mask)| mask.area.rows.len()).max()?;
        let (mut places, mut runs, mut weights) = (Vec::with_capacity(masks.len()), Vec::new(), Vec::new());
        for (probe, is_annulus, mask) in masks {
            runs.extend(mask.runs().map(|(row, col, len)| Run { row: row as u16, col: col as u16, len: len as u16 }));
            weights.extend_from_slice(mask.weights());
            let (runs, weights) = (mask.runs().len() as u32, mask.weights().len() as u32);
            places.push(Place { probe, is_annulus, area: mask.area.clone(), runs, weights });
        }
        Some(Blend { places, runs, weights, rows: Rows::new(tallest, width_px, simd) })
    }

    /// Adds what a whole frame holds; `first_row` is the first one of all masks at rest.
    pub fn accumulate(&mut self, probes: &[Probe], first_row: i32, strip: &Strip, sums: &mut [(Sums, Sums)]) {
        self.rows.begin((first_row + strip.shift.row).max(0) as usize);
        let (mut runs, mut weights) = (&self.runs[..], &self.weights[..]);
        for place in &self.places {
            let (own_runs, own_weights);
            (own_runs, runs) = runs.split_at(place.runs as usize);
            (own_weights, weights) = weights.split_at(place.weights as usize);
            let Some((under_mask, under_annulus)) = sums.get_mut(place.probe as usize) else { continue };
            let sums = if place.is_annulus { under_annulus } else { under_mask };
            let mask = || {
                let probe = probes.get(place.probe as usize)?;
                if place.is_annulus { probe.annulus.as_ref() } else { Some(&probe.mask) }
            };
            if !place.area.is_inside(strip) {
                let strip = Strip { saturation: strip.saturation.filter(|_| !place.is_annulus), ..*strip };
                mask().into_iter().for_each(|mask| mask.accumulate(&strip, sums));
                continue;
            }
            let top = (place.area.rows.start + strip.shift.row) as usize;
            self.rows.reach((place.area.rows.end + strip.shift.row) as usize, strip);
            if own_weights.is_empty() {
                sums.add(self.rows.sum(own_runs, strip.shift));
            } else {
                self.rows.dot(own_runs, own_weights, strip.shift, sums);
            }
            if !place.is_annulus && self.rows.last_saturated.is_some_and(|row| row >= top) {
                let mut counted = Sums::default();
                mask().into_iter().for_each(|mask| mask.accumulate(strip, &mut counted));
                sums.saturated += counted.saturated;
            }
        }
    }
}

/// The last blended rows.
#[derive(Debug)]
struct Rows {
    width_px: usize,
    /// A power of two: row `r` of the frame is kept at `r` modulo this.
    kept: usize,
    values: Vec<u32>,
    /// Of each row the sums of the values left of each pixel, and of all.
    running: Vec<u64>,
    /// What neighbours in a row blend to, in 1/256: of even and of odd rows.
    across: [Vec<u32>; 2],
    /// The first row that is not blended.
    next: usize,
    /// Whether nothing of this frame is blended yet.
    is_fresh: bool,
    /// The lowest row so far with a saturated sample.
    last_saturated: Option<usize>,
    vectors: bool,
}

impl Rows {
    fn new(tallest: usize, width_px: usize, simd: bool) -> Rows {
        let kept = tallest.next_power_of_two();
        Rows {
            width_px,
            kept,
            values: vec![0; kept * width_px],
            running: vec![0; kept * (width_px + 1)],
            across: [vec![0; width_px], vec![0; width_px]],
            next: 0,
            is_fresh: true,
            last_saturated: None,
            vectors: simd,
        }
    }

    /// Sum of blended samples. At most 2^26 pixels of 2^32.
    fn sum(&self, runs: &[Run], shift: Shift) -> u64 {
        let stride = self.width_px + 1;
        let mut sum = 0_u64;
        for run in runs {
            let start = self.at(run, shift, stride);
            if let Some([first, .., last]) = self.running.get(start..start + usize::from(run.len) + 1) {
                sum += last - first;
            }
        }
        sum
    }

    /// Adds weights times blended samples.
    fn dot(&self, runs: &[Run], mut weights: &[u16], shift: Shift, sums: &mut Sums) {
        for run in runs {
            let (start, len) = (self.at(run, shift, self.width_px), usize::from(run.len));
            let own;
            (own, weights) = weights.split_at(len);
            if let Some(values) = self.values.get(start..start + len) {
                // at most 2^13 pixels of 2^47
                sums.add(values.iter().zip(own).map(|(&value, &weight)| u64::from(value) * u64::from(weight)).sum());
            }
        }
    }

    #[inline]
    fn at(&self, run: &Run, shift: Shift, stride: usize) -> usize {
        let (row, col) = (i32::from(run.row) + shift.row, i32::from(run.col) + shift.col);
        (row as usize & (self.kept - 1)) * stride + col as usize
    }

    /// A new frame, of which no row above this one is needed.
    fn begin(&mut self, first: usize) {
        (self.next, self.is_fresh, self.last_saturated) = (first, true, None);
    }

    /// Blends every row below `end`, which has another one below it.
    fn reach(&mut self, end: usize, strip: &Strip) {
        let width = self.width_px;
        let row_of = |row: usize| strip.samples.get(row * width..(row + 1) * width).unwrap_or_default();
        for row in self.next..end {
            let at = row & (self.kept - 1);
            let ([even, odd], is_odd) = (&mut self.across, row % 2 == 1);
            let line = Line {
                here: row_of(row),
                below: row_of(row + 1),
                shift: strip.shift,
                is_first: std::mem::take(&mut self.is_fresh),
            };
            let (above, under) = if is_odd { (odd, even) } else { (even, odd) };
            if let Some(saturation) = strip.saturation {
                if line.is_first && has(line.here, saturation) {
                    self.last_saturated = Some(row);
                }
                if has(line.below, saturation) {
                    self.last_saturated = Some(row + 1);
                }
            }
            let values = &mut self.values[at * width..(at + 1) * width];
            let running = &mut self.running[at * (width + 1)..(at + 1) * (width + 1)];
            if self.vectors {
                blend_fast(&line, above, under, values, running);
            } else {
                blend(&line, above, under, values, running);
            }
        }
        self.next = self.next.max(end);
    }
}

/// A row and the one below it.
struct Line<'a> {
    here: &'a [u16],
    below: &'a [u16],
    shift: Shift,
    /// Whether `above` has to be made, and is not what `under` was one row ago.
    is_first: bool,
}

/// `above` and `under` get what neighbours of the two rows blend to, `values` what these do.
#[inline(always)]
fn blend(line: &Line, above: &mut [u32], under: &mut [u32], values: &mut [u32], running: &mut [u64]) {
    let (fy, fx) = (line.shift.row_fraction, line.shift.col_fraction);
    if line.is_first {
        across(line.here, fx, above);
    }
    across(line.below, fx, under);
    for ((value, &a), &b) in values.iter_mut().zip(&*above).zip(&*under) {
        *value = (FRACTION_ONE - fy) * a + fy * b;
    }
    let mut sum = 0;
    for (running, &value) in running.iter_mut().skip(1).zip(&*values) {
        sum += u64::from(value);
        *running = sum;
    }
}

/// Whether a value is among the samples. Without a way out of the loop it is a few vector operations.
fn has(samples: &[u16], value: u16) -> bool {
    samples.iter().fold(false, |found, &sample| found | (sample == value))
}

#[inline(always)]
fn across(samples: &[u16], fx: u32, out: &mut [u32]) {
    for ((out, &a), &b) in out.iter_mut().zip(samples).zip(samples.get(1..).unwrap_or_default()) {
        *out = (FRACTION_ONE - fx) * u32::from(a) + fx * u32::from(b);
    }
}

/// [`blend`] for the processor that runs this: found out once, at run time.
#[multiversion(targets("x86_64+avx2", "aarch64+neon"))]
fn blend_fast(line: &Line, above: &mut [u32], under: &mut [u32], values: &mut [u32], running: &mut [u64]) {
    blend(line, above, under, values, running);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::config::sample::{SampleConfig, SampleMode};
    use crate::frame::{FrameView, Geometry};
    use crate::sample::rois::RawRoi;
    use crate::sample::{RoiSet, SampleBuffer, Sampler};

    const HEIGHT: usize = 90;
    const WIDTH: usize = 110;

    /// Discs everywhere, also across the frame's edges.
    fn crowd(seed: u64) -> RoiSet {
        let mut state = seed;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % below) as i64
        };
        let discs = (0..150).map(|_| {
            let (row, col, radius) = (draw(HEIGHT as u64), draw(WIDTH as u64), 2 + draw(4));
            let near = (-radius..=radius).flat_map(|y| (-radius..=radius).map(move |x| (y, x)));
            let inside = |at: i64, side: usize| (0..side as i64).contains(&at);
            let pixels = near.filter(|(y, x)| y * y + x * x <= radius * radius).map(|(y, x)| (row + y, col + x));
            let pixels = pixels.filter(|&(y, x)| inside(y, HEIGHT) && inside(x, WIDTH));
            RawRoi { pixels: pixels.map(|(y, x)| (y, x, 1.0 + (y * x % 7) as f32)).collect(), ..RawRoi::default() }
        });
        RoiSet::from_raw(Geometry::new(HEIGHT, WIDTH), discs.collect(), None, "test".into()).unwrap()
    }

    fn samples(seed: u64) -> Vec<u16> {
        let value = |at: u64| (at.wrapping_mul(seed | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16;
        // a few are saturated
        (0..(HEIGHT * WIDTH) as u64).map(|at| if at % 97 == seed % 97 { 65_535 } else { value(at) }).collect()
    }

    fn bits(out: &SampleBuffer) -> Vec<(u64, u64, u32, u32)> {
        let f = out.f.iter().zip(&out.f_neuropil).zip(out.saturated_pixels.iter().zip(&out.outside_pixels));
        f.map(|((f, n), (&saturated, &outside))| (f.to_bits(), n.to_bits(), saturated, outside)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_frame_blended_once_gives_the_bits_of_one_read_under_each_mask(
            seed in 0u64..1_000, dy in -12.0f64..12.0, dx in -12.0f64..12.0, mode in 0usize..3, whole in any::<bool>(),
        ) {
            let set = crowd(seed);
            let mode = [SampleMode::Weighted, SampleMode::Plain, SampleMode::Demix][mode];
            let of = |simd| {
                let least = SampleConfig { neuropil_min_pixels: 60, ..SampleConfig::default() };
                let config = SampleConfig { mode, simd, whole_pixel: whole, ..least };
                Sampler::new(&config, &set).unwrap()
            };
            let (mut fast, mut plain) = (of(true), of(false));
            prop_assert!(fast.blends());
            let mut out = [0; 3].map(|_| SampleBuffer::new(set.rois.len()));
            // twice, so that rows of the frame before are there to be mistaken
            for frame in 0..2 {
                let samples = samples(seed + 31 * frame);
                let view = FrameView { geometry: set.geometry, samples: &samples, bias: 0, saturation: 65_535 };
                let (dy, dx) = if frame == 0 { (dy, dx) } else { (-dy, 0.5 * dx) };
                fast.step(&view, dy, dx, &mut out[0]);
                plain.step(&view, dy, dx, &mut out[1]);
                prop_assert_eq!(bits(&out[0]), bits(&out[1]));
                fast.start(dy, dx);
                for rows in [0..HEIGHT / 3, HEIGHT / 3..HEIGHT] {
                    fast.accumulate(&view, rows);
                }
                fast.finish(0, &mut out[2]);
                prop_assert_eq!(bits(&out[0]), bits(&out[2]));
            }
        }
    }
}
