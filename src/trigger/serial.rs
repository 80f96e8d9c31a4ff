//! A pulse board on a serial port.
//!
//! In: intents (the calling thread writes them itself) and the port's bytes (read by a thread of the caller's). Out:
//! bytes on the line; [`DeviceEvent`]s. Cost of a command: one system call, 15 to 40 us on a pseudo-terminal.
//!
//! On Unix the port is non-blocking and is written through a descriptor of its own: a write never waits longer than
//! `write_timeout_ms` in all, and allocates nothing, not even when it fails. On Windows the driver's write timeout
//! bounds it; there the port's read shares that timeout and its file lock, so the reader's waits are kept as short.
//!
//! Opening waits for the board to answer HELLO (an Arduino restarts when its port is opened, which takes 2 s). From
//! then on the board wants heartbeats: start sending them at once. Dropping the trigger sends SAFE as a last act.

use std::io::Read;
#[cfg(not(unix))]
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serialport::{ClearBuffer, SerialPort};

use super::Intent;
use super::device::{DeviceEvent, DeviceFault, FireError, Trigger, message_for, simulated_trigger};
use super::parser::{ParserCounters, ReplyParser};
use super::protocol::{BoardInfo, BoardReply, Command, PROTOCOL_VERSION, SAFE};
use crate::config::outputs::{RewardDevice, RewardOutputConfig};

#[cfg(unix)]
type NativePort = serialport::TTYPort;
#[cfg(windows)]
type NativePort = serialport::COMPort;

/// How often HELLO is said, and how long each time is waited for the answer: 3 s in all.
const HELLO_ATTEMPTS: u32 = 12;
const HELLO_WAIT: Duration = Duration::from_millis(250);
/// Reads after one HELLO, so that a port that never stops talking ends the wait too.
const READS_PER_HELLO: u32 = 64;
/// How often the reader looks whether it shall stop.
const READ_WAIT: Duration = Duration::from_millis(50);

/// Why a board could not be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The port does not open.
    #[error("{port}: {reason}{hint}; serial ports that exist here: {available}", hint = hint(*in_use))]
    Open {
        /// The port.
        port: String,
        /// What the system said.
        reason: String,
        /// Another program holds it.
        in_use: bool,
        /// The ports that exist.
        available: String,
    },
    /// Nobody answers HELLO.
    #[error(
        "{port}: no answer to HELLO at {baud} baud within {waited_ms} ms ({received_bytes} bytes came); expected a \
         board that speaks the plain serial protocol, version {PROTOCOL_VERSION}"
    )]
    NoAnswer {
        /// The port.
        port: String,
        /// Its speed.
        baud: u32,
        /// How long was waited, in ms.
        waited_ms: u64,
        /// Bytes that came and were no answer.
        received_bytes: u64,
    },
    /// The board speaks another version.
    #[error("{port}: the board speaks protocol version {version}, expected {PROTOCOL_VERSION}")]
    Version {
        /// The port.
        port: String,
        /// The board's version.
        version: u8,
    },
    /// The board does not time pulses by itself.
    #[error("{port}: the board does not time its pulses by itself, which a valve needs")]
    NotTimed {
        /// The port.
        port: String,
    },
    /// The configured reward is too long for the board.
    #[error("{port}: outputs.reward.width_ms is {width_us} us, expected at most the board's {max_us} us")]
    Width {
        /// The port.
        port: String,
        /// Configured, in us.
        width_us: u32,
        /// The board's longest, in us.
        max_us: u32,
    },
    /// The port opened but cannot be set up.
    #[error("{port}: {reason}")]
    Setup {
        /// The port.
        port: String,
        /// What the system said.
        reason: String,
    },
    /// The port went away, or took no bytes, while the board was being greeted.
    #[error("{port}: {error}")]
    Fire {
        /// The port.
        port: String,
        /// What went wrong.
        error: FireError,
    },
}

/// The rewards' device, and, where it has one, the half that reads what it answers.
pub type Device = (Box<dyn Trigger + Send>, Option<SerialReader>);

/// Opens what is configured: a board on its line, a simulated one, or nothing.
///
/// # Errors
/// See [`OpenError`]; only a board on a line has any.
pub fn open_device(config: &RewardOutputConfig, session: u32) -> Result<Device, OpenError> {
    if config.device != RewardDevice::Serial {
        return Ok((simulated_trigger(config), None));
    }
    let (trigger, reader) = SerialTrigger::open(config, session)?;
    Ok((Box::new(trigger), Some(reader)))
}

/// The writing half: belongs to the real-time thread.
pub struct SerialTrigger {
    writer: Writer,
    board: BoardInfo,
    line: u8,
}

/// The reading half: belongs to a thread of the caller's.
pub struct SerialReader {
    port: NativePort,
    parser: ReplyParser,
}

impl SerialTrigger {
    /// Opens the port, greets the board and splits the port into its halves. Waits up to 3 s; not for the real-time
    /// thread. `session` is any number that stays the same when a crashed session continues.
    pub fn open(config: &RewardOutputConfig, session: u32) -> Result<(SerialTrigger, SerialReader), OpenError> {
        Self::open_with_attempts(config, session, HELLO_ATTEMPTS)
    }

    /// The same with so many HELLOs, 250 ms each.
    pub fn open_with_attempts(
        config: &RewardOutputConfig,
        session: u32,
        attempts: u32,
    ) -> Result<(SerialTrigger, SerialReader), OpenError> {
        let name = &config.port;
        let setup = |reason: String| OpenError::Setup { port: name.clone(), reason };
        let mut port = serialport::new(name, config.baud)
            .timeout(HELLO_WAIT)
            .open_native()
            .map_err(|error| open_error(name, &error))?;
        // Some boards talk only while DTR is set; ports without the line refuse, which is no harm.
        let _ = port.write_data_terminal_ready(true);
        let _ = port.clear(ClearBuffer::All);
        let mut reader = port.try_clone_native().map_err(|error| setup(error.to_string()))?;
        let mut writer = Writer::new(port, name, config.write_timeout_ms).map_err(|error| setup(error.to_string()))?;
        let mut parser = ReplyParser::new();
        let board = greet(&mut writer, &mut reader, &mut parser, config, session, attempts)?;
        if board.version != PROTOCOL_VERSION {
            return Err(OpenError::Version { port: name.clone(), version: board.version });
        }
        if !board.capabilities.timed_on_device {
            return Err(OpenError::NotTimed { port: name.clone() });
        }
        let (width_us, max_us) = (config.width_us(), board.max_pulse_width_us);
        if width_us > max_us {
            return Err(OpenError::Width { port: name.clone(), width_us, max_us });
        }
        let wait = if cfg!(unix) { READ_WAIT } else { Duration::from_millis(u64::from(config.write_timeout_ms)) };
        reader.set_timeout(wait).map_err(|error| setup(error.to_string()))?;
        Ok((SerialTrigger { writer, board, line: config.line }, SerialReader { port: reader, parser }))
    }

    /// What the board said of itself.
    pub fn board(&self) -> BoardInfo {
        self.board
    }
}

impl Trigger for SerialTrigger {
    fn fire(&mut self, intent: &Intent) -> Result<(), FireError> {
        self.writer.send(message_for(intent, self.line)?.as_slice())
    }

    fn sync(&mut self, sequence: u32) -> Result<(), FireError> {
        self.writer.send(Command::Sync { sequence }.encode().as_slice())
    }

    fn heartbeat(&mut self, counter: u32) -> Result<(), FireError> {
        self.writer.send(Command::Heartbeat { counter }.encode().as_slice())
    }

    /// What still waits in the port is thrown away first. The byte goes out twice: one may be lost on a bad line.
    fn safe(&mut self) -> Result<(), FireError> {
        self.writer.discard_waiting();
        self.writer.send(&[SAFE, SAFE])
    }

    fn poll(&mut self) -> Option<BoardReply> {
        None
    }

    fn name(&self) -> &str {
        &self.writer.name
    }
}

impl Drop for SerialTrigger {
    fn drop(&mut self) {
        // The board closes by itself in any case; this only makes it sooner.
        let _ = self.safe();
    }
}

impl SerialReader {
    /// Reads until `stop` or until the port is gone (which is the last event). Looks at `stop` every 50 ms.
    pub fn run(mut self, mut on_event: impl FnMut(DeviceEvent), stop: &AtomicBool) {
        let mut buffer = [0; 256];
        let mut reported = damage(self.parser.counters());
        while !stop.load(Ordering::Relaxed) {
            match self.port.read(&mut buffer) {
                Ok(0) => return on_event(DeviceEvent::Fault(DeviceFault::PortLost)),
                Ok(length) => {
                    let bytes = buffer.get(..length).unwrap_or(&[]);
                    self.parser.feed(bytes, |reply| on_event(DeviceEvent::Reply(reply)));
                    let (dropped_bytes, bad_messages) = damage(self.parser.counters());
                    if (dropped_bytes, bad_messages) != reported {
                        reported = (dropped_bytes, bad_messages);
                        on_event(DeviceEvent::Fault(DeviceFault::Garbled { dropped_bytes, bad_messages }));
                    }
                }
                Err(error) if is_only_quiet(&error) => {}
                Err(_) => return on_event(DeviceEvent::Fault(DeviceFault::PortLost)),
            }
        }
    }
}

fn damage(counters: ParserCounters) -> (u64, u64) {
    (counters.dropped_bytes, counters.bad_messages)
}

fn is_only_quiet(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | Interrupted | WouldBlock)
}

fn greet(
    writer: &mut Writer,
    reader: &mut NativePort,
    parser: &mut ReplyParser,
    config: &RewardOutputConfig,
    session: u32,
    attempts: u32,
) -> Result<BoardInfo, OpenError> {
    let heartbeat_timeout_ms = config.heartbeat_timeout_ms;
    let hello = Command::Hello { version: PROTOCOL_VERSION, heartbeat_timeout_ms, session }.encode();
    let fire = |error| OpenError::Fire { port: config.port.clone(), error };
    let mut received_bytes = 0;
    for _ in 0..attempts {
        writer.send(hello.as_slice()).map_err(fire)?;
        for _ in 0..READS_PER_HELLO {
            let mut buffer = [0; 64];
            match reader.read(&mut buffer) {
                Ok(0) => return Err(fire(FireError::PortLost { code: 0 })),
                Ok(length) => {
                    received_bytes += length as u64;
                    let mut found = None;
                    parser.feed(buffer.get(..length).unwrap_or(&[]), |reply| {
                        if let BoardReply::Hello { board, .. } = reply {
                            found = Some(board);
                        }
                    });
                    if let Some(board) = found {
                        return Ok(board);
                    }
                }
                Err(error) if is_only_quiet(&error) => break,
                Err(error) => return Err(fire(FireError::PortLost { code: error.raw_os_error().unwrap_or(0) })),
            }
        }
    }
    let waited_ms = u64::from(attempts) * HELLO_WAIT.as_millis() as u64;
    Err(OpenError::NoAnswer { port: config.port.clone(), baud: config.baud, waited_ms, received_bytes })
}

fn open_error(port: &str, error: &serialport::Error) -> OpenError {
    let available = match serialport::available_ports() {
        Ok(ports) if ports.is_empty() => "none".into(),
        Ok(ports) => ports.iter().map(|port| port.port_name.as_str()).collect::<Vec<_>>().join(", "),
        Err(error) => format!("unknown ({error})"),
    };
    // Where the port exists and yet is "no device", its lock was refused.
    let in_use = error.kind() == serialport::ErrorKind::NoDevice && std::path::Path::new(port).exists();
    OpenError::Open { port: port.into(), reason: error.to_string(), in_use, available }
}

fn hint(in_use: bool) -> &'static str {
    if in_use { " (another program has the port open)" } else { "" }
}

/// Writes with a bound on its time.
struct Writer {
    /// Keeps the port's exclusive lock, and its driver settings, for as long as the writer lives.
    #[cfg_attr(unix, allow(dead_code))]
    port: NativePort,
    #[cfg(unix)]
    descriptor: std::os::fd::OwnedFd,
    name: String,
    timeout_ms: u32,
}

#[cfg(unix)]
impl Writer {
    fn new(port: NativePort, name: &str, timeout_ms: u32) -> std::io::Result<Self> {
        let descriptor = super::descriptor::duplicate(&port)?;
        let flags = rustix::fs::fcntl_getfl(&descriptor)?;
        rustix::fs::fcntl_setfl(&descriptor, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self { port, descriptor, name: name.into(), timeout_ms })
    }

    /// Tries at once, waits for room twice at most, half the timeout each.
    fn send(&mut self, bytes: &[u8]) -> Result<(), FireError> {
        use rustix::io::Errno;
        let lost = |errno: Errno| FireError::PortLost { code: errno.raw_os_error() };
        let mut rest = bytes;
        for waits in 0..3 {
            match rustix::io::write(&self.descriptor, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or(&[]),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(lost(errno)),
            }
            if rest.is_empty() {
                return Ok(());
            }
            if waits < 2 {
                self.wait_for_room().map_err(lost)?;
            }
        }
        let (written, length) = ((bytes.len() - rest.len()) as u32, bytes.len() as u32);
        Err(FireError::WriteTimeout { written, length, timeout_ms: self.timeout_ms })
    }

    fn wait_for_room(&self) -> rustix::io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let half_ns = i64::from(self.timeout_ms) * 500_000;
        let timeout = Timespec { tv_sec: half_ns / 1_000_000_000, tv_nsec: (half_ns % 1_000_000_000) as _ };
        let mut wanted = [PollFd::new(&self.descriptor, PollFlags::OUT)];
        match poll(&mut wanted, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn discard_waiting(&mut self) {
        let _ = rustix::termios::tcflush(&self.descriptor, rustix::termios::QueueSelector::OFlush);
    }
}

#[cfg(not(unix))]
impl Writer {
    fn new(mut port: NativePort, name: &str, timeout_ms: u32) -> std::io::Result<Self> {
        // A timeout of 0 would mean "for ever" here.
        port.set_timeout(Duration::from_millis(u64::from(timeout_ms.max(1))))?;
        Ok(Self { port, name: name.into(), timeout_ms })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), FireError> {
        match self.port.write(bytes) {
            Ok(written) if written == bytes.len() => Ok(()),
            Ok(written) => Err(FireError::WriteTimeout {
                written: written as u32,
                length: bytes.len() as u32,
                timeout_ms: self.timeout_ms,
            }),
            Err(error) => Err(FireError::PortLost { code: error.raw_os_error().unwrap_or(0) }),
        }
    }

    fn discard_waiting(&mut self) {
        let _ = self.port.clear(ClearBuffer::Output);
    }
}
