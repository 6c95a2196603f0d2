import hashlib
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from glmc.data import lists, sources
from glmc.data.holdout import HoldOut, stratified_holdout
from glmc.errors import UserError


def put(*files):
    """Writes 2 x 2 pictures, making folders as needed."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(file, format="PNG")


def put_classes(folder, counts):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        put(*(folder / name / f"{number}.png" for number in range(count)))


def relative(split):
    return [split.images.relative(row) for row in range(len(split))]


def load_folder(root, **options):
    return sources.load("folder", root=str(root), **options)


# ----------------------------------------------------------------------------------------------- the table itself


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(
        UserError, match=r"data.name='cifar_10' is unknown: did you mean 'cifar10'\? `glmc list datasets`"
    ):
        sources.load("cifar_10", root="data")


def test_a_list_for_another_source_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data.train_list needs data.name=list, but data.name is folder"):
        load_folder(tmp_path, train_list="train.txt")


def test_every_source_says_what_it_is():
    assert all(function.__doc__ for function in sources.SOURCES.values())


# ---------------------------------------------------------------------------------------------------------- digits


def test_digits():
    from sklearn.datasets import load_digits

    source = sources.load("digits", root="absent")
    assert source.train.images.shape[1:] == (8, 8, 1)
    assert source.train.images.dtype == np.uint8
    assert source.test.counts.tolist() == [50] * 10
    assert (source.train.counts + source.test.counts).tolist() == np.bincount(load_digits().target).tolist()
    assert source.train.classes == tuple("0123456789")
    # Every picture is in exactly one of the two, with its label and value * 255 / 16.
    both = [*zip(source.train.images, source.train.labels, strict=True)]
    both += [*zip(source.test.images, source.test.labels, strict=True)]
    ours = sorted((image.tobytes(), int(label)) for image, label in both)
    scaled = (load_digits().images * 255 / 16).round().astype(np.uint8)
    assert ours == sorted(
        (image.tobytes(), int(label)) for image, label in zip(scaled, load_digits().target, strict=True)
    )


def test_the_test_digits_are_pinned():
    digest = hashlib.sha256(sources.load("digits", root="absent").test.images.tobytes()).hexdigest()
    assert digest == "492535866658df01a3b6b513d18b59b5ab091f82234bde98e5b308e6ad74a481"


# -------------------------------------------------------------------------------------------------------- hold-out


@pytest.mark.parametrize(
    ("fraction", "held"),
    [(0.2, [1, 1, 1, 2, 20]), (0.5, [1, 1, 2, 5, 50]), (0.9, [1, 1, 2, 9, 90]), (0.01, [1, 1, 1, 1, 1])],
)
def test_holdout_is_stratified(fraction, held):
    counts = [1, 2, 3, 10, 100]
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(5), counts))
    train, out = stratified_holdout(labels, fraction, 0)
    assert sorted([*train, *out]) == list(range(len(labels)))
    assert (np.diff(train) > 0).all()
    assert (np.diff(out) > 0).all()
    assert np.bincount(labels[out], minlength=5).tolist() == [0, *held[1:]]
    assert (np.bincount(labels[train], minlength=5) >= 1).all()


def test_holdout_is_a_function_of_the_seed_and_of_the_class():
    labels = np.repeat([0, 1], 50)
    first, again, other = (stratified_holdout(labels, 0.5, seed)[1].tolist() for seed in (0, 0, 1))
    assert first == again != other
    alone = stratified_holdout(labels[:50], 0.5, 0)[1].tolist()
    assert alone == [row for row in first if row < 50]


def test_holdout_rows_are_pinned():
    held = stratified_holdout(np.arange(1000) % 10, 0.2, 0)[1]
    assert (
        hashlib.sha256(held.astype("<i8").tobytes()).hexdigest()
        == "65e469f3ddd91f23206d233cfc5ae7206e19b43b5d6adbfcca01abe767b250a8"
    )


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2, float("nan")])
def test_holdout_of_an_impossible_share(fraction):
    with pytest.raises(UserError, match=r"cannot be held out: give a number between 0 and 1"):
        stratified_holdout(np.array([0, 0]), fraction, 0)


# --------------------------------------------------------------------------------------------------- image folders


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test", "Test", "VAL"])
def test_train_beside_one_other_folder(tmp_path, name):
    put(tmp_path / "train/dog/2.PNG", tmp_path / "train/dog/10.jpg", tmp_path / "train/cat/a b.jpeg")
    put(tmp_path / name / "dog/x.webp")
    source = load_folder(tmp_path)
    assert source.train.classes == source.test.classes == ("cat", "dog")
    assert relative(source.train) == ["train/cat/a b.jpeg", "train/dog/10.jpg", "train/dog/2.PNG"]
    assert source.train.labels.tolist() == [0, 1, 1]
    assert source.train.images[0] == str(tmp_path / "train/cat/a b.jpeg")
    assert relative(source.test) == [f"{name}/dog/x.webp"]
    assert source.test.labels.tolist() == [1]
    assert source.val is None
    assert source.remarks[-1] == f"{tmp_path / name} has no image of 1 classes, e.g. 'cat'"
    assert (len(source.remarks) == 1) == (name.lower() == "test")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_train_beside_two_other_folders(tmp_path, name):
    for part in ("train", name, "test"):
        put_classes(tmp_path / part, {"cat": 1, "dog": 1})
    source = load_folder(tmp_path)
    assert relative(source.test) == ["test/cat/0.png", "test/dog/0.png"]
    assert relative(source.val) == [f"{name}/cat/0.png", f"{name}/dog/0.png"]
    assert source.remarks == ()


@pytest.mark.parametrize("below", ["", "train"])
def test_one_folder_of_classes_gives_a_test_set(tmp_path, below):
    put_classes(tmp_path / below, {"cat": 10, "dog": 5, "eel": 1})
    source = load_folder(tmp_path, hold=HoldOut(0.4))
    assert source.test.counts.tolist() == [4, 2, 0]
    assert source.train.counts.tolist() == [6, 3, 1]
    assert sorted(relative(source.train) + relative(source.test)) == sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")
    )
    assert source.remarks == (
        "there is no test set: 6 of the 16 images are held out, 40% of each class; of 1 of the 3 classes none, e.g. "
        "'eel'",
    )


def test_train_may_be_the_class_of_trains(tmp_path):
    put_classes(tmp_path, {"bus": 2, "train": 3})
    assert load_folder(tmp_path).train.classes == ("bus", "train")


def test_what_systems_leave_behind_is_left_out_and_other_things_are_said(tmp_path):
    put_classes(tmp_path, {"cat": 2, "dog": 2, ".cache": 1, "cat/deeper": 1, "cat/even/deeper": 2, "left over": 0})
    put(tmp_path / "cat/.hidden.png", tmp_path / "cat/._0.png", tmp_path / "beside.png", tmp_path / "__MACOSX/cat.png")
    for name in ("notes.txt", "more.TXT", "clip.mp4", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (tmp_path / "cat" / name).touch()
    (tmp_path / "README.md").touch()
    source = load_folder(tmp_path)
    assert sorted(relative(source.train) + relative(source.test)) == [
        "cat/0.png",
        "cat/1.png",
        "dog/0.png",
        "dog/1.png",
    ]
    assert source.train.classes == ("cat", "dog")
    assert [said.replace(f"{tmp_path}", "") for said in source.remarks[:-1]] == [
        ": 1 images beside the class folders are left out, e.g. '/beside.png': put each into the folder of its class",
        ": 3 images in folders below the class folders are left out, e.g. '/cat/deeper/0.png': move them up into the "
        "folder of their class, or take them with data.groups=parent-folder, which holds the images of such a folder "
        "out together",
        ": 3 files of other types (.txt 2, .mp4 1) are left out, e.g. '/cat/clip.mp4'",
        ": 1 empty folders are no classes, e.g. 'left over'",
    ]


def test_links_to_classes_and_images_are_followed(tmp_path):
    put_classes(tmp_path / "store", {"cat": 2, "dog": 2})
    (tmp_path / "set" / "dog").mkdir(parents=True)
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "store" / "cat")
    (tmp_path / "set" / "dog" / "0.png").symlink_to(tmp_path / "store" / "dog" / "0.png")
    assert load_folder(tmp_path / "set").train.counts.tolist() == [1, 1]


def test_a_missing_root(tmp_path):
    with pytest.raises(
        UserError, match=r"data.root=.*nowhere is not a folder: set data.root to the folder of your images"
    ):
        load_folder(tmp_path / "nowhere")


def test_what_the_file_system_refuses_is_one_sentence():
    with pytest.raises(UserError, match=r"xxx cannot be read: File name too long"):
        load_folder("x" * 300)


def test_the_home_folder_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put_classes(tmp_path / "set", {"cat": 2, "dog": 2})
    assert len(load_folder("~/set").train) == 2


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match=r"holds no images: they should be .*/<class>/\*.jpg"):
        load_folder(tmp_path)


def test_images_in_the_wrong_place_are_named(tmp_path):
    put(tmp_path / "train/1.png", tmp_path / "test/2.png")
    with pytest.raises(UserError, match=r"test holds no images: .*but '.*test/2.png' lies elsewhere"):
        load_folder(tmp_path)
    put(tmp_path / "sites/cat/a/1.png")
    with pytest.raises(UserError, match=r"'.*cat/a/1.png' is a folder deeper: data.groups=parent-folder takes"):
        load_folder(tmp_path / "sites")


def test_an_empty_test_folder(tmp_path):
    put_classes(tmp_path / "train", {"cat": 2, "dog": 2})
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match=r"test holds no images"):
        load_folder(tmp_path)


def test_a_class_without_training_images(tmp_path):
    put_classes(tmp_path / "train", {"cat": 2, "dog": 0})
    put_classes(tmp_path / "test", {"cat": 2, "dog": 2})
    with pytest.raises(UserError, match=r"class 'dog' has no training image: put images directly into .*train/dog, or"):
        load_folder(tmp_path)
    put(tmp_path / "alone/cat/0.png", tmp_path / "alone/dog/below/0.png")
    with pytest.raises(UserError, match=r"class 'dog' has no training image"):
        load_folder(tmp_path / "alone")


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_class_only_in_test(tmp_path, part):
    for name in {"train", "test", part}:
        put_classes(tmp_path / name, {"cat": 2, "dog": 2})
    put_classes(tmp_path / part, {"eel": 1})
    with pytest.raises(
        UserError, match=rf"class 'eel' is in .*{part} but not in .*train: add training images, or remove"
    ):
        load_folder(tmp_path)


def test_two_spellings_of_a_class_folder(tmp_path):
    put_classes(tmp_path / "train", {"cat": 2, "dog": 2})
    put_classes(tmp_path / "test", {"Cat": 2, "dog": 2})
    with pytest.raises(UserError, match=r"two spellings of a class: 'Cat' \(.*test/Cat\) and 'cat' \(.*train/cat\)"):
        load_folder(tmp_path)


def test_two_folders_for_one_part(tmp_path):
    for part in ("train", "val", "valid"):
        put_classes(tmp_path / part, {"cat": 2, "dog": 2})
    with pytest.raises(UserError, match=r"val and .*valid would both be the val set: rename or remove one"):
        load_folder(tmp_path)


def test_a_test_folder_without_train(tmp_path):
    put_classes(tmp_path / "test", {"cat": 2, "dog": 2})
    with pytest.raises(UserError, match=r"has 'test' but no folder 'train': add .*train"):
        load_folder(tmp_path)


def test_a_single_class(tmp_path):
    put_classes(tmp_path, {"cat": 2})
    with pytest.raises(UserError, match=r"single class 'cat': classification needs at least two"):
        load_folder(tmp_path)


# ------------------------------------------------------------------------------------------------------ list files


@pytest.fixture
def root(tmp_path):
    put(*(tmp_path / "images" / name for name in ("0.png", "1.png", "2.png", "a b/3 c.png", "ä.png")))
    return tmp_path / "images"


def write(root, name, text, encoding="utf-8"):
    (root / name).write_bytes(text.encode(encoding))
    return name


def load_lists(root, train, test=None, val=None, **options):
    """Writes the texts (CSV if they have commas) and loads them."""
    names = {}
    for part, text in {"train": train, "test": test, "val": val}.items():
        if text is not None:
            names[f"{part}_list"] = write(root, f"{part}.{'csv' if ',' in text else 'txt'}", text)
    return sources.load("list", root=str(root), **names, **options)


def refused(root, *texts):
    with pytest.raises(UserError) as caught:
        load_lists(root, *texts)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{root}/", "")


def test_text_lists_with_numbers(root):
    source = load_lists(root, "0.png 0\n\n1.png\t1\r\na b/3 c.png   0 \n", "2.png 1\n", "ä.png 0")
    assert relative(source.train) == ["0.png", "1.png", "a b/3 c.png"]
    assert source.train.labels.tolist() == [0, 1, 0]
    assert source.train.labels.dtype == np.int64
    assert source.train.classes == ("0", "1")
    assert source.test.labels.tolist() == [1]
    assert relative(source.val) == ["ä.png"]
    assert source.train.images[2] == str(root / "a b/3 c.png")
    assert source.remarks == ()


def test_text_lists_with_names(root):
    source = load_lists(root, "0.png dog\n1.png cat\n2.png dog", "ä.png dog\n")
    assert source.train.classes == ("cat", "dog")
    assert source.train.labels.tolist() == [1, 0, 1]
    assert source.test.labels.tolist() == [1]


def test_eleven_numbered_classes_keep_their_numbers(root):
    source = load_lists(root, "".join(f"0.png {label}\n" for label in range(10, -1, -1)), "1.png 2\n")
    assert source.train.labels.tolist() == list(range(10, -1, -1))
    assert source.train.classes[2] == "2"
    assert source.test.labels.tolist() == [2]


@pytest.mark.parametrize(
    "header", ["path,label", "image,class", "filename,target", " Path , LABEL", "number,path,label,more"]
)
def test_csv_lists(root, header):
    before, after = ("7,", ",x") if header.startswith("number") else ("", "")
    rows = ['"a b/3 c.png", polar bear', "0.png,dog", "", '"ä.png","dog"']
    text = "\r\n".join([header, *(before + row + after if row else row for row in rows)])
    source = load_lists(root, text, "1.png dog")
    assert relative(source.train) == ["a b/3 c.png", "0.png", "ä.png"]
    assert source.train.classes == ("dog", "polar bear")
    assert source.train.labels.tolist() == [1, 0, 0]


@pytest.mark.parametrize("text", ["0.png 0\n1.png 1\n", "path,label\n0.png,0\n1.png,1\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_line(root, text):
    assert relative(load_lists(root, "\ufeff" + text, text).train) == ["0.png", "1.png"]


def test_a_list_without_a_test_list_gives_one(root):
    source = load_lists(root, "0.png 0\n1.png 0\n2.png 1\nä.png 1\n", hold=HoldOut(0.5))
    assert source.train.counts.tolist() == source.test.counts.tolist() == [1, 1]
    assert source.remarks == ("there is no test set: 2 of the 4 images are held out, 50% of each class",)


def test_lists_are_found_as_given_or_under_the_root(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "here.txt", "0.png 0\n1.png 1\n")
    write(root, "there.txt", "2.png 0\n")
    source = sources.load("list", root="images", train_list="here.txt", test_list="there.txt")
    assert (len(source.train), len(source.test)) == (2, 1)
    with pytest.raises(
        UserError, match=r"data.val_list=gone.txt: there is no such file, neither as given nor in images"
    ):
        sources.load("list", root="images", train_list="here.txt", val_list="gone.txt")


def test_images_in_two_lists_are_said(root):
    source = load_lists(root, "0.png 0\n1.png 1\n2.png 1\n", "1.png 1\n2.png 1\nä.png 0\n")
    assert source.remarks == (f"2 images of {root}/test.txt are in {root}/train.txt too",)


def test_missing_images_are_counted_and_ten_are_named(root):
    text = "".join(f"gone/{number}.png {number % 2}\n0.png 1\n" for number in range(12))
    message = refused(root, text)
    assert message.startswith("train.txt:1: 12 images of train.txt are not in ")
    assert "'gone/9.png'): set data.root" in message
    assert "gone/10.png" not in message


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (("0.png 0\n1.png\n",), "train.txt:2: no label after the path: '1.png'; write `path label`"),
        (("0.png 0\n\na b/3 c.png\n",), "train.txt:3: no label after the path: 'a b/3 c.png'; write `path label`"),
        (("path,label\n0.png,0\n1.png\n",), "train.csv:3: no path or no label: '1.png'"),
        (("path,label\n0.png, \n",), "train.csv:2: no path or no label: '0.png, '"),
        (
            ("0.png,0\n1.png,1\n",),
            "train.csv:1: no header with a column of paths (path, image, filename) and one of labels",
        ),
        (("\n\n",), "train.txt lists no images"),
        (("path,label\n",), "train.csv lists no images"),
        (("0.png 0\n1.png 1\n2.png -1\n",), "train.txt:3: label -1 is out of range"),
        (("0.png 0\n1.png 1\n", "2.png 2\n"), "test.txt:1: label 2 is out of range: train.txt has labels from 0 to 1"),
        (("0.png 0\n1.png 1\n", "2.png 0\n", "2.png 5\n"), "val.txt:1: label 5 is out of range"),
        (("0.png 1\n1.png 2\n",), "train.txt has labels up to 2 but no image of 1 of them (first: 0)"),
        (("0.png 0\n1.png 123456789012345678\n",), "train.txt has labels up to 123456789012345678 but no image of"),
        (
            ("0.png 0\n1.png 5\n2.png 3\n",),
            "but no image of 3 of them (first: 1, 2, 4): every class needs a training image",
        ),
        (("0.png 0\n1.png cat\n",), "train.txt:2: label 'cat' is a name, but train.txt:1 has the number 0"),
        (("0.png 0\n1.png 1\n", "2.png cat\n"), "test.txt:1: label 'cat' is a name"),
        (
            ("0.png cat\n1.png dog\n", "2.png cat\n2.png eel\n"),
            "test.txt:2: class 'eel' has no training image in train.txt",
        ),
        (("0.png cat\n1.png Cat\n",), "two spellings of a class: 'Cat' (train.txt:2) and 'cat' (train.txt:1)"),
        (
            ("0.png cat\n1.png dog\n", "2.png Dog\n"),
            "two spellings of a class: 'Dog' (test.txt:1) and 'dog' (train.txt:2)",
        ),
        (("0.png cat\n1.png cat\n",), "the data have the single class 'cat'"),
        (('path,label\n"0.png,0\n',), "train.csv:2: not a line of a table (unexpected end of data)"),
        (("gone/0.png 0\ngone/1.png 1\n",), "none of the 2 files of train.txt lie under"),
    ],
)
def test_what_can_be_wrong_in_a_list(root, texts, sentence):
    assert sentence in refused(root, *texts)


def test_lists_as_windows_programs_save_them(root):
    text = "file name;number;Species\r\nä.png;1;Bär\r\na b/3 c.png;2;Fuchs\r\n"
    columns = {"path": "File name", "label": "species"}
    for ending, changed, encoding in ((".csv", text, "cp1252"), (".tsv", text.replace(";", "\t"), "utf-8-sig")):
        name = write(root, f"train{ending}", changed, encoding)
        train = sources.load("list", root=str(root), train_list=name, test_list=name, columns=columns)
        assert relative(train.train) == ["ä.png", "a b/3 c.png"]
        assert train.train.classes == ("Bär", "Fuchs")
        assert any("not in UTF-8: read as cp1252" in said for said in train.remarks) == (encoding == "cp1252")
    with pytest.raises(
        UserError,
        match=r"train.csv:1: no column 'Filename', .*, only 'file name;number;Species'; did you mean 'file name'\?",
    ):
        sources.load("list", root=str(root), train_list="train.csv", columns={"path": "Filename"})
    with pytest.raises(UserError, match=r"no header with a column of labels \(label, class, target\): 'file name;n"):
        sources.load("list", root=str(root), train_list="train.csv", columns={"path": "file name"})
    for separator in "\t;":
        write(root, "train.txt", f"ä.png{separator}polar bear\na b/3 c.png{separator}dog\n")
        train = sources.load("list", root=str(root), train_list="train.txt", test_list="train.txt").train
        assert (relative(train), train.classes) == (["ä.png", "a b/3 c.png"], ("dog", "polar bear"))
    write(root, "train.txt", "ä.png 0\n", "utf-16")
    with pytest.raises(UserError, match=r"train.txt is not a list in UTF-8 or cp1252 \(it holds zero bytes\)"):
        sources.load("list", root=str(root), train_list="train.txt")


def test_no_list_and_no_root(root):
    with pytest.raises(UserError, match=r"data.name=list needs data.train_list=FILE"):
        sources.load("list", root=str(root))
    with pytest.raises(UserError, match=r"data.root=.*nowhere is not a folder"):
        sources.load("list", root=str(root / "nowhere"), train_list="train.txt")


def test_long_lists_are_read_in_little_memory(root):
    lines = 20_000
    name = write(root, "long.txt", "".join(f"{'./' * 20}{row % 3}.png {row % 100}\n" for row in range(lines)))
    tracemalloc.start()
    parts, _ = lists.read(root, {"train": name})
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(parts["train"]) == lines
    assert kept < 90 * lines
    assert peak < 260 * lines
