//! What leaves a session's journal for other programs and for people.
//!
//! In: a session's directory. Out: tables ([`write_tables`]: `frames.csv`, `activity.csv`, `events.csv`) and the report
//! ([`write_report`]: `report.html`). Both read the journal once, as a stream, and hold of it only what they write: the
//! tables nothing, the report one row for each frame. Where the journal breaks off, everything before is used.
//!
//! Units stand in the columns' names. Floats are written with the fewest digits that read back to the same bits.

mod csv;
mod gather;
mod notes;
mod session_report;

use std::path::{Path, PathBuf};

pub use csv::{Written, write_tables};
pub use session_report::{session_image, stage_latency, write_report};

use crate::config::ConfigError;
use crate::journal::JournalError;

/// Why a session cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no session, or its head cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The configuration in the journal's head makes no sense.
    #[error("the configuration in the journal: {0}")]
    Config(#[from] ConfigError),
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The journal is damaged further on; what stands before is in the tables.
    #[error("{source}; the tables in {} stay, with the {frames} frames and {events} events before that", out.display())]
    BrokenOff {
        /// Rows in the table of frames.
        frames: u64,
        /// Rows in the table of events.
        events: u64,
        /// Where the tables are.
        out: PathBuf,
        /// What is wrong with the journal, and where.
        source: JournalError,
    },
}

impl ExportError {
    /// A failure of the file system at `path`.
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }
}
