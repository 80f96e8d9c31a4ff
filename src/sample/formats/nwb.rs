//! NWB: the one `PlaneSegmentation` of a file, as `image_mask` or `pixel_mask`.
//!
//! In: HDF5 with a table of the type `PlaneSegmentation` somewhere under `processing`. Out: a [`RoiSet`] with one ROI a
//! row, weights as they stand, the row's `id` as its name; a column `iscell` or `Accepted` comes out as `accepted`.
//!
//! **Which axis is which.** The standard has x (columns) before y (rows): `image_mask` is ROIs x width x height,
//! `pixel_mask` a list of (x, y, weight). Some writers (suite2p) put rows first. A caller who knows the frame's size
//! decides it where height and width differ: whichever order fits is taken. For a square frame the standard holds, and
//! [`RoiSet::transposed`] turns a set that then lies wrong.
//!
//! A `pixel_mask` does not hold the frame's size: it is taken from the file's `TwoPhotonSeries`, or the caller. A
//! `voxel_mask`, which goes through planes, is refused, and so is a file with several segmentations.

use super::hdf5::{MOST_BYTES, MOST_ROIS, Source, Table, shape_text};
use super::raster::Budget;
use super::{RoiFile, RoiFileError, agreed_geometry};
use crate::frame::Geometry;
use crate::sample::rois::{RawRoi, RoiSet};

/// Groups that are looked at; a file has some dozens.
const MOST_GROUPS: usize = 10_000;
/// Bytes of masks that are held at a time.
const RANGE_BYTES: u64 = 64 << 20;

/// Reads an open file.
pub(super) fn read(source: &Source, geometry: Option<Geometry>) -> Result<RoiFile, RoiFileError> {
    let table = segmentation(source)?;
    let column = |name: &str| source.table(&format!("{table}/{name}"));
    let (geometry, mut raw) = match (column("image_mask")?, column("pixel_mask")?) {
        (Some(masks), _) => image_masks(source, &table, &masks, geometry)?,
        (None, Some(pixels)) => pixel_masks(source, &table, &pixels, geometry)?,
        (None, None) => {
            let volume = if column("voxel_mask")?.is_some() { " but a voxel_mask, through several planes" } else { "" };
            return Err(source.wrong(format!("`{table}` has neither image_mask nor pixel_mask{volume}")));
        }
    };
    if let Some(ids) = column("id")?.filter(|ids| ids.shape == [raw.len() as u64]) {
        let ids = source.numbers(&ids, MOST_ROIS)?;
        raw.iter_mut().zip(ids).for_each(|(roi, id)| roi.name = Some(id.to_string()));
    }
    let accepted = accepted(source, &table, raw.len())?;
    let set = RoiSet::from_raw(geometry, raw, None, source.path.display().to_string())
        .map_err(|error| RoiFileError::Rois { path: source.path.into(), error })?;
    Ok(RoiFile { set, accepted, no_cells: Vec::new() })
}

/// The path of the one table of this type.
fn segmentation(source: &Source) -> Result<String, RoiFileError> {
    let mut found = Vec::new();
    // module, then container, then table: nothing lies deeper
    let mut level = vec!["processing".to_owned()];
    let mut seen = 0;
    for _ in 0..3 {
        let mut below = Vec::new();
        for parent in &level {
            for name in source.groups(parent) {
                seen += 1;
                if seen > MOST_GROUPS {
                    return Err(source.wrong(format!("`processing` holds more than {MOST_GROUPS} groups")));
                }
                let path = format!("{parent}/{name}");
                if source.text_attribute(&path, "neurodata_type").as_deref() == Some("PlaneSegmentation") {
                    found.push(path);
                } else {
                    below.push(path);
                }
            }
        }
        level = below;
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(source.wrong("no PlaneSegmentation under `processing`")),
        _ => Err(source.wrong(format!("several PlaneSegmentations, expected one: {}", found.join(", ")))),
    }
}

/// The frame's size, and whether the first axis of the file is the rows.
fn orientation(
    source: &Source,
    axes: Option<[u64; 2]>,
    caller: Option<Geometry>,
) -> Result<(Geometry, bool), RoiFileError> {
    let own = axes.map(|[x, y]| Geometry::new(y as usize, x as usize));
    let turned = own.map(|own| Geometry::new(own.width_px, own.height_px));
    let rows_first = own != turned && caller.is_some() && caller == turned;
    let how = "neither the masks nor a TwoPhotonSeries hold it: give the frame's height and width";
    let geometry = agreed_geometry(source.path, if rows_first { turned } else { own }, caller, how)?;
    Ok((geometry, rows_first))
}

type Masks = (Geometry, Vec<RawRoi>);

fn image_masks(source: &Source, table: &str, masks: &Table, caller: Option<Geometry>) -> Result<Masks, RoiFileError> {
    let &[count, first, second] = masks.shape.as_slice() else {
        let shape = shape_text(&masks.shape);
        return Err(source.wrong(format!("`{table}/image_mask` is {shape}, expected ROIs x width x height")));
    };
    let (geometry, rows_first) = orientation(source, Some([first, second]), caller)?;
    if count > MOST_ROIS || geometry.count() as u64 * 8 > MOST_BYTES {
        let shape = shape_text(&masks.shape);
        return Err(source.wrong(format!("`{table}/image_mask` is {shape}, expected at most {MOST_ROIS} ROIs")));
    }
    let mut budget = Budget::new();
    let mut raw = Vec::new();
    let step = (RANGE_BYTES / (geometry.count() as u64 * 8)).max(1);
    let mut begin = 0;
    while begin < count {
        let values = source.rows(masks, begin, step.min(count - begin))?;
        for mask in values.chunks_exact(geometry.count()) {
            let mut roi = RawRoi::default();
            for (at, &weight) in mask.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
                budget.spend(1).map_err(|what| source.wrong(what))?;
                let (a, b) = ((at as u64 / second) as i64, (at as u64 % second) as i64);
                let (row, col) = if rows_first { (a, b) } else { (b, a) };
                roi.pixels.push((row, col, weight as f32));
            }
            raw.push(roi);
        }
        begin += step;
    }
    Ok((geometry, raw))
}

fn pixel_masks(source: &Source, table: &str, pixels: &Table, caller: Option<Geometry>) -> Result<Masks, RoiFileError> {
    let index = source.wanted(&format!("{table}/pixel_mask_index"))?;
    let ends = source.numbers(&index, MOST_ROIS)?;
    let mut members = source.members(pixels, &["x", "y", "weight"])?.into_iter();
    let (Some(Some(xs)), Some(Some(ys)), weights) = (members.next(), members.next(), members.next().flatten()) else {
        return Err(source.wrong(format!("`{table}/pixel_mask` has no x and y")));
    };
    let (geometry, rows_first) = orientation(source, series_axes(source)?, caller)?;
    let mut budget = Budget::new();
    let mut raw = Vec::with_capacity(ends.len());
    let mut begin = 0;
    for &end in &ends {
        let whole = (end.fract() == 0.0 && end >= 0.0).then_some(end as usize);
        let span = whole.filter(|&end| end >= begin && end <= xs.len()).map(|end| begin..end).ok_or_else(|| {
            source.wrong(format!("`{table}/pixel_mask_index` holds {end}, expected {begin} to {}", xs.len()))
        })?;
        begin = span.end;
        budget.spend(span.len()).map_err(|what| source.wrong(what))?;
        let mut roi = RawRoi::default();
        for k in span {
            let (x, y) = (xs[k], ys[k]);
            if x.fract() != 0.0 || y.fract() != 0.0 {
                return Err(source.wrong(format!("`{table}/pixel_mask` holds ({x}, {y}), expected whole pixels")));
            }
            let (row, col) = if rows_first { (x, y) } else { (y, x) };
            let weight = weights.as_ref().and_then(|weights| weights.get(k)).map_or(1.0, |&weight| weight as f32);
            roi.pixels.push((row as i64, col as i64, weight));
        }
        raw.push(roi);
    }
    Ok((geometry, raw))
}

/// The two axes of the frames of the file's `TwoPhotonSeries`, where all of them agree.
fn series_axes(source: &Source) -> Result<Option<[u64; 2]>, RoiFileError> {
    let mut axes = None;
    for name in source.groups("acquisition").into_iter().take(MOST_GROUPS) {
        let path = format!("acquisition/{name}");
        if source.text_attribute(&path, "neurodata_type").as_deref() != Some("TwoPhotonSeries") {
            continue;
        }
        let stated = match source.table(&format!("{path}/dimension"))? {
            Some(table) if table.shape == [2] => source.numbers(&table, 2)?.iter().map(|&side| side as u64).collect(),
            _ => match source.table(&format!("{path}/data"))? {
                Some(table) if table.shape.len() == 3 => table.shape[1..].to_vec(),
                _ => continue,
            },
        };
        let &[first, second] = stated.as_slice() else { continue };
        if first == 0 || second == 0 {
            continue;
        }
        if axes.is_some_and(|axes| axes != [first, second]) {
            return Ok(None);
        }
        axes = Some([first, second]);
    }
    Ok(axes)
}

fn accepted(source: &Source, table: &str, count: usize) -> Result<Option<Vec<bool>>, RoiFileError> {
    for name in ["iscell", "Accepted"] {
        let Some(column) = source.table(&format!("{table}/{name}"))? else { continue };
        let width = match *column.shape.as_slice() {
            [rows] if rows == count as u64 => 1,
            [rows, width @ 1..=16] if rows == count as u64 => width as usize,
            _ => continue,
        };
        let values = source.numbers(&column, MOST_ROIS * 16)?;
        return Ok(Some(values.chunks_exact(width).map(|row| row[0] > 0.5).collect()));
    }
    Ok(None)
}
