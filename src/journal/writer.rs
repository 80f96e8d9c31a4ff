//! The thread that writes the journal.
//!
//! It takes items from a bounded queue, writes them to MCAP, and ends the chunk and syncs the file at least every
//! `sync_interval`. Only then does `durable_through` move. If the disk fails, the thread says so in [`WriterStatus`],
//! goes on taking items so that nobody waits for it, and counts what it could not write.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use mcap::records::MessageHeader;
use mcap::{Compression, WriteOptions, Writer};
use prost::Message;

use super::convert::Published;
use super::journal_file;
use crate::engine::{Clock, HostClock};
use crate::proto::{DESCRIPTOR_SET, v1};

/// Items that may wait; more than a minute of frames at 100 Hz.
const QUEUE_ITEMS: usize = 8_192;
/// A chunk is ended when it has grown to this size, in bytes, even before the interval is over.
const CHUNK_BYTES: u64 = 1 << 20;

/// What is written.
#[derive(Debug)]
pub enum JournalItem {
    /// An input, its decision, and when.
    Step(Arc<Published>),
    /// A command, with who sent it.
    Command(v1::CommandRecord),
    /// The engine's state.
    Snapshot(v1::SnapshotRecord),
    /// A latency distribution.
    Latency(v1::LatencyRecord),
}

/// How the writer fares; read by anybody.
#[derive(Debug, Default)]
pub struct WriterStatus {
    durable: AtomicU64,
    any_durable: AtomicBool,
    lost: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl WriterStatus {
    /// Every input up to and including this number is on disk; none before the first sync.
    pub fn durable_through(&self) -> Option<u64> {
        self.any_durable.load(Ordering::Acquire).then(|| self.durable.load(Ordering::Acquire))
    }

    /// Items that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// What the disk said, if it failed.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().ok().and_then(|f| f.clone())
    }

    fn fail(&self, message: String) {
        if let Ok(mut failure) = self.failure.lock() {
            tracing::error!("journal: {message}");
            failure.get_or_insert(message);
        }
    }
}

/// The writer's handle: items go in, the file is closed by [`JournalWriter::close`] or when it is dropped.
pub struct JournalWriter {
    items: Option<SyncSender<JournalItem>>,
    status: Arc<WriterStatus>,
    thread: Option<JoinHandle<()>>,
}

impl JournalWriter {
    /// Creates the journal of `head.segment` in `directory` (which exists), writes and syncs the head, and starts the
    /// thread.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn create(directory: &Path, head: &v1::SessionHead, sync_interval: Duration) -> std::io::Result<Self> {
        let path = directory.join(journal_file(head.segment));
        let mut file = JournalFile::create(&path)?;
        file.write(Topic::Head, 0, 0, &head.encode_to_vec())?;
        file.sync()?;
        // The file's name is on the disk as well; other systems write it with the file.
        #[cfg(unix)]
        File::open(directory)?.sync_all()?;
        let status = Arc::new(WriterStatus::default());
        let (sender, receiver) = sync_channel(QUEUE_ITEMS);
        let thread_status = Arc::clone(&status);
        let thread = std::thread::Builder::new()
            .name("apical-journal".into())
            .spawn(move || write_all(file, &receiver, &thread_status, sync_interval))?;
        Ok(Self { items: Some(sender), status, thread: Some(thread) })
    }

    /// Queues an item. When the queue is full the item is lost, and counted: a decision never waits for the disk.
    pub fn push(&self, item: JournalItem) {
        if let Some(items) = &self.items
            && items.try_send(item).is_err()
        {
            self.status.lost.fetch_add(1, Ordering::Relaxed);
            self.status.fail("the queue is full: the disk is too slow, records are lost".to_owned());
        }
    }

    /// Queues an item, waiting for the disk where it must: for a replay, where nobody waits for the decision.
    pub fn push_waiting(&self, item: JournalItem) {
        if let Some(items) = &self.items
            && items.send(item).is_err()
        {
            self.status.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How the writer fares.
    pub fn status(&self) -> Arc<WriterStatus> {
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

fn write_all(mut file: JournalFile, items: &Receiver<JournalItem>, status: &WriterStatus, interval: Duration) {
    let clock = HostClock;
    let mut last_sync_ns = clock.now_ns();
    let mut last_seq = None;
    let mut dirty = false;
    loop {
        let since = Duration::from_nanos(clock.now_ns() - last_sync_ns);
        let wait = if dirty { interval.saturating_sub(since) } else { interval };
        let received = items.recv_timeout(wait);
        match &received {
            Ok(item) => {
                dirty = true;
                match file.item(item) {
                    Ok(()) => {
                        if let JournalItem::Step(step) = item {
                            last_seq = Some(step.decision.input_seq);
                        }
                    }
                    Err(e) => {
                        status.lost.fetch_add(1, Ordering::Relaxed);
                        status.fail(format!("{}: {e}", file.path.display()));
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let due = Duration::from_nanos(clock.now_ns() - last_sync_ns) >= interval;
        if dirty && (due || received.is_err()) {
            match file.sync() {
                Ok(()) if status.lost() == 0 => {
                    if let Some(seq) = last_seq {
                        status.durable.store(seq, Ordering::Release);
                        status.any_durable.store(true, Ordering::Release);
                    }
                }
                Ok(()) => {}
                Err(e) => status.fail(format!("{}: {e}", file.path.display())),
            }
            last_sync_ns = clock.now_ns();
            dirty = false;
        }
    }
    match file.finish() {
        Ok(()) if status.lost() == 0 => {
            if let Some(seq) = last_seq {
                status.durable.store(seq, Ordering::Release);
                status.any_durable.store(true, Ordering::Release);
            }
        }
        Ok(()) => {}
        Err(e) => status.fail(e.to_string()),
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
}

impl Topic {
    pub(super) const ALL: [(Topic, &str, &str); 8] = [
        (Topic::Head, "/head", "apical.v1.SessionHead"),
        (Topic::Inputs, "/inputs", "apical.v1.InputRecord"),
        (Topic::Decisions, "/decisions", "apical.v1.DecisionRecord"),
        (Topic::Timing, "/timing", "apical.v1.TimingRecord"),
        (Topic::Commands, "/commands", "apical.v1.CommandRecord"),
        (Topic::Events, "/events", "apical.v1.SubscribeEventsResponse"),
        (Topic::Snapshots, "/snapshots", "apical.v1.SnapshotRecord"),
        (Topic::Latency, "/latency", "apical.v1.LatencyRecord"),
    ];
}

/// An MCAP file with one channel for each topic.
struct JournalFile {
    path: PathBuf,
    writer: Writer<BufWriter<File>>,
    sync: File,
    channels: [u16; 8],
    sequence: [u32; 8],
    buffer: Vec<u8>,
}

impl JournalFile {
    fn create(path: &Path) -> std::io::Result<Self> {
        let file = File::options().write(true).create_new(true).open(path)?;
        let sync = file.try_clone()?;
        let options = WriteOptions::new()
            .compression(Some(Compression::Lz4))
            .chunk_size(Some(CHUNK_BYTES))
            .disable_seeking(true)
            .profile("apical");
        let mut writer = options.create(BufWriter::new(file)).map_err(io)?;
        let mut channels = [0; 8];
        for (topic, name, schema) in Topic::ALL {
            let schema = writer.add_schema(schema, "protobuf", DESCRIPTOR_SET).map_err(io)?;
            channels[topic as usize] = writer.add_channel(schema, name, "protobuf", &BTreeMap::new()).map_err(io)?;
        }
        Ok(Self { path: path.to_owned(), writer, sync, channels, sequence: [0; 8], buffer: Vec::new() })
    }

    fn item(&mut self, item: &JournalItem) -> std::io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let done = self.item_through(item, &mut buffer);
        self.buffer = buffer;
        done
    }

    fn item_through(&mut self, item: &JournalItem, buffer: &mut Vec<u8>) -> std::io::Result<()> {
        match item {
            JournalItem::Step(step) => {
                let (log_ns, device_ns) = (step.timing.decided_host_ns, step.decision.device_ns);
                self.message(Topic::Inputs, log_ns, device_ns, &step.input, buffer)?;
                self.message(Topic::Decisions, log_ns, device_ns, &step.decision, buffer)?;
                self.message(Topic::Timing, log_ns, device_ns, &step.timing, buffer)?;
                for event in &step.events {
                    self.message(Topic::Events, log_ns, device_ns, event, buffer)?;
                }
                Ok(())
            }
            JournalItem::Command(record) => self.message(Topic::Commands, HostClock.now_ns(), 0, record, buffer),
            JournalItem::Snapshot(record) => self.message(Topic::Snapshots, HostClock.now_ns(), 0, record, buffer),
            JournalItem::Latency(record) => self.message(Topic::Latency, HostClock.now_ns(), 0, record, buffer),
        }
    }

    fn message(
        &mut self,
        topic: Topic,
        log_ns: u64,
        publish_ns: u64,
        message: &impl Message,
        buffer: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        buffer.clear();
        message.encode(buffer).map_err(std::io::Error::other)?;
        self.write(topic, log_ns, publish_ns, buffer)
    }

    fn write(&mut self, topic: Topic, log_time: u64, publish_time: u64, bytes: &[u8]) -> std::io::Result<()> {
        let k = topic as usize;
        let header = MessageHeader { channel_id: self.channels[k], sequence: self.sequence[k], log_time, publish_time };
        self.sequence[k] = self.sequence[k].wrapping_add(1);
        self.writer.write_to_known_channel(&header, bytes).map_err(io)
    }

    /// Ends the chunk and brings the file to the disk.
    fn sync(&mut self) -> std::io::Result<()> {
        self.writer.flush().map_err(io)?;
        self.sync.sync_data()
    }

    fn finish(&mut self) -> std::io::Result<()> {
        self.writer.finish().map_err(io)?;
        self.sync.sync_all()
    }
}

fn io(error: mcap::McapError) -> std::io::Error {
    match error {
        mcap::McapError::Io(e) => e,
        other => std::io::Error::other(other),
    }
}
