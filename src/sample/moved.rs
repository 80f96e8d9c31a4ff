//! Frames whose parts moved differently: a shift for every ROI.
//!
//! In: a frame and one shift for each ROI of the sampler, in its order (rows, columns, pixels). Out: what
//! [`Sampler::step_lines`] says where all shifts are the same, bit for bit. An annulus moves with its mask, and the
//! cells of a group that `demix` tells apart move together, by the shift of the first of them.

use std::ops::Range;

use super::mask::{Shift, Strip, Sums};
use super::sampler::{SampleBuffer, Sampler, add_lines_apart};
use crate::frame::FrameView;

impl Sampler {
    /// A whole frame at once on which the ROI at each place lies `shifts_px` from where it was drawn, and whose odd
    /// lines (1, 3, ..) show their content `odd_lines_px` further right: see [`Sampler::step_lines`].
    ///
    /// # Panics
    /// If there is not one shift for each ROI.
    pub fn step_moved(
        &mut self,
        frame: &FrameView,
        shifts_px: &[(f64, f64)],
        odd_lines_px: f64,
        out: &mut SampleBuffer,
    ) {
        self.start_moved(shifts_px, odd_lines_px);
        self.accumulate(frame, 0..frame.geometry.height_px);
        self.finish(frame.bias, out);
    }

    /// As [`Sampler::start_lines`], with a shift for each ROI. One that is not finite gives NaN everywhere.
    ///
    /// # Panics
    /// If there is not one shift for each ROI.
    pub fn start_moved(&mut self, shifts_px: &[(f64, f64)], odd_lines_px: f64) {
        let count = self.roi_count();
        assert!(shifts_px.len() == count, "{} shifts for {count} ROIs", shifts_px.len());
        self.start(0.0, 0.0);
        for &(dy, dx) in shifts_px {
            let even = Shift::quantised(dy, dx, self.whole_pixel);
            let odd = Shift::quantised(dy, dx + odd_lines_px, self.whole_pixel);
            let (Some(even), Some(odd)) = (even, odd) else {
                return self.start(f64::NAN, f64::NAN);
            };
            let apart = !self.rows_apart.is_empty() && odd != even;
            self.own.push((even, apart.then_some(odd)));
        }
        if let (Some(demix), Some(&first)) = (&self.demix, self.own.first()) {
            // Cells that are told apart are read at one shift.
            self.own.resize(self.probes.len(), first);
            demix.share_places(&mut self.own);
        }
    }

    /// Rows that the masks and annuli read, each at its own shift.
    pub(super) fn rows_of_all(&self) -> Range<usize> {
        let (mut start, mut end) = (i32::MAX, i32::MIN);
        for (probe, (shift, _)) in self.probes.iter().zip(&self.own) {
            for mask in probe.masks() {
                start = start.min(mask.area.rows.start + shift.row);
                end = end.max(mask.area.rows.end + shift.row + i32::from(shift.row_fraction > 0));
            }
        }
        let height = self.geometry.height_px as i32;
        let start = start.clamp(0, height);
        start as usize..end.clamp(start, height) as usize
    }

    /// Adds what a strip holds of every ROI at its own shift; the strip's own is not used.
    pub(super) fn accumulate_moved(&self, strip: &Strip, sums: &mut [(Sums, Sums)]) {
        for (k, (probe, sums)) in self.probes.iter().zip(sums).enumerate() {
            let Some(&(shift, odd)) = self.own.get(k) else { continue };
            let strip = Strip { shift, inside: self.inside_of(shift, odd), ..*strip };
            if let (Some(odd), Some(apart)) = (odd, self.rows_apart.get(k)) {
                add_lines_apart(apart, &strip, odd, sums);
                continue;
            }
            probe.mask.accumulate(&strip, &mut sums.0);
            if let Some(annulus) = &probe.annulus {
                annulus.accumulate(&Strip { saturation: None, ..strip }, &mut sums.1);
            }
        }
    }

    /// Middle of the mask of the ROI at `index`, row and column in pixels: its centre of weight, where pixels weigh
    /// alike that of its pixels; (0, 0) without pixels.
    pub fn centre_px(&self, index: usize) -> (f64, f64) {
        self.probes.get(index).map_or((0.0, 0.0), |probe| probe.mask.centre_px())
    }
}

#[cfg(test)]
mod tests {
    use super::super::rois::{RawRoi, RoiSet};
    use super::*;
    use crate::config::sample::{SampleConfig, SampleMode};
    use crate::frame::Geometry;
    use proptest::prelude::*;

    const SIDE: usize = 48;

    fn frame(seed: u64) -> Vec<u16> {
        let mut state = seed + 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u16
        };
        (0..SIDE * SIDE).map(|_| next()).collect()
    }

    fn view(samples: &[u16]) -> FrameView<'_> {
        FrameView { geometry: Geometry::new(SIDE, SIDE), samples, bias: 0, saturation: 65_535 }
    }

    fn sampler(mode: SampleMode, apart: bool) -> Sampler {
        let square = |at: i64| {
            let pixels = (0..25).map(|k| (at + k / 5, at + k % 5, 0.2 + (k % 7) as f32)).collect();
            RawRoi { pixels, ..RawRoi::default() }
        };
        let raw = [0, 12, 21, 33, 43].map(square).into();
        let set = RoiSet::from_raw(Geometry::new(SIDE, SIDE), raw, None, "squares".into()).unwrap();
        let config = SampleConfig { mode, neuropil_min_pixels: 60, ..SampleConfig::default() };
        let mut sampler = Sampler::new(&config, &set).unwrap();
        if apart {
            sampler.keep_lines_apart();
        }
        sampler
    }

    fn bits(out: &SampleBuffer) -> (Vec<u64>, Vec<u64>, Vec<u32>, Vec<u32>) {
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect();
        (bits(&out.f), bits(&out.f_neuropil), out.saturated_pixels.clone(), out.outside_pixels.clone())
    }

    proptest! {
        #[test]
        fn each_roi_reads_what_it_would_read_if_all_had_its_shift_whatever_the_strips(
            seed in any::<u64>(), shifts in proptest::collection::vec((-7.0f64..7.0, -50.0f64..7.0), 5),
            odd in -3.0f64..3.0, plain in any::<bool>(), apart in any::<bool>(), cut in 1usize..SIDE,
        ) {
            let mut sampler = sampler(if plain { SampleMode::Plain } else { SampleMode::Weighted }, apart);
            let mut samples = frame(seed);
            samples[13 * SIDE + 14] = 65_535;
            let (mut own, mut all) = (SampleBuffer::new(5), SampleBuffer::new(5));
            sampler.step_moved(&view(&samples), &shifts, odd, &mut own);
            let own = bits(&own);
            for (k, &shift) in shifts.iter().enumerate() {
                sampler.step_lines(&view(&samples), shift, odd, &mut all);
                let all = bits(&all);
                prop_assert_eq!(
                    (own.0[k], own.1[k], own.2[k], own.3[k]), (all.0[k], all.1[k], all.2[k], all.3[k])
                );
            }
            sampler.start_moved(&shifts, odd);
            for rows in [cut..SIDE, 0..cut] {
                // rows outside the strip are not there yet
                let mut partial = vec![0xdead; SIDE * SIDE];
                let there = rows.start * SIDE..rows.end * SIDE;
                partial[there.clone()].copy_from_slice(&samples[there]);
                sampler.accumulate(&view(&partial), rows);
            }
            sampler.finish(0, &mut all);
            prop_assert_eq!(bits(&all), own);
        }
    }

    #[test]
    fn rows_are_needed_up_to_the_lowest_roi_and_a_shift_that_is_no_number_gives_nan() {
        let mut sampler = sampler(SampleMode::Plain, false);
        let samples = frame(3);
        let mut out = SampleBuffer::new(5);
        sampler.start_moved(&[(0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (-9.5, 0.0), (-30.0, 0.0)], 0.0);
        let needed = sampler.rows_needed();
        assert!(needed.end < SIDE, "{needed:?}");
        sampler.accumulate(&view(&samples), 0..needed.end);
        sampler.finish(0, &mut out);
        assert!(out.f.iter().all(|f| f.is_finite()));
        sampler.start_moved(&[(0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (-9.5, 0.0), (-30.0, 0.0)], 0.0);
        sampler.accumulate(&view(&samples), 0..needed.end - 1);
        sampler.finish(0, &mut out);
        assert!(out.f.iter().all(|f| f.is_nan()));
        sampler.step_moved(
            &view(&samples),
            &[(0.0, 0.0), (0.0, f64::NAN), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)],
            0.0,
            &mut out,
        );
        assert!(out.f.iter().all(|f| f.is_nan()) && out.outside_pixels == [25; 5]);
    }

    #[test]
    fn cells_that_are_told_apart_are_read_at_one_shift_and_others_at_their_own() {
        let square = |at: i64| {
            let pixels = (0..36).map(|k| (at + k / 6, at + k % 6, 1.0 + (k % 5) as f32)).collect();
            RawRoi { pixels, ..RawRoi::default() }
        };
        let raw = [10, 13, 34].map(square).into();
        let set = RoiSet::from_raw(Geometry::new(SIDE, SIDE), raw, None, "squares".into()).unwrap();
        let config = SampleConfig { mode: SampleMode::Demix, neuropil_min_pixels: 60, ..SampleConfig::default() };
        let mut sampler = Sampler::new(&config, &set).unwrap();
        assert_eq!(sampler.group_sizes(), [2]);
        let samples = frame(5);
        let mut at = |shifts: &[(f64, f64)]| {
            let mut out = SampleBuffer::new(3);
            sampler.step_moved(&view(&samples), shifts, 0.0, &mut out);
            bits(&out).0
        };
        let (first, second, third) = ((0.4, -1.2), (1.7, 2.0), (-0.6, 0.3));
        let (all_first, all_third) = (at(&[first; 3]), at(&[third; 3]));
        assert_eq!(at(&[first, second, third]), [all_first[0], all_first[1], all_third[2]]);
        let mut out = SampleBuffer::new(3);
        sampler.step_lines(&view(&samples), first, 0.0, &mut out);
        assert_eq!(bits(&out).0, all_first);
    }

    #[test]
    fn the_centre_is_where_the_weight_lies() {
        let raw = RawRoi { pixels: vec![(4, 4, 1.0), (4, 6, 3.0)], ..RawRoi::default() };
        let set = RoiSet::from_raw(Geometry::new(SIDE, SIDE), vec![raw], None, "x".into()).unwrap();
        let centre = |mode| {
            let config = SampleConfig { mode, ..SampleConfig::default() };
            Sampler::new(&config, &set).unwrap().centre_px(0)
        };
        let (row, column) = centre(SampleMode::Weighted);
        assert!(row == 4.0 && (column - 5.5).abs() < 1e-4, "{column}");
        assert_eq!(centre(SampleMode::Plain), (4.0, 5.0));
        assert_eq!(sampler(SampleMode::Plain, false).centre_px(7), (0.0, 0.0));
    }
}
