//! Neuropil annuli: which pixels around a cell tell what the tissue between the cells does.
//!
//! In: the pixels of one ROI, and a map of the pixels that belong to any cell of its plane. Out: pixels of its annulus.
//!
//! suite2p's definition (keys `inner_neuropil_radius`, `min_neuropil_pixels`, `lam_percentile`), pixel for pixel: the
//! ROI is widened by `inner_px` steps, in each of which every pixel takes its four neighbours; what is covered then
//! belongs to nobody, for the cell's light bleeds into it. The bounding box of that is grown by 5 pixels on each side,
//! at least once and at most a hundred times, until it holds more than `min_pixels` pixels that are neither there nor
//! in any cell; these are the annulus. It stops at the frame's border.
//!
//! A pixel is in a cell if the largest of the weights that ROIs have there is at least a percentile of these in the
//! square around it, five times the median radius wide, zeros included: where cells are crowded, their faint rims count
//! as neuropil. Squares reach over the frame's edge as into a mirror. Cost: at construction only.

use crate::frame::Geometry;
use crate::sample::rois::{Roi, RoiPixel};

/// How far the box grows a step, on each side.
const GROWTH_PX: usize = 5;
/// How often it does at most.
const GROWTHS_MAX: usize = 100;
/// Side of the square in which weights are compared, in median radii.
const SQUARE_RADII: f64 = 5.0;

/// For each pixel of a plane, whether it belongs to a cell.
pub(crate) fn cell_map<'a>(
    geometry: Geometry,
    rois: impl Iterator<Item = &'a Roi>,
    weight_percentile: f64,
) -> Vec<bool> {
    let mut weights = vec![0.0_f32; geometry.count()];
    let mut radii_px = Vec::new();
    for roi in rois {
        radii_px.push(roi.radius_px());
        for p in &roi.pixels {
            let weight = &mut weights[p.row as usize * geometry.width_px + p.col as usize];
            *weight = weight.max(p.weight);
        }
    }
    let window = Window::new(SQUARE_RADII * median(&mut radii_px), weight_percentile);
    let mirrored = mirrored(&weights, geometry, window.side_px);
    let width = geometry.width_px + window.side_px;
    let belongs = |(at, &weight): (usize, &f32)| {
        weight > 0.0 && window.reaches_rank(&mirrored, width, at / geometry.width_px, at % geometry.width_px, weight)
    };
    weights.iter().enumerate().map(belongs).collect()
}

/// The square around a pixel, and which of its values in rising order is the percentile.
struct Window {
    side_px: usize,
    rank: usize,
}

impl Window {
    fn new(side_px: f64, percentile: f64) -> Self {
        let side_px = (side_px as usize).max(1);
        let count = side_px * side_px;
        Self { side_px, rank: ((count as f64 * percentile / 100.0) as usize).min(count - 1) }
    }

    /// Whether a weight is at least the value at the rank; `row` and `col` are the top left corner in the mirrored map.
    fn reaches_rank(&self, mirrored: &[f32], width: usize, row: usize, col: usize, weight: f32) -> bool {
        let mut at_most = 0_usize;
        for line in mirrored.chunks_exact(width).skip(row).take(self.side_px) {
            at_most += line[col..col + self.side_px].iter().map(|&other| usize::from(other <= weight)).sum::<usize>();
        }
        at_most > self.rank
    }
}

/// The weights with half a square more on each side, as in a mirror that repeats the edge.
fn mirrored(weights: &[f32], geometry: Geometry, side_px: usize) -> Vec<f32> {
    let Geometry { height_px, width_px } = geometry;
    let before = (side_px / 2) as isize;
    let inside = |at: isize, length: usize| {
        let folded = at.rem_euclid(2 * length as isize) as usize;
        folded.min(2 * length - 1 - folded)
    };
    let columns: Vec<usize> = (0..(width_px + side_px) as isize).map(|col| inside(col - before, width_px)).collect();
    let rows = (0..(height_px + side_px) as isize).map(|row| inside(row - before, height_px));
    rows.flat_map(|row| columns.iter().map(move |col| weights[row * width_px + col])).collect()
}

/// Of an even number the mean of the two in the middle; 0 of none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// A rectangle of rows and columns, both ends included.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Area {
    top: usize,
    bottom: usize,
    left: usize,
    right: usize,
}

impl Area {
    fn of(pixels: &[RoiPixel]) -> Area {
        let mut area = Area { top: usize::MAX, bottom: 0, left: usize::MAX, right: 0 };
        for p in pixels {
            area.top = area.top.min(p.row as usize);
            area.bottom = area.bottom.max(p.row as usize);
            area.left = area.left.min(p.col as usize);
            area.right = area.right.max(p.col as usize);
        }
        area
    }

    fn grown(self, by_px: usize, geometry: Geometry) -> Area {
        Area {
            top: self.top.saturating_sub(by_px),
            bottom: (self.bottom + by_px).min(geometry.height_px - 1),
            left: self.left.saturating_sub(by_px),
            right: (self.right + by_px).min(geometry.width_px - 1),
        }
    }
}

/// The annulus of one ROI, sorted by row and column; `min_pixels` or fewer only when the whole frame has no more.
/// `pixels` must not be empty.
pub(crate) fn annulus(
    geometry: Geometry,
    cells: &[bool],
    pixels: &[RoiPixel],
    inner_px: usize,
    min_pixels: usize,
) -> Vec<(u32, u32)> {
    let core_area = Area::of(pixels).grown(inner_px, geometry);
    let core = widened(pixels, core_area, inner_px);
    let core_width = core_area.right - core_area.left + 1;
    let in_core = |row: usize, col: usize| {
        let inside =
            (core_area.top..=core_area.bottom).contains(&row) && (core_area.left..=core_area.right).contains(&col);
        inside && core[(row - core_area.top) * core_width + col - core_area.left]
    };
    let mut found = Vec::new();
    let mut area = core_area;
    for _ in 0..GROWTHS_MAX {
        area = area.grown(GROWTH_PX, geometry);
        found.clear();
        for row in area.top..=area.bottom {
            for col in area.left..=area.right {
                if !cells[row * geometry.width_px + col] && !in_core(row, col) {
                    found.push((row as u32, col as u32));
                }
            }
        }
        if found.len() > min_pixels || area.grown(GROWTH_PX, geometry) == area {
            break;
        }
    }
    found
}

/// The ROI's own pixels and those within `steps` steps to a neighbour, as a map over `area`.
fn widened(pixels: &[RoiPixel], area: Area, steps: usize) -> Vec<bool> {
    let (height, width) = (area.bottom - area.top + 1, area.right - area.left + 1);
    let mut map = vec![false; height * width];
    for p in pixels {
        map[(p.row as usize - area.top) * width + p.col as usize - area.left] = true;
    }
    for _ in 0..steps {
        let before = map.clone();
        for row in 0..height {
            for col in 0..width {
                let at = row * width + col;
                map[at] = before[at]
                    || (row > 0 && before[at - width])
                    || (row + 1 < height && before[at + width])
                    || (col > 0 && before[at - 1])
                    || (col + 1 < width && before[at + 1]);
            }
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roi(id: u32, pixels: &[(u32, u32)]) -> Roi {
        let pixels = pixels.iter().map(|&(row, col)| RoiPixel { row, col, weight: 1.0 }).collect();
        Roi { id, name: String::new(), plane: 0, pixels, radius_told_px: None }
    }

    #[test]
    fn an_annulus_leaves_out_the_cell_and_the_border_around_it() {
        let geometry = Geometry::new(40, 40);
        let cell = roi(0, &[(20, 20)]);
        let cells = cell_map(geometry, [&cell].into_iter(), 50.0);
        let found = annulus(geometry, &cells, &cell.pixels, 2, 100);
        // two steps from one pixel make a diamond of 13; the box grows from 5 x 5 once, to 15 x 15
        assert_eq!(found.len(), 15 * 15 - 13);
        assert!(found.iter().all(|&(row, col)| row.abs_diff(20) + col.abs_diff(20) > 2));
    }

    #[test]
    fn an_annulus_leaves_out_all_other_cells() {
        let geometry = Geometry::new(40, 40);
        let (cell, other) = (roi(0, &[(20, 20)]), roi(1, &[(20, 25), (21, 25)]));
        let cells = cell_map(geometry, [&cell, &other].into_iter(), 50.0);
        let found = annulus(geometry, &cells, &cell.pixels, 2, 100);
        assert_eq!(found.len(), 15 * 15 - 13 - 2);
        assert!(!found.contains(&(20, 25)));
    }

    #[test]
    fn an_annulus_ends_at_the_border_of_the_frame_and_may_stay_small() {
        let geometry = Geometry::new(6, 7);
        let cell = roi(0, &[(0, 0)]);
        let cells = cell_map(geometry, [&cell].into_iter(), 50.0);
        assert_eq!(annulus(geometry, &cells, &cell.pixels, 1, 1000).len(), 6 * 7 - 3);
    }
}
