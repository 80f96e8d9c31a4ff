//! Our own ROI file: plain JSON that a person can write.
//!
//! ```json
//! {
//!   "height_px": 512, "width_px": 512,
//!   "reference": "mean.npy",
//!   "rois": [
//!     { "name": "soma 1", "plane": 0, "polygon": [[10, 12], [10, 20.5], [18, 16]] },
//!     { "disc": { "row": 40, "col": 52.5, "radius_px": 6 } },
//!     { "name": "dendrite 1", "pixels": [[70, 81], [70, 82, 0.5]] }
//!   ]
//! }
//! ```
//!
//! Coordinates are `[row, column]` in pixels; whole numbers are the pixels' centres, (0, 0) is the centre of the top
//! left one. Each ROI has exactly one of:
//! * `polygon`: corners in order, at least three; pixels whose centre lies inside (even-odd rule; of a centre that lies
//!   exactly on an edge, top and left edges count as inside, bottom and right ones do not, so that polygons side by
//!   side share no pixel), weight 1;
//! * `disc`: pixels whose centre is at most `radius_px` away, weight 1;
//! * `pixels`: `[row, column]` or `[row, column, weight]`, weight 1 where it is not given.
//!
//! `name`, `plane` (0) and `radius_px` (of the cell; what suite2p calls `radius`) may be left out. `height_px` and
//! `width_px` may be left out where the caller knows them.
//! `reference` may be left out; it is the path of a 2-D numeric `.npy` file, taken from the folder of the JSON file, or
//! the image itself as a list of rows. Other keys are errors, so that a misspelt one is not silently lost.
//!
//! [`write()`] writes the same format: pixels with their weights, the reference as rows if the file had one. What was
//! read, written and read again is equal bit for bit.

use super::npy::matrix_from_npy;
use super::raster::{Budget, RawPixels, inside, where_true};
use super::{RoiFileError, agreed_geometry, read_bytes};
use crate::frame::{Geometry, Image};
use crate::sample::rois::{RawRoi, ReferenceKind, RoiSet};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    height_px: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    width_px: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reference: Option<ReferenceEntry>,
    rois: Vec<RoiEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoiEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default)]
    plane: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    polygon: Option<Vec<(f64, f64)>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disc: Option<DiscEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pixels: Option<Vec<PixelEntry>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    radius_px: Option<f64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiscEntry {
    row: f64,
    col: f64,
    radius_px: f64,
}

struct PixelEntry(i64, i64, f32);

impl Serialize for PixelEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(None)?;
        seq.serialize_element(&self.0)?;
        seq.serialize_element(&self.1)?;
        if self.2 != 1.0 {
            seq.serialize_element(&self.2)?;
        }
        seq.end()
    }
}

impl<'de> Deserialize<'de> for PixelEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PixelVisitor;
        impl<'de> Visitor<'de> for PixelVisitor {
            type Value = PixelEntry;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("[row, column] or [row, column, weight]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PixelEntry, A::Error> {
                let row = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
                let col = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(1, &self))?;
                Ok(PixelEntry(row, col, seq.next_element()?.unwrap_or(1.0)))
            }
        }
        deserializer.deserialize_seq(PixelVisitor)
    }
}

enum ReferenceEntry {
    Path(String),
    Rows(Vec<Vec<f32>>),
}

impl Serialize for ReferenceEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ReferenceEntry::Path(path) => serializer.serialize_str(path),
            ReferenceEntry::Rows(rows) => rows.serialize(serializer),
        }
    }
}

// By hand and not `untagged`, which would pass every f32 through an f64 and lose the guarantee of equal bits.
impl<'de> Deserialize<'de> for ReferenceEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ReferenceVisitor;
        impl<'de> Visitor<'de> for ReferenceVisitor {
            type Value = ReferenceEntry;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("the path of a .npy file, or a list of rows of numbers")
            }
            fn visit_str<E: Error>(self, path: &str) -> Result<ReferenceEntry, E> {
                Ok(ReferenceEntry::Path(path.into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ReferenceEntry, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = seq.next_element()? {
                    rows.push(row);
                }
                Ok(ReferenceEntry::Rows(rows))
            }
        }
        deserializer.deserialize_any(ReferenceVisitor)
    }
}

/// Reads the text of one of our files that came from `path` (where a reference image is looked for).
pub fn read(path: &Path, text: &[u8], geometry: Option<Geometry>) -> Result<RoiSet, RoiFileError> {
    let file: FileEntry =
        serde_json::from_slice(text).map_err(|error| RoiFileError::Json { path: path.into(), error })?;
    let own = match (file.height_px, file.width_px) {
        (Some(height_px), Some(width_px)) => Some(Geometry { height_px, width_px }),
        (None, None) => None,
        _ => {
            let what = "has one of height_px and width_px, expected both or none".into();
            return Err(RoiFileError::Value { path: path.into(), what });
        }
    };
    let geometry = agreed_geometry(path, own, geometry, "add height_px and width_px")?;
    let reference = file.reference.map(|entry| reference_image(path, entry)).transpose()?;
    let mut raw = Vec::with_capacity(file.rois.len());
    let mut budget = Budget::new();
    for (entry, roi) in file.rois.into_iter().enumerate() {
        let pixels = pixels_of(&roi, geometry, &mut budget).map_err(|what| RoiFileError::Entry {
            path: path.into(),
            entry,
            what,
        })?;
        raw.push(RawRoi { name: roi.name, plane: roi.plane, pixels, radius_px: roi.radius_px });
    }
    RoiSet::from_raw(geometry, raw, reference, path.display().to_string())
        .map_err(|error| RoiFileError::Rois { path: path.into(), error })
}

/// The text of our file for a set of ROIs. A reference that was only rendered from the masks is left out.
pub fn write(set: &RoiSet) -> String {
    let rows = |image: &Image| image.values.chunks(image.geometry.width_px.max(1)).map(<[f32]>::to_vec).collect();
    let given = set.reference.as_ref().filter(|_| set.reference_kind == ReferenceKind::Given);
    let rois = set.rois.iter().map(|roi| RoiEntry {
        name: Some(roi.name.clone()),
        plane: roi.plane,
        polygon: None,
        disc: None,
        pixels: Some(roi.pixels.iter().map(|p| PixelEntry(p.row.into(), p.col.into(), p.weight)).collect()),
        radius_px: roi.radius_told_px,
    });
    let file = FileEntry {
        height_px: Some(set.geometry.height_px),
        width_px: Some(set.geometry.width_px),
        reference: given.map(|image| ReferenceEntry::Rows(rows(image))),
        rois: rois.collect(),
    };
    // Writing numbers and texts to memory has no way to fail.
    serde_json::to_string(&file).unwrap_or_default()
}

fn reference_image(path: &Path, entry: ReferenceEntry) -> Result<Image, RoiFileError> {
    match entry {
        ReferenceEntry::Path(name) => {
            let image_path = path.parent().unwrap_or(Path::new("")).join(name);
            let bytes = read_bytes(&image_path)?;
            let (height_px, width_px, values) =
                matrix_from_npy(&bytes).map_err(|error| RoiFileError::Npy { path: image_path, error })?;
            Ok(Image { geometry: Geometry { height_px, width_px }, values })
        }
        ReferenceEntry::Rows(rows) => {
            let width_px = rows.first().map_or(0, Vec::len);
            if let Some(row) = rows.iter().position(|row| row.len() != width_px) {
                let got = rows[row].len();
                let what = format!("reference: row {row} has {got} values, expected {width_px} as in row 0");
                return Err(RoiFileError::Value { path: path.into(), what });
            }
            Ok(Image { geometry: Geometry { height_px: rows.len(), width_px }, values: rows.concat() })
        }
    }
}

fn pixels_of(roi: &RoiEntry, geometry: Geometry, budget: &mut Budget) -> Result<RawPixels, String> {
    match (&roi.polygon, &roi.disc, &roi.pixels) {
        (Some(corners), None, None) if corners.len() < 3 => {
            Err("a polygon of fewer than 3 corners, expected at least 3".into())
        }
        (Some(corners), None, None) => inside(&[corners], geometry, budget),
        (None, Some(disc), None) => disc_pixels(disc, geometry, budget),
        (None, None, Some(pixels)) => Ok(pixels.iter().map(|p| (p.0, p.1, p.2)).collect()),
        _ => Err("expected exactly one of `polygon`, `disc`, `pixels`".into()),
    }
}

fn disc_pixels(disc: &DiscEntry, geometry: Geometry, budget: &mut Budget) -> Result<RawPixels, String> {
    let &DiscEntry { row, col, radius_px } = disc;
    if !(0.0..=1e6).contains(&radius_px) {
        return Err("`radius_px` of a disc, expected 0 to 1000000".into());
    }
    let (top_left, bottom_right) = ((row - radius_px, col - radius_px), (row + radius_px, col + radius_px));
    where_true(top_left, bottom_right, geometry, budget, |r, c| {
        let (dy, dx) = (r - row, c - col);
        dy * dy + dx * dx <= radius_px * radius_px
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<RoiSet, RoiFileError> {
        read(Path::new("rois.json"), text.as_bytes(), None)
    }

    fn one(shape: &str) -> Result<Vec<(u32, u32, f32)>, RoiFileError> {
        let set = parse(&format!(r#"{{"height_px": 20, "width_px": 30, "rois": [{{{shape}}}]}}"#))?;
        Ok(set.rois[0].pixels.iter().map(|p| (p.row, p.col, p.weight)).collect())
    }

    #[test]
    fn a_polygon_holds_the_pixels_whose_centres_lie_inside() {
        let square = one(r#""polygon": [[1.5, 2.5], [1.5, 4.5], [3.5, 4.5], [3.5, 2.5]]"#).unwrap();
        assert_eq!(square, [(2, 3, 1.0), (2, 4, 1.0), (3, 3, 1.0), (3, 4, 1.0)]);
        // of a centre on an edge, the top and the left count
        let on_centres = one(r#""polygon": [[2, 3], [2, 5], [4, 5], [4, 3]]"#).unwrap();
        assert_eq!(on_centres, square);
        let triangle = one(r#""polygon": [[0, 0], [0, 4], [4, 0]]"#).unwrap();
        assert_eq!(triangle.len(), 4 + 3 + 2 + 1);
    }

    #[test]
    fn a_disc_holds_the_pixels_within_its_radius() {
        assert_eq!(one(r#""disc": {"row": 5, "col": 5, "radius_px": 1}"#).unwrap().len(), 5);
        assert_eq!(one(r#""disc": {"row": 5, "col": 5, "radius_px": 0}"#).unwrap(), [(5, 5, 1.0)]);
        assert_eq!(one(r#""disc": {"row": 5.5, "col": 5.5, "radius_px": 0.8}"#).unwrap().len(), 4);
    }

    #[test]
    fn pixels_have_the_weight_1_unless_it_is_given() {
        assert_eq!(one(r#""pixels": [[1, 2], [1, 3, 0.25]]"#).unwrap(), [(1, 2, 1.0), (1, 3, 0.25)]);
        assert!(one(r#""pixels": [[1]]"#).is_err());
        assert!(one(r#""pixels": [[1, 2, 3, 4]]"#).is_err());
    }

    #[test]
    fn shapes_that_stick_out_of_the_frame_are_refused() {
        for shape in [
            r#""disc": {"row": 0, "col": 5, "radius_px": 2}"#,
            r#""disc": {"row": 1e300, "col": 5, "radius_px": 2}"#,
            r#""polygon": [[1, 2], [1, 1e9], [3, 4]]"#,
            r#""pixels": [[20, 0]]"#,
        ] {
            let error = one(shape).unwrap_err().to_string();
            let named = error.contains("outside the frame of 20 x 30 pixels") || error.contains("has no pixels");
            assert!(named, "{error}");
        }
    }

    #[test]
    fn an_roi_has_exactly_one_shape_and_no_unknown_keys() {
        assert!(one(r#""name": "a""#).unwrap_err().to_string().contains("entry 0: expected exactly one of"));
        assert!(one(r#""pixels": [[1, 1]], "polygon": [[1, 1]]"#).is_err());
        assert!(one(r#""pixels": [[1, 1]], "wieght": 1"#).unwrap_err().to_string().contains("wieght"));
        let half = r#"{"height_px": 20, "rois": []}"#;
        assert!(parse(half).unwrap_err().to_string().contains("expected both or none"));
        assert!(parse(r#"{"rois": []}"#).unwrap_err().to_string().contains("add height_px and width_px"));
        let error = read(Path::new("x"), br#"{"height_px": 2, "width_px": 2, "rois": []}"#, Some(Geometry::new(2, 3)));
        assert_eq!(error.unwrap_err().to_string(), "x: drawn on frames of 2 x 2 pixels, expected 2 x 3");
    }

    #[test]
    fn a_reference_may_be_rows_and_must_have_the_size_of_the_frame() {
        let text = |rows: &str| format!(r#"{{"height_px": 2, "width_px": 2, "reference": {rows}, "rois": []}}"#);
        let set = parse(&text("[[1, 2.5], [3, 4]]")).unwrap();
        assert_eq!(set.reference.unwrap().values, [1.0, 2.5, 3.0, 4.0]);
        assert_eq!(set.reference_kind, ReferenceKind::Given);
        let ragged = parse(&text("[[1, 2], [3]]")).unwrap_err().to_string();
        assert_eq!(ragged, "rois.json: reference: row 1 has 1 values, expected 2 as in row 0");
        let small = parse(&text("[[1, 2]]")).unwrap_err().to_string();
        assert_eq!(small, "rois.json: reference image is 1 x 2 pixels, expected 2 x 2");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back_bit_for_bit(
            weights in proptest::collection::vec(prop_oneof![Just(1.0_f32), 0.0_f32..1e30, 1e-30_f32..1e-3], 1..20),
            values in proptest::collection::vec(-1e9_f32..1e9, 6 * 7),
        ) {
            let geometry = Geometry::new(6, 7);
            let pixels = weights.iter().enumerate().map(|(k, &w)| (k as i64 / 7, k as i64 % 7, w)).collect();
            let raw = RawRoi { name: Some("a \"b\"".into()), plane: 2, pixels, radius_px: Some(3.25) };
            let image = Image { geometry, values };
            let Ok(set) = RoiSet::from_raw(geometry, vec![raw], Some(image), "rois.json".into()) else { return Ok(()) };
            prop_assert_eq!(parse(&write(&set)).unwrap(), set);
        }

        #[test]
        fn no_text_makes_the_reader_panic(
            text in r#"\{("rois"|"height_px"|"reference"|:|,|\[|\]|\{|\}|-?[0-9]{1,3}){0,30}"#
        ) {
            let _ = parse(&text);
        }
    }
}
