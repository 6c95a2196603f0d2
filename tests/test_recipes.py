"""The recipes of the package: complete, consistent with the published tables, and each a whole document by itself."""

import re
from functools import cache

import pytest
import yaml

from glmc import recipe
from glmc.errors import UserError
from glmc.recipe.packaged import text_of
from glmc.recipe.systems import rows, systems
from glmc.recipe.tables import cells
from glmc.train.stages import POSTHOC, check, stage_file, stages

NETWORKS = {  # as printed, and as they are called here
    "ResNet-32": {"resnet32"},
    "ResNet-50": {"resnet50", "resnet50_small"},
    "ResNeXt-50": {"resnext50_32x4d"},
    "Swin-S": {"swin_small_patch4_window7_224"},
}
NAMES = recipe.names()
GLMC = [name for name in NAMES if recipe.load(name).method.name == "glmc"]
LONG_TAILED = {"cifar10_lt": "cifar10", "cifar100_lt": "cifar100"}

# resample_weighting, label_weighting, contrast_weight (r, k and gamma) and the published top-1, by imbalance
PRINTED = {
    ("cifar10", 100): (0.0, 1.2, 4, 87.75),
    ("cifar10", 50): (0.0, 1.2, 4, 90.18),
    ("cifar10", 10): (0.0, 1.2, 4, 94.04),
    ("cifar100", 100): (0.0, 1.2, 10, 55.88),
    ("cifar100", 50): (0.0, 1.2, 10, 61.08),
    ("cifar100", 10): (0.0, 1.2, 10, 70.74),
}
UPDATED = {
    ("cifar10", 100): (0.0, 1.2, 1, 88.50),
    ("cifar10", 50): (0.0, 1.2, 1, 91.04),
    ("cifar10", 10): (0.2, 1.0, 2, 94.87),
    ("cifar100", 100): (0.0, 1.2, 4, 57.97),
    ("cifar100", 50): (0.2, 1.2, 6, 63.78),
    ("cifar100", 10): (0.2, 1.2, 4, 73.40),
}


def written(name):
    """The keys that a recipe file spells out, by section."""
    return yaml.safe_load(text_of(name))


def strengths(r):
    """What the documents call resample_weighting, label_weighting and contrast_weight."""
    return r.mixture.params["sampling"], r.loss.params["exponent"], r.method.params["contrast_weight"]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_and_tells_how_to_run_it(name):
    r = recipe.load(name)
    check(r)  # the stages that follow
    assert f"glmc train {name}" in r.about
    assert {"published", "expect"} <= written(name).keys()


@pytest.mark.parametrize("name", GLMC)
def test_a_glmc_recipe_writes_every_value_that_sources_disagree_on(name):
    keys = written(name)
    assert keys["mixture"] == {"name": "none"} or {"sampling", "alpha", "label_share"} <= keys["mixture"].keys()
    assert {"contrast_weight", "view_reduction"} <= keys["method"].keys()
    assert keys["loss"].keys() == {"name", "exponent"} or keys["loss"] == {"name": "balanced_softmax"}
    assert "batch_norm" in keys["model"]
    assert "few" in keys["eval"]
    assert ("split" in keys["data"]) == ("imbalance" in keys["data"])  # the split says which images a tail keeps


@pytest.mark.parametrize("name", [name for name in GLMC if "published" in name or "updated" in name])
def test_published_recipes_keep_the_ways_of_the_published_code(name):
    r = recipe.load(name)
    assert (r.mixture.params["label_share"], r.method.params["view_reduction"]) == ("drawn", "sum")
    assert (r.eval.few, r.model.batch_norm, r.optim.momentum) == ("<=20", "split", 0.9)
    assert r.data.imbalance is None or r.data.split == "du"
    assert r.data.split_seed is None  # 3407
    assert r.train.precision == "float32"
    assert r.published is not None
    assert r.published.network == r.model.name
    assert r.model.heads == ("he_uniform" if r.model.name == "resnet32_w64" else "uniform")


@pytest.mark.parametrize(("family", "table"), [("glmc_published", PRINTED), ("glmc_updated", UPDATED)])
@pytest.mark.parametrize("folder", LONG_TAILED)
@pytest.mark.parametrize("imbalance", [100, 50, 10])
def test_the_long_tailed_rows_are_those_of_the_tables(family, table, folder, imbalance):
    r = recipe.load(f"{folder}/{family}{'' if imbalance == 100 else f'_if{imbalance}'}")
    resample, label, contrast, top1 = table[LONG_TAILED[folder], imbalance]
    assert (r.data.name, r.data.imbalance, r.data.batch_size) == (LONG_TAILED[folder], imbalance, 64)
    assert strengths(r) == (resample, label, contrast)
    assert r.published is not None
    assert r.published.top1 == top1
    assert (r.optim.lr, r.optim.weight_decay, r.train.epochs, r.train.schedule) == (0.01, 5e-3, 200, "cosine")


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "decay", "top1"),
    [
        ("imagenet_lt/glmc_published", 135, 120, 2e-4, 56.3),
        ("inaturalist2018/glmc_published", 120, 128, 1e-4, 72.21),
    ],
)
def test_the_large_rows_are_those_of_the_printed_commands(name, epochs, batch, decay, top1):
    r = recipe.load(name)
    assert (r.train.epochs, r.data.batch_size, r.optim.lr, r.optim.weight_decay) == (epochs, batch, 0.1, decay)
    assert strengths(r) == (0.2, 1.0, 10)
    assert (r.method.params["embedding"], r.train.schedule, r.data.size) == (256, "paco_late", 256)
    assert (r.model.zero_residual, r.data.resize, r.data.exif, r.train.precision) == (
        False, "short_side", False, "float32",
    )  # fmt: skip
    assert r.published is not None
    assert r.published.top1 == top1


def test_full_sets_have_no_tail():
    for name in ("cifar10/glmc", "cifar100/glmc", "imagenet/glmc"):
        r = recipe.load(name)
        assert r.data.imbalance is None
        assert r.published is not None
        assert "resnet50" in r.model.name


def test_every_recipe_is_of_one_system():
    told = [each["name"] for system in systems() for each in system.recipes]
    assert sorted(told) == recipe.names()


@pytest.mark.parametrize("data", ["cifar100_lt", "digits_lt", "folder", "imagenet_lt"])
def test_every_system_is_a_recipe_for_any_images(data):
    for system in systems():
        r = recipe.load(f"{data}/{system.system}", ["train.seed=3"])
        assert (r.name, r.data.name, r.train.seed) == (f"{data}/{system.system}", r.data.name, 3)
        check(r)  # its stages


def test_a_system_takes_its_factors_onto_the_images_of_another_recipe():
    theirs, base, r = recipe.load("cifar100_lt/bcl"), recipe.load("digits_lt/ce"), recipe.load("digits_lt/bcl")
    assert (r.method, r.loss, r.model.batch_norm) == (theirs.method, theirs.loss, "joint")
    assert (r.data, r.optim, r.train, r.eval) == (base.data, base.optim, base.train, base.eval)
    assert r.views["train"] == base.views["train"]  # AutoAugment and Cutout are the data set's
    assert r.views["contrast"] == base.views["train"] + theirs.views["contrast"][2:]  # its colours, and no flip
    jittered, plain = recipe.load("imagenet_lt/gpaco"), recipe.load("imagenet_lt/ce")
    assert jittered.views["contrast"][:3] == [*plain.views["train"][:2], theirs.views["contrast"][2]]  # not twice
    assert recipe.load("folder/weight_balancing").optim.weight_decay == 5e-3
    assert recipe.load("folder/tau_norm").then == "tau_norm"
    assert recipe.load("folder/ssd").then[1] == "distillation train.epochs=100"  # as long as the first stage
    with pytest.raises(UserError, match="there is no recipe or folder 'folder/bclx'; did you mean folder/bcl"):
        recipe.load("folder/bclx")


load = cache(recipe.load)  # cells of a row often share a recipe


def test_every_cell_of_the_documents_tables_has_a_recipe_for_its_images_and_network():
    for cell in cells():
        r = load(cell.recipe, cell.overrides)
        assert (r.data.name, r.data.imbalance) == (LONG_TAILED.get(cell.data, cell.data), cell.imbalance), cell
        assert r.model.name in NETWORKS.get(cell.network, ()) or r.model.name in (cell.note or ""), cell
        assert cell.system in rows(), cell
        printed = [re.search(r"CIFAR-100?(-LT)?|ImageNet(-LT)?|iNaturalist 2018", text) for text in cell[:3]]
        words = [found.group().replace("-", "").replace(" ", "").lower() for found in printed if found]
        assert words[-1] == cell.data.replace("_", ""), cell  # the heading of a column counts before the table's
        imbalance = re.search(r"IF (\d+)", " ".join(cell[:3]))
        assert cell.imbalance == (int(imbalance.group(1)) if imbalance else None), cell


def test_published_figures_are_those_of_the_tables_or_a_note_has_them():
    finished = [stage_file(stage).get("published", {}) for stage in stages() if stage not in POSTHOC]
    after = {name: top1 for known in finished for name, top1 in known.items()}
    for cell in cells():
        r = load(cell.recipe, cell.overrides)
        published = r.published.top1 if r.published else None
        known = after.get(cell.recipe) if r.then else published
        if known is None or cell.column in {"Many", "Med", "Few"} or set(cell.overrides) - {"then=maxnorm"}:
            continue
        decimals = len(str(cell.figure).partition(".")[2])
        assert round(known, decimals) == cell.figure or str(known) in (cell.note or ""), cell


def test_figures_of_the_tables_that_cannot_be_right_are_marked():
    marked = {(cell.row, cell.column) for cell in cells() if "misprint" in (cell.note or "")}
    tsc = {("TSC", f"CIFAR-100-LT IF {imbalance}") for imbalance in (100, 50, 10)}
    risda = {("RISDA", f"CIFAR-10-LT IF {imbalance}") for imbalance in (50, 10)}
    assert marked == tsc | risda | {("Mixup", "CIFAR-100-LT IF 50")}
    assert {cell.row for cell in cells() if "doubtful" in (cell.note or "")} == {"RIDE (3 experts)"}
    figures = {(cell.table, cell.row, cell.column): cell for cell in cells() if cell.data == "imagenet_lt"}
    for (table, row, column), cell in figures.items():
        groups = [figures.get((table, row, group)) for group in ("Many", "Med", "Few")]
        if column == "All" and all(groups):  # of 385, 479 and 136 classes
            mean = sum(group.figure * size for group, size in zip(groups, (0.385, 0.479, 0.136), strict=True))
            assert mean == pytest.approx(cell.figure, abs=0.17) or f"{mean:.1f}" in (cell.note or ""), cell


def test_systems_tell_their_cells():
    told = {system.system: system.cells for system in systems()}
    assert sum(map(len, told.values())) == len([cell for cell in cells() if cell.system in rows()])
    cell = told["glmc_maxnorm"][-1]
    assert (cell["figure"], cell["command"]) == (56.7, "glmc train imagenet_lt/glmc_maxnorm")
    commands = [cell["command"] for cell in told["bbn"]]
    assert commands[3:5] == ["glmc train cifar100_lt/bbn", "glmc train cifar100_lt/bbn data.imbalance=50"]
