//! Recomputes a session from its recorded inputs through the same [`Engine::step`], and compares every decision.

use prost::Message;

use super::convert::{encode_decision, input_of, roi_set_of, shape_of_head};
use super::reader::{JournalError, JournalRecord, SessionFiles};
use crate::config::{ConfigError, load_text};
use crate::engine::{Engine, EngineError};
use crate::proto::v1;

/// What a verification found.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifyReport {
    /// Frames whose decisions were compared.
    pub frames_compared: u64,
    /// Inputs of every kind whose decisions were compared.
    pub inputs_compared: u64,
    /// Decisions that differ.
    pub differences: u64,
    /// Segments read.
    pub segments: u32,
    /// The first one that differs.
    pub first_difference: Option<Difference>,
    /// Where the record is damaged, or what makes no sense in it.
    pub damage: Option<String>,
}

/// Two decisions on one input.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The input.
    pub input_seq: u64,
    /// Its frame.
    pub frame_index: u64,
    /// What was recorded.
    pub recorded: Box<v1::DecisionRecord>,
    /// What was computed now.
    pub computed: Box<v1::DecisionRecord>,
}

/// Why a session cannot be verified at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its ROIs and stream do not make an engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// An engine as the head of a journal describes it.
///
/// # Errors
/// The configuration, the ROIs or the stream's header make no sense.
pub fn engine_of(head: &v1::SessionHead) -> Result<Engine, VerifyError> {
    let config = load_text(&head.config_toml, &[])?;
    let rois = head.rois.as_ref().map(roi_set_of).unwrap_or_default();
    Ok(Engine::new(&config, &rois, &shape_of_head(head), head.segment)?)
}

/// Recomputes every decision of a session, from recorded F, and compares.
///
/// # Errors
/// The session cannot be read at all; damage further on is told in the report.
pub fn verify(files: &SessionFiles) -> Result<VerifyReport, VerifyError> {
    let mut engine = engine_of(&files.head()?)?;
    let mut report = VerifyReport {
        frames_compared: 0,
        inputs_compared: 0,
        differences: 0,
        segments: files.journals.len() as u32,
        first_difference: None,
        damage: None,
    };
    let mut waiting: Option<v1::InputRecord> = None;
    let read = files.read(|record| match record {
        JournalRecord::Input(input) => waiting = Some(input),
        JournalRecord::Decision(recorded) => match waiting.take() {
            Some(input) if input.input_seq == recorded.input_seq => {
                compare(&mut engine, &input, &recorded, &mut report)
            }
            _ => damage(&mut report, format!("decision {} has no input before it", recorded.input_seq)),
        },
        _ => {}
    });
    if let Err(e) = read {
        damage(&mut report, e.to_string());
    }
    Ok(report)
}

fn damage(report: &mut VerifyReport, what: String) {
    report.damage.get_or_insert(what);
}

fn compare(engine: &mut Engine, input: &v1::InputRecord, recorded: &v1::DecisionRecord, report: &mut VerifyReport) {
    let mut command = None;
    let Some(taken) = input_of(input, recorded, &mut command) else {
        return damage(report, format!("input {} makes no sense", input.input_seq));
    };
    let computed = encode_decision(engine.step(&taken).decision);
    report.inputs_compared += 1;
    if matches!(input.kind(), v1::InputKind::Frame | v1::InputKind::RoiValues) {
        report.frames_compared += 1;
    }
    // Bytes, so that NaN equals NaN and 0 does not equal -0.
    if computed.encode_to_vec() != recorded.encode_to_vec() {
        report.differences += 1;
        report.first_difference.get_or_insert_with(|| Difference {
            input_seq: input.input_seq,
            frame_index: recorded.frame_index,
            recorded: Box::new(recorded.clone()),
            computed: Box::new(computed),
        });
    }
}
