//! Which cells of a plane share pixels, and which of them therefore have to be told apart together.
//!
//! In: the ROIs of a plane. Out: the distinct cells in the order of their pixels, their groups, and the pixels of each
//! pair. Why, and the rule: [`crate::sample::demix`]. Cost: at construction only, about a second for 10,000 cells.

use crate::sample::mask::Mask;
use crate::sample::nnls::UNKNOWNS_MAX;
use crate::sample::rois::{Roi, RoiPixel};
use crate::sample::sampler::sorted;
use std::collections::{BTreeMap, BTreeSet};

/// Pixels (plane, row, column) that more than one of these ROIs have.
pub(crate) fn shared_pixels<'a>(rois: impl Iterator<Item = &'a Roi>) -> BTreeSet<(u32, u32, u32)> {
    let pixels = |roi: &'a Roi| sorted(roi).into_iter().map(|(row, col, _)| (roi.plane, row, col));
    let mut all: Vec<(u32, u32, u32)> = rois.flat_map(pixels).collect();
    all.sort_unstable();
    all.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect()
}

/// Of the cells that share a pixel, so many are asked whether they overlap.
const CELLS_A_PIXEL_MAX: usize = 32;

/// Pixels of a mask with their fixed-point weights, sorted.
pub(crate) type Pixels = Vec<(u32, u32, u16)>;

/// From the pixels of an ROI to its annulus.
pub(crate) type Ring<'a> = dyn Fn(&[RoiPixel]) -> Vec<(u32, u32)> + 'a;

/// What a demixer is made of.
pub(crate) struct Scene<'a> {
    pub width_px: usize,
    /// All ROIs of the plane.
    pub rois: &'a [&'a Roi],
    /// Those that are sampled, in their order.
    pub chosen: &'a [&'a Roi],
    /// The annulus of an ROI.
    pub ring: &'a Ring<'a>,
}

/// A pixel of two masks (or of one and itself), with the product of their weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared {
    pub row: i32,
    pub col: i32,
    pub product: u32,
}

/// The distinct cells of a plane, in the order of their pixels.
pub(crate) struct Cells<'a> {
    pub masks: Vec<Pixels>,
    pub rois: Vec<&'a Roi>,
    /// Where each is in the sampler's output.
    pub outputs: Vec<Vec<usize>>,
}

impl<'a> Cells<'a> {
    /// Of a scene.
    pub fn of(scene: &Scene<'a>) -> Cells<'a> {
        let pixels = |roi: &Roi| Mask::weighted(scene.width_px, sorted(roi).into_iter()).weighted_pixels().collect();
        let mut all: Vec<(Pixels, &Roi)> = scene.rois.iter().map(|&roi| (pixels(roi), roi)).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut cells = Cells { masks: Vec::new(), rois: Vec::new(), outputs: Vec::new() };
        let mut cell_of = BTreeMap::new();
        for (mask, roi) in all {
            if cells.masks.last() != Some(&mask) {
                cells.masks.push(mask);
                cells.rois.push(roi);
                cells.outputs.push(Vec::new());
            }
            cell_of.insert(roi.id, cells.masks.len() - 1);
        }
        for (output, roi) in scene.chosen.iter().enumerate() {
            if let Some(&cell) = cell_of.get(&roi.id) {
                cells.outputs[cell].push(output);
            }
        }
        cells
    }

    /// Pairs that share pixels, with how much, the most alike first.
    fn overlaps(&self) -> Vec<(f64, usize, usize)> {
        let weights = self.masks.iter().enumerate();
        let mut entries: Vec<(u32, u32, u16, usize)> = weights
            .flat_map(|(cell, mask)| mask.iter().map(move |&(row, col, weight)| (row, col, u16::MAX - weight, cell)))
            .collect();
        // where very many cells share a pixel, the heaviest there are asked
        entries.sort_unstable();
        let mut products: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for there in entries.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let there = &there[..there.len().min(CELLS_A_PIXEL_MAX)];
            for (k, one) in there.iter().enumerate() {
                for other in &there[..k] {
                    let weights = u64::from(u16::MAX - one.2) * u64::from(u16::MAX - other.2);
                    *products.entry((one.3.min(other.3), one.3.max(other.3))).or_default() += weights;
                }
            }
        }
        let square = |cell: usize| self.masks[cell].iter().map(|p| u64::from(p.2) * u64::from(p.2)).sum::<u64>() as f64;
        let squares: Vec<f64> = (0..self.masks.len()).map(square).collect();
        let cosine = |(&(i, j), &sum): (&(usize, usize), &u64)| {
            let sum = sum as f64;
            (sum / squares[i] * (sum / squares[j]), i, j)
        };
        let mut pairs: Vec<(f64, usize, usize)> = products.iter().map(cosine).collect();
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        pairs
    }

    /// Cells that belong together, in their order; groups in the order of their first cells.
    pub fn groups(&self) -> Vec<Vec<usize>> {
        let mut group_of: Vec<usize> = (0..self.masks.len()).collect();
        let mut groups: Vec<Vec<usize>> = group_of.iter().map(|&cell| vec![cell]).collect();
        for (_, i, j) in self.overlaps() {
            let (into, from) = (group_of[i].min(group_of[j]), group_of[i].max(group_of[j]));
            if into != from && groups[into].len() + groups[from].len() <= UNKNOWNS_MAX {
                let moved = std::mem::take(&mut groups[from]);
                moved.iter().for_each(|&cell| group_of[cell] = into);
                groups[into].extend(moved);
            }
        }
        groups.iter_mut().for_each(|group| group.sort_unstable());
        groups.retain(|group| !group.is_empty());
        groups.sort_unstable();
        groups
    }
}

/// The pixels that two masks share.
pub(crate) fn shared(a: &Pixels, b: &Pixels) -> Vec<Shared> {
    let mut found = Vec::new();
    let mut rest = b.iter().peekable();
    for &(row, col, weight) in a {
        while rest.next_if(|p| (p.0, p.1) < (row, col)).is_some() {}
        if let Some(other) = rest.next_if(|p| (p.0, p.1) == (row, col)) {
            let product = u32::from(weight) * u32::from(other.2);
            found.push(Shared { row: row as i32, col: col as i32, product });
        }
    }
    found
}
