"""The engine's exceptions. This file imports no torch, so that code that catches them need not either."""


class SetupError(Exception):
    """The requested device, precision or tracker is not available; the message is one line for the user."""


class CheckpointError(Exception):
    """A file is not a checkpoint, or not one of this model; the message is one line for the user."""


class OutOfMemory(Exception):
    """The machine or its GPU ran out of memory; the message is one line for the user."""

    @staticmethod
    def words(error: BaseException) -> str:
        """A short version of a library's message."""
        first = str(error).strip().partition("\n")[0]
        return f"out of memory ({first[:160]})" if first else "out of memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library's error means out of memory; PyTorch has an exception class for it on GPUs only."""
    said = str(error).lower()
    causes = (
        *("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "bad_alloc"),
        "storage size calculation overflowed",  # a tensor of more than 2^63 bytes
        "failed to map segment",  # while a shared library is loaded
    )
    return isinstance(error, MemoryError) or any(cause in said for cause in causes)


class LostProcess(Exception):
    """Another process of the training has ended or does not respond; the message is one line for the user."""


def is_lost_process(error: BaseException) -> bool:
    """Whether an error of gloo, which PyTorch raises as RuntimeError, means that another process was lost."""
    said = str(error)
    return any(
        cause in said for cause in ("Timed out waiting", "Connection closed by peer", "Connection reset by peer")
    )


class NonFinite(Exception):
    """Numbers that must be finite are not; the message is one line for the user."""

    @classmethod
    def given_by_model(cls, what: str) -> "NonFinite":
        """For a loaded model, whose weights are known to be finite, since loading checks that."""
        return cls(f"the model returns nan or infinite {what}: its weights are broken, or too large for the precision")


class NonFiniteLoss(NonFinite):
    """The loss or its gradient is nan or infinite; the message names the step, the last good state, and remedies."""
