//! The hot loop: a frame's samples against the template's weight images.
//!
//! In: a frame, three weight images, a rectangle of the template, a whole-pixel lag. Out: [`Moments`], integer sums
//! that are *added to* what the caller passes, so that any cutting of the rectangle into rows gives the same bits.
//!
//! A sample `s` enters as `x = s - 32,768`, an `i16`; a weight is an `i16` within +-[`WEIGHT_LIMIT`]. The vector path
//! multiplies 16 samples by 16 weights and adds neighbours (`pmaddwd`). A pair of products of a weight is at most
//! 2 * 32,768 * 2,047, so 16 of them fit an `i32` lane before it has to be widened; a pair of squares is at most 2^31,
//! which fits the lane when it is read as unsigned. So every step is exact, and both paths give the same sums.
//!
//! Cost: 512 x 512 samples, about 30 us with AVX2 when the weights are in the cache.
//!
//! This is the one module of the stage with unsafe code: vector loads of slices whose lengths are checked above them.
#![allow(unsafe_code)]

use std::ops::Range;

/// Largest magnitude of a weight.
pub(super) const WEIGHT_LIMIT: i16 = 2047;

/// Which code runs; the sums do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// Plain Rust.
    Portable,
    /// AVX2, found at run time.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Path {
    /// The fastest path of this processor, or the portable one when `simd` is false.
    pub(super) fn choose(simd: bool) -> Self {
        #[cfg(target_arch = "x86_64")]
        if simd && is_x86_feature_detected!("avx2") {
            return Path::Avx2;
        }
        let _ = simd;
        Path::Portable
    }
}

/// Sums over a rectangle; `x` is the sample less 32,768.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moments {
    /// Samples.
    pub count: i64,
    /// Sum of x.
    pub x: i64,
    /// Sum of x squared.
    pub xx: i64,
    /// Sums of x times the weight images.
    pub wx: [i64; 3],
    /// Samples at or above saturation.
    pub saturated: i64,
    /// Rows whose samples are all equal.
    pub flat_rows: i64,
}

impl Moments {
    /// Adds another rectangle's sums.
    pub(super) fn add(&mut self, other: &Moments) {
        self.count += other.count;
        self.x += other.x;
        self.xx += other.xx;
        for (a, b) in self.wx.iter_mut().zip(other.wx) {
            *a += b;
        }
        self.saturated += other.saturated;
        self.flat_rows += other.flat_rows;
    }

    /// Variance of the samples, from exact integers.
    pub(super) fn variance(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let n = i128::from(self.count);
        let numerator = n * i128::from(self.xx) - i128::from(self.x) * i128::from(self.x);
        numerator as f64 / (self.count as f64 * self.count as f64)
    }
}

/// A frame's samples, as the kernel reads them.
#[derive(Clone, Copy)]
pub(super) struct Plane<'a> {
    /// Samples, row-major.
    pub samples: &'a [u16],
    /// Columns.
    pub width: usize,
    /// Samples from here on count as saturated.
    pub saturation: u16,
}

/// A rectangle of the template and where it lies in the frame.
#[derive(Debug, Clone)]
pub(super) struct Region {
    /// Rows of the template.
    pub rows: Range<usize>,
    /// Columns of the template.
    pub columns: Range<usize>,
    /// Row of the frame less the row of the template.
    pub lag_y: i32,
    /// Column of the frame less the column of the template.
    pub lag_x: i32,
}

/// Adds the sums of `region` to `out`. The region must lie inside the template, and moved by the lag inside the frame.
pub(super) fn accumulate(path: Path, plane: Plane, weights: &[Vec<i16>; 3], region: &Region, out: &mut Moments) {
    let width = plane.width;
    let columns = region.columns.clone();
    let first = columns.start as i64 + i64::from(region.lag_x);
    assert!(first >= 0 && first as usize + columns.len() <= width && columns.end <= width, "columns outside the frame");
    for row in region.rows.clone() {
        let at = (row as i64 + i64::from(region.lag_y)) as usize * width + first as usize;
        let span = row * width + columns.start..row * width + columns.end;
        let line = Line {
            samples: &plane.samples[at..at + columns.len()],
            w: [&weights[0][span.clone()], &weights[1][span.clone()], &weights[2][span]],
            saturation: plane.saturation,
        };
        let mut sums = match path {
            Path::Portable => portable(&line, 0),
            // SAFETY: this variant is only made by `Path::choose`, after the processor was found to have AVX2.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { avx2(&line) },
        };
        sums.count = columns.len() as i64;
        let spread = i128::from(sums.count) * i128::from(sums.xx) - i128::from(sums.x) * i128::from(sums.x);
        sums.flat_rows = i64::from(spread == 0);
        out.add(&sums);
    }
}

/// One row: samples and weights of the same length.
struct Line<'a> {
    samples: &'a [u16],
    w: [&'a [i16]; 3],
    saturation: u16,
}

/// The row from column `from` on, in plain Rust.
fn portable(line: &Line, from: usize) -> Moments {
    let mut sums = Moments::default();
    let (w0, w1, w2) = (&line.w[0][from..], &line.w[1][from..], &line.w[2][from..]);
    for (((&s, &a), &b), &c) in line.samples[from..].iter().zip(w0).zip(w1).zip(w2) {
        let x = i32::from(s) - 32_768;
        sums.x += i64::from(x);
        sums.xx += i64::from(x) * i64::from(x);
        sums.wx[0] += i64::from(x * i32::from(a));
        sums.wx[1] += i64::from(x * i32::from(b));
        sums.wx[2] += i64::from(x * i32::from(c));
        sums.saturated += i64::from(s >= line.saturation);
    }
    sums
}

/// The row, sixteen samples at a time; the remainder in plain Rust.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(line: &Line) -> Moments {
    use std::arch::x86_64::*;

    let n = line.samples.len();
    assert!(line.w.iter().all(|w| w.len() == n));
    let whole = n - n % 16;
    let flip = _mm256_set1_epi16(i16::MIN);
    let ones = _mm256_set1_epi16(1);
    let low = _mm256_set1_epi64x(0xffff_ffff);
    // "at or above" is "not below": the compare is `saturation > s`, on the flipped, signed values
    let saturation = _mm256_set1_epi16((line.saturation ^ 0x8000) as i16);
    let zero = _mm256_setzero_si256();
    let (mut squares, mut wide_x, mut wide_w) = (zero, zero, [zero; 3]);
    let mut below = 0i64;
    let mut at = 0;
    while at < whole {
        let end = whole.min(at + 256);
        let (mut x, mut w, mut under) = (zero, [zero; 3], zero);
        while at < end {
            // SAFETY: at + 16 <= whole <= n, the length of all four slices; unaligned loads.
            let (s, a, b, c) = unsafe {
                (
                    _mm256_loadu_si256(line.samples.as_ptr().add(at).cast()),
                    _mm256_loadu_si256(line.w[0].as_ptr().add(at).cast()),
                    _mm256_loadu_si256(line.w[1].as_ptr().add(at).cast()),
                    _mm256_loadu_si256(line.w[2].as_ptr().add(at).cast()),
                )
            };
            let v = _mm256_xor_si256(s, flip);
            under = _mm256_sub_epi16(under, _mm256_cmpgt_epi16(saturation, v));
            x = _mm256_add_epi32(x, _mm256_madd_epi16(v, ones));
            w[0] = _mm256_add_epi32(w[0], _mm256_madd_epi16(v, a));
            w[1] = _mm256_add_epi32(w[1], _mm256_madd_epi16(v, b));
            w[2] = _mm256_add_epi32(w[2], _mm256_madd_epi16(v, c));
            let square = _mm256_madd_epi16(v, v);
            squares = _mm256_add_epi64(squares, _mm256_and_si256(square, low));
            squares = _mm256_add_epi64(squares, _mm256_srli_epi64::<32>(square));
            at += 16;
        }
        wide_x = _mm256_add_epi64(wide_x, widen(x));
        for (sum, part) in wide_w.iter_mut().zip(w) {
            *sum = _mm256_add_epi64(*sum, widen(part));
        }
        below += total(widen(_mm256_madd_epi16(under, ones)));
    }
    let mut sums = portable(line, whole);
    sums.x += total(wide_x);
    sums.xx += total(squares);
    for (sum, part) in sums.wx.iter_mut().zip(wide_w) {
        *sum += total(part);
    }
    sums.saturated += whole as i64 - below;
    sums
}

/// Eight `i32` lanes as four `i64` lanes, neighbours of the two halves added.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn widen(v: std::arch::x86_64::__m256i) -> std::arch::x86_64::__m256i {
    use std::arch::x86_64::*;
    let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(v));
    let high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(v));
    _mm256_add_epi64(low, high)
}

/// The sum of four `i64` lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn total(v: std::arch::x86_64::__m256i) -> i64 {
    use std::arch::x86_64::*;
    let half = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    _mm_cvtsi128_si64(half) + _mm_extract_epi64::<1>(half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEIGHT: usize = 13;

    fn weights(width: usize, seed: i16) -> [Vec<i16>; 3] {
        let image = |k: i16| {
            let value = |i: usize| (i as i16).wrapping_mul(7919).wrapping_add(seed.wrapping_mul(k)) % (WEIGHT_LIMIT + 1);
            (0..HEIGHT * width).map(value).collect()
        };
        [image(3), image(5), image(11)]
    }

    proptest! {
        #[test]
        fn every_path_and_every_cutting_into_rows_gives_the_same_bits(
            width in 8usize..600, seed in any::<i16>(), cut in 2usize..11, lag_y in -2i32..=2, lag_x in -3i32..=3,
            saturation in 1u16.., extreme in any::<bool>(),
        ) {
            let value = |i: usize| if extreme { 0 } else { (i as u16).wrapping_mul(40_503).wrapping_add(seed as u16) };
            let samples: Vec<u16> = (0..HEIGHT * width).map(value).collect();
            let weights = if extreme { [(); 3].map(|()| vec![-WEIGHT_LIMIT; HEIGHT * width]) } else { weights(width, seed) };
            let plane = Plane { samples: &samples, width, saturation };
            let region = |rows| Region { rows, columns: 3..width - 3, lag_y, lag_x };
            let mut reference = Moments::default();
            accumulate(Path::Portable, plane, &weights, &region(2..11), &mut reference);
            for path in [Path::Portable, Path::choose(true)] {
                let mut sums = Moments::default();
                accumulate(path, plane, &weights, &region(cut..11), &mut sums);
                accumulate(path, plane, &weights, &region(2..cut), &mut sums);
                prop_assert_eq!(sums, reference);
            }
        }
    }

    #[test]
    fn the_sums_are_those_of_the_formula() {
        let samples = [0u16, 1, 65_535, 40_000];
        let weights = [vec![1i16, 2, 3, 4], vec![-1; 4], vec![0; 4]];
        let plane = Plane { samples: &samples, width: 4, saturation: 40_000 };
        let mut sums = Moments::default();
        let region = Region { rows: 0..1, columns: 0..4, lag_y: 0, lag_x: 0 };
        accumulate(Path::Portable, plane, &weights, &region, &mut sums);
        let x = [-32_768i64, -32_767, 32_767, 7_232];
        assert_eq!(sums.x, x.iter().sum::<i64>());
        assert_eq!(sums.xx, x.iter().map(|v| v * v).sum::<i64>());
        assert_eq!(sums.wx, [x[0] + 2 * x[1] + 3 * x[2] + 4 * x[3], -sums.x, 0]);
        assert_eq!((sums.saturated, sums.flat_rows, sums.count), (2, 0, 4));
    }
}
