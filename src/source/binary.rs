//! Raw binary movies: suite2p's `data.bin`, and anything else that is pixels and nothing else.
//!
//! In: a file of pages, row-major, little-endian, back to back, and the geometry from the caller (the file states
//! none; suite2p keeps it as `Ly`, `Lx` in the `ops.npy` beside it). Out: the pages. Where there are several channels
//! and planes, channels follow one another fastest, then planes.
//!
//! Cost: one `read` a page, straight into the caller's buffer.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{MAX_PAGE_BYTES, OpenOptions, RecordedFrame, RecordingError, RecordingHeader, describe};
use crate::frame::PixelType;

/// A raw binary movie that has been opened.
#[derive(Debug)]
pub struct BinaryRecording {
    path: PathBuf,
    file: File,
    header: RecordingHeader,
    warnings: Vec<String>,
    page_count: usize,
    next_page: usize,
}

impl BinaryRecording {
    /// Opens `path`; `options.geometry` is needed, the pixel type is int16 where nothing is said.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, RecordingError> {
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
        let mut warnings = Vec::new();
        let rest = bytes % page_bytes as u64;
        if rest != 0 {
            warnings.push(format!(
                "{rest} bytes follow the last of {pages} whole pages of {page_bytes} bytes and are left out: cut file, \
                 or not {}",
                describe(geometry, pixel_type)
            ));
        }
        if !pages.is_multiple_of(per_frame) {
            warnings.push(format!(
                "{pages} pages are not a multiple of {planes} planes x {channels} channels: the last frame is \
                 incomplete"
            ));
        }
        let header = RecordingHeader {
            geometry,
            pixel_type,
            frame_count: Some(pages.div_ceil(per_frame) as usize),
            frame_rate_hz: options.frame_rate_hz,
            planes,
            channels,
            inverted: options.inverted,
            description: "raw binary".to_string(),
        };
        Ok(Self { path: path.to_path_buf(), file, header, warnings, page_count: pages as usize, next_page: 0 })
    }

    /// What is known before the first page.
    pub fn header(&self) -> &RecordingHeader {
        &self.header
    }

    /// What could not be used.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The next page; see [`super::FrameRecording::next`].
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RecordedFrame>, RecordingError> {
        if self.next_page >= self.page_count {
            return Ok(None);
        }
        buffer.resize(self.header.page_bytes(), 0);
        let page = self.next_page;
        let channels = self.header.channels as usize;
        let planes = self.header.planes as usize;
        if let Err(error) = self.file.read_exact(buffer) {
            // The file has shrunk since it was opened, or the disk fails.
            self.next_page = self.page_count;
            return Err(RecordingError::Truncated {
                path: self.path.clone(),
                whole_pages: page,
                whole_frames: page / (channels * planes),
                detail: error.to_string(),
            });
        }
        self.next_page += 1;
        Ok(Some(RecordedFrame {
            index: (page / (channels * planes)) as u64,
            plane: (page / channels % planes) as u32,
            channel: (page % channels) as u32,
            device_ns: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Geometry;

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
        let mut recording = BinaryRecording::open(&path, &options).unwrap();
        assert_eq!(recording.header().frame_count, Some(2));
        assert_eq!(recording.header().pixel_type, PixelType::I16);
        assert!(recording.warnings()[0].starts_with("5 bytes"), "{:?}", recording.warnings());
        let mut buffer = Vec::new();
        for index in 0..2u64 {
            assert_eq!(recording.next(&mut buffer).unwrap().unwrap().index, index);
            assert_eq!(buffer, bytes[index as usize * 12..][..12]);
        }
        assert_eq!(recording.next(&mut buffer).unwrap(), None);
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
        let mut recording = BinaryRecording::open(&path, &options).unwrap();
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        while let Some(frame) = recording.next(&mut buffer).unwrap() {
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
