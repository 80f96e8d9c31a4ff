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

mod clock;
mod commands;
mod decision;
mod driver;
mod frames;
mod input;
mod realtime;
mod state;

pub use clock::{Clock, HostClock, ManualClock};
pub use decision::{
    CommandOutcome, Decision, Event, EventKind, FixedList, FrameVerdict, InputKind, NoProbe, Probe, Stage, Step, Timing,
};
pub use driver::{Driver, InputSummary, LimitTime, RecordSink, report_of};
pub use input::{Command, DeviceReport, ENSEMBLE_MAX, Input, RoiIds, Sampled, SkipReason};
pub use realtime::{
    Continuation, Flags, FrameItem, PublisherEnds, Realtime, RealtimeSettings, Record, ServiceEnds, Snapshot,
    ThreadEnds, UsedFrame, ValuesSlot, rings,
};
pub use state::EngineStateError;

pub use crate::config::Overload;

use serde::{Deserialize, Serialize};

use crate::activity::Activity;
use crate::config::RigConfig;
use crate::config::outputs::RewardDevice;
use crate::config::sample::{NeuropilCoefficient, NeuropilWord};
use crate::decode::feedback::Feedback;
use crate::decode::{Decoder, EnsembleError, Ensembles};
use crate::frame::{Geometry, PixelType};
use crate::register::{RegisterError, Rigid};
use crate::sample::{PixelBox, RoiSet, SampleBuffer, SampleError, Sampler};
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
    /// The masks cannot be sampled.
    #[error(transparent)]
    Sampler(#[from] SampleError),
    /// P+ and P- do not fit the ROIs.
    #[error(transparent)]
    Ensembles(#[from] EnsembleError),
    /// The reference image cannot be used.
    #[error("the ROIs' reference image: {0}")]
    Reference(#[from] RegisterError),
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
    offset: Option<crate::register::TemplateOffset>,
    roi_valid: Vec<bool>,
    cursor: f64,
    rotation_deg: f64,
    step: usize,
    screen: crate::task::Screen,
    shown_deg: Option<f64>,
    task_state: TaskState,
    phase_frame: u32,
}

/// The pixels' part of the way of a frame; absent where the microscope integrates ROIs itself.
struct PixelPath {
    rigid: Rigid,
    sampler: Sampler,
    samples: SampleBuffer,
    has_reference: bool,
    has_neuropil: bool,
    /// Columns by which odd lines may at most be read aside.
    aside_px: u32,
    /// Empty where the offset is configured.
    histogram: Vec<u64>,
}

/// The engine. See the module's head.
pub struct Engine {
    stream: StreamShape,
    plane: u32,
    channel: u32,
    baseline_target: u32,
    has_task: bool,
    reward_width_us: Option<u32>,
    sync: bool,
    estimate_offset: bool,
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
    /// What registration says of odd lines, or what a record says that it said; part of its saved state.
    odd_lines_px: f64,
    decision: Decision,
}

impl Engine {
    /// An engine with every buffer that it will ever need.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub fn new(config: &RigConfig, rois: &RoiSet, stream: &StreamShape, segment: u32) -> Result<Self, EngineError> {
        let (pixels, roi_count) = match stream {
            StreamShape::Pixels { geometry, .. } => {
                let path = PixelPath::new(config, rois, *geometry)?;
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
        let (offset, estimate_offset) = detector_offset(config, stream);
        activity.set_detector_offset(offset);
        let task_config = config.task.clone().unwrap_or_default();
        let segments = config.calibration.segments as usize;
        let odd_lines_px = pixels.as_ref().map_or(0.0, |path| path.rigid.odd_lines_px());
        let engine = Self {
            stream: *stream,
            plane: config.stream.plane,
            channel: config.stream.channel,
            baseline_target: config.baseline.frames,
            has_task: config.task.is_some(),
            reward_width_us: (config.outputs.reward.device != RewardDevice::None)
                .then(|| config.outputs.reward.width_us()),
            sync: config.outputs.sync.enabled,
            estimate_offset,
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
            state: State::new(segment, roi_count, segments),
            odd_lines_px,
            decision: Decision::with_capacity(roi_count, segments),
        };
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

    /// F and neuropil of a frame whose masks lie `moved_px` from where they were drawn, and odd lines `odd_lines_px`
    /// further right, in counts; the neuropil is empty where none is measured. Changes nothing that a decision depends
    /// on. `None` without pixels.
    pub fn sample_again(
        &mut self,
        slot: &crate::frame::FrameSlot,
        moved_px: (f64, f64),
        odd_lines_px: f64,
    ) -> Option<(&[f64], &[f64])> {
        let path = self.pixels.as_mut()?;
        path.sampler.step_lines(&slot.view(), moved_px, odd_lines_px, &mut path.samples);
        let neuropil: &[f64] = if path.has_neuropil { &path.samples.f_neuropil } else { &[] };
        Some((&path.samples.f, neuropil))
    }

    /// The box around each ROI's mask and annulus, as they were drawn, with the columns to either side that odd lines
    /// may need; none without pixels. Allocates.
    pub fn roi_boxes(&self) -> Vec<PixelBox> {
        let Some(path) = &self.pixels else { return Vec::new() };
        let mut boxes = path.sampler.boxes();
        for PixelBox { cols, .. } in &mut boxes {
            *cols = cols.start.saturating_sub(path.aside_px)..cols.end.saturating_add(path.aside_px);
        }
        boxes
    }

    /// The template: the mean of the baseline's aligned frames, in counts. Allocates.
    pub fn template(&self) -> Option<crate::frame::Image> {
        self.pixels.as_ref().and_then(|path| path.rigid.template())
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
        d.offset = s.offset;
        d.detector_offset_counts = self.activity.detector_offset();
        d.odd_lines_px = self.odd_lines_px;
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

impl PixelPath {
    fn new(config: &RigConfig, rois: &RoiSet, geometry: Geometry) -> Result<Self, EngineError> {
        let nothing = RoiSet { geometry, ..RoiSet::default() };
        let rois = if rois.rois.is_empty() { &nothing } else { rois };
        if rois.geometry != geometry {
            let (source_name, got) = (rois.source.clone(), rois.geometry);
            return Err(EngineError::Geometry { source_name, got, expected: geometry });
        }
        let mut rigid = Rigid::new(&config.register, geometry);
        let mut has_reference = false;
        if let Some(reference) = &rois.reference
            && config.register.enabled
        {
            rigid.set_reference(reference)?;
            has_reference = true;
        }
        let mut sampler = Sampler::new(&config.sample, rois)?;
        let aside_px = config.register.bidirectional_phase.largest_px().ceil() as u32;
        if config.register.bidirectional_phase.is_on() {
            sampler.keep_lines_apart();
        }
        let samples = SampleBuffer::new(sampler.roi_count());
        let estimate = config.activity.detector_offset_counts.is_none();
        let histogram = if estimate { vec![0; HISTOGRAM_BINS] } else { Vec::new() };
        let has_neuropil = config.sample.neuropil_is_on();
        Ok(Self { rigid, sampler, samples, has_reference, has_neuropil, aside_px, histogram })
    }

    /// Whether there are no ROIs.
    fn is_empty(&self) -> bool {
        self.sampler.roi_count() == 0
    }

    /// Enters a frame's samples into the histogram.
    fn observe(&mut self, samples: &[u16]) {
        if !self.histogram.is_empty() {
            for &sample in samples.iter().step_by(HISTOGRAM_STRIDE) {
                self.histogram[usize::from(sample)] += 1;
            }
        }
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
