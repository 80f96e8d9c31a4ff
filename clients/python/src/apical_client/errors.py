"""What goes wrong, in the service's words."""

import grpc


class RigError(RuntimeError):
    """The service refused something, or cannot be reached. ``code`` is a ``grpc.StatusCode``; the text says what was
    expected."""

    def __init__(self, code, message):
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message

    @classmethod
    def of(cls, error):
        """From a ``grpc.RpcError``."""
        return cls(error.code(), error.details() or "")
