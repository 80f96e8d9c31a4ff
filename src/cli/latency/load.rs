//! What else a rig's computer does meanwhile: subscribers that read everything, a disk that is written, a busy core.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio_stream::StreamExt;
use tonic::transport::Channel;

use super::super::client::connect;
use crate::proto::v1;
use crate::proto::v1::activity_service_client::ActivityServiceClient;
use crate::proto::v1::events_service_client::EventsServiceClient;
use crate::proto::v1::feedback_service_client::FeedbackServiceClient;

/// Subscribers of each kind.
const SUBSCRIBERS: usize = 3;
/// Bytes that are written and synced at a time.
const WRITTEN_BYTES: usize = 8 << 20;

/// The load; it goes when it is dropped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _subscribers: tokio::runtime::Runtime,
}

impl Load {
    /// Begins it, with subscribers of the service at `url`, and a file of its own in `directory`.
    pub fn start(url: &str, directory: &Path) -> anyhow::Result<Self> {
        let subscribers = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .thread_name("apical-load-net")
            .build()?;
        let channel = subscribers.block_on(connect(url))?;
        for _ in 0..SUBSCRIBERS {
            subscribers.spawn(subscribe(channel.clone()));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let busy = Arc::clone(&stop);
        let spin = std::thread::Builder::new().name("apical-load-cpu".into()).spawn(move || {
            while !busy.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        })?;
        let writing = Arc::clone(&stop);
        let mut file = std::fs::File::create(directory.join("load"))?;
        let disk = std::thread::Builder::new().name("apical-load-disk".into()).spawn(move || {
            let block = vec![0x5a; WRITTEN_BYTES];
            while !writing.load(Ordering::Relaxed) {
                use std::io::Seek;
                // A disk that refuses is load as well.
                let _ = file.rewind().and_then(|()| file.write_all(&block)).and_then(|()| file.sync_data());
            }
        })?;
        Ok(Self { stop, threads: vec![spin, disk], _subscribers: subscribers })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Reads everything that a session gives away, as soon as there is one.
async fn subscribe(channel: Channel) {
    let mut feedback = FeedbackServiceClient::new(channel.clone());
    let mut events = EventsServiceClient::new(channel.clone());
    let mut activity = ActivityServiceClient::new(channel);
    loop {
        let feedback = feedback.subscribe_feedback(v1::SubscribeFeedbackRequest::default()).await;
        let events = events.subscribe_events(v1::SubscribeEventsRequest::default()).await;
        let activity = activity.subscribe_activity(v1::SubscribeActivityRequest::default()).await;
        if let (Ok(feedback), Ok(events), Ok(activity)) = (feedback, events, activity) {
            let (mut feedback, mut events, mut activity) =
                (feedback.into_inner(), events.into_inner(), activity.into_inner());
            loop {
                let more = tokio::select! {
                    more = feedback.next() => more.is_some(),
                    more = events.next() => more.is_some(),
                    more = activity.next() => more.is_some(),
                };
                if !more {
                    return;
                }
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
