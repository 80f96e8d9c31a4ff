//! How the record of a session fares: what is durable, what waits, what is lost. Written by the threads that write
//! files, read by anybody, without a lock but for the last error's text.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// No input yet.
const NONE: u64 = u64::MAX;

/// How far one file has come. Numbers of inputs; they only grow.
#[derive(Debug)]
pub(super) struct Progress {
    /// The last input that is to be written.
    wanted: AtomicU64,
    /// Up to here everything is on the disk, or was given up and counted.
    settled: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self { wanted: AtomicU64::new(NONE), settled: AtomicU64::new(NONE) }
    }
}

impl Progress {
    pub fn want(&self, input_seq: Option<u64>) {
        self.wanted.store(input_seq.unwrap_or(NONE), Ordering::Release);
    }

    pub fn settle(&self, input_seq: u64) {
        self.settled.store(input_seq, Ordering::Release);
    }

    fn settled(&self) -> Option<u64> {
        Some(self.settled.load(Ordering::Acquire)).filter(|&seq| seq != NONE)
    }

    fn is_complete(&self) -> bool {
        // In this order: what is wanted meanwhile makes the answer false, never wrongly true.
        let settled = self.settled.load(Ordering::Acquire);
        self.wanted.load(Ordering::Acquire) == settled
    }
}

/// How the record fares.
#[derive(Debug, Default)]
pub struct RecordStatus {
    pub(super) journal: Progress,
    pub(super) pixels: Progress,
    /// Records of the journal that wait for its thread.
    pub(super) records_waiting: AtomicU32,
    /// Frames whose pixels wait for the disk.
    pub(super) frames_waiting: AtomicU32,
    lost: AtomicU64,
    pixels_dropped: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl RecordStatus {
    /// Every input up to and including this number is on the disk, with its decision and what is kept of its pixels;
    /// none before the first sync.
    pub fn durable_through(&self) -> Option<u64> {
        let journal = self.journal.settled()?;
        if self.pixels.is_complete() {
            return Some(journal);
        }
        // The frame behind the last settled one may be missing; the inputs between them are not counted on.
        self.pixels.settled().map(|pixels| journal.min(pixels))
    }

    /// Every input up to and including this number is on the disk with its decision, whatever is with its pixels.
    pub fn journal_durable_through(&self) -> Option<u64> {
        self.journal.settled()
    }

    /// Records of the journal that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Frames whose pixels were to be kept and were not.
    pub fn pixels_dropped(&self) -> u64 {
        self.pixels_dropped.load(Ordering::Relaxed)
    }

    /// Records that wait for the journal's thread.
    pub fn records_waiting(&self) -> u32 {
        self.records_waiting.load(Ordering::Relaxed)
    }

    /// Frames whose pixels wait for the disk.
    pub fn frames_waiting(&self) -> u32 {
        self.frames_waiting.load(Ordering::Relaxed)
    }

    /// What the disk said last, if it failed.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().ok().and_then(|f| f.clone())
    }

    pub(super) fn lose(&self, records: u64) {
        self.lost.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn drop_pixels(&self) {
        self.pixels_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Says what went wrong; the log hears it once.
    pub(super) fn fail(&self, message: String) {
        if let Ok(mut failure) = self.failure.lock() {
            if failure.as_ref() != Some(&message) {
                tracing::error!("the record: {message}");
            }
            *failure = Some(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_durable_beyond_a_frame_whose_pixels_wait() {
        let status = RecordStatus::default();
        assert_eq!(status.durable_through(), None);
        status.journal.settle(10);
        assert_eq!(status.durable_through(), Some(10));
        status.pixels.want(Some(7));
        assert_eq!(status.durable_through(), None);
        status.pixels.settle(7);
        assert_eq!(status.durable_through(), Some(10));
        status.pixels.want(Some(9));
        assert_eq!(status.durable_through(), Some(7));
        status.pixels.settle(9);
        assert_eq!(status.durable_through(), Some(10));
    }
}
