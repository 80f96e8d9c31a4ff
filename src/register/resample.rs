//! A frame moved onto the template, for people: never on the way of a decision, where masks are moved instead.
//!
//! Cost: 60-100 us for 512 x 512. Four products a pixel, row against row, so that the compiler puts them into vectors.

use multiversion::multiversion;

use crate::frame::Image;

/// The image moved back by its shift, bilinearly; 0 where nothing was recorded. `out(r, c) = image(r + dy, c + dx)`,
/// where odd lines of the image are read `odd_lines_px` further right. Any number that is not finite gives the image as
/// it is.
pub fn resample(image: &Image, dy_px: f64, dx_px: f64, odd_lines_px: f64) -> Image {
    if !(dy_px.is_finite() && dx_px.is_finite() && odd_lines_px.is_finite()) {
        return image.clone();
    }
    let (height, width) = (image.geometry.height_px as i64, image.geometry.width_px);
    let (oy, down) = whole_and_fraction(dy_px, height);
    let across = [dx_px, dx_px + odd_lines_px].map(|px| whole_and_fraction(px, width as i64));
    let nothing = vec![0.0; width];
    let line = |r: i64, share: f32| {
        let (first, right) = across[r.rem_euclid(2) as usize];
        let start = usize::try_from(r).ok().filter(|_| r < height).map(|r| r * width);
        let samples = start.and_then(|start| image.values.get(start..start + width)).unwrap_or(&nothing);
        Line { samples, first, weights: [share * (1.0 - right), share * right] }
    };
    let mut values = Vec::with_capacity(image.values.len());
    let mut row = vec![0.0; width];
    for r in 0..height {
        mix(&line(r + oy, 1.0 - down), &line(r + oy + 1, down), &mut row);
        values.extend_from_slice(&row);
    }
    Image { geometry: image.geometry, values }
}

/// A line of the image and how it is read.
struct Line<'a> {
    samples: &'a [f32],
    /// The column that column 0 reads, which may be outside; and the next one.
    first: i64,
    weights: [f32; 2],
}

impl Line<'_> {
    fn at(&self, column: i64) -> f32 {
        let sample = |c: i64| usize::try_from(c).ok().and_then(|c| self.samples.get(c)).copied().unwrap_or(0.0);
        self.weights[0] * sample(column + self.first) + self.weights[1] * sample(column + self.first + 1)
    }
}

/// Whole pixels, cut to where nothing of an image of this size remains anyway, and the fraction beyond them.
fn whole_and_fraction(px: f64, size: i64) -> (i64, f32) {
    let px = px.clamp(-(size as f64) - 1.0, size as f64 + 1.0);
    (px.floor() as i64, (px - px.floor()) as f32)
}

/// A row made of two lines.
fn mix(upper: &Line, lower: &Line, out: &mut [f32]) {
    let width = upper.samples.len() as i64;
    // columns whose neighbours are all inside
    let begin = (-upper.first).max(-lower.first).clamp(0, width);
    let end = (width - 1 - upper.first.max(lower.first)).clamp(begin, width);
    for column in (0..begin).chain(end..width) {
        out[column as usize] = upper.at(column) + lower.at(column);
    }
    if end > begin {
        let span = |line: &Line| (begin + line.first) as usize..=(end + line.first) as usize;
        let (a, b) = (&upper.samples[span(upper)], &lower.samples[span(lower)]);
        mix_inside(a, b, upper.weights, lower.weights, &mut out[begin as usize..end as usize]);
    }
}

/// What each pixel of two lines and its right neighbours make.
#[multiversion(targets("x86_64+avx2", "aarch64+neon"))]
fn mix_inside(a: &[f32], b: &[f32], [w0, w1]: [f32; 2], [w2, w3]: [f32; 2], out: &mut [f32]) {
    // said once, so that nothing is checked in the loop
    let (a, b) = (&a[..=out.len()], &b[..=out.len()]);
    for (k, out) in out.iter_mut().enumerate() {
        *out = w0 * a[k] + w1 * a[k + 1] + w2 * b[k] + w3 * b[k + 1];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Geometry;
    use proptest::prelude::*;

    #[test]
    fn content_that_lies_displaced_comes_back_to_its_place() {
        let mut image = Image::zeros(Geometry::new(5, 6));
        image.values[3 * 6 + 4] = 8.0;
        assert_eq!(resample(&image, 2.0, 1.0, 0.0).values[6 + 3], 8.0);
        let half = resample(&image, 0.5, 0.0, 0.0);
        assert_eq!((half.values[2 * 6 + 4], half.values[3 * 6 + 4]), (4.0, 4.0));
        assert_eq!(resample(&image, f64::NAN, 0.0, 0.0), image);
        assert!(resample(&image, 1e18, 0.0, 0.0).values.iter().all(|&v| v == 0.0));
    }

    proptest! {
        #[test]
        fn every_pixel_is_the_bilinear_mean_of_its_four_with_nothing_outside(
            height in 1usize..9, width in 1usize..9, dy in -11.0f64..11.0, dx in -11.0f64..11.0, odd in -3.0f64..3.0,
            seed in any::<u32>(),
        ) {
            let value = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) ^ seed) as f32 / 1e6;
            let image = Image {
                geometry: Geometry::new(height, width),
                values: (0..height * width).map(value).collect(),
            };
            let at = |r: i64, c: i64| {
                let inside = (0..height as i64).contains(&r) && (0..width as i64).contains(&c);
                if inside { f64::from(image.values[r as usize * width + c as usize]) } else { 0.0 }
            };
            let out = resample(&image, dy, dx, odd);
            prop_assert_eq!(out.values.len(), height * width);
            let across = |r: i64, column: usize| {
                let x = column as f64 + dx + if r.rem_euclid(2) == 1 { odd } else { 0.0 };
                let c = x.floor() as i64;
                (1.0 - (x - x.floor())) * at(r, c) + (x - x.floor()) * at(r, c + 1)
            };
            for (i, &found) in out.values.iter().enumerate() {
                let y = (i / width) as f64 + dy;
                let (r, fy) = (y.floor() as i64, y - y.floor());
                let expected = (1.0 - fy) * across(r, i % width) + fy * across(r + 1, i % width);
                prop_assert!((f64::from(found) - expected).abs() < 0.01, "{i}: {found} {expected}");
            }
        }
    }
}
