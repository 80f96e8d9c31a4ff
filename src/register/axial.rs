//! Axial drift: at which depth does the brain lie now?
//!
//! In: slices at known depths (a reference z-stack, or the templates of the recording's own planes), and frames with
//! their shifts. Out: by how much the depth differs from the template's, in um; positive towards later slices.
//!
//! Each frame is correlated with three band-passed slices in one pass of the registration's kernel, three others with
//! the next frame, and so on: exact integer sums, averaged over [`AxialConfig::average_frames`]. What the brain at the
//! depth of each slice would give is known from the slices themselves. Two neighbours in a mixture that is fitted to
//! the averages by least squares (both shares at least 0) say where between them the brain lies; the pair that fits
//! best says which. The gain is free, so neither bleaching nor activity of single cells moves the depth. Outside the
//! slices the depth stays at their end; long before that a frame fits the template too badly to be believed.
//!
//! Cost: one pass over a window of the frame, some 20 us for 512 x 512, and nothing is allocated after `new`. Frames
//! whose odd lines lie aside are read as they are: that costs contrast, alike in all slices.

use serde::{Deserialize, Serialize};

use super::bank::{Filters, Margin, centred, margins, quantise_image, quantise_weights};
use super::filter;
use super::kernel::{self, Moments, Path, Plane, Region};
use super::{FitVerdict, RegisterError, Registration, Rigid};
use crate::frame::{FrameView, Geometry, Image};

/// Slices that there may be.
pub const SLICES_MAX: usize = 64;
/// Slices of one pass.
const GROUP: usize = 3;
/// Averages over fewer frames say nothing.
const FRAMES_MIN: u32 = 4;

/// What there is to know beside the slices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AxialConfig {
    /// From one slice to the next, in um, above 0.
    pub step_um: f64,
    /// Over so many frames the correlations are averaged.
    pub average_frames: u32,
    /// Of the smoothing in the slices, in pixels.
    pub sigma_px: f64,
    /// Largest shift of a frame, as a fraction of the frame.
    pub max_shift_fraction: f64,
    /// Use vector instructions.
    pub simd: bool,
}

/// What changes from frame to frame.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    /// Mean correlation with each slice.
    means: Vec<f64>,
    /// Frames in each group's means.
    visits: Vec<u32>,
    /// The group of the next frame.
    next: usize,
    /// Depth of the template; NaN while there is none.
    reference_um: f64,
    /// Depth of the brain; NaN while too few frames say anything.
    depth_um: f64,
}

/// Follows the depth of one plane.
pub struct Axial {
    config: AxialConfig,
    geometry: Geometry,
    path: Path,
    /// The window that stays within every frame.
    margin: Option<Margin>,
    /// The slices as they came.
    slices: Vec<Vec<f32>>,
    filters: Filters,
    /// Weight images of three slices each.
    groups: Vec<[Vec<i8>; GROUP]>,
    /// Sum of each slice's weights in the window, and 1 over the size of its correlations.
    weights: Vec<(f64, f64)>,
    /// What slice `k` says of the brain at slice `j`: at `j * slices + k`.
    profile: Vec<f64>,
    moved: Vec<f32>,
    samples: Vec<u16>,
    state: State,
}

impl Axial {
    /// For frames of `geometry` and so many slices; takes all memory that it will need. `None` where there are fewer
    /// than two slices, or frames are too small.
    pub fn new(config: AxialConfig, geometry: Geometry, slices: usize) -> Option<Self> {
        let largest = |size: usize| ((size as f64 * config.max_shift_fraction).floor() as usize).max(2);
        let (max_y, max_x) = (largest(geometry.height_px), largest(geometry.width_px));
        let margin = margins(geometry, max_y, max_x).last().copied();
        if !(2..=SLICES_MAX).contains(&slices) || margin.is_none_or(|m| m.y < max_y || m.x < max_x) {
            return None;
        }
        let (count, groups) = (geometry.count(), slices.div_ceil(GROUP));
        Some(Self {
            config,
            geometry,
            path: Path::choose(config.simd),
            margin,
            slices: vec![vec![0.0; count]; slices],
            filters: Filters::new(geometry, config.sigma_px),
            groups: (0..groups).map(|_| [(); GROUP].map(|()| vec![0; count])).collect(),
            weights: vec![(0.0, 0.0); slices],
            profile: vec![0.0; slices * slices],
            moved: vec![0.0; count],
            samples: vec![0; count],
            state: State {
                means: vec![0.0; slices],
                visits: vec![0; groups],
                next: 0,
                reference_um: f64::NAN,
                depth_um: f64::NAN,
            },
        })
    }

    /// A slice as it was recorded, in any linear unit.
    ///
    /// # Errors
    /// It has another size than the frames.
    pub fn set_slice(&mut self, slice: usize, image: &Image) -> Result<(), RegisterError> {
        let Geometry { height_px, width_px } = self.geometry;
        let (got, values) = (image.geometry, image.values.len());
        if got != self.geometry || values != self.geometry.count() {
            let (got_height_px, got_width_px) = (got.height_px, got.width_px);
            return Err(RegisterError::WrongSize {
                got_height_px,
                got_width_px,
                got_values: values,
                height_px,
                width_px,
            });
        }
        self.set_values(slice, &image.values);
        Ok(())
    }

    /// The same from the template of another plane, if there is one.
    pub fn set_template(&mut self, slice: usize, of: &Rigid) {
        if of.has_template() {
            self.set_values(slice, of.mean());
        }
    }

    fn set_values(&mut self, slice: usize, values: &[f32]) {
        if let Some(target) = self.slices.get_mut(slice) {
            target.copy_from_slice(values);
        }
    }

    /// Lays the slices onto the template, and learns what each says of the others. `own` is the slice that the template
    /// itself is, where it is one; else the depth is measured.
    pub fn settle(&mut self, template: &mut Rigid, own: Option<usize>) {
        let place = if own.is_some() { (0, 0) } else { self.place_on(template) };
        self.build(place);
        let slices = self.slices.len();
        self.state.means.fill(0.0);
        self.state.visits.fill(0);
        self.state.next = 0;
        self.state.depth_um = f64::NAN;
        self.state.reference_um = match own {
            Some(slice) => slice as f64 * self.config.step_um,
            None => {
                quantise_image(template.mean(), &mut self.samples);
                let mut said = [0.0; SLICES_MAX];
                self.correlate(&self.samples, (0, 0), &mut said);
                self.depth_of(&said[..slices])
            }
        };
    }

    /// Forgets the template's depth: there is none.
    pub fn forget(&mut self) {
        self.state.reference_um = f64::NAN;
        self.state.depth_um = f64::NAN;
    }

    /// A frame, moved against the template as `registration` says; one that it doubts changes nothing.
    pub fn step(&mut self, frame: &FrameView, registration: &Registration) {
        if self.state.reference_um.is_nan() || registration.verdict != FitVerdict::Good {
            return;
        }
        let lag = (registration.dy_px.round() as i32, registration.dx_px.round() as i32);
        let Some(moments) = self.measure(frame.samples, self.state.next, lag) else { return };
        let group = self.state.next;
        let visits = self.state.visits[group].saturating_add(1);
        let longest = (self.config.average_frames / self.groups.len() as u32).max(1);
        let share = 1.0 / f64::from(visits.min(longest));
        for k in 0..GROUP.min(self.slices.len() - group * GROUP) {
            let slice = group * GROUP + k;
            let said = centred(moments.wx[k], moments.x, self.weights[slice].0, moments.count as f64);
            let mean = &mut self.state.means[slice];
            *mean += share * (said - *mean);
        }
        self.state.visits[group] = visits;
        self.state.next = (group + 1) % self.groups.len();
        if self.state.next == 0 && self.state.visits.iter().all(|&visits| visits >= FRAMES_MIN) {
            self.state.depth_um = self.depth_of(&self.state.means);
        }
    }

    /// By how much the brain lies deeper (towards later slices) than the template, in um; none before enough frames.
    pub fn drift_um(&self) -> Option<f64> {
        let drift = self.state.depth_um - self.state.reference_um;
        drift.is_finite().then_some(drift)
    }

    /// Appends what changes from frame to frame.
    pub fn save(&self, out: &mut Vec<u8>) {
        // Writing to memory does not fail.
        let _ = postcard::to_io(&self.state, out);
    }

    /// Takes back what `save` appended; what is left of the bytes. The slices must be settled on the same template.
    ///
    /// # Errors
    /// The bytes are no such state.
    pub fn load<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], RegisterError> {
        let bad = |why, got, expected| RegisterError::BadState { why, got, expected };
        let (state, rest): (State, &[u8]) =
            postcard::take_from_bytes(bytes).map_err(|_| bad("its depth cannot be read", bytes.len(), bytes.len()))?;
        let (got, expected) = (state.means.len(), self.slices.len());
        if got != expected || state.visits.len() != self.groups.len() || state.next >= self.groups.len() {
            return Err(bad("it has another number of slices", got, expected));
        }
        self.state = state;
        Ok(rest)
    }

    /// Where the slices lie on the template, in whole pixels: as the one that fits best.
    fn place_on(&mut self, template: &mut Rigid) -> (i32, i32) {
        let mut best = (f64::NEG_INFINITY, (0, 0));
        for slice in &self.slices {
            quantise_image(slice, &mut self.samples);
            let plane = Plane { samples: &self.samples, width: self.geometry.width_px, saturation: u16::MAX };
            let (score, place) = template.place_of(plane);
            if score > best.0 {
                best = (score, place);
            }
        }
        best.1
    }

    /// Weight images of the slices, moved onto the template, and what each says of each.
    fn build(&mut self, place: (i32, i32)) {
        let (width, slices) = (self.geometry.width_px, self.slices.len());
        let window = self.window((0, 0));
        let count = (window.rows.len() * window.columns.len()) as f64;
        for slice in 0..slices {
            let noise = self.lay(slice, place);
            let target = &mut self.groups[slice / GROUP][slice % GROUP];
            let scale = quantise_weights(self.filters.band_of(&self.moved, width), target);
            let (mut sum, mut square) = (0i64, 0i64);
            for row in window.rows.clone() {
                for &w in &target[row * width..][window.columns.clone()] {
                    sum += i64::from(w);
                    square += i64::from(w) * i64::from(w);
                }
            }
            self.weights[slice] = (sum as f64, if square > 0 { 1.0 / (square as f64).sqrt() } else { 0.0 });
            // A slice's own noise agrees with itself; a frame's will not.
            self.profile[slice * slices + slice] = -count * noise * self.filters.centre() * scale;
        }
        for slice in 0..slices {
            self.lay(slice, place);
            let unit = quantise_image(&self.moved, &mut self.samples);
            let mut said = [0.0; SLICES_MAX];
            self.correlate(&self.samples, (0, 0), &mut said);
            let row = &mut self.profile[slice * slices..(slice + 1) * slices];
            for (k, (profile, said)) in row.iter_mut().zip(said).enumerate() {
                *profile = said * unit + if k == slice { *profile } else { 0.0 };
            }
        }
    }

    /// Moves a slice onto the template; the variance of its white noise.
    fn lay(&mut self, slice: usize, place: (i32, i32)) -> f64 {
        let Geometry { height_px: height, width_px: width } = self.geometry;
        let clip = |at: usize, by: i32, size: usize| (at as i64 + i64::from(by)).clamp(0, size as i64 - 1) as usize;
        for row in 0..height {
            let from = clip(row, place.0, height) * width;
            for col in 0..width {
                self.moved[row * width + col] = self.slices[slice][from + clip(col, place.1, width)];
            }
        }
        let unit = quantise_image(&self.moved, &mut self.samples);
        let plane = Plane { samples: &self.samples, width, saturation: u16::MAX };
        filter::white_noise(plane) * unit * unit
    }

    fn window(&self, lag: (i32, i32)) -> Region {
        let Margin { y, x } = self.margin.unwrap_or(Margin { y: 0, x: 0 });
        let Geometry { height_px, width_px } = self.geometry;
        Region { rows: y..height_px - y, step: 1, columns: x..width_px - x, lag_y: lag.0, lag_x: lag.1 }
    }

    /// Sums over the window with a group's slices; none where the window would leave the frame.
    fn measure(&self, samples: &[u16], group: usize, lag: (i32, i32)) -> Option<Moments> {
        let Margin { y, x } = self.margin?;
        if lag.0.unsigned_abs() as usize > y || lag.1.unsigned_abs() as usize > x {
            return None;
        }
        let plane = Plane { samples, width: self.geometry.width_px, saturation: u16::MAX };
        let mut moments = Moments::default();
        kernel::accumulate(self.path, plane, &self.groups[group], &self.window(lag), &mut moments);
        Some(moments)
    }

    /// What every slice says of an image.
    fn correlate(&self, samples: &[u16], lag: (i32, i32), said: &mut [f64]) {
        for group in 0..self.groups.len() {
            let Some(moments) = self.measure(samples, group, lag) else { return };
            for (k, (said, weights)) in
                said[group * GROUP..].iter_mut().zip(&self.weights[group * GROUP..]).enumerate().take(GROUP)
            {
                *said = centred(moments.wx[k], moments.x, weights.0, moments.count as f64);
            }
        }
    }

    /// The depth at which two neighbours in a mixture say what was said; NaN where nothing fits.
    fn depth_of(&self, said: &[f64]) -> f64 {
        let slices = self.slices.len();
        let norm = |k: usize| self.weights[k].1;
        let row = |j: usize| &self.profile[j * slices..(j + 1) * slices];
        let dot = |a: &[f64], b: &[f64]| {
            let mut sum = 0.0;
            for (k, (a, b)) in a.iter().zip(b).enumerate() {
                sum += a * b * norm(k) * norm(k);
            }
            sum
        };
        let mut best = (f64::INFINITY, f64::NAN);
        let total = dot(said, said);
        for j in 0..slices - 1 {
            let (a, b) = (row(j), row(j + 1));
            let (aa, ab, bb, am, bm) = (dot(a, a), dot(a, b), dot(b, b), dot(a, said), dot(b, said));
            let determinant = aa * bb - ab * ab;
            let (mut p, mut q) = ((bb * am - ab * bm) / determinant, (aa * bm - ab * am) / determinant);
            if !(p > 0.0 && q > 0.0) {
                // One of them alone, whichever leaves less.
                let (alone_a, alone_b) = (am.max(0.0) / aa, bm.max(0.0) / bb);
                let left = |share: f64, own: f64, with: f64| total - 2.0 * share * with + share * share * own;
                let a_is_better = left(alone_a, aa, am) <= left(alone_b, bb, bm);
                (p, q) = if a_is_better { (alone_a, 0.0) } else { (0.0, alone_b) };
            }
            let left = total - 2.0 * (p * am + q * bm) + p * p * aa + 2.0 * p * q * ab + q * q * bb;
            if p + q > 0.0 && left < best.0 {
                best = (left, (j as f64 + q / (p + q)) * self.config.step_um);
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::register::RegisterConfig;

    const SIDE: usize = 128;
    const STEP_UM: f64 = 2.0;
    const SLICES: usize = 9;

    fn random(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// Cells of 3 px and 4 um, scattered over the frame and over 40 um, seen at a depth; the background is 1.
    fn at_depth(depth_um: f64, moved: (f64, f64), bright: f64) -> Vec<f64> {
        let mut draw = random(7);
        let mut image = vec![1.0; SIDE * SIDE];
        for cell in 0..300 {
            let (y, x, z) = (draw() * SIDE as f64 + moved.0, draw() * SIDE as f64 + moved.1, draw() * 40.0 - 12.0);
            let height = (0.5 + 2.0 * draw()) * if cell % 10 == 0 { bright } else { 1.0 };
            let height = height * (-0.5 * ((z - depth_um) / 4.0).powi(2)).exp();
            let reach = |at: f64| (at - 10.0).max(0.0) as usize..((at + 11.0).max(0.0) as usize).min(SIDE);
            for row in reach(y) {
                for col in reach(x) {
                    let d2 = (row as f64 - y).powi(2) + (col as f64 - x).powi(2);
                    image[row * SIDE + col] += height * (-0.5 * d2 / 9.0).exp();
                }
            }
        }
        image
    }

    /// Counts of a frame at so many photons a pixel, 20 counts a photon.
    fn frame(image: &[f64], photons: f64, seed: u64) -> Vec<u16> {
        let mut draw = random(seed);
        let mut poisson = |mean: f64| {
            let (limit, mut product, mut count) = ((-mean).exp(), draw(), 0);
            while product > limit {
                product *= draw();
                count += 1;
            }
            count
        };
        image.iter().map(|v| 100 + 20 * poisson(v * photons) as u16).collect()
    }

    fn view(samples: &[u16]) -> FrameView<'_> {
        FrameView { geometry: Geometry::new(SIDE, SIDE), samples, bias: 0, saturation: u16::MAX }
    }

    fn image(values: &[f64]) -> Image {
        Image { geometry: Geometry::new(SIDE, SIDE), values: values.iter().map(|&v| 100.0 + 20.0 * v as f32).collect() }
    }

    fn config(simd: bool) -> AxialConfig {
        AxialConfig { step_um: STEP_UM, average_frames: 90, sigma_px: 1.0, max_shift_fraction: 0.15, simd }
    }

    /// A template at 8 um, the middle of the stack, and a stack that lies aside of it.
    fn settled(aside: (f64, f64), simd: bool) -> (Rigid, Axial) {
        let geometry = Geometry::new(SIDE, SIDE);
        let mut rigid = Rigid::new(&RegisterConfig { simd, ..RegisterConfig::default() }, geometry);
        rigid.load_template(&image(&at_depth(8.0, (0.0, 0.0), 1.0))).unwrap();
        let mut axial = Axial::new(config(simd), geometry, SLICES).unwrap();
        for slice in 0..SLICES {
            axial.set_slice(slice, &image(&at_depth(slice as f64 * STEP_UM, aside, 1.0))).unwrap();
        }
        axial.settle(&mut rigid, None);
        (rigid, axial)
    }

    fn follow(rigid: &mut Rigid, axial: &mut Axial, image: &[f64], photons: f64, frames: u64) {
        for seed in 0..frames {
            let samples = frame(image, photons, seed + 1);
            let registration = rigid.step(&view(&samples));
            axial.step(&view(&samples), &registration);
        }
    }

    #[test]
    fn a_brain_that_sinks_is_followed_at_one_photon_a_pixel_wherever_the_stack_lies() {
        for aside in [(0.0, 0.0), (5.0, -3.0)] {
            let (mut rigid, mut axial) = settled(aside, true);
            assert_eq!(axial.drift_um(), None, "nothing was seen yet");
            for drift_um in [0.0, 1.0, 2.5, -3.0, 4.0] {
                let at = at_depth(8.0 + drift_um, (1.3, -0.6), 1.0);
                follow(&mut rigid, &mut axial, &at, 1.0, 400);
                let found = axial.drift_um().unwrap();
                assert!((found - drift_um).abs() < 0.5, "{drift_um} um found as {found}");
            }
        }
    }

    #[test]
    fn neither_less_light_nor_active_cells_are_drift() {
        let (mut rigid, mut axial) = settled((0.0, 0.0), true);
        follow(&mut rigid, &mut axial, &at_depth(8.0, (0.0, 0.0), 1.0), 0.6, 200);
        assert!(axial.drift_um().unwrap().abs() < 0.5, "{:?}", axial.drift_um());
        follow(&mut rigid, &mut axial, &at_depth(8.0, (0.0, 0.0), 2.5), 1.0, 200);
        assert!(axial.drift_um().unwrap().abs() < 1.0, "{:?}", axial.drift_um());
    }

    #[test]
    fn planes_of_a_recording_serve_as_slices() {
        let geometry = Geometry::new(SIDE, SIDE);
        let config = AxialConfig { step_um: 6.0, ..config(true) };
        let mut axial = Axial::new(config, geometry, 3).unwrap();
        let mut planes: Vec<Rigid> = (0..3)
            .map(|plane| {
                let mut rigid = Rigid::new(&RegisterConfig::default(), geometry);
                rigid.load_template(&image(&at_depth(2.0 + 6.0 * f64::from(plane), (0.0, 0.0), 1.0))).unwrap();
                rigid
            })
            .collect();
        for (slice, rigid) in planes.iter().enumerate() {
            axial.set_template(slice, rigid);
        }
        axial.settle(&mut planes[1], Some(1));
        for drift_um in [0.0, 3.0, -2.0] {
            follow(&mut planes[1], &mut axial, &at_depth(8.0 + drift_um, (0.0, 0.0), 1.0), 1.0, 200);
            let found = axial.drift_um().unwrap();
            assert!((found - drift_um).abs() < 1.0, "{drift_um} um found as {found}");
        }
    }

    #[test]
    fn saved_and_loaded_it_goes_on_alike_and_every_path_gives_the_same_bits() {
        let sunk = at_depth(10.0, (0.4, 0.2), 1.0);
        let (mut rigid, mut axial) = settled((2.0, 1.0), true);
        follow(&mut rigid, &mut axial, &sunk, 1.0, 41);
        let mut bytes = Vec::new();
        axial.save(&mut bytes);
        bytes.push(9);
        let (mut other_rigid, mut other) = settled((2.0, 1.0), false);
        follow(&mut other_rigid, &mut other, &sunk, 1.0, 41);
        assert_eq!(axial.state, other.state, "without vector instructions");
        let (mut third_rigid, mut third) = settled((2.0, 1.0), true);
        follow(&mut third_rigid, &mut third, &sunk, 1.0, 41);
        let (_, mut loaded) = settled((2.0, 1.0), true);
        assert_eq!(loaded.load(&bytes).unwrap(), [9]);
        follow(&mut third_rigid, &mut loaded, &sunk, 1.0, 30);
        follow(&mut rigid, &mut axial, &sunk, 1.0, 30);
        assert_eq!(loaded.state, axial.state);
        assert!(loaded.load(&bytes[..3]).is_err());
    }

    #[test]
    fn what_cannot_be_a_stack_is_refused() {
        assert!(Axial::new(config(true), Geometry::new(SIDE, SIDE), 1).is_none());
        assert!(Axial::new(config(true), Geometry::new(6, 6), 5).is_none());
        let mut axial = Axial::new(config(true), Geometry::new(SIDE, SIDE), 2).unwrap();
        let small = Image { geometry: Geometry::new(8, 8), values: vec![0.0; 64] };
        assert!(axial.set_slice(0, &small).is_err());
    }
}
