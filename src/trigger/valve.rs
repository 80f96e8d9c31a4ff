//! A simulated valve behind a real pseudo-terminal: what a rig without hardware, and every test of the serial way,
//! talks to.
//!
//! In: the bytes that a host writes to [`ValveSimulator::path`]. Out: a board's answers in real time, statistics, and,
//! if asked for, one JSON line a pulse in a file. It runs [`BoardModel`] in a thread of its own, and outlives the hosts
//! that come and go; so it can prove that no trigger was given twice across a crash of the service.
//!
//! A pseudo-terminal has no line speed: bytes arrive at once whatever `baud` says. Widths are those of the model's own
//! timer; the thread itself wakes some 50 to 100 us late.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};

use super::TriggerId;
use super::board::{BoardConfig, BoardCounters, BoardFault, BoardModel, BoardNote, FinishedPulse};
use super::protocol::AckStatus;

/// The longest that the thread sleeps.
const SLEEP_US_MAX: u64 = 1_000_000;

/// Somebody who watches the far end of the line, from the valve's own thread.
pub trait ValveWitness: std::fmt::Debug + Send + Sync {
    /// The thread begins.
    fn begins(&self) {}
    /// A SYNC was just read.
    fn sync(&self, sequence: u32);
}

/// How a simulated valve is set up.
#[derive(Debug, Clone, Default)]
pub struct ValveOptions {
    /// Who watches.
    pub witness: Option<Arc<dyn ValveWitness>>,
    /// The board.
    pub board: BoardConfig,
    /// A symbolic link to the terminal, replaced if it is one already.
    pub link: Option<PathBuf>,
    /// A file to which one JSON line is added for each pulse.
    pub log: Option<PathBuf>,
}

/// What the valve saw.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ValveStatistics {
    /// The board's counters.
    pub board: BoardCounters,
    /// How many pulses opened under each session number and id: no value above 1 proves "at most once".
    pub pulses_by_id: BTreeMap<(u32, TriggerId), u64>,
    /// How many TRIGGERs came under each, also those refused.
    pub triggers_by_id: BTreeMap<(u32, TriggerId), u64>,
    /// Pulses that are over, the newest 1,024.
    pub pulses: Vec<FinishedPulse>,
    /// Whether any line is open.
    pub is_open: bool,
    /// Bytes that the host wrote.
    pub received_bytes: u64,
    /// Bytes that found no room because the host does not read.
    pub unsent_bytes: u64,
    /// Why the thread ended by itself, if it did.
    pub failure: Option<String>,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValveLogLine {
    /// The pulse.
    #[serde(flatten)]
    pub pulse: FinishedPulse,
    /// Pulses under this id so far; more than 1 is a fault of the host.
    pub pulses_of_id: u64,
    /// Pulses so far.
    pub pulses: u64,
    /// On-time so far, in us.
    pub open_us: u64,
}

/// A valve at the other end of a pseudo-terminal. Dropping it takes the terminal away from the host.
#[derive(Debug)]
pub struct ValveSimulator {
    path: PathBuf,
    link: Option<PathBuf>,
    shared: Arc<Shared>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    wanted_fault: Mutex<Option<BoardFault>>,
    statistics: Mutex<ValveStatistics>,
    changed: Condvar,
}

impl ValveSimulator {
    /// A valve with a board of the default kind.
    pub fn start() -> io::Result<ValveSimulator> {
        Self::start_with(&ValveOptions::default())
    }

    /// A valve as told.
    pub fn start_with(options: &ValveOptions) -> io::Result<ValveSimulator> {
        let terminal = Terminal::open()?;
        let log = match &options.log {
            Some(path) => Some(File::options().create(true).append(true).open(path)?),
            None => None,
        };
        if let Some(link) = &options.link {
            if link.symlink_metadata().is_ok_and(|entry| entry.file_type().is_symlink()) {
                std::fs::remove_file(link)?;
            }
            std::os::unix::fs::symlink(&terminal.path, link)?;
        }
        let (wake, woken) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared::default());
        let path = terminal.path.clone();
        let (witness, board) = (options.witness.clone(), BoardModel::new(options.board));
        let runner = Runner { terminal, woken, log, witness, shared: Arc::clone(&shared), board };
        let thread = std::thread::Builder::new().name("valve".into()).spawn(move || runner.run())?;
        Ok(ValveSimulator { path, link: options.link.clone(), shared, wake, thread: Some(thread) })
    }

    /// The terminal that a host opens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the valve saw so far.
    pub fn statistics(&self) -> ValveStatistics {
        lock(&self.shared.statistics).clone()
    }

    /// Waits until the statistics are as wanted; `false` when they were not within `timeout`.
    pub fn wait_for(&self, timeout: Duration, wanted: impl Fn(&ValveStatistics) -> bool) -> bool {
        let statistics = lock(&self.shared.statistics);
        let outcome = self.shared.changed.wait_timeout_while(statistics, timeout, |now| !wanted(now));
        let (statistics, _) = outcome.unwrap_or_else(PoisonError::into_inner);
        wanted(&statistics)
    }

    /// Misbehave from now on. In force for every byte that the host writes after this returns.
    pub fn set_fault(&self, fault: BoardFault) {
        *lock(&self.shared.wanted_fault) = Some(fault);
        self.nudge();
    }

    fn nudge(&self) {
        // A full pipe means that the thread is being woken already.
        let _ = (&self.wake).write(&[0]);
    }
}

impl Drop for ValveSimulator {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.nudge();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        if let Some(link) = &self.link
            && std::fs::read_link(link).is_ok_and(|target| target == self.path)
        {
            let _ = std::fs::remove_file(link);
        }
    }
}

/// Runs a valve until `stop`: the body of `apical valve`. `announce` is given the terminal's path once.
pub fn serve_valve(
    options: &ValveOptions,
    stop: &AtomicBool,
    announce: impl FnOnce(&Path),
) -> io::Result<ValveStatistics> {
    let valve = ValveSimulator::start_with(options)?;
    announce(valve.path());
    while !stop.load(Ordering::Acquire) {
        if valve.wait_for(Duration::from_millis(100), |now| now.failure.is_some()) {
            return Err(io::Error::other(valve.statistics().failure.unwrap_or_default()));
        }
    }
    Ok(valve.statistics())
}

/// A pseudo-terminal, raw, with both ends open.
struct Terminal {
    master: OwnedFd,
    /// Held open so that a host which closes the port does not hang up the valve.
    slave: OwnedFd,
    path: PathBuf,
}

impl Terminal {
    fn open() -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes()));
        let slave = rustix::fs::open(&path, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        // Before any host sets the port: no echo, no line editing, all eight bits.
        let mut settings = tcgetattr(&slave)?;
        settings.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &settings)?;
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
        Ok(Self { master, slave, path })
    }

    /// A host that was killed leaves the terminal marked as exclusive for as long as the valve holds it open; a real
    /// port's mark goes with its last descriptor. Hosts still exclude each other by their file locks.
    fn forget_exclusive(&self) {
        let _ = rustix::termios::ioctl_tiocnxcl(&self.slave);
    }
}

struct Runner {
    terminal: Terminal,
    woken: UnixStream,
    log: Option<File>,
    witness: Option<Arc<dyn ValveWitness>>,
    shared: Arc<Shared>,
    board: BoardModel,
}

impl Runner {
    fn run(mut self) {
        let started = Instant::now();
        self.witness.iter().for_each(|witness| witness.begins());
        let now_us = || started.elapsed().as_micros() as u64;
        while !self.shared.stop.load(Ordering::Acquire) {
            if let Err(error) = self.turn(&now_us) {
                lock(&self.shared.statistics).failure = Some(error.to_string());
                self.shared.changed.notify_all();
                return;
            }
        }
    }

    /// Waits for bytes, a wake-up or the board's next deadline, and lets the board act on it.
    fn turn(&mut self, now_us: &impl Fn() -> u64) -> io::Result<()> {
        let sleep_us =
            self.board.next_deadline_us().map_or(SLEEP_US_MAX, |due| due.saturating_sub(now_us()).min(SLEEP_US_MAX));
        let timeout = Timespec { tv_sec: (sleep_us / 1_000_000) as _, tv_nsec: (sleep_us % 1_000_000 * 1_000) as _ };
        let mut wanted = [PollFd::new(&self.terminal.master, PollFlags::IN), PollFd::new(&self.woken, PollFlags::IN)];
        match poll(&mut wanted, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        while self.woken.read(&mut [0; 16]).is_ok_and(|length| length > 0) {}
        let mut buffer = [0; 512];
        let received = match rustix::io::read(&self.terminal.master, &mut buffer) {
            Ok(length) => buffer.get(..length).unwrap_or(&[]),
            Err(Errno::AGAIN | Errno::INTR) => &[],
            Err(errno) => return Err(errno.into()),
        };
        // Read after the bytes: a fault that was set before they were written is in force for them.
        if let Some(fault) = lock(&self.shared.wanted_fault).take() {
            self.board.set_fault(fault);
        }
        let now_us = now_us();
        self.board.receive(received, now_us);
        let received_bytes = received.len() as u64;
        if received_bytes > 0 {
            self.terminal.forget_exclusive();
        }
        let unsent_bytes = self.answer(now_us)?;
        self.publish(received_bytes, unsent_bytes)
    }

    /// Writes what is due; gives the bytes that found no room.
    fn answer(&mut self, now_us: u64) -> io::Result<u64> {
        let (mut buffer, mut unsent_bytes) = ([0; 512], 0);
        loop {
            let length = self.board.take_output(now_us, &mut buffer);
            if length == 0 {
                return Ok(unsent_bytes);
            }
            match rustix::io::write(&self.terminal.master, buffer.get(..length).unwrap_or(&[])) {
                Ok(written) => unsent_bytes += (length - written) as u64,
                Err(Errno::AGAIN | Errno::INTR) => unsent_bytes += length as u64,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn publish(&mut self, received_bytes: u64, unsent_bytes: u64) -> io::Result<()> {
        let mut statistics = lock(&self.shared.statistics);
        while let Some(note) = self.board.take_note() {
            match note {
                BoardNote::Sync { sequence } => self.witness.iter().for_each(|witness| witness.sync(sequence)),
                BoardNote::Trigger { session, id, status } => {
                    *statistics.triggers_by_id.entry((session, id)).or_default() += 1;
                    if status == AckStatus::Accepted {
                        *statistics.pulses_by_id.entry((session, id)).or_default() += 1;
                    }
                }
                BoardNote::Pulse(pulse) => {
                    if statistics.pulses.len() == 1_024 {
                        statistics.pulses.remove(0);
                    }
                    statistics.pulses.push(pulse);
                    let before = statistics.board;
                    let (pulses, open_us) = (before.pulses + 1, before.open_us + pulse.width_us);
                    (statistics.board.pulses, statistics.board.open_us) = (pulses, open_us);
                    let pulses_of_id = statistics.pulses_by_id.get(&(pulse.session, pulse.id)).copied().unwrap_or(0);
                    if let Some(log) = &mut self.log {
                        let mut line = serde_json::to_vec(&ValveLogLine { pulse, pulses_of_id, pulses, open_us })?;
                        line.push(b'\n');
                        log.write_all(&line)?;
                    }
                }
            }
        }
        statistics.board = self.board.counters();
        statistics.is_open = (0..super::board::BOARD_LINES).any(|line| self.board.is_open(line));
        statistics.received_bytes += received_bytes;
        statistics.unsent_bytes += unsent_bytes;
        drop(statistics);
        self.shared.changed.notify_all();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
