//! A recording through the engine without gRPC and without threads: the same inputs, so the same decisions.

use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

use anyhow::{Context, ensure};

use super::play::{PlayedFrame, PlayedHeader};
use super::replay::Run;
use crate::config::RigConfig;
use crate::config::outputs::RewardDevice;
use crate::engine::{
    Clock, Command, CommandOutcome, Decision, Driver, Engine, FrameItem, HostClock, Input, InputSummary, LimitTime,
    Record, RecordSink, StreamShape, Timing, UsedFrame,
};
use crate::frame::{FrameAssembly, FrameMeta, FrameSlot, StripMeta};
use crate::journal::{
    JournalItem, JournalWriter, PixelsWriter, Published, SessionDirectory, Summary, shape_of_head, shape_of_header,
    with_images,
};
use crate::proto::v1;
use crate::sample::{RoiSet, rois_of};
use crate::trigger::{Limits, simulated_trigger};

/// Writes records as they are made.
pub(super) struct Recorder {
    writer: JournalWriter,
    pixels: Option<PixelSlots>,
    summary: Summary,
    events: u64,
    command: Option<&'static str>,
    outcome: CommandOutcome,
    refusal: Option<String>,
}

/// Where pixels are kept: the file, and slots that are free.
struct PixelSlots {
    writer: PixelsWriter,
    free: Receiver<FrameItem>,
}

impl RecordSink for Recorder {
    fn record(&mut self, input: &InputSummary, decision: &Decision, timing: &Timing) {
        let record = Record { input: *input, decision: decision.clone(), timing: *timing, ticket: 0 };
        let step = Published::new(&record, self.events, self.refusal.take().as_deref());
        self.events += step.events.len() as u64;
        self.summary.take(&step);
        // The first record is the command's own; what follows from it (a verdict, a simulated answer) is none.
        if let Some(command) = self.command.take() {
            self.outcome = decision.command;
            self.push(JournalItem::Command(v1::CommandRecord {
                input_seq: decision.input_seq,
                operator_name: "replay".to_owned(),
                idempotency_key: format!("replay-{}", decision.input_seq),
                command: command.to_owned(),
                outcome: decision.command.to_string(),
            }));
        }
        self.push(JournalItem::Step(step));
    }
}

impl Recorder {
    /// Opens a session's directory, and everything that is written into it.
    pub fn open(
        config: &RigConfig,
        name: &str,
        rois: &RoiSet,
        stream: v1::session_head::Stream,
        engine: &Engine,
    ) -> anyhow::Result<(Self, PathBuf)> {
        let directory = SessionDirectory::create(config, name, rois, stream)?;
        let (give_back, free) = std::sync::mpsc::channel();
        let pixels = match shape_of_head(&directory.head) {
            StreamShape::Pixels { geometry, pixel_type, .. } => {
                let geometry = engine.geometry().unwrap_or(geometry);
                for _ in 0..=config.record.frames_queue {
                    let _ = give_back.send(FrameItem::Pixels(Box::new(FrameSlot::new(geometry, pixel_type))));
                }
                directory.open_pixels(config, engine.roi_boxes(), true, move |slot| {
                    let _ = give_back.send(slot);
                })?
            }
            StreamShape::RoiValues { .. } => None,
        };
        let pixels = pixels.map(|writer| PixelSlots { writer, free });
        let SessionDirectory { path, writer, .. } = directory;
        let recorder = Self {
            writer,
            pixels,
            summary: Summary::default(),
            events: 0,
            command: None,
            outcome: CommandOutcome::None,
            refusal: None,
        };
        Ok((recorder, path))
    }

    /// Gives the driver a command, and says what became of it.
    pub fn command(&mut self, driver: &mut InProcess, command: &Command) -> CommandOutcome {
        self.command = Some(command.name());
        self.outcome = CommandOutcome::None;
        driver.take(Input::Command(command), self);
        self.outcome
    }

    /// Forgets what was counted and measured so far: the warm-up.
    pub fn measure_anew(&mut self) {
        self.summary = Summary::default();
    }

    /// Keeps the pixels of the frame that was just decided, where that is wanted; `slot` is another one then.
    pub fn keep(&mut self, slot: &mut Box<FrameSlot>, input_seq: u64, moved_px: (f64, f64)) {
        let Some(PixelSlots { writer, free }) = &mut self.pixels else { return };
        // There is always one more than may wait.
        let Ok(FrameItem::Pixels(fresh)) = free.recv() else { return };
        let item = FrameItem::Pixels(std::mem::replace(slot, fresh));
        writer.push(UsedFrame { item, input_seq, moved_px });
    }

    /// The session is over: its distributions, its files, its report.
    pub fn finish(mut self, config: &RigConfig, path: &Path) -> anyhow::Result<Summary> {
        for record in self.summary.latency_records() {
            self.push(JournalItem::Latency(record));
        }
        if let Some(pixels) = &mut self.pixels {
            pixels.writer.close();
        }
        self.writer.close();
        if let Some(failure) = self.writer.status().failure() {
            anyhow::bail!("the record is not complete: {failure}");
        }
        if config.record.report {
            crate::export::write_report(path)?;
        }
        Ok(self.summary)
    }

    /// Nobody waits for a decision here, so the disk may be waited for.
    fn push(&self, item: JournalItem) {
        self.writer.push_waiting(item);
    }
}

pub(super) type InProcess = Driver<HostClock>;

/// Around an engine: a board that is simulated, and limits that see the recording's time.
pub(super) fn driver(config: &RigConfig, engine: Engine) -> InProcess {
    let reward = &config.outputs.reward;
    let limits = (reward.device != RewardDevice::None).then(|| Limits::new(&config.limits));
    Driver::new(engine, HostClock, limits, LimitTime::Recording, simulated_trigger(reward), reward.ack_timeout_ms)
}

/// Plays the recording; what it came to, and where it is recorded.
pub(super) fn play(run: &mut Run) -> anyhow::Result<(Summary, PathBuf)> {
    let (head_stream, shape) = match run.playable.header(run.rate_hz) {
        PlayedHeader::Pixels(header) => {
            let shape = shape_of_header(&header);
            (v1::session_head::Stream::Pixels(header), shape)
        }
        PlayedHeader::Values(header) => {
            let shape = StreamShape::RoiValues { count: header.roi_count as usize };
            (v1::session_head::Stream::RoiValues(header), shape)
        }
    };
    let rois = rois_of(run.rois.as_ref(), &run.config.rois.file, shape.geometry())?;
    let rois = with_images(rois, &run.config, &shape)?;
    let engine = Engine::new(&run.config, &rois, &shape, 0)?;
    let (mut recorder, path) = Recorder::open(&run.config, &run.name, &rois, head_stream, &engine)?;
    let mut driver = driver(&run.config, engine);
    let played = frames(run, &shape, &mut driver, &mut recorder);
    driver.close_waiting(&mut recorder);
    driver.safe(&mut recorder);
    command(&mut driver, &mut recorder, Command::Stop)?;
    snapshot(&mut driver, &recorder);
    let summary = recorder.finish(&run.config, &path)?;
    played.with_context(|| format!("the session ended early (see {})", path.display()))?;
    Ok((summary, path))
}

fn frames(run: &mut Run, shape: &StreamShape, driver: &mut InProcess, recorder: &mut Recorder) -> anyhow::Result<()> {
    command(driver, recorder, Command::StartBaseline)?;
    let inverted = run.config.stream.inverted;
    let mut pixels = match (shape, run.playable.header(run.rate_hz)) {
        (StreamShape::Pixels { geometry, pixel_type, .. }, PlayedHeader::Pixels(header)) => {
            let decided = driver.engine().geometry().unwrap_or(*geometry);
            let assembly = FrameAssembly::new(*geometry, *pixel_type, inverted.unwrap_or(header.inverted));
            Some((assembly.of_upper_rows(decided.height_px), Box::new(FrameSlot::new(decided, *pixel_type))))
        }
        _ => None,
    };
    let stream = run.config.stream.clone();
    let mut frame = PlayedFrame::default();
    let mut task_due = run.config.task.is_some();
    while run.next(&mut frame)? {
        let meta = FrameMeta { received_host_ns: driver.clock().now_ns(), ..frame.meta };
        match &mut pixels {
            Some(_) if !stream.plane.contain(meta.plane) || meta.channel != stream.channel => continue,
            Some((assembly, slot)) => match assembly.add(&StripMeta::whole(meta), &frame.pixels, slot) {
                Ok(_) => {
                    let input_seq = driver.engine().next_seq();
                    driver.take(Input::Frame(slot), recorder);
                    recorder.keep(slot, input_seq, driver.moved_px());
                }
                Err(refusal) => {
                    recorder.refusal = Some(refusal.to_string());
                    driver.take(Input::Refused { meta, code: refusal.code() }, recorder);
                }
            },
            None => driver.take(Input::RoiValues { meta, f: &frame.values }, recorder),
        }
        driver.expire(recorder);
        if task_due && driver.engine().baselines_done() > 0 {
            task_due = false;
            snapshot(driver, recorder);
            command(driver, recorder, Command::Calibrate)?;
            command(driver, recorder, Command::StartTask { accept_template: true })?;
        }
    }
    Ok(())
}

fn command(driver: &mut InProcess, recorder: &mut Recorder, command: Command) -> anyhow::Result<()> {
    let outcome = recorder.command(driver, &command);
    ensure!(outcome == CommandOutcome::TookEffect, "{}: {outcome}", command.name());
    Ok(())
}

pub(super) fn snapshot(driver: &mut InProcess, recorder: &Recorder) {
    let (mut state, mut limits) = (Vec::new(), Vec::new());
    driver.settle();
    driver.engine().save(&mut state);
    if let Some(counts) = driver.limits() {
        // Writing to memory does not fail.
        let _ = counts.save(&mut limits);
    }
    let input_seq = driver.engine().decision().input_seq;
    recorder.push(JournalItem::snapshot(&v1::SnapshotRecord { input_seq, state: state.into(), limits }));
}
