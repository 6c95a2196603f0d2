"""Your own folder of images, through what the command `glmc train` calls: recipe.load and run.train.

    python examples/01_image_folder.py [--epochs 8]

The images are scikit-learn's digits with a long tail, written as photos/<class>/*.png into a temporary folder; put the
path of your own folder there instead. The run folder holds a report, and lies in the temporary folder, too.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

from glmc import recipe
from glmc.data.longtail import profile_counts
from glmc.train import run


def write_photos(root: Path) -> None:
    """165 to 16 images a class; of each class a fifth is held out for testing."""
    digits = load_digits()
    kept = profile_counts(165, 10, imbalance=10, profile="exponential")
    for label, count in enumerate(kept):
        folder = root / f"digit {label}"
        folder.mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == label][:count]):
            Image.fromarray((pixels * 15.9).astype("uint8")).save(folder / f"{number:03d}.png")


parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=8)
epochs = parser.parse_args().epochs

with tempfile.TemporaryDirectory() as place:
    photos = Path(place, "photos")
    write_photos(photos)
    wanted = recipe.load(
        "digits_lt/glmc",  # any recipe is a starting point; every value of it can be replaced
        [
            "data.name=folder",
            f"data.root={json.dumps(str(photos))}",
            "data.imbalance=null",  # the tail that the images have
            "data.n_max=null",
            "data.cache=false",
            "expect=null",  # what the recipe gives on its own images
            f"train.epochs={epochs}",
            "train.device=cpu",
            "eval.every=4",
        ],
    )
    folder = run.train(wanted, Path(place, "run"), command="examples/01_image_folder.py", since=time.perf_counter())
    last = json.loads((folder / "result.json").read_text())["last"]
print(f"top-1 {last['top1']:.1f} %, balanced {last['balanced']:.1f} %")
