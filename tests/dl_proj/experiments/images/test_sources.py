"""Classes: their names, which are chosen, in which order."""

from pathlib import Path

import pytest

from dl_proj.experiments.images.sources import IMAGE_SETS, chosen_classes, classes_of

PETS = ("cat", "dog", "fish")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (None, PETS),
        (("dog", "cat"), ("dog", "cat")),
        ((2, 0), ("fish", "cat")),
        (("2", "0"), ("fish", "cat")),  # as flags bring them
        (("fish", 1), ("fish", "dog")),
        (("dog",), ("dog",)),
    ],
)
def test_classes_are_chosen_by_name_or_number_in_the_order_of_the_labels(labels, expected):
    assert chosen_classes(PETS, labels) == expected


def test_a_name_wins_over_a_number():
    """Folders that are named 1, 10, 2 have other places."""
    assert chosen_classes(("1", "10", "2"), (2, "1")) == ("2", "1")
    assert chosen_classes(("1", "10", "2"), (0,)) == ("1",)


@pytest.mark.parametrize("label", ["mouse", 3, -1, "3", "", "Cat", "01", "cat,dog"])
def test_an_unknown_class_is_refused(label):
    with pytest.raises(ValueError, match="is not a class, must be one of cat, dog, fish") as refused:
        chosen_classes(PETS, ("dog", label))
    assert str(refused.value).startswith(repr(label))


@pytest.mark.parametrize("labels", [("cat", "cat"), (1, 1), ("dog", 1), (1, "1")])
def test_a_class_twice_is_refused(labels):
    with pytest.raises(ValueError, match=r"'(cat|dog)' is given twice"):
        chosen_classes(PETS, labels)


def test_the_classes_of_a_folder_are_the_subfolders_of_train_in_alphabetical_order():
    for name in ("zebra", "ant", "Bee", "10", "9"):
        (Path("pets/train") / name).mkdir(parents=True)
    Path("pets/train/notes.txt").touch()
    Path("pets/test/whale").mkdir(parents=True)
    assert classes_of("image_folder", Path("pets")) == ("10", "9", "Bee", "ant", "zebra")


def test_a_folder_without_classes_is_named():
    Path("pets/train").mkdir(parents=True)
    for root in ("pets", "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"^{root}/train must be a folder with one subfolder"):
            classes_of("image_folder", Path(root))


@pytest.mark.parametrize("name", IMAGE_SETS)
def test_a_known_dataset_needs_no_folder_for_its_classes(name):
    classes = classes_of(name, Path("nowhere"))
    assert len(set(classes)) == len(classes) == 10
    assert not any(set("/,") & set(word) for word in classes), "a class names a file, and flags are split at commas"


def test_the_names_stand_in_the_labels_order():
    """As the makers of the datasets list them."""
    assert classes_of("mnist", Path()) == tuple(str(digit) for digit in range(10))
    assert [classes_of("fashion_mnist", Path())[i] for i in (0, 4, 6, 9)] == ["t-shirt", "coat", "shirt", "ankle boot"]
    assert [classes_of("cifar10", Path())[i] for i in (0, 3, 5, 9)] == ["airplane", "cat", "dog", "truck"]
