//! Numbers as people read them: grouped thousands, a true minus sign, few digits, a unit. Not finite is a dash.

/// What stands for a value that is not known.
pub(super) const DASH: &str = "\u{2013}";

/// `108,000`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// `1 trial`, `12 trials`.
pub(super) fn plural(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(n as u64), if n == 1 { one } else { many })
}

/// `52.5 %` of a whole; a dash when the whole is nothing.
pub(super) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { DASH.to_owned() } else { percent_of(part as f64 / whole as f64) }
}

/// A fraction as `52.5 %`; the smallest ones keep a digit that is not 0.
pub(super) fn percent_of(fraction: f64) -> String {
    let p = fraction * 100.0;
    if !p.is_finite() {
        DASH.to_owned()
    } else if p == 0.0 || p.abs() >= 99.95 {
        format!("{p:.0}\u{202f}%")
    } else if p.abs() < 0.1 {
        format!("{}\u{202f}%", significant(p, 1))
    } else {
        format!("{}\u{202f}%", fixed(p, 1))
    }
}

/// With `decimals` digits behind the point, and a true minus sign.
pub(super) fn fixed(v: f64, decimals: usize) -> String {
    if !v.is_finite() {
        return DASH.to_owned();
    }
    let text = format!("{v:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| c == '0' || c == '.') => rest.to_owned(),
        Some(rest) => format!("\u{2212}{rest}"),
        None => text,
    }
}

/// With its sign always, as for an offset.
pub(super) fn signed(v: f64, decimals: usize) -> String {
    let text = fixed(v, decimals);
    if v.is_finite() && v > 0.0 { format!("+{text}") } else { text }
}

/// With `digits` significant digits, never in exponents for what a session holds.
pub(super) fn significant(v: f64, digits: i32) -> String {
    if !v.is_finite() {
        return DASH.to_owned();
    }
    if v == 0.0 {
        return "0".to_owned();
    }
    // The exponent after rounding, or 999.6 would keep a digit too many.
    let rounded = format!("{:.*e}", (digits - 1).max(0) as usize, v);
    let magnitude: i32 = rounded.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if !(-9..=15).contains(&magnitude) {
        return format!("{v:.1e}");
    }
    fixed(v, (digits - 1 - magnitude).clamp(0, 12) as usize)
}

/// Like `significant`, without the zeros that end it.
pub(super) fn trimmed(v: f64, digits: i32) -> String {
    let text = significant(v, digits);
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Microseconds as `412 µs`, `1.24 ms` or `2.10 s`.
pub(super) fn latency(us: f64) -> String {
    if !us.is_finite() {
        DASH.to_owned()
    } else if us < 999.5 {
        format!("{}\u{202f}µs", if us < 9.95 { significant(us, 2) } else { fixed(us, 0) })
    } else if us < 999_500.0 {
        format!("{}\u{202f}ms", significant(us / 1e3, 3))
    } else {
        format!("{}\u{202f}s", significant(us / 1e6, 3))
    }
}

/// Seconds as `1 h 2 min`, `58 min 20 s` or `12.3 s`.
pub(super) fn duration(s: f64) -> String {
    if !s.is_finite() || s < 0.0 {
        return DASH.to_owned();
    }
    if s < 59.95 {
        return format!("{s:.1}\u{202f}s");
    }
    let whole = s.round() as u64;
    let (h, m, sec) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (h, m, sec) {
        (0, m, 0) => format!("{m}\u{202f}min"),
        (0, m, sec) => format!("{m}\u{202f}min {sec}\u{202f}s"),
        (h, 0, _) => format!("{h}\u{202f}h"),
        (h, m, _) => format!("{h}\u{202f}h {m}\u{202f}min"),
    }
}

/// A time of the session as `32:05` or `1:02:05`.
pub(super) fn clock(s: f64) -> String {
    if !s.is_finite() || s < 0.0 {
        return DASH.to_owned();
    }
    let whole = s.round() as u64;
    let (h, m, sec) = (whole / 3600, whole / 60 % 60, whole % 60);
    if h > 0 { format!("{h}:{m:02}:{sec:02}") } else { format!("{m}:{sec:02}") }
}

/// The first `limit` characters, with an ellipsis where something was cut.
pub(super) fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(limit.saturating_sub(1)).collect();
    out.push('\u{2026}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(108_000), "108,000");
        assert_eq!(count(1_234_567), "1,234,567");
    }

    #[test]
    fn latency_changes_its_unit_where_three_digits_end() {
        assert_eq!(latency(4.2), "4.2\u{202f}µs");
        assert_eq!(latency(412.4), "412\u{202f}µs");
        assert_eq!(latency(999.6), "1.00\u{202f}ms");
        assert_eq!(latency(12_345.0), "12.3\u{202f}ms");
        assert_eq!(latency(2.1e6), "2.10\u{202f}s");
        assert_eq!(latency(f64::NAN), DASH);
    }

    #[test]
    fn a_rounded_zero_has_no_sign() {
        assert_eq!(fixed(-0.001, 2), "0.00");
        assert_eq!(fixed(-0.5, 1), "\u{2212}0.5");
        assert_eq!(signed(0.25, 2), "+0.25");
        assert_eq!(trimmed(30.0, 4), "30");
        assert_eq!(trimmed(30.98, 4), "30.98");
    }

    #[test]
    fn durations_and_clocks() {
        assert_eq!(duration(12.34), "12.3\u{202f}s");
        assert_eq!(duration(3500.0), "58\u{202f}min 20\u{202f}s");
        assert_eq!(duration(3600.0), "1\u{202f}h");
        assert_eq!(clock(3725.0), "1:02:05");
        assert_eq!(clock(65.0), "1:05");
    }

    #[test]
    fn nothing_of_nothing_is_a_dash() {
        assert_eq!(percent(0, 0), DASH);
        assert_eq!(percent(1, 8), "12.5\u{202f}%");
        assert_eq!(percent(4, 4), "100\u{202f}%");
        assert_eq!(shorten("abcdef", 4), "abc\u{2026}");
    }
}
