//! `apical replay`: plays a recording into a service exactly as an adapter would, or through the engine in process.
//!
//! With a task in the configuration it takes the baseline, calibrates, and runs the trials by itself: the first frame
//! after the baseline is frame 1 of the first trial's start. No output device of the configuration is opened: triggers
//! go to a simulated board, also in a service that serves a rig (`--to`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::time::Instant;

use super::client::{Opened, Operator, connect, open_stream};
use super::follow::Follow;
use super::in_process;
use super::play::{Next, Playable, PlayedFrame, parse_fps};
use super::replay_session;
use super::summary::RunSummary;
use super::{ConfigSource, Outcome, runtime};
use crate::config::outputs::RewardDevice;
use crate::config::{Overload, RigConfig, to_toml};
use crate::frame::{Geometry, PixelType};
use crate::journal::{JournalError, JournalRecord, SessionFiles, Summary, journal_file, session_name, texts};
use crate::proto::v1;
use crate::sample::{RoiSet, read_rois};
use crate::service::{Rig, RigMode, bind, run as serve};
use crate::source::OpenOptions;

/// Arguments of `apical replay`.
#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// TIFF, a directory with the TIFFs of one ScanImage acquisition, raw binary (suite2p's data.bin), .npy of ROI
    /// values (ROIs x frames), or a session's directory: what would have happened with other settings.
    pub recording: PathBuf,
    #[command(flatten)]
    pub source: ConfigSource,
    /// The service to play into; without it one is started on loopback. No device is opened either way.
    #[arg(long, value_name = "URL", conflicts_with = "in_process")]
    pub to: Option<String>,
    /// Skip gRPC: the same decisions, in this process.
    #[arg(long)]
    in_process: bool,
    /// Follow a TIFF or raw binary that is still being written, until it stands still for source.idle_timeout_s, or
    /// until Ctrl-C; the same as --set source.tail=true.
    #[arg(long)]
    tail: bool,
    /// Frames a second, or max.
    #[arg(long, default_value = "max", value_name = "R|max")]
    fps: String,
    /// The ROIs: suite2p's stat.npy, CaImAn's or NWB's HDF5, Cellpose's _seg.npy, ImageJ's .roi or .zip, regions.json,
    /// or JSON of our own.
    #[arg(long, value_name = "FILE")]
    pub rois: Option<PathBuf>,
    /// Frames of the baseline; the same as --set baseline.frames=N.
    #[arg(long, value_name = "N")]
    pub baseline_frames: Option<u32>,
    /// The session's own directory; it is created.
    #[arg(long, value_name = "DIR")]
    pub session_dir: Option<PathBuf>,
    /// Rows of a raw binary's frames, in pixels.
    #[arg(long, value_name = "PX", requires = "width")]
    height: Option<usize>,
    /// Columns of a raw binary's frames, in pixels.
    #[arg(long, value_name = "PX", requires = "height")]
    width: Option<usize>,
    /// How a raw binary stores a pixel: uint8, uint16 or int16; without it int16.
    #[arg(long, value_name = "TYPE", value_parser = parse_pixel_type)]
    pixel_type: Option<PixelType>,
    /// Planes that follow one another in the file; wins over what the file says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    planes: Option<u32>,
    /// Channels that follow one another in the file, faster than planes; wins over what the file says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    channels: Option<u32>,
}

impl ReplayArgs {
    /// The baseline's length as an override.
    pub fn baseline(&self) -> Option<String> {
        self.baseline_frames.map(|frames| format!("baseline.frames={frames}"))
    }
}

fn parse_pixel_type(text: &str) -> Result<PixelType, String> {
    let known = [PixelType::U8, PixelType::U16, PixelType::I16];
    known.into_iter().find(|kind| kind.name() == text).ok_or_else(|| "expected uint8, uint16 or int16".to_owned())
}

/// Everything that a run is made of.
pub(super) struct Run {
    pub playable: Playable,
    /// Of a recording that is still being written.
    follow: Option<Follow>,
    pub config: RigConfig,
    pub rois: Option<RoiSet>,
    pub name: String,
    pub pace: Option<f64>,
    pub rate_hz: f64,
    pub warnings: Vec<String>,
    /// Warnings of the recording that are among them.
    told: usize,
}

/// What a look for the next frame gave.
pub(super) enum Looked {
    /// It is there.
    Frame,
    /// Look again after this time.
    Later(Duration),
    /// There is no more.
    End,
}

impl Run {
    /// The next frame into `frame`, if it is there.
    pub fn look(&mut self, frame: &mut PlayedFrame) -> anyhow::Result<Looked> {
        loop {
            if self.follow.as_ref().is_some_and(Follow::is_stopped) {
                self.playable.finish();
            }
            let next = self.playable.poll(frame, self.rate_hz)?;
            match (next, &mut self.follow) {
                (Next::Frame, follow) => {
                    follow.iter_mut().for_each(Follow::has_grown);
                    return Ok(Looked::Frame);
                }
                (Next::End, _) => return Ok(Looked::End),
                (Next::Waiting { grown }, Some(follow)) => {
                    if grown {
                        follow.has_grown();
                    }
                    match follow.look_again_in() {
                        Some(later) => return Ok(Looked::Later(later)),
                        None => self.playable.finish(),
                    }
                }
                (Next::Waiting { .. }, None) => self.playable.finish(),
            }
        }
    }

    /// The next frame into `frame`, waited for where the recording grows; false at the end.
    pub fn next(&mut self, frame: &mut PlayedFrame) -> anyhow::Result<bool> {
        loop {
            match self.look(frame)? {
                Looked::Frame => return Ok(true),
                Looked::End => return Ok(false),
                Looked::Later(later) => std::thread::sleep(later),
            }
        }
    }

    /// What reading has found since the beginning joins the warnings.
    fn take_warnings(&mut self) {
        let all = self.playable.warnings();
        self.warnings.extend(all.into_iter().skip(self.told));
    }
}

/// Runs the command.
pub(super) fn run(args: &ReplayArgs, json: bool) -> anyhow::Result<Outcome> {
    if args.recording.join(journal_file(0)).is_file() {
        return replay_session::run(args, json);
    }
    let mut run = prepare(args)?;
    let (summary, directory) = if args.in_process {
        in_process::play(&mut run)?
    } else {
        runtime()?.block_on(async {
            match &args.to {
                Some(url) => over_grpc(&mut run, url, args.source.config.is_some()).await,
                None => on_own_service(&mut run).await,
            }
        })?
    };
    run.take_warnings();
    RunSummary::new(&directory, &summary, run.warnings).tell(&summary, json)?;
    Ok(Outcome::Good)
}

fn prepare(args: &ReplayArgs) -> anyhow::Result<Run> {
    let pace = parse_fps(&args.fps)?;
    let mut more = Vec::from_iter(args.baseline());
    if args.tail {
        more.push("source.tail=true".to_owned());
    }
    let mut config = args.source.load(&more)?;
    let geometry = args.height.zip(args.width).map(|(h, w)| Geometry::new(h, w));
    let inverted = config.stream.inverted.unwrap_or(false);
    let successors = config.source.successors;
    let options = OpenOptions {
        geometry,
        pixel_type: args.pixel_type,
        inverted,
        planes: args.planes,
        channels: args.channels,
        successors,
        ..OpenOptions::default()
    };
    let mut follow = if config.source.tail { Some(Follow::new(&config.source)?) } else { None };
    let playable = match &mut follow {
        Some(follow) => follow.open(&args.recording, &options)?,
        None => Playable::open(&args.recording, &options)?,
    };
    decide_every_frame(&mut config);
    let name = place(&mut config, args.session_dir.as_deref())?;
    let rois = match (&args.rois, &playable) {
        (Some(path), Playable::Pixels(frames)) => Some(read_rois(path, Some(frames.header().geometry))?),
        (Some(_), Playable::Values(..)) | (None, _) => None,
    };
    let rate_hz = playable.rate_hz(pace);
    let mut warnings = playable.warnings();
    let told = warnings.len();
    if let Some(frames) = playable.frames()
        && (frames as u64) <= u64::from(config.baseline.frames)
    {
        let baseline = config.baseline.frames;
        warnings.push(format!(
            "the recording has {frames} frames and the baseline takes {baseline}: nothing is left after it"
        ));
    }
    Ok(Run { playable, follow, config, rois, name, pace, rate_hz, warnings, told })
}

/// A replay decides every frame: nothing waits for it but the disk. And it never opens a device.
pub(super) fn decide_every_frame(config: &mut RigConfig) {
    config.engine.overload = Overload::Every;
    if config.outputs.reward.device == RewardDevice::Serial {
        config.outputs.reward.device = RewardDevice::Simulated;
    }
}

/// Puts the session where it is asked for, or under the configured directory by a name of its own.
pub(super) fn place(config: &mut RigConfig, session_dir: Option<&Path>) -> anyhow::Result<String> {
    let Some(directory) = session_dir else { return Ok(session_name(config)) };
    let name = directory.file_name().and_then(|name| name.to_str());
    let name =
        name.with_context(|| format!("--session-dir {}: expected a path that ends in a name", directory.display()))?;
    let parent = directory.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    config.record.directory = parent.to_owned();
    Ok(name.to_owned())
}

/// Starts a service on loopback, plays into it, and stops it.
async fn on_own_service(run: &mut Run) -> anyhow::Result<(Summary, PathBuf)> {
    let listener = bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let rig = Rig::new(run.config.clone(), RigMode::Replay);
    let service = tokio::spawn(serve(listener, rig, async {
        let _ = stopped.await;
    }));
    let played = over_grpc(run, &url, true).await;
    let _ = stop.send(());
    service.await.context("the service panicked")??;
    played
}

/// Plays into a service; `with_config` sends the configuration along.
async fn over_grpc(run: &mut Run, url: &str, with_config: bool) -> anyhow::Result<(Summary, PathBuf)> {
    let channel = connect(url).await?;
    let mut operator = Operator::new(channel.clone(), "replay");
    let (toml, set) = if with_config {
        (to_toml(&run.config), Vec::new())
    } else {
        // The service's own configuration may name a real valve.
        (String::new(), vec!["outputs.reward.device=simulated".to_owned()])
    };
    operator.create(toml, set, run.name.clone()).await?;
    if let Some(rois) = &run.rois {
        operator.upload(rois).await?;
    }
    let Opened { stream, accepted, mut acks } = open_stream(channel, run.playable.header(run.rate_hz)).await?;
    run.warnings.extend(accepted.notes);
    let baseline = operator.start_baseline().await?;
    let has_task = operator.state().await?.config_toml.contains("\n[task]");
    let mut frame = PlayedFrame::default();
    let (mut sent, mut acknowledged, mut decided, mut refused) = (0u64, 0u64, 0u64, Ok(()));
    let mut task_due = has_task;
    let start = Instant::now();
    let mut broken = Ok(());
    loop {
        match run.look(&mut frame) {
            Ok(Looked::Frame) => {}
            Ok(Looked::End) => break,
            Ok(Looked::Later(later)) => {
                tokio::time::sleep(later).await;
                while let Ok(ack) = acks.try_recv() {
                    take_ack(ack?, &mut acknowledged, &mut decided);
                }
                continue;
            }
            // What came before the damage is a session like any other.
            Err(e) => {
                broken = Err(e);
                break;
            }
        }
        if let Some(rate_hz) = run.pace {
            tokio::time::sleep_until(start + Duration::from_secs_f64(frame.meta.index as f64 / rate_hz)).await;
        }
        stream.send(&mut frame).await?;
        sent += 1;
        while let Ok(ack) = acks.try_recv() {
            take_ack(ack?, &mut acknowledged, &mut decided);
        }
        // The baseline may be complete: the next frame waits for what is known of all before it.
        if task_due && sent >= baseline {
            while acknowledged < sent {
                let ack = acks.recv().await.context("the service ended the stream")??;
                take_ack(ack, &mut acknowledged, &mut decided);
            }
            if decided >= baseline {
                task_due = false;
                refused = begin_task(&mut operator).await;
            }
        }
    }
    drop(stream);
    while acknowledged < sent {
        let Some(ack) = acks.recv().await else { break };
        take_ack(ack?, &mut acknowledged, &mut decided);
    }
    let directory = operator.stop().await?;
    broken.with_context(|| format!("the frames before it are recorded in {}", directory.display()))?;
    refused.with_context(|| format!("the session ran without trials (see {})", directory.display()))?;
    let (summary, damage) = read_summary(&directory)?;
    run.warnings.extend(damage);
    Ok((summary, directory))
}

async fn begin_task(operator: &mut Operator) -> anyhow::Result<()> {
    operator.calibrate().await?;
    operator.start_task().await
}

fn take_ack(ack: v1::Ack, acknowledged: &mut u64, decided: &mut u64) {
    *acknowledged += 1;
    if matches!(ack.verdict(), v1::FrameVerdict::Decided | v1::FrameVerdict::Doubted) {
        *decided += 1;
    } else if ack.verdict() == v1::FrameVerdict::Refused {
        tracing::warn!("{}", ack.reason);
    }
}

/// What a session came to, from its journal, as far as that is whole; and where it is not.
pub(super) fn read_summary(directory: &Path) -> anyhow::Result<(Summary, Option<String>)> {
    let mut summary = Summary::default();
    let mut waiting: Option<v1::InputRecord> = None;
    let files = SessionFiles::open(directory)?;
    let read = files.read(|record| match record {
        JournalRecord::Input(input) => waiting = Some(input),
        JournalRecord::Decision(decision) => {
            if let Some(input) = waiting.take() {
                summary.count(&input, &decision);
            }
        }
        JournalRecord::Timing(timing) => summary.time(&timing),
        _ => {}
    });
    match read {
        Ok(()) => Ok((summary, Some(texts(&files.unfinished()).join("; ")).filter(|open| !open.is_empty()))),
        Err(e @ JournalError::Damaged { .. }) => Ok((summary, Some(format!("the record is not complete: {e}")))),
        Err(e) => Err(e.into()),
    }
}
