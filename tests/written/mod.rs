//! TIFFs as microscopes' programs write them, for tests: a list of writes in their order, each at its place.

#![allow(dead_code, reason = "each test uses a part")]

use std::fs::File;
use std::path::Path;

/// In which order a program writes the parts of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Directory with its pointer to the next one set in advance, text, pixels.
    ScanImage,
    /// Pixels, text, directory, then the pointer in the directory before.
    Libtiff,
    /// The pointer, pixels behind a hole, then directory and text into the hole.
    Tifffile,
}

/// The form of a file.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub big: bool,
    pub big_endian: bool,
    pub order: Order,
    pub height: usize,
    pub width: usize,
    pub rows_per_strip: usize,
}

impl Form {
    pub const fn new(big: bool, order: Order) -> Self {
        Form { big, big_endian: false, order, height: 5, width: 7, rows_per_strip: 5 }
    }
}

/// One write.
#[derive(Debug, Clone)]
pub struct Write {
    pub at: u64,
    pub bytes: Vec<u8>,
    /// The page that is whole with it.
    pub completes: Option<usize>,
}

/// Pixel `k` of page `page`: no zeros, and never the same page twice.
pub fn pixels(form: &Form, page: usize) -> Vec<u16> {
    (0..form.height * form.width).map(|k| (1 + page * 977 + k * 31) as u16 | 0x0101).collect()
}

/// The same as raw little-endian bytes.
pub fn little_endian(pixels: &[u16]) -> Vec<u8> {
    pixels.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A file of pages of [`pixels`], with a Software text on each page and a description of its own.
pub struct Writer {
    form: Form,
    software: String,
    end: u64,
    /// Where the pointer to the next directory stands.
    pointer_at: u64,
    pages: usize,
    writes: Vec<Write>,
}

impl Writer {
    pub fn new(form: Form, software: &str) -> Self {
        let mut writer =
            Writer { form, software: software.to_owned(), end: 0, pointer_at: 0, pages: 0, writes: Vec::new() };
        let mut head = if form.big_endian { b"MM".to_vec() } else { b"II".to_vec() };
        head.extend(writer.number(if form.big { 43 } else { 42 }, 2));
        if form.big {
            head.extend(writer.number(8, 2));
            head.extend(writer.number(0, 2));
        }
        writer.pointer_at = head.len() as u64;
        let first = writer.pointer_at + writer.offset_bytes() as u64;
        let first = if form.order == Order::ScanImage { first } else { 0 };
        head.extend(writer.number(first, writer.offset_bytes()));
        writer.write(0, head);
        writer
    }

    fn offset_bytes(&self) -> usize {
        if self.form.big { 8 } else { 4 }
    }

    fn number(&self, value: u64, bytes: usize) -> Vec<u8> {
        if self.form.big_endian {
            value.to_be_bytes()[8 - bytes..].to_vec()
        } else {
            value.to_le_bytes()[..bytes].to_vec()
        }
    }

    fn write(&mut self, at: u64, bytes: Vec<u8>) {
        self.end = self.end.max(at + bytes.len() as u64);
        self.writes.push(Write { at, bytes, completes: None });
    }

    /// The directory at `at` with all values that stand outside of it behind it; where its pointer stands.
    fn directory(&self, at: u64, description: &str, pixels_at: u64, next: u64) -> (Vec<u8>, u64) {
        let form = &self.form;
        let strips = form.height.div_ceil(form.rows_per_strip);
        let strip_bytes = form.rows_per_strip * form.width * 2;
        let all = form.height * form.width * 2;
        let offsets: Vec<u64> = (0..strips).map(|k| pixels_at + (k * strip_bytes) as u64).collect();
        let counts: Vec<u64> = (0..strips).map(|k| strip_bytes.min(all - k * strip_bytes) as u64).collect();
        let one = |value: usize| vec![value as u64];
        let text = |text: &str| text.bytes().chain([0]).map(u64::from).collect::<Vec<u64>>();
        // Tag, type, bytes of a value, values.
        let offset_type = if form.big { (16, 8) } else { (4, 4) };
        let tags: Vec<(u64, (u64, usize), Vec<u64>)> = vec![
            (256, (4, 4), one(form.width)),
            (257, (4, 4), one(form.height)),
            (258, (3, 2), one(16)),
            (259, (3, 2), one(1)),
            (262, (3, 2), one(1)),
            (270, (2, 1), text(description)),
            (273, offset_type, offsets),
            (277, (3, 2), one(1)),
            (278, (4, 4), one(form.rows_per_strip)),
            (279, (4, 4), counts),
            (305, (2, 1), text(&self.software)),
            (339, (3, 2), one(1)),
        ];
        let (count_bytes, field) = if form.big { (8, 8) } else { (2, 4) };
        let pointer_at = count_bytes + tags.len() * (4 + 2 * field);
        let mut outside_at = at + (pointer_at + field) as u64;
        let mut bytes = self.number(tags.len() as u64, count_bytes);
        let mut outside = Vec::new();
        for (tag, (kind, size), values) in tags {
            bytes.extend(self.number(tag, 2));
            bytes.extend(self.number(kind, 2));
            bytes.extend(self.number(values.len() as u64, field));
            let mut data: Vec<u8> = values.iter().flat_map(|&value| self.number(value, size)).collect();
            if data.len() <= field {
                data.resize(field, 0);
                bytes.extend(data);
            } else {
                bytes.extend(self.number(outside_at, field));
                outside_at += data.len() as u64;
                outside.extend(data);
            }
        }
        bytes.extend(self.number(next, field));
        bytes.extend(outside);
        (bytes, at + pointer_at as u64)
    }

    /// Another page of [`pixels`].
    pub fn page(&mut self, description: &str) {
        let values = pixels(&self.form, self.pages);
        self.page_of(&values, description);
    }

    /// Another page.
    pub fn page_of(&mut self, values: &[u16], description: &str) {
        let data: Vec<u8> = values.iter().flat_map(|&v| self.number(u64::from(v), 2)).collect();
        let (length, _) = self.directory(0, description, 0, 0);
        let (length, width) = (length.len() as u64, self.offset_bytes());
        let begin = self.end;
        match self.form.order {
            Order::ScanImage => {
                let next = begin + length + data.len() as u64;
                let (directory, pointer_at) = self.directory(begin, description, begin + length, next);
                self.write(begin, directory);
                self.write(begin + length, data);
                self.pointer_at = pointer_at;
            }
            Order::Libtiff => {
                let at = begin + data.len() as u64;
                let (directory, pointer_at) = self.directory(at, description, begin, 0);
                self.write(begin, data);
                self.write(at, directory);
                self.write(self.pointer_at, self.number(at, width));
                self.pointer_at = pointer_at;
            }
            Order::Tifffile => {
                let (directory, pointer_at) = self.directory(begin, description, begin + length, 0);
                self.write(self.pointer_at, self.number(begin, width));
                self.write(begin + length, data);
                self.write(begin, directory);
                self.pointer_at = pointer_at;
            }
        }
        if let Some(last) = self.writes.last_mut() {
            last.completes = Some(self.pages);
        }
        self.pages += 1;
    }

    /// All writes; a pointer that was set in advance is taken back.
    pub fn end(mut self) -> Vec<Write> {
        if self.form.order == Order::ScanImage {
            let none = self.number(0, self.offset_bytes());
            self.write(self.pointer_at, none);
        }
        self.writes
    }
}

/// The finished file.
pub fn whole(writes: &[Write]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for write in writes {
        let end = write.at as usize + write.bytes.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[write.at as usize..end].copy_from_slice(&write.bytes);
    }
    bytes
}

/// Writes pieces of `sizes` bytes, over and over, as if each were the whole write.
pub fn in_pieces(writes: &[Write], sizes: &[usize]) -> Vec<Write> {
    let mut pieces = Vec::new();
    let mut sizes = sizes.iter().copied().cycle();
    for write in writes {
        let mut from = 0;
        while from < write.bytes.len() {
            let to = (from + sizes.next().unwrap_or(1)).min(write.bytes.len());
            let completes = write.completes.filter(|_| to == write.bytes.len());
            pieces.push(Write { at: write.at + from as u64, bytes: write.bytes[from..to].to_vec(), completes });
            from = to;
        }
    }
    pieces
}

/// Does one write.
pub fn apply(file: &mut File, write: &Write) {
    use std::io::{Seek, SeekFrom, Write as _};
    file.seek(SeekFrom::Start(write.at)).unwrap();
    file.write_all(&write.bytes).unwrap();
}

/// A description as ScanImage gives each page.
pub fn scanimage_page(number: u64, seconds: f64) -> String {
    format!(
        "frameNumbers = {number}\nacquisitionNumbers = 1\nframeNumberAcquisition = {number}\n\
         frameTimestamps_sec = {seconds:.9}\nepoch = [2026 11 24 20 0 0]\n"
    )
}

/// A whole file of these descriptions.
pub fn save(path: &Path, form: Form, software: &str, descriptions: &[String]) {
    let mut writer = Writer::new(form, software);
    for description in descriptions {
        writer.page(description);
    }
    std::fs::write(path, whole(&writer.end())).unwrap();
}
