//! Tests of the page as a whole.

use super::*;
use crate::frame::{Geometry, Image};

/// A session of `n` frames with everything in it: ten cells, trials of every outcome, pixels, latency.
fn session(n: usize) -> SessionReport {
    let geometry = Geometry::new(48, 64);
    let mut image = Image::zeros(geometry);
    for (i, v) in image.values.iter_mut().enumerate() {
        *v = (i * 7919 % 1013) as f32;
    }
    // A fixed, wide-band sequence stands for noise.
    let noise = |i: usize, k: usize| ((i * 48_271 + k * 7_919) % 10_007) as f32 / 10_007.0;
    let role = |k: usize| if k.is_multiple_of(2) { Role::Plus } else { Role::Minus };
    let phases = [Phase::Start, Phase::Control, Phase::Control, Phase::HitHold, Phase::Iti];
    let frames = (0..n).map(|i| FrameRow {
        index: i as u64,
        time_s: i as f64 / 30.0,
        dy_px: noise(i, 1) - 0.5,
        dx_px: noise(i, 2) - 0.5,
        score: 0.9 + 0.05 * noise(i, 3),
        cursor: noise(i, 4) * 1.4 - 0.2,
        rotation_deg: noise(i, 4) * 90.0,
        shown_deg: (i % 50 > 10).then_some(15.0 * (i / 50 % 7) as f32),
        phase: if i < n / 10 { Phase::Baseline } else { phases[i / 50 % 5] },
        reward: i % 250 == 150,
        latency_us: Some(150.0 + 400.0 * noise(i, 5)),
        doubted: i % 997 == 3,
    });
    let outcomes = [Outcome::Hit, Outcome::Miss, Outcome::Aversive];
    let trials = (0..n / 250).map(|i| TrialRow {
        number: i as u32 + 1,
        start_frame: 250 * i as u64,
        end_frame: 250 * i as u64 + 199,
        start_s: 250.0 * i as f64 / 30.0,
        end_s: (250.0 * i as f64 + 199.0) / 30.0,
        outcome: outcomes[i % 3],
        reward: if i % 3 == 0 { RewardFate::Acknowledged } else { RewardFate::None },
    });
    SessionReport {
        title: "Grating".to_owned(),
        session: "day 1".to_owned(),
        duration_s: n as f64 / 30.0,
        frame_rate_hz: 30.0,
        geometry: Some(geometry),
        planes: vec![Plane { mean_image: Some(image), ..Plane::default() }],
        rois: (0..10_usize)
            .map(|k| Roi {
                id: k as u32,
                name: String::new(),
                role: role(k),
                plane: 0,
                shape: RoiShape::Pixels(vec![[4 * k as u32, 5], [4 * k as u32, 6]]),
                centre_px: [4.0 * k as f32, 5.5],
            })
            .collect(),
        frames: frames.collect(),
        traces: (0..10)
            .map(|k| Trace { roi_id: k as u32, role: role(k), dff: (0..n).map(|i| noise(i, k + 9)).collect() })
            .collect(),
        calibration: Some(Calibration {
            threshold: 0.8,
            range_low: -0.3,
            mu_half: 0.1,
            sigma_half: 0.2,
            z_half: 3.5,
            chance_fraction: 0.48,
            baseline_x: (0..n / 10).map(|i| noise(i, 30) - 0.3).collect(),
        }),
        target_deg: 90.0,
        trials: trials.collect(),
        frame_counts: FrameCounts { received: n as u64, decided: n as u64, skipped: 0, refused: 0 },
        latency: (n > 0).then(|| StageLatency {
            name: "last byte to decision".to_owned(),
            p50_us: 350.0,
            p99_us: 546.0,
            p999_us: if n < 5_000 { f64::NAN } else { 550.0 },
            max_us: 550.0,
            count: n as u64,
        }),
        ..SessionReport::default()
    }
}

/// Everything that an attribute of the page points at.
fn links(html: &str) -> Vec<&str> {
    let mut out = Vec::new();
    for name in ["src=", "href=", "srcset=", "action=", "data="] {
        for (at, _) in html.match_indices(name) {
            out.push(html[at + name.len()..].trim_start_matches('"').split(['"', ' ', '>']).next().unwrap_or(""));
        }
    }
    out
}

fn pictures(html: &str) -> usize {
    // The inner picture of the mean image is not one of its own.
    html.matches("role=\"img\"").count() + html.matches("data:image/").count()
}

/// Coordinates are numbers: no NaN or infinity reached the markup of a chart.
fn assert_sound(html: &str) {
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>"));
    for bad in ["NaN", "\"inf", "-inf", " inf"] {
        assert!(!html.contains(bad), "{bad} in the page");
    }
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
}

#[test]
fn a_report_leads_nowhere() {
    let html = render(&session(3000));
    let links = links(&html);
    assert!(links.iter().any(|l| l.starts_with("data:image/png")) && links.contains(&"#overview"));
    for link in links {
        assert!(link.starts_with("data:") || link.starts_with('#'), "{link}");
    }
    for bad in ["<script", "@import", "url(http", "://", "<link", "<iframe"] {
        assert!(!html.contains(bad), "{bad} in the page");
    }
}

#[test]
fn a_report_has_its_pictures() {
    let html = render(&session(3000));
    assert!(pictures(&html) >= 6, "{}", pictures(&html));
    assert_sound(&html);
}

#[test]
fn every_plane_has_its_picture_with_its_own_outlines() {
    let mut report = session(100);
    let one = render(&report);
    let fit = TemplateFit { dy_px: 1.5, dx_px: -2.0, score: 0.9 };
    report.planes.push(Plane { number: 3, template: Some(fit), ..report.planes[0].clone() });
    report.rois[4].plane = 3;
    let two = render(&report);
    assert_eq!(pictures(&two), pictures(&one) + 2, "a drawing, and the image in it");
    assert!(two.contains("Plane 3: its template lies +1.50 rows and \u{2212}2.00 columns"));
    assert_eq!(two.matches("class=\"roi ").count(), one.matches("class=\"roi ").count());
    assert_sound(&two);
}

#[test]
fn every_anchor_of_the_navigation_exists() {
    let html = render(&session(3000));
    for link in links(&html).into_iter().filter_map(|l| l.strip_prefix('#')) {
        assert!(html.contains(&format!("id=\"{link}\"")), "{link}");
    }
}

#[test]
fn hostile_names_are_escaped() {
    let hostile = "<script>alert(1)</script>\"'&<img src=x onerror=y>".to_owned();
    let mut report = session(600);
    report.title = hostile.clone();
    report.rig = hostile.clone();
    report.session = hostile.clone();
    report.started_wall = hostile.clone();
    report.provenance.commit = hostile.clone();
    report.provenance.extra = vec![(hostile.clone(), hostile.clone())];
    report.rois[0].name = hostile.clone();
    report.stages = vec![StageLatency { name: hostile.clone(), ..StageLatency::default() }];
    let row =
        TriggerRow { id: hostile.clone(), output: hostile.clone(), note: hostile.clone(), ..TriggerRow::default() };
    report.triggers.list = vec![row];
    report.warnings = vec![hostile.clone(), hostile.clone()];
    report.stand_in_learner = Some(hostile);
    let html = render(&report);
    assert!(!html.contains("<script") && !html.contains("<img"));
    assert!(html.matches("&lt;script&gt;").count() >= 12);
}

#[test]
fn an_empty_session_says_what_it_lacks() {
    let html = render(&SessionReport::default());
    assert_sound(&html);
    for sentence in ["No task was run", "No pixels were recorded", "Latency was not measured", "no trials were run"] {
        assert!(html.contains(sentence), "{sentence}");
    }
    assert!(!html.contains("<svg"));
}

#[test]
fn a_session_of_any_small_length_renders() {
    for n in [1, 2, 3, 29, 249, 250, 499, 500] {
        assert_sound(&render(&session(n)));
    }
}

#[test]
fn a_percentile_of_too_few_is_not_told() {
    let (few, many) = (render(&session(3_000)), render(&session(6_000)));
    assert!(few.contains("% in the median and ") && !few.contains("p99.9 550"));
    assert!(many.contains("% at p99.9 and ") && many.contains("p99.9 550"));
}

#[test]
fn one_trial_and_an_open_trial_render() {
    let mut report = session(300);
    assert_eq!(report.trials.len(), 1);
    let html = render(&report);
    assert_sound(&html);
    assert!(html.contains("1 trial,"), "singular");
    report.trials[0].outcome = Outcome::Open;
    let html = render(&report);
    assert_sound(&html);
    assert!(html.contains("open at the end"));
}

#[test]
fn values_that_are_not_finite_are_gaps() {
    let mut report = session(1200);
    for (i, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        for trace in &mut report.traces {
            trace.dff[300 + i] = bad;
        }
        report.traces[i].dff.fill(bad);
        let f = &mut report.frames[400 + i];
        (f.cursor, f.dy_px, f.dx_px, f.score, f.rotation_deg) = (bad, bad, bad, bad, bad);
        (f.shown_deg, f.latency_us, f.time_s) = (Some(bad), Some(bad), f64::from(bad));
        report.trials[i].start_s = f64::from(bad);
        report.trials[i].end_s = f64::from(bad);
        report.rois[i].shape = RoiShape::Outline(vec![[bad, 1.0], [2.0, 3.0], [4.0, bad]]);
        report.rois[i].centre_px = [bad, bad];
    }
    let c = report.calibration.as_mut().unwrap();
    c.baseline_x[3] = f32::NAN;
    (c.threshold, c.sigma_half, c.mu_half) = (f64::NAN, f64::INFINITY, f64::NEG_INFINITY);
    (report.duration_s, report.frame_rate_hz, report.target_deg) = (f64::NAN, f64::NAN, f64::INFINITY);
    assert_sound(&render(&report));
}

#[test]
fn lengths_that_disagree_render() {
    let mut report = session(500);
    report.traces[0].dff.truncate(10);
    report.traces[1].dff.extend([0.0; 500]);
    report.traces[2].dff.clear();
    report.planes[0].mean_image.as_mut().unwrap().values.pop();
    report.latency_histogram = Some(LatencyHistogram { edges_us: vec![f64::NAN], counts: vec![] });
    assert_sound(&render(&report));
}

#[test]
fn an_hour_stays_small() {
    let html = render(&session(108_000));
    assert_sound(&html);
    assert!(html.len() < 3_000_000, "{} bytes", html.len());
}

#[test]
fn a_stand_in_learner_is_said_at_the_top() {
    let mut report = session(300);
    report.stand_in_learner = Some("The synthetic mouse played.".to_owned());
    let html = render(&report);
    let at = html.find("The synthetic mouse played.").unwrap();
    assert!(at < html.find("<main").unwrap() && at < html.find("class=\"figures\"").unwrap());
}
