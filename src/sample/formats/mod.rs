//! ROI files: which kinds there are, and how one is told from another.
//!
//! In: a path and, where the file does not say it, the size of the frames. Out: a [`RoiSet`] in the order of the file.
//!
//! | file | told by | frame size | reference |
//! |---|---|---|---|
//! | suite2p `stat.npy` | `\x93NUMPY`, a list of objects | `Ly`, `Lx` of its `ops.npy`, or the caller | its `meanImg` |
//! | Cellpose `_seg.npy` | `\x93NUMPY`, one object | its `masks` | its `img`, where it is one image |
//! | CaImAn HDF5 | `\x89HDF`, `estimates/A` | `dims` | none |
//! | NWB | `\x89HDF`, a `PlaneSegmentation` | `image_mask`, the `TwoPhotonSeries`, or the caller | none |
//! | ImageJ `.roi` | `Iout` | the caller | none |
//! | ImageJ `.zip` of them | `PK` | the caller | none |
//! | Neurofinder `regions.json` | a JSON list | the caller | none |
//! | our own JSON ([`json`]) | a JSON object | `height_px`, `width_px`, or the caller | `reference` |
//!
//! When file and caller both say a size, they must agree. The content decides, not the name. Pixels that the file
//! counts in another order (CaImAn by columns, NWB and ImageJ x before y) come out as row and column.
//!
//! Out again: our JSON ([`json::write()`]) and suite2p's folder ([`suite2p_write`]).

pub mod caiman;
pub mod cellpose;
mod hdf5;
pub mod imagej;
pub mod json;
pub mod neurofinder;
mod npy;
pub mod nwb;
mod pickle;
mod raster;
pub mod suite2p;
pub mod suite2p_write;

pub use npy::NpyError;
pub use pickle::PickleError;

use crate::frame::Geometry;
use crate::sample::rois::{RoiSet, RoiSetError};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a file of ROIs holds.
#[derive(Debug, Clone, PartialEq)]
pub struct RoiFile {
    /// The ROIs. Their ids are their places in the file.
    pub set: RoiSet,
    /// For each of `set.rois`, whether whoever made the file took it for a cell (suite2p's `iscell.npy`, CaImAn's
    /// `idx_components`, a column `iscell` or `Accepted` of NWB), where the file says so. Nothing is left out by it.
    pub accepted: Option<Vec<bool>>,
    /// What the file holds beside them and has no area.
    pub no_cells: Vec<NoCell>,
}

/// Something in a file of ROIs that has no area: a line, a point, a text of ImageJ.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NoCell {
    /// Its place in the file, from 0.
    pub id: u32,
    /// Its name, or that of its file.
    pub name: String,
    /// What it is.
    pub kind: String,
}

/// Largest file that is read, in bytes. A `stat.npy` of ten thousand cells has about 80 MB.
pub const MAX_FILE_BYTES: u64 = 512 << 20;

/// Why a file of ROIs was refused.
#[derive(Debug, thiserror::Error)]
pub enum RoiFileError {
    /// The operating system could not read it.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Larger than any file of ROIs should be.
    #[error("{}: {bytes} bytes, expected at most {limit}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// None of the kinds that are known.
    #[error(
        "{}: begins with `{found}`, expected suite2p's stat.npy, Cellpose's _seg.npy, ImageJ's .roi or .zip, \
         HDF5 of CaImAn or NWB, Neurofinder's regions.json, or JSON with `rois`",
        path.display()
    )]
    UnknownKind {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// A `.npy` file that could not be read.
    #[error("{}: {error}", path.display())]
    Npy {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: NpyError,
    },
    /// A `.npy` file whose objects could not be read.
    #[error("{}: {error}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: PickleError,
    },
    /// A JSON file that could not be read.
    #[error("{}: {error}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        error: serde_json::Error,
    },
    /// An HDF5 file that could not be read.
    #[error("{}: HDF5: {what}", path.display())]
    Hdf5 {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Things without an area where only cells can be used.
    #[error(
        "{}: {} no area and so no cell: {}; take it out of the file",
        path.display(), counted(.no_cells), listed(.no_cells)
    )]
    NoArea {
        /// The file.
        path: PathBuf,
        /// What they are.
        no_cells: Vec<NoCell>,
    },
    /// An entry of the file that does not describe an ROI.
    #[error("{}: entry {entry}: {what}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Position in the file, from 0.
        entry: usize,
        /// What was found and what was expected.
        what: String,
    },
    /// A value beside the ROIs (such as `Ly`) that does not fit.
    #[error("{}: {what}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        what: String,
    },
    /// Nobody said how large the frames are.
    #[error("{}: the frame size is unknown; {how}", path.display())]
    GeometryUnknown {
        /// The file.
        path: PathBuf,
        /// How to say it.
        how: &'static str,
    },
    /// The file was drawn on frames of another size.
    #[error(
        "{}: drawn on frames of {} x {} pixels, expected {} x {}",
        path.display(), file.height_px, file.width_px, expected.height_px, expected.width_px
    )]
    GeometryMismatch {
        /// The file.
        path: PathBuf,
        /// What the file says.
        file: Geometry,
        /// What the caller says.
        expected: Geometry,
    },
    /// ROIs that do not fit into the frame, or a reference that does not fit to it.
    #[error("{}: {error}", path.display())]
    Rois {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: RoiSetError,
    },
}

/// Reads a file of ROIs of any known kind. `geometry` is the size of the frames, where the caller knows it.
///
/// # Errors
/// The file cannot be read, or holds something that is no cell.
pub fn read_rois(path: &Path, geometry: Option<Geometry>) -> Result<RoiSet, RoiFileError> {
    let (RoiFile { set, no_cells, .. }, _) = read_alone(path, geometry)?;
    if no_cells.is_empty() { Ok(set) } else { Err(RoiFileError::NoArea { path: path.into(), no_cells }) }
}

/// As [`read_rois`], with what the file, and the `iscell.npy` beside one of suite2p, say of its ROIs.
///
/// # Errors
/// The file cannot be read.
pub fn read_roi_file(path: &Path, geometry: Option<Geometry>) -> Result<RoiFile, RoiFileError> {
    let (mut file, is_suite2p) = read_alone(path, geometry)?;
    if is_suite2p {
        file.accepted = suite2p::accepted(path, file.set.rois.len())?;
    }
    Ok(file)
}

/// A file without what lies beside it and is no part of the ROIs; and whether it is a `stat.npy`.
fn read_alone(path: &Path, geometry: Option<Geometry>) -> Result<(RoiFile, bool), RoiFileError> {
    let plain = |set| (RoiFile { set, accepted: None, no_cells: Vec::new() }, false);
    let whole = |file| (file, false);
    let read_error = |error| RoiFileError::Read { path: path.into(), error };
    let mut file = File::open(path).map_err(read_error)?;
    let mut begin = Vec::new();
    file.by_ref().take(hdf5::MAGIC.len() as u64).read_to_end(&mut begin).map_err(read_error)?;
    // An NWB file may hold the whole recording: only its masks are read, and its size says nothing.
    if begin == hdf5::MAGIC {
        return hdf5::read(path, geometry).map(whole);
    }
    let bytes = read_rest(path, &file, begin)?;
    if bytes.starts_with(npy::MAGIC) {
        return if cellpose::is_one_object(&bytes) {
            cellpose::read(path, &bytes, geometry).map(plain)
        } else {
            suite2p::read(path, &bytes, geometry).map(|set| (plain(set).0, true))
        };
    }
    if bytes.starts_with(imagej::MAGIC) {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        return imagej::read(path, &[imagej::Member { stem, bytes }], geometry).map(whole);
    }
    if bytes.starts_with(imagej::ZIP_MAGIC) {
        return imagej::read(path, &imagej::members(path, &bytes)?, geometry).map(whole);
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => neurofinder::read(path, text, geometry).map(plain),
        Some(b'{') => json::read(path, text, geometry).map(plain),
        _ => Err(RoiFileError::UnknownKind { path: path.into(), found: text_excerpt(&bytes[..bytes.len().min(12)]) }),
    }
}

fn counted(no_cells: &[NoCell]) -> String {
    let has = if no_cells.len() == 1 { "entry has" } else { "entries have" };
    format!("{} {has}", no_cells.len())
}

/// The first few of them, for a message.
fn listed(no_cells: &[NoCell]) -> String {
    let told = |c: &NoCell| format!("entry {} `{}` ({})", c.id, text_excerpt(c.name.as_bytes()), c.kind);
    let mut text = no_cells.iter().take(5).map(told).collect::<Vec<_>>().join(", ");
    if no_cells.len() > 5 {
        text += &format!(" and {} more", no_cells.len() - 5);
    }
    text
}

/// The ROIs of a session whose frames are of this size: those given, or those of the configured file, or none (also
/// where the frames have no pixels); with a reference image where one can be had.
///
/// # Errors
/// The file cannot be read as ROIs.
pub fn rois_of(given: Option<&RoiSet>, file: &Path, geometry: Option<Geometry>) -> Result<RoiSet, RoiFileError> {
    let Some(geometry) = geometry else { return Ok(RoiSet::default()) };
    let set = match given {
        Some(set) => set.clone(),
        None if file.as_os_str().is_empty() => return Ok(RoiSet::default()),
        None => read_rois(file, Some(geometry))?,
    };
    Ok(set.with_reference())
}

pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, RoiFileError> {
    let file = File::open(path).map_err(|error| RoiFileError::Read { path: path.into(), error })?;
    read_rest(path, &file, Vec::new())
}

/// The bytes of a file of which these have been read. A pipe is read once.
fn read_rest(path: &Path, file: &File, mut bytes: Vec<u8>) -> Result<Vec<u8>, RoiFileError> {
    let read_error = |error| RoiFileError::Read { path: path.into(), error };
    let too_large = |bytes| RoiFileError::TooLarge { path: path.into(), bytes, limit: MAX_FILE_BYTES };
    let size = file.metadata().map_err(read_error)?.len();
    if size > MAX_FILE_BYTES {
        return Err(too_large(size));
    }
    // A file may grow, and a pipe has no size: what is read is limited as well as what the system says.
    let left = MAX_FILE_BYTES + 1 - bytes.len() as u64;
    file.take(left).read_to_end(&mut bytes).map_err(read_error)?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

/// The one size that file and caller agree on; checked, so that whoever rasterises can rely on it.
pub(crate) fn agreed_geometry(
    path: &Path,
    file: Option<Geometry>,
    caller: Option<Geometry>,
    how: &'static str,
) -> Result<Geometry, RoiFileError> {
    let geometry = match (file, caller) {
        (Some(file), Some(expected)) if file != expected => {
            return Err(RoiFileError::GeometryMismatch { path: path.into(), file, expected });
        }
        (Some(geometry), _) | (None, Some(geometry)) => geometry,
        (None, None) => return Err(RoiFileError::GeometryUnknown { path: path.into(), how }),
    };
    crate::sample::rois::check_geometry(geometry).map_err(|error| RoiFileError::Rois { path: path.into(), error })?;
    Ok(geometry)
}

/// The beginning of some bytes for a message: printable ASCII, at most 80 characters.
pub(crate) fn text_excerpt(bytes: &[u8]) -> String {
    let printable = |&byte: &u8| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' };
    bytes.iter().take(80).map(printable).collect()
}
