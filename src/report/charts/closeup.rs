//! One minute close up: trials, every cell, the cursor and the grating above one axis.

use maud::PreEscaped;

use super::super::data::{Outcome, SessionReport};
use super::super::digest::Digest;
use super::traces::Rows;
use super::{LEFT, Svg, TimeAxis, WIDTH, cursor, grating, motion, phase_bands, reward_lines};

const GAP: f64 = 34.0;

/// The figure; `None` where the stretch has neither cells nor a cursor.
pub(in super::super) fn closeup(report: &SessionReport, digest: &Digest) -> Option<PreEscaped<String>> {
    let rows = Rows::new(report, if report.traces.len() > 24 { 16.0 } else { 30.0 });
    let has_cursor = cursor::exists(report);
    if rows.is_none() && !has_cursor {
        return None;
    }
    let has_grating = grating::shares(report).iter().sum::<u64>() > 0;
    let axis = TimeAxis::new(digest.window_s);
    // Heights first: the canvas is cut to what there is.
    let strip = if report.trials.is_empty() { 2.0 } else { 22.0 };
    let cells_top = strip + 8.0;
    let first_row = cells_top + if rows.is_some() { 16.0 } else { 0.0 };
    let cells_bottom = rows.as_ref().map_or(cells_top, |r| first_row + r.height() + 4.0);
    let cursor_top = cells_bottom + if rows.is_some() { GAP } else { 14.0 };
    let cursor_bottom = if has_cursor { cursor_top + 130.0 } else { cells_bottom };
    let grating_top = cursor_bottom + GAP;
    let bottom = if has_grating { grating_top + 91.0 } else { cursor_bottom };
    let mut svg = Svg::new(WIDTH, bottom + 28.0, "One minute in detail");
    trial_strip(&mut svg, &axis, report);
    if let Some(rows) = &rows {
        phase_bands(&mut svg, &axis, digest, cells_top, cells_bottom);
        axis.grid(&mut svg, cells_top, cells_bottom);
        reward_lines(&mut svg, &axis, digest, cells_top, cells_bottom);
        rows.draw(&mut svg, &axis, report, first_row);
    }
    if has_cursor {
        svg.text("panel", LEFT, cursor_top - 8.0, "Cursor z, \u{394}F/F");
        cursor::panel(&mut svg, &axis, report, digest, (cursor_top, cursor_bottom));
        reward_lines(&mut svg, &axis, digest, cursor_top, cursor_bottom);
        motion::doubts(&mut svg, &axis, report, cursor_bottom - 7.0, cursor_bottom);
    }
    if has_grating {
        svg.text("panel", LEFT, grating_top - 8.0, "Grating on the screen");
        grating::panel(&mut svg, &axis, report, digest, (grating_top, bottom));
        reward_lines(&mut svg, &axis, digest, grating_top, bottom);
    }
    axis.labels(&mut svg, bottom);
    Some(svg.finish())
}

/// A bar for each trial, with its number where it fits.
fn trial_strip(svg: &mut Svg, axis: &TimeAxis, report: &SessionReport) {
    let finite = report.trials.iter().filter(|t| t.start_s.is_finite() && t.end_s.is_finite());
    for trial in finite.filter(|t| axis.shows(t.start_s, t.end_s)) {
        let (x, width) = axis.stretch(trial.start_s, trial.end_s);
        let (class, name) = match trial.outcome {
            Outcome::Hit => ("hit", "hit"),
            Outcome::Aversive => ("aversive", "aversive"),
            Outcome::Miss => ("miss", "miss"),
            Outcome::Open => ("open", "open"),
        };
        svg.titled_rect(
            &format!("strip strip-{class}"),
            [x, 2.0, width - 1.0, 18.0],
            &format!("trial {}: {name}", trial.number),
        );
        let long = format!("{} {name}", trial.number);
        let short = trial.number.to_string();
        let fitting = [long, short].into_iter().find(|t| 7.2 * t.len() as f64 + 6.0 <= width);
        if let Some(text) = fitting {
            svg.text(&format!("label mid label-{class}"), x + (width - 1.0) / 2.0, 15.0, &text);
        }
    }
    if !report.trials.is_empty() {
        svg.text("tick end", LEFT - 10.0, 15.0, "trial");
    }
}
