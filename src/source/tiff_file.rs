//! One TIFF on the disk, finished or still being written: finds its pages and reads their pixels.
//!
//! A finished file's chain of directories is walked once, when it is opened. A growing one is looked at page by page:
//! the pointer to the next directory stands in the one before, so each look costs a few small reads, however long the
//! file has become. A page counts as whole when its directory is filled in, says the same form as the first page, and
//! every byte that it points to lies inside the file. Programs write these parts in every order (libtiff: pixels,
//! directory, pointer; tifffile: pointer, pixels, directory; ScanImage: directory with its pointer set in advance,
//! then pixels), so nothing is concluded from an order.
//!
//! Not detected: a writer that makes the file as long as it will be and fills in pixels afterwards, with every
//! directory complete from the start.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tiff::decoder::Decoder;

use super::tiff_chain::TiffChain;
use super::tiff_directory::{Directory, DirectoryReader, Entry, Head, Piece, Unread, read_up_to};
use super::{RecordingError, describe, is_replaced};
use crate::frame::{Geometry, PixelType};

/// Bytes of a page's pixels that are looked at again while its successor is waited for.
const MARK_BYTES: usize = 256;

/// Whether a page can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// It is whole; [`TiffFile::read`] reads it.
    Whole,
    /// It begins, and is not whole: why.
    Begun(String),
    /// Nothing says that there is another page.
    NoMore,
}

/// Why a page will never be read.
#[derive(Debug)]
pub(super) enum Trouble {
    Io(io::Error),
    Damaged(String),
    /// Another form than the first page's: what it is.
    OtherForm(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Io(error)
    }
}

impl From<Unread> for Trouble {
    fn from(unread: Unread) -> Self {
        Trouble::Damaged(unread.reason())
    }
}

/// A TIFF that has been opened.
#[derive(Debug)]
pub(super) struct TiffFile {
    path: PathBuf,
    file: File,
    reader: DirectoryReader,
    form: Option<(Geometry, PixelType)>,
    /// Of a finished file; what is known so far of a growing one.
    chain: TiffChain,
    growing: bool,
    /// Where the pages lie in one block behind the first directory (ImageJ), and how many.
    block: Option<(u64, usize)>,
    page: Directory,
    pieces: Vec<Piece>,
    /// The offset of the next directory stands here.
    pointer_at: u64,
    /// One past the last byte that was ever read: a file that is shorter has been cut.
    read_through: u64,
    /// Bytes behind this are left out.
    limit: Option<u64>,
    /// The directory was seen with places that were not filled in: it is written over, not appended.
    filled_in_later: bool,
    /// The page before, as it was, and the first bytes of its pixels: to see that the file is still the same.
    before: (Directory, u64, Vec<u8>),
}

impl TiffFile {
    /// Opens `path`. `Ok(Err(reason))` for a growing file that has not come so far.
    pub fn open(path: &Path, growing: bool) -> Result<Result<Self, String>, RecordingError> {
        let io = |e| RecordingError::io(path, e);
        let malformed = |detail: String| RecordingError::Malformed { path: path.to_path_buf(), format: "TIFF", detail };
        let file = File::open(path).map_err(io)?;
        let head = match Head::read(&file).map_err(io)? {
            Ok(head) => head,
            Err(Unread::Beyond(reason)) if growing => return Ok(Err(reason)),
            Err(unread) => return Err(malformed(unread.reason())),
        };
        let chain = if growing { TiffChain::default() } else { TiffChain::read(&file, head).map_err(io)? };
        if !growing && chain.pages.is_empty() {
            return Err(malformed(chain.broken.unwrap_or_else(|| "it holds no page".to_string())));
        }
        Ok(Ok(Self {
            path: path.to_path_buf(),
            file,
            reader: DirectoryReader::new(head),
            form: None,
            chain,
            growing,
            block: None,
            page: Directory::default(),
            pieces: Vec::new(),
            pointer_at: head.first_pointer_at(),
            read_through: 0,
            limit: None,
            filled_in_later: false,
            before: (Directory::default(), 0, Vec::new()),
        }))
    }

    /// What is written from now on is left out.
    pub fn finish(&mut self) -> io::Result<()> {
        self.limit = Some(self.file.metadata()?.len());
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Pages that are known: all of a finished file, also those that the end of the file cuts off.
    pub fn page_count(&self) -> usize {
        self.block.map_or(self.chain.pages.len(), |(_, pages)| pages)
    }

    /// Still being written.
    pub fn is_growing(&self) -> bool {
        self.growing
    }

    /// Why the chain of a finished file broke off.
    pub fn broken(&self) -> Option<&str> {
        self.chain.broken.as_deref()
    }

    /// Bytes of the file now.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether another file stands at the path now.
    pub fn replaced(&self) -> bool {
        is_replaced(&self.file, &self.path)
    }

    /// Every page must be of this form.
    pub fn expect(&mut self, form: (Geometry, PixelType)) {
        self.form = Some(form);
    }

    /// The pages lie in one block behind the first directory, `pages` of them; `None` where its pixels are not plain.
    pub fn expect_block(&mut self, pages: usize) -> io::Result<Option<u64>> {
        let start = self.pieces.first().filter(|_| self.page.is_plain() && self.pieces.len() == 1).map(|p| p.at);
        self.block = start.map(|start| (start, pages));
        Ok(start)
    }

    /// The page that [`TiffFile::find`] found last.
    pub fn page(&self) -> &Directory {
        &self.page
    }

    /// A text of that page; empty where it has none.
    pub fn text(&mut self, entry: Option<Entry>) -> io::Result<&[u8]> {
        self.reader.text(&self.file, entry)
    }

    /// Looks for page number `page`; pages are asked for in order, any of them more than once. `last_call`: nothing is
    /// going to be added to the file, so that what looks finished is.
    pub fn find(&mut self, page: usize, last_call: bool) -> Result<Found, Trouble> {
        if let Some((start, pages)) = self.block {
            return Ok(self.find_in_block(page, start, pages));
        }
        if self.growing {
            return self.find_growing(page, last_call);
        }
        let Some(&at) = self.chain.pages.get(page) else { return Ok(Found::NoMore) };
        self.page = self.reader.read(&self.file, at)??;
        self.check_form()?;
        if self.page.is_plain() {
            self.find_pieces()??;
        }
        Ok(Found::Whole)
    }

    fn find_in_block(&mut self, page: usize, start: u64, pages: usize) -> Found {
        if page >= pages {
            return Found::NoMore;
        }
        let bytes = self.form.map_or(0, |(geometry, kind)| (geometry.count() * kind.size_bytes()) as u64);
        let at = start.saturating_add(bytes.saturating_mul(page as u64));
        self.pieces.clear();
        self.pieces.push(Piece { at, bytes });
        Found::Whole
    }

    fn find_growing(&mut self, page: usize, last_call: bool) -> Result<Found, Trouble> {
        let file_bytes = self.file.metadata()?.len();
        if file_bytes < self.read_through {
            return Err(Trouble::Damaged(format!(
                "the file was cut to {file_bytes} bytes while it was followed; {} had been read",
                self.read_through
            )));
        }
        let file_bytes = self.limit.map_or(file_bytes, |limit| limit.min(file_bytes));
        if let Some(&at) = self.chain.pages.get(page) {
            self.page = self.reader.read(&self.file, at)??;
            self.find_pieces()??;
            return Ok(Found::Whole);
        }
        self.check_before()?;
        let pointer = self.reader.head.pointer(&self.file, self.pointer_at)?;
        let Some(at) = pointer.filter(|&at| at != 0) else { return Ok(Found::NoMore) };
        // Directories of a growing file follow one another; a pointer of which half is written points back.
        if at <= self.pointer_at {
            return Ok(Found::Begun(format!("the chain of pages returns to byte {at}")));
        }
        self.page = match self.reader.read(&self.file, at)? {
            Ok(page) => page,
            Err(Unread::Beyond(reason)) => return Ok(Found::Begun(reason)),
            Err(Unread::Nonsense(reason)) => {
                self.filled_in_later = true;
                return Ok(Found::Begun(reason));
            }
        };
        // With a pointer to its own successor, or at the end of all growth, nothing more is written into it.
        let settled = last_call || self.page.next != 0;
        match self.check_form() {
            Err(Trouble::OtherForm(found)) if !settled => return Ok(Found::Begun(found)),
            other => other?,
        }
        if let Err(unread) = self.find_pieces()? {
            self.filled_in_later |= matches!(unread, Unread::Nonsense(_));
            return Ok(Found::Begun(unread.reason()));
        }
        if let Some(reason) = self.missing(page, file_bytes, settled)? {
            return Ok(Found::Begun(reason));
        }
        self.commit(at, page)?;
        Ok(Found::Whole)
    }

    /// What of the found page is not in the file yet.
    fn missing(&mut self, page: usize, file_bytes: u64, settled: bool) -> Result<Option<String>, Trouble> {
        let end = self.pieces.iter().map(|piece| piece.at.saturating_add(piece.bytes)).max().unwrap_or(0);
        if end > file_bytes {
            return Ok(Some(format!("the pixels of page {page} end at byte {end}, the file at {file_bytes}")));
        }
        let texts = [self.page.description, self.page.software];
        if texts.into_iter().flatten().any(|text| text.end() > file_bytes) {
            return Ok(Some(format!("the texts of page {page} are not whole")));
        }
        if settled {
            return Ok(None);
        }
        let row_bytes = self.page_bytes() / self.page.height_px.max(1);
        if self.page.is_plain() && self.reader.plain_counts_differ(&self.file, &self.page, row_bytes)? {
            return Ok(Some(format!("the byte counts of page {page} are not those of its rows")));
        }
        if self.filled_in_later
            && let Some(entry) = self.page.description
            && (self.reader.text(&self.file, Some(entry))?.len() as u64).saturating_add(1) < entry.bytes()
        {
            return Ok(Some(format!("the description of page {page} is not filled in")));
        }
        Ok(None)
    }

    /// Takes the found page as read: the next one is looked for behind it.
    fn commit(&mut self, at: u64, page: usize) -> io::Result<()> {
        if page == self.chain.pages.len() {
            self.chain.pages.push(at);
        }
        self.pointer_at = self.page.next_at;
        self.filled_in_later = false;
        let ends = self.pieces.iter().map(|piece| piece.at.saturating_add(piece.bytes));
        let end = ends.max().unwrap_or(0).max(self.page.next_at + self.reader.head.offset_bytes() as u64);
        self.read_through = self.read_through.max(end);
        let piece = self.pieces.first().copied().unwrap_or(Piece { at: 0, bytes: 0 });
        let mut mark = std::mem::take(&mut self.before.2);
        mark.resize((piece.bytes as usize).min(MARK_BYTES), 0);
        read_up_to(&self.file, &mut mark, piece.at)?;
        self.before = (self.page.clone(), piece.at, mark);
        Ok(())
    }

    /// Refuses to read on in a file that was written anew behind our back.
    fn check_before(&mut self) -> Result<(), Trouble> {
        let (ref page, mark_at, ref mark) = self.before;
        if mark.is_empty() {
            return Ok(());
        }
        let same_place = self.reader.read(&self.file, page.at)?.is_ok_and(|now| now.has_pixels_of(page));
        let mut now = [0; MARK_BYTES];
        let there = read_up_to(&self.file, &mut now[..mark.len()], mark_at)?;
        if !same_place || now[..there] != mark[..] {
            let reason =
                format!("the page at byte {} has changed since it was read: the file was written anew", page.at);
            return Err(Trouble::Damaged(reason));
        }
        Ok(())
    }

    fn check_form(&self) -> Result<(), Trouble> {
        match self.page.form() {
            Ok(form) if self.form.is_none_or(|expected| form == expected) => Ok(()),
            Ok((geometry, kind)) => Err(Trouble::OtherForm(describe(geometry, kind))),
            Err(found) => Err(Trouble::OtherForm(found)),
        }
    }

    fn page_bytes(&self) -> u64 {
        self.page.form().map_or(0, |(geometry, kind)| (geometry.count() * kind.size_bytes()) as u64)
    }

    fn find_pieces(&mut self) -> io::Result<Result<(), Unread>> {
        let row_bytes = self.page_bytes() / self.page.height_px.max(1);
        if row_bytes == 0 {
            return Ok(Err(Unread::Nonsense(self.page.form().err().unwrap_or_default())));
        }
        if self.page.is_plain() {
            self.reader.plain_pieces(&self.file, &self.page, row_bytes, &mut self.pieces)
        } else {
            self.reader.stored_pieces(&self.file, &self.page, &mut self.pieces)
        }
    }

    /// The pixels of the page that was found last, as raw little-endian bytes; `buffer` has their length.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<(), Trouble> {
        let plain = self.block.is_some() || self.page.is_plain();
        if plain {
            let mut filled = 0;
            for piece in &self.pieces {
                let end = filled + piece.bytes as usize;
                let part = buffer.get_mut(filled..end).unwrap_or(&mut []);
                let there = read_up_to(&self.file, part, piece.at)?;
                if (there as u64) < piece.bytes {
                    return Err(Trouble::Damaged(format!(
                        "{there} of {} bytes of pixels from byte {} on",
                        piece.bytes, piece.at
                    )));
                }
                filled = end;
            }
        } else {
            self.decode(buffer).map_err(|e| Trouble::Damaged(e.to_string()))?;
        }
        let swapped = if plain { self.reader.head.big_endian } else { cfg!(target_endian = "big") };
        if swapped && self.form.is_some_and(|(_, kind)| kind.size_bytes() == 2) {
            buffer.chunks_exact_mut(2).for_each(|pair| pair.swap(0, 1));
        }
        Ok(())
    }

    fn decode(&self, buffer: &mut [u8]) -> Result<(), tiff::TiffError> {
        let view = OnePage { file: &self.file, head: self.reader.head, page_at: self.page.at, position: 0 };
        Decoder::new(BufReader::with_capacity(1 << 16, view))?.read_image_bytes(buffer)?;
        // The crate turns "white is zero" images over; what is stored is wanted here.
        if self.page.photometric == 0 {
            buffer.iter_mut().for_each(|byte| *byte = !*byte);
        }
        Ok(())
    }
}

/// The file as if its first directory were that of one page: so that the crate's decoder, which knows only the way from
/// the first directory on, opens any page at once.
struct OnePage<'a> {
    file: &'a File,
    head: Head,
    page_at: u64,
    position: u64,
}

impl Read for OnePage<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = read_up_to(self.file, buffer, self.position)?;
        let width = self.head.offset_bytes();
        let all = if self.head.big_endian { self.page_at.to_be_bytes() } else { self.page_at.to_le_bytes() };
        let pointer = if self.head.big_endian { &all[8 - width..] } else { &all[..width] };
        let pointer_at = self.head.first_pointer_at();
        for (at, byte) in (self.position..).zip(&mut buffer[..there]) {
            if at >= pointer_at + width as u64 {
                break;
            }
            if at >= pointer_at {
                *byte = pointer[(at - pointer_at) as usize];
            }
        }
        self.position += there as u64;
        Ok(there)
    }
}

impl Seek for OnePage<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let moved = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        self.position = moved.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
