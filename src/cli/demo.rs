//! `apical demo`: a whole closed-loop session, live, over a real socket and a real serial line.
//!
//! ```text
//! synthetic microscope -> gRPC on loopback -> registration -> ROI activity -> decoder -> trial -> simulated valve
//!        ▲                                                                                             │
//!        └───────────────── the animal is rewarded when the valve opens, and learns by a stated rule ◄─┘
//! ```

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tokio::sync::mpsc;

use super::client::{Opened, Operator, connect, open_stream};
use super::play::{Playable, PlayedFrame, PlayedHeader, stream_header};
use super::replay::{place, read_summary};
use super::summary::RunSummary;
use super::{ConfigSource, Outcome, runtime};
use crate::config::{RigConfig, to_toml};
use crate::frame::FrameMeta;
use crate::journal::SYNTHETIC_ADAPTER;
use crate::proto::v1::events_service_client::EventsServiceClient;
use crate::proto::v1::feedback_service_client::FeedbackServiceClient;
use crate::proto::v1::{self, EventKind};
use crate::sample::{ReferenceKind, Roi, RoiPixel, RoiSet, read_rois};
use crate::service::{Rig, RigMode, bind, run as serve};
use crate::source::{OpenOptions, SyntheticSource};

/// The embedded default.
const DEMO_TOML: &str = include_str!("../../deploy/rigs/demo.toml");
/// Minutes of a session with the synthetic animal, unless told.
const MINUTES: f64 = 1.8;
/// Frames of the baseline of a recording.
const RECORDING_BASELINE_FRAMES: u32 = 200;
/// Cells in each population of a recording, at most.
const RECORDING_CELLS: usize = 5;

/// Arguments of `apical demo`.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// How long the session lasts, in minutes. With --recording: at most so long.
    #[arg(long, value_name = "MIN")]
    minutes: Option<f64>,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Frames a second.
    #[arg(long, default_value_t = 30.0, value_name = "HZ")]
    fps: f64,
    /// Rows and columns of the synthetic microscope's frames, in pixels.
    #[arg(long, default_value_t = 256, value_name = "PX")]
    size: usize,
    /// The session's own directory; it is created.
    #[arg(long, value_name = "DIR")]
    session_dir: Option<PathBuf>,
    /// Play this recording instead of the synthetic animal.
    #[arg(long, value_name = "FILE", requires = "rois")]
    recording: Option<PathBuf>,
    /// The recording's ROIs; P+ and P- are drawn from them with the seed.
    #[arg(long, value_name = "FILE", requires = "recording")]
    rois: Option<PathBuf>,
    #[command(flatten)]
    source: ConfigSource,
}

/// What the microscope looks at.
enum Subject {
    Synthetic(Box<SyntheticSource>),
    Recording(Playable),
}

/// Everything that the demo prepared.
struct Prepared {
    config: RigConfig,
    name: String,
    subject: Subject,
    rois: RoiSet,
    header: PlayedHeader,
    frames: u64,
    valve: Arc<Valve>,
}

/// The far end of the reward's line: a board on a pseudo-terminal where there are such, else the one in the service.
struct Valve {
    #[cfg(unix)]
    simulator: crate::trigger::ValveSimulator,
    /// Rewards that the service said were acknowledged.
    #[cfg(not(unix))]
    acknowledged: AtomicU64,
}

#[cfg(unix)]
impl Valve {
    fn start() -> anyhow::Result<Self> {
        Ok(Self { simulator: crate::trigger::ValveSimulator::start().context("the valve simulator")? })
    }

    /// Overrides that point the reward's output here.
    fn overrides(&self) -> Vec<String> {
        vec![format!("outputs.reward.port={:?}", self.simulator.path().display().to_string())]
    }

    fn place(&self) -> String {
        format!("a simulated board on {}", self.simulator.path().display())
    }

    /// Pulses that have opened so far.
    fn opened(&self) -> u64 {
        self.simulator.statistics().board.opened
    }

    fn acknowledged(&self) {}
}

#[cfg(not(unix))]
impl Valve {
    fn start() -> anyhow::Result<Self> {
        Ok(Self { acknowledged: AtomicU64::new(0) })
    }

    fn overrides(&self) -> Vec<String> {
        vec!["outputs.reward.device=simulated".to_owned()]
    }

    fn place(&self) -> String {
        "a simulated board inside the service".to_owned()
    }

    fn opened(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    fn acknowledged(&self) {
        self.acknowledged.fetch_add(1, Ordering::AcqRel);
    }
}

/// Runs the command.
pub(super) fn run(args: &DemoArgs, json: bool) -> anyhow::Result<Outcome> {
    ensure!(args.fps > 0.0 && args.fps <= 1000.0, "--fps {}: expected above 0, to 1000", args.fps);
    ensure!(
        args.minutes.is_none_or(|m| m > 0.0 && m <= 1440.0),
        "--minutes {}: expected above 0, to 1440",
        args.minutes.unwrap_or_default()
    );
    let prepared = prepare(args)?;
    introduce(&prepared, args);
    let directory = runtime()?.block_on(session(prepared, args.fps))?;
    let (summary, damage) = read_summary(&directory)?;
    let mut notes = Vec::from_iter(damage);
    if args.recording.is_none() {
        notes.push(format!("the animal's learning is {}", crate::journal::STAND_IN));
    } else {
        notes.push("the recorded animal did not see this feedback: its outcomes are what would have been".to_owned());
    }
    RunSummary::new(&directory, &summary, notes).tell(&summary, json)?;
    Ok(Outcome::Good)
}

fn introduce(prepared: &Prepared, args: &DemoArgs) {
    let what = match &prepared.subject {
        Subject::Synthetic(_) => format!(
            "a synthetic animal (seed {}), whose P- cells grow quieter with every reward: {}",
            args.seed,
            crate::journal::STAND_IN
        ),
        Subject::Recording(_) => "a recording".to_owned(),
    };
    let minutes = prepared.frames as f64 / args.fps / 60.0;
    eprintln!("apical demo: {minutes:.1} minutes of {what}");
    eprintln!(
        "  P+ {:?}   P- {:?}   baseline {} frames, then trials of {} frames at {} Hz",
        prepared.config.ensembles.plus,
        prepared.config.ensembles.minus,
        prepared.config.baseline.frames,
        prepared.config.trial_frames(),
        args.fps
    );
    eprintln!("  reward valve: {}", prepared.valve.place());
}

fn prepare(args: &DemoArgs) -> anyhow::Result<Prepared> {
    let valve = Arc::new(Valve::start()?);
    let mut more = vec![
        format!("synthetic.seed={}", args.seed),
        format!("synthetic.frame_rate_hz={:?}", args.fps),
        format!("synthetic.height_px={}", args.size),
        format!("synthetic.width_px={}", args.size),
        format!("calibration.seed={}", args.seed),
    ];
    more.extend(valve.overrides());
    let asked_frames = args.minutes.map(|m| (m * 60.0 * args.fps).round() as u64);
    if args.recording.is_some() {
        more.push(format!("baseline.frames={RECORDING_BASELINE_FRAMES}"));
        more.push("activity.detector_offset_counts=0.0".to_owned());
    } else {
        let frames = asked_frames.unwrap_or((MINUTES * 60.0 * args.fps).round() as u64);
        // A short demo shortens its baseline before its trials.
        let baseline = (frames * 2 / 7).clamp(200, 900);
        more.push(format!("baseline.frames={baseline}"));
    }
    let mut config = args.source.load_over(DEMO_TOML, &more)?;
    let name = place(&mut config, args.session_dir.as_deref())?;
    let (subject, rois, header, own_frames) = match (&args.recording, &args.rois) {
        (Some(recording), Some(rois)) => {
            let playable = Playable::open(recording, &OpenOptions::default())?;
            let Playable::Pixels(frames) = &playable else {
                anyhow::bail!("{}: expected a recording of pixels", recording.display());
            };
            let set = read_rois(rois, Some(frames.header().geometry))?;
            draw_ensembles(&mut config, set.rois.len(), args.seed)?;
            let (header, count) = (playable.header(args.fps), playable.frames());
            (Subject::Recording(playable), set, header, count.map(|n| n as u64))
        }
        _ => {
            let source = SyntheticSource::new(&config.synthetic)?;
            let animal = &config.synthetic.animal;
            config.ensembles.plus = animal.p_plus.iter().map(|&k| k as u32).collect();
            config.ensembles.minus = animal.p_minus.iter().map(|&k| k as u32).collect();
            let header = stream_header(source.header(), args.fps, SYNTHETIC_ADAPTER.to_owned());
            let set = roi_set(&source);
            (Subject::Synthetic(Box::new(source)), set, PlayedHeader::Pixels(header), None)
        }
    };
    let frames = match (asked_frames, own_frames) {
        (Some(asked), Some(own)) => asked.min(own),
        (Some(frames), None) | (None, Some(frames)) => frames,
        (None, None) => (MINUTES * 60.0 * args.fps).round() as u64,
    };
    let needed = u64::from(config.baseline.frames) + u64::from(config.trial_frames());
    ensure!(
        frames >= needed,
        "{frames} frames are too few: the baseline takes {} and a trial {}; give more --minutes (at least {:.2} at \
         {} Hz)",
        config.baseline.frames,
        config.trial_frames(),
        needed as f64 / args.fps / 60.0,
        args.fps
    );
    Ok(Prepared { config, name, subject, rois, header, frames, valve })
}

/// P+ and P- at random from the ROIs, as the experiment assigned them.
fn draw_ensembles(config: &mut RigConfig, rois: usize, seed: u64) -> anyhow::Result<()> {
    if !config.ensembles.plus.is_empty() {
        return Ok(());
    }
    let each = RECORDING_CELLS.min(rois / 2);
    ensure!(each > 0, "{rois} ROIs: expected at least 2, one for P+ and one for P-");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut ids: Vec<u32> = (0..rois as u32).collect();
    for k in 0..2 * each {
        // The remainder favours low numbers by less than one part in 2^50.
        let other = k + (random.next_u64() % (rois - k) as u64) as usize;
        ids.swap(k, other);
    }
    config.ensembles.plus = ids[..each].to_vec();
    config.ensembles.minus = ids[each..2 * each].to_vec();
    config.ensembles.plus.sort_unstable();
    config.ensembles.minus.sort_unstable();
    Ok(())
}

/// The ROIs that an experimenter would have drawn on the synthetic animal.
fn roi_set(source: &SyntheticSource) -> RoiSet {
    let rois = source.rois().iter().zip(0..).map(|(mask, id)| {
        let pixels = mask.pixels.iter().map(|&(row, col, weight)| RoiPixel { row, col, weight }).collect();
        Roi { id, name: format!("cell {id}"), plane: 0, radius_told_px: None, pixels }
    });
    RoiSet {
        geometry: source.header().geometry,
        rois: rois.collect(),
        reference: Some(source.reference()),
        reference_kind: ReferenceKind::Given,
        templates: Vec::new(),
        z_stack: Vec::new(),
        source: "synthetic animal".to_owned(),
    }
}

/// Runs the whole session; its directory.
async fn session(prepared: Prepared, fps: f64) -> anyhow::Result<PathBuf> {
    let Prepared { config, name, subject, rois, header, frames, valve } = prepared;
    let listener = bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let rig = Rig::new(config.clone(), RigMode::Live);
    let service = tokio::spawn(serve(listener, rig, async {
        let _ = stopped.await;
    }));
    let channel = connect(&url).await?;
    let mut operator = Operator::new(channel.clone(), "demo");
    operator.create(to_toml(&config), Vec::new(), name).await?;
    operator.upload(&rois).await?;
    let Opened { stream, mut acks, .. } = open_stream(channel.clone(), header).await?;
    let progress = Arc::new(Progress::new(&config, frames));
    tokio::spawn(watch_events(channel.clone(), Arc::clone(&progress), Arc::clone(&valve)));
    tokio::spawn(watch_feedback(channel, Arc::clone(&progress)));
    let baseline = operator.start_baseline().await?;
    let seen = Arc::clone(&progress);
    let acks = tokio::spawn(async move {
        while let Some(Ok(ack)) = acks.recv().await {
            seen.acknowledged(&ack);
        }
    });
    let (sender, mut scanned) = mpsc::channel(2);
    let done = Arc::new(AtomicBool::new(false));
    let microscope = {
        let (valve, done) = (Arc::clone(&valve), Arc::clone(&done));
        std::thread::Builder::new()
            .name("apical-microscope".into())
            .spawn(move || scan(subject, &valve, fps, frames, &sender, &done))?
    };
    let mut task = false;
    while let Some(mut frame) = scanned.recv().await {
        let index = frame.meta.index;
        stream.send(&mut frame).await?;
        progress.print(false);
        // The operator calibrates as soon as the baseline is complete; frames go on meanwhile.
        if !task && index + 1 >= baseline && progress.baseline_done.load(Ordering::Acquire) {
            task = true;
            operator.calibrate().await?;
            operator.start_task().await?;
        }
    }
    drop(stream);
    let _ = tokio::time::timeout(Duration::from_secs(10), acks).await;
    progress.print(true);
    let scanned = microscope.join().map_err(|_| anyhow::anyhow!("the microscope's thread panicked"))?;
    let directory = operator.stop().await?;
    let _ = stop.send(());
    service.await.context("the service panicked")??;
    scanned?;
    Ok(directory)
}

/// The microscope: renders or reads each frame and hands it over at its time.
fn scan(
    mut subject: Subject,
    valve: &Valve,
    fps: f64,
    frames: u64,
    sender: &mpsc::Sender<PlayedFrame>,
    done: &AtomicBool,
) -> anyhow::Result<()> {
    let start = now();
    let mut rewarded = 0;
    for index in 0..frames {
        let mut frame = PlayedFrame::default();
        match &mut subject {
            Subject::Synthetic(source) => {
                // The animal drinks when the valve opens.
                let opened = valve.opened();
                (rewarded..opened).for_each(|_| source.reward());
                rewarded = rewarded.max(opened);
                let recorded = source.next(&mut frame.pixels);
                frame.meta = FrameMeta {
                    index: recorded.index,
                    device_ns: recorded.device_ns.unwrap_or_default(),
                    ..FrameMeta::default()
                };
            }
            Subject::Recording(playable) => {
                if !playable.next(&mut frame, fps)? {
                    break;
                }
            }
        }
        let due = start + Duration::from_secs_f64((index + 1) as f64 / fps);
        std::thread::sleep(due.saturating_duration_since(now()));
        if sender.blocking_send(frame).is_err() {
            break;
        }
    }
    done.store(true, Ordering::Release);
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "the demo's microscope and its progress line run on the wall's pace")]
fn now() -> Instant {
    Instant::now()
}

/// What the progress line shows.
struct Progress {
    frames: u64,
    baseline: u64,
    decided: AtomicU64,
    baseline_done: AtomicBool,
    counts: [AtomicU64; 4],
    angle_deg: AtomicU64,
    delays: std::sync::Mutex<hdrhistogram::Histogram<u64>>,
    printed: std::sync::Mutex<Option<Instant>>,
}

impl Progress {
    fn new(config: &RigConfig, frames: u64) -> Self {
        Self {
            frames,
            baseline: u64::from(config.baseline.frames),
            decided: AtomicU64::new(0),
            baseline_done: AtomicBool::new(false),
            counts: Default::default(),
            angle_deg: AtomicU64::new(f64::NAN.to_bits()),
            delays: crate::journal::latency_histogram().into(),
            printed: None.into(),
        }
    }

    fn acknowledged(&self, ack: &v1::Ack) {
        self.decided.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut delays) = self.delays.lock() {
            delays.saturating_record(ack.delay_ns);
        }
    }

    /// A line on standard error: on a terminal rewritten in place ten times a second, elsewhere a new one every 5 s.
    fn print(&self, last: bool) {
        let Ok(mut printed) = self.printed.lock() else { return };
        let at = now();
        let live = std::io::stderr().is_terminal();
        let pace = if live { Duration::from_millis(100) } else { Duration::from_secs(5) };
        if !last && printed.is_some_and(|before| at - before < pace) {
            return;
        }
        *printed = Some(at);
        let decided = self.decided.load(Ordering::Relaxed);
        let [trial, hits, aversive, misses] = [0, 1, 2, 3].map(|k| self.counts[k].load(Ordering::Relaxed));
        let angle = f64::from_bits(self.angle_deg.load(Ordering::Relaxed));
        let angle = if angle.is_nan() { " --".to_owned() } else { format!("{angle:3.0}") };
        let (p50, p99) = self.delays.lock().map_or((0, 0), |d| (d.value_at_quantile(0.5), d.value_at_quantile(0.99)));
        let what = if decided <= self.baseline {
            format!("baseline {decided:>4}/{}", self.baseline)
        } else {
            format!("trial {trial:>3}")
        };
        let (begin, end) = if live { ("\r", if last { "\n" } else { "" }) } else { ("", "\n") };
        eprint!(
            "{begin}  {:>3} %  {what:<18} hits {hits:>3}  aversive {aversive:>3}  misses {misses:>3}  \
             grating {angle} deg  latency {:>5.2} ms (99 %: {:>5.2})  {end}",
            100 * decided / self.frames.max(1),
            p50 as f64 / 1e6,
            p99 as f64 / 1e6,
        );
        let _ = std::io::stderr().flush();
    }
}

/// Follows the events.
async fn watch_events(channel: tonic::transport::Channel, progress: Arc<Progress>, valve: Arc<Valve>) {
    let mut client = EventsServiceClient::new(channel);
    let Ok(events) = client.subscribe_events(v1::SubscribeEventsRequest { from_event_seq: 0 }).await else { return };
    let mut events = events.into_inner();
    while let Ok(Some(event)) = events.message().await {
        let count = |k: usize| {
            progress.counts[k].fetch_add(1, Ordering::Relaxed);
        };
        match event.kind() {
            EventKind::BaselineDone => progress.baseline_done.store(true, Ordering::Release),
            EventKind::TrialStarted => progress.counts[0].store(event.id, Ordering::Relaxed),
            EventKind::RewardAcknowledged => valve.acknowledged(),
            EventKind::Hit => count(1),
            EventKind::Aversive => count(2),
            EventKind::Miss => count(3),
            EventKind::Warning | EventKind::DeviceFault | EventKind::RewardUnknown => {
                eprintln!("\n  {:?}: {}", event.kind(), event.detail);
            }
            _ => {}
        }
    }
}

/// Follows the grating.
async fn watch_feedback(channel: tonic::transport::Channel, progress: Arc<Progress>) {
    let mut client = FeedbackServiceClient::new(channel);
    let Ok(feedback) = client.subscribe_feedback(v1::SubscribeFeedbackRequest { changes_only: true }).await else {
        return;
    };
    let mut feedback = feedback.into_inner();
    while let Ok(Some(now)) = feedback.message().await {
        progress.angle_deg.store(now.displayed_deg.unwrap_or(f64::NAN).to_bits(), Ordering::Relaxed);
    }
}
