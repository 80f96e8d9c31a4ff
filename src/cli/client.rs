//! An adapter and an operator in one: plays frames into a service over gRPC, and steers its session.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};

use super::play::{PlayedFrame, PlayedHeader};
use crate::journal::wall_ns;
use crate::proto::v1::ingest_service_client::IngestServiceClient;
use crate::proto::v1::session_service_client::SessionServiceClient;
use crate::proto::v1::{self, CommandHeader};
use crate::sample::RoiSet;
use crate::service::{CONNECTION_WINDOW_BYTES, MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES, upload_of};

/// Messages that may wait to be sent: a large frame in strips.
const SENDING: usize = 16;

/// Steers a session.
pub(super) struct Operator {
    client: SessionServiceClient<Channel>,
    name: String,
    run: u64,
    commands: u64,
}

/// Connects to a service.
pub(super) async fn connect(url: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("{url}: expected a URL such as http://127.0.0.1:50051"))?
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5));
    endpoint.connect().await.with_context(|| format!("{url}: no service answers"))
}

impl Operator {
    /// An operator on a connection.
    pub fn new(channel: Channel, name: &str) -> Self {
        let client = SessionServiceClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { client, name: name.to_owned(), run: wall_ns(), commands: 0 }
    }

    fn header(&mut self) -> Option<CommandHeader> {
        Some(self.command_header())
    }

    fn command_header(&mut self) -> CommandHeader {
        self.commands += 1;
        let idempotency_key = format!("{}-{}-{}", self.name, self.run, self.commands);
        CommandHeader { idempotency_key, operator_name: self.name.clone() }
    }

    /// Creates a session from a configuration, or from the service's own, with overrides; its directory.
    pub async fn create(&mut self, config_toml: String, set: Vec<String>, name: String) -> anyhow::Result<PathBuf> {
        let command = self.header();
        let q = v1::CreateSessionRequest { command, config_toml, set, name };
        let answer = self.client.create_session(q).await.map_err(said)?;
        Ok(PathBuf::from(answer.into_inner().directory))
    }

    /// Uploads the ROIs.
    pub async fn upload(&mut self, rois: &RoiSet) -> anyhow::Result<()> {
        let command = self.command_header();
        self.client.upload_rois(upload_of(rois, command)).await.map_err(said)?;
        Ok(())
    }

    /// Starts the baseline; the frames that it takes.
    pub async fn start_baseline(&mut self) -> anyhow::Result<u64> {
        let command = self.header();
        let answer = self.client.start_baseline(v1::StartBaselineRequest { command }).await.map_err(said)?;
        Ok(answer.into_inner().frames)
    }

    /// Calibrates.
    pub async fn calibrate(&mut self) -> anyhow::Result<v1::Calibration> {
        let command = self.header();
        let answer = self.client.calibrate(v1::CalibrateRequest { command }).await.map_err(said)?;
        answer.into_inner().calibration.context("the service sent no calibration")
    }

    /// Starts the task. A template that fits badly is accepted: no animal is there to be harmed.
    pub async fn start_task(&mut self) -> anyhow::Result<()> {
        let command = self.header();
        let q = v1::StartTaskRequest { command, accept_template: true };
        self.client.start_task(q).await.map_err(said)?;
        Ok(())
    }

    /// Stops the session; its record is complete.
    pub async fn stop(&mut self) -> anyhow::Result<PathBuf> {
        let command = self.header();
        let answer = self.client.stop(v1::StopRequest { command }).await.map_err(said)?;
        Ok(PathBuf::from(answer.into_inner().directory))
    }

    /// The state.
    pub async fn state(&mut self) -> anyhow::Result<v1::GetStateResponse> {
        Ok(self.client.get_state(v1::GetStateRequest {}).await.map_err(said)?.into_inner())
    }
}

fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the service said {:?}: {}", status.code(), status.message())
}

/// A stream of frames into a service.
pub(super) enum FrameStream {
    /// Pixels.
    Pixels(PixelStream),
    /// ROI values.
    Values(mpsc::Sender<v1::IngestRoiValuesRequest>),
}

/// A stream that the service has accepted.
pub(super) struct Opened {
    /// Takes frames.
    pub stream: FrameStream,
    /// What the service says of it.
    pub accepted: v1::StreamAccepted,
    /// Acknowledgements, as they come.
    pub acks: mpsc::UnboundedReceiver<anyhow::Result<v1::Ack>>,
}

/// Opens a stream.
pub(super) async fn open_stream(channel: Channel, header: PlayedHeader) -> anyhow::Result<Opened> {
    let client = IngestServiceClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
    match header {
        PlayedHeader::Pixels(header) => open_pixels(client, header).await,
        PlayedHeader::Values(header) => open_values(client, header).await,
    }
}

async fn open_pixels(mut client: IngestServiceClient<Channel>, header: v1::StreamHeader) -> anyhow::Result<Opened> {
    use v1::ingest_frames_response::Message;
    let (sender, receiver) = mpsc::channel(SENDING);
    let height_px = header.height_px;
    let message = Some(v1::ingest_frames_request::Message::Header(header));
    sender.send(v1::IngestFramesRequest { message }).await?;
    let mut answers = client.ingest_frames(OneByOne::new(receiver)).await.map_err(said)?.into_inner();
    let first = answers.message().await.map_err(said)?.and_then(|m| m.message);
    let Some(Message::Accepted(accepted)) = first else { bail!("the service did not accept the header") };
    let acks = forward_acks(
        answers.map(|answer| answer.map(|m| if let Some(Message::Ack(ack)) = m.message { Some(ack) } else { None })),
    );
    let stream = FrameStream::Pixels(PixelStream { messages: sender, height_px });
    Ok(Opened { stream, accepted, acks })
}

async fn open_values(mut client: IngestServiceClient<Channel>, header: v1::RoiValuesHeader) -> anyhow::Result<Opened> {
    use v1::ingest_roi_values_response::Message;
    let (sender, receiver) = mpsc::channel(SENDING);
    let message = Some(v1::ingest_roi_values_request::Message::Header(header));
    sender.send(v1::IngestRoiValuesRequest { message }).await?;
    let mut answers = client.ingest_roi_values(ReceiverStream::new(receiver)).await.map_err(said)?.into_inner();
    let first = answers.message().await.map_err(said)?.and_then(|m| m.message);
    let Some(Message::Accepted(accepted)) = first else { bail!("the service did not accept the header") };
    let acks = forward_acks(
        answers.map(|answer| answer.map(|m| if let Some(Message::Ack(ack)) = m.message { Some(ack) } else { None })),
    );
    Ok(Opened { stream: FrameStream::Values(sender), accepted, acks })
}

/// Gives the acknowledgements among a stream's answers away as they come; an error ends it.
fn forward_acks(
    mut answers: impl Stream<Item = Result<Option<v1::Ack>, tonic::Status>> + Send + Unpin + 'static,
) -> mpsc::UnboundedReceiver<anyhow::Result<v1::Ack>> {
    let (acks, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(answer) = answers.next().await {
            let Some(ack) = answer.map_err(said).transpose() else { continue };
            if acks.send(ack).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Messages that leave one by one: the connection writes each before the next is encoded, so that the service reads one
/// while the next is made ready.
struct OneByOne<T> {
    messages: mpsc::Receiver<T>,
    /// Whether one was given that may not have left yet.
    given: bool,
}

impl<T> OneByOne<T> {
    fn new(messages: mpsc::Receiver<T>) -> Self {
        Self { messages, given: false }
    }
}

impl<T> Stream for OneByOne<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        if std::mem::take(&mut self.given) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let message = self.messages.poll_recv(context);
        self.given = matches!(message, Poll::Ready(Some(_)));
        message
    }
}

/// Bytes of pixels in a message: with what else is in it they fit one HTTP/2 frame.
const STRIP_BYTES: usize = (64 << 10) - 256;

/// Pixels into a service.
pub(super) struct PixelStream {
    messages: mpsc::Sender<v1::IngestFramesRequest>,
    height_px: u32,
}

impl PixelStream {
    /// Sends a frame, or a strip of one; waits where the service is behind. A whole frame leaves in several messages:
    /// the service puts one away while the next is on its way, and what both of them touch is still in their caches.
    pub async fn send(&self, frame: v1::Frame) -> anyhow::Result<()> {
        for strip in in_strips(frame, self.height_px) {
            self.messages.send(message_of(strip)).await.context(ENDED)?;
        }
        Ok(())
    }
}

/// What is said when nobody takes messages any more.
const ENDED: &str = "the service ended the stream";

fn message_of(strip: v1::Frame) -> v1::IngestFramesRequest {
    v1::IngestFramesRequest { message: Some(v1::ingest_frames_request::Message::Frame(strip)) }
}

/// A whole frame of `height_px` rows in strips of up to [`STRIP_BYTES`], and at least one row each. A strip, and a
/// payload that is not so many rows, stays as it is.
fn in_strips(frame: v1::Frame, height_px: u32) -> impl Iterator<Item = v1::Frame> {
    let (rows_px, bytes) = (height_px as usize, frame.pixels.len());
    let row_bytes = bytes.checked_div(rows_px).unwrap_or(0);
    let is_whole = frame.row_count_px == 0 && row_bytes > 0 && row_bytes * rows_px == bytes;
    let count = if is_whole { rows_px.div_ceil((STRIP_BYTES / row_bytes).max(1)) } else { 1 };
    let uncut = (count == 1).then(|| frame.clone());
    let cut = if count == 1 { 0 } else { count as u32 };
    uncut.into_iter().chain(strips_of(frame, height_px, cut))
}

/// A whole frame of `height_px` rows in so many strips, from the top to the bottom.
pub(super) fn strips_of(frame: v1::Frame, height_px: u32, count: u32) -> impl Iterator<Item = v1::Frame> {
    let row_bytes = frame.pixels.len() / height_px.max(1) as usize;
    let first_row = move |strip: u32| (u64::from(height_px) * u64::from(strip) / u64::from(count)) as u32;
    (0..count).map(move |strip| {
        let (first, end) = (first_row(strip), first_row(strip + 1));
        let pixels = frame.pixels.slice(first as usize * row_bytes..end as usize * row_bytes);
        v1::Frame { row_offset_px: first, row_count_px: end - first, pixels, ..frame.clone() }
    })
}

impl FrameStream {
    /// Sends a frame; waits where the service is behind. The pixels move into the message.
    pub async fn send(&self, frame: &mut PlayedFrame) -> anyhow::Result<()> {
        let meta = frame.meta;
        match self {
            FrameStream::Pixels(stream) => {
                let frame = v1::Frame {
                    index: meta.index,
                    plane: meta.plane,
                    channel: meta.channel,
                    device_ns: meta.device_ns,
                    z_um: meta.z_um,
                    row_offset_px: 0,
                    row_count_px: 0,
                    pixels: std::mem::take(&mut frame.pixels).into(),
                };
                stream.send(frame).await
            }
            FrameStream::Values(sender) => {
                let (index, device_ns) = (meta.index, meta.device_ns);
                let values = v1::RoiValues { index, device_ns, f_counts: std::mem::take(&mut frame.values) };
                let message = v1::ingest_roi_values_request::Message::Values(values);
                sender.send(v1::IngestRoiValuesRequest { message: Some(message) }).await.context(ENDED)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_leaves_in_strips_that_are_the_frame() {
        for (height_px, row_bytes) in [(512_u32, 1_024_usize), (512, 1_592), (1, 300_000), (7, 65_281), (96, 192)] {
            let pixels: Vec<u8> = (0..height_px as usize * row_bytes).map(|k| ((7 * k) >> 3) as u8).collect();
            let frame = v1::Frame { index: 5, pixels: pixels.clone().into(), ..v1::Frame::default() };
            let strips: Vec<v1::Frame> = in_strips(frame.clone(), height_px).collect();
            let (mut next_px, mut bytes) = (0, Vec::new());
            for strip in &strips {
                assert_eq!((strip.index, strip.row_offset_px), (5, next_px));
                assert!(strip.pixels.len() <= STRIP_BYTES.max(row_bytes), "{}", strip.pixels.len());
                next_px += strip.row_count_px;
                bytes.extend_from_slice(&strip.pixels);
            }
            assert!(bytes == pixels, "{height_px} x {row_bytes}");
            let one = next_px == 0 && strips == [frame];
            assert!(next_px == height_px || one, "{next_px} of {height_px} rows");
        }
    }

    #[test]
    fn what_is_no_whole_frame_leaves_as_it_is() {
        let of = |bytes: usize, row_count_px| v1::Frame {
            pixels: vec![1; bytes].into(),
            row_count_px,
            ..v1::Frame::default()
        };
        for (frame, height_px) in [(of(200_001, 0), 512), (of(200_704, 98), 512), (of(0, 0), 512), (of(200_704, 0), 0)]
        {
            assert!(in_strips(frame.clone(), height_px).eq([frame]), "{height_px}");
        }
    }
}
