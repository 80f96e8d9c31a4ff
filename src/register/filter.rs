//! Filters of images: Gaussian smoothing, band-pass, gradient, and an estimate of white noise.
//!
//! In and out: row-major `f32` images; edges are continued with their own value. All sums are in a written order, and
//! the exponential is the `libm` crate's, so the bits do not depend on the machine. Cost: some milliseconds for a
//! band-pass of 512 x 512; used when a template is made, never per frame.

use super::kernel::Plane;

/// Weights of a Gaussian of `sigma` pixels, from the centre outwards; the whole kernel sums to 1.
pub(super) fn gaussian(sigma: f64) -> Vec<f32> {
    let radius = (3.5 * sigma).ceil().max(1.0) as usize;
    let half: Vec<f64> = (0..=radius).map(|k| libm::exp(-0.5 * (k as f64 / sigma) * (k as f64 / sigma))).collect();
    let mut sum = half[0];
    for value in &half[1..] {
        sum += 2.0 * value;
    }
    half.iter().map(|value| (value / sum) as f32).collect()
}

/// Smooths `image` into `out`; `between` is scratch of the same length.
pub(super) fn smooth(image: &[f32], width: usize, half: &[f32], between: &mut [f32], out: &mut [f32]) {
    let height = image.len() / width;
    for row in 0..height {
        let target = &mut between[row * width..(row + 1) * width];
        for (t, &v) in target.iter_mut().zip(&image[row * width..]) {
            *t = half[0] * v;
        }
        for (k, &weight) in half.iter().enumerate().skip(1) {
            let up = &image[row.saturating_sub(k) * width..];
            let down = &image[(row + k).min(height - 1) * width..];
            for ((t, &a), &b) in target.iter_mut().zip(up).zip(down) {
                *t += weight * (a + b);
            }
        }
    }
    let radius = half.len() - 1;
    for (source, target) in between.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        for (t, &v) in target.iter_mut().zip(source) {
            *t = half[0] * v;
        }
        for (k, &weight) in half.iter().enumerate().skip(1) {
            if width > 2 * radius {
                for ((t, &a), &b) in target[k..width - k].iter_mut().zip(source).zip(&source[2 * k..]) {
                    *t += weight * (a + b);
                }
            }
            let edges = if width > 2 * radius { (0..k).chain(width - k..width) } else { (0..width).chain(0..0) };
            for column in edges {
                let (left, right) = (column.saturating_sub(k), (column + k).min(width - 1));
                target[column] += weight * (source[left] + source[right]);
            }
        }
    }
}

/// Central differences of `image` along rows (`dy`) and columns (`dx`); 0 at the edges.
pub(super) fn gradient(image: &[f32], width: usize, dy: &mut [f32], dx: &mut [f32]) {
    let height = image.len() / width;
    dy.fill(0.0);
    dx.fill(0.0);
    for row in 0..height {
        for column in 0..width {
            let at = row * width + column;
            if row > 0 && row + 1 < height {
                dy[at] = 0.5 * (image[at + width] - image[at - width]);
            }
            if column > 0 && column + 1 < width {
                dx[at] = 0.5 * (image[at + 1] - image[at - 1]);
            }
        }
    }
}

/// Variance of white noise in a frame, in counts squared, from the second difference along both axes, which removes
/// what is smooth (J. Immerkaer, "Fast noise variance estimation", 1996, with squares in place of magnitudes).
pub(super) fn white_noise(plane: Plane) -> f64 {
    let width = plane.width;
    let height = plane.samples.len() / width;
    if width < 3 || height < 3 {
        return 0.0;
    }
    let mut sum = 0i64;
    for row in 1..height - 1 {
        let line = |r: usize| &plane.samples[r * width..(r + 1) * width];
        let (up, here, down) = (line(row - 1), line(row), line(row + 1));
        for ((u, h), d) in up.windows(3).zip(here.windows(3)).zip(down.windows(3)) {
            let edge = |w: &[u16]| i64::from(w[0]) - 2 * i64::from(w[1]) + i64::from(w[2]);
            let second = edge(u) - 2 * edge(h) + edge(d);
            sum += second * second;
        }
    }
    sum as f64 / (36.0 * ((height - 2) * (width - 2)) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_a_constant_and_spreads_a_point_evenly() {
        let half = gaussian(1.3);
        let (mut between, mut out) = (vec![0.0; 21 * 31], vec![0.0; 21 * 31]);
        smooth(&[5.0; 21 * 31], 31, &half, &mut between, &mut out);
        assert!(out.iter().all(|v| (v - 5.0).abs() < 1e-5));
        let mut point = vec![0.0; 21 * 31];
        point[10 * 31 + 15] = 1.0;
        smooth(&point, 31, &half, &mut between, &mut out);
        assert!((out.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(
            (out[8 * 31 + 15] - out[12 * 31 + 15]).abs() < 1e-9 && (out[10 * 31 + 13] - out[8 * 31 + 15]).abs() < 1e-9
        );
    }

    #[test]
    fn a_frame_narrower_than_the_kernel_is_smoothed_too() {
        let half = gaussian(4.0);
        let (mut between, mut out) = (vec![0.0; 35], vec![0.0; 35]);
        smooth(&[2.0; 35], 5, &half, &mut between, &mut out);
        assert!(out.iter().all(|v| (v - 2.0).abs() < 1e-5));
    }

    #[test]
    fn the_gradient_of_a_ramp_is_its_slope() {
        let image: Vec<f32> = (0..70).map(|i| 3.0 * (i / 10) as f32 - 2.0 * (i % 10) as f32).collect();
        let (mut dy, mut dx) = (vec![9.0; 70], vec![9.0; 70]);
        gradient(&image, 10, &mut dy, &mut dx);
        assert_eq!((dy[35], dx[35], dy[5], dx[30]), (3.0, -2.0, 0.0, 0.0));
    }

    #[test]
    fn white_noise_is_measured_and_a_ramp_is_not_noise() {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u16
        };
        let noisy: Vec<u16> = (0..100 * 80).map(|i| 1000 + (i % 80) as u16 * 10 + noise()).collect();
        let measured = white_noise(Plane { samples: &noisy, width: 80, saturation: 65_535 });
        let uniform = (256.0f64 * 256.0 - 1.0) / 12.0;
        assert!((measured / uniform - 1.0).abs() < 0.1, "{measured} against {uniform}");
        let ramp: Vec<u16> = (0..100 * 80).map(|i| (i % 80) as u16 * 10).collect();
        assert_eq!(white_noise(Plane { samples: &ramp, width: 80, saturation: 65_535 }), 0.0);
    }
}
