"""Checkpoints: same bits back, no code run, never half a file."""

from __future__ import annotations

import os
import pickle
import random
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_choir.errors import CheckpointError
from recbole_choir.integration import ChoirConfig
from recbole_choir.integration.checkpoint import load, rng_state, save, set_rng_state


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


def saved(path: Path, value: float = 1.0, **more: object) -> Path:
    return save(
        path, model="Base", state_dict={"w": torch.full((3,), value)}, config={"seed": 1}, **more
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adagrad(layer.parameters(), lr=0.1)
    layer(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    config = ChoirConfig("DeepFM", "ml-100k").plain()
    path = save(
        tmp_path / "deep" / "m.pth",
        model="DeepFM",
        state_dict=layer.state_dict(),
        config=config,
        optimizer=optimizer.state_dict(),
        epoch=3,
        cur_step=2,
        best_valid_score=np.float64(0.71),
        best_valid_result={"auc": np.float32(0.5)},
        extra={"other_parameter": None, "steps": np.arange(3)},
    )
    got = load(path, expect_model="DeepFM")
    assert torch.equal(got.state_dict["weight"], layer.weight)
    assert got.config == config
    assert (got.epoch, got.cur_step, got.best_valid_score) == (3, 2, 0.71)
    assert got.best_valid_result == {"auc": 0.5}
    assert got.extra["steps"].tolist() == [0, 1, 2]
    again = torch.optim.Adagrad(layer.parameters(), lr=0.1)
    again.load_state_dict(got.optimizer)
    assert torch.equal(again.state[layer.weight]["sum"], optimizer.state[layer.weight]["sum"])


def test_random_generators_continue_with_the_same_bits(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", rng=rng_state())
    first = (random.random(), np.random.rand(), torch.rand(2).tolist())  # noqa: NPY002
    set_rng_state(load(path).rng)
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == first  # noqa: NPY002


def test_a_malicious_pickle_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {}, "config": Malicious(marker)}, path)
    with pytest.raises(CheckpointError, match=r"trust_pickle=True \(--trust_pickle=True\)"):
        load(path)
    assert not marker.exists()
    # the same bytes do run when they are asked to: the file is what it claims to be
    load(path, trust_pickle=True)
    assert marker.exists()


def test_a_bare_malicious_pickle_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(CheckpointError):
        load(path)
    assert not marker.exists()


def test_recboles_own_checkpoint_only_on_request(tmp_path: Path) -> None:
    config = ChoirConfig("FM", "ml-100k")
    path = tmp_path / "recbole.pth"
    state = {
        "config": config,
        "epoch": 4,
        "cur_step": 1,
        "best_valid_score": 0.6,
        "state_dict": {"w": torch.ones(2)},
        "other_parameter": None,
        "optimizer": {},
    }
    torch.save(state, path, pickle_protocol=4)
    with pytest.raises(CheckpointError, match="trust_pickle=True"):
        load(path)
    got = load(path, trust_pickle=True)
    assert (got.model, got.epoch, got.best_valid_score) == ("FM", 4, 0.6)
    assert got.config["embedding_size"] == config["embedding_size"]


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    path = saved(tmp_path / "m.pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(len(whole) * keep)])
    with pytest.raises(CheckpointError, match=r"m\.pth: damaged") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "missing.pth")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        load(text)
    foreign = tmp_path / "weights.pth"
    torch.save({"w": torch.ones(1)}, foreign)
    with pytest.raises(CheckpointError, match="no state_dict"):
        load(foreign)
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(CheckpointError, match="not a checkpoint of recbole-choir"):
        load(foreign)


def test_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected one of model ChoirRec, got Base"):
        load(saved(tmp_path / "m.pth"), expect_model="ChoirRec")


def test_objects_are_refused_when_saving(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"extra\.a\[1\]: .* got Path|PosixPath"):
        saved(tmp_path / "m.pth", extra={"a": [1, tmp_path]})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_older_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", 1.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(CheckpointError, match="cannot be written") as caught:
            save(path, model="Base", state_dict={"w": torch.zeros(100_000)}, config={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert load(path).state_dict["w"].tolist() == [1.0, 1.0, 1.0]
    assert os.listdir(tmp_path) == ["m.pth"]
