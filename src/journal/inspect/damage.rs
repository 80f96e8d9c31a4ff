//! Where a session's record is not whole. The one place that judges what the reader says.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Segment, file_name};
use crate::journal::{JournalError, JournalRecord, SessionFiles};

/// What closes an MCAP file.
const MAGIC: &[u8; 8] = b"\x89MCAP0\r\n";

/// Something that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamageFound {
    /// Name of the file.
    pub file: String,
    /// Messages of the file that were read before it; absent where that says nothing.
    pub after_messages: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// Whether it is the unfinished end that a crash leaves: everything that was synced before is there.
    pub unfinished: bool,
}

impl DamageFound {
    /// What the reader said of the journal at `path`.
    fn of(path: &Path, error: &JournalError) -> Self {
        let (after_messages, what, unfinished) = match error {
            JournalError::Damaged { messages, reason, .. } => {
                (Some(*messages), reason.clone(), is_early_end(reason) && !is_closed(path))
            }
            other => (None, other.to_string(), false),
        };
        Self { file: file_name(path), after_messages, what, unfinished }
    }
}

/// Reads one journal of a session as far as it is whole; what stops it, if anything does.
pub(in crate::journal) fn read_one(
    files: &SessionFiles,
    path: &Path,
    take: impl FnMut(JournalRecord),
) -> Option<DamageFound> {
    let one = SessionFiles { journals: vec![path.to_owned()], ..files.clone() };
    one.read(take).err().map(|error| DamageFound::of(path, &error))
}

/// Whether the reader came to the end of the file too early.
fn is_early_end(reason: &str) -> bool {
    reason == mcap::McapError::UnexpectedEof.to_string()
}

/// Whether the file was closed properly. One that was does not end early by itself.
fn is_closed(path: &Path) -> bool {
    let mut last = [0; MAGIC.len()];
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::End(-(MAGIC.len() as i64)))?;
        file.read_exact(&mut last)
    });
    read.is_ok() && last == *MAGIC
}

/// Inputs whose numbers are jumped over in a journal that can be read.
pub(super) fn lost_inputs(path: &Path, segment: &Segment) -> Option<DamageFound> {
    let missing = segment.inputs.missing;
    (missing > 0).then(|| DamageFound {
        file: file_name(path),
        after_messages: None,
        what: format!("inputs between the first and the last are lost, {missing} of them"),
        unfinished: false,
    })
}

/// Journals behind a missing one: the segments of a session are numbered without gaps.
pub(super) fn journals_beyond(files: &SessionFiles) -> Vec<DamageFound> {
    let entries = std::fs::read_dir(&files.directory).into_iter().flatten().filter_map(Result::ok);
    let is_journal = |path: &PathBuf| {
        let name = file_name(path);
        name.starts_with("journal-") && name.ends_with(".mcap") && !files.journals.contains(path)
    };
    let mut beyond: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_journal).collect();
    beyond.sort();
    let expected = crate::journal::journal_file(files.journals.len() as u32);
    let told = beyond.iter().map(|path| DamageFound {
        file: file_name(path),
        after_messages: None,
        what: format!("not read, since {expected} before it is missing"),
        unfinished: false,
    });
    told.collect()
}
