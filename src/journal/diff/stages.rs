//! What is compared in each stage.

use super::frames::Frame;
use super::{FieldDifference, Place, Value};
use crate::engine::Stage;
use crate::journal::{fit_verdict, state_name};
use crate::proto::v1;

/// A field of a stage.
pub(super) struct Field {
    /// The stage.
    pub stage: Stage,
    /// Its name, with its unit.
    pub name: &'static str,
    of: Of,
}

/// How a field is read of a frame.
enum Of {
    Number(fn(&Frame) -> f64),
    /// One for each ROI.
    Numbers(fn(&Frame) -> &[f64]),
    /// One for each block of the frame.
    Blocks(fn(&Frame) -> &[f32]),
    Flags(fn(&Frame) -> &[bool]),
    /// A code, and what it is called.
    Code(fn(&Frame) -> i64, fn(i64) -> String),
}

const fn number(stage: Stage, name: &'static str, of: fn(&Frame) -> f64) -> Field {
    Field { stage, name, of: Of::Number(of) }
}

const fn numbers(stage: Stage, name: &'static str, of: fn(&Frame) -> &[f64]) -> Field {
    Field { stage, name, of: Of::Numbers(of) }
}

const fn code(stage: Stage, name: &'static str, of: fn(&Frame) -> i64, called: fn(i64) -> String) -> Field {
    Field { stage, name, of: Of::Code(of, called) }
}

/// Every field, stage after stage.
pub(super) const FIELDS: &[Field] = &[
    number(Stage::Register, "dy_px", |f| f.decision.dy_px),
    number(Stage::Register, "dx_px", |f| f.decision.dx_px),
    number(Stage::Register, "score", |f| f.decision.score),
    code(Stage::Register, "fit", |f| i64::from(f.decision.fit), fit),
    code(Stage::Register, "verdict", |f| i64::from(f.decision.verdict), verdict),
    code(Stage::Register, "has_pixels", |f| i64::from(f.decision.has_pixels), yes),
    code(Stage::Register, "template_frozen", |f| i64::from(f.decision.template_frozen), yes),
    number(Stage::Register, "offset_dy_px", |f| f.decision.offset_dy_px),
    number(Stage::Register, "offset_dx_px", |f| f.decision.offset_dx_px),
    number(Stage::Register, "odd_lines_px", |f| f.decision.odd_lines_px),
    number(Stage::Register, "z_drift_um", |f| f.decision.z_drift_um.unwrap_or(f64::NAN)),
    number(Stage::Register, "offset_score", |f| f.decision.offset_score),
    code(Stage::Register, "offset_trusted", |f| i64::from(f.decision.offset_trusted), yes),
    Field { stage: Stage::Register, name: "block_dy_px", of: Of::Blocks(|f| &f.decision.block_dy_px) },
    Field { stage: Stage::Register, name: "block_dx_px", of: Of::Blocks(|f| &f.decision.block_dx_px) },
    numbers(Stage::Sample, "f_counts", |f| &f.decision.f_counts),
    numbers(Stage::Sample, "f_neuropil_counts", |f| &f.decision.f_neuropil_counts),
    number(Stage::Activity, "detector_offset_counts", |f| f.decision.detector_offset_counts),
    numbers(Stage::Activity, "f0_counts", |f| &f.decision.f0_counts),
    numbers(Stage::Activity, "dff", |f| &f.decision.dff),
    numbers(Stage::Activity, "z", |f| &f.decision.z),
    numbers(Stage::Activity, "rate", |f| &f.decision.rate),
    Field { stage: Stage::Activity, name: "roi_valid", of: Of::Flags(|f| &f.decision.roi_valid) },
    number(Stage::Decode, "threshold", |f| f.threshold),
    number(Stage::Decode, "range_low", |f| f.range_low),
    number(Stage::Decode, "x", |f| f.decision.x),
    number(Stage::Decode, "cursor", |f| f.decision.cursor),
    number(Stage::Decode, "rotation_deg", |f| f.decision.rotation_deg),
    code(Stage::Task, "state", |f| i64::from(f.decision.state), state),
    code(Stage::Task, "trial", |f| f.decision.trial as i64, |n| n.to_string()),
    number(Stage::Task, "phase_frame", |f| f64::from(f.decision.phase_frame)),
    code(Stage::Task, "screen", |f| i64::from(f.decision.screen), screen),
    number(Stage::Task, "displayed_deg", |f| f.decision.displayed_deg),
    number(Stage::Task, "sound_duration_s", |f| f.decision.sound_duration_s),
    number(Stage::Trigger, "reward_pulses", |f| f.pulses[0].0 as f64),
    number(Stage::Trigger, "reward_width_us", |f| f.pulses[0].1 as f64),
    number(Stage::Trigger, "sync_pulses", |f| f.pulses[1].0 as f64),
    number(Stage::Trigger, "light_pulses", |f| f.pulses[2].0 as f64),
    number(Stage::Trigger, "light_width_us", |f| f.pulses[2].1 as f64),
];

fn yes(code: i64) -> String {
    if code == 0 { "no" } else { "yes" }.to_owned()
}

fn fit(code: i64) -> String {
    let known = u32::try_from(code).ok().and_then(fit_verdict);
    known.map_or_else(|| format!("code {code}"), |fit| format!("{fit:?}"))
}

fn verdict(code: i64) -> String {
    named(code, |c| v1::FrameVerdict::try_from(c).ok().map(|v| v.as_str_name()), "FRAME_VERDICT_")
}

fn state(code: i64) -> String {
    named(code, |c| v1::TrialState::try_from(c).ok().map(state_name), "")
}

fn screen(code: i64) -> String {
    named(code, |c| v1::Screen::try_from(c).ok().map(|s| s.as_str_name()), "SCREEN_")
}

fn named(code: i64, name: fn(i32) -> Option<&'static str>, prefix: &str) -> String {
    let known = i32::try_from(code).ok().and_then(name);
    known.map_or_else(|| format!("code {code}"), |name| name.trim_start_matches(prefix).to_lowercase())
}

/// What differs in a field, so far.
#[derive(Debug, Clone, Default)]
pub(super) struct FieldTally {
    frames: u64,
    first: Option<Place>,
    largest: Option<(f64, Place)>,
    one_is_no_number: u64,
}

impl FieldTally {
    /// Compares a frame; where it differs first, if it does.
    pub fn compare(&mut self, field: &Field, a: &Frame, b: &Frame) -> Option<Place> {
        let frame = a.index;
        let number = |a: f64, b: f64, roi| Place { frame, roi, a: Value::Number(a), b: Value::Number(b) };
        let first = match &field.of {
            Of::Number(of) => {
                let (a, b) = (of(a), of(b));
                self.numbers(&[a], &[b], |_, a, b| number(a, b, None))
            }
            Of::Numbers(of) => self.numbers(of(a), of(b), |roi, a, b| number(a, b, Some(roi))),
            Of::Blocks(of) => self.numbers(of(a), of(b), |_, a, b| number(a, b, None)),
            Of::Flags(of) => {
                let (a, b) = (of(a), of(b));
                let roi = (0..a.len().max(b.len())).find(|&k| a.get(k) != b.get(k))?;
                let of = |flags: &[bool]| {
                    Value::Name(flags.get(roi).map_or_else(|| "absent".to_owned(), |&flag| yes(i64::from(flag))))
                };
                Some(Place { frame, roi: Some(roi as u32), a: of(a), b: of(b) })
            }
            Of::Code(of, called) => {
                let (a, b) = (of(a), of(b));
                let value = |code| Value::Name(called(code));
                (a != b).then(|| Place { frame, roi: None, a: value(a), b: value(b) })
            }
        }?;
        self.frames += 1;
        self.first.get_or_insert_with(|| first.clone());
        Some(first)
    }

    /// Compares numbers one by one; one that is not there is none.
    fn numbers<N: Copy + Into<f64>>(
        &mut self,
        a: &[N],
        b: &[N],
        place: impl Fn(u32, f64, f64) -> Place,
    ) -> Option<Place> {
        let (mut first, mut no_number) = (None, false);
        for k in 0..a.len().max(b.len()) {
            let of = |list: &[N]| list.get(k).map_or(f64::NAN, |&number| number.into());
            let (a, b) = (of(a), of(b));
            if a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan() {
                continue;
            }
            let here = place(k as u32, a, b);
            let difference = (a - b).abs();
            if difference.is_nan() {
                no_number = true;
            } else if self.largest.as_ref().is_none_or(|(largest, _)| difference > *largest) {
                self.largest = Some((difference, here.clone()));
            }
            first.get_or_insert(here);
        }
        self.one_is_no_number += u64::from(no_number);
        first
    }

    /// What was found, where the field differs at all.
    pub fn finish(self, field: &'static str) -> Option<FieldDifference> {
        let (frames, one_is_no_number) = (self.frames, self.one_is_no_number);
        let largest = self.largest.map(|(_, place)| place);
        self.first.map(|first| FieldDifference { field, frames, first, largest, one_is_no_number })
    }
}
