//! The engine: one sequence of inputs, one pure step.
//!
//! [`Engine::step`] is a pure function of the engine's state and the input: no clock, no I/O, no randomness but what is
//! seeded in the configuration. It is the only place that calls the stages, top to bottom:
//!
//! ```text
//! frame -> register (shift) -> sample (F, Fneu) -> activity (F0, dF/F, z) -> decode (cursor) -> task -> intents
//! ```
//!
//! It owns every buffer and fills one [`Decision`], which is what is logged, replayed, shown and compared. The
//! real-time thread, the in-process replay, `verify` and the tests all call this same step. [`Engine::save`] and
//! [`Engine::load`] carry the whole state: snapshot, load, go on equals uninterrupted, bit for bit.

mod arriving;
mod clock;
mod commands;
mod decision;
mod driver;
mod frames;
mod input;
mod light;
mod lines;
mod planes;
mod realtime;
mod scheduling;
mod state;

pub use arriving::Arriving;
pub use clock::{Clock, HostClock, ManualClock, shared_clock_ns};
pub use decision::{
    CommandOutcome, Decision, Event, EventKind, FixedList, FrameVerdict, InputKind, NoProbe, Probe, Stage, Step, Timing,
};
pub use driver::{Driver, InputSummary, LimitTime, RecordSink, report_of};
pub use input::{Command, DeviceReport, ENSEMBLE_MAX, Input, RoiIds, Sampled, SkipReason};
pub use realtime::{
    Continuation, Flags, FrameItem, FramePort, HEARTBEAT_NS, PublisherEnds, Realtime, RealtimeSettings, Record,
    ServiceEnds, Snapshot, ThreadEnds, UsedFrame, ValuesSlot, Waker, rings,
};
pub use scheduling::{ThreadSetting, run_first, schedule_this_thread};
pub use state::EngineStateError;

pub use crate::config::Overload;

use serde::{Deserialize, Serialize};

use self::light::LightAnswer;
use self::lines::needed_rows;
use self::planes::{PixelPath, Volume};
use crate::activity::Activity;
use crate::config::RigConfig;
use crate::config::outputs::RewardDevice;
use crate::config::sample::{NeuropilCoefficient, NeuropilWord};
use crate::decode::feedback::Feedback;
use crate::decode::{Decoder, EnsembleError, Ensembles};
use crate::frame::{Geometry, PixelType};
use crate::register::{RegisterError, SLICES_MAX};
use crate::sample::{PixelBox, RoiSet, SampleError};
use crate::task::{Calibration, CalibrationWorkspace, Task, TaskState};
use crate::trigger::{Cause, Intent, Output, TriggerId};

/// Warning: there is no template after a baseline.
pub const WARNING_TEMPLATE: u64 = 1;
/// Warning: the template's place on the reference image is not sure.
pub const WARNING_OFFSET: u64 = 2;
/// Warning: there is no reference image.
pub const WARNING_NO_REFERENCE: u64 = 3;
/// Warning: the template was lost with the service; another baseline is needed.
pub const WARNING_TEMPLATE_LOST: u64 = 4;
/// Warning: the brain lies deeper or less deep than the template by more than `register.z_warning_um`.
pub const WARNING_Z_DRIFT: u64 = 5;

/// Bins of the histogram from which the detector's offset is estimated, one for each canonical sample value.
const HISTOGRAM_BINS: usize = 1 << 16;
/// Every so many pixels one enters that histogram.
const HISTOGRAM_STRIDE: usize = 61;

/// What a stream of frames is like, as far as the engine must know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StreamShape {
    /// Pixels.
    Pixels {
        /// Rows and columns.
        geometry: Geometry,
        /// How a pixel is stored.
        pixel_type: PixelType,
        /// What the detector gives without light, in counts, where the stream's header says so.
        detector_offset_counts: Option<f64>,
    },
    /// Integrated values of so many ROIs.
    RoiValues {
        /// How many.
        count: usize,
    },
}

/// Why no engine can be made of a configuration, a set of ROIs and a stream.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The ROIs were drawn on frames of another size.
    #[error(
        "the ROIs ({source_name}) were drawn on frames of {} x {}, expected {} x {} as the stream says",
        got.height_px, got.width_px, expected.height_px, expected.width_px
    )]
    Geometry {
        /// Where the ROIs came from.
        source_name: String,
        /// Size of the ROIs' frames.
        got: Geometry,
        /// Size of the stream's frames.
        expected: Geometry,
    },
    /// An ROI lies on a plane that is not read.
    #[error(
        "ROI {roi} ({source_name}) lies on plane {plane}, and stream.plane reads {read:?}: add the plane, or take \
             the ROI out"
    )]
    Plane {
        /// The ROI.
        roi: u32,
        /// Where the ROIs came from.
        source_name: String,
        /// Its plane.
        plane: u32,
        /// The planes that are read.
        read: Vec<u32>,
    },
    /// Frames too small for the blocks that were asked for.
    #[error("{0}")]
    Blocks(String),
    /// The masks cannot be sampled.
    #[error(transparent)]
    Sampler(#[from] SampleError),
    /// P+ and P- do not fit the ROIs.
    #[error(transparent)]
    Ensembles(#[from] EnsembleError),
    /// The z-stack cannot be used.
    #[error("register.z_stack: {0}")]
    Stack(RegisterError),
    /// As many slices make no z-stack.
    #[error(
        "register.z_stack: {got} slices of {} x {} pixels, expected 2 to {SLICES_MAX} of frames large enough to \
         register", geometry.height_px, geometry.width_px
    )]
    Slices {
        /// Slices.
        got: usize,
        /// Size of the frames.
        geometry: Geometry,
    },
    /// The reference image cannot be used.
    #[error("the ROIs' reference image: {0}")]
    Reference(#[from] RegisterError),
    /// Another day's template cannot be used.
    #[error("the template of plane {plane}: {error}")]
    Template {
        /// Of which plane.
        plane: u32,
        /// What is wrong with it.
        error: RegisterError,
    },
    /// A task without P+.
    #[error("both ensembles are empty, expected at least one ROI in ensembles.plus for a session with a [task]")]
    NoEnsembles,
}

/// Where the session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// No baseline yet, or between baseline and task.
    Idle,
    /// The baseline is being taken.
    Baseline,
    /// Trials run.
    Task,
    /// Stopped or aborted.
    Ended,
}

/// Everything small that changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    next_seq: u64,
    segment: u32,
    phase: Phase,
    paused_by_operator: bool,
    silent: bool,
    last_index: Option<u64>,
    frame_index: u64,
    device_ns: u64,
    baseline_frames: u32,
    baselines_done: u64,
    baseline_complete: bool,
    template_frozen: bool,
    next_trigger: u32,
    sync_sequence: u32,
    trial: u64,
    /// Threshold and range_low, once there are any.
    range: Option<(f64, f64)>,
    calibration: Calibration,
    volume: Volume,
    roi_valid: Vec<bool>,
    cursor: f64,
    rotation_deg: f64,
    step: usize,
    screen: crate::task::Screen,
    shown_deg: Option<f64>,
    task_state: TaskState,
    phase_frame: u32,
}

/// The engine. See the module's head.
pub struct Engine {
    stream: StreamShape,
    /// The planes that are read, in the order of the scan.
    planes: Vec<u32>,
    /// Those of them that a decision waits for, a bit each.
    needed: u32,
    channel: u32,
    baseline_target: u32,
    has_task: bool,
    reward_width_us: Option<u32>,
    sync: bool,
    light: Option<LightAnswer>,
    estimate_offset: bool,
    z_warning_um: f64,
    ensemble_scratch: Ensembles,
    pixels: Option<PixelPath>,
    activity: Activity,
    decoder: Decoder,
    feedback: Feedback,
    task: Task,
    workspace: CalibrationWorkspace,
    calibration_config: crate::config::calibration::CalibrationConfig,
    trial_frames: u32,
    state: State,
    decision: Decision,
}

impl Engine {
    /// An engine with every buffer that it will ever need.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn new(config: &RigConfig, rois: &RoiSet, stream: &StreamShape, segment: u32) -> Result<Self, EngineError> {
        let mut stream = *stream;
        let (pixels, roi_count) = match &mut stream {
            StreamShape::Pixels { geometry, .. } => {
                let checked = PixelPath::set_for(rois, *geometry)?;
                geometry.height_px = needed_rows(config, &checked, *geometry)?;
                let path = PixelPath::new(config, &checked.of_upper_rows(geometry.height_px), *geometry)?;
                (Some(path), rois.rois.len())
            }
            StreamShape::RoiValues { count } => (None, *count),
        };
        let configured = Ensembles { plus: config.ensembles.plus.clone(), minus: config.ensembles.minus.clone() };
        if config.task.is_some() && configured.plus.is_empty() && configured.minus.is_empty() {
            return Err(EngineError::NoEnsembles);
        }
        let trial_frames = config.trial_frames();
        let window = config.activity.f0_window_frames(trial_frames);
        let baseline = config.baseline.frames as usize;
        let activity = Activity::new(&config.activity, roi_count, window, baseline);
        let mut activity = match config.sample.neuropil_coefficient {
            NeuropilCoefficient::Share(share) => activity.with_neuropil(share),
            NeuropilCoefficient::Word(NeuropilWord::Estimate) => {
                activity.with_estimated_neuropil(config.activity.frame_rate_hz)
            }
        };
        let settings = activity.settings();
        let (offset, estimate_offset) = detector_offset(config, &stream);
        activity.set_detector_offset(offset);
        let task_config = config.task.clone().unwrap_or_default();
        let segments = config.calibration.segments as usize;
        let planes = config.stream.plane.as_slice().to_vec();
        let has_neuropil = pixels.is_some() && config.sample.neuropil_is_on();
        let volume = Volume::new(planes.len(), roi_count, has_neuropil);
        let mut engine = Self {
            stream,
            planes,
            needed: 1,
            channel: config.stream.channel,
            baseline_target: config.baseline.frames,
            has_task: config.task.is_some(),
            reward_width_us: (config.outputs.reward.device != RewardDevice::None)
                .then(|| config.outputs.reward.width_us()),
            sync: config.outputs.sync.enabled,
            light: config.outputs.sync.answers_light_counts.map(LightAnswer::new),
            estimate_offset,
            z_warning_um: config.register.z_warning_um,
            ensemble_scratch: Ensembles {
                plus: Vec::with_capacity(ENSEMBLE_MAX),
                minus: Vec::with_capacity(ENSEMBLE_MAX),
            },
            pixels,
            activity,
            decoder: Decoder::new(&config.decode, &configured, roi_count)?,
            feedback: Feedback::new(&task_config),
            task: Task::new(&task_config),
            workspace: CalibrationWorkspace::new(&settings, baseline, segments, 2 * ENSEMBLE_MAX),
            calibration_config: config.calibration.clone(),
            trial_frames,
            state: State::new(segment, roi_count, segments, volume),
            decision: Decision::with_capacity(roi_count, segments),
        };
        engine.take_odd_lines();
        engine.find_needed_planes();
        Ok(engine)
    }

    /// Takes one input. Nothing in here reads a clock, allocates, or fails: bad input is a value, and is recorded.
    pub fn step(&mut self, input: &Input<'_>) -> Step<'_> {
        self.step_probed(input, &mut NoProbe)
    }

    /// The same; `probe` is told when each stage ends, and tells nothing.
    pub fn step_probed(&mut self, input: &Input<'_>, probe: &mut impl Probe) -> Step<'_> {
        self.clear_decision(input);
        match input {
            Input::Frame(slot) => self.pixel_frame(slot, probe),
            Input::Sampled(sampled) => self.sampled_frame(sampled, probe),
            Input::RoiValues { meta, f } => self.values_frame(meta, f, probe),
            Input::Refused { meta, .. } => self.refused_frame(meta),
            Input::Skipped { first_index, count, .. } => self.skipped_frames(*first_index, *count),
            Input::Gap { silent_ns } => self.gap(*silent_ns),
            Input::Continued { segment, template_lost } => self.continued(*segment, *template_lost),
            Input::Command(command) => self.command(command),
            Input::Limit { id, verdict, sent } => self.limit(*id, verdict, *sent),
            Input::Device(report) => self.device(report),
        }
        self.fill_standing();
        self.state.next_seq += 1;
        Step { decision: &self.decision, timing: Timing::default() }
    }

    /// The decision of the last step.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// Number of the next input.
    pub fn next_seq(&self) -> u64 {
        self.state.next_seq
    }

    /// Baselines that are complete.
    pub fn baselines_done(&self) -> u64 {
        self.state.baselines_done
    }

    /// Whether a baseline is being taken.
    pub fn baseline_runs(&self) -> bool {
        self.state.phase == Phase::Baseline
    }

    /// Whether the session was stopped or aborted.
    pub fn has_ended(&self) -> bool {
        self.state.phase == Phase::Ended
    }

    /// Threshold and range_low in force, in units of x.
    pub fn range(&self) -> Option<(f64, f64)> {
        self.state.range
    }

    /// The current frame.
    pub fn frame_index(&self) -> u64 {
        self.state.frame_index
    }

    /// ROIs of the session.
    pub fn roi_count(&self) -> usize {
        self.state.roi_valid.len()
    }

    /// Segments of a calibration.
    pub fn segments(&self) -> usize {
        self.calibration_config.segments as usize
    }

    /// The calibration, if there is one.
    pub fn calibration(&self) -> Option<&Calibration> {
        (!self.state.calibration.segment_starts.is_empty()).then_some(&self.state.calibration)
    }

    /// x of the last calibration's baseline, frame after frame; empty before there was one.
    pub fn baseline_x(&self) -> &[f64] {
        self.workspace.x()
    }

    /// P+ and P- in force.
    pub fn ensembles(&self) -> &Ensembles {
        self.decoder.ensembles()
    }

    /// F and neuropil of the ROIs of a frame's plane as it was registered, from the pixels in `slot` in place of those
    /// in `sampled`, in counts, behind the places of these ROIs in the session's order. The neuropil is empty where
    /// none is measured. Changes nothing that a decision depends on. `None` without pixels.
    pub fn sample_again(
        &mut self,
        slot: &crate::frame::FrameSlot,
        sampled: &Sampled<'_>,
    ) -> Option<(&[u32], &[f64], &[f64])> {
        let place = self.planes.iter().position(|&plane| plane == slot.meta.plane)?;
        let path = self.pixels.as_mut()?;
        let has_neuropil = path.has_neuropil;
        let plane = path.planes.get_mut(place)?;
        let blocks = (sampled.block_dy_px, sampled.block_dx_px);
        plane.sample(&slot.view(), (&sampled.registration, sampled.offset), sampled.odd_lines_px, blocks);
        let neuropil: &[f64] = if has_neuropil { &plane.samples.f_neuropil } else { &[] };
        Some((&plane.rois, &plane.samples.f, neuropil))
    }

    /// Rows and columns that a frame must have to be decided on: fewer rows than the stream's where a decision waits
    /// for the last needed line. `None` without pixels.
    pub fn geometry(&self) -> Option<Geometry> {
        self.stream.geometry()
    }

    /// Plane by plane the box around each ROI's mask and annulus, as they were drawn, with the rows and columns to
    /// either side that odd lines and blocks may need; none without pixels. Allocates.
    pub fn roi_boxes(&self) -> Vec<(u32, PixelBox)> {
        let paths = self.pixels.iter().flat_map(|pixels| self.planes.iter().zip(&pixels.planes));
        paths.flat_map(|(&plane, path)| path.boxes().map(move |of_roi| (plane, of_roi))).collect()
    }

    /// The template of a plane: the mean of the baseline's aligned frames, in counts. Allocates.
    pub fn template(&self, plane: u32) -> Option<crate::frame::Image> {
        let place = self.planes.iter().position(|&read| read == plane)?;
        self.pixels.as_ref()?.planes.get(place)?.rigid.template()
    }

    /// The planes that are read, in the order of the scan.
    pub fn planes(&self) -> &[u32] {
        &self.planes
    }

    /// What changes with every input, at its beginning.
    fn clear_decision(&mut self, input: &Input<'_>) {
        let d = &mut self.decision;
        d.input_seq = self.state.next_seq;
        d.kind = InputKind::of(input);
        d.verdict = FrameVerdict::None;
        d.has_pixels = false;
        d.registration = crate::register::Registration::none();
        for list in [&mut d.f, &mut d.f_neuropil, &mut d.f0, &mut d.dff, &mut d.z, &mut d.rate] {
            list.clear();
        }
        d.roi_valid.clear();
        d.block_dy_px.clear();
        d.block_dx_px.clear();
        d.x = f64::NAN;
        d.sound_duration_s = 0.0;
        d.intents.clear();
        d.events.clear();
        d.command = CommandOutcome::None;
        d.calibrated = false;
    }

    /// What stands whatever the input was.
    fn fill_standing(&mut self) {
        let (s, d) = (&self.state, &mut self.decision);
        d.frame_index = s.frame_index;
        d.device_ns = s.device_ns;
        d.template_frozen = s.template_frozen;
        let plane = s.volume.plane();
        d.offset = plane.offset;
        d.detector_offset_counts = self.activity.detector_offset();
        d.odd_lines_px = plane.odd_lines_px;
        d.z_drift_um = plane.z_drift_um;
        d.cursor = s.cursor;
        d.rotation_deg = s.rotation_deg;
        d.shown_deg = s.shown_deg;
        d.screen = s.screen;
        d.state = s.task_state;
        d.trial = s.trial;
        d.phase_frame = s.phase_frame;
    }

    fn event(&mut self, kind: EventKind, id: u64, value: f64) {
        self.decision.events.push(Event { kind, id, value });
    }

    /// Wants a reward: an intent with an id that is never used again.
    fn intend_reward(&mut self, cause: Cause) -> Option<u32> {
        let width_us = self.reward_width_us?;
        let sequence = self.state.next_trigger;
        self.state.next_trigger += 1;
        let id = TriggerId { segment: self.state.segment, sequence };
        self.decision.intents.push(Intent { id, output: Output::Reward, width_us, cause });
        self.event(EventKind::RewardIntended, u64::from(sequence), f64::from(width_us) / 1e3);
        Some(sequence)
    }
}

/// The detector's offset to begin with, and whether it is to be estimated from the baseline.
fn detector_offset(config: &RigConfig, stream: &StreamShape) -> (f64, bool) {
    match stream {
        StreamShape::RoiValues { .. } => (0.0, false),
        StreamShape::Pixels { detector_offset_counts, .. } => {
            match config.activity.detector_offset_counts.or(*detector_offset_counts) {
                Some(offset) => (offset, false),
                None => (0.0, true),
            }
        }
    }
}
