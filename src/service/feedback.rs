//! FeedbackService: what the animal is to see and hear, decision by decision.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::rig::{Rig, turned};
use super::session::Session;
use crate::journal::{Published, is_decided};
use crate::proto::v1::feedback_service_server::FeedbackService;
use crate::proto::v1::{self, SubscribeFeedbackResponse};

/// Messages that may wait for a slow client before it loses the oldest.
const WAITING: usize = 64;

/// The service.
pub(super) struct Feedback {
    rig: Arc<Rig>,
}

impl Feedback {
    /// Of a rig.
    pub fn new(rig: Arc<Rig>) -> Self {
        Self { rig }
    }
}

#[tonic::async_trait]
impl FeedbackService for Feedback {
    type SubscribeFeedbackStream = ReceiverStream<Result<SubscribeFeedbackResponse, Status>>;

    async fn subscribe_feedback(
        &self,
        request: Request<v1::SubscribeFeedbackRequest>,
    ) -> Result<Response<Self::SubscribeFeedbackStream>, Status> {
        let session = self.rig.session().await?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let closing = self.rig.closing();
        // Subscribed before the answer's headers go out: the client misses nothing from then on.
        let steps = session.live().subscribe();
        tokio::spawn(serve(session, steps, request.into_inner().changes_only, sender, closing));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn serve(
    session: Arc<Session>,
    mut steps: broadcast::Receiver<Arc<Published>>,
    changes_only: bool,
    sender: mpsc::Sender<Result<SubscribeFeedbackResponse, Status>>,
    mut closing: tokio::sync::watch::Receiver<bool>,
) {
    let target_deg = session.config().task.as_ref().map_or(0.0, |task| task.target_deg);
    let mut ended = session.live().ended();
    let mut missed = 0;
    let mut shown: Option<(i32, u64)> = None;
    loop {
        tokio::select! {
            biased;
            step = steps.recv() => match step {
                Ok(step) => {
                    let now = (step.decision.screen, step.decision.displayed_deg.to_bits());
                    let changed = shown.replace(now) != Some(now) || step.decision.sound_duration_s > 0.0;
                    // What changes the screen without a frame (pause, gap, stop) is told as well.
                    if !changed && (changes_only || !is_decided(&step.input, &step.decision)) {
                        continue;
                    }
                    let mut message = feedback_of(&step, target_deg);
                    message.missed_before = std::mem::take(&mut missed);
                    if sender.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(count)) => missed += count,
                Err(broadcast::error::RecvError::Closed) => return,
            },
            () = turned(&mut ended) => return,
            () = turned(&mut closing) => return,
            () = sender.closed() => return,
        }
    }
}

fn feedback_of(step: &Published, target_deg: f64) -> SubscribeFeedbackResponse {
    let d = &step.decision;
    let number = |v: f64| (!v.is_nan()).then_some(v);
    SubscribeFeedbackResponse {
        input_seq: d.input_seq,
        frame_index: d.frame_index,
        device_ns: d.device_ns,
        received_host_ns: step.timing.received_host_ns,
        decided_host_ns: step.timing.decided_host_ns,
        cursor: number(d.cursor),
        rotation_deg: number(d.rotation_deg),
        displayed_deg: number(d.displayed_deg),
        target_deg,
        state: d.state,
        trial: d.trial,
        screen: d.screen,
        sound: if d.sound_duration_s > 0.0 { v1::SoundCue::WhiteNoise as i32 } else { 0 },
        sound_duration_s: d.sound_duration_s,
        doubted: d.verdict() == v1::FrameVerdict::Doubted,
        missed_before: 0,
    }
}
