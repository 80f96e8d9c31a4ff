//! Piecewise-rigid registration: overlapping blocks of the frame, each refined from the frame's shift.
//!
//! In: a frame whose shift is known, and the bank of the template. Out: for each block how far it lies beyond that
//! shift (rows, columns, pixels, in steps of 1/256, at most `max_block_shift_px`). No frame is resampled: masks follow
//! the blocks around them ([`BlockGrid::at`](super::BlockGrid::at)).
//!
//! The same integer sums as of the whole frame are taken of every tile, at the whole pixel nearest to the frame's
//! shift; a block's are the sums of its nine tiles. Its three moments say its contrast and its shift, as `bank.rs` has
//! it, and how precisely: with pixels of independent noise `v`, what is left of the block's variance after the
//! template's, the moments have the covariance `v G`, G the products of the weight images. `shrink.rs` makes one field
//! of it, around which the blocks are linearised again. Blocks that lie more than a pixel from where they were
//! measured are measured once more from nearer by, twice at most.
//!
//! A frame whose shift is not believed leaves the blocks as they were. Begin of a baseline and another template put
//! them at rest.
//!
//! Cost for 512 x 512 and 8 x 8 blocks: 0.2 to 0.5 ms, more where blocks are measured again; some ms at a template
//! refresh. Nothing is allocated after `new`.

use std::ops::Range;

use super::RegisterError;
use super::bank::{Bank, Filters, LAGS, Responses, centred, expect, spread};
use super::blocks::BlockGrid;
use super::kernel::{Moments, Path, Plane, Region};
use super::shrink::{Said, Shrinker};
use super::state::Reader;
use crate::config::register::RegisterConfig;
use crate::frame::Geometry;

/// Blocks further than this from where they were measured are measured again, in pixels.
const REACH_PX: f64 = 1.0;
/// Measurements of a block, with the first.
const MEASUREMENTS: usize = 3;
/// Linearisations after each measurement.
const ROUNDS: usize = 3;
/// A contrast of fewer standard deviations is none.
const SIGNIFICANT: f64 = 4.0;
/// Least share of a block's variance that counts as noise.
const NOISE_LEAST: f64 = 0.02;
/// Lags of a table.
const TABLE: usize = LAGS * LAGS;
/// Steps of a shift within a pixel.
const STEPS: f64 = 256.0;

/// Integer sums of the template over one tile.
#[derive(Debug, Clone, Default)]
struct Tile {
    /// Sums of the weights.
    weights: [i64; 3],
    /// Sums of the products of weights 0 0, 0 1, 0 2, 1 1, 1 2, 2 2.
    products: [i64; 6],
    /// The template's own moments at each lag.
    lags: [Moments; TABLE],
}

/// What a block expects of a frame.
#[derive(Debug, Clone, Default)]
struct Block {
    count: f64,
    weights: [f64; 3],
    responses: Responses,
    /// Products of the weight images, means taken off.
    products: [[f64; 3]; 3],
    /// Variance of the template without its noise, in counts squared.
    variance: f64,
}

/// The blocks of one template.
pub(super) struct Piecewise {
    pub grid: BlockGrid,
    geometry: Geometry,
    tiles: Vec<Tile>,
    /// The template's noise for one of a frame.
    noise_ratio: f64,
    /// Tiles that stay within the frame at the lag in force, rows and columns; the blocks below are made of them.
    inside: (Range<usize>, Range<usize>),
    blocks: Vec<Block>,
    shares: Responses,
    // of the frame at hand
    sums: Vec<Moments>,
    measured: Vec<Moments>,
    /// Where each block was measured beyond the frame's whole-pixel lag.
    lags: Vec<(i32, i32)>,
    said: Vec<Said>,
    field: Vec<[f64; 2]>,
    shrinker: Shrinker,
    /// The blocks' shifts beyond the frame's, in pixels: the state.
    pub dy: Vec<f32>,
    pub dx: Vec<f32>,
}

impl Piecewise {
    /// `None` where the configuration asks for none.
    pub(super) fn new(config: &RegisterConfig, geometry: Geometry) -> Option<Self> {
        let grid = BlockGrid::new(config, geometry)?;
        let (count, tiles) = (grid.count(), grid.rows.tiles() * grid.columns.tiles());
        Some(Self {
            geometry,
            tiles: vec![Tile::default(); tiles],
            noise_ratio: 0.0,
            inside: (0..0, 0..0),
            blocks: vec![Block::default(); count],
            shares: [[0.0; TABLE]; 3],
            sums: vec![Moments::default(); tiles],
            measured: vec![Moments::default(); count],
            lags: vec![(0, 0); count],
            said: vec![Said::default(); count],
            field: vec![[0.0; 2]; count],
            shrinker: Shrinker::new(grid.size().0, grid.size().1),
            dy: vec![0.0; count],
            dx: vec![0.0; count],
            grid,
        })
    }

    /// All blocks lie where the frame's shift says.
    pub(super) fn rest(&mut self) {
        self.dy.fill(0.0);
        self.dx.fill(0.0);
    }

    /// Takes the bank's new template, made of `frames` frames (0: not of frames like those to come).
    pub(super) fn build(&mut self, path: Path, bank: &Bank, filters: &Filters, frames: u32) {
        self.noise_ratio = if frames > 0 { 1.0 / f64::from(frames) } else { 0.0 };
        let (units, blur) = (bank.units(), bank.lines().blur);
        for (i, (shares, scale)) in self.shares.iter_mut().zip(units.weights).enumerate() {
            for (k, share) in shares.iter_mut().enumerate() {
                *share = units.noise * filters.noise_share(i, k, blur) * scale;
            }
        }
        let (across, width) = (self.grid.columns.tiles(), self.geometry.width_px);
        for (k, tile) in self.tiles.iter_mut().enumerate() {
            *tile = Tile::default();
            let (rows, columns) = (self.grid.rows.tile(k / across), self.grid.columns.tile(k % across));
            for row in rows.clone() {
                let [a, b, c] = [0, 1, 2].map(|i: usize| &bank.weights()[i][row * width..][columns.clone()]);
                for ((&a, &b), &c) in a.iter().zip(b).zip(c) {
                    let w = [i64::from(a), i64::from(b), i64::from(c)];
                    let products = [w[0] * w[0], w[0] * w[1], w[0] * w[2], w[1] * w[1], w[1] * w[2], w[2] * w[2]];
                    tile.weights.iter_mut().zip(w).for_each(|(sum, value)| *sum += value);
                    tile.products.iter_mut().zip(products).for_each(|(sum, value)| *sum += value);
                }
            }
            for (lag, moments) in tile.lags.iter_mut().enumerate() {
                let (lag_y, lag_x) = (2 - (lag / LAGS) as i32, 2 - (lag % LAGS) as i32);
                let region = Region { rows: rows.clone(), step: 1, columns: columns.clone(), lag_y, lag_x };
                bank.accumulate(path, bank.as_plane(), &region, 0, moments);
            }
        }
        self.inside = (0..0, 0..0);
    }

    /// The tiles of a block that stay within the frame.
    fn tiles_of(&self, block: usize) -> (Range<usize>, Range<usize>) {
        let across = self.grid.columns.blocks();
        let cut = |first: usize, inside: &Range<usize>| {
            let start = first.max(inside.start);
            start..(first + 3).min(inside.end).max(start)
        };
        (cut(2 * (block / across), &self.inside.0), cut(2 * (block % across), &self.inside.1))
    }

    /// What blocks expect where tiles that leave the frame are left out.
    fn prepare(&mut self, bank: &Bank, inside: (Range<usize>, Range<usize>)) {
        if self.inside == inside {
            return;
        }
        self.inside = inside;
        let (units, half_rest, across) = (bank.units(), bank.half_rest(), self.grid.columns.tiles());
        let mut sum = Tile::default();
        for k in 0..self.blocks.len() {
            sum = Tile { lags: sum.lags, ..Tile::default() };
            sum.lags.fill(Moments::default());
            let (rows, columns) = self.tiles_of(k);
            for tile in rows.flat_map(|row| columns.clone().map(move |column| row * across + column)) {
                let tile = &self.tiles[tile];
                sum.weights.iter_mut().zip(tile.weights).for_each(|(sum, value)| *sum += value);
                sum.products.iter_mut().zip(tile.products).for_each(|(sum, value)| *sum += value);
                sum.lags.iter_mut().zip(&tile.lags).for_each(|(sum, value)| sum.add(value));
            }
            let block = &mut self.blocks[k];
            let rest = &sum.lags[TABLE / 2];
            block.count = rest.count as f64;
            block.weights = sum.weights.map(|value| value as f64);
            block.variance = (rest.variance() * units.image * units.image - units.noise).max(0.0);
            let n = block.count.max(1.0);
            for (i, row) in block.products.iter_mut().enumerate() {
                for (j, product) in row.iter_mut().enumerate() {
                    let at = [[0, 1, 2], [1, 3, 4], [2, 4, 5]][i][j];
                    *product = sum.products[at] as f64 - block.weights[i] * block.weights[j] / n;
                }
            }
            for (i, responses) in block.responses.iter_mut().enumerate() {
                for (lag, response) in responses.iter_mut().enumerate() {
                    let at = &sum.lags[lag];
                    let whole = centred(at.wx[i], at.x, block.weights[i], block.count) * units.image;
                    *response = whole - block.count * self.shares[i][lag];
                }
                if half_rest != 0.0 {
                    spread(responses, half_rest);
                }
            }
        }
    }

    /// Makes ready for a frame whose content lies at the lag.
    fn start(&mut self, bank: &Bank, lag: (i32, i32)) {
        let odd = bank.lines().whole;
        let reach = self.grid.reach_px();
        let rows = self.grid.rows.inside(lag.0 - reach, lag.0 + reach, self.geometry.height_px);
        let (left, right) = (lag.1 + odd.min(0) - reach, lag.1 + odd.max(0) + reach);
        let columns = self.grid.columns.inside(left, right, self.geometry.width_px);
        self.prepare(bank, (rows, columns));
        self.sums.fill(Moments::default());
        self.lags.fill((0, 0));
        self.field.fill([0.0; 2]);
    }

    /// Adds what rows `rows` of the frame say of every tile.
    fn add_rows(&mut self, path: Path, bank: &Bank, plane: Plane, lag: (i32, i32), rows: Range<usize>) {
        let across = self.grid.columns.tiles();
        let of_template = |row: usize| (row as i64 - i64::from(lag.0)).max(0) as usize;
        for row in self.inside.0.clone() {
            let tile = self.grid.rows.tile(row);
            let start = tile.start.max(of_template(rows.start));
            let part = start..tile.end.min(of_template(rows.end)).max(start);
            for column in self.inside.1.clone() {
                let columns = self.grid.columns.tile(column);
                let region = Region { rows: part.clone(), step: 1, columns, lag_y: lag.0, lag_x: lag.1 };
                bank.accumulate(path, plane, &region, bank.lines().whole, &mut self.sums[row * across + column]);
            }
        }
    }

    /// Gives every block the sums of its tiles.
    fn gather(&mut self) {
        let across = self.grid.columns.tiles();
        for block in 0..self.blocks.len() {
            let (rows, columns) = self.tiles_of(block);
            let mut sum = Moments::default();
            for tile in rows.flat_map(|row| columns.clone().map(move |column| row * across + column)) {
                sum.add(&self.sums[tile]);
            }
            self.measured[block] = sum;
        }
    }

    /// Measures blocks again that lie far from where they were measured; whether there were any.
    fn measure_again(&mut self, path: Path, bank: &Bank, plane: Plane, lag: (i32, i32), rest: (f64, f64)) -> bool {
        let mut any = false;
        for block in 0..self.blocks.len() {
            let [dy, dx] = self.field[block];
            let at = self.lags[block];
            let off = (rest.0 + dy - f64::from(at.0), rest.1 + dx - f64::from(at.1));
            let (rows, columns) = self.tiles_of(block);
            if (off.0.abs() <= REACH_PX && off.1.abs() <= REACH_PX) || rows.is_empty() || columns.is_empty() {
                continue;
            }
            let reach = self.grid.reach_px();
            let next = (at.0 + off.0.round() as i32, at.1 + off.1.round() as i32);
            let next = (next.0.clamp(-reach, reach), next.1.clamp(-reach, reach));
            let span = |axis: &super::blocks::Axis, tiles: Range<usize>| {
                axis.tile(tiles.start).start..axis.tile(tiles.end - 1).end
            };
            let (rows, columns) = (span(&self.grid.rows, rows), span(&self.grid.columns, columns));
            let region = Region { rows, step: 1, columns, lag_y: lag.0 + next.0, lag_x: lag.1 + next.1 };
            self.measured[block] = Moments::default();
            bank.accumulate(path, plane, &region, bank.lines().whole, &mut self.measured[block]);
            self.lags[block] = next;
            any = true;
        }
        any
    }

    /// Refines the blocks of a frame whose content lies at `shift`, as the tracker says.
    pub(super) fn refine(&mut self, path: Path, bank: &Bank, plane: Plane, lag: (i32, i32), shift: (f64, f64)) {
        self.start(bank, lag);
        self.add_rows(path, bank, plane, lag, 0..self.geometry.height_px);
        self.gather();
        let rest = (shift.0 - f64::from(lag.0), shift.1 + bank.half_rest() - f64::from(lag.1));
        let limit = self.grid.limit_px();
        for round in 0..MEASUREMENTS {
            if round > 0 && !self.measure_again(path, bank, plane, lag, rest) {
                break;
            }
            for _ in 0..ROUNDS {
                for block in 0..self.blocks.len() {
                    self.said[block] = self.listen(block, rest);
                }
                self.shrinker.solve(&self.said, &mut self.field);
                self.field.iter_mut().flatten().for_each(|u| *u = u.clamp(-limit, limit));
            }
        }
        for ((dy, dx), u) in self.dy.iter_mut().zip(&mut self.dx).zip(&self.field) {
            let [y, x] = u.map(|px| (px * STEPS).round() / STEPS);
            (*dy, *dx) = (y as f32, x as f32);
        }
    }

    /// What a block says, linearised where the field has it.
    fn listen(&self, block: usize, rest: (f64, f64)) -> Said {
        let (table, measured, field) = (&self.blocks[block], &self.measured[block], self.field[block]);
        let at = self.lags[block];
        let d = [rest.0 + field[0] - f64::from(at.0), rest.1 + field[1] - f64::from(at.1)].map(|d| d.clamp(-2.0, 2.0));
        let m = [0, 1, 2].map(|i: usize| centred(measured.wx[i], measured.x, table.weights[i], table.count));
        let e = expect(&table.responses, d[0], d[1]);
        if !(m[0] > 0.0 && e[0].value > 0.0) {
            return Said::default();
        }
        let gain = m[0] / e[0].value;
        let variance = measured.variance();
        let noise = (variance - gain * gain * table.variance).max(NOISE_LEAST * variance) * (1.0 + self.noise_ratio);
        let g = &table.products;
        if m[0] * m[0] < SIGNIFICANT * SIGNIFICANT * noise * g[0][0] {
            return Said::default();
        }
        // residuals of the two ratios of moments, their slopes, and the covariance that noise gives them
        let r = [1, 2].map(|k: usize| m[k] * e[0].value - m[0] * e[k].value);
        let slopes = [1, 2].map(|k: usize| [m[k] * e[0].dy - m[0] * e[k].dy, m[k] * e[0].dx - m[0] * e[k].dx]);
        let e = e.map(|e| e.value);
        let covariance = |k: usize, l: usize| {
            noise * (e[0] * e[0] * g[k][l] - e[0] * e[k] * g[0][l] - e[0] * e[l] * g[0][k] + e[k] * e[l] * g[0][0])
        };
        let (a, b, c) = (covariance(1, 1), covariance(1, 2), covariance(2, 2));
        let determinant = a * c - b * b;
        let product = |u: [f64; 2], v: [f64; 2]| {
            (c * u[0] * v[0] - b * (u[0] * v[1] + u[1] * v[0]) + a * u[1] * v[1]) / determinant
        };
        let along = [0, 1].map(|axis: usize| [slopes[0][axis], slopes[1][axis]]);
        let information = [product(along[0], along[0]), product(along[0], along[1]), product(along[1], along[1])];
        let [yy, yx, xx] = information;
        let whole = yy * xx - yx * yx;
        if !(determinant > 0.0 && whole > 1e-6 * yy * xx && whole.is_finite()) {
            return Said::default();
        }
        let pull = [-product(along[0], r), -product(along[1], r)];
        let step = [(xx * pull[0] - yx * pull[1]) / whole, (yy * pull[1] - yx * pull[0]) / whole];
        let at = [field[0] + step[0].clamp(-1.0, 1.0), field[1] + step[1].clamp(-1.0, 1.0)];
        Said { at, information }
    }

    #[cfg(test)]
    pub(super) fn check_strips(&mut self, path: Path, bank: &Bank, plane: Plane, lag: (i32, i32), cuts: &[usize]) {
        let [whole, cut] = [&[cuts[0], cuts[cuts.len() - 1]], cuts].map(|cuts| {
            self.start(bank, lag);
            let strips = cuts.windows(2).map(|pair| pair[0]..pair[1]).rev();
            strips.for_each(|rows| self.add_rows(path, bank, plane, lag, rows));
            self.gather();
            self.measured.clone()
        });
        assert!(whole == cut && whole.iter().any(|moments| moments.xx > 0));
    }

    /// Bytes of the state.
    pub(super) fn saved_len(&self) -> usize {
        8 * self.dy.len()
    }

    /// Appends the state.
    pub(super) fn save(&self, out: &mut Vec<u8>) {
        for px in self.dy.iter().chain(&self.dx) {
            out.extend_from_slice(&px.to_le_bytes());
        }
    }

    /// What `save` wrote, if it can be of this configuration: the place of it in the reader's bytes.
    pub(super) fn check<'a>(&self, reader: &mut Reader<'a>) -> Result<&'a [u8], RegisterError> {
        let bytes = reader.take(self.saved_len())?;
        let limit = self.grid.limit_px() as f32;
        if shifts(bytes).any(|px| !(-limit..=limit).contains(&px)) {
            let (got, expected) = (bytes.len(), bytes.len());
            return Err(RegisterError::BadState { why: "its blocks lie further than they may", got, expected });
        }
        Ok(bytes)
    }

    /// Takes what `check` found good.
    pub(super) fn load(&mut self, bytes: &[u8]) {
        for (px, saved) in self.dy.iter_mut().chain(&mut self.dx).zip(shifts(bytes)) {
            *px = saved;
        }
    }
}

fn shifts(bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}
