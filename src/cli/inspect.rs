//! `apical inspect`: what a session's directory holds, and where it is not whole.

use std::path::PathBuf;

use clap::Args;

use super::page::{LISTED, Page, plural};
use super::{Outcome, print_json, print_text};
use crate::journal::inspect::{DriftSeen, Gap, GapKind, Rate};
use crate::journal::{Counters, DamageFound, Inspection, Segment, SessionFiles, inspect, wall_text};

/// Arguments of `apical inspect`.
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The session's directory.
    directory: PathBuf,
}

/// Outcomes of trials in a row of text.
const OUTCOMES_IN_ROW: usize = 80;

/// Runs the command.
pub(super) fn run(args: &InspectArgs, json: bool) -> anyhow::Result<Outcome> {
    let found = inspect(&SessionFiles::open(&args.directory)?);
    if json {
        print_json(&found)?;
    } else {
        print_text(page_of(&found).text())?;
    }
    Ok(if found.whole { Outcome::Good } else { Outcome::Bad })
}

fn page_of(found: &Inspection) -> Page {
    let mut page = Page::default();
    let name = if found.session_id.is_empty() { "(no head)" } else { &found.session_id };
    let count = found.segments.len();
    page.line("session", format!("{name}   {}", found.directory.display()));
    let state = match (found.whole, found.damage.is_empty()) {
        (true, true) => "whole",
        (true, false) => "not closed: a crash, or it still runs",
        (false, _) => "DAMAGED",
    };
    page.line("", format!("{count} segment{}, {}, {state}", plural(count as u64), size(found.bytes)));
    damage(&mut page, &found.damage);
    if count > 1 {
        page.plain("\nall segments");
        counters(&mut page, &found.counters, "");
    }
    found.segments.iter().for_each(|s| segment(&mut page, s));
    page
}

fn damage(page: &mut Page, damage: &[DamageFound]) {
    let mut label = "damage";
    for d in damage {
        page.line(label, format!("{}: {}", d.file, d.what));
        label = "";
        if d.unfinished {
            page.line("", "what was synced before that is all there");
        }
    }
}

fn segment(page: &mut Page, s: &Segment) {
    page.plain("");
    let ended = if s.ended { "ended" } else { "not ended" };
    let began = wall_text(s.started_unix_ns);
    page.plain(format!(
        "segment {}  {began}  {}  {}, {} messages, {ended}",
        s.segment,
        s.file,
        size(s.bytes),
        s.messages
    ));
    let short = |text: &str| text.chars().take(12).collect::<String>();
    let (commit, config) = (short(&s.commit), short(&s.config_sha256));
    page.line("software", format!("apical {}, commit {commit}; configuration {config}", s.version));
    page.line("stream", stream(s));
    inputs(page, s);
    counters(page, &s.counters, &frames_of(s));
    let (device, host) = (s.duration_device_s, s.duration_host_s);
    page.line("duration", format!("{device:.3} s by the microscope, {host:.3} s by the host"));
    rate(page, "rate", "scanned", s.rate_device.as_ref());
    rate(page, "", "arrived", s.rate_host.as_ref());
    gaps(page, s);
    baselines(page, s);
    trials(page, s);
    rewards(page, s);
    let snapshots = &s.snapshots;
    let after: Vec<String> = snapshots.inputs.iter().map(u64::to_string).collect();
    let inputs = if after.is_empty() { String::new() } else { format!(", after inputs {}", shortened(&after)) };
    page.line("snapshots", format!("{}, {}{inputs}", snapshots.count, size(snapshots.bytes)));
    health(page, s);
    let operator = |who: &str| if who.is_empty() { "?".to_owned() } else { who.to_owned() };
    page.list("commands", &s.commands, |c| {
        format!("frame {:>7}  {:<12}  {}: {}", c.frame, operator(&c.operator), c.command, c.outcome)
    });
    page.list("warnings", &s.warnings, String::clone);
    let kinds: Vec<String> = s.events.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    page.words("events", &kinds);
    latencies(page, s);
}

fn health(page: &mut Page, s: &Segment) {
    let h = &s.health;
    if h.samples == 0 {
        return;
    }
    let mut said = vec![format!("the disk at most {:.0} ms behind", h.durable_lag_max_ns as f64 / 1e6)];
    if h.resident_bytes_max > 0 {
        said.push(format!("{} of memory", size(h.resident_bytes_max)));
    }
    if h.pixels_dropped > 0 {
        said.push(format!("pixels of {} frames not kept", h.pixels_dropped));
    }
    if h.records_lost > 0 {
        said.push(format!("{} records lost", h.records_lost));
    }
    page.line("record", said.join(", "));
}

fn stream(s: &Segment) -> String {
    let i = &s.stream;
    let adapter = if i.adapter.is_empty() { "adapter not named" } else { &i.adapter };
    let rate = if i.frame_rate_hz > 0.0 { format!("{} Hz", i.frame_rate_hz) } else { "rate not said".to_owned() };
    match i.kind {
        "pixels" => {
            let planes = if i.planes > 1 { format!(", {} planes", i.planes) } else { String::new() };
            let (h, w, pixel) = (i.height_px, i.width_px, &i.pixel_type);
            format!("{h} x {w} {pixel}{planes}, {rate}, {} ROIs; {adapter}", i.rois)
        }
        kind => format!("{kind}, {rate}, {} ROIs; {adapter}", i.rois),
    }
}

fn inputs(page: &mut Page, s: &Segment) {
    let i = &s.inputs;
    let (Some(first), Some(last)) = (i.first, i.last) else { return page.line("inputs", "none") };
    let kinds: Vec<String> = i.kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    page.line("inputs", format!("{first} .. {last}: {}", kinds.join(", ")));
}

fn frames_of(s: &Segment) -> String {
    match (s.first_frame, s.last_frame) {
        (Some(first), Some(last)) => format!("; indices {first} .. {last}"),
        _ => String::new(),
    }
}

fn counters(page: &mut Page, c: &Counters, more: &str) {
    let (decided, doubted) = (c.frames_decided, c.frames_doubted);
    let lost = format!("{} skipped, {} refused", c.frames_skipped, c.frames_refused);
    let gathered = match c.frames_gathered {
        0 => String::new(),
        n => format!(", {n} of other planes"),
    };
    let frames = format!("{} in, {decided} decided ({doubted} doubted){gathered}, {lost}{more}", c.frames_in);
    page.line("frames", frames);
    let outcomes = format!("{} hits, {} aversive, {} misses", c.hits, c.aversive, c.misses);
    page.line("trials", format!("{} begun: {outcomes}", c.trials));
    let sent = format!("{} sent, {} acknowledged", c.rewards_sent, c.rewards_acknowledged);
    let rest = format!("{} unknown, {} limited", c.rewards_unknown, c.rewards_limited);
    page.line("rewards", format!("{} intended, {sent}, {rest}", c.rewards_intended));
}

fn rate(page: &mut Page, label: &str, what: &str, rate: Option<&Rate>) {
    let text = match rate {
        None => "not measured".to_owned(),
        Some(r) => format!(
            "{:.3} Hz, period {:.3} ms, jitter {:.3} ms, longest {:.1} ms before frame {}",
            r.rate_hz, r.period_median_ms, r.jitter_ms, r.longest_ms, r.longest_before_frame
        ),
    };
    page.line(label, format!("{what} {text}"));
}

fn gaps(page: &mut Page, s: &Segment) {
    let g = &s.gaps;
    let all = g.missing_runs + g.overload_runs + g.silences;
    if all == 0 {
        return page.line("gaps", "none");
    }
    page.line("gaps", &{
        let missing = format!("{} frames missing in {} runs", g.missing_frames, g.missing_runs);
        let overload = format!("{} skipped in {}", g.overload_frames, g.overload_runs);
        format!("{missing}, {overload}, {} silences of {:.3} s together", g.silences, g.silent_s)
    });
    for gap in g.first.iter().take(LISTED) {
        page.line("", format!("  {}", told(gap)));
    }
    let listed = g.first.len().min(LISTED) as u64;
    if all > listed {
        page.line("", format!("  and {} more", all - listed));
    }
}

fn told(gap: &Gap) -> String {
    let length = gap.duration_s.map_or_else(|| "? s".to_owned(), |s| format!("{s:.3} s"));
    let kind = gap.kind.name();
    match gap.kind {
        GapKind::Silence => format!("{kind:<9} after frame {:>7}  {length:>10}", gap.frame),
        _ => {
            format!("{kind:<9} from  frame {:>7}  {length:>10}  {} frame{}", gap.frame, gap.frames, plural(gap.frames))
        }
    }
}

fn baselines(page: &mut Page, s: &Segment) {
    page.list("baseline", &s.baselines, |b| match b.last_frame {
        None => format!("begun at frame {}, not complete", b.started_frame),
        Some(last) => {
            let template = b.template_score.map_or(String::new(), |score| {
                let [dy, dx] = b.template_offset_px;
                let sure = if b.template_trusted { "" } else { ", NOT SURE" };
                format!("; template {dy:+.2}, {dx:+.2} px, score {score:.2}{sure}")
            });
            let (frames, detector) = (b.good_frames, b.detector_offset_counts);
            let odd = b.odd_lines_px.map_or(String::new(), |px| format!("; odd lines {px:+.2} px"));
            format!("{frames} good frames, to frame {last}{template}{odd}; detector {detector:.1}")
        }
    });
    if let Some(DriftSeen { last_um, largest_um, largest_frame }) = s.z_drift {
        let text = format!("{last_um:+.1} um at the end, {largest_um:+.1} um at frame {largest_frame}");
        page.line("z drift", text);
    }
    page.list("threshold", &s.thresholds, |t| {
        let low = t.range_low.map_or(String::new(), |low| format!(", low {low:.4}"));
        let how = match (t.chance_fraction, t.z_half) {
            (Some(chance), z) => {
                let z = z.map_or(String::new(), |z| format!(", {z:.2} SD"));
                let carried = if t.carried_over { ", capped by day 1" } else { "" };
                format!("calibrated, chance {:.1} %{z}{carried}", 100.0 * chance)
            }
            (None, _) => "set by hand".to_owned(),
        };
        format!("{:.4}{low} at frame {}: {how}", t.threshold, t.frame)
    });
}

fn trials(page: &mut Page, s: &Segment) {
    let letter = |outcome: &str| match outcome {
        "hit" => 'H',
        "aversive" => 'A',
        "miss" => '-',
        _ => '.',
    };
    let row: Vec<char> = s.trials.iter().map(|t| letter(t.outcome)).collect();
    let mut label = "outcomes";
    for part in row.chunks(OUTCOMES_IN_ROW) {
        page.line(label, part.iter().collect::<String>());
        label = "";
    }
}

fn rewards(page: &mut Page, s: &Segment) {
    let (r, on) = (&s.rewards, &s.rewards.on);
    let bound = |ms: Option<f64>| ms.map_or(String::new(), |ms| format!("; limit {ms:.0} ms"));
    if on.total_ms > 0.0 {
        let (host, device) = (on.most_in_60_s_host_ms, on.most_in_60_s_device_ms);
        page.line("valve", format!("open {:.1} ms{}", on.total_ms, bound(on.limit_per_session_ms)));
        let most = format!("{device:.1} ms by the microscope, {host:.1} ms by the host");
        page.line("", format!("in any 60 s at most {most}{}", bound(on.limit_per_minute_ms)));
    }
    let mut notes = Vec::new();
    if r.by_hand > 0 {
        notes.push(format!("{} ordered by hand", r.by_hand));
    }
    if r.pulses_measured > 0 {
        notes.push(format!("{} pulses measured, {:.1} ms together", r.pulses_measured, r.measured_on_ms));
    }
    if r.writes_failed + r.refused_by_device > 0 {
        notes.push(format!("{} writes failed, {} refused by the device", r.writes_failed, r.refused_by_device));
    }
    if !notes.is_empty() {
        page.line("", notes.join(", "));
    }
    page.list("limits", &r.limits_reached, |l| format!("{} x {}, first at frame {}", l.count, l.limit, l.first_frame));
    page.list("faults", &s.device_faults, |f| format!("frame {:>7}  {}", f.frame, f.what));
}

fn latencies(page: &mut Page, s: &Segment) {
    if s.latency_us.iter().all(|l| l.us.n == 0) {
        return page.line("latency", "not measured");
    }
    page.plain(format!(
        "{:<32} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "latency in us", "median", "99 %", "99.9 %", "max", "frames"
    ));
    for l in s.latency_us.iter().filter(|l| l.us.n > 0) {
        let name = match l.stage {
            "total" => "frame in -> decision",
            "reward" => "frame in -> reward written",
            stage => stage,
        };
        let [p50, p99, p999, max] = l.us.cells(0);
        page.plain(format!("{:10} {name:<21} {p50:>9} {p99:>9} {p999:>9} {max:>9} {:>9}", "", l.us.n));
    }
}

fn shortened(items: &[String]) -> String {
    match items {
        [first, second, .., last] if items.len() > 6 => format!("{first}, {second}, .. {last}"),
        _ => items.join(", "),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
