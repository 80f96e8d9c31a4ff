//! Where the blocks of a frame lie, and what their shifts say of any place between them.
//!
//! In: the configuration and the frames' size; later, the shifts of the blocks. Out: the shift at a place, in pixels.
//!
//! Blocks lie `size / blocks` apart along each axis and are half as long again, so that neighbours share a third of
//! their pixels. They are made of tiles: the strip that a block shares with the one before it, its own, and the strip
//! that it shares with the next. A block is 3 x 3 tiles, and its sums are the sums of its tiles: each pixel is read
//! once for all the blocks that it belongs to. The outermost tiles end [`MARGIN`] pixels from the frame's edge.
//!
//! Between the centres of four blocks the shift is bilinear; outside the outermost centres it goes on as it went.

use std::ops::Range;

use crate::config::register::RegisterConfig;
use crate::frame::Geometry;

/// Pixels at the frame's edge that belong to no block, so that moderate shifts leave every block within the frame.
const MARGIN: usize = 8;
/// Blocks that there may be.
pub const BLOCKS_MAX: usize = 256;
/// Least distance of two blocks, in pixels.
pub(super) const DISTANCE_MIN_PX: usize = 24;
/// Share of its pixels along one axis that a block has in common with its neighbour.
pub(super) const SHARED: f64 = 1.0 / 3.0;
/// How much of a block's pixels are its own, in the sense that all blocks' shares make up the frame.
pub(super) const OWN: f64 = 4.0 / 9.0;

/// The blocks along one axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    /// Where tiles begin, and where the last one ends.
    edges: Vec<usize>,
    /// Middle of each block, in pixels.
    centres: Vec<f64>,
}

impl Axis {
    fn new(blocks: usize, size: usize) -> Self {
        let edge = |k: usize| {
            // a quarter of a block's distance before and behind its begin
            let quarters = (4 * (k / 2) + 2 * (k % 2)) * size;
            let at = quarters.saturating_sub(size) / (4 * blocks);
            at.clamp(MARGIN, size - MARGIN)
        };
        let edges: Vec<usize> = (0..2 * blocks + 2).map(edge).collect();
        let centre = |b: usize| 0.5 * (edges[2 * b] + edges[2 * b + 3]) as f64 - 0.5;
        Self { centres: (0..blocks).map(centre).collect(), edges }
    }

    /// Blocks.
    pub fn blocks(&self) -> usize {
        self.centres.len()
    }

    /// Tiles.
    pub fn tiles(&self) -> usize {
        self.edges.len() - 1
    }

    /// Pixels of a tile.
    pub fn tile(&self, k: usize) -> Range<usize> {
        self.edges[k]..self.edges[k + 1]
    }

    /// The tiles that stay within `size` pixels when moved by any of `low..=high` pixels.
    pub fn inside(&self, low: i32, high: i32, size: usize) -> Range<usize> {
        let fits = |k: &usize| {
            let tile = self.tile(*k);
            tile.start as i64 + i64::from(low) >= 0 && tile.end as i64 + i64::from(high) <= size as i64
        };
        let first = (0..self.tiles()).find(fits);
        let last = (0..self.tiles()).rev().find(fits);
        first.zip(last).map_or(0..0, |(first, last)| first..last + 1)
    }

    /// The block before a place, the one behind it, and how far the place lies on the way.
    fn between(&self, px: f64) -> (usize, usize, f64) {
        let Some(last) = self.blocks().checked_sub(2) else { return (0, 0, 0.0) };
        let mut before = 0;
        while before < last && px >= self.centres[before + 1] {
            before += 1;
        }
        let (a, b) = (self.centres[before], self.centres[before + 1]);
        (before, before + 1, (px - a) / (b - a))
    }
}

/// The blocks of frames of one size.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockGrid {
    pub(super) rows: Axis,
    pub(super) columns: Axis,
    limit_px: f64,
}

impl BlockGrid {
    /// The blocks that a configuration asks for; `None` where it asks for none, or where they would lie closer than
    /// 24 pixels: see [`BlockGrid::too_close`].
    pub fn new(config: &RegisterConfig, geometry: Geometry) -> Option<Self> {
        if !config.enabled || !config.piecewise || Self::too_close(config, geometry).is_some() {
            return None;
        }
        let limit_px = Self::largest_shift_px(config);
        let (y, x) = (config.blocks_y.max(1) as usize, config.blocks_x.max(1) as usize);
        Some(Self { rows: Axis::new(y, geometry.height_px), columns: Axis::new(x, geometry.width_px), limit_px })
    }

    /// Largest shift of a block beyond the frame's that a configuration asks for, along each axis, in pixels.
    pub fn largest_shift_px(config: &RegisterConfig) -> f64 {
        let px = config.max_block_shift_px;
        if px.is_finite() { px.clamp(0.5, 8.0) } else { 4.0 }
    }

    /// What is wrong with the blocks for frames of this size, in a sentence.
    pub fn too_close(config: &RegisterConfig, geometry: Geometry) -> Option<String> {
        if !config.enabled || !config.piecewise {
            return None;
        }
        let axes =
            [("blocks_y", config.blocks_y, geometry.height_px), ("blocks_x", config.blocks_x, geometry.width_px)];
        let (key, blocks, size) =
            axes.into_iter().find(|&(_, blocks, size)| blocks.max(1) as usize * DISTANCE_MIN_PX > size)?;
        let most = size / DISTANCE_MIN_PX;
        Some(format!(
            "register.{key}: {blocks} blocks in {size} pixels, expected at most {most} ({DISTANCE_MIN_PX} pixels each)"
        ))
    }

    /// Blocks from top to bottom, and from left to right.
    pub fn size(&self) -> (usize, usize) {
        (self.rows.blocks(), self.columns.blocks())
    }

    /// Blocks.
    pub fn count(&self) -> usize {
        self.rows.blocks() * self.columns.blocks()
    }

    /// Middle of each block on the template, row and column in pixels, row after row of blocks.
    pub fn centres_px(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.rows.centres.iter().flat_map(|&row| self.columns.centres.iter().map(move |&column| (row, column)))
    }

    /// Largest shift of a block beyond the frame's, along each axis, in pixels.
    pub fn limit_px(&self) -> f64 {
        self.limit_px
    }

    /// Whole pixels beyond the frame's in which a block may be measured.
    pub(super) fn reach_px(&self) -> i32 {
        self.limit_px.ceil() as i32 + 1
    }

    /// Whether these are shifts of these blocks.
    pub fn fits(&self, dy_px: &[f32], dx_px: &[f32]) -> bool {
        dy_px.len() == self.count() && dx_px.len() == self.count()
    }

    /// What the blocks' shifts beyond the frame's, `dy_px` and `dx_px` row after row of blocks, say of a place on the
    /// template, in pixels. Lists of another length say nothing: (0, 0).
    pub fn at(&self, dy_px: &[f32], dx_px: &[f32], row_px: f64, column_px: f64) -> (f64, f64) {
        if !self.fits(dy_px, dx_px) {
            return (0.0, 0.0);
        }
        let ((up, down, y), (left, right, x)) = (self.rows.between(row_px), self.columns.between(column_px));
        let across = self.columns.blocks();
        let of = |shifts: &[f32]| {
            let at = |row: usize, column: usize| f64::from(shifts[row * across + column]);
            let above = at(up, left) + x * (at(up, right) - at(up, left));
            let below = at(down, left) + x * (at(down, right) - at(down, left));
            (above + y * (below - above)).clamp(-self.limit_px, self.limit_px)
        };
        (of(dy_px), of(dx_px))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(y: u32, x: u32, height: usize, width: usize) -> Option<BlockGrid> {
        let config = RegisterConfig { piecewise: true, blocks_y: y, blocks_x: x, ..RegisterConfig::default() };
        BlockGrid::new(&config, Geometry::new(height, width))
    }

    #[test]
    fn tiles_cover_the_frame_but_its_margin_once_and_blocks_overlap_by_a_third() {
        for (blocks, size) in [(8, 512), (8, 796), (1, 40), (3, 73), (5, 333), (16, 384)] {
            let axis = Axis::new(blocks, size);
            assert_eq!((axis.tile(0).start, axis.tile(axis.tiles() - 1).end), (8, size - 8), "{blocks} in {size}");
            for k in 0..axis.tiles() {
                assert!(axis.tile(k).start <= axis.tile(k).end, "{blocks} in {size}: tile {k}");
            }
            let middles = &axis.centres;
            assert!(middles.windows(2).all(|c| c[1] - c[0] > 15.0), "{blocks} in {size}: {middles:?}");
        }
        let axis = Axis::new(8, 512);
        assert_eq!((axis.tile(2), axis.tile(3), axis.tile(4)), (48..80, 80..112, 112..144));
        assert_eq!((axis.centres[0], axis.centres[1]), (43.5, 95.5));
    }

    #[test]
    fn a_tile_that_a_shift_moves_out_of_the_frame_is_left_out() {
        let axis = Axis::new(8, 512);
        assert_eq!(axis.inside(-8, 8, 512), 0..17);
        assert_eq!(axis.inside(-9, 8, 512), 1..17);
        assert_eq!(axis.inside(-8, 9, 512), 0..16);
        assert_eq!(axis.inside(-17, 17, 512), 2..15);
        assert_eq!(axis.inside(-600, 0, 512), 0..0);
    }

    #[test]
    fn a_linear_field_is_given_back_everywhere_up_to_the_largest_shift() {
        for (y, x) in [(8, 8), (3, 5), (1, 6), (4, 1)] {
            let grid = grid(y, x, 320, 400).expect("far enough apart");
            let slope = |blocks: u32| if blocks > 1 { 0.004 } else { 0.0 };
            let field = |row: f64, column: f64| {
                let (r, c) = (slope(y) * (row - 160.0), slope(x) * (column - 200.0));
                (r - 0.5 * c, 0.3 + 0.5 * r + c)
            };
            let (dy, dx): (Vec<f32>, Vec<f32>) =
                grid.centres_px().map(|(r, c)| field(r, c)).map(|(y, x)| (y as f32, x as f32)).unzip();
            for (row, column) in [(0.0, 0.0), (319.0, 399.0), (100.3, 201.7), (60.0, 340.0)] {
                let (expected, found) = (field(row, column), grid.at(&dy, &dx, row, column));
                assert!((found.0 - expected.0).abs() < 1e-5 && (found.1 - expected.1).abs() < 1e-5);
            }
            assert_eq!(
                grid.at(&dy, &dx, 1e6, 0.0).0.abs(),
                if y > 1 { 4.0 } else { grid.at(&dy, &dx, 0.0, 0.0).0.abs() }
            );
            assert_eq!(grid.at(&dy[1..], &dx, 5.0, 5.0), (0.0, 0.0));
        }
    }

    #[test]
    fn blocks_closer_than_24_pixels_are_refused_with_the_number_that_fits() {
        assert!(grid(8, 8, 192, 192).is_some());
        assert_eq!(grid(8, 8, 96, 192), None);
        let config = RegisterConfig { piecewise: true, ..RegisterConfig::default() };
        let said = BlockGrid::too_close(&config, Geometry::new(96, 200)).expect("too close");
        assert_eq!(said, "register.blocks_y: 8 blocks in 96 pixels, expected at most 4 (24 pixels each)");
        assert_eq!(grid(1, 1, 24, 24).map(|grid| grid.count()), Some(1));
    }
}
