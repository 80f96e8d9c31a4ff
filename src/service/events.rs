//! EventsService: what happened, resumable from any number that is kept.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::rig::{Rig, turned};
use super::session::Session;
use crate::proto::v1::events_service_server::EventsService;
use crate::proto::v1::{SubscribeEventsRequest, SubscribeEventsResponse};

/// Events that may wait for a slow client; it loses none, it only gets them later.
const WAITING: usize = 256;

/// The service.
pub(super) struct Events {
    rig: Arc<Rig>,
}

impl Events {
    /// Of a rig.
    pub fn new(rig: Arc<Rig>) -> Self {
        Self { rig }
    }
}

#[tonic::async_trait]
impl EventsService for Events {
    type SubscribeEventsStream = ReceiverStream<Result<SubscribeEventsResponse, Status>>;

    async fn subscribe_events(
        &self,
        request: Request<SubscribeEventsRequest>,
    ) -> Result<Response<Self::SubscribeEventsStream>, Status> {
        let session = self.rig.session().await?;
        let from = request.into_inner().from_event_seq;
        session.live().with_events(|log| check(from, log.first_seq(), log.next_seq()))?;
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(serve(session, from, sender, self.rig.closing()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn check(from: u64, first: u64, next: u64) -> Result<(), Status> {
    if (first..=next).contains(&from) {
        return Ok(());
    }
    Err(Status::out_of_range(format!(
        "from_event_seq: {from}, expected {first} to {next}; the journal keeps every event"
    )))
}

async fn serve(
    session: Arc<Session>,
    from: u64,
    sender: mpsc::Sender<Result<SubscribeEventsResponse, Status>>,
    mut closing: tokio::sync::watch::Receiver<bool>,
) {
    let mut next = from;
    let mut known = session.live().events_next();
    let mut ended = session.live().ended();
    loop {
        // Looked at before the events: what came before the end is sent.
        let over = *ended.borrow();
        loop {
            let (event, first) = session.live().with_events(|log| (log.get(next).cloned(), log.first_seq()));
            let Some(event) = event else {
                if next < first {
                    let _ = sender
                        .send(Err(check(next, first, first).err().unwrap_or_else(|| Status::data_loss(""))))
                        .await;
                    return;
                }
                break;
            };
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
            next += 1;
        }
        if over {
            return;
        }
        tokio::select! {
            changed = known.changed() => if changed.is_err() { return },
            () = turned(&mut ended) => {}
            () = turned(&mut closing) => return,
            () = sender.closed() => return,
        }
    }
}
