//! Triggers: the reward valve, the sync line, later the light.
//!
//! In: an [`Intent`] from the engine (which output, for how long, under which id) and the host's monotonic clock.
//! Out: bytes on a serial line, and what the board answers ([`BoardReply`]) or fails to ([`DeviceFault`]); both are
//! inputs of the engine. Units: microseconds for pulses and the board's clock, nanoseconds for the host's.
//!
//! The way of a reward: [`Limits::check`] on the host's clock, then [`Trigger::fire`] (one bounded write by the calling
//! thread), then the board opens its valve and closes it by itself. **Invariants**: an intent is sent at most once;
//! once allowed it counts as delivered for ever; the host never times a pulse; nothing here allocates after
//! construction; no call waits longer than the write timeout.
//!
//! `protocol` has the bytes, `parser` reads them, `device` is the door, `serial` the real board, `board` the board's
//! own rules as pure code, `valve` that code behind a real pseudo-terminal, `limits` the last check before the device;
//! `unrecorded` sees to it that a crash makes no more pulses forgotten than are then counted as delivered.

mod board;
#[cfg(unix)]
mod descriptor;
mod device;
mod limits;
mod parser;
mod protocol;
mod queue;
mod serial;
mod unrecorded;
#[cfg(unix)]
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a device of its own: its own clock and thread")]
mod valve;

use serde::{Deserialize, Serialize};

pub use board::{BOARD_LINES, BoardConfig, BoardCounters, BoardFault, BoardModel, BoardNote, FinishedPulse};
pub use device::{
    AckWatch, DeviceEvent, DeviceFault, FireError, NullTrigger, SimulatedTrigger, Trigger, simulated_trigger,
};
pub(crate) use limits::MINUTE_NS;
pub use limits::{LimitReason, LimitVerdict, Limits, LimitsError};
pub use parser::{CommandEvent, CommandParser, ParserCounters, ReplyParser};
pub use protocol::{
    AckStatus, BoardInfo, BoardReply, Capabilities, Command, Encoded, MESSAGE_BYTES_MAX, PROTOCOL_VERSION, PulseEnd,
    SAFE, SafeCause,
};
pub use serial::{Device, OpenError, SerialReader, SerialTrigger, open_device};
pub use unrecorded::{DurableThrough, Unrecorded};
#[cfg(unix)]
pub use valve::{ValveLogLine, ValveOptions, ValveSimulator, ValveStatistics, ValveWitness, serve_valve};

/// The name of a trigger, unique in a session. Ordered: segments first, then sequence numbers.
///
/// The segment's number is durable on the host before the segment's first trigger, so that no id is ever used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TriggerId {
    /// Number of the journal's segment; grows with every start of the service in a session.
    pub segment: u32,
    /// Number of the trigger in its segment, growing.
    pub sequence: u32,
}

impl std::fmt::Display for TriggerId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.segment, self.sequence)
    }
}

/// What a trigger acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// The valve that gives water.
    Reward,
    /// The line that marks decided frames for other recorders.
    Sync,
    /// Optogenetic light (room is kept; no device drives it yet).
    Light,
}

impl Output {
    /// The name as configuration files and messages write it.
    pub const fn name(self) -> &'static str {
        match self {
            Output::Reward => "reward",
            Output::Sync => "sync",
            Output::Light => "light",
        }
    }
}

/// Why a trigger is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The cursor reached its target.
    Hit,
    /// An operator asked for it.
    Manual,
    /// The task gives it whatever the animal does (catch, yoked and pre-training rewards).
    Scheduled,
    /// A valve or light calibration.
    Calibration,
    /// A decided frame is marked.
    FrameSync,
}

/// One wanted pulse. Sent at most once, under an id that is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Intent {
    /// Its name.
    pub id: TriggerId,
    /// What it acts on.
    pub output: Output,
    /// How long the output is on, in us.
    pub width_us: u32,
    /// Why.
    pub cause: Cause,
}
