"""Checksums that detect damaged files."""

import hashlib
import re
from pathlib import Path

import torch
from torch import Tensor

from my_custom_ai.custom_train.errors import CheckpointError
from my_custom_ai.utils.files import content_digest, write_text

SUMS = "SHA256SUMS"  # checksums of files that cannot contain their own, in the format of ``sha256sum -c``


def tensors_digest(tensors: dict[str, Tensor], note: str) -> str:
    """SHA-256 of a note and of tensors' names, dtypes, shapes and values, independent of their order in a file."""
    digest = hashlib.sha256(note.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_sums(folder: Path, names: list[str], *, to: Path | None = None) -> None:
    """Write the checksums of files in a folder to its SHA256SUMS, or to the file ``to``."""
    text = "".join(f"{content_digest(folder / name)}  {name}\n" for name in sorted(names))
    write_text(to or folder / SUMS, text)


def agrees_with_sums(path: Path) -> bool:
    """Verify a file against the SHA256SUMS of its folder; False if that has no checksum of the file.

    Raises:
        CheckpointError: the checksum does not match, or SHA256SUMS is malformed.
    """
    sums = path.with_name(SUMS)
    if not sums.is_file():
        return False
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
    found = {match[2]: match[1] for line in lines if (match := re.fullmatch(r"([0-9a-f]{64})  (.+)", line))}
    if len(found) < len(lines):
        raise CheckpointError(f"{sums}: damaged, or not as sha256sum writes it")
    if path.name in found and content_digest(path) != found[path.name]:
        raise CheckpointError(f"{path}: damaged or changed: its checksum is not that in {SUMS}; copy the file again")
    return path.name in found
