//! Cellpose's `_seg.npy`: one dictionary, pickled into a `.npy` file.
//!
//! In: its `masks`, an image of whole numbers in which 0 is ground and every other number a cell, or a stack of such
//! images, one a plane; and `img`, where it is one image of that size. Out: a [`RoiSet`] in the order of plane and
//! number, all weights 1, with the number as the name. A cell that goes through several planes becomes one ROI in each,
//! of the same name. All else (outlines, flows, settings) is taken apart as data and not used; nothing is executed.

use super::npy::{NpyError, NpyHeader, NumberType, element_count, matrix};
use super::pickle::{Array, Node, Pickle};
use super::raster::{Budget, RawPixels};
use super::suite2p::{object_items, object_pickle};
use super::{RoiFileError, agreed_geometry};
use crate::frame::{Geometry, Image};
use crate::sample::rois::{RawRoi, RoiSet};
use std::collections::BTreeMap;
use std::path::Path;

/// Whether a `.npy` file holds a single object, as `numpy.save` of a dictionary does; suite2p's `stat.npy` holds a
/// list.
pub(super) fn is_one_object(bytes: &[u8]) -> bool {
    NpyHeader::parse(bytes).is_ok_and(|header| header.dtype == "|O" && header.shape.is_empty())
}

/// Reads the bytes of a `_seg.npy` that came from `path`.
///
/// # Errors
/// It is no such file, is damaged, or was drawn on frames of another size.
pub fn read(path: &Path, bytes: &[u8], geometry: Option<Geometry>) -> Result<RoiSet, RoiFileError> {
    let value = |what: &str| RoiFileError::Value { path: path.into(), what: what.into() };
    let header = NpyHeader::parse(bytes).map_err(|error| RoiFileError::Npy { path: path.into(), error })?;
    let pickle = object_pickle(path, &header, bytes)?;
    let &[one] = object_items(path, &pickle)? else { return Err(value("holds several objects, expected one")) };
    let Node::Dict(dict) = pickle.node(one) else {
        return Err(value("holds no dictionary, expected Cellpose's with `masks`"));
    };
    let Some(Node::Array(masks)) = pickle.get(dict, "masks") else {
        let suite2p = pickle.get(dict, "Ly").is_some();
        let what = if suite2p { "is suite2p's ops.npy: give the stat.npy beside it" } else { "has no `masks`" };
        return Err(value(&format!("{what}, expected a dictionary of Cellpose with an array `masks`")));
    };
    let wrong = |what: String| RoiFileError::Value { path: path.into(), what: format!("`masks`: {what}") };
    let (planes, own) = match *masks.shape.as_slice() {
        [height, width] => (1, [height, width]),
        [planes, height, width] => (planes, [height, width]),
        _ => return Err(wrong(format!("shape {:?}, expected (rows, columns) or (planes, ..)", masks.shape))),
    };
    let [height_px, width_px] = own.map(|side| usize::try_from(side).unwrap_or(usize::MAX));
    let geometry = agreed_geometry(path, Some(Geometry { height_px, width_px }), geometry, "")?;
    let raw = cells(&pickle, masks, planes, geometry).map_err(wrong)?;
    let reference = match pickle.get(dict, "img") {
        Some(Node::Array(image)) => image_of(&pickle, image).ok().filter(|image| image.geometry == geometry),
        _ => None,
    };
    RoiSet::from_raw(geometry, raw, reference, path.display().to_string())
        .map_err(|error| RoiFileError::Rois { path: path.into(), error })
}

/// Number type and raw bytes of an array, whose size fits its shape.
fn numbers<'a>(pickle: &'a Pickle, array: &Array) -> Result<(NumberType, &'a [u8]), NpyError> {
    let name = pickle.dtype_name(array);
    let wrong = || NpyError::ElementType { dtype: name.into(), expected: "numbers" };
    let number = NumberType::parse(name).ok_or_else(wrong)?;
    let data = array.data.and_then(|id| pickle.raw(pickle.node(id))).ok_or_else(wrong)?;
    let expected = element_count(&array.shape).unwrap_or(u64::MAX).saturating_mul(number.size_bytes as u64);
    if data.len() as u64 != expected {
        return Err(NpyError::CutShort { got: data.len(), expected });
    }
    Ok((number, data))
}

/// Every cell of every plane.
fn cells(pickle: &Pickle, masks: &Array, planes: u64, frame: Geometry) -> Result<Vec<RawRoi>, String> {
    let (number, data) = numbers(pickle, masks).map_err(|error| error.to_string())?;
    let planes = usize::try_from(planes).map_err(|_| "too many planes".to_owned())?;
    let mut budget = Budget::new();
    let mut found: BTreeMap<(usize, u64), RawPixels> = BTreeMap::new();
    for (at, bytes) in data.chunks_exact(number.size_bytes).enumerate() {
        let label = number.decode(bytes).unwrap_or(0.0);
        if label == 0.0 {
            continue;
        }
        if !(label.fract() == 0.0 && (1.0..4_294_967_296.0).contains(&label)) {
            return Err(format!("holds {label}, expected 0 or the number of a cell"));
        }
        let (plane, row, col) = if masks.fortran_order {
            (at % planes, at / planes % frame.height_px, at / planes / frame.height_px)
        } else {
            (at / frame.count(), at / frame.width_px % frame.height_px, at % frame.width_px)
        };
        budget.spend(1)?;
        found.entry((plane, label as u64)).or_default().push((row as i64, col as i64, 1.0));
    }
    let raw = |((plane, label), pixels): ((usize, u64), _)| RawRoi {
        name: Some(label.to_string()),
        plane: plane as u32,
        pixels,
        radius_px: None,
    };
    Ok(found.into_iter().map(raw).collect())
}

fn image_of(pickle: &Pickle, array: &Array) -> Result<Image, NpyError> {
    let (number, data) = numbers(pickle, array)?;
    let (height_px, width_px, values) = matrix(number, array.fortran_order, &array.shape, data)?;
    Ok(Image { geometry: Geometry::new(height_px, width_px), values })
}
