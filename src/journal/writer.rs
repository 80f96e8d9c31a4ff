//! The thread that writes the journal.
//!
//! It takes items from a bounded queue, writes them to a [`SealedFile`], and seals and syncs that at least every
//! `sync_interval`. Only then does `durable_through` move. While the disk takes nothing, blocks wait in memory and are
//! written when it does; beyond a bound, records are lost, counted, and their place is marked by a `LossRecord`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use prost::Message;

use super::convert::Published;
use super::file::{Schema, SealedFile, schema};
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
    /// The engine's state.
    Snapshot(v1::SnapshotRecord),
    /// How the session fares.
    Health(v1::HealthRecord),
    /// A latency distribution.
    Latency(v1::LatencyRecord),
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
        let mut file = SealedFile::create(&directory.join(journal_file(head.segment)), &topics, policy)?;
        file.message(Topic::Head as usize, 0, 0, &head.encode_to_vec())?;
        file.seal(None)?;
        file.sync()?;
        sync_directory(directory)?;
        let status = Arc::new(RecordStatus::default());
        let (sender, receiver) = sync_channel(QUEUE_ITEMS as usize);
        let journal = Journal { file, status: Arc::clone(&status), buffer: Vec::new(), last_seq: None, loss: None };
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

/// The file's name is on the disk as well; other systems write it with the file.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(unix)]
    std::fs::File::open(directory)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
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
    buffer: Vec<u8>,
    /// The last input that is in the file.
    last_seq: Option<u64>,
    /// What could not be taken since then.
    loss: Option<v1::LossRecord>,
}

impl Journal {
    fn write_all(mut self, items: &Receiver<JournalItem>, interval: Duration) {
        let clock = HostClock;
        let mut last_sync_ns = clock.now_ns();
        let mut dirty = false;
        loop {
            let since = Duration::from_nanos(clock.now_ns() - last_sync_ns);
            let received = items.recv_timeout(if dirty { interval.saturating_sub(since) } else { interval });
            match &received {
                Ok(item) => {
                    self.status.records_waiting.fetch_sub(1, Ordering::Relaxed);
                    dirty = true;
                    self.take(item);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let due = Duration::from_nanos(clock.now_ns() - last_sync_ns) >= interval;
            if dirty && (due || received.is_err()) {
                // After a failure it is tried again, whether or not anything new comes.
                dirty = self.sync().is_err();
                last_sync_ns = clock.now_ns();
            }
        }
        let finished = self.file.finish(self.last_seq);
        self.done(finished);
    }

    fn take(&mut self, item: &JournalItem) {
        if self.file.is_full() {
            return self.lose(item, "the disk takes nothing, and memory for what waits is full");
        }
        if let Some(loss) = self.loss.take() {
            let _ = self.write(Topic::Losses, HostClock.now_ns(), 0, &loss);
        }
        match self.item(item) {
            Ok(()) => {
                if let JournalItem::Step(step) = item {
                    self.last_seq = Some(step.decision.input_seq);
                }
            }
            // Memory does not fail; what remains is a message that cannot be encoded.
            Err(e) => self.lose(item, &e.to_string()),
        }
    }

    fn lose(&mut self, item: &JournalItem, reason: &str) {
        let input_seq = match item {
            JournalItem::Step(step) => step.decision.input_seq,
            JournalItem::Command(record) => record.input_seq,
            JournalItem::Event(event) => event.input_seq,
            JournalItem::Snapshot(record) => record.input_seq,
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

    fn sync(&mut self) -> io::Result<()> {
        let synced = self.file.seal(self.last_seq).and_then(|()| self.file.sync());
        let failed = synced.as_ref().err().map(|e| io::Error::new(e.kind(), e.to_string()));
        self.done(synced);
        failed.map_or(Ok(()), Err)
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
            JournalItem::Snapshot(record) => self.write(Topic::Snapshots, now_ns, 0, record)?,
            JournalItem::Health(record) => self.write(Topic::Health, now_ns, 0, record)?,
            JournalItem::Latency(record) => self.write(Topic::Latency, now_ns, 0, record)?,
        }
        self.file.end_large_chunk()
    }

    fn write(&mut self, topic: Topic, log_ns: u64, publish_ns: u64, message: &impl Message) -> io::Result<()> {
        self.buffer.clear();
        message.encode(&mut self.buffer).map_err(io::Error::other)?;
        self.file.message(topic as usize, log_ns, publish_ns, &self.buffer)
    }
}
