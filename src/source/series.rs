//! Recordings that are several files: ScanImage starts a new one after so many frames.
//!
//! In: the name of the first file, or of a directory. Out: the files of one acquisition, in their order. ScanImage
//! calls them `name_00001_00001.tif`, `name_00001_00002.tif`: acquisition, then file. A name with one number only is
//! one whole acquisition and has no successor.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::RecordingError;

/// Digits of ScanImage's numbers, at least.
const DIGITS_MIN: usize = 5;

/// A name of one file among several: what stands before its number, the number, its digits, and what follows.
#[derive(Debug)]
struct Numbered {
    before: String,
    after: String,
    digits: usize,
    number: u64,
}

/// Splits `name_00001_00002.tif` before its last number.
fn numbered(path: &Path) -> Option<Numbered> {
    let name = path.file_name()?.to_str()?;
    let (stem, extension) = name.rsplit_once('.')?;
    if !["tif", "tiff"].contains(&extension.to_ascii_lowercase().as_str()) {
        return None;
    }
    let digits = |text: &str| text.len() >= DIGITS_MIN && text.bytes().all(|byte| byte.is_ascii_digit());
    let (rest, number) = stem.rsplit_once('_')?;
    let acquisition = rest.rsplit('_').next().filter(|text| text.len() < rest.len() && digits(text));
    if !digits(number) || acquisition.is_none() {
        return None;
    }
    Some(Numbered {
        before: format!("{rest}_"),
        after: format!(".{extension}"),
        digits: number.len(),
        number: number.parse().ok()?,
    })
}

/// The name of the file that follows `path`, whether it is there or not.
pub(super) fn successor(path: &Path) -> Option<PathBuf> {
    let Numbered { before, after, digits, number } = numbered(path)?;
    let number = number.checked_add(1)?;
    Some(path.with_file_name(format!("{before}{number:0digits$}{after}")))
}

/// The files of a recording: `path` and, with `successors`, those that follow it; or the one acquisition that lies in
/// the directory `path`. With it, what is to be said about them.
pub(super) fn files_of(path: &Path, successors: bool) -> Result<(Vec<PathBuf>, Vec<String>), RecordingError> {
    if path.is_dir() {
        return files_in(path);
    }
    if !successors || numbered(path).is_none() {
        return Ok((vec![path.to_path_buf()], Vec::new()));
    }
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(following(path, tiffs_in(directory)?))
}

/// A file and those of `tiffs` that follow it in the same acquisition, and what is to be said about them.
fn following(path: &Path, tiffs: Vec<PathBuf>) -> (Vec<PathBuf>, Vec<String>) {
    let mut files = vec![path.to_path_buf()];
    let mut notes = Vec::new();
    let Some(own) = numbered(path) else { return (files, notes) };
    let mut later: Vec<(u64, PathBuf)> = tiffs
        .into_iter()
        .filter_map(|file| Some((numbered(&file)?, file)))
        .filter(|(n, _)| n.before == own.before && n.after == own.after && n.number > own.number)
        .map(|(n, file)| (n.number, file))
        .collect();
    later.sort();
    let missing = later.last().map_or(0, |(last, _)| (last - own.number).saturating_sub(later.len() as u64));
    if missing > 0 {
        notes.push(format!("{missing} of the files that follow {} are missing between the others", path.display()));
    }
    files.extend(later.into_iter().map(|(_, file)| file));
    (files, notes)
}

/// The one acquisition that lies in a directory.
fn files_in(directory: &Path) -> Result<(Vec<PathBuf>, Vec<String>), RecordingError> {
    let ambiguous = |found: String| RecordingError::Unsupported {
        path: directory.to_path_buf(),
        found,
        expected: "one TIFF, or the files of one ScanImage acquisition (name_00001_00001.tif, name_00001_00002.tif)",
    };
    let mut groups: BTreeMap<(String, String), Vec<(u64, PathBuf)>> = BTreeMap::new();
    let files = tiffs_in(directory)?;
    for file in &files {
        let (key, number) = match numbered(file) {
            Some(n) => ((n.before, n.after), n.number),
            None => ((file.to_string_lossy().into_owned(), String::new()), 0),
        };
        groups.entry(key).or_default().push((number, file.clone()));
    }
    if groups.len() > 1 {
        let firsts = groups.values().filter_map(|files| files.iter().min());
        let names: Vec<_> = firsts.filter_map(|(_, file)| Some(file.file_name()?.to_string_lossy())).take(3).collect();
        let list = names.join(", ");
        return Err(ambiguous(format!("a directory of {} recordings ({list}, ..); name one of them", groups.len())));
    }
    let first = groups.into_values().flatten().min();
    let Some((_, first)) = first else { return Err(ambiguous("a directory without a TIFF".to_string())) };
    Ok(following(&first, files))
}

fn tiffs_in(directory: &Path) -> Result<Vec<PathBuf>, RecordingError> {
    let io = |e| RecordingError::io(directory, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        if ["tif", "tiff"].contains(&extension.as_str()) && path.is_file() {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(directory.path().join(name), b"II").unwrap();
        }
        directory
    }

    fn names(files: &[PathBuf]) -> Vec<&str> {
        files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect()
    }

    #[test]
    fn the_files_of_an_acquisition_follow_their_first_in_order() {
        let dir = directory(&[
            "a_00001_00002.tif",
            "a_00001_00001.tif",
            "a_00001_00004.tif",
            "a_00002_00001.tif",
            "a_00001.tif",
            "notes.txt",
        ]);
        let (files, notes) = files_of(&dir.path().join("a_00001_00001.tif"), true).unwrap();
        assert_eq!(names(&files), ["a_00001_00001.tif", "a_00001_00002.tif", "a_00001_00004.tif"]);
        assert!(notes[0].starts_with("1 of the files that follow"), "{notes:?}");
        let (files, _) = files_of(&dir.path().join("a_00001_00002.tif"), true).unwrap();
        assert_eq!(names(&files), ["a_00001_00002.tif", "a_00001_00004.tif"]);
        let (files, _) = files_of(&dir.path().join("a_00001_00001.tif"), false).unwrap();
        assert_eq!(names(&files), ["a_00001_00001.tif"]);
        // An acquisition of one file has no successor.
        let (files, _) = files_of(&dir.path().join("a_00001.tif"), true).unwrap();
        assert_eq!(names(&files), ["a_00001.tif"]);
    }

    #[test]
    fn a_directory_is_one_recording_or_says_which_there_are() {
        let dir = directory(&["m_00003_00001.tif", "m_00003_00002.tif"]);
        let (files, _) = files_of(dir.path(), true).unwrap();
        assert_eq!(names(&files), ["m_00003_00001.tif", "m_00003_00002.tif"]);
        let dir = directory(&["only.tif"]);
        assert_eq!(names(&files_of(dir.path(), true).unwrap().0), ["only.tif"]);
        let dir = directory(&["m_00003_00001.tif", "m_00004_00001.tif"]);
        let error = files_of(dir.path(), true).unwrap_err().to_string();
        assert!(error.contains("2 recordings (m_00003_00001.tif, m_00004_00001.tif"), "{error}");
        let error = files_of(directory(&[]).path(), true).unwrap_err().to_string();
        assert!(error.contains("without a TIFF"), "{error}");
    }
}
