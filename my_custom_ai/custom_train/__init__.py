"""The training loop and its parts: devices, data order, schedules, optimisers, checkpoints, the run folder."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from my_custom_ai.custom_train.exports import *  # noqa: F403 (exactly its __all__)
else:

    def __getattr__(name: str) -> Any:
        """Load a public name from exports.py on first use, so that reading settings imports no torch (PEP 562)."""
        if not name.startswith("__") or name == "__all__":
            exports = import_module("my_custom_ai.custom_train.exports")
            if name == "__all__" or name in exports.__all__:
                return getattr(exports, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
