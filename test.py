"""The published test command: `python test.py --dataset cifar10 --resume FILE ...`; see `glmc.published.legacy`."""

import os
import sys

if sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
    del sys.path[0]  # no code is taken from here: data may lie beside it

from glmc.__main__ import main as glmc
from glmc.published.legacy import main

if __name__ == "__main__":
    main("test", glmc)
