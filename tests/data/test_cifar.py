import dataclasses
import functools
import hashlib
import http.server
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest

from glmc.data import cifar, sources
from glmc.errors import UserError

SPELLINGS = [(name, folder) for name, layout in cifar.LAYOUTS.items() for folder in layout.folders]


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its strings, which is how the official files were made."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, value):
        raw = value.encode() if isinstance(value, str) else value
        short = len(raw) < 256
        self.write((b"U" + bytes([len(raw)]) if short else b"T" + struct.pack("<i", len(raw))) + raw)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, value, name=None):
        if value.__name__ == "_reconstruct":
            self.write(b"cnumpy.core.multiarray\n_reconstruct\n")
            self.memoize(value)
        else:
            super().save_global(value, name)


def python2_dumps(value):
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def python3_dumps(value):
    return pickle.dumps(value, protocol=2)


def content(name):
    """File -> what it holds, in the layout of the official files: 4 images a batch, 3 classes, bytes as keys."""
    layout = cifar.LAYOUTS[name]
    random = np.random.RandomState(0)
    files = {}
    for file in [*layout.train, *layout.test]:
        pixels = random.randint(0, 256, (4, 3072)).astype(np.uint8)
        labels = random.randint(0, 3, 4).tolist()
        files[file] = {b"batch_label": b"a batch", layout.labels.encode(): labels, b"data": pixels}
        files[file][b"filenames"] = [b"image_%d.png" % number for number in range(4)]
    (meta,) = layout.meta
    files[meta] = {layout.names.encode(): [b"frog", b"cat", b"ship"], b"num_vis": 3072}
    return files


def write(folder, name, dumps=python2_dumps):
    folder.mkdir(parents=True)
    for file, value in content(name).items():
        (folder / file).write_bytes(dumps(value))


def check(source, name):
    layout, files = cifar.LAYOUTS[name], content(name)
    for split, names in ((source.train, layout.train), (source.test, layout.test)):
        pixels = np.concatenate([files[file][b"data"] for file in names])
        assert split.labels.tolist() == [label for file in names for label in files[file][layout.labels.encode()]]
        assert split.images.shape == (4 * len(names), 32, 32, 3)
        assert split.images.dtype == np.uint8
        for row, y, x, channel in [(0, 0, 0, 0), (1, 2, 3, 1), (3, 31, 30, 2)]:
            assert split.images[row, y, x, channel] == pixels[row, channel * 1024 + y * 32 + x]
        assert split.classes == ("frog", "cat", "ship")
    assert source.val is None
    assert len(source.mean) == len(source.std) == 3


@pytest.mark.parametrize(("name", "folder"), SPELLINGS)
@pytest.mark.parametrize("place", ["at the root", "one level below", "the root itself"])
def test_folders_are_found_in_place(tmp_path, name, folder, place):
    where = {"at the root": tmp_path / folder, "one level below": tmp_path / "sets" / folder}
    write(where.get(place, tmp_path / folder), name)
    root = tmp_path / folder if place == "the root itself" else tmp_path
    check(sources.load(name, root=str(root), download=False), name)


@pytest.mark.parametrize("name", cifar.LAYOUTS)
def test_a_renamed_folder_is_found_as_the_root_itself(tmp_path, name):
    write(tmp_path / "mine", name)
    check(sources.load(name, root=str(tmp_path / "mine"), download=False), name)


@pytest.mark.parametrize("name", cifar.LAYOUTS)
def test_files_written_by_python_3_are_read_too(tmp_path, name):
    write(tmp_path / cifar.LAYOUTS[name].folders[0], name, python3_dumps)
    check(sources.load(name, root=str(tmp_path)), name)


def test_the_two_writers_write_what_pickle_reads():
    value = content("cifar10")["data_batch_1"]
    for dumps in (python2_dumps, python3_dumps):
        back = pickle.loads(dumps(value), encoding="bytes")
        np.testing.assert_array_equal(back[b"data"], value[b"data"])
        assert back[b"labels"] == value[b"labels"]
    assert b"cnumpy.core.multiarray" in python2_dumps(value)
    assert b"_codecs" in python3_dumps(value)


@pytest.mark.parametrize("array", [np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.eye(3)), np.zeros(0)])
def test_arrays_keep_type_shape_and_order(tmp_path, array):
    (tmp_path / "file").write_bytes(python3_dumps([array]))
    if array.size == 0:  # Python 3 spells empty bytes as a call of `bytes`, which no official file holds
        (tmp_path / "file").write_bytes(python2_dumps([array]))
    (back,) = cifar.load_pickle(tmp_path / "file")
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


# ------------------------------------------------------------------------------------------------ hostile pickles


class Call:
    """A pickle of this calls `function(*arguments)` when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def gadgets(evidence):
    """Pickles that leave the file `evidence` behind if they are read without care."""
    touch, code = f"touch {evidence}", f"open({str(evidence)!r}, 'w').close()"
    array = np.empty(1, dtype=object)
    array[0] = Call(os.system, touch)
    return {
        "os.system": pickle.dumps(Call(os.system, touch)),
        "os.system, protocol 0": pickle.dumps(Call(os.system, touch), protocol=0),
        "eval": pickle.dumps(Call(eval, code)),
        "exec": pickle.dumps(Call(exec, code), protocol=2),
        "subprocess": pickle.dumps(Call(subprocess.check_call, ["touch", str(evidence)])),
        "open": pickle.dumps(Call(open, str(evidence), "w")),
        "numpy.ndarray.tofile": pickle.dumps(Call(np.ndarray.tofile, np.zeros(3, np.uint8), str(evidence))),
        "numpy.save": pickle.dumps(Call(np.save, str(evidence), np.zeros(3, np.uint8))),
        "numpy.savetxt": pickle.dumps(Call(np.savetxt, str(evidence), np.zeros(3))),
        "in an object array": pickle.dumps([array]),
        "in a list in a dict": pickle.dumps({b"data": [1, Call(os.system, touch)]}),
        "instance opcode": b"(S" + repr(touch).encode() + b"\nios\nsystem\n.",
        "object opcode": b"(cos\nsystem\nS" + repr(touch).encode() + b"\no.",
    }


@pytest.mark.parametrize("name", gadgets("evidence"))
def test_gadgets_are_refused_without_being_run(tmp_path, name):
    evidence, file = tmp_path / "evidence", tmp_path / "data_batch_1"
    gadget = gadgets(evidence)[name]
    pickle.loads(gadget)
    (left,) = tmp_path.glob("evidence*")  # the danger is real
    left.unlink()
    file.write_bytes(gadget)
    with pytest.raises(UserError, match=r"data_batch_1 is not a CIFAR file that can be read safely .*refused"):
        cifar.load_pickle(file)
    assert [path.name for path in tmp_path.iterdir()] == ["data_batch_1"]


@pytest.mark.parametrize(
    "function",
    ["numpy fromfile", "numpy load", "numpy ndarray.tofile", "numpy.core.multiarray scalar", "builtins getattr",
     "functools partial", "operator attrgetter", "_codecs decode", "_codecs lookup", "copyreg _reconstructor",
     "importlib import_module", "builtins __import__", "glmc.data.cifar load_pickle", "builtins set"],
)  # fmt: skip
def test_every_other_name_is_refused(tmp_path, function):
    module, name = function.split()
    (tmp_path / "file").write_bytes(b"\x80\x04\x8c" + bytes([len(module)]) + module.encode() + b"\x8c"
                                    + bytes([len(name)]) + name.encode() + b"\x93.")  # fmt: skip
    with pytest.raises(UserError, match=f"asks for {module}.{name}, which is refused"):
        cifar.load_pickle(tmp_path / "file")


@pytest.mark.parametrize(
    "value",
    [1.5, None, (1, 2), {"a": (1,)}, {(1, 2): 1}, np.array([None]), np.zeros(2, "V4"), np.zeros(2, [("a", "O")]),
     np.array(["text"]), np.dtype("u1"), os.path.join],
    ids=lambda value: getattr(value, "__name__", repr(value)),  # a function's repr is another in every process
)  # fmt: skip
def test_every_other_type_is_refused(tmp_path, value):
    (tmp_path / "file").write_bytes(python3_dumps(value))
    with pytest.raises(UserError, match="file is not a CIFAR file that can be read safely"):
        cifar.load_pickle(tmp_path / "file")


@pytest.mark.parametrize(
    "raw",
    [b"", b"not a pickle", python2_dumps({b"data": 1})[:-4], b"(lp0\n" * 100_000, b"\x80\x02]q\x00h\x00a.",
     python3_dumps([np.zeros(5)]).replace(b"K\x05", b"K\x7f"),
     b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zipR.",
     b"c_codecs\nencode\n.", b"cnumpy\nndarray\n)\x81."],
)  # fmt: skip
def test_damaged_files_are_one_sentence(tmp_path, raw):
    (tmp_path / "file").write_bytes(raw)
    with pytest.raises(UserError, match=r"file is not a CIFAR file .*: delete .* download the data set again"):
        cifar.load_pickle(tmp_path / "file")


# ------------------------------------------------------------------------------------------- what can be wrong


@pytest.mark.parametrize("name", cifar.LAYOUTS)
def test_a_missing_file_is_named(tmp_path, name):
    layout = cifar.LAYOUTS[name]
    for file in [*layout.train, *layout.test, *layout.meta]:
        write(tmp_path / file / layout.folders[0], name)
        (tmp_path / file / layout.folders[0] / file).unlink()
        with pytest.raises(UserError, match=f"{layout.folders[0]}/{file} is missing: delete"):
            sources.load(name, root=str(tmp_path / file))


@pytest.mark.parametrize(
    "change",
    [{b"labels": [0, 1, 2, 3]}, {b"labels": [0, 1, -1, 2]}, {b"labels": [0, 1]}, {b"labels": [0, 1, b"2", 2]},
     {b"data": np.zeros((4, 3072), np.int64)}, {b"data": np.zeros((4, 3), np.uint8)}, {b"data": [1]}],
)  # fmt: skip
def test_a_file_of_another_content_is_named(tmp_path, change):
    write(tmp_path / "cifar-10-batches-py", "cifar10")
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(python2_dumps(content("cifar10")["data_batch_3"] | change))
    with pytest.raises(UserError, match=r"data_batch_3 is not a CIFAR-10 file: .* whole numbers from 0 to 2"):
        sources.load("cifar10", root=str(tmp_path))


def test_a_file_without_class_names(tmp_path):
    write(tmp_path / "cifar-100-python", "cifar100")
    (tmp_path / "cifar-100-python" / "meta").write_bytes(python2_dumps({b"coarse_label_names": [b"fish"]}))
    with pytest.raises(UserError, match="meta does not hold the class names 'fine_label_names'"):
        sources.load("cifar100", root=str(tmp_path))


def test_checksums_tell_official_files_from_others(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    write(folder, "cifar100")
    (remark,) = sources.load("cifar100", root=str(tmp_path)).remarks
    assert remark.endswith("not the official files (other checksum: train, test, meta)")
    md5 = {part: {part: hashlib.md5((folder / part).read_bytes()).hexdigest()} for part in ("train", "test", "meta")}
    monkeypatch.setitem(cifar.LAYOUTS, "cifar100", dataclasses.replace(cifar.LAYOUTS["cifar100"], **md5))
    (remark,) = sources.load("cifar100", root=str(tmp_path)).remarks
    assert remark.endswith(f"{folder}: official files")


def test_absent_and_not_to_be_downloaded(tmp_path):
    with pytest.raises(
        UserError, match=r"CIFAR-10 is not in .* data.download is false: download https://\S+ and unpack"
    ):
        sources.load("cifar10", root=str(tmp_path / "nowhere"), download=False)


@pytest.mark.parametrize("name", cifar.LAYOUTS)
def test_addresses_and_checksums_are_those_of_torchvision(name):
    from torchvision import datasets

    layout = cifar.LAYOUTS[name]
    official = getattr(datasets, layout.torchvision)
    assert layout.archive == official.url
    assert layout.folders[0] == official.base_folder
    assert list(layout.train.items()) == [tuple(pair) for pair in official.train_list]
    assert list(layout.test.items()) == [tuple(pair) for pair in official.test_list]
    assert layout.meta == {official.meta["filename"]: official.meta["md5"]}
    assert layout.names == official.meta["key"]


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Has torchvision fetch CIFAR-10 as a miniature archive from a web server on this machine."""
    from torchvision import datasets

    write(tmp_path / "pack" / "cifar-10-batches-py", "cifar10")
    file = tmp_path / "web" / "cifar-10-python.tar.gz"
    file.parent.mkdir()
    with tarfile.open(file, "w:gz") as tar:
        tar.add(tmp_path / "pack" / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(tmp_path / "pack")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=file.parent)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(file.read_bytes()).hexdigest())
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setattr(datasets.CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{file.name}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield file
        server.shutdown()


def test_an_absent_set_is_downloaded(tmp_path, archive):
    check(sources.load("cifar10", root=str(tmp_path / "data")), "cifar10")
    archive.unlink()
    check(sources.load("cifar10", root=str(tmp_path / "data")), "cifar10")  # from now on in place


def test_a_download_with_another_checksum_is_refused(tmp_path, archive):
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"could not be downloaded \(.*corrupted.*\): download https"):
        sources.load("cifar10", root=str(tmp_path / "data"))
    assert not (tmp_path / "data" / "cifar-10-batches-py").exists()


def test_no_network_is_one_sentence(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    with pytest.raises(UserError, match=r"CIFAR-100 is not in .* could not be downloaded .* unpack it in .*data.root"):
        sources.load("cifar100", root=str(tmp_path / "data"))


def test_reading_needs_no_torch():
    code = "import sys, glmc.data.sources, glmc.data.decode; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
