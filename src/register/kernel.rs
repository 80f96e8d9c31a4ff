//! The hot loop: a frame's samples against the template's weight images.
//!
//! In: a frame, three weight images, a rectangle of the template, a whole-pixel lag. Out: [`Moments`], integer sums
//! that are *added to* what the caller passes, so that any cutting of the rectangle into rows gives the same bits.
//!
//! A sample `s` enters as `x = s - 32,768`, an `i16`; a weight is an `i8` within +-[`WEIGHT_LIMIT`], widened to `i16`
//! as it is read: the loop waits for memory, not for arithmetic, and one byte a weight is precise enough (rounding adds
//! a thousandth to the noise, and no bias, since the expected responses are computed with the rounded weights). The
//! vector path multiplies 16 samples by 16 weights and adds neighbours (`pmaddwd`). A pair of products of a weight is
//! at most 2 * 32,768 * 127, so 256 of them fit an `i32` lane before it has to be widened; a pair of squares is at most
//! 2^31, which fits the lane when it is read as unsigned. So every step is exact, and both paths give the same sums.
//!
//! The released program is built for the baseline of its architecture; `multiversion` asks the processor once, at run
//! time, and calls the best there is: AVX2 by hand, NEON as the compiler makes it of the plain loop.
//!
//! Cost: 512 x 512 samples, about 30 us with AVX2 when the weights are in the cache.
//!
//! This is the one module of the stage with unsafe code: vector loads of slices whose lengths are checked above them.
#![allow(unsafe_code)]

use std::ops::Range;

use multiversion::multiversion;
use multiversion::target::match_target;

/// Largest magnitude of a weight.
pub(super) const WEIGHT_LIMIT: i8 = 127;

/// Which code runs; the sums do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// Plain Rust, for any processor of the architecture.
    Portable,
    /// The best that this processor has.
    Fastest,
}

impl Path {
    /// The fastest path of this processor, or the portable one when `simd` is false.
    pub(super) fn choose(simd: bool) -> Self {
        if simd { Path::Fastest } else { Path::Portable }
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
    /// Rows of the template ...
    pub rows: Range<usize>,
    /// ... of which every so many-th is read, from the first on.
    pub step: usize,
    /// Columns of the template.
    pub columns: Range<usize>,
    /// Row of the frame less the row of the template.
    pub lag_y: i32,
    /// Column of the frame less the column of the template.
    pub lag_x: i32,
}

/// Adds the sums of `region` to `out`. The region must lie inside the template, and moved by the lag inside the frame.
pub(super) fn accumulate(path: Path, plane: Plane, weights: &[Vec<i8>; 3], region: &Region, out: &mut Moments) {
    let (width, columns, rows) = (plane.width, &region.columns, &region.rows);
    let (top, left) = (rows.start as i64 + i64::from(region.lag_y), columns.start as i64 + i64::from(region.lag_x));
    assert!(left >= 0 && left as usize + columns.len() <= width && columns.end <= width, "columns outside the frame");
    assert!(top >= 0 && (top as usize + rows.len()) * width <= plane.samples.len(), "rows outside the frame");
    if rows.is_empty() || columns.is_empty() {
        return;
    }
    let block = Block {
        samples: &plane.samples[top as usize * width + left as usize..],
        w: [0, 1, 2].map(|k: usize| &weights[k][rows.start * width + columns.start..]),
        rows: rows.len().div_ceil(region.step),
        columns: columns.len(),
        stride: width * region.step,
        saturation: plane.saturation,
    };
    match path {
        Path::Portable => portable(&block, out),
        Path::Fastest => fastest(&block, out),
    }
}

/// Rows of samples and weights, `stride` apart, beginning at the first column.
struct Block<'a> {
    samples: &'a [u16],
    w: [&'a [i8]; 3],
    rows: usize,
    columns: usize,
    stride: usize,
    saturation: u16,
}

impl Block<'_> {
    /// What a row adds besides the weighted sums.
    fn count_row(&self, x: i64, xx: i64, out: &mut Moments) {
        let n = self.columns as i64;
        out.count += n;
        out.x += x;
        out.xx += xx;
        // n * xx is below 2^63 for rows of up to 2^16 samples, far more than a scan line has
        out.flat_rows += i64::from(n.wrapping_mul(xx) == x.wrapping_mul(x));
    }
}

/// The kernel for the processor that runs this: found out once, at run time.
#[multiversion(targets("x86_64+avx2", "aarch64+neon"))]
fn fastest(block: &Block, out: &mut Moments) {
    match_target! {
        "x86_64+avx2" => avx2(block, out),
        _ => portable(block, out),
    }
}

/// Plain Rust, in chunks whose sums fit 32 bits, which any compiler can put into vectors.
#[inline]
fn portable(block: &Block, out: &mut Moments) {
    const CHUNK: usize = 256;
    for row in 0..block.rows {
        let at = row * block.stride..row * block.stride + block.columns;
        let w = block.w.map(|w| &w[at.clone()]);
        let (mut sum, mut square) = (0i64, 0i64);
        let weights = w[0].chunks(CHUNK).zip(w[1].chunks(CHUNK)).zip(w[2].chunks(CHUNK));
        for (samples, ((w0, w1), w2)) in block.samples[at.clone()].chunks(CHUNK).zip(weights) {
            let (mut x_sum, mut w_sums, mut high, mut low, mut saturated) = (0i32, [0i32; 3], 0u32, 0u32, 0u32);
            for (((&s, &a), &b), &c) in samples.iter().zip(w0).zip(w1).zip(w2) {
                let x = i32::from((s ^ 0x8000) as i16);
                x_sum += x;
                w_sums[0] += x * i32::from(a);
                w_sums[1] += x * i32::from(b);
                w_sums[2] += x * i32::from(c);
                let squared = (x * x) as u32;
                high += squared >> 16;
                low += squared & 0xffff;
                saturated += u32::from(s >= block.saturation);
            }
            sum += i64::from(x_sum);
            square += (i64::from(high) << 16) + i64::from(low);
            for (total, part) in out.wx.iter_mut().zip(w_sums) {
                *total += i64::from(part);
            }
            out.saturated += i64::from(saturated);
        }
        block.count_row(sum, square, out);
    }
}

/// Rows ahead of which the frame is fetched: memory answers later than the processor looks ahead by itself.
#[cfg(target_arch = "x86_64")]
const AHEAD_ROWS: usize = 6;

/// Lanes of the last, overlapping vector: with `k` new samples, those from `k` on in this array.
#[cfg(target_arch = "x86_64")]
static LAST: [i16; 32] =
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1];

/// Sixteen samples at a time; the last vector of a row overlaps the one before, with those lanes masked.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(block: &Block, out: &mut Moments) {
    use std::arch::x86_64::*;

    let (n, stride) = (block.columns, block.stride);
    // lanes hold 256 vectors: see the head of this file
    if !(16..=4096).contains(&n) {
        return portable(block, out);
    }
    let needed = (block.rows - 1) * stride + n;
    assert!(block.samples.len() >= needed && block.w.iter().all(|w| w.len() >= needed));
    let whole = n - n % 16;
    let zero = _mm256_setzero_si256();
    let flip = _mm256_set1_epi16(i16::MIN);
    let ones = _mm256_set1_epi16(1);
    let low = _mm256_set1_epi64x(0xffff_ffff);
    // "at or above saturation" is "not below": `saturation > s`, on the flipped, signed values
    let saturation = _mm256_set1_epi16((block.saturation ^ 0x8000) as i16);
    let (mut wide_w, mut wide_under) = ([zero; 3], zero);
    for row in 0..block.rows {
        let (mut x, mut w, mut under, mut squares) = (zero, [zero; 3], zero, zero);
        let start = row * stride;
        let mut step = |at: usize, mask: __m256i| {
            // SAFETY: at + 16 <= start + n <= needed, which all four slices have; the loads are unaligned.
            let (s, a, b, c) = unsafe {
                (
                    _mm256_loadu_si256(block.samples.as_ptr().add(at).cast()),
                    _mm_loadu_si128(block.w[0].as_ptr().add(at).cast()),
                    _mm_loadu_si128(block.w[1].as_ptr().add(at).cast()),
                    _mm_loadu_si128(block.w[2].as_ptr().add(at).cast()),
                )
            };
            let flipped = _mm256_xor_si256(s, flip);
            let v = _mm256_and_si256(flipped, mask);
            under = _mm256_sub_epi16(under, _mm256_and_si256(mask, _mm256_cmpgt_epi16(saturation, flipped)));
            x = _mm256_add_epi32(x, _mm256_madd_epi16(v, ones));
            w[0] = _mm256_add_epi32(w[0], _mm256_madd_epi16(v, _mm256_cvtepi8_epi16(a)));
            w[1] = _mm256_add_epi32(w[1], _mm256_madd_epi16(v, _mm256_cvtepi8_epi16(b)));
            w[2] = _mm256_add_epi32(w[2], _mm256_madd_epi16(v, _mm256_cvtepi8_epi16(c)));
            let square = _mm256_madd_epi16(v, v);
            squares = _mm256_add_epi64(squares, _mm256_and_si256(square, low));
            squares = _mm256_add_epi64(squares, _mm256_srli_epi64::<32>(square));
        };
        let all = _mm256_set1_epi16(-1);
        let ahead = (start + AHEAD_ROWS * stride).min(needed - n);
        let mut at = start;
        while at < start + whole {
            // a cache line of the frame holds two vectors; of each weight image four
            if at & 16 == 0 {
                // SAFETY: ahead + (at - start) < needed, which the slices have; and a prefetch touches nothing.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(block.samples.as_ptr().add(ahead + at - start).cast()) };
            }
            step(at, all);
            at += 16;
        }
        if whole < n {
            // SAFETY: n - whole is 1 to 15, so 16 lanes from there on are within the 32 of the array.
            let mask = unsafe { _mm256_loadu_si256(LAST.as_ptr().add(n - whole).cast()) };
            step(start + n - 16, mask);
        }
        block.count_row(total(widen(x)), total(squares), out);
        for (sum, part) in wide_w.iter_mut().zip(w) {
            *sum = _mm256_add_epi64(*sum, widen(part));
        }
        wide_under = _mm256_add_epi64(wide_under, widen(_mm256_madd_epi16(under, ones)));
    }
    for (sum, part) in out.wx.iter_mut().zip(wide_w) {
        *sum += total(part);
    }
    out.saturated += (block.rows * n) as i64 - total(wide_under);
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

    fn weights(width: usize, seed: i16) -> [Vec<i8>; 3] {
        let image = |k: i16| {
            let value = |i: usize| (i as i16).wrapping_mul(7919).wrapping_add(seed.wrapping_mul(k)) % 128;
            (0..HEIGHT * width).map(|i| value(i) as i8).collect()
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
            let extremes = || [(); 3].map(|()| vec![-WEIGHT_LIMIT; HEIGHT * width]);
            let weights = if extreme { extremes() } else { weights(width, seed) };
            let plane = Plane { samples: &samples, width, saturation };
            let region = |rows| Region { rows, step: 1, columns: 3..width - 3, lag_y, lag_x };
            let mut reference = Moments::default();
            accumulate(Path::Portable, plane, &weights, &region(2..11), &mut reference);
            for path in [Path::Portable, Path::choose(true)] {
                let mut sums = Moments::default();
                accumulate(path, plane, &weights, &region(cut..11), &mut sums);
                accumulate(path, plane, &weights, &region(2..cut), &mut sums);
                prop_assert_eq!(sums, reference);
                let mut lines = Moments::default();
                for first in [2, 3] {
                    accumulate(path, plane, &weights, &Region { step: 2, ..region(first..11) }, &mut lines);
                }
                prop_assert_eq!(lines, reference);
            }
        }
    }

    #[test]
    fn the_sums_are_those_of_the_formula() {
        let samples = [0u16, 1, 65_535, 40_000];
        let weights = [vec![1i8, 2, 3, 4], vec![-1; 4], vec![0; 4]];
        let plane = Plane { samples: &samples, width: 4, saturation: 40_000 };
        let mut sums = Moments::default();
        let region = Region { rows: 0..1, step: 1, columns: 0..4, lag_y: 0, lag_x: 0 };
        accumulate(Path::Portable, plane, &weights, &region, &mut sums);
        let x = [-32_768i64, -32_767, 32_767, 7_232];
        assert_eq!(sums.x, x.iter().sum::<i64>());
        assert_eq!(sums.xx, x.iter().map(|v| v * v).sum::<i64>());
        assert_eq!(sums.wx, [x[0] + 2 * x[1] + 3 * x[2] + 4 * x[3], -sums.x, 0]);
        assert_eq!((sums.saturated, sums.flat_rows, sums.count), (2, 0, 4));
    }
}
