"""Every message, enum and stub of the service's interface, under one name: ``v1.Frame``, ``v1.TRIAL_STATE_HIT``."""

try:
    from .stubs.apical.v1.activity_pb2 import *  # noqa: F403
    from .stubs.apical.v1.activity_pb2_grpc import ActivityServiceStub  # noqa: F401
    from .stubs.apical.v1.events_pb2 import *  # noqa: F403
    from .stubs.apical.v1.events_pb2_grpc import EventsServiceStub  # noqa: F401
    from .stubs.apical.v1.feedback_pb2 import *  # noqa: F403
    from .stubs.apical.v1.feedback_pb2_grpc import FeedbackServiceStub  # noqa: F401
    from .stubs.apical.v1.ingest_pb2 import *  # noqa: F403
    from .stubs.apical.v1.ingest_pb2_grpc import IngestServiceStub  # noqa: F401
    from .stubs.apical.v1.session_pb2 import *  # noqa: F403
    from .stubs.apical.v1.session_pb2_grpc import SessionServiceStub  # noqa: F401
except ModuleNotFoundError as missing:
    if "stubs" not in (missing.name or ""):
        raise
    raise ImportError("the gRPC stubs are not there; make them with: python -m apical_client.generate") from missing
