"""Reads a session with mcap alone, and compares every number with `apical export`.

    python test_record.py SESSION TABLES HASHES

SESSION is a session's directory, TABLES what `apical export SESSION --csv TABLES` wrote, HASHES a file with one line for
each frame whose pixels were kept: its index and the SHA-256 of its pixels as little-endian int32.
"""

import csv
import hashlib
import math
import sys
from pathlib import Path

# The module alone: it needs neither the stubs nor grpcio.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src" / "apical_client"))

from record import frames, records  # noqa: E402

FRAME_KINDS = (1, 2)


def same(a: float, text: str) -> bool:
    if text == "":
        return math.isnan(a)
    return a == float(text)


def main() -> None:
    session, tables, hashes = map(Path, sys.argv[1:4])
    activity = list(csv.DictReader((tables / "activity.csv").open()))
    rows = list(csv.DictReader((tables / "frames.csv").open()))
    events = list(csv.DictReader((tables / "events.csv").open()))
    decided, told, kinds = [], [], {}
    for topic, record in records(session, ["/inputs", "/decisions", "/events"]):
        if topic == "/inputs":
            kinds[record.input_seq] = record.kind
        elif topic == "/decisions":
            if kinds[record.input_seq] in FRAME_KINDS and len(record.f_counts):
                decided.append(record)
        else:
            told.append(record)
    by_frame = {int(row["frame"]): row for row in rows}
    traces = {int(row["frame"]): row for row in activity}
    assert decided, "no decision was read"
    compared = 0
    for record in decided:
        row, trace = by_frame[record.frame_index], traces[record.frame_index]
        assert int(row["device_ns"]) == record.device_ns
        for name, value in (("cursor", record.cursor), ("rotation_deg", record.rotation_deg)):
            assert same(value, row[name]), (record.frame_index, name, value, row[name])
        if record.has_pixels:
            for name, value in (("dy_px", record.dy_px), ("dx_px", record.dx_px), ("score", record.score)):
                assert same(value, row[name]), (record.frame_index, name, value, row[name])
        lists = {
            "F": record.f_counts,
            "Fneu": record.f_neuropil_counts,
            "f0": record.f0_counts,
            "dff": record.dff,
            "z": record.z,
        }
        for prefix, values in lists.items():
            for roi, value in enumerate(values):
                name = f"{prefix}_{roi}"
                assert same(value, trace[name]), (record.frame_index, name, value, trace[name])
                compared += 1
    assert compared > 0, f"no trace was compared; columns: {list(activity[0])[:8]}"
    assert [e.frame_index for e in told] == [int(e["frame"]) for e in events]
    assert all(same(e.value, row["value"]) for e, row in zip(told, events))

    expected = dict(line.split() for line in hashes.read_text().splitlines())
    seen = {str(i): hashlib.sha256(image.astype("<i4").tobytes()).hexdigest() for i, image in frames(session)}
    assert seen == expected, f"{len(seen)} frames read, {len(expected)} expected"
    print(f"{len(decided)} decisions, {compared} numbers of traces, {len(told)} events, {len(seen)} frames agree")


main()
