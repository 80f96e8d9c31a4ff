//! SessionService: an operator's commands, each answered with the input at which it took effect.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::idempotency::{Answer, Caller};
use super::rig::{Rig, Slot};
use crate::config::to_toml;
use crate::engine::{Command, CommandOutcome, ENSEMBLE_MAX, RoiIds};
use crate::frame::{Geometry, Image};
use crate::journal::{Published, roi_set_of, roi_set_record};
use crate::proto::v1::session_service_server::SessionService;
use crate::proto::v1::{self, CommandEffect};
use crate::sample::RoiSet;

/// The service.
pub(super) struct Control {
    rig: Arc<Rig>,
}

impl Control {
    /// Of a rig.
    pub fn new(rig: Arc<Rig>) -> Self {
        Self { rig }
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

macro_rules! answers {
    ($($name:ident),+ $(,)?) => {
        $(impl Answer for v1::$name {
            fn effect_mut(&mut self) -> &mut Option<CommandEffect> {
                &mut self.effect
            }
        })+
    };
}

answers!(
    CreateSessionResponse,
    UploadRoisResponse,
    SetEnsemblesResponse,
    StartBaselineResponse,
    CalibrateResponse,
    StartTaskResponse,
    PauseResponse,
    ResumeResponse,
    StopResponse,
    AbortResponse,
    ManualRewardResponse,
    ChangeThresholdResponse,
);

#[tonic::async_trait]
impl SessionService for Control {
    async fn create_session(
        &self,
        request: Request<v1::CreateSessionRequest>,
    ) -> Result<Response<v1::CreateSessionResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let (session_id, directory, config_sha256) = self.rig.create(&q.config_toml, &q.set, &q.name).await?;
            let directory = directory.display().to_string();
            Ok(v1::CreateSessionResponse { effect: BEFORE, session_id, directory, config_sha256 })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn upload_rois(
        &self,
        request: Request<v1::UploadRoisRequest>,
    ) -> Result<Response<v1::UploadRoisResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let set = uploaded_set(&q)?;
            let mut slot = self.rig.slot.lock().await;
            match &mut *slot {
                Slot::Empty => Err(Status::not_found("no session: call CreateSession first")),
                Slot::Session(_) => Err(Status::failed_precondition(
                    "the session's stream is open: ROIs are uploaded between CreateSession and the stream's header",
                )),
                Slot::Draft(draft) => {
                    let roi_count = set.rois.len() as u32;
                    draft.rois = Some(set);
                    Ok(v1::UploadRoisResponse { effect: BEFORE, roi_count })
                }
            }
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn set_ensembles(
        &self,
        request: Request<v1::SetEnsemblesRequest>,
    ) -> Result<Response<v1::SetEnsemblesResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
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
            if let Slot::Draft(draft) = &mut *self.rig.slot.lock().await {
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
            let step = self.command(&caller, Command::SetEnsembles { plus, minus }).await?;
            Ok(v1::SetEnsemblesResponse { effect: effect(&step) })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn start_baseline(
        &self,
        request: Request<v1::StartBaselineRequest>,
    ) -> Result<Response<v1::StartBaselineResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let step = self.command(&caller, Command::StartBaseline).await?;
            let frames = u64::from(self.rig.session().await?.config().baseline.frames);
            Ok(v1::StartBaselineResponse { effect: effect(&step), frames })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn calibrate(
        &self,
        request: Request<v1::CalibrateRequest>,
    ) -> Result<Response<v1::CalibrateResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let step = self.command(&caller, Command::Calibrate).await?;
            Ok(v1::CalibrateResponse { effect: effect(&step), calibration: step.decision.calibration.clone() })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn start_task(
        &self,
        request: Request<v1::StartTaskRequest>,
    ) -> Result<Response<v1::StartTaskResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let step = self.command(&caller, Command::StartTask { accept_template: q.accept_template }).await?;
            Ok(v1::StartTaskResponse { effect: effect(&step) })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Result<Response<v1::PauseResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let step = self.command(&caller, Command::Pause).await?;
            Ok(v1::PauseResponse { effect: effect(&step) })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Result<Response<v1::ResumeResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let step = self.command(&caller, Command::Resume).await?;
            Ok(v1::ResumeResponse { effect: effect(&step) })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn stop(&self, request: Request<v1::StopRequest>) -> Result<Response<v1::StopResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let step = self.end(&caller, Command::Stop).await?;
            let session = self.rig.session().await?;
            Ok(v1::StopResponse {
                effect: effect(&step),
                directory: session.directory().display().to_string(),
                frames_decided: session.live().summary().counters.frames_decided,
            })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn abort(&self, request: Request<v1::AbortRequest>) -> Result<Response<v1::AbortResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let step = self.end(&caller, Command::Abort).await?;
            Ok(v1::AbortResponse { effect: effect(&step) })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn manual_reward(
        &self,
        request: Request<v1::ManualRewardRequest>,
    ) -> Result<Response<v1::ManualRewardResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let step = self.command(&caller, Command::ManualReward).await?;
            Ok(v1::ManualRewardResponse {
                effect: effect(&step),
                trigger_segment: self.rig.session().await?.head().segment,
                trigger_sequence: step.decision.intent_sequence.first().copied().unwrap_or_default(),
            })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
    }

    async fn change_threshold(
        &self,
        request: Request<v1::ChangeThresholdRequest>,
    ) -> Result<Response<v1::ChangeThresholdResponse>, Status> {
        let q = request.into_inner();
        let caller = Caller::of(q.command.as_ref())?;
        let act = async {
            let command = Command::ChangeThreshold { threshold: q.threshold, range_low: q.range_low };
            let step = self.command(&caller, command).await?;
            Ok(v1::ChangeThresholdResponse { effect: effect(&step) })
        };
        self.rig.answers.answer(&caller.key, &q, act).await.map(Response::new)
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
            Slot::Session(session) => Arc::clone(session),
        };
        Ok(Response::new(session.state(version)))
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
