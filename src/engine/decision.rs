//! What the engine decides on one input: the record that is logged, replayed, shown, and compared bit for bit.
//!
//! A [`Decision`] is owned by the engine and filled anew at every step; the real-time thread copies it into a record
//! from its pool. [`Timing`] stands apart: the thread fills it in, the engine never reads it, nobody compares it.

use serde::{Deserialize, Serialize};

use super::input::Input;
use crate::register::{BLOCKS_MAX, FitVerdict, Registration, TemplateOffset};
use crate::task::{Calibration, Screen, TaskState};
use crate::trigger::Intent;

/// Events that one input may cause.
pub const EVENTS_MAX: usize = 24;
/// Triggers that one input may cause.
pub const INTENTS_MAX: usize = 4;

/// What kind of input it was; numbers as in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum InputKind {
    /// A frame of pixels, or its samples on replay.
    Frame = 1,
    /// Integrated ROI values.
    RoiValues = 2,
    /// A refused frame.
    Refused = 3,
    /// Skipped or missing frames.
    Skipped = 4,
    /// No frame for too long.
    Gap = 5,
    /// A command.
    Command = 6,
    /// A limit's verdict.
    Limit = 7,
    /// A device's report.
    Device = 8,
    /// The session goes on as a new segment.
    Continued = 9,
}

impl InputKind {
    /// The kind of an input.
    pub const fn of(input: &Input<'_>) -> Self {
        match input {
            Input::Frame(_) | Input::Sampled(_) => InputKind::Frame,
            Input::RoiValues { .. } => InputKind::RoiValues,
            Input::Refused { .. } => InputKind::Refused,
            Input::Skipped { .. } => InputKind::Skipped,
            Input::Gap { .. } => InputKind::Gap,
            Input::Command(_) => InputKind::Command,
            Input::Limit { .. } => InputKind::Limit,
            Input::Device(_) => InputKind::Device,
            Input::Continued { .. } => InputKind::Continued,
        }
    }
}

/// What became of a frame; numbers as in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum FrameVerdict {
    /// The input was no frame.
    #[default]
    None = 0,
    /// A decision was made on it.
    Decided = 1,
    /// A decision was made, the cursor was held.
    Doubted = 2,
    /// Refused.
    Refused = 3,
    /// Skipped.
    Skipped = 4,
    /// Of a plane or channel that the session does not read, or after its end.
    NotUsed = 5,
    /// Of a plane of which the decision falls with another plane's frame.
    Gathered = 6,
}

/// What happened; numbers as in the API, which documents `id` and `value` for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
#[allow(missing_docs, reason = "documented once, in proto/apical/v1/events.proto, under the same names")]
pub enum EventKind {
    BaselineStarted = 1,
    BaselineDone = 2,
    Calibrated = 3,
    TaskStarted = 4,
    TrialStarted = 5,
    Hit = 6,
    Aversive = 7,
    Miss = 8,
    Noise = 9,
    RewardIntended = 10,
    RewardSent = 11,
    RewardAcknowledged = 12,
    RewardUnknown = 13,
    RewardLimited = 14,
    PulseDone = 15,
    DeviceFault = 16,
    FramesSkipped = 17,
    FrameRefused = 18,
    Gap = 19,
    GapEnded = 20,
    Paused = 21,
    Resumed = 22,
    Stopped = 23,
    Aborted = 24,
    ThresholdChanged = 25,
    EnsemblesChanged = 26,
    RoiValidity = 27,
    TemplateFrozen = 28,
    CommandRefused = 29,
    Warning = 30,
    SegmentStarted = 31,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// What it happened to, as the kind says.
    pub id: u64,
    /// How much, as the kind says.
    pub value: f64,
}

/// What became of a command. Everything but `TookEffect` is a refusal that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, thiserror::Error)]
#[repr(u8)]
pub enum CommandOutcome {
    /// The input was no command.
    #[default]
    #[error("no command")]
    None = 0,
    /// It took effect.
    #[error("took effect")]
    TookEffect = 1,
    /// The session has ended.
    #[error("the session has ended; create another")]
    Ended = 2,
    /// The baseline runs.
    #[error("the baseline is being taken; wait until it is complete")]
    BaselineRuns = 3,
    /// The task runs.
    #[error("the task runs; stop it first")]
    TaskRuns = 4,
    /// There is no complete baseline.
    #[error("there is no complete baseline; start one first")]
    NoBaseline = 5,
    /// The configuration has no task.
    #[error("the configuration has no [task]; add one")]
    NoTask = 6,
    /// There is no threshold.
    #[error("there is no threshold; calibrate or set one first")]
    NoThreshold = 7,
    /// The template fits the reference image too badly.
    #[error(
        "today's template fits the ROIs' reference image too badly; look at both, then start with accept_template = \
         true"
    )]
    TemplateUntrusted = 8,
    /// Both ensembles are empty.
    #[error("both ensembles are empty; P+ needs at least one ROI")]
    NoEnsembles = 9,
    /// An ensemble names an ROI that is not there, twice, or in both populations.
    #[error("an ensemble names an ROI that does not exist, or one twice")]
    BadEnsembles = 10,
    /// A threshold that is not a number above the range's low end.
    #[error("threshold and range_low must be finite, the threshold above range_low")]
    BadThreshold = 11,
    /// The baseline is shorter than the calibration's segments.
    #[error("the baseline has fewer good frames than the calibration draws segments")]
    BaselineTooShort = 12,
    /// The calibration found no threshold above the range's low end.
    #[error("the calibration found no finite threshold above range_low; are the ensembles' cells active and valid?")]
    CalibrationFailed = 13,
    /// Nothing to pause or to resume.
    #[error("nothing to pause or resume")]
    NotRunning = 14,
    /// The configuration has no reward output.
    #[error("the configuration has no reward output ([outputs.reward])")]
    NoOutput = 15,
}

/// A list of fixed capacity; what does not fit is counted, never lost silently.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FixedList<T: Copy, const N: usize> {
    items: [Option<T>; N],
    len: usize,
    overflow: u32,
}

impl<T: Copy, const N: usize> Default for FixedList<T, N> {
    fn default() -> Self {
        Self { items: [None; N], len: 0, overflow: 0 }
    }
}

impl<T: Copy, const N: usize> FixedList<T, N> {
    /// Adds one, or counts that it did not fit.
    pub fn push(&mut self, item: T) {
        match self.items.get_mut(self.len) {
            Some(place) => {
                *place = Some(item);
                self.len += 1;
            }
            None => self.overflow += 1,
        }
    }

    /// The items, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> + '_ {
        self.items[..self.len].iter().flatten()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many did not fit.
    pub fn overflow(&self) -> u32 {
        self.overflow
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
        self.overflow = 0;
    }
}

/// What the engine decided on one input.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Number of the input.
    pub input_seq: u64,
    /// Its kind.
    pub kind: InputKind,
    /// The current frame.
    pub frame_index: u64,
    /// That frame's time, in nanoseconds of the microscope's clock.
    pub device_ns: u64,
    /// What became of the frame.
    pub verdict: FrameVerdict,
    /// Whether the frame had pixels.
    pub has_pixels: bool,
    /// What registration said of it.
    pub registration: Registration,
    /// Whether the baseline has left a template.
    pub template_frozen: bool,
    /// Where the template lies against the reference image.
    pub offset: Option<TemplateOffset>,
    /// By how many columns the content of odd lines lies to the right of the even lines', in pixels; 0 while
    /// `register.bidirectional_phase` is off.
    pub odd_lines_px: f64,
    /// By how much the brain lies deeper than the frame's template, in um, where that is known.
    pub z_drift_um: Option<f64>,
    /// How far each block of the frame lies below the frame's shift, in pixels, row after row of blocks; empty while
    /// `register.piecewise` is off.
    pub block_dy_px: Vec<f32>,
    /// How far each block lies to the right of it, in pixels.
    pub block_dx_px: Vec<f32>,
    /// The detector's offset in force, in counts.
    pub detector_offset_counts: f64,
    /// F of each ROI, in counts; empty on inputs that are no frames, as are the next six.
    pub f: Vec<f64>,
    /// Neuropil of each ROI, in counts; empty where none is measured.
    pub f_neuropil: Vec<f64>,
    /// F0 of each ROI, in counts.
    pub f0: Vec<f64>,
    /// dF/F of each ROI.
    pub dff: Vec<f64>,
    /// z-score of each ROI's dF/F against the baseline.
    pub z: Vec<f64>,
    /// Rate of each ROI: deconvolved dF/F a frame, or spikes a second; empty where the configuration asks for neither.
    pub rate: Vec<f64>,
    /// Whether each ROI's F0 stands above the floor.
    pub roi_valid: Vec<bool>,
    /// P+ minus P-; NaN where there is none.
    pub x: f64,
    /// The cursor: smoothed x minus range_low; NaN before a calibration.
    pub cursor: f64,
    /// Rotation in degrees; NaN before a calibration.
    pub rotation_deg: f64,
    /// Orientation on the screen in degrees.
    pub shown_deg: Option<f64>,
    /// What is on the screen.
    pub screen: Screen,
    /// State of the trial.
    pub state: TaskState,
    /// The trial's number, from 1; 0 before the first.
    pub trial: u64,
    /// Frames in this phase of the trial, this one included.
    pub phase_frame: u32,
    /// A sound that starts here, in seconds; 0 for none.
    pub sound_duration_s: f64,
    /// Triggers to fire.
    pub intents: FixedList<Intent, INTENTS_MAX>,
    /// What happened.
    pub events: FixedList<Event, EVENTS_MAX>,
    /// What became of a command.
    pub command: CommandOutcome,
    /// Whether `calibration` was made by this very input.
    pub calibrated: bool,
    /// The calibration in force; copied by the thread only when `calibrated`.
    pub calibration: Calibration,
}

impl Decision {
    /// A decision with room for `roi_count` ROIs and `segments` segments of a calibration.
    pub fn with_capacity(roi_count: usize, segments: usize) -> Self {
        Self {
            input_seq: 0,
            kind: InputKind::Gap,
            frame_index: 0,
            device_ns: 0,
            verdict: FrameVerdict::None,
            has_pixels: false,
            registration: Registration::none(),
            template_frozen: false,
            offset: None,
            odd_lines_px: 0.0,
            z_drift_um: None,
            block_dy_px: Vec::with_capacity(BLOCKS_MAX),
            block_dx_px: Vec::with_capacity(BLOCKS_MAX),
            detector_offset_counts: 0.0,
            f: Vec::with_capacity(roi_count),
            f_neuropil: Vec::with_capacity(roi_count),
            f0: Vec::with_capacity(roi_count),
            dff: Vec::with_capacity(roi_count),
            z: Vec::with_capacity(roi_count),
            rate: Vec::with_capacity(roi_count),
            roi_valid: Vec::with_capacity(roi_count),
            x: f64::NAN,
            cursor: f64::NAN,
            rotation_deg: f64::NAN,
            shown_deg: None,
            screen: Screen::Grey,
            state: TaskState::Idle,
            trial: 0,
            phase_frame: 0,
            sound_duration_s: 0.0,
            intents: FixedList::default(),
            events: FixedList::default(),
            command: CommandOutcome::None,
            calibrated: false,
            calibration: Calibration::with_capacity(segments),
        }
    }

    /// Copies `from` into this one without allocating, where both were made with the same capacities.
    pub fn copy_from(&mut self, from: &Decision) {
        fn fill<T: Copy>(to: &mut Vec<T>, from: &[T]) {
            to.clear();
            to.extend_from_slice(from);
        }
        let calibration = std::mem::take(&mut self.calibration);
        let lists = (
            std::mem::take(&mut self.f),
            std::mem::take(&mut self.f_neuropil),
            std::mem::take(&mut self.f0),
            std::mem::take(&mut self.dff),
            std::mem::take(&mut self.z),
            std::mem::take(&mut self.rate),
            std::mem::take(&mut self.roi_valid),
            std::mem::take(&mut self.block_dy_px),
            std::mem::take(&mut self.block_dx_px),
        );
        *self = Decision {
            f: Vec::new(),
            f_neuropil: Vec::new(),
            f0: Vec::new(),
            dff: Vec::new(),
            z: Vec::new(),
            rate: Vec::new(),
            roi_valid: Vec::new(),
            block_dy_px: Vec::new(),
            block_dx_px: Vec::new(),
            calibration: Calibration::default(),
            ..*from
        };
        let Self { f, f_neuropil, f0, dff, z, rate, roi_valid, block_dy_px, block_dx_px, .. } = &mut *self;
        (*f, *f_neuropil, *f0, *dff, *z, *rate, *roi_valid, *block_dy_px, *block_dx_px) = lists;
        fill(&mut self.f, &from.f);
        fill(&mut self.f_neuropil, &from.f_neuropil);
        fill(&mut self.f0, &from.f0);
        fill(&mut self.dff, &from.dff);
        fill(&mut self.z, &from.z);
        fill(&mut self.rate, &from.rate);
        fill(&mut self.roi_valid, &from.roi_valid);
        fill(&mut self.block_dy_px, &from.block_dy_px);
        fill(&mut self.block_dx_px, &from.block_dx_px);
        self.calibration = calibration;
        if from.calibrated {
            self.calibration.copy_from(&from.calibration);
        }
    }

    /// How far the masks were moved on the frame, down and right, in pixels, before the blocks' shifts.
    pub fn moved_px(&self) -> (f64, f64) {
        self.registration.moved_px(self.offset)
    }

    /// Whether registration doubts the frame. Without a template there is nothing to doubt it against.
    pub fn doubted(&self) -> bool {
        let beyond_doubt =
            matches!(self.registration.verdict, FitVerdict::Good | FitVerdict::Off | FitVerdict::NotReady);
        self.has_pixels && !beyond_doubt
    }
}

/// A stage of the way of a frame, as timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Stage {
    /// Rigid registration.
    Register = 0,
    /// ROI masks and neuropil.
    Sample = 1,
    /// F0, dF/F, z-score.
    Activity = 2,
    /// P+ minus P-, cursor, rotation.
    Decode = 3,
    /// The trial.
    Task = 4,
    /// Limits, and the write to the device.
    Trigger = 5,
}

impl Stage {
    /// Every stage, in the order of the way of a frame.
    pub const ALL: [Stage; 6] =
        [Stage::Register, Stage::Sample, Stage::Activity, Stage::Decode, Stage::Task, Stage::Trigger];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Register => "register",
            Stage::Sample => "sample",
            Stage::Activity => "activity",
            Stage::Decode => "decode",
            Stage::Task => "task",
            Stage::Trigger => "trigger",
        }
    }
}

/// When things happened, on the host's monotonic clock, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    /// The frame's last byte had arrived.
    pub received_host_ns: u64,
    /// The real-time thread took the input.
    pub taken_host_ns: u64,
    /// How long each stage took.
    pub stage_ns: [u64; 6],
    /// The decision stood.
    pub decided_host_ns: u64,
    /// The trigger's bytes were written; 0 without a trigger.
    pub triggered_host_ns: u64,
}

/// What one step gives: what was decided, and, apart from it, when; the thread fills the latter in.
#[derive(Debug)]
pub struct Step<'a> {
    /// What was decided.
    pub decision: &'a Decision,
    /// When; all zero until somebody with a clock fills it in.
    pub timing: Timing,
}

/// Marks the end of each stage; the door through which the thread's clock looks at the engine, and not the reverse.
pub trait Probe {
    /// The stage has just ended.
    fn mark(&mut self, stage: Stage);
}

/// A probe that does not look.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProbe;

impl Probe for NoProbe {
    fn mark(&mut self, _stage: Stage) {}
}
