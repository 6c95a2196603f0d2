"""The published training command: `python main.py --dataset cifar10 -a resnet32 ...`; see `glmc.legacy`."""

from glmc.legacy import main

if __name__ == "__main__":
    main("main")
