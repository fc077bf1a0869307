"""The same pictures as a folder per class, as tar shards in the form of webdataset, and as Parquet of the hub."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

CLASSES = ("cat", "dog")
SIZES = {"train": 9, "test": 4}  # pictures per class


def png(seed, size=8, suffix="PNG"):
    """The bytes of a picture of noise."""
    pixels = np.random.default_rng(seed).integers(256, size=(size, size + 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, suffix)
    return file.getvalue()


def samples(part):
    """Class, name and content of each picture, in the order of an image folder."""
    start = list(SIZES).index(part) * 100
    for number, name in enumerate(CLASSES):
        for i in range(SIZES[part]):
            yield name, f"{i:02d}", png(start + 50 * number + i)


def write_folder(root):
    for part in SIZES:
        for name, stem, content in samples(part):
            path = Path(root, part, name, f"{stem}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def write_tar(path, files):
    """An archive of (name, content)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def write_tars(root, per_shard=7):
    for part in SIZES:
        found = list(samples(part))
        for shard in range(0, len(found), per_shard):
            files = []
            for name, stem, content in found[shard : shard + per_shard]:
                files += [(f"{name}/{stem}.png", content), (f"{name}/{stem}.cls", name.encode())]
            write_tar(Path(root, part, f"{shard:06d}.tar"), files)


def write_parquet(path, rows, names=CLASSES):
    """As the hub writes them: a mapping of bytes and path, and numbers of classes whose names are in the metadata."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "image": pa.array(
                [{"bytes": content, "path": f"{stem}.png"} for _, stem, content in rows],
                pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            ),
            "label": pa.array([names.index(name) for name, _, _ in rows], pa.int64()),
        }
    )
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(metadata), path, row_group_size=3)


def write_parquets(root):
    for part in SIZES:
        found = list(samples(part))
        for shard, rows in enumerate((found[:5], found[5:])):
            write_parquet(Path(root, "data", f"{part}-{shard:05d}-of-00002.parquet"), rows)


WRITERS = {"folder": write_folder, "tar": write_tars, "parquet": write_parquets}


def write_pictures(kind):
    """Write ``pets`` and return the settings ``dataset`` and ``root``."""
    WRITERS[kind]("pets")
    return ("image_folder" if kind == "folder" else "image_shards"), Path("pets/data" if kind == "parquet" else "pets")
