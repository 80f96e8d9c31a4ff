//! The mean image as a grey PNG, and the outlines of ROIs as SVG paths.
//!
//! The image is stretched between two of its percentiles and lifted by a gamma, since the mean of a two-photon movie
//! has a few bright cells and a dark ground. Outlines follow the edges between a ROI's pixels and the rest, joined
//! into closed loops, so what is drawn is what was summed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use base64::Engine;

use crate::frame::{Geometry, Image};

/// Percentiles that become black and white, and the exponent between them.
const BLACK: f64 = 0.01;
const WHITE: f64 = 0.997;
const GAMMA: f32 = 0.7;
/// A larger image is binned, so that the report stays small.
const LARGEST_SIDE_PX: usize = 1024;

/// The image as `data:image/png;base64,..`; `None` where its size and its values disagree or it holds nothing.
pub(super) fn data_uri(image: &Image) -> Option<String> {
    let (grey, height, width) = grey(image)?;
    let bytes = encoded(&grey, height, width, png::ColorType::Grayscale)?;
    Some(format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(bytes)))
}

/// Samples of 8 bits as a PNG; `None` where there are none, or more or fewer than the size says.
pub(super) fn encoded(samples: &[u8], height: usize, width: usize, color: png::ColorType) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().ok()?;
    writer.write_image_data(samples).ok()?;
    writer.finish().ok()?;
    Some(bytes)
}

/// Pixels of the frame, along each side, that become one of the picture.
pub(super) fn binning(geometry: Geometry) -> usize {
    geometry.height_px.max(geometry.width_px).div_ceil(LARGEST_SIDE_PX).max(1)
}

/// Stretched to bytes and binned where it is large: values, height, width.
pub(super) fn grey(image: &Image) -> Option<(Vec<u8>, usize, usize)> {
    let (height, width) = (image.geometry.height_px, image.geometry.width_px);
    if height == 0 || width == 0 || image.values.len() != height.checked_mul(width)? {
        return None;
    }
    let bin = binning(image.geometry);
    let (rows, columns) = (height.div_ceil(bin), width.div_ceil(bin));
    let mut binned = Vec::with_capacity(rows * columns);
    for r in 0..rows {
        for c in 0..columns {
            let (mut sum, mut n) = (0.0_f64, 0_u32);
            for y in r * bin..((r + 1) * bin).min(height) {
                for v in &image.values[y * width + c * bin..y * width + ((c + 1) * bin).min(width)] {
                    if v.is_finite() {
                        sum += f64::from(*v);
                        n += 1;
                    }
                }
            }
            binned.push(if n == 0 { f32::NAN } else { (sum / f64::from(n)) as f32 });
        }
    }
    let mut sorted: Vec<f32> = binned.iter().copied().filter(|v| v.is_finite()).collect();
    if sorted.is_empty() {
        return None;
    }
    sorted.sort_unstable_by(f32::total_cmp);
    let at = |q: f64| sorted[((sorted.len() - 1) as f64 * q).round() as usize];
    let (low, high) = (at(BLACK), at(WHITE));
    let scale = if high > low { 1.0 / (high - low) } else { 0.0 };
    let byte = |v: f32| {
        if v.is_finite() { (((v - low) * scale).clamp(0.0, 1.0).powf(GAMMA) * 255.0).round() as u8 } else { 0 }
    };
    Some((binned.into_iter().map(byte).collect(), rows, columns))
}

/// A corner of pixels: column, row.
type Corner = (i64, i64);

/// The closed loops around a set of pixels `[row, column]`, each a list of corners where the outline turns.
pub(super) fn loops(pixels: &[[u32; 2]]) -> Vec<Vec<Corner>> {
    let set: BTreeSet<Corner> = pixels.iter().map(|p| (i64::from(p[1]), i64::from(p[0]))).collect();
    let mut edges: BTreeMap<Corner, Vec<Corner>> = BTreeMap::new();
    for &(x, y) in &set {
        // Clockwise around each pixel, inside on the right.
        let sides = [
            ((x, y - 1), (x, y), (x + 1, y)),
            ((x + 1, y), (x + 1, y), (x + 1, y + 1)),
            ((x, y + 1), (x + 1, y + 1), (x, y + 1)),
            ((x - 1, y), (x, y + 1), (x, y)),
        ];
        for (neighbour, from, to) in sides {
            if !set.contains(&neighbour) {
                edges.entry(from).or_default().push(to);
            }
        }
    }
    let mut out = Vec::new();
    while let Some((&start, _)) = edges.iter().next() {
        out.push(walk(&mut edges, start));
    }
    out
}

/// Takes one loop out of the edges.
fn walk(edges: &mut BTreeMap<Corner, Vec<Corner>>, start: Corner) -> Vec<Corner> {
    let mut corners: Vec<Corner> = Vec::new();
    let (mut at, mut heading) = (start, (0, 0));
    while let Some(ends) = edges.get_mut(&at) {
        // Where two pixels touch by a corner only, turn right: each keeps its own loop.
        let right = (-heading.1, heading.0);
        let pick = ends.iter().position(|e| (e.0 - at.0, e.1 - at.1) == right).unwrap_or(0);
        let to = ends.swap_remove(pick);
        if ends.is_empty() {
            edges.remove(&at);
        }
        let step = (to.0 - at.0, to.1 - at.1);
        if step != heading {
            corners.push(at);
            heading = step;
        }
        at = to;
        if at == start {
            break;
        }
    }
    // The start was pushed as a corner, but may lie within a straight side.
    if let [first, second, .., last] = corners[..] {
        let straight = (first.0 == second.0 && first.0 == last.0) || (first.1 == second.1 && first.1 == last.1);
        if straight {
            corners.remove(0);
        }
    }
    corners
}

/// Loops as the data of an SVG path, in units of pixels.
pub(super) fn path_of_pixels(pixels: &[[u32; 2]]) -> String {
    let mut d = String::new();
    for corners in loops(pixels) {
        let mut previous: Option<Corner> = None;
        for corner in corners {
            let _ = match previous {
                None => write!(d, "M{} {}", corner.0, corner.1),
                Some(p) if p.1 == corner.1 => write!(d, "h{}", corner.0 - p.0),
                Some(p) => write!(d, "v{}", corner.1 - p.1),
            };
            previous = Some(corner);
        }
        d.push('z');
    }
    d
}

/// A polygon `[row, column]` as the data of an SVG path; points that are not finite are left out.
pub(super) fn path_of_outline(outline: &[[f32; 2]]) -> String {
    let mut d = String::new();
    for p in outline.iter().filter(|p| p[0].is_finite() && p[1].is_finite()) {
        let _ = write!(d, "{}{:.1} {:.1}", if d.is_empty() { 'M' } else { 'L' }, p[1], p[0]);
    }
    if !d.is_empty() {
        d.push('z');
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_pixel_is_a_square() {
        assert_eq!(path_of_pixels(&[[3, 5]]), "M5 3h1v1h-1z");
    }

    #[test]
    fn a_rectangle_keeps_only_its_corners() {
        let pixels: Vec<[u32; 2]> = (0..3).flat_map(|r| (0..4).map(move |c| [r, c])).collect();
        assert_eq!(path_of_pixels(&pixels), "M0 0h4v3h-4z");
    }

    #[test]
    fn a_hole_is_a_loop_of_its_own() {
        let ring: Vec<[u32; 2]> = (0..9).filter(|i| *i != 4).map(|i| [i / 3, i % 3]).collect();
        let loops = loops(&ring);
        assert_eq!(loops.len(), 2);
        assert!(loops.iter().all(|l| l.len() == 4), "{loops:?}");
    }

    #[test]
    fn pixels_that_touch_by_a_corner_have_two_loops() {
        assert_eq!(loops(&[[0, 0], [1, 1]]).len(), 2);
    }

    #[test]
    fn pixels_at_the_end_of_the_range_do_not_overflow() {
        assert_eq!(loops(&[[u32::MAX, u32::MAX]]).len(), 1);
    }

    #[test]
    fn the_stretch_is_not_moved_by_an_outlier_or_a_nan() {
        let mut image = Image::zeros(Geometry::new(40, 50));
        for (i, v) in image.values.iter_mut().enumerate() {
            *v = (i % 100) as f32;
        }
        image.values[7] = 1.0e9;
        image.values[8] = f32::NAN;
        let (grey, height, width) = grey(&image).unwrap();
        assert_eq!((height, width, grey[7], grey[8]), (40, 50, 255, 0));
        assert!((100..200).contains(&grey[50]), "{}", grey[50]);
    }

    #[test]
    fn an_image_without_values_has_no_picture() {
        assert!(data_uri(&Image::zeros(Geometry::new(0, 0))).is_none());
        assert!(data_uri(&Image { geometry: Geometry::new(4, 4), values: vec![0.0; 3] }).is_none());
        let mut image = Image::zeros(Geometry::new(2, 2));
        assert!(data_uri(&image).is_some(), "a flat image is black");
        image.values.fill(f32::INFINITY);
        assert!(data_uri(&image).is_none());
    }

    #[test]
    fn a_large_image_is_binned() {
        let (_, height, width) = grey(&Image::zeros(Geometry::new(2050, 3))).unwrap();
        assert_eq!((height, width), (684, 1));
    }

    proptest! {
        /// The area inside the loops (the shoelace sum, holes negative) is the number of pixels.
        #[test]
        fn loops_enclose_exactly_the_pixels(cells in proptest::collection::btree_set((0_u32..9, 0_u32..9), 0..60)) {
            let pixels: Vec<[u32; 2]> = cells.iter().map(|&(r, c)| [r, c]).collect();
            let mut twice = 0;
            for corners in loops(&pixels) {
                for (i, a) in corners.iter().enumerate() {
                    let b = corners[(i + 1) % corners.len()];
                    prop_assert!((a.0 == b.0) != (a.1 == b.1), "a side is straight");
                    twice += a.0 * b.1 - b.0 * a.1;
                }
            }
            prop_assert_eq!(twice, 2 * pixels.len() as i64);
        }
    }
}
