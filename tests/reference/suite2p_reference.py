#!/usr/bin/env python3
"""What suite2p's own extraction gives, for `tests/suite2p_reference.rs`.

    python3 -m venv v && v/bin/pip install suite2p==1.1.0
    v/bin/python tests/reference/suite2p_reference.py            writes suite2p.json beside it

ROIs that overlap, crowd and touch the frame's edges are made here, from a seed. suite2p.json holds them (pixels,
weights, radii), their annuli for several settings as runs [first pixel, length] with pixels counted row after row, and
F and Fneu on frames that both sides make from a formula. Numbers only, nothing of suite2p's code.
"""
import importlib.metadata
import json
import pathlib

import numpy as np
import torch
from suite2p.extraction.extract import extract_traces
from suite2p.extraction.masks import create_masks

HERE = pathlib.Path(__file__).resolve().parent
PINNED = {"suite2p": "1.1.0"}
HEIGHT, WIDTH, FRAMES = 96, 120, 5
# inner radius, least pixels, percentile of the weights
SETTINGS = [(2, 350, 50.0), (0, 40, 50.0), (3, 200, 0.0), (1, 120, 80.0), (5, 3000, 25.0)]


def cells(rng):
    """Blobs of 2 to 7 pixels' radius, crowded in one half, with weights in no common unit."""
    stats = []
    for k in range(30):
        row, col = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH if k % 3 == 0 else WIDTH / 2)
        long, short = rng.uniform(2, 5), rng.uniform(1.5, 3)
        angle, unit = rng.uniform(0, np.pi), rng.uniform(0.01, 3)
        y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
        u = (y - row) * np.cos(angle) + (x - col) * np.sin(angle)
        v = (x - col) * np.cos(angle) - (y - row) * np.sin(angle)
        weight = np.exp(-((u / long) ** 2 + (v / short) ** 2)) * rng.uniform(0.6, 1.4, y.shape)
        ypix, xpix = np.nonzero(weight > 0.25)
        if len(ypix) < 5:
            continue
        lam = (unit * weight[ypix, xpix]).astype(np.float32)
        stats.append({"ypix": ypix, "xpix": xpix, "lam": lam, "radius": float(np.round(rng.uniform(2, 6), 3))})
    mark_overlap(stats)
    stats = [s for s in stats if not s["overlap"].all()]
    mark_overlap(stats)
    return stats


def mark_overlap(stats):
    owners = np.zeros((HEIGHT, WIDTH), int)
    for s in stats:
        owners[s["ypix"], s["xpix"]] += 1
    for s in stats:
        s["overlap"] = owners[s["ypix"], s["xpix"]] > 1


def frame(t):
    """Values from 0 to 4,000 that no two pixels share by rule."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.int64)
    return (((y * 131 + x * 71 + y * x * 17 + t * 977) * (t + 3)) % 4001).astype(np.int16)


def runs(pixels):
    out = []
    for p in np.sort(pixels):
        if out and out[-1][0] + out[-1][1] == p:
            out[-1][1] += 1
        else:
            out.append([int(p), 1])
    return out


def main():
    for name, version in PINNED.items():
        assert importlib.metadata.version(name) == version, f"{name} {version} is pinned"
    stats = cells(np.random.default_rng(7))
    frames = np.stack([frame(t) for t in range(FRAMES)])
    out = {"made_with": PINNED, "height_px": HEIGHT, "width_px": WIDTH, "frames": FRAMES, "rois": [], "annuli": [], "f": []}
    for s in stats:
        pixels = [[int(y), int(x), float(w)] for y, x, w in zip(s["ypix"], s["xpix"], s["lam"])]
        out["rois"].append({"radius_px": s["radius"], "pixels": pixels})
    for inner, least, percentile in SETTINGS:
        masks = create_masks(stats, HEIGHT, WIDTH, lam_percentile=percentile, inner_neuropil_radius=inner,
                             min_neuropil_pixels=least)[1]
        setting = {"inner_px": inner, "min_pixels": least, "weight_percentile": percentile}
        out["annuli"].append(setting | {"runs": [runs(m) for m in masks]})
    for keep in (True, False):
        masks, annuli = create_masks(stats, HEIGHT, WIDTH, allow_overlap=keep)
        if keep:
            # suite2p 1.1.0 indexes with `...` here, which numpy gives back whole
            assert all(len(m[0]) == len(s["ypix"]) for m, s in zip(masks, stats))
        f, neuropil = extract_traces(frames, masks, annuli, device=torch.device("cpu"))
        both = {"f": np.float64(f).round(4).tolist(), "neuropil": np.float64(neuropil).round(4).tolist()}
        out["f"].append({"overlap": "keep" if keep else "leave_out"} | both)
    shared = sum(int(s["overlap"].sum()) for s in stats)
    print(f"{len(stats)} ROIs, {shared} of {sum(len(s['ypix']) for s in stats)} pixels shared")
    (HERE / "suite2p.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
