"""Pictures in shards: tar archives in the form of webdataset, and Parquet files, which are unpacked into such archives.

A sample of webdataset is a group of neighbouring files whose paths are equal up to the first dot of their names: here a
picture, and its class in a file that ends in ``.cls``.
"""

import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dl_proj.experiments.images.decoding import Encoded
from dl_proj.experiments.images.parquet_shards import unpacked
from dl_proj.experiments.images.picture_parts import SUFFIXES, Part, Pictures, counts, say, some
from dl_proj.experiments.images.sources import is_system
from dl_proj.settings.errors import ConfigError

CLASS_NAMES = "classes.txt"  # in the folder of the shards: a name per line, for classes that are numbers from 0 on
_CLASS = "cls"
_LONGEST_CLASS = 1000  # bytes
_PART_NAMES = {"train": ("train",), "test": ("test",), "val": ("val", "validation")}
_PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")


@dataclass
class Samples:
    """The samples of a part: which shard has the picture, where in it, and the texts of the classes."""

    shards: list[Path] = field(default_factory=list)
    shard_of: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


class ShardPictures(Pictures):
    """Pictures in uncompressed archives, each read from its place.

    Args:
        part: the part's name.
        samples: what was found.
        labels: (n,) indices of all classes.
    """

    def __init__(self, part: str, samples: Samples, labels: Sequence[int]) -> None:
        shards = samples.shards
        names = zip(samples.shard_of, samples.names, strict=True)
        super().__init__((f"{part}/{shards[shard].name}/{name}" for shard, name in names), labels)
        self._shards = shards
        self._shard_of, self._starts, self._sizes = map(np.array, (samples.shard_of, samples.starts, samples.sizes))

    def __getitem__(self, index: int) -> Encoded:
        """See Pictures."""
        with self._shards[self._shard_of[index]].open("rb") as shard:
            shard.seek(self._starts[index])
            return Encoded(str(self.names[index]), shard.read(self._sizes[index]))

    def files(self) -> Iterator[Path]:
        """See Pictures."""
        return iter(self._shards)


def find_in_shards(root: Path, cache: Path) -> dict[str, Samples]:
    """Find the shards of train, test and, if there are any, val: files in a folder of that name, or that begin with it.

    Files that are neither pictures nor classes are counted on standard error.

    Args:
        root: folder of the shards; validation may also be called ``validation``.
        cache: folder for what is unpacked from Parquet.

    Raises:
        ConfigError: no shards for train or test, an archive that is damaged or compressed, or a sample without a
            picture or a class.
    """
    found = {}
    for part, names in _PART_NAMES.items():
        if files := _shards_of(root, names):
            found[part] = index(
                [unpacked(file, cache) if file.suffix.lower() == ".parquet" else file for file in files]
            )
        elif part != "val":
            raise ConfigError(
                f"data.root: {root} must contain .tar or .parquet files in {part}/ or called {part}-*; there are none"
            )
    if others := sum((samples.others for samples in found.values()), Counter()):
        say(f"{root}: skipped {counts(others)} in shards; pictures end in {', '.join(SUFFIXES)}, classes in .{_CLASS}")
    return found


def _shards_of(root: Path, names: tuple[str, ...]) -> list[Path]:
    folders = [root / name for name in names if (root / name).is_dir()]
    if len(folders) > 1:
        raise ConfigError(f"data.root: {folders[0]} and {folders[1]} are the same part; remove one")
    pattern = re.compile(rf"({'|'.join(names)})([^a-z].*)?\.(tar|parquet)([.]\w+)?", re.IGNORECASE)
    here = [path for path in _files_in(root) if pattern.fullmatch(path.name)]
    files = here + [path for folder in folders for path in _files_in(folder)]
    if packed := [path for path in files if path.suffix.lower() in _PACKED]:
        raise ConfigError(
            f"data.root: {packed[0]} is compressed, so its pictures cannot be read from their places; decompress it"
        )
    shards = [path for path in files if path.suffix.lower() in (".tar", ".parquet")]
    if gone := [path for path in shards if not path.is_file()]:
        raise ConfigError(f"data.root: {gone[0]} is a link to a missing file")
    return shards


def _files_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    here = (path for path in folder.iterdir() if path.is_file() or (path.is_symlink() and not path.exists()))
    return sorted(path for path in here if not is_system(path.name))


def index(shards: Iterable[Path]) -> Samples:
    """Read the headers of archives, and the classes.

    Raises:
        ConfigError: a damaged archive, or a sample without a picture or a class, or with several.
    """
    found = Samples()
    for shard in shards:
        found.shards.append(shard)
        pictures: dict[str, tuple[str, int, int]] = {}
        classes: dict[str, str] = {}
        for key, ending, member, content in _members(shard, found.others):
            if ending == _CLASS:
                name = _class_name(content, shard, member.name)
                if classes.setdefault(key, name) != name:
                    raise ConfigError(f"data.root: {shard}: {key} has several classes: {some([classes[key], name])}")
            elif pictures.setdefault(key, where := (member.name, member.offset_data, member.size)) is not where:
                raise ConfigError(f"data.root: {shard}: {key} has several pictures: {pictures[key][0]}, {member.name}")
        if alone := sorted(pictures.keys() ^ classes.keys()):
            missing = "picture" if alone[0] in classes else f"class: add {alone[0]}.{_CLASS}"
            raise ConfigError(f"data.root: {shard}: {alone[0]} has no {missing}")
        for key, (name, start, size) in pictures.items():
            found.shard_of.append(len(found.shards) - 1)
            found.starts.append(start)
            found.sizes.append(size)
            found.names.append(name)
            found.classes.append(classes[key])
    return found


def _members(shard: Path, others: Counter[str]) -> Iterator[tuple[str, str, tarfile.TarInfo, bytes]]:
    """Yield the key, the ending, the header and, for a class, the content of each file; ``others`` are counted."""
    try:
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or every header would stay in memory
                folder, slash, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if member.isdir() or is_system(name):
                    continue
                is_class = ending == _CLASS and member.size <= _LONGEST_CLASS
                if not (is_class or f".{ending.lower()}" in SUFFIXES) or not member.isreg() or member.issparse():
                    others[f".{ending}" if ending else "without a suffix"] += 1
                    continue
                file = archive.extractfile(member) if is_class else None
                yield f"{folder}{slash}{stem}", ending, member, file.read() if file else b""
            # tarfile takes a damaged header for the end; a whole archive ends with zeros
            with shard.open("rb") as file:
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError(f"damaged at byte {archive.offset}")
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise ConfigError(f"data.root: {shard} is not a whole tar archive ({error}); copy or make it again") from None


def _class_name(content: bytes, shard: Path, name: str) -> str:
    text = content.decode(errors="replace").strip()
    if not text or not text.isprintable() or "\ufffd" in text:
        raise ConfigError(f"data.root: {shard}: {name} must be the name or number of a class (got {text[:40]!r})")
    return text


def classes_in(root: Path, train: Samples) -> tuple[str, ...]:
    """Return the names of all classes: those in ``classes.txt``, or else those in train, in order.

    Numbers are in numerical order, if all classes are numbers.

    Raises:
        ConfigError: ``classes.txt`` cannot be read, or has empty or repeated names.
    """
    path = root / CLASS_NAMES
    if not path.is_file():
        found = set(train.classes)
        numbers = all(re.fullmatch("[0-9]+", name) for name in found)
        return tuple(sorted(found, key=lambda name: (int(name), name)) if numbers else sorted(found))
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise ConfigError(f"data.root: {path} is not UTF-8") from None
    if not names or "" in names or len(set(names)) < len(names):
        raise ConfigError(f"data.root: {path} must have a different name in each line")
    return names


def as_parts(
    root: Path, found: dict[str, Samples], classes: tuple[str, ...], chosen: tuple[str, ...]
) -> dict[str, Part]:
    """Return the pictures with the indices of their classes.

    Args:
        root: folder of the shards.
        found: their samples.
        classes: names of all classes.
        chosen: classes that must be in train; those that another part lacks are reported on standard error.

    Raises:
        ConfigError: no samples, or a class that is unknown, or that train lacks.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    if (root / CLASS_NAMES).is_file():
        numbers = {str(number): number for number in range(len(classes))} | numbers
    parts = {}
    for part, samples in found.items():
        if unknown := sorted(set(samples.classes) - numbers.keys()):
            where = f"{root / CLASS_NAMES} lacks" if (root / CLASS_NAMES).is_file() else "train lacks"
            raise ConfigError(f"data.root: {root}: {part} has classes that {where}: {some(unknown)}")
        labels = [numbers[name] for name in samples.classes]
        if not labels:
            raise ConfigError(f"data.root: {root}: the shards of {part} have no samples")
        if absent := [name for name in chosen if numbers[name] not in set(labels)]:
            if part == "train":
                raise ConfigError(f"data.root: {root}: train has no pictures of {some(absent)}")
            say(f"{root}: {part} has no pictures of {some(absent)}: {part} figures do not cover them")
        parts[part] = Part(ShardPictures(part, samples, labels))
    return parts
