"""Runs on the hub: the real client of the hub against a small server of our own that keeps repositories in memory."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from glmc import recipe
from glmc.deploy import hub
from glmc.errors import UserError
from glmc.inference.calibrate import find_calibration
from glmc.runs import trained as trained_run
from glmc.train import run

QUIET = {"command": "glmc", "quiet": True, "since": time.perf_counter()}
pytestmark = pytest.mark.usefixtures("no_report")
COMMIT = "a" * 40


class Hub(BaseHTTPRequestHandler):
    """The few requests of huggingface_hub that these tests need; `server.repos`: name -> path -> bytes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code=""):
        self.answer({"error": code}, status, X_Error_Code=code)

    def do_GET(self):
        words = unquote(urlsplit(self.path).path).strip("/").split("/")
        name = "/".join(words[2:4] if words[0] == "api" else words[:2])
        if name == "me/locked":
            return self.refuse(403, "GatedRepo")
        if name not in self.server.repos:
            return self.refuse(404, "RepoNotFound")
        files = self.server.repos[name]
        if words[0] != "api":  # user/name/resolve/<commit>/<path>
            content = files["/".join(words[4:])]
            return self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')
        if words[4:5] == ["tree"]:
            return self.answer(
                [
                    {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                    for p, c in files.items()
                ]
            )
        if words[4:5] == ["revision"] and words[5] not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound")
        return self.answer({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer right":
            return self.refuse(401)
        words = self.path.partition("?")[0].strip("/").split("/")
        if words[:3] == ["api", "repos", "create"]:
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.server.created.append(wanted)
            status = 409 if name in self.server.repos else 200
            self.server.repos.setdefault(name, {".gitattributes": b""})
            return self.answer({"url": f"http://{self.headers['Host']}/{name}"}, status)
        if words[1] == "validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if words[4] == "preupload":
            asked = json.loads(body)["files"]
            kind = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer({"files": [{"path": file["path"], **kind} for file in asked]})
        for line in map(json.loads, body.splitlines()):  # commit
            if line["key"] == "file":
                path, content = line["value"]["path"], base64.b64decode(line["value"]["content"])
                self.server.repos["/".join(words[2:4])][path] = content
        address = f"http://{self.headers['Host']}/{words[2]}/{words[3]}/commit/{COMMIT}"
        return self.answer({"commitUrl": address, "commitOid": COMMIT, "success": True})


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos, server.created = {"me/empty": {".gitattributes": b""}, "me/full": {"README.md": b"mine"}}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = ["train.max_steps=3", "train.precision=float32", f"data.root={out.parent / 'photos'}"]
    run.train(recipe.load("digits_lt/ce", settings), out, **QUIET)
    prior = {str(digit): 0.1 for digit in range(10)}
    fitted = {"step": 3, "images": 90, "source": f"images of {out.parent}", "temperature": 1.5, "prior": prior}
    (out / "calibration.json").write_text(json.dumps(fitted))
    return out


def python(code, server, home, *words, token=None):
    """Run code in a process of its own, for huggingface_hub reads its settings once; the JSON that it prints."""
    port = server if isinstance(server, int) else server.server_address[1]
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    unset = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {**unset, **own, **({"HF_TOKEN": token} if token else {})}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


RESOLVE = """
import json, sys
from glmc.deploy import hub
from glmc.errors import UserError
def said(reference):
    try:
        return str(hub.resolve(reference))
    except UserError as error:
        return f"refused: {error}"
print(json.dumps({reference: said(reference) for reference in sys.argv[1:]}))
"""
PUSH = """
import json, sys
from glmc.deploy import push
from glmc.errors import UserError
def said(name, token):
    try:
        return push.push(sys.argv[1], name, private=True, token=token or None, quiet=True)
    except UserError as error:
        return f"refused: {error}"
print(json.dumps([said(*word.split("=")) for word in sys.argv[2:]]))
"""


def test_a_run_goes_up_and_comes_down_with_the_same_figures(server, trained, tmp_path):
    (address,) = python(PUSH, server, tmp_path / "mine", trained, "me/digits=right")
    assert address.endswith("/me/digits")
    assert server.created[-1]["visibility"] == "private"
    files = server.repos["me/digits"]
    assert {"README.md", "recipe.yaml", "result.json", "glmc.json"} <= set(files)
    assert not [path for path in files if "optimizer" in path]  # nobody needs it to predict
    here = str(trained.parent).encode()
    assert not [path for path, content in files.items() if here in content]  # no path of this machine
    assert b"glmc predict hf:me/digits" in files["README.md"]

    (place,) = python(RESOLVE, server, tmp_path / "theirs", "hf:me/digits@main").values()
    fetched = Path(place)
    assert trained_run.find_checkpoint(fetched).state["classes"] == [str(digit) for digit in range(10)]
    point = trained_run.find_checkpoint(fetched)
    assert find_calibration(point, point.state["classes"], pytest.fail).temperature == 1.5
    own = json.loads((trained / "result.json").read_text())["last"]
    assert trained_run.test(fetched, (), quiet=True)["test"] == pytest.approx(own)

    server.shutdown()  # without the network, the copy serves
    assert python(RESOLVE, 9, tmp_path / "theirs", "hf:me/digits@main") == {"hf:me/digits@main": place}


def test_what_the_hub_refuses_is_told_in_a_sentence(server, trained, tmp_path):
    server.repos["me/digits"] = {"recipe.yaml": b""}
    said = python(RESOLVE, server, tmp_path, "hf:me/none", "hf:me/digits@old", "hf:me/locked", "hf:digits")
    assert said["hf:me/none"].startswith("refused: hf:me/none: there is no such repository, or it is private; check")
    assert said["hf:me/digits@old"] == (
        "refused: hf:me/digits@old: the repository has no such revision; leave @... out for the newest"
    )
    assert said["hf:me/locked"].startswith("refused: hf:me/locked: the repository is gated; ask for access on its page")
    assert said["hf:digits"] == "refused: hf:digits: a run on the hub is written hf:user/name or hf:user/name@revision"
    said = python(PUSH, server, tmp_path, trained, "me/new=", "me/new=wrong", "me/full=right", "full=right")
    assert said[0].startswith("refused: hf:me/new: uploading needs a token with the right to write; log in with")
    assert said[1].startswith("refused: hf:me/new: the token gives no right to do this (HTTP 401); log in with")
    assert said[2] == "refused: hf:me/full holds 1 files already, and nothing is overwritten; choose another name"
    assert said[3].startswith("refused: hf:full: a run on the hub is written hf:user/name")
    assert server.repos["me/full"] == {"README.md": b"mine"}


def test_without_a_network(trained, tmp_path):
    (said,) = python(RESOLVE, 9, tmp_path, "hf:me/digits").values()
    assert said == "refused: hf:me/digits: the hub cannot be reached, and no copy lies here; check the network"
    (said,) = python(PUSH, 9, tmp_path, trained, "me/digits=right")
    assert said == "refused: hf:me/digits: the hub cannot be reached, and no copy lies here; check the network"


def test_any_other_reference_is_a_path():
    assert hub.resolve("runs/digits-001") == Path("runs/digits-001")
    with pytest.raises(UserError, match="a run on the hub is written hf:user/name"):
        hub.resolve("hf:../x")
