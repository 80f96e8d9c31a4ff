//! A real service on a real socket, with a session directory of its own.

use std::path::PathBuf;
use std::sync::Arc;

use apical::config::RigConfig;
use apical::frame::FrameSlot;
use apical::journal::{SessionFiles, VerifyOptions, VerifyReport, verify};
use apical::proto::v1::ingest_service_client::IngestServiceClient;
use apical::proto::v1::session_service_client::SessionServiceClient;
use apical::proto::v1::{self, ingest_frames_request, ingest_frames_response};
use apical::sample::RoiSet;
use apical::service::{Rig, RigMode, bind, run, upload_of};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// A running service.
pub struct Service {
    pub channel: Channel,
    pub control: SessionServiceClient<Channel>,
    pub directory: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    commands: u64,
}

impl Service {
    /// Starts one.
    pub async fn start(mut config: RigConfig) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        config.record.directory = directory.path().to_owned();
        let listener = bind(std::net::SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (stop, stopped) = oneshot::channel::<()>();
        let rig: Arc<Rig> = Rig::new(config, RigMode::Live);
        let task = tokio::spawn(async move {
            run(listener, rig, async {
                let _ = stopped.await;
            })
            .await
            .expect("it serves");
        });
        let channel = Channel::from_shared(url).expect("a URL").connect().await.expect("it answers");
        let control = SessionServiceClient::new(channel.clone());
        Self { channel, control, directory, stop: Some(stop), task, commands: 0 }
    }

    /// A command's header with a key of its own.
    pub fn header(&mut self) -> Option<v1::CommandHeader> {
        self.commands += 1;
        let idempotency_key = format!("key-{}", self.commands);
        Some(v1::CommandHeader { idempotency_key, operator_name: "tester".to_owned() })
    }

    /// Creates the session; it waits for its stream.
    pub async fn create(&mut self) {
        let q = v1::CreateSessionRequest { command: self.header(), name: "session".to_owned(), ..Default::default() };
        self.control.create_session(q).await.expect("created");
    }

    /// The same with its ROIs.
    pub async fn prepare(&mut self, rois: &RoiSet) {
        self.create().await;
        let command = self.header().expect("a header");
        self.control.upload_rois(upload_of(rois, command)).await.expect("uploaded");
    }

    /// Creates the session, uploads the ROIs, opens the stream.
    pub async fn open(&mut self, rois: &RoiSet, header: v1::StreamHeader) -> Stream {
        self.prepare(rois).await;
        Stream::open(self.channel.clone(), header).await.expect("accepted")
    }

    /// Stops the session; its directory.
    pub async fn stop_session(&mut self) -> PathBuf {
        let q = v1::StopRequest { command: self.header() };
        PathBuf::from(self.control.stop(q).await.expect("stopped").into_inner().directory)
    }

    /// Stops the service.
    pub async fn end(mut self) -> tempfile::TempDir {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        self.task.await.expect("it ended");
        self.directory
    }
}

/// A stream of frames.
pub struct Stream {
    pub sender: mpsc::Sender<v1::IngestFramesRequest>,
    pub answers: Streaming<v1::IngestFramesResponse>,
    pub accepted: v1::StreamAccepted,
}

impl Stream {
    /// Opens one.
    pub async fn open(channel: Channel, header: v1::StreamHeader) -> Result<Self, tonic::Status> {
        let (sender, receiver) = mpsc::channel(4);
        let message = Some(ingest_frames_request::Message::Header(header));
        sender.send(v1::IngestFramesRequest { message }).await.expect("room");
        let mut client = IngestServiceClient::new(channel).max_encoding_message_size(64 << 20);
        let mut answers = client.ingest_frames(ReceiverStream::new(receiver)).await?.into_inner();
        let first = answers.message().await?.and_then(|m| m.message);
        let Some(ingest_frames_response::Message::Accepted(accepted)) = first else {
            panic!("expected an acceptance, got {first:?}");
        };
        Ok(Self { sender, answers, accepted })
    }

    /// Sends a frame, and waits for its verdict.
    pub async fn send(&mut self, frame: v1::Frame) -> v1::Ack {
        self.push(frame).await;
        self.ack().await
    }

    /// Sends a frame or a strip.
    pub async fn push(&mut self, frame: v1::Frame) {
        let message = Some(ingest_frames_request::Message::Frame(frame));
        self.sender.send(v1::IngestFramesRequest { message }).await.expect("the stream lives");
    }

    /// The next verdict.
    pub async fn ack(&mut self) -> v1::Ack {
        match self.answers.message().await.expect("the stream lives").and_then(|m| m.message) {
            Some(ingest_frames_response::Message::Ack(ack)) => ack,
            other => panic!("expected an ack, got {other:?}"),
        }
    }
}

/// The header of a stream of small frames.
pub fn header() -> v1::StreamHeader {
    v1::StreamHeader {
        rig: "test".to_owned(),
        stream_id: "frames".to_owned(),
        planes: 2,
        channels: 1,
        height_px: super::SIDE_PX as u32,
        width_px: super::SIDE_PX as u32,
        pixel_type: v1::PixelType::Uint16 as i32,
        frame_rate_hz: 30.0,
        adapter: "test".to_owned(),
        ..Default::default()
    }
}

/// A slot as a message.
pub fn frame(slot: &FrameSlot) -> v1::Frame {
    v1::Frame {
        index: slot.meta.index,
        device_ns: slot.meta.device_ns,
        pixels: slot.samples().iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<u8>>().into(),
        ..Default::default()
    }
}

/// Every decision of a session is recomputed.
pub fn verified(directory: &std::path::Path) -> VerifyReport {
    let files = SessionFiles::open(directory).expect("a session");
    let report = verify(&files, &VerifyOptions::default()).expect("it can be read");
    assert_eq!((report.differences, &report.damage[..]), (0, &[][..]), "{:?}", report.first_difference);
    report
}
