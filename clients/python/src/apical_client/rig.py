"""The rig: its session is created, steered and watched from here."""

import getpass
import time
import uuid

import grpc
import numpy as np

from . import __version__, v1
from .errors import RigError
from .streams import PIXEL_TYPES, FrameStream, ValuesStream

__all__ = ["Rig", "RigError", "Subscription", "disc"]

MESSAGE_BYTES_MAX = 64 << 20
# A command that got no answer is sent again with its key, which does nothing twice.
ATTEMPTS = 3
UNANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def disc(row, col, radius):
    """The pixels (rows, cols) of a disc; for ROIs that are given by their centres."""
    reach = int(np.ceil(radius))
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = dy**2 + dx**2 <= radius**2
    return dy[inside] + round(row), dx[inside] + round(col)


class Subscription:
    """Messages as they come: iterate over it; ``close`` it, or use it in a ``with`` block, to be rid of it."""

    def __init__(self, call):
        self._call = call
        try:
            # The headers come when the subscription is in force: nothing from now on is missed.
            call.initial_metadata()
        except grpc.RpcError as error:
            raise RigError.of(error) from None
        if call.done() and call.code() != grpc.StatusCode.OK:
            raise RigError(call.code(), call.details() or "")

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._call)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.CANCELLED:
                raise StopIteration from None
            raise RigError.of(error) from None

    def close(self):
        """No more messages."""
        self._call.cancel()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Rig:
    """A running service, as ``operator`` sees it.

    Every command returns the service's answer; its ``effect`` says at which input of the session it took effect. Every
    command makes a key of its own, so that one whose answer was lost can be sent again; ``key`` gives one by hand. What
    the service refuses is raised as a ``RigError`` that says what was expected.
    """

    def __init__(self, address="127.0.0.1:50051", operator=None, timeout_s=30.0):
        self.operator = operator or getpass.getuser()
        self.timeout_s = timeout_s
        size = ("grpc.max_send_message_length", "grpc.max_receive_message_length")
        self._channel = grpc.insecure_channel(address, options=[(name, MESSAGE_BYTES_MAX) for name in size])
        self._session = v1.SessionServiceStub(self._channel)
        self._ingest = v1.IngestServiceStub(self._channel)
        self._feedback = v1.FeedbackServiceStub(self._channel)
        self._events = v1.EventsServiceStub(self._channel)
        self._activity = v1.ActivityServiceStub(self._channel)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Closes the connection; the session goes on."""
        self._channel.close()

    # Before the stream.

    def create(self, config_toml="", set=(), name="", key=None):
        """Makes a session from a rig.toml (its text; empty: the service's own) and overrides such as
        ``"task.trial_frames=150"``. The answer names its directory on the service's machine."""
        q = v1.CreateSessionRequest(config_toml=config_toml, set=list(set), name=name)
        return self._command(self._session.CreateSession, q, key)

    def upload_rois(self, rois, height, width, names=(), reference=None, plane=0, key=None):
        """Gives the ROIs; the first has id 0. An ROI is a height x width mask (non-zero values are weights), or a pair
        (rows, cols), or a triple (rows, cols, weights). ``reference``: the mean image that they were drawn on."""
        q = v1.UploadRoisRequest(height_px=height, width_px=width)
        for number, roi in enumerate(rois):
            rows, cols, weights = _pixels_of(roi, height, width)
            name = names[number] if number < len(names) else f"roi{number}"
            q.rois.add(name=name, plane=plane, rows_px=rows, cols_px=cols, weights=weights)
        if reference is not None:
            image = np.asarray(reference, dtype=np.float32)
            q.reference.height_px, q.reference.width_px = image.shape
            q.reference.values_counts.extend(image.ravel())
        return self._command(self._session.UploadRois, q, key)

    def set_ensembles(self, plus, minus=(), key=None):
        """Chooses P+ and P- by ROI ids; before the stream opens, or between baseline and task."""
        q = v1.SetEnsemblesRequest(plus=list(plus), minus=list(minus))
        return self._command(self._session.SetEnsembles, q, key)

    # Frames.

    def open_stream(
        self,
        height,
        width,
        dtype="uint16",
        frame_rate_hz=30.0,
        planes=1,
        channels=1,
        stream_id="frames",
        rig="",
        detector_offset_counts=None,
        inverted=False,
        scan=None,
        on_ack=None,
    ):
        """Opens the session's stream of frames; use it in a ``with`` block. ``on_ack`` is called with every
        acknowledgement, on the thread that takes them."""
        pixel_type = PIXEL_TYPES.get(np.dtype(dtype))
        if pixel_type is None:
            raise ValueError(f"dtype {np.dtype(dtype)}, expected uint8, uint16 or int16")
        header = v1.StreamHeader(
            rig=rig,
            stream_id=stream_id,
            planes=planes,
            channels=channels,
            height_px=height,
            width_px=width,
            pixel_type=pixel_type,
            frame_rate_hz=frame_rate_hz,
            scan=scan,
            detector_offset_counts=detector_offset_counts,
            inverted=inverted,
            adapter=f"apical-client {__version__} (Python)",
        )
        return FrameStream(self._ingest, header, dtype, on_ack)

    def open_values(self, roi_count, frame_rate_hz=30.0, stream_id="values", rig="", on_ack=None):
        """Opens the session's stream of ROI values that the microscope has integrated."""
        adapter = f"apical-client {__version__} (Python)"
        header = v1.RoiValuesHeader(rig=rig, stream_id=stream_id, roi_count=roi_count, adapter=adapter)
        header.frame_rate_hz = frame_rate_hz
        return ValuesStream(self._ingest, header, on_ack)

    # Commands.

    def start_baseline(self, key=None):
        """Starts the baseline with the next frame; the answer says how many frames it takes."""
        return self._command(self._session.StartBaseline, v1.StartBaselineRequest(), key)

    def calibrate(self, key=None):
        """Finds threshold and range from the baseline."""
        return self._command(self._session.Calibrate, v1.CalibrateRequest(), key)

    def start_task(self, accept_template=False, key=None):
        """Starts the first trial with the next frame."""
        return self._command(self._session.StartTask, v1.StartTaskRequest(accept_template=accept_template), key)

    def pause(self, key=None):
        """Lets the trial stand still; the screen is grey."""
        return self._command(self._session.Pause, v1.PauseRequest(), key)

    def resume(self, key=None):
        """Goes on where the trial stood."""
        return self._command(self._session.Resume, v1.ResumeRequest(), key)

    def manual_reward(self, key=None):
        """Gives a reward by hand, within the limits."""
        return self._command(self._session.ManualReward, v1.ManualRewardRequest(), key)

    def change_threshold(self, threshold, range_low=None, key=None):
        """Sets the threshold, and the low end of the range, by hand."""
        q = v1.ChangeThresholdRequest(threshold=threshold, range_low=range_low)
        return self._command(self._session.ChangeThreshold, q, key)

    def stop(self, key=None):
        """Ends the session: outputs safe, journal closed, report written."""
        return self._command(self._session.Stop, v1.StopRequest(), key)

    def abort(self, key=None):
        """Outputs to their safe state at once, past every queue; the session ends."""
        return self._command(self._session.Abort, v1.AbortRequest(), key)

    # What there is to see.

    def state(self):
        """The whole state as it stands now."""
        try:
            return self._session.GetState(v1.GetStateRequest(), timeout=self.timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            raise RigError.of(error) from None

    def feedback(self, changes_only=False):
        """What the animal is to see and hear, decision by decision, from now on."""
        return Subscription(self._feedback.SubscribeFeedback(v1.SubscribeFeedbackRequest(changes_only=changes_only)))

    def events(self, from_seq=0):
        """What happened, from event number ``from_seq`` on, and then as it happens."""
        return Subscription(self._events.SubscribeEvents(v1.SubscribeEventsRequest(from_event_seq=from_seq)))

    def activity(self, max_rate_hz=0.0, rois=()):
        """F, F0, dF/F and z of the ROIs (empty: all), at most so often a second (0: every frame)."""
        q = v1.SubscribeActivityRequest(max_rate_hz=max_rate_hz, rois=list(rois))
        return Subscription(self._activity.SubscribeActivity(q))

    def preview(self, kind="mean"):
        """An image, in detector counts: ``mean`` (the template), ``last`` or ``registered``."""
        value = v1.PreviewKind.Value(f"PREVIEW_KIND_{kind.upper()}")
        try:
            image = self._activity.GetPreview(v1.GetPreviewRequest(kind=value), timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise RigError.of(error) from None
        return np.array(image.values_counts, dtype=np.float32).reshape(image.height_px, image.width_px)

    def _command(self, method, request, key):
        request.command.idempotency_key = key or str(uuid.uuid4())
        request.command.operator_name = self.operator
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return method(request, timeout=self.timeout_s)
            except grpc.RpcError as error:
                if error.code() not in UNANSWERED or attempt == ATTEMPTS:
                    raise RigError.of(error) from None
                time.sleep(0.2 * attempt)


def _pixels_of(roi, height, width):
    if isinstance(roi, (tuple, list)) and len(roi) in (2, 3):
        rows, cols = (np.asarray(axis).ravel() for axis in roi[:2])
        weights = np.asarray(roi[2], dtype=np.float32).ravel() if len(roi) == 3 else ()
        return rows, cols, weights
    mask = np.asarray(roi)
    if mask.shape != (height, width):
        raise ValueError(f"mask of {mask.shape}, expected {(height, width)}, or a pair (rows, cols)")
    rows, cols = np.nonzero(mask)
    return rows, cols, () if mask.dtype == bool else mask[rows, cols].astype(np.float32)
