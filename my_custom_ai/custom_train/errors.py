"""The engine's complaints; this file imports no torch, so that who catches them need not either."""


class SetupError(Exception):
    """The wanted device, precision or tracker is not to be had here; the message is one line for the user."""


class CheckpointError(Exception):
    """A file that is no checkpoint, or not one of this model; the message is one line for the user."""


class NonFinite(Exception):
    """Numbers that must be finite are not; the message is one line for the user."""


class NonFiniteLoss(NonFinite):
    """The loss or its gradient is nan or infinite; the message says where, and what to go back to and try."""
