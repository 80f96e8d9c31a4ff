//! Reads a session's directory: strictly, with checksums and limits, and as far as it is whole.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use mcap::io::MessageReader;
use mcap::sans_io::LinearReaderOptions;
use prost::Message;

use super::writer::Topic;
use super::{CONFIG_FILE, FORMAT, journal_file};
use crate::proto::v1;

/// The largest record that is believed, in bytes: a snapshot of a large session, with room.
const RECORD_LIMIT: usize = 1 << 30;

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It is not there, or not readable.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The directory holds no session.
    #[error("{}: no session here, expected a directory that holds {}", path.display(), journal_file(0))]
    NoSession {
        /// The directory.
        path: PathBuf,
    },
    /// The file is damaged, or ends inside a record; everything before was read.
    #[error("{}: damaged after {messages} whole messages: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Messages before the damage.
        messages: u64,
        /// What was wrong.
        reason: String,
    },
    /// The first record is not a head, or of a layout that this version does not know.
    #[error("{}: layout {got}, expected {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The layout that it says.
        got: u32,
    },
}

/// One record of a journal.
#[derive(Debug)]
pub enum JournalRecord {
    /// What ran.
    Head(Box<v1::SessionHead>),
    /// An input.
    Input(v1::InputRecord),
    /// What was decided on it.
    Decision(Box<v1::DecisionRecord>),
    /// When.
    Timing(v1::TimingRecord),
    /// A command, with who sent it.
    Command(v1::CommandRecord),
    /// What happened.
    Event(v1::SubscribeEventsResponse),
    /// The engine's state.
    Snapshot(v1::SnapshotRecord),
    /// A latency distribution.
    Latency(v1::LatencyRecord),
}

/// The files of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFiles {
    /// The directory.
    pub directory: PathBuf,
    /// The journals, a segment each, in order.
    pub journals: Vec<PathBuf>,
    /// The configuration as it ran.
    pub config: PathBuf,
}

impl SessionFiles {
    /// The files in `directory`.
    ///
    /// # Errors
    /// There is no journal.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let journals: Vec<PathBuf> =
            (0..).map(|segment| directory.join(journal_file(segment))).take_while(|path| path.is_file()).collect();
        if journals.is_empty() {
            return Err(JournalError::NoSession { path: directory.to_owned() });
        }
        Ok(Self { directory: directory.to_owned(), journals, config: directory.join(CONFIG_FILE) })
    }

    /// Every record of every segment, in order, to `take`.
    ///
    /// # Errors
    /// As [`read_journal`]; everything before the damage has been given.
    pub fn read(&self, mut take: impl FnMut(JournalRecord)) -> Result<(), JournalError> {
        self.journals.iter().try_for_each(|path| read_journal(path, &mut take))
    }

    /// The head of the first segment.
    ///
    /// # Errors
    /// As [`read_journal`].
    pub fn head(&self) -> Result<v1::SessionHead, JournalError> {
        let path = &self.journals[0];
        let mut head = None;
        let mut reader = open(path)?;
        if let Some(message) = reader.next() {
            let message = message.map_err(|e| damaged(path, 0, &e))?;
            if let JournalRecord::Head(found) = decode(path, 0, &message.channel.topic, &message.data)? {
                head = Some(*found);
            }
        }
        match head {
            Some(head) if head.format == FORMAT => Ok(head),
            other => Err(JournalError::Format { path: path.clone(), got: other.map_or(0, |h| h.format) }),
        }
    }
}

/// Every record of one journal file, in order, to `take`.
///
/// # Errors
/// The file is missing, damaged, or of an unknown layout. Everything before the damage has been given.
pub fn read_journal(path: &Path, mut take: impl FnMut(JournalRecord)) -> Result<(), JournalError> {
    for (count, message) in open(path)?.enumerate() {
        let message = message.map_err(|e| damaged(path, count as u64, &e))?;
        let record = decode(path, count as u64, &message.channel.topic, &message.data)?;
        if let JournalRecord::Head(head) = &record
            && head.format != FORMAT
        {
            return Err(JournalError::Format { path: path.to_owned(), got: head.format });
        }
        take(record);
    }
    Ok(())
}

fn open(path: &Path) -> Result<MessageReader<BufReader<File>>, JournalError> {
    let file = File::open(path).map_err(|source| JournalError::Io { path: path.to_owned(), source })?;
    let options = LinearReaderOptions::default()
        .with_prevalidate_chunk_crcs(true)
        .with_validate_data_section_crc(true)
        .with_record_length_limit(RECORD_LIMIT);
    Ok(MessageReader::new_with_options(BufReader::new(file), options))
}

fn decode(path: &Path, count: u64, topic: &str, bytes: &[u8]) -> Result<JournalRecord, JournalError> {
    fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, prost::DecodeError> {
        M::decode(bytes)
    }
    let topic = Topic::ALL.iter().find(|(_, name, _)| *name == topic).map(|(topic, _, _)| *topic);
    let Some(topic) = topic else { return Err(damaged(path, count, &"a message of an unknown topic")) };
    match topic {
        Topic::Head => message(bytes).map(|m| JournalRecord::Head(Box::new(m))),
        Topic::Inputs => message(bytes).map(JournalRecord::Input),
        Topic::Decisions => message(bytes).map(|m| JournalRecord::Decision(Box::new(m))),
        Topic::Timing => message(bytes).map(JournalRecord::Timing),
        Topic::Commands => message(bytes).map(JournalRecord::Command),
        Topic::Events => message(bytes).map(JournalRecord::Event),
        Topic::Snapshots => message(bytes).map(JournalRecord::Snapshot),
        Topic::Latency => message(bytes).map(JournalRecord::Latency),
    }
    .map_err(|e| damaged(path, count, &e))
}

fn damaged(path: &Path, messages: u64, reason: &dyn std::fmt::Display) -> JournalError {
    JournalError::Damaged { path: path.to_owned(), messages, reason: reason.to_string() }
}
