//! The sampler: masks and annuli of the chosen ROIs, moved by each frame's shift.
//!
//! In: a frame's canonical samples and where its content lies relative to the template (dy rows, dx columns, pixels).
//! Out: [`SampleBuffer`], one value for each ROI in the order in which they were chosen.
//!
//! F is the (weighted) mean of the samples under the moved mask, minus the canonical bias: detector counts as the
//! source stored them, with the detector's offset still in. Weights are 15-bit fixed point, the shift is rounded to
//! 1/256 pixel (or to whole pixels), sums are integers, and one division of f64 ends it: the same bits for every
//! cutting of the frame into strips and on every machine. Against exact bilinear interpolation F is off by at most
//! 1/512 pixel times the local gradient along each axis, plus 2^-16 of the contrast within the mask times the ratio of
//! its largest weight to its mean one.
//!
//! Pixels that leave the frame are left out of both sums and counted. A saturated sample is counted where the shift,
//! rounded to whole pixels, puts the mask's pixel, so that each pixel counts at most once.
//!
//! Where a bidirectional scanner put the odd lines of frames aside of the even ones, a shift is that of the even lines,
//! and odd lines are read `odd_lines_px` further right: each mask is then two, of its even and of its odd rows
//! ([`Sampler::keep_lines_apart`]).
//!
//! Where parts of a frame moved differently, every ROI has a shift of its own ([`Sampler::step_moved`], `moved.rs`).
//!
//! The sampler remembers nothing from one frame to the next, so there is no state to save: `start`, `accumulate` for
//! each strip, `finish`; or `step` for a whole frame. No allocation after construction.

use crate::config::sample::{Overlap, SampleConfig, SampleMode};
use crate::frame::{FrameView, Geometry};
use crate::sample::blend::Blend;
use crate::sample::demix::Demix;
use crate::sample::mask::{FRACTION_ONE, Inside, Mask, PixelBox, Shift, Strip, Sums};
use crate::sample::neuropil::{annulus, cell_map};
use crate::sample::overlap::{Scene, shared_pixels};
use crate::sample::rois::{Roi, RoiPixel, RoiSet, RoiSetError};
use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::ops::Range;

/// Why a sampler could not be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// A set of ROIs that does not hold together.
    #[error(transparent)]
    Rois(#[from] RoiSetError),
    /// An ROI that is not in the set.
    #[error("ROI {id} is not in {origin}, which holds {count} ROIs (ids from 0)")]
    UnknownRoi {
        /// The id that was asked for.
        id: u32,
        /// The file of the set.
        origin: String,
        /// ROIs in the set.
        count: usize,
    },
    /// ROIs of several planes, of which a frame shows one.
    #[error("ROIs of planes {first} and {second} in one sampler, expected those of one plane")]
    SeveralPlanes {
        /// Plane of the first ROI.
        first: u32,
        /// Another plane.
        second: u32,
    },
    /// An ROI whose pixels all belong to others too, where such pixels are left out.
    #[error("ROI {id}: other ROIs have all of its {pixels} pixels too, expected one of its own (sample.overlap)")]
    NothingOfItsOwn {
        /// The ROI's id.
        id: u32,
        /// Its pixels.
        pixels: usize,
    },
    /// A configuration out of range.
    #[error("{0}")]
    Config(String),
}

/// What one frame says, one entry for each ROI of the sampler.
#[derive(Debug, Clone, Default)]
pub struct SampleBuffer {
    /// Mean under the mask, in counts as the source stored them (offset included); NaN when nothing remains in the
    /// frame.
    pub f: Vec<f64>,
    /// Mean of the neuropil annulus, in counts; NaN when nothing remains; 0 when the neuropil is off.
    pub f_neuropil: Vec<f64>,
    /// Pixels under the mask (not the annulus) at which the detector is saturated.
    pub saturated_pixels: Vec<u32>,
    /// Pixels of the mask (not the annulus) that lie outside the frame.
    pub outside_pixels: Vec<u32>,
}

impl SampleBuffer {
    /// A buffer for `roi_count` ROIs.
    pub fn new(roi_count: usize) -> Self {
        Self {
            f: vec![f64::NAN; roi_count],
            f_neuropil: vec![f64::NAN; roi_count],
            saturated_pixels: vec![0; roi_count],
            outside_pixels: vec![0; roi_count],
        }
    }
}

/// One ROI as the kernel needs it.
#[derive(Debug)]
pub(super) struct Probe {
    id: u32,
    pub mask: Mask,
    pub annulus: Option<Mask>,
}

impl Probe {
    /// Mask and annulus, where they have pixels.
    pub fn masks(&self) -> impl Iterator<Item = &Mask> {
        std::iter::once(&self.mask).chain(&self.annulus).filter(|mask| mask.pixel_count > 0)
    }
}

/// A mask's even rows and its odd rows.
pub(super) type RowsApart = [Mask; 2];

/// Masks and annuli of some ROIs of one plane.
#[derive(Debug)]
pub struct Sampler {
    pub(super) geometry: Geometry,
    pub(super) whole_pixel: bool,
    simd: bool,
    /// The ROIs that were asked for, and behind them what `demix` needs besides.
    pub(super) probes: Vec<Probe>,
    /// ROIs that were asked for.
    count: usize,
    pub(super) demix: Option<Demix>,
    /// Where so many ROIs read a frame that it pays.
    blend: Option<Blend>,
    /// Rows that the masks and annuli cover at rest.
    rows: Range<i32>,
    /// Of each probe the mask and the annulus, where lines are kept apart.
    pub(super) rows_apart: Vec<(RowsApart, Option<RowsApart>)>,
    // of the frame at hand
    shift: Option<Shift>,
    /// Where odd lines are read, when that is elsewhere.
    odd_shift: Option<Shift>,
    rows_seen: usize,
    sums: Vec<(Sums, Sums)>,
    /// Where each of the probes is read, and where on odd lines; empty while all have one shift.
    pub(super) own: Vec<(Shift, Option<Shift>)>,
}

impl Sampler {
    /// A sampler of all ROIs of the set, in its order. They must be of one plane: see [`RoiSet::of_plane`].
    pub fn new(config: &SampleConfig, set: &RoiSet) -> Result<Sampler, SampleError> {
        let chosen: Vec<&Roi> = set.rois.iter().collect();
        Sampler::of_rois(config, set, &chosen)
    }

    /// A sampler of the ROIs with these ids, in this order. The neuropil still keeps clear of every cell of the set.
    pub fn with_ids(config: &SampleConfig, set: &RoiSet, ids: &[u32]) -> Result<Sampler, SampleError> {
        let find = |&id: &u32| {
            let unknown = || SampleError::UnknownRoi { id, origin: set.source.clone(), count: set.rois.len() };
            set.rois.iter().find(|roi| roi.id == id).ok_or_else(unknown)
        };
        let chosen = ids.iter().map(find).collect::<Result<Vec<&Roi>, _>>()?;
        Sampler::of_rois(config, set, &chosen)
    }

    fn of_rois(config: &SampleConfig, set: &RoiSet, chosen: &[&Roi]) -> Result<Sampler, SampleError> {
        let mut violations = Vec::new();
        config.validate("sample", &mut violations);
        if !violations.is_empty() {
            return Err(SampleError::Config(violations.join("; ")));
        }
        set.check()?;
        let plane = chosen.first().map_or(0, |roi| roi.plane);
        if let Some(other) = chosen.iter().find(|roi| roi.plane != plane) {
            return Err(SampleError::SeveralPlanes { first: plane, second: other.plane });
        }
        let of_plane = || set.rois.iter().filter(|roi| roi.plane == plane);
        let shared = (config.overlap == Overlap::LeaveOut).then(|| shared_pixels(of_plane()));
        let own = chosen.iter().map(|roi| own_pixels(roi, shared.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let (inner, least) = (config.neuropil_inner_px as usize, config.neuropil_min_pixels as usize);
        let cells = LazyCell::new(|| cell_map(set.geometry, of_plane(), config.neuropil_weight_percentile));
        let ring = |pixels: &[RoiPixel]| annulus(set.geometry, &cells, pixels, inner, least);
        let width_px = set.geometry.width_px;
        let probe = |(roi, own): (&&Roi, Vec<_>)| Probe {
            id: roi.id,
            mask: match config.mode {
                SampleMode::Weighted | SampleMode::Demix => Mask::weighted(width_px, own.into_iter()),
                SampleMode::Plain => Mask::uniform(width_px, own.into_iter().map(|(row, col, _)| (row, col))),
            },
            annulus: config.neuropil_is_on().then(|| Mask::uniform(width_px, ring(&roi.pixels).into_iter())),
        };
        let mut probes: Vec<Probe> = chosen.iter().zip(own).map(probe).collect();
        let count = probes.len();
        let demix = (config.mode == SampleMode::Demix).then(|| {
            let rois: Vec<&Roi> = of_plane().collect();
            let (demix, besides) = Demix::new(&Scene { width_px, rois: &rois, chosen, ring: &ring });
            let helper = |(mask, annulus)| Probe { id: u32::MAX, mask, annulus };
            probes.extend(besides.into_iter().map(helper));
            demix
        });
        let blend = Blend::new((set.geometry.height_px, width_px), &probes, config.simd);
        let areas = probes.iter().flat_map(Probe::masks).map(|mask| mask.area.clone());
        let rows = areas.reduce(|a, b| a.and(&b)).map_or(0..0, |area| area.rows);
        Ok(Sampler {
            geometry: set.geometry,
            whole_pixel: config.whole_pixel,
            simd: config.simd,
            sums: vec![Default::default(); probes.len()],
            own: Vec::with_capacity(probes.len()),
            probes,
            count,
            demix,
            blend,
            rows,
            rows_apart: Vec::new(),
            shift: None,
            odd_shift: None,
            rows_seen: 0,
        })
    }

    /// Makes ready for frames whose odd lines lie aside of the even ones. Allocates.
    pub fn keep_lines_apart(&mut self) {
        let width_px = self.geometry.width_px;
        let apart = |probe: &Probe| {
            (probe.mask.rows_apart(width_px), probe.annulus.as_ref().map(|annulus| annulus.rows_apart(width_px)))
        };
        self.rows_apart = self.probes.iter().map(apart).collect();
    }

    /// Whether frames are blended for all masks at once.
    #[cfg(test)]
    pub(crate) fn blends(&self) -> bool {
        self.blend.is_some()
    }

    /// Cells in each group that is told apart.
    #[cfg(test)]
    pub(crate) fn group_sizes(&self) -> Vec<usize> {
        self.demix.as_ref().map_or(Vec::new(), Demix::sizes)
    }

    /// Number of ROIs, and so the length of everything in a [`SampleBuffer`].
    pub fn roi_count(&self) -> usize {
        self.count
    }

    /// Ids of the ROIs, in the order of the buffers.
    pub fn ids(&self) -> impl Iterator<Item = u32> + '_ {
        self.probes.iter().take(self.count).map(|probe| probe.id)
    }

    /// Pixels in the mask of the ROI at `index`; in weighted mode without those whose weight rounds to nothing.
    pub fn mask_pixels(&self, index: usize) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.probes.get(index).into_iter().flat_map(|probe| probe.mask.pixels())
    }

    /// Row and column of each pixel of the annulus of the ROI at `index`; none when the neuropil is off.
    pub fn annulus_pixels(&self, index: usize) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.probes.get(index).and_then(|probe| probe.annulus.as_ref()).into_iter().flat_map(Mask::pixels)
    }

    /// The box around the mask and the annulus of each ROI, as they were drawn, and around what else `demix` reads;
    /// empty boxes are left out.
    pub fn boxes(&self) -> Vec<PixelBox> {
        self.probes
            .iter()
            .filter_map(|probe| probe.masks().map(|mask| mask.area.clone()).reduce(|a, b| a.and(&b)))
            .collect()
    }

    /// A whole frame at once. A frame of another size, or a shift that is not finite, gives NaN everywhere.
    pub fn step(&mut self, frame: &FrameView, dy_px: f64, dx_px: f64, out: &mut SampleBuffer) {
        self.start(dy_px, dx_px);
        self.accumulate(frame, 0..frame.geometry.height_px);
        self.finish(frame.bias, out);
    }

    /// A whole frame at once, whose odd lines (1, 3, ..) show their content `odd_lines_px` further right than the shift
    /// says. Takes effect after [`Sampler::keep_lines_apart`]. A number that is not finite gives NaN everywhere.
    pub fn step_lines(&mut self, frame: &FrameView, shift_px: (f64, f64), odd_lines_px: f64, out: &mut SampleBuffer) {
        self.start_lines(shift_px, odd_lines_px);
        self.accumulate(frame, 0..frame.geometry.height_px);
        self.finish(frame.bias, out);
    }

    /// As [`Sampler::start`], for a frame whose odd lines show their content `odd_lines_px` further right.
    pub fn start_lines(&mut self, shift_px: (f64, f64), odd_lines_px: f64) {
        self.start(shift_px.0, shift_px.1);
        let odd = Shift::quantised(shift_px.0, shift_px.1 + odd_lines_px, self.whole_pixel);
        if odd.is_none() {
            self.shift = None;
        }
        self.odd_shift = odd.filter(|odd| !self.rows_apart.is_empty() && Some(*odd) != self.shift);
    }

    /// Begins a frame whose content lies `dy_px` rows and `dx_px` columns from where the masks were drawn.
    pub fn start(&mut self, dy_px: f64, dx_px: f64) {
        self.shift = Shift::quantised(dy_px, dx_px, self.whole_pixel);
        self.odd_shift = None;
        self.own.clear();
        self.rows_seen = 0;
        self.sums.fill(Default::default());
    }

    /// Rows that this frame's masks and annuli read, from the top: once the strips from row 0 to the end of this range
    /// have been accumulated, `finish` gives the final answer.
    pub fn rows_needed(&self) -> Range<usize> {
        let height = self.geometry.height_px as i32;
        let Some(shift) = self.shift else { return 0..0 };
        if !self.own.is_empty() {
            return self.rows_of_all();
        }
        let start = (self.rows.start + shift.row).clamp(0, height);
        let end = (self.rows.end + shift.row + i32::from(shift.row_fraction > 0)).clamp(start, height);
        start as usize..end as usize
    }

    /// Adds rows `rows` of the frame, which must be complete in `view`; nothing else of it is read. Strips may come in
    /// any order, each row once.
    pub fn accumulate(&mut self, view: &FrameView, rows: Range<usize>) {
        let Geometry { height_px, width_px } = self.geometry;
        if view.geometry != self.geometry || view.samples.len() != self.geometry.count() {
            self.shift = None;
        }
        let Some(shift) = self.shift else { return };
        let rows = rows.start.min(height_px)..rows.end.min(height_px);
        self.rows_seen += rows.len();
        let strip = Strip {
            samples: view.samples,
            height_px,
            width_px,
            rows: (rows.start as i32, rows.end as i32),
            shift,
            inside: self.inside(shift),
            saturation: Some(view.saturation),
            simd: self.simd,
        };
        if let Some(odd) = self.odd_shift {
            return self.accumulate_lines(&strip, odd);
        }
        if !self.own.is_empty() {
            let mut sums = std::mem::take(&mut self.sums);
            self.accumulate_moved(&strip, &mut sums);
            self.sums = sums;
            return;
        }
        if let Some(blend) = self.blend.as_mut().filter(|_| rows == (0..height_px)) {
            return blend.accumulate(&self.probes, self.rows.start, &strip, &mut self.sums);
        }
        let uncounted = Strip { saturation: None, ..strip };
        for (probe, (under_mask, under_annulus)) in self.probes.iter().zip(&mut self.sums) {
            probe.mask.accumulate(&strip, under_mask);
            if let Some(annulus) = &probe.annulus {
                annulus.accumulate(&uncounted, under_annulus);
            }
        }
    }

    /// The same line by line: of each mask the even and the odd rows, and of each of these the line under the shift's
    /// whole part and the one below it, where either may be an odd line of the frame.
    fn accumulate_lines(&mut self, strip: &Strip, odd: Shift) {
        for (apart, sums) in self.rows_apart.iter().zip(&mut self.sums) {
            add_lines_apart(apart, strip, odd, sums);
        }
    }

    /// The mask pixels that stay inside, in even and in odd lines alike.
    fn inside(&self, shift: Shift) -> Inside {
        self.inside_of(shift, self.odd_shift)
    }

    pub(super) fn inside_of(&self, shift: Shift, odd: Option<Shift>) -> Inside {
        let of = |shift| Inside::new(self.geometry.height_px, self.geometry.width_px, shift);
        odd.map_or(of(shift), |odd| of(shift).and(of(odd)))
    }

    /// Ends the frame. `bias` is the one of its [`FrameView`]. When rows are still missing, everything is NaN.
    ///
    /// # Panics
    /// If `out` was made for another number of ROIs.
    pub fn finish(&mut self, bias: i32, out: &mut SampleBuffer) {
        let count = self.count;
        let lengths = [out.f.len(), out.f_neuropil.len(), out.saturated_pixels.len(), out.outside_pixels.len()];
        assert!(lengths == [count; 4], "a buffer for {lengths:?} ROIs, expected {count}");
        let complete = self.rows_seen >= self.rows_needed().end;
        let shift = self.shift.filter(|_| complete);
        for (k, (probe, (under_mask, under_annulus))) in self.probes.iter().zip(&self.sums).take(count).enumerate() {
            let Some(shift) = shift else {
                out.f[k] = f64::NAN;
                out.f_neuropil[k] = if probe.annulus.is_some() { f64::NAN } else { 0.0 };
                out.saturated_pixels[k] = 0;
                out.outside_pixels[k] = probe.mask.pixel_count;
                continue;
            };
            let inside = match self.own.get(k) {
                Some(&(shift, odd)) => self.inside_of(shift, odd),
                None => self.inside(shift),
            };
            let (mean, outside) = probe.mask.mean(under_mask, &inside);
            out.f[k] = mean - f64::from(bias);
            out.f_neuropil[k] = match &probe.annulus {
                Some(annulus) => annulus.mean(under_annulus, &inside).0 - f64::from(bias),
                None => 0.0,
            };
            out.saturated_pixels[k] = under_mask.saturated;
            out.outside_pixels[k] = outside;
        }
        if let (Some(shift), Some(mut demix)) = (shift, self.demix.take()) {
            let read = |k: usize| (&self.probes[k].mask, self.probes[k].annulus.as_ref(), &self.sums[k]);
            let inside = |k: usize| match self.own.get(k) {
                Some(&(shift, odd)) => self.inside_of(shift, odd),
                None => self.inside(shift),
            };
            demix.apply(read, inside, f64::from(bias), &mut out.f);
            self.demix = Some(demix);
        }
        self.shift = None;
    }
}

/// What the strip holds of one ROI whose mask and annulus are kept as even and odd rows.
pub(super) fn add_lines_apart(
    (mask, annulus): &(RowsApart, Option<RowsApart>),
    strip: &Strip,
    odd: Shift,
    (under_mask, under_annulus): &mut (Sums, Sums),
) {
    let even = strip.shift;
    let add = |apart: &RowsApart, counted: bool, sums: &mut Sums| {
        for (mask, parity) in apart.iter().zip(0..) {
            for (below, weight) in [(0, FRACTION_ONE - even.row_fraction), (1, even.row_fraction)] {
                if weight == 0 {
                    continue;
                }
                let row = even.row + below;
                let across = if (parity + row).rem_euclid(2) == 1 { odd } else { even };
                // a saturated sample counts in the nearer line
                let nearer = (below == 1) == (even.row_fraction >= FRACTION_ONE / 2);
                let line = Strip {
                    shift: Shift { row, row_fraction: 0, ..across },
                    saturation: strip.saturation.filter(|_| counted && nearer),
                    ..*strip
                };
                let mut lines = Sums::default();
                mask.accumulate(&line, &mut lines);
                sums.add_lines(&lines, weight);
            }
        }
    };
    add(mask, true, under_mask);
    if let Some(annulus) = annulus {
        add(annulus, false, under_annulus);
    }
}

/// The pixels of an ROI without those that are shared.
fn own_pixels(roi: &Roi, shared: Option<&BTreeSet<(u32, u32, u32)>>) -> Result<Vec<(u32, u32, f32)>, SampleError> {
    let mut pixels = sorted(roi);
    if let Some(shared) = shared {
        pixels.retain(|(row, col, _)| !shared.contains(&(roi.plane, *row, *col)));
        if !pixels.iter().any(|pixel| pixel.2 > 0.0) {
            return Err(SampleError::NothingOfItsOwn { id: roi.id, pixels: roi.pixels.len() });
        }
    }
    Ok(pixels)
}

/// Pixels in the order that masks need, each once, also when somebody changed the set after it was read.
pub(crate) fn sorted(roi: &Roi) -> Vec<(u32, u32, f32)> {
    let mut pixels: Vec<_> = roi.pixels.iter().map(|p| (p.row, p.col, p.weight)).collect();
    pixels.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(b.2.total_cmp(&a.2)));
    pixels.dedup_by_key(|p| (p.0, p.1));
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sample::NeuropilCoefficient;
    use crate::sample::rois::RawRoi;
    use proptest::prelude::*;

    const HEIGHT: usize = 40;
    const WIDTH: usize = 48;

    /// Numbers that look random and are the same everywhere.
    fn noise(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 20
        }
    }

    fn frame(seed: u64) -> Vec<u16> {
        let mut next = noise(seed);
        (0..HEIGHT * WIDTH).map(|_| (next() % 65_536) as u16).collect()
    }

    fn view(samples: &[u16]) -> FrameView<'_> {
        FrameView { geometry: Geometry::new(HEIGHT, WIDTH), samples, bias: 0, saturation: 65_535 }
    }

    fn discs(seed: u64, count: usize) -> RoiSet {
        let mut next = noise(seed);
        let raw = (0..count).map(|_| {
            let (r0, c0) = ((next() % HEIGHT as u64) as i64, (next() % WIDTH as u64) as i64);
            let mut pixels = Vec::new();
            for row in (r0 - 4).max(0)..(r0 + 5).min(HEIGHT as i64) {
                for col in (c0 - 4).max(0)..(c0 + 5).min(WIDTH as i64) {
                    if (row - r0).pow(2) + (col - c0).pow(2) <= 16 && (row, col) != (r0, c0) {
                        pixels.push((row, col, (next() % 1000 + 1) as f32 / 1000.0));
                    }
                }
            }
            RawRoi { pixels, ..RawRoi::default() }
        });
        RoiSet::from_raw(Geometry::new(HEIGHT, WIDTH), raw.collect(), None, "discs".into()).unwrap()
    }

    fn small_annuli() -> SampleConfig {
        SampleConfig { neuropil_min_pixels: 60, ..SampleConfig::default() }
    }

    fn bits(buffer: &SampleBuffer) -> (Vec<u64>, Vec<u64>, Vec<u32>, Vec<u32>) {
        let as_bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect();
        let (saturated, outside) = (buffer.saturated_pixels.clone(), buffer.outside_pixels.clone());
        (as_bits(&buffer.f), as_bits(&buffer.f_neuropil), saturated, outside)
    }

    fn sampled(sampler: &mut Sampler, samples: &[u16], dy_px: f64, dx_px: f64) -> SampleBuffer {
        let mut out = SampleBuffer::new(sampler.roi_count());
        sampler.step(&view(samples), dy_px, dx_px, &mut out);
        out
    }

    /// Bilinear interpolation as the textbook has it, in f64, one pixel after the other.
    fn textbook(samples: &[u16], pixels: &[(u32, u32, f64)], dy_px: f64, dx_px: f64) -> (f64, u32) {
        let (mut sum, mut weight, mut outside) = (0.0, 0.0, 0);
        for &(row, col, w) in pixels {
            let (y, x) = (f64::from(row) + dy_px, f64::from(col) + dx_px);
            if y < 0.0 || x < 0.0 || y > (HEIGHT - 1) as f64 || x > (WIDTH - 1) as f64 {
                outside += 1;
                continue;
            }
            let at = |y: f64, x: f64| f64::from(samples[y as usize * WIDTH + x as usize]);
            let (fy, fx) = (y - y.floor(), x - x.floor());
            let upper = (1.0 - fx) * at(y.floor(), x.floor()) + fx * at(y.floor(), x.ceil());
            let lower = (1.0 - fx) * at(y.ceil(), x.floor()) + fx * at(y.ceil(), x.ceil());
            sum += w * ((1.0 - fy) * upper + fy * lower);
            weight += w;
        }
        (sum / weight, outside)
    }

    fn assert_textbook(shift_steps: (i32, i32), offset_px: f64, mode: SampleMode, seed: u64) {
        let set = discs(seed, 12);
        let mut sampler = Sampler::new(&SampleConfig { mode, ..small_annuli() }, &set).unwrap();
        let samples = frame(seed);
        let (dy, dx) = (f64::from(shift_steps.0) / 256.0, f64::from(shift_steps.1) / 256.0);
        let out = sampled(&mut sampler, &samples, dy + offset_px, dx + offset_px);
        // a rounded weight is off by half of 1/32767 of the largest, so a mean by no more than the range of samples
        // times the sum of these errors over the sum of weights
        for (k, roi) in set.rois.iter().enumerate() {
            let weight = |w: f32| if mode == SampleMode::Plain { 1.0 } else { f64::from(w) };
            let pixels: Vec<_> = roi.pixels.iter().map(|p| (p.row, p.col, weight(p.weight))).collect();
            let (expected, outside) = textbook(&samples, &pixels, dy, dx);
            assert_eq!(out.outside_pixels[k], outside, "ROI {k}");
            let tolerance = if mode == SampleMode::Plain { 1e-7 } else { 65_535.0 * 2.0_f64.powi(-14) };
            let close = (out.f[k] - expected).abs() < tolerance || (out.f[k].is_nan() && expected.is_nan());
            assert!(close, "ROI {k}: {} and {expected}", out.f[k]);
            let ring: Vec<_> = sampler.annulus_pixels(k).map(|(row, col)| (row, col, 1.0)).collect();
            let (expected, _) = textbook(&samples, &ring, dy, dx);
            let close =
                (out.f_neuropil[k] - expected).abs() < 1e-7 || (out.f_neuropil[k].is_nan() && expected.is_nan());
            assert!(close, "annulus {k}: {} and {expected}", out.f_neuropil[k]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_moved_masks_give_what_bilinear_interpolation_of_the_frame_gives(
            dy in -15_000_i32..15_000, dx in -15_000_i32..15_000, scale in 0_u32..8, seed in 0_u64..1000, plain: bool
        ) {
            let mode = if plain { SampleMode::Plain } else { SampleMode::Weighted };
            assert_textbook((dy >> scale, dx >> scale), 0.0, mode, seed);
        }

        #[test]
        fn a_shift_is_rounded_to_the_next_256th_of_a_pixel(dy in -999_i32..999, offset in -0.0019_f64..0.0019) {
            assert_textbook((dy, -dy), offset, SampleMode::Plain, 7);
        }

        #[test]
        fn any_cutting_into_strips_gives_the_same_bits(
            dy in -60.0_f64..60.0, dx in -60.0_f64..60.0, scale in 0_i32..6, seed in 0_u64..100,
            cuts in proptest::collection::vec(0_usize..=HEIGHT, 0..9), plain: bool, reversed: bool
        ) {
            let (dy, dx) = (dy / f64::from(1 << scale), dx / f64::from(1 << scale));
            let mode = if plain { SampleMode::Plain } else { SampleMode::Weighted };
            let mut sampler = Sampler::new(&SampleConfig { mode, ..small_annuli() }, &discs(seed, 9)).unwrap();
            let samples = frame(seed + 1);
            let whole = sampled(&mut sampler, &samples, dy, dx);
            let mut bounds = cuts;
            bounds.extend([0, HEIGHT]);
            bounds.sort();
            let mut strips: Vec<_> = bounds.windows(2).map(|pair| pair[0]..pair[1]).collect();
            if reversed {
                strips.reverse();
            }
            let mut cut = SampleBuffer::new(9);
            sampler.start(dy, dx);
            for rows in strips {
                // rows outside the strip are not there yet
                let mut partial = vec![0xdead; HEIGHT * WIDTH];
                let there = rows.start * WIDTH..rows.end * WIDTH;
                partial[there.clone()].copy_from_slice(&samples[there]);
                sampler.accumulate(&view(&partial), rows);
            }
            sampler.finish(0, &mut cut);
            prop_assert_eq!(bits(&cut), bits(&whole));
        }
    }

    #[test]
    fn nothing_is_remembered_from_one_frame_to_the_next() {
        let set = discs(3, 9);
        let mut used = Sampler::new(&small_annuli(), &set).unwrap();
        sampled(&mut used, &frame(1), 3.3, -2.2);
        sampled(&mut used, &frame(2), f64::NAN, 0.0);
        let mut fresh = Sampler::new(&small_annuli(), &set).unwrap();
        assert_eq!(bits(&sampled(&mut used, &frame(5), 0.7, 0.1)), bits(&sampled(&mut fresh, &frame(5), 0.7, 0.1)));
    }

    #[test]
    fn whole_pixel_rounds_the_shift_halves_away_from_zero() {
        let config = SampleConfig { whole_pixel: true, ..small_annuli() };
        let mut sampler = Sampler::new(&config, &discs(3, 9)).unwrap();
        let samples = frame(1);
        let rounded = sampled(&mut sampler, &samples, 1.5, -0.5);
        assert_eq!(bits(&rounded), bits(&sampled(&mut sampler, &samples, 2.0, -1.0)));
    }

    #[test]
    fn the_bias_is_taken_off_and_saturated_pixels_are_counted_once() {
        let raw = RawRoi { pixels: vec![(5, 5, 1.0), (5, 6, 1.0), (6, 5, 1.0)], ..RawRoi::default() };
        let set = RoiSet::from_raw(Geometry::new(HEIGHT, WIDTH), vec![raw], None, "x".into()).unwrap();
        let mut sampler = Sampler::new(&SampleConfig::default(), &set).unwrap();
        let mut samples = vec![32_768 + 90; HEIGHT * WIDTH];
        let mut out = SampleBuffer::new(1);
        fn biased(samples: &[u16]) -> FrameView<'_> {
            FrameView { bias: 32_768, ..view(samples) }
        }
        sampler.step(&biased(&samples), 0.25, 0.25, &mut out);
        assert_eq!((out.f[0], out.f_neuropil[0], out.saturated_pixels[0]), (90.0, 90.0, 0));
        samples[5 * WIDTH + 6] = 65_535;
        samples[30 * WIDTH + 30] = 65_535;
        sampler.step(&biased(&samples), 0.25, 0.25, &mut out);
        assert_eq!(out.saturated_pixels[0], 1);
        // half a pixel to the right the sample lies nearest to the mask's left pixel
        sampler.step(&biased(&samples), 0.0, 0.5, &mut out);
        assert_eq!(out.saturated_pixels[0], 1);
        sampler.step(&biased(&samples), 3.0, 0.0, &mut out);
        assert_eq!(out.saturated_pixels[0], 0);
    }

    #[test]
    fn what_leaves_the_frame_is_counted_and_when_nothing_remains_f_is_nan() {
        let raw = RawRoi { pixels: vec![(0, 0, 1.0), (1, 0, 1.0)], ..RawRoi::default() };
        let set = RoiSet::from_raw(Geometry::new(HEIGHT, WIDTH), vec![raw], None, "x".into()).unwrap();
        let mut sampler = Sampler::new(&SampleConfig::default(), &set).unwrap();
        let samples: Vec<u16> = (0..HEIGHT * WIDTH).map(|at| (at / WIDTH * 10) as u16).collect();
        let out = sampled(&mut sampler, &samples, -0.5, 0.0);
        assert_eq!((out.f[0], out.outside_pixels[0]), (5.0, 1));
        for (dy, dx) in [(-2.0, 0.0), (0.0, -0.1), (1e300, 0.0), (0.0, f64::INFINITY), (f64::NAN, 0.0)] {
            let out = sampled(&mut sampler, &samples, dy, dx);
            assert!(out.f[0].is_nan() && out.outside_pixels[0] == 2, "{dy} {dx}: {out:?}");
        }
    }

    #[test]
    fn a_frame_of_another_size_or_with_rows_missing_gives_nan_and_no_panic() {
        let mut sampler = Sampler::new(&small_annuli(), &discs(3, 9)).unwrap();
        let samples = frame(1);
        let mut out = SampleBuffer::new(9);
        let other = FrameView { geometry: Geometry::new(WIDTH, HEIGHT), ..view(&samples) };
        sampler.step(&other, 0.0, 0.0, &mut out);
        assert!(out.f.iter().all(|f| f.is_nan()));
        sampler.step(&FrameView { samples: &samples[1..], ..view(&samples) }, 0.0, 0.0, &mut out);
        assert!(out.f.iter().all(|f| f.is_nan()));
        sampler.start(0.0, 0.0);
        let needed = sampler.rows_needed();
        sampler.accumulate(&view(&samples), 0..needed.end - 1);
        sampler.finish(0, &mut out);
        assert!(out.f.iter().all(|f| f.is_nan()));
        sampler.start(0.0, 0.0);
        sampler.accumulate(&view(&samples), 0..needed.end);
        sampler.finish(0, &mut out);
        assert_eq!(bits(&out), bits(&sampled(&mut sampler, &samples, 0.0, 0.0)));
    }

    proptest! {
        #[test]
        fn lines_apart_are_read_as_the_formula_says_whatever_the_strips(
            seed in any::<u64>(), dy in -45.0f64..45.0, dx in -50.0f64..50.0, odd in -6.0f64..6.0,
            plain in any::<bool>(), whole in any::<bool>(), cut in 1usize..HEIGHT,
        ) {
            let mode = if plain { SampleMode::Plain } else { SampleMode::Weighted };
            let config = SampleConfig { mode, whole_pixel: whole, ..small_annuli() };
            let set = discs(seed, 4);
            let mut sampler = Sampler::new(&config, &set).unwrap();
            sampler.keep_lines_apart();
            let samples = frame(seed);
            let mut out = SampleBuffer::new(4);
            sampler.step_lines(&view(&samples), (dy, dx), odd, &mut out);
            let steps = |px: f64| if whole { px.round() } else { (px * 256.0).round() / 256.0 };
            let (y, across) = (steps(dy), [steps(dx), steps(dx + odd)]);
            let inside = |at: f64, size: usize| at >= 0.0 && at.ceil() < size as f64;
            for (roi, &found) in set.rois.iter().zip(&out.f) {
                let (mut sum, mut weights) = (0.0, 0.0);
                let heaviest = roi.pixels.iter().fold(0.0f32, |most, p| most.max(p.weight));
                for p in &roi.pixels {
                    let weight = f64::from(p.weight / heaviest) * 32_767.0;
                    let weight = if plain { 1.0 } else { weight.round() };
                    let row = f64::from(p.row) + y;
                    let columns = across.map(|x| f64::from(p.col) + x);
                    if !inside(row, HEIGHT) || !columns.iter().all(|&c| inside(c, WIDTH)) {
                        continue;
                    }
                    let line = |r: usize| {
                        let c = columns[r % 2];
                        let at = |c: usize| f64::from(samples[r * WIDTH + c]);
                        let right = c - c.floor();
                        (1.0 - right) * at(c as usize) + if right > 0.0 { right * at(c as usize + 1) } else { 0.0 }
                    };
                    let down = row - row.floor();
                    let value = (1.0 - down) * line(row as usize)
                        + if down > 0.0 { down * line(row as usize + 1) } else { 0.0 };
                    sum += weight * value;
                    weights += weight;
                }
                let expected = sum / weights;
                let same = (found - expected).abs() <= 1.0 || (found.is_nan() && expected.is_nan());
                prop_assert!(same, "{found} {expected}");
            }
            sampler.start_lines((dy, dx), odd);
            for rows in [cut..HEIGHT, 0..cut] {
                sampler.accumulate(&view(&samples), rows);
            }
            let mut strips = SampleBuffer::new(4);
            sampler.finish(0, &mut strips);
            prop_assert_eq!(bits(&strips), bits(&out));
            sampler.step_lines(&view(&samples), (dy, dx), 0.0, &mut strips);
            sampler.step(&view(&samples), dy, dx, &mut out);
            prop_assert_eq!(bits(&strips), bits(&out));
        }
    }

    #[test]
    fn a_coefficient_of_zero_makes_no_annuli() {
        let config = SampleConfig { neuropil_coefficient: NeuropilCoefficient::Share(0.0), ..SampleConfig::default() };
        let mut sampler = Sampler::new(&config, &discs(3, 9)).unwrap();
        assert_eq!(sampler.annulus_pixels(0).count(), 0);
        assert_eq!(sampled(&mut sampler, &frame(1), 0.3, 0.3).f_neuropil, [0.0; 9]);
    }

    #[test]
    fn chosen_rois_come_in_the_order_asked_for_and_keep_clear_of_all_cells() {
        let set = discs(3, 9);
        let mut all = Sampler::new(&small_annuli(), &set).unwrap();
        let mut two = Sampler::with_ids(&small_annuli(), &set, &[7, 2]).unwrap();
        let (a, b) = (sampled(&mut all, &frame(1), 0.3, 0.3), sampled(&mut two, &frame(1), 0.3, 0.3));
        assert_eq!((b.f, b.f_neuropil), (vec![a.f[7], a.f[2]], vec![a.f_neuropil[7], a.f_neuropil[2]]));
        assert_eq!(two.ids().collect::<Vec<_>>(), [7, 2]);
        let error = Sampler::with_ids(&small_annuli(), &set, &[9]).unwrap_err();
        assert_eq!(error.to_string(), "ROI 9 is not in discs, which holds 9 ROIs (ids from 0)");
    }
}
