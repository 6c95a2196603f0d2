"""Which recipe one's own photographs get, with and without a hub; the hub is a server on this machine."""

import http.server
import threading
import time

import pytest

from glmc import recipe
from glmc.errors import UserError
from glmc.models import build_backbone, weights
from glmc.stats import own


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server that answers whatever it is asked for, in the place of the hub; nothing in the cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_where_the_hub_answers_a_pretrained_network_is_fine_tuned(hub):
    choice = own.choose()
    assert choice.recipe == "folder/finetune"
    assert recipe.load(choice.recipe).model.pretrained is True


def test_without_a_hub_the_choice_is_from_scratch_and_says_why(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    choice = own.choose()
    assert choice.recipe == "folder/glmc"
    assert "127.0.0.1:9" in choice.reason
    assert "model.pretrained=FILE" in choice.reason


def test_offline_by_wish(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights.no_hub() == "HF_HUB_OFFLINE is set"


def test_weights_that_cannot_be_had_are_said_at_once(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"model.pretrained: the weights of resnet18 cannot be had .*=FILE"):
        build_backbone("resnet18", pretrained=True)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("name", ["folder/finetune", "folder/linear", "folder/glmc", "folder/ce"])
def test_recipes_for_photographs_take_a_folder(name):
    wanted = recipe.load(name, ["data.root=photos"])
    assert (wanted.data.name, wanted.data.imbalance) == ("folder", None)
    assert wanted.data.size is not None
