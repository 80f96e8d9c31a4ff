//! `apical doctor`: whether this computer keeps what a rig demands of it, and what would help.
//!
//! Every check says what it found, what it compares that with, and, where it fails, what to change and how much that
//! would win. What can be measured is measured: how late a sleeping thread wakes, as an ordinary one and as the rig
//! would run it, what a frame costs to read, what the disk does. The demand is `engine.deadline_ms`.

mod measure;
mod system;

use std::time::Duration;

use anyhow::ensure;
use clap::Args;

use super::page::Page;
use super::{ConfigSource, Outcome, print_json, print_text};
use crate::config::RigConfig;

/// Arguments of `apical doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    source: ConfigSource,
    /// For how long the timer's jitter is measured, once as an ordinary thread and once as the rig's.
    #[arg(long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Pass,
    /// The demand is kept, and more could be had.
    Could,
    /// The demand is not kept.
    Fail,
    /// It cannot be known here.
    Unknown,
}

/// One check.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(super) struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    expected: String,
    /// What to change; empty where nothing is.
    advice: String,
    /// What that would win, in microseconds of the slowest frames' latency; 0 where it is not known.
    wins_us: f64,
}

impl Check {
    fn pass(name: &'static str, found: impl Into<String>, expected: impl Into<String>) -> Self {
        let (found, expected) = (found.into(), expected.into());
        Self { name, verdict: Verdict::Pass, found, expected, advice: String::new(), wins_us: 0.0 }
    }

    fn unknown(name: &'static str, why: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unknown, ..Self::pass(name, why, expected) }
    }

    /// Not as it should be: what to change, and what that would win.
    fn but(self, verdict: Verdict, advice: impl Into<String>, wins_us: f64) -> Self {
        Self { verdict, advice: advice.into(), wins_us, ..self }
    }
}

/// Runs the command. The exit status is 1 where the demand is not kept.
pub(super) fn run(args: &DoctorArgs, json: bool) -> anyhow::Result<Outcome> {
    ensure!((0.1..=600.0).contains(&args.seconds), "--seconds {}: expected 0.1 to 600", args.seconds);
    let config = args.source.load(&[])?;
    let checks = examine(&config, Duration::from_secs_f64(args.seconds));
    let kept = checks.iter().all(|check| check.verdict != Verdict::Fail);
    if json {
        let demand = config.engine.deadline_ms;
        print_json(&serde_json::json!({ "passed": kept, "deadline_ms": demand, "checks": checks }))?;
    } else {
        print_text(page_of(&config, &checks, kept).text())?;
    }
    Ok(if kept { Outcome::Good } else { Outcome::Bad })
}

/// Every check, those with the most to win first.
fn examine(config: &RigConfig, time: Duration) -> Vec<Check> {
    let mut checks = measure::wakes(config, time);
    checks.extend([
        measure::memory(config),
        measure::clock(),
        measure::disk(config, time.min(Duration::from_secs(5))),
        system::governor(),
        system::clock_source(),
        system::isolated(config),
        system::memory_limit(config),
        system::serial(config),
    ]);
    let rank = |check: &Check| match check.verdict {
        Verdict::Fail => 0,
        Verdict::Could => 1,
        Verdict::Unknown => 2,
        Verdict::Pass => 3,
    };
    checks.sort_by(|a, b| rank(a).cmp(&rank(b)).then(b.wins_us.total_cmp(&a.wins_us)));
    checks
}

fn page_of(config: &RigConfig, checks: &[Check], kept: bool) -> Page {
    let mut page = Page::default();
    page.plain(match config.engine.deadline_ms {
        0.0 => "the rig demands nothing (engine.deadline_ms = 0)".to_owned(),
        demand => format!("the rig demands an answer within {demand} ms (engine.deadline_ms)"),
    });
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Pass => "pass",
            Verdict::Could => "pass, could be better",
            Verdict::Fail => "FAIL",
            Verdict::Unknown => "not known",
        };
        page.plain(format!("\n{}: {verdict}", check.name));
        page.plain(format!("  found     {}", check.found));
        page.plain(format!("  expected  {}", check.expected));
        if !check.advice.is_empty() {
            let wins =
                if check.wins_us > 0.0 { format!(" (wins some {:.0} us)", check.wins_us) } else { String::new() };
            page.plain(format!("  change    {}{wins}", check.advice));
        }
    }
    let verdict = if kept { "this computer keeps it" } else { "this computer does NOT keep it" };
    let next = "measure the whole way with: apical latency --transport grpc --fps 30 --seconds 60";
    page.plain(format!("\n{verdict}; {next}"));
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_comes_first_and_what_wins_most_before_the_rest() {
        let config = RigConfig::default();
        let checks = examine(&config, Duration::from_millis(100));
        let fails = checks.iter().take_while(|check| check.verdict == Verdict::Fail).count();
        assert!(checks[fails..].iter().all(|check| check.verdict != Verdict::Fail));
        let could: Vec<f64> = checks.iter().filter(|c| c.verdict == Verdict::Could).map(|c| c.wins_us).collect();
        assert!(could.windows(2).all(|pair| pair[0] >= pair[1]), "{could:?}");
        let mut names: Vec<_> = checks.iter().map(|check| check.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), checks.len(), "each check once");
        assert!(checks.iter().all(|c| !c.found.is_empty() && !c.expected.is_empty()));
        let advised = |c: &Check| matches!(c.verdict, Verdict::Fail | Verdict::Could);
        assert!(checks.iter().all(|c| !advised(c) || !c.advice.is_empty()), "{checks:?}");
    }

    #[test]
    fn a_demand_that_no_computer_keeps_fails() {
        let mut config = RigConfig::default();
        config.engine.deadline_ms = 1e-4;
        let checks = examine(&config, Duration::from_millis(100));
        assert!(checks.iter().any(|check| check.verdict == Verdict::Fail && check.name == "waking up"), "{checks:?}");
    }
}
