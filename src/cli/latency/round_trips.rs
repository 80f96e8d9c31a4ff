//! `apical latency --loop`: the sync line lights an LED at the objective, the service sees the bright frame and answers
//! on the line; a round trip is from one pulse to the next, with everything in it: the board, the light, the scan, the
//! adapter, the transport, the decision.
//!
//! ```text
//!      ┌────────────── LED at the objective ◄──── board ◄──┐
//!  microscope ──frame──► adapter ──► transport ──► session ─┘ sync pulse
//! ```
//!
//! With `--config rig.toml` the rig's own board is driven, and frames are those of whichever adapter connects. Without,
//! a synthetic microscope brightens its next frame when the line rises.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;

use super::super::client::{FrameStream, Opened, Operator, connect, open_stream};
use super::super::page::Page;
use super::super::play::{PlayedHeader, stream_header};
use super::super::{Outcome, print_json, print_text, runtime};
use super::far_end::FarEnd;
use super::found::Window;
use super::live::on_one_thread;
use super::{LatencyArgs, Scratch};
use crate::config::{RigConfig, to_toml};
use crate::frame::Geometry;
use crate::journal::{JournalRecord, Percentiles, SYNC_OUTPUT, SessionFiles, latency_histogram};
use crate::proto::v1;
use crate::sample::{ReferenceKind, Roi, RoiPixel, RoiSet};
use crate::service::{Listeners, Rig, RigMode, run as serve};
use crate::source::SyntheticSource;

/// Rows and columns of the one ROI, in the middle of the frame, at most.
const ROI_SIDE_PX: usize = 128;
/// By how much the synthetic LED brightens a pixel, in counts.
const LIGHT_COUNTS: u16 = 2_000;
/// Frames that the synthetic microscope repeats.
const RING_FRAMES: usize = 16;
/// Frames a second where nothing else is said.
const RATE_HZ: f64 = 30.0;
/// How often it is looked whether the rig's adapter has come.
const LOOK: Duration = Duration::from_millis(200);

/// Frames without light and with it.
struct Microscope {
    header: v1::StreamHeader,
    dark: Vec<bytes::Bytes>,
    bright: Vec<bytes::Bytes>,
    /// The mean of a dark frame, in counts.
    dark_counts: f64,
}

impl Microscope {
    fn new(config: &RigConfig, rate_hz: f64) -> anyhow::Result<Self> {
        let mut source = SyntheticSource::new(&config.synthetic)?;
        let header = stream_header(source.header(), rate_hz, "apical latency --loop".to_owned());
        let mut microscope = Self { header, dark: Vec::new(), bright: Vec::new(), dark_counts: 0.0 };
        let mut bytes = Vec::new();
        for _ in 0..RING_FRAMES {
            source.next(&mut bytes);
            let samples = || bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
            let mean = samples().map(f64::from).sum::<f64>() / samples().len() as f64;
            microscope.dark_counts += mean / RING_FRAMES as f64;
            let lit = samples().flat_map(|sample| sample.saturating_add(LIGHT_COUNTS).to_le_bytes());
            microscope.bright.push(lit.collect::<Vec<u8>>().into());
            microscope.dark.push(bytes.clone().into());
        }
        Ok(microscope)
    }
}

/// Runs it.
pub(super) fn run(args: &LatencyArgs, geometry: Geometry, pace: Option<f64>, json: bool) -> anyhow::Result<Outcome> {
    let on_rig = args.source.config.is_some();
    let folder = Scratch::new()?;
    let mut set = vec![
        super::cells_of(geometry),
        format!("synthetic.height_px={}", geometry.height_px),
        format!("synthetic.width_px={}", geometry.width_px),
        "outputs.sync.enabled=true".to_owned(),
        "record.report=false".to_owned(),
        format!("record.directory={:?}", folder.0.display().to_string()),
    ];
    let far_end = if on_rig { None } else { Some(FarEnd::start(0)?) };
    if let Some(far_end) = &far_end {
        set.extend(far_end.overrides());
        set.extend(super::LIMITS.map(str::to_owned));
        set.push("service.listen=\"127.0.0.1:0\"".to_owned());
    }
    let loaded = args.source.load(&set)?;
    let rate_hz = pace.unwrap_or(RATE_HZ);
    let microscope = far_end.as_ref().map(|_| Microscope::new(&loaded, rate_hz)).transpose()?;
    let bright_counts = match (args.bright, &microscope) {
        (Some(counts), _) => counts,
        (None, Some(microscope)) => microscope.dark_counts + f64::from(LIGHT_COUNTS) / 2.0,
        (None, None) => anyhow::bail!("--loop with a rig: expected --bright COUNTS, which only a lit frame reaches"),
    };
    let config = for_light(loaded, bright_counts);
    let session = session(&config, geometry, args.seconds, rate_hz, far_end.zip(microscope))?;
    let found = RoundTrips::of_session(&session, bright_counts)?;
    if json {
        print_json(&serde_json::json!({
            "round_trip_us": Percentiles::of(&found.ns),
            "round_trips": found.ns.len(),
            "lost": found.lost,
            "frames": found.frames,
            "bright_counts": bright_counts,
        }))?;
    } else {
        print_text(found.page().text())?;
    }
    ensure!(
        !found.ns.is_empty(),
        "no pulse was answered: the microscope does not see the light, or --bright is too high"
    );
    Ok(Outcome::Good)
}

/// What of a rig's configuration matters here: its devices, its thread, its doors. Frames are not registered.
fn for_light(loaded: RigConfig, bright_counts: f64) -> RigConfig {
    let RigConfig { rig, stream, outputs, limits, engine, service, record, .. } = loaded;
    let mut config = RigConfig { rig, stream, outputs, limits, engine, service, record, ..RigConfig::default() };
    config.register.enabled = false;
    config.sample.neuropil_coefficient = crate::config::sample::NeuropilCoefficient::Share(0.0);
    config.outputs.sync.answers_light_counts = Some(bright_counts);
    config
}

/// One ROI in the middle of the frame.
fn middle(geometry: Geometry) -> RoiSet {
    let range = |side: usize| {
        let half = side.min(ROI_SIDE_PX) / 2;
        (side / 2 - half) as u32..(side / 2 + half) as u32
    };
    let rows = range(geometry.height_px);
    let cols = range(geometry.width_px);
    let pixels = rows.flat_map(|row| cols.clone().map(move |col| RoiPixel { row, col, weight: 1.0 })).collect();
    let roi = Roi { id: 0, name: "middle".to_owned(), plane: 0, radius_told_px: None, pixels };
    RoiSet {
        geometry,
        rois: vec![roi],
        reference: None,
        reference_kind: ReferenceKind::None,
        source: "the middle of the frame".to_owned(),
        ..RoiSet::default()
    }
}

/// Serves a session for so long; its directory.
fn session(
    config: &RigConfig,
    geometry: Geometry,
    seconds: f64,
    rate_hz: f64,
    synthetic: Option<(FarEnd, Microscope)>,
) -> anyhow::Result<PathBuf> {
    let rig = Rig::new(config.clone(), RigMode::Live);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let service = runtime()?;
    let listeners = service.block_on(Listeners::bind(&config.service))?;
    let address = listeners.tcp.local_addr()?;
    let serving = service.spawn(serve(listeners, rig, async {
        let _ = stopped.await;
    }));
    let played = on_one_thread(|| async {
        let channel = connect(&format!("http://{address}")).await?;
        let mut operator = Operator::new(channel.clone(), "latency");
        operator.create(to_toml(config), Vec::new(), "loop".to_owned()).await?;
        operator.upload(&middle(geometry)).await?;
        match synthetic {
            Some(synthetic) => play(channel, synthetic, seconds, rate_hz).await?,
            None => {
                eprintln!("frames of {} x {} are awaited on {address}", geometry.height_px, geometry.width_px);
                while operator.state().await?.counters.is_none_or(|counters| counters.frames_in == 0) {
                    tokio::time::sleep(LOOK).await;
                }
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            }
        }
        operator.stop().await
    });
    let _ = stop.send(());
    service.block_on(serving).context("the service panicked")??;
    played
}

/// The synthetic microscope: a frame is lit when the line rose since the one before it.
async fn play(
    channel: tonic::transport::Channel,
    (far_end, microscope): (FarEnd, Microscope),
    seconds: f64,
    rate_hz: f64,
) -> anyhow::Result<()> {
    let Opened { stream, mut acks, .. } = open_stream(channel, PlayedHeader::Pixels(microscope.header.clone())).await?;
    let FrameStream::Pixels(stream) = stream else { anyhow::bail!("the stream carries no pixels") };
    let acks = tokio::spawn(async move {
        while let Some(ack) = acks.recv().await {
            ack?;
        }
        anyhow::Ok(())
    });
    let (mut index, mut pulses) = (0_u64, 0);
    let scan = async || {
        let now = far_end.count();
        let ring = if now > pulses { &microscope.bright } else { &microscope.dark };
        let pixels = ring[(index % RING_FRAMES as u64) as usize].clone();
        pulses = now;
        let device_ns = (index as f64 * 1e9 / rate_hz) as u64;
        let frame = v1::Frame { index, device_ns, pixels, ..v1::Frame::default() };
        index += 1;
        stream.send(frame).await
    };
    Window::play(0, seconds, Some(rate_hz), scan).await?;
    drop(stream);
    acks.await.context("reading acknowledgements panicked")?
}

/// What a session's pulses say.
struct RoundTrips {
    /// From each pulse to the one that answers it, in nanoseconds.
    ns: Histogram<u64>,
    /// Pulses that nothing answered.
    lost: u64,
    frames: u64,
}

impl RoundTrips {
    fn of_session(session: &Path, bright_counts: f64) -> anyhow::Result<Self> {
        let mut found = Self { ns: latency_histogram(), lost: 0, frames: 0 };
        let (mut mean, mut pulses, mut begun_ns) = (f64::NAN, false, None);
        SessionFiles::open(session)?.read(|record| match record {
            JournalRecord::Decision(decision) => {
                found.frames += u64::from(decision.verdict() == v1::FrameVerdict::Decided);
                mean = decision.f_counts.iter().sum::<f64>() / decision.f_counts.len() as f64;
                pulses = decision.intent_output.contains(&SYNC_OUTPUT);
            }
            JournalRecord::Timing(timing) if pulses => {
                let answers = mean >= bright_counts;
                // A pulse in the dark begins a round trip; the light of one that answers is not answered in turn.
                match (begun_ns.take(), answers) {
                    (Some(begun_ns), true) => {
                        found.ns.saturating_record(timing.triggered_host_ns.saturating_sub(begun_ns).max(1));
                    }
                    (Some(_), false) => found.lost += 1,
                    (None, _) => {}
                }
                if !answers {
                    begun_ns = Some(timing.triggered_host_ns);
                }
            }
            _ => {}
        })?;
        Ok(found)
    }

    fn page(&self) -> Page {
        let mut page = Page::default();
        let us = Percentiles::of(&self.ns);
        let cell = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), |us| format!("{:.2}", us / 1e3));
        let trips = self.ns.len();
        page.plain(format!("{} frames, {trips} round trips, {} pulses without an answer", self.frames, self.lost));
        page.plain(format!("round trip in ms  {:>9} {:>9} {:>9} {:>9}", "median", "99 %", "99.9 %", "max"));
        let [p50, p99, p999, max] = [us.p50, us.p99, us.p999, us.max].map(cell);
        page.plain(format!("                  {p50:>9} {p99:>9} {p999:>9} {max:>9}"));
        page
    }
}
