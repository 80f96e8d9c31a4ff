//! What a session came to, for people and for programs.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::journal::{Percentiles, Summary};

/// What `demo` and `replay` print.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RunSummary {
    pub session_dir: PathBuf,
    pub report: PathBuf,
    pub frames_in: u64,
    pub frames_decided: u64,
    pub frames_skipped: u64,
    pub frames_refused: u64,
    pub frames_doubted: u64,
    pub trials: u64,
    pub hits: u64,
    pub aversive: u64,
    pub misses: u64,
    pub rewards_intended: u64,
    pub rewards_sent: u64,
    pub rewards_acknowledged: u64,
    pub rewards_unknown: u64,
    pub rewards_limited: u64,
    pub latency_us: Percentiles,
    pub stages_us: serde_json::Map<String, serde_json::Value>,
    pub warnings: Vec<String>,
}

impl RunSummary {
    /// Of a session in `directory`.
    pub fn new(directory: &Path, summary: &Summary, warnings: Vec<String>) -> Self {
        let c = &summary.counters;
        let latencies = summary.latencies();
        let stages = latencies
            .iter()
            .skip(1)
            .filter_map(|(name, p)| serde_json::to_value(p).ok().map(|value| ((*name).to_owned(), value)));
        Self {
            session_dir: directory.to_owned(),
            report: directory.join(crate::journal::REPORT_FILE),
            frames_in: c.frames_in,
            frames_decided: c.frames_decided,
            frames_skipped: c.frames_skipped,
            frames_refused: c.frames_refused,
            frames_doubted: c.frames_doubted,
            trials: c.trials,
            hits: c.hits,
            aversive: c.aversive,
            misses: c.misses,
            rewards_intended: c.rewards_intended,
            rewards_sent: c.rewards_sent,
            rewards_acknowledged: c.rewards_acknowledged,
            rewards_unknown: c.rewards_unknown,
            rewards_limited: c.rewards_limited,
            latency_us: Percentiles::of(&summary.total),
            stages_us: stages.collect(),
            warnings,
        }
    }

    /// For people.
    pub fn print(&self, summary: &Summary) {
        println!();
        println!(
            "trials   {} begun: {} hits, {} aversive, {} misses",
            self.trials, self.hits, self.aversive, self.misses
        );
        println!(
            "rewards  {} intended, {} sent, {} acknowledged, {} unknown, {} stopped by a limit",
            self.rewards_intended,
            self.rewards_sent,
            self.rewards_acknowledged,
            self.rewards_unknown,
            self.rewards_limited
        );
        println!(
            "frames   {} in, {} decided ({} doubted by registration), {} skipped, {} refused",
            self.frames_in, self.frames_decided, self.frames_doubted, self.frames_skipped, self.frames_refused
        );
        println!();
        println!("latency in us   {:>9} {:>9} {:>9} {:>9}", "median", "99 %", "99.9 %", "max");
        for (name, p) in summary.latencies() {
            let name = if name == "total" { "frame in -> decision" } else { name };
            println!("  {name:<20} {:>6.0} {:>9.0} {:>9.0} {:>9.0}", p.p50, p.p99, p.p999, p.max);
        }
        println!();
        for warning in &self.warnings {
            println!("note: {warning}");
        }
        println!("session  {}", self.session_dir.display());
        println!("report   {}", self.report.display());
    }
}
