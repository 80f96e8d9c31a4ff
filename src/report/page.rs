//! The page: a header with the session in one sentence and its key figures, then one section for each question.
//!
//! A section that the session cannot fill says so in one sentence, so that a reader knows that it was not forgotten.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::charts::{anatomy, calibration, closeup, cursor, grating, latency, motion, overview, traces};
use super::data::{Phase, Plane, Role, SessionReport};
use super::digest::Digest;
use super::{format, tables};

const STYLE: &str = include_str!("style.css");
/// More warnings than this are counted, not listed.
const MOST_WARNINGS: usize = 200;

/// Longer captions and notes.
const ANATOMY_CAPTION: &str = "Mean image, stretched between its 1st and 99.7th percentile, gamma 0.7. Outlines follow \
    the edges of the summed pixels.";
const CHANCE_NOTE: &str = "; the dotted line is the share of baseline segments that reached the threshold.";
const DENSE_TRACES_CAPTION: &str = "Line: mean of each drawn column; band: from its smallest to its largest sample, so \
    that no transient is lost. Each cell rests on its 20th percentile; peaks above 1.75 rows are cut.";
const TRACES_CAPTION: &str = "Each cell rests on its 20th percentile; peaks above 1.75 rows are cut.";
const DENSE_CURSOR_CAPTION: &str = "One sample in 5,000 on either side may lie beyond \
    the scale.";
const GRATING_CAPTION: &str = "Share of the frames with a grating on the screen. Orientations are drawn anticlockwise \
    from horizontal bars.";
const MAP_CAPTION: &str = "The stronger the tone, the larger the share of that orientation; empty where the screen \
    was grey or black.";
const CALIBRATION_CAPTION: &str = "x of the baseline's frames, and the normal curve of the mirrored lower half.";

/// Anchor, heading, and the section's content.
struct Section {
    anchor: &'static str,
    title: &'static str,
    body: Markup,
}

/// The whole document.
pub(super) fn document(report: &SessionReport) -> Markup {
    let digest = Digest::new(report);
    let mut sections = vec![
        anatomy_section(report),
        overview_section(report, &digest),
        closeup_section(report, &digest),
        traces_section(report, &digest),
        cursor_section(report, &digest),
        grating_section(report, &digest),
        calibration_section(report),
        motion_section(report, &digest),
        latency_section(report),
        records_section(report),
    ];
    if closeup_is_everything(report, &digest) {
        sections.retain(|s| s.anchor != "traces" && s.anchor != "cursor");
    }
    let title = if report.title.is_empty() { "Session" } else { &report.title };
    let body = html! {
        (head(report, &digest, title, &sections))
        main { @for s in &sections {
            section id=(s.anchor) { h2 { (s.title) } (s.body) }
        } }
        footer {
            (tables::software(report)) " made this file. It holds everything that it shows, loads nothing and "
            "runs no script. Rest the pointer on a trial, a bar or an outline to read its values."
        }
    };
    shell(&format!("{title} \u{b7} {}", report.session), &body)
}

/// A whole document in the report's style.
pub(super) fn shell(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content="apical";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
}

fn head(report: &SessionReport, digest: &Digest, title: &str, sections: &[Section]) -> Markup {
    let eyebrow: Vec<&str> = [&report.rig, &report.session, &report.started_wall]
        .into_iter()
        .map(String::as_str)
        .filter(|s| !s.is_empty())
        .collect();
    html! {
        header {
            p.eyebrow { (eyebrow.join("  \u{b7}  ")) }
            h1 { (title) }
            p.lead { (sentence(report, digest)) }
            @if let Some(note) = &report.stand_in_learner { p.notice { strong { "No animal learned here. " } (note) } }
            @if !report.warnings.is_empty() {
                p.notice {
                    strong { (format::plural(report.warnings.len(), "warning", "warnings")) ". " }
                    (format::shorten(&report.warnings[0], 240)) " "
                    @if report.warnings.len() > 1 { a href="#records" { "All warnings" } }
                }
            }
            (key_figures(report, digest))
            nav { @for s in sections { a href=(format!("#{}", s.anchor)) { (s.title) } } }
        }
    }
}

/// The session in one sentence.
fn sentence(report: &SessionReport, digest: &Digest) -> String {
    let n = |role| report.rois.iter().filter(|r| r.role == role).count();
    let (plus, minus) = (n(Role::Plus), n(Role::Minus));
    let no_image = report.planes.iter().all(|plane| plane.mean_image.is_none());
    if report.frames.is_empty() && report.trials.is_empty() && no_image {
        return "Nothing was recorded: no frame was decided and no trials were run.".to_owned();
    }
    let mut text = format::duration(report.duration_s);
    if report.frame_rate_hz.is_finite() && report.frame_rate_hz > 0.0 {
        text += &format!(" at {}\u{202f}Hz", format::trimmed(report.frame_rate_hz, 4));
    }
    if let Some(g) = report.geometry {
        text += &format!(", {} × {} pixels", g.height_px, g.width_px);
    }
    if plus + minus > 0 {
        text += &format!(", {} ({plus} P+, {minus} P\u{2212})", format::plural(plus + minus, "cell", "cells"));
    }
    let o = digest.outcomes;
    if report.trials.is_empty() {
        text += "; no trials were run.";
    } else {
        text += &format!(
            "; {}, of which {} ended in a hit",
            format::plural(report.trials.len(), "trial", "trials"),
            format::percent(o.hit, o.closed())
        );
        text += &match &report.calibration {
            Some(c) if c.chance_fraction.is_finite() => {
                format!("; {} of baseline segments reached the threshold.", format::percent_of(c.chance_fraction))
            }
            _ => ".".to_owned(),
        };
    }
    text
}

fn key_figures(report: &SessionReport, digest: &Digest) -> Markup {
    let o = digest.outcomes;
    let of = |n: u64| {
        if o.closed() == 0 {
            "none ended".to_owned()
        } else {
            format!("{} of {}", format::count(n), format::count(o.closed()))
        }
    };
    let missed =
        if o.closed() == 0 { String::new() } else { format!("; {} missed", format::percent(o.miss, o.closed())) };
    let trials_note = match (report.trials.len(), o.open) {
        (0, _) => "no task".to_owned(),
        (_, 0) => "all ended".to_owned(),
        (_, open) => format!("{} open at the end", format::count(open)),
    };
    let t = &report.triggers;
    let f = &report.frame_counts;
    let (median, tail) = match &report.latency {
        Some(s) => (
            format::latency(s.p50_us),
            format!("median; p99 {}, largest {}", format::latency(s.p99_us), format::latency(s.max_us)),
        ),
        None => (format::DASH.to_owned(), "not measured".to_owned()),
    };
    let lost = match (f.skipped, f.refused) {
        (0, 0) => "none skipped or refused".to_owned(),
        (s, r) => format!("{} skipped, {} refused", format::count(s), format::count(r)),
    };
    let figure = |colour: Option<&str>, name: &str, value: &str, note: &str| {
        html! { div {
            dt { @if let Some(c) = colour { i class=(c) {} } (name) }
            dd.value { (value) }
            dd.note { (note) }
        } }
    };
    let n = |k: usize| format::count(k as u64);
    let fraction = |k: u64| format::percent(k, o.closed());
    let minutes = (report.duration_s / 60.0).max(1e-9);
    let rate = format::fixed(t.rewards_sent as f64 / minutes, 1);
    let rewards_note = format!("{} acknowledged; {rate} a minute", format::count(t.rewards_acknowledged));
    let frames_note = format!("of {}; {lost}", format::count(f.received));
    html! {
        dl.figures {
            (figure(None, "Trials", &n(report.trials.len()), &trials_note))
            (figure(Some("b-hit"), "Hits", &fraction(o.hit), &of(o.hit)))
            (figure(Some("b-aversive"), "Aversive ends", &fraction(o.aversive), &format!("{}{missed}", of(o.aversive))))
            (figure(None, "Rewards sent", &format::count(t.rewards_sent), &rewards_note))
            (figure(None, "Frames decided", &format::count(f.decided), &frames_note))
            (figure(None, "Latency", &median, &tail))
        }
    }
}

/// A figure with what the eye should know below it.
pub(super) fn figure(picture: PreEscaped<String>, caption: &str) -> Markup {
    html! { figure { (picture) @if !caption.is_empty() { figcaption { (caption) } } } }
}

fn legend(entries: &[(&str, &str)]) -> Markup {
    html! { ul.legend { @for (class, name) in entries { li { i class=(class) {} (name) } } } }
}

/// How a plane's template lies.
fn template_sentence(plane: &Plane, several: bool) -> String {
    let the = if several { "its" } else { "The session's" };
    match &plane.template {
        Some(t) => format!(
            "{the} template lies {} rows and {} columns from the reference of the ROIs, with a score of {}; the masks \
             were moved by as much.",
            format::signed(f64::from(t.dy_px), 2),
            format::signed(f64::from(t.dx_px), 2),
            format::fixed(f64::from(t.score), 2)
        ),
        None if several => "the masks were used where they were drawn.".to_owned(),
        None => "The masks were used where they were drawn.".to_owned(),
    }
}

fn anatomy_section(report: &SessionReport) -> Section {
    let pictures: Vec<_> =
        report.planes.iter().filter_map(|plane| Some((plane, anatomy::anatomy(report, plane)?))).collect();
    let several = report.planes.len() > 1;
    let body = match pictures.is_empty() {
        true => html! { p { "No pixels were recorded, so there is no image to show." } },
        false => html! {
            @for (plane, _) in &pictures {
                p.say {
                    @if several { "Plane " (plane.number) ": " }
                    (template_sentence(plane, several))
                }
            }
            div.side {
                div {
                    @for (plane, picture) in &pictures {
                        @if several { h3 { "Plane " (plane.number) } }
                        (figure(picture.clone(), if plane.mean_image.is_some() { ANATOMY_CAPTION } else { "" }))
                    }
                }
                div {
                    (legend(&[
                        ("b-plus", "P+: turns the grating to the target"),
                        ("b-minus", "P\u{2212}: turns it away"),
                        ("b-other", "other"),
                    ]))
                    div.space {}
                    (tables::rois(report))
                }
            }
        },
    };
    Section { anchor: "anatomy", title: "Where the cells are", body }
}

fn overview_section(report: &SessionReport, digest: &Digest) -> Section {
    let o = digest.outcomes;
    let body = if report.trials.is_empty() {
        html! { p { "No task was run in this session, so there are no trials to show." } }
    } else {
        html! {
            p.say {
                (format::percent(o.hit, o.closed())) " of the trials that ended were hits, "
                (format::percent(o.aversive, o.closed())) " aversive ends and "
                (format::percent(o.miss, o.closed())) " misses."
            }
            (figure(overview::overview(report, digest), &format!(
                "Each mark is one trial, as wide as it lasted. The fractions look back over up to {} trials{}",
                overview::look_back(o.closed()),
                if report.calibration.is_some() { CHANCE_NOTE } else { "." }
            )))
            (legend(&[
                ("b-hit", "hit, and its reward"),
                ("b-miss", "miss"),
                ("b-aversive", "aversive end"),
                ("b-baseline", "baseline"),
            ]))
        }
    };
    Section { anchor: "overview", title: "The session at a glance", body }
}

/// Whether the close-up shows the whole session, so that showing its traces and its cursor again would add nothing.
fn closeup_is_everything(report: &SessionReport, digest: &Digest) -> bool {
    !digest.has_close_up() && closeup::closeup(report, digest).is_some()
}

/// Only what this session has is explained.
fn phases_legend(digest: &Digest, with_doubts: bool) -> Markup {
    let has = |phases: &[Phase]| digest.runs.iter().any(|r| phases.contains(&r.phase));
    let entries = [
        (!digest.rewards_s.is_empty(), ("rule c-hit", "reward")),
        (has(&[Phase::Start, Phase::Iti]), ("b-rest", "grey start and ITI")),
        (has(&[Phase::HitHold]), ("b-hit-band", "held at the target")),
        (has(&[Phase::AversiveHold]), ("b-aversive-band", "held at the far end")),
        (has(&[Phase::Paused]), ("b-paused", "paused")),
        (has(&[Phase::Baseline]), ("b-baseline", "baseline")),
        (with_doubts && digest.doubted > 0, ("rule c-caution", "doubted frame, at the foot of the cursor")),
    ];
    let present: Vec<_> = entries.into_iter().filter(|e| e.0).map(|e| e.1).collect();
    html! { @if !present.is_empty() { (legend(&present)) } }
}

fn closeup_section(report: &SessionReport, digest: &Digest) -> Section {
    let body = match closeup::closeup(report, digest) {
        None => html! { p { "Neither cells nor a cursor were recorded, so there is nothing to look at closely." } },
        Some(picture) => html! {
            p.say {
                @if digest.has_close_up() {
                    "From " (format::clock(digest.window_s.0)) " to " (format::clock(digest.window_s.1))
                    @if report.trials.is_empty() { ", around the highest cursor." }
                    @else { ", chosen because it holds most kinds of outcome." }
                } @else {
                    "The session is short enough to be seen whole. The cursor z is the mean \u{394}F/F of P+ minus "
                    "that "
                    "of P\u{2212}, smoothed, above the lowest value of the baseline."
                }
            }
            (figure(picture, if digest.has_close_up() { "" } else { TRACES_CAPTION }))
            (phases_legend(digest, true))
        },
    };
    let title = if digest.has_close_up() { "One minute in detail" } else { "The session in detail" };
    Section { anchor: "closeup", title, body }
}

fn traces_section(report: &SessionReport, digest: &Digest) -> Section {
    let body = match traces::traces(report, digest) {
        None => html! { p { "No activity of ensemble cells was recorded." } },
        Some(picture) => html! {
            p.say {
                "Every cell of the ensemble on one scale, " strong.c-plus { "P+" } " above "
                strong.c-minus { "P\u{2212}" } "."
            }
            (figure(picture, if digest.has_close_up() {
                DENSE_TRACES_CAPTION
            } else {
                TRACES_CAPTION
            }))
            (phases_legend(digest, false))
            @if report.traces.len() > traces::MOST_TRACES {
                p { "The first " (traces::MOST_TRACES) " of " (report.traces.len()) " traces." }
            }
        },
    };
    Section { anchor: "traces", title: "Activity of the ensemble", body }
}

fn cursor_section(report: &SessionReport, digest: &Digest) -> Section {
    let body = match cursor::cursor(report, digest) {
        None => html! { p { "No cursor was decoded in this session." } },
        Some(picture) => html! {
            p.say {
                "The cursor z is the mean \u{394}F/F of P+ minus that of P\u{2212}, smoothed, above the "
                "lowest value of the baseline."
                @if cursor::target(report).is_some() {
                    " A trial is a hit at the threshold and ends aversively below the range."
                }
            }
            (figure(picture, if digest.has_close_up() { DENSE_CURSOR_CAPTION } else { "" }))
            @if digest.has_close_up() {
                (legend(&[("b-range", "smallest to largest"), ("rule c-ink", "mean of the column")]))
            }
        },
    };
    Section { anchor: "cursor", title: "The cursor between its limits", body }
}

fn grating_section(report: &SessionReport, digest: &Digest) -> Section {
    let body = match grating::orientation(report, digest) {
        None => html! { p { "No grating was shown in this session." } },
        Some(picture) => html! {
            p.say { "The screen shows one of seven orientations, from 90° away from the target to the target itself." }
            (figure(grating::key(report), GRATING_CAPTION))
            @if !closeup_is_everything(report, digest) {
                h3 { "Over the session" }
                (figure(picture, if digest.has_close_up() { MAP_CAPTION } else { "" }))
            }
        },
    };
    Section { anchor: "grating", title: "What was on the screen", body }
}

fn calibration_section(report: &SessionReport) -> Section {
    let body = match &report.calibration {
        None => html! { p { "No calibration was made from a baseline." } },
        Some(c) => html! {
            @match calibration::distribution(c) {
                Some(picture) => { (figure(picture, CALIBRATION_CAPTION)) }
                None => { p { "The baseline's x was not kept; its calibration was:" } }
            }
            div.space {}
            (tables::calibration(c))
        },
    };
    Section { anchor: "calibration", title: "Calibration from the baseline", body }
}

fn motion_section(report: &SessionReport, digest: &Digest) -> Section {
    let body = match motion::motion(report, digest) {
        None => html! { p { "Frames were not registered in this session." } },
        Some(picture) => html! {
            p.say {
                (format::count(digest.doubted)) " of " (format::count(report.frames.len() as u64)) " decided frames ("
                (format::percent(digest.doubted, report.frames.len() as u64)) ") were doubted. "
                "They hold the cursor and end no trial as hit or aversive."
            }
            (figure(picture, ""))
            @if digest.doubted > 0 { (legend(&[("rule c-caution", "doubted frame")])) }
        },
    };
    Section { anchor: "motion", title: "Motion of the brain", body }
}

fn latency_section(report: &SessionReport) -> Section {
    let period_us = 1e6 / report.frame_rate_hz;
    let is_paced = period_us.is_finite() && period_us > 0.0;
    let body = match (latency::chart(report), &report.latency) {
        (None, None) if report.stages.is_empty() => html! { p { "Latency was not measured." } },
        (picture, summary) => html! {
            @if let Some(s) = summary.as_ref().filter(|s| is_paced && s.p50_us.is_finite()) {
                p.say {
                    "A frame comes every " (format::latency(period_us)) ". Of this the decision took "
                    (format::percent_of(s.p50_us / period_us)) " in the median"
                    @if s.p999_us.is_finite() { ", " (format::percent_of(s.p999_us / period_us)) " at p99.9" }
                    " and " (format::percent_of(s.max_us / period_us)) " at most."
                }
            }
            @if let Some(picture) = picture { (figure(picture, "")) }
            div.space {}
            (tables::stages(report))
        },
    };
    Section { anchor: "latency", title: "Latency", body }
}

fn records_section(report: &SessionReport) -> Section {
    let listed = report.warnings.len().min(MOST_WARNINGS);
    let body = html! {
        h3 { "Warnings" }
        @if report.warnings.is_empty() { p { "None." } } @else {
            ul.warnings { @for w in &report.warnings[..listed] { li { (format::shorten(w, 600)) } } }
            @if report.warnings.len() > listed {
                p { "And " (report.warnings.len() - listed) " more; the journal has all." }
            }
        }
        h3 { "Triggers" }
        (tables::triggers(report))
        h3 { "Trials" }
        @if report.trials.is_empty() { p { "None." } } @else { (tables::trials(report)) }
        h3 { "Provenance" }
        (tables::provenance(report))
    };
    Section { anchor: "records", title: "Records", body }
}
