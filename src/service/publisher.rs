//! Takes records from the real-time thread, turns each into messages once, and shares these: journal first, then acks,
//! answers, events, and everybody who subscribed. Runs on a thread of its own and waits for nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::disk_watch::DiskWatch;
use crate::engine::{
    Clock, Command, CommandOutcome, Engine, EventKind, Flags, FrameItem, HostClock, InputSummary, PublisherEnds,
    SkipReason, Snapshot, ThreadSetting, UsedFrame,
};
use crate::frame::{FrameMeta, FrameRefusal, Image, Room};
use crate::journal::{
    JournalItem, JournalWriter, PixelsWriter, Published, RecordStatus, ResumePoint, Summary, calibration_record,
};
use crate::proto::v1;

/// Steps that a slow subscriber may lag behind before it loses the oldest.
const STEPS_KEPT: usize = 1_024;
/// Events that are kept for clients that were away: those of an hour of trials. The journal keeps all.
const EVENTS_KEPT: usize = 1_024;
/// Longest sleep of the publisher; it is woken after every input, or after several where frames wait.
const NAP: Duration = Duration::from_millis(20);
/// Time between health samples, in nanoseconds.
const HEALTH_NS: u64 = 1_000_000_000;

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
    /// The last `SnapshotRecord`, in the memory from which it was written.
    snapshot: Mutex<Option<Bytes>>,
    stopping: watch::Sender<bool>,
    ended: watch::Sender<bool>,
    realtime_ended: AtomicBool,
    baseline_done: AtomicBool,
    thread_settings: OnceLock<Vec<ThreadSetting>>,
    deadline_ns: u64,
    frames_late: AtomicU64,
    record: Arc<RecordStatus>,
}

/// A lock whose data stay usable even if a thread panicked while it held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    /// Of a session whose record fares as `record` says, and whose frames are late behind `deadline_ns`; 0: never.
    pub fn new(record: Arc<RecordStatus>, deadline_ns: u64) -> Self {
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
            thread_settings: OnceLock::new(),
            deadline_ns,
            frames_late: AtomicU64::new(0),
            record,
        }
    }

    /// Of a session that goes on where `point` and its `engine` stand.
    pub fn going_on(record: Arc<RecordStatus>, deadline_ns: u64, point: &ResumePoint, engine: &Engine) -> Self {
        let ensembles = engine.ensembles();
        let last = v1::SnapshotRecord { state: Bytes::copy_from_slice(&point.state), ..Default::default() };
        Self {
            events: Mutex::new(EventLog { first_seq: point.next_event_seq, events: VecDeque::new() }),
            events_next: watch::Sender::new(point.next_event_seq),
            summary: Mutex::new(Summary::going_on(point.counters)),
            calibration: Mutex::new(engine.calibration().map(calibration_record)),
            range: Mutex::new(engine.range()),
            ensembles: Mutex::new(Some((ensembles.plus.clone(), ensembles.minus.clone()))),
            snapshot: Mutex::new(Some(last.encode_to_vec().into())),
            baseline_done: AtomicBool::new(!engine.baseline_runs()),
            ..Self::new(record, deadline_ns)
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
    pub fn snapshot(&self) -> Option<Bytes> {
        let message = lock(&self.snapshot).clone()?;
        v1::SnapshotRecord::decode(message).ok().map(|record| record.state)
    }

    /// How the record fares.
    pub fn record(&self) -> &RecordStatus {
        &self.record
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

    /// What was asked for the real-time thread, and what came of it.
    pub fn thread_settings(&self) -> &[ThreadSetting] {
        self.thread_settings.get().map_or(&[], Vec::as_slice)
    }

    /// Says so, once, before the thread's first input.
    pub fn scheduled(&self, settings: Vec<ThreadSetting>) {
        let _ = self.thread_settings.set(settings);
    }

    /// Whether a step's answer came too late.
    pub fn is_late(&self, step: &Published) -> bool {
        self.deadline_ns > 0 && step.answered_after_ns() > self.deadline_ns
    }

    /// Frames whose answer came too late.
    pub fn frames_late(&self) -> u64 {
        self.frames_late.load(Ordering::Relaxed)
    }

    /// The real-time thread has given its last record away.
    pub fn realtime_ended(&self) {
        self.realtime_ended.store(true, Ordering::Release);
    }
}

/// The files of the session's segment.
pub(super) struct Files {
    /// The journal.
    pub writer: JournalWriter,
    /// The pixels, where they are kept.
    pub pixels: Option<PixelsWriter>,
    /// What is durable may be this far behind before it is an event, in nanoseconds.
    pub stall_ns: u64,
    /// The disk is waited for rather than a record lost: for a replay, where nobody waits for a decision.
    pub patient: bool,
}

/// Where a session's slots come from.
pub(super) struct Slots {
    /// Takes them back.
    pub give_back: Arc<dyn Fn(FrameItem) + Send + Sync>,
    /// Why frames were refused that no other thread has seen, in their order.
    pub refusals: Option<rtrb::Consumer<FrameRefusal>>,
}

/// The publishing thread.
pub(super) struct Publisher {
    ends: PublisherEnds,
    live: Arc<Live>,
    files: Files,
    watch: DiskWatch,
    slots: Slots,
    flags: Arc<Flags>,
    /// Memory for a snapshot while that of the last one is in use, or there was none.
    snapshot_memory: BytesMut,
    last_health_ns: u64,
    /// The thread's settings have been told.
    settings_told: bool,
    /// The last frame was late, and that was told.
    late: bool,
}

impl Publisher {
    /// Publishes what comes out of `ends`; slots go back through `slots`. A snapshot usually has so many bytes.
    pub fn new(
        ends: PublisherEnds,
        live: Arc<Live>,
        files: Files,
        slots: Slots,
        flags: Arc<Flags>,
        snapshot_bytes: usize,
    ) -> Self {
        let watch = DiskWatch::new(files.stall_ns);
        Self {
            ends,
            live,
            files,
            watch,
            slots,
            flags,
            snapshot_memory: Bytes::from(Room::of(snapshot_bytes).memory::<u8>()).into(),
            last_health_ns: HostClock.now_ns(),
            settings_told: false,
            late: false,
        }
    }

    /// Runs until the real-time thread has ended and everything is published; then closes the files.
    pub fn run(mut self) {
        loop {
            let last_turn = self.live.realtime_ended.load(Ordering::Acquire);
            let worked = self.turn();
            self.keep_watch();
            if !worked && last_turn {
                break;
            }
            if !worked {
                std::thread::park_timeout(NAP);
            }
        }
        self.health();
        for record in lock(&self.live.summary).latency_records() {
            self.write(JournalItem::Latency(record));
        }
        if let Some(pixels) = &mut self.files.pixels {
            pixels.close();
        }
        self.files.writer.close();
        if let Some(failure) = self.live.record().failure() {
            let (lost, dropped) = (self.live.record().lost(), self.live.record().pixels_dropped());
            tracing::error!(
                "the record had trouble: {failure}; {lost} records lost, pixels of {dropped} frames dropped"
            );
        }
    }

    fn write(&self, item: JournalItem) {
        if self.files.patient {
            self.files.writer.push_waiting(item);
        } else {
            self.files.writer.push(item);
        }
    }

    fn turn(&mut self) -> bool {
        let mut worked = false;
        while let Ok(record) = self.ends.records.pop() {
            worked = true;
            // A snapshot stands between the inputs: it was pushed before the records of those behind it were.
            self.take_snapshots(record.decision.input_seq);
            let refused = matches!(record.input, InputSummary::Refused { .. });
            let detail = if refused { self.refusal() } else { None };
            let next_event = lock(&self.live.events).next_seq();
            let step = Published::new(&record, next_event, detail.as_deref());
            if let (InputSummary::Command(command), CommandOutcome::TookEffect) = (&record.input, step.outcome) {
                self.follow(command, &step);
            }
            let has_slot = matches!(
                record.input,
                InputSummary::Frame(_) | InputSummary::Skipped { reason: SkipReason::Overload, .. }
            );
            if let Some(pixels) = self.files.pixels.as_mut().filter(|_| has_slot) {
                pixels.expect(step.decision.input_seq);
            }
            // The ring has room for every record that exists.
            let _ = self.ends.free_records.push(record);
            self.publish(Arc::clone(&step));
            self.tell_late(&step);
        }
        while let Ok(frame) = self.ends.used_frames.pop() {
            worked = true;
            self.give_back(frame);
        }
        let published = self.live.last().map_or(0, |step| step.decision.input_seq + 1);
        worked | self.take_snapshots(published)
    }

    /// Why the frame at hand was refused, as far as that was said.
    fn refusal(&mut self) -> Option<String> {
        let of_ring = self.slots.refusals.as_mut().and_then(|refusals| refusals.pop().ok());
        of_ring.map(|refusal| refusal.to_string()).or_else(|| lock(&self.live.refusals).pop_front())
    }

    /// The first of a run of late frames is an event.
    fn tell_late(&mut self, step: &Published) {
        if step.timing.received_host_ns == 0 {
            return;
        }
        let late = self.live.is_late(step);
        if late && !self.late {
            let (index, ms) = (step.input.frame_index, step.answered_after_ns() as f64 / 1e6);
            self.event(v1::EventKind::FrameLate, index, ms, "an answer later than engine.deadline_ms");
        }
        self.late = late;
    }

    /// Takes the snapshots of inputs before `next_seq`.
    fn take_snapshots(&mut self, next_seq: u64) -> bool {
        let mut worked = false;
        while self.ends.snapshots.peek().is_ok_and(|snapshot| snapshot.input_seq < next_seq)
            && let Ok(snapshot) = self.ends.snapshots.pop()
        {
            worked = true;
            self.keep(snapshot);
        }
        worked
    }

    /// Whether the disk keeps up, and how the session fares.
    fn keep_watch(&mut self) {
        let now_ns = HostClock.now_ns();
        if !self.settings_told && self.live.last().is_some() {
            self.settings_told = true;
            for setting in self.live.thread_settings() {
                let granted = f64::from(u8::from(setting.refused.is_none()));
                self.event(v1::EventKind::ThreadSetting, 0, granted, &setting.to_string());
            }
        }
        if !self.files.patient
            && let Some((kind, seconds)) = self.watch.look(now_ns, self.live.record().durable_through())
        {
            let detail = match kind {
                v1::EventKind::DiskStalled => "what is recorded waits for the disk; decisions go on",
                _ => "everything recorded is durable again",
            };
            self.event(kind, 0, seconds, detail);
        }
        if now_ns.saturating_sub(self.last_health_ns) >= HEALTH_NS {
            self.health();
        }
    }

    /// Losses, and a health sample.
    fn health(&mut self) {
        self.last_health_ns = HostClock.now_ns();
        let (lost, dropped) = (self.live.record().lost(), self.live.record().pixels_dropped());
        if dropped > self.watch.dropped {
            let count = dropped - self.watch.dropped;
            let frame = self.live.last().map_or(0, |step| step.decision.frame_index);
            self.watch.dropped = dropped;
            self.event(
                v1::EventKind::PixelsDropped,
                frame,
                count as f64,
                "the disk is too slow or full for the pixels",
            );
        }
        if lost > self.watch.lost {
            let (count, seq) = (lost - self.watch.lost, self.live.last().map_or(0, |step| step.decision.input_seq));
            (self.watch.lost, self.watch.recovers) = (lost, true);
            let failure = self.live.record().failure().unwrap_or_default();
            self.event(v1::EventKind::RecordsLost, seq, count as f64, &failure);
        } else if std::mem::take(&mut self.watch.recovers) {
            // Nothing was lost since the last look: what comes now builds on a state that is in the record.
            self.flags.snapshot.store(true, Ordering::Release);
        }
        self.write_health();
    }

    fn write_health(&self) {
        let record = self.live.record();
        self.write(JournalItem::Health(v1::HealthRecord {
            input_seq: self.live.last().map_or(0, |step| step.decision.input_seq),
            host_ns: HostClock.now_ns(),
            counters: Some(lock(&self.live.summary).counters),
            next_event_seq: lock(&self.live.events).next_seq(),
            durable_lag_ns: self.watch.lag_ns(HostClock.now_ns()),
            records_waiting: record.records_waiting(),
            frames_waiting: record.frames_waiting(),
            pixels_dropped: record.pixels_dropped(),
            records_lost: record.lost(),
            resident_bytes: resident_bytes(),
            frames_late: self.live.frames_late(),
        }));
    }

    /// Something that happened outside the engine: recorded and told like every event, at the last input.
    fn event(&self, kind: v1::EventKind, id: u64, value: f64, detail: &str) {
        let last = self.live.last();
        let mut log = lock(&self.live.events);
        let event = v1::SubscribeEventsResponse {
            event_seq: log.next_seq(),
            input_seq: last.as_ref().map_or(0, |step| step.decision.input_seq),
            frame_index: last.as_ref().map_or(0, |step| step.decision.frame_index),
            device_ns: last.as_ref().map_or(0, |step| step.decision.device_ns),
            kind: kind as i32,
            id,
            value,
            detail: detail.to_owned(),
        };
        log.push(event.clone());
        self.live.events_next.send_replace(log.next_seq());
        drop(log);
        self.write(JournalItem::Event(event));
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
        self.watch.published(step.decision.input_seq, HostClock.now_ns());
        let live = &self.live;
        lock(&live.summary).take(&step);
        // Before its acknowledgement: who has that finds it counted.
        if live.is_late(&step) {
            live.frames_late.fetch_add(1, Ordering::Relaxed);
        }
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

    fn give_back(&mut self, frame: UsedFrame) {
        if let FrameItem::Pixels(slot) = &frame.item {
            let wanted = std::mem::take(&mut *lock(&self.live.previews));
            if !wanted.is_empty() {
                let bias = slot.pixel_type.bias();
                let values = slot.samples().iter().map(|&s| (i32::from(s) - bias) as f32).collect();
                let image = Image { geometry: slot.geometry, values };
                for preview in wanted {
                    let _ = preview.send((slot.meta, image.clone()));
                }
            }
        }
        let item = match (&mut self.files.pixels, frame.item) {
            (_, FrameItem::Refused(..)) => return,
            (Some(pixels), item @ FrameItem::Pixels(_)) => {
                let Some(item) = pixels.push(UsedFrame { item, ..frame }) else { return };
                item
            }
            (_, item) => item,
        };
        (self.slots.give_back)(item);
    }

    fn keep(&mut self, mut snapshot: Box<Snapshot>) {
        let mut kept = lock(&self.live.snapshot);
        // In the memory of the last one, where the journal and who asked for it are done with that.
        let mut memory = kept
            .take()
            .and_then(|last| last.try_into_mut().ok())
            .unwrap_or_else(|| std::mem::take(&mut self.snapshot_memory));
        memory.clear();
        // The engine's memory is lent to the record, and comes back as it was.
        let (state, limits) = (std::mem::take(&mut snapshot.state), std::mem::take(&mut snapshot.limits));
        let record = v1::SnapshotRecord { input_seq: snapshot.input_seq, state: state.into(), limits };
        // Writing to memory does not fail.
        let _ = record.encode(&mut memory);
        (snapshot.state, snapshot.limits) = (record.state.into(), record.limits);
        let message = memory.freeze();
        *kept = Some(message.clone());
        drop(kept);
        // The counters of the very input that the state is of.
        self.write_health();
        self.write(JournalItem::Snapshot { input_seq: snapshot.input_seq, message });
        let _ = self.ends.free_snapshots.push(snapshot);
    }
}

/// Memory of this process that is resident, in bytes; 0 where the system does not say.
fn resident_bytes() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let pages = std::fs::read_to_string("/proc/self/statm").ok();
        let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
        pages.unwrap_or(0) * rustix::param::page_size() as u64
    }
    #[cfg(not(target_os = "linux"))]
    {
        0
    }
}
