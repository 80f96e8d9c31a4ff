//! The microscope, and the only renderer: firing rates in, frames out.
//!
//! In: the firing rate of each cell, in hertz. Out: a frame of canonical samples, or the bytes that a source of the
//! configured pixel type would send; and the truth of that frame.
//!
//! One frame: spikes (Poisson) -> dF/F -> light of the field of view in integer units,
//! `still + neuropil (1 + glow) + sum over cells of soma (1 + dF/F)` -> moved by the frame's shift, bilinear in 1/256
//! pixel, `frame(r, c) = light(r - dy, c - dx)` -> photons, gain, offset, read noise (`photons.rs`).
//! A soma's light is proportional to its own dF/F; what an ROI measures is smaller by the background that it covers
//! ([`Optics::soma_share`]). Light saturates where a pixel's exceeds nine times the resting soma.
//!
//! Cost on one core: about 1.7 ms a frame of 512 x 512, 0.4 ms of 256 x 256.

use super::anatomy::Anatomy;
use super::calcium::Calcium;
use super::motion::{Motion, PARTS};
use super::photons::Photons;
use super::seeded::{Draws, Fluctuation, Purpose};
use crate::config::synthetic::SyntheticConfig;
use crate::frame::{FrameView, Geometry, Image, PixelType};

/// Fixed point of the factors `1 + glow` and `1 + dF/F`.
const FACTOR_BITS: u32 = 10;
/// Largest dF/F that the light's units leave room for.
const LARGEST_DFF: f64 = 8.0;

/// Why a field of view could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpticsError {
    /// The cells do not fit.
    #[error(
        "synthetic.anatomy: {placed} of {wanted} cells found room in {height_px} x {width_px} pixels; \
             fewer or smaller cells, a smaller margin_px, or a larger frame will do"
    )]
    NoRoom {
        /// Cells that found room.
        placed: usize,
        /// Cells that were asked for.
        wanted: usize,
        /// Rows of the frame.
        height_px: usize,
        /// Columns of the frame.
        width_px: usize,
    },
    /// The configuration breaks its own rules.
    #[error("{0}")]
    Configuration(String),
}

/// The pixels of one cell in the frame at rest.
#[derive(Debug, Clone, PartialEq)]
pub struct RoiMask {
    /// Row, column, weight; the brightest pixel has weight 1.
    pub pixels: Vec<(u32, u32, f32)>,
}

/// What is behind the frame that was rendered last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth<'a> {
    /// Where the frame's content lies relative to the reference: rows, in pixels, a multiple of 1/256.
    pub dy_px: f64,
    /// The same in columns.
    pub dx_px: f64,
    /// dF/F of each cell.
    pub dff: &'a [f64],
    /// Spikes of each cell in this frame.
    pub spikes: &'a [u32],
    /// What the common fluctuation adds to the neuropil, relative.
    pub glow: f64,
}

/// A field of view under a microscope.
#[derive(Debug, Clone)]
pub struct Optics {
    geometry: Geometry,
    pixel_type: PixelType,
    inverted: bool,
    period_s: f64,
    margin_px: usize,
    wide: Geometry,
    still: Vec<u16>,
    neuropil: Vec<u16>,
    /// Pixels of each soma in the wide field, with their light at rest, in units.
    somata: Vec<Vec<(usize, u32)>>,
    masks: Vec<RoiMask>,
    soma_shares: Vec<f64>,
    photons: Photons,
    calcium: Calcium,
    motion: Motion,
    glow: Fluctuation,
    spike_draws: Draws,
    motion_draws: Draws,
    glow_draws: Draws,
    pixel_draws: Draws,
    spikes: Vec<u32>,
    shift: [i32; 2],
    light: Vec<u16>,
    samples: Vec<u16>,
}

impl Optics {
    /// A field of view of `config`, drawn from `seed`.
    pub fn new(config: &SyntheticConfig, seed: u64) -> Result<Self, OpticsError> {
        let mut violations = Vec::new();
        config.validate("synthetic", &mut violations);
        if !violations.is_empty() {
            return Err(OpticsError::Configuration(violations.join("; ")));
        }
        let geometry = config.geometry();
        let margin_px = config.motion.limit_px.ceil() as usize + 2;
        let mut draws = Draws::new(seed, Purpose::Anatomy);
        let anatomy = Anatomy::new(&config.anatomy, geometry, margin_px, &mut draws).map_err(|placed| {
            let (wanted, Geometry { height_px, width_px }) = (config.anatomy.cells, geometry);
            OpticsError::NoRoom { placed, wanted, height_px, width_px }
        })?;
        let rest = Rest::new(config, &anatomy, margin_px);
        let photons = Photons::new(&config.detector, rest.largest_photons);
        let units = |photon: f64| (photon / photons.unit_photons).round();
        let in_units = |light: &[f32]| -> Vec<u16> {
            light.iter().map(|&v| units(f64::from(v) * rest.photons_per_light) as u16).collect()
        };
        let soma_light = rest.photons_per_light * config.anatomy.soma_contrast;
        let (still, neuropil) = (in_units(&anatomy.still), in_units(&anatomy.neuropil));
        let somata = anatomy
            .somata
            .iter()
            .map(|soma| soma.pixels.iter().map(|&(i, w)| (i, units(f64::from(w) * soma_light) as u32)).collect());
        let somata: Vec<Vec<(usize, u32)>> = somata.collect();
        let cells = somata.len();
        let period_s = config.frame_period_s();
        let mut motion_draws = Draws::new(seed, Purpose::Motion);
        let mut glow_draws = Draws::new(seed, Purpose::Glow);
        Ok(Self {
            geometry,
            pixel_type: config.pixel_type,
            inverted: config.inverted,
            period_s,
            margin_px,
            wide: anatomy.wide,
            soma_shares: soma_shares(&still, &neuropil, &somata),
            masks: anatomy.somata.iter().map(|soma| mask(&soma.pixels, anatomy.wide, margin_px)).collect(),
            calcium: Calcium::new(&config.calcium, cells, config.frame_rate_hz),
            motion: Motion::new(&config.motion, period_s, &mut motion_draws),
            glow: Fluctuation::new(config.anatomy.glow_sd, config.anatomy.glow_tau_s, period_s, &mut glow_draws),
            spike_draws: Draws::new(seed, Purpose::Spikes),
            motion_draws,
            glow_draws,
            pixel_draws: Draws::new(seed, Purpose::Pixels),
            spikes: vec![0; cells],
            shift: [0; 2],
            light: vec![0; anatomy.wide.count()],
            samples: vec![0; geometry.count()],
            still,
            neuropil,
            somata,
            photons,
        })
    }

    /// Renders the next frame, in which each cell fires at `rates_hz` (cells beyond the slice are silent); returns its
    /// canonical samples (see `frame`).
    pub fn render(&mut self, rates_hz: &[f64]) -> &[u16] {
        let own = self.advance(rates_hz);
        self.show(own)
    }

    /// As [`Optics::render`], with the content at this shift (rows, columns, pixels) in place of the animal's own
    /// motion, which goes on unseen. The shift is rounded to 1/256 pixel and cut at `motion.limit_px`.
    pub fn render_at(&mut self, rates_hz: &[f64], shift_px: (f64, f64)) -> &[u16] {
        self.advance(rates_hz);
        // the field of view is two pixels wider than the limit
        let limit = self.margin_px as f64 - 2.0;
        let parts = |px: f64| (px.clamp(-limit, limit) * f64::from(PARTS)).round() as i32;
        self.show([parts(shift_px.0), parts(shift_px.1)])
    }

    /// Lets a frame's time pass; where the animal's own motion is then, in 1/256 pixel.
    fn advance(&mut self, rates_hz: &[f64]) -> [i32; 2] {
        for (cell, spikes) in self.spikes.iter_mut().enumerate() {
            let rate_hz = rates_hz.get(cell).copied().unwrap_or(0.0);
            *spikes = self.spike_draws.poisson(rate_hz * self.period_s);
        }
        self.calcium.step(&self.spikes);
        self.glow.step(&mut self.glow_draws);
        self.motion.step(&mut self.motion_draws)
    }

    fn show(&mut self, shift: [i32; 2]) -> &[u16] {
        self.shift = shift;
        self.compose(self.glow.value);
        self.expose();
        &self.samples
    }

    /// Light of the wide field of view, in units.
    fn compose(&mut self, glow: f64) {
        let factor = |relative: f64| ((1.0 + relative).max(0.0) * f64::from(1 << FACTOR_BITS)).round() as u32;
        let glow = factor(glow.min(LARGEST_DFF));
        for ((light, &still), &neuropil) in self.light.iter_mut().zip(&self.still).zip(&self.neuropil) {
            let sum = u32::from(still) + ((u32::from(neuropil) * glow) >> FACTOR_BITS);
            *light = sum.min(u32::from(u16::MAX)) as u16;
        }
        for (soma, &dff) in self.somata.iter().zip(self.calcium.dff()) {
            let bright = factor(dff.min(2.0 * LARGEST_DFF));
            for &(index, rest) in soma {
                let sum = u32::from(self.light[index]) + ((rest * bright) >> FACTOR_BITS);
                self.light[index] = sum.min(u32::from(self.photons.largest)) as u16;
            }
        }
    }

    /// Moves the light by the shift and counts its photons.
    fn expose(&mut self) {
        let key = self.pixel_draws.bits();
        let (row_at, down) = self.start(self.shift[0]);
        let (column_at, right) = self.start(self.shift[1]);
        let width = self.geometry.width_px;
        let line = |row: usize| {
            let start = (row_at + row) * self.wide.width_px + column_at;
            self.light[start..start + width + 1]
                .windows(2)
                .map(move |pair| u32::from(pair[0]) * (PARTS as u32 - right) + u32::from(pair[1]) * right)
        };
        let mut upper: Vec<u32> = line(0).collect();
        let mut lower = upper.clone();
        let mut rates = vec![0u16; width];
        let (lowest, highest, bias) = match self.pixel_type {
            PixelType::U8 => (0, 255, 0),
            PixelType::U16 => (0, 65_535, 0),
            PixelType::I16 => (-32_768, 32_767, PixelType::I16.bias()),
        };
        for (row, samples) in self.samples.chunks_exact_mut(width).enumerate() {
            lower.iter_mut().zip(line(row + 1)).for_each(|(to, from)| *to = from);
            for ((rate, &above), &below) in rates.iter_mut().zip(&upper).zip(&lower) {
                *rate = ((above * (PARTS as u32 - down) + below * down + (1 << 15)) >> 16) as u16;
            }
            self.photons.row(key, row * width, &rates, |column, counts| {
                samples[column] = (counts.clamp(lowest, highest) + bias) as u16;
            });
            std::mem::swap(&mut upper, &mut lower);
        }
    }

    /// First line of the wide field that the frame shows, and the weight of the line after it, in 1/256.
    fn start(&self, shift: i32) -> (usize, u32) {
        let at = self.margin_px as i32 * PARTS - shift;
        ((at.max(0) / PARTS) as usize, (at.max(0) % PARTS) as u32)
    }

    /// The last frame as the stages see it.
    pub fn view(&self) -> FrameView<'_> {
        FrameView {
            geometry: self.geometry,
            samples: &self.samples,
            bias: self.pixel_type.bias(),
            saturation: self.pixel_type.saturation(),
        }
    }

    /// Fills `buffer` with the last frame's bytes, little-endian, as a source of the configured type stores them.
    pub fn store(&self, buffer: &mut Vec<u8>) {
        let turn = if self.inverted { 0xffff } else { 0 } ^ self.pixel_type.bias() as u16;
        buffer.resize(self.geometry.count() * self.pixel_type.size_bytes(), 0);
        match self.pixel_type {
            PixelType::U8 => {
                buffer.iter_mut().zip(&self.samples).for_each(|(byte, &sample)| *byte = (sample ^ turn) as u8);
            }
            PixelType::U16 | PixelType::I16 => {
                for (pair, &sample) in buffer.chunks_exact_mut(2).zip(&self.samples) {
                    pair.copy_from_slice(&(sample ^ turn).to_le_bytes());
                }
            }
        }
    }

    /// What is behind the last frame.
    pub fn truth(&self) -> Truth<'_> {
        Truth {
            dy_px: f64::from(self.shift[0]) / f64::from(PARTS),
            dx_px: f64::from(self.shift[1]) / f64::from(PARTS),
            dff: self.calcium.dff(),
            spikes: &self.spikes,
            glow: self.glow.value,
        }
    }

    /// The cells' pixels at shift 0.
    pub fn masks(&self) -> &[RoiMask] {
        &self.masks
    }

    /// Share of the light within each cell's mask that is the cell's own at rest (unweighted mean over the mask): the
    /// slope of measured dF/F, offset removed, on the cell's own.
    pub fn soma_share(&self, cell: usize) -> Option<f64> {
        self.soma_shares.get(cell).copied()
    }

    /// The expected frame at rest and shift 0, in counts (not inverted): the reference image of the masks.
    pub fn reference(&self) -> Image {
        let mut light: Vec<u32> =
            self.still.iter().zip(&self.neuropil).map(|(&a, &b)| u32::from(a) + u32::from(b)).collect();
        for &(index, rest) in self.somata.iter().flatten() {
            light[index] += rest;
        }
        let mut image = Image::zeros(self.geometry);
        for (row, line) in image.values.chunks_exact_mut(self.geometry.width_px).enumerate() {
            let start = (row + self.margin_px) * self.wide.width_px + self.margin_px;
            for (value, &units) in line.iter_mut().zip(&light[start..]) {
                *value = self.photons.expected_counts(f64::from(units)) as f32;
            }
        }
        image
    }

    /// Height and width of a frame.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
}

/// Light at rest, before it is put into units.
struct Rest {
    photons_per_light: f64,
    largest_photons: f64,
}

impl Rest {
    fn new(config: &SyntheticConfig, anatomy: &Anatomy, margin_px: usize) -> Self {
        let contrast = config.anatomy.soma_contrast;
        let mut light: Vec<f64> =
            anatomy.still.iter().zip(&anatomy.neuropil).map(|(&a, &b)| f64::from(a) + f64::from(b)).collect();
        let brightest_background = light.iter().copied().fold(0.0, f64::max);
        for &(index, weight) in anatomy.somata.iter().flat_map(|soma| &soma.pixels) {
            light[index] += f64::from(weight) * contrast;
        }
        let (width, frame) = (anatomy.wide.width_px, config.geometry());
        let rows = light.chunks_exact(width).skip(margin_px).take(frame.height_px);
        let sum: f64 = rows.flat_map(|row| row.iter().skip(margin_px).take(frame.width_px)).sum();
        let photons_per_light = config.detector.photons_per_px * frame.count() as f64 / sum;
        let glowing = brightest_background * (1.0 + 4.0 * config.anatomy.glow_sd);
        let largest = glowing.max(contrast * (1.0 + LARGEST_DFF));
        Self { photons_per_light, largest_photons: largest * photons_per_light }
    }
}

fn mask(pixels: &[(usize, f32)], wide: Geometry, margin_px: usize) -> RoiMask {
    let place = |&(index, weight): &(usize, f32)| {
        let (row, column) = (index / wide.width_px - margin_px, index % wide.width_px - margin_px);
        (row as u32, column as u32, weight)
    };
    let mut pixels: Vec<(u32, u32, f32)> = pixels.iter().map(place).collect();
    let brightest = pixels.iter().fold(0.0f32, |most, pixel| most.max(pixel.2));
    pixels.iter_mut().for_each(|pixel| pixel.2 /= brightest);
    RoiMask { pixels }
}

fn soma_shares(still: &[u16], neuropil: &[u16], somata: &[Vec<(usize, u32)>]) -> Vec<f64> {
    let share = |soma: &Vec<(usize, u32)>| {
        let own: f64 = soma.iter().map(|&(_, rest)| f64::from(rest)).sum();
        let around: f64 = soma.iter().map(|&(i, _)| f64::from(still[i]) + f64::from(neuropil[i])).sum();
        own / (own + around)
    };
    somata.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::synthetic::AnimalConfig;

    fn config() -> SyntheticConfig {
        let mut config = SyntheticConfig { height_px: 96, width_px: 80, ..SyntheticConfig::default() };
        config.anatomy.cells = 6;
        config.anatomy.margin_px = 2.0;
        config.animal = AnimalConfig { p_plus: vec![0, 1, 2], p_minus: vec![3, 4, 5], ..AnimalConfig::default() };
        config
    }

    fn noiseless() -> SyntheticConfig {
        let mut config = config();
        config.detector.photon_noise = false;
        config.detector.read_noise_counts = 0.0;
        config.detector.gain_counts = 900.0;
        config.detector.offset_counts = 0.0;
        config
    }

    fn frames(config: &SyntheticConfig, seed: u64, count: usize) -> Vec<u8> {
        let mut optics = Optics::new(config, seed).unwrap();
        let (mut all, mut buffer) = (Vec::new(), Vec::new());
        for _ in 0..count {
            optics.render(&[5.0; 6]);
            optics.store(&mut buffer);
            all.extend_from_slice(&buffer);
        }
        all
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
        assert_eq!(frames(&config(), 7, 5), frames(&config(), 7, 5));
        assert_ne!(frames(&config(), 7, 5), frames(&config(), 8, 5));
    }

    /// Frozen bytes: this must give the same number on every machine and with every version of the crates.
    #[test]
    fn the_bytes_of_seed_7_are_these() {
        let hash = |bytes: &[u8]| {
            bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
        };
        let found = hash(&frames(&config(), 7, 5));
        assert_eq!(found, 0xa66a_2691_00bb_224a, "{found:#x}");
    }

    #[test]
    fn photons_have_the_stated_mean_and_variance() {
        let mut config = config();
        config.motion.drift_sd_px = 0.0;
        config.motion.jump_rate_hz = 0.0;
        config.anatomy.glow_sd = 0.0;
        config.detector.photons_per_px = 1.5;
        let mut optics = Optics::new(&config, 3).unwrap();
        let reference = optics.reference();
        let (gain, offset, read) = (120.0, 100.0, 12.0);
        let (mut sum, mut squares, mut expected, frames) = (0.0, 0.0, 0.0, 40);
        for _ in 0..frames {
            for (&sample, &mean) in optics.render(&[]).iter().zip(&reference.values) {
                let difference = (f64::from(sample) - f64::from(mean)) / gain;
                sum += (f64::from(sample) - offset) / gain;
                squares += difference * difference;
                expected += (f64::from(mean) - offset) / gain;
            }
        }
        let n = (frames * config.geometry().count()) as f64;
        assert!((expected / n - 1.5).abs() < 0.005, "reference {}", expected / n);
        // Counts below 0 are cut at 0, which the offset of 100 at a noise of 12 keeps from mattering.
        assert!((sum / n - expected / n).abs() < 4.0 * (1.5 / n).sqrt(), "mean {} of {}", sum / n, expected / n);
        let rounding = 1.0 / 12.0;
        let variance = squares / n - (read * read + rounding) / (gain * gain);
        assert!((variance / (expected / n) - 1.0).abs() < 0.02, "variance over mean {}", variance / (expected / n));
    }

    /// Every whole-frame shift on a grid around the truth, by floating-point interpolation of the light: the truth
    /// fits to rounding, and everything else worse.
    #[test]
    fn the_rendered_shift_is_the_truth() {
        let mut optics = Optics::new(&noiseless(), 5).unwrap();
        for _ in 0..30 {
            optics.render(&[2.0; 6]);
            let truth = optics.truth();
            let scale = 900.0 * optics.photons.unit_photons;
            let misfit = |dy: f64, dx: f64| {
                let mut worst = 0.0f64;
                for row in (0..96).step_by(7) {
                    for column in (0..80).step_by(5) {
                        let at =
                            (row as f64 - dy + optics.margin_px as f64, column as f64 - dx + optics.margin_px as f64);
                        let (r, c, v, u) = (at.0.floor(), at.1.floor(), at.0 - at.0.floor(), at.1 - at.1.floor());
                        let light = |i: f64, j: f64| {
                            f64::from(optics.light[(r + i) as usize * optics.wide.width_px + (c + j) as usize])
                        };
                        let value = (1.0 - v) * ((1.0 - u) * light(0.0, 0.0) + u * light(0.0, 1.0))
                            + v * ((1.0 - u) * light(1.0, 0.0) + u * light(1.0, 1.0));
                        let sample = f64::from(optics.samples[row * 80 + column]);
                        worst = worst.max((value * scale - sample).abs());
                    }
                }
                worst
            };
            let at_truth = misfit(truth.dy_px, truth.dx_px);
            assert!(at_truth <= 0.5 * scale + 0.51, "{at_truth} counts at {truth:?}");
            for (dy, dx) in [(0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1), (1.0, 0.0), (0.0, -1.0)] {
                assert!(misfit(truth.dy_px + dy, truth.dx_px + dx) > 10.0 * at_truth.max(1.0));
            }
        }
    }

    #[test]
    fn a_frame_can_be_shown_at_a_given_shift_and_the_animal_lives_on_as_ever() {
        let config = config();
        let (mut own, mut shown) = (Optics::new(&config, 4).unwrap(), Optics::new(&config, 4).unwrap());
        for given in [(1.5, -2.25), (0.001, 0.0), (1e9, -1e9)] {
            own.render(&[3.0; 6]);
            shown.render_at(&[3.0; 6], given);
            let limit = config.motion.limit_px.ceil();
            let expected = [given.0, given.1].map(|px: f64| (px.clamp(-limit, limit) * 256.0).round() / 256.0);
            assert_eq!([shown.truth().dy_px, shown.truth().dx_px], expected);
            assert_eq!((own.truth().spikes, own.truth().dff), (shown.truth().spikes, shown.truth().dff));
        }
        assert_eq!(own.render(&[3.0; 6]), shown.render(&[3.0; 6]));
    }

    #[test]
    fn content_moves_down_and_right_by_a_positive_shift() {
        let mut optics = Optics::new(&noiseless(), 5).unwrap();
        optics.shift = [2 * PARTS, 3 * PARTS];
        optics.compose(0.0);
        optics.expose();
        let reference = optics.reference();
        for (row, column) in [(10, 10), (50, 40), (80, 70)] {
            let moved = f64::from(optics.samples[(row + 2) * 80 + column + 3]);
            assert!((moved - f64::from(reference.values[row * 80 + column])).abs() <= 1.0);
        }
    }

    #[test]
    fn measured_dff_is_the_cells_own_times_its_share_of_the_light() {
        let mut config = noiseless();
        config.motion.drift_sd_px = 0.0;
        config.motion.jump_rate_hz = 0.0;
        config.anatomy.glow_sd = 0.0;
        let mut optics = Optics::new(&config, 9).unwrap();
        let mean = |samples: &[u16], mask: &RoiMask| {
            let sum: f64 = mask.pixels.iter().map(|&(r, c, _)| f64::from(samples[(r * 80 + c) as usize])).sum();
            sum / mask.pixels.len() as f64
        };
        let rest: Vec<f64> = {
            optics.render(&[]);
            optics.masks().iter().map(|mask| mean(&optics.samples, mask)).collect()
        };
        for _ in 0..10 {
            optics.render(&[20.0; 6]);
        }
        for (cell, &rest) in rest.iter().enumerate() {
            let measured = mean(&optics.samples, &optics.masks()[cell]) / rest - 1.0;
            let own = optics.truth().dff[cell] * optics.soma_share(cell).unwrap();
            assert!((measured - own).abs() < 0.01 + 0.01 * own, "cell {cell}: {measured} {own}");
        }
    }

    #[test]
    fn every_pixel_type_and_inversion_stores_the_same_values() {
        let mut small = config();
        small.detector.gain_counts = 8.0;
        small.detector.offset_counts = 10.0;
        small.detector.read_noise_counts = 1.0;
        let stored = |pixel_type, inverted| {
            let mut config = small.clone();
            (config.pixel_type, config.inverted) = (pixel_type, inverted);
            frames(&config, 2, 1)
        };
        let plain: Vec<u16> =
            stored(PixelType::U16, false).chunks_exact(2).map(|p| u16::from_le_bytes([p[0], p[1]])).collect();
        assert!(plain.iter().any(|&v| v > 10) && plain.iter().all(|&v| v < 255));
        let wide = |bytes: Vec<u8>| bytes.chunks_exact(2).map(|p| i16::from_le_bytes([p[0], p[1]])).collect::<Vec<_>>();
        assert_eq!(stored(PixelType::U8, false), plain.iter().map(|&v| v as u8).collect::<Vec<_>>());
        assert_eq!(stored(PixelType::U8, true), plain.iter().map(|&v| 255 - v as u8).collect::<Vec<_>>());
        assert_eq!(wide(stored(PixelType::I16, false)), plain.iter().map(|&v| v as i16).collect::<Vec<_>>());
        assert_eq!(wide(stored(PixelType::I16, true)), plain.iter().map(|&v| -1 - v as i16).collect::<Vec<_>>());
        assert_eq!(wide(stored(PixelType::U16, true)), plain.iter().map(|&v| !v as i16).collect::<Vec<_>>());
    }

    #[test]
    fn masks_do_not_overlap_and_keep_their_margin() {
        let optics = Optics::new(&SyntheticConfig::default(), 1).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        assert_eq!(optics.masks().len(), 40);
        for &(row, column, weight) in optics.masks().iter().flat_map(|mask| &mask.pixels) {
            assert!(seen.insert((row, column)), "{row} {column}");
            assert!((8..504).contains(&row) && (8..504).contains(&column) && weight > 0.0 && weight <= 1.0);
        }
    }

    #[test]
    fn too_many_cells_are_an_error_that_counts_them() {
        let mut config = config();
        config.anatomy.cells = 500;
        let error = Optics::new(&config, 1).unwrap_err();
        assert!(matches!(error, OpticsError::NoRoom { wanted: 500, .. }), "{error}");
    }
}
