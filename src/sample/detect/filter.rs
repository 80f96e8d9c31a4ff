//! Filters of images for the detector: every sum has a written order, so the same frames give the same bits.
//!
//! In and out: row-major images of one geometry. What lies outside repeats the nearest pixel of the edge.

use crate::frame::Geometry;

/// A Gaussian of standard deviation `sigma_px`, cut at three of them: the middle and one side, sum over both sides 1.
fn kernel(sigma_px: f64) -> Vec<f32> {
    let radius = (3.0 * sigma_px).ceil().max(1.0) as usize;
    let at = |k: usize| libm::exp(-0.5 * (k as f64 / sigma_px) * (k as f64 / sigma_px));
    let total = at(0) + 2.0 * (1..=radius).map(at).sum::<f64>();
    (0..=radius).map(|k| (at(k) / total) as f32).collect()
}

/// Smooths images of one size; keeps what it needs from one to the next.
pub(super) struct Gaussian {
    geometry: Geometry,
    kernel: Vec<f32>,
    padded: Vec<f32>,
    lines: Vec<f32>,
}

impl Gaussian {
    pub(super) fn new(geometry: Geometry, sigma_px: f64) -> Self {
        let kernel = kernel(sigma_px);
        let padded = vec![0.0; geometry.width_px + 2 * (kernel.len() - 1)];
        Self { geometry, kernel, padded, lines: vec![0.0; geometry.count()] }
    }

    /// Writes the smoothed image.
    pub(super) fn smooth(&mut self, image: &[f32], out: &mut [f32]) {
        let Geometry { height_px, width_px } = self.geometry;
        let radius = self.kernel.len() - 1;
        for (line, to) in image.chunks_exact(width_px).zip(self.lines.chunks_exact_mut(width_px)) {
            self.padded[..radius].fill(line[0]);
            self.padded[radius..radius + width_px].copy_from_slice(line);
            self.padded[radius + width_px..].fill(line[width_px - 1]);
            for (k, &weight) in self.kernel.iter().enumerate() {
                let (left, right) = (&self.padded[radius - k..], &self.padded[radius + k..]);
                add_both(to, left, right, weight, k == 0);
            }
        }
        for (row, to) in out.chunks_exact_mut(width_px).enumerate() {
            for (k, &weight) in self.kernel.iter().enumerate() {
                let (above, below) = (row.saturating_sub(k), (row + k).min(height_px - 1));
                let (above, below) = (&self.lines[above * width_px..], &self.lines[below * width_px..]);
                add_both(to, above, below, weight, k == 0);
            }
        }
    }

    /// The smoothed image.
    pub(super) fn of(&mut self, image: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; image.len()];
        self.smooth(image, &mut out);
        out
    }
}

/// Adds the weighted sum of two lines, or starts with the one of them.
fn add_both(to: &mut [f32], a: &[f32], b: &[f32], weight: f32, first: bool) {
    if first {
        to.iter_mut().zip(a).for_each(|(to, &a)| *to = weight * a);
    } else {
        to.iter_mut().zip(a).zip(b).for_each(|((to, &a), &b)| *to += weight * (a + b));
    }
}

/// The value with a fraction of the others below it, 0 to 1; the order of `values` is lost. 0 where there is none.
pub(super) fn quantile(values: &mut [f32], fraction: f64) -> f32 {
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let at = (fraction * last as f64).round() as usize;
    *values.select_nth_unstable_by(at.min(last), f32::total_cmp).1
}

/// Median and robust standard deviation (of a Gaussian with the same median absolute deviation).
pub(super) fn robust(values: &mut [f32]) -> (f32, f32) {
    let median = quantile(values, 0.5);
    values.iter_mut().for_each(|v| *v = (*v - median).abs());
    (median, 1.4826 * quantile(values, 0.5))
}

/// A low quantile of each pixel's surroundings (`side_px` wide), taken on a grid and interpolated: the background.
pub(super) fn background(image: &[f32], geometry: Geometry, side_px: usize, fraction: f64) -> Vec<f32> {
    let Geometry { height_px, width_px } = geometry;
    let step = (side_px / 6).max(2);
    let half = side_px / 2;
    let (rows, cols) = ((height_px - 1) / step + 2, (width_px - 1) / step + 2);
    let mut grid = Vec::with_capacity(rows * cols);
    let mut window = Vec::new();
    for (r, c) in (0..rows).flat_map(|r| (0..cols).map(move |c| (r * step, c * step))) {
        let (r, c) = (r.min(height_px - 1), c.min(width_px - 1));
        window.clear();
        for row in r.saturating_sub(half)..(r + half + 1).min(height_px) {
            let line = &image[row * width_px..(row + 1) * width_px];
            window.extend_from_slice(&line[c.saturating_sub(half)..(c + half + 1).min(width_px)]);
        }
        grid.push(quantile(&mut window, fraction));
    }
    let at = |r: usize, c: usize| grid[r * cols + c];
    let share = |px: usize| (px % step) as f32 / step as f32;
    let mut out = Vec::with_capacity(image.len());
    for (row, col) in (0..height_px).flat_map(|r| (0..width_px).map(move |c| (r, c))) {
        let (r, c, down, right) = (row / step, col / step, share(row), share(col));
        let upper = at(r, c) * (1.0 - right) + at(r, c + 1) * right;
        let lower = at(r + 1, c) * (1.0 - right) + at(r + 1, c + 1) * right;
        out.push(upper * (1.0 - down) + lower * down);
    }
    out
}

/// Pixels that are the largest within `radius_px` rows and columns (of equal ones the first) and above `least`, at
/// least `margin_px` from the edge; the largest first.
pub(super) fn peaks(map: &[f32], geometry: Geometry, radius_px: usize, margin_px: usize, least: f32) -> Vec<usize> {
    let Geometry { height_px, width_px } = geometry;
    let mut found = Vec::new();
    for row in margin_px..height_px.saturating_sub(margin_px) {
        for col in margin_px..width_px.saturating_sub(margin_px) {
            let at = row * width_px + col;
            if map[at] > least && is_largest(map, geometry, (row, col), radius_px) {
                found.push(at);
            }
        }
    }
    found.sort_by(|&a, &b| map[b].total_cmp(&map[a]).then(a.cmp(&b)));
    found
}

fn is_largest(map: &[f32], geometry: Geometry, (row, col): (usize, usize), radius: usize) -> bool {
    let Geometry { height_px, width_px } = geometry;
    let own = row * width_px + col;
    (row.saturating_sub(radius)..(row + radius + 1).min(height_px)).all(|r| {
        let (first, end) = (col.saturating_sub(radius), (col + radius + 1).min(width_px));
        (first..end).all(|c| {
            let at = r * width_px + c;
            map[at] < map[own] || at >= own && map[at] <= map[own]
        })
    })
}

/// A square of pixels around one, cut at the frame's edge, and the part of it that hangs together with the middle.
pub(super) struct Patch {
    /// First row and column in the frame.
    pub origin: (usize, usize),
    /// Rows and columns.
    pub size: (usize, usize),
    /// Place of the middle in the patch.
    pub middle: usize,
}

impl Patch {
    pub(super) fn around(at: usize, radius_px: usize, geometry: Geometry) -> Self {
        let (row, col) = (at / geometry.width_px, at % geometry.width_px);
        let origin = (row.saturating_sub(radius_px), col.saturating_sub(radius_px));
        let end = ((row + radius_px + 1).min(geometry.height_px), (col + radius_px + 1).min(geometry.width_px));
        let size = (end.0 - origin.0, end.1 - origin.1);
        Self { origin, size, middle: (row - origin.0) * size.1 + col - origin.1 }
    }

    /// Places in the frame, row after row.
    pub(super) fn places(&self, width_px: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.size.0)
            .flat_map(move |r| (0..self.size.1).map(move |c| (self.origin.0 + r) * width_px + self.origin.1 + c))
    }

    /// Places in the patch above `least` that hang together with the middle over their sides, in their order.
    pub(super) fn connected(&self, values: &[f32], least: f32) -> Vec<usize> {
        let (rows, cols) = self.size;
        let mut seen = vec![false; values.len()];
        let mut open = vec![self.middle];
        seen[self.middle] = true;
        while let Some(at) = open.pop() {
            let (r, c) = (at / cols, at % cols);
            let sides = [
                (r > 0).then(|| at - cols),
                (r + 1 < rows).then(|| at + cols),
                (c > 0).then(|| at - 1),
                (c + 1 < cols).then(|| at + 1),
            ];
            for next in sides.into_iter().flatten() {
                if !seen[next] && values[next] > least {
                    seen[next] = true;
                    open.push(next);
                }
            }
        }
        (0..values.len()).filter(|&at| seen[at]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_the_sum_and_a_constant() {
        let geometry = Geometry::new(21, 30);
        let mut image = vec![0.0; geometry.count()];
        image[10 * 30 + 15] = 5.0;
        let mut gaussian = Gaussian::new(geometry, 1.5);
        let out = gaussian.of(&image);
        assert!((out.iter().sum::<f32>() - 5.0).abs() < 1e-4);
        assert!((out[10 * 30 + 12] - out[7 * 30 + 15]).abs() < 1e-6);
        assert!(gaussian.of(&vec![3.0; geometry.count()]).iter().all(|v| (v - 3.0).abs() < 1e-5));
    }

    #[test]
    fn a_bright_cell_leaves_the_background_as_it_is() {
        let geometry = Geometry::new(40, 50);
        let image: Vec<f32> = (0..2000_i32)
            .map(|at| {
                let (r, c) = (at / 50, at % 50);
                if (r - 20).pow(2) + (c - 25).pow(2) < 25 { 90.0 } else { c as f32 }
            })
            .collect();
        let found = background(&image, geometry, 21, 0.5);
        assert!((found[20 * 50 + 25] - 25.0).abs() < 4.0, "{}", found[20 * 50 + 25]);
    }

    #[test]
    fn of_two_equal_neighbours_one_is_a_peak() {
        let geometry = Geometry::new(9, 9);
        let mut map = vec![0.0; 81];
        (map[40], map[41], map[3]) = (2.0, 2.0, 9.0);
        assert_eq!(peaks(&map, geometry, 2, 1, 0.5), [40]);
    }

    #[test]
    fn what_does_not_hang_together_is_left_out() {
        let geometry = Geometry::new(8, 8);
        let patch = Patch::around(3 * 8 + 3, 2, geometry);
        let mut values = vec![0.0; 25];
        (values[12], values[13], values[24]) = (1.0, 1.0, 1.0);
        assert_eq!(patch.connected(&values, 0.5), [12, 13]);
        assert_eq!(patch.places(8).nth(12), Some(27));
    }
}
