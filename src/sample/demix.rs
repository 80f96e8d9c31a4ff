//! Overlapping cells told apart: non-negative least squares of the frame on their masks and the background.
//!
//! In: the integer sums of a frame under the moved masks. Out: F of each cell that shares pixels with another one, in
//! counts as the source stored them (offset included).
//!
//! Where masks share pixels, a weighted mean holds the light of all of them. So the frame is explained, over the pixels
//! of a group of overlapping masks and of their neuropil annuli, by
//!
//! ```text
//! v(p) = b + sum over k of a_k m_k(p),   a_k >= 0,   with the least sum of squared differences,
//! F_k  = b + a_k sum(m_k^2) / sum(m_k)
//! ```
//!
//! with `m_k` the masks' fixed-point weights. F_k is the weighted mean that this frame would give if cell k alone shone
//! on the background: it has the unit and the size of a weighted mean, so that the detector's offset, F0, dF/F and the
//! floor of F0 mean what they mean elsewhere. For a cell that overlaps none it *is* the weighted mean, whatever b is
//! (its normal equation says so), and such cells are sampled as in the mode `weighted`, bit by bit; so they are without
//! the bound at `a = 0`. In a group, a cell darker than its surround has F = b. The background b is one constant for a
//! group, of either sign: the detector's offset is in it, so that 0 means nothing.
//!
//! **Groups** are the connected parts of the graph of cells that share a pixel: all cells of the plane, sampled or not,
//! since those contaminate too. A group has at most [`UNKNOWNS_MAX`] cells: pairs are joined in the order of their
//! overlap (the cosine between the masks), and one that would make a larger group stays apart. Masks that are the same
//! pixel by pixel are one cell. Within a group cells are ordered by their pixels, so a permuted set of ROIs gives
//! permuted answers, bit by bit.
//!
//! **Bits.** The matrix of the normal equations (the Gram matrix) is of integers, made once; so are the sums over
//! pixels of each frame. Masks are moved and read bilinearly, which is the frame resampled on the masks' own grid:
//! their Gram matrix at rest holds for every shift, and for odd lines apart. What follows is f64 in a written order
//! ([`crate::sample::nnls`]), once a frame in `finish`, so a cutting into strips does not show. Where a group lies
//! partly outside the frame, its Gram matrix is counted anew over the pixels that remain, into memory that is there.
//!
//! Cost: per group one more uniform mask (its background), and some `n^2` products for `n` cells.
//!
//! Not here: a background that varies within a group, and masks that are learnt from the movie.

use crate::sample::mask::{Inside, Mask, Sums};
use crate::sample::nnls::{Nnls, UNKNOWNS_MAX};
use crate::sample::overlap::{Cells, Scene, Shared, shared};

/// A mask and a uniform mask that the sampler must sum up besides those it has.
type Besides = (Mask, Option<Mask>);

/// One cell of a group.
#[derive(Debug)]
struct Member {
    /// Which of the sampler's masks it is.
    mask: usize,
    /// Places in the sampler's output: several for ROIs that are the same, none for one that is not sampled.
    outputs: Vec<usize>,
}

/// Cells that overlap, and the pixels that tell.
#[derive(Debug)]
struct Group {
    members: Vec<Member>,
    /// Which of the sampler's uniform masks is the background: the members' pixels and those of their annuli.
    region: usize,
    /// Pixels of every pair (i, j) with j <= i, pair after pair.
    shared: Vec<Vec<Shared>>,
    at_rest: System,
}

/// The normal equations of a group, background taken out, over those of its pixels that are inside the frame.
#[derive(Debug)]
struct System {
    /// Pixels of the background.
    pixels: f64,
    /// Sum of each mask's weights, and of their squares.
    weights: [f64; UNKNOWNS_MAX],
    squares: [f64; UNKNOWNS_MAX],
    /// Sums of products of weights, row after row, `UNKNOWNS_MAX` apart.
    gram: Vec<f64>,
    nnls: Nnls,
}

/// All groups of a sampler.
#[derive(Debug)]
pub(crate) struct Demix {
    groups: Vec<Group>,
    /// For groups that are partly outside the frame.
    at_border: System,
}

impl Demix {
    /// The groups with at least one sampled cell, and the masks that the sampler must have behind those of `chosen`.
    pub fn new(scene: &Scene) -> (Demix, Vec<Besides>) {
        let cells = Cells::of(scene);
        let mut besides: Vec<Besides> = Vec::new();
        let mut groups = Vec::new();
        for members in cells.groups() {
            if members.len() > 1 && members.iter().any(|&cell| !cells.outputs[cell].is_empty()) {
                groups.push(Group::of(&cells, scene, &members, &mut besides));
            }
        }
        let largest = groups.iter().map(|group: &Group| group.members.len()).max().unwrap_or(0);
        (Demix { groups, at_border: System::with_capacity(largest) }, besides)
    }

    /// Gives all that a group reads one place: that of the first of its cells that is sampled. `places` are those of
    /// the sampler's probes.
    pub fn share_places<T: Copy>(&self, places: &mut [T]) {
        for group in &self.groups {
            let Some(&first) = group.members.iter().find_map(|member| member.outputs.first()) else { continue };
            let place = places[first];
            for member in &group.members {
                places[member.mask] = place;
                member.outputs.iter().for_each(|&output| places[output] = place);
            }
            places[group.region] = place;
        }
    }

    /// Replaces the weighted means of overlapping cells in `f`. `read` gives mask, annulus and sums of the sampler's
    /// probe of that number, `inside` which of its pixels are in the frame.
    pub fn apply<'s>(
        &mut self,
        read: impl Fn(usize) -> (&'s Mask, Option<&'s Mask>, &'s (Sums, Sums)),
        inside: impl Fn(usize) -> Inside,
        bias: f64,
        f: &mut [f64],
    ) {
        for group in &mut self.groups {
            let (_, Some(region), (_, under_region)) = read(group.region) else { continue };
            let inside = &inside(group.region);
            let (pixels, count) = region.remaining(inside);
            let system = if count == region.pixel_count {
                &mut group.at_rest
            } else {
                let weight = |k: usize| read(group.members[k].mask).0.remaining(inside).0;
                self.at_border.set(group.members.len(), &group.shared, pixels, weight, Some(inside));
                &mut self.at_border
            };
            let size = group.members.len();
            let mut means = [0.0; UNKNOWNS_MAX];
            for (mean, member) in means.iter_mut().zip(&group.members) {
                *mean = read(member.mask).2.0.weighted();
            }
            system.solve(&mut means[..size], under_region.weighted());
            for (k, (member, mean)) in group.members.iter().zip(means).enumerate() {
                if system.nnls.is_usable(k) {
                    member.outputs.iter().for_each(|&output| f[output] = mean - bias);
                }
            }
        }
    }

    /// Cells in each group.
    #[cfg(test)]
    pub fn sizes(&self) -> Vec<usize> {
        self.groups.iter().map(|group| group.members.len()).collect()
    }
}

impl Group {
    fn of(cells: &Cells, scene: &Scene, members: &[usize], besides: &mut Vec<Besides>) -> Group {
        let next = |besides: &Vec<Besides>| scene.chosen.len() + besides.len();
        let mask = |cell: usize| {
            Mask::weighted(scene.width_px, cells.masks[cell].iter().map(|&(row, col, w)| (row, col, f32::from(w))))
        };
        let mut region: Vec<(u32, u32)> = Vec::new();
        let mut found = Vec::new();
        for &cell in members {
            region.extend(cells.masks[cell].iter().map(|&(row, col, _)| (row, col)));
            region.extend((scene.ring)(&cells.rois[cell].pixels));
            let place = cells.outputs[cell].first().copied().unwrap_or_else(|| {
                besides.push((mask(cell), None));
                next(besides) - 1
            });
            found.push(Member { mask: place, outputs: cells.outputs[cell].clone() });
        }
        region.sort_unstable();
        region.dedup();
        let pixels = region.len() as u64;
        besides.push((
            Mask::uniform(scene.width_px, std::iter::empty()),
            Some(Mask::uniform(scene.width_px, region.into_iter())),
        ));
        let pairs = (0..members.len()).flat_map(|i| (0..=i).map(move |j| (i, j)));
        let shared: Vec<Vec<Shared>> =
            pairs.map(|(i, j)| shared(&cells.masks[members[i]], &cells.masks[members[j]])).collect();
        let mut at_rest = System::with_capacity(members.len());
        let weight = |k: usize| cells.masks[members[k]].iter().map(|p| u64::from(p.2)).sum();
        at_rest.set(members.len(), &shared, pixels, weight, None);
        Group { members: found, region: next(besides) - 1, shared, at_rest }
    }
}

impl System {
    fn with_capacity(size: usize) -> System {
        System {
            pixels: 0.0,
            weights: [0.0; UNKNOWNS_MAX],
            squares: [0.0; UNKNOWNS_MAX],
            gram: vec![0.0; UNKNOWNS_MAX * size],
            nnls: Nnls::with_capacity(size),
        }
    }

    /// Counts the pixels that are inside, or all.
    fn set(
        &mut self,
        size: usize,
        shared: &[Vec<Shared>],
        pixels: u64,
        weight: impl Fn(usize) -> u64,
        inside: Option<&Inside>,
    ) {
        self.pixels = pixels as f64;
        let is_inside = |p: &&Shared| inside.is_none_or(|inside| inside.holds(p.row, p.col));
        let mut pairs = shared.iter();
        for i in 0..size {
            for (j, pixels) in (0..=i).zip(pairs.by_ref()) {
                let sum: u64 = pixels.iter().filter(is_inside).map(|p| u64::from(p.product)).sum();
                self.gram[i * UNKNOWNS_MAX + j] = sum as f64;
            }
            self.weights[i] = weight(i) as f64;
            self.squares[i] = self.gram[i * UNKNOWNS_MAX + i];
        }
        let (gram, weights, pixels) = (&self.gram, &self.weights, self.pixels);
        let normal = |i: usize, j: usize| {
            // the same bits on both sides of the diagonal
            let (i, j) = (i.max(j), i.min(j));
            gram[i * UNKNOWNS_MAX + j] - weights[i] * weights[j] / pixels
        };
        self.nnls.set(size, normal, |k| gram[k * UNKNOWNS_MAX + k]);
    }

    /// From `sum(m_k v)` in `means` and the sum of the background's pixels to the mean of each cell by itself.
    fn solve(&mut self, means: &mut [f64], under_region: f64) {
        let level = under_region / self.pixels;
        let mut amplitudes = [0.0; UNKNOWNS_MAX];
        for (mean, weight) in means.iter_mut().zip(&self.weights) {
            *mean -= weight * level;
        }
        self.nnls.solve(means, &mut amplitudes);
        let mut explained = 0.0;
        for (weight, amplitude) in self.weights.iter().zip(&amplitudes).take(means.len()) {
            explained += weight * amplitude;
        }
        let background = level - explained / self.pixels;
        for (k, mean) in means.iter_mut().enumerate() {
            *mean = background + amplitudes[k] * (self.squares[k] / self.weights[k]);
        }
    }
}

#[cfg(test)]
#[path = "demix_tests.rs"]
mod tests;
