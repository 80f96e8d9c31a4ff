//! The thread that writes the journal.
//!
//! It takes items from a bounded queue, writes them to a [`SealedFile`], and seals and syncs that at least every
//! `sync_interval`. Only then does `durable_through` move. While the disk takes nothing, blocks wait in memory and are
//! written when it does; beyond a bound, records are lost, counted, and their place is marked by a `LossRecord`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use super::convert::Published;
use super::file::{Schema, SealedFile, Uncommitted, schema, take_all};
use super::journal_file;
use super::status::RecordStatus;
use crate::config::SyncPolicy;
use crate::engine::{Clock, HostClock};
use crate::proto::v1;

/// Items that may wait; more than a minute of frames at 100 Hz.
pub const QUEUE_ITEMS: u32 = 8_192;

/// What is written.
#[derive(Debug)]
pub enum JournalItem {
    /// An input, its decision, and when.
    Step(Arc<Published>),
    /// A command, with who sent it.
    Command(v1::CommandRecord),
    /// Something that happened outside the engine.
    Event(v1::SubscribeEventsResponse),
    /// The engine's state: a `SnapshotRecord` in the form of the wire, which is written without another copy.
    Snapshot {
        /// Its input.
        input_seq: u64,
        /// The whole message.
        message: Bytes,
    },
    /// How the session fares.
    Health(v1::HealthRecord),
    /// A latency distribution.
    Latency(v1::LatencyRecord),
}

impl JournalItem {
    /// A snapshot.
    pub fn snapshot(record: &v1::SnapshotRecord) -> Self {
        Self::Snapshot { input_seq: record.input_seq, message: record.encode_to_vec().into() }
    }
}

/// The writer's handle: items go in, the file is closed by [`JournalWriter::close`] or when it is dropped.
pub struct JournalWriter {
    items: Option<SyncSender<JournalItem>>,
    status: Arc<RecordStatus>,
    thread: Option<JoinHandle<()>>,
}

impl JournalWriter {
    /// Creates the journal of `head.segment` in `directory` (which exists), writes and syncs the head, and starts the
    /// thread.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn create(
        directory: &Path,
        head: &v1::SessionHead,
        interval: Duration,
        policy: SyncPolicy,
    ) -> io::Result<Self> {
        let topics = Topic::ALL.map(|(_, name, schema)| (name, schema));
        let file = SealedFile::create(&directory.join(journal_file(head.segment)), &topics, policy, head)?;
        let status = Arc::new(RecordStatus::default());
        let (sender, receiver) = sync_channel(QUEUE_ITEMS as usize);
        let journal = Journal { file, status: Arc::clone(&status), last_seq: None, loss: None };
        let thread = std::thread::Builder::new()
            .name("apical-journal".into())
            .spawn(move || journal.write_all(&receiver, interval))?;
        Ok(Self { items: Some(sender), status, thread: Some(thread) })
    }

    /// Queues an item. When the queue is full the item is lost, and counted: a decision never waits for the disk.
    pub fn push(&self, item: JournalItem) {
        let Some(items) = &self.items else { return };
        self.status.records_waiting.fetch_add(1, Ordering::Relaxed);
        if items.try_send(item).is_err() {
            self.status.records_waiting.fetch_sub(1, Ordering::Relaxed);
            self.status.lose(1);
            self.status.fail("the queue is full: the disk is too slow, records are lost".to_owned());
        }
    }

    /// Queues an item, waiting for the disk where it must: for a replay, where nobody waits for the decision.
    pub fn push_waiting(&self, item: JournalItem) {
        let Some(items) = &self.items else { return };
        self.status.records_waiting.fetch_add(1, Ordering::Relaxed);
        if items.send(item).is_err() {
            self.status.records_waiting.fetch_sub(1, Ordering::Relaxed);
            self.status.lose(1);
        }
    }

    /// How the record fares.
    pub fn status(&self) -> Arc<RecordStatus> {
        Arc::clone(&self.status)
    }

    /// Writes what is queued, finishes the file, and waits for that.
    pub fn close(&mut self) {
        self.items = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            self.status.fail("the writing thread panicked".to_owned());
        }
    }
}

impl Drop for JournalWriter {
    fn drop(&mut self) {
        self.close();
    }
}

/// The topics of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Topic {
    Head,
    Inputs,
    Decisions,
    Timing,
    Commands,
    Events,
    Snapshots,
    Latency,
    Health,
    Losses,
}

impl Topic {
    pub(super) const ALL: [(Topic, &str, Schema); 10] = [
        (Topic::Head, "/head", schema!("SessionHead")),
        (Topic::Inputs, "/inputs", schema!("InputRecord")),
        (Topic::Decisions, "/decisions", schema!("DecisionRecord")),
        (Topic::Timing, "/timing", schema!("TimingRecord")),
        (Topic::Commands, "/commands", schema!("CommandRecord")),
        (Topic::Events, "/events", schema!("SubscribeEventsResponse")),
        (Topic::Snapshots, "/snapshots", schema!("SnapshotRecord")),
        (Topic::Latency, "/latency", schema!("LatencyRecord")),
        (Topic::Health, "/health", schema!("HealthRecord")),
        (Topic::Losses, "/losses", schema!("LossRecord")),
    ];
}

/// The thread's own state.
struct Journal {
    file: SealedFile,
    status: Arc<RecordStatus>,
    /// The last input that is in the file.
    last_seq: Option<u64>,
    /// What could not be taken since then.
    loss: Option<v1::LossRecord>,
}

impl Journal {
    fn write_all(mut self, items: &Receiver<JournalItem>, interval: Duration) {
        take_all(items, interval, |item| match item {
            Some(item) => {
                self.status.records_waiting.fetch_sub(1, Ordering::Relaxed);
                self.take(&item);
                self.file.uncommitted()
            }
            None => {
                let committed = self.file.commit(self.last_seq);
                let left = Uncommitted::after(&committed);
                self.done(committed);
                left
            }
        });
        let finished = self.mark_loss().and_then(|()| self.file.finish(self.last_seq));
        self.done(finished);
    }

    fn take(&mut self, item: &JournalItem) {
        if self.file.is_full() {
            return self.lose(item, "the disk takes nothing, and memory for what waits is full");
        }
        // Memory does not fail.
        let _ = self.mark_loss();
        match self.item(item) {
            Ok(()) => {
                if let JournalItem::Step(step) = item {
                    self.last_seq = Some(step.decision.input_seq);
                }
            }
            // What remains is a message that cannot be encoded.
            Err(e) => self.lose(item, &e.to_string()),
        }
    }

    fn lose(&mut self, item: &JournalItem, reason: &str) {
        let input_seq = match item {
            JournalItem::Step(step) => step.decision.input_seq,
            JournalItem::Command(record) => record.input_seq,
            JournalItem::Event(event) => event.input_seq,
            JournalItem::Snapshot { input_seq, .. } => *input_seq,
            JournalItem::Health(record) => record.input_seq,
            JournalItem::Latency(_) => self.last_seq.unwrap_or(0),
        };
        self.status.lose(1);
        self.status.fail(format!("{}: {reason}; records are lost", self.file.path().display()));
        let loss = self.loss.get_or_insert_with(|| v1::LossRecord {
            first_input_seq: input_seq,
            reason: reason.to_owned(),
            ..v1::LossRecord::default()
        });
        loss.last_input_seq = input_seq;
        loss.records += 1;
    }

    /// Says in the file which records are not in it.
    fn mark_loss(&mut self) -> io::Result<()> {
        match self.loss.take() {
            Some(loss) => self.write(Topic::Losses, HostClock.now_ns(), 0, &loss),
            None => Ok(()),
        }
    }

    /// What the disk said to everything so far. Nothing behind the first loss is ever durable.
    fn done(&self, result: io::Result<()>) {
        match (result, self.last_seq) {
            (Ok(()), Some(seq)) if self.status.lost() == 0 => self.status.journal.settle(seq),
            (Ok(()), _) => {}
            (Err(e), _) => self.status.fail(format!("{}: {e}", self.file.path().display())),
        }
    }

    /// An item, and never a part of it: a chunk ends only between items.
    fn item(&mut self, item: &JournalItem) -> io::Result<()> {
        let now_ns = HostClock.now_ns();
        match item {
            JournalItem::Step(step) => {
                let (log_ns, device_ns) = (step.timing.decided_host_ns, step.decision.device_ns);
                self.write(Topic::Inputs, log_ns, device_ns, &step.input)?;
                self.write(Topic::Decisions, log_ns, device_ns, &step.decision)?;
                self.write(Topic::Timing, log_ns, device_ns, &step.timing)?;
                for event in &step.events {
                    self.write(Topic::Events, log_ns, device_ns, event)?;
                }
            }
            JournalItem::Command(record) => self.write(Topic::Commands, now_ns, 0, record)?,
            JournalItem::Event(event) => self.write(Topic::Events, now_ns, 0, event)?,
            JournalItem::Snapshot { message, .. } => {
                self.file.encoded(Topic::Snapshots as usize, now_ns, 0, message)?;
            }
            JournalItem::Health(record) => self.write(Topic::Health, now_ns, 0, record)?,
            JournalItem::Latency(record) => self.write(Topic::Latency, now_ns, 0, record)?,
        }
        self.file.end_large_chunk()
    }

    fn write(&mut self, topic: Topic, log_ns: u64, publish_ns: u64, message: &impl Message) -> io::Result<()> {
        self.file.message(topic as usize, log_ns, publish_ns, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{JournalRecord, SessionFiles};

    /// A snapshot larger than any block, between what is small: everything is found again, and all of it sealed.
    #[test]
    fn a_large_snapshot_is_found_among_small_records() {
        let directory = tempfile::tempdir().unwrap();
        let head = v1::SessionHead { format: crate::journal::FORMAT, ..v1::SessionHead::default() };
        let interval = Duration::from_millis(1);
        let mut writer = JournalWriter::create(directory.path(), &head, interval, SyncPolicy::System).unwrap();
        // Nothing that compresses.
        let states = [5_u64 << 20, 100, 9 << 20, 6 << 20].map(|bytes| {
            let words = (0..bytes / 8).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
            words.flat_map(u64::to_le_bytes).collect::<Bytes>()
        });
        for (input_seq, state) in (0..).zip(&states) {
            for _ in 0..input_seq {
                let event = v1::SubscribeEventsResponse { input_seq, ..v1::SubscribeEventsResponse::default() };
                writer.push_waiting(JournalItem::Event(event));
            }
            let state = state.clone();
            let record = v1::SnapshotRecord { input_seq, state, ..v1::SnapshotRecord::default() };
            writer.push_waiting(JournalItem::snapshot(&record));
        }
        writer.close();
        assert_eq!(writer.status().failure(), None);
        let files = SessionFiles::open(directory.path()).unwrap();
        let (mut snapshots, mut events) = (Vec::new(), Vec::new());
        files.segments[0]
            .read(|record| match record {
                JournalRecord::Snapshot(snapshot) => snapshots.push(snapshot.state),
                JournalRecord::Event(event) => events.push(event.input_seq),
                _ => {}
            })
            .unwrap();
        assert_eq!(snapshots, states);
        assert_eq!(events, [1, 2, 2, 3, 3, 3]);
    }

    #[test]
    fn what_was_lost_last_stands_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let topics = Topic::ALL.map(|(_, name, schema)| (name, schema));
        let head = v1::SessionHead { format: crate::journal::FORMAT, ..v1::SessionHead::default() };
        let file =
            SealedFile::create(&directory.path().join(journal_file(0)), &topics, SyncPolicy::System, &head).unwrap();
        let mut journal = Journal { file, status: Arc::default(), last_seq: None, loss: None };
        let event = v1::SubscribeEventsResponse { input_seq: 7, ..v1::SubscribeEventsResponse::default() };
        journal.lose(&JournalItem::Event(event), "a test");
        let (sender, receiver) = sync_channel(1);
        drop(sender);
        journal.write_all(&receiver, Duration::from_millis(1));
        let mut losses = Vec::new();
        let files = SessionFiles::open(directory.path()).unwrap();
        files.segments[0]
            .read(|record| {
                if let JournalRecord::Loss(loss) = record {
                    losses.push((loss.records, loss.first_input_seq, loss.last_input_seq));
                }
            })
            .unwrap();
        assert_eq!(losses, [(1, 7, 7)]);
    }
}
