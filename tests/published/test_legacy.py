"""The published command lines: what each flag becomes, what is said of it, and that the printed commands run."""

import json
import pickle
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from glmc import recipe, report
from glmc.data.longtail import profile_counts
from glmc.errors import UserError
from glmc.published import flags, legacy

ROOT = Path(__file__).parent.parent.parent

# As printed; the second one over two lines.
PRINTED = {
    "cifar10": """python main.py --dataset cifar10 -a resnet32 --num_classes 10 --imbanlance_rate 0.01 --beta 0.5
 --lr 0.01 --epochs 200 -b 64 --momentum 0.9 --weight_decay 5e-3 --resample_weighting 0.0 --label_weighting 1.2
 --contrast_weight 4""".replace("\n ", " "),
    "cifar100": """python main.py --dataset cifar100 -a resnet32 --num_classes 100 --imbanlance_rate 0.01 --beta 0.5
 --lr 0.01 --epochs 200 -b 64 --momentum 0.9 --weight_decay 5e-3
--resample_weighting 0.0 --label_weighting 1.2 --contrast_weight 10
""".replace("\n ", " "),
    "ImageNet-LT": """python main.py --dataset ImageNet-LT -a resnext50_32x4d --num_classes 1000 --beta 0.5 --lr 0.1
 --epochs 135 -b 120 --momentum 0.9 --weight_decay 2e-4 --resample_weighting 0.2 --label_weighting 1.0
 --contrast_weight 10""".replace("\n ", " "),
    "iNaturelist2018": """python main.py --dataset iNaturelist2018 -a resnext50_32x4d --num_classes 8142 --beta 0.5
 --lr 0.1 --epochs 120 -b 128 --momentum 0.9 --weight_decay 1e-4 --resample_weighting 0.2 --label_weighting 1.0
 --contrast_weight 10""".replace("\n ", " "),
    "nepes": """python main.py --dataset nepes -a resnet50 --num_classes 10 --beta 0.5 --lr 0.01 --epochs 200 -b 64
 --momentum 0.9 --weight_decay 5e-3 --resample_weighting 0.0 --label_weighting 1.2 --contrast_weight 4
""".replace("\n ", " "),
    "test": "python test.py --dataset ImageNet-LT -a resnext50_32x4d --num_classes 1000 --resume model_path",
}
# What the printed words ask for, as values of the recipe.
COMMON = {"mixture.alpha": 0.5, "optim.momentum": 0.9, "train.seed": 3407, "data.root": "here"}
LARGE = {
    "mixture.sampling": 0.2, "loss.exponent": 1.0, "method.contrast_weight": 10, "optim.lr": 0.1,
    "model.name": "resnext50_32x4d", "data.imbalance": None,
}  # fmt: skip
SMALL = {
    "mixture.sampling": 0.0, "loss.exponent": 1.2, "optim.lr": 0.01, "optim.weight_decay": 5e-3,
    "train.epochs": 200, "data.batch_size": 64, "data.split": "du",
}  # fmt: skip
ASKED = {
    "cifar10": COMMON | SMALL | {"data.name": "cifar10", "data.imbalance": 100, "model.name": "resnet32_w64",
                                 "method.contrast_weight": 4},
    "cifar100": COMMON | SMALL | {"data.name": "cifar100", "data.imbalance": 100, "model.name": "resnet32_w64",
                                  "method.contrast_weight": 10},
    "ImageNet-LT": COMMON | LARGE | {"data.name": "imagenet_lt", "train.epochs": 135, "data.batch_size": 120,
                                     "optim.weight_decay": 2e-4},
    "iNaturelist2018": COMMON | LARGE | {"data.name": "inaturalist2018", "train.epochs": 120, "data.batch_size": 128,
                                         "optim.weight_decay": 1e-4},
    "nepes": COMMON | SMALL | {"data.name": "folder", "data.imbalance": None, "model.name": "resnet50",
                               "method.contrast_weight": 4, "data.size": 256, "data.mean": None, "published": None,
                               "views.test": [{"center_crop": 224}]},
    "test": {"data.name": "imagenet_lt", "model.name": "resnext50_32x4d", "data.root": "here"},
}  # fmt: skip
SAID = {  # a word of each remark that applies
    "cifar10": ["--beta 0.5", "--momentum 0.9", "resnet32_w64"],
    "cifar100": ["--beta 0.5", "--momentum 0.9", "resnet32_w64"],
    "ImageNet-LT": ["--beta 0.5", "--momentum 0.9"],
    "iNaturelist2018": ["--beta 0.5", "--momentum 0.9"],
    "nepes": ["--beta 0.5", "--momentum 0.9", "256 x 256"],
    "test": ["model_path itself says which network it is"],
}
COMMAND = {
    "cifar10": "glmc train cifar10_lt/glmc_published data.root=here ",
    "cifar100": "glmc train cifar100_lt/glmc_published data.root=here ",
    "ImageNet-LT": "glmc train imagenet_lt/glmc_published data.root=here ",
    "iNaturelist2018": "glmc train inaturalist2018/glmc_published data.root=here ",
    "nepes": "glmc train cifar10_lt/glmc_published ",
    "test": "glmc test model_path data.name=imagenet_lt data.root=here",
}


def value(tree, key):
    for part in key.split("."):
        tree = tree[part]
    return tree


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys):
    """A command in this process, as printed: "python main.py ..." -> (exit code, standard output, standard error)."""

    def run(line, *more):
        _, program, *words = [*shlex.split(line), *map(str, more)]
        monkeypatch.setattr(sys, "argv", [program, *words])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        return ended.value.code or 0, *capsys.readouterr()

    return run


def meant(line, *more):
    """What a command line asks for: its translation, and the recipe as a tree."""
    _, program, *words = [*shlex.split(line), *more]
    translation = legacy.translate(words, program.removesuffix(".py"))
    return translation, recipe.load(translation.recipe, translation.overrides).model_dump()


# ------------------------------------------------------------------------------------------- the printed commands


def test_the_printed_commands_are_those_of_the_documents():
    joined = " ".join(PRINTED.values()).split()
    assert len(PRINTED) == 6
    assert joined.count("main.py") == 5
    assert PRINTED["cifar100"].splitlines()[1].startswith("--resample_weighting")


@pytest.mark.parametrize("name", PRINTED)
def test_a_printed_command_asks_for_its_recipe(call, name):
    code, out, err = call(PRINTED[name], "--root", "here", "--show")
    assert (code, err) == (0, "")
    tree = yaml.load(out, yaml.BaseLoader)  # every value as text; what it means is compared below
    assert set(tree) == set(recipe.load("cifar10_lt/glmc_published").model_dump())
    shown = recipe.parse(out).model_dump()
    assert {key: value(shown, key) for key in ASKED[name]} == ASKED[name]
    assert COMMAND[name] in out
    remarks = [line for line in out.splitlines() if line.startswith("# remark: ")]
    assert len(remarks) == len(SAID[name])
    for word in SAID[name]:
        assert any(word in remark for remark in remarks)
    assert not list(Path.cwd().iterdir())


def test_the_printed_flags_leave_of_the_recipe_what_it_says():
    """The settings of the printed command are the published recipe's; only beta and the seed differ."""
    translation, _ = meant(PRINTED["cifar10"])
    assert translation.overrides == ("mixture.alpha=0.5", "train.seed=3407")
    assert translation.command == "glmc train cifar10_lt/glmc_published mixture.alpha=0.5 train.seed=3407"


# ------------------------------------------------------------------------------------------------------ every flag

CIFAR = "python main.py --dataset cifar10"
FLAGS = [  # words after the data set, key of the recipe, its value
    ("--root ~/images", "data.root", "~/images"),
    ("-a resnet32", "model.name", "resnet32_w64"),
    ("--arch resnet18", "model.name", "resnet18_small"),
    ("-a resnet34", "model.name", "resnet34_small"),
    ("-a resnet50", "model.name", "resnet50_small"),
    ("-a resnet20", "model.name", "resnet20"),
    ("-a resnext50_32x4d", "model.name", "resnext50_32x4d"),
    ("--num_classes 10", "data.name", "cifar10"),
    ("--num-classes 10", "data.name", "cifar10"),
    ("--imbanlance_rate 0.02", "data.imbalance", 50),
    ("--imbalance_rate 0.1", "data.imbalance", 10),
    ("--imbalance-rate=1e-2", "data.imbalance", 100),
    ("--imbalance_rate 0.03", "data.imbalance", 100 / 3),
    ("--imbalance_rate 1", "data.imbalance", 1),
    ("--beta 0.7", "mixture.alpha", 0.7),
    ("--lr 0.3", "optim.lr", 0.3),
    ("--learning-rate 3e-1", "optim.lr", 0.3),
    ("--learning_rate .3", "optim.lr", 0.3),
    ("--epochs 7", "train.epochs", 7),
    ("-b 32", "data.batch_size", 32),
    ("-b32", "data.batch_size", 32),
    ("--batch_size 32", "data.batch_size", 32),
    ("--batch-size 32", "data.batch_size", 32),
    ("--momentum 0.8", "optim.momentum", 0.8),
    ("--wd 1e-4", "optim.weight_decay", 1e-4),
    ("--weight_decay 1e-4", "optim.weight_decay", 1e-4),
    ("--weight-decay 1e-4", "optim.weight_decay", 1e-4),
    ("--resample_weighting 0.5", "mixture.sampling", 0.5),
    ("--resample-weighting 0.5", "mixture.sampling", 0.5),
    ("--label_weighting 0.9", "loss.exponent", 0.9),
    ("--label-weighting 0.9", "loss.exponent", 0.9),
    ("--contrast_weight 4.5", "method.contrast_weight", 4.5),
    ("--contrast-weight 6", "method.contrast_weight", 6),
    ("--seed 5", "train.seed", 5),
    ("--seed 5", "data.split_seed", 5),
    ("-j 3", "data.workers", 3),
    ("--workers 0", "data.workers", 1),
    ("--gpu 1", "train.device", "cuda"),
    # what the published parser has where nothing is given
    ("", "data.root", "data"),
    ("", "model.name", "resnet34_small"),
    ("", "data.imbalance", 100),
    ("", "mixture.alpha", 1),
    ("", "optim.lr", 0.01),
    ("", "train.epochs", 200),
    ("", "data.batch_size", 64),
    ("", "optim.momentum", 0.9),
    ("", "optim.weight_decay", 5e-3),
    ("", "mixture.sampling", 0.2),
    ("", "loss.exponent", 1),
    ("", "method.contrast_weight", 10),
    ("", "train.seed", 3407),
    ("", "data.split_seed", None),
    ("", "data.workers", None),
    # the last counts, and key=value above all, wherever it stands
    ("--epochs 7 --epochs 8", "train.epochs", 8),
    ("train.epochs=9 --epochs 8", "train.epochs", 9),
    ("--epochs 8 train.epochs=9 --lr 1", "train.epochs", 9),
    ("--lr 1 optim={lr:\u00a02,weight_decay:\u00a00}", "optim.lr", 2),
    ("train.max_steps=2 -b 8", "train.max_steps", 2),
]
EFFECTLESS = [
    "-p 10",
    "--print_freq 10",
    "--print-freq 10",
    "--start-epoch 3",
    "--start_epoch 3",
]
FOLDERS = ["--root_log a", "--root-log a", "--root_model a", "--root-model a", "--store_name a", "--store-name a"]
LISTS = ["--dir_train_txt", "--dir-train-txt", "--dir_test_txt", "--dir-test-txt"]


def split(words):
    """At blanks, but not at the unbreakable ones."""
    return [word.replace("\u00a0", " ") for word in words.split(" ") if word]


@pytest.mark.parametrize(("words", "key", "wanted"), FLAGS, ids=lambda cell: str(cell))
def test_a_flag_is_a_value_of_the_recipe(words, key, wanted):
    _, tree = meant(CIFAR, *split(words))
    assert value(tree, key) == wanted


def test_every_flag_is_in_a_table():
    """Every spelling is tried: as a value, as one without effect, as a folder or list, or in a test of its own."""
    tried = {word.partition("=")[0] for words, _, _ in FLAGS for word in split(words)} | {"-b"}
    tried |= {words.split()[0] for words in EFFECTLESS + FOLDERS} | set(LISTS) | {"--dataset", "--resume"}
    spellings = {spelling for flag in flags.FLAGS for spelling in flag.spellings}
    assert spellings - tried == set()


@pytest.mark.parametrize("words", ["--beta 0.5", "--momentum 0.9", "--gpu 0", *EFFECTLESS])
def test_what_the_published_code_did_otherwise_is_said(words):
    plain, tree = meant(CIFAR)
    translation, same = meant(CIFAR, *words.split())
    (remark,) = set(translation.remarks) - set(plain.remarks)
    assert words.split()[1] in remark
    if words in EFFECTLESS:
        assert "no effect" in remark
        assert same == tree


def test_published_defaults_that_differ_from_the_recipe_are_said():
    said = " ".join(meant(CIFAR)[0].remarks)
    for words in ("--resample_weighting 0.2", "--label_weighting 1", "--contrast_weight 10", "-a resnet34"):
        assert words in said
    assert "published default" not in " ".join(meant(PRINTED["cifar10"])[0].remarks)


@pytest.mark.parametrize(
    ("words", "out", "remarks"),
    [
        ("", None, 0),
        ("--root_model models", "models", 0),
        ("--root_log logs", "logs", 0),
        ("--root_log logs --root_model models", "models", 1),
        ("--root_log same --root-model same --store-name first", "same/first", 0),
        ("--store_name first", "runs/first", 0),
    ],
)
def test_the_run_folder(words, out, remarks):
    translation, _ = meant(PRINTED["cifar10"], "--root", "here", *words.split())
    assert translation.out == (out and Path(out))
    assert len(translation.remarks) == 3 + remarks
    assert f"--out {out} " in translation.command if out else "--out" not in translation.command


@pytest.mark.parametrize("flag", LISTS)
@pytest.mark.parametrize("program", ["main", "test"])
def test_lists_are_taken_on_both(program, flag):
    key = "data.train_list" if "train" in flag else "data.test_list"
    for data_set in ("ImageNet-LT", "iNaturalist2018", "iNaturelist2018"):
        words = ["--dataset", data_set, flag, "a/list.txt", "--resume", "model.pth.tar"]
        translation = legacy.translate(words[: 4 if program == "main" else 6], program)
        assert f"{key}=a/list.txt" in translation.overrides
        assert f"{key}=a/list.txt" in translation.command


@pytest.mark.parametrize("program", ["main", "test"])
@pytest.mark.parametrize("data_set", flags.DATA_SETS)
def test_every_data_set_in_every_spelling(data_set, program):
    words = ["--dataset", data_set, "--resume", "model.pth.tar"][: 2 if program == "main" else 4]
    translation = legacy.translate(words, program)
    tree = recipe.load(translation.recipe, translation.overrides).model_dump()
    assert tree["data"]["name"] == flags.DATA_SETS[data_set].name
    assert any("without --root" in remark for remark in translation.remarks)


@pytest.mark.parametrize(
    ("data_set", "network", "name", "said"),
    [
        ("nepes", "resnet50", "resnet50", None),
        ("nepes", "resnet34", "resnet34", None),
        ("nepes", "resnet32", "resnet32_w64", "7.4 M"),
        ("nepes", None, "resnet34", "published default holds: -a resnet34"),
        ("ImageNet-LT", None, "resnext50_32x4d", None),
        ("ImageNet-LT", "resnext50_32x4d", "resnext50_32x4d", None),
        ("ImageNet-LT", "resnet50", "resnet50", "whatever -a said"),
        ("iNaturalist2018", "resnet32", "resnet32_w64", "whatever -a said"),
    ],
)
def test_networks_for_large_images(data_set, network, name, said):
    words = ["--dataset", data_set, "--root", "here", *(["-a", network] if network else [])]
    translation, tree = meant("python main.py", *words)
    assert tree["model"]["name"] == name
    remarks = [remark for remark in translation.remarks if "-a " in remark]
    assert (said in remarks[0]) if said else not remarks


@pytest.mark.parametrize(("images", "classes"), [(5000, 10), (500, 100)])
def test_every_rate_gives_the_class_sizes_of_the_published_code(images, classes):
    """int(n_max * rate ** (i / (C - 1))), with the rate as printed."""
    for text in (f"0.{thousandths:03}" for thousandths in range(1, 1000)):
        imbalance = float(legacy.read(legacy.written(flags.imbalance(text)), "").tree)  # as an override is read
        wanted = [int(images * float(text) ** (label / (classes - 1))) for label in range(classes)]
        assert profile_counts(images, classes, imbalance, "exponential").tolist() == wanted, text


def test_the_seed_draws_the_long_tail_too_unless_the_draw_is_chosen():
    assert meant(CIFAR, "--seed", "5", "data.split=cao")[1]["data"]["split_seed"] is None
    assert meant(CIFAR, "--seed", "5", "data.split_seed=7")[1]["data"]["split_seed"] == 7
    assert meant("python main.py --dataset ImageNet-LT --seed 5")[1]["data"]["split_seed"] is None


def test_the_long_tail_of_lists_and_folders():
    assert meant("python main.py --dataset nepes --imbanlance_rate 0.1")[1]["data"]["imbalance"] == 10
    translation, tree = meant("python main.py --dataset ImageNet-LT --imbanlance_rate 0.1")
    assert tree["data"]["imbalance"] is None
    assert any("long-tailed already" in remark for remark in translation.remarks)


def test_a_folder_s_views_follow_its_size():
    tree = meant("python main.py --dataset nepes data.size=64")[1]
    assert tree["views"] == {"train": [{"resized_crop": {"size": 56, "scale": [0.08, 1.0]}}, "flip"],
                             "test": [{"center_crop": 56}]}  # fmt: skip


def test_a_folder_of_any_name_stays_text():
    for root in ("true", "1e5", "a: b", "# x", "it's", 'say "hi"', "-", "[1", "C:\\images", "日本", " x "):
        assert meant(CIFAR, f"--root={root}")[1]["data"]["root"] == root


# ---------------------------------------------------------------------------------------------- test.py and --resume


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("", "glmc test m.pth.tar data.name=cifar10 data.imbalance=100"),
        ("--root x -b 50", "glmc test m.pth.tar data.name=cifar10 data.root=x data.imbalance=100 eval.batch_size=50"),
        ("--batch_size 50", "glmc test m.pth.tar data.name=cifar10 data.imbalance=100 eval.batch_size=50"),
        ("--imbanlance_rate 0.1", "glmc test m.pth.tar data.name=cifar10 data.imbalance=10"),
        ("-a resnet32 --num_classes 10", "glmc test m.pth.tar data.name=cifar10 data.imbalance=100"),
        ("-p 1 -j 2", "glmc test m.pth.tar data.name=cifar10 data.imbalance=100"),
        ("--root_model a --store_name b", "glmc test m.pth.tar data.name=cifar10 data.imbalance=100"),
        ("--gpu 0", "glmc test m.pth.tar data.name=cifar10 data.imbalance=100 train.device=cuda"),
        ("eval.flip_tta=false", "glmc test m.pth.tar data.name=cifar10 data.imbalance=100 eval.flip_tta=false"),
    ],
)  # fmt: skip
def test_the_test_program(words, command):
    translation = legacy.translate(["--dataset", "cifar10", "--resume", "m.pth.tar", *words.split()], "test")
    assert translation.command == command
    assert translation.resume == Path("m.pth.tar")
    assert sum("no effect" in remark for remark in translation.remarks) == sum(w[0] == "-" for w in words.split()) * (
        "-p" in words or "--root_model" in words
    )


def test_a_folder_is_tested_as_it_was_trained():
    words = ["--dataset", "nepes", "--root", "here", "--resume", "m.pth.tar", "data.size=16"]
    translation = legacy.translate(words, "test")
    expected = ["data.name=folder", "views.test=[{center_crop: 14}]", "data.root=here", "data.size=16"]
    assert set(expected) < set(shlex.split(translation.command))


def test_a_run_keeps_its_recipe_when_it_is_tested(place):
    (place / "run").mkdir()
    words = ["--dataset", "cifar10", "--resume", "run", "--root", "here", "-a", "resnet32", "--imbanlance_rate", "0.1"]
    translation = legacy.translate(words, "test")
    assert translation.command == "glmc test run data.name=cifar10 data.root=here"
    assert translation.recipe == "run/recipe.yaml"


def test_a_run_goes_on():
    words = [*shlex.split(PRINTED["cifar10"])[2:], "--root", "here", "--resume", "runs/first", "--start-epoch", "3"]
    translation = legacy.translate(words, "main")
    assert translation.command == "glmc train --resume runs/first data.root=here"
    assert (translation.resume, translation.out) == (Path("runs/first"), None)
    assert any("own recipe" in remark for remark in translation.remarks)


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("python main.py", "give --dataset: one of cifar10, cifar100, ImageNet-LT"),
        ("python main.py --dataset cifar", "--dataset cifar is unknown: did you mean cifar10"),
        ("python main.py --dataset imagenet-lt", "--dataset imagenet-lt is unknown: did you mean ImageNet-LT"),
        (f"{CIFAR} --imbalanced_rate 0.1", "main.py has no flag --imbalanced_rate: did you mean --imbalance_rate"),
        (f"{CIFAR} --contrast_wieght=4", "main.py has no flag --contrast_wieght=4: did you mean --contrast_weight"),
        (f"{CIFAR} --epoch 4", "main.py has no flag --epoch: did you mean --epochs"),
        (f"{CIFAR} -x", "main.py has no flag -x: "),
        (f"{CIFAR} 4", "'4' is neither the value of a flag nor key=value"),
        (f"{CIFAR} --lr fast", "--lr/--learning-rate/--learning_rate: 'fast' is not a number"),
        (f"{CIFAR} --epochs 1.5", "--epochs: '1.5' is not a whole number"),
        (f"{CIFAR} --lr", "--lr/--learning-rate/--learning_rate: expected one argument"),
        (f"{CIFAR} --imbanlance_rate 0", "0 is no rate in (0, 1]"),
        (f"{CIFAR} --imbanlance_rate 100", "100 is no rate in (0, 1]"),
        (f"{CIFAR} --imbanlance_rate 1/0", "'1/0' is not a number"),
        (f"{CIFAR} --num_classes 100", "--num_classes 100: cifar10 has 10 classes"),
        ("python main.py --dataset iNaturalist2018 --num_classes 1000", "iNaturalist2018 has 8142 classes"),
        (f"{CIFAR} --dir_train_txt a.txt", "--dir_train_txt a.txt: cifar10 is not read from lists"),
        ("python main.py --dataset nepes --dir_test_txt a", "nepes is not read from lists"),
        (f"{CIFAR} --resume ckpt.pth.tar", "evaluate it with test.py --resume ckpt.pth.tar"),
        (f"{CIFAR} --resume nowhere", "no run lies there"),
        (f"{CIFAR} --lr -1 --show", "optim.lr"),
        (f"{CIFAR} --seed nan", "'nan' is not a whole number"),
        (f"{CIFAR} --wd inf --show", "optim.weight_decay"),
        (f"{CIFAR} optim.lrr=1 --show", "optim.lr"),
        (f"{CIFAR} train.seed=1 train.seed=2 --show", "train.seed is set twice"),
        ("python test.py --dataset cifar10", "test.py needs --resume"),
        ("python test.py --dataset cifar10 --lr 1", "test.py has no flag --lr"),
        ("python test.py --dataset cifar100 --num_classes 10 --resume x", "cifar100 has 100 classes"),
    ],
)
def test_bad_input_is_one_sentence(call, place, line, sentence):
    code, _, err = call(line)
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1
    assert not list(place.iterdir())


def test_a_folder_has_the_classes_that_the_line_tells(place):
    write_folder(place / "photos")
    words = shlex.split(PRINTED["nepes"])[2:]
    legacy.translate([*words, "--root", "photos"], "main")
    words[words.index("--num_classes") + 1] = "9"
    with pytest.raises(UserError, match="--num_classes 9: photos has 10 classes; give --num_classes 10"):
        legacy.translate([*words, "--root", "photos"], "main")
    legacy.translate([*words, "--root", "nowhere"], "main")  # that there is no folder is told by the command


def test_help_names_every_flag(call):
    for program in ("main", "test"):
        code, out, _ = call(f"python {program}.py --help")
        assert code == 0
        for flag in flags.flags(program):
            assert all(spelling in out for spelling in flag.spellings)


# ------------------------------------------------------------ whole runs on miniature data of the official layouts

APPENDED = ["--epochs", "1", "-b", "8", "train.max_steps=2", "train.device=cpu", "train.precision=float32"]
SMALLER = ["model.name=resnet20"]  # than what -a says, to keep it short
CHEAP = [*SMALLER, "data.size=16", "views.train=[{resized_crop: {size: 14}}]",
         "views.test=[{center_crop: 14}]"]  # fmt: skip


def photograph(file, random):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.randint(0, 256, (20, 24, 3)).astype(np.uint8)).save(file)


def write_cifar(root, classes):
    """The python version of CIFAR, with 120 training images a class and one test image."""
    random = np.random.RandomState(0)
    folder = root / {10: "cifar-10-batches-py", 100: "CIFAR-100-python"}[classes]
    folder.mkdir(parents=True)
    key, names = (b"labels", b"label_names") if classes == 10 else (b"fine_labels", b"fine_label_names")
    parts = (
        {"train": 1, "test": 1} if classes == 100 else {f"data_batch_{n}": 5 for n in range(1, 6)} | {"test_batch": 1}
    )
    for file, share in parts.items():
        labels = np.arange(classes).repeat(1 if "test" in file else 120 // share).tolist()
        pixels = random.randint(0, 256, (len(labels), 3072)).astype(np.uint8)
        (folder / file).write_bytes(pickle.dumps({b"data": pixels, key: labels}, protocol=2))
    meta = {names: [b"class %d" % label for label in range(classes)]}
    (folder / ("meta" if classes == 100 else "batches.meta")).write_bytes(pickle.dumps(meta, protocol=2))


def write_folder(root):
    """train and valid, ten classes, 10 to 1 training images."""
    random = np.random.RandomState(0)
    for label in range(10):
        for number in range(10 - label):
            photograph(root / "train" / f"defect {label}" / f"{number}.png", random)
        photograph(root / "valid" / f"defect {label}" / "0.png", random)


def write_lists(root, kind):
    """List files in data_txt and the images that they name: four classes, 8 to 2 training images."""
    random = np.random.RandomState(0)
    imagenet = kind == "ImageNet-LT"
    names = {"train": ("ImageNet_LT_train", 8), "test": ("ImageNet_LT_test" if imagenet else "", 2)}
    names = names if imagenet else {"train": ("iNaturalist18_train", 8), "val": ("iNaturalist18_val", 2)}
    (root / "data_txt").mkdir(parents=True)
    for part, (name, most) in names.items():
        lines = []
        for label in range(4):
            for number in range(max(2, most >> label)):
                folder = (
                    f"{'train' if part == 'train' else 'val'}/n{label}" if imagenet else f"train_val2018/Aves/{label}"
                )
                file = f"{folder}/{part}_{number}.{'JPEG' if imagenet else 'jpg'}"
                photograph(root / ("ImageNet" if imagenet else "") / file, random)
                lines.append(f"{file} {label}")
        (root / "data_txt" / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_data(name, root):
    if name in ("ImageNet-LT", "iNaturelist2018"):
        write_lists(root, name)
    elif name == "nepes":
        write_folder(root)
    else:
        write_cifar(root, int(name.removeprefix("cifar")))


@pytest.mark.parametrize("name", [name for name in PRINTED if name != "test"])
def test_a_printed_command_trains(call, place, monkeypatch, name):
    monkeypatch.setattr(report, "write", lambda run: (run / "report.html").touch())  # has tests of its own
    write_data(name, place / "images")
    cheap = {"nepes": [*SMALLER, "data.size=16"], "ImageNet-LT": CHEAP, "iNaturelist2018": CHEAP}
    more = ["--root", "images", "--store_name", "first", *APPENDED, *cheap.get(name, SMALLER)]
    code, out, err = call(PRINTED[name], *more)
    assert (code, err) == (0, "")
    result = json.loads((place / "runs" / "first" / "result.json").read_text())
    assert (result["epochs"], result["steps"], result["seed"]) == (1, 2, 3407)
    if name.startswith("cifar"):
        assert result["counts"] == [
            int(120 * 0.01 ** (i / (len(result["counts"]) - 1))) for i in range(len(result["counts"]))
        ]
    elif name == "nepes":
        assert result["counts"] == list(range(10, 0, -1))
    else:
        assert result["counts"] == [8, 4, 2, 2]
    command = json.loads((place / "runs" / "first" / "environment.json").read_text())["command"]
    assert f"# the same in today's words: {command}\n" in out

    again = call(PRINTED[name], "--resume", "runs/first")  # finished already
    assert again[0] == 0
    assert "is finished already" in again[1]
    tested = call(f"python test.py --dataset {name} --root images --resume runs/first")
    assert tested[0] == 0, tested[2]
    assert "accuracy in percent" in tested[1]


def test_main_py_runs_from_a_shell(place):
    write_cifar(place / "images", 10)
    more = ["--root", "images", *APPENDED, "model.name=resnet20", "--root_model", "out"]
    line = [*shlex.split(PRINTED["cifar10"])[2:], *more]
    done = subprocess.run([sys.executable, ROOT / "main.py", *line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (place / "out" / "report.html").exists()
