//! A recording through the engine without gRPC and without threads: the same inputs, so the same decisions.

use std::path::PathBuf;

use anyhow::{Context, ensure};

use super::play::{PlayedFrame, PlayedHeader};
use super::replay::Run;
use crate::config::outputs::RewardDevice;
use crate::engine::{
    Clock, Command, CommandOutcome, Decision, Driver, Engine, HostClock, Input, InputSummary, LimitTime, Record,
    RecordSink, StreamShape, Timing,
};
use crate::frame::{FrameAssembly, FrameMeta, FrameSlot, StripMeta};
use crate::journal::{JournalItem, JournalWriter, Published, SessionDirectory, Summary, shape_of_header};
use crate::proto::v1;
use crate::sample::{RoiSet, read_rois};
use crate::trigger::{BoardConfig, Limits, NullTrigger, SimulatedTrigger, Trigger};

/// Writes records as they are made.
struct Recorder {
    writer: JournalWriter,
    summary: Summary,
    events: u64,
    command: Option<&'static str>,
    refusal: Option<String>,
}

impl RecordSink for Recorder {
    fn record(&mut self, input: &InputSummary, decision: &Decision, timing: &Timing) {
        let record = Record { input: *input, decision: decision.clone(), timing: *timing, ticket: 0 };
        let step = Published::new(&record, self.events, self.refusal.take().as_deref());
        self.events += step.events.len() as u64;
        self.summary.take(&step);
        if let Some(command) = self.command.take() {
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
    /// Nobody waits for a decision here, so the disk may be waited for.
    fn push(&self, item: JournalItem) {
        self.writer.push_waiting(item);
    }
}

type InProcess = Driver<HostClock>;

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
    let rois = rois(run, &shape)?;
    let engine = Engine::new(&run.config, &rois, &shape, 0)?;
    let SessionDirectory { path, writer, .. } = SessionDirectory::create(&run.config, &run.name, &rois, head_stream)?;
    let reward = &run.config.outputs.reward;
    let has_output = reward.device != RewardDevice::None;
    let trigger: Box<dyn Trigger + Send> = if has_output {
        Box::new(SimulatedTrigger::new(reward, BoardConfig::default(), 0))
    } else {
        Box::new(NullTrigger)
    };
    let limits = has_output.then(|| Limits::new(&run.config.limits));
    let mut driver = Driver::new(engine, HostClock, limits, LimitTime::Recording, trigger, reward.ack_timeout_ms);
    let mut recorder = Recorder { writer, summary: Summary::default(), events: 0, command: None, refusal: None };
    let played = frames(run, &shape, &mut driver, &mut recorder);
    driver.close_waiting(&mut recorder);
    driver.safe(&mut recorder);
    command(&mut driver, &mut recorder, Command::Stop)?;
    snapshot(&driver, &recorder);
    for record in recorder.summary.latency_records() {
        recorder.push(JournalItem::Latency(record));
    }
    recorder.writer.close();
    if run.config.record.report {
        crate::export::write_report(&path)?;
    }
    played.with_context(|| format!("the session ended early (see {})", path.display()))?;
    Ok((recorder.summary, path))
}

fn rois(run: &Run, shape: &StreamShape) -> anyhow::Result<RoiSet> {
    let StreamShape::Pixels { geometry, .. } = shape else { return Ok(RoiSet::default()) };
    let file = &run.config.rois.file;
    Ok(match &run.rois {
        Some(set) => set.clone().with_reference(),
        None if file.as_os_str().is_empty() => RoiSet::default(),
        None => read_rois(file, Some(*geometry))?.with_reference(),
    })
}

fn frames(run: &mut Run, shape: &StreamShape, driver: &mut InProcess, recorder: &mut Recorder) -> anyhow::Result<()> {
    command(driver, recorder, Command::StartBaseline)?;
    let inverted = run.config.stream.inverted;
    let mut pixels = match (shape, run.playable.header(run.rate_hz)) {
        (StreamShape::Pixels { geometry, pixel_type, .. }, PlayedHeader::Pixels(header)) => Some((
            FrameAssembly::new(*geometry, *pixel_type, inverted.unwrap_or(header.inverted)),
            FrameSlot::new(*geometry, *pixel_type),
        )),
        _ => None,
    };
    let wanted = (run.config.stream.plane, run.config.stream.channel);
    let mut frame = PlayedFrame::default();
    let mut task_due = run.config.task.is_some();
    while run.next(&mut frame)? {
        let meta = FrameMeta { received_host_ns: driver.clock().now_ns(), ..frame.meta };
        match &mut pixels {
            Some(_) if (meta.plane, meta.channel) != wanted => continue,
            Some((assembly, slot)) => {
                let strip = StripMeta { frame: meta, row_offset_px: 0, row_count_px: 0 };
                match assembly.add(&strip, &frame.pixels, slot) {
                    Ok(_) => driver.take(Input::Frame(slot), recorder),
                    Err(refusal) => {
                        recorder.refusal = Some(refusal.to_string());
                        driver.take(Input::Refused { meta, code: refusal.code() }, recorder);
                    }
                }
            }
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
    recorder.command = Some(command.name());
    driver.take(Input::Command(&command), recorder);
    // What follows from a command (a limit's verdict, a simulated answer) is no command.
    recorder.command = None;
    let outcome = recorder_outcome(driver);
    ensure!(outcome == CommandOutcome::TookEffect, "{}: {outcome}", command.name());
    Ok(())
}

/// What became of the last command. Commands sent here intend no trigger, so nothing follows them.
fn recorder_outcome(driver: &InProcess) -> CommandOutcome {
    driver.engine().decision().command
}

fn snapshot(driver: &InProcess, recorder: &Recorder) {
    let (mut state, mut limits) = (Vec::new(), Vec::new());
    driver.engine().save(&mut state);
    if let Some(counts) = driver.limits() {
        // Writing to memory does not fail.
        let _ = counts.save(&mut limits);
    }
    let input_seq = driver.engine().decision().input_seq;
    recorder.push(JournalItem::Snapshot(v1::SnapshotRecord { input_seq, state, limits }));
}
