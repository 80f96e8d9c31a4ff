//! A frame moved onto the template, for people: never on the way of a decision, where masks are moved instead.

use crate::frame::Image;

/// The image moved back by its shift, bilinearly; 0 where nothing was recorded. `out(r, c) = image(r + dy, c + dx)`.
/// Any shift that is not finite gives the image as it is.
pub fn resample(image: &Image, dy_px: f64, dx_px: f64) -> Image {
    if !(dy_px.is_finite() && dx_px.is_finite()) {
        return image.clone();
    }
    let (height, width) = (image.geometry.height_px as i64, image.geometry.width_px as i64);
    let (fy, fx) = (dy_px - dy_px.floor(), dx_px - dx_px.floor());
    let (oy, ox) = (dy_px.floor() as i64, dx_px.floor() as i64);
    let weights = [(1.0 - fy) * (1.0 - fx), (1.0 - fy) * fx, fy * (1.0 - fx), fy * fx].map(|w| w as f32);
    let at = |r: i64, c: i64| {
        let inside = (0..height).contains(&r) && (0..width).contains(&c);
        if inside { image.values[(r * width + c) as usize] } else { 0.0 }
    };
    let mut out = Image::zeros(image.geometry);
    for (place, value) in (0i64..).zip(&mut out.values) {
        let (r, c) = (place / width + oy, place % width + ox);
        *value = weights[0] * at(r, c)
            + weights[1] * at(r, c + 1)
            + weights[2] * at(r + 1, c)
            + weights[3] * at(r + 1, c + 1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Geometry;

    #[test]
    fn content_that_lies_displaced_comes_back_to_its_place() {
        let mut image = Image::zeros(Geometry::new(5, 6));
        image.values[3 * 6 + 4] = 8.0;
        assert_eq!(resample(&image, 2.0, 1.0).values[6 + 3], 8.0);
        let half = resample(&image, 0.5, 0.0);
        assert_eq!((half.values[2 * 6 + 4], half.values[3 * 6 + 4]), (4.0, 4.0));
        assert_eq!(resample(&image, f64::NAN, 0.0), image);
        assert!(resample(&image, 1e18, 0.0).values.iter().all(|&v| v == 0.0));
    }
}
