"""Images: read as they are in the files, resized, quantised, split."""

import gzip
import hashlib
import io
import pickle
import shutil
import struct
import tarfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import cifar, mnist
from torchvision.datasets import utils as torchvision_utils

from dl_proj.experiments.images import data as image_data
from dl_proj.experiments.images.data import (
    load_configured,
    load_images,
    load_test_pixels,
    picture_levels,
    prepared,
    quantised,
    to_pixels,
)
from dl_proj.experiments.images.settings import ClassifierDataConfig, GeneratorDataConfig
from dl_proj.settings.errors import ConfigError

PARTS = ("train", "val", "test")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A download that is tried fails as it does without a network."""

    def fail(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(mnist, "download_and_extract_archive", fail)
    monkeypatch.setattr(cifar, "download_and_extract_archive", fail)


def load(dataset="digits", root="root", **changes):
    usual = {"side": 8, "greyscale": False, "vocab_size": 256, "labels": None, "val_share": 0.1}
    return load_images(dataset, Path(root), **(usual | changes))


def refusal(*args, **changes):
    with pytest.raises(ConfigError) as refused:
        load(*args, **changes)
    return refused.value.lines


def rows(images):
    """A multiset of images with their labels."""
    return sorted((*levels.flatten().tolist(), int(label)) for levels, label in images)


def pillow(pixels, size):
    """(h, w) or (h, w, 3) uint8 as Pillow resizes it, antialiased, to (width, height)."""
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)).astype(int)


# -- levels --


def test_levels_are_steps_of_equal_width():
    for vocab_size in range(2, 257):
        levels = quantised(torch.arange(256, dtype=torch.uint8), vocab_size)
        assert levels.dtype == torch.uint8
        assert levels.tolist() == [int(v * vocab_size / 256) for v in range(256)]
        assert (levels[0], levels[255]) == (0, vocab_size - 1)


def test_pixels_of_levels_are_spread_from_black_to_white():
    for vocab_size in range(2, 257):
        pixels = to_pixels(torch.arange(vocab_size), vocab_size)
        assert pixels.dtype == torch.uint8
        assert (pixels[0], pixels[-1]) == (0, 255)
        exact = np.linspace(0, 255, vocab_size)
        assert np.abs(pixels.numpy() - exact).max() < 0.5001, vocab_size


def test_nothing_is_lost_at_256_levels():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantised(pixels, 256), pixels)
    assert torch.equal(to_pixels(pixels, 256), pixels)


@pytest.mark.parametrize("vocab_size", [2, 5, 128, 256])
def test_images_are_quantised(vocab_size):
    full, coarse = load().train.levels, load(vocab_size=vocab_size).train.levels
    assert torch.equal(coarse, (full.double() * vocab_size / 256).floor().byte())
    assert coarse.max() == vocab_size - 1


# -- the digits --


def test_digits_are_all_of_sklearns_once_each():
    splits, bunch = load(), load_digits()
    assert [len(getattr(splits, part)) for part in PARTS] == [1293, 144, 360]
    found = torch.cat([getattr(splits, part).levels for part in PARTS]).flatten(1).double() * 16 / 255
    labels = torch.cat([getattr(splits, part).labels for part in PARTS])
    assert (found - found.round()).abs().max() <= 0.5 * 16 / 255, "a value is rounded, nothing else"
    ours = sorted((*map(int, row), label) for row, label in zip(found.round().tolist(), labels.tolist(), strict=True))
    theirs = sorted(
        (*map(int, row), label) for row, label in zip(bunch.data.tolist(), bunch.target.tolist(), strict=True)
    )
    assert ours == theirs, "so the parts are disjoint, too: sklearn's digits are all different"
    assert len(set(theirs)) == 1797
    assert splits.classes == tuple("0123456789")


def test_an_image_has_a_channel_and_a_whole_numbers_label():
    image, label = load().train[5]
    assert image.shape == (1, 8, 8) and image.dtype == torch.uint8
    assert label.shape == () and label.dtype == torch.int64


def test_the_split_is_always_the_same_and_touches_no_seed():
    torch.manual_seed(1)
    before, once = torch.get_rng_state(), load()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again = load()
    for part in PARTS:
        assert torch.equal(getattr(once, part).levels, getattr(again, part).levels)
        assert torch.equal(getattr(once, part).labels, getattr(again, part).labels)


def test_the_split_is_of_mixed_images():
    """sklearn's digits come in an order by writer; a held-out tail would be other people's hands."""
    targets = load_digits().data
    held_out = {tuple(row) for row in (load().test.levels.flatten(1).double() * 16 / 255).round().tolist()}
    places = [i for i, row in enumerate(targets.tolist()) if tuple(row) in held_out]
    assert len(places) == 360
    assert all(45 < sum(start <= i < start + 359 for i in places) < 100 for start in range(0, 1795, 359))


@pytest.mark.parametrize("val_share", [0.01, 0.25, 0.9])
def test_the_validation_share_is_taken_from_training_alone(val_share):
    usual, other = load(), load(val_share=val_share)
    assert len(other.val) == round(1437 * val_share)
    assert rows(other.test) == rows(usual.test)
    assert sorted(rows(other.train) + rows(other.val)) == sorted(rows(usual.train) + rows(usual.val))


@pytest.mark.parametrize("labels", [(7, 1), ("1", "7"), (3, "8", 0), tuple(range(9, -1, -1))])
def test_chosen_labels_keep_exactly_their_images_renumbered(labels):
    everything, some = load(), load(labels=labels)
    numbers = [int(label) for label in labels]
    assert some.classes == tuple(str(number) for number in numbers)
    for part in PARTS:
        kept = [(image, numbers.index(label)) for image, label in getattr(everything, part) if label in numbers]
        images = getattr(some, part)
        assert torch.equal(images.levels, torch.stack([image for image, _ in kept]))
        assert images.labels.tolist() == [label for _, label in kept]


def test_unknown_and_repeated_labels_are_named():
    assert refusal(labels=(1, 10)) == ("data.labels: 10 is not a class, must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",)
    assert refusal(labels=(1, "1")) == ("data.labels: '1' is given twice",)


@pytest.mark.parametrize(("val_share", "empty"), [(0.0001, "val"), (0.9999, "train")])
def test_a_part_without_images_is_named(val_share, empty):
    (line,) = refusal(val_share=val_share)
    assert line.startswith(f"data: digits has no {empty} images with") and "val_share" in line


def test_a_configuration_is_loaded_as_it_says():
    data = ClassifierDataConfig(labels=(4, 2), vocab_size=9, image_size=4, val_share=0.2)
    ours, same = load_configured(data), load(labels=(4, 2), vocab_size=9, side=4, val_share=0.2)
    assert ours.classes == same.classes == ("4", "2")
    assert all(rows(getattr(ours, part)) == rows(getattr(same, part)) for part in PARTS)
    data = GeneratorDataConfig(max_len=25, vocab_size=3)
    assert rows(load_configured(data).test) == rows(load(side=5, vocab_size=3).test)


# -- other sizes, colours --


@pytest.mark.parametrize("side", [3, 4, 7, 12])
def test_images_are_resized_as_pillow_does(side):
    native, resized = load().test.levels, load(side=side).test.levels
    assert resized.shape == (360, 1, side, side)
    for one, other in zip(native[:20, 0].numpy(), resized[:20, 0].numpy().astype(int), strict=True):
        assert np.abs(pillow(one, (side, side)) - other).max() <= 1


def test_more_images_than_are_resized_together_keep_their_order():
    pixels = torch.randint(256, (5000, 4, 4), dtype=torch.uint8).numpy()
    write_mnist(Path("root/MNIST/raw"), pixels, np.arange(5000) % 10, pixels[:2], np.arange(2))
    part = load("mnist", side=2).test
    assert np.abs(pillow(pixels[1], (2, 2)) - part.levels[1, 0].numpy()).max() <= 1
    splits = load("mnist", side=2, val_share=0.0002)
    (place,) = np.nonzero((pixels == load("mnist", side=4, val_share=0.0002).val.levels[0, 0].numpy()).all((1, 2)))[0]
    some = np.delete(pixels, place, axis=0)[[0, 4094, 4095, 4096, 4998]]
    ours = splits.train.levels[[0, 4094, 4095, 4096, 4998], 0].numpy().astype(int)
    assert np.abs(np.stack([pillow(one, (2, 2)) for one in some]) - ours).max() <= 1


# -- files of MNIST and CIFAR-10 --


def write_mnist(raw, train, train_labels, test, test_labels):
    raw.mkdir(parents=True)
    for name, images, labels in (("train", train, train_labels), ("t10k", test, test_labels)):
        head = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(
            struct.pack(">4BI", 0, 0, 8, 1, len(labels)) + bytes(labels.tolist())
        )


def made_up(shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


MNISTS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


@pytest.fixture
def files():
    """Made-up MNIST and Fashion-MNIST below root/: {name: the four arrays}."""
    made = {}
    for seed, (name, folder) in enumerate(MNISTS.items()):
        arrays = made_up((30, 28, 28), seed), np.arange(30) % 10, made_up((10, 28, 28), seed + 9), np.arange(10)[::-1]
        write_mnist(Path("root") / folder / "raw", *arrays)
        made[name] = arrays
    return made


def as_rows(pixels, labels):
    """Arrays (n, h, w) as ``rows`` gives images."""
    return sorted((*image.flatten().tolist(), int(label)) for image, label in zip(pixels, labels, strict=True))


@pytest.mark.parametrize("name", MNISTS)
def test_files_of_mnist_are_read_as_they_are(name, files):
    splits = load(name, side=28)
    train, train_labels, test, test_labels = files[name]
    assert torch.equal(splits.test.levels[:, 0], torch.from_numpy(test))
    assert splits.test.labels.tolist() == test_labels.tolist()
    assert (len(splits.train), len(splits.val)) == (27, 3)
    assert sorted(rows(splits.train) + rows(splits.val)) == as_rows(train, train_labels)


def test_files_of_mnist_with_chosen_classes(files):
    splits = load("fashion_mnist", side=28, labels=("coat", 0))
    train, train_labels, test, test_labels = files["fashion_mnist"]
    assert splits.classes == ("coat", "t-shirt")
    assert splits.test.labels.tolist() == [0, 1], "4 stands before 0 in the file"
    np.testing.assert_array_equal(splits.test.levels[:, 0], test[np.isin(test_labels, (0, 4))])
    kept = np.isin(train_labels, (0, 4))
    renumbered = (train_labels[kept] == 0).astype(int)
    assert sorted(rows(splits.train) + rows(splits.val)) == as_rows(train[kept], renumbered)


def test_a_fine_checkerboard_becomes_grey(files):
    """Without antialiasing every second pixel would be taken: all black, or all white."""
    board = np.indices((28, 28)).sum(0) % 2 * 255
    write_mnist(Path("board/MNIST/raw"), *(np.stack([board.astype(np.uint8)] * 4), np.arange(4)) * 2)
    levels = load("mnist", "board", side=7, val_share=0.5).test.levels.int()
    inside = levels[..., 1:-1, 1:-1]
    assert ((inside - 127.5).abs() < 10).all()
    assert (levels.double().mean() - 127.5).abs() < 10


@pytest.mark.parametrize("name", [*MNISTS, "cifar10"])
def test_nothing_there_and_no_network(name):
    folder = {"cifar10": "root/cifar-10-batches-py"}.get(name, f"root/{MNISTS.get(name)}/raw")
    missing, way_out = refusal(name)
    assert missing.startswith("data.root: ") and folder in missing and "cannot be downloaded" in missing
    assert way_out.startswith("data.dataset: ") and folder in way_out
    assert "digits" in way_out and "image_folder" in way_out
    assert all("\n" not in line for line in (missing, way_out))


SPOILERS = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "empty": lambda _: b"",
    "without its head": lambda whole: whole[16:],
    "its head alone": lambda whole: whole[:8],
    "too long": lambda whole: whole + b"\0" * 5,
    "a web page": lambda _: b"<!doctype html><html><head><title>404</title></head></html>",
    "of another kind of number": lambda whole: whole[:2] + b"\x0d" + whole[3:],
    "of a kind that there is not": lambda whole: whole[:2] + b"\x0a" + whole[3:],
}


@pytest.mark.parametrize("part", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("case", SPOILERS)
def test_a_spoilt_file_of_mnist(case, part, files):
    path = Path("root/MNIST/raw") / part
    path.write_bytes(SPOILERS[case](path.read_bytes()))
    missing, way_out = refusal("mnist", side=28)
    assert missing.startswith("data.root: MNIST is missing or incomplete in root/MNIST/raw") and "\n" not in missing
    assert way_out.startswith("data.dataset: ")


def test_files_of_mnist_with_changed_pixels(real_data):
    """Still of the right form and size."""
    shutil.copytree(real_data / "MNIST", "root/MNIST")
    load("mnist", side=28)
    path = Path("root/MNIST/raw/t10k-images-idx3-ubyte")
    with path.open("rb+") as file:
        file.seek(100_000)
        file.write(bytes(100_000))
    (line,) = refusal("mnist", side=28)
    assert line.startswith(f"data.root: {path} is damaged")


def test_a_file_of_fashion_mnist_that_is_not_what_its_archive_holds(files, monkeypatch):
    raw, sums = Path("root/FashionMNIST/raw"), []
    for name, _ in mnist.FashionMNIST.resources:
        archive = raw / name
        archive.write_bytes(gzip.compress(archive.with_suffix("").read_bytes()))
        sums.append((name, hashlib.md5(archive.read_bytes()).hexdigest()))
    monkeypatch.setattr(mnist.FashionMNIST, "resources", sums)
    path = raw / "t10k-images-idx3-ubyte"
    monkeypatch.setattr(image_data, "_MNIST_MD5", {path.stat().st_size: ("", "")})
    load("fashion_mnist", side=28)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (line,) = refusal("fashion_mnist", side=28)
    assert line.startswith(f"data.root: {path} is damaged")


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_files_of_mnist_with_too_few_labels(part, files):
    """As whole as the right file, and as long as another: those of the two parts mixed up."""
    labels = Path(f"root/MNIST/raw/{part}-labels-idx1-ubyte")
    labels.write_bytes(struct.pack(">4BI", 0, 0, 8, 1, 7) + bytes(7))
    assert refusal("mnist", side=28)[0].startswith("data.root: MNIST is missing or incomplete in root/MNIST/raw")


def test_a_label_of_mnist_that_is_no_class(files):
    file = Path("root/MNIST/raw/train-labels-idx1-ubyte")
    file.write_bytes(file.read_bytes()[:-1] + bytes([10]))
    assert "labels without a class" in refusal("mnist", side=28)[0]


def test_a_file_in_the_place_of_the_folder():
    Path("root").touch()
    assert refusal("mnist")[0].startswith("data.root: MNIST is missing or incomplete in root/MNIST/raw")
    assert refusal("image_folder")[0].startswith("data.root: root/train must be a folder")


@pytest.fixture
def cifar_files(monkeypatch):
    """Made-up CIFAR-10 below root/: images (n, 3, 32, 32) and labels of the training and the test files."""
    monkeypatch.setattr(cifar, "check_integrity", lambda path, *_: Path(path).is_file())  # it knows the real ones' sums
    folder = Path("root/cifar-10-batches-py")
    folder.mkdir(parents=True)
    pixels, labels = made_up((60, 3, 32, 32)), np.arange(60) * 7 % 10
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        some = slice(10 * i, 10 * i + 10)
        entry = {"data": pixels[some].reshape(10, -1), "labels": labels[some].tolist()}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    return pixels[:50], labels[:50], pixels[50:], labels[50:]


def test_files_of_cifar_are_read_as_they_are(cifar_files):
    train, train_labels, test, test_labels = cifar_files
    splits = load("cifar10", side=32)
    np.testing.assert_array_equal(splits.test.levels, test)
    assert splits.test.labels.tolist() == test_labels.tolist()
    assert sorted(rows(splits.train) + rows(splits.val)) == as_rows(train, train_labels)
    assert splits.classes[3] == "cat"


def test_colours_become_grey_by_their_luminance(cifar_files):
    """ITU-R 601-2, rounded down."""
    _, _, test, _ = cifar_files
    grey = load("cifar10", side=32, greyscale=True).test.levels
    assert grey.shape == (10, 1, 32, 32)
    expected = test[:, 0] * 0.299 + test[:, 1] * 0.587 + test[:, 2] * 0.114
    assert np.abs(grey[:, 0].numpy() - expected).max() < 1.1


def test_a_configuration_says_whether_colours_become_grey(cifar_files):
    coloured, grey = (
        load_configured(ClassifierDataConfig(dataset="cifar10", root=Path("root"), greyscale=greyscale)).test
        for greyscale in (False, True)
    )
    assert rows(coloured) == rows(load("cifar10", side=32).test)
    assert rows(grey) == rows(load("cifar10", side=32, greyscale=True).test)
    drawn = load_configured(GeneratorDataConfig(dataset="cifar10", root=Path("root"), max_len=16)).test
    assert rows(drawn) == rows(load("cifar10", side=4, greyscale=True).test)


def test_grey_images_stay_as_they_are():
    assert rows(load(greyscale=True).test) == rows(load().test)


def test_a_spoilt_file_of_cifar(cifar_files, monkeypatch):
    monkeypatch.undo()  # the sums tell
    monkeypatch.setattr(cifar, "download_and_extract_archive", lambda *_, **__: None)
    assert "cifar-10-batches-py" in refusal("cifar10")[0]


@pytest.fixture
def unpacked_before_checked(monkeypatch):
    """Gives a maker of root/cifar-10-python.tar.gz, which torchvision then takes for the real one and unpacks."""
    monkeypatch.setattr(cifar, "download_and_extract_archive", torchvision_utils.download_and_extract_archive)

    def make(members):
        path = Path("root/cifar-10-python.tar.gz")
        path.parent.mkdir()
        with tarfile.open(path, "w:gz") as archive:
            for member, content in members:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        monkeypatch.setattr(cifar.CIFAR10, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())

    return make


def member(name, kind=tarfile.REGTYPE, leads_to=""):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, leads_to, 0o644
    return found


EVIL = b"evil"
HOSTILE = {
    "above": lambda outside: [(member("../outside/evil"), EVIL)],
    "above, by a folder": lambda outside: [
        (member("cifar-10-batches-py/a"), EVIL),
        (member("cifar-10-batches-py/../../outside/evil"), EVIL),
    ],
    "absolute": lambda outside: [(member(f"{outside}/evil"), EVIL)],
    "through a symlink": lambda outside: [
        (member("door", tarfile.SYMTYPE, "../outside"), b""),
        (member("door/evil"), EVIL),
    ],
    "through an absolute symlink": lambda outside: [
        (member("door", tarfile.SYMTYPE, str(outside)), b""),
        (member("door/evil"), EVIL),
    ],
    "into a hard link": lambda outside: [
        (member("door", tarfile.LNKTYPE, "../outside/there"), b""),
        (member("door"), EVIL),
    ],
    "a pipe": lambda outside: [(member("cifar-10-batches-py/test_batch", tarfile.FIFOTYPE), b"")],
    "a device": lambda outside: [(member("cifar-10-batches-py/test_batch", tarfile.CHRTYPE), b"")],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_kept_inside(case, unpacked_before_checked, tmp_path):
    """Even if its MD5 were that of CIFAR-10: no file outside is made or changed, and no pipe or device inside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "there").write_text("mine")
    unpacked_before_checked(HOSTILE[case](outside))
    before = tarfile.TarFile.extraction_filter
    missing, _ = refusal("cifar10")
    assert missing.startswith("data.root: CIFAR10 is missing or incomplete in root/cifar-10-batches-py")
    assert [path.name for path in outside.iterdir()] == ["there"] and (outside / "there").read_text() == "mine"
    assert all(path.is_file() or path.is_dir() for path in Path("root").rglob("*"))
    assert tarfile.TarFile.extraction_filter == before, "other code unpacks as it did"


def test_an_archive_that_is_not_cifars_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(cifar, "download_and_extract_archive", torchvision_utils.download_and_extract_archive)
    monkeypatch.setattr(torchvision_utils, "_urlretrieve", lambda *_: None)  # or it would be downloaded anew
    Path("root").mkdir()
    with tarfile.open("root/cifar-10-python.tar.gz", "w:gz") as archive:
        archive.addfile(member("evil"), io.BytesIO())
    refusal("cifar10")
    assert not Path("root/evil").exists()


# -- one's own pictures --


def save(path, pixels):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


def flat(colour, height=4, width=4):
    return np.full((height, width, 3), colour, dtype=np.uint8)


@pytest.fixture
def pets():
    """Ten pictures of each of two classes to train on, one to test on; a picture's red says which it is."""
    for i in range(10):
        save(f"pets/train/dog/{i}.png", flat((100 + i, 0, 9)))
        save(f"pets/train/cat/{'old/deep/' if i > 4 else ''}{i}.png", flat((200 + i, 0, 9)))
    save("pets/test/dog/a.png", flat((1, 2, 3)))
    save("pets/test/cat/b.png", flat((4, 5, 6)))
    return Path("pets")


def reds(images):
    return sorted(zip(images.levels[:, 0, 0, 0].tolist(), images.labels.tolist(), strict=True))


def test_own_pictures_have_their_folders_classes_in_alphabetical_order(pets):
    splits = load("image_folder", pets, side=4)
    assert splits.classes == ("cat", "dog")
    assert reds(splits.test) == [(1, 1), (4, 0)]
    assert splits.test.levels[:, :, 0, 0].tolist() == [[4, 5, 6], [1, 2, 3]], "red, green, blue"
    assert len(splits.val) == 2, "a tenth of the pictures in train"
    both = sorted(reds(splits.train) + reds(splits.val))
    assert both == [(100 + i, 1) for i in range(10)] + [(200 + i, 0) for i in range(10)], "nested ones, too"


def test_hidden_folders_are_no_classes(pets):
    save("pets/train/.thumbnails/a.png", flat(7))
    save("pets/test/.thumbnails/a.png", flat(7))
    splits = load("image_folder", pets, side=4)
    assert splits.classes == ("cat", "dog")
    assert len(splits.test) == 2


def test_a_picture_taken_sideways_is_turned_upright(pets):
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[:, 0] = 255  # the left column is white
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned clockwise, which brings the left column to the top
    Path("pets/val/dog").mkdir(parents=True)
    Image.fromarray(pixels).save("pets/val/dog/a.png", exif=exif)
    ((levels, _),) = load("image_folder", pets, side=4).val
    assert (levels[:, 0] == 255).all()
    assert (levels[:, 1:] == 0).all()


def test_own_validation_pictures_are_used_when_there(pets):
    save("pets/val/dog/c.png", flat((50, 0, 0)))
    splits = load("image_folder", pets, side=4, val_share=0.5)
    assert reds(splits.val) == [(50, 1)]
    assert len(splits.train) == 20, "nothing is held out of them"


def test_own_pictures_of_chosen_classes(pets):
    save("pets/train/ant/x.png", flat((7, 0, 0)))
    splits = load("image_folder", pets, side=4, labels=("dog", "cat"))
    assert splits.classes == ("dog", "cat")
    assert reds(splits.test) == [(1, 0), (4, 1)]
    assert 7 not in [red for red, _ in reds(splits.train) + reds(splits.val)]
    assert refusal("image_folder", pets, labels=("dog", "cow")) == (
        "data.labels: 'cow' is not a class, must be one of ant, cat, dog",
    )


def test_own_pictures_in_grey(pets):
    save("pets/test/dog/a.png", flat((10, 200, 30)))
    levels = load("image_folder", pets, side=4, greyscale=True).test.levels
    assert levels.shape == (2, 1, 4, 4)
    assert abs(int(levels[1, 0, 0, 0]) - (10 * 0.299 + 200 * 0.587 + 30 * 0.114)) <= 1


def test_a_grey_picture_among_coloured_ones(pets):
    Image.new("L", (4, 4), 77).save("pets/test/dog/a.png")
    assert load("image_folder", pets, side=4).test.levels[1, :, 0, 0].tolist() == [77, 77, 77]


@pytest.mark.parametrize(("height", "width"), [(6, 12), (12, 6), (10, 7), (9, 30)])
def test_a_picture_is_cropped_at_the_centre_after_its_shorter_side_is_resized(height, width, pets):
    pixels = made_up((height, width, 3))
    save("pets/test/dog/a.png", pixels)
    side, scale = 4, 4 / min(height, width)
    small = pillow(pixels, (int(width * scale), int(height * scale)))
    top, left = (small.shape[0] - side) // 2, (small.shape[1] - side) // 2
    ours = load("image_folder", pets, side=side).test.levels[1].permute(1, 2, 0).numpy().astype(int)
    places = [(top, left)]
    places += [(top + 1, left)] if (small.shape[0] - side) % 2 else []  # no pixel is the centre: either is right
    places += [(top, left + 1)] if (small.shape[1] - side) % 2 else []
    worst = [np.abs(small[y : y + side, x : x + side] - ours).max() for y, x in places]
    assert min(worst) <= 1


def test_other_files_are_left_alone(pets):
    for name in ("notes.txt", "dog/notes.txt", "cat/.DS_Store"):
        (pets / "train" / name).write_text("no picture")
    Image.fromarray(flat((1, 1, 1))).save(pets / "train/dog/LOUD.JPG", format="jpeg")
    splits = load("image_folder", pets, side=4)
    assert len(splits.train) + len(splits.val) == 21


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_part_is_named(part, pets):
    (pets / part).rename("elsewhere")
    (line,) = refusal("image_folder", pets)
    assert line.startswith("data.root: pets") and part in line


@pytest.mark.parametrize("part", PARTS)
def test_a_part_without_pictures_is_named(part, pets):
    if (pets / part).exists():
        (pets / part).rename("elsewhere")
    for name in ("cat", "dog"):
        (pets / part / name).mkdir(parents=True)
    (line,) = refusal("image_folder", pets)
    assert line.startswith(f"data.root: pets/{part} has no pictures (.jpg, ")


def test_no_pictures_of_the_chosen_classes(pets):
    save("pets/train/ant/x.png", flat((7, 0, 0)))
    (line,) = refusal("image_folder", pets, labels=("ant",), val_share=0.5)
    assert line.startswith("data: image_folder has no ") and "test" in line and "labels" in line


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_class_that_train_has_not_is_named(part, pets):
    save(f"pets/{part}/cow/a.png", flat((1, 1, 1)))
    (line,) = refusal("image_folder", pets)
    assert line == f"data.root: pets/{part} has classes that train lacks: cow"


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def scrambled(path):
    whole = bytearray(path.read_bytes())
    whole[-60:-40] = bytes(20)
    path.write_bytes(whole)


def chunks_off(path):
    """The pixels' chunk says that it ends 8 bytes early; what follows is no chunk."""
    whole = path.read_bytes()
    at = whole.index(b"IDAT")
    length = int.from_bytes(whole[at - 4 : at], "big")
    path.write_bytes(whole[: at - 4] + (length - 8).to_bytes(4, "big") + whole[at:])


UNREADABLE = {
    "text": lambda path: path.write_text("no picture"),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": cut,
    "scrambled": scrambled,
    "of broken chunks": chunks_off,
    "of impossible depth": lambda path: path.write_bytes(b"P6\n20 20\n99999\n" + bytes(1200)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_picture_that_cannot_be_read_is_named(case, pets):
    path = pets / "train/dog/3.png"
    save(path, made_up((20, 20, 3)))
    UNREADABLE[case](path)
    (line,) = refusal("image_folder", pets, side=4)
    assert line.startswith("data.root: pets/train/dog/3.png cannot be read as a picture (") and "\n" not in line


def test_a_picture_of_too_many_pixels_is_named(pets, monkeypatch):
    """Pillow refuses what may be meant to fill the memory."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    (line,) = refusal("image_folder", pets, side=4)
    assert line.startswith("data.root: pets/train/cat/0.png cannot be read as a picture (")


# -- test images before they are made smaller and coarser --


def data_config(**settings):
    return ClassifierDataConfig(**{"root": Path("root")} | settings)


def test_the_test_pixels_are_the_files(files):
    """Whatever size and levels a model wants."""
    _, _, test, labels = files["fashion_mnist"]
    pixels, numbers, classes = load_test_pixels(data_config(dataset="fashion_mnist", image_size=7, vocab_size=3))
    np.testing.assert_array_equal(pixels[:, 0], test)
    assert (pixels.dtype, numbers.tolist(), classes[1]) == (torch.uint8, labels.tolist(), "trouser")


def test_the_test_pixels_of_chosen_classes(files):
    _, _, test, labels = files["mnist"]
    pixels, numbers, classes = load_test_pixels(data_config(dataset="mnist", labels=(7, 1, "4")))
    assert classes == ("7", "1", "4")
    np.testing.assert_array_equal(pixels[:, 0], test[np.isin(labels, (1, 4, 7))])
    assert numbers.tolist() == [(7, 1, 4).index(label) for label in labels if label in (1, 4, 7)]


def test_the_test_pixels_keep_their_colours(cifar_files):
    _, _, test, labels = cifar_files
    pixels, numbers, _ = load_test_pixels(data_config(dataset="cifar10", greyscale=True, image_size=16))
    np.testing.assert_array_equal(pixels, test)
    assert numbers.tolist() == labels.tolist()


def test_the_test_pixels_of_own_pictures_have_the_size_that_is_needed(pets):
    save("pets/test/dog/a.png", made_up((12, 20, 3)))
    data = {"dataset": "image_folder", "root": pets, "image_size": 4, "vocab_size": 2}
    pixels, numbers, classes = load_test_pixels(data_config(**data, labels=("dog", "cat")))
    same = load("image_folder", pets, side=4).test
    assert torch.equal(pixels, same.levels)
    assert (numbers.tolist(), classes) == ([1, 0], ("dog", "cat"))
    grey, _, _ = load_test_pixels(data_config(**data, greyscale=True))
    assert torch.equal(grey, load("image_folder", pets, side=4, greyscale=True).test.levels)


PREPARED = [
    {"dataset": "digits"},
    {"dataset": "digits", "image_size": 3, "vocab_size": 5, "labels": (7, 1), "random_shift": 1},
    {"dataset": "mnist", "image_size": 14, "vocab_size": 16},
    {"dataset": "mnist", "greyscale": True, "labels": ("9", "3", "0")},
]


@pytest.mark.parametrize("settings", PREPARED)
def test_prepared_pixels_are_what_a_model_is_tested_on(settings, files):
    same_images(data_config(**settings))


@pytest.mark.parametrize("settings", [{}, {"greyscale": True, "image_size": 8}, {"vocab_size": 4, "image_size": 5}])
def test_prepared_colours_are_what_a_model_is_tested_on(settings, cifar_files):
    same_images(data_config(dataset="cifar10", **settings))


@pytest.mark.parametrize("settings", [{"vocab_size": 7}, {"greyscale": True}])
def test_prepared_pictures_are_what_a_model_is_tested_on(settings, pets):
    save("pets/test/dog/a.png", made_up((12, 20, 3)))
    same_images(data_config(dataset="image_folder", root=pets, image_size=4, **settings))


def test_a_picture_of_ones_own_is_prepared_as_those_of_the_training(pets):
    """Whatever its size and colours, from a file as from memory."""
    save("pets/test/dog/a.png", made_up((12, 20, 3)))
    data = data_config(dataset="image_folder", root=pets, image_size=4, greyscale=True)
    file = Path("pets/test/dog/a.png")
    expected = load_configured(data).test.levels[1]
    assert torch.equal(picture_levels(file, data), expected)
    assert torch.equal(picture_levels(str(file), data), expected)
    with Image.open(file) as picture:
        assert torch.equal(picture_levels(picture, data), expected)
    wide = picture_levels(file, data_config(dataset="mnist", image_size=12))
    grey = np.asarray(Image.open(file).convert("L"))[:, 4:16]
    assert torch.equal(wide, torch.from_numpy(grey.copy()).unsqueeze(0)), "the centre, in the dataset's colours"


def same_images(data):
    pixels, labels, classes = load_test_pixels(data)
    before = pixels.clone()
    splits = load_configured(data)
    levels = prepared(pixels, data)
    assert levels.dtype == torch.uint8
    assert torch.equal(levels, splits.test.levels)
    assert torch.equal(labels, splits.test.labels)
    assert classes == splits.classes
    assert torch.equal(pixels, before)
    one_by_one = [picture_levels(Image.fromarray(image.permute(1, 2, 0).squeeze().numpy()), data) for image in pixels]
    assert torch.equal(torch.stack(one_by_one), levels), "also as pictures of their own"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"dataset": "mnist"}, "data.root: MNIST is missing or incomplete in root/MNIST/raw"),
        ({"dataset": "image_folder", "image_size": 4}, "data.root: root/train must be a folder"),
        (
            {"dataset": "image_folder", "root": Path("pets"), "image_size": 4, "labels": (0, "cow")},
            "data.labels: 'cow'",
        ),
    ],
)
def test_test_pixels_that_are_not_there(settings, expected, pets):
    with pytest.raises(ConfigError) as refused:
        load_test_pixels(data_config(**settings))
    assert refused.value.lines[0].startswith(expected)
