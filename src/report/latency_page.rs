//! A page of latency distributions, as `apical latency` measures them: a table, and a chart of each.
//!
//! In: plain data. Out: one self-contained HTML document, in the session report's style.

use maud::html;

use super::charts::latency;
use super::data::{LatencyHistogram, StageLatency};
use super::page::{figure, shell};
use super::tables;

/// What was measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LatencyReport {
    /// What ran, in one sentence.
    pub what: String,
    /// Facts beside it, a sentence each: frames, rates, what the system granted, the memory's floor.
    pub facts: Vec<String>,
    /// Stages on the way.
    pub stages: Vec<MeasuredLatency>,
    /// Ways as a whole.
    pub whole: Vec<MeasuredLatency>,
}

/// One distribution.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MeasuredLatency {
    /// Its percentiles, and what it is called.
    pub summary: StageLatency,
    /// The distribution.
    pub histogram: LatencyHistogram,
}

/// Renders the page. Every text is escaped.
pub fn latency_html(report: &LatencyReport) -> String {
    let summaries = |of: &[MeasuredLatency]| of.iter().map(|m| m.summary.clone()).collect::<Vec<_>>();
    let charts = |of: &[MeasuredLatency]| {
        html! {
            @for MeasuredLatency { summary, histogram } in of {
                @if let Some(chart) = latency::drawn(histogram, Some(summary), &summary.name) {
                    h3 { (summary.name) }
                    (figure(chart, ""))
                }
            }
        }
    };
    let body = html! {
        header {
            p.eyebrow { "apical latency " (env!("CARGO_PKG_VERSION")) }
            h1 { "Latency" }
            p.lead { (report.what) }
            @for fact in &report.facts { p { (fact) } }
        }
        main {
            section id="table" {
                h2 { "In numbers" }
                (tables::latencies(&summaries(&report.stages), &summaries(&report.whole)))
            }
            section id="whole" { h2 { "The whole way" } (charts(&report.whole)) }
            section id="stages" { h2 { "Stages" } (charts(&report.stages)) }
        }
        footer { "This file holds everything that it shows, loads nothing and runs no script." }
    };
    shell(&format!("Latency \u{b7} {}", report.what), &body).into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_distribution_has_its_row_and_its_chart_and_every_text_is_escaped() {
        let measured = |name: &str| MeasuredLatency {
            summary: StageLatency { name: name.to_owned(), p50_us: 2.0, count: 7, ..StageLatency::default() },
            histogram: LatencyHistogram { edges_us: vec![1.0, 2.0, 4.0], counts: vec![3, 4] },
        };
        let report = LatencyReport {
            what: "<b>frames</b>".to_owned(),
            facts: vec!["5 & 6".to_owned()],
            stages: vec![measured("register")],
            whole: vec![measured("handed over -> far end"), MeasuredLatency::default()],
        };
        let page = latency_html(&report);
        assert_eq!(page.matches("<svg").count(), 2, "nothing is drawn where nothing was measured");
        assert!(page.contains("&lt;b&gt;frames&lt;/b&gt;") && page.contains("5 &amp; 6") && !page.contains("<b>"));
        assert!(page.contains("handed over -&gt; far end"));
    }
}
