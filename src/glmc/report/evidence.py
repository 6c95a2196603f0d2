"""What a finished run leaves to look at: a prediction for each test image, and small pictures. Needs no torch.

| file | what |
|---|---|
| `predictions.csv` | a line for each test image, in order: image (path or row), true, predicted, confidence in [0, 1] |
| `examples/*.png, *.jpg` | thumbnails, at most 64 pixels a side, named after the split and the row |
| `examples/examples.json` | which of them show what: `{"pairs": [...], "tail": [...], "files": {...}}`, see `choose` |
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glmc.data.cells import CsvWriter, plain
from glmc.errors import UserError
from glmc.runs.files import remove_temporary, write_atomic
from glmc.runs.shapes import Examples, read_json

Picture = Callable[[int], NDArray[np.uint8]]
"""Row -> uint8 [H, W, 1 or 3]; `array.__getitem__` of images in memory, or what decodes one file."""

SIDE, EXACT = 64, 32  # pixels of a thumbnail, at most; up to so many it is kept without loss
PAIRS, MISTAKEN, OPPOSITE = 6, 3, 2  # confused pairs; test images of each; training images of the class they were given
TAIL, SHOWN = 6, 5  # badly learnt rare classes; training images of each


class Predictions(NamedTuple):
    """What predictions.csv holds.

    Attributes:
        images: N paths or row numbers as text, in the order of the test set.
        true, predicted: int64 [N] in [0, C).
        confidence: float64 [N] in [0, 1], probability of the predicted class.
    """

    images: tuple[str, ...]
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]


# --------------------------------------------------------------------------------------------------------- writing


def write(
    run: Path,
    classes: Sequence[str],
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    confidence: NDArray[np.floating[Any]],
    test_picture: Picture,
    train_labels: NDArray[np.int64],
    train_picture: Picture | None,
    names: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write predictions.csv and examples/ into a run folder; files of the same name are replaced.

    Args:
        run: the folder.
        classes: C different names.
        true, predicted: int64 [N] in [0, C), of the test images.
        confidence: float [N] in [0, 1], probability of the predicted class.
        test_picture: of a test row; called at most 18 times.
        train_labels: int64 [M] in [0, C).
        train_picture: of a training row, called at most 42 times; None leaves the training images out.
        names: paths of the "test" (N) and of the "train" images (M); None: row numbers stand for them.
    """
    images = names["test"] if names else range(len(true))
    write_predictions(run, classes, true, predicted, confidence, images)
    folder = run / "examples"
    folder.mkdir(exist_ok=True)
    remove_temporary(folder)
    counts = np.bincount(train_labels, minlength=len(classes))
    chosen: dict[str, Any] = {"pairs": [], "tail": []}
    pairs, tail = choose(true, predicted, confidence, counts)
    for t, p, rows_of_pair in pairs:
        pair: dict[str, Any] = {"true": classes[t], "predicted": classes[p]}
        pair["test"] = [thumbnail(folder, f"test-{row}", test_picture(row)) for row in rows_of_pair]
        pair["train"] = training(folder, train_labels, p, OPPOSITE, train_picture)
        chosen["pairs"].append(pair)
    for c in tail if train_picture else ():
        chosen["tail"].append({"class": classes[c], "train": training(folder, train_labels, c, SHOWN, train_picture)})
    if names:
        entries = [*chosen["pairs"], *chosen["tail"]]
        shown = [name for entry in entries for part in ("test", "train") for name in entry.get(part, ())]
        chosen["files"] = {name: file_of(name, names) for name in shown}
    write_atomic(folder / "examples.json", json.dumps(chosen, indent=1) + "\n")


def file_of(thumbnail: str, names: Mapping[str, Sequence[str]]) -> str:
    """The image file behind a thumbnail: its part and row are the thumbnail's name."""
    part, row = Path(thumbnail).stem.split("-")
    return names[part][int(row)]


def write_predictions(
    run: Path,
    classes: Sequence[str],
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    confidence: NDArray[np.floating[Any]],
    images: Iterable[str | int],
) -> None:
    """Write predictions.csv: the arguments are those of `write`, and N paths or row numbers."""
    text = io.StringIO()
    table = CsvWriter(text)
    table.writerow(["image", "true", "predicted", "confidence"])
    rows = zip(images, true.tolist(), predicted.tolist(), confidence.tolist(), strict=True)
    table.writerows([name, classes[t], classes[p], f"{c:.6f}"] for name, t, p, c in rows)
    # Names that are not valid Unicode are kept as the file system gave them.
    write_atomic(run / "predictions.csv", text.getvalue().encode(errors="surrogateescape"))


def choose(
    true: NDArray[np.int64],
    predicted: NDArray[np.int64],
    confidence: NDArray[np.floating[Any]],
    counts: NDArray[np.int64],
) -> tuple[list[tuple[int, int, list[int]]], list[int]]:
    """Which test images and which classes are worth a look.

    Args:
        true, predicted, confidence: as for `write`.
        counts: int64 [C], training images per class.

    Returns:
        The most confused pairs as (true class, predicted class, test rows, most confident first), and of the rarer half
        of the classes those of lowest recall, lowest first; classes without mistakes are not among them.
    """
    confusion = np.zeros((len(counts), len(counts)), dtype=np.int64)
    np.add.at(confusion, (true, predicted), 1)
    pairs = []
    for t, p in confused(confusion, PAIRS):
        rows = np.flatnonzero((true == t) & (predicted == p))
        order = np.argsort(-confidence[rows], kind="stable")[:MISTAKEN]
        pairs.append((t, p, rows[order].tolist()))
    return pairs, worst_of_tail(confusion, counts, TAIL)


def confused(confusion: NDArray[np.int64], limit: int) -> list[tuple[int, int]]:
    """(true, predicted) of the largest cells of int64 [C, C] off the diagonal, largest first, empty cells left out."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit].tolist()
    return [divmod(cell, len(wrong)) for cell in order if wrong.flat[cell] > 0]


def worst_of_tail(confusion: NDArray[np.int64], counts: NDArray[np.int64], limit: int) -> list[int]:
    """Classes of the rarer half with mistakes, lowest recall first, of equal ones the rarer first."""
    tail = np.argsort(-counts, kind="stable")[(len(counts) + 1) // 2 :].tolist()
    recall = confusion.diagonal() / np.maximum(confusion.sum(1), 1)
    missed = [c for c in tail if confusion[c].sum() > confusion[c, c]]
    return sorted(missed, key=lambda c: (recall[c], counts[c]))[:limit]


def training(folder: Path, labels: NDArray[np.int64], c: int, limit: int, picture: Picture | None) -> list[str]:
    """Thumbnails of the first training images of class `c`; their file names."""
    if picture is None:
        return []
    return [thumbnail(folder, f"train-{row}", picture(row)) for row in np.flatnonzero(labels == c)[:limit].tolist()]


def thumbnail(folder: Path, name: str, pixels: NDArray[np.uint8]) -> str:
    """Saves uint8 [H, W, 1 or 3]: tiny images exactly as PNG, others reduced as JPEG; returns the file name."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))
    small = max(image.size) <= EXACT
    file = folder / (name + (".png" if small else ".jpg"))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.save(file, quality=88)  # of no effect on PNG; also where one lies already, which a kill may have cut short
    return file.name


# --------------------------------------------------------------------------------------------------------- reading


def read_predictions(run: Path, classes: Sequence[str]) -> Predictions | None:
    """The predictions of a run; None if it left none.

    Raises:
        UserError: the file is damaged or of other classes.
    """
    file, number = run / "predictions.csv", {name: c for c, name in enumerate(classes)}
    if not file.exists():
        return None
    images, true, predicted, confidence = [], [], [], []
    text = file.read_text(encoding="utf-8", errors="surrogateescape")
    for line, row in enumerate(list(csv.reader(io.StringIO(text, newline="")))[1:], 2):
        try:
            name, t, p, c = row
            values = number[plain(t)], number[plain(p)], float(c)
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{file} line {line} is not `image,true,predicted,confidence` of this run's classes ({error}); "
                "delete the file, or train again into an empty folder."
            ) from None
        images.append(plain(name))
        true.append(values[0])
        predicted.append(values[1])
        confidence.append(values[2])
    return Predictions(tuple(images), np.array(true, dtype=np.int64), np.array(predicted, dtype=np.int64),
                       np.array(confidence, dtype=np.float64))  # fmt: skip


def _is_there(picture: Path) -> bool:
    """Whether a picture is there. A link may lead to any file of this machine, which a report would hand on.

    Raises:
        UserError: it is a link, or lies in a folder that is one.
    """
    if picture.is_symlink() or picture.parent.is_symlink():
        raise UserError(f"{picture} is a link, and a report shows only pictures of the run itself: delete it")
    return picture.suffix in (".png", ".jpg") and picture.is_file()


def read_examples(run: Path) -> dict[str, Any]:
    """What examples.json says, with only those pictures that are there; empty where the run left none."""
    file = run / "examples" / "examples.json"
    if not file.exists():
        return {"pairs": [], "tail": []}
    found = read_json(Examples, run, str(file.relative_to(run)), "remove the folder")
    chosen: dict[str, Any] = found.model_dump(exclude_unset=True)
    for entry in chosen["pairs"] + chosen["tail"]:
        for split in {"test", "train"} & set(entry):
            entry[split] = [name for name in entry[split] if _is_there(file.parent / Path(name).name)]
    return chosen
