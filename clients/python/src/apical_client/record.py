"""Reads a session's directory without apical: records of the journal, and the pixels where they were kept.

    for topic, record in records("sessions/rig-20260430-142501", ["/decisions"]):
        print(record.frame_index, list(record.dff))
    for index, image in frames("sessions/rig-20260430-142501"):
        ...                                   # numpy, rows x columns, detector counts

Needs the packages `mcap` and `mcap-protobuf-support` (the extra `record` of this package). A file that a crash left
unfinished gives everything up to its last whole block; a damaged block raises an error (of `mcap` or `lz4`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

_UNFINISHED = ("EndOfFile", "RecordLengthLimitExceeded")


def _files(directory: str | Path, kind: str) -> list[Path]:
    found = sorted(Path(directory).glob(f"{kind}-[0-9][0-9][0-9]*.mcap"))
    if not found:
        raise FileNotFoundError(f"{directory}: no {kind}-000.mcap here, expected a session's directory")
    return found


def _messages(path: Path, topics: Iterable[str] | None) -> Iterator[tuple[str, object]]:
    from mcap.exceptions import McapError
    from mcap.reader import NonSeekingReader
    from mcap_protobuf.decoder import DecoderFactory

    wanted = list(topics) if topics is not None else None
    with path.open("rb") as file:
        reader = NonSeekingReader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        messages = reader.iter_decoded_messages(topics=wanted, log_time_order=False)
        while True:
            try:
                _, channel, _, record = next(messages)
            except StopIteration:
                return
            except McapError as error:
                # The tail of a crash ends early; anything else is damage.
                if type(error).__name__ in _UNFINISHED:
                    return
                raise
            yield channel.topic, record


def records(directory: str | Path, topics: Iterable[str] | None = None) -> Iterator[tuple[str, object]]:
    """Topic and record, in the order in which they were written, over all segments.

    Topics and their messages stand in `proto/apical/v1/journal.proto`; none: all of them.
    """
    for path in _files(directory, "journal"):
        yield from _messages(path, topics)


def image(record: object) -> np.ndarray:
    """The pixels of a `FrameRecord`, in detector counts.

    A whole frame has the shape (rows, columns). Where only boxes were kept, pixels outside them are masked
    (`numpy.ma.MaskedArray`).
    """
    shape = (record.height_px, record.width_px)
    patches = list(record.patches)
    count = sum(p.height_px * p.width_px for p in patches) if patches else shape[0] * shape[1]
    planes = np.frombuffer(record.planes, np.uint8).reshape(record.bits, -1) if record.bits else np.empty((0, 0), np.uint8)
    values = np.full(count, record.base_counts, np.int32)
    for place, plane in enumerate(planes):
        values += np.unpackbits(plane)[:count].astype(np.int32) << (record.bits - 1 - place)
    if not patches:
        return values.reshape(shape)
    whole = np.ma.masked_all(shape, np.int32)
    at = 0
    for p in patches:
        size = p.height_px * p.width_px
        box = values[at : at + size].reshape(p.height_px, p.width_px)
        whole[p.row_px : p.row_px + p.height_px, p.col_px : p.col_px + p.width_px] = box
        at += size
    return whole


def frames(directory: str | Path) -> Iterator[tuple[int, np.ndarray]]:
    """Index and pixels of every frame that was kept, in order (see `image`)."""
    for path in _files(directory, "pixels"):
        for _, record in _messages(path, ["/frames"]):
            yield record.frame_index, image(record)
