"""Files that mean harm: gadgets and bombs in pickles, zips, headers, YAML and lists. Refused, in little memory."""

import os
import resource
import struct
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from glmc import recipe
from glmc.data import cifar, lists
from glmc.data.prepare import prepare
from glmc.errors import UserError
from glmc.models.pretrained import load_pretrained
from glmc.published import weights
from glmc.report import finished
from glmc.screen import Screen

MOST = 200 << 20  # bytes that any of them may take
START = b"\x80\x02"
CALLS = ("os system", "posix system", "builtins eval", "builtins exec", "subprocess Popen", "nt system", "pty spawn",
         "importlib import_module", "runpy run_path", "builtins getattr", "webbrowser open", "shutil rmtree",
         "torch.hub load", "torch.utils.cpp_extension load", "timeit main", "code interact", "builtins open",
         "numpy.testing._private.utils runstring", "pickle loads", "builtins __import__")  # fmt: skip


def most_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def name(words):
    module, function = words.split()
    return b"c" + module.encode() + b"\n" + function.encode() + b"\n"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def gadget(call, command, first=b""):
    """A pickle that calls something with a text, with something harmless on top of it."""
    return START + first + name(call) + text(command) + b"\x85R0}."


def shared(depth, opens, joins):
    """Containers of containers, each of which holds the one before twice."""
    steps = (opens + b"h%c" % (n - 1) + joins[0] + b"h%c" % (n - 1) + joins[1] + b"q%c" % n for n in range(1, depth))
    return b")q\x00" + b"".join(steps)


BOMBS = {  # by what reads only as much as a line: 16 GB of memory, 2 ** 60 steps
    "bytes made of a number": START + name("builtins bytearray") + b"J\xff\xff\xff\x7f\x85R.",
    "bytes of a stated length": b"\x80\x05\x96" + struct.pack("<Q", 2**34) + b".",
    "text of a stated length": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".",
    "a memo of two billion": START + b"]r\xff\xff\xff\x7f.",
    "lists in lists": START + shared(60, b"]", (b"a", b"a")) + b".",
    "dicts in dicts": START + b"}" + text(b"a") + shared(60, b"}", (b"", b"")) + b"s.",
    "a frame of a terabyte": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b".",
}
KEY = START + b"}q\xff" + shared(60, b"", (b"", b"\x86")) + b"h\xffh\x3bK\x01s."  # a key that takes for ever to hash
ENCODED = START + name("_codecs encode") + b"q\x01" + text(b"a" * 2**20) + b"q\x02]("  # a megabyte, thousands of times
ENCODED += (b"h\x01h\x02" + text(b"latin1") + b"\x86R") * 9000 + b"e."


def zipped(file, content):
    """A file of `torch.save` with any pickle."""
    with zipfile.ZipFile(file, "w") as archive:
        for part, inside in {"data.pkl": content, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"archive/{part}", inside)


def refused(file, memory=MOST):
    """Both readers of weights say a sentence on it and take little memory; none quotes what would run it."""
    before = most_memory()
    for read in (lambda: load_pretrained(torch.nn.Linear(2, 2), file), lambda: weights.read(file)):
        with pytest.raises(UserError) as caught:
            read()
        assert "weights_only" not in str(caught.value)
        assert str(file) in str(caught.value)
    assert most_memory() - before < memory


@pytest.fixture
def flag(tmp_path):
    """A file that only appears if somebody's code has run."""
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("calls", [CALLS[:3], pytest.param(CALLS, marks=pytest.mark.faults)], ids=["few", "all"])
def test_no_gadget_runs(calls, tmp_path, flag, noted):
    for number, call in enumerate(calls):
        content = gadget(call, f"touch {flag}".encode())
        zipped(tmp_path / f"{number}.pth", content)
        (tmp_path / f"{number}-legacy.pth").write_bytes(content)
        for file in (tmp_path / f"{number}.pth", tmp_path / f"{number}-legacy.pth"):
            refused(file)
            noted("gadget in .pth", "survived")
        (tmp_path / "batch").write_bytes(content)
        with pytest.raises(UserError, match="batch is not a CIFAR file that can be read safely"):
            cifar.load_pickle(tmp_path / "batch")
        noted("gadget in CIFAR's files", "survived")


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_pickle_takes_neither_memory_nor_time(kind, tmp_path, noted):
    zipped(tmp_path / "bomb.pth", BOMBS[kind])
    refused(tmp_path / "bomb.pth")
    noted("bomb in .pth", "survived")
    (tmp_path / "batches.meta").write_bytes(BOMBS[kind])
    before = most_memory()
    with pytest.raises(UserError, match=r"batches\.meta"):
        cifar._class_names(cifar.LAYOUTS["cifar10"], tmp_path)
    assert most_memory() - before < MOST
    noted("bomb in CIFAR's files", "survived")


@pytest.mark.parametrize("content", [KEY, pytest.param(ENCODED, marks=pytest.mark.faults)], ids=["key", "encoded"])
def test_no_tuples_are_hashed_and_bytes_are_counted(content, tmp_path, noted):
    zipped(tmp_path / "bomb.pth", content)
    refused(tmp_path / "bomb.pth")
    noted("bomb in .pth", "survived")
    (tmp_path / "batch").write_bytes(content)
    with pytest.raises(UserError, match="batch is not a CIFAR file"):
        cifar.load_pickle(tmp_path / "batch")
    noted("bomb in CIFAR's files", "survived")


@pytest.mark.parametrize("megabytes", [64, pytest.param(1200, marks=pytest.mark.faults)])
def test_what_unpacks_to_more_than_itself_is_refused(megabytes, tmp_path, noted):
    torch.save({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, tmp_path / "bomb.pth")
    with (
        zipfile.ZipFile(tmp_path / "bomb.pth", "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("bomb/data/2", "w") as record,
    ):
        for _ in range(megabytes):
            record.write(bytes(2**20))
    assert (tmp_path / "bomb.pth").stat().st_size < megabytes * 2**20 / 500
    refused(tmp_path / "bomb.pth", memory=megabytes << 19)
    noted("zip bomb in .pth", "survived")


HEADERS = {
    "header of a terabyte": struct.pack("<Q", 2**40) + b"{}",
    "tensor of a terabyte": b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,16]}}',
    "places beyond the end": b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,160]}}',
    "places that overlap": b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
    b'"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "negative places": b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}}',
    "product beyond 64 bits": b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
    "deep JSON": b"[" * 100_000,
    "no JSON": b"\xff\xfe",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_lies_is_refused(kind, tmp_path, noted):
    header = HEADERS[kind]
    content = header if kind == "header of a terabyte" else struct.pack("<Q", len(header)) + header + bytes(16)
    (tmp_path / "net.safetensors").write_bytes(content)
    refused(tmp_path / "net.safetensors")
    noted("lying safetensors header", "survived")


FOREIGN = [None, 7, [], "text", {1: torch.zeros(2)}, {"state_dict": None}, {"state_dict": [1]}, {"weight": "text"},
           {"weight": torch.zeros(3)}, {"weight": torch.eye(2).to_sparse(), "bias": torch.zeros(2)},
           {"weight": torch.zeros(2, 2, device="meta"), "bias": torch.zeros(2)},
           {"weight": torch.zeros(2, 2, dtype=torch.int64), "bias": torch.zeros(2)}]  # fmt: skip


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_other_shapes_of_files_are_one_sentence(content, tmp_path, noted):
    torch.save(content, tmp_path / "net.pth")
    refused(tmp_path / "net.pth")
    noted("weights of another shape", "survived")


def test_aliases_that_multiply_are_refused(tmp_path, noted):
    bomb = "a: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    (tmp_path / "recipe.yaml").write_text(bomb)
    for read in (lambda: recipe.load(str(tmp_path / "recipe.yaml")), lambda: finished.read(tmp_path)):
        with pytest.raises(UserError, match="recipes use no aliases"):
            read()
        noted("YAML bomb", "survived")


ESCAPES = ("/etc/passwd", "../../../../../../etc/passwd", "/dev/zero", "/dev/stdin", "/proc/self/mem", "pipe.png", ".")


@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("loader", ["resident", "streaming"])
def test_a_path_that_leaves_the_images_finds_none(escape, loader, tmp_path, noted):
    for number in range(4):
        Image.fromarray(np.full((8, 8, 3), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "train.txt").write_text(f"0.png 0\n1.png 0\n2.png 1\n{escape} 1\n")
    (tmp_path / "test.txt").write_text("3.png 0\n")
    settings = ["data={name: list, train_list: train.txt, test_list: test.txt, size: 8, cache: false}"]
    settings += [f"data.root={tmp_path}", f"data.loader={loader}"]
    with pytest.raises(UserError) as caught:
        prepare(recipe.load("digits_lt/ce", settings).data, Screen(quiet=True))
    assert escape in str(caught.value)
    assert "\n" not in str(caught.value)
    noted("path escape in a list", "survived")


@pytest.mark.parametrize("line", ["0.png -0", "0.png +0", "0.png \0", "a\0.png 0"])
def test_a_label_or_path_that_is_none_is_named(line, tmp_path, noted):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "0.png")
    (tmp_path / "train.txt").write_text(f"0.png 0\n{line}\n")
    with pytest.raises(UserError, match=r"train\.txt"):
        lists.read(tmp_path, {"train": str(tmp_path / "train.txt")})
    noted("label or path that is none", "survived")


def test_plain_weights_are_still_read(tmp_path):
    net, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    for legacy in (False, True):
        torch.save({"state_dict": net.state_dict()}, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
        load_pretrained(other, tmp_path / "net.pth")
        assert torch.equal(other.weight, net.weight)
