//! A session: its directory, its engine on the real-time thread, its publisher, its device.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rtrb::Producer;
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::Status;

use super::memory;
use super::publisher::{Files, Live, Publisher, Slots};
use super::rig::{Draft, RigMode, turned};
use crate::config::outputs::{RewardDevice, RewardOutputConfig};
use crate::config::{FramesKept, RigConfig, load_text};
use crate::engine::{
    Arriving, Clock, Command, CommandOutcome, DeviceReport, Driver, Engine, Flags, FrameItem, HostClock, LimitTime,
    Realtime, RealtimeSettings, ServiceEnds, StreamShape, ThreadEnds, ValuesSlot, Waker, report_of, rings,
    schedule_this_thread,
};
use crate::frame::{FrameMeta, FrameSlot, Geometry};
use crate::journal::{Published, ResumePoint, SessionDirectory, engine_of, shape_of_head, state_name, with_images};
use crate::proto::v1;
use crate::sample::{RoiSet, rois_of};
use crate::trigger::{Device, Limits, SerialReader, Unrecorded, open_device, simulated_trigger};

/// How long a new stream waits for the one before it to be done: an adapter that reconnects after a crash may be faster
/// than the news of its end.
const HANDOVER_PATIENCE: Duration = Duration::from_millis(500);

/// What a source needs to hand frames over; one stream has it at a time.
pub(super) struct FrameFeed {
    pub frames: Producer<FrameItem>,
    pub free: mpsc::Receiver<FrameItem>,
    /// Where the slot that is being filled with pixels lies meanwhile.
    pub arriving: Arc<Arriving>,
    /// One that was not filled with values.
    pub held: Option<FrameItem>,
    /// Index of the last frame that was handed over, by whichever stream.
    pub last_index: Option<u64>,
}

/// A session, running or ended.
pub(super) struct Session {
    id: String,
    directory: PathBuf,
    config: RigConfig,
    head: v1::SessionHead,
    shape: StreamShape,
    outputs: Vec<String>,
    commands: Mutex<Producer<(u64, Command)>>,
    flags: Arc<Flags>,
    waker: Waker,
    rows_px: usize,
    /// Name of the services that take its frames in shared memory; empty where they come otherwise.
    shared_memory: String,
    feed: Mutex<Option<FrameFeed>>,
    feed_returned: Notify,
    live: Arc<Live>,
    threads: Mutex<Option<Threads>>,
    ended: AtomicBool,
    finishing: tokio::sync::Mutex<()>,
}

struct Threads {
    realtime: JoinHandle<()>,
    publisher: JoinHandle<()>,
    reader: Option<JoinHandle<()>>,
    stop_reader: Arc<AtomicBool>,
}

/// What a session begins with.
pub(super) enum Beginning {
    /// A draft.
    New(Box<Draft>),
    /// Where an earlier service left it.
    GoesOn(Box<ResumePoint>),
}

/// What decides, before anything is opened.
struct Built {
    config: RigConfig,
    engine: Engine,
    /// Of a new session; one that goes on has them in its journal.
    rois: RoiSet,
    limits: Option<Limits>,
}

impl Beginning {
    /// The engine and the limits: new, or in the state that was recorded.
    fn build(&self, stream: &v1::session_head::Stream) -> Result<Built, Status> {
        let new_limits = |config: &RigConfig| {
            (config.outputs.reward.device != RewardDevice::None).then(|| Limits::new(&config.limits))
        };
        match self {
            Beginning::New(draft) => {
                let config = draft.config.clone();
                let shape = shape_of_head(&v1::SessionHead { stream: Some(stream.clone()), ..Default::default() });
                let rois = rois_of(draft.rois.as_ref(), &config.rois.file, shape.geometry()).map_err(refused)?;
                let rois = with_images(rois, &config, &shape).map_err(refused)?;
                let engine = Engine::new(&config, &rois, &shape, 0).map_err(refused)?;
                let limits = new_limits(&config);
                Ok(Built { config, engine, rois, limits })
            }
            Beginning::GoesOn(point) => {
                let config = load_text(&point.head.config_toml, &[]).map_err(refused)?;
                let mut engine = engine_of(&point.head).map_err(refused)?;
                engine.load(&point.state).map_err(refused)?;
                let mut limits = new_limits(&config);
                if let Some(limits) = limits.as_mut().filter(|_| !point.limits.is_empty()) {
                    limits.load(&point.limits, HostClock.now_ns()).map_err(refused)?;
                }
                Ok(Built { config, engine, rois: RoiSet::default(), limits })
            }
        }
    }
}

fn refused(e: impl std::fmt::Display) -> Status {
    Status::failed_precondition(e.to_string())
}

impl Session {
    /// Opens a session for a stream: reads the ROIs, builds the engine, opens the device, makes the directory or the
    /// next segment in it, starts the threads. Blocks for as long as that takes; not for tokio's own threads.
    pub fn open(beginning: &Beginning, stream: v1::session_head::Stream, mode: RigMode) -> Result<Arc<Self>, Status> {
        let Built { config, engine, rois, limits } = beginning.build(&stream)?;
        // The device first: a session whose valve is missing leaves no directory behind.
        let (trigger, reader) = device_for(&config.outputs.reward, mode)?;
        let directory = match beginning {
            Beginning::New(draft) => SessionDirectory::create(&config, &draft.name, &rois, stream),
            Beginning::GoesOn(point) => SessionDirectory::go_on(&config, point),
        };
        let directory = directory.map_err(refused)?;
        let shape = shape_of_head(&directory.head);
        let keeps_pixels = config.record.frames != FramesKept::None;
        // Slots whose pixels wait for the disk come on top of those that wait for the engine.
        let slots = (config.engine.queue_frames + if keeps_pixels { config.record.frames_queue } else { 0 }) as usize;
        let state_bytes = engine.state_bytes();
        let (mut thread_ends, ends) = rings(engine.roi_count(), engine.segments(), state_bytes, slots);
        let ServiceEnds { frames, arriving, commands, replies, publisher, flags } = ends;
        let rows_px = engine.geometry().map_or(0, |geometry| geometry.height_px);
        let Filled { free, slots, waker, shared_memory } =
            fill(&shape, rows_px, &directory.head, slots, &mut thread_ends)?;
        let give_back = Arc::clone(&slots.give_back);
        let patient = mode == RigMode::Replay;
        let pixels = directory
            .open_pixels(&config, engine.roi_boxes(), patient, move |slot| give_back(slot))
            .map_err(refused)?;
        let SessionDirectory { session_id, path, head, writer } = directory;
        let settings = settings(&config, &head, mode);
        let limit_time = if mode == RigMode::Live { LimitTime::Host } else { LimitTime::Recording };
        let outputs = vec![format!("reward: {}", trigger.name())];
        let deadline_ns = match mode {
            RigMode::Live => (config.engine.deadline_ms * 1e6) as u64,
            // Nobody waits for a replay's answers.
            RigMode::Replay => 0,
        };
        let live = Arc::new(match beginning {
            Beginning::New(_) => Live::new(writer.status(), deadline_ns),
            Beginning::GoesOn(point) => Live::going_on(writer.status(), deadline_ns, point, &engine),
        });
        let driver = Driver::new(engine, HostClock, limits, limit_time, trigger, config.outputs.reward.ack_timeout_ms);
        let driver = match mode {
            RigMode::Live => {
                let status = writer.status();
                let durable_through = Box::new(move || status.journal_durable_through());
                driver.held_to_record(Unrecorded::new(config.limits.resolved().max_unrecorded_pulses, durable_through))
            }
            RigMode::Replay => driver,
        };
        let files = Files { writer, pixels, stall_ns: u64::from(config.record.stall_event_ms) * 1_000_000, patient };
        let publisher =
            Publisher::new(publisher, Arc::clone(&live), files, slots, Arc::clone(&flags), state_bytes.usual);
        let publisher = spawn("apical-publish", move || publisher.run())?;
        memory::reserve();
        let mut thread = Realtime::new(driver, thread_ends, settings, publisher.thread().clone());
        let continuation = match beginning {
            Beginning::New(_) => None,
            Beginning::GoesOn(point) => Some(point.continuation.clone()),
        };
        let (done, wanted) = (Arc::clone(&live), config.engine.clone());
        let (scheduled, asked) = std::sync::mpsc::channel();
        let realtime = spawn("apical-realtime", move || {
            if mode == RigMode::Live {
                done.scheduled(schedule_this_thread(&wanted));
            }
            let _ = scheduled.send(());
            if let Some(continuation) = &continuation {
                thread.continue_with(continuation);
            }
            drop(thread.run());
            done.realtime_ended();
        })?;
        // A thread that ended says nothing; the session then ends by itself.
        let _ = asked.recv();
        let waker = waker.unwrap_or_else(|| {
            let thread = realtime.thread().clone();
            Waker::new(move || thread.unpark())
        });
        let stop_reader = Arc::new(AtomicBool::new(false));
        let reader = match reader {
            None => None,
            Some(reader) => Some(spawn_reader(reader, replies, waker.clone(), Arc::clone(&stop_reader))?),
        };
        Ok(Arc::new(Self {
            id: session_id,
            directory: path,
            config,
            head,
            shape,
            outputs,
            commands: Mutex::new(commands),
            flags,
            waker,
            rows_px,
            shared_memory,
            feed: Mutex::new(Some(FrameFeed { frames, free, arriving, held: None, last_index: None })),
            feed_returned: Notify::new(),
            live,
            threads: Mutex::new(Some(Threads { realtime, publisher, reader, stop_reader })),
            ended: AtomicBool::new(false),
            finishing: tokio::sync::Mutex::new(()),
        }))
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its configuration.
    pub fn config(&self) -> &RigConfig {
        &self.config
    }

    /// The head of its journal.
    pub fn head(&self) -> &v1::SessionHead {
        &self.head
    }

    /// What its stream is like.
    pub fn shape(&self) -> &StreamShape {
        &self.shape
    }

    /// What is known of it while it runs, and after.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Whether it is over.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Wakes the real-time thread, after a frame was handed over.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Rows of a frame that it decides on, from the top; 0 without pixels.
    pub fn rows_px(&self) -> usize {
        self.rows_px
    }

    /// Name of the services that take its frames in shared memory; empty where they come otherwise.
    pub fn shared_memory(&self) -> &str {
        &self.shared_memory
    }

    /// The whole state as it stands.
    pub fn state(&self, version: String) -> v1::GetStateResponse {
        let live = &self.live;
        let last = live.last();
        let d = last.as_ref().map(|step| step.decision.clone()).unwrap_or_default();
        let ensembles = live.ensembles().unwrap_or_else(|| {
            let configured = &self.config.ensembles;
            (configured.plus.clone(), configured.minus.clone())
        });
        let range = live.range();
        v1::GetStateResponse {
            phase: self.phase(d.state()) as i32,
            session_id: self.id.clone(),
            directory: self.directory.display().to_string(),
            config_toml: self.head.config_toml.clone(),
            config_sha256: self.head.config_sha256.clone(),
            counters: Some(live.summary().counters),
            trial_state: state_name(d.state()).to_owned(),
            trial: d.trial,
            threshold: range.map(|r| r.0),
            range_low: range.map(|r| r.1),
            calibration: live.calibration(),
            offset: (d.offset_score >= 0.0 && last.is_some()).then_some(v1::TemplateOffset {
                dy_px: d.offset_dy_px,
                dx_px: d.offset_dx_px,
                score: d.offset_score,
                trusted: d.offset_trusted,
            }),
            decided_through: d.input_seq,
            durable_through: live.record().durable_through(),
            records_lost: live.record().lost(),
            pixels_dropped: live.record().pixels_dropped(),
            segment: self.head.segment,
            outputs: self.outputs.clone(),
            thread_settings: live.thread_settings().iter().map(ToString::to_string).collect(),
            frames_late: live.frames_late(),
            version,
            plus: ensembles.0,
            minus: ensembles.1,
            roi_count: match &self.shape {
                StreamShape::RoiValues { count } => *count as u32,
                StreamShape::Pixels { .. } => self.head.rois.as_ref().map_or(0, |set| set.rois.len() as u32),
            },
        }
    }

    fn phase(&self, state: v1::TrialState) -> v1::SessionPhase {
        if self.is_ended() {
            return v1::SessionPhase::Ended;
        }
        match state {
            v1::TrialState::Unspecified | v1::TrialState::Idle => v1::SessionPhase::Idle,
            // The baseline's last frame was the last input so far.
            v1::TrialState::Baseline if self.live.baseline_done() => v1::SessionPhase::Idle,
            v1::TrialState::Baseline => v1::SessionPhase::Baseline,
            v1::TrialState::Paused => v1::SessionPhase::Paused,
            _ => v1::SessionPhase::Task,
        }
    }

    /// Takes the feed for a stream; `None` while another keeps it.
    pub async fn take_feed(&self) -> Option<FrameFeed> {
        let free = async {
            loop {
                let returned = self.feed_returned.notified();
                let feed = self.feed.lock().ok().and_then(|mut feed| feed.take());
                match feed {
                    Some(feed) => return feed,
                    None => returned.await,
                }
            }
        };
        tokio::time::timeout(HANDOVER_PATIENCE, free).await.ok()
    }

    /// Gives the feed back when a stream ends.
    pub fn return_feed(&self, feed: FrameFeed) {
        if let Ok(mut place) = self.feed.lock() {
            *place = Some(feed);
        }
        self.feed_returned.notify_one();
    }

    /// Sends a command to the real-time thread and waits for what became of it.
    pub async fn command(
        &self,
        ticket: u64,
        command: Command,
        operator: &str,
        key: &str,
    ) -> Result<Arc<Published>, Status> {
        let over = || Status::failed_precondition(format!("{}: {}", command.name(), CommandOutcome::Ended));
        let mut ended = self.live.ended();
        if *ended.borrow() {
            return Err(over());
        }
        let (answer, answered) = oneshot::channel();
        self.live.expect(ticket, answer, operator, key, &command);
        if command == Command::Abort {
            self.flags.abort.store(ticket, Ordering::Release);
        } else {
            let mut commands = self.commands.lock().map_err(|_| Status::internal("a thread panicked"))?;
            commands.push((ticket, command)).map_err(|_| {
                self.live.expect_no_more(ticket);
                Status::resource_exhausted("too many commands wait for the real-time thread; send them one by one")
            })?;
        }
        self.waker.wake();
        tokio::select! {
            biased;
            step = answered => step.map_err(|_| over()),
            // The thread went without taking it; what it took was published before this turned.
            () = turned(&mut ended) => Err(over()),
        }
    }

    /// Ends the threads, closes the journal, writes the report. Once; later calls wait for the first.
    pub async fn finish(self: &Arc<Self>) {
        let _one = self.finishing.lock().await;
        let threads = self.threads.lock().ok().and_then(|mut threads| threads.take());
        let Some(threads) = threads else { return };
        self.live.stop();
        self.flags.shutdown.store(true, Ordering::Release);
        self.waker.wake();
        let session = Arc::clone(self);
        let finished = tokio::task::spawn_blocking(move || {
            let joined = [threads.realtime.join(), threads.publisher.join()];
            threads.stop_reader.store(true, Ordering::Release);
            let reader = threads.reader.map(JoinHandle::join);
            if joined.iter().chain(&reader).any(Result::is_err) {
                tracing::error!("session {}: a thread panicked", session.id);
            }
            if session.config.record.report
                && let Err(e) = crate::export::write_report(&session.directory)
            {
                tracing::error!("session {}: no report: {e}", session.id);
            }
            memory::give_back();
        })
        .await;
        if finished.is_err() {
            tracing::error!("session {}: it could not be finished", self.id);
        }
        self.ended.store(true, Ordering::Release);
        self.live.end();
    }
}

/// The thread that hears what the device says, and hands it to the real-time thread.
fn spawn_reader(
    reader: SerialReader,
    mut replies: Producer<DeviceReport>,
    waker: Waker,
    stop: Arc<AtomicBool>,
) -> Result<JoinHandle<()>, Status> {
    spawn("apical-device", move || {
        reader.run(
            |event| {
                if let Some(report) = report_of(&event) {
                    // A full ring means that the thread is gone or flooded; the timeout will say `unknown`.
                    let _ = replies.push(report);
                    waker.wake();
                }
            },
            &stop,
        );
    })
}

/// A thread with a name.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Status> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(run).map_err(|e| Status::resource_exhausted(format!("thread {name}: {e}")))
}

/// The slots of a session, in the hands of whoever fills them.
struct Filled {
    /// For a stream of gRPC; none where frames come through shared memory.
    free: mpsc::Receiver<FrameItem>,
    slots: Slots,
    /// Wakes the real-time thread, where it does not park.
    waker: Option<Waker>,
    shared_memory: String,
}

/// Makes the slots, and the way on which frames come into them.
fn fill(
    shape: &StreamShape,
    rows_px: usize,
    head: &v1::SessionHead,
    slots: usize,
    thread_ends: &mut ThreadEnds,
) -> Result<Filled, Status> {
    let (free_frames, free) = mpsc::channel(slots + 1);
    if let Some(v1::session_head::Stream::Pixels(v1::StreamHeader { shared_memory: true, .. })) = head.stream {
        return shared_slots(shape, rows_px, head, slots, thread_ends, free);
    }
    for _ in 0..slots {
        // The channel was made for this many.
        let _ = free_frames.try_send(new_slot(shape, rows_px));
    }
    let give_back = Arc::new(move |slot| {
        let _ = free_frames.try_send(slot);
    });
    Ok(Filled { free, slots: Slots { give_back, refusals: None }, waker: None, shared_memory: String::new() })
}

/// Slots whose frames stay where their producer writes them.
#[cfg(feature = "shm")]
fn shared_slots(
    shape: &StreamShape,
    rows_px: usize,
    head: &v1::SessionHead,
    slots: usize,
    thread_ends: &mut ThreadEnds,
    free: mpsc::Receiver<FrameItem>,
) -> Result<Filled, Status> {
    let StreamShape::Pixels { geometry, pixel_type, .. } = shape else {
        return Err(Status::invalid_argument("header.shared_memory: expected a stream of pixels"));
    };
    // No other's, whatever a killed service left behind.
    let name = format!("apical/{}/{}/{}", head.session_id, head.segment, crate::journal::wall_ns());
    let super::shared::Shared { port, waker, give_back, refusals } =
        super::shared::open(&name, *geometry, rows_px, *pixel_type, slots).map_err(refused)?;
    thread_ends.take_from(port);
    let slots = Slots { give_back, refusals: Some(refusals) };
    Ok(Filled { free, slots, waker: Some(waker), shared_memory: name })
}

#[cfg(not(feature = "shm"))]
fn shared_slots(
    _: &StreamShape,
    _: usize,
    _: &v1::SessionHead,
    _: usize,
    _: &mut ThreadEnds,
    _: mpsc::Receiver<FrameItem>,
) -> Result<Filled, Status> {
    Err(Status::unimplemented(crate::service::NO_SHARED_MEMORY))
}

fn new_slot(shape: &StreamShape, rows_px: usize) -> FrameItem {
    match shape {
        StreamShape::Pixels { geometry, pixel_type, .. } => {
            let geometry = Geometry::new(rows_px, geometry.width_px);
            FrameItem::Pixels(Box::new(FrameSlot::new(geometry, *pixel_type)))
        }
        StreamShape::RoiValues { count } => {
            FrameItem::Values(Box::new(ValuesSlot { meta: FrameMeta::default(), f: vec![0.0; *count] }))
        }
    }
}

fn settings(config: &RigConfig, head: &v1::SessionHead, mode: RigMode) -> RealtimeSettings {
    let rate_hz = match &head.stream {
        Some(v1::session_head::Stream::Pixels(h)) => h.frame_rate_hz,
        Some(v1::session_head::Stream::RoiValues(h)) => h.frame_rate_hz,
        None => 0.0,
    };
    let gap_ns = match mode {
        RigMode::Live => (config.engine.gap_periods * 1e9 / rate_hz) as u64,
        // A recording has no silence: its time is its frames'.
        RigMode::Replay => 0,
    };
    RealtimeSettings {
        overload: config.engine.overload,
        gap_ns,
        spin_ns: config.engine.spin_ns(),
        snapshot_frames: (f64::from(config.engine.snapshot_interval_s) * rate_hz) as u64,
    }
}

/// Opens the rewards' device; a replay never opens one.
fn device_for(config: &RewardOutputConfig, mode: RigMode) -> Result<Device, Status> {
    match mode {
        RigMode::Live => open_device(config, (crate::journal::wall_ns() / 1_000_000_000) as u32).map_err(refused),
        RigMode::Replay => Ok((simulated_trigger(config), None)),
    }
}
