//! The report of a session, from its journal.
//!
//! In: the session's directory. Out: `report.html` in it, written beside and then renamed, so that a report is whole or
//! the one before. The mean image is the baseline's template from the last snapshot, or else the ROIs' own reference;
//! on the template the outlines lie where the masks were read, to the whole pixel.

use std::path::{Path, PathBuf};

use super::ExportError;
use super::csv::roi_count;
use super::gather::{Gathered, frame_rate_hz, gather};
use crate::config::{RigConfig, load_text};
use crate::decode::Ensembles;
use crate::frame::{Geometry, Image};
use crate::journal::{
    Percentiles, REPORT_FILE, STAND_IN, SYNTHETIC_ADAPTER, SessionFiles, Summary, engine_of, roi_set_of, wall_text,
};
use crate::proto::v1;
use crate::report::{
    FrameCounts, Plane, Provenance, Roi, RoiShape, Role, SessionReport, StageLatency, TemplateFit, Triggers, render,
};

/// ROIs whose traces are shown where there are no ensembles.
const TRACES_WITHOUT_ENSEMBLES: usize = 12;
/// What the adapter's name begins with when a recording is played.
const REPLAY_ADAPTER: &str = "apical replay ";

/// Writes the report of the session in `directory`; the report's path. A journal that breaks off gives a report of what
/// stands before, with a warning.
///
/// # Errors
/// There is no session, its head makes no sense, or the report cannot be written.
pub fn write_report(directory: &Path) -> Result<PathBuf, ExportError> {
    let html = render(&session_report(directory)?);
    let path = directory.join(REPORT_FILE);
    let beside = directory.join(format!(".{REPORT_FILE}.part"));
    std::fs::write(&beside, html).map_err(|e| {
        // Half a page is of no use to anybody; what can be done about the disk is not done here.
        let _ = std::fs::remove_file(&beside);
        ExportError::io(&beside)(e)
    })?;
    std::fs::rename(&beside, &path).map_err(ExportError::io(&path))?;
    Ok(path)
}

/// The mean image of a plane (of the first that was read, where none is named) of the session in `directory`, as its
/// report shows it, and by how many rows and columns the ROIs lie moved on it, in pixels. `None` where no pixels were
/// seen.
///
/// # Errors
/// There is no session, or its head makes no sense.
pub fn session_image(directory: &Path, plane: Option<u32>) -> Result<Option<(Image, [f64; 2])>, ExportError> {
    let report = session_report(directory)?;
    let shown = report.planes.into_iter().find(|shown| plane.is_none_or(|plane| plane == shown.number));
    let Some(Plane { mean_image, template, .. }) = shown else { return Ok(None) };
    let moved = template.map_or([0.0; 2], |fit| [f64::from(fit.dy_px), f64::from(fit.dx_px)]);
    Ok(mean_image.map(|image| (image, moved)))
}

/// The session in `directory` as the report shows it.
fn session_report(directory: &Path) -> Result<SessionReport, ExportError> {
    let files = SessionFiles::open(directory)?;
    let head = files.head()?;
    let config = load_text(&head.config_toml, &[])?;
    let count = roi_count(&head);
    let configured = Ensembles { plus: config.ensembles.plus.clone(), minus: config.ensembles.minus.clone() };
    let mut found = gather(&files, &head, &configured, &traced(&configured, count));
    if found.ensembles != configured {
        // Other cells were chosen on the way: their traces are wanted from the first frame on.
        let chosen = found.ensembles;
        found = gather(&files, &head, &configured, &traced(&chosen, count));
    }
    Ok(assemble(&files, &head, &config, found))
}

/// The ROIs whose activity is shown.
fn traced(ensembles: &Ensembles, roi_count: usize) -> Vec<(u32, Role)> {
    let of = |ids: &[u32], role| ids.iter().map(|&id| (id, role)).collect::<Vec<_>>();
    let mut rois = of(&ensembles.plus, Role::Plus);
    rois.extend(of(&ensembles.minus, Role::Minus));
    if rois.is_empty() {
        rois.extend((0..roi_count.min(TRACES_WITHOUT_ENSEMBLES) as u32).map(|id| (id, Role::Other)));
    }
    rois
}

fn assemble(files: &SessionFiles, head: &v1::SessionHead, config: &RigConfig, found: Gathered) -> SessionReport {
    let rate_hz = frame_rate_hz(head);
    let (rig, adapter) = match &head.stream {
        Some(v1::session_head::Stream::Pixels(header)) => (header.rig.as_str(), header.adapter.as_str()),
        Some(v1::session_head::Stream::RoiValues(header)) => (header.rig.as_str(), header.adapter.as_str()),
        None => ("", ""),
    };
    let geometry = match &head.stream {
        Some(v1::session_head::Stream::Pixels(h)) => Some(Geometry::new(h.height_px as usize, h.width_px as usize)),
        _ => None,
    };
    let role = |id: u32| match &found.ensembles {
        e if e.plus.contains(&id) => Role::Plus,
        e if e.minus.contains(&id) => Role::Minus,
        _ => Role::Other,
    };
    let mut planes = planes(config, &found);
    if let [only] = &mut planes[..]
        && only.mean_image.is_none()
    {
        only.mean_image = reference(head, geometry);
    }
    let name = |id: u32| match role(id) {
        Role::Plus => format!("P+ {id}"),
        Role::Minus => format!("P\u{2212} {id}"),
        Role::Other => format!("ROI {id}"),
    };
    let (latency, stages) = latencies(&found.summary);
    let c = &found.summary.counters;
    SessionReport {
        title: if config.task.is_some() { "Closed-loop session" } else { "Recording session" }.to_owned(),
        rig: if rig.is_empty() { config.rig.name.clone() } else { rig.to_owned() },
        session: head.session_id.clone(),
        started_wall: wall_text(head.started_unix_ns),
        duration_s: found.frames.last().map_or(0.0, |f| f.time_s + if rate_hz > 0.0 { 1.0 / rate_hz } else { 0.0 }),
        frame_rate_hz: rate_hz,
        provenance: provenance(files, head, config, adapter, &found),
        geometry,
        rois: rois(head, role, &planes),
        planes,
        target_deg: config.task.as_ref().map_or(90.0, |task| task.target_deg),
        triggers: Triggers {
            intended: c.rewards_intended,
            sent: c.rewards_sent,
            acknowledged: c.rewards_acknowledged,
            unknown: c.rewards_unknown,
            refused: c.rewards_limited,
            rewards_sent: c.rewards_sent,
            rewards_acknowledged: c.rewards_acknowledged,
            list: found.triggers,
        },
        frame_counts: FrameCounts {
            received: c.frames_in,
            decided: c.frames_decided,
            skipped: c.frames_skipped,
            refused: c.frames_refused,
        },
        latency,
        stages,
        latency_histogram: None,
        warnings: found.notes.sentences(&found.offsets, name),
        stand_in_learner: stand_in(adapter, config),
        frames: found.frames,
        traces: found.traces,
        calibration: found.calibration,
        trials: found.trials,
    }
}

/// The planes that were read, with the templates in the engine's last saved state.
fn planes(config: &RigConfig, found: &Gathered) -> Vec<Plane> {
    let engine = found.snapshot.as_ref().and_then(|(head, state)| {
        let mut engine = engine_of(head).ok()?;
        engine.load(state).ok()?;
        Some(engine)
    });
    let plane = |&number: &u32| {
        let trusted = found.offsets.get(&number).filter(|o| o.trusted);
        let fit = |o: &super::gather::Offset| TemplateFit {
            dy_px: o.dy_px as f32,
            dx_px: o.dx_px as f32,
            score: o.score as f32,
        };
        let mean_image = engine.as_ref().and_then(|engine| engine.template(number));
        Plane { number, mean_image, template: trusted.map(fit) }
    };
    config.stream.plane.as_slice().iter().map(plane).collect()
}

/// The image that the ROIs were drawn on, where pixels of that size were seen; a drawing of the masks is none.
fn reference(head: &v1::SessionHead, geometry: Option<Geometry>) -> Option<Image> {
    let set = head.rois.as_ref().filter(|set| !set.reference_rendered)?;
    let image = roi_set_of(set).reference?;
    (Some(image.geometry) == geometry && image.values.len() == image.geometry.count()).then_some(image)
}

/// All ROIs; those of integrated values have a number and no place.
fn rois(head: &v1::SessionHead, role: impl Fn(u32) -> Role, planes: &[Plane]) -> Vec<Roi> {
    let set = head.rois.as_ref().map(roi_set_of).unwrap_or_default();
    if set.rois.is_empty() {
        let nowhere = |id| Roi {
            id,
            name: String::new(),
            role: role(id),
            plane: 0,
            shape: RoiShape::Pixels(Vec::new()),
            centre_px: [f32::NAN; 2],
        };
        return (0..roi_count(head) as u32).map(nowhere).collect();
    }
    let moved =
        |at: u32, by: i64, size: usize| u32::try_from(i64::from(at) + by).ok().filter(|&at| (at as usize) < size);
    let shown = |roi: &crate::sample::Roi| {
        // Masks of one plane belong to the one that is read, whatever their file calls it.
        let plane = match planes {
            [only] => Some(only),
            several => several.iter().find(|plane| plane.number == roi.plane),
        };
        let fit = plane.filter(|plane| plane.mean_image.is_some()).and_then(|plane| plane.template);
        let (dy, dx) = fit.map_or((0, 0), |fit| (fit.dy_px.round() as i64, fit.dx_px.round() as i64));
        let (height, width) = (set.geometry.height_px, set.geometry.width_px);
        let pixels = roi.pixels.iter().filter_map(|p| Some([moved(p.row, dy, height)?, moved(p.col, dx, width)?]));
        let pixels: Vec<[u32; 2]> = pixels.collect();
        let mean = |k: usize| pixels.iter().map(|p| f64::from(p[k])).sum::<f64>() / pixels.len() as f64;
        let centre_px = [mean(0) as f32, mean(1) as f32];
        // A name that only repeats the number says nothing.
        let name = if roi.name == roi.id.to_string() { String::new() } else { roi.name.clone() };
        let plane = plane.map_or(roi.plane, |plane| plane.number);
        Roi { id: roi.id, name, role: role(roi.id), plane, centre_px, shape: RoiShape::Pixels(pixels) }
    };
    set.rois.iter().map(shown).collect()
}

fn latencies(summary: &Summary) -> (Option<StageLatency>, Vec<StageLatency>) {
    let measured = summary.latencies();
    let total = measured.first().filter(|(_, p)| p.n > 0).map(|(_, p)| stage_latency("last byte to decision", p));
    (total, measured.iter().skip(1).map(|(name, p)| stage_latency(name, p)).collect())
}

/// A row of a report's latencies.
pub fn stage_latency(name: &str, p: &Percentiles) -> StageLatency {
    let [p50_us, p99_us, p999_us, max_us] = [p.p50, p.p99, p.p999, p.max].map(|us| us.unwrap_or(f64::NAN));
    StageLatency { name: name.to_owned(), p50_us, p99_us, p999_us, max_us, count: p.n }
}

/// Said where no animal learned in front of this feedback.
fn stand_in(adapter: &str, config: &RigConfig) -> Option<String> {
    if adapter == SYNTHETIC_ADAPTER {
        let animal = &config.synthetic.animal;
        return Some(format!(
            "The animal is synthetic, and its learning is {STAND_IN}: each reward multiplies the event rate of the \
             P\u{2212} cells by {} (1 \u{2212} learning_rate, which is {}), down to a floor of {} of their first rate.",
            (1e6 * (1.0 - animal.learning_rate)).round() / 1e6,
            animal.learning_rate,
            animal.floor
        ));
    }
    adapter.starts_with(REPLAY_ADAPTER).then(|| {
        "A recording was played: the animal in it never saw this feedback, so that the outcomes are what would have \
         been."
            .to_owned()
    })
}

fn provenance(
    files: &SessionFiles,
    head: &v1::SessionHead,
    config: &RigConfig,
    adapter: &str,
    found: &Gathered,
) -> Provenance {
    let mut extra = Vec::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            extra.push((name.to_owned(), value));
        }
    };
    add("frames from", adapter.to_owned());
    let source = head.rois.as_ref().map_or("", |set| set.source.as_str());
    let from = if source.is_empty() { String::new() } else { format!(", from {source}") };
    add("ROIs", format!("{}{from}", roi_count(head)));
    add("baseline", format!("{} frames", config.baseline.frames));
    if let Some(task) = &config.task {
        add("trial", format!("at most {} frames", task.trial_frames));
    }
    if let Some(offset) = found.detector_offset_counts {
        add("detector offset", format!("{} counts", (1e3 * offset).round() / 1e3));
    }
    let segments = files.segments.len();
    add("journal", if segments == 1 { "1 segment".to_owned() } else { format!("{segments} segments") });
    Provenance {
        version: head.version.clone(),
        commit: head.commit.clone(),
        config_hash: head.config_sha256.clone(),
        seed: config.calibration.seed,
        extra,
    }
}
