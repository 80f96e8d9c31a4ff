//! HDF5 files: opened, told apart, and read with checks before anything is allocated.
//!
//! In: a path. Out: numbers, one range of rows at a time, so that a file with a whole recording in it costs only what
//! is asked for. The container is the `rust-hdf5` crate's; what it says of a dataset (extent, chunks) comes from the
//! file and is held against the file's size here. Data that lie in other files (external, virtual) are refused: a file
//! of ROIs opens nothing beside itself.

use super::npy::NumberType;
use super::{RoiFile, RoiFileError, caiman, nwb};
use crate::frame::Geometry;
use rust_hdf5::{ByteOrder, DatatypeMessage, H5Dataset, H5File, H5Group, Hdf5Error, StorageLayout};
use std::path::Path;

/// How such a file begins.
pub(super) const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Most bytes of one range of rows, and of one chunk.
pub(super) const MOST_BYTES: u64 = 1 << 29;
/// Most ROIs of a file.
pub(super) const MOST_ROIS: u64 = 1_000_000;
/// Deflate packs at most 1,032 bytes into one.
const MOST_PACKED: u64 = 1_100;

/// Reads the ROIs of an HDF5 file of CaImAn or NWB.
pub(super) fn read(path: &Path, geometry: Option<Geometry>) -> Result<RoiFile, RoiFileError> {
    let source = Source::open(path)?;
    if source.has_group("estimates") {
        return caiman::read(&source, geometry);
    }
    if source.has_group("processing") {
        return nwb::read(&source, geometry);
    }
    Err(source.wrong("neither `estimates` (CaImAn) nor `processing` (NWB) is in it"))
}

/// An open file.
pub(super) struct Source<'a> {
    pub path: &'a Path,
    file: H5File,
    bytes: u64,
}

/// A dataset whose extent has been checked.
pub(super) struct Table {
    dataset: H5Dataset,
    name: String,
    pub shape: Vec<u64>,
    element_bytes: u64,
}

impl<'a> Source<'a> {
    fn open(path: &'a Path) -> Result<Source<'a>, RoiFileError> {
        let bytes = std::fs::metadata(path).map_err(|error| RoiFileError::Read { path: path.into(), error })?.len();
        // a share that knows no locks is no reason to refuse a file that is only read
        let file = H5File::options().best_effort_locking().open(path);
        let file = file.map_err(|e| RoiFileError::Hdf5 { path: path.into(), what: e.to_string() })?;
        Ok(Source { path, file, bytes })
    }

    pub fn wrong(&self, what: impl Into<String>) -> RoiFileError {
        RoiFileError::Hdf5 { path: self.path.into(), what: what.into() }
    }

    fn library<'n>(&self, name: &'n str) -> impl Fn(Hdf5Error) -> RoiFileError + use<'_, 'a, 'n> {
        move |error| self.wrong(format!("`{name}`: {error}"))
    }

    fn group(&self, name: &str) -> Option<H5Group> {
        name.split('/').try_fold(self.file.root_group(), |group, part| group.group(part)).ok()
    }

    pub fn has_group(&self, name: &str) -> bool {
        self.group(name).is_some()
    }

    /// Names of the groups in a group; none where it is not there.
    pub fn groups(&self, name: &str) -> Vec<String> {
        self.group(name).and_then(|group| group.group_names().ok()).unwrap_or_default()
    }

    /// A text attribute of a group.
    pub fn text_attribute(&self, group: &str, name: &str) -> Option<String> {
        self.group(group)?.attr_string(name).ok()
    }

    /// A dataset, or `None` where it is not there.
    pub fn table(&self, name: &str) -> Result<Option<Table>, RoiFileError> {
        let (group, own) = name.rsplit_once('/').unwrap_or(("", name));
        let group = if group.is_empty() { Some(self.file.root_group()) } else { self.group(group) };
        let there =
            group.and_then(|group| group.dataset_names().ok()).is_some_and(|names| names.iter().any(|n| n == own));
        if !there {
            return Ok(None);
        }
        let dataset = self.file.dataset(name).map_err(self.library(name))?;
        let shape: Vec<u64> = dataset.shape().into_iter().map(|side| side as u64).collect();
        let element_bytes = dataset.element_size() as u64;
        let table = Table { dataset, name: name.into(), shape, element_bytes };
        self.check(&table)?;
        Ok(Some(table))
    }

    /// A dataset that must be there.
    pub fn wanted(&self, name: &str) -> Result<Table, RoiFileError> {
        self.table(name)?.ok_or_else(|| self.wrong(format!("`{name}` is missing")))
    }

    /// Holds what a dataset says of its size against the size of the file.
    fn check(&self, table: &Table) -> Result<(), RoiFileError> {
        let Table { dataset, name, shape, element_bytes } = table;
        let product = |sides: &[u64]| sides.iter().try_fold(*element_bytes, |bytes, &side| bytes.checked_mul(side));
        let bytes = product(shape).unwrap_or(u64::MAX);
        let layout = dataset.storage_layout().map_err(self.library(name))?;
        let outside = !dataset.external_files().map_err(self.library(name))?.is_empty();
        let most = match layout {
            StorageLayout::Virtual => {
                return Err(self.wrong(format!("`{name}` lies in other files, which are not read")));
            }
            _ if outside => return Err(self.wrong(format!("`{name}` lies in other files, which are not read"))),
            StorageLayout::Compact | StorageLayout::Contiguous => self.bytes,
            StorageLayout::Chunked => self.bytes.saturating_mul(MOST_PACKED),
        };
        let chunk: Vec<u64> = dataset.chunk_dims().unwrap_or_default().into_iter().map(|side| side as u64).collect();
        if bytes > most || product(&chunk).is_none_or(|chunk| chunk > MOST_BYTES) {
            let (shape, file) = (shape_text(shape), self.bytes);
            let what =
                format!("`{name}` claims to hold {shape} values of {element_bytes} bytes in a file of {file} bytes");
            return Err(self.wrong(what));
        }
        Ok(())
    }

    /// All numbers of a dataset, which may hold at most `most` of them.
    pub fn numbers(&self, table: &Table, most: u64) -> Result<Vec<f64>, RoiFileError> {
        let rows = table.shape.first().copied().unwrap_or(1);
        let each = table.shape.iter().skip(1).product::<u64>();
        if rows.saturating_mul(each) > most {
            let (name, shape) = (&table.name, shape_text(&table.shape));
            return Err(self.wrong(format!("`{name}` holds {shape} values, expected at most {most}")));
        }
        self.rows(table, 0, rows)
    }

    /// The numbers of some rows: of `count` steps along the first axis from `first` on.
    pub fn rows(&self, table: &Table, first: u64, count: u64) -> Result<Vec<f64>, RoiFileError> {
        let Table { dataset, name, shape, element_bytes } = table;
        if shape.is_empty() {
            return Err(self.wrong(format!("`{name}` is a single value, expected a list")));
        }
        if shape.contains(&0) || count == 0 {
            return Ok(Vec::new());
        }
        let mut counts = shape.clone();
        counts[0] = count;
        let values = counts.iter().product::<u64>();
        if values.saturating_mul((*element_bytes).max(8)) > MOST_BYTES {
            return Err(self.wrong(format!("`{name}` has rows that are too large to be masks")));
        }
        let mut starts = vec![0; shape.len()];
        starts[0] = first as usize;
        let counts: Vec<usize> = counts.iter().map(|&side| side as usize).collect();
        let wrong = self.library(name);
        match dataset.datatype().map_err(&wrong)? {
            DatatypeMessage::FloatingPoint { .. } => {
                dataset.read_numeric_slice_as::<f64>(&starts, &counts).map_err(wrong)
            }
            // h5py's booleans
            DatatypeMessage::Enum { .. } if *element_bytes == 1 => {
                let bytes = dataset.read_slice::<u8>(&starts, &counts).map_err(wrong)?;
                Ok(bytes.into_iter().map(f64::from).collect())
            }
            DatatypeMessage::FixedPoint { .. } => {
                let whole = dataset.read_numeric_slice_as::<i64>(&starts, &counts).map_err(wrong)?;
                Ok(whole.into_iter().map(|value| value as f64).collect())
            }
            other => Err(self.wrong(format!("`{name}` holds {}, expected numbers", kind(&other)))),
        }
    }

    /// One member of every element of a one-dimensional compound dataset; `None` where it has no such member.
    pub fn members(&self, table: &Table, names: &[&str]) -> Result<Vec<Option<Vec<f64>>>, RoiFileError> {
        let Table { dataset, name, shape, element_bytes } = table;
        let wrong = self.library(name);
        let DatatypeMessage::Compound { members, .. } = dataset.datatype().map_err(&wrong)? else {
            return Err(self.wrong(format!("`{name}` holds single values, expected x, y and weight together")));
        };
        if shape.len() != 1 || shape[0].saturating_mul(*element_bytes) > MOST_BYTES {
            return Err(self.wrong(format!("`{name}` of {} values, expected a list of pixels", shape_text(shape))));
        }
        let bytes = dataset.read_raw_bytes().map_err(wrong)?;
        let mut found = Vec::new();
        for wanted in names {
            let Some(member) = members.iter().find(|member| member.name == *wanted) else {
                found.push(None);
                continue;
            };
            let number = number_of(&member.datatype);
            let number = number.ok_or_else(|| self.wrong(format!("`{name}`: `{wanted}` is no number")))?;
            let span = member.offset as usize..member.offset as usize + number.size_bytes;
            let elements = bytes.chunks_exact((*element_bytes).max(1) as usize);
            let values: Option<Vec<f64>> = elements.map(|element| number.decode(element.get(span.clone())?)).collect();
            found.push(Some(values.ok_or_else(|| self.wrong(format!("`{name}`: `{wanted}` lies outside")))?));
        }
        Ok(found)
    }
}

fn number_of(datatype: &DatatypeMessage) -> Option<NumberType> {
    let (kind, size, order) = match *datatype {
        DatatypeMessage::FixedPoint { size, byte_order, signed, .. } => {
            (if signed { 'i' } else { 'u' }, size, byte_order)
        }
        DatatypeMessage::FloatingPoint { size, byte_order, .. } => ('f', size, byte_order),
        _ => return None,
    };
    let sign = if order == ByteOrder::BigEndian { '>' } else { '<' };
    NumberType::parse(&format!("{sign}{kind}{size}"))
}

fn kind(datatype: &DatatypeMessage) -> &'static str {
    match datatype {
        DatatypeMessage::FixedString { .. } | DatatypeMessage::VarLenString { .. } => "text",
        DatatypeMessage::Compound { .. } => "compounds",
        _ => "no numbers",
    }
}

pub(super) fn shape_text(shape: &[u64]) -> String {
    shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ")
}
