//! Raw binary movies: suite2p's `data.bin`, and anything else that is pixels and nothing else.
//!
//! In: a file of pages, row-major, little-endian, back to back, finished or growing, and the geometry from the caller
//! (the file states none; suite2p keeps it as `Ly`, `Lx` in the `ops.npy` beside it). Out: the pages. Where there are
//! several channels and planes, channels follow one another fastest, then planes.
//!
//! Cost: one `read` a page, straight into the caller's buffer. A page of a growing file counts as whole when the file
//! reaches to its end.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::tiff_directory::read_up_to;
use super::{
    MAX_PAGE_BYTES, OpenOptions, Poll, REPLACED, RecordedFrame, RecordingError, RecordingHeader, describe, is_replaced,
};
use crate::frame::PixelType;

/// Bytes at the beginning of a page that are looked at again, to see that a growing file is still the same.
const MARK_BYTES: usize = 256;

/// A raw binary movie that has been opened.
#[derive(Debug)]
pub(super) struct BinaryRecording {
    path: PathBuf,
    file: File,
    header: RecordingHeader,
    warnings: Vec<String>,
    /// Whole pages of a finished file, or of a growing one when it was last looked at.
    page_count: usize,
    next_page: usize,
    growing: bool,
    last_call: bool,
    /// Bytes behind this are left out.
    limit: Option<u64>,
    /// Bytes of a growing file when it was last looked at.
    seen_bytes: u64,
    /// The beginning of the last page that was read.
    mark: Vec<u8>,
}

impl BinaryRecording {
    /// Opens `path`; `options.geometry` is needed, the pixel type is int16 where nothing is said.
    ///
    /// # Errors
    /// The file cannot be read, or the geometry is missing.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, RecordingError> {
        Self::begin(path, options, false)
    }

    /// Opens a file that is still being written. `Ok(Err(reason))` where it has no whole page; with `last_call` it need
    /// have none.
    ///
    /// # Errors
    /// As [`BinaryRecording::open`].
    pub fn open_growing(
        path: &Path,
        options: &OpenOptions,
        last_call: bool,
    ) -> Result<Result<Self, String>, RecordingError> {
        if !path.exists() && !last_call && options.geometry.is_some() {
            return Ok(Err("it is not there".to_string()));
        }
        let recording = Self::begin(path, options, true)?;
        let there = recording.seen_bytes;
        let page = recording.header.page_bytes();
        if there < page as u64 && !last_call {
            return Ok(Err(format!("it has {there} bytes, a page has {page}")));
        }
        Ok(Ok(recording))
    }

    fn begin(path: &Path, options: &OpenOptions, growing: bool) -> Result<Self, RecordingError> {
        let file = File::open(path).map_err(|e| RecordingError::io(path, e))?;
        let bytes = file.metadata().map_err(|e| RecordingError::io(path, e))?.len();
        let Some(geometry) = options.geometry else {
            return Err(RecordingError::GeometryNeeded { path: path.to_path_buf(), bytes });
        };
        let pixel_type = options.pixel_type.unwrap_or(PixelType::I16);
        let page_bytes = geometry
            .height_px
            .checked_mul(geometry.width_px)
            .and_then(|count| count.checked_mul(pixel_type.size_bytes()))
            .filter(|&n| n > 0 && n <= MAX_PAGE_BYTES)
            .ok_or_else(|| RecordingError::Unsupported {
                path: path.to_path_buf(),
                found: format!("pages of {}", describe(geometry, pixel_type)),
                expected: "1 byte to 256 MiB a page",
            })?;
        let planes = options.planes.unwrap_or(1).max(1);
        let channels = options.channels.unwrap_or(1).max(1);
        let per_frame = u64::from(planes) * u64::from(channels);
        let pages = bytes / page_bytes as u64;
        let header = RecordingHeader {
            geometry,
            pixel_type,
            frame_count: (!growing).then(|| pages.div_ceil(per_frame) as usize),
            frame_rate_hz: options.frame_rate_hz,
            planes,
            channels,
            inverted: options.inverted,
            description: "raw binary".to_string(),
        };
        let mut recording = Self {
            path: path.to_path_buf(),
            file,
            header,
            warnings: Vec::new(),
            page_count: pages as usize,
            next_page: 0,
            growing,
            last_call: false,
            limit: None,
            seen_bytes: bytes,
            mark: Vec::new(),
        };
        if !growing {
            recording.warn_of_the_end(bytes);
        }
        Ok(recording)
    }

    /// What of the file's end makes no whole frame.
    fn warn_of_the_end(&mut self, bytes: u64) {
        let page_bytes = self.header.page_bytes() as u64;
        let (pages, rest) = (bytes / page_bytes, bytes % page_bytes);
        if rest != 0 {
            self.warnings.push(format!(
                "{rest} bytes follow the last of {pages} whole pages of {page_bytes} bytes and are left out: cut file, \
                 or not {}",
                describe(self.header.geometry, self.header.pixel_type)
            ));
        }
        let (planes, channels) = (self.header.planes, self.header.channels);
        if !pages.is_multiple_of(u64::from(planes) * u64::from(channels)) {
            self.warnings.push(format!(
                "{pages} pages are not a multiple of {planes} planes x {channels} channels: the last frame is \
                 incomplete"
            ));
        }
    }

    fn bytes(&self) -> Result<u64, RecordingError> {
        Ok(self.file.metadata().map_err(|e| RecordingError::io(&self.path, e))?.len())
    }

    /// What is known before the first page.
    pub fn header(&self) -> &RecordingHeader {
        &self.header
    }

    /// What could not be used.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Nothing is going to be added: from now on the recording has an end.
    pub fn finish(&mut self) {
        if !self.last_call {
            self.last_call = true;
            self.limit = self.bytes().ok();
        }
    }

    /// The next page, if it is there; see [`super::FrameRecording::poll`].
    ///
    /// # Errors
    /// The file has become shorter, was written anew, or was replaced; then it is not to be asked again.
    pub fn poll(&mut self, buffer: &mut Vec<u8>) -> Result<Poll, RecordingError> {
        let page_bytes = self.header.page_bytes();
        if self.next_page >= self.page_count && self.growing {
            let bytes = self.bytes()?;
            self.check_unchanged(bytes)?;
            let bytes = self.limit.map_or(bytes, |limit| limit.min(bytes));
            self.page_count = usize::try_from(bytes / page_bytes as u64).unwrap_or(usize::MAX);
            let grown = bytes != self.seen_bytes;
            self.seen_bytes = bytes;
            if self.next_page >= self.page_count {
                if is_replaced(&self.file, &self.path) {
                    return Err(self.truncated(REPLACED.to_owned()));
                }
                if !self.last_call {
                    return Ok(Poll::Waiting { grown });
                }
                self.warn_of_the_end(bytes);
                return Ok(Poll::End);
            }
        }
        if self.next_page >= self.page_count {
            return Ok(Poll::End);
        }
        buffer.resize(page_bytes, 0);
        let page = self.next_page;
        let at = page as u64 * page_bytes as u64;
        let there = read_up_to(&self.file, buffer, at).map_err(|e| RecordingError::io(&self.path, e))?;
        if there < page_bytes {
            // The file has shrunk since it was looked at.
            return Err(self.truncated(format!("{there} of {page_bytes} bytes from byte {at} on")));
        }
        if self.growing {
            self.mark.clear();
            self.mark.extend_from_slice(&buffer[..page_bytes.min(MARK_BYTES)]);
        }
        self.next_page += 1;
        let (channels, planes) = (self.header.channels as usize, self.header.planes as usize);
        Ok(Poll::Page(RecordedFrame {
            index: (page / (channels * planes)) as u64,
            plane: (page / channels % planes) as u32,
            channel: (page % channels) as u32,
            device_ns: None,
        }))
    }

    /// Refuses to read on in a file that was cut or written anew behind our back.
    fn check_unchanged(&mut self, bytes: u64) -> Result<(), RecordingError> {
        let page_bytes = self.header.page_bytes() as u64;
        let read = self.next_page as u64 * page_bytes;
        if bytes < read {
            return Err(self.truncated(format!("the file was cut to {bytes} bytes while it was followed")));
        }
        if bytes != self.seen_bytes && !self.mark.is_empty() {
            let mut now = vec![0; self.mark.len()];
            let there = read_up_to(&self.file, &mut now, read - page_bytes);
            if there.map_err(|e| RecordingError::io(&self.path, e))? < now.len() || now != self.mark {
                let page = self.next_page - 1;
                return Err(self.truncated(format!("page {page} has changed since it was read: written anew")));
            }
        }
        Ok(())
    }

    fn truncated(&self, detail: String) -> RecordingError {
        let per_frame = self.header.channels as usize * self.header.planes as usize;
        RecordingError::Truncated {
            path: self.path.clone(),
            whole_pages: self.next_page,
            whole_frames: self.next_page / per_frame,
            detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Geometry;
    use crate::source::{FrameRecording, next_of_finished};

    fn next(recording: &mut FrameRecording, buffer: &mut Vec<u8>) -> Option<RecordedFrame> {
        next_of_finished(recording, buffer).unwrap()
    }

    fn write(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.bin");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn pages_come_as_stored_and_a_partial_last_one_is_a_warning() {
        let bytes: Vec<u8> = (0..2 * 3 * 2 * 2 + 5).map(|i| i as u8).collect();
        let (_dir, path) = write(&bytes);
        let options = OpenOptions { geometry: Some(Geometry::new(2, 3)), ..OpenOptions::default() };
        let mut recording = FrameRecording::from(BinaryRecording::open(&path, &options).unwrap());
        assert_eq!(recording.header().frame_count, Some(2));
        assert_eq!(recording.header().pixel_type, PixelType::I16);
        assert!(recording.warnings()[0].starts_with("5 bytes"), "{:?}", recording.warnings());
        let mut buffer = Vec::new();
        for index in 0..2u64 {
            assert_eq!(next(&mut recording, &mut buffer).unwrap().index, index);
            assert_eq!(buffer, bytes[index as usize * 12..][..12]);
        }
        assert_eq!(next(&mut recording, &mut buffer), None);
    }

    #[test]
    fn channels_follow_one_another_fastest_then_planes() {
        let (_dir, path) = write(&[0; 8]);
        let options = OpenOptions {
            geometry: Some(Geometry::new(1, 1)),
            pixel_type: Some(PixelType::U8),
            planes: Some(2),
            channels: Some(2),
            ..OpenOptions::default()
        };
        let mut recording = FrameRecording::from(BinaryRecording::open(&path, &options).unwrap());
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        while let Some(frame) = next(&mut recording, &mut buffer) {
            seen.push((frame.index, frame.plane, frame.channel));
        }
        assert_eq!(seen[..5], [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0)]);
    }

    #[test]
    fn without_a_geometry_the_error_says_what_is_needed() {
        let (_dir, path) = write(&[0; 8]);
        let error = BinaryRecording::open(&path, &OpenOptions::default()).unwrap_err().to_string();
        assert!(error.contains("8 bytes") && error.contains("Ly and Lx"), "{error}");
    }
}
