//! Counts the pages of a TIFF or BigTIFF without decoding them: walks the chain of image file directories (IFDs).
//!
//! In: the file. Out: how many directories lie wholly inside it, whether the chain ends as it should, and the byte
//! order. Two small reads a page. Layout of the directories: TIFF 6.0, section 2, and the BigTIFF proposal.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// What walking the chain of directories gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TiffChain {
    /// Directories that lie wholly inside the file.
    pub pages: usize,
    /// Why the chain ended before its end mark; `None` where it did not.
    pub broken: Option<String>,
    /// Numbers are stored most significant byte first.
    pub big_endian: bool,
}

impl TiffChain {
    /// Walks the chain of `file`. An error of the file's content is a `String`.
    pub fn read(file: &mut File) -> io::Result<Result<Self, String>> {
        let file_bytes = file.metadata()?.len();
        let mut head = [0u8; 16];
        file.seek(SeekFrom::Start(0))?;
        let head_bytes = read_up_to(file, &mut head)?;
        let big_endian = match head.get(..2) {
            Some(b"II") => false,
            Some(b"MM") => true,
            _ => return Ok(Err("it does not begin with II or MM".to_string())),
        };
        let number = |bytes: &[u8]| unsigned(bytes, big_endian);
        let big = match number(&head[2..4]) {
            42 => false,
            43 if number(&head[4..6]) == 8 => true,
            other => return Ok(Err(format!("version {other}, expected 42 (TIFF) or 43 (BigTIFF)"))),
        };
        if head_bytes < if big { 16 } else { 8 } {
            return Ok(Err(format!("it is only {file_bytes} bytes long")));
        }
        let (count_bytes, entry_bytes, offset_bytes) = if big { (8, 20, 8) } else { (2, 12, 4) };
        let mut next = if big { number(&head[8..16]) } else { number(&head[4..8]) };
        let mut pages = 0;
        let mut seen = HashSet::new();
        let mut broken = None;
        while next != 0 {
            if !seen.insert(next) {
                broken = Some(format!("the chain of pages returns to byte {next}"));
                break;
            }
            let beyond = |what: &str| Some(format!("{what} of page {pages} lies beyond the file's {file_bytes} bytes"));
            let mut field = [0u8; 8];
            file.seek(SeekFrom::Start(next))?;
            if read_up_to(file, &mut field[..count_bytes])? < count_bytes {
                broken = beyond("the directory");
                break;
            }
            let entries = number(&field[..count_bytes]);
            let pointer = entries
                .checked_mul(entry_bytes)
                .and_then(|n| n.checked_add(next))
                .and_then(|n| n.checked_add(count_bytes as u64))
                .filter(|&at| at < file_bytes);
            let Some(pointer) = pointer else {
                broken = beyond("the directory");
                break;
            };
            file.seek(SeekFrom::Start(pointer))?;
            if read_up_to(file, &mut field[..offset_bytes])? < offset_bytes {
                broken = beyond("the directory");
                break;
            }
            next = number(&field[..offset_bytes]);
            pages += 1;
        }
        file.seek(SeekFrom::Start(0))?;
        Ok(Ok(Self { pages, broken, big_endian }))
    }
}

fn unsigned(bytes: &[u8], big_endian: bool) -> u64 {
    let push = |value: u64, byte: &u8| (value << 8) | u64::from(*byte);
    if big_endian { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(bytes: &[u8]) -> Result<TiffChain, String> {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        TiffChain::read(&mut file).unwrap()
    }

    /// A classic file of two directories without entries, at bytes 8 and 14.
    const TWO: &[u8] = b"II*\0\x08\0\0\0\0\0\x0e\0\0\0\0\0\0\0\0\0";

    #[test]
    fn counts_directories_of_both_forms_and_byte_orders() {
        assert_eq!(walk(TWO).unwrap(), TiffChain { pages: 2, broken: None, big_endian: false });
        let big = b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(walk(big).unwrap(), TiffChain { pages: 1, broken: None, big_endian: true });
    }

    #[test]
    fn a_cut_or_circular_chain_says_so_and_ends() {
        let cut = walk(&TWO[..16]).unwrap();
        assert_eq!(cut.pages, 1);
        assert!(cut.broken.unwrap().contains("page 1 lies beyond the file's 16 bytes"));
        let circle = walk(b"II*\0\x08\0\0\0\0\0\x08\0\0\0").unwrap();
        assert_eq!(circle.pages, 1);
        assert!(circle.broken.unwrap().contains("returns to byte 8"));
        assert!(walk(b"II*").is_err());
        assert!(walk(b"").is_err());
        assert!(walk(b"II*\0\x08\0").is_err());
    }
}
