"""Pictures of one's own: any kind of pixels is read as a viewer shows it; other files are left out or named."""

import json
import os
import re
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_scripts import as_yaml, assert_refused, tiny_classifier, tiny_generator

from dl_proj.experiments.images.data import load_images
from dl_proj.experiments.images.picture_folder import read_folder
from dl_proj.experiments.images.picture_parts import SUFFIXES
from dl_proj.experiments.images.sources import classes_of
from dl_proj.settings.errors import ConfigError

HERE = Path("pets")


def save(path, picture=7, **how):
    """A picture, or a grey one of 2 x 2 pixels, in its folder."""
    path = HERE / path
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("L", (2, 2), picture) if isinstance(picture, int) else picture
    picture.save(path, **how)
    return path


@pytest.fixture
def pets():
    """Two classes with two grey pictures to train on and one to test on each; a value says which picture it is."""
    for i, name in enumerate(("cat", "dog")):
        for part, values in (("train", (10, 20)), ("test", (30,))):
            for value in values:
                save(f"{part}/{name}/{value}.png", value + i)


def read(**how):
    usual = {"classes": ("cat", "dog"), "chosen": ("cat", "dog"), "side": 2, "greyscale": True}
    return read_folder(HERE, **usual | how)


def refusal(**how):
    with pytest.raises(ConfigError) as refused:
        read(**how)
    (line,) = refused.value.lines
    return line


def pixels_of(path, side, *, greyscale=False):
    """The picture at ``path``, the only one to test on that is called ``a``: (side, side, 3), or (side, side)."""
    files = sorted((HERE / "test/cat").iterdir())
    image = read(side=side, greyscale=greyscale)["test"][0][files.index(path)].numpy()
    return image[0] if greyscale else image.transpose(1, 2, 0)


# -- more than 8 bits a pixel --

WIDE = np.array([[0, 1, 128, 129], [255, 256, 257, 300], [32767, 32768, 40000, 65000], [65534, 65535, 385, 386]])


def eighths(values, white):
    """The nearest whole number to 255 v / white."""
    return np.array([[(2 * 255 * int(v) + white) // (2 * white) for v in row] for row in values])


def tiff(kind, values, *, bits=16, order="<", photometric=1, sample_format=1):
    """A TIFF of one grey strip, by its specification (version 6.0)."""
    height, width = values.shape
    data = values.astype(f"{order}{kind}").tobytes() if bits != 12 else packed_12_bits(values)
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height, 279: len(data)}
    tags |= {339: sample_format}
    short = {258, 259, 262, 277, 339}
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data)) + data
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        if tag in short
        else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in tags.items()
    )
    return head + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def packed_12_bits(values):
    bits = "".join(f"{v:012b}" for row in values for v in row)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


SIXTEEN_BITS = {
    "png": lambda path: Image.fromarray(WIDE.astype(np.uint16)).save(path),
    "tif": lambda path: Image.fromarray(WIDE.astype(np.uint16)).save(path),
    "tiff": lambda path: path.write_bytes(tiff("u2", WIDE, order=">")),
    "pgm": lambda path: path.write_bytes(b"P5\n4 4\n65535\n" + WIDE.astype(">u2").tobytes()),
}


@pytest.mark.parametrize("greyscale", [True, False])
@pytest.mark.parametrize("suffix", SIXTEEN_BITS)
def test_16_bits_become_8(suffix, greyscale, pets):
    path = HERE / f"test/cat/a.{suffix}"
    SIXTEEN_BITS[suffix](path)
    found = pixels_of(path, 4, greyscale=greyscale)
    expected = eighths(WIDE, 65535)
    np.testing.assert_array_equal(found, expected if greyscale else np.stack([expected] * 3, -1))


def test_12_bits_become_8(pets):
    values = np.array([[0, 8], [2048, 4095]])
    path = HERE / "test/cat/a.tif"
    path.write_bytes(tiff("u2", values, bits=12))
    np.testing.assert_array_equal(pixels_of(path, 2, greyscale=True), eighths(values, 4095))


def test_where_0_is_white(pets):
    path = HERE / "test/cat/a.tif"
    path.write_bytes(tiff("u2", WIDE, photometric=0))
    np.testing.assert_array_equal(pixels_of(path, 4, greyscale=True), 255 - eighths(WIDE, 65535))
    path.write_bytes(tiff("f4", WIDE / 65535, bits=32, sample_format=3, photometric=0))
    assert np.abs(pixels_of(path, 4, greyscale=True) - (255 - 255 * WIDE / 65535)).max() <= 0.51


def test_16_bits_taken_sideways(pets):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    path = save("test/cat/a.png", Image.fromarray(WIDE.astype(np.uint16)), exif=exif)
    np.testing.assert_array_equal(pixels_of(path, 4, greyscale=True), eighths(np.rot90(WIDE, -1), 65535))


def test_floats_from_0_to_1_are_scaled(pets):
    values = np.array([[0, 0.001], [0.5, 1]], dtype=np.float32)
    path = save("test/cat/a.tif", Image.fromarray(values))
    assert np.abs(pixels_of(path, 2, greyscale=True) - 255.0 * values).max() <= 0.5


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[0, 255]], dtype=np.float32), "its values are 0.0 to 255.0; floats must be from 0 to 1"),
        (np.array([[-1, 1]], dtype=np.float32), "its values are -1.0 to 1.0; floats must be from 0 to 1"),
        (np.array([[0, np.nan]], dtype=np.float32), "its values are nan to nan; floats must be from 0 to 1"),
        (np.array([[0, 70000]], dtype=np.int32), "its values are 32-bit or signed; must be unsigned"),
        (np.array([[0, 7]], dtype=np.int32), "its values are 32-bit or signed; must be unsigned"),
    ],
)
def test_numbers_whose_white_nobody_knows_are_refused(values, said, pets):
    save("test/cat/a.tif", Image.fromarray(values))
    assert refusal().startswith(f"data.root: pets/test/cat/a.tif cannot be read as a picture ({said}")


def test_a_signed_tiff_is_refused(pets):
    (HERE / "test/cat/a.tif").write_bytes(tiff("i2", WIDE // 2, sample_format=2))
    assert "its values are 32-bit or signed" in refusal()


# -- what is transparent --


def on_white(colours, alpha):
    """Colours (h, w, 3) or (h, w), alpha (h, w), 0 to 255, over white."""
    share = alpha / 255.0
    share = share[..., None] if colours.ndim == 3 else share
    return colours * share + 255 * (1 - share)


def mode_of(path):
    with Image.open(path) as file:
        return file.mode


def random(*shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


ALPHA = np.array([[0, 255, 0, 128], [1, 254, 64, 0], [0, 0, 255, 255], [200, 3, 0, 77]], dtype=np.uint8)
COLOURS, GREYS = random(4, 4, 3), random(4, 4)


def with_alpha(mode):
    if mode == "LA":
        return Image.merge("LA", [Image.fromarray(GREYS), Image.fromarray(ALPHA)]), np.stack([GREYS] * 3, -1)
    return Image.merge("RGBA", [*Image.fromarray(COLOURS).split(), Image.fromarray(ALPHA)]), COLOURS


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGBA", "png"), ("RGBA", "tif"), ("RGBA", "webp"), ("LA", "png"), ("LA", "tif")]
)
def test_alpha_shows_white(mode, suffix, pets):
    picture, colours = with_alpha(mode)
    path = save(f"test/cat/a.{suffix}", picture, **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    assert mode_of(path) == mode
    found = pixels_of(path, 4).astype(int)
    assert np.abs(found - on_white(colours, ALPHA)).max() <= 1
    assert (found[ALPHA == 0] == 255).all(), "nothing of a hidden colour"
    assert (found[ALPHA == 255] == colours[ALPHA == 255]).all()


def test_alpha_in_grey(pets):
    path = save("test/cat/a.png", with_alpha("RGBA")[0])
    grey = on_white(COLOURS, ALPHA) @ [0.299, 0.587, 0.114]
    assert np.abs(pixels_of(path, 4, greyscale=True) - grey).max() <= 2


def test_transparent_pixels_do_not_show_through_resizing(pets):
    """Composited first: their hidden black would darken what is around them."""
    colours = np.zeros((8, 8, 4), dtype=np.uint8)
    colours[:, ::2] = 255
    path = save("test/cat/a.png", Image.fromarray(colours))
    assert (pixels_of(path, 2) == 255).all()


PALETTE = random(16, 3, seed=1)
INDICES = np.arange(16, dtype=np.uint8).reshape(4, 4)


@pytest.mark.parametrize("transparency", [5, bytes([0, 128, 255, 0, 7]), bytes(16)])
def test_a_palette_with_transparency(transparency, pets):
    picture = Image.new("P", (4, 4))
    picture.putdata(INDICES.flatten().tolist())
    picture.putpalette(PALETTE.flatten().tolist())
    path = save("test/cat/a.png", picture, transparency=transparency)
    assert mode_of(path) == "P"
    alpha = np.full(16, 255)
    if isinstance(transparency, int):
        alpha[transparency] = 0
    else:
        alpha[: len(transparency)] = list(transparency)
    assert np.abs(pixels_of(path, 4) - on_white(PALETTE[INDICES], alpha[INDICES])).max() <= 1


def png(values, depth, colour_type, transparent):
    """A PNG of one row whose tRNS chunk names a transparent value, by its specification (RFC 2083)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bits = "".join(f"{v:0{depth}b}" for v in np.ravel(values))
    bits += "0" * (-len(bits) % 8)
    row = bytes([0, *(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))])
    head = struct.pack(">IIBBBBB", len(values), 1, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", struct.pack(f">{np.size(transparent)}H", *np.ravel(transparent)))]
    parts += [(b"IDAT", zlib.compress(row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey(depth, pets):
    white = 2**depth - 1
    path = HERE / "test/cat/a.png"
    for transparent in (0, white, white // 3):
        values = [v for v in (0, 1, white // 3, white // 2, white) if v <= white]
        for value in values:
            path.write_bytes(png([value], depth, 0, transparent))
            expected = 255 if value == transparent else eighths([[value]], white)[0, 0]
            assert (pixels_of(path, 1) == expected).all(), (value, transparent)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour(depth, pets):
    scale = 1 if depth == 8 else 257
    path = HERE / "test/cat/a.png"
    for colour, expected in (((1, 2, 3), (1, 2, 3)), ((4, 5, 6), (255, 255, 255)), ((4, 5, 7), (4, 5, 7))):
        path.write_bytes(png([[scale * part for part in colour]], depth, 2, [scale * part for part in (4, 5, 6)]))
        assert pixels_of(path, 1)[0, 0].tolist() == list(expected)


# -- other kinds of pixels --


def test_inks_are_colours(pets):
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0]], [[0, 0, 0, 255], [0, 255, 255, 0]]], dtype=np.uint8)
    path = save("test/cat/a.tif", Image.frombytes("CMYK", (2, 2), inks.tobytes()))
    assert pixels_of(path, 2).tolist() == [[[255, 255, 255], [0, 255, 255]], [[0, 0, 0], [255, 0, 0]]]


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_black_and_white(suffix, pets):
    picture = Image.new("1", (2, 2))
    picture.putdata([0, 255, 255, 0])
    path = save(f"test/cat/a.{suffix}", picture)
    assert pixels_of(path, 2, greyscale=True).tolist() == [[0, 255], [255, 0]]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_picture(pets):
    os.mkfifo(HERE / "train/cat/a.png")
    assert refusal() == (
        "data.root: pets/train/cat/a.png cannot be read as a picture (not a file); "
        "data.skip_broken: true skips such pictures"
    )


# -- which files are read --


def values(part):
    images, labels = part
    return sorted(zip(images[:, 0, 0, 0].tolist(), labels.tolist(), strict=True))


READ = {"train": [(10, 0), (11, 1), (20, 0), (21, 1)], "test": [(30, 0), (31, 1)]}


def test_what_systems_leave_is_no_data(pets, capsys):
    for name in (
        "train/__MACOSX/a.png",
        "train/cat/__MACOSX/a.png",
        "train/cat/._10.png",
        "train/cat/.hidden.png",
        "train/cat/.ipynb_checkpoints/10-checkpoint.png",
        "train/.ipynb_checkpoints/a.png",
        "train/cat/deeper/.ipynb_checkpoints/10-checkpoint.png",
        "test/@eaDir/a.png",
        "test/$RECYCLE.BIN/a.png",
        "__MACOSX/train/cat/a.png",
    ):
        save(name)
    for name in ("cat/Thumbs.db", "cat/.DS_Store", "dog/desktop.ini", ".directory"):
        (HERE / "train" / name).write_bytes(b"anything")
    assert classes_of("image_folder", HERE) == ("cat", "dog")
    assert {part: values(found) for part, found in read().items()} == READ
    assert "skipped" not in "".join(capsys.readouterr())


def test_what_is_skipped_is_counted_once(pets, capsys, monkeypatch):
    for name in ("train/cat/a.gif", "train/dog/deep/b.GIF", "test/cat/c.txt", "train/cat/README"):
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_bytes(b"anything")
    save("train/stray.png")
    assert {part: values(found) for part, found in read().items()} == READ
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == (
        "data.root: pets: skipped 5 files (2 .gif, 1 .txt, 1 outside of the class folders, 1 without a suffix); "
        f"pictures end in {', '.join(SUFFIXES)}"
    )
    assert err.count("skipped") == 1
    monkeypatch.setenv("RANK", "1")
    read()
    assert "skipped" not in capsys.readouterr().err, "one process of several tells"


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_without_pictures_is_refused(part, pets):
    for name in ("10.png", "20.png") if part == "train" else ("30.png",):
        (HERE / part / "cat" / name).unlink()
    start = f"data.root: pets/{part}/cat must contain pictures (.jpg, "
    assert refusal().startswith(start) and refusal().endswith("; fill it, or remove it")
    save(f"{part}/cat/.ipynb_checkpoints/copy.png")
    assert refusal().endswith("; fill it, or remove it")
    for name in "ab":
        Image.new("L", (2, 2)).save(HERE / part / "cat" / f"{name}.gif")
    assert refusal().startswith(start)
    assert refusal().endswith("; it contains 2 files (2 .gif): convert them, or remove it")
    assert values(read(chosen=("dog",))[part]) == [pair for pair in READ[part] if pair[1] == 1], "it is not asked for"


def test_a_part_of_other_files_alone(pets):
    for path in HERE.glob("test/*/*.png"):
        path.rename(path.with_suffix(".gif"))
    assert refusal().endswith("in class folders; skipped: 2 files (2 .gif)")


def test_a_class_may_be_absent_from_the_test_which_is_said(pets, capsys):
    save("val/cat/40.png", 40)
    shutil.rmtree(HERE / "test/cat")
    assert values(read()["test"]) == [(31, 1)]
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("data.root")] == [
        "data.root: pets/test has no pictures of cat: test figures do not cover them",
        "data.root: pets/val has no pictures of dog: val figures do not cover them",
    ]
    read(chosen=("dog",))
    assert "pictures of cat" not in capsys.readouterr().err, "it is not asked for"


@pytest.mark.parametrize("name", ["Train", "TRAINING", "training"])
def test_train_by_another_name(name, pets):
    (HERE / "train").rename(HERE / name)
    with pytest.raises(FileNotFoundError, match=f"per class; rename pets/{name} to train$"):
        classes_of("image_folder", HERE)


def test_classes_without_parts(pets):
    for part in ("train", "test"):
        (HERE / part).rename(HERE / f"{part}-pictures")
    with pytest.raises(FileNotFoundError, match=r"per class; pets contains test-pictures, train-pictures$"):
        classes_of("image_folder", HERE)


def test_the_test_by_another_name(pets):
    must = "data.root: pets must contain train/<class>/ and test/<class>/ (there is no test"
    (HERE / "test").rename(HERE / "Test")
    assert refusal() == f"{must}; rename Test to test)"
    (HERE / "Test").rename(HERE / "val")
    assert refusal() == (
        f"{must}; val selects the best weights, so it cannot serve as the test set: add test, or rename val to test)"
    )


@pytest.mark.parametrize("name", ["Val", "valid", "validation"])
def test_validation_pictures_by_another_name(name, pets):
    save(f"{name}/cat/a.png", 9)
    assert refusal() == f"data.root: pets/{name} would be ignored: rename it to val, or remove it"
    save("val/cat/a.png", 8)
    assert values(read()["val"]) == [(8, 0)]


def test_one_class_trains_no_classifier(script, pets):
    """To draw it is a task, to tell it from nothing is none."""
    for part in ("train", "test"):
        for path in (HERE / part / "dog").iterdir():
            path.rename(HERE / part / "cat" / f"dog{path.name}")
        (HERE / part / "dog").rmdir()
    own = {"data.dataset": "image_folder", "data.root": "pets"}
    as_yaml("c.yaml", tiny_classifier(own | {"data.image_size": 4}))
    assert_refused(script("cls_train", "--config", "c.yaml"), [("data.root", "pets/train", 1, "cat", 2)])
    as_yaml("g.yaml", tiny_generator(own | {"data.val_share": 0.5, "train.batch_size": 2}))
    assert script("generation_train", "--config", "g.yaml").code == 0


# -- what cannot be read --


def as_format(name):
    return lambda path: Image.new("RGB", (2, 2)).save(path, format=name)


def damaged_tiff(path):
    """That begins well."""
    Image.fromarray(random(16, 16)).save(path, format="TIFF", compression="tiff_adobe_deflate")
    with Image.open(path, formats=["TIFF"]) as file:
        (start,) = file.tag_v2[273]
    whole = bytearray(path.read_bytes())
    whole[start + 20 : start + 50] = bytes(30)
    path.write_bytes(whole)


def odd_offset(path):
    """A TIFF whose strips begin at a word."""
    Image.fromarray(random(4, 4)).save(path, format="TIFF")
    whole = path.read_bytes()
    at = whole.index(struct.pack("<HH", 273, 4))
    path.write_bytes(whole[: at + 2] + struct.pack("<H", 2) + whole[at + 4 :])


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


BROKEN = {
    "DDS": ("png", as_format("DDS")),
    "AVIF": ("png", as_format("AVIF")),
    "GIF": ("jpg", as_format("GIF")),
    "SPIDER": ("tif", lambda path: Image.new("F", (2, 2)).save(path, format="SPIDER")),
    "PostScript": ("png", as_format("EPS")),
    "libtiff's": ("tif", damaged_tiff),
    "a word for a number": ("tiff", odd_offset),
    "a dangling link": ("png", lambda path: path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("case", BROKEN)
def test_other_formats_and_damage_are_named_in_one_line(case, pets):
    suffix, make = BROKEN[case]
    make(HERE / f"test/dog/a.{suffix}")
    assert refusal().startswith(f"data.root: pets/test/dog/a.{suffix} cannot be read as a picture (")


def test_a_picture_of_a_phone_is_a_jpeg(pets):
    """Many of theirs hold a second picture, which Pillow calls MPO."""
    two = Image.new("RGB", (2, 2), (200, 0, 0))
    path = save("test/cat/a.jpg", two, format="MPO", save_all=True, append_images=[two])
    with Image.open(path) as file:
        assert file.format == "MPO"
    assert np.abs(pixels_of(path, 2)[0, 0].astype(int) - (200, 0, 0)).max() < 5


def test_warnings_of_a_decoder_are_not_shown(pets, monkeypatch):
    """A picture of half the pixels that Pillow refuses makes it warn, here that is an error."""
    with warnings.catch_warnings(action="error"):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)
        assert values(read()["test"]) == READ["test"]


def broken_pets():
    (HERE / "train/cat/a.png").write_text("no picture")
    cut_off(save("train/dog/b.png", Image.fromarray(random(9, 9))))
    os.mkfifo(HERE / "test/dog/c.png") if hasattr(os, "mkfifo") else (HERE / "test/dog/c.png").mkdir()
    as_format("DDS")(HERE / "test/dog/d.png")


NAMES = ["train/cat/a.png", "train/dog/b.png", "test/dog/c.png", "test/dog/d.png"]


def test_broken_pictures_are_left_out_and_counted(pets, capfd, monkeypatch):
    broken_pets()
    found = []
    assert {part: values(some) for part, some in read(broken=found).items()} == READ
    assert found == NAMES
    said = [line for line in capfd.readouterr().err.splitlines() if "data.root" in line]
    assert said == [
        f"data.root: pets: skipped 4 of 10 pictures, which cannot be read: {', '.join(NAMES[:3])} and 1 more"
    ]
    monkeypatch.setenv("RANK", "1")
    read(broken=[])
    assert "left out" not in capfd.readouterr().err, "one process of several tells"


def test_nothing_is_said_of_pictures_that_can_be_read(pets, capfd):
    found = []
    assert {part: values(some) for part, some in read(broken=found).items()} == READ
    assert found == [] and "data.root" not in capfd.readouterr().err


def test_a_class_of_broken_pictures_alone_is_refused(pets):
    for name in ("10", "20"):
        (HERE / f"train/cat/{name}.png").write_text("no picture")
    assert refusal(broken=[]).startswith("data.root: pets/train/cat: none of its 2 pictures can be read; ")
    assert values(read(chosen=("dog",), broken=[])["train"]) == [(11, 1), (21, 1)], "it is not asked for"


def test_the_digest_knows_what_was_left_out(pets):
    def digests():
        how = {"side": 2, "greyscale": True, "vocab_size": 256, "labels": None, "val_share": 0.25, "skip_broken": True}
        images = load_images("image_folder", HERE, **how)
        assert (len(images.train), len(images.val), len(images.test)) == (3, 1, 2)
        return [part.digest for part in (images.train, images.val, images.test)]

    whole = digests()
    (HERE / "train/cat/a.png").write_text("no picture")
    one = digests()
    assert one[0] != whole[0] and one[1:] == whole[1:]
    (HERE / "train/cat/a.png").rename(HERE / "train/cat/b.png")
    assert digests()[0] not in (one[0], whole[0])


def latin_1(part):
    """A folder whose name is not UTF-8."""
    folder = os.path.join(os.fsencode(HERE), part.encode(), b"caf\xe9")
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system has UTF-8 names alone")
    shutil.copy(HERE / "train/cat/10.png", os.path.join(folder, b"a.png"))


def test_a_class_without_a_utf8_name(pets, script):
    """It could not be written to the files of a run."""
    latin_1("train")
    latin_1("test")
    own = {"data.dataset": "image_folder", "data.root": "pets", "data.image_size": 4, "data.val_share": 0.25}
    as_yaml("c.yaml", tiny_classifier(own | {"train.batch_size": 2}))
    refused = script("cls_train", "--config", "c.yaml")
    assert refused.code == 2 and len(refused.lines) == 1
    assert re.match(r"data\.root: pets/train/caf\S+: the name of this class must be UTF-8; rename it", refused.lines[0])
    assert not Path("runs").exists()
    outcome = script("cls_train", "--config", "c.yaml", "--data.skip_broken", "true")
    assert outcome.code == 0, outcome.lines
    said = r"data\.root: pets: skipped 2 of 8 pictures, which cannot be read: train/caf\S+/a\.png, test/caf\S+/a\.png"
    assert any(re.fullmatch(said, line) for line in outcome.lines)
    assert json.loads(Path("runs/tiny-cls/version_0/classes.json").read_text()) == ["cat", "dog"]


def test_a_run_goes_on_with_the_same_pictures_left_out(pets, script):
    broken_pets()
    own = {"data.dataset": "image_folder", "data.root": "pets", "data.image_size": 4, "data.val_share": 0.25}
    as_yaml("c.yaml", tiny_classifier(own | {"train.batch_size": 2}))
    refused = script("cls_train", "--config", "c.yaml")
    assert refused.code == 2 and "data.skip_broken: true" in refused.lines[-1]
    assert script("cls_train", "--config", "c.yaml", "--data.skip_broken", "true").code == 0
    run = Path("runs/tiny-cls/version_0")
    assert json.loads((run / "data.json").read_text())["training data"]["skipped"] == 2
    assert script("cls_train", "--resume", run).code == 0
    assert script("evaluate", "--checkpoint", run).code == 0
    (HERE / "train/cat/new.png").write_text("no picture")
    outcome = script("cls_train", "--resume", run)
    assert outcome.code == 2
    assert "training data" in outcome.lines[-1] and "2 more left out" in outcome.lines[-1]
    assert "3 more left out" in outcome.lines[-1]


def test_broken_pictures_are_those_of_a_folder(script):
    as_yaml("c.yaml", tiny_classifier({"data.skip_broken": True}))
    assert_refused(script("cls_train", "--config", "c.yaml"), [("c.yaml: data", "skip_broken", True, "digits")])
