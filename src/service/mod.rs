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
mod publisher;
mod rig;
mod session;

pub use control::upload_of;
pub use rig::{Rig, RigMode};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
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

/// Binds a loopback address.
///
/// # Errors
/// The address is not a loopback one, or taken.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServiceError> {
    if !address.ip().is_loopback() {
        return Err(ServiceError::NotLoopback(address));
    }
    Ok(TcpListener::bind(address).await?)
}

/// Serves until `shutdown` completes; then ends the session, if one runs, and every stream.
///
/// # Errors
/// See [`ServiceError`].
pub async fn run(
    listener: TcpListener,
    rig: Arc<Rig>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServiceError> {
    let address = listener.local_addr()?;
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
    let closing = Arc::clone(&rig);
    let (drained, drain) = tokio::sync::oneshot::channel::<()>();
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(Some(1 << 20))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(
            IngestServiceServer::new(ingest::Ingest::new(Arc::clone(&rig)))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            SessionServiceServer::new(control::Control::new(Arc::clone(&rig)))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(FeedbackServiceServer::new(feedback::Feedback::new(Arc::clone(&rig))))
        .add_service(EventsServiceServer::new(events::Events::new(Arc::clone(&rig))))
        .add_service(
            ActivityServiceServer::new(activity::Activity::new(Arc::clone(&rig)))
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
            shutdown.await;
            closing.close().await;
            let _ = drained.send(());
        });
    let server = tokio::spawn(server);
    let _ = drain.await;
    match tokio::time::timeout(DRAIN, server).await {
        Ok(Ok(served)) => Ok(served?),
        // A stream that does not end in time, or a server that panicked, is not waited for.
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}
