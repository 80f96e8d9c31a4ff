//! The `.zip` that the ROI Manager saves: one `.roi` file for each region, in the order of its list.
//!
//! Sizes that the archive states are not believed: every member is read up to a limit of its own, all of them up to one
//! for the file.

use super::{MAGIC as ROI_MAGIC, Member};
use crate::sample::formats::RoiFileError;
use std::io::{Cursor, Read};
use std::path::Path;

/// The first bytes of a zip.
pub(in crate::sample::formats) const MAGIC: &[u8] = b"PK";

/// Largest region, and largest sum of all of them, unpacked, in bytes.
const LARGEST_MEMBER: u64 = 8 << 20;
const LARGEST_SUM: u64 = 128 << 20;
/// Most members; the ROI Manager itself becomes unusable long before.
const MOST_MEMBERS: usize = 100_000;

/// The regions in the bytes of an archive that came from `path`.
pub(in crate::sample::formats) fn members(path: &Path, bytes: &[u8]) -> Result<Vec<Member>, RoiFileError> {
    let wrong = |what: String| RoiFileError::Value { path: path.into(), what };
    let zip = |error: zip::result::ZipError| wrong(format!("zip: {error}"));
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(zip)?;
    if archive.len() > MOST_MEMBERS {
        return Err(wrong(format!("zip of {} members, expected at most {MOST_MEMBERS}", archive.len())));
    }
    let (mut members, mut sum) = (Vec::new(), 0_u64);
    for index in 0..archive.len() {
        let member = archive.by_index(index).map_err(zip)?;
        let name = member.name().map_err(zip)?.into_owned();
        // what macOS adds when somebody packs the regions by hand
        if member.is_dir() || name.starts_with("__MACOSX/") {
            continue;
        }
        let shown = super::super::text_excerpt(name.as_bytes());
        let mut bytes = Vec::new();
        let read = member.take(LARGEST_MEMBER + 1).read_to_end(&mut bytes);
        read.map_err(|error| wrong(format!("zip: `{shown}`: {error}")))?;
        sum += bytes.len() as u64;
        if bytes.len() as u64 > LARGEST_MEMBER || sum > LARGEST_SUM {
            let limits = format!("at most {LARGEST_MEMBER} bytes, all together {LARGEST_SUM}");
            return Err(wrong(format!("zip: `{shown}` is too large unpacked, expected {limits}")));
        }
        if !bytes.starts_with(ROI_MAGIC) {
            return Err(wrong(format!("zip: `{shown}` is no region, expected only .roi files of ImageJ")));
        }
        let file = name.rsplit(['/', '\\']).next().unwrap_or_default();
        members.push(Member { stem: file.strip_suffix(".roi").unwrap_or(file).to_owned(), bytes });
    }
    Ok(members)
}
