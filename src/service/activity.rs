//! ActivityService: what every cell does, and images, for people.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::rig::{Rig, turned};
use super::session::Session;
use crate::frame::Image;
use crate::journal::{Published, engine_of, is_decided};
use crate::proto::v1::activity_service_server::ActivityService;
use crate::proto::v1::{self, SubscribeActivityResponse};
use crate::register::resample;

/// Messages that may wait for a slow client.
const WAITING: usize = 64;
/// Frames that a registered preview may wait for.
const FRAMES_ASKED: u32 = 4;
/// How long a preview waits for a frame.
const FRAME_PATIENCE: Duration = Duration::from_secs(2);

/// The service.
pub(super) struct Activity {
    rig: Arc<Rig>,
}

impl Activity {
    /// Of a rig.
    pub fn new(rig: Arc<Rig>) -> Self {
        Self { rig }
    }
}

#[tonic::async_trait]
impl ActivityService for Activity {
    type SubscribeActivityStream = ReceiverStream<Result<SubscribeActivityResponse, Status>>;

    async fn subscribe_activity(
        &self,
        request: Request<v1::SubscribeActivityRequest>,
    ) -> Result<Response<Self::SubscribeActivityStream>, Status> {
        let q = request.into_inner();
        if !(q.max_rate_hz.is_finite() && q.max_rate_hz >= 0.0) {
            return Err(Status::invalid_argument(format!("max_rate_hz: {}, expected 0 or more", q.max_rate_hz)));
        }
        let session = self.rig.session().await?;
        let (sender, receiver) = mpsc::channel(WAITING);
        // Subscribed before the answer's headers go out: the client misses nothing from then on.
        let steps = session.live().subscribe();
        tokio::spawn(serve(session, steps, q, sender, self.rig.closing()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_preview(
        &self,
        request: Request<v1::GetPreviewRequest>,
    ) -> Result<Response<v1::GetPreviewResponse>, Status> {
        let session = self.rig.session().await?;
        let request = request.into_inner();
        let read = session.config().stream.plane.as_slice();
        let plane = request.plane.unwrap_or_else(|| read.first().copied().unwrap_or(0));
        if !read.contains(&plane) {
            return Err(Status::invalid_argument(format!("plane: {plane}, expected one of {read:?}, which are read")));
        }
        let (frame_index, image) = match request.kind() {
            v1::PreviewKind::Unspecified | v1::PreviewKind::Mean => template(&session, plane).await?,
            v1::PreviewKind::Last => last_frame(&session, plane, false).await?,
            v1::PreviewKind::Registered => last_frame(&session, plane, true).await?,
        };
        Ok(Response::new(v1::GetPreviewResponse {
            frame_index,
            height_px: image.geometry.height_px as u32,
            width_px: image.geometry.width_px as u32,
            values_counts: image.values,
        }))
    }
}

/// The template, from the last snapshot.
async fn template(session: &Arc<Session>, plane: u32) -> Result<(u64, Image), Status> {
    let none = || Status::failed_precondition("no template yet: it is made from the baseline's frames");
    let state = session.live().snapshot().ok_or_else(none)?;
    let head = session.head().clone();
    let image = tokio::task::spawn_blocking(move || {
        let mut engine = engine_of(&head).map_err(|e| Status::internal(e.to_string()))?;
        engine.load(&state).map_err(|e| Status::internal(e.to_string()))?;
        engine.template(plane).map(|image| (engine.frame_index(), image)).ok_or_else(none)
    });
    image.await.map_err(|_| Status::internal("reading the snapshot panicked"))?
}

/// The next frame, as it came or moved onto the template.
async fn last_frame(session: &Arc<Session>, plane: u32, registered: bool) -> Result<(u64, Image), Status> {
    let mut steps = session.live().subscribe();
    let mut heard: Vec<Arc<Published>> = Vec::new();
    // A frame's decision may be heard before or after its slot comes back; of the first slot that comes, it may have
    // gone by before this listened.
    for _ in 0..FRAMES_ASKED * session.config().stream.plane.as_slice().len() as u32 {
        let frame = tokio::time::timeout(FRAME_PATIENCE, session.live().next_frame()).await;
        let Ok(Ok((meta, image))) = frame else {
            return Err(Status::failed_precondition(format!(
                "no frame of pixels came within {} s",
                FRAME_PATIENCE.as_secs()
            )));
        };
        if meta.plane != plane {
            continue;
        }
        if !registered {
            return Ok((meta.index, image));
        }
        loop {
            let of_frame = |input: &v1::InputRecord| (input.frame_index, input.plane) == (meta.index, meta.plane);
            if let Some(step) = heard.iter().find(|step| of_frame(&step.input)) {
                let d = &step.decision;
                return Ok((meta.index, resample(&image, d.dy_px, d.dx_px, d.odd_lines_px)));
            }
            if heard.iter().any(|step| step.input.frame_index > meta.index) {
                break;
            }
            match tokio::time::timeout(FRAME_PATIENCE, steps.recv()).await {
                Ok(Ok(step)) if step.input.kind() == v1::InputKind::Frame => heard.push(step),
                Ok(Ok(_) | Err(broadcast::error::RecvError::Lagged(_))) => {}
                Ok(Err(broadcast::error::RecvError::Closed)) | Err(_) => break,
            }
        }
    }
    Err(Status::unavailable("frames come faster than their decisions can be followed; ask again"))
}

async fn serve(
    session: Arc<Session>,
    mut steps: broadcast::Receiver<Arc<Published>>,
    q: v1::SubscribeActivityRequest,
    sender: mpsc::Sender<Result<SubscribeActivityResponse, Status>>,
    mut closing: tokio::sync::watch::Receiver<bool>,
) {
    let period_ns = if q.max_rate_hz > 0.0 { (1e9 / q.max_rate_hz) as u64 } else { 0 };
    let mut ended = session.live().ended();
    let mut last_ns: Option<u64> = None;
    loop {
        tokio::select! {
            biased;
            step = steps.recv() => match step {
                Ok(step) => {
                    let now_ns = step.timing.decided_host_ns;
                    let due = last_ns.is_none_or(|last| now_ns.saturating_sub(last) >= period_ns);
                    if !is_decided(&step.input, &step.decision) || !due {
                        continue;
                    }
                    last_ns = Some(now_ns);
                    if sender.send(activity_of(&step, &q.rois)).await.is_err() {
                        return;
                    }
                }
                // A display shows the newest; what it missed is in the journal.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            },
            () = turned(&mut ended) => return,
            () = turned(&mut closing) => return,
            () = sender.closed() => return,
        }
    }
}

fn activity_of(step: &Published, wanted: &[u32]) -> Result<SubscribeActivityResponse, Status> {
    let d = &step.decision;
    let count = d.f_counts.len();
    if let Some(roi) = wanted.iter().find(|&&roi| roi as usize >= count) {
        return Err(Status::invalid_argument(format!("rois: {roi}, expected ids below {count}")));
    }
    let rois: Vec<u32> = if wanted.is_empty() { (0..count as u32).collect() } else { wanted.to_vec() };
    let pick = |values: &[f64]| rois.iter().filter_map(|&roi| values.get(roi as usize).copied()).collect();
    let pixels = |v: f64| d.has_pixels.then_some(v);
    Ok(SubscribeActivityResponse {
        frame_index: d.frame_index,
        device_ns: d.device_ns,
        f_counts: pick(&d.f_counts),
        f_neuropil_counts: pick(&d.f_neuropil_counts),
        f0_counts: pick(&d.f0_counts),
        dff: pick(&d.dff),
        z: pick(&d.z),
        rate: pick(&d.rate),
        dy_px: pixels(d.dy_px),
        dx_px: pixels(d.dx_px),
        score: pixels(d.score),
        z_drift_um: d.z_drift_um,
        rois,
    })
}
