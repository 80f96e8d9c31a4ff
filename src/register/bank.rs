//! What is precomputed about a template: weight images, and what they are expected to say of a displaced frame.
//!
//! In: an image `T`. Out: three weight images, `w0` = band-passed `T`, `w1`, `w2` = the row and column derivatives of
//! smoothed `T`; and for each of some nested windows a table of the responses `E_i(l) = sum_r w_i(r) T(r - l)` to the
//! template itself, displaced by `l` = -2..2 pixels in both directions. With the windows' mean taken off, a frame
//! `f(r) = a + g T(r - d)` has the moments `M_i = g E_i(d)`: three equations for the gain and the shift, solved by
//! Newton on the quartic through the five responses. The expansion to fourth order, in place of Lucas-Kanade's first,
//! is what makes one pass over the pixels enough and leaves no bias between pixels.
//!
//! Noise of the template correlates with itself and would make the expected responses too steep, the shifts too small
//! (a template from one noisy frame would hardly move). It is white, its variance is known, so its part of every
//! response is subtracted.
//!
//! The windows leave margins, from 4 pixels up to the largest shift, so that a displaced window stays within the
//! frame and its sums are always over the same pixels of the template. Rows beyond the window that a displaced frame
//! still shows are only asked whether they fit ([`Bank::edge_gains`]): a frame may be torn there.
//!
//! Cost: some 10 ms for 512 x 512, at a template refresh. Nothing is allocated after [`Filters::new`], [`Bank::new`].

use std::ops::Range;

use super::filter;
use super::kernel::{self, Moments, Path, Plane, Region, WEIGHT_LIMIT};
use super::phase::Lines;
use crate::frame::Geometry;

/// Lags of a table along one axis: -2, -1, 0, 1, 2.
pub(super) const LAGS: usize = 5;
/// Horizontal bands in which a frame is also judged by itself.
pub(super) const BANDS: usize = 8;
/// Rows beyond the window that are worth asking whether they fit.
const EDGE_ROWS: usize = 8;
/// The band-pass of `w0` takes off what is smoother than this many times sigma.
const BAND_RATIO: f64 = 1.5;
/// The same for the gradients, which need more of the coarse structure.
const GRADIENT_RATIO: f64 = 5.0;
/// Weights are clipped at this many times their root mean square: single bright pixels shall not decide.
const CLIP_RMS: f64 = 8.0;

/// Filters and their scratch, shared by the banks of one size.
pub(super) struct Filters {
    fine: Vec<f32>,
    coarse: Vec<f32>,
    coarsest: Vec<f32>,
    /// Response of each weight image at lag `l` to noise of variance 1 in the template, per pixel.
    noise: [[f64; LAGS * LAGS]; 3],
    /// The same to its correlation with the neighbours in the line, left and right, a half each.
    beside: [[f64; LAGS * LAGS]; 3],
    scratch: [Vec<f32>; 6],
}

impl Filters {
    pub(super) fn new(geometry: Geometry, sigma: f64) -> Self {
        let fine = filter::gaussian(sigma);
        let coarse = filter::gaussian(sigma * BAND_RATIO);
        let coarsest = filter::gaussian(sigma * GRADIENT_RATIO);
        let side = 2 * (coarsest.len() + 4) + 1;
        let none = [[0.0; LAGS * LAGS]; 3];
        let mut small = Self { fine, coarse, coarsest, noise: none, beside: none, scratch: buffers(side * side) };
        let mut point = vec![0.0; side * side];
        let centre = side / 2;
        point[centre * side + centre] = 1.0;
        small.run(&point, side);
        let (mut noise, mut beside) = (none, none);
        for (image, (noise, beside)) in small.scratch[..3].iter().zip(noise.iter_mut().zip(&mut beside)) {
            for (k, (noise, beside)) in noise.iter_mut().zip(beside).enumerate() {
                let at = (centre + k / LAGS - 2) * side + centre + k % LAGS - 2;
                *noise = f64::from(image[at]);
                *beside = 0.5 * (f64::from(image[at - 1]) + f64::from(image[at + 1]));
            }
        }
        Self { noise, beside, scratch: buffers(geometry.count()), ..small }
    }

    /// Response of weight image `i` at the lag of place `k` to noise of variance 1, of which `blur` went to neighbours.
    pub(super) fn noise_share(&self, i: usize, k: usize, blur: f64) -> f64 {
        (1.0 - blur) * self.noise[i][k] + blur * self.beside[i][k]
    }

    /// Leaves the weight images of `image` in the first three scratch images.
    fn run(&mut self, image: &[f32], width: usize) {
        let [w0, w1, w2, fine, coarse, between] = &mut self.scratch;
        filter::smooth(image, width, &self.fine, between, fine);
        filter::smooth(image, width, &self.coarsest, between, coarse);
        for ((w, f), c) in w0.iter_mut().zip(fine.iter()).zip(coarse.iter()) {
            *w = f - c;
        }
        filter::gradient(w0, width, w1, w2);
        filter::smooth(image, width, &self.coarse, between, coarse);
        for ((w, f), c) in w0.iter_mut().zip(fine.iter()).zip(coarse.iter()) {
            *w = f - c;
        }
    }

    /// Band-passes an image, as a template's `w0` is.
    pub(super) fn band_of(&mut self, image: &[f32], width: usize) -> &[f32] {
        self.run(image, width);
        self.band()
    }

    /// What the band-pass leaves of a single pixel in its own place.
    pub(super) fn centre(&self) -> f64 {
        self.noise[0][LAGS * LAGS / 2]
    }

    /// The band-passed image of the last [`Bank::build`].
    pub(super) fn band(&self) -> &[f32] {
        &self.scratch[0]
    }
}

fn buffers(count: usize) -> [Vec<f32>; 6] {
    [(); 6].map(|()| vec![0.0; count])
}

/// Margins of one window, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Margin {
    pub y: usize,
    pub x: usize,
}

/// The windows' margins, from the narrowest to the one that allows the largest shift; empty where a frame is too
/// small for any window.
pub(super) fn margins(geometry: Geometry, max_y: usize, max_x: usize) -> Vec<Margin> {
    let mut margins = Vec::new();
    let mut size = 4;
    loop {
        // the tables look two pixels beyond the window on each side
        let margin = Margin { y: size.min(max_y).max(2), x: size.min(max_x).max(2) };
        if geometry.height_px < 2 * margin.y + 8 || geometry.width_px < 2 * margin.x + 8 {
            return margins;
        }
        margins.push(margin);
        if size >= max_y.max(max_x) {
            return margins;
        }
        size *= 3;
    }
}

/// Rows of band `band` within the window.
fn band_rows(geometry: Geometry, margin: Margin, band: usize) -> Range<usize> {
    let height = geometry.height_px;
    let clip = |row: usize| row.clamp(margin.y, height - margin.y);
    clip(band * height / BANDS)..clip((band + 1) * height / BANDS)
}

/// Responses of the three weight images to a displaced template, lag by lag.
pub(super) type Responses = [[f64; LAGS * LAGS]; 3];

/// What one window expects of a frame.
#[derive(Debug, Clone, Default)]
struct Table {
    count: f64,
    /// Sums of the weights.
    weight_sums: [f64; 3],
    /// Responses at the 25 lags, mean taken off, noise subtracted, in counts times weight.
    responses: Responses,
    /// For each band: pixels, sum of w0, response of w0 at lag 0 (mean taken off within the band), energy.
    bands: [Band; BANDS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Band {
    count: f64,
    weight_sum: f64,
    response: f64,
    energy: f64,
}

impl Band {
    /// The contrast of what was measured there, and its standard deviation from noise.
    fn gain(&self, moments: &Moments, variance: f64) -> Option<(f64, f64)> {
        (self.count > 0.0 && self.response > 0.0).then(|| {
            let value = centred(moments.wx[0], moments.x, self.weight_sum, self.count) / self.response;
            (value, (variance * self.energy).max(0.0).sqrt() / self.response)
        })
    }
}

/// Sums over the template's rows from the first one on, at lag 0: for a strip of any rows, a difference.
#[derive(Debug, Clone, Copy, Default)]
struct RowSums {
    count: i64,
    weight: i64,
    square: i64,
    x: i64,
    wx: i64,
}

/// A frame's moments, band by band, at a whole-pixel lag.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measured {
    window: usize,
    pub lag: (i32, i32),
    pub bands: [Moments; BANDS],
    pub all: Moments,
}

/// A solved fit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Solution {
    /// Shift beyond the whole-pixel lag.
    pub dy: f64,
    pub dx: f64,
    /// Contrast of the frame as a multiple of the template's.
    pub gain: f64,
}

/// In what the images of a bank are counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Units {
    /// Counts a step of the quantised image.
    pub image: f64,
    /// Steps of each weight image per unit of it.
    pub weights: [f64; 3],
    /// Variance of white noise in the image, in counts squared.
    pub noise: f64,
}

/// The precomputed images and tables of one template.
pub(super) struct Bank {
    geometry: Geometry,
    margins: Vec<Margin>,
    weights: [Vec<i8>; 3],
    quantised: Vec<u16>,
    units: Units,
    tables: Vec<Table>,
    /// Before each row, and behind the last; over the columns of the window for the largest shift.
    row_sums: Vec<RowSums>,
    /// Response of `w0` to a pixel's noise at lag 0, in counts times weight.
    noise_response: f64,
    lines: Lines,
    /// How often it was built.
    builds: u64,
}

impl Bank {
    pub(super) fn new(geometry: Geometry, margins: &[Margin]) -> Self {
        let count = geometry.count();
        Self {
            geometry,
            margins: margins.to_vec(),
            weights: [(); 3].map(|()| vec![0; count]),
            quantised: vec![0; count],
            units: Units::default(),
            tables: vec![Table::default(); margins.len()],
            row_sums: vec![RowSums::default(); geometry.height_px + 1],
            noise_response: 0.0,
            lines: Lines::default(),
            builds: 0,
        }
    }

    /// Makes everything from `image`, whose white noise has the variance `noise_variance` (its unit squared), for
    /// frames whose odd lines lie aside by `lines`.
    pub(super) fn build(
        &mut self,
        path: Path,
        filters: &mut Filters,
        image: &[f32],
        noise_variance: f64,
        lines: Lines,
    ) {
        self.lines = lines;
        self.builds += 1;
        filters.run(image, self.geometry.width_px);
        let mut scales = [0.0; 3];
        for (k, (target, source)) in self.weights.iter_mut().zip(&filters.scratch).enumerate() {
            scales[k] = quantise_weights(source, target);
        }
        let unit = quantise_image(image, &mut self.quantised);
        self.units = Units { image: unit, weights: scales, noise: noise_variance };
        self.noise_response = noise_variance * filters.noise_share(0, LAGS * LAGS / 2, lines.blur) * scales[0];
        self.sum_rows(path);
        for window in 0..self.margins.len() {
            let mut table = self.measure_table(path, window, unit);
            for (i, (responses, scale)) in table.responses.iter_mut().zip(scales).enumerate() {
                for (k, response) in responses.iter_mut().enumerate() {
                    *response -= table.count * noise_variance * filters.noise_share(i, k, lines.blur) * scale;
                }
                if lines.half_rest != 0.0 {
                    spread(responses, lines.half_rest);
                }
            }
            for band in &mut table.bands {
                band.response -= band.count * self.noise_response;
            }
            self.tables[window] = table;
        }
    }

    /// The image itself as samples, for registering it to another bank.
    pub(super) fn as_plane(&self) -> Plane<'_> {
        Plane { samples: &self.quantised, width: self.geometry.width_px, saturation: u16::MAX }
    }

    /// In what the images are counted.
    pub(super) fn units(&self) -> Units {
        self.units
    }

    /// How often it was built: what was measured with another build says nothing of this one.
    pub(super) fn builds(&self) -> u64 {
        self.builds
    }

    /// How odd lines are read.
    pub(super) fn lines(&self) -> Lines {
        self.lines
    }

    /// The weight images.
    pub(super) fn weights(&self) -> &[Vec<i8>; 3] {
        &self.weights
    }

    /// The tightest window that stays within a frame displaced by the lag.
    fn window_of(&self, lag: (i32, i32)) -> usize {
        let odd = (lag.1 + self.lines.whole).unsigned_abs();
        let (y, x) = (lag.0.unsigned_abs() as usize, lag.1.unsigned_abs().max(odd) as usize);
        let fits = |m: &Margin| m.y >= y && m.x >= x;
        self.margins.iter().position(fits).unwrap_or(self.margins.len().saturating_sub(1))
    }

    fn region(&self, window: usize, rows: Range<usize>, lag: (i32, i32)) -> Region {
        let x = self.margins[window].x;
        Region { rows, step: 1, columns: x..self.geometry.width_px - x, lag_y: lag.0, lag_x: lag.1 }
    }

    /// By how much the mean of a frame's lines, as they are measured, lies to the right of its even lines, in pixels.
    pub(super) fn half_rest(&self) -> f64 {
        self.lines.half_rest
    }

    /// Responses of the weights to the quantised image; `unit` is its counts a step.
    fn measure_table(&self, path: Path, window: usize, unit: f64) -> Table {
        let (margin, width) = (self.margins[window], self.geometry.width_px);
        let mut table = Table::default();
        for (k, target) in table.bands.iter_mut().enumerate() {
            let (mut count, mut sums, mut square) = (0i64, [0i64; 3], 0i64);
            for row in band_rows(self.geometry, margin, k) {
                let span = row * width + margin.x..(row + 1) * width - margin.x;
                count += span.len() as i64;
                for (sum, weights) in sums.iter_mut().zip(&self.weights) {
                    *sum += weights[span.clone()].iter().map(|&w| i64::from(w)).sum::<i64>();
                }
                square += self.weights[0][span].iter().map(|&w| i64::from(w) * i64::from(w)).sum::<i64>();
            }
            let (n, sum) = (count as f64, sums[0] as f64);
            *target = Band { count: n, weight_sum: sum, response: 0.0, energy: square as f64 - sum * sum / n.max(1.0) };
            table.count += n;
            for (total, part) in table.weight_sums.iter_mut().zip(sums) {
                *total += part as f64;
            }
        }
        for k in 0..LAGS * LAGS {
            // the content displaced by l: the sample at r is T(r - l)
            let lag = (2 - (k / LAGS) as i32, 2 - (k % LAGS) as i32);
            let mut measured = Measured { window, lag, ..Measured::default() };
            self.add_rows(path, self.as_plane(), 0..self.geometry.height_px, 0, &mut measured);
            for i in 0..3 {
                let mean_off = centred(measured.all.wx[i], measured.all.x, table.weight_sums[i], table.count);
                table.responses[i][k] = mean_off * unit;
            }
            if k == LAGS * LAGS / 2 {
                for (band, moments) in table.bands.iter_mut().zip(&measured.bands) {
                    band.response = centred(moments.wx[0], moments.x, band.weight_sum, band.count) * unit;
                }
            }
        }
        table
    }

    /// What strips of rows are made of, see [`Bank::strip`].
    fn sum_rows(&mut self, path: Path) {
        let (Some(window), width) = (self.margins.len().checked_sub(1), self.geometry.width_px) else { return };
        let mut sums = RowSums::default();
        for row in 0..self.geometry.height_px {
            let region = self.region(window, row..row + 1, (0, 0));
            let weights = &self.weights[0][row * width..][region.columns.clone()];
            let mut moments = Moments::default();
            kernel::accumulate(path, self.as_plane(), &self.weights, &region, &mut moments);
            sums = RowSums {
                count: sums.count + moments.count,
                weight: sums.weight + weights.iter().map(|&w| i64::from(w)).sum::<i64>(),
                square: sums.square + weights.iter().map(|&w| i64::from(w) * i64::from(w)).sum::<i64>(),
                x: sums.x + moments.x,
                wx: sums.wx + moments.wx[0],
            };
            self.row_sums[row + 1] = sums;
        }
    }

    /// What the template's own rows say of a strip.
    fn strip(&self, rows: &Range<usize>) -> Band {
        let (from, to) = (self.row_sums[rows.start], self.row_sums[rows.end]);
        let (count, weight_sum) = ((to.count - from.count) as f64, (to.weight - from.weight) as f64);
        let response = centred(to.wx - from.wx, to.x - from.x, weight_sum, count) * self.units.image;
        Band {
            count,
            weight_sum,
            response: response - count * self.noise_response,
            energy: (to.square - from.square) as f64 - weight_sum * weight_sum / count.max(1.0),
        }
    }

    /// Adds what the rows `rows` of a frame say, whose odd lines are read `odd` columns further right.
    fn add_rows(&self, path: Path, plane: Plane, rows: Range<usize>, odd: i32, measured: &mut Measured) {
        let (window, lag) = (measured.window, measured.lag);
        let of_template = |row: usize| (row as i64 - i64::from(lag.0)).max(0) as usize;
        let (from, to) = (of_template(rows.start), of_template(rows.end));
        measured.all = Moments::default();
        for (k, moments) in measured.bands.iter_mut().enumerate() {
            let band = band_rows(self.geometry, self.margins[window], k);
            let rows = band.start.max(from)..band.end.min(to);
            if !rows.is_empty() {
                self.accumulate(path, plane, &self.region(window, rows, lag), odd, moments);
            }
            measured.all.add(moments);
        }
    }

    /// Adds the sums of a region whose odd lines are read `odd` columns further right.
    pub(super) fn accumulate(&self, path: Path, plane: Plane, region: &Region, odd: i32, out: &mut Moments) {
        if odd == 0 {
            return kernel::accumulate(path, plane, &self.weights, region, out);
        }
        let rows = &region.rows;
        for first in rows.start..rows.end.min(rows.start + 2) {
            let aside = if (first as i32 + region.lag_y).rem_euclid(2) == 1 { odd } else { 0 };
            let (rows, lag_x) = (first..rows.end, region.lag_x + aside);
            let every_other = Region { rows, step: 2, columns: region.columns.clone(), lag_x, ..*region };
            kernel::accumulate(path, plane, &self.weights, &every_other, out);
        }
    }

    /// One pass over the frame at a whole-pixel lag, which must be within the largest shift.
    pub(super) fn measure(&self, path: Path, plane: Plane, lag: (i32, i32)) -> Measured {
        let mut measured = self.begin(lag);
        self.measure_rows(path, plane, 0..self.geometry.height_px, &mut measured);
        measured
    }

    /// The start of a pass in which rows follow as they come.
    pub(super) fn begin(&self, lag: (i32, i32)) -> Measured {
        Measured { window: self.window_of(lag), lag, ..Measured::default() }
    }

    /// Goes on with it: `rows` are those of the frame behind the ones that were measured already. The sums are
    /// integers, so the same whatever they were cut into.
    pub(super) fn measure_rows(&self, path: Path, plane: Plane, rows: Range<usize>, measured: &mut Measured) {
        self.add_rows(path, plane, rows, self.lines.whole, measured);
    }

    /// Contrast at the whole-pixel lag itself: an exact integer sum over a constant.
    pub(super) fn gain_at_lag(&self, measured: &Measured) -> f64 {
        let table = &self.tables[measured.window];
        let expected = table.responses[0][LAGS * LAGS / 2];
        if expected <= 0.0 {
            return 0.0;
        }
        centred(measured.all.wx[0], measured.all.x, table.weight_sums[0], table.count) / expected
    }

    /// Each band's contrast and its standard deviation from noise; `None` for a band without pixels or contrast.
    pub(super) fn band_gains(&self, measured: &Measured) -> [Option<(f64, f64)>; BANDS] {
        let variance = measured.all.variance();
        let bands = self.tables[measured.window].bands.iter().zip(&measured.bands);
        let mut gains = [None; BANDS];
        for (gain, (band, moments)) in gains.iter_mut().zip(bands) {
            *gain = band.gain(moments, variance);
        }
        gains
    }

    /// The same of the rows above and below the window, as far as the frame shows them: of each the outer and the inner
    /// half, and both together.
    pub(super) fn edge_gains(&self, path: Path, plane: Plane, measured: &Measured) -> [[Option<(f64, f64)>; 3]; 2] {
        let (height, margin) = (self.geometry.height_px, self.margins[measured.window].y);
        let (above, below) = ((-measured.lag.0).max(0) as usize, measured.lag.0.max(0) as usize);
        let variance = measured.all.variance();
        [above..margin, height - margin..height - below].map(|rows| {
            let middle = rows.start.midpoint(rows.end);
            let mut both = Moments::default();
            let mut half = |rows: Range<usize>| {
                let mut moments = Moments::default();
                let region = self.region(self.margins.len() - 1, rows.clone(), measured.lag);
                self.accumulate(path, plane, &region, self.lines.whole, &mut moments);
                both.add(&moments);
                self.strip(&rows).gain(&moments, variance)
            };
            if rows.len() < EDGE_ROWS {
                return [None; 3];
            }
            [half(rows.start..middle), half(middle..rows.end), self.strip(&rows).gain(&both, variance)]
        })
    }

    /// Solves the moments for gain and shift. The shift is within +-2 px of the lag; near +-2 it only says whereto.
    pub(super) fn solve(&self, measured: &Measured) -> Solution {
        let table = &self.tables[measured.window];
        let mut m = [0.0; 3];
        for (i, value) in m.iter_mut().enumerate() {
            *value = centred(measured.all.wx[i], measured.all.x, table.weight_sums[i], table.count);
        }
        let (mut dy, mut dx) = (0.0f64, 0.0f64);
        if m[0].is_nan() || m[0] <= 0.0 {
            return Solution::default();
        }
        for _ in 0..12 {
            let e = expect(&table.responses, dy, dx);
            let r = [m[1] * e[0].value - m[0] * e[1].value, m[2] * e[0].value - m[0] * e[2].value];
            let a = m[1] * e[0].dy - m[0] * e[1].dy;
            let b = m[1] * e[0].dx - m[0] * e[1].dx;
            let c = m[2] * e[0].dy - m[0] * e[2].dy;
            let d = m[2] * e[0].dx - m[0] * e[2].dx;
            let determinant = a * d - b * c;
            if determinant == 0.0 || !determinant.is_finite() {
                return Solution::default();
            }
            let step_y = ((b * r[1] - d * r[0]) / determinant).clamp(-1.0, 1.0);
            let step_x = ((c * r[0] - a * r[1]) / determinant).clamp(-1.0, 1.0);
            dy = (dy + step_y).clamp(-2.0, 2.0);
            dx = (dx + step_x).clamp(-2.0, 2.0);
            if step_y.abs() < 1e-9 && step_x.abs() < 1e-9 {
                break;
            }
        }
        let expected = expect(&table.responses, dy, dx)[0].value;
        Solution { dy, dx, gain: if expected > 0.0 { m[0] / expected } else { 0.0 } }
    }
}

/// A response and its derivatives.
#[derive(Clone, Copy, Default)]
pub(super) struct Expected {
    pub value: f64,
    pub dy: f64,
    pub dx: f64,
}

/// The three responses to a template displaced by (dy, dx).
pub(super) fn expect(responses: &Responses, dy: f64, dx: f64) -> [Expected; 3] {
    let (ly, sy) = lagrange(dy);
    let (lx, sx) = lagrange(dx);
    let mut expected = [Expected::default(); 3];
    for (e, responses) in expected.iter_mut().zip(responses) {
        for (row, (vy, gy)) in responses.chunks_exact(LAGS).zip(ly.iter().zip(&sy)) {
            let (mut value, mut slope) = (0.0, 0.0);
            for ((response, vx), gx) in row.iter().zip(&lx).zip(&sx) {
                value += vx * response;
                slope += gx * response;
            }
            e.value += vy * value;
            e.dy += gy * value;
            e.dx += vy * slope;
        }
    }
    expected
}

/// Values and derivatives at `t` of the five quartics that are 1 at one of -2, -1, 0, 1, 2 and 0 at the others.
pub(super) fn lagrange(t: f64) -> ([f64; LAGS], [f64; LAGS]) {
    let (t2, t3, t4) = (t * t, t * t * t, t * t * t * t);
    let value = [
        (t4 - 2.0 * t3 - t2 + 2.0 * t) / 24.0,
        (-t4 + t3 + 4.0 * t2 - 4.0 * t) / 6.0,
        (t4 - 5.0 * t2 + 4.0) / 4.0,
        (-t4 - t3 + 4.0 * t2 + 4.0 * t) / 6.0,
        (t4 + 2.0 * t3 - t2 - 2.0 * t) / 24.0,
    ];
    let slope = [
        (4.0 * t3 - 6.0 * t2 - 2.0 * t + 2.0) / 24.0,
        (-4.0 * t3 + 3.0 * t2 + 8.0 * t - 4.0) / 6.0,
        (4.0 * t3 - 10.0 * t) / 4.0,
        (-4.0 * t3 - 3.0 * t2 + 8.0 * t + 4.0) / 6.0,
        (4.0 * t3 + 6.0 * t2 - 2.0 * t - 2.0) / 24.0,
    ];
    (value, slope)
}

/// Responses to a content of which half lies `by` to the left and half as much to the right: even and odd lines that
/// are measured at whole pixels.
pub(super) fn spread(responses: &mut [f64; LAGS * LAGS], by: f64) {
    for row in responses.chunks_exact_mut(LAGS) {
        let mut spread = [0.0; LAGS];
        for (k, value) in spread.iter_mut().enumerate() {
            let (left, right) = (lagrange(k as f64 - 2.0 - by).0, lagrange(k as f64 - 2.0 + by).0);
            for ((response, l), r) in row.iter().zip(&left).zip(&right) {
                *value += 0.5 * (l + r) * response;
            }
        }
        row.copy_from_slice(&spread);
    }
}

/// Sum of w x less what the mean of x contributes.
pub(super) fn centred(wx: i64, x: i64, weight_sum: f64, count: f64) -> f64 {
    if count > 0.0 { wx as f64 - weight_sum / count * x as f64 } else { 0.0 }
}

/// Rounds weights to integers within the limit; returns weight units per unit of the image.
pub(super) fn quantise_weights(source: &[f32], target: &mut [i8]) -> f64 {
    let (mut square, mut largest) = (0.0f64, 0.0f64);
    for &v in source {
        square += f64::from(v) * f64::from(v);
        largest = largest.max(f64::from(v).abs());
    }
    let clip = largest.min(CLIP_RMS * (square / source.len() as f64).sqrt());
    if !clip.is_finite() || clip <= 0.0 {
        target.fill(0);
        return 0.0;
    }
    let limit = f64::from(WEIGHT_LIMIT);
    let scale = limit / clip;
    for (t, &v) in target.iter_mut().zip(source) {
        let value = (f64::from(v) * scale).clamp(-limit, limit);
        // halves away from zero; a call of `round` costs more than the rest of the loop on a plain x86-64
        *t = (value + if value < 0.0 { -0.5 } else { 0.5 }) as i8;
    }
    scale
}

/// Spreads the image over the range of `u16`; returns its unit per step.
pub(super) fn quantise_image(image: &[f32], target: &mut [u16]) -> f64 {
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for &v in image {
        low = low.min(v);
        high = high.max(v);
    }
    let range = f64::from(high) - f64::from(low);
    if !range.is_finite() || range <= 0.0 {
        target.fill(0);
        return 0.0;
    }
    let scale = 65_535.0 / range;
    for (t, &v) in target.iter_mut().zip(image) {
        *t = ((f64::from(v) - f64::from(low)) * scale + 0.5) as u16;
    }
    1.0 / scale
}
