//! The thread that writes the pixels of frames, in a file of their own beside the journal.
//!
//! A slot stays with this thread until its pixels are packed, then goes back into circulation. Only so many may wait;
//! what comes beyond, or while the disk takes nothing or the journal itself is behind, is not kept: counted, marked in
//! the file where it would stand, and announced. Decisions never wait for pixels.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::file::{Schema, SealedFile, Uncommitted, schema, take_all};
use super::pixels::{Kept, pack};
use super::pixels_file;
use super::status::RecordStatus;
use super::writer::QUEUE_ITEMS;
use crate::config::SyncPolicy;
use crate::engine::{Clock, FrameItem, HostClock, UsedFrame};
use crate::proto::v1;

/// The topics of a file of pixels, behind that of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum PixelsTopic {
    Frames = 1,
    Losses,
}

impl PixelsTopic {
    pub(super) const ALL: [(&str, Schema); 3] =
        [("/head", schema!("SessionHead")), ("/frames", schema!("FrameRecord")), ("/losses", schema!("LossRecord"))];
}

/// How pixels are kept.
#[derive(Debug, Clone)]
pub struct PixelsSettings {
    /// Which.
    pub kept: Kept,
    /// Frames that may wait.
    pub queue_frames: u32,
    /// How often the file is sealed and synced.
    pub sync_interval: Duration,
    /// When it is durable.
    pub policy: SyncPolicy,
}

/// What waits: a frame, and how many before it were not taken.
struct Waiting {
    frame: UsedFrame,
    dropped: Dropped,
}

/// Frames in a row that were not kept.
#[derive(Debug, Clone, Copy, Default)]
struct Dropped {
    first_seq: u64,
    last_seq: u64,
    count: u64,
}

impl Dropped {
    fn add(&mut self, input_seq: u64) {
        if self.count == 0 {
            self.first_seq = input_seq;
        }
        self.last_seq = input_seq;
        self.count += 1;
    }

    fn join(&mut self, earlier: Dropped) {
        if earlier.count > 0 {
            self.first_seq = earlier.first_seq;
            self.last_seq = self.last_seq.max(earlier.last_seq);
            self.count += earlier.count;
        }
    }
}

/// The writer's handle.
pub struct PixelsWriter {
    frames: Option<SyncSender<Waiting>>,
    status: Arc<RecordStatus>,
    dropped: Dropped,
    /// The last frame that was announced, and the last one that was queued.
    expected: Option<u64>,
    queued: Option<u64>,
    patient: bool,
    thread: Option<JoinHandle<()>>,
}

impl PixelsWriter {
    /// Creates the file of `head.segment` in `directory`, and starts the thread. Slots go to `give_back` when they are
    /// packed. A `patient` one waits for the disk rather than drop a frame.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn create(
        directory: &Path,
        head: &v1::SessionHead,
        settings: PixelsSettings,
        status: Arc<RecordStatus>,
        patient: bool,
        give_back: impl Fn(FrameItem) + Send + 'static,
    ) -> io::Result<Self> {
        let path = directory.join(pixels_file(head.segment));
        let file = SealedFile::create(&path, &PixelsTopic::ALL, settings.policy, head)?;
        let (sender, receiver) = sync_channel(settings.queue_frames as usize);
        let thread_status = Arc::clone(&status);
        let pixels = Pixels { file, status: thread_status, last_seq: None, loss: Dropped::default() };
        let thread = std::thread::Builder::new()
            .name("apical-pixels".into())
            .spawn(move || pixels.write_all(&receiver, &settings, give_back))?;
        Ok(Self {
            frames: Some(sender),
            status,
            dropped: Dropped::default(),
            expected: None,
            queued: None,
            patient,
            thread: Some(thread),
        })
    }

    /// A frame of this input will come: what is durable does not pass it before it is settled.
    pub fn expect(&mut self, input_seq: u64) {
        self.expected = Some(input_seq);
        self.status.pixels.want(self.expected);
    }

    /// Queues a frame, or gives it back when it cannot be kept; it is counted then.
    pub fn push(&mut self, frame: UsedFrame) -> Option<FrameItem> {
        let Some(frames) = &self.frames else { return Some(frame.item) };
        let input_seq = frame.input_seq;
        if !self.patient && self.status.records_waiting() > QUEUE_ITEMS / 2 {
            self.give_up(input_seq);
            return Some(frame.item);
        }
        let waiting = Waiting { frame, dropped: self.dropped };
        self.status.frames_waiting.fetch_add(1, Ordering::Relaxed);
        let refused = if self.patient {
            frames.send(waiting).err().map(|e| e.0)
        } else {
            frames.try_send(waiting).err().map(|e| match e {
                std::sync::mpsc::TrySendError::Full(waiting) | std::sync::mpsc::TrySendError::Disconnected(waiting) => {
                    waiting
                }
            })
        };
        match refused {
            None => {
                self.dropped = Dropped::default();
                self.queued = Some(input_seq);
                None
            }
            Some(waiting) => {
                self.status.frames_waiting.fetch_sub(1, Ordering::Relaxed);
                self.give_up(input_seq);
                Some(waiting.frame.item)
            }
        }
    }

    fn give_up(&mut self, input_seq: u64) {
        self.dropped.add(input_seq);
        self.status.drop_pixels();
        // Nobody waits for it any more; for those behind it that were announced, somebody does.
        if self.expected.is_none_or(|last| last <= input_seq) {
            self.status.pixels.want(self.queued);
        }
    }

    /// Writes what is queued, finishes the file, and waits for that.
    pub fn close(&mut self) {
        self.frames = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            self.status.fail("the thread that writes pixels panicked".to_owned());
        }
    }
}

impl Drop for PixelsWriter {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread's own state.
struct Pixels {
    file: SealedFile,
    status: Arc<RecordStatus>,
    last_seq: Option<u64>,
    loss: Dropped,
}

impl Pixels {
    fn write_all(
        mut self,
        frames: &Receiver<Waiting>,
        settings: &PixelsSettings,
        give_back: impl Fn(FrameItem) + Send + 'static,
    ) {
        take_all(frames, settings.sync_interval, |waiting| match waiting {
            Some(waiting) => {
                self.status.frames_waiting.fetch_sub(1, Ordering::Relaxed);
                give_back(self.take(waiting, &settings.kept));
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

    fn take(&mut self, waiting: Waiting, kept: &Kept) -> FrameItem {
        let Waiting { frame, dropped } = waiting;
        let mut dropped = dropped;
        dropped.join(self.loss);
        self.loss = dropped;
        let FrameItem::Pixels(slot) = &frame.item else { return frame.item };
        self.last_seq = Some(frame.input_seq);
        if self.file.is_full() {
            self.loss.add(frame.input_seq);
            self.status.drop_pixels();
            self.status.fail(format!("{}: the disk takes nothing; pixels are dropped", self.file.path().display()));
        } else {
            let record = pack(slot, frame.input_seq, frame.moved_px, kept);
            if slot.is_changed() {
                self.loss.add(frame.input_seq);
                self.status.drop_pixels();
                return frame.item;
            }
            let written = self.mark_loss().and_then(|()| {
                let times = (HostClock.now_ns(), record.device_ns);
                self.file.message(PixelsTopic::Frames as usize, times.0, times.1, &record)?;
                self.file.end_large_chunk()
            });
            if let Err(e) = written {
                self.loss.add(frame.input_seq);
                self.status.drop_pixels();
                self.status.fail(format!("{}: {e}", self.file.path().display()));
            }
        }
        frame.item
    }

    /// Says in the file which frames are not in it.
    fn mark_loss(&mut self) -> io::Result<()> {
        let Dropped { first_seq, last_seq, count } = std::mem::take(&mut self.loss);
        if count == 0 {
            return Ok(());
        }
        let record = v1::LossRecord {
            first_input_seq: first_seq,
            last_input_seq: last_seq,
            records: count,
            reason: "the disk was too slow or full for the pixels, or their producer changed them".to_owned(),
        };
        self.file.message(PixelsTopic::Losses as usize, HostClock.now_ns(), 0, &record)
    }

    fn done(&self, result: io::Result<()>) {
        match (result, self.last_seq) {
            (Ok(()), Some(seq)) => self.status.pixels.settle(seq),
            (Ok(()), None) => {}
            (Err(e), _) => self.status.fail(format!("{}: {e}", self.file.path().display())),
        }
    }
}
