//! Which pixels a shape covers: those whose centre lies inside.
//!
//! In: outlines or a test, in rows and columns where whole numbers are the pixels' centres; the frame's size. Out:
//! pixels with weight 1. Of a centre that lies exactly on an edge of an outline, top and left edges count as inside,
//! bottom and right ones do not, so that shapes side by side share no pixel.
//!
//! A shape is cut one pixel outside the frame: what sticks out still shows as being outside, and a shape of any size
//! costs no more than the frame. Shapes come from files, so a [`Budget`] bounds what those of one file cost together.

use crate::frame::Geometry;

/// Row, column, weight, before anything about them has been checked.
pub(super) type RawPixels = Vec<(i64, i64, f32)>;

/// Pixels that the ROIs of one file may cover together, those that are tried included: a small file must not ask for
/// all memory. Ten thousand cells of 300 pixels take three million.
const MOST_PIXELS: usize = 1 << 24;

/// What the shapes of one file may still cost.
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    pub fn new() -> Budget {
        Budget { left: MOST_PIXELS }
    }

    /// Takes `count` out of it.
    pub fn spend(&mut self, count: usize) -> Result<(), String> {
        let left = self.left.checked_sub(count);
        self.left = left.ok_or_else(|| {
            format!("with it the ROIs of the file cover too many pixels, expected at most {MOST_PIXELS} together")
        })?;
        Ok(())
    }
}

/// Whole numbers from `low` to `high`, cut one pixel outside the frame.
fn clipped(low: f64, high: f64, side_px: usize) -> std::ops::RangeInclusive<i64> {
    let side = side_px as f64;
    low.ceil().clamp(-1.0, side + 1.0) as i64..=high.floor().clamp(-2.0, side) as i64
}

/// The pixels inside closed outlines of `(row, column)` corners, by the even-odd rule: an outline within another one is
/// a hole.
pub(super) fn inside(outlines: &[&[(f64, f64)]], frame: Geometry, budget: &mut Budget) -> Result<RawPixels, String> {
    let mut crossings: Vec<(i64, f64)> = Vec::new();
    for corners in outlines {
        for (k, &(y1, x1)) in corners.iter().enumerate() {
            let (y0, x0) = corners[if k == 0 { corners.len() - 1 } else { k - 1 }];
            let (top, bottom) = (y0.min(y1), y0.max(y1));
            // a corner belongs to the edge below it, so that each row is crossed an even number of times
            let rows = clipped(top, bottom.ceil() - 1.0, frame.height_px);
            budget.spend(rows.clone().count())?;
            crossings.extend(rows.map(|row| (row, x0 + (row as f64 - y0) / (y1 - y0) * (x1 - x0))));
        }
    }
    crossings.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut pixels = Vec::new();
    for pair in crossings.chunks_exact(2) {
        let (row, right) = (pair[0].0, pair[1].1);
        // half-open on the right: the next shape begins where this one ends
        let cols = clipped(pair[0].1, right, frame.width_px).filter(|&col| (col as f64) < right);
        let before = pixels.len();
        pixels.extend(cols.map(|col| (row, col, 1.0)));
        budget.spend(pixels.len() - before)?;
    }
    Ok(or_outside(pixels, outlines.iter().copied().flatten(), frame))
}

/// The pixels between `top_left` and `bottom_right`, both included, whose centre passes the test.
pub(super) fn where_true(
    top_left: (f64, f64),
    bottom_right: (f64, f64),
    frame: Geometry,
    budget: &mut Budget,
    test: impl Fn(f64, f64) -> bool,
) -> Result<RawPixels, String> {
    let rows = clipped(top_left.0, bottom_right.0, frame.height_px);
    let cols = clipped(top_left.1, bottom_right.1, frame.width_px);
    budget.spend(rows.clone().count() * cols.clone().count())?;
    let places = rows.flat_map(|row| cols.clone().map(move |col| (row, col)));
    let within = places.filter(|&(row, col)| test(row as f64, col as f64));
    Ok(or_outside(within.map(|(row, col)| (row, col, 1.0)).collect(), [&top_left, &bottom_right], frame))
}

/// Of a shape that lies wholly outside the frame, one of its corners: it is not empty, it is outside.
fn or_outside<'a>(
    mut pixels: RawPixels,
    corners: impl IntoIterator<Item = &'a (f64, f64)>,
    frame: Geometry,
) -> RawPixels {
    let out = |at: f64, side: usize| !(-1.0..=side as f64).contains(&at);
    if pixels.is_empty() {
        let outside = corners.into_iter().find(|c| out(c.0, frame.height_px) || out(c.1, frame.width_px));
        pixels.extend(outside.map(|&(row, col)| (row.round() as i64, col.round() as i64, 1.0)));
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Geometry = Geometry::new(20, 30);

    #[test]
    fn an_outline_within_another_is_a_hole() {
        let square = |low: f64, high: f64| vec![(low, low), (low, high), (high, high), (high, low)];
        let (outer, hole) = (square(1.5, 6.5), square(2.5, 5.5));
        let pixels = inside(&[&outer, &hole], FRAME, &mut Budget::new()).unwrap();
        assert_eq!(pixels.len(), 25 - 9);
        assert!(!pixels.contains(&(4, 4, 1.0)));
    }

    #[test]
    fn two_halves_of_a_square_share_no_pixel_and_miss_none() {
        let budget = &mut Budget::new();
        let upper = inside(&[&[(2.0, 2.0), (2.0, 12.0), (12.0, 12.0)]], FRAME, budget).unwrap();
        let lower = inside(&[&[(2.0, 2.0), (12.0, 12.0), (12.0, 2.0)]], FRAME, budget).unwrap();
        let mut both: Vec<_> = upper.iter().chain(&lower).map(|p| (p.0, p.1)).collect();
        assert_eq!(both.len(), 100);
        both.sort_unstable();
        both.dedup();
        assert_eq!(both.len(), 100);
    }

    #[test]
    fn a_shape_wholly_outside_is_not_empty_but_outside() {
        let budget = &mut Budget::new();
        let far = inside(&[&[(2.0, 300.0), (2.0, 310.0), (9.0, 305.0)]], FRAME, budget).unwrap();
        assert_eq!(far, [(2, 300, 1.0)]);
        let far = where_true((40.0, 3.0), (45.0, 8.0), FRAME, budget, |_, _| true).unwrap();
        assert!(far.iter().all(|p| p.0 >= 20), "{far:?}");
        assert!(inside(&[&[(2.1, 3.1), (2.1, 3.2), (2.2, 3.1)]], FRAME, budget).unwrap().is_empty());
    }

    #[test]
    fn an_outline_that_zigzags_for_ever_is_refused_and_not_computed() {
        let frame = Geometry::new(8_000, 8_000);
        let zigzag: Vec<_> = (0..60_000).map(|k| (if k % 2 == 0 { -1e9 } else { 1e9 }, f64::from(k))).collect();
        assert!(inside(&[&zigzag], frame, &mut Budget::new()).unwrap_err().contains("too many pixels"));
        let all = |_, _| true;
        assert!(where_true((-1e9, -1e9), (1e9, 1e9), frame, &mut Budget::new(), all).is_err());
    }
}
