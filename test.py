"""The published test command: `python test.py --dataset cifar10 --resume FILE.pth.tar ...`; see `glmc.legacy`."""

from glmc.legacy import main

if __name__ == "__main__":
    main("test")
