//! Where a session's record is not whole: what the reader says, in the words of an inspection.

use std::path::Path;

use serde::Serialize;

use super::{Segment, file_name};
use crate::journal::reader::{Damage, SegmentFiles};
use crate::journal::{JournalRecord, SessionFiles};

/// Something that is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamageFound {
    /// Name of the file.
    pub file: String,
    /// What is wrong.
    pub what: String,
    /// Whether it is the unfinished end that a crash leaves: everything that was synced before is there.
    pub unfinished: bool,
}

impl DamageFound {
    fn of(damage: Damage, unfinished: bool) -> Self {
        Self { file: file_name(&damage.file), what: damage.what, unfinished }
    }
}

/// Reads one journal of a session as far as it is whole; what is not.
pub(in crate::journal) fn read_one(segment: &SegmentFiles, take: impl FnMut(JournalRecord)) -> Vec<DamageFound> {
    let read = segment.read(take);
    let damage = segment.damage().map(|damage| DamageFound::of(damage, false));
    let unfinished = segment.unfinished().map(|damage| DamageFound::of(damage, true));
    let mut found: Vec<_> = damage.chain(unfinished).collect();
    if let Err(error) = read
        && segment.scan.damage.is_empty()
    {
        found.push(DamageFound { file: file_name(&segment.journal), what: error.to_string(), unfinished: false });
    }
    found
}

/// Inputs whose numbers are jumped over in a journal that can be read.
pub(super) fn lost_inputs(path: &Path, segment: &Segment) -> Option<DamageFound> {
    let what = match (segment.inputs.missing, segment.inputs.lost_records) {
        (0, 0) => return None,
        (0, records) => format!("{records} records are lost: the disk was too slow or full"),
        (missing, _) => format!("inputs between the first and the last are lost, {missing} of them"),
    };
    Some(DamageFound { file: file_name(path), what, unfinished: false })
}

/// What is damaged beside the journals.
pub(super) fn beside(files: &SessionFiles) -> impl Iterator<Item = DamageFound> {
    files.damage_beside().into_iter().map(|damage| DamageFound::of(damage, false))
}
