//! The pixels of a segment, one input after the other.

use std::iter::Peekable;
use std::path::{Path, PathBuf};

use super::reader::{JournalError, PixelsRecord, read_pixels};
use super::scan::Scan;
use crate::proto::v1;

/// What there is of an input's pixels.
#[derive(Debug)]
pub enum Found {
    /// They are there.
    Pixels(v1::FrameRecord),
    /// They were not kept, and the file says so; or it ends before them, as after a crash.
    NotKept,
    /// They should be there, and are not.
    Missing,
    /// The file is damaged here.
    Damaged(String),
}

type Records = Box<dyn Iterator<Item = Result<PixelsRecord, JournalError>>>;

/// A file of pixels, read in order.
pub struct KeptPixels {
    records: Peekable<Records>,
    /// The last frame that the file's last seal vouches for.
    last_seq: Option<u64>,
    path: PathBuf,
}

impl KeptPixels {
    /// The file as far as it is whole.
    pub(super) fn new(path: &Path, scan: &Scan) -> Result<Self, JournalError> {
        let records: Records = Box::new(read_pixels(path, scan)?);
        Ok(Self { records: records.peekable(), last_seq: scan.last_input_seq, path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> std::path::Display<'_> {
        self.path.display()
    }

    /// The pixels of an input. Inputs are asked for in order.
    pub fn find(&mut self, input_seq: u64) -> Found {
        loop {
            match self.records.peek() {
                None if self.last_seq.is_some_and(|last| input_seq <= last) => return Found::Missing,
                None => return Found::NotKept,
                Some(Err(e)) => return Found::Damaged(e.to_string()),
                Some(Ok(PixelsRecord::Loss(loss))) if loss.last_input_seq < input_seq => {}
                Some(Ok(PixelsRecord::Loss(loss))) if loss.first_input_seq <= input_seq => return Found::NotKept,
                Some(Ok(PixelsRecord::Frame(frame))) if frame.input_seq < input_seq => {}
                Some(Ok(PixelsRecord::Frame(frame))) if frame.input_seq == input_seq => {
                    if let Some(Ok(PixelsRecord::Frame(frame))) = self.records.next() {
                        return Found::Pixels(frame);
                    }
                }
                Some(Ok(_)) => return Found::Missing,
            }
            self.records.next();
        }
    }
}
