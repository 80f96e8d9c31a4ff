//! IngestService: frames and ROI values in, acknowledgements out.
//!
//! The payload of a frame is a slice of what the socket was read into (`bytes::Bytes`, see [`wire`]); [`FrameAssembly`]
//! writes it into a slot in canonical form, which is the one copy on its way. A slot is waited for where none is free:
//! that is the back-pressure, which HTTP/2 carries to the adapter.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::rig::{Rig, Slot, turned};
use super::session::{Beginning, FrameFeed, Session};
use super::wire;
use crate::engine::{Clock, FrameItem, HostClock, StreamShape};
use crate::frame::{Arrival, FrameAssembly, FrameMeta, FrameRefusal, Geometry, StripMeta};
use crate::journal::{Published, fit_verdict};
use crate::proto::v1::{self, ingest_service_server::IngestService};
use crate::register::FitVerdict;
use crate::sample::MAX_SIDE_PX;

/// Answers that may wait for a slow adapter.
const ANSWERS: usize = 1_024;
/// Lines that come so long after those before them, in nanoseconds, come as they are scanned: the real-time thread is
/// woken to look at them. The pieces of a frame that is sent whole follow one another faster than a thread wakes up.
const SCANNED_NS: u64 = 500_000;
/// ROI values in a sample, at most.
const VALUES_MAX: u32 = 100_000;

/// The service.
pub(super) struct Ingest {
    rig: Arc<Rig>,
}

impl Ingest {
    /// Of a rig.
    pub fn new(rig: Arc<Rig>) -> Self {
        Self { rig }
    }

    /// The session of the stream, with its feed.
    async fn open(&self, stream: v1::session_head::Stream) -> Result<(Arc<Session>, FrameFeed), Status> {
        // Not given up when the adapter is: a session whose threads run must end up where it can be found.
        let session = tokio::spawn(session_for(Arc::clone(&self.rig), stream)).await;
        let session = session.map_err(|_| Status::internal("opening the session panicked"))??;
        let feed =
            session.take_feed().await.ok_or_else(|| Status::already_exists("another adapter feeds this session"))?;
        Ok((session, feed))
    }
}

/// Opens the session for a stream, or finds the one that the same stream fed before.
async fn session_for(rig: Arc<Rig>, stream: v1::session_head::Stream) -> Result<Arc<Session>, Status> {
    let mut slot = rig.slot.lock().await;
    rig.refuse_when_stopping()?;
    let beginning = match &*slot {
        Slot::Empty => return Err(Status::failed_precondition("no session: call CreateSession first")),
        Slot::Session(session) if session.is_ended() => {
            return Err(Status::failed_precondition("the session has ended: call CreateSession first"));
        }
        Slot::Session(session) => {
            if session.head().stream.as_ref() != Some(&stream) {
                return Err(Status::failed_precondition(
                    "the session runs on a stream with another header; send that one again, or create a session",
                ));
            }
            return Ok(Arc::clone(session));
        }
        Slot::Draft(draft) => Beginning::New(draft.clone()),
        Slot::Paused(point) => {
            if point.head.stream.as_ref() != Some(&stream) {
                return Err(Status::failed_precondition(
                    "the session that goes on had a stream with another header; send that one again, or create a \
                     session",
                ));
            }
            Beginning::GoesOn(point.clone())
        }
    };
    let mode = rig.mode();
    let opened = tokio::task::spawn_blocking(move || Session::open(&beginning, stream, mode)).await;
    let session = opened.map_err(|_| Status::internal("opening the session panicked"))??;
    *slot = Slot::Session(Arc::clone(&session));
    Ok(session)
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl IngestService for Ingest {
    type IngestFramesStream = Answers<v1::IngestFramesResponse>;
    type IngestRoiValuesStream = Answers<v1::IngestRoiValuesResponse>;

    async fn ingest_frames(
        &self,
        request: Request<Streaming<v1::IngestFramesRequest>>,
    ) -> Result<Response<Self::IngestFramesStream>, Status> {
        use v1::ingest_frames_request::Message;
        let mut messages = wire::take(&request)?;
        let first = messages.next().await.transpose()?.flatten();
        let Some(Message::Header(header)) = first else { return Err(header_first()) };
        let notes = check_header(&header)?;
        let (session, feed) = self.open(v1::session_head::Stream::Pixels(header.clone())).await?;
        let source = PixelSource::new(&session, &header, feed.last_index);
        let elsewhere = !session.shared_memory().is_empty();
        let (feeder, answers) = Feeder::new(session, feed, self.rig.closing(), notes);
        if elsewhere {
            tokio::spawn(feeder.run(messages, SharedMemory));
        } else {
            tokio::spawn(feeder.run(messages, source));
        }
        Ok(Response::new(Box::pin(answers.map(|m| m.map(Into::into)))))
    }

    async fn ingest_roi_values(
        &self,
        request: Request<Streaming<v1::IngestRoiValuesRequest>>,
    ) -> Result<Response<Self::IngestRoiValuesStream>, Status> {
        use v1::ingest_roi_values_request::Message;
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|m| m.message);
        let Some(Message::Header(header)) = first else { return Err(header_first()) };
        check_rate(header.frame_rate_hz)?;
        if header.roi_count == 0 || header.roi_count > VALUES_MAX {
            let got = header.roi_count;
            return Err(Status::invalid_argument(format!("header.roi_count: {got}, expected 1 to {VALUES_MAX}")));
        }
        let (session, feed) = self.open(v1::session_head::Stream::RoiValues(header.clone())).await?;
        let source = ValueSource { count: header.roi_count as usize, last_index: feed.last_index };
        let messages = messages.map(|m| m.map(|m| m.message));
        let (feeder, answers) = Feeder::new(session, feed, self.rig.closing(), Vec::new());
        tokio::spawn(feeder.run(messages, source));
        Ok(Response::new(Box::pin(answers.map(|m| m.map(Into::into)))))
    }
}

fn header_first() -> Status {
    Status::invalid_argument("the first message must be the stream's header")
}

fn check_rate(rate_hz: f64) -> Result<(), Status> {
    if rate_hz.is_finite() && rate_hz > 0.0 && rate_hz <= 1e6 {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("header.frame_rate_hz: {rate_hz}, expected above 0, to 1000000")))
}

/// Checks a header of pixels. Returns what its sender should know.
fn check_header(header: &v1::StreamHeader) -> Result<Vec<String>, Status> {
    if header.shared_memory && cfg!(not(feature = "shm")) {
        return Err(Status::unimplemented(format!("header.shared_memory: {}", super::NO_SHARED_MEMORY)));
    }
    check_rate(header.frame_rate_hz)?;
    for (name, side) in [("height_px", header.height_px), ("width_px", header.width_px)] {
        if side == 0 || side as usize > MAX_SIDE_PX {
            return Err(Status::invalid_argument(format!("header.{name}: {side}, expected 1 to {MAX_SIDE_PX}")));
        }
    }
    if header.pixel_type() == v1::PixelType::Unspecified {
        let got = header.pixel_type;
        return Err(Status::invalid_argument(format!(
            "header.pixel_type: {got}, expected PIXEL_TYPE_UINT8, PIXEL_TYPE_UINT16 or PIXEL_TYPE_INT16"
        )));
    }
    if let Some(offset) = header.detector_offset_counts
        && !offset.is_finite()
    {
        return Err(Status::invalid_argument(format!(
            "header.detector_offset_counts: {offset}, expected a finite number"
        )));
    }
    let mut notes = Vec::new();
    if header.planes > 1 || header.channels > 1 {
        let note = "only the planes and the channel of the configuration's [stream] are read; others are \
                    acknowledged as not used";
        notes.push(note.to_owned());
    }
    Ok(notes)
}

/// What goes out.
enum Out {
    Accepted(v1::StreamAccepted),
    Ack(v1::Ack),
    Pong(v1::ClockPong),
}

impl From<Out> for v1::IngestFramesResponse {
    fn from(out: Out) -> Self {
        use v1::ingest_frames_response::Message;
        let message = match out {
            Out::Accepted(m) => Message::Accepted(m),
            Out::Ack(m) => Message::Ack(m),
            Out::Pong(m) => Message::Pong(m),
        };
        Self { message: Some(message) }
    }
}

impl From<Out> for v1::IngestRoiValuesResponse {
    fn from(out: Out) -> Self {
        use v1::ingest_roi_values_response::Message;
        let message = match out {
            Out::Accepted(m) => Message::Accepted(m),
            Out::Ack(m) => Message::Ack(m),
            Out::Pong(m) => Message::Pong(m),
        };
        Self { message: Some(message) }
    }
}

/// What came in, of either kind of stream.
enum In {
    Frame(v1::Frame),
    Values(v1::RoiValues),
    Ping(v1::ClockPing),
    /// A second header, or nothing.
    Nonsense,
}

impl From<Option<v1::ingest_frames_request::Message>> for In {
    fn from(message: Option<v1::ingest_frames_request::Message>) -> Self {
        match message {
            Some(v1::ingest_frames_request::Message::Frame(frame)) => In::Frame(frame),
            Some(v1::ingest_frames_request::Message::Ping(ping)) => In::Ping(ping),
            _ => In::Nonsense,
        }
    }
}

impl From<Option<v1::ingest_roi_values_request::Message>> for In {
    fn from(message: Option<v1::ingest_roi_values_request::Message>) -> Self {
        match message {
            Some(v1::ingest_roi_values_request::Message::Values(values)) => In::Values(values),
            Some(v1::ingest_roi_values_request::Message::Ping(ping)) => In::Ping(ping),
            _ => In::Nonsense,
        }
    }
}

/// What a source makes of one message.
enum Taken {
    /// Not a whole frame yet.
    Nothing,
    /// Hand the slot over.
    Whole,
    /// Refused.
    Refused(FrameMeta, FrameRefusal),
    /// Of a plane or channel that is not read.
    NotUsed(FrameMeta),
}

/// Fills slots from messages.
trait Source: Send + 'static {
    /// Whether frames come over this stream.
    fn expects_frames(&self) -> bool {
        true
    }
    fn take(&mut self, message: &In, slot: &mut FrameItem, received_host_ns: u64) -> Vec<Taken>;
    /// Index of the last whole frame.
    fn last_index(&self) -> Option<u64>;
}

/// Fills slots with pixels.
struct PixelSource {
    assembly: FrameAssembly,
    /// The planes that the session reads, and the last whole frame of each.
    read: Vec<(u32, Option<u64>)>,
    channel: u32,
    planes: u32,
    channels: u32,
    /// Index, plane and channel of the frame that was refused last; the rest of its strips has had its answer.
    refused: Option<(u64, u32, u32)>,
}

impl PixelSource {
    fn new(session: &Session, header: &v1::StreamHeader, last_index: Option<u64>) -> Self {
        let stream = &session.config().stream;
        let (geometry, pixel_type) = match session.shape() {
            StreamShape::Pixels { geometry, pixel_type, .. } => (*geometry, *pixel_type),
            StreamShape::RoiValues { .. } => (Geometry::new(0, 0), crate::frame::PixelType::U16),
        };
        let inverted = stream.inverted.unwrap_or(header.inverted);
        Self {
            assembly: FrameAssembly::new(geometry, pixel_type, inverted).of_upper_rows(session.rows_px()),
            read: stream.plane.as_slice().iter().map(|&plane| (plane, last_index)).collect(),
            channel: stream.channel,
            planes: header.planes.max(1),
            channels: header.channels.max(1),
            refused: None,
        }
    }

    fn strip(&mut self, frame: &v1::Frame, slot: &mut FrameItem, meta: FrameMeta) -> Taken {
        let FrameItem::Pixels(slot) = slot else { return Taken::Nothing };
        let (index, plane, channel) = (meta.index, meta.plane, meta.channel);
        if plane >= self.planes || channel >= self.channels {
            let (planes, channels) = (self.planes, self.channels);
            return Taken::Refused(meta, FrameRefusal::UnknownPlane { index, plane, channel, planes, channels });
        }
        let Some((_, last_index)) = self.read.iter_mut().find(|(read, _)| (*read, self.channel) == (plane, channel))
        else {
            // Its other strips have the answer of the first.
            return if frame.row_offset_px == 0 { Taken::NotUsed(meta) } else { Taken::Nothing };
        };
        if let Some(last) = *last_index
            && index <= last
            && !self.assembly.is_at(&meta)
        {
            return Taken::Refused(meta, FrameRefusal::IndexNotRising { index, last });
        }
        let strip = StripMeta { frame: meta, row_offset_px: frame.row_offset_px, row_count_px: frame.row_count_px };
        match self.assembly.add(&strip, &frame.pixels, slot) {
            Ok(false) => Taken::Nothing,
            Ok(true) => {
                *last_index = Some(index);
                Taken::Whole
            }
            Err(refusal) => Taken::Refused(meta, refusal),
        }
    }
}

impl Source for PixelSource {
    fn take(&mut self, message: &In, slot: &mut FrameItem, received_host_ns: u64) -> Vec<Taken> {
        let In::Frame(frame) = message else { return Vec::new() };
        let meta = FrameMeta {
            index: frame.index,
            plane: frame.plane,
            channel: frame.channel,
            device_ns: frame.device_ns,
            z_um: frame.z_um,
            received_host_ns,
        };
        let identity = (meta.index, meta.plane, meta.channel);
        if frame.row_offset_px == 0 {
            self.refused = None;
        } else if self.refused == Some(identity) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        let is_read = meta.channel == self.channel && self.read.iter().any(|&(plane, _)| plane == meta.plane);
        if is_read && let Some((begun, refusal)) = self.assembly.interrupted_by(&meta) {
            taken.push(Taken::Refused(FrameMeta { received_host_ns, ..begun }, refusal));
        }
        let strip = self.strip(frame, slot, meta);
        if matches!(strip, Taken::Refused(..)) {
            self.refused = Some(identity);
        }
        taken.push(strip);
        taken
    }

    fn last_index(&self) -> Option<u64> {
        self.read.iter().filter_map(|&(_, last)| last).max()
    }
}

/// Fills slots with ROI values.
struct ValueSource {
    count: usize,
    last_index: Option<u64>,
}

impl Source for ValueSource {
    fn take(&mut self, message: &In, slot: &mut FrameItem, received_host_ns: u64) -> Vec<Taken> {
        let (In::Values(values), FrameItem::Values(slot)) = (message, slot) else { return Vec::new() };
        let index = values.index;
        let meta = FrameMeta { index, device_ns: values.device_ns, received_host_ns, ..FrameMeta::default() };
        if let Some(last) = self.last_index
            && index <= last
        {
            return vec![Taken::Refused(meta, FrameRefusal::IndexNotRising { index, last })];
        }
        let finite = values.f_counts.iter().filter(|v| v.is_finite()).count();
        if values.f_counts.len() != self.count || finite != self.count {
            let (got, expected) = (finite, self.count);
            return vec![Taken::Refused(meta, FrameRefusal::RoiValues { index, got, expected })];
        }
        self.last_index = Some(index);
        slot.meta = meta;
        slot.f.copy_from_slice(&values.f_counts);
        vec![Taken::Whole]
    }

    fn last_index(&self) -> Option<u64> {
        self.last_index
    }
}

/// Frames come through shared memory; the stream carries what becomes of them.
struct SharedMemory;

impl Source for SharedMemory {
    fn expects_frames(&self) -> bool {
        false
    }

    fn take(&mut self, _: &In, _: &mut FrameItem, _: u64) -> Vec<Taken> {
        Vec::new()
    }

    fn last_index(&self) -> Option<u64> {
        None
    }
}

/// Carries one stream into its session.
struct Feeder {
    session: Arc<Session>,
    feed: FrameFeed,
    answers: mpsc::Sender<Result<Out, Status>>,
    acks: mpsc::UnboundedReceiver<Arc<Published>>,
    closing: watch::Receiver<bool>,
    ended: watch::Receiver<bool>,
    /// Frames handed over whose acknowledgement has not gone out.
    pending: u64,
    /// Index of the last frame that was acknowledged as taken.
    last_taken: Option<u64>,
    /// When the last message of a frame came.
    came_ns: u64,
    ready: VecDeque<Out>,
}

impl Feeder {
    fn new(
        session: Arc<Session>,
        feed: FrameFeed,
        closing: watch::Receiver<bool>,
        notes: Vec<String>,
    ) -> (Self, ReceiverStream<Result<Out, Status>>) {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let acks = session.live().take_acks();
        let ended = session.live().ended();
        let accepted = v1::StreamAccepted {
            session_id: session.id().to_owned(),
            host_ns: HostClock.now_ns(),
            notes,
            next_index: feed.last_index.map_or(0, |last| last.saturating_add(1)),
            shared_memory: session.shared_memory().to_owned(),
        };
        let ready = VecDeque::from([Out::Accepted(accepted)]);
        let last_taken = feed.last_index;
        let feeder = Self { session, feed, answers, acks, closing, ended, pending: 0, last_taken, came_ns: 0, ready };
        (feeder, ReceiverStream::new(receiver))
    }

    async fn run<M: Into<In>>(
        mut self,
        mut messages: impl Stream<Item = Result<M, Status>> + Unpin,
        mut source: impl Source,
    ) {
        let (mut ended, mut closing) = (self.ended.clone(), self.closing.clone());
        let mut stopping = self.session.live().stopping();
        let (mut open, mut heard) = (true, true);
        // An adapter that went away leaves frames under way; their acknowledgements must not reach the next stream.
        while open || self.pending > 0 || !self.ready.is_empty() {
            if let Some(out) = self.ready.pop_front() {
                if heard && self.answers.send(Ok(out)).await.is_err() {
                    (open, heard) = (false, false);
                }
                continue;
            }
            tokio::select! {
                biased;
                Some(step) = self.acks.recv() => self.acknowledge(&step),
                () = turned(&mut ended) => break,
                () = turned(&mut closing) => break,
                () = turned(&mut stopping), if open => open = false,
                message = messages.next(), if open => match message {
                    Some(Ok(message)) => {
                        let message = message.into();
                        let wanted = matches!(message, In::Ping(_)) || source.expects_frames();
                        if matches!(message, In::Nonsense) || !wanted {
                            let what = if source.expects_frames() {
                                "expected a frame or a ping; a header only comes first"
                            } else {
                                "expected pings alone: the header says that frames come through shared memory"
                            };
                            let status = Status::invalid_argument(what);
                            let _ = self.answers.send(Err(status)).await;
                            open = false;
                        } else {
                            self.take(&message, &mut source).await;
                        }
                    }
                    Some(Err(status)) => {
                        // A message that cannot be read, or too long; nobody hears it where the connection broke.
                        let _ = self.answers.send(Err(status)).await;
                        open = false;
                    }
                    None => open = false,
                },
            }
        }
        // What was decided meanwhile is still told.
        while let Ok(step) = self.acks.try_recv() {
            self.acknowledge(&step);
        }
        for out in std::mem::take(&mut self.ready) {
            if self.answers.send(Ok(out)).await.is_err() {
                break;
            }
        }
        if *self.closing.borrow() {
            let _ = self.answers.send(Err(Status::unavailable("the service stops"))).await;
        }
        self.feed.last_index = source.last_index().max(self.last_taken);
        self.session.return_feed(self.feed);
    }

    async fn take(&mut self, message: &In, source: &mut impl Source) {
        let received_host_ns = HostClock.now_ns();
        if let In::Ping(ping) = message {
            let pong = v1::ClockPong { id: ping.id, device_ns: ping.device_ns, host_ns: received_host_ns };
            self.ready.push_back(Out::Pong(pong));
            return;
        }
        let Some(mut slot) = self.take_slot().await else { return };
        let taken = source.take(message, &mut slot, received_host_ns);
        let pause_ns = received_host_ns - std::mem::replace(&mut self.came_ns, received_host_ns);
        let mut slot = Some(slot);
        for taken in taken {
            match taken {
                Taken::Nothing => {}
                Taken::Whole => {
                    if let Some(slot) = slot.take() {
                        self.hand_over(slot).await;
                    }
                }
                Taken::Refused(meta, refusal) => {
                    self.session.live().refuse(refusal.to_string());
                    self.hand_over(FrameItem::Refused(meta, refusal.code())).await;
                }
                Taken::NotUsed(meta) => {
                    let mut ack = self.ack(&meta, v1::FrameVerdict::NotUsed);
                    ack.reason = "this session reads another plane or channel".to_owned();
                    self.ready.push_back(Out::Ack(ack));
                }
            }
        }
        let is_incomplete = slot.is_some();
        match slot {
            Some(FrameItem::Pixels(slot)) => self.feed.arriving.put(slot),
            slot => self.feed.held = slot,
        }
        let is_continued = matches!(message, In::Frame(frame) if frame.row_offset_px > 0);
        if is_incomplete && is_continued && pause_ns >= SCANNED_NS {
            self.session.wake();
        }
    }

    /// The slot at hand, or the next one that is free; acknowledgements go on while it is waited for.
    async fn take_slot(&mut self) -> Option<FrameItem> {
        let held = self.feed.arriving.take().map(FrameItem::Pixels);
        if let Some(slot) = held.or_else(|| self.feed.held.take()) {
            return Some(slot);
        }
        let (mut ended, mut closing) = (self.ended.clone(), self.closing.clone());
        loop {
            tokio::select! {
                biased;
                slot = self.feed.free.recv() => return slot.map(emptied),
                Some(step) = self.acks.recv() => self.acknowledge(&step),
                () = turned(&mut ended) => return None,
                () = turned(&mut closing) => return None,
            }
        }
    }

    async fn hand_over(&mut self, item: FrameItem) {
        let mut item = item;
        while let Err(rtrb::PushError::Full(back)) = self.feed.frames.push(item) {
            // Only a flood of refused frames fills the ring; it is taken as fast as it is decided.
            if self.feed.frames.is_abandoned() {
                // The session has ended; so will the stream.
                return;
            }
            item = back;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        self.pending += 1;
        self.session.wake();
    }

    fn acknowledge(&mut self, step: &Published) {
        self.pending = self.pending.saturating_sub(1);
        let meta = FrameMeta {
            index: step.input.frame_index,
            plane: step.input.plane,
            channel: step.input.channel,
            ..FrameMeta::default()
        };
        if step.decision.verdict() != v1::FrameVerdict::Refused {
            self.last_taken = self.last_taken.max(Some(meta.index));
        }
        let mut ack = self.ack(&meta, step.decision.verdict());
        ack.reason = match step.decision.verdict() {
            v1::FrameVerdict::Refused if step.input.detail.is_empty() => {
                format!("frame {}: expected an index above that of every frame before", meta.index)
            }
            v1::FrameVerdict::Refused => step.input.detail.clone(),
            v1::FrameVerdict::Doubted => doubt(step.decision.fit).to_owned(),
            v1::FrameVerdict::Skipped => "a newer frame was there already".to_owned(),
            v1::FrameVerdict::NotUsed => "the session has ended, or reads another plane or channel".to_owned(),
            v1::FrameVerdict::Gathered => doubt(step.decision.fit).to_owned(),
            v1::FrameVerdict::Decided | v1::FrameVerdict::Unspecified => String::new(),
        };
        ack.input_seq = step.decision.input_seq;
        ack.decided_through = step.decision.input_seq;
        ack.delay_ns = step.delay_ns;
        ack.late = self.session.live().is_late(step);
        self.ready.push_back(Out::Ack(ack));
    }

    fn ack(&self, meta: &FrameMeta, verdict: v1::FrameVerdict) -> v1::Ack {
        let live = self.session.live();
        v1::Ack {
            index: meta.index,
            plane: meta.plane,
            channel: meta.channel,
            verdict: verdict as i32,
            decided_through: live.last().map_or(0, |step| step.decision.input_seq),
            durable_through: live.record().durable_through(),
            ..v1::Ack::default()
        }
    }
}

/// A free slot, whose last frame is nobody's business any more.
fn emptied(mut item: FrameItem) -> FrameItem {
    if let FrameItem::Pixels(slot) = &mut item {
        slot.arrival = Arrival::default();
    }
    item
}

/// Why registration doubts a frame.
fn doubt(fit: u32) -> &'static str {
    match fit_verdict(fit) {
        Some(FitVerdict::LowScore) => "it does not fit the template",
        Some(FitVerdict::Jump) => "it jumped",
        Some(FitVerdict::Saturated) => "too many pixels are saturated",
        Some(FitVerdict::Blank) => "it is blank",
        Some(FitVerdict::Torn) => "it is torn",
        Some(FitVerdict::Changed) => "its producer changed it while it was read",
        Some(FitVerdict::NotReady) => "there is no template yet",
        Some(FitVerdict::Good | FitVerdict::Off) | None => "",
    }
}
