"""The large public sets in their official layouts: ImageNet-LT, Places-LT, iNaturalist 2018 and ImageNet.

The published lists are plain lists of `path label`, read by `glmc.data.lists`; what is added here is where they lie,
which folder their paths start from, and how many images and classes they should have.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from glmc.data import folders, lists
from glmc.data.split import Split
from glmc.errors import UserError

ImageCounts = Mapping[str, int]  # list or folder name -> published number of images


@dataclass(frozen=True)
class Published:
    """A set of lists as it was published.

    Args:
        train: file name of the training list.
        test: file names of the test list, the first one found is taken.
        images: published number of images of each of these files.
        classes: published number of classes.
        remedy: what to download, and where it must lie ("{root}" is the user's).
    """

    train: str
    test: tuple[str, ...]
    images: ImageCounts
    classes: int
    remedy: str


IMAGENET_LT = Published(
    train="ImageNet_LT_train.txt",
    test=("ImageNet_LT_test.txt", "ImageNet_LT_val.txt"),
    images={"ImageNet_LT_train.txt": 115_846, "ImageNet_LT_test.txt": 50_000, "ImageNet_LT_val.txt": 20_000},
    classes=1000,
    remedy="download ImageNet (ILSVRC 2012, image-net.org) to {root}/ImageNet/train/<class>/*.JPEG and "
    "{root}/ImageNet/val/<class>/*.JPEG, and the lists ImageNet_LT_train.txt and ImageNet_LT_test.txt "
    "(github.com/facebookresearch/classifier-balancing, data) to {root}/data_txt",
)
INATURALIST_2018 = Published(
    train="iNaturalist18_train.txt",
    test=("iNaturalist18_val.txt",),
    images={"iNaturalist18_train.txt": 437_513, "iNaturalist18_val.txt": 24_426},
    classes=8142,
    remedy="download train_val2018.tar.gz (github.com/visipedia/inat_comp, 2018) and unpack it to "
    "{root}/train_val2018, and the lists iNaturalist18_train.txt and iNaturalist18_val.txt "
    "(github.com/facebookresearch/classifier-balancing, data) to {root}/data_txt",
)
PLACES_LT = Published(
    train="Places_LT_train.txt",
    test=("Places_LT_test.txt",),
    images={"Places_LT_train.txt": 62_500, "Places_LT_test.txt": 36_500},
    classes=365,
    remedy="download the small images of Places365-Standard (places2.csail.mit.edu) and unpack them to "
    "{root}/data_256 and {root}/val_256, and the lists Places_LT_train.txt and Places_LT_test.txt "
    "(github.com/facebookresearch/classifier-balancing, data) to {root}/data_txt",
)
IMAGENET = {"train": 1_281_167, "val": 50_000}
IMAGENET_CLASSES = 1000
IMAGENET_REMEDY = (
    "download ImageNet (ILSVRC 2012, image-net.org) to {root}/train/<class>/*.JPEG and {root}/val/<class>/*.JPEG, or "
    "to {root}/ImageNet/train and {root}/ImageNet/val"
)


def read_lists(root: Path, given: Mapping[str, str], published: Published) -> tuple[dict[str, Split], list[str]]:
    """The parts "train", "test" (and "val", if given) of a published set of lists, and remarks.

    Args:
        root: folder of the data.
        given: "train", "test", "val" -> a list file of the user's, as given or under `root`; the others are looked for
            under their official names in `root/data_txt` and in `root`.
        published: the set.

    Raises:
        UserError: lists or images that are not there, with the remedy; a bad line, label or image, named.
    """
    remedy = published.remedy.format(root=root)
    files = {part: _given(root, part, name) for part, name in given.items()}
    for part, names in (("train", (published.train,)), ("test", published.test)):
        if part not in files:
            files[part] = _official(root, part, names, remedy)
    start = _start(root, files["train"], remedy)
    parts, remarks = lists.read(start, {part: str(file) for part, file in files.items()})
    found = {files[part].name: len(split) for part, split in parts.items()}
    differences = _differences(found, published.images, len(parts["train"].classes), published.classes)
    return parts, [f"the {len(parts['test']):,} test images are those of {files['test']}", *differences, *remarks]


def read_imagenet(root: Path) -> tuple[dict[str, Split], list[str]]:
    """The parts "train" and "test" of ImageNet, and remarks; its validation images are what everybody tests on.

    They lie in `root/{train,val}/<class>/*` or `root/ImageNet/{train,val}/<class>/*`. A folder `test` beside them,
    whose images have no public labels, is not looked at.

    Raises:
        UserError: the folders are not there, with the remedy, or differ in their classes.
    """
    starts = [start for start in (root, root / "ImageNet") if (start / "train").is_dir() and (start / "val").is_dir()]
    if not starts:
        raise UserError(
            f"data.root={root} has no folders train and val of ImageNet: {IMAGENET_REMEDY.format(root=root)}"
        )
    remarks: list[str] = []
    splits: dict[str, Split] = {}
    for name in ("train", "val"):
        parts, said = folders.read(starts[0] / name)
        splits[name] = parts["train"]
        remarks += said
    train, test = splits["train"], splits["val"]
    if train.classes != test.classes:
        only = min(set(train.classes) ^ set(test.classes))
        has, lacks = ("train", "val") if only in train.classes else ("val", "train")
        raise UserError(
            f"{starts[0] / has} has the class {only!r}, and {starts[0] / lacks} has not: give both folders the same "
            "classes"
        )
    found = {name: len(split) for name, split in splits.items()}
    differences = _differences(found, IMAGENET, len(train.classes), IMAGENET_CLASSES)
    return {"train": train, "test": test}, [*differences, *remarks]


def _given(root: Path, part: str, name: str) -> Path:
    file = Path(name).expanduser()
    found = next((path for path in (file, root / file) if path.is_file()), None)
    if found is None:
        raise UserError(f"data.{part}_list={name}: there is no such file, neither as given nor in {root}")
    return found


def _official(root: Path, part: str, names: tuple[str, ...], remedy: str) -> Path:
    """The first of the official lists that is there."""
    places = (folder / name for name in names for folder in (root / "data_txt", root))
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise UserError(
            f"there is no {' or '.join(names)} in {root / 'data_txt'} or {root}: {remedy}, or name your own list with "
            f"data.{part}_list=FILE"
        )
    return found


def _start(root: Path, listing: Path, remedy: str) -> Path:
    """The folder that listed paths start from: where the first image is, else where its topmost folder is.

    The latter leaves it to `lists.read` to say which images are missing.
    """
    starts = [root, root / "ImageNet", *(folder.parent for folder in sorted(root.glob("*/train_val2018")))]
    if root.name == "train_val2018":
        starts.append(root.parent)
    first = lists.first_path(listing)
    for name in (first, first.partition("/")[0]):
        for start in starts:
            if (start / name).exists():
                return start
    looked = ", ".join(map(str, starts))
    raise UserError(f"{first!r}, the first image of {listing}, is in none of {looked}: {remedy}")


def _differences(found: ImageCounts, published: ImageCounts, classes: int, published_classes: int) -> list[str]:
    """A remark for each number that is not the published one."""
    remarks = [
        f"{name} has {count:,} images, {published[name]:,} were published"
        for name, count in found.items()
        if name in published and count != published[name]
    ]
    if classes != published_classes:
        remarks.append(f"the training images have {classes:,} classes, {published_classes:,} were published")
    return remarks
