//! Reads a session's directory: strictly, with checksums and limits, and as far as it is whole.
//!
//! Only what is sealed is read ([`super::scan`]). A file that ends early is a file that a crash left; everything else
//! that is wrong is damage, is named, and nothing behind it is believed.

use std::fs::File;
use std::io::{BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mcap::io::MessageReader;
use mcap::sans_io::LinearReaderOptions;
use prost::Message;

use super::kept_pixels::KeptPixels;
use super::pixels_writer::PixelsTopic;
use super::scan::{Scan, scan};
use super::writer::Topic;
use super::{CONFIG_FILE, FORMAT, journal_file, pixels_file};
use crate::proto::v1;

/// The largest record that is believed, in bytes: a snapshot of a large session, with room.
const RECORD_LIMIT: usize = 1 << 30;
/// What ends the data of an MCAP file: opcode, length, and no checksum. It stands in for what a crash left out.
const DATA_END: [u8; 13] = [0x0f, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

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
    /// The file ends before its first record was whole.
    #[error("{}: it ends before its head was whole; nothing is recorded in it", path.display())]
    NoHead {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged; everything before was read.
    #[error("{}: damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
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
    /// How the session fared.
    Health(v1::HealthRecord),
    /// What is missing here.
    Loss(v1::LossRecord),
}

/// One segment of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFiles {
    /// Its number.
    pub segment: u32,
    /// Its journal.
    pub journal: PathBuf,
    /// How far that is whole.
    pub scan: Scan,
    /// The pixels of its frames, where they were kept.
    pub pixels: Option<PathBuf>,
    /// How far these are whole, once that was asked.
    pixels_scan: OnceLock<Scan>,
}

/// The files of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFiles {
    /// The directory.
    pub directory: PathBuf,
    /// The segments, in order.
    pub segments: Vec<SegmentFiles>,
    /// The configuration as it ran.
    pub config: PathBuf,
}

impl SessionFiles {
    /// The files in `directory`; every byte of the journals is checked.
    ///
    /// # Errors
    /// There is no journal, or it cannot be read. Damage is no error here.
    pub fn open(directory: &Path) -> Result<Self, JournalError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        let no_session = || JournalError::NoSession { path: directory.to_owned() };
        if !directory.is_dir() {
            return Err(no_session());
        }
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(at(directory))? {
            let name = entry.map_err(at(directory))?.file_name();
            let number = name.to_str().and_then(|n| n.strip_prefix("journal-")?.strip_suffix(".mcap")?.parse().ok());
            numbers.extend(number.filter(|&n| name.to_str() == Some(&journal_file(n))));
        }
        numbers.sort_unstable();
        if numbers.is_empty() {
            return Err(no_session());
        }
        let segment = |segment| {
            let journal = directory.join(journal_file(segment));
            let pixels = Some(directory.join(pixels_file(segment))).filter(|path| path.is_file());
            let scan = scan(&journal).map_err(at(&journal))?;
            Ok(SegmentFiles { segment, journal, scan, pixels, pixels_scan: OnceLock::new() })
        };
        let segments = numbers.into_iter().map(segment).collect::<Result<_, _>>()?;
        Ok(Self { directory: directory.to_owned(), segments, config: directory.join(CONFIG_FILE) })
    }

    /// Every record of every segment, in order, to `take`, as far as the session is whole.
    ///
    /// # Errors
    /// The session is damaged; everything before the damage has been given. That it ends early, as after a crash, is
    /// no error.
    pub fn read(&self, mut take: impl FnMut(JournalRecord)) -> Result<(), JournalError> {
        let mut next_seq = 0;
        self.each(|segment, topic, bytes| {
            let record = decode(&segment.journal, topic, bytes)?;
            match &record {
                JournalRecord::Input(input) => next_seq = input.input_seq + 1,
                JournalRecord::Head(head) if head.first_input_seq != next_seq => {
                    let reason = format!(
                        "it begins with input {}, and the segment before it ends before input {next_seq}",
                        head.first_input_seq
                    );
                    return Err(damaged(&segment.journal, &reason));
                }
                _ => {}
            }
            take(record);
            Ok(())
        })
    }

    /// Every message of every segment, undecoded.
    pub(super) fn each(
        &self,
        mut take: impl FnMut(&SegmentFiles, Topic, &[u8]) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        for (segment, expected) in self.segments.iter().zip(0..) {
            let path = &segment.journal;
            if segment.segment != expected {
                let reason = format!("{} is missing before it", journal_file(expected));
                return Err(damaged(path, &reason));
            }
            if segment.is_empty() && expected == 0 {
                return Err(JournalError::NoHead { path: path.clone() });
            }
            segment.each(|topic, bytes| take(segment, topic, bytes))?;
        }
        Ok(())
    }

    /// The head of the first segment.
    ///
    /// # Errors
    /// The journal is damaged or ends before it.
    pub fn head(&self) -> Result<v1::SessionHead, JournalError> {
        let Some(first) = self.segments.first() else {
            return Err(JournalError::NoSession { path: self.directory.clone() });
        };
        let path = &first.journal;
        if first.scan.whole_bytes == 0 {
            let damage = first.scan.damage.first();
            return Err(match damage {
                Some(reason) => damaged(path, reason),
                None => JournalError::NoHead { path: path.clone() },
            });
        }
        let message = messages(path, first.scan.whole_bytes)?.next();
        let message = message.ok_or_else(|| JournalError::NoHead { path: path.clone() })?;
        let message = message.map_err(|e| damaged(path, &e))?;
        match decode(path, Topic::Head, &message.data)? {
            JournalRecord::Head(head) if message.channel.topic == "/head" => Ok(*head),
            _ => Err(JournalError::Format { path: path.clone(), got: 0 }),
        }
    }

    /// The pixels of a segment, where they were kept.
    ///
    /// # Errors
    /// They cannot be read. Damage further on is found where it stands.
    pub fn kept_pixels(&self, segment: u32) -> Result<Option<KeptPixels>, JournalError> {
        let found = self.segments.iter().find(|s| s.segment == segment).and_then(|s| Some((s, s.pixels.as_ref()?)));
        let Some((segment, path)) = found else { return Ok(None) };
        let scan = segment.scan_pixels(path).map_err(|source| JournalError::Io { path: path.clone(), source })?;
        KeptPixels::new(path, scan).map(Some)
    }

    /// The last input of which the journal holds everything; none before the first.
    pub fn last_input_seq(&self) -> Option<u64> {
        self.segments.iter().rev().find_map(|segment| segment.scan.last_input_seq)
    }

    /// Everything that is damaged: in the journals, in the files of pixels, and in the configuration beside them. That
    /// a file ends early, as after a crash, is not damage.
    pub fn damage(&self) -> Vec<Damage> {
        let journals = self.segments.iter().flat_map(SegmentFiles::damage);
        journals.chain(self.damage_beside()).collect()
    }

    /// What is damaged beside the journals: one that is missing between others, pixels, the configuration.
    pub(super) fn damage_beside(&self) -> Vec<Damage> {
        let mut found = Vec::new();
        if let Some((_, missing)) = self.segments.iter().zip(0..).find(|(s, expected)| s.segment != *expected) {
            found.push(Damage::of(&self.directory.join(journal_file(missing)), "it is missing"));
        }
        for (segment, path) in self.segments.iter().filter_map(|segment| Some((segment, segment.pixels.as_ref()?))) {
            match segment.scan_pixels(path) {
                Ok(scan) => found.extend(scan.damage.iter().map(|what| Damage::of(path, what))),
                Err(e) => found.push(Damage::of(path, &e.to_string())),
            }
        }
        if let Ok(head) = self.head() {
            match std::fs::read_to_string(&self.config) {
                Ok(text) if text == head.config_toml => {}
                Ok(_) => found.push(Damage::of(&self.config, "not the configuration that the journal holds")),
                Err(e) => found.push(Damage::of(&self.config, &e.to_string())),
            }
        }
        found
    }

    /// What a crash left behind the last whole records, for each segment that was not closed.
    pub fn unfinished(&self) -> Vec<Damage> {
        self.segments.iter().filter_map(SegmentFiles::unfinished).collect()
    }
}

/// Something that is not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl Damage {
    fn of(file: &Path, what: &str) -> Self {
        Self { file: file.to_owned(), what: what.to_owned() }
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.file.display(), self.what)
    }
}

impl SegmentFiles {
    /// Whether its journal ends before its head was whole, as when the service ended while it was being made.
    fn is_empty(&self) -> bool {
        self.scan.whole_bytes == 0 && self.scan.damage.is_empty()
    }

    /// How far its file of pixels is whole; every byte of it is looked at, once.
    fn scan_pixels(&self, path: &Path) -> std::io::Result<&Scan> {
        if let Some(known) = self.pixels_scan.get() {
            return Ok(known);
        }
        let found = scan(path)?;
        Ok(self.pixels_scan.get_or_init(|| found))
    }

    /// Where its journal is damaged.
    pub(super) fn damage(&self) -> impl Iterator<Item = Damage> + '_ {
        self.scan.damage.iter().map(|what| Damage::of(&self.journal, what))
    }

    /// What a crash left behind the last whole records, where its journal was not closed.
    pub(super) fn unfinished(&self) -> Option<Damage> {
        let Scan { last_input_seq, tail_bytes, is_finished, .. } = self.scan;
        if is_finished || !self.scan.damage.is_empty() {
            return None;
        }
        let last = match last_input_seq {
            Some(seq) => format!("the last whole input is {seq}"),
            None => "no input is whole".to_owned(),
        };
        let what = format!("it was not closed; {last}, {tail_bytes} bytes behind it are not");
        Some(Damage::of(&self.journal, &what))
    }

    /// Every record of this segment, as far as it is whole.
    pub(super) fn read(&self, mut take: impl FnMut(JournalRecord)) -> Result<(), JournalError> {
        self.each(|topic, bytes| {
            take(decode(&self.journal, topic, bytes)?);
            Ok(())
        })
    }

    fn each(&self, mut take: impl FnMut(Topic, &[u8]) -> Result<(), JournalError>) -> Result<(), JournalError> {
        let path = &self.journal;
        if self.scan.whole_bytes > 0 {
            for message in messages(path, self.scan.whole_bytes)? {
                let message = message.map_err(|e| damaged(path, &e))?;
                // Topics of later versions are passed over.
                let topic = Topic::ALL.iter().find(|(_, name, _)| *name == message.channel.topic);
                if let Some((topic, ..)) = topic {
                    take(*topic, &message.data)?;
                }
            }
        }
        match self.scan.damage.first() {
            Some(reason) => Err(damaged(path, reason)),
            None => Ok(()),
        }
    }
}

/// A message of a file of pixels.
#[derive(Debug)]
pub(super) enum PixelsRecord {
    Frame(v1::FrameRecord),
    Loss(v1::LossRecord),
}

/// The records of a file of pixels, in order, as far as it is whole.
pub(super) fn read_pixels(
    path: &Path,
    scan: &Scan,
) -> Result<impl Iterator<Item = Result<PixelsRecord, JournalError>> + use<>, JournalError> {
    let at = path.to_owned();
    let records = messages(path, scan.whole_bytes)?.filter_map(move |message| {
        let message = match message {
            Ok(message) => message,
            Err(e) => return Some(Err(damaged(&at, &e))),
        };
        let topic = PixelsTopic::ALL.iter().position(|(name, _)| *name == message.channel.topic)?;
        let record = if topic == PixelsTopic::Frames as usize {
            v1::FrameRecord::decode(&message.data[..]).map(PixelsRecord::Frame)
        } else if topic == PixelsTopic::Losses as usize {
            v1::LossRecord::decode(&message.data[..]).map(PixelsRecord::Loss)
        } else {
            return None;
        };
        Some(record.map_err(|e| damaged(&at, &e)))
    });
    Ok(records)
}

/// The messages in the first `whole_bytes` of a file, which end at a record.
fn messages(path: &Path, whole_bytes: u64) -> Result<MessageReader<impl Read + use<>>, JournalError> {
    let file = File::open(path).map_err(|source| JournalError::Io { path: path.to_owned(), source })?;
    let options = LinearReaderOptions::default()
        .with_prevalidate_chunk_crcs(true)
        .with_record_length_limit(RECORD_LIMIT)
        .with_skip_end_magic(true);
    let whole = BufReader::with_capacity(1 << 18, file).take(whole_bytes).chain(Cursor::new(DATA_END));
    Ok(MessageReader::new_with_options(whole, options))
}

fn decode(path: &Path, topic: Topic, bytes: &[u8]) -> Result<JournalRecord, JournalError> {
    fn message<M: Message + Default>(bytes: &[u8]) -> Result<M, prost::DecodeError> {
        M::decode(bytes)
    }
    let record = match topic {
        Topic::Head => message(bytes).map(|m| JournalRecord::Head(Box::new(m))),
        Topic::Inputs => message(bytes).map(JournalRecord::Input),
        Topic::Decisions => message(bytes).map(|m| JournalRecord::Decision(Box::new(m))),
        Topic::Timing => message(bytes).map(JournalRecord::Timing),
        Topic::Commands => message(bytes).map(JournalRecord::Command),
        Topic::Events => message(bytes).map(JournalRecord::Event),
        Topic::Snapshots => message(bytes).map(JournalRecord::Snapshot),
        Topic::Latency => message(bytes).map(JournalRecord::Latency),
        Topic::Health => message(bytes).map(JournalRecord::Health),
        Topic::Losses => message(bytes).map(JournalRecord::Loss),
    };
    match record.map_err(|e| damaged(path, &e))? {
        JournalRecord::Head(head) if head.format != FORMAT => {
            Err(JournalError::Format { path: path.to_owned(), got: head.format })
        }
        record => Ok(record),
    }
}

pub(super) fn damaged(path: &Path, reason: &dyn std::fmt::Display) -> JournalError {
    JournalError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}
