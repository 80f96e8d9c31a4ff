//! A small session for tests: a synthetic animal under a small microscope, a task with short trials, a simulated board,
//! and a script of inputs in which everything happens at least once.
#![allow(dead_code, reason = "each test uses its part of it")]

pub mod counting;
#[cfg(unix)]
pub mod process;
pub mod record;
pub mod service;

use std::sync::Arc;

use apical::config::{RigConfig, load_text};
use apical::engine::{
    Command, Decision, DeviceReport, Driver, Engine, Input, InputSummary, LimitTime, ManualClock, Record, RecordSink,
    RoiIds, SkipReason, StreamShape, Timing,
};
use apical::frame::{FrameAssembly, FrameMeta, FrameSlot, Geometry, PixelType, StripMeta};
use apical::journal::Published;
use apical::sample::{ReferenceKind, Roi, RoiPixel, RoiSet};
use apical::source::SyntheticSource;
use apical::trigger::{BoardConfig, Limits, SimulatedTrigger, Trigger};

/// Rows and columns of the small microscope.
pub const SIDE_PX: usize = 96;
/// Frames of its baseline.
pub const BASELINE_FRAMES: u64 = 220;
/// Frames of the scripted session.
pub const FRAMES: u64 = 900;

/// The small session's configuration.
pub fn config(more: &[&str]) -> RigConfig {
    let text = format!(
        r#"
        [baseline]
        frames = {BASELINE_FRAMES}
        [ensembles]
        plus = [0, 2, 4]
        minus = [1, 3, 5]
        [task]
        trial_frames = 40
        start_frames = 3
        hit_hold_frames = 8
        aversive_hold_frames = 8
        iti_frames = 3
        miss_iti_frames = 9
        miss_noise_frame = 2
        [outputs.reward]
        device = "simulated"
        [outputs.sync]
        enabled = true
        [limits]
        min_interval_ms = 700.0
        [synthetic]
        height_px = {SIDE_PX}
        width_px = {SIDE_PX}
        [synthetic.anatomy]
        cells = 6
        cell_radius_px = 4.0
        margin_px = 3.0
        [synthetic.animal]
        p_plus = [0, 2, 4]
        p_minus = [1, 3, 5]
        "#
    );
    let more: Vec<String> = more.iter().map(|&s| s.to_owned()).collect();
    load_text(&text, &more).expect("the test's configuration is valid")
}

/// The ROIs that an experimenter would have drawn.
pub fn rois(source: &SyntheticSource) -> RoiSet {
    let rois = source.rois().iter().zip(0..).map(|(mask, id)| Roi {
        id,
        name: id.to_string(),
        plane: 0,
        radius_told_px: None,
        pixels: mask.pixels.iter().map(|&(row, col, weight)| RoiPixel { row, col, weight }).collect(),
    });
    RoiSet {
        geometry: source.header().geometry,
        rois: rois.collect(),
        reference: Some(source.reference()),
        reference_kind: ReferenceKind::Given,
        templates: Vec::new(),
        z_stack: Vec::new(),
        source: "synthetic".to_owned(),
    }
}

/// The small microscope's stream.
pub fn shape() -> StreamShape {
    let geometry = Geometry::new(SIDE_PX, SIDE_PX);
    StreamShape::Pixels { geometry, pixel_type: PixelType::U16, detector_offset_counts: None }
}

/// Its frames, as slots.
pub fn frames(config: &RigConfig, count: u64) -> (RoiSet, Vec<FrameSlot>) {
    let mut source = SyntheticSource::new(&config.synthetic).expect("a valid animal");
    let set = rois(&source);
    let geometry = source.header().geometry;
    let mut assembly = FrameAssembly::new(geometry, PixelType::U16, false);
    let mut bytes = Vec::new();
    let slots = (0..count).map(|_| {
        let recorded = source.next(&mut bytes);
        let mut slot = FrameSlot::new(geometry, PixelType::U16);
        let device_ns = recorded.device_ns.unwrap_or_default();
        let frame = FrameMeta { index: recorded.index, device_ns, ..FrameMeta::default() };
        assert_eq!(assembly.add(&StripMeta::whole(frame), &bytes, &mut slot), Ok(true));
        slot
    });
    let slots = slots.collect();
    (set, slots)
}

/// Keeps every record as messages.
#[derive(Default)]
pub struct Collect(pub Vec<Arc<Published>>);

impl RecordSink for Collect {
    fn record(&mut self, input: &InputSummary, decision: &Decision, timing: &Timing) {
        let record = Record { input: *input, decision: decision.clone(), timing: *timing, ticket: 0 };
        self.0.push(Published::new(&record, 0, None));
    }
}

/// A driver on a clock that stands still, with a simulated board.
pub fn driver(config: &RigConfig, rois: &RoiSet) -> Driver<ManualClock> {
    let engine = Engine::new(config, rois, &shape(), 0).expect("an engine");
    driver_of(config, engine)
}

/// The same around an engine that there is already.
pub fn driver_of(config: &RigConfig, engine: Engine) -> Driver<ManualClock> {
    let trigger = SimulatedTrigger::new(&config.outputs.reward, BoardConfig::default(), 0);
    driver_with(config, engine, Box::new(trigger))
}

/// The same with a board of the test's own.
pub fn driver_with(config: &RigConfig, engine: Engine, trigger: Box<dyn Trigger + Send>) -> Driver<ManualClock> {
    let limits = Some(Limits::new(&config.limits));
    Driver::new(engine, ManualClock::default(), limits, LimitTime::Recording, trigger, 200)
}

/// What is taken at one point of the script.
pub enum Scripted<'a> {
    /// An input.
    Take(Input<'a>),
    /// A command.
    Command(Command),
}

/// The script: baseline, calibration, task; a skipped run, a missing frame, a repeated one, a refusal, silence, a
/// pause, a manual reward, another threshold, a device's fault, and the end.
pub fn script(slots: &[FrameSlot]) -> Vec<Scripted<'_>> {
    let plus = RoiIds::new(&[0, 2, 4]).expect("three");
    let minus = RoiIds::new(&[1, 3, 5]).expect("three");
    let mut script = vec![
        Scripted::Take(Input::Frame(&slots[0])),
        Scripted::Command(Command::Calibrate),
        Scripted::Command(Command::StartBaseline),
    ];
    for slot in &slots[1..] {
        let index = slot.meta.index;
        match index {
            400 => continue,
            420..425 => {
                if index == 420 {
                    let (first_index, count, reason) = (420, 5, SkipReason::Overload);
                    script.push(Scripted::Take(Input::Skipped { first_index, count, reason }));
                }
                continue;
            }
            450 => script.push(Scripted::Command(Command::Pause)),
            455 => script.push(Scripted::Command(Command::Resume)),
            470 => script.push(Scripted::Take(Input::Gap { silent_ns: 70_000_000 })),
            480 => script.push(Scripted::Command(Command::ManualReward)),
            481 => script.push(Scripted::Command(Command::ManualReward)),
            490 => script.push(Scripted::Take(Input::Refused { meta: slot.meta, code: 1 })),
            500 => script.push(Scripted::Take(Input::Frame(&slots[499]))),
            520 => script.push(Scripted::Take(Input::Device(DeviceReport::Fault))),
            _ => {}
        }
        script.push(Scripted::Take(Input::Frame(slot)));
        match index {
            BASELINE_FRAMES => {
                script.push(Scripted::Command(Command::SetEnsembles { plus, minus }));
                script.push(Scripted::Command(Command::StartTask { accept_template: false }));
                script.push(Scripted::Command(Command::Calibrate));
                script.push(Scripted::Command(Command::StartTask { accept_template: false }));
            }
            700 => script.push(Scripted::Command(Command::ChangeThreshold { threshold: f64::NAN, range_low: None })),
            701 => script.push(Scripted::Command(Command::ChangeThreshold { threshold: 0.9, range_low: None })),
            _ => {}
        }
    }
    script.push(Scripted::Command(Command::Stop));
    script.push(Scripted::Command(Command::ManualReward));
    script
}

/// Takes a part of the script.
pub fn play(driver: &mut Driver<ManualClock>, script: &[Scripted<'_>], sink: &mut impl RecordSink) {
    for item in script {
        match item {
            Scripted::Take(Input::Frame(slot)) => driver.take(Input::Frame(slot), sink),
            Scripted::Take(Input::Skipped { first_index, count, reason }) => {
                driver.take(Input::Skipped { first_index: *first_index, count: *count, reason: *reason }, sink);
            }
            Scripted::Take(Input::Gap { silent_ns }) => driver.take(Input::Gap { silent_ns: *silent_ns }, sink),
            Scripted::Take(Input::Refused { meta, code }) => {
                driver.take(Input::Refused { meta: *meta, code: *code }, sink);
            }
            Scripted::Take(Input::Device(report)) => driver.take(Input::Device(*report), sink),
            Scripted::Take(Input::RoiValues { meta, f }) => driver.take(Input::RoiValues { meta: *meta, f }, sink),
            Scripted::Take(_) => unreachable!("the script holds no other input"),
            Scripted::Command(command) => driver.take(Input::Command(command), sink),
        }
    }
}
