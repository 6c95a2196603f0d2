"""A contact sheet of predictions: one self-contained page with a thumbnail of each image, the least certain first."""

import base64
import io
import os
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Named = list[tuple[str, float]]  # class and probability, falling

SHOWN = 1000  # images of a page, at most: about 5 MB
SIDE = 128  # pixels of a thumbnail


def page(heading: str, rows: Sequence[tuple[str, Named, str, str]], picture: Callable[[str], NDArray[np.uint8]]) -> str:
    """The page.

    Args:
        heading: of the page, such as the name of the run.
        rows: path, most probable classes, title and set of each image; the set is "" where none is asked.
        picture: path -> uint8 [side, side, 1 or 3], as the network sees it.
    """
    from glmc.report.page import render  # matplotlib: not worth a second where no page is wanted

    least = sorted(rows, key=lambda row: row[1][0][1])[:SHOWN]
    cases = [
        {
            "file": os.fsencode(path).decode("utf-8", "replace"),
            "picture": thumbnail(picture(path)),
            "named": [(name, f"{100 * probability:.1f} %") for name, probability in named[:3]],
            "title": title,
            "set": members,
        }
        for path, named, title, members in least
    ]
    classes = Counter(title for _, _, title, _ in rows).most_common()
    return render("sheet.html", {"title": heading, "cases": cases, "images": len(rows), "classes": classes})


def thumbnail(pixels: NDArray[np.uint8]) -> str:
    """uint8 [side, side, 1 or 3] as data of the page itself."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "jpeg", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
