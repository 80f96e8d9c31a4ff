//! What differs before the first frame: configuration, stream, ROIs.

use std::collections::{BTreeMap, BTreeSet};

use super::{KeyDifference, RoiDifference};
use crate::proto::v1;

/// Keys that say how things are called and where they are, and change no decision: the ROIs themselves are compared.
const NAMES_AND_PLACES: [&str; 10] = [
    "rig.name",
    "rois.file",
    "record.",
    "service.",
    "software.",
    "stream.name",
    "engine.",
    "register.simd",
    "outputs.reward.device",
    "outputs.reward.port",
];

/// Keys of the configuration that differ.
pub(super) fn configuration(a: &v1::SessionHead, b: &v1::SessionHead) -> Vec<KeyDifference> {
    differing(&flat(&a.config_toml), &flat(&b.config_toml))
}

/// A configuration as dotted keys; one that is no TOML is a single value.
fn flat(text: &str) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    match text.parse::<toml::Table>() {
        Ok(table) => flatten("", &table, &mut keys),
        Err(_) => {
            keys.insert("(not TOML)".to_owned(), text.to_owned());
        }
    }
    keys
}

fn flatten(prefix: &str, table: &toml::Table, keys: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            toml::Value::Table(inner) => flatten(&format!("{key}."), inner, keys),
            other => {
                keys.insert(key, other.to_string());
            }
        }
    }
}

/// What differs in software and stream.
pub(super) fn rest(a: &v1::SessionHead, b: &v1::SessionHead) -> Vec<KeyDifference> {
    differing(&described(a), &described(b))
}

fn described(head: &v1::SessionHead) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    let mut put = |key: &str, value: String| {
        keys.insert(key.to_owned(), value);
    };
    put("software.version", head.version.clone());
    put("software.commit", head.commit.clone());
    match &head.stream {
        Some(v1::session_head::Stream::Pixels(h)) => {
            put("stream.kind", "pixels".to_owned());
            put("stream.height_px", h.height_px.to_string());
            put("stream.width_px", h.width_px.to_string());
            put("stream.pixel_type", h.pixel_type().as_str_name().to_owned());
            put("stream.planes", h.planes.max(1).to_string());
            put("stream.channels", h.channels.max(1).to_string());
            put("stream.frame_rate_hz", h.frame_rate_hz.to_string());
            put("stream.inverted", h.inverted.to_string());
            if let Some(counts) = h.detector_offset_counts {
                put("stream.detector_offset_counts", counts.to_string());
            }
            put("stream.name", format!("{}, {}, {}", h.rig, h.stream_id, h.adapter));
        }
        Some(v1::session_head::Stream::RoiValues(h)) => {
            put("stream.kind", "roi values".to_owned());
            put("stream.roi_count", h.roi_count.to_string());
            put("stream.frame_rate_hz", h.frame_rate_hz.to_string());
            put("stream.name", format!("{}, {}, {}", h.rig, h.stream_id, h.adapter));
        }
        None => put("stream.kind", "none".to_owned()),
    }
    keys
}

fn differing(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<KeyDifference> {
    let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let differ = keys.into_iter().filter(|key| a.get(*key) != b.get(*key));
    let told = differ.map(|key| KeyDifference {
        key: key.clone(),
        a: a.get(key).cloned(),
        b: b.get(key).cloned(),
        counts: !NAMES_AND_PLACES.iter().any(|name| match name.strip_suffix('.') {
            Some(_) => key.starts_with(name),
            None => key == name,
        }),
    });
    told.collect()
}

/// What differs in the ROIs: those of the same number are compared.
pub(super) fn rois(a: &v1::SessionHead, b: &v1::SessionHead) -> Vec<RoiDifference> {
    let nothing = v1::RoiSetRecord::default();
    let (a, b) = (a.rois.as_ref().unwrap_or(&nothing), b.rois.as_ref().unwrap_or(&nothing));
    let mut found = Vec::new();
    let mut set = |what: String| found.push(RoiDifference { roi: None, what });
    if a.rois.len() != b.rois.len() {
        set(format!("{} in A, {} in B", a.rois.len(), b.rois.len()));
    }
    let size = |r: &v1::RoiSetRecord| format!("{} x {}", r.height_px, r.width_px);
    if size(a) != size(b) {
        set(format!("drawn on frames of {} in A, {} in B", size(a), size(b)));
    }
    match (&a.reference, &b.reference) {
        (None, None) => {}
        (Some(x), Some(y)) => {
            let bits = |image: &v1::ReferenceImage| image.values_counts.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            if (x.height_px, x.width_px, bits(x)) != (y.height_px, y.width_px, bits(y)) {
                set("another reference image".to_owned());
            }
        }
        (x, _) => set(format!("a reference image in {} alone", if x.is_some() { "A" } else { "B" })),
    }
    for ((x, y), roi) in a.rois.iter().zip(&b.rois).zip(0..) {
        found.extend(roi_differs(x, y).map(|what| RoiDifference { roi: Some(roi), what }));
    }
    found
}

fn roi_differs(a: &v1::Roi, b: &v1::Roi) -> Option<String> {
    let mut what = Vec::new();
    if a.name != b.name {
        what.push(format!("named {:?} in A, {:?} in B", a.name, b.name));
    }
    if a.plane != b.plane {
        what.push(format!("in plane {} in A, {} in B", a.plane, b.plane));
    }
    let bits = |roi: &v1::Roi| roi.weights.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
    if a.rows_px != b.rows_px || a.cols_px != b.cols_px {
        what.push(format!("other pixels ({} in A, {} in B)", a.rows_px.len(), b.rows_px.len()));
    } else if bits(a) != bits(b) {
        what.push("other weights".to_owned());
    }
    if a.radius_px.to_bits() != b.radius_px.to_bits() {
        what.push(format!("radius {} px in A, {} in B", a.radius_px, b.radius_px));
    }
    (!what.is_empty()).then(|| what.join(", "))
}
