//! A set of regions of interest (ROIs), checked once so that no later stage has to doubt it.
//!
//! In: pixels with weights, from whichever file. Out: [`RoiSet`], in which every ROI has pixels, every pixel lies
//! inside the frame, every weight is finite and not negative, at least one is above zero, pixels are sorted by row and
//! column, and none is listed twice. Units: pixels; weights have none, and only their ratios within an ROI matter.
//!
//! [`render_reference`] draws an image of the masks for registration when the file brings no reference image.

use crate::frame::{Geometry, Image};

/// One pixel of an ROI.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoiPixel {
    /// Row, 0 at the top.
    pub row: u32,
    /// Column, 0 at the left.
    pub col: u32,
    /// Weight, at or above 0; suite2p's `lam`, 1 where the file has none.
    pub weight: f32,
}

/// One region of interest: a soma, a dendrite, or whatever the experimenter outlined.
#[derive(Debug, Clone, PartialEq)]
pub struct Roi {
    /// Position in its file, from 0.
    pub id: u32,
    /// Name for people: the file's own, or the position written out.
    pub name: String,
    /// Imaging plane, from 0.
    pub plane: u32,
    /// Pixels, sorted by row, then column.
    pub pixels: Vec<RoiPixel>,
    /// The radius that its file tells, in pixels; see [`Roi::radius_px`].
    pub radius_told_px: Option<f64>,
}

impl Roi {
    /// Radius in pixels: the one that the file tells (suite2p's `radius`), else two standard deviations of the weights
    /// along their longer axis, at least 1, which is suite2p's definition without its search for the soma.
    pub fn radius_px(&self) -> f64 {
        self.radius_told_px.unwrap_or_else(|| {
            let sum = |value: &dyn Fn(f64, f64) -> f64| {
                let term = |p: &RoiPixel| f64::from(p.weight) * value(f64::from(p.row), f64::from(p.col));
                self.pixels.iter().map(term).sum::<f64>()
            };
            let total = sum(&|_, _| 1.0);
            let (row, col) = (sum(&|y, _| y) / total, sum(&|_, x| x) / total);
            let yy = sum(&|y, _| (y - row) * (y - row)) / total;
            let xx = sum(&|_, x| (x - col) * (x - col)) / total;
            let xy = sum(&|y, x| (y - row) * (x - col)) / total;
            let longer = (yy + xx) / 2.0 + ((yy - xx) * (yy - xx) / 4.0 + xy * xy).sqrt();
            (2.0 * longer.sqrt()).max(1.0)
        })
    }
}

/// Where the reference image of a set comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceKind {
    /// The file brought it (suite2p's `meanImg`, or the reference of our own format).
    Given,
    /// It was drawn by [`render_reference`]: outlines of cells, not recorded anatomy.
    RenderedFromMasks,
    /// There is none.
    None,
}

/// An image of one plane.
#[derive(Debug, Clone, PartialEq)]
pub struct PlaneImage {
    /// The plane, from 0.
    pub plane: u32,
    /// The image, in counts.
    pub image: Image,
}

/// All ROIs of a file, in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct RoiSet {
    /// Size of the frames that the ROIs were drawn on.
    pub geometry: Geometry,
    /// The ROIs, in the order of the file.
    pub rois: Vec<Roi>,
    /// The image that the ROIs were drawn on, in any linear unit.
    pub reference: Option<Image>,
    /// Where `reference` comes from.
    pub reference_kind: ReferenceKind,
    /// Templates of another day, with which a session begins instead of making its own.
    pub templates: Vec<PlaneImage>,
    /// Slices at rising depths, against which the depth is followed.
    pub z_stack: Vec<Image>,
    /// The file, for messages and the journal.
    pub source: String,
}

/// Why a set of ROIs was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RoiSetError {
    /// A pixel outside the frame.
    #[error("ROI {id}: pixel (row {row}, column {col}) lies outside the frame of {height_px} x {width_px} pixels")]
    OutsideFrame {
        /// Position of the ROI.
        id: u32,
        /// The pixel's row as the file has it.
        row: i64,
        /// The pixel's column as the file has it.
        col: i64,
        /// Rows of the frame.
        height_px: usize,
        /// Columns of the frame.
        width_px: usize,
    },
    /// An ROI that no pixel belongs to.
    #[error("ROI {id} has no pixels, expected at least one")]
    NoPixels {
        /// Position of the ROI.
        id: u32,
    },
    /// A weight that is negative, infinite or not a number.
    #[error("ROI {id}: pixel (row {row}, column {col}) has weight {weight}, expected a finite number at or above 0")]
    Weight {
        /// Position of the ROI.
        id: u32,
        /// The pixel's row.
        row: i64,
        /// The pixel's column.
        col: i64,
        /// The weight.
        weight: f32,
    },
    /// An ROI whose weights are all 0.
    #[error("ROI {id}: all {pixels} weights are 0, expected at least one above 0")]
    NoWeight {
        /// Position of the ROI.
        id: u32,
        /// Pixels that it lists.
        pixels: usize,
    },
    /// A radius that no cell has.
    #[error("ROI {id}: a radius of {radius_px} px, expected more than 0, at most {}", MAX_SIDE_PX)]
    Radius {
        /// Position of the ROI.
        id: u32,
        /// The radius.
        radius_px: f64,
    },
    /// A reference image of another size than the frame.
    #[error("reference image is {got_height_px} x {got_width_px} pixels, expected {height_px} x {width_px}")]
    ReferenceSize {
        /// Rows of the image.
        got_height_px: usize,
        /// Columns of the image.
        got_width_px: usize,
        /// Rows of the frame.
        height_px: usize,
        /// Columns of the frame.
        width_px: usize,
    },
    /// A reference image with a value that is not a finite number.
    #[error("reference image: value {value} at row {row}, column {col}, expected a finite number")]
    ReferenceValue {
        /// Row of the first such value.
        row: usize,
        /// Its column.
        col: usize,
        /// The value.
        value: f32,
    },
    /// A frame without pixels, or one larger than anything a scanner delivers.
    #[error("frame of {height_px} x {width_px} pixels, expected 1 to {} a side", MAX_SIDE_PX)]
    Geometry {
        /// Rows.
        height_px: usize,
        /// Columns.
        width_px: usize,
    },
}

/// Largest side of a frame. With it, indices fit into 32 bits and sums of weighted samples into 64.
pub const MAX_SIDE_PX: usize = 8_192;

/// One ROI as a reader hands it over, before anything about it has been checked.
#[derive(Debug, Clone, Default)]
pub(crate) struct RawRoi {
    pub name: Option<String>,
    pub plane: u32,
    /// Row, column, weight.
    pub pixels: Vec<(i64, i64, f32)>,
    pub radius_px: Option<f64>,
}

impl Default for RoiSet {
    /// No ROIs, on frames of no size.
    fn default() -> Self {
        let (geometry, source) = (Geometry::new(0, 0), "none".to_owned());
        let (rois, templates, z_stack) = (Vec::new(), Vec::new(), Vec::new());
        Self { geometry, rois, reference: None, reference_kind: ReferenceKind::None, templates, z_stack, source }
    }
}

impl RoiSet {
    /// Checks what a reader found and makes a set of it. Pixels that an ROI lists more than once are merged into one
    /// with the largest of their weights: listing a pixel twice says no more than listing it once.
    pub(crate) fn from_raw(
        geometry: Geometry,
        raw: Vec<RawRoi>,
        reference: Option<Image>,
        source: String,
    ) -> Result<RoiSet, RoiSetError> {
        check_geometry(geometry)?;
        let mut rois = Vec::with_capacity(raw.len());
        for (position, roi) in raw.into_iter().enumerate() {
            let id = position as u32;
            let pixels = checked_pixels(id, &roi.pixels, geometry)?;
            let name = roi.name.unwrap_or_else(|| id.to_string());
            let radius_told_px = checked_radius(id, roi.radius_px)?;
            rois.push(Roi { id, name, plane: roi.plane, pixels, radius_told_px });
        }
        let reference_kind = if reference.is_some() { ReferenceKind::Given } else { ReferenceKind::None };
        let set =
            RoiSet { geometry, rois, reference, reference_kind, templates: Vec::new(), z_stack: Vec::new(), source };
        set.check_reference()?;
        Ok(set)
    }

    /// Checks the whole set again: its fields are public, so whoever changed them can ask.
    pub fn check(&self) -> Result<(), RoiSetError> {
        check_geometry(self.geometry)?;
        for roi in &self.rois {
            if roi.pixels.is_empty() {
                return Err(RoiSetError::NoPixels { id: roi.id });
            }
            for p in &roi.pixels {
                check_pixel(roi.id, i64::from(p.row), i64::from(p.col), p.weight, self.geometry)?;
            }
            check_some_weight(roi.id, &roi.pixels)?;
            checked_radius(roi.id, roi.radius_told_px)?;
        }
        self.check_reference()
    }

    /// The ROIs of one plane, with the ids that they have in the file.
    pub fn of_plane(&self, plane: u32) -> RoiSet {
        let mut set = self.clone();
        set.rois.retain(|roi| roi.plane == plane);
        set
    }

    /// The same on frames that end below their first `rows_px` rows, as do those images that have the frames' size; the
    /// masks must lie in these rows.
    pub fn of_upper_rows(&self, rows_px: usize) -> RoiSet {
        let (full, mut set) = (self.geometry, self.clone());
        if rows_px >= full.height_px {
            return set;
        }
        set.geometry.height_px = rows_px;
        let (upper, count) = (set.geometry, set.geometry.count());
        let templates = set.templates.iter_mut().map(|template| &mut template.image);
        for image in set.reference.iter_mut().chain(templates).chain(&mut set.z_stack) {
            if image.geometry == full {
                image.geometry = upper;
                image.values.truncate(count);
            }
        }
        set
    }

    /// Draws the reference from the masks when the file brought none.
    pub fn with_reference(mut self) -> RoiSet {
        if self.reference.is_none() {
            self.reference = Some(render_reference(&self));
            self.reference_kind = ReferenceKind::RenderedFromMasks;
        }
        self
    }

    /// The same ROIs with rows and columns exchanged, and the reference with them.
    pub fn transposed(mut self) -> RoiSet {
        let Geometry { height_px, width_px } = self.geometry;
        self.geometry = Geometry::new(width_px, height_px);
        for roi in &mut self.rois {
            for p in &mut roi.pixels {
                (p.row, p.col) = (p.col, p.row);
            }
            roi.pixels.sort_by_key(|p| (p.row, p.col));
        }
        let turned = |image: Image| {
            let columns = (0..width_px).flat_map(|col| image.values.iter().skip(col).step_by(width_px.max(1)));
            Image { geometry: Geometry::new(width_px, height_px), values: columns.copied().collect() }
        };
        self.reference = self.reference.map(turned);
        self.templates.iter_mut().for_each(|of_plane| of_plane.image = turned(of_plane.image.clone()));
        self.z_stack = self.z_stack.into_iter().map(turned).collect();
        self
    }

    fn check_reference(&self) -> Result<(), RoiSetError> {
        let Some(image) = &self.reference else { return Ok(()) };
        let (wanted, got) = (self.geometry, image.geometry);
        if got != wanted || image.values.len() != wanted.count() {
            return Err(RoiSetError::ReferenceSize {
                got_height_px: got.height_px,
                got_width_px: got.width_px,
                height_px: wanted.height_px,
                width_px: wanted.width_px,
            });
        }
        match image.values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => Err(RoiSetError::ReferenceValue {
                row: at / wanted.width_px,
                col: at % wanted.width_px,
                value: image.values[at],
            }),
        }
    }
}

/// An image of the masks: each ROI's weights divided by their mean, summed over the ROIs.
///
/// The division makes every cell equally bright whatever the unit of its weights, so no cell decides a registration
/// alone, while its profile (bright centre, dim rim) stays. What is no cell is 0.
pub fn render_reference(set: &RoiSet) -> Image {
    let mut sums = vec![0.0_f64; set.geometry.count()];
    for roi in &set.rois {
        let mut total = 0.0_f64;
        for p in &roi.pixels {
            total += f64::from(p.weight);
        }
        let mean = total / roi.pixels.len().max(1) as f64;
        for p in &roi.pixels {
            let at = p.row as usize * set.geometry.width_px + p.col as usize;
            if let Some(sum) = sums.get_mut(at) {
                *sum += f64::from(p.weight) / mean;
            }
        }
    }
    Image { geometry: set.geometry, values: sums.iter().map(|&sum| sum as f32).collect() }
}

pub(crate) fn check_geometry(geometry: Geometry) -> Result<(), RoiSetError> {
    let Geometry { height_px, width_px } = geometry;
    let accepted = 1..=MAX_SIDE_PX;
    if accepted.contains(&height_px) && accepted.contains(&width_px) {
        return Ok(());
    }
    Err(RoiSetError::Geometry { height_px, width_px })
}

fn check_pixel(id: u32, row: i64, col: i64, weight: f32, geometry: Geometry) -> Result<(), RoiSetError> {
    let Geometry { height_px, width_px } = geometry;
    if !(0..height_px as i64).contains(&row) || !(0..width_px as i64).contains(&col) {
        return Err(RoiSetError::OutsideFrame { id, row, col, height_px, width_px });
    }
    if !weight.is_finite() || weight < 0.0 {
        return Err(RoiSetError::Weight { id, row, col, weight });
    }
    Ok(())
}

fn check_some_weight(id: u32, pixels: &[RoiPixel]) -> Result<(), RoiSetError> {
    match pixels.iter().any(|p| p.weight > 0.0) {
        true => Ok(()),
        false => Err(RoiSetError::NoWeight { id, pixels: pixels.len() }),
    }
}

fn checked_radius(id: u32, radius_px: Option<f64>) -> Result<Option<f64>, RoiSetError> {
    match radius_px {
        Some(radius_px) if !(radius_px > 0.0 && radius_px <= MAX_SIDE_PX as f64) => {
            Err(RoiSetError::Radius { id, radius_px })
        }
        other => Ok(other),
    }
}

fn checked_pixels(id: u32, raw: &[(i64, i64, f32)], geometry: Geometry) -> Result<Vec<RoiPixel>, RoiSetError> {
    if raw.is_empty() {
        return Err(RoiSetError::NoPixels { id });
    }
    let mut pixels = Vec::with_capacity(raw.len());
    for &(row, col, weight) in raw {
        check_pixel(id, row, col, weight, geometry)?;
        pixels.push(RoiPixel { row: row as u32, col: col as u32, weight });
    }
    pixels.sort_by_key(|p| (p.row, p.col));
    pixels.dedup_by(|later, kept| {
        let same = (later.row, later.col) == (kept.row, kept.col);
        if same {
            kept.weight = kept.weight.max(later.weight);
        }
        same
    });
    check_some_weight(id, &pixels)?;
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_of(rois: &[&[(i64, i64, f32)]]) -> Result<RoiSet, RoiSetError> {
        let raw = rois.iter().map(|pixels| RawRoi { pixels: pixels.to_vec(), ..RawRoi::default() }).collect();
        RoiSet::from_raw(Geometry::new(4, 6), raw, None, "test".into())
    }

    #[test]
    fn a_pixel_outside_the_frame_is_refused_with_roi_pixel_and_frame() {
        for (row, col) in [(4, 0), (0, 6), (-1, 0), (0, -1), (i64::MAX, 0)] {
            let error = set_of(&[&[(0, 0, 1.0)], &[(0, 0, 1.0), (row, col, 1.0)]]).unwrap_err();
            assert_eq!(error, RoiSetError::OutsideFrame { id: 1, row, col, height_px: 4, width_px: 6 });
        }
        let error = set_of(&[&[(4, 0, 1.0)]]).unwrap_err().to_string();
        assert_eq!(error, "ROI 0: pixel (row 4, column 0) lies outside the frame of 4 x 6 pixels");
    }

    #[test]
    fn rois_without_pixels_or_with_bad_weights_are_refused() {
        assert_eq!(set_of(&[&[]]).unwrap_err(), RoiSetError::NoPixels { id: 0 });
        assert_eq!(set_of(&[&[(0, 0, 0.0)]]).unwrap_err(), RoiSetError::NoWeight { id: 0, pixels: 1 });
        for weight in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(matches!(set_of(&[&[(1, 2, weight)]]), Err(RoiSetError::Weight { id: 0, row: 1, col: 2, .. })));
        }
    }

    #[test]
    fn pixels_listed_twice_are_merged_and_sorted() {
        let set = set_of(&[&[(2, 1, 1.0), (0, 5, 2.0), (2, 1, 3.0)]]).unwrap();
        let got: Vec<_> = set.rois[0].pixels.iter().map(|p| (p.row, p.col, p.weight)).collect();
        assert_eq!(got, [(0, 5, 2.0), (2, 1, 3.0)]);
        assert_eq!(set.check(), Ok(()));
    }

    #[test]
    fn a_rendered_reference_makes_every_cell_equally_bright() {
        let set = set_of(&[&[(0, 0, 1.0), (0, 1, 3.0)], &[(2, 2, 100.0), (2, 3, 100.0)]]).unwrap();
        let set = set.with_reference();
        assert_eq!(set.reference_kind, ReferenceKind::RenderedFromMasks);
        let image = set.reference.unwrap();
        assert_eq!(&image.values[0..3], [0.5, 1.5, 0.0]);
        assert_eq!(&image.values[14..16], [1.0, 1.0]);
    }

    #[test]
    fn a_reference_of_another_size_is_refused() {
        let image = Image::zeros(Geometry::new(4, 5));
        let raw = vec![RawRoi { pixels: vec![(0, 0, 1.0)], ..RawRoi::default() }];
        let error = RoiSet::from_raw(Geometry::new(4, 6), raw, Some(image), "test".into()).unwrap_err();
        assert_eq!(error.to_string(), "reference image is 4 x 5 pixels, expected 4 x 6");
    }

    #[test]
    fn a_plane_keeps_the_ids_of_the_file() {
        let raw = (0..4).map(|k| RawRoi { plane: k % 2, pixels: vec![(0, 0, 1.0)], ..RawRoi::default() }).collect();
        let set = RoiSet::from_raw(Geometry::new(4, 6), raw, None, "test".into()).unwrap();
        assert_eq!(set.of_plane(1).rois.iter().map(|roi| roi.id).collect::<Vec<_>>(), [1, 3]);
    }
}
