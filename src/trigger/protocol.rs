//! The plain serial protocol between the host and a pulse board, byte by byte (prose: `docs/serial-protocol.md`).
//!
//! In: commands and replies as values. Out: their bytes, in arrays of fixed size.
//!
//! Every byte from 0x80 up begins a message; every other byte is 7 bits of data. A `u32` takes five data bytes, highest
//! first (4 + 7 + 7 + 7 + 7 bits). Every message but SAFE ends with a check of three data bytes (2 + 7 + 7 bits): the
//! CRC of the message's bytes before it, polynomial 0x1021, start value 0, highest bit first (XMODEM; avr-libc's
//! `_crc_xmodem_update`). A byte >= 0x80 in the middle of a message abandons that message and begins its own.
//!
//! | first byte | from the host | data bytes between it and the check |
//! |---|---|---|
//! | 0x81 | HELLO | version 1, heartbeat timeout in ms 2 (14 bits, high first), session 5 |
//! | 0x82 | TRIGGER | line 1, segment 5, sequence 5, width in us 5 |
//! | 0x83 | SYNC | sequence 5 (no answer) |
//! | 0x84 | HEARTBEAT | counter 5 |
//! | 0xFF | SAFE | none, and no check: one byte, valid everywhere, all outputs off at once |
//!
//! | first byte | from the board | data bytes between it and the check |
//! |---|---|---|
//! | 0xC1 | HELLO reply | version 1, capability bits 1, longest pulse in us 5, clock in us 5 |
//! | 0xC2 | ACK | segment 5, sequence 5, status 1, clock 5 |
//! | 0xC3 | DONE | segment 5, sequence 5, measured width in us 5, end 1, clock 5 |
//! | 0xC4 | HEARTBEAT reply | counter 5, clock 5 |
//! | 0xC5 | NAK | low 7 bits of the message's first byte 1 |
//! | 0xC6 | SAFE report | cause 1, clock 5 |
//!
//! Cost: a TRIGGER has 20 bytes, 1.7 ms on a true 115,200 baud line; encoding one takes well under a microsecond.

use serde::{Deserialize, Serialize};

use super::TriggerId;

/// The version of the protocol that this file speaks.
pub const PROTOCOL_VERSION: u8 = 1;
/// The one-byte command that switches all outputs off, wherever it stands in the stream.
pub const SAFE: u8 = 0xFF;
/// Bytes of the longest message (DONE).
pub const MESSAGE_BYTES_MAX: usize = 25;
/// Data bytes of the check at a message's end.
pub(super) const CHECK_BYTES: usize = 3;

pub(super) const HELLO: u8 = 0x81;
pub(super) const TRIGGER: u8 = 0x82;
pub(super) const SYNC: u8 = 0x83;
pub(super) const HEARTBEAT: u8 = 0x84;
const HELLO_REPLY: u8 = 0xC1;
const ACK: u8 = 0xC2;
const DONE: u8 = 0xC3;
const HEARTBEAT_REPLY: u8 = 0xC4;
const NAK: u8 = 0xC5;
const SAFE_REPORT: u8 = 0xC6;

/// The longest heartbeat timeout that fits HELLO's 14 bits, in ms.
pub(super) const HEARTBEAT_TIMEOUT_MS_MAX: u16 = 16_383;

/// What the host says to the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Who is there? Closes all outputs, starts the heartbeat watch, and names the session whose ids follow.
    Hello {
        /// The host's [`PROTOCOL_VERSION`], 0 to 127.
        version: u8,
        /// The board closes everything when no heartbeat came for so long, in ms (0 to 16,383; boards clamp it).
        heartbeat_timeout_ms: u16,
        /// Any number that stays with the session. Another number than last time lets the board forget the last id.
        session: u32,
    },
    /// One pulse, timed by the board.
    Trigger {
        /// The board's line, 0 to 127.
        line: u8,
        /// The pulse's name.
        id: TriggerId,
        /// Its width in us.
        width_us: u32,
    },
    /// One short pulse of fixed width on the board's sync line; never answered.
    Sync {
        /// Number of the decided frame.
        sequence: u32,
    },
    /// The host lives.
    Heartbeat {
        /// Comes back in the answer.
        counter: u32,
    },
    /// All outputs off.
    Safe,
}

/// What a board says to a TRIGGER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AckStatus {
    /// The output is open, the board's timer runs. Wire value 0.
    Accepted,
    /// The line has an open pulse. Wire value 1.
    RefusedBusy,
    /// The width is 0 or above the board's longest. Wire value 2.
    RefusedWidth,
    /// The id is not above the last one of this session. Wire value 3.
    Duplicate,
    /// The board has no such line. Wire value 4.
    RefusedLine,
    /// No HELLO yet, or heartbeats stopped and have not come back. Wire value 5.
    RefusedUnattended,
}

/// How a pulse ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PulseEnd {
    /// The board's timer ran out. Wire value 0.
    Timed,
    /// SAFE or HELLO cut it. Wire value 1.
    Safe,
    /// The heartbeat watch cut it. Wire value 2.
    HeartbeatLost,
}

/// Why a board closed everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SafeCause {
    /// The host sent SAFE. Wire value 0.
    Commanded,
    /// No heartbeat came for the agreed time. Wire value 1.
    HeartbeatLost,
}

/// What a board can do: one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Bit 0: times pulses by itself. A board without it may not drive a valve or a laser.
    pub timed_on_device: bool,
    /// Bit 1: has a sync line.
    pub sync: bool,
    /// Bit 2: has a light output.
    pub light: bool,
}

impl Capabilities {
    /// The wire's seven bits.
    pub const fn bits(self) -> u8 {
        self.timed_on_device as u8 | (self.sync as u8) << 1 | (self.light as u8) << 2
    }

    /// From the wire's seven bits; unknown ones are ignored.
    pub const fn from_bits(bits: u8) -> Self {
        Self { timed_on_device: bits & 1 != 0, sync: bits & 2 != 0, light: bits & 4 != 0 }
    }
}

/// What a board said of itself in its answer to HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BoardInfo {
    /// The board's protocol version.
    pub version: u8,
    /// What it can do.
    pub capabilities: Capabilities,
    /// The longest pulse that it accepts, in us.
    pub max_pulse_width_us: u32,
}

/// What a board says to the host. `clock_us` is the board's own microsecond clock, which wraps after 71.6 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoardReply {
    /// Answer to HELLO.
    Hello {
        /// The board.
        board: BoardInfo,
        /// Board clock, in us.
        clock_us: u32,
    },
    /// Answer to a TRIGGER.
    Ack {
        /// Which.
        id: TriggerId,
        /// What became of it.
        status: AckStatus,
        /// Board clock at the decision; of an accepted pulse: when the output opened. In us.
        clock_us: u32,
    },
    /// A pulse is over.
    Done {
        /// Which.
        id: TriggerId,
        /// How long the output was on, in us.
        width_us: u32,
        /// How it ended.
        end: PulseEnd,
        /// Board clock when the output closed, in us.
        clock_us: u32,
    },
    /// Answer to a HEARTBEAT.
    Heartbeat {
        /// The host's counter.
        counter: u32,
        /// Board clock, in us.
        clock_us: u32,
    },
    /// A message came whole but its check or a value in it was wrong; nothing was done.
    Nak {
        /// Low seven bits of that message's first byte.
        command: u8,
    },
    /// All outputs are off.
    Safe {
        /// Why.
        cause: SafeCause,
        /// Board clock, in us.
        clock_us: u32,
    },
}

/// The bytes of one message, without allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    bytes: [u8; MESSAGE_BYTES_MAX],
    length: usize,
}

impl Encoded {
    /// The message's bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }

    /// Flips bits of one byte: how a faulty board is played.
    pub(super) fn flip(&mut self, place: usize, bits: u8) {
        if let Some(byte) = self.bytes.get_mut(place) {
            *byte ^= bits;
        }
    }

    fn start(first: u8) -> Self {
        Self { bytes: [0; MESSAGE_BYTES_MAX], length: 0 }.byte(first)
    }

    fn byte(mut self, byte: u8) -> Self {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
        self
    }

    fn data(self, value: u8) -> Self {
        self.byte(value & 0x7F)
    }

    fn u32(self, value: u32) -> Self {
        (0..5).rev().fold(self, |message, group| message.data((value >> (7 * group)) as u8))
    }

    fn id(self, id: TriggerId) -> Self {
        self.u32(id.segment).u32(id.sequence)
    }

    fn checked(self) -> Self {
        let check = crc16(self.as_slice());
        self.data((check >> 14) as u8).data((check >> 7) as u8).data(check as u8)
    }
}

impl Command {
    /// The bytes that go to the board. Values are cut to their field's bits.
    pub fn encode(&self) -> Encoded {
        match *self {
            Command::Hello { version, heartbeat_timeout_ms, session } => {
                let timeout_ms = heartbeat_timeout_ms.min(HEARTBEAT_TIMEOUT_MS_MAX);
                let message = Encoded::start(HELLO).data(version);
                message.data((timeout_ms >> 7) as u8).data(timeout_ms as u8).u32(session).checked()
            }
            Command::Trigger { line, id, width_us } => {
                Encoded::start(TRIGGER).data(line).id(id).u32(width_us).checked()
            }
            Command::Sync { sequence } => Encoded::start(SYNC).u32(sequence).checked(),
            Command::Heartbeat { counter } => Encoded::start(HEARTBEAT).u32(counter).checked(),
            Command::Safe => Encoded::start(SAFE),
        }
    }

    /// Bytes of the message that begins with `first`, or `None` where `first` begins none with data.
    pub(super) fn length_of(first: u8) -> Option<usize> {
        let data = match first {
            HELLO => 8,
            TRIGGER => 16,
            SYNC | HEARTBEAT => 5,
            _ => return None,
        };
        Some(1 + data + CHECK_BYTES)
    }

    /// The command in a whole message whose check is right; `None` when a value in it is out of range.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(message);
        match fields.first {
            HELLO => {
                let version = fields.data()?;
                let heartbeat_timeout_ms = u16::from(fields.data()?) << 7 | u16::from(fields.data()?);
                Some(Command::Hello { version, heartbeat_timeout_ms, session: fields.u32()? })
            }
            TRIGGER => Some(Command::Trigger { line: fields.data()?, id: fields.id()?, width_us: fields.u32()? }),
            SYNC => Some(Command::Sync { sequence: fields.u32()? }),
            HEARTBEAT => Some(Command::Heartbeat { counter: fields.u32()? }),
            _ => None,
        }
    }
}

impl BoardReply {
    /// The bytes that come from the board. Values are cut to their field's bits.
    pub fn encode(&self) -> Encoded {
        match *self {
            BoardReply::Hello { board, clock_us } => {
                let message = Encoded::start(HELLO_REPLY).data(board.version).data(board.capabilities.bits());
                message.u32(board.max_pulse_width_us).u32(clock_us).checked()
            }
            BoardReply::Ack { id, status, clock_us } => {
                Encoded::start(ACK).id(id).data(status.wire()).u32(clock_us).checked()
            }
            BoardReply::Done { id, width_us, end, clock_us } => {
                Encoded::start(DONE).id(id).u32(width_us).data(end.wire()).u32(clock_us).checked()
            }
            BoardReply::Heartbeat { counter, clock_us } => {
                Encoded::start(HEARTBEAT_REPLY).u32(counter).u32(clock_us).checked()
            }
            BoardReply::Nak { command } => Encoded::start(NAK).data(command).checked(),
            BoardReply::Safe { cause, clock_us } => {
                Encoded::start(SAFE_REPORT).data(cause.wire()).u32(clock_us).checked()
            }
        }
    }

    /// Bytes of the message that begins with `first`, or `None` where `first` begins none.
    pub(super) fn length_of(first: u8) -> Option<usize> {
        let data = match first {
            HELLO_REPLY => 12,
            ACK => 16,
            DONE => 21,
            HEARTBEAT_REPLY => 10,
            NAK => 1,
            SAFE_REPORT => 6,
            _ => return None,
        };
        Some(1 + data + CHECK_BYTES)
    }

    /// The reply in a whole message whose check is right; `None` when a value in it is out of range.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(message);
        match fields.first {
            HELLO_REPLY => {
                let version = fields.data()?;
                let capabilities = Capabilities::from_bits(fields.data()?);
                let board = BoardInfo { version, capabilities, max_pulse_width_us: fields.u32()? };
                Some(BoardReply::Hello { board, clock_us: fields.u32()? })
            }
            ACK => {
                let (id, status) = (fields.id()?, AckStatus::from_wire(fields.data()?)?);
                Some(BoardReply::Ack { id, status, clock_us: fields.u32()? })
            }
            DONE => {
                let (id, width_us, end) = (fields.id()?, fields.u32()?, PulseEnd::from_wire(fields.data()?)?);
                Some(BoardReply::Done { id, width_us, end, clock_us: fields.u32()? })
            }
            HEARTBEAT_REPLY => Some(BoardReply::Heartbeat { counter: fields.u32()?, clock_us: fields.u32()? }),
            NAK => Some(BoardReply::Nak { command: fields.data()? }),
            SAFE_REPORT => {
                Some(BoardReply::Safe { cause: SafeCause::from_wire(fields.data()?)?, clock_us: fields.u32()? })
            }
            _ => None,
        }
    }
}

impl AckStatus {
    const ALL: [Self; 6] = [
        AckStatus::Accepted,
        AckStatus::RefusedBusy,
        AckStatus::RefusedWidth,
        AckStatus::Duplicate,
        AckStatus::RefusedLine,
        AckStatus::RefusedUnattended,
    ];

    fn wire(self) -> u8 {
        self as u8
    }

    fn from_wire(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value)).copied()
    }
}

impl PulseEnd {
    const ALL: [Self; 3] = [PulseEnd::Timed, PulseEnd::Safe, PulseEnd::HeartbeatLost];

    fn wire(self) -> u8 {
        self as u8
    }

    fn from_wire(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value)).copied()
    }
}

impl SafeCause {
    fn wire(self) -> u8 {
        self as u8
    }

    fn from_wire(value: u8) -> Option<Self> {
        [SafeCause::Commanded, SafeCause::HeartbeatLost].get(usize::from(value)).copied()
    }
}

/// Reads a message's data bytes one field after another.
struct Fields<'a> {
    first: u8,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(message: &'a [u8]) -> Self {
        match message.split_first() {
            Some((&first, rest)) => Self { first, rest },
            None => Self { first: 0, rest: &[] },
        }
    }

    fn data(&mut self) -> Option<u8> {
        let (&value, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(value)
    }

    /// Five data bytes; `None` when they hold more than 32 bits.
    fn u32(&mut self) -> Option<u32> {
        let mut value = 0_u64;
        for _ in 0..5 {
            value = value << 7 | u64::from(self.data()?);
        }
        u32::try_from(value).ok()
    }

    fn id(&mut self) -> Option<TriggerId> {
        Some(TriggerId { segment: self.u32()?, sequence: self.u32()? })
    }
}

/// Whether the last three bytes of a whole message are the check of those before it.
pub(super) fn check_is_right(message: &[u8]) -> bool {
    let Some((head, [high, middle, low])) = message.split_last_chunk::<CHECK_BYTES>() else {
        return false;
    };
    u32::from(*high) << 14 | u32::from(*middle) << 7 | u32::from(*low) == u32::from(crc16(head))
}

/// CRC-16, polynomial 0x1021, start value 0, highest bit first.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0_u16, |mut crc, &byte| {
        crc ^= u16::from(byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_is_the_published_crc_xmodem() {
        // The check value that CRC catalogues give for XMODEM.
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn a_trigger_is_these_bytes_on_the_wire() {
        let id = TriggerId { segment: 3, sequence: 0xFFFF_FFFF };
        let bytes = Command::Trigger { line: 2, id, width_us: 50_000 }.encode();
        let head = [0x82, 2, 0, 0, 0, 0, 3, 0x0F, 0x7F, 0x7F, 0x7F, 0x7F, 0, 0, 3, 6, 0x50];
        assert_eq!(&bytes.as_slice()[..17], &head);
        // 0xC2BB, computed apart from this code with Python's binascii.crc_hqx(head, 0).
        assert_eq!(&bytes.as_slice()[17..], &[3, 0x05, 0x3B]);
        assert_eq!(bytes.as_slice().len(), 20);
    }

    #[test]
    fn a_number_above_32_bits_is_no_command_even_with_a_right_check() {
        for (first_group, accepted) in [(0x0F, true), (0x10, false)] {
            let message = Encoded::start(SYNC).data(first_group).data(0).data(0).data(0).data(0).checked();
            assert!(check_is_right(message.as_slice()));
            assert_eq!(Command::decode(message.as_slice()).is_some(), accepted, "{first_group:#x}");
        }
    }

    #[test]
    fn no_data_byte_has_its_high_bit_set_and_no_message_is_longer_than_the_buffer() {
        let id = TriggerId { segment: u32::MAX, sequence: u32::MAX };
        let all = [
            Command::Hello { version: 255, heartbeat_timeout_ms: u16::MAX, session: u32::MAX }.encode(),
            Command::Trigger { line: 255, id, width_us: u32::MAX }.encode(),
            Command::Sync { sequence: u32::MAX }.encode(),
            BoardReply::Done { id, width_us: u32::MAX, end: PulseEnd::HeartbeatLost, clock_us: u32::MAX }.encode(),
        ];
        for message in all {
            let bytes = message.as_slice();
            assert!(bytes[0] >= 0x80 && bytes[1..].iter().all(|&byte| byte < 0x80), "{bytes:x?}");
            assert!(check_is_right(bytes));
            let expected = Command::length_of(bytes[0]).or(BoardReply::length_of(bytes[0]));
            assert_eq!(Some(bytes.len()), expected);
        }
    }
}
