//! The record of a session: one directory, holding a journal for each segment (MCAP with protobuf schemas), the pixels
//! of its frames where they are kept, the configuration as it ran, and a report.
//!
//! In: records from the publishing thread. Out: `journal-000.mcap`, whose `/inputs` recompute its `/decisions` bit for
//! bit ([`verify`]). A thread of its own writes, seals and syncs at least every `record.sync_interval_ms`, and then
//! moves `durable_through`; a decision never waits for it. After a crash the session is whole up to the last seal, and
//! goes on from there as the next segment ([`resume`]).
//!
//! ```text
//! writer, pixels_writer ──► file (MCAP in blocks) ──► seal      what a session writes
//! scan (every byte) ──► reader ──► verify, resume, export       what reads it
//! ```
//!
//! MCAP is written without seeking, so that a file that ends anywhere is readable up to its last whole block
//! (<https://mcap.dev/spec>).

mod convert;
pub mod diff;
mod directory;
#[allow(clippy::disallowed_types, reason = "the buffer between the MCAP writer and its file; one thread has both ends")]
mod file;
mod file_end;
mod images;
pub mod inspect;
mod kept_pixels;
mod pixels;
mod pixels_writer;
mod reader;
mod resume;
mod scan;
mod seal;
#[allow(clippy::disallowed_types, reason = "the last error is text; the real-time thread never sees it")]
mod status;
mod summary;
mod verify;
mod writer;

pub use convert::{
    Published, REWARD_OUTPUT, SYNC_OUTPUT, calibration_of, calibration_record, fit_verdict, input_of, is_decided,
    is_frame, roi_set_of, roi_set_record, shape_of_head, shape_of_header, state_name,
};
pub use diff::{Comparison, diff};
pub use directory::{DirectoryError, SessionDirectory, check_name, session_name, wall_ns, wall_text};
pub use images::{ImageError, with_images};
pub use inspect::{Counters, DamageFound, Inspection, Segment, inspect};
pub use kept_pixels::{Found, KeptPixels};
pub use pixels::{Kept, PixelsError, pack, unpack, unpack_boxes};
pub use pixels_writer::{PixelsSettings, PixelsWriter};
pub use reader::{Damage, JournalError, JournalRecord, SegmentFiles, SessionFiles};
pub use resume::{ResumeError, ResumePoint, resume};
pub use scan::{Scan, scan};
pub use status::RecordStatus;
pub use summary::{Percentiles, Summary, latency_histogram};
pub use verify::{Difference, VerifyError, VerifyOptions, VerifyReport, engine_of, verify};
pub use writer::{JournalItem, JournalWriter};

/// What is damaged, as sentences.
pub fn texts(damage: &[Damage]) -> Vec<String> {
    damage.iter().map(ToString::to_string).collect()
}

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

/// The file of a segment's pixels.
pub fn pixels_file(segment: u32) -> String {
    format!("pixels-{segment:03}.mcap")
}
