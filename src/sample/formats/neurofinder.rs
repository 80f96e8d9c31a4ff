//! Neurofinder's `regions.json`: a list of `{"id": .., "coordinates": [[row, column], ..]}`.
//!
//! In: the file and the size of the frames, which the file does not say. Out: a [`RoiSet`] with all weights 1; the
//! file's `id`, where it has one, becomes the name. Keys that we do not know are passed over, as the benchmark's own
//! tools do.

use super::{RoiFileError, agreed_geometry};
use crate::frame::Geometry;
use crate::sample::rois::{RawRoi, RoiSet};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Region {
    #[serde(default)]
    id: Option<RegionId>,
    coordinates: Vec<(i64, i64)>,
}

/// The benchmark has numbers, others write texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum RegionId {
    Number(i64),
    Text(String),
}

/// Reads the text of a `regions.json` that came from `path`.
pub fn read(path: &Path, text: &[u8], geometry: Option<Geometry>) -> Result<RoiSet, RoiFileError> {
    let regions: Vec<Region> =
        serde_json::from_slice(text).map_err(|error| RoiFileError::Json { path: path.into(), error })?;
    let how = "Neurofinder's regions.json does not hold it: give height_px and width_px";
    let geometry = agreed_geometry(path, None, geometry, how)?;
    let raw = regions
        .into_iter()
        .map(|region| RawRoi {
            name: region.id.map(|id| match id {
                RegionId::Number(number) => number.to_string(),
                RegionId::Text(text) => text,
            }),
            plane: 0,
            pixels: region.coordinates.into_iter().map(|(row, col)| (row, col, 1.0)).collect(),
            radius_px: None,
        })
        .collect();
    RoiSet::from_raw(geometry, raw, None, path.display().to_string())
        .map_err(|error| RoiFileError::Rois { path: path.into(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_keep_their_order_and_their_ids_as_names() {
        let text = br#"[{"id": 9000, "coordinates": [[1, 2], [1, 3]]}, {"coordinates": [[0, 0]], "more": 1}]"#;
        let set = read(Path::new("r.json"), text, Some(Geometry::new(4, 5))).unwrap();
        let names: Vec<_> = set.rois.iter().map(|roi| (roi.id, roi.name.as_str(), roi.pixels.len())).collect();
        assert_eq!(names, [(0, "9000", 2), (1, "1", 1)]);
        assert_eq!(set.rois[0].pixels[1].col, 3);
    }

    #[test]
    fn without_a_frame_size_the_error_says_how_to_give_it() {
        let error = read(Path::new("r.json"), b"[]", None).unwrap_err().to_string();
        assert!(error.contains("give height_px and width_px"), "{error}");
    }
}
