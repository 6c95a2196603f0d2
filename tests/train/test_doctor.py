"""`glmc doctor`: what is slow on a machine, with a remedy."""

import torch

from glmc.data import many
from glmc.screen import Screen
from glmc.train import doctor


def test_a_machine_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLMC_CACHE", str(tmp_path / "cache"))
    findings = {finding.what: finding for finding in doctor.doctor(Screen(quiet=True))}
    assert f"torch {torch.__version__.partition('+')[0]}" in findings["versions"].found
    assert str(tmp_path / "cache") in findings["cache folder"].found
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_has_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(many, "cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert "OMP_NUM_THREADS=" in doctor.threads().remedy
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: Usage)
    assert doctor.disk("disk", tmp_path / "absent", "make room").remedy == "make room"
    assert "--shm-size" in doctor.shared_memory().remedy
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda kind: (256, 4096))
    assert doctor.handles().remedy == "ulimit -n 1024"
    monkeypatch.setattr(doctor.runtime, "try_bfloat16", lambda: "convolutions in bfloat16 take 3.0 times as long here")
    assert "float32" in doctor.bfloat16().remedy


class Usage:
    free = 2**20
