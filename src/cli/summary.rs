//! What a session came to, for people and for programs.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::page::Page;
use super::{print_json, print_text};
use crate::journal::inspect::Counters;
use crate::journal::{Percentiles, Summary};

/// What `demo` and `replay` print.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RunSummary {
    pub session_dir: PathBuf,
    pub report: PathBuf,
    #[serde(flatten)]
    pub counters: Counters,
    pub latency_us: Percentiles,
    pub stages_us: serde_json::Map<String, serde_json::Value>,
    pub warnings: Vec<String>,
}

impl RunSummary {
    /// Of a session in `directory`.
    pub fn new(directory: &Path, summary: &Summary, warnings: Vec<String>) -> Self {
        let latencies = summary.latencies();
        let stages = latencies
            .iter()
            .skip(1)
            .filter_map(|(name, p)| serde_json::to_value(p).ok().map(|value| ((*name).to_owned(), value)));
        Self {
            session_dir: directory.to_owned(),
            report: directory.join(crate::journal::REPORT_FILE),
            counters: Counters::of(&summary.counters),
            latency_us: Percentiles::of(&summary.total),
            stages_us: stages.collect(),
            warnings,
        }
    }

    /// For programs as JSON, otherwise for people.
    pub fn tell(&self, summary: &Summary, json: bool) -> anyhow::Result<()> {
        if json { print_json(self) } else { print_text(self.page(summary).text()) }
    }

    /// For people.
    fn page(&self, summary: &Summary) -> Page {
        let mut page = Page::default();
        let c = &self.counters;
        page.plain("");
        page.plain(format!(
            "trials   {} begun: {} hits, {} aversive, {} misses",
            c.trials, c.hits, c.aversive, c.misses
        ));
        page.plain(format!(
            "rewards  {} intended, {} sent, {} acknowledged, {} unknown, {} stopped by a limit",
            c.rewards_intended, c.rewards_sent, c.rewards_acknowledged, c.rewards_unknown, c.rewards_limited
        ));
        page.plain(format!(
            "frames   {} in, {} decided ({} doubted by registration), {} of other planes, {} skipped, {} refused",
            c.frames_in, c.frames_decided, c.frames_doubted, c.frames_gathered, c.frames_skipped, c.frames_refused
        ));
        page.plain("");
        page.plain(format!("latency in us   {:>9} {:>9} {:>9} {:>9}", "median", "99 %", "99.9 %", "max"));
        for (name, p) in summary.latencies() {
            let name = if name == "total" { "frame in -> decision" } else { name };
            let [p50, p99, p999, max] = p.cells(0);
            page.plain(format!("  {name:<20} {p50:>6} {p99:>9} {p999:>9} {max:>9}"));
        }
        page.plain("");
        for warning in &self.warnings {
            page.plain(format!("note: {warning}"));
        }
        page.plain(format!("session  {}", self.session_dir.display()));
        page.plain(format!("report   {}", self.report.display()));
        page
    }
}
