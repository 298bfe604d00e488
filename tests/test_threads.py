"""How threads wait and how many there are: set before torch loads, and never against the user's word."""

import os
import subprocess
import sys

import pytest

from lofit import threads

SHOWN = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")


def set_by(code="", **env):
    """What a fresh process finds in its environment after `share_processors`."""
    plain = {key: value for key, value in os.environ.items() if key not in SHOWN}
    run = f"import os, sys; {code}from lofit.threads import share_processors; share_processors(); "
    run += f"print(*(os.environ.get(name, '-') for name in {SHOWN}), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", run], env=plain | env, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_threads_spin_briefly_and_torch_is_not_loaded_for_it():
    assert set_by()[:2] == [threads.SPINS, "1"] and set_by()[-1] == "False"


@pytest.mark.parametrize("name", threads.CHOICES)
def test_what_the_user_says_stays(name):
    found = dict(zip(SHOWN, set_by(**{name: "7"}), strict=False))
    assert found.pop(name) == "7" and set(found.values()) == {"-"}


def test_nothing_is_set_once_torch_is_loaded():
    assert set_by("import torch; ")[:4] == ["-"] * 4


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({}, None),
        ({"cpu.max": "what?\n"}, None),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert threads.processor_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "wanted"), [(1.5, "1"), (0.2, "1"), (3.0, None), (None, None), (2.0, "2")])
def test_no_more_threads_than_processors_granted(monkeypatch, quota, wanted):
    monkeypatch.delitem(sys.modules, "torch")
    for name in SHOWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "processor_quota", lambda: quota)
    monkeypatch.setattr(threads, "affinity", lambda: {0, 1, 2})
    try:
        threads.share_processors()
        assert os.environ.get("OMP_NUM_THREADS") == wanted
    finally:
        for name in SHOWN:
            os.environ.pop(name, None)
