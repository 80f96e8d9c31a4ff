//! The service: gRPC on loopback, around the one session of a rig.
//!
//! ```text
//! adapter ──► ingest ──slots──► real-time thread ──records──► publisher ──► journal (its own thread)
//!                ▲                    ▲                           ├──► acks, answers to commands
//!                └──── free slots ────│───────────────────────────┤
//!            control ──commands───────┘                           └──► feedback, events, activity, state
//! ```
//!
//! tokio carries everything but the way to the trigger. A slow subscriber loses the oldest messages and is told how
//! many; a slow disk delays nobody; a slow adapter is told by a `Gap`. Each gRPC service has a file of its own here;
//! what a session is stands in `session`, who takes records from the real-time thread in `publisher`.

mod activity;
mod control;
mod disk_watch;
mod events;
mod feedback;
mod idempotency;
mod ingest;
mod listen;
mod memory;
mod publisher;
mod rig;
mod session;
#[cfg(feature = "shm")]
pub mod shared;
mod wire;

/// What a build without shared memory says to whoever asks for it.
pub(crate) const NO_SHARED_MEMORY: &str =
    "this program was built without shared memory; expected one of `cargo build --release --features shm`";

pub use control::upload_of;
#[cfg(unix)]
pub use listen::UnixSocket;
pub use listen::{Listeners, bind};
pub use memory::share_one_heap;
pub use rig::{Rig, RigMode};

use self::rig::turned;
use self::wire::OffTheWire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::proto::DESCRIPTOR_SET;
use crate::proto::v1::activity_service_server::ActivityServiceServer;
use crate::proto::v1::events_service_server::EventsServiceServer;
use crate::proto::v1::feedback_service_server::FeedbackServiceServer;
use crate::proto::v1::ingest_service_server::IngestServiceServer;
use crate::proto::v1::session_service_server::SessionServiceServer;

/// The largest message that is taken, in bytes: a frame of 4,096 x 4,096 pixels of two bytes, with room.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// HTTP/2 flow control windows, in bytes: some tens of frames of 512 x 512 may be under way.
pub const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// The same for the connection as a whole.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// The largest HTTP/2 frame that is taken, in bytes: small enough that a message is read while the rest of it is still
/// being written. Against 1 MiB a frame of 512 x 512 is in its slot 15 % earlier.
const HTTP2_FRAME_BYTES: u32 = 64 << 10;
/// How long open streams get to end when the service stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The address is not a loopback one.
    #[error(
        "{0}: the service binds to loopback addresses only, because there is no TLS and there are no roles yet, and \
         whoever reaches the port can open the valve; use 127.0.0.1 and a tunnel of your own"
    )]
    NotLoopback(SocketAddr),
    /// The Unix socket cannot be used.
    #[error("service.socket: {}: {source}", path.display())]
    Socket {
        /// Its file.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The listener cannot be used.
    #[error("the listener: {0}")]
    Listener(#[from] std::io::Error),
    /// The server stopped by itself.
    #[error("the gRPC server: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// Reflection does not take the descriptors.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves until `shutdown` completes; then ends the session, if one runs, and every stream.
///
/// # Errors
/// See [`ServiceError`].
pub async fn run(
    listeners: impl Into<Listeners>,
    rig: Arc<Rig>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServiceError> {
    let listeners = listeners.into();
    let address = listeners.tcp.local_addr()?;
    if !address.ip().is_loopback() {
        return Err(ServiceError::NotLoopback(address));
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<IngestServiceServer<ingest::Ingest>>().await;
    health.set_serving::<SessionServiceServer<control::Control>>().await;
    health.set_serving::<FeedbackServiceServer<feedback::Feedback>>().await;
    health.set_serving::<EventsServiceServer<events::Events>>().await;
    health.set_serving::<ActivityServiceServer<activity::Activity>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (closed, closing) = tokio::sync::watch::channel(false);
    let until_closed = || {
        let mut closing = closing.clone();
        async move { turned(&mut closing).await }
    };
    let router = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(Some(HTTP2_FRAME_BYTES))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(OffTheWire(
            IngestServiceServer::new(ingest::Ingest::new(Arc::clone(&rig)))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        ))
        .add_service(
            SessionServiceServer::new(control::Control::new(Arc::clone(&rig)))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(FeedbackServiceServer::new(feedback::Feedback::new(Arc::clone(&rig))))
        .add_service(EventsServiceServer::new(events::Events::new(Arc::clone(&rig))))
        .add_service(
            ActivityServiceServer::new(activity::Activity::new(Arc::clone(&rig)))
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        );
    let mut servers = tokio::task::JoinSet::new();
    #[cfg(unix)]
    let mut socket = listeners.socket;
    #[cfg(unix)]
    if let Some(listener) = socket.as_mut().and_then(|socket| socket.listener.take()) {
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        servers.spawn(router.clone().serve_with_incoming_shutdown(incoming, until_closed()));
    }
    let incoming = TcpIncoming::from(listeners.tcp).with_nodelay(Some(true));
    servers.spawn(router.serve_with_incoming_shutdown(incoming, until_closed()));
    // A server that ends by itself ends the service.
    let early = tokio::select! {
        () = shutdown => None,
        ended = servers.join_next() => ended,
    };
    rig.close().await;
    closed.send_replace(true);
    // A stream that does not end in time, or a server that panicked, is not waited for.
    let drained = tokio::time::timeout(DRAIN, async move {
        while let Some(served) = servers.join_next().await {
            if let Ok(served) = served {
                served?;
            }
        }
        Ok(())
    });
    let drained: Result<(), ServiceError> = drained.await.unwrap_or(Ok(()));
    if let Some(Ok(served)) = early {
        served?;
    }
    drained
}
