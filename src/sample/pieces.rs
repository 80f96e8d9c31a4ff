//! A mask in pieces: sixteen neighbouring samples of a row at a time.
//!
//! In: pixels with weights, and where a shift moves them in a frame. Out: integer sums, and how many samples are
//! saturated.
//!
//! The masks of cells are a dozen pixels wide and annuli some two dozen, so a piece covers a row of the one and two
//! cover a row of the other; what a piece covers besides weighs 0. Sixteen products of 16-bit integers that are added
//! up in pairs are one instruction on every processor with vectors, and cost less than looking up sixteen samples one
//! by one.
//!
//! Such products are of signed numbers. A weight has 15 bits, so it stays what it is; of a sample 32,768 is taken off,
//! and added to the sum again as often as the weights say. Nothing is rounded on the way.
//!
//! The released program is built for the baseline of its architecture; `multiversion` asks the processor once, at run
//! time, and calls the best there is: AVX2 by hand, NEON as the compiler makes it of the plain loop.
//!
//! Cost: see `benches/sampling.rs`.
//!
//! The unsafe code here is vector loads of arrays of that size.
#![allow(unsafe_code)]

use std::ops::AddAssign;

use multiversion::multiversion;
use multiversion::target::match_target;

/// Samples in a piece.
const PIECE: usize = 16;

/// Uniform pieces after which sums of 32 bits are emptied: each adds at most two samples to one of them.
const UNIFORM_PIECES: usize = 1 << 14;

/// Pieces after which counts of 16 bits are emptied.
const COUNTED_PIECES: usize = 1 << 15;

/// What is taken off a sample.
const MIDDLE: u16 = 1 << 15;

/// Sums of weights times samples: under the mask, one column right, one row below, and both.
pub(crate) type Taps = [[u64; 2]; 2];

/// The pieces of a mask, from the top down and from left to right.
#[derive(Debug)]
pub(crate) struct Pieces {
    /// Index of the first sample of the first piece, in a frame at rest.
    first: u32,
    /// First sample of each, counted from that one.
    at: Vec<u32>,
    weights: Weights,
    weight_sum: u64,
}

#[derive(Debug)]
enum Weights {
    /// Bit `k` says whether the sample at `k` belongs to the mask.
    Uniform(Vec<u16>),
    Each(Vec<[i16; PIECE]>),
}

impl Pieces {
    /// Of pixels sorted by row and column, each once, with weights of at most 15 bits. `uniform`: all of them are 1.
    pub fn of(width_px: usize, pixels: &[(u32, u32, u16)], uniform: bool) -> Pieces {
        let index = |row: u32, col: u32| row * width_px as u32 + col;
        let first = pixels.first().map_or(0, |&(row, col, _)| index(row, col));
        let (mut at, mut bits, mut each) = (Vec::new(), Vec::new(), Vec::new());
        let (mut last, mut weight_sum) = (None, 0);
        for &(row, col, weight) in pixels {
            let start = match last {
                Some((same_row, start)) if same_row == row && col < start + PIECE as u32 => start,
                _ => {
                    at.push(index(row, col) - first);
                    bits.push(0);
                    each.push([0; PIECE]);
                    col
                }
            };
            last = Some((row, start));
            weight_sum += u64::from(weight);
            let within = (col - start) as usize;
            if let (Some(bits), Some(each)) = (bits.last_mut(), each.last_mut()) {
                *bits |= 1 << within;
                each[within] = weight as i16;
            }
        }
        Pieces { first, at, weights: if uniform { Weights::Uniform(bits) } else { Weights::Each(each) }, weight_sum }
    }

    /// Samples that [`Pieces::taps`] looks at, without those of the row below.
    pub fn reads(&self) -> usize {
        PIECE * self.at.len()
    }

    /// What lies under the mask, whose pixels `base` moves. Nothing where the last piece, with `more` samples behind
    /// it, would leave the frame: it can although all of its pixels are inside.
    fn under<'s>(&'s self, base: isize, more: usize, samples: &'s [u16]) -> Option<Under<'s>> {
        let samples = samples.get(usize::try_from(self.first as isize + base).ok()?..)?;
        let last = self.at.last().copied().unwrap_or(0) as usize;
        (last + PIECE + more <= samples.len()).then_some(Under { samples, at: &self.at, more })
    }

    /// The sums under the mask, whose pixels `base` moves; those of the row below are left out (0) without `below`.
    /// Nothing where a piece, or its like one column right or one row below, would leave the frame.
    pub fn taps(&self, base: isize, (width_px, below): (usize, bool), samples: &[u16], simd: bool) -> Option<Taps> {
        let under = self.under(base, if below { width_px + 1 } else { 1 }, samples)?;
        let sums = match (&self.weights, simd) {
            (Weights::Uniform(bits), true) => sum_uniform_fast(under, bits),
            (Weights::Uniform(bits), false) => sum_uniform(under, bits),
            (Weights::Each(weights), true) => sum_weighted_fast(under, weights),
            (Weights::Each(weights), false) => sum_weighted(under, weights),
        };
        // weights and samples are not negative, so neither is a sum
        let taken_off = i64::from(MIDDLE) * self.weight_sum as i64;
        let [here, under] = sums.map(|row| row.map(|sum| (sum + taken_off) as u64));
        Some(if below { [here, under] } else { [here, [0; 2]] })
    }

    /// How many of the samples under the mask, whose pixels `base` moves, are `value`. Nothing where a piece would
    /// leave the frame.
    pub fn count(&self, base: isize, samples: &[u16], value: u16, simd: bool) -> Option<u32> {
        let under = self.under(base, 0, samples)?;
        Some(match (&self.weights, simd) {
            (Weights::Uniform(bits), true) => count_uniform_fast(under, bits, value),
            (Weights::Uniform(bits), false) => count(under, bits, value, spread),
            (Weights::Each(weights), true) => count_weighted_fast(under, weights, value),
            (Weights::Each(weights), false) => count(under, weights, value, |weights| weights),
        })
    }
}

/// What lies under pieces.
#[derive(Clone, Copy)]
struct Under<'a> {
    /// From the first piece on, to the end of the last one and what is read behind it, or further.
    samples: &'a [u16],
    /// The pieces.
    at: &'a [u32],
    /// Samples that are read behind each piece: 0, 1, or those of the row below and of its right neighbour.
    more: usize,
}

impl<'a> Under<'a> {
    /// The samples at a piece and one more, and the same in the row below; both are one where nothing below is read.
    #[inline(always)]
    fn rows(&self, at: u32) -> Option<[&'a [u16; PIECE + 1]; 2]> {
        let rest = self.samples.get(at as usize..)?.get(..PIECE + self.more)?;
        Some([rest.first_chunk()?, rest.last_chunk()?])
    }
}

/// Sums of some pieces while they are made: of every second sample with its neighbour.
type Lanes<N> = [[[N; PIECE / 2]; 2]; 2];

/// The four sums; `weights_of` is what a piece keeps as sixteen weights.
#[inline(always)]
fn sums<W: Copy, N: From<i32> + Copy + AddAssign>(
    under: Under,
    weights: &[W],
    weights_of: impl Fn(W) -> [i16; PIECE],
) -> Lanes<N> {
    let mut lanes = [[[N::from(0); PIECE / 2]; 2]; 2];
    for (&at, &weights) in under.at.iter().zip(weights) {
        let weights = weights_of(weights);
        for (samples, lanes) in under.rows(at).into_iter().flatten().zip(&mut lanes) {
            for (lanes, right) in lanes.iter_mut().zip(0..) {
                let product = |k: usize| i32::from((samples[k + right] ^ MIDDLE) as i16) * i32::from(weights[k]);
                for (k, lane) in lanes.iter_mut().enumerate() {
                    // two products of at most 30 bits and a sign
                    *lane += N::from(product(2 * k) + product(2 * k + 1));
                }
            }
        }
    }
    lanes
}

/// Sixteen bits as weights of 0 and 1.
#[inline(always)]
fn spread(bits: u16) -> [i16; PIECE] {
    std::array::from_fn(|k| i16::from(bits & (1 << k) != 0))
}

#[inline(always)]
fn sum_uniform(under: Under, bits: &[u16]) -> [[i64; 2]; 2] {
    let mut taps = [[0; 2]; 2];
    for (at, bits) in under.at.chunks(UNIFORM_PIECES).zip(bits.chunks(UNIFORM_PIECES)) {
        let lanes: Lanes<i32> = sums(Under { at, ..under }, bits, spread);
        for (tap, lanes) in taps.as_flattened_mut().iter_mut().zip(lanes.as_flattened()) {
            *tap += lanes.iter().map(|&lane| i64::from(lane)).sum::<i64>();
        }
    }
    taps
}

#[inline(always)]
fn sum_weighted(under: Under, weights: &[[i16; PIECE]]) -> [[i64; 2]; 2] {
    let lanes: Lanes<i64> = sums(under, weights, |weights| weights);
    lanes.map(|row| row.map(|lanes| lanes.iter().sum()))
}

#[inline(always)]
fn count<W: Copy>(under: Under, weights: &[W], value: u16, weights_of: impl Fn(W) -> [i16; PIECE]) -> u32 {
    let mut count = 0;
    for (at, weights) in under.at.chunks(COUNTED_PIECES).zip(weights.chunks(COUNTED_PIECES)) {
        let mut lanes = [0_u16; PIECE];
        for (&at, &weights) in at.iter().zip(weights) {
            let samples = under.samples.get(at as usize..).and_then(|rest| rest.first_chunk::<PIECE>());
            let Some(samples) = samples else { continue };
            for ((lane, &sample), weight) in lanes.iter_mut().zip(samples).zip(weights_of(weights)) {
                *lane += u16::from((sample == value) & (weight != 0));
            }
        }
        count += lanes.iter().map(|&lane| u32::from(lane)).sum::<u32>();
    }
    count
}

// The same for the processor that runs this: found out once, at run time.

#[multiversion(targets("x86_64+avx2", "aarch64+neon"))]
fn sum_uniform_fast(under: Under, bits: &[u16]) -> [[i64; 2]; 2] {
    match_target! {
        "x86_64+avx2" => avx2::sum_uniform(under, bits),
        _ => sum_uniform(under, bits),
    }
}

#[multiversion(targets("x86_64+avx2", "aarch64+neon"))]
fn sum_weighted_fast(under: Under, weights: &[[i16; PIECE]]) -> [[i64; 2]; 2] {
    match_target! {
        "x86_64+avx2" => avx2::sum_weighted(under, weights),
        _ => sum_weighted(under, weights),
    }
}

#[multiversion(targets("x86_64+avx2", "aarch64+neon"))]
fn count_uniform_fast(under: Under, bits: &[u16], value: u16) -> u32 {
    count(under, bits, value, spread)
}

#[multiversion(targets("x86_64+avx2", "aarch64+neon"))]
fn count_weighted_fast(under: Under, weights: &[[i16; PIECE]], value: u16) -> u32 {
    count(under, weights, value, |weights| weights)
}

/// Sixteen products in one instruction (`pmaddwd`), which adds neighbours as well.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{PIECE, UNIFORM_PIECES, Under};

    /// Bit `k` of each lane `k`.
    static BITS: [u16; PIECE] = {
        let mut bits = [0; PIECE];
        let mut k = 0;
        while k < PIECE {
            bits[k] = 1 << k;
            k += 1;
        }
        bits
    };

    #[target_feature(enable = "avx2")]
    fn load<T>(lanes: &[T; PIECE]) -> __m256i {
        const { assert!(size_of::<T>() == 2) };
        // SAFETY: sixteen lanes of two bytes are what is loaded, at any address.
        unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
    }

    /// Sums of pairs of the samples at a piece, and of those one further right, times `weights`.
    #[target_feature(enable = "avx2")]
    fn pairs(samples: &[u16; PIECE + 1], weights: __m256i) -> [__m256i; 2] {
        let flip = _mm256_set1_epi16(i16::MIN);
        let (here, right) = (samples.first_chunk::<PIECE>(), samples.last_chunk::<PIECE>());
        // both are there: the array is longer by one
        [here, right].map(|lanes| {
            let lanes = lanes.map_or(_mm256_setzero_si256(), |lanes| load(lanes));
            _mm256_madd_epi16(_mm256_xor_si256(lanes, flip), weights)
        })
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn sum_uniform(under: Under, bits: &[u16]) -> [[i64; 2]; 2] {
        let select = load(&BITS);
        let mut taps = [[0; 2]; 2];
        for (at, bits) in under.at.chunks(UNIFORM_PIECES).zip(bits.chunks(UNIFORM_PIECES)) {
            let mut lanes = [[_mm256_setzero_si256(); 2]; 2];
            for (&at, &bits) in at.iter().zip(bits) {
                // -1 where the bit is set
                let minus = _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(bits as i16), select), select);
                for (samples, lanes) in under.rows(at).into_iter().flatten().zip(&mut lanes) {
                    for (lane, pairs) in lanes.iter_mut().zip(pairs(samples, minus)) {
                        *lane = _mm256_sub_epi32(*lane, pairs);
                    }
                }
            }
            for (tap, &lanes) in taps.as_flattened_mut().iter_mut().zip(lanes.as_flattened()) {
                *tap += total(widen(lanes));
            }
        }
        taps
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn sum_weighted(under: Under, weights: &[[i16; PIECE]]) -> [[i64; 2]; 2] {
        let mut lanes = [[_mm256_setzero_si256(); 2]; 2];
        for (&at, weights) in under.at.iter().zip(weights) {
            let weights = load(weights);
            for (samples, lanes) in under.rows(at).into_iter().flatten().zip(&mut lanes) {
                for (lane, pairs) in lanes.iter_mut().zip(pairs(samples, weights)) {
                    *lane = _mm256_add_epi64(*lane, widen(pairs));
                }
            }
        }
        let mut taps = [[0; 2]; 2];
        for (tap, &lanes) in taps.as_flattened_mut().iter_mut().zip(lanes.as_flattened()) {
            *tap = total(lanes);
        }
        taps
    }

    /// Eight `i32` lanes as four `i64` lanes, neighbours of the two halves added.
    #[target_feature(enable = "avx2")]
    fn widen(v: __m256i) -> __m256i {
        let low = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(v));
        let high = _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(v));
        _mm256_add_epi64(low, high)
    }

    /// The sum of four `i64` lanes.
    #[target_feature(enable = "avx2")]
    fn total(v: __m256i) -> i64 {
        let half = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        _mm_cvtsi128_si64(half) + _mm_extract_epi64::<1>(half)
    }
}
