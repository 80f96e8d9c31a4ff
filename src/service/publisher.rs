//! Takes records from the real-time thread, turns each into messages once, and shares these: journal first, then acks,
//! answers, events, and everybody who subscribed. Runs on a thread of its own and waits for nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::engine::{Command, CommandOutcome, EventKind, FrameItem, InputSummary, PublisherEnds, Snapshot};
use crate::frame::{FrameMeta, Image};
use crate::journal::{JournalItem, JournalWriter, Published, Summary, WriterStatus};
use crate::proto::v1;

/// Steps that a slow subscriber may lag behind before it loses the oldest.
const STEPS_KEPT: usize = 1_024;
/// Events that are kept for clients that were away; the journal keeps all.
const EVENTS_KEPT: usize = 100_000;
/// Longest sleep of the publisher; it is woken after every input.
const NAP: Duration = Duration::from_millis(20);

/// Events of a session, numbered from 0 without gaps; the oldest are forgotten.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    first_seq: u64,
    events: VecDeque<v1::SubscribeEventsResponse>,
}

impl EventLog {
    /// Number of the next event.
    pub fn next_seq(&self) -> u64 {
        self.first_seq + self.events.len() as u64
    }

    /// The oldest event that is kept.
    pub fn first_seq(&self) -> u64 {
        self.first_seq
    }

    /// Event number `seq`, if it is kept.
    pub fn get(&self, seq: u64) -> Option<&v1::SubscribeEventsResponse> {
        self.events.get(usize::try_from(seq.checked_sub(self.first_seq)?).ok()?)
    }

    fn push(&mut self, event: v1::SubscribeEventsResponse) {
        self.events.push_back(event);
        if self.events.len() > EVENTS_KEPT {
            self.events.pop_front();
            self.first_seq += 1;
        }
    }
}

/// A command that waits for its answer.
struct Expected {
    answer: oneshot::Sender<Arc<Published>>,
    record: v1::CommandRecord,
}

/// A frame as somebody asked to see it.
pub(super) type PreviewFrame = (FrameMeta, Image);

/// What is known of a running session, and of an ended one; shared by every task of the service.
pub(super) struct Live {
    steps: broadcast::Sender<Arc<Published>>,
    acks: Mutex<Option<mpsc::UnboundedSender<Arc<Published>>>>,
    events: Mutex<EventLog>,
    events_next: watch::Sender<u64>,
    expected: Mutex<HashMap<u64, Expected>>,
    refusals: Mutex<VecDeque<String>>,
    previews: Mutex<Vec<oneshot::Sender<PreviewFrame>>>,
    summary: Mutex<Summary>,
    last: Mutex<Option<Arc<Published>>>,
    calibration: Mutex<Option<v1::Calibration>>,
    range: Mutex<Option<(f64, f64)>>,
    ensembles: Mutex<Option<(Vec<u32>, Vec<u32>)>>,
    snapshot: Mutex<Option<Vec<u8>>>,
    stopping: watch::Sender<bool>,
    ended: watch::Sender<bool>,
    realtime_ended: AtomicBool,
    baseline_done: AtomicBool,
    writer: Arc<WriterStatus>,
}

/// A lock whose data stay usable even if a thread panicked while it held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// Of a session whose journal is written by `writer`.
    pub fn new(writer: Arc<WriterStatus>) -> Self {
        Self {
            steps: broadcast::Sender::new(STEPS_KEPT),
            acks: Mutex::new(None),
            events: Mutex::default(),
            events_next: watch::Sender::new(0),
            expected: Mutex::default(),
            refusals: Mutex::default(),
            previews: Mutex::default(),
            summary: Mutex::default(),
            last: Mutex::default(),
            calibration: Mutex::default(),
            range: Mutex::default(),
            ensembles: Mutex::default(),
            snapshot: Mutex::default(),
            stopping: watch::Sender::new(false),
            ended: watch::Sender::new(false),
            realtime_ended: AtomicBool::new(false),
            baseline_done: AtomicBool::new(false),
            writer,
        }
    }

    /// Every step from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Published>> {
        self.steps.subscribe()
    }

    /// Every step that was a frame, in order, without loss, to the one stream that feeds the session.
    pub fn take_acks(&self) -> mpsc::UnboundedReceiver<Arc<Published>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *lock(&self.acks) = Some(sender);
        receiver
    }

    /// The number of the next event, as it grows.
    pub fn events_next(&self) -> watch::Receiver<u64> {
        self.events_next.subscribe()
    }

    /// Looks into the events.
    pub fn with_events<T>(&self, look: impl FnOnce(&EventLog) -> T) -> T {
        look(&lock(&self.events))
    }

    /// Waits for a command's step.
    pub fn expect(
        &self,
        ticket: u64,
        answer: oneshot::Sender<Arc<Published>>,
        operator: &str,
        key: &str,
        command: &Command,
    ) {
        let record = v1::CommandRecord {
            operator_name: operator.to_owned(),
            idempotency_key: key.to_owned(),
            command: command.name().to_owned(),
            ..v1::CommandRecord::default()
        };
        lock(&self.expected).insert(ticket, Expected { answer, record });
    }

    /// The command was not sent after all.
    pub fn expect_no_more(&self, ticket: u64) {
        lock(&self.expected).remove(&ticket);
    }

    /// Says why the next refused frame was refused; called before the refusal is handed to the real-time thread.
    pub fn refuse(&self, why: String) {
        lock(&self.refusals).push_back(why);
    }

    /// The next frame, as it comes.
    pub fn next_frame(&self) -> oneshot::Receiver<PreviewFrame> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.previews).push(sender);
        receiver
    }

    /// Counters and latencies.
    pub fn summary(&self) -> Summary {
        lock(&self.summary).clone()
    }

    /// The last step.
    pub fn last(&self) -> Option<Arc<Published>> {
        lock(&self.last).clone()
    }

    /// The calibration in force.
    pub fn calibration(&self) -> Option<v1::Calibration> {
        lock(&self.calibration).clone()
    }

    /// Threshold and range_low in force.
    pub fn range(&self) -> Option<(f64, f64)> {
        *lock(&self.range)
    }

    /// P+ and P- in force, where they are not the configured ones.
    pub fn ensembles(&self) -> Option<(Vec<u32>, Vec<u32>)> {
        lock(&self.ensembles).clone()
    }

    /// The engine's last snapshot.
    pub fn snapshot(&self) -> Option<Vec<u8>> {
        lock(&self.snapshot).clone()
    }

    /// How the journal fares.
    pub fn writer(&self) -> &WriterStatus {
        &self.writer
    }

    /// Whether the last baseline that began is complete: known before the next input says so.
    pub fn baseline_done(&self) -> bool {
        self.baseline_done.load(Ordering::Acquire)
    }

    /// Turns true when the session takes no more frames; those that it has are still acknowledged.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// The session takes no more frames.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Turns true when the session is over.
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// The session is over, its record complete.
    pub fn end(&self) {
        lock(&self.acks).take();
        self.ended.send_replace(true);
    }

    /// The real-time thread has given its last record away.
    pub fn realtime_ended(&self) {
        self.realtime_ended.store(true, Ordering::Release);
    }
}

/// The publishing thread.
pub(super) struct Publisher {
    ends: PublisherEnds,
    live: Arc<Live>,
    writer: JournalWriter,
    free_frames: mpsc::Sender<FrameItem>,
    patient: bool,
}

impl Publisher {
    /// Publishes what comes out of `ends`; slots go back through `free_frames`. A `patient` one waits for the disk
    /// rather than lose a record: for a replay, where nobody waits for a decision.
    pub fn new(
        ends: PublisherEnds,
        live: Arc<Live>,
        writer: JournalWriter,
        free_frames: mpsc::Sender<FrameItem>,
        patient: bool,
    ) -> Self {
        Self { ends, live, writer, free_frames, patient }
    }

    /// Runs until the real-time thread has ended and everything is published; then closes the journal.
    pub fn run(mut self) {
        loop {
            let last_turn = self.live.realtime_ended.load(Ordering::Acquire);
            let worked = self.turn();
            if !worked && last_turn {
                break;
            }
            if !worked {
                std::thread::park_timeout(NAP);
            }
        }
        for record in lock(&self.live.summary).latency_records() {
            self.write(JournalItem::Latency(record));
        }
        self.writer.close();
        if let Some(failure) = self.live.writer.failure() {
            tracing::error!("the journal is not complete: {failure}; {} records lost", self.live.writer.lost());
        }
    }

    fn write(&self, item: JournalItem) {
        if self.patient {
            self.writer.push_waiting(item);
        } else {
            self.writer.push(item);
        }
    }

    fn turn(&mut self) -> bool {
        let mut worked = false;
        while let Ok(record) = self.ends.records.pop() {
            worked = true;
            let refused = matches!(record.input, InputSummary::Refused { .. });
            let detail = if refused { lock(&self.live.refusals).pop_front() } else { None };
            let next_event = lock(&self.live.events).next_seq();
            let step = Published::new(&record, next_event, detail.as_deref());
            if let (InputSummary::Command(command), CommandOutcome::TookEffect) = (&record.input, step.outcome) {
                self.follow(command, &step);
            }
            // The ring has room for every record that exists.
            let _ = self.ends.free_records.push(record);
            self.publish(step);
        }
        while let Ok(frame) = self.ends.used_frames.pop() {
            worked = true;
            self.give_back(frame);
        }
        while let Ok(snapshot) = self.ends.snapshots.pop() {
            worked = true;
            self.keep(snapshot);
        }
        worked
    }

    /// What a command changed of the standing state.
    fn follow(&self, command: &Command, step: &Published) {
        let live = &self.live;
        match command {
            Command::StartBaseline => *lock(&live.range) = None,
            Command::Calibrate => {
                *lock(&live.range) = step.decision.calibration.as_ref().map(|c| (c.threshold, c.range_low));
            }
            Command::ChangeThreshold { threshold, range_low } => {
                let mut range = lock(&live.range);
                let low = range_low.or(range.map(|r| r.1)).unwrap_or(f64::NAN);
                *range = Some((*threshold, low));
            }
            Command::SetEnsembles { plus, minus } => {
                *lock(&live.ensembles) = Some((plus.iter().collect(), minus.iter().collect()));
                *lock(&live.range) = None;
            }
            _ => {}
        }
    }

    fn publish(&mut self, step: Arc<Published>) {
        self.write(JournalItem::Step(Arc::clone(&step)));
        let live = &self.live;
        lock(&live.summary).take(&step);
        if step.decision.calibration.is_some() {
            lock(&live.calibration).clone_from(&step.decision.calibration);
        }
        let forgets = [EventKind::BaselineStarted as i32, EventKind::EnsemblesChanged as i32];
        if step.decision.event_kind.iter().any(|kind| forgets.contains(kind)) {
            lock(&live.calibration).take();
        }
        for event in &step.events {
            match event.kind() {
                v1::EventKind::BaselineStarted => live.baseline_done.store(false, Ordering::Release),
                v1::EventKind::BaselineDone => live.baseline_done.store(true, Ordering::Release),
                _ => {}
            }
        }
        *lock(&live.last) = Some(Arc::clone(&step));
        if !step.events.is_empty() {
            let mut log = lock(&live.events);
            step.events.iter().for_each(|event| log.push(event.clone()));
            live.events_next.send_replace(log.next_seq());
        }
        if step.ticket != 0 {
            self.answer(&step);
        }
        let is_frame = matches!(
            step.input.kind(),
            v1::InputKind::Frame | v1::InputKind::RoiValues | v1::InputKind::Refused | v1::InputKind::Skipped
        );
        if is_frame && let Some(acks) = &*lock(&live.acks) {
            // The stream may have ended.
            let _ = acks.send(Arc::clone(&step));
        }
        // Nobody may be subscribed.
        let _ = live.steps.send(step);
    }

    fn answer(&self, step: &Arc<Published>) {
        let Some(mut expected) = lock(&self.live.expected).remove(&step.ticket) else { return };
        expected.record.input_seq = step.decision.input_seq;
        expected.record.outcome = step.outcome.to_string();
        self.write(JournalItem::Command(expected.record));
        // The client may have gone.
        let _ = expected.answer.send(Arc::clone(step));
    }

    fn give_back(&self, frame: FrameItem) {
        if let FrameItem::Pixels(slot) = &frame {
            let wanted = std::mem::take(&mut *lock(&self.live.previews));
            if !wanted.is_empty() {
                let bias = slot.pixel_type.bias();
                let values = slot.samples.iter().map(|&s| (i32::from(s) - bias) as f32).collect();
                let image = Image { geometry: slot.geometry, values };
                for preview in wanted {
                    let _ = preview.send((slot.meta, image.clone()));
                }
            }
        }
        if !matches!(frame, FrameItem::Refused(..)) {
            // The channel has room for every slot that exists.
            let _ = self.free_frames.try_send(frame);
        }
    }

    fn keep(&mut self, snapshot: Box<Snapshot>) {
        *lock(&self.live.snapshot) = Some(snapshot.state.clone());
        self.write(JournalItem::Snapshot(v1::SnapshotRecord {
            input_seq: snapshot.input_seq,
            state: snapshot.state.clone(),
            limits: snapshot.limits.clone(),
        }));
        let _ = self.ends.free_snapshots.push(snapshot);
    }
}
