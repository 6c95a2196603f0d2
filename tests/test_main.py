"""The command as a user starts it."""

import json
import subprocess
import sysconfig
from pathlib import Path

OWN = """\
from glmc.methods.supervised import Supervised


class Louder(Supervised):
    def __init__(self, *parts, volume: float = 1.0):
        super().__init__(*parts)
        self.volume = volume

    def forward(self, step):
        return {name: self.volume * term for name, term in super().forward(step).items()}
"""
SCRIPT = Path(sysconfig.get_path("scripts")) / "glmc"


def test_a_user_s_own_method_is_found_from_the_working_directory(tmp_path: Path):
    (tmp_path / "mine.py").write_text(OWN)

    def glmc(*words: str) -> str:
        done = subprocess.run([SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    method = 'method={name: "mine:Louder", volume: 3}'
    assert "name: mine:Louder\n  volume: 3.0\n" in glmc("show", "digits_lt/ce", method)
    glmc("train", "digits_lt/ce", method, "train.max_steps=1", "--out", "run", "--quiet")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["method"] == "mine:Louder + cross_entropy"
    assert json.loads(glmc("test", "run", "--json"))["test"]
