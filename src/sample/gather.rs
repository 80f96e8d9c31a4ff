//! Reading the samples under a mask by index, without a bounds check for each.
//!
//! In: indices of a mask's pixels into a frame at rest, and how far a shift moves them. Out: sums and counts.
//!
//! The masks of cells and annuli span a few dozen rows. So their indices, counted from the first, fit into 16 bits, and
//! a window of 65,536 samples that begins there holds them all: a 16-bit index into an array of that length needs no
//! check, and the loop is two loads and an addition. Where the frame ends before the window, the window ends with the
//! frame and the indices move up by the difference. Masks that span more (or frames that hold less) are read with
//! checks. Half-size indices also let a thousand masks stay in the cache.

use crate::sample::mask::{FRACTION_ONE, Shift};
use std::ops::Range;

/// Samples in a window.
const WINDOW: usize = 1 << 16;

/// Indices into a frame, from that of the first pixel on.
#[derive(Debug)]
pub(crate) struct Indices {
    first: u32,
    /// Filled when all fit; otherwise `far` is.
    near: Vec<u16>,
    far: Vec<u32>,
}

impl Indices {
    /// Of indices into a frame at rest, in any order.
    pub fn of(offsets: &[u32]) -> Indices {
        let first = offsets.iter().copied().min().unwrap_or(0);
        let near: Result<Vec<u16>, _> = offsets.iter().map(|&offset| u16::try_from(offset - first)).collect();
        match near {
            Ok(near) => Indices { first, near, far: Vec::new() },
            Err(_) => Indices { first, near: Vec::new(), far: offsets.iter().map(|&offset| offset - first).collect() },
        }
    }

    /// All of them.
    pub fn all(&self) -> Range<usize> {
        0..self.near.len().max(self.far.len())
    }

    fn at(&self, k: usize) -> usize {
        let near = self.near.get(k).map(|&offset| usize::from(offset));
        near.or_else(|| self.far.get(k).map(|&offset| offset as usize)).unwrap_or(usize::MAX)
    }

    /// Of `part`, whose indices must be sorted, those that `base` moves to samples `low..high`.
    pub fn between(&self, part: Range<usize>, base: isize, low: isize, high: isize) -> Range<usize> {
        if part.is_empty() {
            return part;
        }
        let origin = self.first as isize + base;
        let position = |k: usize| origin + self.at(k) as isize;
        if position(part.start) >= low && position(part.end - 1) < high {
            return part;
        }
        let before = |limit: isize| {
            let (mut from, mut to) = (part.start, part.end);
            while from < to {
                let middle = from + (to - from) / 2;
                if position(middle) < limit { from = middle + 1 } else { to = middle }
            }
            from
        };
        before(low)..before(high)
    }

    /// The samples at these indices, moved by `base`.
    fn under<'s>(&'s self, base: isize, samples: &'s [u16]) -> Under<'s> {
        let origin = (self.first as isize + base) as usize;
        Under { indices: self, origin, samples, window: window(samples, origin, 0) }
    }

    /// How many of the samples at `part`, moved by `base`, are `value`.
    pub fn count(&self, part: Range<usize>, base: isize, samples: &[u16], value: u16) -> u32 {
        let origin = (self.first as isize + base) as usize;
        match (self.near.get(part.clone()), window(samples, origin, 0)) {
            (Some(near), Some((window, up))) => count_near(window, near, up, value),
            _ => self.checked(part, origin, samples).map(|sample| u32::from(sample == value)).sum(),
        }
    }

    fn checked<'s>(&'s self, part: Range<usize>, origin: usize, samples: &'s [u16]) -> impl Iterator<Item = u16> + 's {
        part.filter_map(move |k| samples.get(origin.checked_add(self.at(k))?).copied())
    }

    /// `sum(w v)` of all indices at the shift's whole part, one column right, one row below, and both.
    pub fn dot(&self, weights: &[u16], base: isize, width_px: usize, samples: &[u16]) -> [[u64; 2]; 2] {
        let origin = (self.first as isize + base) as usize;
        let more = width_px + 1;
        if let (false, Some((here, up))) = (self.near.is_empty(), window(samples, origin, more)) {
            let start = origin - usize::from(up);
            let from = |more: usize| samples.get(start + more..).and_then(|rest| rest.first_chunk::<WINDOW>());
            if let (Some(right), Some(below), Some(both)) = (from(1), from(width_px), from(more)) {
                let row = if up == 0 { dot_near::<false> } else { dot_near::<true> };
                return [row(here, right, &self.near, weights, up), row(below, both, &self.near, weights, up)];
            }
        }
        let mut taps = [[0_u64; 2]; 2];
        for (below, taps) in [0, width_px].into_iter().zip(&mut taps) {
            for (right, tap) in taps.iter_mut().enumerate() {
                let under = self.checked(self.all(), origin + below + right, samples);
                *tap = under.zip(weights).map(|(sample, &weight)| product(weight, sample)).sum();
            }
        }
        taps
    }
}

/// Samples at some indices; the window that holds them is looked for once.
struct Under<'s> {
    indices: &'s Indices,
    origin: usize,
    samples: &'s [u16],
    window: Option<(&'s [u16; WINDOW], u16)>,
}

impl Under<'_> {
    /// Sum of those at `part`.
    fn sum(&self, part: Range<usize>) -> u64 {
        match (self.indices.near.get(part.clone()), self.window) {
            (Some(near), Some((window, 0))) => sum_near::<false>(window, near, 0),
            (Some(near), Some((window, up))) => sum_near::<true>(window, near, up),
            _ => self.indices.checked(part, self.origin, self.samples).map(u64::from).sum(),
        }
    }
}

// The three hot loops stand alone, so that nothing competes with them for registers.

#[inline(never)]
fn sum_near<const MOVED: bool>(window: &[u16; WINDOW], near: &[u16], up: u16) -> u64 {
    let at = |k: u16| u64::from(window[usize::from(if MOVED { k.wrapping_add(up) } else { k })]);
    let (fours, rest) = near.as_chunks::<4>();
    let (mut even, mut odd) = (0_u64, 0_u64);
    for &[a, b, c, d] in fours {
        even += at(a) + at(b);
        odd += at(c) + at(d);
    }
    for &k in rest {
        even += at(k);
    }
    even + odd
}

#[inline(never)]
fn count_near(window: &[u16; WINDOW], near: &[u16], up: u16, value: u16) -> u32 {
    let mut count = 0;
    for &k in near {
        count += u32::from(window[usize::from(k.wrapping_add(up))] == value);
    }
    count
}

#[inline(never)]
fn dot_near<const MOVED: bool>(
    here: &[u16; WINDOW],
    right: &[u16; WINDOW],
    near: &[u16],
    weights: &[u16],
    up: u16,
) -> [u64; 2] {
    let at = |k: u16| usize::from(if MOVED { k.wrapping_add(up) } else { k });
    let mut sums = [0, 0];
    let ((pairs, rest), (pair_weights, rest_weights)) = (near.as_chunks::<2>(), weights.as_chunks::<2>());
    for (&[a, b], &[wa, wb]) in pairs.iter().zip(pair_weights) {
        let (a, b) = (at(a), at(b));
        sums[0] += product(wa, here[a]) + product(wb, here[b]);
        sums[1] += product(wa, right[a]) + product(wb, right[b]);
    }
    for (&k, &weight) in rest.iter().zip(rest_weights) {
        sums[0] += product(weight, here[at(k)]);
        sums[1] += product(weight, right[at(k)]);
    }
    sums
}

/// At most 31 bits.
#[inline]
fn product(weight: u16, sample: u16) -> u64 {
    u64::from(u32::from(weight) * u32::from(sample))
}

/// A window that holds sample `origin` and what follows, with `more` samples behind it; and how far `origin` lies from
/// its beginning. `None` when the frame is too small.
fn window(samples: &[u16], origin: usize, more: usize) -> Option<(&[u16; WINDOW], u16)> {
    let start = origin.min(samples.len().checked_sub(WINDOW + more)?);
    let up = u16::try_from(origin - start).ok()?;
    Some((samples.get(start..)?.first_chunk()?, up))
}

/// Samples under a uniform mask and one pixel further down and right, by what the mask holds around them.
#[derive(Debug)]
pub(crate) struct Patterns {
    /// Those of pattern `m` are `starts[m]..starts[m + 1]`, sorted. Bit `2 j + i` of a pattern says that the mask
    /// holds the pixel `j` rows up and `i` columns left.
    indices: Indices,
    starts: [usize; 17],
}

impl Patterns {
    /// Of a mask's indices into a frame at rest of this width.
    pub fn of(offsets: &[u32], width_px: usize) -> Patterns {
        let mut marked: Vec<(u32, usize)> = Vec::with_capacity(4 * offsets.len());
        for &offset in offsets {
            let below = offset + width_px as u32;
            marked.extend([(offset, 1), (offset + 1, 2), (below, 4), (below + 1, 8)]);
        }
        marked.sort_unstable();
        // The right neighbour of the last column has the index of the next row's first pixel. The two cannot be told
        // apart, and need not: patterns are used only where a shift leaves a column to spare on the right.
        let mut by_pattern: [Vec<u32>; 16] = Default::default();
        for group in marked.chunk_by(|a, b| a.0 == b.0) {
            let pattern = group.iter().fold(0, |pattern, &(_, bit)| pattern | bit);
            by_pattern[pattern & 15].push(group[0].0);
        }
        let mut starts = [0; 17];
        for pattern in 0..16 {
            starts[pattern + 1] = starts[pattern] + by_pattern[pattern].len();
        }
        Patterns { indices: Indices::of(&by_pattern.concat()), starts }
    }

    /// Samples that are read.
    pub fn reads(&self) -> usize {
        self.indices.all().len()
    }

    /// Bilinear sum in 1/65536, of the samples in `limits` or, without these, of all.
    pub fn total(&self, shift: Shift, base: isize, samples: &[u16], limits: Option<(isize, isize)>) -> u64 {
        let (fy, fx) = (u64::from(shift.row_fraction), u64::from(shift.col_fraction));
        let one = u64::from(FRACTION_ONE);
        let tap_weights = [(one - fy) * (one - fx), (one - fy) * fx, fy * (one - fx), fy * fx];
        let under = self.indices.under(base, samples);
        // every sample has one pattern: at most 2^26 samples of 2^16, times 2^16
        let mut total = 0_u64;
        for pattern in 1..16 {
            let weight: u64 = (0..4).filter(|bit| pattern >> bit & 1 == 1).map(|bit| tap_weights[bit]).sum();
            if weight == 0 {
                continue;
            }
            let mut part = self.starts[pattern]..self.starts[pattern + 1];
            if let Some((low, high)) = limits {
                part = self.indices.between(part, base, low, high);
            }
            total += under.sum(part) * weight;
        }
        total
    }
}
