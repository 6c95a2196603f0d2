"""The published test command: `python test.py --dataset cifar10 --resume FILE ...`; see `glmc.published.legacy`."""

from glmc.__main__ import main as glmc
from glmc.published.legacy import main

if __name__ == "__main__":
    main("test", glmc)
