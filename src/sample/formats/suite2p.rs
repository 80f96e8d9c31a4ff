//! suite2p's `stat.npy`, with `ops.npy` where it stands beside it.
//!
//! In: an array of dictionaries, one a cell, of which `ypix` (rows), `xpix` (columns), `lam` (weights, 1 without it),
//! `radius` (pixels) and `iplane` (plane, 0 without it) are read; `Ly`, `Lx` and `meanImg` of `ops.npy`. Out: a
//! [`RoiSet`] with all pixels of each cell, also those that suite2p marks as `overlap`, and all cells, also those that
//! `iscell.npy` calls none ([`accepted`] says which). Whoever selects cells does so by id, which is the row number in
//! every other file of suite2p.

use super::npy::{NpyHeader, matrix, matrix_from_npy};
use super::pickle::{Node, NodeId, Pickle};
use super::{NpyError, RoiFileError, agreed_geometry, read_bytes, text_excerpt};
use crate::frame::{Geometry, Image};
use crate::sample::rois::{RawRoi, RoiSet};
use std::path::Path;

/// What `ops.npy` says that matters here.
#[derive(Default)]
struct Ops {
    geometry: Option<Geometry>,
    mean_image: Option<Image>,
}

/// Reads the bytes of a `stat.npy` that lies at `path` (where its `ops.npy` is looked for).
pub fn read(path: &Path, bytes: &[u8], geometry: Option<Geometry>) -> Result<RoiSet, RoiFileError> {
    let header = NpyHeader::parse(bytes).map_err(|error| RoiFileError::Npy { path: path.into(), error })?;
    let pickle = object_pickle(path, &header, bytes)?;
    let items = object_items(path, &pickle)?;
    let mut raw = Vec::with_capacity(items.len());
    for (entry, &id) in items.iter().enumerate() {
        let roi = raw_roi(&pickle, id).map_err(|what| RoiFileError::Entry { path: path.into(), entry, what })?;
        raw.push(roi);
    }
    let ops_path = path.with_file_name("ops.npy");
    let ops = if ops_path.is_file() { read_ops(&ops_path)? } else { Ops::default() };
    let how = "put suite2p's ops.npy beside stat.npy, or give height_px and width_px";
    let geometry = agreed_geometry(path, ops.geometry, geometry, how)?;
    RoiSet::from_raw(geometry, raw, ops.mean_image, path.display().to_string())
        .map_err(|error| RoiFileError::Rois { path: path.into(), error })
}

/// The size of the frames that an `ops.npy` tells of.
///
/// # Errors
/// The file is missing, or is not suite2p's.
pub fn read_ops_geometry(path: &Path) -> Result<Geometry, RoiFileError> {
    let value = || RoiFileError::Value { path: path.into(), what: "has no Ly and Lx".into() };
    read_ops(path)?.geometry.ok_or_else(value)
}

/// What the `iscell.npy` beside a `stat.npy` of so many cells says of each: whether it is one. `None` without the file.
///
/// # Errors
/// The file cannot be read, or belongs to another `stat.npy`.
pub fn accepted(stat: &Path, cells: usize) -> Result<Option<Vec<bool>>, RoiFileError> {
    let path = stat.with_file_name("iscell.npy");
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = read_bytes(&path)?;
    let npy = |error| RoiFileError::Npy { path: path.clone(), error };
    let (rows, cols, values) = matrix_from_npy(&bytes).map_err(npy)?;
    if rows != cells || cols == 0 {
        let what = format!("{rows} x {cols} values, expected one row for each of the {cells} cells of stat.npy");
        return Err(RoiFileError::Value { path, what });
    }
    Ok(Some(values.chunks_exact(cols).map(|row| row[0] > 0.5).collect()))
}

fn read_ops(path: &Path) -> Result<Ops, RoiFileError> {
    let bytes = read_bytes(path)?;
    let value = |what: String| RoiFileError::Value { path: path.into(), what };
    let header = NpyHeader::parse(&bytes).map_err(|error| RoiFileError::Npy { path: path.into(), error })?;
    let pickle = object_pickle(path, &header, &bytes)?;
    let dict = match object_items(path, &pickle)? {
        [one] => match pickle.node(*one) {
            Node::Dict(dict) => dict,
            _ => return Err(value("holds no dictionary, expected suite2p's options".into())),
        },
        several => return Err(value(format!("holds {} objects, expected one dictionary", several.len()))),
    };
    let side = |key: &str| -> Result<usize, RoiFileError> {
        let node = pickle.get(dict, key).ok_or_else(|| value(format!("has no `{key}`, expected the frame's size")))?;
        let side = pickle.integer(node).and_then(|side| usize::try_from(side).ok());
        side.ok_or_else(|| value(format!("`{key}` is no whole number, expected the frame's size in pixels")))
    };
    let geometry = Geometry::new(side("Ly")?, side("Lx")?);
    let mean_image = match pickle.get(dict, "meanImg") {
        None | Some(Node::None) => None,
        Some(Node::Array(array)) => {
            let npy = |error: NpyError| value(format!("`meanImg`: {error}"));
            let name = pickle.dtype_name(array);
            let number = super::npy::NumberType::parse(name)
                .ok_or_else(|| npy(NpyError::ElementType { dtype: name.into(), expected: "numbers" }))?;
            let data = array.data.and_then(|id| pickle.raw(pickle.node(id))).unwrap_or_default();
            let (height_px, width_px, values) = matrix(number, array.fortran_order, &array.shape, data).map_err(npy)?;
            Some(Image { geometry: Geometry::new(height_px, width_px), values })
        }
        Some(_) => return Err(value("`meanImg` is no array, expected an image of Ly x Lx".into())),
    };
    Ok(Ops { geometry: Some(geometry), mean_image })
}

pub(super) fn object_pickle<'a>(path: &Path, header: &NpyHeader, bytes: &'a [u8]) -> Result<Pickle<'a>, RoiFileError> {
    if header.dtype != "|O" {
        let error = NpyError::ElementType { dtype: text_excerpt(header.dtype.as_bytes()), expected: "objects (`|O`)" };
        return Err(RoiFileError::Npy { path: path.into(), error });
    }
    Pickle::parse(bytes.get(header.data_start..).unwrap_or_default())
        .map_err(|error| RoiFileError::Pickle { path: path.into(), error })
}

/// The objects of the outermost array.
pub(super) fn object_items<'a>(path: &Path, pickle: &'a Pickle<'a>) -> Result<&'a [NodeId], RoiFileError> {
    let items = match pickle.root() {
        Node::Array(array) if array.shape.len() <= 1 => match array.data.map(|id| pickle.node(id)) {
            Some(Node::List(items)) => (array.shape.iter().product::<u64>() == items.len() as u64).then_some(items),
            _ => None,
        },
        _ => None,
    };
    let what = "holds no list of objects, expected an array with one dictionary for each cell";
    Ok(items.ok_or_else(|| RoiFileError::Value { path: path.into(), what: what.into() })?.as_slice())
}

fn raw_roi(pickle: &Pickle, id: NodeId) -> Result<RawRoi, String> {
    let Node::Dict(dict) = pickle.node(id) else {
        return Err("no dictionary, expected one with `ypix` and `xpix`".into());
    };
    let column = |key: &str| -> Result<Option<Vec<f64>>, String> {
        let Some(node) = pickle.get(dict, key) else { return Ok(None) };
        pickle.numbers(node).map(Some).map_err(|error| format!("`{key}`: {error}"))
    };
    let rows = column("ypix")?.ok_or("no `ypix`, expected the rows of its pixels")?;
    let cols = column("xpix")?.ok_or("no `xpix`, expected the columns of its pixels")?;
    let weights = column("lam")?.unwrap_or_else(|| vec![1.0; rows.len()]);
    if rows.len() != cols.len() || rows.len() != weights.len() {
        let (r, c, w) = (rows.len(), cols.len(), weights.len());
        return Err(format!("`ypix`, `xpix`, `lam` have lengths {r}, {c}, {w}, expected one length"));
    }
    let whole = |value: f64, key: &str| -> Result<i64, String> {
        let fits = value.fract() == 0.0 && value.abs() < 9e15;
        if fits { Ok(value as i64) } else { Err(format!("`{key}` holds {value}, expected whole numbers")) }
    };
    let plane = match pickle.get(dict, "iplane") {
        None => 0,
        Some(node) => pickle.integer(node).and_then(|plane| u32::try_from(plane).ok()).ok_or("`iplane` is no plane")?,
    };
    let mut pixels = Vec::with_capacity(rows.len());
    for ((&row, &col), &weight) in rows.iter().zip(&cols).zip(&weights) {
        pixels.push((whole(row, "ypix")?, whole(col, "xpix")?, weight as f32));
    }
    let radius_px = match pickle.get(dict, "radius") {
        None | Some(Node::None) => None,
        // suite2p's radius of a single pixel is 0
        Some(node) => Some(pickle.number(node).ok_or("`radius` is no number")?).filter(|&px| px != 0.0),
    };
    Ok(RawRoi { name: None, plane, pixels, radius_px })
}
