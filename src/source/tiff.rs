//! Multi-page TIFF and BigTIFF: u8, u16, i16, one sample a pixel, plain, deflate or LZW, strips or tiles.
//!
//! In: a finished file of ScanImage, PrairieView (OME), ImageJ, tifffile, or any other. Out: page after page as raw
//! little-endian bytes. Plain strips go from the file straight into the caller's buffer; the rest is decoded by crate
//! `tiff`. A file that is cut gives its whole pages and then one error that counts them.
//!
//! ImageJ's large files have one directory and all pages in one block behind it; that form is read as well.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tiff::ColorType;
use tiff::decoder::{ChunkType, Decoder};
use tiff::tags::Tag;

use super::tiff_chain::TiffChain;
use super::tiff_layout::{Layout, Texts, imagej_images};
use super::{MAX_PAGE_BYTES, OpenOptions, RecordedFrame, RecordingError, RecordingHeader, check_expected, describe};
use crate::frame::{Geometry, PixelType};

/// Pages whose descriptions are read at the start, to see how many channels follow one another (ScanImage has 4).
const PROBE_PAGES: usize = 9;
const EXPECTED: &str = "uint8, uint16 or int16, one sample a pixel";

/// A TIFF that has been opened.
#[derive(Debug)]
pub struct TiffRecording {
    path: PathBuf,
    decoder: Decoder<BufReader<File>>,
    chain: TiffChain,
    layout: Layout,
    header: RecordingHeader,
    warnings: Vec<String>,
    /// Pages in the file: its directories, or what ImageJ says of its one block.
    page_count: usize,
    /// Where the block begins, in a file of one directory and many pages.
    block_start: Option<u64>,
    next_page: usize,
    ended: bool,
}

impl TiffRecording {
    /// Opens `path`, counts its pages and reads what it says of itself.
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Self, RecordingError> {
        let io = |e| RecordingError::io(path, e);
        let malformed = |detail: String| RecordingError::Malformed { path: path.to_path_buf(), format: "TIFF", detail };
        let mut file = File::open(path).map_err(io)?;
        let chain = TiffChain::read(&mut file).map_err(io)?.map_err(malformed)?;
        if chain.pages == 0 {
            return Err(malformed(chain.broken.unwrap_or_else(|| "it holds no page".to_string())));
        }
        let mut decoder = Decoder::new(BufReader::new(file)).map_err(|e| malformed(e.to_string()))?;
        let (geometry, pixel_type) = page_form(&mut decoder).map_err(|found| RecordingError::Unsupported {
            path: path.to_path_buf(),
            found,
            expected: EXPECTED,
        })?;
        check_expected(path, geometry, pixel_type, options)?;
        let mut warnings = Vec::new();
        let software = text(&mut decoder, Tag::Software);
        let descriptions = first_descriptions(path, chain.pages)?;
        let (page_count, block_start) = block(&mut decoder, &descriptions, &chain, geometry, pixel_type, &mut warnings);
        let texts = Texts { software: &software, descriptions: &descriptions, page_count, path };
        let layout = Layout::read(&texts, options, &mut warnings);
        if let Some(reason) = &chain.broken {
            warnings.push(format!("the file is cut or damaged: {reason}"));
        }
        let header = RecordingHeader {
            geometry,
            pixel_type,
            frame_count: Some(layout.frame_count(page_count)),
            frame_rate_hz: layout.frame_rate_hz,
            planes: layout.planes,
            channels: layout.channels,
            inverted: options.inverted,
            description: layout.description.clone(),
        };
        Ok(Self {
            path: path.to_path_buf(),
            decoder,
            chain,
            layout,
            header,
            warnings,
            page_count,
            block_start,
            next_page: 0,
            ended: false,
        })
    }

    /// What is known before the first page.
    pub fn header(&self) -> &RecordingHeader {
        &self.header
    }

    /// What could not be used. Pages that contradict one another add to it as they are read.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Pages in the file, whole or not.
    pub fn page_count(&self) -> usize {
        self.page_count
    }

    /// The next page; see [`super::FrameRecording::next`].
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<RecordedFrame>, RecordingError> {
        if self.ended {
            return Ok(None);
        }
        if self.next_page >= self.page_count {
            self.ended = true;
            return match self.chain.broken.take() {
                Some(reason) => Err(self.truncated(reason)),
                None => Ok(None),
            };
        }
        let page = self.next_page;
        buffer.resize(self.header.page_bytes(), 0);
        match self.read_page(page, buffer) {
            Ok(()) => {}
            Err(error) => {
                self.ended = true;
                return Err(error);
            }
        }
        let description =
            if self.layout.page_texts { text(&mut self.decoder, Tag::ImageDescription) } else { String::new() };
        self.next_page += 1;
        Ok(Some(self.layout.locate(page, &description, &mut self.warnings)))
    }

    fn read_page(&mut self, page: usize, buffer: &mut [u8]) -> Result<(), RecordingError> {
        if let Some(start) = self.block_start {
            let at = start + page as u64 * buffer.len() as u64;
            let read = read_at(self.decoder.inner(), at, buffer);
            read.map_err(|e| self.truncated(e.to_string()))?;
            self.to_little_endian(buffer, self.chain.big_endian);
            return Ok(());
        }
        if page > 0 {
            self.decoder.next_image().map_err(|e| self.truncated(e.to_string()))?;
            let expected = (self.header.geometry, self.header.pixel_type);
            let form = page_form(&mut self.decoder);
            if form.as_ref().ok() != Some(&expected) {
                return Err(RecordingError::PageMismatch {
                    path: self.path.clone(),
                    page,
                    found: form.map_or_else(|found| found, |(geometry, kind)| describe(geometry, kind)),
                    expected: describe(expected.0, expected.1),
                });
            }
        }
        if let Some(strips) = plain_strips(&mut self.decoder, &self.header) {
            for (at, range) in strips {
                let read = read_at(self.decoder.inner(), at, &mut buffer[range]);
                read.map_err(|e| self.truncated(e.to_string()))?;
            }
            self.to_little_endian(buffer, self.chain.big_endian);
        } else {
            self.decoder.read_image_bytes(buffer).map_err(|e| self.truncated(e.to_string()))?;
            self.to_little_endian(buffer, cfg!(target_endian = "big"));
            // The crate turns "white is zero" images over; what is stored is wanted here.
            if self.decoder.find_tag_unsigned::<u16>(Tag::PhotometricInterpretation).ok().flatten() == Some(0) {
                buffer.iter_mut().for_each(|byte| *byte = !*byte);
            }
        }
        Ok(())
    }

    fn to_little_endian(&self, buffer: &mut [u8], is_big_endian: bool) {
        if is_big_endian && self.header.pixel_type.size_bytes() == 2 {
            buffer.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
        }
    }

    fn truncated(&self, detail: String) -> RecordingError {
        let per_frame = (self.header.planes as usize).saturating_mul(self.header.channels as usize);
        RecordingError::Truncated {
            path: self.path.clone(),
            whole_pages: self.next_page,
            whole_frames: self.next_page / per_frame.max(1),
            detail,
        }
    }
}

/// Geometry and pixel type of the page that the decoder stands at, or what it is instead.
fn page_form(decoder: &mut Decoder<BufReader<File>>) -> Result<(Geometry, PixelType), String> {
    let (width, height) = decoder.dimensions().map_err(|e| e.to_string())?;
    let color = decoder.colortype().map_err(|e| e.to_string())?;
    let formats = decoder.find_tag_unsigned_vec::<u16>(Tag::SampleFormat).ok().flatten();
    let format = formats.and_then(|f| f.first().copied()).unwrap_or(1);
    // Sample format 4 is "undefined", which old programs write for unsigned.
    let pixel_type = match (color, format) {
        (ColorType::Gray(8), 1 | 4) => PixelType::U8,
        (ColorType::Gray(16), 1 | 4) => PixelType::U16,
        (ColorType::Gray(16), 2) => PixelType::I16,
        _ => return Err(format!("pages of {color:?} with sample format {format}")),
    };
    let geometry = Geometry::new(height as usize, width as usize);
    let bytes = geometry.height_px.checked_mul(geometry.width_px).and_then(|n| n.checked_mul(pixel_type.size_bytes()));
    match bytes {
        Some(1..=MAX_PAGE_BYTES) => Ok((geometry, pixel_type)),
        _ => Err(format!("pages of {}, more than {} MiB", describe(geometry, pixel_type), MAX_PAGE_BYTES >> 20)),
    }
}

/// A text tag, empty where it is absent; bytes that are not UTF-8 (a micro sign in Latin-1) are replaced.
fn text(decoder: &mut Decoder<BufReader<File>>, tag: Tag) -> String {
    if let Ok(text) = decoder.get_tag_ascii_string(tag) {
        return text;
    }
    let mut ifd = decoder.image_ifd();
    let count = ifd.find_entry(tag).map_or(0, |entry| entry.count());
    let mut bytes = vec![0; usize::try_from(count).unwrap_or(0).min(1 << 20)];
    match ifd.find_tag_bytes(tag, &mut bytes, 0) {
        Ok(Some(_)) => String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_string(),
        _ => String::new(),
    }
}

fn first_descriptions(path: &Path, pages: usize) -> Result<Vec<String>, RecordingError> {
    let file = File::open(path).map_err(|e| RecordingError::io(path, e))?;
    let mut descriptions = Vec::new();
    if let Ok(mut decoder) = Decoder::new(BufReader::new(file)) {
        descriptions.push(text(&mut decoder, Tag::ImageDescription));
        while descriptions.len() < pages.min(PROBE_PAGES) && decoder.next_image().is_ok() {
            descriptions.push(text(&mut decoder, Tag::ImageDescription));
        }
    }
    Ok(descriptions)
}

/// Pages of the file, and where they begin if they lie in one block behind a single directory (ImageJ).
fn block(
    decoder: &mut Decoder<BufReader<File>>,
    descriptions: &[String],
    chain: &TiffChain,
    geometry: Geometry,
    pixel_type: PixelType,
    warnings: &mut Vec<String>,
) -> (usize, Option<u64>) {
    let said = descriptions.first().and_then(|text| imagej_images(text)).unwrap_or(1);
    if chain.pages > 1 || said <= 1 {
        return (chain.pages, None);
    }
    let page_bytes = geometry.count() * pixel_type.size_bytes();
    let start = plain_offsets(decoder).and_then(|offsets| offsets.first().copied());
    let file_bytes = decoder.inner().get_ref().metadata().map_or(0, |m| m.len());
    let Some(start) = start else {
        warnings.push(format!("ImageJ says {said} images, but only one is there"));
        return (1, None);
    };
    let whole = file_bytes.saturating_sub(start) / page_bytes as u64;
    if whole < said as u64 {
        warnings.push(format!("ImageJ says {said} images; the file has room for {whole}"));
    }
    // One page more than there is room for, so that reading ends with the error that counts the whole ones.
    (said.min(usize::try_from(whole).unwrap_or(usize::MAX).saturating_add(1)).max(1), Some(start))
}

/// Offsets of the strips, if they are stored plain.
fn plain_offsets(decoder: &mut Decoder<BufReader<File>>) -> Option<Vec<u64>> {
    let compression = decoder.find_tag_unsigned::<u16>(Tag::Compression).ok()?.unwrap_or(1);
    if compression != 1 || decoder.get_chunk_type() != ChunkType::Strip {
        return None;
    }
    decoder.find_tag_unsigned_vec::<u64>(Tag::StripOffsets).ok()?
}

/// Pieces of a plain page, neighbours joined: where each lies in the file, and its range in the page's bytes.
fn plain_strips(
    decoder: &mut Decoder<BufReader<File>>,
    header: &RecordingHeader,
) -> Option<Vec<(u64, std::ops::Range<usize>)>> {
    let offsets = plain_offsets(decoder)?;
    let height = header.geometry.height_px;
    let rows = decoder.find_tag_unsigned::<u32>(Tag::RowsPerStrip).ok()?.map_or(height, |rows| rows as usize);
    let strip_bytes = rows.clamp(1, height) * header.geometry.width_px * header.pixel_type.size_bytes();
    let page_bytes = header.page_bytes();
    if offsets.len() != page_bytes.div_ceil(strip_bytes) {
        return None;
    }
    let mut pieces: Vec<(u64, std::ops::Range<usize>)> = Vec::new();
    for (strip, &offset) in offsets.iter().enumerate() {
        let range = strip * strip_bytes..((strip + 1) * strip_bytes).min(page_bytes);
        match pieces.last_mut() {
            Some((at, last)) if at.checked_add(last.len() as u64) == Some(offset) => last.end = range.end,
            _ => pieces.push((offset, range)),
        }
    }
    Some(pieces)
}

fn read_at(reader: &mut BufReader<File>, at: u64, buffer: &mut [u8]) -> std::io::Result<()> {
    reader.seek(SeekFrom::Start(at))?;
    reader.read_exact(buffer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tiff::encoder::colortype::{Gray8, Gray16, GrayI16, RGB8};
    use tiff::encoder::{Compression, DeflateLevel, TiffEncoder};

    fn open(bytes: &[u8], options: &OpenOptions) -> Result<(TiffRecording, tempfile::TempDir), RecordingError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("movie.tif");
        File::create(&path).unwrap().write_all(bytes).unwrap();
        TiffRecording::open(&path, options).map(|recording| (recording, folder))
    }

    fn pages(bytes: &[u8]) -> (Vec<Vec<u8>>, TiffRecording) {
        let (mut recording, _folder) = open(bytes, &OpenOptions::default()).unwrap();
        let (mut pages, mut buffer) = (Vec::new(), Vec::new());
        while recording.next(&mut buffer).unwrap().is_some() {
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
        assert!(recording.next(&mut buffer).unwrap().is_some());
        let error = recording.next(&mut buffer).unwrap_err().to_string();
        assert!(error.contains("page 1 is 4 x 4 uint8, expected 4 x 4 uint16"), "{error}");
        assert_eq!(recording.next(&mut buffer).unwrap(), None);
        let mut file = std::io::Cursor::new(Vec::new());
        TiffEncoder::new(&mut file).unwrap().write_image::<RGB8>(1, 1, &[1, 2, 3]).unwrap();
        let error = open(file.get_ref(), &OpenOptions::default()).unwrap_err().to_string();
        assert!(error.contains("RGB(8)") && error.contains(EXPECTED), "{error}");
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
        assert!(recording.next(&mut buffer).unwrap().is_some());
        assert!(recording.next(&mut buffer).unwrap().is_some());
        let error = recording.next(&mut buffer).unwrap_err().to_string();
        assert!(error.contains("after 2 whole pages"), "{error}");
    }

    #[test]
    fn text_that_is_not_utf8_does_not_stop_reading() {
        let mut tags = PLAIN.to_vec();
        tags.push((262, 1));
        let (mut recording, _folder) =
            open(&by_hand(false, &tags, b"0.5 \xb5m\0", &[7; 12]), &OpenOptions::default()).unwrap();
        assert_eq!(text(&mut recording.decoder, Tag::ImageDescription), "0.5 \u{fffd}m");
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
                while let Ok(Some(_)) = recording.next(&mut buffer) {}
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
