"""Where images come from: a name and a folder become a training and a test split.

| name | what |
|---|---|
| `digits` | scikit-learn's 8 x 8 handwritten digits, installed with it |
| `cifar10`, `cifar100` | the official python-version folders, found in place or downloaded |
| `folder` | `root/train/<class>/*` beside `root/{val,valid,validation,test}/<class>/*`, or one folder of classes |
| `list` | lists of `path label`, or CSV files with a header |
| `imagenet_lt`, `places_lt`, `inaturalist2018` | published lists, in `root/data_txt` or `root`, images beside them |
| `imagenet` | `root/train/<class>/*` and `root/val/<class>/*` |
| `hf:user/name` | a data set of the Hugging Face hub, through the package datasets |

Pixels of folders and lists are read later (`glmc.data.decode`); nothing here imports torch, save a CIFAR download.
"""

import difflib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from glmc.data import cifar, folders, holdout, hub, large, lists
from glmc.data.holdout import HoldOut
from glmc.data.split import Split
from glmc.errors import UserError
from glmc.recipe.document import assigned

DIGITS_TEST = 50  # images per class
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TAKE_LISTS = ("list", "imagenet_lt", "places_lt", "inaturalist2018")


@dataclass(frozen=True)
class Source:
    """A data set as it is on disk, before any long tail is cut.

    Args:
        train: training images.
        test: test images, with the classes of `train`.
        val: validation images where the data set has its own.
        mean, std: one number per channel in units of [0, 1], where the field uses fixed constants for the set.
        remarks: sentences for the user.
        skipped: path, tab and reason of each image that was left out because it cannot be read.
    """

    train: Split
    test: Split
    val: Split | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    remarks: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What `load` was asked for; each source takes what concerns it."""

    root: Path
    download: bool
    lists: dict[str, str]  # "train", "test", "val" -> file
    columns: Mapping[str, str]  # "path", "label" -> heading, where it is given
    hold: HoldOut


def load(
    name: str,
    *,
    root: str,
    download: bool = True,
    train_list: str | None = None,
    test_list: str | None = None,
    val_list: str | None = None,
    columns: Mapping[str, str] | None = None,
    hold: HoldOut = holdout.USUAL,
    fewest: int = 2,
) -> Source:
    """Opens a data set by its name in `SOURCES`.

    Args:
        name: a key of `SOURCES`, or hf:user/name.
        root: folder of the data; `~` is the home folder. `digits` needs none.
        download: whether an absent CIFAR set may be fetched into `root`.
        train_list, test_list, val_list: list files of `list`, as given or under `root`. Without a test list, part of
            the training list is held out. `imagenet_lt`, `places_lt` and `inaturalist2018` find their own where none is
            given.
        columns: headings of the "path" and "label" columns of the lists of `list`; none, or one of the two: the usual.
        hold: what is held out for testing where the data have no test set of their own.
        fewest: classes that there must be; 1 where they come to others.

    Raises:
        UserError: anything wrong with the data, naming file, line or class, and the remedy.
    """
    given = {"train": train_list, "test": test_list, "val": val_list}
    files = {part: file for part, file in given.items() if file is not None}
    if files and name not in TAKE_LISTS:
        raise UserError(
            f"data.{next(iter(files))}_list needs data.name=list, but data.name is {name}: change one of them"
        )
    holdout.refuse_column(hold.groups, name)
    if hold.folds is not None:
        refuse_own_tests(name, root, test_list)
    if columns and name != "list":
        raise UserError(f"data.columns needs data.name=list, but data.name is {name}: change one of them")
    if name.startswith(hub.PREFIX):
        source = _with_test_set(*hub.read(name, download=download), hold)
    elif name in SOURCES:
        try:
            source = SOURCES[name](Request(Path(root).expanduser(), download, files, columns or {}, hold))
        except OSError as error:
            raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error
    else:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"data.name={name!r} is unknown: {hint}`glmc list datasets` shows all of them")
    if len(source.train.classes) < fewest:
        alone = source.train.classes[0]
        raise UserError(f"the data have the single class {alone!r}: classification needs at least two")
    if hold.groups is not None and source.train.groups is None:
        raise UserError(holdout.NO_PATHS)
    return source


def refuse_own_tests(name: str, root: str, test_list: str | None) -> None:
    """Raise a `UserError`, before anything is read, if folds are wanted of images that have a test set of their own."""
    if (alone := training_alone(name, root, test_list)) is not None:
        raise UserError(
            f"--folds (data.folds) is for images without a test set of their own, and those of {root} have one: for "
            f"folds of the training images alone, set {shlex.quote(alone)}"
        )


def training_alone(name: str, root: str, test_list: str | None) -> str | None:
    """The key=value that takes the training images alone; None for a folder or a list without a test set, and others.

    Args:
        name, root, test_list: of a recipe's section.
    """
    if name == "list":
        return None if test_list is None else "data.test_list=null"
    if name != "folder" or not Path(root).expanduser().is_dir():
        return None
    places = folders.parts_of(Path(root).expanduser())
    if len(places) < 2 or "train" not in places:
        return None
    return assigned("data.root", str(Path(root) / places["train"].name))


def digits(request: Request) -> Source:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey; 50 of each class are the test set."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[..., None]  # [N, 8, 8, 1]; the files hold 0 .. 16
    split = Split(images, data.target.astype(np.int64), tuple(str(digit) for digit in data.target_names))
    train, test = holdout.hold_out(split.labels, np.full(len(split.classes), DIGITS_TEST), holdout.SEED)
    return Source(split.select(train), split.select(test))


def cifar10(request: Request) -> Source:
    """CIFAR-10: 50,000 + 10,000 photographs of 32 x 32 pixels in 10 classes."""
    train, test, remark = cifar.read("cifar10", request.root, request.download)
    return Source(train, test, None, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), (remark,))


def cifar100(request: Request) -> Source:
    """CIFAR-100: 50,000 + 10,000 photographs of 32 x 32 pixels in 100 classes."""
    train, test, remark = cifar.read("cifar100", request.root, request.download)
    # The constants of CIFAR-10 with these deviations are what the published long-tail codes use for CIFAR-100 too.
    return Source(train, test, None, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), (remark,))


def folder(request: Request) -> Source:
    """Any folder of images: train and test (and val) folders of classes, or one folder of classes, part held out."""
    parts, remarks = folders.read(request.root, deep=request.hold.groups == holdout.FOLDERS)
    return _with_test_set(parts, remarks, request.hold, of_classes=True)


def listed(request: Request) -> Source:
    """Any list of images: lines of `path label`, or a table with the header path,label; labels are numbers or names."""
    parts, remarks = lists.read(request.root, request.lists, request.columns)
    before, column, name = (request.hold.groups or "").partition(holdout.COLUMN)
    if column and not before:
        values = lists.column(request.root, request.lists["train"], request.columns, name)
        parts["train"] = replace(parts["train"], groups=holdout.numbered(values))
    return _with_test_set(parts, remarks, request.hold)


def imagenet_lt(request: Request) -> Source:
    """ImageNet-LT: 115,846 photographs in 1,000 classes of 1,280 to 5, and 50,000 to test on; the published lists."""
    found = large.read_lists(request.root, request.lists, large.IMAGENET_LT)
    return replace(_with_test_set(*found, request.hold), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def places_lt(request: Request) -> Source:
    """Places-LT: 62,500 photographs of 365 kinds of places, 4,980 to 5, and 36,500 to test on; the published lists."""
    found = large.read_lists(request.root, request.lists, large.PLACES_LT)
    return replace(_with_test_set(*found, request.hold), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def inaturalist2018(request: Request) -> Source:
    """iNaturalist 2018: 437,513 + 24,426 photographs of 8,142 species; the published lists."""
    found = large.read_lists(request.root, request.lists, large.INATURALIST_2018)
    mean, std = (0.466, 0.471, 0.380), (0.195, 0.194, 0.192)
    return replace(_with_test_set(*found, request.hold), mean=mean, std=std)


def imagenet(request: Request) -> Source:
    """ImageNet (ILSVRC 2012), whole: 1,281,167 + 50,000 photographs in 1,000 classes."""
    found = large.read_imagenet(request.root)
    return replace(_with_test_set(*found, request.hold), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _with_test_set(parts: dict[str, Split], remarks: list[str], hold: HoldOut, *, of_classes: bool = False) -> Source:
    """Holds a test set out of the training images where there is none; `of_classes` as for `holdout.grouped`."""
    train, val = parts["train"], parts.get("val")
    if hold.groups is not None:
        train = train if train.groups is not None else holdout.grouped(train, hold.groups, of_classes=of_classes)
        remarks = [*remarks, *holdout.whole_classes(train)]
    if "test" in parts:
        if hold.folds is not None:
            raise UserError(
                "--folds (data.folds) is for data without a test set of their own, and these have one: leave it out"
            )
        return Source(train, parts["test"], val, remarks=tuple(remarks))
    kept, held, remark = holdout.divide(train, hold)
    return Source(train.select(kept), train.select(held), val, remarks=(*remarks, remark))


SOURCES: dict[str, Callable[[Request], Source]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "folder": folder,
    "list": listed,
    "imagenet_lt": imagenet_lt,
    "places_lt": places_lt,
    "inaturalist2018": inaturalist2018,
    "imagenet": imagenet,
}
