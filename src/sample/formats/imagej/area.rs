//! The pixels of an ImageJ region: those whose centre lies inside what was drawn.

use super::ImageJShape;
use crate::frame::Geometry;
use crate::sample::formats::raster::{Budget, RawPixels, inside, where_true};

/// Straight pieces that a curve is cut into.
const PIECES: u32 = 32;

/// The pixels that a shape covers; none where it has no area.
pub(super) fn pixels(shape: &ImageJShape, frame: Geometry, budget: &mut Budget) -> Result<RawPixels, String> {
    match shape {
        ImageJShape::Polygon(corners) => outlined(&[corners], frame, budget),
        ImageJShape::Composite(outlines) => {
            let outlines: Vec<&[[f64; 2]]> = outlines.iter().map(Vec::as_slice).collect();
            outlined(&outlines, frame, budget)
        }
        ImageJShape::Rectangle { rect, arc_px } => rectangle(*rect, *arc_px, frame, budget),
        ImageJShape::Oval { rect } => {
            let [left, top, width, height] = *rect;
            let ends = [[left, top + height / 2.0], [left + width, top + height / 2.0]];
            ellipse(ends, height / width, frame, budget)
        }
        ImageJShape::Ellipse { ends, aspect_ratio } => ellipse(*ends, *aspect_ratio, frame, budget),
        ImageJShape::RotatedRectangle { ends, across_px } => {
            let [[x0, y0], [x1, y1]] = *ends;
            let (dx, dy) = (x1 - x0, y1 - y0);
            let half = across_px / 2.0 / (dx * dx + dy * dy).sqrt();
            if !half.is_finite() {
                return Ok(Vec::new());
            }
            let (nx, ny) = (-dy * half, dx * half);
            let corners = [[x0 + nx, y0 + ny], [x1 + nx, y1 + ny], [x1 - nx, y1 - ny], [x0 - nx, y0 - ny]];
            outlined(&[&corners], frame, budget)
        }
        ImageJShape::Open { .. } | ImageJShape::Other { .. } => Ok(Vec::new()),
    }
}

/// Closed outlines of `[x, y]` from ImageJ's corner of the image.
fn outlined(outlines: &[&[[f64; 2]]], frame: Geometry, budget: &mut Budget) -> Result<RawPixels, String> {
    let centred = |outline: &&[[f64; 2]]| outline.iter().map(|&[x, y]| (y - 0.5, x - 0.5)).collect::<Vec<_>>();
    let outlines: Vec<_> = outlines.iter().map(centred).collect();
    let outlines: Vec<&[(f64, f64)]> = outlines.iter().map(Vec::as_slice).collect();
    inside(&outlines, frame, budget)
}

fn rectangle(rect: [f64; 4], arc_px: f64, frame: Geometry, budget: &mut Budget) -> Result<RawPixels, String> {
    let [left, top, width, height] = rect;
    if arc_px <= 0.0 {
        let (right, bottom) = (left + width, top + height);
        return outlined(&[&[[left, top], [right, top], [right, bottom], [left, bottom]]], frame, budget);
    }
    let (rx, ry) = ((arc_px / 2.0).min(width / 2.0), (arc_px / 2.0).min(height / 2.0));
    where_true((top - 0.5, left - 0.5), (top + height - 0.5, left + width - 0.5), frame, budget, |row, col| {
        // how far into the square of a rounded corner, in its radii
        let beyond = |at: f64, low: f64, high: f64, r: f64| ((low + r - at).max(at - high + r) / r).max(0.0);
        let (u, v) = (beyond(col + 0.5, left, left + width, rx), beyond(row + 0.5, top, top + height, ry));
        u * u + v * v <= 1.0
    })
}

fn ellipse(ends: [[f64; 2]; 2], aspect: f64, frame: Geometry, budget: &mut Budget) -> Result<RawPixels, String> {
    let [[x0, y0], [x1, y1]] = ends;
    let (dx, dy) = (x1 - x0, y1 - y0);
    let long = (dx * dx + dy * dy).sqrt();
    let (a, b) = (long / 2.0, long / 2.0 * aspect);
    if !(a > 0.0 && b > 0.0 && a.is_finite() && b.is_finite()) {
        return Ok(Vec::new());
    }
    let (ux, uy) = (dx / long, dy / long);
    let (cx, cy) = ((x0 + x1) / 2.0, (y0 + y1) / 2.0);
    let (reach_x, reach_y) =
        ((a * ux * a * ux + b * uy * b * uy).sqrt() + 0.5, (a * uy * a * uy + b * ux * b * ux).sqrt() + 0.5);
    let (top_left, bottom_right) = ((cy - reach_y - 0.5, cx - reach_x - 0.5), (cy + reach_y - 0.5, cx + reach_x - 0.5));
    where_true(top_left, bottom_right, frame, budget, |row, col| {
        let (px, py) = (col + 0.5 - cx, row + 0.5 - cy);
        let (u, v) = ((px * ux + py * uy) / a, (py * ux - px * uy) / b);
        u * u + v * v <= 1.0
    })
}

/// Goes on from the last point of an outline along a curve with handles (all but the last point), by straight pieces.
pub(super) fn curve(outline: &mut Vec<[f64; 2]>, points: &[[f64; 2]]) {
    let Some(&start) = outline.last() else { return };
    let mut all = vec![start];
    all.extend_from_slice(points);
    for piece in 1..=PIECES {
        let t = f64::from(piece) / f64::from(PIECES);
        let mut level = all.clone();
        while level.len() > 1 {
            let between = |pair: &[[f64; 2]]| {
                [pair[0][0] + t * (pair[1][0] - pair[0][0]), pair[0][1] + t * (pair[1][1] - pair[0][1])]
            };
            level = level.windows(2).map(between).collect();
        }
        outline.extend(level);
    }
}
