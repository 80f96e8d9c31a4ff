//! One image file directory (IFD) of a TIFF or BigTIFF: what a page is and where its bytes lie.
//!
//! In: the file and the directory's offset. Out: [`Directory`], or why it cannot be read *yet*: a file that is still
//! being written holds directories of which half is there, and the caller decides whether to wait. One read a
//! directory, no allocation once the buffer has grown. Layout: TIFF 6.0, section 2, and the BigTIFF proposal.

use std::fs::File;
use std::io;

use crate::frame::{Geometry, PixelType};

/// Entries of a directory at most; the largest that programs write have some fifty.
const ENTRIES_MAX: u64 = 4_096;
/// Bytes of a text that are read at most.
const TEXT_BYTES_MAX: u64 = 16 << 20;
/// Bytes that are read of a directory at first: enough for 24 entries of a BigTIFF.
const FIRST_READ_BYTES: usize = 512;
/// Offsets of strips that are read at most for one page.
const STRIPS_MAX: u64 = 1 << 22;

/// What the first bytes of the file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// 8-byte offsets.
    pub big: bool,
    /// Numbers are stored most significant byte first.
    pub big_endian: bool,
}

/// Why a directory could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unread {
    /// The file ends before it does: wait, or it is cut.
    Beyond(String),
    /// What stands there is no directory: wait, or it is damaged.
    Nonsense(String),
}

impl Unread {
    /// The reason, for people.
    pub fn reason(self) -> String {
        match self {
            Unread::Beyond(reason) | Unread::Nonsense(reason) => reason,
        }
    }
}

impl Head {
    /// Where the offset of the first directory stands.
    pub fn first_pointer_at(self) -> u64 {
        if self.big { 8 } else { 4 }
    }

    /// Bytes of an offset.
    pub fn offset_bytes(self) -> usize {
        if self.big { 8 } else { 4 }
    }

    /// An unsigned number of any length.
    pub fn number(self, bytes: &[u8]) -> u64 {
        let push = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
        if self.big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) }
    }

    /// Reads the head of `file`.
    pub fn read(file: &File) -> io::Result<Result<Self, Unread>> {
        let mut bytes = [0u8; 16];
        let there = read_up_to(file, &mut bytes, 0)?;
        let big_endian = match &bytes[..2] {
            b"II" => false,
            b"MM" => true,
            _ if there < 2 || bytes[..there].iter().all(|&byte| byte == 0) => {
                return Ok(Err(Unread::Beyond(format!("it is only {there} bytes long"))));
            }
            _ => return Ok(Err(Unread::Nonsense("it does not begin with II or MM".to_string()))),
        };
        let probe = Head { big: false, big_endian };
        let big = match probe.number(&bytes[2..4]) {
            _ if there < 8 => false,
            42 => false,
            43 if probe.number(&bytes[4..6]) == 8 => true,
            other => {
                let reason = format!("version {other}, expected 42 (TIFF) or 43 (BigTIFF)");
                return Ok(Err(Unread::Nonsense(reason)));
            }
        };
        if there < if big { 16 } else { 8 } {
            return Ok(Err(Unread::Beyond(format!("it is only {there} bytes long"))));
        }
        Ok(Ok(Head { big, big_endian }))
    }

    /// The offset that stands at `at`; `None` where the file ends before it does.
    pub fn pointer(self, file: &File, at: u64) -> io::Result<Option<u64>> {
        let mut bytes = [0u8; 8];
        let field = &mut bytes[..self.offset_bytes()];
        Ok((read_up_to(file, field, at)? == field.len()).then(|| self.number(field)))
    }
}

/// Where the values of a tag stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    size_bytes: u64,
    count: u64,
    /// In the file: inside the directory, or where its value field points.
    at: u64,
    /// The first value, where it stands inside the directory.
    first: Option<u64>,
}

impl Entry {
    /// Bytes of all values.
    pub fn bytes(&self) -> u64 {
        self.size_bytes.saturating_mul(self.count)
    }

    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.at.saturating_add(self.bytes())
    }
}

/// A directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Directory {
    /// Where it begins.
    pub at: u64,
    /// Where the offset of the next one stands.
    pub next_at: u64,
    /// The next one; 0 where there is none yet.
    pub next: u64,
    pub width_px: u64,
    pub height_px: u64,
    bits: u64,
    samples: u64,
    sample_format: u64,
    /// 1: none.
    pub compression: u64,
    /// 0: white is zero.
    pub photometric: u64,
    rows_per_strip: u64,
    pub tiled: bool,
    offsets: Option<Entry>,
    counts: Option<Entry>,
    pub description: Option<Entry>,
    pub software: Option<Entry>,
}

impl Directory {
    /// How a pixel is stored, or what the page is instead.
    pub fn form(&self) -> Result<(Geometry, PixelType), String> {
        // Sample format 4 is "undefined", which old programs write for unsigned.
        let pixel_type = match (self.samples, self.bits, self.sample_format) {
            (1, 8, 1 | 4) => PixelType::U8,
            (1, 16, 1 | 4) => PixelType::U16,
            (1, 16, 2) => PixelType::I16,
            (samples, ..) if samples != 1 => return Err(format!("pages of {samples} samples a pixel")),
            (samples, bits, format) => {
                return Err(format!("pages of {samples} sample of {bits} bits, sample format {format}, a pixel"));
            }
        };
        let height_px = usize::try_from(self.height_px).unwrap_or(usize::MAX);
        let width_px = usize::try_from(self.width_px).unwrap_or(usize::MAX);
        let bytes = height_px.checked_mul(width_px).and_then(|n| n.checked_mul(pixel_type.size_bytes()));
        match bytes {
            Some(1..=super::MAX_PAGE_BYTES) => Ok((Geometry::new(height_px, width_px), pixel_type)),
            _ => Err(format!(
                "pages of {height_px} x {width_px} {}, expected 1 byte to {} MiB",
                pixel_type.name(),
                super::MAX_PAGE_BYTES >> 20
            )),
        }
    }

    /// Pixels lie in the file as they are.
    pub fn is_plain(&self) -> bool {
        self.compression == 1 && !self.tiled
    }

    /// The pixels lie at the same place and in the same form.
    pub fn has_pixels_of(&self, other: &Directory) -> bool {
        let form = |d: &Directory| (d.width_px, d.height_px, d.bits, d.samples, d.sample_format, d.compression);
        form(self) == form(other) && self.offsets == other.offsets && self.counts == other.counts
    }

    fn take(&mut self, tag: u64, entry: Entry) {
        let number = || entry.first.unwrap_or(u64::MAX);
        match tag {
            256 => self.width_px = number(),
            257 => self.height_px = number(),
            258 => self.bits = number(),
            259 => self.compression = number(),
            262 => self.photometric = number(),
            270 => self.description = Some(entry),
            273 => self.offsets = Some(entry),
            277 => self.samples = number(),
            278 => self.rows_per_strip = number(),
            279 => self.counts = Some(entry),
            305 => self.software = Some(entry),
            324 => (self.offsets, self.tiled) = (Some(entry), true),
            325 => self.counts = Some(entry),
            339 => self.sample_format = number(),
            _ => {}
        }
    }
}

/// One piece of a page: where it lies, and how many bytes of the page it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub at: u64,
    pub bytes: u64,
}

/// Reads directories; keeps its buffers.
#[derive(Debug)]
pub(super) struct DirectoryReader {
    pub head: Head,
    bytes: Vec<u8>,
    values: Vec<u8>,
}

impl DirectoryReader {
    pub fn new(head: Head) -> Self {
        Self { head, bytes: Vec::new(), values: Vec::new() }
    }

    /// The directory at `at`.
    pub fn read(&mut self, file: &File, at: u64) -> io::Result<Result<Directory, Unread>> {
        let head = self.head;
        let (count_bytes, entry_bytes) = if head.big { (8, 20) } else { (2, 12) };
        let beyond = || Ok(Err(Unread::Beyond(format!("the directory at byte {at} is not whole"))));
        self.bytes.resize(FIRST_READ_BYTES, 0);
        let mut there = read_up_to(file, &mut self.bytes, at)?;
        if there < count_bytes {
            return beyond();
        }
        let count = head.number(&self.bytes[..count_bytes]);
        if count == 0 || count > ENTRIES_MAX {
            let reason = format!("byte {at}: a directory of {count} entries, expected 1 to {ENTRIES_MAX}");
            return Ok(Err(Unread::Nonsense(reason)));
        }
        let entries_end = count_bytes + count as usize * entry_bytes;
        let whole = entries_end + head.offset_bytes();
        if whole > there && there == FIRST_READ_BYTES {
            self.bytes.resize(whole, 0);
            there = read_up_to(file, &mut self.bytes, at)?;
        }
        if there < whole {
            return beyond();
        }
        let mut directory = Directory {
            at,
            next_at: at + entries_end as u64,
            next: head.number(&self.bytes[entries_end..whole]),
            bits: 1,
            samples: 1,
            sample_format: 1,
            compression: 1,
            photometric: 1,
            rows_per_strip: u64::MAX,
            ..Directory::default()
        };
        for (k, entry) in self.bytes[count_bytes..entries_end].chunks_exact(entry_bytes).enumerate() {
            let tag = head.number(&entry[..2]);
            // Some programs repeat a tag or leave the order; zeros are a place that was not written yet.
            if tag == 0 || head.number(&entry[2..4]) == 0 {
                let reason = format!("byte {at}: entry {k} of {count} of the directory is not filled in");
                return Ok(Err(Unread::Nonsense(reason)));
            }
            let value_at = at + (count_bytes + k * entry_bytes) as u64 + if head.big { 12 } else { 8 };
            if let Some(entry) = self.entry(entry, value_at) {
                directory.take(tag, entry);
            }
        }
        if directory.width_px == 0 || directory.height_px == 0 || directory.offsets.is_none() {
            let reason = format!("byte {at}: the directory states no width, height or place of pixels");
            return Ok(Err(Unread::Nonsense(reason)));
        }
        Ok(Ok(directory))
    }

    fn entry(&self, bytes: &[u8], value_at: u64) -> Option<Entry> {
        let head = self.head;
        let size_bytes = match head.number(&bytes[2..4]) {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16 | 17 | 18 => 8,
            _ => return None,
        };
        let (count, field) = if head.big { (&bytes[4..12], &bytes[12..20]) } else { (&bytes[4..8], &bytes[8..12]) };
        let count = head.number(count);
        let total = count.checked_mul(size_bytes)?;
        if total <= field.len() as u64 {
            let first = field.get(..size_bytes as usize).filter(|_| count > 0).map(|first| head.number(first));
            Some(Entry { size_bytes, count, at: value_at, first })
        } else {
            Some(Entry { size_bytes, count, at: head.number(field), first: None })
        }
    }

    /// The bytes of a text, without the zeros at its end, borrowed until the next call; empty where there is none.
    pub fn text(&mut self, file: &File, entry: Option<Entry>) -> io::Result<&[u8]> {
        self.values.clear();
        if let Some(entry) = entry.filter(|entry| entry.size_bytes == 1) {
            self.values.resize(entry.bytes().min(TEXT_BYTES_MAX) as usize, 0);
            let there = read_up_to(file, &mut self.values, entry.at)?;
            self.values.truncate(there);
        }
        let end = self.values.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        Ok(&self.values[..end])
    }

    /// The pieces of a plain page of `page_bytes`, neighbours joined; or why they do not make one.
    pub fn plain_pieces(
        &mut self,
        file: &File,
        page: &Directory,
        row_bytes: u64,
        pieces: &mut Vec<Piece>,
    ) -> io::Result<Result<(), Unread>> {
        pieces.clear();
        let rows = page.rows_per_strip.clamp(1, page.height_px);
        let (strip_bytes, page_bytes) = (rows * row_bytes, page.height_px * row_bytes);
        let needed = page_bytes.div_ceil(strip_bytes);
        let size = match self.array(file, page.offsets, page)? {
            Ok(size) => size,
            Err(unread) => return Ok(Err(unread)),
        };
        let count = (self.values.len() / size) as u64;
        if count != needed {
            let reason = format!("byte {}: {count} strips, expected {needed} of {rows} rows", page.at);
            return Ok(Err(Unread::Nonsense(reason)));
        }
        let head = self.head;
        for (strip, offset) in self.values.chunks_exact(size).enumerate() {
            let at = head.number(offset);
            let bytes = strip_bytes.min(page_bytes - strip as u64 * strip_bytes);
            if at == 0 {
                let reason = format!("byte {}: strip {strip} has no place yet", page.at);
                return Ok(Err(Unread::Nonsense(reason)));
            }
            match pieces.last_mut() {
                Some(last) if last.at.checked_add(last.bytes) == Some(at) => last.bytes += bytes,
                _ => pieces.push(Piece { at, bytes }),
            }
        }
        Ok(Ok(()))
    }

    /// The strips or tiles of a page that is stored in any other way: as long as their byte counts say.
    pub fn stored_pieces(
        &mut self,
        file: &File,
        page: &Directory,
        pieces: &mut Vec<Piece>,
    ) -> io::Result<Result<(), Unread>> {
        pieces.clear();
        let head = self.head;
        let size = match self.array(file, page.offsets, page)? {
            Ok(size) => size,
            Err(unread) => return Ok(Err(unread)),
        };
        let offsets: Vec<u64> = self.values.chunks_exact(size).map(|value| head.number(value)).collect();
        let size = match self.array(file, page.counts, page)? {
            Ok(size) => size,
            Err(unread) => return Ok(Err(unread)),
        };
        for (k, &at) in offsets.iter().enumerate() {
            let bytes = self.values.get(k * size..(k + 1) * size).map_or(0, |value| head.number(value));
            if at == 0 || bytes == 0 {
                let reason = format!("byte {}: strip or tile {k} has no place or no length yet", page.at);
                return Ok(Err(Unread::Nonsense(reason)));
            }
            pieces.push(Piece { at, bytes });
        }
        Ok(Ok(()))
    }

    /// Whether a plain page's byte counts are absent or fewer than its rows need: not yet written, or wrong.
    pub fn plain_counts_differ(&mut self, file: &File, page: &Directory, row_bytes: u64) -> io::Result<bool> {
        let Some(counts) = page.counts else { return Ok(true) };
        let Ok(size) = self.array(file, Some(counts), page)? else { return Ok(true) };
        let head = self.head;
        let total = self.values.chunks_exact(size).fold(0u64, |sum, value| sum.saturating_add(head.number(value)));
        Ok(total < page.height_px * row_bytes)
    }

    /// Reads the values of an entry into `values`; bytes of one.
    fn array(&mut self, file: &File, entry: Option<Entry>, page: &Directory) -> io::Result<Result<usize, Unread>> {
        let Some(entry) = entry.filter(|entry| entry.count > 0 && entry.count <= STRIPS_MAX) else {
            let reason = format!("byte {}: no usable list of strips or tiles", page.at);
            return Ok(Err(Unread::Nonsense(reason)));
        };
        self.values.clear();
        if let (Some(first), 1) = (entry.first, entry.count) {
            // The usual case: one strip, whose number stands in the directory that was just read.
            let bytes = if self.head.big_endian { first.to_be_bytes() } else { first.to_le_bytes() };
            self.values.extend_from_slice(&bytes);
            return Ok(Ok(8));
        }
        self.values.resize(entry.bytes() as usize, 0);
        if read_up_to(file, &mut self.values, entry.at)? < self.values.len() {
            return Ok(Err(Unread::Beyond(format!("the list of strips of the page at byte {} is not whole", page.at))));
        }
        Ok(Ok(entry.size_bytes as usize))
    }
}

/// Fills `buffer` from byte `at` on, as far as the file goes.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let Some(from) = at.checked_add(filled as u64).filter(|&from| i64::try_from(from).is_ok()) else { break };
        match read_once(file, &mut buffer[filled..], from) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(unix)]
fn read_once(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, at)
}

#[cfg(windows)]
fn read_once(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, at)
}
