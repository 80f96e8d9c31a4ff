//! The mean image with the outlines of the ROIs on it. Outlines are exact; labels are set where they collide least.

use std::fmt::Write;

use maud::PreEscaped;

use super::super::data::{Plane, Roi, RoiShape, Role, SessionReport};
use super::super::image;
use super::{Px, Svg, escape, role_class, role_name};

/// Width of the picture; its height follows the frame's shape.
const PICTURE: f64 = 640.0;
/// More outlines than this would hide the image.
const MOST_OTHERS: usize = 600;

/// The picture of a plane, or `None` where there are neither pixels nor ROIs to place.
pub(in super::super) fn anatomy(report: &SessionReport, plane: &Plane) -> Option<PreEscaped<String>> {
    let own: Vec<&Roi> = report.rois.iter().filter(|roi| roi.plane == plane.number).collect();
    let geometry = plane.mean_image.as_ref().map(|i| i.geometry).or(report.geometry)?;
    let (height_px, width_px) = (geometry.height_px as f64, geometry.width_px as f64);
    let uri = plane.mean_image.as_ref().and_then(image::data_uri);
    if height_px < 1.0 || width_px < 1.0 || (uri.is_none() && own.is_empty()) {
        return None;
    }
    // Very tall frames are narrowed, so that the picture stays on one screen.
    let scale = (PICTURE / width_px).min(820.0 / height_px);
    let (w, h) = (width_px * scale, height_px * scale);
    let mut svg = Svg::new(w, h + 26.0, "Mean image with the outlines of the regions of interest");
    svg.rect("ground", 0.0, 0.0, w, h);
    if let Some(uri) = uri {
        svg.raw(&format!(
            r#"<image href="{uri}" x="0" y="0" width="{}" height="{}" preserveAspectRatio="none"/>"#,
            Px(w),
            Px(h)
        ));
    }
    // An inner picture in pixels of the frame cuts off what lies outside.
    svg.raw(&format!(r#"<svg x="0" y="0" width="{}" height="{}" viewBox="0 0 {width_px} {height_px}">"#, Px(w), Px(h)));
    let others = own.iter().copied().filter(|r| r.role == Role::Other).take(MOST_OTHERS);
    let ensemble = || own.iter().copied().filter(|r| r.role != Role::Other);
    for roi in others.chain(ensemble()) {
        outline(&mut svg, roi);
    }
    svg.raw("</svg>");
    labels(&mut svg, &ensemble().collect::<Vec<_>>(), scale, (w, h));
    scale_bar(&mut svg, scale, width_px, h);
    Some(svg.finish())
}

fn outline(svg: &mut Svg, roi: &Roi) {
    let d = match &roi.shape {
        RoiShape::Pixels(pixels) => image::path_of_pixels(pixels),
        RoiShape::Outline(points) => image::path_of_outline(points),
    };
    let title = if roi.name.is_empty() {
        format!("ROI {}, {}", roi.id, role_name(roi.role))
    } else {
        format!("ROI {}, {}, {}", roi.id, roi.name, role_name(roi.role))
    };
    if !d.is_empty() {
        svg.raw(&format!(
            r#"<path class="roi roi-{}" d="{d}"><title>{}</title></path>"#,
            role_class(roi.role),
            escape(&title)
        ));
    }
}

/// Top, left, bottom and right of a ROI, in pixels of the frame.
fn bounds(roi: &Roi) -> Option<[f64; 4]> {
    let grow = |b: Option<[f64; 4]>, top: f64, left: f64, bottom: f64, right: f64| {
        let b = b.unwrap_or([top, left, bottom, right]);
        Some([b[0].min(top), b[1].min(left), b[2].max(bottom), b[3].max(right)])
    };
    match &roi.shape {
        RoiShape::Pixels(p) => p.iter().fold(None, |b, &[r, c]| {
            let (r, c) = (f64::from(r), f64::from(c));
            grow(b, r, c, r + 1.0, c + 1.0)
        }),
        RoiShape::Outline(p) => p.iter().filter(|p| p[0].is_finite() && p[1].is_finite()).fold(None, |b, &[r, c]| {
            let (r, c) = (f64::from(r), f64::from(c));
            grow(b, r, c, r, c)
        }),
    }
}

/// Sets each label at the side of its ROI that is free of other labels and ROIs.
fn labels(svg: &mut Svg, rois: &[&Roi], scale: f64, (w, h): (f64, f64)) {
    let boxes: Vec<Option<[f64; 4]>> = rois.iter().map(|roi| bounds(roi).map(|b| b.map(|v| v * scale))).collect();
    let mut taken: Vec<[f64; 4]> = boxes.iter().flatten().copied().collect();
    for (roi, b) in rois.iter().zip(&boxes) {
        let Some([top, left, bottom, right]) = *b else { continue };
        let text = roi.id.to_string();
        let (tw, th) = (8.4 * text.len() as f64 + 2.0, 13.0);
        let (mid_x, mid_y) = ((left + right - tw) / 2.0, (top + bottom - th) / 2.0);
        let places = [
            [top - th - 2.0, right - 2.0],
            [mid_y, right + 3.0],
            [bottom - 1.0, right - 2.0],
            [top - th - 2.0, mid_x],
            [bottom + 2.0, mid_x],
            [mid_y, left - tw - 3.0],
            [top - th - 2.0, left - tw],
            [bottom - 1.0, left - tw],
        ];
        let cost = |p: &[f64; 2]| {
            let me = [p[0], p[1], p[0] + th, p[1] + tw];
            let outside = me[0] < 2.0 || me[1] < 2.0 || me[2] > h - 2.0 || me[3] > w - 2.0;
            taken.iter().map(|t| overlap(t, &me)).sum::<f64>() + if outside { 1e4 } else { 0.0 }
        };
        let Some(best) = places.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))) else { continue };
        taken.push([best[0], best[1], best[0] + th, best[1] + tw]);
        let class = format!("roi-label roi-{}", role_class(roi.role));
        svg.text(&class, best[1] + 1.0, best[0] + th - 2.0, &text);
    }
}

fn overlap(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let rows = a[2].min(b[2]) - a[0].max(b[0]);
    let columns = a[3].min(b[3]) - a[1].max(b[1]);
    if rows > 0.0 && columns > 0.0 { rows * columns } else { 0.0 }
}

/// A bar of a round number of pixels under the image: the page knows no micrometres.
fn scale_bar(svg: &mut Svg, scale: f64, width_px: f64, bottom: f64) {
    let sizes = [200.0, 100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0];
    let length = sizes.into_iter().find(|l| *l <= width_px * 0.25).unwrap_or(1.0);
    let mut d = String::new();
    let _ = write!(d, "M0 {}h{}", Px(bottom + 13.0), Px(length * scale));
    svg.path("bar", &d);
    svg.text("tick", length * scale + 8.0, bottom + 17.0, &format!("{length} pixels"));
}
