//! The record of a session: one directory, holding the journal (MCAP with protobuf schemas), the configuration as it
//! ran, and a report.
//!
//! In: records from the publishing thread. Out: `journal-000.mcap`, whose `/inputs` recompute its `/decisions` bit for
//! bit ([`verify`]). A thread of its own writes, ends the chunk and syncs at least every `record.sync_interval_ms`, and
//! then moves `durable_through`; a decision never waits for it.
//!
//! MCAP is written without seeking, so that a file that ends anywhere is readable up to its last whole chunk; it is
//! read with limits and checksums on, so that damage gives an error and not a wrong number (<https://mcap.dev/spec>).

mod convert;
pub mod diff;
mod directory;
pub mod inspect;
mod reader;
mod summary;
mod verify;
#[allow(clippy::disallowed_types, reason = "the writer's failure is text; the real-time thread never sees it")]
mod writer;

pub use convert::{
    Published, calibration_of, calibration_record, fit_verdict, input_of, roi_set_of, roi_set_record, shape_of_head,
    shape_of_header, state_name,
};
pub use diff::{Comparison, diff};
pub use directory::{DirectoryError, SessionDirectory, check_name, session_name, wall_ns, wall_text};
pub use inspect::{Counters, DamageFound, Inspection, Segment, inspect};
pub use reader::{JournalError, JournalRecord, SessionFiles, read_journal};
pub use summary::{Percentiles, Summary};
pub use verify::{Difference, VerifyError, VerifyReport, engine_of, verify};
pub use writer::{JournalItem, JournalWriter, WriterStatus};

/// Version of the journal's layout that this software writes.
pub const FORMAT: u32 = 1;

/// The adapter's name that says that frames come from the synthetic animal.
pub const SYNTHETIC_ADAPTER: &str = concat!("apical synthetic microscope ", env!("CARGO_PKG_VERSION"));
/// What its learning is.
pub const STAND_IN: &str = "a stand-in until there is a learner";

/// The session's configuration as it ran.
pub const CONFIG_FILE: &str = "rig.toml";
/// The session's report.
pub const REPORT_FILE: &str = "report.html";

/// The journal file of a segment.
pub fn journal_file(segment: u32) -> String {
    format!("journal-{segment:03}.mcap")
}
