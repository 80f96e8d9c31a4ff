//! Where frames come from when they do not come over the network: recordings on disk, and the synthetic animal.
//!
//! In: the path of a recording (TIFF, BigTIFF, raw binary, `.npy`), whole or still being written. Out: one page after
//! the other, as the raw little-endian bytes that the file holds (compression undone, nothing else converted), with the
//! page's frame index, plane, channel and, where the file states it, the microscope's time in nanoseconds; or, for a
//! `.npy`, the values of ROIs that somebody has extracted already.
//!
//! Readers run off the real-time thread: they may allocate and return errors. What a file claims and its pages
//! contradict becomes a warning in [`FrameRecording::warnings`], and the pages are believed.
//!
//! A growing file is polled: [`FrameRecording::poll`] gives a page when it is whole, and says that it waits when it is
//! not. Nothing here sleeps or reads a clock; how long to wait is the caller's.
//!
//! With the Cargo feature `shm`, also frames in shared memory, from an adapter on the same machine (`shared`).
//!
//! Not here: sources that speak to a live microscope.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::frame::{Geometry, PixelType};

mod binary;
pub mod npy;
mod series;
#[cfg(feature = "shm")]
mod shared;
pub mod synthetic;
mod tiff;
mod tiff_chain;
mod tiff_directory;
mod tiff_file;
mod tiff_layout;
mod tiff_scanimage;

pub use npy::RoiRecording;
#[cfg(feature = "shm")]
pub use shared::{SharedError, SharedLoan, SharedReceiver, SharedSender, SharedWaker};
pub use synthetic::SyntheticSource;

use binary::BinaryRecording;
use tiff::TiffRecording;

/// A page larger than this many bytes is refused: it is damage or not a movie.
pub const MAX_PAGE_BYTES: usize = 256 << 20;

/// What the caller knows about a recording that the file may not say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OpenOptions {
    /// Height and width; needed for a raw binary, checked against the file otherwise.
    pub geometry: Option<Geometry>,
    /// How a pixel is stored; for a raw binary int16 where nothing is said (suite2p), checked otherwise.
    pub pixel_type: Option<PixelType>,
    /// Pixels are stored as `maximum - value` (Scanbox).
    pub inverted: bool,
    /// Frames (or volumes) a second; wins over what the file says.
    pub frame_rate_hz: Option<f64>,
    /// Planes that follow one another in the file; wins over what the file says.
    pub planes: Option<u32>,
    /// Channels that follow one another in the file, fastest; wins over what the file says.
    pub channels: Option<u32>,
    /// Read on in the files that ScanImage wrote after this one in the same acquisition.
    pub successors: bool,
}

/// What is known of a recording before its first page is read.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordingHeader {
    /// Height and width of every page.
    pub geometry: Geometry,
    /// How a pixel is stored.
    pub pixel_type: PixelType,
    /// Points in time (one page of each plane and channel); `None` where the source has no end.
    pub frame_count: Option<usize>,
    /// Frames (with planes: volumes) a second.
    pub frame_rate_hz: Option<f64>,
    /// Planes, at least 1.
    pub planes: u32,
    /// Channels, at least 1.
    pub channels: u32,
    /// Pixels are stored as `maximum - value`.
    pub inverted: bool,
    /// One line for people: format, program that wrote it.
    pub description: String,
}

impl RecordingHeader {
    /// Bytes of one page.
    pub fn page_bytes(&self) -> usize {
        self.geometry.count() * self.pixel_type.size_bytes()
    }
}

/// Which page of the recording a buffer now holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedFrame {
    /// Point in time, counted from 0 at the recording's first page. Pages of the same time share it; it skips where
    /// the file's own frame numbers skip.
    pub index: u64,
    /// Plane, from 0.
    pub plane: u32,
    /// Channel, from 0 among those that the file holds.
    pub channel: u32,
    /// The microscope's time, in nanoseconds; `None` where the file states none.
    pub device_ns: Option<u64>,
}

/// What a look at a recording gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// The buffer holds this page.
    Page(RecordedFrame),
    /// The next page is not whole yet.
    Waiting {
        /// The file has grown since the last look.
        grown: bool,
    },
    /// There is no more.
    End,
}

/// Why a recording could not be opened or read on.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// File.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Neither name nor content says what this is.
    #[error("{path}: unknown format; expected a name in .tif .tiff .btf .bin .raw .npy, or TIFF or npy content")]
    UnknownFormat {
        /// File.
        path: PathBuf,
    },
    /// The file is not what its name says, or it is damaged from the start.
    #[error("{path}: not a readable {format}: {detail}")]
    Malformed {
        /// File.
        path: PathBuf,
        /// Format that was expected.
        format: &'static str,
        /// What was wrong.
        detail: String,
    },
    /// A sound file with content that is not read.
    #[error("{path}: {found}; expected {expected}")]
    Unsupported {
        /// File.
        path: PathBuf,
        /// What the file holds.
        found: String,
        /// What can be read.
        expected: &'static str,
    },
    /// A raw binary says nothing about itself.
    #[error(
        "{path}: a raw binary of {bytes} bytes does not state its geometry: give height and width in pixels \
         (suite2p: Ly and Lx in the ops.npy beside it), and the pixel type if it is not int16"
    )]
    GeometryNeeded {
        /// File.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file contradicts what the caller asked for.
    #[error("{path}: holds {found}, but {expected} was asked for")]
    Contradiction {
        /// File.
        path: PathBuf,
        /// What the file holds.
        found: String,
        /// What the options say.
        expected: String,
    },
    /// A page differs from the first.
    #[error("{path}: page {page} is {found}, expected {expected} like the first")]
    PageMismatch {
        /// File.
        path: PathBuf,
        /// Page, from 0.
        page: usize,
        /// What it is.
        found: String,
        /// What the first is.
        expected: String,
    },
    /// The file ends inside a page; everything before it has been given.
    #[error(
        "{path}: the file is cut or damaged after {whole_pages} whole pages ({whole_frames} whole frames): {detail}"
    )]
    Truncated {
        /// File.
        path: PathBuf,
        /// Pages that were whole.
        whole_pages: usize,
        /// Points in time of which every plane and channel was whole.
        whole_frames: usize,
        /// What the decoder said.
        detail: String,
    },
}

impl RecordingError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        RecordingError::Io { path: path.to_path_buf(), source }
    }
}

/// A recording that has been opened: pages, or values of ROIs.
#[derive(Debug)]
pub enum Recording {
    /// Frames to be read one after the other.
    Frames(FrameRecording),
    /// Values of ROIs, wholly in memory.
    RoiValues(RoiRecording),
}

/// A recording of frames, whatever its format.
#[derive(Debug)]
pub struct FrameRecording {
    pages: Pages,
    /// The last page was given, or an error.
    ended: bool,
}

#[derive(Debug)]
enum Pages {
    Tiff(Box<TiffRecording>),
    Binary(BinaryRecording),
}

impl From<TiffRecording> for FrameRecording {
    fn from(recording: TiffRecording) -> Self {
        Self { pages: Pages::Tiff(Box::new(recording)), ended: false }
    }
}

impl From<BinaryRecording> for FrameRecording {
    fn from(recording: BinaryRecording) -> Self {
        Self { pages: Pages::Binary(recording), ended: false }
    }
}

impl FrameRecording {
    /// What is known before the first page.
    pub fn header(&self) -> &RecordingHeader {
        match &self.pages {
            Pages::Tiff(recording) => recording.header(),
            Pages::Binary(recording) => recording.header(),
        }
    }

    /// What the file says and could not be used, one sentence each. May grow while pages are read.
    pub fn warnings(&self) -> &[String] {
        match &self.pages {
            Pages::Tiff(recording) => recording.warnings(),
            Pages::Binary(recording) => recording.warnings(),
        }
    }

    /// Fills `buffer` with the next page's raw little-endian bytes, row-major, if that page is whole. `Poll::End` after
    /// the last page and after an error; a finished recording never waits.
    ///
    /// # Errors
    /// The file is cut, damaged or replaced, or a page differs from the first.
    pub fn poll(&mut self, buffer: &mut Vec<u8>) -> Result<Poll, RecordingError> {
        if self.ended {
            return Ok(Poll::End);
        }
        let polled = match &mut self.pages {
            Pages::Tiff(recording) => recording.poll(buffer),
            Pages::Binary(recording) => recording.poll(buffer),
        };
        self.ended = matches!(polled, Ok(Poll::End) | Err(_));
        polled
    }

    /// Tells a growing recording that nothing will be added: what is whole is still given, then it ends.
    pub fn finish(&mut self) {
        match &mut self.pages {
            Pages::Tiff(recording) => recording.finish(),
            Pages::Binary(recording) => recording.finish(),
        }
    }

    /// The next page of a finished recording; a growing one is told that it is finished. `Ok(None)` after the last
    /// page, and after an error.
    ///
    /// # Errors
    /// See [`FrameRecording::poll`].
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RecordedFrame>, RecordingError> {
        loop {
            match self.poll(buffer)? {
                Poll::Page(frame) => return Ok(Some(frame)),
                Poll::End => return Ok(None),
                Poll::Waiting { .. } => self.finish(),
            }
        }
    }
}

/// Opens a file that a microscope's program is still writing. `Ok(Err(reason))` while too little of it is there; with
/// `last_call` nothing is going to be added, and that is an error.
///
/// # Errors
/// What it is cannot be followed, or it contradicts the options.
pub fn open_growing(
    path: &Path,
    options: &OpenOptions,
    last_call: bool,
) -> Result<Result<FrameRecording, String>, RecordingError> {
    let opened = match format_of(path) {
        Ok(_) if path.is_dir() => {
            return Err(RecordingError::Unsupported {
                path: path.to_path_buf(),
                found: "a directory".to_string(),
                expected: "the file that is being written",
            });
        }
        Ok(Format::Tiff) => TiffRecording::open_growing(path, options, last_call)?.map(FrameRecording::from),
        Ok(Format::Binary) => BinaryRecording::open_growing(path, options, last_call)?.map(FrameRecording::from),
        Ok(Format::Npy) => {
            return Err(RecordingError::Unsupported {
                path: path.to_path_buf(),
                found: "a .npy, whose size stands before its values".to_string(),
                expected: "a TIFF, BigTIFF or raw binary to follow",
            });
        }
        Err(_) if !last_call && !std::fs::metadata(path).is_ok_and(|m| m.len() >= 8) => {
            Err("its first bytes are not there".to_string())
        }
        Err(error) => return Err(error),
    };
    match opened {
        Err(detail) if last_call => {
            Err(RecordingError::Malformed { path: path.to_path_buf(), format: "recording", detail })
        }
        opened => Ok(opened),
    }
}

/// Opens a recording by its name's extension, and by its first bytes where the extension says nothing.
pub fn open_recording(path: &Path, options: &OpenOptions) -> Result<Recording, RecordingError> {
    match format_of(path)? {
        Format::Tiff => Ok(Recording::Frames(TiffRecording::open(path, options)?.into())),
        Format::Binary => Ok(Recording::Frames(BinaryRecording::open(path, options)?.into())),
        Format::Npy => Ok(Recording::RoiValues(RoiRecording::open(path)?)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Tiff,
    Binary,
    Npy,
}

fn format_of(path: &Path) -> Result<Format, RecordingError> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    match extension.as_str() {
        // A directory holds the files of one acquisition.
        _ if path.is_dir() => Ok(Format::Tiff),
        "tif" | "tiff" | "btf" | "tf8" | "tf2" => Ok(Format::Tiff),
        "bin" | "raw" => Ok(Format::Binary),
        "npy" => Ok(Format::Npy),
        _ => sniff(path),
    }
}

fn sniff(path: &Path) -> Result<Format, RecordingError> {
    let mut magic = Vec::with_capacity(8);
    let file = File::open(path).map_err(|e| RecordingError::io(path, e))?;
    file.take(8).read_to_end(&mut magic).map_err(|e| RecordingError::io(path, e))?;
    let tiff: [&[u8]; 4] = [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"];
    if tiff.iter().any(|m| magic.starts_with(m)) {
        Ok(Format::Tiff)
    } else if magic.starts_with(b"\x93NUMPY") {
        Ok(Format::Npy)
    } else {
        Err(RecordingError::UnknownFormat { path: path.to_path_buf() })
    }
}

/// Refuses a file that contradicts the geometry or pixel type that the caller expects.
fn check_expected(
    path: &Path,
    geometry: Geometry,
    pixel_type: PixelType,
    options: &OpenOptions,
) -> Result<(), RecordingError> {
    let geometry_differs = options.geometry.is_some_and(|g| g != geometry);
    let type_differs = options.pixel_type.is_some_and(|p| p != pixel_type);
    if geometry_differs || type_differs {
        return Err(RecordingError::Contradiction {
            path: path.to_path_buf(),
            found: describe(geometry, pixel_type),
            expected: describe(options.geometry.unwrap_or(geometry), options.pixel_type.unwrap_or(pixel_type)),
        });
    }
    Ok(())
}

/// Said of a file for which that is so.
const REPLACED: &str = "another file stands at its path: it was replaced while it was followed";

/// Whether another file stands at `path` than the open one. A name that is gone is no replacement.
#[cfg(unix)]
fn is_replaced(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) != (named.dev(), named.ino()),
        _ => false,
    }
}

/// Elsewhere a file that is open cannot be replaced: its name is taken.
#[cfg(not(unix))]
fn is_replaced(_file: &File, _path: &Path) -> bool {
    false
}

/// `512 x 512 uint16`.
fn describe(geometry: Geometry, pixel_type: PixelType) -> String {
    format!("{} x {} {}", geometry.height_px, geometry.width_px, pixel_type.name())
}

/// The next page of a finished recording, which has no reason to wait.
#[cfg(test)]
fn next_of_finished(
    recording: &mut FrameRecording,
    buffer: &mut Vec<u8>,
) -> Result<Option<RecordedFrame>, RecordingError> {
    match recording.poll(buffer)? {
        Poll::Page(frame) => Ok(Some(frame)),
        Poll::End => Ok(None),
        Poll::Waiting { .. } => panic!("a finished file waits for nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_extension_is_settled_by_the_first_bytes() {
        let dir = tempfile::tempdir().unwrap();
        for (bytes, expected) in [
            (&b"II*\0\x08\0\0\0"[..], Some(Format::Tiff)),
            (b"MM\0+", Some(Format::Tiff)),
            (b"\x93NUMPY\x01\0", Some(Format::Npy)),
            (b"PK\x03\x04", None),
            (b"", None),
        ] {
            let path = dir.path().join("movie.xyz");
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(sniff(&path).ok(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_missing_file_is_named_in_the_error() {
        let error = open_recording(Path::new("/nowhere/movie.tif"), &OpenOptions::default()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/movie.tif"), "{error}");
    }
}
