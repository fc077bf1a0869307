"""Checksums by which a file that was damaged is told from a whole one."""

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor

from my_custom_ai.custom_train.errors import CheckpointError
from my_custom_ai.utils.files import content_digest, write_text

SUMS = "SHA256SUMS"  # beside files that cannot hold their own; ``sha256sum -c`` reads it too


def tensors_digest(tensors: dict[str, Tensor], note: str) -> str:
    """SHA-256 of names, dtypes, shapes and values, and of a note; in which order they are in a file does not matter."""
    digest = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_sums(folder: Path, names: list[str], *, to: Path | None = None) -> None:
    """Write the checksums of files in a folder beside them, or to another file."""
    text = "".join(f"{content_digest(folder / name)}  {name}\n" for name in sorted(names))
    write_text(to or folder / SUMS, text)


def agrees_with_sums(path: Path) -> bool:
    """Whether the folder's SHA256SUMS has a checksum of this file, which must then be right.

    Raises:
        CheckpointError: it is wrong.
    """
    sums = path.with_name(SUMS)
    if not sums.is_file():
        return False
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
    found = {match[2]: match[1] for line in lines if (match := re.fullmatch(r"([0-9a-f]{64})  (.+)", line))}
    if len(found) < len(lines):
        raise CheckpointError(f"{sums}: damaged, or not as sha256sum writes it")
    if path.name in found and content_digest(path) != found[path.name]:
        raise CheckpointError(f"{path}: damaged or changed: its checksum is not that in {SUMS}; copy it anew")
    return path.name in found
