//! SessionService: an operator's commands, each answered with the input at which it took effect.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::idempotency::{Answer, Asked, Caller, Identity};
use super::rig::{Rig, Slot};
use crate::config::to_toml;
use crate::engine::{Command, CommandOutcome, ENSEMBLE_MAX, RoiIds};
use crate::frame::{Geometry, Image};
use crate::journal::{Published, ResumePoint, roi_set_of, roi_set_record};
use crate::proto::v1::session_service_server::SessionService;
use crate::proto::v1::{self, CommandEffect};
use crate::sample::RoiSet;

/// How long a caller waits for a command's outcome; the command itself is not given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The service.
#[derive(Clone)]
pub(super) struct Control {
    rig: Arc<Rig>,
}

impl Control {
    /// Of a rig.
    pub fn new(rig: Arc<Rig>) -> Self {
        Self { rig }
    }

    /// Does a command once, whatever becomes of the caller: a client that goes away, or whose deadline passes, may send
    /// the command again with its key and is told what became of it.
    async fn once<Q: Asked, F>(
        &self,
        request: Request<Q>,
        act: impl FnOnce(Control, Caller, Q) -> F,
    ) -> Result<Response<Q::Answer>, Status>
    where
        F: Future<Output = Result<Q::Answer, Status>> + Send + 'static,
    {
        let q = request.into_inner();
        let caller = Caller::of(q.header())?;
        let (key, asked, rig) = (caller.key.clone(), Identity::of(&q), Arc::clone(&self.rig));
        let act = act(self.clone(), caller, q);
        let done = tokio::spawn(async move { rig.answers.answer(&key, asked, act).await });
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(Ok(answer)) => answer.map(Response::new),
            Ok(Err(_)) => Err(Status::internal("the command panicked")),
            Err(_) => Err(Status::deadline_exceeded(
                "the command was not done in time; send it again with the same key to learn what became of it",
            )),
        }
    }

    /// Sends a command to the engine of the running session.
    async fn command(&self, caller: &Caller, command: Command) -> Result<Arc<Published>, Status> {
        let session = self.rig.session().await?;
        let step = session.command(self.rig.ticket(), command, &caller.operator, &caller.key).await?;
        match step.outcome {
            CommandOutcome::TookEffect => Ok(step),
            refusal @ (CommandOutcome::BadEnsembles | CommandOutcome::BadThreshold) => {
                Err(Status::invalid_argument(format!("{}: {refusal}", command.name())))
            }
            refusal => Err(Status::failed_precondition(format!("{}: {refusal}", command.name()))),
        }
    }

    /// Ends the session with a command, and waits until its record is complete.
    async fn end(&self, caller: &Caller, command: Command) -> Result<Arc<Published>, Status> {
        let step = self.command(caller, command).await?;
        self.rig.session().await?.finish().await;
        Ok(step)
    }
}

fn effect(step: &Published) -> Option<CommandEffect> {
    Some(CommandEffect { input_seq: step.decision.input_seq, frame_index: next_frame(&step.decision), repeated: false })
}

/// The frame that comes after a decision.
fn next_frame(decision: &v1::DecisionRecord) -> u64 {
    // Before any frame the index and its time are both 0.
    if decision.frame_index == 0 && decision.device_ns == 0 { 0 } else { decision.frame_index + 1 }
}

/// Before the engine runs.
const BEFORE: Option<CommandEffect> = Some(CommandEffect { input_seq: 0, frame_index: 0, repeated: false });

macro_rules! commands {
    ($($request:ident => $answer:ident),+ $(,)?) => {
        $(
            impl Asked for v1::$request {
                type Answer = v1::$answer;

                fn header(&self) -> Option<&v1::CommandHeader> {
                    self.command.as_ref()
                }
            }

            impl Answer for v1::$answer {
                fn effect_mut(&mut self) -> &mut Option<CommandEffect> {
                    &mut self.effect
                }
            }
        )+
    };
}

commands!(
    CreateSessionRequest => CreateSessionResponse,
    UploadRoisRequest => UploadRoisResponse,
    SetEnsemblesRequest => SetEnsemblesResponse,
    StartBaselineRequest => StartBaselineResponse,
    CalibrateRequest => CalibrateResponse,
    StartTaskRequest => StartTaskResponse,
    PauseRequest => PauseResponse,
    ResumeRequest => ResumeResponse,
    StopRequest => StopResponse,
    AbortRequest => AbortResponse,
    ManualRewardRequest => ManualRewardResponse,
    ChangeThresholdRequest => ChangeThresholdResponse,
);

#[tonic::async_trait]
impl SessionService for Control {
    async fn create_session(
        &self,
        request: Request<v1::CreateSessionRequest>,
    ) -> Result<Response<v1::CreateSessionResponse>, Status> {
        self.once(request, |this, _, q| async move {
            let (session_id, directory, config_sha256) = this.rig.create(&q.config_toml, &q.set, &q.name).await?;
            let directory = directory.display().to_string();
            Ok(v1::CreateSessionResponse { effect: BEFORE, session_id, directory, config_sha256 })
        })
        .await
    }

    async fn upload_rois(
        &self,
        request: Request<v1::UploadRoisRequest>,
    ) -> Result<Response<v1::UploadRoisResponse>, Status> {
        self.once(request, |this, _, q| async move {
            let set = uploaded_set(&q)?;
            let mut slot = this.rig.slot.lock().await;
            match &mut *slot {
                Slot::Empty => Err(Status::not_found("no session: call CreateSession first")),
                Slot::Paused(_) => Err(Status::failed_precondition(
                    "the session goes on with the ROIs that it has had; create another for others",
                )),
                Slot::Session(_) => Err(Status::failed_precondition(
                    "the session's stream is open: ROIs are uploaded between CreateSession and the stream's header",
                )),
                Slot::Draft(draft) => {
                    let roi_count = set.rois.len() as u32;
                    draft.rois = Some(set);
                    Ok(v1::UploadRoisResponse { effect: BEFORE, roi_count })
                }
            }
        })
        .await
    }

    async fn set_ensembles(
        &self,
        request: Request<v1::SetEnsemblesRequest>,
    ) -> Result<Response<v1::SetEnsemblesResponse>, Status> {
        self.once(request, |this, caller, q| async move {
            let lists = (RoiIds::new(&q.plus), RoiIds::new(&q.minus));
            let (Some(plus), Some(minus)) = lists else {
                let (p, m) = (q.plus.len(), q.minus.len());
                return Err(Status::invalid_argument(format!(
                    "plus has {p} and minus {m} ROIs, expected at most {ENSEMBLE_MAX} each, with ids below 65536"
                )));
            };
            if q.plus.is_empty() {
                return Err(Status::invalid_argument("plus: no ROI, expected at least one; P- alone makes no cursor"));
            }
            if let Slot::Draft(draft) = &mut *this.rig.slot.lock().await {
                let mut config = draft.config.clone();
                config.ensembles.plus.clone_from(&q.plus);
                config.ensembles.minus.clone_from(&q.minus);
                let violations = config.violations();
                if !violations.is_empty() {
                    return Err(Status::invalid_argument(violations.join("; ")));
                }
                draft.config = config;
                return Ok(v1::SetEnsemblesResponse { effect: BEFORE });
            }
            let step = this.command(&caller, Command::SetEnsembles { plus, minus }).await?;
            Ok(v1::SetEnsemblesResponse { effect: effect(&step) })
        })
        .await
    }

    async fn start_baseline(
        &self,
        request: Request<v1::StartBaselineRequest>,
    ) -> Result<Response<v1::StartBaselineResponse>, Status> {
        self.once(request, |this, caller, _| async move {
            let step = this.command(&caller, Command::StartBaseline).await?;
            let frames = u64::from(this.rig.session().await?.config().baseline.frames);
            Ok(v1::StartBaselineResponse { effect: effect(&step), frames })
        })
        .await
    }

    async fn calibrate(
        &self,
        request: Request<v1::CalibrateRequest>,
    ) -> Result<Response<v1::CalibrateResponse>, Status> {
        self.once(request, |this, caller, _| async move {
            let step = this.command(&caller, Command::Calibrate).await?;
            Ok(v1::CalibrateResponse { effect: effect(&step), calibration: step.decision.calibration.clone() })
        })
        .await
    }

    async fn start_task(
        &self,
        request: Request<v1::StartTaskRequest>,
    ) -> Result<Response<v1::StartTaskResponse>, Status> {
        self.once(request, |this, caller, q| async move {
            let step = this.command(&caller, Command::StartTask { accept_template: q.accept_template }).await?;
            Ok(v1::StartTaskResponse { effect: effect(&step) })
        })
        .await
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Result<Response<v1::PauseResponse>, Status> {
        self.once(request, |this, caller, _| async move {
            let step = this.command(&caller, Command::Pause).await?;
            Ok(v1::PauseResponse { effect: effect(&step) })
        })
        .await
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::ResumeResponse>, Status> {
        self.once(request, |this, caller, _| async move {
            let step = this.command(&caller, Command::Resume).await?;
            Ok(v1::ResumeResponse { effect: effect(&step) })
        })
        .await
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Result<Response<v1::StopResponse>, Status> {
        self.once(request, |this, caller, _| async move {
            let step = this.end(&caller, Command::Stop).await?;
            let session = this.rig.session().await?;
            Ok(v1::StopResponse {
                effect: effect(&step),
                directory: session.directory().display().to_string(),
                frames_decided: session.live().summary().counters.frames_decided,
            })
        })
        .await
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Result<Response<v1::AbortResponse>, Status> {
        self.once(request, |this, caller, _| async move {
            let step = this.end(&caller, Command::Abort).await?;
            Ok(v1::AbortResponse { effect: effect(&step) })
        })
        .await
    }

    async fn manual_reward(
        &self,
        request: Request<v1::ManualRewardRequest>,
    ) -> Result<Response<v1::ManualRewardResponse>, Status> {
        self.once(request, |this, caller, _| async move {
            let step = this.command(&caller, Command::ManualReward).await?;
            Ok(v1::ManualRewardResponse {
                effect: effect(&step),
                trigger_segment: this.rig.session().await?.head().segment,
                trigger_sequence: step.decision.intent_sequence.first().copied().unwrap_or_default(),
            })
        })
        .await
    }

    async fn change_threshold(
        &self,
        request: Request<v1::ChangeThresholdRequest>,
    ) -> Result<Response<v1::ChangeThresholdResponse>, Status> {
        self.once(request, |this, caller, q| async move {
            let command = Command::ChangeThreshold { threshold: q.threshold, range_low: q.range_low };
            let step = this.command(&caller, command).await?;
            Ok(v1::ChangeThresholdResponse { effect: effect(&step) })
        })
        .await
    }

    async fn get_latency(&self, _: Request<v1::GetLatencyRequest>) -> Result<Response<v1::GetLatencyResponse>, Status> {
        let session = self.rig.session().await?;
        let latencies = session.live().summary().latency_records();
        Ok(Response::new(v1::GetLatencyResponse { latencies }))
    }

    async fn get_state(&self, _: Request<v1::GetStateRequest>) -> Result<Response<v1::GetStateResponse>, Status> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let session = match &*self.rig.slot.lock().await {
            Slot::Empty => {
                let phase = v1::SessionPhase::None as i32;
                return Ok(Response::new(v1::GetStateResponse { phase, version, ..Default::default() }));
            }
            Slot::Draft(draft) => {
                return Ok(Response::new(v1::GetStateResponse {
                    phase: v1::SessionPhase::Created as i32,
                    session_id: draft.name.clone(),
                    directory: draft.config.record.directory.join(&draft.name).display().to_string(),
                    config_toml: to_toml(&draft.config),
                    config_sha256: crate::config::hash(&draft.config),
                    plus: draft.config.ensembles.plus.clone(),
                    minus: draft.config.ensembles.minus.clone(),
                    roi_count: draft.rois.as_ref().map_or(0, |set| set.rois.len() as u32),
                    version,
                    ..Default::default()
                }));
            }
            Slot::Paused(point) => return Ok(Response::new(state_of_paused(point, version))),
            Slot::Session(session) => Arc::clone(session),
        };
        Ok(Response::new(session.state(version)))
    }
}

/// A session that waits for its stream to go on.
fn state_of_paused(point: &ResumePoint, version: String) -> v1::GetStateResponse {
    v1::GetStateResponse {
        phase: v1::SessionPhase::Created as i32,
        session_id: point.head.session_id.clone(),
        directory: point.directory.display().to_string(),
        config_toml: point.head.config_toml.clone(),
        config_sha256: point.head.config_sha256.clone(),
        counters: Some(point.counters),
        decided_through: point.last_input_seq.unwrap_or(0),
        durable_through: point.last_input_seq,
        roi_count: point.head.rois.as_ref().map_or(0, |set| set.rois.len() as u32),
        segment: point.head.segment,
        threshold: point.range.map(|r| r.0),
        range_low: point.range.map(|r| r.1),
        version,
        ..Default::default()
    }
}

/// A set as it was uploaded, checked.
fn uploaded_set(q: &v1::UploadRoisRequest) -> Result<RoiSet, Status> {
    for (id, roi) in q.rois.iter().enumerate() {
        let (rows, cols, weights) = (roi.rows_px.len(), roi.cols_px.len(), roi.weights.len());
        if rows != cols || (weights != 0 && weights != rows) {
            return Err(Status::invalid_argument(format!(
                "ROI {id}: {rows} rows, {cols} columns and {weights} weights, expected as many of each (or no weights)"
            )));
        }
    }
    if let Some(r) = &q.reference
        && r.values_counts.len() as u64 != u64::from(r.height_px) * u64::from(r.width_px)
    {
        let (got, h, w) = (r.values_counts.len(), r.height_px, r.width_px);
        return Err(Status::invalid_argument(format!("reference: {got} values, expected {h} x {w}")));
    }
    let mut set = roi_set_of(&v1::RoiSetRecord {
        templates: Vec::new(),
        z_stack: Vec::new(),
        height_px: q.height_px,
        width_px: q.width_px,
        rois: q.rois.clone(),
        reference: None,
        reference_rendered: false,
        source: "uploaded".to_owned(),
    });
    if let Some(r) = &q.reference {
        let geometry = Geometry::new(r.height_px as usize, r.width_px as usize);
        set.reference = Some(Image { geometry, values: r.values_counts.clone() });
        set.reference_kind = crate::sample::ReferenceKind::Given;
    }
    set.check().map_err(|e| Status::invalid_argument(e.to_string()))?;
    Ok(set)
}

/// A set of ROIs as an upload.
pub fn upload_of(set: &RoiSet, command: v1::CommandHeader) -> v1::UploadRoisRequest {
    let record = roi_set_record(set);
    v1::UploadRoisRequest {
        command: Some(command),
        height_px: record.height_px,
        width_px: record.width_px,
        rois: record.rois,
        reference: record.reference.filter(|_| !record.reference_rendered),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Semaphore;

    use super::super::rig::RigMode;
    use super::*;
    use crate::config::RigConfig;

    fn pause(key: &str) -> Request<v1::PauseRequest> {
        let (idempotency_key, operator_name) = (key.to_owned(), "tester".to_owned());
        Request::new(v1::PauseRequest { command: Some(v1::CommandHeader { idempotency_key, operator_name }) })
    }

    /// A command that takes effect only when it is let through, and counts how often it did.
    async fn held(count: Arc<AtomicU32>, gate: Arc<Semaphore>) -> Result<v1::PauseResponse, Status> {
        let _passed = gate.acquire().await.map_err(|_| Status::internal("closed"))?;
        let input_seq = u64::from(count.fetch_add(1, Ordering::SeqCst));
        Ok(v1::PauseResponse { effect: Some(CommandEffect { input_seq, frame_index: 0, repeated: false }) })
    }

    #[tokio::test]
    async fn a_command_whose_caller_left_is_finished_and_its_key_answers_with_what_became_of_it() {
        let control = Control::new(Rig::new(RigConfig::default(), RigMode::Live));
        let (count, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Semaphore::new(0)));
        let ask = || {
            let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
            control.once(pause("k"), move |_, _, _| held(count, gate))
        };
        tokio::select! {
            biased;
            _ = ask() => panic!("it was not let through"),
            () = tokio::task::yield_now() => {}
        }
        gate.add_permits(1);
        let answer = ask().await.unwrap().into_inner();
        assert_eq!(answer.effect.map(|e| (e.input_seq, e.repeated)), Some((0, true)));
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_refused_command_lets_those_that_wait_with_its_key_try_one_at_a_time() {
        let control = Control::new(Rig::new(RigConfig::default(), RigMode::Live));
        let (count, running) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let ask = || {
            let (control, count, running) = (control.clone(), Arc::clone(&count), Arc::clone(&running));
            tokio::spawn(async move {
                let act = move |_, _, _| async move {
                    assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    match count.fetch_add(1, Ordering::SeqCst) {
                        0 | 1 => Err(Status::failed_precondition("not yet")),
                        _ => Ok(v1::PauseResponse { effect: BEFORE }),
                    }
                };
                control.once(pause("k"), act).await
            })
        };
        let asked: Vec<_> = (0..6).map(|_| ask()).collect();
        let mut good = 0;
        for answer in asked {
            good += u32::from(answer.await.unwrap().is_ok());
        }
        assert_eq!((good, count.load(Ordering::SeqCst)), (4, 3));
    }

    #[tokio::test]
    async fn a_key_that_another_command_used_is_refused() {
        let control = Control::new(Rig::new(RigConfig::default(), RigMode::Live));
        let done = |_, _, _| async { Ok(v1::PauseResponse { effect: BEFORE }) };
        control.once(pause("k"), done).await.unwrap();
        let command = pause("k").into_inner().command;
        let resumed = |_, _, _| async { Ok(v1::ResumeResponse { effect: BEFORE }) };
        let refused = control.once(Request::new(v1::ResumeRequest { command }), resumed).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    }
}
