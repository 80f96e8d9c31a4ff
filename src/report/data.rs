//! What a report is made of: plain values, no invariants. The caller fills them from the session's journal.

use crate::frame::{Geometry, Image};

/// A whole session, as the report shows it. `SessionReport::default()` is an empty session, and renders.
#[derive(Debug, Clone, Default)]
pub struct SessionReport {
    /// Heading of the page, for instance the experiment's name.
    pub title: String,
    /// The rig that ran the session.
    pub rig: String,
    /// The session's name (its directory).
    pub session: String,
    /// Wall time of the start, as text, with its zone.
    pub started_wall: String,
    /// Duration of the session, in seconds of the frames' clock.
    pub duration_s: f64,
    /// Frames a second of the control plane.
    pub frame_rate_hz: f64,
    /// Versions, hashes and seed.
    pub provenance: Provenance,
    /// Size of a frame, where pixels were seen.
    pub geometry: Option<Geometry>,
    /// The planes that were read; one where the microscope integrated ROIs itself.
    pub planes: Vec<Plane>,
    /// All regions of interest.
    pub rois: Vec<Roi>,
    /// One row for each decided frame, in order of time.
    pub frames: Vec<FrameRow>,
    /// dF/F of the ensemble's ROIs, one sample for each row of `frames`.
    pub traces: Vec<Trace>,
    /// The calibration from the baseline, where a task was run.
    pub calibration: Option<Calibration>,
    /// The orientation that is the target of the feedback, in degrees.
    pub target_deg: f64,
    /// Trials in order.
    pub trials: Vec<TrialRow>,
    /// What was sent to the devices, and what became of it.
    pub triggers: Triggers,
    /// What became of the frames that came in.
    pub frame_counts: FrameCounts,
    /// Latency from a frame's last byte to its decision (or to its trigger), in microseconds.
    pub latency: Option<StageLatency>,
    /// Latency of each stage, in the order of the data.
    pub stages: Vec<StageLatency>,
    /// Histogram of the end-to-end latency. Where it is missing it is made from the rows of `frames`.
    pub latency_histogram: Option<LatencyHistogram>,
    /// What the operator should know, one sentence each.
    pub warnings: Vec<String>,
    /// Set when no animal learned in front of this feedback (a stand-in did, or a recording was played): a sentence
    /// that says so, shown plainly at the top.
    pub stand_in_learner: Option<String>,
}

/// What made the session, so that it can be made again.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// Version of the software.
    pub version: String,
    /// Commit that it was built from.
    pub commit: String,
    /// Hash of the resolved configuration.
    pub config_hash: String,
    /// Seed of everything that is random.
    pub seed: u64,
    /// Further facts, name and value.
    pub extra: Vec<(String, String)>,
}

/// What a ROI is to the cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// P+: its activity turns the grating towards the target.
    Plus,
    /// P-: its activity turns the grating away from the target.
    Minus,
    /// Recorded, but not part of the cursor.
    #[default]
    Other,
}

/// Where a ROI is in the frame.
#[derive(Debug, Clone)]
pub enum RoiShape {
    /// Its pixels, `[row, column]`.
    Pixels(Vec<[u32; 2]>),
    /// A closed polygon, `[row, column]`, in pixels; the middle of the first pixel is at 0.5.
    Outline(Vec<[f32; 2]>),
}

/// A region of interest.
#[derive(Debug, Clone)]
pub struct Roi {
    /// Number by which the configuration and the journal call it.
    pub id: u32,
    /// Name, or empty.
    pub name: String,
    /// Its part in the cursor.
    pub role: Role,
    /// Its plane's number.
    pub plane: u32,
    /// Its pixels or its outline.
    pub shape: RoiShape,
    /// Its centre, `[row, column]`, in pixels.
    pub centre_px: [f32; 2],
}

/// One plane.
#[derive(Debug, Clone, Default)]
pub struct Plane {
    /// Its number.
    pub number: u32,
    /// Its mean image (or its template), where pixels were seen.
    pub mean_image: Option<Image>,
    /// How its template lies on the reference of its ROIs.
    pub template: Option<TemplateFit>,
}

/// How a plane's template lies on the reference of its ROIs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TemplateFit {
    /// Offset in rows, in pixels.
    pub dy_px: f32,
    /// Offset in columns, in pixels.
    pub dx_px: f32,
    /// Score of the fit, 0 to 1.
    pub score: f32,
}

/// What the session was doing at a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Phase {
    /// No task is running.
    #[default]
    Idle,
    /// Recording the baseline.
    Baseline,
    /// The grey start of a trial.
    Start,
    /// The animal controls the grating.
    Control,
    /// The grating is held at the target after a hit.
    HitHold,
    /// The grating is held at the far end after an aversive end.
    AversiveHold,
    /// Between trials.
    Iti,
    /// Paused by a gap or by the operator.
    Paused,
}

/// One decided frame. A float that is not known is NaN.
#[derive(Debug, Clone, Copy, Default)]
pub struct FrameRow {
    /// The frame's index in its stream.
    pub index: u64,
    /// Time since the session's start, in seconds.
    pub time_s: f64,
    /// Shift in rows against the template, in pixels.
    pub dy_px: f32,
    /// Shift in columns against the template, in pixels.
    pub dx_px: f32,
    /// Score of the registration's fit, 0 to 1.
    pub score: f32,
    /// The cursor z: smoothed x minus `range_low`, in dF/F.
    pub cursor: f32,
    /// The rotation that the cursor asks for, in degrees: 0 at `range_low`, 90 at the threshold.
    pub rotation_deg: f32,
    /// The orientation of the grating on the screen, in degrees; none while the screen is grey or black.
    pub shown_deg: Option<f32>,
    /// What the session was doing.
    pub phase: Phase,
    /// A reward was ordered at this frame.
    pub reward: bool,
    /// From the frame's last byte to its decision, in microseconds.
    pub latency_us: Option<f32>,
    /// Registration doubts this frame; the cursor was held.
    pub doubted: bool,
}

/// dF/F of one ROI.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The ROI's number.
    pub roi_id: u32,
    /// Its part in the cursor.
    pub role: Role,
    /// dF/F as a fraction, one sample for each row of [`SessionReport::frames`]; not finite where the ROI was invalid.
    pub dff: Vec<f32>,
}

/// What the baseline said, in the units of x (dF/F).
#[derive(Debug, Clone, Default)]
pub struct Calibration {
    /// The value of x at which the target is reached.
    pub threshold: f64,
    /// The lowest x of the baseline: rotation 0.
    pub range_low: f64,
    /// Mean of the mirrored lower half.
    pub mu_half: f64,
    /// Standard deviation of the mirrored lower half.
    pub sigma_half: f64,
    /// Difficulty, (threshold - mu_half) / sigma_half.
    pub z_half: f64,
    /// Fraction of baseline segments that reach the threshold by chance, 0 to 1.
    pub chance_fraction: f64,
    /// x in the baseline, for its distribution; empty where it was not kept.
    pub baseline_x: Vec<f32>,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// The cursor reached the target.
    Hit,
    /// The cursor fell below the range.
    Aversive,
    /// Time ran out.
    Miss,
    /// It had not ended when the session did.
    #[default]
    Open,
}

/// What became of a trial's reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RewardFate {
    /// None was intended.
    #[default]
    None,
    /// Sent; no answer was asked for or came yet.
    Sent,
    /// Sent and acknowledged by the device.
    Acknowledged,
    /// Sent, never answered: counts as delivered.
    Unknown,
    /// Refused by the limits.
    Refused,
    /// Not delivered: it could not be written, or the device refused it.
    Failed,
}

/// One trial.
#[derive(Debug, Clone, Copy, Default)]
pub struct TrialRow {
    /// Its number, from 1.
    pub number: u32,
    /// Index of its first frame.
    pub start_frame: u64,
    /// Index of its last frame.
    pub end_frame: u64,
    /// Time of its first frame, in seconds since the session's start.
    pub start_s: f64,
    /// Time of its last frame (the outcome), in seconds since the session's start.
    pub end_s: f64,
    /// How it ended.
    pub outcome: Outcome,
    /// What became of its reward.
    pub reward: RewardFate,
}

/// What became of a trigger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TriggerFate {
    /// Sent, not yet answered.
    #[default]
    Sent,
    /// Acknowledged by the device.
    Acknowledged,
    /// Sent and never answered: counts as delivered.
    Unknown,
    /// Refused by the limits; nothing was sent.
    Refused,
    /// Not delivered: it could not be written, or the device refused it.
    Failed,
}

/// One trigger.
#[derive(Debug, Clone, Default)]
pub struct TriggerRow {
    /// Its identity, segment and sequence.
    pub id: String,
    /// Index of the frame that ordered it.
    pub frame: u64,
    /// Time since the session's start, in seconds.
    pub time_s: f64,
    /// The output, for instance `reward`.
    pub output: String,
    /// Width of the pulse, in milliseconds.
    pub pulse_width_ms: f64,
    /// What became of it.
    pub fate: TriggerFate,
    /// Why it was refused, or what the device said; may be empty.
    pub note: String,
}

/// All triggers of a session.
#[derive(Debug, Clone, Default)]
pub struct Triggers {
    /// Intents of the engine.
    pub intended: u64,
    /// Sent to a device.
    pub sent: u64,
    /// Acknowledged by a device.
    pub acknowledged: u64,
    /// Sent and never answered.
    pub unknown: u64,
    /// Refused by the limits.
    pub refused: u64,
    /// Of those sent, the rewards.
    pub rewards_sent: u64,
    /// Of those acknowledged, the rewards.
    pub rewards_acknowledged: u64,
    /// One row for each trigger.
    pub list: Vec<TriggerRow>,
}

/// What became of the frames that came in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Frames that the source delivered.
    pub received: u64,
    /// Frames that the engine decided.
    pub decided: u64,
    /// Frames that were skipped under load, or never came.
    pub skipped: u64,
    /// Frames that were refused (wrong size, torn, out of order).
    pub refused: u64,
}

/// Latency of one stage, in microseconds. A percentile above which too few stand to say anything is not a number.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StageLatency {
    /// The stage.
    pub name: String,
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// Largest.
    pub max_us: f64,
    /// How many frames were measured.
    pub count: u64,
}

/// A histogram whose bins are set by their edges.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LatencyHistogram {
    /// Edges of the bins in microseconds, rising, one more than `counts`.
    pub edges_us: Vec<f64>,
    /// Frames in each bin.
    pub counts: Vec<u64>,
}
