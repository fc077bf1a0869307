"""Cases with a name, a length and a kind, and tables of them with one row per name and one column per length."""

import contextlib
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from my_transformers import kernels

Found = dict[tuple[str, int, str], dict[str, Any]]
"""(name, length, kind) -> the case's results."""


def key_of(name: str, length: int, kind: str) -> str:
    """The key of a case in the results."""
    return f"{name} / {length} / {kind}"


def parsed(cases: dict[str, dict[str, Any]]) -> Found:
    """The results' cases with their keys split into name, length and kind."""
    found = {}
    for key, case in cases.items():
        name, length, kind = key.rsplit(" / ", 2)
        found[name, int(length), kind] = case
    return found


@contextlib.contextmanager
def in_form(form: str) -> Iterator[None]:
    """Run our mechanisms with PyTorch's operators ("torch") or their "triton" kernels; also a decorator."""
    before = os.environ.get(kernels.VARIABLE)
    os.environ[kernels.VARIABLE] = form
    try:
        yield
    finally:
        if before is None:
            del os.environ[kernels.VARIABLE]
        else:
            os.environ[kernels.VARIABLE] = before


def free(device: torch.device) -> None:
    """Free memory that an earlier case left behind, perhaps because it failed."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def rows_by_length(
    found: Found, names: Iterable[str], kind: str, show: Callable[[dict[str, Any]], str | None]
) -> list[dict[str, str | None]]:
    """Rows of the names that have a case of this kind; ``show`` formats a case, and an error is shown as its cause."""
    lengths = sorted({length for _, length, of in found if of == kind})
    rows = []
    for name in names:
        cases = {length: found.get((name, length, kind)) for length in lengths}
        if any(cases.values()):
            cells = {f"{n:,}": None if case is None else cell(case, show) for n, case in cases.items()}
            rows.append({"": name, **cells})
    return rows


def cell(case: dict[str, Any], show: Callable[[dict[str, Any]], str | None]) -> str | None:
    """A formatted case, or in brief why it failed."""
    if "error" not in case:
        return show(case)
    cause = case["error"].partition(":")[0]
    return {"OutOfMemoryError": "out of memory", "ModuleNotFoundError": "not installed"}.get(cause, "failed")
