//! The tables of the page: ROIs, calibration, latency, trials, triggers, provenance.

use maud::{Markup, html};

use super::charts::{quantile_of, role_class, role_name};
use super::data::{Calibration, Outcome, RewardFate, Roi, RoiShape, Role, SessionReport, StageLatency, TriggerFate};
use super::format;

/// Longer tables are cut, and say so: the journal has everything.
const MOST_ROWS: usize = 2000;

/// The ensemble's ROIs beside the mean image.
pub(super) fn rois(report: &SessionReport) -> Markup {
    let mut ensemble: Vec<_> = report.rois.iter().filter(|r| r.role != Role::Other).collect();
    ensemble.sort_by_key(|r| (r.role == Role::Minus, r.id));
    let named = ensemble.iter().any(|r| !r.name.is_empty());
    let others = report.rois.len() - ensemble.len();
    let shown = ensemble.len().min(40);
    let peak = |id: u32| {
        let trace = report.traces.iter().find(|t| t.roi_id == id)?;
        quantile_of(&trace.dff, 0.99)
    };
    let peak =
        |id| peak(id).map_or_else(|| format::DASH.to_owned(), |p| format!("{}\u{202f}%", format::fixed(p * 100.0, 0)));
    let centre = |v: f32| format::fixed(f64::from(v), 0);
    let pixels = |roi: &Roi| match &roi.shape {
        RoiShape::Pixels(p) => format::count(p.len() as u64),
        RoiShape::Outline(_) => "outline".to_owned(),
    };
    html! {
        table {
            thead { tr {
                th { "ROI" }
                @if named { th { "name" } }
                th.n { "pixels" } th.n { "row, column" }
                th.n title="99th percentile of dF/F over the session" { "ΔF/F, 99th pct" }
            } }
            tbody {
                @for roi in &ensemble[..shown] {
                    tr {
                        td { span class=(format!("c-{}", role_class(roi.role))) {
                            span.dot {} (role_name(roi.role)) " " (roi.id)
                        } }
                        @if named { td { (format::shorten(&roi.name, 40)) } }
                        td.n { (pixels(roi)) }
                        td.n { (centre(roi.centre_px[0])) ", " (centre(roi.centre_px[1])) }
                        td.n { (peak(roi.id)) }
                    }
                }
            }
        }
        @if ensemble.len() > shown {
            p.more { "And " (format::plural(ensemble.len() - shown, "more ROI", "more ROIs")) " in the ensemble." }
        }
        @if others > 0 {
            p.more { (format::plural(others, "other ROI", "other ROIs")) " recorded but not part of the cursor." }
        }
    }
}

/// What the calibration took from the baseline.
pub(super) fn calibration(c: &Calibration) -> Markup {
    let rows = [
        ("range low", format::fixed(c.range_low, 3), "lowest x of the baseline: rotation 0°"),
        ("threshold T", format::fixed(c.threshold, 3), "x at which the target is reached: rotation 90°"),
        ("T − range low", format::fixed(c.threshold - c.range_low, 3), "the cursor's way to the target"),
        (
            "μ, σ of the lower half",
            format!("{}, {}", format::fixed(c.mu_half, 3), format::fixed(c.sigma_half, 3)),
            "normal fitted to the mirrored lower half of x",
        ),
        ("difficulty z", format::fixed(c.z_half, 2), "(T − μ) / σ"),
        ("chance", format::percent_of(c.chance_fraction), "baseline segments that reach T by themselves"),
    ];
    html! {
        table { tbody {
            @for (name, value, meaning) in rows { tr { th { (name) } td.n { (value) } td.meaning { (meaning) } } }
        } }
    }
}

/// Latency of the whole and of each stage.
pub(super) fn stages(report: &SessionReport) -> Markup {
    latencies(&report.stages, report.latency.as_slice())
}

/// Latencies, a row each; the last ones stand out.
pub(super) fn latencies(stages: &[StageLatency], whole: &[StageLatency]) -> Markup {
    let row = |s: &StageLatency, strong: bool| {
        html! { tr {
            th { @if strong { strong { (format::shorten(&s.name, 60)) } } @else { (format::shorten(&s.name, 60)) } }
            td.n { (format::latency(s.p50_us)) } td.n { (format::latency(s.p99_us)) }
            td.n { (format::latency(s.p999_us)) } td.n { (format::latency(s.max_us)) } td.n { (format::count(s.count)) }
        } }
    };
    html! {
        table {
            (header(&["stage", ">median", ">p99", ">p99.9", ">largest", ">frames"]))
            tbody {
                @for stage in stages.iter().take(64) { (row(stage, false)) }
                @for whole in whole { (row(whole, true)) }
            }
        }
    }
}

/// A table's head; a column whose name begins with `>` holds numbers.
fn header(columns: &[&str]) -> Markup {
    html! {
        thead { tr { @for column in columns {
            @match column.strip_prefix('>') {
                Some(number) => { th.n { (number) } }
                None => { th { (column) } }
            }
        } } }
    }
}

fn cut(rows: usize) -> Markup {
    html! {
        @if rows > MOST_ROWS {
            p {
                "The first " (format::count(MOST_ROWS as u64)) " of " (format::count(rows as u64))
                " rows; the journal has all."
            }
        }
    }
}

/// All trials, folded away.
pub(super) fn trials(report: &SessionReport) -> Markup {
    let outcome = |o| match o {
        Outcome::Hit => ("c-hit", "hit"),
        Outcome::Aversive => ("c-aversive", "aversive"),
        Outcome::Miss => ("c-miss", "miss"),
        Outcome::Open => ("c-miss", "open at the end"),
    };
    let reward = |r| match r {
        RewardFate::None => "",
        RewardFate::Sent => "sent",
        RewardFate::Acknowledged => "acknowledged",
        RewardFate::Unknown => "sent, no answer",
        RewardFate::Refused => "refused by the limits",
        RewardFate::Failed => "failed",
    };
    html! {
        details {
            summary { (format::plural(report.trials.len(), "trial", "trials")) }
            div.scroll { table {
                (header(&[">trial", ">starts", ">lasts", ">frames", "outcome", "reward"]))
                tbody { @for t in report.trials.iter().take(MOST_ROWS) {
                    tr {
                        td.n { (t.number) }
                        td.n { (format::clock(t.start_s)) }
                        td.n { (format::duration(t.end_s - t.start_s)) }
                        td.n { (t.start_frame) "\u{2013}" (t.end_frame) }
                        td { span class=(outcome(t.outcome).0) { span.dot {} (outcome(t.outcome).1) } }
                        td { (reward(t.reward)) }
                    }
                } }
            } (cut(report.trials.len())) }
        }
    }
}

/// Counts of triggers, and all of them, folded away.
pub(super) fn triggers(report: &SessionReport) -> Markup {
    let t = &report.triggers;
    let fate = |f| match f {
        TriggerFate::Sent => "sent",
        TriggerFate::Acknowledged => "acknowledged",
        TriggerFate::Unknown => "sent, no answer",
        TriggerFate::Refused => "refused by the limits",
        TriggerFate::Failed => "failed",
    };
    html! {
        table.even {
            (header(&[">intended", ">sent", ">acknowledged", ">never answered", ">refused by the limits"]))
            tbody { tr {
                @for n in [t.intended, t.sent, t.acknowledged, t.unknown, t.refused] { td.n { (format::count(n)) } }
            } }
        }
        @if !t.list.is_empty() {
            details {
                summary { (format::plural(t.list.len(), "trigger", "triggers")) }
                div.scroll { table {
                    (header(&["id", ">time", ">frame", "output", ">pulse", "fate", "note"]))
                    tbody { @for row in t.list.iter().take(MOST_ROWS) {
                        tr {
                            td { (format::shorten(&row.id, 40)) }
                            td.n { (format::clock(row.time_s)) }
                            td.n { (row.frame) }
                            td { (format::shorten(&row.output, 40)) }
                            td.n { (format::trimmed(row.pulse_width_ms, 3)) "\u{202f}ms" }
                            td { span.c-caution[is_trouble(row.fate)] { (fate(row.fate)) } }
                            td { (format::shorten(&row.note, 200)) }
                        }
                    } }
                } (cut(t.list.len())) }
            }
        }
    }
}

/// A text of the session, or a dash where there is none.
fn or_dash(text: &str) -> String {
    format::shorten(if text.is_empty() { format::DASH } else { text }, 400)
}

/// The software with its version, where that is known.
pub(super) fn software(report: &SessionReport) -> String {
    format!("apical {}", report.provenance.version).trim_end().to_owned()
}

/// What made the session.
pub(super) fn provenance(report: &SessionReport) -> Markup {
    let p = &report.provenance;
    let geometry = report.geometry.map_or_else(
        || format::DASH.to_owned(),
        |g| {
            let rate = format::trimmed(report.frame_rate_hz, 4);
            format!("{} rows × {} columns at {rate} Hz", g.height_px, g.width_px)
        },
    );
    let rows = [
        ("session", report.session.clone()),
        ("rig", report.rig.clone()),
        ("started", report.started_wall.clone()),
        ("frames", geometry),
        ("software", software(report)),
        ("commit", p.commit.clone()),
        ("configuration", p.config_hash.clone()),
        ("seed", p.seed.to_string()),
    ];
    let extra = p.extra.iter().map(|(n, v)| (n.as_str(), v));
    html! {
        table { tbody {
            @for (name, value) in rows.iter().map(|(n, v)| (*n, v)).chain(extra) {
                tr {
                    th.key { (format::shorten(name, 60)) }
                    td { code { (or_dash(value)) } }
                }
            }
        } }
    }
}

/// Whether nothing was given although it was wanted.
fn is_trouble(fate: TriggerFate) -> bool {
    matches!(fate, TriggerFate::Refused | TriggerFate::Failed)
}
