//! `apical latency`: how long a frame takes on this computer, with a synthetic feed and no animal.
//!
//! ```text
//! adapter's thread ──frame──► transport ──► session, as on a rig ──sync pulse──► pseudo-terminal ──► board
//!    its own time: handed over                    its journal: taken, stages, written                 read
//! ```
//!
//! A ring of rendered frames goes through a session with everything on: registration, masks with neuropil, F0, cursor,
//! trial, a sync pulse for every frame, and the journal, from which the latencies are read. The baseline is the warm-up
//! and is left out.

mod far_end;
mod feed;
mod found;
mod in_process;
mod live;
mod load;
mod round_trips;
mod timer;

use std::path::PathBuf;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use self::far_end::FarEnd;
use self::feed::Feed;
pub(super) use self::feed::read_from_memory_ns;
use self::found::Measured;
use super::play::parse_fps;
use super::{ConfigSource, Outcome, print_json, print_text};
use crate::config::RigConfig;
use crate::frame::Geometry;

/// Frames of the warm-up's baseline.
const BASELINE_FRAMES: u32 = 256;
/// Pixels for each cell of the rendered frames, and how many cells there are at least and at most.
const CELL_PX: usize = 1_600;
const CELLS: (usize, usize) = (10, 40);
/// What the stream says of its rate where frames come as fast as they go.
const STATED_RATE_HZ: f64 = 1_000.0;
/// What a serial output asks for; no valve hangs on it.
const LIMITS: [&str; 6] = [
    "limits.max_pulse_width_ms=50.0",
    "limits.min_interval_ms=200.0",
    "limits.max_on_ms_per_minute=3000.0",
    "limits.max_on_ms_per_session=30000.0",
    "limits.max_pulses_per_minute=100",
    "limits.max_pulses_per_session=1000",
];

/// How frames reach the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// In this process, by a call.
    Inprocess,
    /// gRPC over TCP on loopback.
    Grpc,
    /// gRPC over a Unix socket.
    Uds,
    /// Shared memory; acknowledgements by gRPC. Needs a build with `--features shm`.
    Shm,
}

impl Transport {
    fn name(self) -> &'static str {
        match self {
            Transport::Inprocess => "inprocess",
            Transport::Grpc => "grpc",
            Transport::Uds => "uds",
            Transport::Shm => "shm",
        }
    }
}

/// Arguments of `apical latency`.
#[derive(Debug, Args)]
pub(super) struct LatencyArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// How frames reach the engine.
    #[arg(long, value_enum, default_value = "inprocess")]
    transport: Transport,
    /// Frames a second, or max.
    #[arg(long, default_value = "max", value_name = "R|max")]
    fps: String,
    /// How long to measure.
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// ROIs, each with its neuropil; half of the first ten in P+, half in P-.
    #[arg(long, default_value_t = 10, value_name = "N")]
    rois: u32,
    /// Rows and columns of a frame, in pixels: 512, or 512x796.
    #[arg(long, default_value = "512", value_name = "PX")]
    size: String,
    /// Write a page with the distributions.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Send every frame as so many strips, as the scan makes them, and decide before its end: ROIs lie in the upper
    /// half, `stream.decide` is last_needed_line. Needs a transport by gRPC and --fps R.
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "round_trips")]
    strips: u32,
    /// Measure round trips: the sync line lights an LED, the service sees the bright frame and answers on the line.
    /// With a --config on the real rig, whose adapter sends frames of --size; without on a synthetic microscope.
    #[arg(long = "loop", conflicts_with_all = ["transport", "rois", "load", "html"])]
    round_trips: bool,
    /// The mean of the middle of a frame, in counts, that only light reaches; of the synthetic microscope it is known.
    #[arg(long, value_name = "COUNTS", requires = "round_trips")]
    bright: Option<f64>,
    /// Load the computer meanwhile: subscribers, a disk that is written, a busy core. Not with inprocess.
    #[arg(long)]
    load: bool,
}

/// Runs the command.
pub(super) fn run(args: &LatencyArgs, json: bool) -> anyhow::Result<Outcome> {
    let geometry = parse_size(&args.size)?;
    let pace = parse_fps(&args.fps)?;
    ensure!(args.seconds > 0.0 && args.seconds <= 86_400.0, "--seconds {}: expected above 0, to 86400", args.seconds);
    if args.round_trips {
        return round_trips::run(args, geometry, pace, json);
    }
    ensure!((2..=100_000).contains(&args.rois), "--rois {}: expected 2 to 100000", args.rois);
    let by_grpc = matches!(args.transport, Transport::Grpc | Transport::Uds);
    let may_cut = by_grpc && pace.is_some() && args.strips as usize <= geometry.height_px;
    ensure!(
        args.strips == 1 || (args.strips > 0 && may_cut),
        "--strips {}: expected 1, or up to a frame's rows with \
             --transport grpc or uds and --fps R",
        args.strips
    );
    ensure!(!(args.load && args.transport == Transport::Inprocess), "--load: expected a transport into a service");
    let shares_memory = args.transport == Transport::Shm;
    ensure!(!shares_memory || cfg!(feature = "shm"), "--transport shm: {}", crate::service::NO_SHARED_MEMORY);
    let folder = Scratch::new()?;
    let priority = args.source.load(&[])?.engine.realtime_priority;
    let far_end = FarEnd::start(priority)?;
    let config = configuration(args, geometry, &folder, &far_end)?;
    let mut feed = Feed::new(&config, geometry, args.rois, pace.unwrap_or(STATED_RATE_HZ), args.strips)?;
    feed.header.shared_memory = shares_memory;
    let measured = match args.transport {
        Transport::Inprocess => {
            let (session, window, settings) = in_process::measure(&config, &feed, args.seconds, pace)?;
            let measured = Measured::of_session(&session, window, &far_end.seen(), feed.floor_ns)?;
            Measured { thread_settings: settings, ..measured }
        }
        _ => {
            let (session, window) = live::measure(&config, &feed, args.seconds, pace, args.load)?;
            let measured = Measured::of_session(&session, window, &far_end.seen(), feed.floor_ns)?;
            let scan_ns = pace.filter(|_| args.strips > 1).map(|rate_hz| (1e9 / rate_hz) as u64);
            Measured { scan_ns, ..measured }
        }
    };
    let Geometry { height_px, width_px } = geometry;
    let pace = if args.fps == "max" { "as fast as they go".to_owned() } else { format!("{} frames/s", args.fps) };
    let loaded = if args.load { ", under load" } else { "" };
    let (rois, transport) = (args.rois, args.transport.name());
    let cut = if args.strips > 1 { format!(" in {} strips", args.strips) } else { String::new() };
    let what = format!("{height_px} x {width_px}{cut}, {rois} ROIs, {transport}, {pace}{loaded}");
    if let Some(path) = &args.html {
        std::fs::write(path, measured.html(&what)).with_context(|| format!("--html {}", path.display()))?;
    }
    if json {
        print_json(&measured.json(serde_json::json!({
            "transport": transport,
            "height_px": height_px,
            "width_px": width_px,
            "rois": rois,
            "fps": args.fps,
            "load": args.load,
            "strips": args.strips,
        })))?;
    } else {
        print_text(measured.page(&what).text())?;
    }
    Ok(Outcome::Good)
}

/// `512` or `512x796`: rows and columns.
fn parse_size(text: &str) -> anyhow::Result<Geometry> {
    let (rows, cols) = text.split_once('x').unwrap_or((text, text));
    let side = |side: &str| side.parse::<usize>().ok().filter(|side| (96..=4_096).contains(side));
    let sides = side(rows).zip(side(cols));
    let (rows, cols) = sides.with_context(|| format!("--size {text}: expected 96 to 4096 pixels: 512, or 512x796"))?;
    Ok(Geometry::new(rows, cols))
}

/// A directory for the session, which goes when it is done.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let name = format!("apical-latency-{}-{}", std::process::id(), crate::journal::wall_ns());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// As many cells as a frame has room for.
fn cells_of(geometry: Geometry) -> String {
    format!("synthetic.anatomy.cells={}", (geometry.count() / CELL_PX).clamp(CELLS.0, CELLS.1))
}

fn configuration(
    args: &LatencyArgs,
    geometry: Geometry,
    folder: &Scratch,
    far_end: &FarEnd,
) -> anyhow::Result<RigConfig> {
    let cells = args.rois.min(10);
    let ids: Vec<u32> = (0..cells).collect();
    let (plus, minus) = ids.split_at(ids.len().div_ceil(2));
    let socket = match args.transport {
        Transport::Uds => folder.0.join("apical.sock"),
        _ => PathBuf::new(),
    };
    let mut set = vec![
        cells_of(geometry),
        format!("synthetic.height_px={}", geometry.height_px),
        format!("synthetic.width_px={}", geometry.width_px),
        format!("baseline.frames={BASELINE_FRAMES}"),
        format!("ensembles.plus={plus:?}"),
        format!("ensembles.minus={minus:?}"),
        "outputs.sync.enabled=true".to_owned(),
        "engine.overload=\"every\"".to_owned(),
        "service.listen=\"127.0.0.1:0\"".to_owned(),
        format!("service.socket={:?}", socket.display().to_string()),
        "record.report=false".to_owned(),
        format!("record.directory={:?}", folder.0.display().to_string()),
    ];
    set.extend(far_end.overrides());
    if args.strips > 1 {
        set.push("stream.decide=\"last_needed_line\"".to_owned());
    }
    if args.fps == "max" {
        // Where no rate is stated no silence is too long.
        set.push("engine.gap_periods=0.0".to_owned());
    }
    if args.source.config.is_none() {
        set.push("task.trial_frames=750".to_owned());
        set.extend(LIMITS.map(str::to_owned));
    }
    args.source.load(&set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_one_side_or_two() {
        assert_eq!(parse_size("512").unwrap(), Geometry::new(512, 512));
        assert_eq!(parse_size("512x796").unwrap(), Geometry::new(512, 796));
        for wrong in ["", "x", "512x", "95", "5000", "-1", "512x512x2"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
