"""The flags of the published `main.py` and `test.py`, and how a command line of theirs is read. No torch in here.

A flag is a row of `FLAGS`, and a data set a row of `DATA_SETS`. `key=value` may stand anywhere between the flags.
"""

import argparse
import difflib
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple, NoReturn

from glmc.errors import UserError

Program = Literal["main", "test"]


class DataSet(NamedTuple):
    """What a word after `--dataset` means."""

    recipe: str
    name: str  # data.name
    classes: int | None  # none: as many as the folder has
    kind: Literal["small", "large", "folder"]


DATA_SETS = {
    "cifar10": DataSet("cifar10_lt/glmc_published", "cifar10", 10, "small"),
    "cifar100": DataSet("cifar100_lt/glmc_published", "cifar100", 100, "small"),
    "ImageNet-LT": DataSet("imagenet_lt/glmc_published", "imagenet_lt", 1000, "large"),
    "iNaturelist2018": DataSet("inaturalist2018/glmc_published", "inaturalist2018", 8142, "large"),
    "iNaturalist2018": DataSet("inaturalist2018/glmc_published", "inaturalist2018", 8142, "large"),
    "nepes": DataSet("cifar10_lt/glmc_published", "folder", None, "folder"),
}


def whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def workers(text: str) -> int:
    """Worker processes; 0, which has the training process decode, becomes 1."""
    return whole(text) or 1


def imbalance(text: str) -> float:
    """The imbalance that belongs to a rate, smallest class / largest class: "0.01" -> 100."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < rate <= 1:
        raise argparse.ArgumentTypeError(
            f"{text} is no rate in (0, 1]: it is the smallest class / the largest, e.g. 0.01 for an imbalance of 100"
        )
    return 1 / float(rate)  # so that `longtail.rate_of` finds the rate again


class Flag(NamedTuple):
    """A published flag."""

    spellings: tuple[str, ...]  # as printed first, then corrected
    read: Callable[[str], Any]
    meaning: str
    key: str | None = None  # of the recipe; none: see `legacy.translate`
    default: Any = None  # of the published parser, where it makes a difference
    remark: str = ""  # said whenever the flag is given; {value} is what was given
    programs: tuple[Program, ...] = ("main", "test")

    @property
    def name(self) -> str:
        """The first long spelling without dashes, e.g. "batch_size"."""
        return next(word for word in self.spellings if word.startswith("--"))[2:].replace("-", "_")


MAIN: tuple[Program, ...] = ("main",)
TEST: tuple[Program, ...] = ("test",)
FLAGS = (
    Flag(("--dataset",), str, ", ".join(DATA_SETS)),
    Flag(("--root",), str, "folder of the images", "data.root"),
    Flag(("--dir_train_txt", "--dir-train-txt"), str, "list of training images", "data.train_list"),
    Flag(("--dir_test_txt", "--dir-test-txt"), str, "list of test images", "data.test_list"),
    Flag(
        ("--imbanlance_rate", "--imbalance_rate", "--imbalance-rate"),
        imbalance,
        "smallest class / largest, in (0, 1]",
        "data.imbalance",
        100.0,
    ),
    Flag(("-b", "--batch_size", "--batch-size"), whole, "images a step", "data.batch_size", 64, programs=MAIN),
    Flag(("-b", "--batch_size", "--batch-size"), whole, "images a step", "eval.batch_size", programs=TEST),
    Flag(("-a", "--arch"), str, "network", "model.name"),
    Flag(("--num_classes", "--num-classes"), whole, "checked against the data"),
    Flag(
        ("--beta",),
        number,
        "lambda ~ Beta(beta, beta)",
        "mixture.alpha",
        remark="--beta {value} makes lambda ~ Beta({value}, {value}); the published code ignored the flag and always "
        "used Beta(1, 1), which is mixture.alpha=1 and what is used without --beta",
        programs=MAIN,
    ),
    Flag(
        ("--resample_weighting", "--resample-weighting"),
        number,
        "r of the second stream",
        "mixture.sampling",
        0.2,
        programs=MAIN,
    ),
    Flag(
        ("--label_weighting", "--label-weighting"),
        number,
        "exponent of the class weights",
        "loss.exponent",
        1.0,
        programs=MAIN,
    ),
    Flag(
        ("--contrast_weight", "--contrast-weight"),
        number,
        "gamma, factor of the consistency",
        "method.contrast_weight",
        10.0,
        programs=MAIN,
    ),
    Flag(("--lr", "--learning-rate", "--learning_rate"), number, "learning rate", "optim.lr", 0.01, programs=MAIN),
    Flag(
        ("--momentum",),
        number,
        "of SGD",
        "optim.momentum",
        remark="--momentum {value} is used; the published code ignored the flag and always used 0.9",
        programs=MAIN,
    ),
    Flag(("--weight_decay", "--wd", "--weight-decay"), number, "of SGD", "optim.weight_decay", 5e-3, programs=MAIN),
    Flag(("--epochs",), whole, "passes over the training images", "train.epochs", 200, programs=MAIN),
    Flag(
        ("--seed",), whole, "of everything random, also of the draw of the long tail", "train.seed", 3407, programs=MAIN
    ),
    Flag(
        ("--gpu",),
        whole,
        "compute on a GPU",
        remark="--gpu {value}: the first visible GPU is used; CUDA_VISIBLE_DEVICES={value} in front of the command "
        "makes that number {value}",
    ),
    Flag(("-j", "--workers"), workers, "processes that decode images", "data.workers", programs=MAIN),
    Flag(
        ("-j", "--workers"),
        whole,
        "no effect",
        remark="-j {value} has no effect: test images are decoded by one thread a core",
        programs=TEST,
    ),
    Flag(
        ("-p", "--print_freq", "--print-freq"),
        whole,
        "no effect",
        remark="-p {value} has no effect: progress is a bar, and every epoch a line",
    ),
    Flag(("--resume",), str, "run folder to go on with", programs=MAIN),
    Flag(("--resume",), str, "what to evaluate: a .pth.tar file or a run folder", programs=TEST),
    Flag(
        ("--start-epoch", "--start_epoch"),
        whole,
        "no effect",
        remark="--start-epoch {value} has no effect: a run that is resumed knows its epoch, a new one begins at 0",
        programs=MAIN,
    ),
    Flag(("--root_model", "--root-model"), str, "folder of the run", programs=MAIN),
    Flag(("--root_log", "--root-log"), str, "folder of the run", programs=MAIN),
    Flag(("--store_name", "--store-name"), str, "name of the run folder", programs=MAIN),
    Flag(
        ("--root_model", "--root-model"),
        str,
        "no effect",
        remark="--root_model {value} has no effect: testing writes no files",
        programs=TEST,
    ),
    Flag(
        ("--store_name", "--store-name"),
        str,
        "no effect",
        remark="--store_name {value} has no effect: testing writes no files",
        programs=TEST,
    ),
)


class Parser(argparse.ArgumentParser):
    """argparse that complains in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise UserError(f"{message.removeprefix('argument ')}; --help names every flag")


def flags(program: Program) -> list[Flag]:
    """The flags of a program."""
    return [flag for flag in FLAGS if program in flag.programs]


def parse(argv: Sequence[str], program: Program) -> tuple[dict[str, Any], list[str]]:
    """Reads the flags, the last of each counting, and the `key=value` between them.

    Returns:
        Name of a flag -> what was given, flags that were not given left out ("show" is one), and the assignments.

    Raises:
        UserError: an unknown flag, a value that cannot be read, a word that is neither.
    """
    parser = Parser(
        prog=f"{program}.py",
        description="The published command line; key=value sets any key of a recipe, see `glmc show RECIPE`.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for flag in flags(program):
        parser.add_argument(*flag.spellings, dest=flag.name, type=flag.read, help=flag.meaning, metavar="VALUE")
    parser.add_argument("--show", action="store_true", help="print the complete recipe and run nothing")
    known, rest = parser.parse_known_args(argv)
    for word in rest:
        if word.startswith("-"):
            spellings = [spelling for flag in flags(program) for spelling in flag.spellings] + ["--show"]
            near = difflib.get_close_matches(word.partition("=")[0], spellings, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(f"{program}.py has no flag {word}: {hint}--help names every flag")
    for word in rest:
        if "=" not in word:
            raise UserError(f"{word!r} is neither the value of a flag nor key=value")
    return vars(known), rest
