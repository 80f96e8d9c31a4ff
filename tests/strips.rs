//! Decisions that do not wait for the whole frame (`stream.decide = "last_needed_line"`): the same bits however a frame
//! is cut, early enough to matter, recorded and verified as any other, and how much precision the missing rows cost.

mod common;

use std::sync::Arc;

use apical::config::RigConfig;
use apical::engine::{Engine, Input, StreamShape};
use apical::frame::{FrameAssembly, FrameMeta, FrameSlot, Geometry, PixelType, StripMeta};
use apical::journal::Published;
use apical::proto::v1::{self, FrameVerdict};
use apical::sample::RoiSet;
use apical::source::SyntheticSource;
use common::service::{Service, header, verified};
use common::{BASELINE_FRAMES, Collect, driver_of};
use prost::Message as _;

/// A frame as it is stored, and its shift in truth, rows and columns in pixels.
type Frame = (Vec<u8>, (f64, f64));

const GEOMETRY: Geometry = Geometry::new(224, 128);

fn config(decide: &str, more: &[&str]) -> RigConfig {
    let decide = format!("stream.decide={decide}");
    let own = ["synthetic.height_px=224", "synthetic.width_px=128", "synthetic.anatomy.cells=24", decide.as_str()];
    let ensembles = ["ensembles.plus=[0, 2]", "ensembles.minus=[1, 3]", "sample.neuropil_min_pixels=100"];
    common::config(&[&own[..], &ensembles[..], more].concat())
}

/// The cells of the upper half, numbered anew, and frames as they are stored, with the shift that each has in truth.
fn movie(config: &RigConfig, count: u64) -> (RoiSet, Vec<Frame>) {
    let mut source = SyntheticSource::new(&config.synthetic).expect("a valid animal");
    let mut set = common::rois(&source);
    set.rois.retain(|roi| roi.pixels.iter().all(|pixel| pixel.row < 100));
    set.rois.iter_mut().zip(0..).for_each(|(roi, id)| roi.id = id);
    assert!(set.rois.len() >= 5, "{} cells in the upper half", set.rois.len());
    let frame = |_| {
        let mut bytes = Vec::new();
        source.next(&mut bytes);
        let truth = source.truth();
        (bytes, (truth.dy_px, truth.dx_px))
    };
    let frames = (0..count).map(frame).collect();
    (set, frames)
}

fn shape() -> StreamShape {
    StreamShape::Pixels { geometry: GEOMETRY, pixel_type: PixelType::U16, detector_offset_counts: None }
}

fn meta(index: usize) -> FrameMeta {
    FrameMeta { index: index as u64, device_ns: index as u64 * 33_333_333, ..FrameMeta::default() }
}

/// A session of these frames, cut into strips of so many rows; what is below the needed rows is `below`, where given.
fn session(
    config: &RigConfig,
    rois: &RoiSet,
    frames: &[Frame],
    strip_rows: usize,
    below: Option<u8>,
    looks_ahead: bool,
) -> Vec<Arc<Published>> {
    let engine = Engine::new(config, rois, &shape(), 0).expect("an engine");
    let decided = engine.geometry().expect("pixels");
    let mut driver = driver_of(config, engine);
    let mut assembly = FrameAssembly::new(GEOMETRY, PixelType::U16, false).of_upper_rows(decided.height_px);
    let mut slot = FrameSlot::new(decided, PixelType::U16);
    let mut seen = Collect::default();
    driver.take(Input::Command(&apical::engine::Command::StartBaseline), &mut seen);
    let row_bytes = 2 * GEOMETRY.width_px;
    for (index, (bytes, _)) in frames.iter().enumerate() {
        if index == BASELINE_FRAMES as usize {
            driver.take(Input::Command(&apical::engine::Command::Calibrate), &mut seen);
            let start = apical::engine::Command::StartTask { accept_template: true };
            driver.take(Input::Command(&start), &mut seen);
        }
        let mut bytes = bytes.clone();
        if let Some(below) = below {
            bytes[decided.height_px * row_bytes..].fill(below);
        }
        let mut given = 0;
        for row in (0..GEOMETRY.height_px).step_by(strip_rows) {
            let rows = strip_rows.min(GEOMETRY.height_px - row);
            let strip = StripMeta { frame: meta(index), row_offset_px: row as u32, row_count_px: rows as u32 };
            let payload = &bytes[row * row_bytes..(row + rows) * row_bytes];
            if assembly.add(&strip, payload, &mut slot).expect("in order") {
                driver.take(Input::Frame(&slot), &mut seen);
                given += 1;
            } else if looks_ahead {
                while driver.look_ahead(&slot) {}
            }
        }
        assert_eq!(given, 1);
    }
    seen.0
}

/// As they are recorded: NaN equals itself there.
fn decisions(steps: &[Arc<Published>]) -> Vec<Vec<u8>> {
    steps.iter().map(|step| step.decision.encode_to_vec()).collect()
}

#[test]
fn neither_the_cutting_nor_what_is_below_changes_a_bit() {
    let config = config("last_needed_line", &[]);
    let (rois, frames) = movie(&config, 400);
    let rows = Engine::new(&config, &rois, &shape(), 0).expect("an engine").geometry().expect("pixels").height_px;
    let lowest = rois.rois.iter().flat_map(|roi| &roi.pixels).map(|pixel| pixel.row).max().expect("pixels") as usize;
    // Masks, annuli, and the largest shift: 15 % of the rows that are looked at.
    assert!(rows > lowest + 15 * rows / 100 && rows < 170, "{rows} rows, the lowest mask on {lowest}");
    let whole = session(&config, &rois, &frames, GEOMETRY.height_px, None, false);
    assert!(whole.iter().filter(|step| step.decision.verdict() == FrameVerdict::Decided).count() >= 390);
    let whole = decisions(&whole);
    for (strip_rows, below) in [(1, None), (16, None), (37, Some(0)), (100, Some(255))] {
        for looks_ahead in [false, true] {
            let cut = session(&config, &rois, &frames, strip_rows, below, looks_ahead);
            assert!(decisions(&cut) == whole, "strips of {strip_rows}, {looks_ahead}");
        }
    }
    let by_default = Engine::new(&self::config("frame", &[]), &rois, &shape(), 0).expect("an engine").geometry();
    assert_eq!(by_default, Some(GEOMETRY), "the whole frame is waited for");
}

/// Root mean square of what registration is off by, rows and columns, in pixels, behind the baseline.
fn error_px(steps: &[Arc<Published>], frames: &[Frame]) -> (f64, f64) {
    let mut squares = (0.0, 0.0, 0.0);
    for step in steps.iter().filter(|step| step.decision.has_pixels) {
        let index = step.input.frame_index as usize;
        if index < BASELINE_FRAMES as usize || step.decision.verdict() != FrameVerdict::Decided {
            continue;
        }
        let (d, (dy_px, dx_px)) = (&step.decision, frames[index].1);
        squares.0 += (d.dy_px + d.offset_dy_px - dy_px).powi(2);
        squares.1 += (d.dx_px + d.offset_dx_px - dx_px).powi(2);
        squares.2 += 1.0;
    }
    ((squares.0 / squares.2).sqrt(), (squares.1 / squares.2).sqrt())
}

#[test]
fn how_much_precision_the_lower_rows_are_worth_is_told() {
    let (rois, frames) = movie(&config("frame", &[]), 700);
    let mut found = Vec::new();
    for decide in ["frame", "last_needed_line"] {
        let config = config(decide, &[]);
        let rows = Engine::new(&config, &rois, &shape(), 0).expect("an engine").geometry().expect("pixels").height_px;
        let (dy_px, dx_px) = error_px(&session(&config, &rois, &frames, 32, None, true), &frames);
        println!(
            "{decide}: {rows} of {} rows, registration off by {dy_px:.4} and {dx_px:.4} px (rms)",
            GEOMETRY.height_px
        );
        found.push((rows as f64, dy_px.hypot(dx_px)));
    }
    let (whole, upper) = (found[0], found[1]);
    // Noise that falls with the root of the pixels would give 1.2; the window also loses its margins.
    assert!(upper.1 < 2.0 * whole.1 && upper.1 < 0.1, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_is_decided_before_its_lower_strips_are_sent() {
    let config = config("last_needed_line", &["engine.overload=every", "record.frames=all", "record.frames_queue=300"]);
    let (rois, frames) = movie(&config, 250);
    let rows = Engine::new(&config, &rois, &shape(), 0).expect("an engine").geometry().expect("pixels").height_px;
    let mut service = Service::start(config).await;
    let header =
        v1::StreamHeader { height_px: GEOMETRY.height_px as u32, width_px: GEOMETRY.width_px as u32, ..header() };
    let mut stream = service.open(&rois, header).await;
    let command = service.header();
    service.control.start_baseline(v1::StartBaselineRequest { command }).await.expect("it starts");
    let row_bytes = 2 * GEOMETRY.width_px;
    for (index, (bytes, _)) in frames.iter().enumerate() {
        let mut acknowledged = false;
        for row in (0..GEOMETRY.height_px).step_by(16) {
            let frame = v1::Frame {
                index: index as u64,
                device_ns: meta(index).device_ns,
                row_offset_px: row as u32,
                row_count_px: 16,
                pixels: bytes[row * row_bytes..(row + 16) * row_bytes].to_vec().into(),
                ..v1::Frame::default()
            };
            stream.push(frame).await;
            if row < rows && row + 16 >= rows {
                let ack = stream.ack().await;
                assert_eq!((ack.index, ack.verdict()), (index as u64, FrameVerdict::Decided), "{}", ack.reason);
                acknowledged = true;
            }
        }
        assert!(acknowledged);
    }
    // A frame whose lower strips never come was decided all the same; one whose upper strips do not is refused.
    for (index, rows_sent, verdict) in [(250, rows, FrameVerdict::Decided), (251, 16, FrameVerdict::Refused)] {
        let pixels = frames[0].0[..rows_sent * row_bytes].to_vec().into();
        let frame = v1::Frame { index, row_count_px: rows_sent as u32, pixels, ..v1::Frame::default() };
        stream.push(frame).await;
        if verdict == FrameVerdict::Refused {
            let pixels = frames[0].0.clone().into();
            stream.push(v1::Frame { index: 252, pixels, ..v1::Frame::default() }).await;
        }
        let ack = stream.ack().await;
        assert_eq!((ack.index, ack.verdict()), (index, verdict), "{}", ack.reason);
    }
    assert_eq!(stream.ack().await.index, 252);
    let report = verified(&service.stop_session().await);
    assert!(report.frames_from_pixels >= 252, "recomputed from the rows that were kept: {report:?}");
    service.end().await;
}
