"""The engine's complaints; this file imports no torch, so that who catches them need not either."""


class SetupError(Exception):
    """The wanted device, precision or tracker is not to be had here; the message is one line for the user."""


class CheckpointError(Exception):
    """A file that is no checkpoint, or not one of this model; the message is one line for the user."""


class OutOfMemory(Exception):
    """Of the machine or of its GPU; the message is one line for the user."""

    @staticmethod
    def words(error: BaseException) -> str:
        """What a library said, in short."""
        first = str(error).strip().partition("\n")[0]
        return f"out of memory ({first[:160]})" if first else "out of memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library's error means that; torch has one for GPUs alone."""
    said = str(error).lower()
    causes = (
        *("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc"),
        "storage size calculation overflowed",  # a tensor of more than 2^63 bytes
        "failed to map segment",  # of a library that is being loaded
    )
    return isinstance(error, MemoryError) or any(cause in said for cause in causes)


class LostProcess(Exception):
    """Another process of the training has ended, or does not answer; the message is one line for the user."""


def is_lost_process(error: BaseException) -> bool:
    """Whether gloo's error means that; torch raises a RuntimeError for it."""
    said = str(error)
    return any(
        cause in said for cause in ("Timed out waiting", "Connection closed by peer", "Connection reset by peer")
    )


class NonFinite(Exception):
    """Numbers that must be finite are not; the message is one line for the user."""

    @classmethod
    def given_by_model(cls, what: str) -> "NonFinite":
        """Of a loaded model, whose weights themselves are finite: reading checks that."""
        return cls(f"the model gives nan or infinite {what}: its weights are broken, or too large for the precision")


class NonFiniteLoss(NonFinite):
    """The loss or its gradient is nan or infinite; the message says where, and what to go back to and try."""
