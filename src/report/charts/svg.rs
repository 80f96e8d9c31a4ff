//! The canvas: an SVG element as a string, with short coordinates and every text escaped.

use std::fmt::{Display, Write};

use maud::PreEscaped;

/// A coordinate with one decimal and no trailing zero.
pub(super) struct Px(pub f64);

impl Display for Px {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tenths = if self.0.is_finite() { (self.0.clamp(-1e6, 1e6) * 10.0).round() as i64 } else { 0 };
        if tenths % 10 == 0 {
            return write!(f, "{}", tenths / 10);
        }
        let sign = if tenths < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{}", tenths.abs() / 10, tenths.abs() % 10)
    }
}

/// An SVG picture that is being drawn. Every text goes through an escaper.
pub(in super::super) struct Svg {
    width: f64,
    height: f64,
    label: String,
    body: String,
}

impl Svg {
    /// An empty picture; `label` is what a screen reader says.
    pub fn new(width: f64, height: f64, label: &str) -> Self {
        Self { width, height, label: escape(label), body: String::new() }
    }

    pub fn line(&mut self, class: &str, x1: f64, y1: f64, x2: f64, y2: f64) {
        let (x1, y1, x2, y2) = (Px(x1), Px(y1), Px(x2), Px(y2));
        let _ = write!(self.body, r#"<line class="{class}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>"#);
    }

    pub fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        let (x, y, width, height) = (Px(x), Px(y), Px(width.max(0.0)), Px(height.max(0.0)));
        let _ = write!(self.body, r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}"/>"#);
    }

    /// A rectangle that says more when the pointer rests on it.
    pub fn titled_rect(&mut self, class: &str, [x, y, width, height]: [f64; 4], title: &str) {
        let (x, y, width, height) = (Px(x), Px(y), Px(width.max(0.0)), Px(height.max(0.0)));
        let title = escape(title);
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}"><title>{title}</title></rect>"#
        );
    }

    pub fn path(&mut self, class: &str, d: &str) {
        if !d.is_empty() {
            let _ = write!(self.body, r#"<path class="{class}" d="{d}"/>"#);
        }
    }

    /// Text with its baseline at `y`; the class names `end` and `mid` anchor it.
    pub fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let (x, y, text) = (Px(x), Px(y), escape(text));
        let _ = write!(self.body, r#"<text class="{class}" x="{x}" y="{y}">{text}</text>"#);
    }

    /// Anything else; the caller answers for its markup.
    pub fn raw(&mut self, markup: &str) {
        self.body.push_str(markup);
    }

    /// The element, as it goes into the page.
    pub fn finish(self) -> PreEscaped<String> {
        let (w, h) = (Px(self.width), Px(self.height));
        PreEscaped(format!(r#"<svg viewBox="0 0 {w} {h}" role="img" aria-label="{}">{}</svg>"#, self.label, self.body))
    }
}

/// Text made safe for markup and attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let _ = maud::Escaper::new(&mut out).write_str(text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_short() {
        let text = |v| Px(v).to_string();
        assert_eq!([text(3.0), text(-0.04), text(-0.26), text(12.345)], ["3", "0", "-0.3", "12.3"]);
        assert_eq!(text(f64::NAN), "0");
    }

    #[test]
    fn texts_are_escaped() {
        let mut svg = Svg::new(10.0, 10.0, "a\"b");
        svg.text("t", 0.0, 0.0, "<script>&");
        let out = svg.finish().into_string();
        assert!(out.contains("&lt;script&gt;&amp;") && out.contains("a&quot;b"), "{out}");
    }
}
