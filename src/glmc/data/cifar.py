"""CIFAR-10 and CIFAR-100 from their official "python version" folders (Krizhevsky 2009), without trusting the pickles.

A pickle may run any code while it is read. The reader here admits dict, list, bytes, str, int and numpy arrays of plain
numbers; arrays are put together by a few lines of our own, so that not even numpy's unpickling code is reached. Nor can
a small file keep it busy or fill the memory: what is shared is looked at once, a key is text, bytes are counted.
"""

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from glmc import trust
from glmc.data.split import Split
from glmc.errors import UserError

MOST_BYTES = 2**29  # of one file; the largest official one has 155 MB


@dataclass(frozen=True)
class Layout:
    """Where a set keeps what; file names with the md5 of the official files."""

    title: str
    torchvision: str  # class name in torchvision.datasets, which knows address and checksum
    archive: str
    folders: tuple[str, ...]
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    labels: str
    names: str


LAYOUTS = {
    "cifar10": Layout(
        title="CIFAR-10",
        torchvision="CIFAR10",
        archive="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        folders=("cifar-10-batches-py", "CIFAR-10-batches-py"),
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        labels="labels",
        names="label_names",
    ),
    "cifar100": Layout(
        title="CIFAR-100",
        torchvision="CIFAR100",
        archive="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        folders=("cifar-100-python", "CIFAR-100-python"),
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
        labels="fine_labels",
        names="fine_label_names",
    ),
}


def read(name: str, root: Path, download: bool) -> tuple[Split, Split, str]:
    """Training set, test set and a remark of "cifar10" or "cifar100".

    The folder is looked for under both spellings in use, at `root`, one level below, and as `root` itself. If it is
    nowhere and `download` is true, torchvision fetches the archive into `root` and verifies its checksum.

    Returns:
        Two splits with images uint8 [N, 32, 32, 3] in file order, and one remark: whether these are the official files.

    Raises:
        UserError: the data are absent and cannot be fetched, or a file is missing, damaged or not a CIFAR file.
    """
    layout = LAYOUTS[name]
    folder = find(layout, root)
    if folder is None:
        folder = _download(layout, root, download)
    classes = _class_names(layout, folder)
    train = _split([folder / file for file in layout.train], layout, classes)
    test = _split([folder / file for file in layout.test], layout, classes)
    return train, test, _authenticity(layout, folder)


def find(layout: Layout, root: Path) -> Path | None:
    """The folder of the set at `root`, one level below or `root` itself; None if there is none."""
    if not root.is_dir():
        return None
    below = sorted(entry.path for entry in os.scandir(root) if entry.is_dir())
    for folder in [str(root), *below]:
        for spelling in layout.folders:
            if os.path.isdir(os.path.join(folder, spelling)):
                return Path(folder, spelling)
    complete = all((root / file).is_file() for file in [*layout.train, *layout.test, *layout.meta])
    return root if complete or root.resolve().name in layout.folders else None


def load_pickle(path: Path) -> Any:
    """Reads a pickle of dict, list, bytes, str, int and numpy arrays; bytes that are dict keys come back as str.

    Raises:
        UserError: the file is missing or damaged, or asks for anything else; nothing of what it asks for is run.
    """
    try:
        with trust.open_file(path, MOST_BYTES) as file:
            return _plain(_Reader(file).load(), {})
    except FileNotFoundError:
        raise UserError(f"{path} is missing: delete {path.parent} and unpack or download the data set again") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        raise UserError(
            f"{path} is not a CIFAR file that can be read safely ({error}): delete {path.parent} and unpack or "
            "download the data set again"
        ) from error


class _Dtype:
    """Stands in for numpy.dtype while a pickle is read: plain numbers only, no objects, no fields."""

    def __init__(self, kind: str | bytes, *_copy: object) -> None:
        self.kind, self.order = _text(kind), "="
        if self.kind not in {"b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"}:
            raise pickle.UnpicklingError(f"it holds an array of type {self.kind!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = _text(state[1])


class _Array:
    """Stands in for numpy.ndarray while a pickle is read; `_plain` takes the finished array out."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, by_columns, raw = state
        values = np.frombuffer(raw, np.dtype(dtype.kind).newbyteorder(dtype.order))
        self.values: NDArray[Any] = values.reshape(shape, order="F" if by_columns else "C")


def _reconstruct(*_empty: object) -> _Array:
    return _Array()


class _Reader(pickle._Unpickler):
    """The unpickler in Python: the one in C makes its memo as long as the largest number that a file has in it."""

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: act
        for code, act in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in {pickle.DICT, pickle.FROZENSET, pickle.ADDITEMS, pickle.BYTEARRAY8}
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")
        self.room = MOST_BYTES
        self.admitted: dict[tuple[str, str], Callable[..., object]] = {
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): self.encode,
        }

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_text(key)] = value

    def set_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(zip(map(_text, items[::2]), items[1::2], strict=True))

    dispatch |= {pickle.SETITEM[0]: set_item, pickle.SETITEMS[0]: set_items}

    def encode(self, text: str, encoding: str) -> bytes:
        """Python 3 writes bytes into protocol 2 as text in Latin-1."""
        if _text(encoding) not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"it asks for the encoding {encoding}, which is refused")
        self.room -= len(text)
        if self.room < 0:
            raise pickle.UnpicklingError("it makes more bytes than such a file has")
        return text.encode("latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return self.admitted[module, name]


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The value with finished arrays; anything else that a pickle can hold is refused.

    `done`: id -> what came of it, for lists that stand in several places, and these in several places, and so on.
    """
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, (bytes, str, int)):
        return value
    if id(value) not in done:
        if isinstance(value, dict):
            done[id(value)] = {key: _plain(item, done) for key, item in value.items()}
        elif isinstance(value, list):
            done[id(value)] = [_plain(item, done) for item in value]
        else:
            raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
    return done[id(value)]


def _text(value: object) -> str:
    if not isinstance(value, bytes | str):  # a tuple of tuples of tuples may take for ever to be looked up
        raise pickle.UnpicklingError(f"it has a {type(value).__name__} where there should be text")
    return value.decode() if isinstance(value, bytes) else value


def _split(files: list[Path], layout: Layout, classes: tuple[str, ...]) -> Split:
    """Joins batch files in order; rows of the file are 1024 red, 1024 green, 1024 blue values."""
    batches = [_batch(file, layout, len(classes)) for file in files]
    pixels = np.concatenate([pixels for pixels, _ in batches])
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Split(images, np.concatenate([labels for _, labels in batches]), classes)


def _batch(file: Path, layout: Layout, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = load_pickle(file)
    match content:
        case {"data": np.ndarray() as pixels, layout.labels: list() as labels} if (
            pixels.dtype == np.uint8
            and pixels.shape == (len(labels), 3072)
            and all(type(label) is int and 0 <= label < classes for label in labels)
        ):
            return pixels, np.array(labels, dtype=np.int64)
    raise UserError(
        f"{file} is not a {layout.title} file: it should hold 'data', uint8 [N, 3072], and {layout.labels!r}, "
        f"N whole numbers from 0 to {classes - 1}; unpack or download the data set again"
    )


def _class_names(layout: Layout, folder: Path) -> tuple[str, ...]:
    (file,) = layout.meta
    content = load_pickle(folder / file)
    names = content.get(layout.names) if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, (bytes, str)) for name in names):
        raise UserError(f"{folder / file} does not hold the class names {layout.names!r}; unpack or download again")
    return tuple(_text(name) for name in names)


def _authenticity(layout: Layout, folder: Path) -> str:
    different = []
    for file, md5 in {**layout.train, **layout.test, **layout.meta}.items():
        with open(folder / file, "rb") as stream:
            if hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() != md5:
                different.append(file)
    if different:
        return f"{layout.title} in {folder}: not the official files (other checksum: {', '.join(different)})"
    return f"{layout.title} in {folder}: official files"


def _download(layout: Layout, root: Path, download: bool) -> Path:
    """Has torchvision fetch, verify and unpack the archive; returns the folder."""
    remedy = (
        f"download {layout.archive} and unpack it in {root}, or set data.root to the folder that holds "
        f"{layout.folders[0]}"
    )
    if not download:
        raise UserError(f"{layout.title} is not in {root} and data.download is false: {remedy}")
    from torchvision import datasets
    from torchvision.datasets.utils import download_and_extract_archive

    source = getattr(datasets, layout.torchvision)
    try:
        download_and_extract_archive(source.url, root, filename=source.filename, md5=source.tgz_md5)
    except (OSError, RuntimeError, HTTPException) as error:
        raise UserError(f"{layout.title} is not in {root} and could not be downloaded ({error}): {remedy}") from error
    folder = find(layout, root)
    if folder is None:
        raise UserError(f"the archive of {layout.title} holds no folder {layout.folders[0]}: {remedy}")
    return folder
