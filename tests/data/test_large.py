"""The large sets, on miniature copies in their official layouts."""

import re
from dataclasses import replace

import pytest
from PIL import Image

from glmc.data import large, sources
from glmc.errors import UserError

LT_TRAIN = ["train/n01/n01_1.JPEG 0", "train/n01/n01_2.JPEG 0", "train/n02/n02_1.JPEG 1"]
LT_TEST = ["val/n01/val_1.JPEG 0", "val/n02/val_2.JPEG 1"]
LT_VAL = ["train/n02/n02_9.JPEG 1"]
NAT_TRAIN = ["train_val2018/Aves/3/a.jpg 0", "train_val2018/Fungi/7/b.jpg 1", "train_val2018/Fungi/7/c.jpg 1"]
NAT_VAL = ["train_val2018/Aves/3/d.jpg 0"]


def put(start, lines):
    """Writes the images that lines of `path label` name."""
    for line in lines:
        file = start / line.split()[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(file)


def write(file, lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def load(name, root, **options):
    return sources.load(name, root=str(root), **options)


def refused(name, root, **options):
    with pytest.raises(UserError) as caught:
        load(name, root, **options)
    return str(caught.value)


def existing(split):
    """Whether every path of a split leads to the image that was written there."""
    return all(Image.open(split.images[row]).size == (2, 2) for row in range(len(split)))


@pytest.fixture
def lt(tmp_path):
    """The layout of the published README: data/ImageNet/{train,val} and data/data_txt."""
    put(tmp_path / "ImageNet", [*LT_TRAIN, *LT_TEST, *LT_VAL])
    write(tmp_path / "data_txt/ImageNet_LT_train.txt", LT_TRAIN)
    write(tmp_path / "data_txt/ImageNet_LT_test.txt", LT_TEST)
    return tmp_path


@pytest.fixture
def nature(tmp_path):
    put(tmp_path, [*NAT_TRAIN, *NAT_VAL])
    write(tmp_path / "data_txt/iNaturalist18_train.txt", NAT_TRAIN)
    write(tmp_path / "data_txt/iNaturalist18_val.txt", NAT_VAL)
    return tmp_path


# ----------------------------------------------------------------------------------------------------- ImageNet-LT


def test_imagenet_lt(lt):
    source = load("imagenet_lt", lt)
    assert source.train.images[2] == str(lt / "ImageNet/train/n02/n02_1.JPEG")
    assert existing(source.train)
    assert existing(source.test)
    assert source.train.labels.tolist() == [0, 0, 1]
    assert source.test.labels.tolist() == [0, 1]
    assert source.train.classes == source.test.classes == ("0", "1")
    assert source.val is None
    assert (source.mean, source.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert source.remarks == (
        f"the 2 test images are those of {lt}/data_txt/ImageNet_LT_test.txt",
        "ImageNet_LT_train.txt has 3 images, 115,846 were published",
        "ImageNet_LT_test.txt has 2 images, 50,000 were published",
        "the training images have 2 classes, 1,000 were published",
    )


def test_lists_may_lie_in_the_root_and_images_too(tmp_path):
    put(tmp_path, [*LT_TRAIN, *LT_TEST])
    write(tmp_path / "ImageNet_LT_train.txt", LT_TRAIN)
    write(tmp_path / "ImageNet_LT_test.txt", LT_TEST)
    source = load("imagenet_lt", tmp_path)
    assert source.train.images[0] == str(tmp_path / "train/n01/n01_1.JPEG")
    write(tmp_path / "data_txt/ImageNet_LT_train.txt", LT_TRAIN[1:])
    assert len(load("imagenet_lt", tmp_path).train) == 2  # data_txt comes first


def test_the_validation_list_stands_in_for_the_test_list_and_that_is_said(lt):
    write(lt / "data_txt/ImageNet_LT_val.txt", LT_VAL)
    assert len(load("imagenet_lt", lt).test) == 2
    (lt / "data_txt/ImageNet_LT_test.txt").rename(lt / "ImageNet_LT_test.txt")
    assert len(load("imagenet_lt", lt).test) == 2  # a test list in the root is better than a validation list anywhere
    (lt / "ImageNet_LT_test.txt").unlink()
    source = load("imagenet_lt", lt)
    assert source.remarks[0] == f"the 1 test images are those of {lt}/data_txt/ImageNet_LT_val.txt"
    assert "ImageNet_LT_val.txt has 1 images, 20,000 were published" in source.remarks


def test_lists_of_the_user_go_before_the_official_ones(lt, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists") / "mine.txt"
    write(elsewhere, LT_TRAIN[1:])
    write(lt / "data_txt/ImageNet_LT_val.txt", LT_VAL)
    source = load("imagenet_lt", lt, train_list=str(elsewhere), val_list="data_txt/ImageNet_LT_val.txt")
    assert (len(source.train), len(source.test), len(source.val)) == (2, 2, 1)
    assert refused("imagenet_lt", lt, test_list="gone.txt") == (
        f"data.test_list=gone.txt: there is no such file, neither as given nor in {lt}"
    )


def test_published_numbers_give_no_remark(monkeypatch, lt):
    images = {"ImageNet_LT_train.txt": 3, "ImageNet_LT_test.txt": 2}
    monkeypatch.setattr(large, "IMAGENET_LT", replace(large.IMAGENET_LT, images=images, classes=2))
    assert len(load("imagenet_lt", lt).remarks) == 1


def test_without_lists_it_is_said_what_to_download(tmp_path):
    message = refused("imagenet_lt", tmp_path / "nowhere")
    assert message.startswith(
        f"there is no ImageNet_LT_train.txt in {tmp_path}/nowhere/data_txt or {tmp_path}/nowhere: "
    )
    assert f"ILSVRC 2012, image-net.org) to {tmp_path}/nowhere/ImageNet/train/<class>/*.JPEG" in message
    assert message.endswith("or name your own list with data.train_list=FILE")
    assert "\n" not in message


def test_without_images_it_is_said_where_they_must_lie(tmp_path):
    write(tmp_path / "ImageNet_LT_train.txt", LT_TRAIN)
    write(tmp_path / "ImageNet_LT_test.txt", LT_TEST)
    message = refused("imagenet_lt", tmp_path)
    assert message.startswith(
        f"'train/n01/n01_1.JPEG', the first image of {tmp_path}/ImageNet_LT_train.txt, is in none of {tmp_path}, "
        f"{tmp_path}/ImageNet: download ImageNet"
    )


def test_missing_images_are_counted_even_if_the_first_is_among_them(lt):
    for line in LT_TRAIN[:2]:
        (lt / "ImageNet" / line.split()[0]).unlink()
    assert refused("imagenet_lt", lt).startswith(
        f"{lt}/data_txt/ImageNet_LT_train.txt:1: 2 images of ImageNet_LT_train.txt are not in {lt}/ImageNet "
        "(first: 'train/n01/n01_1.JPEG', 'train/n01/n01_2.JPEG')"
    )


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["train/n01/n01_1.JPEG"], r"_train.txt:1: no label after the path: 'train/n01/n01_1.JPEG'"),
        ([*LT_TRAIN, "train/n02/n02_2.JPEG"], r"_train.txt:4: no label after the path: 'train/n02/n02_2.JPEG'"),
        (
            [*LT_TRAIN, "train/n02/n02_2.JPEG x"],
            r"_train.txt:4: label 'x' is a name, but .*_train.txt:[13] has",
        ),
        ([*LT_TRAIN[:2], "train/n02/n02_1.JPEG 3"], r"has labels up to 3 but no image of 2 of them \(first: 1, 2\)"),
        (LT_TRAIN[:2], r"_test.txt:2: label 1 is out of range"),
        ([], r"_train.txt lists no images"),
    ],
)
def test_what_can_be_wrong_in_a_list(lt, lines, sentence):
    write(lt / "data_txt/ImageNet_LT_train.txt", lines)
    assert re.search(sentence, refused("imagenet_lt", lt))


def test_a_list_that_is_no_text(lt):
    (lt / "data_txt/ImageNet_LT_train.txt").write_bytes(b"\xff\xfe\x00")
    assert "is not a list in UTF-8 or cp1252" in refused("imagenet_lt", lt)


# ------------------------------------------------------------------------------------------------ iNaturalist 2018


def test_places_lt(tmp_path):
    train, test = ["data_256/a/airfield/1.jpg 0", "data_256/z/zoo/2.jpg 1"], ["val_256/1.jpg 1"]
    put(tmp_path, [*train, *test])
    write(tmp_path / "data_txt/Places_LT_train.txt", train)
    write(tmp_path / "data_txt/Places_LT_test.txt", test)
    source = load("places_lt", tmp_path)
    assert existing(source.train)
    assert source.test.labels.tolist() == [1]
    assert "Places_LT_train.txt has 2 images, 62,500 were published" in source.remarks


def test_inaturalist2018(nature):
    source = load("inaturalist2018", nature)
    assert source.train.labels.tolist() == [0, 1, 1]
    assert existing(source.train)
    assert existing(source.test)
    assert (source.mean, source.std) == ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192))
    assert source.remarks[1:] == (
        "iNaturalist18_train.txt has 3 images, 437,513 were published",
        "iNaturalist18_val.txt has 1 images, 24,426 were published",
        "the training images have 2 classes, 8,142 were published",
    )


@pytest.mark.parametrize("root", ["", "train_val2018", "ImageNet"])
def test_images_of_inaturalist_are_found_around_train_val2018(tmp_path, root):
    start = tmp_path / ("data" if root != "ImageNet" else "data/ImageNet")
    put(start, [*NAT_TRAIN, *NAT_VAL])
    lists = tmp_path / "data" / ("train_val2018" if root == "train_val2018" else "")
    write(lists / "iNaturalist18_train.txt", NAT_TRAIN)
    write(lists / "iNaturalist18_val.txt", NAT_VAL)
    assert load("inaturalist2018", lists).train.images[0] == str(start / "train_val2018/Aves/3/a.jpg")


def test_images_of_inaturalist_are_found_one_folder_down(nature):
    (nature / "inat").mkdir()
    (nature / "train_val2018").rename(nature / "inat/train_val2018")
    assert existing(load("inaturalist2018", nature).train)


# -------------------------------------------------------------------------------------------------------- ImageNet


@pytest.mark.parametrize("below", ["", "ImageNet"])
def test_imagenet(tmp_path, below):
    put(tmp_path / below, [*LT_TRAIN, *LT_TEST])
    put(tmp_path / below, ["test/unlabelled_1.JPEG"])
    source = load("imagenet", tmp_path)
    assert source.train.classes == source.test.classes == ("n01", "n02")
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([0, 0, 1], [0, 1])
    assert existing(source.train)
    assert existing(source.test)
    assert (source.mean, source.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert source.remarks == (
        "train has 3 images, 1,281,167 were published",
        "val has 2 images, 50,000 were published",
        "the training images have 2 classes, 1,000 were published",
    )


def test_imagenet_elsewhere_is_told_where_it_must_lie(tmp_path):
    assert refused("imagenet", tmp_path).startswith(
        f"data.root={tmp_path} has no folders train and val of ImageNet: download ImageNet"
    )


def test_both_parts_of_imagenet_have_the_same_classes(tmp_path):
    put(tmp_path, [*LT_TRAIN, *LT_TEST, "val/n03/x.JPEG 2"])
    assert refused("imagenet", tmp_path).startswith(
        f"{tmp_path}/val has the class 'n03', and {tmp_path}/train has not: give both folders the same classes"
    )


def test_imagenet_takes_no_lists(tmp_path):
    assert refused("imagenet", tmp_path, train_list="x").startswith("data.train_list needs data.name=list, but")
