//! `apical diff`: where two sessions differ first, in which stage, and by how much.

use std::path::PathBuf;

use clap::Args;

use super::page::{Page, plural};
use super::{Outcome, print_json, print_text};
use crate::journal::diff::{FieldDifference, KeyDifference, Lacking, Place, Side, Value};
use crate::journal::{Comparison, SessionFiles, diff};

/// Arguments of `apical diff`.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// A session's directory.
    a: PathBuf,
    /// Another's.
    b: PathBuf,
}

/// Characters of a value of the configuration that are printed.
const VALUE_CHARS: usize = 32;

/// Runs the command.
pub(super) fn run(args: &DiffArgs, json: bool) -> anyhow::Result<Outcome> {
    let found = diff(&SessionFiles::open(&args.a)?, &SessionFiles::open(&args.b)?)?;
    if json {
        print_json(&found)?;
    } else {
        print_text(page_of(&found).text())?;
    }
    Ok(if found.equal { Outcome::Good } else { Outcome::Bad })
}

fn page_of(c: &Comparison) -> Page {
    let mut page = Page::default();
    side(&mut page, "A", &c.a);
    side(&mut page, "B", &c.b);
    page.line("frames", format!("{} in both", c.frames_compared));
    lacking(&mut page, "A", &c.only_in_a);
    lacking(&mut page, "B", &c.only_in_b);
    page.plain("");
    match &c.first {
        None => page.line("first", "no frame that both have differs in any stage"),
        Some(first) => {
            page.line("first", format!("frame {}, {}: {}", first.place.frame, first.stage, first.field));
            page.line("", values(&first.place));
        }
    }
    page.plain("");
    stages(&mut page, c);
    page.plain("");
    keys(&mut page, "settings", &c.configuration);
    keys(&mut page, "recording", &c.heads);
    page.list("ROIs", &c.rois, |r| match r.roi {
        Some(roi) => format!("{roi}: {}", r.what),
        None => r.what.clone(),
    });
    if c.rois.is_empty() {
        page.line("ROIs", "the same");
    }
    outcomes(&mut page, c);
    page.plain("");
    page.line("verdict", if c.equal { "equal" } else { "DIFFERENT" });
    page
}

fn side(page: &mut Page, label: &str, side: &Side) {
    let segments = format!("{} segment{}", side.segments, plural(side.segments.into()));
    page.line(label, format!("{}   {}, {segments}, {} frames", side.session_id, side.directory.display(), side.frames));
    for d in &side.damage {
        let what = if d.unfinished { "not closed" } else { "DAMAGED" };
        page.line("", format!("{what}: {}: {}", d.file, d.what));
    }
}

fn lacking(page: &mut Page, who: &str, lacking: &Lacking) {
    if lacking.frames == 0 {
        return;
    }
    let runs: Vec<String> = lacking
        .first
        .iter()
        .map(|run| match run.frames {
            1 => run.first_frame.to_string(),
            n => format!("{} .. {}", run.first_frame, run.first_frame.saturating_add(n - 1)),
        })
        .collect();
    page.line("", format!("{} in {who} alone, in {} run{}:", lacking.frames, lacking.runs, plural(lacking.runs)));
    page.words("", &runs);
}

fn values(place: &Place) -> String {
    let roi = place.roi.map_or(String::new(), |roi| format!("ROI {roi}: "));
    match (&place.a, &place.b) {
        (Value::Number(a), Value::Number(b)) if (a - b).is_finite() => {
            format!("{roi}{a} in A, {b} in B, apart by {}", short((a - b).abs()))
        }
        (a, b) => format!("{roi}{a} in A, {b} in B"),
    }
}

/// A number with four digits.
fn short(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e6).contains(&value) { format!("{value:.3e}") } else { format!("{value:.4}") }
}

fn stages(page: &mut Page, c: &Comparison) {
    page.plain(format!("{:<34} {:>9} {:>9}   largest difference", "stage", "frames", "first"));
    for stage in &c.stages {
        let first = stage.first_frame.map_or_else(|| "-".to_owned(), |frame| frame.to_string());
        page.plain(format!("{:<34} {:>9} {first:>9}", stage.stage, stage.frames));
        stage.fields.iter().for_each(|field| page.plain(told(field)));
    }
}

fn told(field: &FieldDifference) -> String {
    let place = |p: &Place| {
        let roi = p.roi.map_or(String::new(), |roi| format!(", ROI {roi}"));
        format!("at frame {}{roi}", p.frame)
    };
    let largest = match &field.largest {
        Some(p) => match (&p.a, &p.b) {
            (Value::Number(a), Value::Number(b)) => format!("{} {}", short((a - b).abs()), place(p)),
            _ => String::new(),
        },
        None if field.one_is_no_number > 0 => "only one is a number".to_owned(),
        None => format!("{} / {}", field.first.a, field.first.b),
    };
    format!("  {:<32} {:>9} {:>9}   {largest}", field.field, field.frames, field.first.frame)
}

fn keys(page: &mut Page, label: &str, keys: &[KeyDifference]) {
    let value = |value: &Option<String>| match value {
        None => "absent".to_owned(),
        Some(text) if text.chars().count() > VALUE_CHARS => {
            format!("{}..", text.chars().take(VALUE_CHARS - 2).collect::<String>())
        }
        Some(text) => text.clone(),
    };
    page.list(label, keys, |key| {
        let note = if key.counts { "" } else { "  (does not count)" };
        format!("{}  {} in A, {} in B{note}", key.key, value(&key.a), value(&key.b))
    });
    if keys.is_empty() {
        page.line(label, "the same");
    }
}

fn outcomes(page: &mut Page, c: &Comparison) {
    page.plain(format!("{:<34} {:>9} {:>9}", "outcomes", "A", "B"));
    for ((name, a), (_, b)) in c.a.counters.named().into_iter().zip(c.b.counters.named()) {
        let mark = if a == b { "" } else { "  differs" };
        page.plain(format!("  {:<32} {a:>9} {b:>9}{mark}", name.replace('_', " ")));
    }
}
