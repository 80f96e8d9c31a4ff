//! The door to the devices, with a simulated board and none at all; the real one is in `serial`.
//!
//! In: intents, already allowed by the limits. Out: `Ok` when the bytes are with the operating system, or why not. No
//! call here allocates, and none waits longer than the write timeout. What a board answers comes back through
//! [`Trigger::poll`] (simulated) or through the reader thread (serial): never both.

use serde::{Deserialize, Serialize};

use super::board::{BoardConfig, BoardFault, BoardModel};
use super::parser::ReplyParser;
use super::protocol::{BoardReply, Command, Encoded, MESSAGE_BYTES_MAX, PROTOCOL_VERSION};
use super::queue::Queue;
use super::{Intent, Output, TriggerId};
use crate::config::outputs::{RewardDevice, RewardOutputConfig};

/// Why a command did not leave. The intent stays counted as delivered, and is never sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum FireError {
    /// The device has no line for this output: reconfigure.
    #[error("the device has no line for the output {}", output.name())]
    NoLine {
        /// The output.
        output: Output,
    },
    /// The port took no more bytes in time. The board drops the part that it has.
    #[error("{written} of {length} bytes went out within {timeout_ms} ms: the port is stuck or too slow")]
    WriteTimeout {
        /// Bytes that the port took.
        written: u32,
        /// Bytes of the message.
        length: u32,
        /// How long was waited, in ms.
        timeout_ms: u32,
    },
    /// The port is gone: call the operator.
    #[error("the port is gone (system error {code})")]
    PortLost {
        /// The operating system's error number, 0 where there is none.
        code: i32,
    },
}

/// What goes wrong with a device, as an input of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceFault {
    /// The port is gone; the reader has ended.
    PortLost,
    /// Bytes came that are no messages; totals since the port was opened.
    Garbled {
        /// Bytes that belong to no message.
        dropped_bytes: u64,
        /// Whole messages with a wrong check or value.
        bad_messages: u64,
    },
    /// A command did not leave.
    NotSent {
        /// The trigger.
        id: TriggerId,
        /// Why.
        error: FireError,
    },
    /// No acknowledgement came in time: the trigger is closed as `unknown` and counts as delivered.
    AckMissing {
        /// The trigger.
        id: TriggerId,
    },
}

/// What a reader hands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceEvent {
    /// The board said something.
    Reply(BoardReply),
    /// Something went wrong.
    Fault(DeviceFault),
}

/// A device that gives pulses. Called by the real-time thread.
pub trait Trigger {
    /// Sends one intent, once. The caller has asked the limits and never calls twice for the same id.
    fn fire(&mut self, intent: &Intent) -> Result<(), FireError>;
    /// Marks a decided frame. Never answered.
    fn sync(&mut self, sequence: u32) -> Result<(), FireError>;
    /// Tells the board that the host lives; due at least four times in the board's heartbeat timeout.
    fn heartbeat(&mut self, counter: u32) -> Result<(), FireError>;
    /// Switches all outputs off, ahead of everything that still waits in the port.
    fn safe(&mut self) -> Result<(), FireError>;
    /// The next answer of a device that has no reader thread; always `None` where there is one.
    fn poll(&mut self) -> Option<BoardReply>;
    /// Moves the clock of a device that has none of its own, to a time in ns that never goes back.
    fn advance(&mut self, _now_ns: u64) {}
    /// The device's name, for people.
    fn name(&self) -> &str;
}

/// The message for an intent, or why there is none.
pub(super) fn message_for(intent: &Intent, reward_line: u8) -> Result<Encoded, FireError> {
    match intent.output {
        Output::Reward => Ok(Command::Trigger { line: reward_line, id: intent.id, width_us: intent.width_us }.encode()),
        Output::Sync | Output::Light => Err(FireError::NoLine { output: intent.output }),
    }
}

/// No device: every command is taken and nothing happens.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullTrigger;

impl Trigger for NullTrigger {
    fn fire(&mut self, intent: &Intent) -> Result<(), FireError> {
        message_for(intent, 0).map(drop)
    }

    fn sync(&mut self, _sequence: u32) -> Result<(), FireError> {
        Ok(())
    }

    fn heartbeat(&mut self, _counter: u32) -> Result<(), FireError> {
        Ok(())
    }

    fn safe(&mut self) -> Result<(), FireError> {
        Ok(())
    }

    fn poll(&mut self) -> Option<BoardReply> {
        None
    }

    fn name(&self) -> &str {
        "none"
    }
}

/// How often a simulated board hears its host, in us of its own time; below the shortest heartbeat timeout.
const HEARTBEAT_US: u64 = 50_000;
/// The longest stretch of time that a simulated board lives through at once, in us.
const SILENCE_US_MAX: u64 = 600_000_000;

/// A board inside the process, on a virtual clock that the caller moves: the same calls give the same answers.
#[derive(Debug, Clone)]
pub struct SimulatedTrigger {
    board: BoardModel,
    parser: ReplyParser,
    replies: Queue<BoardReply, 128>,
    line: u8,
    now_us: u64,
    /// The caller's time at which the board's clock stood at 0.
    origin_ns: Option<u64>,
}

/// What takes the triggers where no device is to be opened: a simulated board, or nothing where none is configured.
pub fn simulated_trigger(config: &RewardOutputConfig) -> Box<dyn Trigger + Send> {
    match config.device {
        RewardDevice::None => Box::new(NullTrigger),
        RewardDevice::Serial | RewardDevice::Simulated => {
            Box::new(SimulatedTrigger::new(config, BoardConfig::default(), 0))
        }
    }
}

impl SimulatedTrigger {
    /// A board that has just answered HELLO, at 0 us. `session` as in [`Command::Hello`].
    pub fn new(config: &RewardOutputConfig, board: BoardConfig, session: u32) -> Self {
        let mut this = Self {
            board: BoardModel::new(board),
            parser: ReplyParser::new(),
            replies: Queue::new(),
            line: config.line,
            now_us: 0,
            origin_ns: None,
        };
        let heartbeat_timeout_ms = config.heartbeat_timeout_ms;
        this.send(&Command::Hello { version: PROTOCOL_VERSION, heartbeat_timeout_ms, session }.encode());
        this.replies = Queue::new();
        this
    }

    /// Moves the board's clock; pulses and the heartbeat watch end at their own times. Never goes back.
    pub fn advance_to(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
        self.board.advance(self.now_us);
        self.collect();
    }

    /// The board's clock, in us.
    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    /// The board itself: open lines and counters.
    pub fn board(&self) -> &BoardModel {
        &self.board
    }

    /// Lets the board misbehave from now on.
    pub fn set_fault(&mut self, fault: BoardFault) {
        self.board.set_fault(fault);
    }

    fn send(&mut self, message: &Encoded) {
        self.board.receive(message.as_slice(), self.now_us);
        self.collect();
    }

    fn collect(&mut self) {
        while self.board.take_note().is_some() {}
        let mut buffer = [0; 4 * MESSAGE_BYTES_MAX];
        loop {
            let length = self.board.take_output(self.now_us, &mut buffer);
            if length == 0 {
                return;
            }
            let Self { parser, replies, .. } = self;
            // A caller that never polls loses the newest answers, as with a port that nobody reads.
            parser.feed(buffer.get(..length).unwrap_or(&[]), |reply| {
                replies.push(reply);
            });
        }
    }
}

impl Trigger for SimulatedTrigger {
    fn fire(&mut self, intent: &Intent) -> Result<(), FireError> {
        self.send(&message_for(intent, self.line)?);
        Ok(())
    }

    fn sync(&mut self, sequence: u32) -> Result<(), FireError> {
        self.send(&Command::Sync { sequence }.encode());
        Ok(())
    }

    fn heartbeat(&mut self, counter: u32) -> Result<(), FireError> {
        self.send(&Command::Heartbeat { counter }.encode());
        Ok(())
    }

    fn safe(&mut self) -> Result<(), FireError> {
        self.send(&Command::Safe.encode());
        Ok(())
    }

    fn poll(&mut self) -> Option<BoardReply> {
        self.replies.pop()
    }

    /// The board hears its host in its own time: the process that moves its clock lives, however fast time passes.
    fn advance(&mut self, now_ns: u64) {
        let origin_ns = *self.origin_ns.get_or_insert(now_ns);
        let mut now_us = now_ns.saturating_sub(origin_ns) / 1_000;
        if now_us > self.now_us.saturating_add(SILENCE_US_MAX) {
            // Hours in which nothing was recorded pass as minutes.
            now_us = self.now_us + SILENCE_US_MAX;
            self.origin_ns = Some(now_ns.saturating_sub(now_us * 1_000));
        }
        while self.now_us + HEARTBEAT_US < now_us {
            self.advance_to(self.now_us + HEARTBEAT_US);
            self.send(&Command::Heartbeat { counter: 0 }.encode());
        }
        self.advance_to(now_us);
        self.send(&Command::Heartbeat { counter: 0 }.encode());
    }

    fn name(&self) -> &str {
        "simulated"
    }
}

/// Remembers which triggers have no acknowledgement yet, on the host's clock. Fixed size; 16 in flight at most.
#[derive(Debug, Clone)]
pub struct AckWatch {
    timeout_ns: u64,
    waiting: Queue<(TriggerId, u64), 16>,
}

impl AckWatch {
    /// A watch that gives up after `ack_timeout_ms`.
    pub fn new(ack_timeout_ms: u32) -> Self {
        Self { timeout_ns: u64::from(ack_timeout_ms) * 1_000_000, waiting: Queue::new() }
    }

    /// A trigger left at `host_ns`. Gives the oldest back as missing when 16 are in flight already.
    pub fn sent(&mut self, id: TriggerId, host_ns: u64) -> Option<TriggerId> {
        if self.waiting.push((id, host_ns)) {
            return None;
        }
        let oldest = self.waiting.pop().map(|(id, _)| id);
        self.waiting.push((id, host_ns));
        oldest
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.front().is_none()
    }

    /// An acknowledgement came. `false`: nobody waits for it (late, or never sent).
    pub fn answered(&mut self, id: TriggerId) -> bool {
        let mut kept = Queue::new();
        let mut found = false;
        while let Some(entry) = self.waiting.pop() {
            if entry.0 == id {
                found = true;
            } else {
                kept.push(entry);
            }
        }
        self.waiting = kept;
        found
    }

    /// The oldest trigger whose time is over at `host_ns`; call until `None`.
    pub fn expired(&mut self, host_ns: u64) -> Option<TriggerId> {
        self.waiting.front().filter(|(_, sent_ns)| host_ns.saturating_sub(*sent_ns) >= self.timeout_ns)?;
        self.waiting.pop().map(|(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Cause;
    use super::super::protocol::{AckStatus, PulseEnd};
    use super::*;

    fn reward(sequence: u32) -> Intent {
        let id = TriggerId { segment: 1, sequence };
        Intent { id, output: Output::Reward, width_us: 50_000, cause: Cause::Hit }
    }

    fn run() -> Vec<(u64, BoardReply)> {
        let mut trigger = SimulatedTrigger::new(&RewardOutputConfig::default(), BoardConfig::default(), 1);
        let mut found = Vec::new();
        for frame in 0..300_u32 {
            trigger.advance_to(u64::from(frame) * 33_333);
            trigger.heartbeat(frame).unwrap();
            if frame % 20 == 7 {
                trigger.fire(&reward(frame)).unwrap();
            }
            if frame == 150 {
                trigger.set_fault(BoardFault::Garbled { seed: 5 });
            }
            while let Some(reply) = trigger.poll() {
                found.push((trigger.now_us(), reply));
            }
        }
        assert_eq!(trigger.board().counters().pulses, 15);
        found
    }

    #[test]
    fn the_simulated_board_answers_the_same_twice() {
        let first = run();
        assert!(first.len() > 150);
        assert_eq!(first, run());
    }

    #[test]
    fn the_simulated_board_closes_its_valve_when_the_frames_stop() {
        let mut trigger = SimulatedTrigger::new(&RewardOutputConfig::default(), BoardConfig::default(), 1);
        trigger.advance_to(480_000);
        trigger.fire(&reward(1)).unwrap();
        assert!(matches!(trigger.poll(), Some(BoardReply::Ack { status: AckStatus::Accepted, .. })));
        trigger.advance_to(10_000_000);
        let end = PulseEnd::HeartbeatLost;
        let done = BoardReply::Done { id: reward(1).id, width_us: 20_000, end, clock_us: 500_000 };
        assert_eq!(trigger.poll(), Some(done));
    }

    #[test]
    fn a_trigger_without_acknowledgement_is_missing_after_the_timeout_and_once() {
        let mut watch = AckWatch::new(200);
        assert_eq!(watch.sent(reward(1).id, 0), None);
        assert_eq!(watch.sent(reward(2).id, 10), None);
        assert!(watch.answered(reward(1).id) && !watch.answered(reward(1).id));
        assert_eq!(watch.expired(200_000_009), None);
        assert_eq!(watch.expired(200_000_010), Some(reward(2).id));
        assert_eq!(watch.expired(u64::MAX), None);
        for sequence in 0..16 {
            assert_eq!(watch.sent(reward(sequence).id, 0), None);
        }
        assert_eq!(watch.sent(reward(16).id, 0), Some(reward(0).id));
    }
}
