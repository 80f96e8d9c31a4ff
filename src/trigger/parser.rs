//! Reads protocol messages out of a byte stream that may hold anything.
//!
//! In: bytes in pieces of any size. Out: whole messages whose check is right, in order. Everything else is counted and
//! dropped. No allocation; a byte costs a few nanoseconds, a message's last byte its check (about 0.2 us).
//!
//! A byte >= 0x80 always begins anew, so that after any garbage the next whole message is read. Two messages are never
//! taken for one, and no message is ever made of bytes that do not stand next to each other in the stream (but for
//! SAFE on the board's side, which abandons what it interrupts).

use super::protocol::{self, BoardReply, Command, MESSAGE_BYTES_MAX, SAFE};

/// What a parser dropped since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParserCounters {
    /// Bytes that belong to no whole message.
    pub dropped_bytes: u64,
    /// Whole messages with a wrong check or a value out of range.
    pub bad_messages: u64,
    /// Good messages.
    pub messages: u64,
}

/// Reads what a board says.
#[derive(Debug, Clone, Default)]
pub struct ReplyParser {
    framer: Framer,
}

impl ReplyParser {
    /// A parser between two messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one byte; gives the reply that it completes.
    pub fn push(&mut self, byte: u8) -> Option<BoardReply> {
        match self.framer.push(byte, BoardReply::length_of) {
            Framed::Message { length } => {
                let reply = BoardReply::decode(self.framer.message(length));
                self.framer.count(reply.is_some());
                reply
            }
            _ => None,
        }
    }

    /// Takes some bytes and hands on the replies that they complete.
    pub fn feed(&mut self, bytes: &[u8], mut on_reply: impl FnMut(BoardReply)) {
        for &byte in bytes {
            if let Some(reply) = self.push(byte) {
                on_reply(reply);
            }
        }
    }

    /// What was read and dropped so far.
    pub fn counters(&self) -> ParserCounters {
        self.framer.counters
    }
}

/// What the board's parser made of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandEvent {
    /// A whole command.
    Command(Command),
    /// A whole message with a wrong check or a value out of range: to be answered by NAK.
    Bad {
        /// Low seven bits of the message's first byte.
        command: u8,
    },
}

/// Reads what a host says; the board's side.
#[derive(Debug, Clone, Default)]
pub struct CommandParser {
    framer: Framer,
}

impl CommandParser {
    /// A parser between two messages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one byte; gives what it completes. SAFE is complete at once and abandons the message that it interrupts.
    pub fn push(&mut self, byte: u8) -> Option<CommandEvent> {
        if byte == SAFE {
            self.framer.abandon();
            self.framer.counters.messages += 1;
            return Some(CommandEvent::Command(Command::Safe));
        }
        match self.framer.push(byte, Command::length_of) {
            Framed::Message { length } => {
                let message = self.framer.message(length);
                let first = message.first().copied().unwrap_or(0);
                let command = Command::decode(message);
                self.framer.count(command.is_some());
                Some(command.map_or(CommandEvent::Bad { command: first & 0x7F }, CommandEvent::Command))
            }
            Framed::Bad { first } => Some(CommandEvent::Bad { command: first & 0x7F }),
            Framed::Nothing => None,
        }
    }

    /// What was read and dropped so far.
    pub fn counters(&self) -> ParserCounters {
        self.framer.counters
    }
}

/// Cuts a stream into messages: the part that both directions share.
#[derive(Debug, Clone, Default)]
struct Framer {
    buffer: [u8; MESSAGE_BYTES_MAX],
    filled: usize,
    expected: usize,
    counters: ParserCounters,
}

enum Framed {
    Nothing,
    Bad { first: u8 },
    Message { length: usize },
}

impl Framer {
    fn push(&mut self, byte: u8, length_of: fn(u8) -> Option<usize>) -> Framed {
        if byte >= 0x80 {
            self.abandon();
            match length_of(byte) {
                Some(expected) => self.expected = expected,
                None => {
                    self.counters.dropped_bytes += 1;
                    return Framed::Nothing;
                }
            }
        } else if self.filled == 0 {
            self.counters.dropped_bytes += 1;
            return Framed::Nothing;
        }
        if let Some(place) = self.buffer.get_mut(self.filled) {
            *place = byte;
            self.filled += 1;
        }
        if self.filled < self.expected {
            return Framed::Nothing;
        }
        let length = std::mem::take(&mut self.filled);
        if protocol::check_is_right(self.message(length)) {
            return Framed::Message { length };
        }
        self.count(false);
        Framed::Bad { first: self.buffer[0] }
    }

    fn message(&self, length: usize) -> &[u8] {
        self.buffer.get(..length).unwrap_or(&[])
    }

    fn abandon(&mut self) {
        self.counters.dropped_bytes += std::mem::take(&mut self.filled) as u64;
    }

    fn count(&mut self, good: bool) {
        if good {
            self.counters.messages += 1;
        } else {
            self.counters.bad_messages += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::TriggerId;
    use super::super::protocol::{AckStatus, BoardInfo, Capabilities, PulseEnd, SafeCause};
    use super::*;

    fn ids() -> impl Strategy<Value = TriggerId> {
        (any::<u32>(), any::<u32>()).prop_map(|(segment, sequence)| TriggerId { segment, sequence })
    }

    fn replies() -> impl Strategy<Value = BoardReply> {
        let statuses = prop::sample::select(vec![
            AckStatus::Accepted,
            AckStatus::RefusedBusy,
            AckStatus::RefusedWidth,
            AckStatus::Duplicate,
            AckStatus::RefusedLine,
            AckStatus::RefusedUnattended,
        ]);
        let ends = prop::sample::select(vec![PulseEnd::Timed, PulseEnd::Safe, PulseEnd::HeartbeatLost]);
        let causes = prop::sample::select(vec![SafeCause::Commanded, SafeCause::HeartbeatLost]);
        prop_oneof![
            (0_u8..128, 0_u8..8, any::<u32>(), any::<u32>()).prop_map(
                |(version, bits, max_pulse_width_us, clock_us)| {
                    let capabilities = Capabilities::from_bits(bits);
                    BoardReply::Hello { board: BoardInfo { version, capabilities, max_pulse_width_us }, clock_us }
                }
            ),
            (ids(), statuses, any::<u32>()).prop_map(|(id, status, clock_us)| BoardReply::Ack { id, status, clock_us }),
            (ids(), any::<u32>(), ends, any::<u32>()).prop_map(|(id, width_us, end, clock_us)| BoardReply::Done {
                id,
                width_us,
                end,
                clock_us
            }),
            (any::<u32>(), any::<u32>()).prop_map(|(counter, clock_us)| BoardReply::Heartbeat { counter, clock_us }),
            (0_u8..128).prop_map(|command| BoardReply::Nak { command }),
            (causes, any::<u32>()).prop_map(|(cause, clock_us)| BoardReply::Safe { cause, clock_us }),
        ]
    }

    fn commands() -> impl Strategy<Value = Command> {
        prop_oneof![
            (0_u8..128, 0_u16..16_384, any::<u32>()).prop_map(|(version, heartbeat_timeout_ms, session)| {
                Command::Hello { version, heartbeat_timeout_ms, session }
            }),
            (0_u8..128, ids(), any::<u32>()).prop_map(|(line, id, width_us)| Command::Trigger { line, id, width_us }),
            any::<u32>().prop_map(|sequence| Command::Sync { sequence }),
            any::<u32>().prop_map(|counter| Command::Heartbeat { counter }),
            Just(Command::Safe),
        ]
    }

    /// Bytes of which many look like the protocol's own.
    fn garbage() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![any::<u8>(), 0xC1_u8..0xC7, 0_u8..4, Just(SAFE)], 0..60)
    }

    fn parse(bytes: &[u8]) -> Vec<BoardReply> {
        let (mut parser, mut found) = (ReplyParser::new(), Vec::new());
        parser.feed(bytes, |reply| found.push(reply));
        found
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(sent in prop::collection::vec(replies(), 0..8)) {
            let bytes: Vec<u8> = sent.iter().flat_map(|reply| reply.encode().as_slice().to_vec()).collect();
            prop_assert_eq!(parse(&bytes), sent);
        }

        #[test]
        fn commands_are_read_back_by_the_board(sent in prop::collection::vec(commands(), 0..8)) {
            let mut parser = CommandParser::new();
            let mut found = Vec::new();
            for command in &sent {
                found.extend(command.encode().as_slice().iter().filter_map(|&byte| parser.push(byte)));
            }
            prop_assert_eq!(found, sent.into_iter().map(CommandEvent::Command).collect::<Vec<_>>());
            prop_assert_eq!(parser.counters().dropped_bytes, 0);
        }

        #[test]
        fn a_message_survives_garbage_before_and_after_it(
            before in garbage(), reply in replies(), after in garbage()
        ) {
            let bytes = [&before[..], reply.encode().as_slice(), &after[..]].concat();
            prop_assert!(parse(&bytes).contains(&reply));
        }

        #[test]
        fn every_message_read_stands_whole_in_the_stream(
            parts in prop::collection::vec(
                (garbage(), replies(), any::<prop::sample::Index>(), 0_u8..4, any::<u8>()), 1..6
            )
        ) {
            let mut bytes = Vec::new();
            for (noise, reply, place, damage, value) in parts {
                let mut message = reply.encode().as_slice().to_vec();
                let place = place.index(message.len());
                match damage {
                    0 => message[place] = value,
                    1 => message.insert(place, value),
                    2 => { message.remove(place); }
                    _ => {}
                }
                bytes.extend(noise);
                bytes.extend(message);
            }
            for found in parse(&bytes) {
                let whole = found.encode();
                // Unknown capability bits are dropped on reading; the check still covers them.
                let is_hello = matches!(found, BoardReply::Hello { .. });
                prop_assert!(is_hello || bytes.windows(whole.as_slice().len()).any(|part| part == whole.as_slice()));
            }
        }

        #[test]
        fn any_cutting_of_the_stream_gives_the_same_messages(
            noise in garbage(),
            sent in prop::collection::vec(replies(), 1..6),
            cuts in prop::collection::vec(1_usize..9, 1..20)
        ) {
            let mut bytes = noise;
            bytes.extend(sent.iter().flat_map(|reply| reply.encode().as_slice().to_vec()));
            let (mut parser, mut found, mut rest) = (ReplyParser::new(), Vec::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                parser.feed(piece, |reply| found.push(reply));
                rest = tail;
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(found, parse(&bytes));
        }

        #[test]
        fn every_byte_is_read_or_counted_as_dropped(bytes in garbage()) {
            let mut parser = CommandParser::new();
            let mut safes = 0;
            let mut bad_bytes = 0;
            for &byte in &bytes {
                match parser.push(byte) {
                    Some(CommandEvent::Command(Command::Safe)) => safes += 1,
                    Some(CommandEvent::Bad { command }) => {
                        bad_bytes += Command::length_of(command | 0x80).unwrap_or(0) as u64;
                    }
                    _ => {}
                }
            }
            let waiting = parser.framer.filled as u64;
            prop_assert_eq!(safes + bad_bytes + waiting + parser.counters().dropped_bytes, bytes.len() as u64);
        }

        #[test]
        fn one_flipped_bit_never_yields_a_command(
            command in commands(), place in any::<prop::sample::Index>(), bit in 0_u8..7
        ) {
            prop_assume!(command != Command::Safe);
            let mut bytes = command.encode().as_slice().to_vec();
            let place = 1 + place.index(bytes.len() - 1);
            bytes[place] ^= 1 << bit;
            let mut parser = CommandParser::new();
            let found: Vec<_> = bytes.iter().filter_map(|&byte| parser.push(byte)).collect();
            prop_assert_eq!(found, vec![CommandEvent::Bad { command: bytes[0] & 0x7F }]);
        }
    }

    #[test]
    fn safe_works_at_every_place_of_a_trigger_and_abandons_it() {
        let id = TriggerId { segment: 1, sequence: 2 };
        let trigger = Command::Trigger { line: 0, id, width_us: 50_000 }.encode();
        for place in 0..trigger.as_slice().len() {
            let mut bytes = trigger.as_slice().to_vec();
            bytes.insert(place, SAFE);
            let mut parser = CommandParser::new();
            let found: Vec<_> = bytes.iter().filter_map(|&byte| parser.push(byte)).collect();
            let mut expected = vec![CommandEvent::Command(Command::Safe)];
            if place == 0 {
                expected.push(CommandEvent::Command(Command::Trigger { line: 0, id, width_us: 50_000 }));
            }
            assert_eq!(found, expected, "SAFE before byte {place}");
        }
    }
}
