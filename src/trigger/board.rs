//! A pulse board's own rules as pure code: what a firmware must do, and what the simulated valve does.
//!
//! In: bytes from the host at a time in us. Out: bytes to the host, open lines, finished pulses with their widths. No
//! clock, no I/O, no allocation; the same input gives the same output. Tests and replays run it on a virtual clock
//! ([`super::SimulatedTrigger`]), `ValveSimulator` on the real one behind a pseudo-terminal.
//!
//! The rules, each with a test of its name below:
//! - the board times a pulse by itself and closes it after its width;
//! - an id that is not above the last one of the same session is a duplicate, also when the last one was refused; HELLO
//!   with another session number, or a reboot, forgets the last id;
//! - width 0 or above the board's longest, an unknown line, and a line that is open are refused;
//! - no pulse opens before HELLO of the board's own version, nor after the heartbeats stopped, until they come back;
//! - HELLO, SAFE and the loss of heartbeats close every line at once.

use serde::{Deserialize, Serialize};

use super::parser::{CommandEvent, CommandParser};
use super::protocol::{
    AckStatus, BoardInfo, BoardReply, Capabilities, Command, Encoded, PROTOCOL_VERSION, PulseEnd, SafeCause,
};
use super::queue::Queue;
use super::{TriggerId, protocol};

/// Output lines of the modelled board.
pub const BOARD_LINES: usize = 4;
/// What a board makes of HELLO's heartbeat timeout, in ms: shortest and longest.
const HEARTBEAT_TIMEOUT_MS: (u16, u16) = (100, 10_000);
const OUTGOING: usize = 64;
const NOTES: usize = 64;

/// What a board is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoardConfig {
    /// The longest pulse that it accepts, in us.
    pub max_pulse_width_us: u32,
    /// What it can do.
    pub capabilities: Capabilities,
}

impl Default for BoardConfig {
    fn default() -> Self {
        let capabilities = Capabilities { timed_on_device: true, sync: true, light: false };
        Self { max_pulse_width_us: 1_000_000, capabilities }
    }
}

/// How a board misbehaves. The valve itself always keeps its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoardFault {
    /// Not at all.
    #[default]
    None,
    /// Every answer comes late.
    Slow {
        /// By so much, in us.
        delay_us: u32,
    },
    /// It never answers.
    Silent,
    /// Every answer has wrong bytes.
    Garbled {
        /// Which bytes go wrong.
        seed: u64,
    },
    /// Every TRIGGER is refused as busy.
    Refuse,
}

/// A pulse that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedPulse {
    /// The session number of the HELLO before it.
    pub session: u32,
    /// Its name.
    pub id: TriggerId,
    /// The board's line.
    pub line: u8,
    /// When it opened, on the board's clock, in us (not wrapped).
    pub start_us: u64,
    /// How long it was open, in us.
    pub width_us: u64,
    /// How it ended.
    pub end: PulseEnd,
}

/// Something that happened on the board, for logs and statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoardNote {
    /// A whole TRIGGER came.
    Trigger {
        /// The session number of the HELLO before it.
        session: u32,
        /// Its name.
        id: TriggerId,
        /// What the board said to it.
        status: AckStatus,
    },
    /// A SYNC came.
    Sync {
        /// Its number.
        sequence: u32,
    },
    /// A pulse is over.
    Pulse(FinishedPulse),
}

/// What happened since the board was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BoardCounters {
    /// Pulses that opened.
    pub opened: u64,
    /// Pulses that are over.
    pub pulses: u64,
    /// On-time of the pulses that are over, in us.
    pub open_us: u64,
    /// TRIGGERs that were not accepted.
    pub refused: u64,
    /// Of these: duplicates.
    pub duplicates: u64,
    /// SYNC pulses.
    pub syncs: u64,
    /// HELLOs.
    pub hellos: u64,
    /// HEARTBEATs.
    pub heartbeats: u64,
    /// Times that the heartbeats stopped.
    pub heartbeat_losses: u64,
    /// SAFE bytes.
    pub safe_commands: u64,
    /// Whole messages with a wrong check or value.
    pub bad_messages: u64,
    /// Messages handed to the line (not those that a silent board kept).
    pub replies: u64,
    /// Messages lost because the way to the host was full.
    pub replies_lost: u64,
    /// Notes lost because nobody took them.
    pub notes_lost: u64,
}

#[derive(Debug, Clone, Copy)]
struct OpenPulse {
    id: TriggerId,
    start_us: u64,
    width_us: u64,
}

#[derive(Debug, Clone, Copy)]
struct Outgoing {
    due_us: u64,
    message: Encoded,
}

/// The board.
#[derive(Debug, Clone)]
pub struct BoardModel {
    config: BoardConfig,
    fault: BoardFault,
    noise: u64,
    now_us: u64,
    parser: CommandParser,
    lines: [Option<OpenPulse>; BOARD_LINES],
    session: Option<u32>,
    last_id: Option<TriggerId>,
    /// Set by HELLO: how long the host may be silent.
    heartbeat_timeout_us: Option<u64>,
    /// The host is there until then; `None` before HELLO and after the heartbeats stopped.
    attended_until_us: Option<u64>,
    safe_is_reported: bool,
    outgoing: Queue<Outgoing, OUTGOING>,
    last_due_us: u64,
    notes: Queue<BoardNote, NOTES>,
    counters: BoardCounters,
}

impl BoardModel {
    /// A board just switched on: everything closed, clock at 0.
    pub fn new(config: BoardConfig) -> Self {
        Self {
            config,
            fault: BoardFault::None,
            noise: 0,
            now_us: 0,
            parser: CommandParser::new(),
            lines: [None; BOARD_LINES],
            session: None,
            last_id: None,
            heartbeat_timeout_us: None,
            attended_until_us: None,
            safe_is_reported: false,
            outgoing: Queue::new(),
            last_due_us: 0,
            notes: Queue::new(),
            counters: BoardCounters::default(),
        }
    }

    /// Misbehave from now on.
    pub fn set_fault(&mut self, fault: BoardFault) {
        self.fault = fault;
        if let BoardFault::Garbled { seed } = fault {
            self.noise = seed;
        }
    }

    /// Bytes from the host arrive at `now_us`. What was due before is done first.
    pub fn receive(&mut self, bytes: &[u8], now_us: u64) {
        self.advance(now_us);
        for &byte in bytes {
            match self.parser.push(byte) {
                Some(CommandEvent::Command(command)) => self.obey(command),
                Some(CommandEvent::Bad { command }) => {
                    self.counters.bad_messages += 1;
                    self.answer(BoardReply::Nak { command });
                }
                None => {}
            }
        }
    }

    /// Time goes on: pulses close, and the heartbeat watch runs out, in the order of their times. A pulse that is due
    /// at the very moment at which the watch runs out ends by its own timer.
    pub fn advance(&mut self, now_us: u64) {
        loop {
            let pulse_us = self.lines.iter().flatten().map(OpenPulse::due_us).min().filter(|&due| due <= now_us);
            let watch_us = self.attended_until_us.filter(|&due| due <= now_us);
            match (pulse_us, watch_us) {
                (None, None) => break,
                (Some(pulse_us), watch_us) if watch_us.is_none_or(|watch_us| pulse_us <= watch_us) => {
                    self.now_us = self.now_us.max(pulse_us);
                    self.close(PulseEnd::Timed, |pulse| pulse.due_us() <= pulse_us);
                }
                (_, Some(watch_us)) => {
                    self.now_us = self.now_us.max(watch_us);
                    self.attended_until_us = None;
                    self.counters.heartbeat_losses += 1;
                    self.close(PulseEnd::HeartbeatLost, |_| true);
                    self.answer(BoardReply::Safe { cause: SafeCause::HeartbeatLost, clock_us: self.clock_us() });
                }
                (Some(_), None) => break,
            }
        }
        self.now_us = self.now_us.max(now_us);
    }

    /// Moves answers that are due at `now_us` into `buffer`, whole messages only; gives the bytes moved. Call until 0.
    pub fn take_output(&mut self, now_us: u64, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        while let Some(next) = self.outgoing.front().filter(|next| next.due_us <= now_us) {
            let bytes = next.message.as_slice();
            let Some(place) = buffer.get_mut(filled..filled + bytes.len()) else {
                break;
            };
            place.copy_from_slice(bytes);
            filled += bytes.len();
            self.outgoing.pop();
            self.counters.replies += 1;
        }
        filled
    }

    /// When [`Self::advance`] or [`Self::take_output`] next has something to do, in us of the board's clock.
    pub fn next_deadline_us(&self) -> Option<u64> {
        let pulses = self.lines.iter().flatten().map(OpenPulse::due_us);
        pulses.chain(self.attended_until_us).chain(self.outgoing.front().map(|next| next.due_us)).min()
    }

    /// The oldest note that nobody took yet.
    pub fn take_note(&mut self) -> Option<BoardNote> {
        self.notes.pop()
    }

    /// Whether a line is open.
    pub fn is_open(&self, line: usize) -> bool {
        self.lines.get(line).is_some_and(Option::is_some)
    }

    /// What happened so far.
    pub fn counters(&self) -> BoardCounters {
        self.counters
    }

    fn obey(&mut self, command: Command) {
        if command != Command::Safe {
            self.safe_is_reported = false;
        }
        match command {
            Command::Hello { version, heartbeat_timeout_ms, session } => {
                self.hello(version, heartbeat_timeout_ms, session);
            }
            Command::Trigger { line, id, width_us } => self.trigger(line, id, width_us),
            Command::Sync { sequence } => {
                self.counters.syncs += 1;
                self.note(BoardNote::Sync { sequence });
            }
            Command::Heartbeat { counter } => {
                self.counters.heartbeats += 1;
                self.attend();
                self.answer(BoardReply::Heartbeat { counter, clock_us: self.clock_us() });
            }
            Command::Safe => {
                self.counters.safe_commands += 1;
                self.close(PulseEnd::Safe, |_| true);
                // A line that is stuck or full of 0xFF must not fill the way back with reports.
                if !std::mem::replace(&mut self.safe_is_reported, true) {
                    self.answer(BoardReply::Safe { cause: SafeCause::Commanded, clock_us: self.clock_us() });
                }
            }
        }
    }

    fn hello(&mut self, version: u8, heartbeat_timeout_ms: u16, session: u32) {
        self.counters.hellos += 1;
        self.close(PulseEnd::Safe, |_| true);
        if self.session.replace(session) != Some(session) {
            self.last_id = None;
        }
        let timeout_ms = heartbeat_timeout_ms.clamp(HEARTBEAT_TIMEOUT_MS.0, HEARTBEAT_TIMEOUT_MS.1);
        self.heartbeat_timeout_us = (version == PROTOCOL_VERSION).then_some(u64::from(timeout_ms) * 1_000);
        self.attended_until_us = None;
        self.attend();
        let board = BoardInfo {
            version: PROTOCOL_VERSION,
            capabilities: self.config.capabilities,
            max_pulse_width_us: self.config.max_pulse_width_us,
        };
        self.answer(BoardReply::Hello { board, clock_us: self.clock_us() });
    }

    fn attend(&mut self) {
        if let Some(timeout_us) = self.heartbeat_timeout_us {
            self.attended_until_us = Some(self.now_us + timeout_us);
        }
    }

    fn trigger(&mut self, line: u8, id: TriggerId, width_us: u32) {
        let status = self.judge(line, id, width_us);
        self.last_id = self.last_id.max(Some(id));
        if status == AckStatus::Accepted {
            if let Some(place) = self.lines.get_mut(usize::from(line)) {
                *place = Some(OpenPulse { id, start_us: self.now_us, width_us: u64::from(width_us) });
            }
            self.counters.opened += 1;
        } else {
            self.counters.refused += 1;
            self.counters.duplicates += u64::from(status == AckStatus::Duplicate);
        }
        self.note(BoardNote::Trigger { session: self.session.unwrap_or(0), id, status });
        self.answer(BoardReply::Ack { id, status, clock_us: self.clock_us() });
    }

    fn judge(&self, line: u8, id: TriggerId, width_us: u32) -> AckStatus {
        if self.last_id.is_some_and(|last_id| id <= last_id) {
            return AckStatus::Duplicate;
        }
        let Some(place) = self.lines.get(usize::from(line)) else {
            return AckStatus::RefusedLine;
        };
        if self.attended_until_us.is_none() {
            return AckStatus::RefusedUnattended;
        }
        if width_us == 0 || width_us > self.config.max_pulse_width_us {
            return AckStatus::RefusedWidth;
        }
        if place.is_some() || self.fault == BoardFault::Refuse {
            return AckStatus::RefusedBusy;
        }
        AckStatus::Accepted
    }

    fn close(&mut self, end: PulseEnd, which: impl Fn(&OpenPulse) -> bool) {
        for line in 0..BOARD_LINES {
            let Some(pulse) = self.lines[line].take_if(|pulse| which(pulse)) else {
                continue;
            };
            let width_us = self.now_us.saturating_sub(pulse.start_us).min(pulse.width_us);
            self.counters.pulses += 1;
            self.counters.open_us += width_us;
            let (session, id) = (self.session.unwrap_or(0), pulse.id);
            let finished = FinishedPulse { session, id, line: line as u8, start_us: pulse.start_us, width_us, end };
            self.note(BoardNote::Pulse(finished));
            let clock_us = self.clock_us();
            self.answer(BoardReply::Done { id, width_us: width_us as u32, end, clock_us });
        }
    }

    fn answer(&mut self, reply: BoardReply) {
        let mut message = reply.encode();
        let delay_us = match self.fault {
            BoardFault::Silent => return,
            BoardFault::Slow { delay_us } => u64::from(delay_us),
            BoardFault::Garbled { .. } => {
                self.garble(&mut message);
                0
            }
            BoardFault::None | BoardFault::Refuse => 0,
        };
        // Answers keep their order when a slow board becomes quick.
        self.last_due_us = self.last_due_us.max(self.now_us + delay_us);
        if !self.outgoing.push(Outgoing { due_us: self.last_due_us, message }) {
            self.counters.replies_lost += 1;
        }
    }

    fn note(&mut self, note: BoardNote) {
        if !self.notes.push(note) {
            self.counters.notes_lost += 1;
        }
    }

    fn garble(&mut self, message: &mut Encoded) {
        // One byte always goes wrong, others perhaps.
        let sure = self.random() as usize % message.as_slice().len();
        for place in 0..message.as_slice().len() {
            let random = self.random();
            if place == sure || random.is_multiple_of(8) {
                message.flip(place, 1 << (random >> 8 & 7));
            }
        }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.noise = self.noise.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.noise;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// The board's clock as the wire carries it: it wraps.
    fn clock_us(&self) -> u32 {
        self.now_us as u32
    }
}

impl OpenPulse {
    fn due_us(&self) -> u64 {
        self.start_us + self.width_us
    }
}

const _: () = assert!(HEARTBEAT_TIMEOUT_MS.1 <= protocol::HEARTBEAT_TIMEOUT_MS_MAX);

#[cfg(test)]
mod tests {
    use super::super::parser::ReplyParser;
    use super::*;

    const HELLO: Command = Command::Hello { version: PROTOCOL_VERSION, heartbeat_timeout_ms: 500, session: 9 };

    fn id(segment: u32, sequence: u32) -> TriggerId {
        TriggerId { segment, sequence }
    }

    fn open(sequence: u32, width_us: u32) -> Command {
        Command::Trigger { line: 0, id: id(1, sequence), width_us }
    }

    fn replies(board: &mut BoardModel, now_us: u64) -> Vec<BoardReply> {
        board.advance(now_us);
        let (mut parser, mut found, mut buffer) = (ReplyParser::new(), Vec::new(), [0; 64]);
        loop {
            let length = board.take_output(now_us, &mut buffer);
            if length == 0 {
                return found;
            }
            parser.feed(&buffer[..length], |reply| found.push(reply));
        }
    }

    fn say(board: &mut BoardModel, command: Command, now_us: u64) -> Vec<BoardReply> {
        board.receive(command.encode().as_slice(), now_us);
        replies(board, now_us)
    }

    fn status(board: &mut BoardModel, command: Command, now_us: u64) -> AckStatus {
        match say(board, command, now_us).last() {
            Some(BoardReply::Ack { status, .. }) => *status,
            other => panic!("expected an ACK, got {other:?}"),
        }
    }

    fn greeted() -> BoardModel {
        let mut board = BoardModel::new(BoardConfig::default());
        assert!(matches!(say(&mut board, HELLO, 0)[..], [BoardReply::Hello { .. }]));
        board
    }

    #[test]
    fn the_board_closes_a_pulse_after_its_width_by_itself() {
        let mut board = greeted();
        assert_eq!(status(&mut board, open(1, 50_000), 1_000), AckStatus::Accepted);
        assert!(replies(&mut board, 50_999).is_empty() && board.is_open(0));
        let done = BoardReply::Done { id: id(1, 1), width_us: 50_000, end: PulseEnd::Timed, clock_us: 51_000 };
        // Looked at late, it has still closed in time.
        assert_eq!(replies(&mut board, 80_000), [done]);
        assert!(!board.is_open(0));
        assert_eq!((board.counters().pulses, board.counters().open_us), (1, 50_000));
    }

    #[test]
    fn an_id_not_above_the_last_one_is_a_duplicate_also_after_a_refusal() {
        let mut board = greeted();
        assert_eq!(status(&mut board, open(5, 0), 0), AckStatus::RefusedWidth);
        assert_eq!(status(&mut board, open(5, 100), 1), AckStatus::Duplicate);
        assert_eq!(status(&mut board, open(4, 100), 1), AckStatus::Duplicate);
        assert_eq!(status(&mut board, open(6, 100), 1), AckStatus::Accepted);
        let next_segment = Command::Trigger { line: 0, id: id(2, 0), width_us: 100 };
        assert_eq!(status(&mut board, next_segment, 500), AckStatus::Accepted);
        assert_eq!(status(&mut board, open(7, 100), 700), AckStatus::Duplicate);
        assert_eq!((board.counters().opened, board.counters().duplicates), (2, 3));
    }

    #[test]
    fn hello_keeps_the_last_id_of_the_same_session_and_forgets_it_for_another() {
        let mut board = greeted();
        assert_eq!(status(&mut board, open(3, 100), 0), AckStatus::Accepted);
        say(&mut board, HELLO, 1_000);
        assert_eq!(status(&mut board, open(3, 100), 2_000), AckStatus::Duplicate);
        say(&mut board, Command::Hello { version: PROTOCOL_VERSION, heartbeat_timeout_ms: 500, session: 10 }, 3_000);
        assert_eq!(status(&mut board, open(1, 100), 4_000), AckStatus::Accepted);
    }

    #[test]
    fn widths_lines_and_open_lines_are_refused() {
        let mut board = greeted();
        assert_eq!(status(&mut board, open(1, 1_000_001), 0), AckStatus::RefusedWidth);
        let other = |line, sequence| Command::Trigger { line, id: id(1, sequence), width_us: 1_000 };
        assert_eq!(status(&mut board, other(4, 2), 0), AckStatus::RefusedLine);
        assert_eq!(status(&mut board, open(3, 1_000_000), 0), AckStatus::Accepted);
        assert_eq!(status(&mut board, open(4, 1_000), 10), AckStatus::RefusedBusy);
        assert_eq!(status(&mut board, other(1, 5), 10), AckStatus::Accepted);
    }

    #[test]
    fn no_pulse_opens_before_a_hello_of_the_same_version() {
        let mut board = BoardModel::new(BoardConfig::default());
        assert_eq!(status(&mut board, open(1, 100), 0), AckStatus::RefusedUnattended);
        say(&mut board, Command::Heartbeat { counter: 1 }, 0);
        assert_eq!(status(&mut board, open(2, 100), 0), AckStatus::RefusedUnattended);
        say(&mut board, Command::Hello { version: 2, heartbeat_timeout_ms: 500, session: 1 }, 0);
        assert_eq!(status(&mut board, open(3, 100), 0), AckStatus::RefusedUnattended);
    }

    #[test]
    fn the_loss_of_heartbeats_closes_everything_until_they_come_back() {
        let mut board = greeted();
        say(&mut board, Command::Heartbeat { counter: 1 }, 100_000);
        assert_eq!(status(&mut board, open(1, 900_000), 200_000), AckStatus::Accepted);
        assert!(replies(&mut board, 599_999).is_empty());
        let found = replies(&mut board, 700_000);
        let (end, clock_us) = (PulseEnd::HeartbeatLost, 600_000);
        let done = BoardReply::Done { id: id(1, 1), width_us: 400_000, end, clock_us };
        assert_eq!(found, [done, BoardReply::Safe { cause: SafeCause::HeartbeatLost, clock_us }]);
        assert_eq!(status(&mut board, open(2, 100), 700_000), AckStatus::RefusedUnattended);
        say(&mut board, Command::Heartbeat { counter: 2 }, 800_000);
        assert_eq!(status(&mut board, open(3, 100), 800_000), AckStatus::Accepted);
        assert_eq!(board.counters().heartbeat_losses, 1);
    }

    #[test]
    fn safe_closes_every_line_at_once_in_the_middle_of_a_message_and_is_reported_once() {
        let mut board = greeted();
        say(&mut board, open(1, 500_000), 1_000);
        say(&mut board, Command::Trigger { line: 2, id: id(1, 2), width_us: 500_000 }, 1_000);
        let half = open(3, 500_000).encode();
        board.receive(&half.as_slice()[..9], 2_000);
        board.receive(&[protocol::SAFE, protocol::SAFE, protocol::SAFE], 3_000);
        board.receive(&half.as_slice()[9..], 3_000);
        let found = replies(&mut board, 3_000);
        let done =
            |sequence| BoardReply::Done { id: id(1, sequence), width_us: 2_000, end: PulseEnd::Safe, clock_us: 3_000 };
        assert_eq!(found, [done(1), done(2), BoardReply::Safe { cause: SafeCause::Commanded, clock_us: 3_000 }]);
        assert!(!board.is_open(0) && !board.is_open(2));
        assert_eq!((board.counters().safe_commands, board.counters().opened), (3, 2));
    }

    #[test]
    fn a_wrong_check_is_answered_by_nak_and_opens_nothing() {
        let mut board = greeted();
        let mut bytes = open(1, 100).encode().as_slice().to_vec();
        bytes[6] ^= 1;
        board.receive(&bytes, 0);
        assert_eq!(replies(&mut board, 0), [BoardReply::Nak { command: 2 }]);
        assert_eq!((board.counters().opened, board.counters().bad_messages), (0, 1));
    }

    #[test]
    fn slow_silent_garbled_and_refusing_boards_keep_the_rules_of_the_valve() {
        let mut board = greeted();
        board.set_fault(BoardFault::Slow { delay_us: 30_000 });
        assert!(say(&mut board, open(1, 10_000), 0).is_empty() && board.is_open(0));
        assert_eq!(replies(&mut board, 29_999), []);
        board.set_fault(BoardFault::Silent);
        // What the slow board had said already still comes, in order.
        assert_eq!(replies(&mut board, 60_000).len(), 2);
        assert!(say(&mut board, open(2, 10_000), 60_000).is_empty() && board.is_open(0));
        board.set_fault(BoardFault::Garbled { seed: 3 });
        assert_eq!(replies(&mut board, 100_000), []);
        assert_eq!(board.counters().pulses, 2);
        board.set_fault(BoardFault::Refuse);
        assert_eq!(status(&mut board, open(3, 10_000), 100_000), AckStatus::RefusedBusy);
    }

    #[test]
    fn a_board_that_nobody_reads_counts_what_it_lost_and_goes_on() {
        let mut board = greeted();
        for counter in 0..100 {
            board.receive(Command::Heartbeat { counter }.encode().as_slice(), 10);
        }
        assert_eq!(board.counters().replies_lost, 100 - OUTGOING as u64);
        assert_eq!(replies(&mut board, 10).len(), OUTGOING);
        assert_eq!(status(&mut board, open(1, 100), 20), AckStatus::Accepted);
    }
}
