//! What the engine takes: everything that can change a decision, and nothing else.
//!
//! The real-time thread numbers inputs in the order in which it takes them; this sequence is journalled, and is all
//! that a replay needs.

use serde::{Deserialize, Serialize};

use crate::frame::{FrameMeta, FrameSlot};
use crate::trigger::{LimitVerdict, TriggerId};

/// Cells that one population may have.
pub const ENSEMBLE_MAX: usize = crate::decode::ENSEMBLE_MAX;

/// One input.
#[derive(Debug)]
pub enum Input<'a> {
    /// A frame of pixels.
    Frame(&'a FrameSlot),
    /// A frame's ROI values, integrated by the microscope, in counts, detector offset removed.
    RoiValues {
        /// What the frame says of itself.
        meta: FrameMeta,
        /// One value for each ROI.
        f: &'a [f64],
    },
    /// A frame of pixels as an earlier run registered and sampled it: what a journal without raw frames replays.
    Sampled(Sampled<'a>),
    /// A frame that was refused before it became one.
    Refused {
        /// What the frame says of itself.
        meta: FrameMeta,
        /// Why; see [`crate::frame::FrameRefusal::code`].
        code: u32,
    },
    /// Frames that were skipped because newer ones were there already.
    Skipped {
        /// The first of them.
        first_index: u64,
        /// How many.
        count: u64,
        /// Why.
        reason: SkipReason,
    },
    /// No frame has come for too long.
    Gap {
        /// How long, in nanoseconds.
        silent_ns: u64,
    },
    /// The session goes on as a new segment, after the service was started again: frames are numbered anew, triggers
    /// bear the new segment's number, the trial stands still until frames come.
    Continued {
        /// The segment that begins.
        segment: u32,
        /// Whether what was learnt from the baseline's pixels is lost: there is no baseline then.
        template_lost: bool,
    },
    /// An operator's or the service's command.
    Command(&'a Command),
    /// What the limits said of an intent, on the host's clock, and whether it was written to the device.
    Limit {
        /// Of which trigger.
        id: TriggerId,
        /// Allowed, or which limit stopped it.
        verdict: LimitVerdict,
        /// False when the write to the device failed after it had been allowed.
        sent: bool,
    },
    /// What a device answered, or failed to.
    Device(DeviceReport),
}

/// Registration and samples of a frame, as recorded.
#[derive(Debug, Clone, Copy)]
pub struct Sampled<'a> {
    /// What the frame says of itself.
    pub meta: FrameMeta,
    /// What registration said.
    pub registration: crate::register::Registration,
    /// Whether the baseline had left a template after this frame.
    pub template_frozen: bool,
    /// Where the template lay against the reference image after this frame.
    pub offset: Option<crate::register::TemplateOffset>,
    /// By how many columns odd lines were read further right after this frame, in pixels.
    pub odd_lines_px: f64,
    /// By how much the brain lay deeper than the template after this frame, in um, where that was known.
    pub z_drift_um: Option<f64>,
    /// How far each block lay below the frame's shift, in pixels; empty while `register.piecewise` was off.
    pub block_dy_px: &'a [f32],
    /// How far each block lay to the right of it, in pixels.
    pub block_dx_px: &'a [f32],
    /// The detector's offset in force after this frame, in counts.
    pub detector_offset_counts: f64,
    /// F of each ROI, in counts.
    pub f: &'a [f64],
    /// Neuropil of each ROI, in counts; empty where none is measured.
    pub f_neuropil: &'a [f64],
}

/// Why frames were skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// A newer frame was there (overload policy `latest`).
    Overload,
    /// The source says so itself, or its numbers jump.
    Missing,
}

impl SkipReason {
    /// A number for the journal; it never changes its meaning.
    pub const fn code(self) -> u32 {
        match self {
            SkipReason::Overload => 1,
            SkipReason::Missing => 2,
        }
    }

    /// The reason of a number in a journal.
    pub const fn from_code(code: u32) -> Self {
        if code == 1 { SkipReason::Overload } else { SkipReason::Missing }
    }
}

/// What a device answered, or failed to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DeviceReport {
    /// It took the trigger.
    Acknowledged {
        /// Which.
        id: TriggerId,
        /// When, on its own clock, in microseconds.
        board_us: u64,
    },
    /// It refused the trigger; the code is the board's status.
    Refused {
        /// Which.
        id: TriggerId,
        /// The board's status.
        status: u8,
    },
    /// It measured the pulse.
    Done {
        /// Which.
        id: TriggerId,
        /// How long, in microseconds.
        width_us: u64,
    },
    /// It did not answer in time: the pulse counts as delivered.
    NoAnswer {
        /// Which.
        id: TriggerId,
    },
    /// It is gone, or does not take what is written.
    Fault,
}

impl DeviceReport {
    /// A number for the journal; it never changes its meaning.
    pub const fn code(&self) -> u32 {
        match self {
            DeviceReport::Acknowledged { .. } => 1,
            DeviceReport::Refused { .. } => 2,
            DeviceReport::Done { .. } => 3,
            DeviceReport::NoAnswer { .. } => 4,
            DeviceReport::Fault => 5,
        }
    }
}

/// A command, as it reaches the engine. Plain values of fixed size, so that taking one frees nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "a box would be freed on the real-time thread")]
pub enum Command {
    /// Start the baseline with the next frame.
    StartBaseline,
    /// Calibrate from the baseline.
    Calibrate,
    /// Start the task with the next frame.
    StartTask {
        /// The operator's word that an untrusted template offset may be used.
        accept_template: bool,
    },
    /// Let the trial stand still.
    Pause,
    /// Go on.
    Resume,
    /// End the session.
    Stop,
    /// End it with every output in its safe state, at once.
    Abort,
    /// Give a reward.
    ManualReward,
    /// Another threshold, in units of x.
    ChangeThreshold {
        /// T.
        threshold: f64,
        /// The range's low end, where it changes.
        range_low: Option<f64>,
    },
    /// Other ensembles.
    SetEnsembles {
        /// P+.
        plus: RoiIds,
        /// P-.
        minus: RoiIds,
    },
}

impl Command {
    /// The command's name, for records and people.
    pub const fn name(&self) -> &'static str {
        match self {
            Command::StartBaseline => "start baseline",
            Command::Calibrate => "calibrate",
            Command::StartTask { .. } => "start task",
            Command::Pause => "pause",
            Command::Resume => "resume",
            Command::Stop => "stop",
            Command::Abort => "abort",
            Command::ManualReward => "manual reward",
            Command::ChangeThreshold { .. } => "change threshold",
            Command::SetEnsembles { .. } => "set ensembles",
        }
    }
}

/// A short list of ROI ids of fixed capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoiIds {
    count: u8,
    ids: [[u16; 32]; 2],
}

impl RoiIds {
    /// A list, when it has at most [`ENSEMBLE_MAX`] ids below 65,536.
    pub fn new(ids: &[u32]) -> Option<Self> {
        if ids.len() > ENSEMBLE_MAX {
            return None;
        }
        let mut list = Self { count: ids.len() as u8, ids: [[0; 32]; 2] };
        for (place, &id) in list.ids.as_flattened_mut().iter_mut().zip(ids) {
            *place = u16::try_from(id).ok()?;
        }
        Some(list)
    }

    /// The ids, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.as_flattened().iter().take(usize::from(self.count)).map(|&id| u32::from(id))
    }
}
