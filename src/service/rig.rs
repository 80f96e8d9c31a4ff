//! The rig: what the service was started with, and the one session that it has at a time.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tonic::Status;

use super::idempotency::AnswerBook;
use super::session::Session;
use crate::config::{RigConfig, hash, load_text, to_toml};
use crate::engine::{Command, CommandOutcome};
use crate::journal::{ResumePoint, check_name, session_name};
use crate::sample::RoiSet;

/// How long the session gets to take the stop when the service ends.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What the service is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RigMode {
    /// An animal may sit at the end of the wire: devices are opened, limits see the host's clock.
    Live,
    /// A recording is played: no device is opened, triggers go to a simulated board, limits see the recording's time.
    Replay,
}

/// A session that waits for its stream.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub name: String,
    pub config: RigConfig,
    pub rois: Option<RoiSet>,
}

/// Where the rig stands.
pub(super) enum Slot {
    Empty,
    Draft(Box<Draft>),
    /// A session that goes on as soon as its stream comes again.
    Paused(Box<ResumePoint>),
    Session(Arc<Session>),
}

/// The rig.
pub struct Rig {
    default_config: RigConfig,
    mode: RigMode,
    pub(super) slot: Mutex<Slot>,
    pub(super) answers: AnswerBook,
    tickets: AtomicU64,
    stopping: AtomicBool,
    closing: watch::Sender<bool>,
}

impl Rig {
    /// A rig with no session.
    pub fn new(default_config: RigConfig, mode: RigMode) -> Arc<Self> {
        Arc::new(Self {
            default_config,
            mode,
            slot: Mutex::new(Slot::Empty),
            answers: AnswerBook::default(),
            tickets: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            closing: watch::Sender::new(false),
        })
    }

    /// A rig whose session is one that an earlier service left: it goes on when its stream comes again.
    pub fn continuing(default_config: RigConfig, point: ResumePoint) -> Arc<Self> {
        let mut rig = Self::new(default_config, RigMode::Live);
        if let Some(rig) = Arc::get_mut(&mut rig) {
            rig.slot = Mutex::new(Slot::Paused(Box::new(point)));
        }
        rig
    }

    /// What the service is for.
    pub fn mode(&self) -> RigMode {
        self.mode
    }

    /// A number that no other command has.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed)
    }

    /// Turns true when the service stops.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Nothing begins any more once the service stops; asked while `slot` is held.
    pub(super) fn refuse_when_stopping(&self) -> Result<(), Status> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Status::unavailable("the service stops"));
        }
        Ok(())
    }

    /// Makes a draft of a session.
    pub(super) async fn create(
        &self,
        toml: &str,
        set: &[String],
        name: &str,
    ) -> Result<(String, PathBuf, String), Status> {
        let config = if toml.is_empty() && set.is_empty() {
            self.default_config.clone()
        } else {
            let base = if toml.is_empty() { to_toml(&self.default_config) } else { toml.to_owned() };
            load_text(&base, set).map_err(|e| Status::invalid_argument(e.to_string()))?
        };
        let mut slot = self.slot.lock().await;
        self.refuse_when_stopping()?;
        if let Slot::Session(session) = &*slot
            && !session.is_ended()
        {
            return Err(Status::already_exists(format!("session {} runs; stop it first", session.id())));
        }
        let name = if name.is_empty() { session_name(&config) } else { name.to_owned() };
        check_name(&name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let directory = config.record.directory.join(&name);
        let sha256 = hash(&config);
        *slot = Slot::Draft(Box::new(Draft { name: name.clone(), config, rois: None }));
        Ok((name, directory, sha256))
    }

    /// The session, running or ended.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Status> {
        match &*self.slot.lock().await {
            Slot::Session(session) => Ok(Arc::clone(session)),
            Slot::Draft(_) | Slot::Paused(_) => Err(Status::failed_precondition(
                "the session waits for its stream: open IngestFrames or IngestRoiValues and send the header first",
            )),
            Slot::Empty => Err(Status::not_found("no session: call CreateSession first")),
        }
    }

    /// Ends the session, if one runs, and every stream.
    pub async fn close(&self) {
        self.stopping.store(true, Ordering::Release);
        let session = match &*self.slot.lock().await {
            Slot::Session(session) if !session.is_ended() => Some(Arc::clone(session)),
            _ => None,
        };
        if let Some(session) = session {
            let ticket = self.ticket();
            let stop = session.command(ticket, Command::Stop, "service", "service-stop");
            let answer = tokio::time::timeout(STOP_PATIENCE, stop).await;
            if !matches!(&answer, Ok(Ok(step)) if step.outcome == CommandOutcome::TookEffect) {
                tracing::warn!("the session did not take the stop; it is ended without it");
            }
            session.finish().await;
        }
        self.closing.send_replace(true);
    }
}

/// Waits until a flag turns true, or whoever sets it is gone.
pub(super) async fn turned(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|on| *on).await;
}
