"""What the record costs a live session: latency of decisions with pixels kept, against without, in pairs.

    python benches/record_cost.py MOVIE.tif ROIS [PAIRS] [SECONDS]

Plays the recording at 30 frames/s over gRPC into a service of its own, once with `record.frames = "none"` and once with
`"all"`, alternately, and prints the latency from a frame's last byte to its decision, of each run and of all together.
The first 300 frames of a run (its baseline) are left out. Needs target/release/apical.
"""

import csv
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

APICAL = pathlib.Path(__file__).resolve().parents[1] / "target" / "release" / "apical"


def run(movie: str, rois: str, frames: str, folder: pathlib.Path, name: str) -> list[float]:
    session = folder / name
    command = [APICAL, "--json", "replay", movie, "--rois", rois, "--fps", "30", "--baseline-frames", "300"]
    command += ["--set", f'record.frames="{frames}"', "--set", "record.report=false", "--session-dir", session]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert done["frames_skipped"] == 0, done
    tables = folder / f"{name}-tables"
    subprocess.run([APICAL, "export", session, "--csv", tables], check=True, capture_output=True)
    with (tables / "frames.csv").open() as file:
        latencies = [float(row["latency_us"]) for row in csv.DictReader(file) if row["latency_us"]]
    return latencies[300:]


def quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


def main() -> None:
    movie, rois = sys.argv[1:3]
    pairs = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    together: dict[str, list[float]] = {"none": [], "all": []}
    ratios = []
    print("pair  frames      median us     99 % us")
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(pairs):
            medians = {}
            for frames in ("none", "all") if pair % 2 == 0 else ("all", "none"):
                values = run(movie, rois, frames, pathlib.Path(folder), f"{frames}-{pair}")
                together[frames] += values
                medians[frames] = statistics.median(values)
                print(f"{pair:4}  {frames:6} {medians[frames]:12.0f} {quantile(values, 0.99):12.0f}", flush=True)
            ratios.append(medians["all"] / medians["none"])
    for q, name in ((0.5, "median"), (0.99, "99 %")):
        none, kept = (quantile(together[frames], q) for frames in ("none", "all"))
        print(f"{name}: {none:.0f} us without pixels, {kept:.0f} us with: {100 * (kept / none - 1):+.1f} %")
    print(f"median of the pairs' ratios at the median: {100 * (statistics.median(ratios) - 1):+.1f} %")


main()
