//! The real-time thread: takes filled slots from a ring, calls the driver, gives records away through another ring.
//!
//! It never allocates, locks, awaits, logs, or touches the disk after warm-up. Its system calls are the wait, the
//! write of a trigger, and the wake-up of the thread that takes the records. An input is taken only when there is a
//! record to put it in, so nothing is ever dropped silently: when the records are late, frames wait or are skipped
//! by the overload policy, and a skip is an input. With nothing to decide it looks at the lines of the frame that is
//! arriving (`arriving.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use super::arriving::Arriving;
use super::decision::{Decision, Timing};
use super::driver::{Driver, InputSummary, RecordSink};
use super::input::{Command, DeviceReport, Input, SkipReason};
use super::{Clock, Overload};
use crate::frame::{FrameMeta, FrameSlot, Room};
use crate::trigger::TriggerId;

/// Records that one input may need: itself and what follows from it.
const RECORDS_PER_INPUT: usize = 24;
/// Records in circulation.
const RECORDS: usize = 512;
/// Commands that may wait.
const COMMANDS: usize = 64;
/// Device replies that may wait.
const REPLIES: usize = 256;
/// How often the board hears that the host lives, in nanoseconds.
pub const HEARTBEAT_NS: u64 = 100_000_000;
/// Where frames wait, the publisher is woken for all of those that were decided in so long, in nanoseconds.
const WAKE_NS: u64 = 1_000_000;
/// Of the time between two frames, spins take at most twice this part: a thread with a priority that never rests is
/// held up by the system.
const SPIN_SHARE: u64 = 10;
/// How long it rests where there is no record for an answer, at most.
const NO_ROOM: Duration = Duration::from_micros(200);

/// ROI values of one frame, in a slot of their own.
#[derive(Debug)]
pub struct ValuesSlot {
    /// What the frame says of itself.
    pub meta: FrameMeta,
    /// One value for each ROI, in counts.
    pub f: Vec<f64>,
}

/// What the source hands over.
#[derive(Debug)]
pub enum FrameItem {
    /// A whole frame.
    Pixels(Box<FrameSlot>),
    /// Integrated ROI values.
    Values(Box<ValuesSlot>),
    /// A frame that was refused; what it said of itself, and the reason's code.
    Refused(FrameMeta, u32),
}

/// One input, what was decided on it, and when.
#[derive(Debug)]
pub struct Record {
    /// The input.
    pub input: InputSummary,
    /// What was decided.
    pub decision: Decision,
    /// When.
    pub timing: Timing,
    /// The ticket of the command that this was, 0 otherwise.
    pub ticket: u64,
}

/// A slot that the engine is done with, and what it was.
#[derive(Debug)]
pub struct UsedFrame {
    /// The slot.
    pub item: FrameItem,
    /// The number of the input.
    pub input_seq: u64,
    /// How far the masks were moved on it, in pixels.
    pub moved_px: (f64, f64),
}

/// How a continued session begins.
#[derive(Debug, Clone)]
pub struct Continuation {
    /// The segment.
    pub segment: u32,
    /// See [`Input::Continued`].
    pub template_lost: bool,
    /// Triggers that were on their way.
    pub waiting: Vec<TriggerId>,
}

/// The engine's whole state, for the journal.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// After which input.
    pub input_seq: u64,
    /// The engine.
    pub state: Vec<u8>,
    /// The limits' counts.
    pub limits: Vec<u8>,
}

/// Settings of the thread.
#[derive(Debug, Clone, Copy)]
pub struct RealtimeSettings {
    /// What happens when frames come faster than they are decided.
    pub overload: Overload,
    /// Silence after which a `Gap` is made, in nanoseconds; 0: never.
    pub gap_ns: u64,
    /// How long the thread spins before the next frame is due, and then before it parks, in nanoseconds.
    pub spin_ns: u64,
    /// Frames between snapshots; 0: only after the baseline.
    pub snapshot_frames: u64,
}

/// Frames that no other thread brings: the real-time thread itself looks for them, and waits where they come in.
pub trait FramePort: Send {
    /// Hands over what has come, as far as there is room.
    fn fetch(&mut self, frames: &mut Producer<FrameItem>);
    /// Whether something has come.
    fn has_frames(&self) -> bool;
    /// Waits until something comes, or its [`Waker`] wakes it; at most for `timeout`.
    fn wait(&self, timeout: Duration);
}

/// Wakes the real-time thread, wherever it waits.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// What `wake` does.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Wakes it.
    pub fn wake(&self) {
        (self.0)();
    }
}

/// Flags that pass every queue.
#[derive(Debug, Default)]
pub struct Flags {
    /// Ticket of an abort that is wanted; 0: none.
    pub abort: AtomicU64,
    /// The thread is to end when its frames are done.
    pub shutdown: AtomicBool,
    /// A snapshot is wanted as soon as no frame waits: records were lost, and the next ones build on it.
    pub snapshot: AtomicBool,
}

/// The thread's ends of the rings.
pub struct ThreadEnds {
    frames: Consumer<FrameItem>,
    /// Where frames come in by themselves, and the other end of `frames`.
    port: Option<(Box<dyn FramePort>, Producer<FrameItem>)>,
    commands: Consumer<(u64, Command)>,
    replies: Consumer<DeviceReport>,
    free_records: Consumer<Box<Record>>,
    records: Producer<Box<Record>>,
    used_frames: Producer<UsedFrame>,
    snapshots: Producer<Box<Snapshot>>,
    free_snapshots: Consumer<Box<Snapshot>>,
    arriving: Arc<Arriving>,
    flags: Arc<Flags>,
}

impl ThreadEnds {
    /// Frames come through `port` alone; whoever else hands one over finds the ring abandoned.
    pub fn take_from(&mut self, port: Box<dyn FramePort>) {
        let (frames_in, frames) = RingBuffer::new(self.frames.buffer().capacity());
        self.frames = frames;
        self.port = Some((port, frames_in));
    }
}

/// The service's ends of the rings. Each goes to the one task or thread that uses it.
pub struct ServiceEnds {
    /// For the source.
    pub frames: Producer<FrameItem>,
    /// For the source as well, where a frame comes line by line.
    pub arriving: Arc<Arriving>,
    /// For whoever takes commands.
    pub commands: Producer<(u64, Command)>,
    /// For the thread that reads the device.
    pub replies: Producer<DeviceReport>,
    /// For the thread that publishes.
    pub publisher: PublisherEnds,
    /// For anybody.
    pub flags: Arc<Flags>,
}

/// What the publishing thread takes, and gives back.
pub struct PublisherEnds {
    /// Records, in the order of inputs.
    pub records: Consumer<Box<Record>>,
    /// Records that were read.
    pub free_records: Producer<Box<Record>>,
    /// Slots that the engine is done with.
    pub used_frames: Consumer<UsedFrame>,
    /// Snapshots.
    pub snapshots: Consumer<Box<Snapshot>>,
    /// Snapshots that were written.
    pub free_snapshots: Producer<Box<Snapshot>>,
}

/// Makes the rings, and fills them with everything that will circulate.
pub fn rings(roi_count: usize, segments: usize, snapshot_bytes: Room, slots: usize) -> (ThreadEnds, ServiceEnds) {
    let (frames_in, frames) = RingBuffer::new(2 * slots + 64);
    let (commands_in, commands) = RingBuffer::new(COMMANDS);
    let (replies_in, replies) = RingBuffer::new(REPLIES);
    let (mut free_records_in, free_records) = RingBuffer::new(RECORDS);
    let (records_in, records) = RingBuffer::new(RECORDS);
    let (used_frames_in, used_frames) = RingBuffer::new(2 * slots + 64);
    let (snapshots_in, snapshots) = RingBuffer::new(1);
    let (mut free_snapshots_in, free_snapshots) = RingBuffer::new(1);
    for _ in 0..RECORDS {
        let record = Record {
            input: InputSummary::Gap { silent_ns: 0 },
            decision: Decision::with_capacity(roi_count, segments),
            timing: Timing::default(),
            ticket: 0,
        };
        // The ring was made for this many.
        let _ = free_records_in.push(Box::new(record));
    }
    // One: it is the largest thing that circulates, and a next one can wait until it is written.
    let snapshot = Snapshot { input_seq: 0, state: snapshot_bytes.memory(), limits: Vec::with_capacity(1 << 16) };
    let _ = free_snapshots_in.push(Box::new(snapshot));
    let (arriving, flags) = (Arc::new(Arriving::default()), Arc::new(Flags::default()));
    let thread = ThreadEnds {
        frames,
        port: None,
        commands,
        replies,
        free_records,
        records: records_in,
        used_frames: used_frames_in,
        snapshots: snapshots_in,
        free_snapshots,
        arriving: Arc::clone(&arriving),
        flags: Arc::clone(&flags),
    };
    let service = ServiceEnds {
        frames: frames_in,
        arriving,
        commands: commands_in,
        replies: replies_in,
        publisher: PublisherEnds {
            records,
            free_records: free_records_in,
            used_frames,
            snapshots,
            free_snapshots: free_snapshots_in,
        },
        flags,
    };
    (thread, service)
}

/// The thread's own state.
pub struct Realtime<C: Clock> {
    driver: Driver<C>,
    ends: ThreadEnds,
    settings: RealtimeSettings,
    publisher: Thread,
    /// When it was last woken, and whether it has not been told of what came since.
    woken: (u64, bool),
    /// What [`Arriving`] counted when it was last looked at.
    lines_seen: u64,
    last_frame_ns: u64,
    /// When the last frame was taken, and how long after the one before it.
    arrival: (u64, u64),
    silent: bool,
    last_heartbeat_ns: u64,
    frames_since_snapshot: u64,
    /// The volume at hand, and whether it is skipped.
    volume: Option<(u64, bool)>,
    /// Baselines that were complete at the last snapshot; none before the first one.
    baselines_seen: Option<u64>,
}

/// Puts records into the ring.
struct RingSink<'a> {
    free: &'a mut Consumer<Box<Record>>,
    records: &'a mut Producer<Box<Record>>,
    ticket: u64,
}

impl RecordSink for RingSink<'_> {
    fn record(&mut self, input: &InputSummary, decision: &Decision, timing: &Timing) {
        // An input is taken only when records for all that can follow are free.
        let Ok(mut record) = self.free.pop() else { return };
        record.input = *input;
        record.decision.copy_from(decision);
        record.timing = *timing;
        record.ticket = self.ticket;
        self.ticket = 0;
        // The ring has room for every record that exists.
        let _ = self.records.push(record);
    }
}

impl<C: Clock> Realtime<C> {
    /// `publisher` is the thread that takes the records; it is woken after each input, or, where frames
    /// wait, after several.
    pub fn new(driver: Driver<C>, ends: ThreadEnds, settings: RealtimeSettings, publisher: Thread) -> Self {
        let last_frame_ns = driver.clock().now_ns();
        Self {
            driver,
            ends,
            settings,
            publisher,
            woken: (0, false),
            lines_seen: 0,
            last_frame_ns,
            arrival: (last_frame_ns, 0),
            silent: true,
            last_heartbeat_ns: 0,
            frames_since_snapshot: 0,
            volume: None,
            baselines_seen: None,
        }
    }

    /// Begins a continued session: its first input, and the end of every trigger that was on its way.
    pub fn continue_with(&mut self, continuation: &Continuation) {
        let Continuation { segment, template_lost, waiting } = continuation;
        self.with_sink(0, |driver, sink| {
            driver.take(Input::Continued { segment: *segment, template_lost: *template_lost }, sink);
            for &id in waiting {
                driver.take(Input::Device(DeviceReport::NoAnswer { id }), sink);
            }
        });
        self.snapshot_if_due();
    }

    /// Runs until the shutdown flag is up and every frame is taken. Gives the driver back.
    pub fn run(mut self) -> Driver<C> {
        loop {
            let worked = self.turn();
            if worked {
                self.tell_publisher();
                continue;
            }
            if self.woken.1 {
                self.wake_publisher();
            }
            if self.look_ahead() {
                continue;
            }
            if self.ends.flags.shutdown.load(Ordering::Acquire) {
                break;
            }
            self.wait();
        }
        self.with_sink(0, |driver, sink| {
            driver.close_waiting(sink);
            driver.safe(sink);
        });
        self.publisher.unpark();
        self.driver
    }

    /// Wakes the publisher for what was decided, now or, where a frame waits, with what is decided on that.
    fn tell_publisher(&mut self) {
        let now_ns = self.driver.clock().now_ns();
        if self.ends.frames.is_empty() || now_ns - self.woken.0 >= WAKE_NS {
            self.wake_publisher();
        } else {
            self.woken.1 = true;
        }
    }

    fn wake_publisher(&mut self) {
        self.woken = (self.driver.clock().now_ns(), false);
        self.publisher.unpark();
    }

    /// Does what there is to do; false when there was nothing.
    pub fn turn(&mut self) -> bool {
        let abort = self.ends.flags.abort.swap(0, Ordering::AcqRel);
        if abort != 0 {
            self.with_sink(abort, |driver, sink| {
                driver.safe(sink);
                driver.take(Input::Command(&Command::Abort), sink);
            });
            return true;
        }
        if self.ends.free_records.slots() < RECORDS_PER_INPUT {
            self.publisher.unpark();
            return false;
        }
        if let Ok(report) = self.ends.replies.pop() {
            self.with_sink(0, |driver, sink| driver.take(Input::Device(report), sink));
            return true;
        }
        if let Ok((ticket, command)) = self.ends.commands.pop() {
            self.with_sink(ticket, |driver, sink| driver.take(Input::Command(&command), sink));
            return true;
        }
        let frame = self.take_frame();
        let housekeeping = self.keep_house(frame);
        frame || housekeeping
    }

    /// Looks at lines that have come of a frame that is not whole yet, where there is nothing else to do; false when
    /// there was nothing to see.
    pub fn look_ahead(&mut self) -> bool {
        if !self.has_lines() {
            return false;
        }
        let lines = self.ends.arriving.lines();
        let driver = &mut self.driver;
        let has_more = self.ends.arriving.look(|slot| driver.look_ahead(slot));
        if has_more != Some(true) {
            self.lines_seen = lines;
        }
        true
    }

    fn has_lines(&self) -> bool {
        self.ends.arriving.lines() != self.lines_seen
    }

    fn with_sink(&mut self, ticket: u64, act: impl FnOnce(&mut Driver<C>, &mut RingSink<'_>)) {
        let mut sink = RingSink { free: &mut self.ends.free_records, records: &mut self.ends.records, ticket };
        act(&mut self.driver, &mut sink);
    }

    /// Whether a newer frame of the same plane waits behind this one. A volume is skipped whole, or not at all.
    fn is_overtaken(&mut self, item: &FrameItem) -> bool {
        let Some(meta) = meta_of(item) else { return false };
        if self.volume.is_none_or(|(index, _)| index != meta.index) {
            let is_newer = |waiting: &FrameItem| {
                meta_of(waiting).is_some_and(|other| other.plane == meta.plane && other.index > meta.index)
            };
            let waiting = self.ends.frames.read_chunk(self.ends.frames.slots());
            let overtaken = waiting.is_ok_and(|waiting| {
                let (first, second) = waiting.as_slices();
                first.iter().chain(second).any(is_newer)
            });
            self.volume = Some((meta.index, overtaken));
        }
        self.volume.is_some_and(|(_, overtaken)| overtaken)
    }

    fn take_frame(&mut self) -> bool {
        if let Some((port, frames)) = &mut self.ends.port {
            port.fetch(frames);
        }
        let Ok(item) = self.ends.frames.pop() else { return false };
        let taken_ns = self.driver.clock().now_ns();
        self.arrival = (taken_ns, taken_ns - self.arrival.0);
        let skip = self.settings.overload == Overload::Latest && self.is_overtaken(&item);
        let input_seq = self.driver.engine().next_seq();
        self.with_sink(0, |driver, sink| match &item {
            FrameItem::Pixels(slot) if skip => driver.take(skipped(&slot.meta), sink),
            FrameItem::Values(slot) if skip => driver.take(skipped(&slot.meta), sink),
            FrameItem::Pixels(slot) => driver.take(Input::Frame(slot), sink),
            FrameItem::Values(slot) => driver.take(Input::RoiValues { meta: slot.meta, f: &slot.f }, sink),
            FrameItem::Refused(meta, code) => driver.take(Input::Refused { meta: *meta, code: *code }, sink),
        });
        let moved_px = self.driver.moved_px();
        // The ring has room for every slot that exists and as many refusals as can wait.
        let _ = self.ends.used_frames.push(UsedFrame { item, input_seq, moved_px });
        self.last_frame_ns = self.driver.clock().now_ns();
        self.silent = false;
        self.frames_since_snapshot += 1;
        true
    }

    /// Overdue acknowledgements, the heartbeat, silence, snapshots.
    fn keep_house(&mut self, frame: bool) -> bool {
        let now = self.driver.clock().now_ns();
        let mut worked = false;
        if self.driver.is_waiting() {
            let before = self.ends.free_records.slots();
            self.with_sink(0, |driver, sink| driver.expire(sink));
            worked |= self.ends.free_records.slots() != before;
        }
        if now - self.last_heartbeat_ns >= HEARTBEAT_NS {
            self.last_heartbeat_ns = now;
            self.with_sink(0, |driver, sink| driver.heartbeat(sink));
        }
        if frame {
            return worked;
        }
        let silent_ns = now - self.last_frame_ns;
        if self.settings.gap_ns > 0 && !self.silent && silent_ns >= self.settings.gap_ns {
            self.silent = true;
            self.with_sink(0, |driver, sink| {
                driver.safe(sink);
                driver.take(Input::Gap { silent_ns }, sink);
            });
            return true;
        }
        worked | self.driver.settle() | self.snapshot_if_due()
    }

    /// Only when no frame waits: serialising takes longer than a decision.
    fn snapshot_if_due(&mut self) -> bool {
        let baselines = self.driver.engine().baselines_done();
        let every = self.settings.snapshot_frames;
        let engine = self.driver.engine();
        if engine.next_seq() == 0 {
            return false;
        }
        let wanted = self.ends.flags.snapshot.load(Ordering::Acquire);
        let due =
            wanted || self.baselines_seen != Some(baselines) || (every > 0 && self.frames_since_snapshot >= every);
        if !due {
            return false;
        }
        let Ok(mut snapshot) = self.ends.free_snapshots.pop() else { return false };
        self.baselines_seen = Some(baselines);
        self.frames_since_snapshot = 0;
        self.ends.flags.snapshot.store(false, Ordering::Release);
        snapshot.state.clear();
        snapshot.limits.clear();
        snapshot.input_seq = self.driver.engine().decision().input_seq;
        self.driver.settle();
        self.driver.engine().save(&mut snapshot.state);
        if let Some(limits) = self.driver.limits() {
            // Writing to memory does not fail.
            let _ = limits.save(&mut snapshot.limits);
        }
        let _ = self.ends.snapshots.push(snapshot);
        true
    }

    fn wait(&mut self) {
        if self.ends.free_records.slots() < RECORDS_PER_INPUT {
            // Frames or not: awake, it would only keep the publisher from its processor.
            return self.park(NO_ROOM);
        }
        // Without frames nothing is worth a processor, and with them a small part of one is.
        let spin_ns = if self.silent { 0 } else { self.settings.spin_ns.min(self.arrival.1 / SPIN_SHARE) };
        let now_ns = self.driver.clock().now_ns();
        let mut other_ns = self.last_heartbeat_ns + HEARTBEAT_NS;
        if self.settings.gap_ns > 0 && !self.silent {
            other_ns = other_ns.min(self.last_frame_ns + self.settings.gap_ns);
        }
        if self.driver.is_waiting() {
            other_ns = other_ns.min(now_ns + 1_000_000);
        }
        match idle(now_ns, other_ns, self.arrival.0 + self.arrival.1, spin_ns) {
            Idle::Park(timeout_ns) => self.park(Duration::from_nanos(timeout_ns)),
            Idle::Spin(end_ns) => self.spin_until(end_ns),
            Idle::Turn => {}
        }
    }

    fn park(&self, timeout: Duration) {
        match &self.ends.port {
            Some((port, _)) => port.wait(timeout),
            None => std::thread::park_timeout(timeout),
        }
    }

    /// Spins until something has come, or this time has.
    fn spin_until(&self, end_ns: u64) {
        while self.driver.clock().now_ns() < end_ns {
            let arrived = self.ends.port.as_ref().is_some_and(|(port, _)| port.has_frames());
            if arrived || self.has_lines() || !self.ends.frames.is_empty() || !self.ends.commands.is_empty() {
                return;
            }
            std::hint::spin_loop();
        }
    }
}

/// What the thread does for want of anything better.
#[derive(Debug, PartialEq, Eq)]
enum Idle {
    /// Sleep, at most for so many nanoseconds.
    Park(u64),
    /// Wait awake until this time.
    Spin(u64),
    /// Nothing: something other than a frame is due, which is the next turn's.
    Turn,
}

/// The next frame is due at `frame_ns`, something other at `other_ns`. A thread that wakes up for its frame finds it
/// late; one that spins is there, and its caches are warm: from `spin_ns` before it is due until as long after, and
/// at no other time. A thread with a priority that spins keeps everybody else off its processor, and so, of a serial
/// line, also the kernel's own worker that carries the trigger.
fn idle(now_ns: u64, other_ns: u64, frame_ns: u64, spin_ns: u64) -> Idle {
    let (first_ns, last_ns) = (frame_ns.saturating_sub(spin_ns), frame_ns + spin_ns);
    let is_awaited = spin_ns > 0 && now_ns < last_ns;
    let until_ns = if is_awaited { other_ns.min(first_ns) } else { other_ns };
    match until_ns.checked_sub(now_ns) {
        Some(left_ns) if left_ns > 0 => Idle::Park(left_ns),
        _ if is_awaited && now_ns >= first_ns => Idle::Spin(last_ns),
        _ => Idle::Turn,
    }
}

/// What a frame that was not refused says of itself.
fn meta_of(item: &FrameItem) -> Option<&FrameMeta> {
    match item {
        FrameItem::Pixels(slot) => Some(&slot.meta),
        FrameItem::Values(slot) => Some(&slot.meta),
        FrameItem::Refused(..) => None,
    }
}

fn skipped(meta: &FrameMeta) -> Input<'static> {
    Input::Skipped { first_index: meta.index, count: 1, reason: SkipReason::Overload }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SPIN_NS: u64 = 300_000;

    #[test]
    fn it_sleeps_until_shortly_before_the_next_frame_and_is_awake_when_that_is_due() {
        assert_eq!(idle(10 * MS, 90 * MS, 33 * MS, SPIN_NS), Idle::Park(23 * MS - SPIN_NS));
        assert_eq!(idle(33 * MS - SPIN_NS, 90 * MS, 33 * MS, SPIN_NS), Idle::Spin(33 * MS + SPIN_NS));
        assert_eq!(idle(33 * MS + SPIN_NS, 90 * MS, 33 * MS, SPIN_NS), Idle::Park(57 * MS - SPIN_NS));
    }

    #[test]
    fn what_else_is_due_ends_its_sleep_and_is_no_reason_to_spin() {
        assert_eq!(idle(10 * MS, 12 * MS, 33 * MS, SPIN_NS), Idle::Park(2 * MS));
        // A heartbeat that fell due behind a frame.
        assert_eq!(idle(10 * MS, 10 * MS - 1, 33 * MS, SPIN_NS), Idle::Turn);
        assert_eq!(idle(10 * MS, 10 * MS, 33 * MS, SPIN_NS), Idle::Turn);
        assert_eq!(idle(34 * MS, 34 * MS, 33 * MS, SPIN_NS), Idle::Turn);
    }

    #[test]
    fn without_a_spin_it_only_sleeps() {
        assert_eq!(idle(10 * MS, 90 * MS, 33 * MS, 0), Idle::Park(80 * MS));
        assert_eq!(idle(33 * MS, 90 * MS, 33 * MS, 0), Idle::Park(57 * MS));
        assert_eq!(idle(91 * MS, 90 * MS, 33 * MS, 0), Idle::Turn);
    }
}
