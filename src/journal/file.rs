//! An MCAP file that grows in sealed blocks.
//!
//! The MCAP writer writes to memory; [`SealedFile::commit`] ends the chunk, appends the [`Seal`] of everything since
//! the last one, and brings the block to the disk in one piece. A write that fails (a full disk) changes nothing: the
//! block stays in memory and is written again, over what the failure left, by the next sync.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mcap::records::MessageHeader;
use mcap::write::NoSeek;
use mcap::{Compression, WriteOptions, Writer};
use prost::Message;

use super::file_end::{self, Topic};
use super::seal::{SEAL_OPCODE, Seal};
use crate::config::SyncPolicy;
use crate::engine::{Clock, HostClock};
use crate::frame::Room;
use crate::proto::v1;

/// Messages wait in memory for at most this many bytes before they become a chunk.
const CHUNK_BYTES: usize = 1 << 20;
/// A chunk of more bytes than this is one with a snapshot.
const LARGE_BYTES: usize = 4 << 20;
/// What stands before a message in its chunk.
const MESSAGE_HEAD_BYTES: usize = 31;
/// The MCAP writer keeps the index of every chunk that it has written: after so many a new one takes its place. What a
/// reader needs of the indexes is made from the file when it ends.
const WRITER_CHUNKS: u32 = 64;
/// Bytes that may wait for a disk that takes none, before messages are refused.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// A block that has grown to this size is sealed before its time.
const BLOCK_BYTES: usize = 2 << 20;
/// Of the memory that a block took so much is kept for the next one; a snapshot, or a disk that stalled once, costs
/// none for ever.
const BLOCK_BYTES_KEPT: usize = 3 << 20;

/// What the MCAP writer writes to; shared with the file that takes it out again. One thread uses both ends.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    /// Moves what is in it behind `bytes`.
    fn append_to(&self, bytes: &mut Vec<u8>) {
        bytes.append(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes what is in it, and the room.
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The type of a topic's messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schema {
    /// Its full name.
    pub name: &'static str,
    /// The descriptors that it needs, as a `FileDescriptorSet`.
    pub descriptors: &'static [u8],
}

/// The schema of a message of `apical.v1`.
macro_rules! schema {
    ($message:literal) => {
        $crate::journal::file::Schema {
            name: concat!("apical.v1.", $message),
            descriptors: include_bytes!(concat!(env!("OUT_DIR"), "/", $message, ".bin")),
        }
    };
}
pub(super) use schema;

/// Channel and schema of each topic.
type Channels = Vec<(u16, u16)>;

/// The file. Channels are numbered as the topics were given.
pub(super) struct SealedFile {
    path: PathBuf,
    file: File,
    policy: SyncPolicy,
    memory: Memory,
    writer: Writer<NoSeek<Memory>>,
    /// Chunks that it has ended.
    writer_chunks: u32,
    topics: Vec<(&'static str, Schema)>,
    channels: Channels,
    sequence: Vec<u32>,
    /// The message that is being written.
    message: Vec<u8>,
    /// Bytes of messages since the last chunk ended.
    in_chunk: usize,
    /// Over every sealed block.
    crc: crc32fast::Hasher,
    /// Where the block that grows now begins.
    block_start: u64,
    /// Bytes of the block that grows now that have left the MCAP writer.
    block: Vec<u8>,
    /// Sealed blocks that the disk has not taken.
    waiting: Vec<u8>,
    /// Memory that comes back when the disk has the block which took its place.
    spare: Vec<u8>,
    /// Bytes that it has taken.
    written: u64,
}

impl SealedFile {
    /// Creates the file, which must not exist, with a channel for each topic, and brings the head, on the first of
    /// them, to the disk.
    pub fn create(
        path: &Path,
        topics: &[(&'static str, Schema)],
        policy: SyncPolicy,
        head: &v1::SessionHead,
    ) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).open(path)?;
        let memory = Memory::default();
        let (writer, channels) = writer_to(&memory, topics)?;
        let room = Room::of(BLOCK_BYTES_KEPT);
        let mut created = Self {
            path: path.to_owned(),
            file,
            policy,
            memory,
            writer,
            writer_chunks: 0,
            topics: topics.to_vec(),
            sequence: vec![0; channels.len()],
            channels,
            message: Vec::new(),
            in_chunk: 0,
            crc: crc32fast::Hasher::new(),
            block_start: 0,
            block: room.memory(),
            waiting: room.memory(),
            spare: Vec::new(),
            written: 0,
        };
        created.message(0, 0, 0, head)?;
        created.commit(None)?;
        path.parent().map_or(Ok(()), sync_directory)?;
        Ok(created)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a disk that takes nothing has filled what may wait for it.
    pub fn is_full(&self) -> bool {
        self.waiting.len() + self.block.len() + self.in_chunk > WAITING_BYTES_MAX
    }

    /// What a commit would bring to the disk, when something was written since the last one.
    pub fn uncommitted(&self) -> Uncommitted {
        if self.block.len() >= BLOCK_BYTES { Uncommitted::Much } else { Uncommitted::Some }
    }

    /// Appends a message.
    pub fn message(
        &mut self,
        topic: usize,
        log_time: u64,
        publish_time: u64,
        message: &impl Message,
    ) -> io::Result<()> {
        let mut encoded = std::mem::take(&mut self.message);
        encoded.clear();
        let appended = message
            .encode(&mut encoded)
            .map_err(io::Error::other)
            .and_then(|()| self.encoded(topic, log_time, publish_time, &encoded));
        self.message = encoded;
        appended
    }

    /// Appends a message in the form of the wire.
    pub fn encoded(&mut self, topic: usize, log_time: u64, publish_time: u64, message: &[u8]) -> io::Result<()> {
        if self.in_chunk == 0 && self.writer_chunks >= WRITER_CHUNKS {
            self.renew_writer()?;
        }
        let sequence = self.sequence[topic];
        let header = MessageHeader { channel_id: self.channels[topic].0, sequence, log_time, publish_time };
        self.writer.write_to_known_channel(&header, message).map_err(error)?;
        self.sequence[topic] = sequence.wrapping_add(1);
        self.in_chunk += message.len() + MESSAGE_HEAD_BYTES;
        Ok(())
    }

    /// A new MCAP writer, with nothing in memory; its first chunk begins.
    fn renew_writer(&mut self) -> io::Result<()> {
        let fresh = Memory::default();
        let (writer, channels) = writer_to(&fresh, &self.topics)?;
        // The file has its head already.
        fresh.clear();
        (self.writer, self.channels, self.memory, self.writer_chunks) = (writer, channels, fresh, 0);
        Ok(())
    }

    /// Ends a chunk that has grown large. Called between records that belong together, never within.
    pub fn end_large_chunk(&mut self) -> io::Result<()> {
        if self.in_chunk >= CHUNK_BYTES {
            self.end_chunk()?;
        }
        Ok(())
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        self.writer.flush().map_err(error)?;
        self.writer_chunks += 1;
        if std::mem::take(&mut self.in_chunk) > LARGE_BYTES {
            // The chunk becomes the block, and what the block has goes before it: the other way round a snapshot would
            // be there twice. It is taken out first: a writer that goes ends its file.
            let mut chunk = self.memory.take();
            self.renew_writer()?;
            chunk.extend_from_slice(&self.block);
            chunk.rotate_right(self.block.len());
            let mut usual = std::mem::replace(&mut self.block, chunk);
            if self.spare.capacity() == 0 {
                usual.clear();
                self.spare = usual;
            }
        } else {
            self.memory.append_to(&mut self.block);
        }
        Ok(())
    }

    fn seal(&mut self, last_input_seq: Option<u64>) -> io::Result<()> {
        self.end_chunk()?;
        if self.block.is_empty() {
            return Ok(());
        }
        let block_bytes = self.block.len() as u64;
        let block_crc = crc32fast::hash(&self.block);
        let seal = Seal { block_start: self.block_start, block_bytes, last_input_seq, block_crc };
        self.writer.write_private_record(SEAL_OPCODE, &seal.encode(), Default::default()).map_err(error)?;
        self.memory.append_to(&mut self.block);
        self.block_start += self.block.len() as u64;
        self.crc.update(&self.block);
        if self.waiting.is_empty() && self.block.len() > BLOCK_BYTES_KEPT {
            // Not twice either.
            std::mem::swap(&mut self.waiting, &mut self.block);
        } else {
            self.waiting.append(&mut self.block);
            self.block.shrink_to(BLOCK_BYTES_KEPT);
        }
        Ok(())
    }

    /// Seals everything since the last seal and brings it to the disk; `last_input_seq` is the last input that is whole
    /// in the file.
    pub fn commit(&mut self, last_input_seq: Option<u64>) -> io::Result<()> {
        self.seal(last_input_seq)?;
        self.sync()
    }

    /// Brings what is sealed to the disk, as the policy has it.
    fn sync(&mut self) -> io::Result<()> {
        if !self.waiting.is_empty() {
            self.file.seek(SeekFrom::Start(self.written))?;
            self.file.write_all(&self.waiting)?;
            self.written += self.waiting.len() as u64;
            self.waiting.clear();
            if self.waiting.capacity() > BLOCK_BYTES_KEPT && self.spare.capacity() > 0 {
                self.waiting = std::mem::take(&mut self.spare);
            }
            self.waiting.shrink_to(BLOCK_BYTES_KEPT);
        }
        match self.policy {
            SyncPolicy::Disk => self.file.sync_data(),
            SyncPolicy::System => Ok(()),
        }
    }

    /// Seals, ends the MCAP file with its summary, and brings it to the disk.
    pub fn finish(&mut self, last_input_seq: Option<u64>) -> io::Result<()> {
        self.seal(last_input_seq)?;
        self.sync()?;
        let topics = self.topics.iter().zip(&self.channels).map(|(&(topic, schema), &(channel_id, schema_id))| Topic {
            channel_id,
            topic,
            schema_id,
            schema_name: schema.name,
            descriptors: schema.descriptors,
        });
        let topics: Vec<Topic<'_>> = topics.collect();
        let ended = file_end::write(&self.path, &mut self.file, (self.written, self.crc.clone().finalize()), &topics);
        // What a failed write left behind the end, this one or one before it.
        self.file.set_len(*ended.as_ref().unwrap_or(&self.written))?;
        self.file.sync_all()?;
        ended.map(|_| ())
    }
}

/// An MCAP writer to memory, with a channel for each topic, and the channels with their schemas.
fn writer_to(memory: &Memory, topics: &[(&'static str, Schema)]) -> io::Result<(Writer<NoSeek<Memory>>, Channels)> {
    let options = WriteOptions::new()
        .compression(Some(Compression::Lz4))
        .chunk_size(None)
        .disable_seeking(true)
        .profile("apical");
    let mut writer = options.create(NoSeek::new(memory.clone())).map_err(error)?;
    let mut channels = Vec::with_capacity(topics.len());
    for (topic, schema) in topics {
        let schema = writer.add_schema(schema.name, "protobuf", schema.descriptors).map_err(error)?;
        let channel = writer.add_channel(schema, topic, "protobuf", &BTreeMap::new()).map_err(error)?;
        channels.push((channel, schema));
    }
    Ok((writer, channels))
}

/// What is not on the disk yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uncommitted {
    Nothing,
    Some,
    /// More than should wait.
    Much,
}

impl Uncommitted {
    /// What a commit has left.
    pub fn after(committed: &io::Result<()>) -> Self {
        if committed.is_err() { Uncommitted::Some } else { Uncommitted::Nothing }
    }
}

/// The loop of a thread that writes such a file: every item to `step`, and `None` when it is time to commit, at most
/// `interval` after the first item since the last time, or when there is much. `step` says what there is to commit:
/// after a failure that is tried again, whether or not anything new comes. Ends when no more items can come.
pub(super) fn take_all<T>(items: &Receiver<T>, interval: Duration, mut step: impl FnMut(Option<T>) -> Uncommitted) {
    let clock = HostClock;
    let mut last_commit_ns = clock.now_ns();
    let mut uncommitted = Uncommitted::Nothing;
    loop {
        let since = Duration::from_nanos(clock.now_ns() - last_commit_ns);
        let is_clean = uncommitted == Uncommitted::Nothing;
        let received = items.recv_timeout(if is_clean { interval } else { interval.saturating_sub(since) });
        let idle = received.is_err();
        match received {
            Ok(item) => uncommitted = step(Some(item)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let is_due = match uncommitted {
            Uncommitted::Nothing => false,
            Uncommitted::Some => idle || Duration::from_nanos(clock.now_ns() - last_commit_ns) >= interval,
            Uncommitted::Much => true,
        };
        if is_due {
            uncommitted = step(None);
            last_commit_ns = clock.now_ns();
        }
    }
}

/// The file's name is on the disk as well; other systems write it with the file.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(directory)?.sync_all()?;
    #[cfg(not(unix))]
    let _ = directory;
    Ok(())
}

fn error(error: mcap::McapError) -> io::Error {
    match error {
        mcap::McapError::Io(e) => e,
        other => io::Error::other(other),
    }
}
