//! `apical replay DIR`: a recorded session once more, with other settings: what would have happened.
//!
//! Frames come from their pixels where every pixel was kept, otherwise from the recorded F; then registration, masks
//! and the length of the baseline stand as they were. Commands, skipped frames and silences come where they came.
//! Limits and the simulated board see the recording's time. What the animal did is what it did: it saw another grating
//! then, and would have acted otherwise.

use anyhow::{Context, bail, ensure};

use super::Outcome;
use super::in_process::{InProcess, Recorder, driver, snapshot};
use super::replay::{ReplayArgs, decide_every_frame, place};
use super::summary::RunSummary;
use crate::config::{RigConfig, load_text, to_toml};
use crate::engine::{Command, Engine, Input, SkipReason, StreamShape};
use crate::frame::FrameSlot;
use crate::journal::{
    Found, JournalRecord, KeptPixels, SessionFiles, input_of, roi_set_of, shape_of_head, texts, unpack,
};
use crate::proto::v1;
use crate::sample::{RoiSet, read_rois};

/// Said wherever the result is shown.
const NOTE: &str = "the animal acted on what it saw then; with other settings it would have acted otherwise";

/// Runs the command.
pub(super) fn run(args: &ReplayArgs, json: bool) -> anyhow::Result<Outcome> {
    ensure!(args.to.is_none(), "--to: a session's directory is replayed in this process, expected a recording");
    let files = SessionFiles::open(&args.recording)?;
    let damage = files.damage();
    ensure!(damage.is_empty(), "{}: damaged: {}", args.recording.display(), texts(&damage).join("; "));
    let head = files.head()?;
    let recorded = load_text(&head.config_toml, &[])?;
    let from_pixels = recorded.record.frames == crate::config::FramesKept::All
        && matches!(shape_of_head(&head), StreamShape::Pixels { .. });
    let mut config = settings(args, &recorded, from_pixels)?;
    let name = place(&mut config, args.session_dir.as_deref())?;
    let rois = match &args.rois {
        None => head.rois.as_ref().map(roi_set_of).unwrap_or_default(),
        Some(path) => {
            ensure!(from_pixels, "--rois: {}", needs_pixels("other ROIs"));
            read_rois(path, shape_of_head(&head).geometry())?.with_reference()
        }
    };
    let mut again = Again::new(&files, &head, config, &name, &rois, from_pixels)?;
    again.play()?;
    let Again { recorder, config, path, mut warnings, .. } = again;
    let summary = recorder.finish(&config, &path)?;
    warnings.push(NOTE.to_owned());
    RunSummary::new(&path, &summary, warnings).tell(&summary, json)?;
    Ok(Outcome::Good)
}

fn needs_pixels(what: &str) -> String {
    format!("{what} need the pixels, which this session did not keep (record.frames = \"all\" keeps them)")
}

/// The recorded configuration, or another one, with what the command line overrides.
fn settings(args: &ReplayArgs, recorded: &RigConfig, from_pixels: bool) -> anyhow::Result<RigConfig> {
    let more = Vec::from_iter(args.baseline());
    let mut config = if args.source.config.is_some() {
        args.source.load(&more)?
    } else {
        let set: Vec<String> = args.source.set.iter().cloned().chain(more).collect();
        load_text(&to_toml(recorded), &set)?
    };
    if !from_pixels {
        let changed = [
            ("[register]", config.register != recorded.register),
            ("[sample]", config.sample != recorded.sample),
            ("[rois]", config.rois != recorded.rois),
            ("[stream]", config.stream != recorded.stream),
            ("baseline.frames", config.baseline != recorded.baseline),
        ];
        if let Some((what, _)) = changed.iter().find(|(_, changed)| *changed) {
            bail!("{what}: {}", needs_pixels("other settings there"));
        }
    }
    decide_every_frame(&mut config);
    if args.session_dir.is_none() {
        // Beside the recorded one.
        let directory = args.recording.canonicalize().context("the session's directory")?;
        if let Some(parent) = directory.parent() {
            config.record.directory = parent.to_owned();
        }
    }
    Ok(config)
}

/// The session that is played again, and the one that comes of it.
struct Again<'a> {
    files: &'a SessionFiles,
    config: RigConfig,
    driver: InProcess,
    recorder: Recorder,
    path: std::path::PathBuf,
    /// Present where frames come from their pixels.
    slot: Option<Box<FrameSlot>>,
    pixels: Option<KeptPixels>,
    warnings: Vec<String>,
    baselines: u64,
}

impl<'a> Again<'a> {
    fn new(
        files: &'a SessionFiles,
        head: &v1::SessionHead,
        config: RigConfig,
        name: &str,
        rois: &RoiSet,
        from_pixels: bool,
    ) -> anyhow::Result<Self> {
        let shape = shape_of_head(head);
        let engine = Engine::new(&config, rois, &shape, 0)?;
        let stream = stream_again(head).context("the session's head says nothing of its stream")?;
        let slot = match shape {
            StreamShape::Pixels { geometry, pixel_type, .. } if from_pixels => {
                Some(Box::new(FrameSlot::new(engine.geometry().unwrap_or(geometry), pixel_type)))
            }
            _ => None,
        };
        // Where pixels are not there, none can be kept.
        let mut config = config;
        if slot.is_none() {
            config.record.frames = crate::config::FramesKept::None;
        }
        let (recorder, path) = Recorder::open(&config, name, rois, stream, &engine)?;
        let driver = driver(&config, engine);
        Ok(Self { files, config, driver, recorder, path, slot, pixels: None, warnings: Vec::new(), baselines: 0 })
    }

    fn play(&mut self) -> anyhow::Result<()> {
        let mut waiting = None;
        let mut failure = Ok(());
        let files = self.files;
        files.read(|record| match record {
            JournalRecord::Head(head) if self.slot.is_some() => {
                self.pixels = None;
                match files.kept_pixels(head.segment) {
                    Ok(pixels) => self.pixels = pixels,
                    Err(e) => failure = Err(e.into()),
                }
            }
            JournalRecord::Input(input) => waiting = Some(input),
            JournalRecord::Decision(decision) => {
                if let Some(input) = waiting.take()
                    && failure.is_ok()
                {
                    failure = self.take(&input, &decision);
                }
            }
            _ => {}
        })?;
        failure?;
        self.driver.close_waiting(&mut self.recorder);
        self.driver.safe(&mut self.recorder);
        if !self.driver.engine().has_ended() {
            self.command(&Command::Stop);
        }
        snapshot(&mut self.driver, &self.recorder);
        Ok(())
    }

    fn take(&mut self, input: &v1::InputRecord, decision: &v1::DecisionRecord) -> anyhow::Result<()> {
        let mut command = None;
        let taken = input_of(input, decision, &mut command)
            .with_context(|| format!("input {} of the session makes no sense", input.input_seq))?;
        match taken {
            // What the limits and the board said belongs to the triggers of then.
            Input::Limit { .. } | Input::Device(_) => return Ok(()),
            Input::Command(command) => self.command(command),
            Input::Sampled(sampled) if self.slot.is_some() => {
                let found = self.pixels.as_mut().map_or(Found::NotKept, |pixels| pixels.find(input.input_seq));
                self.frame(found, sampled.meta)?;
            }
            other => self.driver.take(other, &mut self.recorder),
        }
        self.driver.expire(&mut self.recorder);
        let baselines = self.driver.engine().baselines_done();
        if baselines != self.baselines {
            self.baselines = baselines;
            snapshot(&mut self.driver, &self.recorder);
        }
        Ok(())
    }

    fn frame(&mut self, found: Found, meta: crate::frame::FrameMeta) -> anyhow::Result<()> {
        let Some(slot) = &mut self.slot else { return Ok(()) };
        match found {
            Found::Pixels(record) => {
                unpack(&record, slot)?;
                slot.meta = meta;
                let input_seq = self.driver.engine().next_seq();
                self.driver.take(Input::Frame(slot), &mut self.recorder);
                self.recorder.keep(slot, input_seq, self.driver.moved_px());
            }
            Found::NotKept | Found::Missing => {
                let (first_index, count, reason) = (meta.index, 1, SkipReason::Missing);
                self.driver.take(Input::Skipped { first_index, count, reason }, &mut self.recorder);
            }
            Found::Damaged(what) => bail!("{what}"),
        }
        Ok(())
    }

    fn command(&mut self, command: &Command) {
        let outcome = self.recorder.command(&mut self.driver, command);
        if outcome != crate::engine::CommandOutcome::TookEffect {
            let frame = self.driver.engine().frame_index();
            self.warnings.push(format!("frame {frame}: {}: {outcome}", command.name()));
        }
    }
}

/// The session's stream, with an adapter's name that says what this is.
fn stream_again(head: &v1::SessionHead) -> Option<v1::session_head::Stream> {
    use v1::session_head::Stream;
    let adapter = format!("apical replay {} of session {}; {NOTE}", env!("CARGO_PKG_VERSION"), head.session_id);
    Some(match head.stream.clone()? {
        Stream::Pixels(header) => Stream::Pixels(v1::StreamHeader { adapter, ..header }),
        Stream::RoiValues(header) => Stream::RoiValues(v1::RoiValuesHeader { adapter, ..header }),
    })
}
