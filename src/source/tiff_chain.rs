//! Walks the chain of image file directories (IFDs) of a finished TIFF or BigTIFF without decoding a page.
//!
//! In: the file. Out: where the directories lie that are wholly inside it, and whether the chain ends as it should.
//! One or two small reads a page.

use std::collections::HashSet;
use std::fs::File;
use std::io;

use super::tiff_directory::{Head, read_up_to};

/// Bytes that are read of a directory: with them the offset of the next one is there as well, mostly.
const READ_BYTES: usize = 512;

/// What walking the chain of directories gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TiffChain {
    /// Where the directories begin that lie wholly inside the file.
    pub pages: Vec<u64>,
    /// Why the chain ended before its end mark; `None` where it did not.
    pub broken: Option<String>,
}

impl TiffChain {
    /// Walks the chain of `file`.
    pub fn read(file: &File, head: Head) -> io::Result<Self> {
        let file_bytes = file.metadata()?.len();
        let (count_bytes, entry_bytes) = if head.big { (8, 20) } else { (2, 12) };
        let mut next = head.pointer(file, head.first_pointer_at())?.unwrap_or(0);
        let mut chain = Self::default();
        let mut seen = HashSet::new();
        let mut bytes = [0u8; READ_BYTES];
        while next != 0 {
            if !seen.insert(next) {
                chain.broken = Some(format!("the chain of pages returns to byte {next}"));
                break;
            }
            let page = chain.pages.len();
            let there = read_up_to(file, &mut bytes, next)?;
            let entries = if there < count_bytes { u64::MAX } else { head.number(&bytes[..count_bytes]) };
            let field = entries.checked_mul(entry_bytes).and_then(|n| n.checked_add(count_bytes as u64));
            let inside = field.and_then(|field| usize::try_from(field).ok());
            let pointer = match (field, inside.and_then(|from| bytes[..there].get(from..from + head.offset_bytes()))) {
                (_, Some(pointer)) => Some(head.number(pointer)),
                (Some(field), None) => match next.checked_add(field) {
                    Some(at) => head.pointer(file, at)?,
                    None => None,
                },
                (None, None) => None,
            };
            let Some(pointer) = pointer else {
                chain.broken = Some(format!("the directory of page {page} lies beyond the file's {file_bytes} bytes"));
                break;
            };
            chain.pages.push(next);
            next = pointer;
        }
        Ok(chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(bytes: &[u8]) -> Result<TiffChain, String> {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        let head = Head::read(&file).unwrap().map_err(|unread| unread.reason())?;
        Ok(TiffChain::read(&file, head).unwrap())
    }

    /// A classic file of two directories without entries, at bytes 8 and 14.
    const TWO: &[u8] = b"II*\0\x08\0\0\0\0\0\x0e\0\0\0\0\0\0\0\0\0";

    #[test]
    fn counts_directories_of_both_forms_and_byte_orders() {
        assert_eq!(walk(TWO).unwrap(), TiffChain { pages: vec![8, 14], broken: None });
        let big = b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(walk(big).unwrap(), TiffChain { pages: vec![16], broken: None });
    }

    #[test]
    fn a_cut_or_circular_chain_says_so_and_ends() {
        let cut = walk(&TWO[..16]).unwrap();
        assert_eq!(cut.pages, [8]);
        assert!(cut.broken.unwrap().contains("page 1 lies beyond the file's 16 bytes"));
        let circle = walk(b"II*\0\x08\0\0\0\0\0\x08\0\0\0").unwrap();
        assert_eq!(circle.pages, [8]);
        assert!(circle.broken.unwrap().contains("returns to byte 8"));
        assert!(walk(b"II*").is_err());
        assert!(walk(b"").is_err());
        assert!(walk(b"II*\0\x08\0").is_err());
    }
}
