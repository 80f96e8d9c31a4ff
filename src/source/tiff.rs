//! Multi-page TIFF and BigTIFF: u8, u16, i16, one sample a pixel, plain, deflate or LZW, strips or tiles.
//!
//! In: a file of ScanImage, PrairieView (OME), ImageJ, tifffile, or any other, finished or still growing; or the files
//! of one ScanImage acquisition, one after the other. Out: page after page as raw little-endian bytes. Plain strips go
//! from the file straight into the caller's buffer; the rest is decoded by crate `tiff`. A file that is cut gives its
//! whole pages and then one error that counts them.
//!
//! ImageJ's large files have one directory and all pages in one block behind it; that form is read as well.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::series::{files_of, successor};
use super::tiff_file::{Found, TiffFile, Trouble};
use super::tiff_layout::{Layout, Texts, imagej_images, probe_pages};
use super::{OpenOptions, Poll, REPLACED, RecordingError, RecordingHeader, check_expected, describe};
use crate::frame::{Geometry, PixelType};

const EXPECTED: &str = "uint8, uint16 or int16, one sample a pixel";

/// A TIFF that has been opened, with the files that go on where it ends.
#[derive(Debug)]
pub(super) struct TiffRecording {
    current: TiffFile,
    /// Files that follow, of a finished recording.
    later: VecDeque<PathBuf>,
    /// A growing recording goes on in the next file of its acquisition.
    successors: bool,
    growing: bool,
    /// Nothing grows any more.
    last_call: bool,
    /// What ImageJ says of their number; 0 for any other file.
    imagej_images: usize,
    /// Bytes of the growing file when it was last looked at.
    seen: (u64, usize),
    form: (Geometry, PixelType),
    layout: Layout,
    header: RecordingHeader,
    warnings: Vec<String>,
    /// Pages of the recording that have been passed, those that were left out included.
    next_page: usize,
    /// The next page in `current`.
    page_in_file: usize,
}

impl TiffRecording {
    /// Opens a finished recording, counts its pages and reads what it says of itself.
    ///
    /// # Errors
    /// The file cannot be read, is no TIFF, or holds what is not read.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, RecordingError> {
        let (files, notes) = files_of(path, options.successors)?;
        let mut files = VecDeque::from(files);
        let first = files.pop_front().unwrap_or_else(|| path.to_path_buf());
        match Self::begin(&first, options, false, true)? {
            Ok(mut recording) => {
                recording.warnings.splice(0..0, notes);
                recording.append(files);
                Ok(recording)
            }
            Err(detail) => Err(RecordingError::Malformed { path: first, format: "TIFF", detail }),
        }
    }

    /// Opens a file that is still being written. `Ok(Err(reason))` where too little of it is there to know what it
    /// is; with `last_call` as much as is there must do.
    ///
    /// # Errors
    /// As [`TiffRecording::open`].
    pub fn open_growing(
        path: &Path,
        options: &OpenOptions,
        last_call: bool,
    ) -> Result<Result<Self, String>, RecordingError> {
        if !path.exists() && !last_call {
            return Ok(Err("it is not there".to_string()));
        }
        Self::begin(path, options, true, last_call)
    }

    fn begin(
        path: &Path,
        options: &OpenOptions,
        growing: bool,
        last_call: bool,
    ) -> Result<Result<Self, String>, RecordingError> {
        let io = |e| RecordingError::io(path, e);
        let unsupported = |found| RecordingError::Unsupported { path: path.to_path_buf(), found, expected: EXPECTED };
        let mut current = match TiffFile::open(path, growing)? {
            Ok(file) => file,
            Err(reason) => return Ok(Err(reason)),
        };
        match current.find(0, last_call).map_err(|t| trouble(path, t, 0, 1, None))? {
            Found::Whole => {}
            Found::Begun(reason) => return Ok(Err(reason)),
            Found::NoMore => return Ok(Err("it holds no page".to_string())),
        }
        let form = current.page().form().map_err(unsupported)?;
        check_expected(path, form.0, form.1, options)?;
        current.expect(form);
        let (software, description) = (current.page().software, current.page().description);
        let software = lossy(current.text(software).map_err(io)?);
        let mut descriptions = vec![lossy(current.text(description).map_err(io)?)];
        let mut warnings = Vec::new();
        block(&mut current, &descriptions[0], form, &mut warnings).map_err(io)?;
        let wanted = probe_pages(&software, &descriptions[0]);
        while descriptions.len() < wanted {
            match current.find(descriptions.len(), last_call) {
                Ok(Found::Whole) => {}
                Ok(Found::Begun(_) | Found::NoMore) if growing && !last_call => {
                    return Ok(Err(format!("{} of the {wanted} pages that tell its layout", descriptions.len())));
                }
                // What is wrong with it is said when its turn comes.
                Ok(Found::Begun(_) | Found::NoMore) | Err(_) => break,
            }
            let description = current.page().description;
            descriptions.push(lossy(current.text(description).map_err(io)?));
        }
        let page_count = (!growing).then(|| current.page_count());
        let texts = Texts { software: &software, descriptions: &descriptions, page_count, path };
        let layout = Layout::read(&texts, options, &mut warnings);
        if let Some(reason) = current.broken() {
            warnings.push(format!("the file is cut or damaged: {reason}"));
        }
        let header = RecordingHeader {
            geometry: form.0,
            pixel_type: form.1,
            frame_count: page_count.map(|pages| layout.frame_count(pages)),
            frame_rate_hz: layout.frame_rate_hz,
            planes: layout.planes(),
            channels: layout.channels,
            inverted: options.inverted,
            description: layout.description.clone(),
        };
        Ok(Ok(Self {
            current,
            later: VecDeque::new(),
            successors: options.successors,
            growing,
            last_call: false,
            imagej_images: imagej_images(&descriptions[0]).unwrap_or(0),
            seen: (0, 0),
            form,
            layout,
            header,
            warnings,
            next_page: 0,
            page_in_file: 0,
        }))
    }

    /// Takes the files that follow, as far as they hold pages of the same form.
    fn append(&mut self, files: VecDeque<PathBuf>) {
        let mut pages = self.current.page_count();
        for path in files {
            let opened = TiffFile::open(&path, false).map_err(|e| e.to_string()).and_then(|file| {
                let mut file = file?;
                file.expect(self.form);
                match file.find(0, true).map_err(|t| trouble(&path, t, 0, 1, Some(self.form)).to_string())? {
                    Found::Whole => Ok(file),
                    Found::Begun(reason) => Err(reason),
                    Found::NoMore => Err("it holds no page".to_string()),
                }
            });
            match opened {
                Ok(file) => {
                    pages += file.page_count();
                    self.later.push_back(path);
                }
                Err(reason) => {
                    self.warnings.push(format!("the recording is read up to {}: {reason}", path.display()));
                    break;
                }
            }
        }
        if !self.later.is_empty() {
            self.warnings.push(format!("{} files of one acquisition are read as one recording", self.later.len() + 1));
        }
        self.header.frame_count = Some(self.layout.frame_count(pages));
    }

    /// What is known before the first page.
    pub fn header(&self) -> &RecordingHeader {
        &self.header
    }

    /// What could not be used. Pages that contradict one another add to it as they are read.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Nothing is going to be added: from now on the recording has an end.
    pub fn finish(&mut self) {
        if !self.last_call {
            // Were the length not to be had, the next look would say so.
            let _ = self.current.finish();
            self.last_call = true;
        }
    }

    /// The next page, if it is there; see [`super::FrameRecording::poll`].
    ///
    /// # Errors
    /// The file is cut, damaged, replaced, or a page differs from the first; then it is not to be asked again.
    pub fn poll(&mut self, buffer: &mut Vec<u8>) -> Result<Poll, RecordingError> {
        loop {
            let begun = match self.current.find(self.page_in_file, self.last_call) {
                Ok(Found::Whole) => {
                    if let Some(page) = self.take(buffer)? {
                        return Ok(page);
                    }
                    continue;
                }
                Ok(Found::Begun(reason)) => Some(reason),
                Ok(Found::NoMore) => None,
                Err(trouble) => return Err(self.failed(trouble)),
            };
            if self.next_file(begun.as_deref())? {
                continue;
            }
            if self.growing && self.current.replaced() {
                return Err(self.failed(Trouble::Damaged(REPLACED.to_owned())));
            }
            if self.growing && !self.last_call {
                let bytes = self.current.bytes().map_err(|e| RecordingError::io(self.current.path(), e))?;
                let seen = (bytes, self.page_in_file);
                let grown = std::mem::replace(&mut self.seen, seen) != seen;
                return Ok(Poll::Waiting { grown });
            }
            if self.growing && self.next_page < self.imagej_images {
                let (said, read) = (self.imagej_images, self.next_page);
                self.warnings.push(format!(
                    "ImageJ says {said} images, {read} were found: if they lie in one block, replay the finished file"
                ));
            }
            if let Some(reason) = begun {
                self.warnings.push(format!("the last page was never finished and is left out: {reason}"));
            } else if let Some(reason) = self.current.broken() {
                return Err(self.failed(Trouble::Damaged(reason.to_owned())));
            }
            return Ok(Poll::End);
        }
    }

    /// Reads the page that was found; `None` for one that is left out.
    fn take(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Poll>, RecordingError> {
        let description = if self.layout.page_texts { self.current.page().description } else { None };
        let placed = match self.current.text(description) {
            Ok(text) => {
                let text = String::from_utf8_lossy(text);
                self.layout.locate(self.next_page, &text, &mut self.warnings)
            }
            Err(e) => return Err(self.failed(Trouble::Io(e))),
        };
        if placed.is_some() {
            buffer.resize(self.header.page_bytes(), 0);
            if let Err(trouble) = self.current.read(buffer) {
                return Err(self.failed(trouble));
            }
        }
        self.next_page += 1;
        self.page_in_file += 1;
        Ok(placed.map(Poll::Page))
    }

    /// Goes on in the file that follows this one, if there is one that can be read; `begun`: what is left of this one.
    fn next_file(&mut self, begun: Option<&str>) -> Result<bool, RecordingError> {
        let path = if self.growing {
            if !self.successors {
                return Ok(false);
            }
            successor(self.current.path()).filter(|path| path.is_file())
        } else if self.current.broken().is_none() || self.later.is_empty() {
            self.later.pop_front()
        } else {
            // A cut file in the middle: its whole pages have been given, and the next file goes on.
            let broken = self.current.broken().unwrap_or_default().to_owned();
            self.warnings.push(format!("{}: {broken}", self.current.path().display()));
            self.later.pop_front()
        };
        let Some(path) = path else { return Ok(false) };
        let Ok(mut file) = TiffFile::open(&path, self.growing)? else { return Ok(false) };
        file.expect(self.form);
        // The program that writes has gone on when the next file has a page: what is missing here stays missing.
        match file.find(0, self.last_call) {
            Ok(Found::Whole) => {}
            Ok(_) => return Ok(false),
            Err(t) => return Err(trouble(&path, t, self.next_page, self.pages_per_frame(), Some(self.form))),
        }
        if let Some(reason) = begun {
            let path = self.current.path().display();
            self.warnings.push(format!("{path}: its last page was never finished and is left out: {reason}"));
        }
        if self.last_call {
            file.finish().map_err(|e| RecordingError::io(&path, e))?;
        }
        self.current = file;
        self.page_in_file = 0;
        Ok(true)
    }

    fn pages_per_frame(&self) -> usize {
        (self.header.planes as usize).saturating_mul(self.header.channels as usize).max(1)
    }

    fn failed(&self, found: Trouble) -> RecordingError {
        trouble(self.current.path(), found, self.next_page, self.pages_per_frame(), Some(self.form))
    }
}

/// What went wrong at page `page`, as the caller hears it.
fn trouble(
    path: &Path,
    found: Trouble,
    page: usize,
    pages_per_frame: usize,
    expected: Option<(Geometry, PixelType)>,
) -> RecordingError {
    let path = path.to_path_buf();
    match (found, expected) {
        (Trouble::Io(source), _) => RecordingError::Io { path, source },
        (Trouble::OtherForm(found), Some((geometry, kind))) => {
            RecordingError::PageMismatch { path, page, found, expected: describe(geometry, kind) }
        }
        (Trouble::OtherForm(found), None) => RecordingError::Unsupported { path, found, expected: EXPECTED },
        (Trouble::Damaged(detail), Some(_)) => {
            RecordingError::Truncated { path, whole_pages: page, whole_frames: page / pages_per_frame, detail }
        }
        (Trouble::Damaged(detail), None) => RecordingError::Malformed { path, format: "TIFF", detail },
    }
}

/// Bytes that are not UTF-8 (a micro sign in Latin-1) are replaced.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Finds out whether the pages lie in one block behind a single directory (ImageJ).
fn block(
    file: &mut TiffFile,
    description: &str,
    (geometry, pixel_type): (Geometry, PixelType),
    warnings: &mut Vec<String>,
) -> std::io::Result<()> {
    let said = imagej_images(description).unwrap_or(1);
    // While a file grows nobody can tell this form from directories that are yet to come (Micro-Manager).
    if file.is_growing() || file.page_count() > 1 || said <= 1 {
        return Ok(());
    }
    let page_bytes = (geometry.count() * pixel_type.size_bytes()) as u64;
    let Some(start) = file.expect_block(1)? else {
        warnings.push(format!("ImageJ says {said} images, but only one is there"));
        return Ok(());
    };
    let whole = file.bytes()?.saturating_sub(start) / page_bytes;
    if whole < said as u64 {
        warnings.push(format!("ImageJ says {said} images; the file has room for {whole}"));
    }
    // One page more than there is room for, so that reading ends with the error that counts the whole ones.
    let pages = said.min(usize::try_from(whole).unwrap_or(usize::MAX).saturating_add(1)).max(1);
    file.expect_block(pages)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{FrameRecording, Pages, next_of_finished as next};
    use std::fs::File;
    use std::io::Write;
    use tiff::encoder::colortype::{Gray8, Gray16, GrayI16, RGB8};
    use tiff::encoder::{Compression, DeflateLevel, TiffEncoder};

    fn open(bytes: &[u8], options: &OpenOptions) -> Result<(FrameRecording, tempfile::TempDir), RecordingError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("movie.tif");
        File::create(&path).unwrap().write_all(bytes).unwrap();
        TiffRecording::open(&path, options).map(|recording| (recording.into(), folder))
    }

    fn pages(bytes: &[u8]) -> (Vec<Vec<u8>>, FrameRecording) {
        let (mut recording, _folder) = open(bytes, &OpenOptions::default()).unwrap();
        let (mut pages, mut buffer) = (Vec::new(), Vec::new());
        while next(&mut recording, &mut buffer).unwrap().is_some() {
            pages.push(buffer.clone());
        }
        (pages, recording)
    }

    fn i16_bytes(values: &[i16]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    /// A classic file written by hand: `tags` are (tag, value) of type LONG, the pixels follow the one directory.
    fn by_hand(big_endian: bool, tags: &[(u16, u32)], text: &[u8], pixels: &[u8]) -> Vec<u8> {
        let u16s = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let u32s = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let mut bytes = if big_endian { b"MM".to_vec() } else { b"II".to_vec() };
        bytes.extend(u16s(42));
        bytes.extend(u32s(8));
        let entries = tags.len() + 2;
        bytes.extend(u16s(entries as u16));
        let text_at = 8 + 2 + 12 * entries as u32 + 4;
        let mut tags: Vec<(u16, u16, u32, u32)> = tags.iter().map(|&(tag, value)| (tag, 4, 1, value)).collect();
        tags.push((270, 2, text.len() as u32, text_at));
        tags.push((273, 4, 1, text_at + text.len() as u32));
        tags.sort_unstable();
        for (tag, kind, count, value) in tags {
            bytes.extend(u16s(tag));
            bytes.extend(u16s(kind));
            bytes.extend(u32s(count));
            bytes.extend(u32s(value));
        }
        bytes.extend(u32s(0));
        bytes.extend(text);
        bytes.extend(pixels);
        bytes
    }

    #[test]
    fn every_compression_and_form_gives_the_stored_bytes() {
        let values: Vec<i16> = (0..35 * 21).map(|i| (i * 37 % 4001 - 2000) as i16).collect();
        let compressions = [Compression::Uncompressed, Compression::Lzw, Compression::Deflate(DeflateLevel::Fast)];
        for (kind, (compression, big)) in compressions.into_iter().flat_map(|c| [(c, false), (c, true)]).enumerate() {
            let mut file = std::io::Cursor::new(Vec::new());
            // Three pages, strips of 4 rows, of which the last is short.
            macro_rules! write {
                ($encoder:expr) => {{
                    let mut encoder = $encoder.unwrap().with_compression(compression);
                    for page in 0..3i16 {
                        let page: Vec<i16> = values.iter().map(|v| v + page).collect();
                        let mut image = encoder.new_image::<GrayI16>(35, 21).unwrap();
                        image.rows_per_strip(4).unwrap();
                        image.write_data(&page).unwrap();
                    }
                }};
            }
            if big {
                write!(TiffEncoder::new_big(&mut file))
            } else {
                write!(TiffEncoder::new(&mut file))
            }
            let (pages, recording) = pages(file.get_ref());
            assert_eq!(recording.header().geometry, Geometry::new(21, 35));
            assert_eq!(recording.header().pixel_type, PixelType::I16);
            assert_eq!(recording.header().frame_count, Some(3));
            assert_eq!(pages.len(), 3);
            for (page, bytes) in (0..3).zip(&pages) {
                let expected: Vec<i16> = values.iter().map(|v| v + page).collect();
                assert_eq!(*bytes, i16_bytes(&expected), "form {kind} page {page}");
            }
        }
    }

    #[test]
    fn pages_that_differ_and_colours_are_refused_by_name() {
        let mut file = std::io::Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut file).unwrap();
        encoder.write_image::<Gray16>(4, 4, &[1; 16]).unwrap();
        encoder.write_image::<Gray8>(4, 4, &[1; 16]).unwrap();
        let (mut recording, _folder) = open(file.get_ref(), &OpenOptions::default()).unwrap();
        let mut buffer = Vec::new();
        assert!(next(&mut recording, &mut buffer).unwrap().is_some());
        let error = next(&mut recording, &mut buffer).unwrap_err().to_string();
        assert!(error.contains("page 1 is 4 x 4 uint8, expected 4 x 4 uint16"), "{error}");
        assert_eq!(next(&mut recording, &mut buffer).unwrap(), None);
        let mut file = std::io::Cursor::new(Vec::new());
        TiffEncoder::new(&mut file).unwrap().write_image::<RGB8>(1, 1, &[1, 2, 3]).unwrap();
        let error = open(file.get_ref(), &OpenOptions::default()).unwrap_err().to_string();
        assert!(error.contains("3 samples a pixel") && error.contains(EXPECTED), "{error}");
    }

    const PLAIN: [(u16, u32); 6] = [(256, 3), (257, 2), (258, 16), (277, 1), (278, 2), (279, 12)];

    #[test]
    fn either_byte_order_and_white_is_zero_are_stored_as_they_are() {
        for (big_endian, photometric) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
            let mut tags = PLAIN.to_vec();
            tags.push((262, photometric));
            let values: [u16; 6] = [1, 2, 3, 500, 600, 65_535];
            let order = |v: &u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
            let pixels: Vec<u8> = values.iter().flat_map(order).collect();
            let (pages, _) = pages(&by_hand(big_endian, &tags, b"none\0", &pixels));
            assert_eq!(pages, [values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()]);
        }
    }

    #[test]
    fn imagejs_one_block_gives_every_image_and_a_cut_one_its_whole_images() {
        let mut tags = PLAIN.to_vec();
        tags.push((262, 1));
        let pixels: Vec<u8> = (0..36).collect();
        let text = b"ImageJ=1.53t\nimages=3\nframes=3\nfinterval=0.5\n\0";
        let (pages, recording) = pages(&by_hand(true, &tags, text, &pixels));
        assert_eq!((recording.header().frame_count, recording.header().frame_rate_hz), (Some(3), Some(2.0)));
        let swapped: Vec<u8> = pixels.chunks(2).flat_map(|pair| [pair[1], pair[0]]).collect();
        assert_eq!(pages.concat(), swapped);
        let (mut recording, _folder) =
            open(&by_hand(true, &tags, text, &pixels[..30]), &OpenOptions::default()).unwrap();
        let mut buffer = Vec::new();
        assert!(next(&mut recording, &mut buffer).unwrap().is_some());
        assert!(next(&mut recording, &mut buffer).unwrap().is_some());
        let error = next(&mut recording, &mut buffer).unwrap_err().to_string();
        assert!(error.contains("after 2 whole pages"), "{error}");
    }

    #[test]
    fn text_that_is_not_utf8_does_not_stop_reading() {
        let mut tags = PLAIN.to_vec();
        tags.push((262, 1));
        let (recording, _folder) =
            open(&by_hand(false, &tags, b"0.5 \xb5m\0", &[7; 12]), &OpenOptions::default()).unwrap();
        let Pages::Tiff(mut recording) = recording.pages else { panic!("it is a TIFF") };
        let description = recording.current.page().description;
        assert_eq!(lossy(recording.current.text(description).unwrap()), "0.5 \u{fffd}m");
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let mut file = std::io::Cursor::new(Vec::new());
        let mut encoder = TiffEncoder::new(&mut file).unwrap().with_compression(Compression::Lzw);
        for _ in 0..3 {
            encoder.write_image::<Gray16>(16, 16, &[300; 256]).unwrap();
        }
        let whole = file.into_inner();
        let mut buffer = Vec::new();
        let mut read = |bytes: &[u8]| {
            if let Ok((mut recording, _folder)) = open(bytes, &OpenOptions::default()) {
                while let Ok(Some(_)) = next(&mut recording, &mut buffer) {}
            }
        };
        for at in 0..whole.len() {
            read(&whole[..at]);
            let mut bytes = whole.clone();
            // Another bit at every byte; 3 and 8 have no common factor.
            bytes[at] ^= 1 << (3 * at % 8);
            read(&bytes);
        }
    }
}
