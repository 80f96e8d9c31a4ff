//! Recomputes a session from its recorded inputs through the same [`Engine::step`], and compares every decision.
//!
//! Where every pixel was kept, frames are stepped from pixels and every snapshot of the engine's state is compared as
//! well; otherwise from the recorded F, which is sampled once more where boxes around the ROIs were kept. It can begin
//! at any snapshot. A frame whose pixels were not kept is stepped from F, and so is everything behind it up to the next
//! snapshot, since registration did not see what it had seen.

use super::convert::{encode_decision, input_of, is_frame, roi_set_of, same_bits, shape_of_head};
use super::kept_pixels::{Found, KeptPixels};
use super::pixels::{unpack, unpack_boxes};
use super::reader::{Damage, JournalError, JournalRecord, SessionFiles};
use crate::config::{ConfigError, load_text};
use crate::engine::{Engine, EngineError, Input, Sampled, StreamShape};
use crate::frame::FrameSlot;
use crate::proto::v1;

/// How to verify.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Overrides of the recorded configuration, `register.simd=false`: what does not matter to a decision may change.
    pub set: Vec<String>,
    /// Begin at the last snapshot at or before this input, instead of at the first input.
    pub from_input: Option<u64>,
    /// Leave the pixels alone, even where they were kept.
    pub without_pixels: bool,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VerifyReport {
    /// Frames whose decisions were compared.
    pub frames_compared: u64,
    /// Of these, frames that were recomputed from their pixels.
    pub frames_from_pixels: u64,
    /// Frames of which boxes were kept, whose F and neuropil were sampled from them once more and compared.
    pub frames_sampled_again: u64,
    /// Inputs of every kind whose decisions were compared.
    pub inputs_compared: u64,
    /// Snapshots of the engine's state that were recomputed from pixels and compared.
    pub snapshots_compared: u64,
    /// Decisions that differ.
    pub differences: u64,
    /// Segments read.
    pub segments: u32,
    /// The snapshot at which it began; none: at the first input.
    pub from_snapshot: Option<u64>,
    /// The first one that differs.
    pub first_difference: Option<Difference>,
    /// What is damaged or missing, one sentence each.
    pub damage: Vec<String>,
    /// What a crash left unfinished, one sentence for each segment; not damage.
    pub unfinished: Vec<String>,
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
    /// There is no snapshot to begin at.
    #[error("no snapshot at or before input {from_input}, expected one; begin without --from-input")]
    NoSnapshot {
        /// Where it was to begin.
        from_input: u64,
    },
}

/// An engine as the head of a journal describes it.
///
/// # Errors
/// The configuration, the ROIs or the stream's header make no sense.
pub fn engine_of(head: &v1::SessionHead) -> Result<Engine, VerifyError> {
    engine_with(head, &[])
}

/// The same, with overrides of its configuration.
fn engine_with(head: &v1::SessionHead, set: &[String]) -> Result<Engine, VerifyError> {
    let config = load_text(&head.config_toml, set)?;
    let rois = head.rois.as_ref().map(roi_set_of).unwrap_or_default();
    Ok(Engine::new(&config, &rois, &shape_of_head(head), head.segment)?)
}

/// Recomputes every decision of a session, and compares.
///
/// # Errors
/// The session cannot be read at all; damage further on is told in the report.
pub fn verify(files: &SessionFiles, options: &VerifyOptions) -> Result<VerifyReport, VerifyError> {
    let head = files.head()?;
    let from_snapshot = match options.from_input {
        None => None,
        Some(from_input) => Some(last_snapshot(files, from_input)?.ok_or(VerifyError::NoSnapshot { from_input })?),
    };
    let damage = files.damage();
    let report = VerifyReport {
        segments: files.segments.len() as u32,
        from_snapshot,
        damage: super::texts(&damage),
        unfinished: super::texts(&files.unfinished()),
        ..VerifyReport::default()
    };
    let engine = engine_with(&head, &options.set)?;
    let slot = match shape_of_head(&head) {
        StreamShape::Pixels { geometry, pixel_type, .. } if !options.without_pixels => {
            Some(FrameSlot::new(engine.geometry().unwrap_or(geometry), pixel_type))
        }
        _ => None,
    };
    let mut verifier = Verifier {
        engine,
        report,
        waiting: None,
        pixels: None,
        slot,
        trust: if from_snapshot.is_some() { Trust::Nothing } else { Trust::Everything },
        starts_at: from_snapshot,
    };
    let read = files.read(|record| verifier.take(files, record));
    if let Err(error) = read {
        // Damage of the files is in the list already.
        let is_known = |known: &Damage| match &error {
            JournalError::Damaged { path, reason } => (path, reason) == (&known.file, &known.what),
            _ => false,
        };
        if !damage.iter().any(is_known) {
            verifier.damage(error.to_string());
        }
    }
    verifier.end();
    Ok(verifier.report)
}

/// The input of the last snapshot at or before `from_input`.
fn last_snapshot(files: &SessionFiles, from_input: u64) -> Result<Option<u64>, JournalError> {
    let mut found = None;
    let read = files.read(|record| {
        if let JournalRecord::Snapshot(snapshot) = record
            && snapshot.input_seq <= from_input
        {
            found = Some(snapshot.input_seq);
        }
    });
    match read {
        // What is before the damage counts; the damage is told later.
        Ok(()) | Err(JournalError::Damaged { .. }) => Ok(found),
        Err(e) => Err(e),
    }
}

/// How much of the engine's state is what it was when the session ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Nothing: inputs are missing, or it has not begun. Waits for a snapshot.
    Nothing,
    /// All but what registration learns from pixels.
    Decisions,
    /// All of it.
    Everything,
}

struct Verifier {
    engine: Engine,
    report: VerifyReport,
    waiting: Option<v1::InputRecord>,
    pixels: Option<KeptPixels>,
    /// Present where pixels are to be used.
    slot: Option<FrameSlot>,
    trust: Trust,
    /// The snapshot to begin at.
    starts_at: Option<u64>,
}

impl Verifier {
    fn take(&mut self, files: &SessionFiles, record: JournalRecord) {
        match record {
            JournalRecord::Head(head) => self.begin_segment(files, head.segment),
            JournalRecord::Input(input) => self.waiting = Some(input),
            JournalRecord::Decision(recorded) => match self.waiting.take() {
                Some(input) if input.input_seq == recorded.input_seq => self.step(&input, &recorded),
                _ => self.damage(format!("decision {} has no input before it", recorded.input_seq)),
            },
            JournalRecord::Snapshot(snapshot) => self.snapshot(&snapshot),
            JournalRecord::Loss(loss) => {
                let v1::LossRecord { records, first_input_seq, last_input_seq, reason } = loss;
                self.damage(format!("{records} records of inputs {first_input_seq} to {last_input_seq}: {reason}"));
            }
            _ => {}
        }
    }

    fn damage(&mut self, what: String) {
        self.report.damage.push(what);
    }

    fn begin_segment(&mut self, files: &SessionFiles, segment: u32) {
        self.pixels = None;
        if self.slot.is_none() {
            return;
        }
        if segment > 0 && self.trust == Trust::Everything {
            // What registration had learnt since the last snapshot was lost with the process.
            self.trust = Trust::Decisions;
        }
        match files.kept_pixels(segment) {
            Ok(pixels) => self.pixels = pixels,
            Err(e) => self.damage(e.to_string()),
        }
    }

    fn snapshot(&mut self, snapshot: &v1::SnapshotRecord) {
        let here = self.engine.next_seq() == snapshot.input_seq + 1;
        let begins = self.starts_at == Some(snapshot.input_seq) || (self.starts_at.is_none() && !here);
        match self.trust {
            Trust::Nothing if begins => {}
            Trust::Decisions if here && self.pixels.is_some() => {}
            Trust::Everything if here && self.report.frames_from_pixels > 0 => {
                let mut computed = Vec::with_capacity(snapshot.state.len());
                self.engine.settle();
                self.engine.save(&mut computed);
                self.report.snapshots_compared += 1;
                if computed != snapshot.state {
                    let seq = snapshot.input_seq;
                    self.damage(format!("the engine's state after input {seq} is not the one that was recorded"));
                }
                return;
            }
            _ if !here && self.trust != Trust::Nothing => {
                let seq = snapshot.input_seq;
                return self.damage(format!("the snapshot after input {seq} does not stand behind that input"));
            }
            _ => return,
        }
        match self.engine.load(&snapshot.state) {
            Ok(()) => {
                self.trust = Trust::Everything;
                self.starts_at = None;
            }
            Err(e) => {
                self.trust = Trust::Nothing;
                self.damage(format!("the snapshot after input {}: {e}", snapshot.input_seq));
            }
        }
    }

    fn step(&mut self, input: &v1::InputRecord, recorded: &v1::DecisionRecord) {
        if self.trust == Trust::Nothing {
            return;
        }
        let expected = self.engine.next_seq();
        if input.input_seq != expected {
            self.trust = Trust::Nothing;
            return self.damage(format!("inputs {expected} to {} are missing", input.input_seq.saturating_sub(1)));
        }
        let mut command = None;
        let Some(mut taken) = input_of(input, recorded, &mut command) else {
            self.trust = Trust::Nothing;
            return self.damage(format!("input {} makes no sense", input.input_seq));
        };
        let mut from_pixels = false;
        if let Input::Sampled(sampled) = &taken
            && self.fill_slot(recorded, sampled)
            && let Some(slot) = &mut self.slot
        {
            slot.meta = sampled.meta;
            taken = Input::Frame(slot);
            from_pixels = true;
        }
        let computed = encode_decision(self.engine.step(&taken).decision);
        self.compare(input, recorded, computed, from_pixels);
    }

    /// Whether the frame's pixels are in the slot, and the engine knows what it knew when it saw them.
    fn fill_slot(&mut self, recorded: &v1::DecisionRecord, sampled: &Sampled<'_>) -> bool {
        let (Some(pixels), Some(slot)) = (&mut self.pixels, &mut self.slot) else { return false };
        let what = match pixels.find(recorded.input_seq) {
            Found::Pixels(record) if record.patches.is_empty() => match unpack(&record, slot) {
                Ok(()) => return self.trust == Trust::Everything,
                Err(e) => Some(e.to_string()),
            },
            Found::Pixels(record) => match unpack_boxes(&record, slot) {
                Ok(()) => self.sampled_again(recorded, sampled),
                Err(e) => Some(e.to_string()),
            },
            Found::NotKept => None,
            Found::Missing => {
                Some(format!("{}: the pixels of input {} are missing", pixels.path(), recorded.input_seq))
            }
            Found::Damaged(what) => {
                self.pixels = None;
                Some(what)
            }
        };
        if self.trust == Trust::Everything {
            self.trust = Trust::Decisions;
        }
        self.report.damage.extend(what);
        false
    }

    /// Whether the boxes that were kept give the F that was recorded; what is wrong otherwise.
    fn sampled_again(&mut self, recorded: &v1::DecisionRecord, sampled: &Sampled<'_>) -> Option<String> {
        let d = recorded;
        // On the baseline's last frame the offset in the record is the one that holds from then on.
        let ends_baseline = d.event_kind.contains(&(v1::EventKind::BaselineDone as i32));
        if d.f_counts.is_empty() || ends_baseline {
            return None;
        }
        let (rois, f, neuropil) = self.engine.sample_again(self.slot.as_ref()?, sampled)?;
        let same = |found: &[f64], recorded: &[f64]| {
            let recorded = rois.iter().take(found.len()).map(|&roi| recorded.get(roi as usize).map(|v| v.to_bits()));
            found.iter().map(|v| Some(v.to_bits())).eq(recorded)
        };
        if same(f, &d.f_counts) && same(neuropil, &d.f_neuropil_counts) {
            self.report.frames_sampled_again += 1;
            return None;
        }
        Some(format!("the pixels that were kept of input {} give another F than was recorded", d.input_seq))
    }

    fn compare(
        &mut self,
        input: &v1::InputRecord,
        recorded: &v1::DecisionRecord,
        computed: v1::DecisionRecord,
        from_pixels: bool,
    ) {
        let report = &mut self.report;
        report.inputs_compared += 1;
        if is_frame(input) {
            report.frames_compared += 1;
            report.frames_from_pixels += u64::from(from_pixels);
        }
        if !same_bits(&computed, recorded) {
            report.differences += 1;
            report.first_difference.get_or_insert_with(|| Difference {
                input_seq: input.input_seq,
                frame_index: recorded.frame_index,
                recorded: Box::new(recorded.clone()),
                computed: Box::new(computed),
            });
        }
    }

    fn end(&mut self) {
        if let Some(seq) = self.starts_at {
            self.damage(format!("the snapshot after input {seq} was not reached"));
        }
    }
}
