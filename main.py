"""The published training command: `python main.py --dataset cifar10 -a resnet32 ...`; see `glmc.published.legacy`."""

from glmc.__main__ import main as glmc
from glmc.published.legacy import main

if __name__ == "__main__":
    main("main", glmc)
