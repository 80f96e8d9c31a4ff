//! The session report: one HTML file that an experimenter keeps, prints and shows.
//!
//! In: a [`SessionReport`], plain data that the caller has collected from a session's journal; nothing here reads a
//! file, a clock or the network. Out: one string, a complete HTML document with its style, its charts (inline SVG)
//! and the mean image (a PNG in a data URI). It needs no script and loads nothing.
//!
//! Units are in the field names. A value that is not finite is a gap in its chart and a dash in its table; a part
//! that the session does not have (no task, no pixels, no latency) is replaced by one sentence.
//!
//! Colour carries the same meaning everywhere: blue is P+, vermilion is P-, green is a hit and its reward, purple an
//! aversive end, grey a miss, amber a frame that registration doubts. The first two and the palette around them are
//! after Okabe and Ito, so that they stay apart for colour-blind readers; position or a label always says it again.
//!
//! Cost: linear in frames x ROIs. Long traces are reduced to the smallest and largest sample of each drawn column,
//! so the file's size depends on the page's width and not on the session's length.

mod charts;
mod data;
mod digest;
mod format;
mod image;
mod latency_page;
mod page;
mod rois;
mod tables;
#[cfg(test)]
mod tests;

pub use data::{
    Calibration, FrameCounts, FrameRow, LatencyHistogram, Outcome, Phase, Plane, Provenance, RewardFate, Roi, RoiShape,
    Role, SessionReport, StageLatency, TemplateFit, Trace, TrialRow, TriggerFate, TriggerRow, Triggers,
};
pub use latency_page::{LatencyReport, MeasuredLatency, latency_html};
pub use rois::{DrawnRoi, RoiPicture, rois_html, rois_png};

/// Renders the report as one self-contained HTML document.
///
/// Every text of the session is escaped. Any input renders, also an empty one.
pub fn render(report: &SessionReport) -> String {
    page::document(report).into_string()
}
