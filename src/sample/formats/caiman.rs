//! CaImAn's results in HDF5: the sparse matrix of footprints, `estimates/A`.
//!
//! In: `data`, `indices`, `indptr`, `shape` of the matrix (compressed by columns, one column a component), whose rows
//! are the pixels of the frame counted **down the columns** (Fortran order: pixel = row + column x height); and the
//! frame's size, `estimates/dims` or `dims`. Out: a [`RoiSet`] with one ROI a component, in their order, weights as
//! they stand. All components, also those that `estimates/idx_components` leaves out: that list comes out as
//! `accepted`. Volumes (three `dims`) are refused: a footprint through several planes is no ROI of one.

use super::hdf5::{MOST_ROIS, Source};
use super::raster::Budget;
use super::{RoiFile, RoiFileError, agreed_geometry};
use crate::frame::Geometry;
use crate::sample::rois::{RawRoi, RoiSet};

/// Reads an open file.
pub(super) fn read(source: &Source, geometry: Option<Geometry>) -> Result<RoiFile, RoiFileError> {
    let list = |name: &str, most: u64| {
        let table = source.wanted(&format!("estimates/A/{name}"))?;
        source.numbers(&table, most)
    };
    let shape = list("shape", 2)?;
    let &[pixels, components] = shape.as_slice() else {
        return Err(source.wrong("`estimates/A/shape` is no pair, expected (pixels, components)"));
    };
    let geometry = frame(source, geometry)?;
    if pixels != geometry.count() as f64 || !(0.0..=MOST_ROIS as f64).contains(&components) {
        let Geometry { height_px, width_px } = geometry;
        let what = format!("`estimates/A` is {pixels} x {components}, expected the {height_px} x {width_px} pixels of");
        return Err(source.wrong(format!("{what} the frame and at most {MOST_ROIS} components")));
    }
    let starts = list("indptr", MOST_ROIS + 1)?;
    let (weights, indices) = (list("data", 1 << 24)?, list("indices", 1 << 24)?);
    let count = weights.len();
    let ordered = starts.windows(2).all(|pair| pair[0] <= pair[1]) && starts.iter().all(|start| start.fract() == 0.0);
    let ends = (starts.first().copied(), starts.last().copied());
    let fits = starts.len() as f64 == components + 1.0 && ends == (Some(0.0), Some(count as f64)) && ordered;
    if indices.len() != count || !fits {
        let (i, p) = (indices.len(), starts.len());
        let what =
            format!("`estimates/A` has {count} data, {i} indices and {p} column starts that do not fit together");
        return Err(source.wrong(what));
    }
    let mut budget = Budget::new();
    let mut raw = Vec::with_capacity(starts.len());
    for pair in starts.windows(2) {
        let span = pair[0] as usize..pair[1] as usize;
        let mut roi = RawRoi::default();
        for (&index, &weight) in indices[span.clone()].iter().zip(&weights[span]) {
            budget.spend(1).map_err(|what| source.wrong(what))?;
            if !(index.fract() == 0.0 && (0.0..pixels).contains(&index)) {
                return Err(
                    source.wrong(format!("`estimates/A/indices` holds {index}, expected 0 to {}", pixels - 1.0))
                );
            }
            // a weight of 0 that the matrix happens to store is no pixel of the footprint
            if weight != 0.0 {
                let index = index as usize;
                let place = (index % geometry.height_px, index / geometry.height_px);
                roi.pixels.push((place.0 as i64, place.1 as i64, weight as f32));
            }
        }
        raw.push(roi);
    }
    let accepted = accepted(source, raw.len())?;
    let set = RoiSet::from_raw(geometry, raw, None, source.path.display().to_string())
        .map_err(|error| RoiFileError::Rois { path: source.path.into(), error })?;
    Ok(RoiFile { set, accepted, no_cells: Vec::new() })
}

/// The frame's size; CaImAn writes a text where it has none.
fn frame(source: &Source, caller: Option<Geometry>) -> Result<Geometry, RoiFileError> {
    let mut own = None;
    for name in ["estimates/dims", "dims"] {
        let Some(table) = source.table(name)?.filter(|table| !table.shape.is_empty()) else { continue };
        let sides = source.numbers(&table, 3)?;
        match *sides.as_slice() {
            [height, width] if height >= 1.0 && width >= 1.0 => {
                own = Some(Geometry::new(height as usize, width as usize));
                break;
            }
            [_, _, _] => {
                return Err(source.wrong(format!("`{name}` is {sides:?}: a volume, expected frames of one plane")));
            }
            _ => return Err(source.wrong(format!("`{name}` is {sides:?}, expected rows and columns"))),
        }
    }
    agreed_geometry(source.path, own, caller, "the file has no `dims`: give the frame's height and width")
}

fn accepted(source: &Source, components: usize) -> Result<Option<Vec<bool>>, RoiFileError> {
    let name = "estimates/idx_components";
    let Some(table) = source.table(name)?.filter(|table| table.shape.len() == 1) else { return Ok(None) };
    let mut accepted = vec![false; components];
    for index in source.numbers(&table, MOST_ROIS)? {
        let known = (index.fract() == 0.0 && index >= 0.0).then(|| accepted.get_mut(index as usize)).flatten();
        let wrong = || source.wrong(format!("`{name}` holds {index}, expected the numbers of {components} components"));
        *known.ok_or_else(wrong)? = true;
    }
    Ok(Some(accepted))
}
