//! Records a scripted session into a directory, as the service does: journal, pixels, snapshots.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

use apical::config::RigConfig;
use apical::engine::{
    Decision, Driver, FrameItem, Input, InputSummary, ManualClock, Record, RecordSink, Timing, UsedFrame,
};
use apical::frame::FrameSlot;
use apical::journal::{JournalItem, JournalWriter, PixelsWriter, Published, SessionDirectory};
use apical::proto::v1;
use apical::sample::RoiSet;

use super::{Scripted, service::header};

/// The files of a session that is being recorded.
pub struct Recording {
    pub directory: PathBuf,
    writer: JournalWriter,
    pixels: Option<PixelsWriter>,
    free: Receiver<FrameItem>,
    events: u64,
    last_seq: u64,
}

impl RecordSink for Recording {
    fn record(&mut self, input: &InputSummary, decision: &Decision, timing: &Timing) {
        let record = Record { input: *input, decision: decision.clone(), timing: *timing, ticket: 0 };
        let step = Published::new(&record, self.events, None);
        self.events += step.events.len() as u64;
        self.last_seq = decision.input_seq;
        self.writer.push_waiting(JournalItem::Step(step));
    }
}

impl Recording {
    /// Opens the session `name` of the small microscope under `parent`.
    pub fn create(parent: &Path, name: &str, config: &RigConfig, rois: &RoiSet, driver: &Driver<ManualClock>) -> Self {
        Self::of(parent, name, config, rois, v1::session_head::Stream::Pixels(header()), driver)
    }

    /// The same of any stream.
    pub fn of(
        parent: &Path,
        name: &str,
        config: &RigConfig,
        rois: &RoiSet,
        stream: v1::session_head::Stream,
        driver: &Driver<ManualClock>,
    ) -> Self {
        let mut config = config.clone();
        config.record.directory = parent.to_owned();
        let session = SessionDirectory::create(&config, name, rois, stream).expect("a directory");
        let (give_back, free) = std::sync::mpsc::channel();
        let boxes = driver.engine().roi_boxes();
        let pixels = session.open_pixels(&config, boxes, true, move |slot| {
            let _ = give_back.send(slot);
        });
        let SessionDirectory { path, writer, .. } = session;
        Self { directory: path, writer, pixels: pixels.expect("a file"), free, events: 0, last_seq: 0 }
    }

    /// Plays a script; a snapshot stands after every `every` inputs of it, and where a baseline has ended.
    pub fn play(&mut self, driver: &mut Driver<ManualClock>, script: &[Scripted<'_>], every: usize) {
        let mut baselines = driver.engine().baselines_done();
        for (place, item) in script.iter().enumerate() {
            let seq = driver.engine().next_seq();
            super::play(driver, std::slice::from_ref(item), self);
            if let Scripted::Take(Input::Frame(slot)) = item {
                self.keep(slot, seq, driver.moved_px());
            }
            let done = driver.engine().baselines_done();
            if done != baselines || (place + 1) % every == 0 {
                baselines = done;
                self.snapshot(driver);
            }
        }
    }

    fn keep(&mut self, slot: &FrameSlot, input_seq: u64, moved_px: (f64, f64)) {
        let Some(pixels) = &mut self.pixels else { return };
        while self.free.try_recv().is_ok() {}
        pixels.push(UsedFrame { item: FrameItem::Pixels(Box::new(slot.clone())), input_seq, moved_px });
    }

    fn snapshot(&mut self, driver: &mut Driver<ManualClock>) {
        let (mut state, mut limits) = (Vec::new(), Vec::new());
        driver.settle();
        driver.engine().save(&mut state);
        driver.limits().expect("there are limits").save(&mut limits).expect("memory does not fail");
        let record = v1::SnapshotRecord { input_seq: self.last_seq, state: state.into(), limits };
        self.writer.push_waiting(JournalItem::snapshot(&record));
    }

    /// Closes the files.
    pub fn close(mut self) -> PathBuf {
        if let Some(pixels) = &mut self.pixels {
            pixels.close();
        }
        self.writer.close();
        assert_eq!(self.writer.status().failure(), None);
        self.directory
    }
}

/// A session of the script, closed as it should be.
pub fn recorded(parent: &Path, name: &str, config: &RigConfig, frames: u64) -> PathBuf {
    let (rois, slots) = super::frames(config, frames);
    let mut driver = super::driver(config, &rois);
    let mut recording = Recording::create(parent, name, config, &rois, &driver);
    recording.play(&mut driver, &super::script(&slots), 100);
    recording.close()
}
