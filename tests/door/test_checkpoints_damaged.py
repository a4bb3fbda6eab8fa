"""Checkpoints that are damaged, or of another run: refused in one line that says what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_choir.errors import CheckpointError
from recbole_choir.integration import checkpoint
from recbole_choir.integration.resumption import same_run

Make = Callable[[Path, bytes], None]
SETTINGS = {
    "model": "Base",
    "dataset": "small",
    "seed": 7,
    "learning_rate": 0.01,
    "learner": "adam",
    "train_batch_size": 64,
    "embedding_size": 8,
    "dropout_prob": 0.1,
    "mlp_hidden_size": [16, 8],
    "epochs": 4,
    "lr_schedule": "linear",
    "valid_metric": "GAUC",
    "eval_args": {"order": "TO", "split": {"RS": [0.8, 0.1, 0.1]}},
    "threshold": {"rating": 4},
    "val_interval": None,
    "weight_decay": 0.0,
    "record_dir": "records",
    "nproc": 1,
    "data_path": "dataset",
}
ROWS = {"train": "192:aaaa", "valid": "24:bbbb", "test": "24:cccc"}


def save(path: Path, **more: Any) -> Path:
    values: dict[str, Any] = {
        "model": "Base",
        "state_dict": {"user.weight": torch.arange(4096.0).reshape(64, 64)},
        "config": SETTINGS,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "epoch": 1,
        "cur_step": 0,
        "best_valid_score": 0.7,
        "best_valid_result": {"gauc": 0.7},
        "rng": checkpoint.rng_state(),
        "extra": {"rows": ROWS, "history": [{"epoch": 0}, {"epoch": 1}]},
    }
    return checkpoint.save(path, **{**values, **more})


def raw(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """The payload of a good checkpoint, changed, as torch writes it."""
    save(path)
    payload = torch.load(path, weights_only=True)
    changed = change(payload)
    torch.save(payload if changed is None else changed, path)


def entry(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(payload: dict[str, Any]) -> None:
        payload[name] = value

    return change


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    def change(payload: dict[str, Any]) -> None:
        del payload[name]

    return change


def _zip_of(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in names.items():
            file.writestr(name, content)
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


DAMAGED = "damaged or not a checkpoint"
FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda b: b"", DAMAGED),
    "one byte": (lambda b: b[:1], DAMAGED),
    "four bytes": (lambda b: b[:4], DAMAGED),
    "the first tenth": (lambda b: b[: len(b) // 10], DAMAGED),
    "half": (lambda b: b[: len(b) // 2], DAMAGED),
    "all but the last byte": (lambda b: b[:-1], DAMAGED),
    "all but the first byte": (lambda b: b[1:], DAMAGED),
    "the end alone": (lambda b: b[-200:], DAMAGED),
    "zeros": (lambda b: bytes(len(b)), DAMAGED),
    "zeros at the end": (lambda b: b[: len(b) // 2] + bytes(len(b) - len(b) // 2), DAMAGED),
    "a hole in its list of names": (lambda b: b[:-400] + bytes(300) + b[-100:], DAMAGED),
    "noise": (lambda b: np.random.default_rng(0).bytes(5000), DAMAGED),
    "a text": (lambda b: b"epoch 3, loss .5\n", DAMAGED),
    "JSON": (lambda b: json.dumps({"state_dict": {}}).encode(), DAMAGED),
    "YAML": (lambda b: b"model: Base\nepoch: 3\n", DAMAGED),
    "a picture": (lambda b: b"\x89PNG\r\n\x1a\n" + bytes(64), DAMAGED),
    "HTML": (lambda b: b"<!DOCTYPE html><html>404</html>", DAMAGED),
    "a pointer of Git LFS": (
        lambda b: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
        DAMAGED,
    ),
    "compressed": (gzip.compress, DAMAGED),
    "an empty archive": (lambda b: _zip_of({}), ""),
    "an archive of something": (lambda b: _zip_of({"a.txt": b"a"}), DAMAGED),
    "arrays": (lambda b: _npz(), DAMAGED),
    "an archive with a torn pickle": (
        lambda b: _zip_of({"m/data.pkl": b"\x80\x02}q\x00(X", "m/version": b"3\n"}),
        "",
    ),
    "a pickle of plain values": (lambda b: pickle.dumps({"a": 1}), ""),
    "a pickle of a class": (lambda b: pickle.dumps(Path("x")), "trust_pickle=True"),
    "an empty pickle": (lambda b: b"\x80\x04.", ""),
    "a pickle that pops nothing": (lambda b: b"\x80\x020000.", ""),
    "a pickle that reads no memo": (lambda b: b"\x80\x02h\x07.", ""),
    "a pickle of protocol 9": (lambda b: b"\x80\x09}.", ""),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    make, line = FILES[name]
    path = save(tmp_path / "m.pth")
    path.write_bytes(make(path.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    text = str(caught.value)
    assert text.startswith(f"checkpoint {path}: ")
    assert line in text
    assert "\n" not in text


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"missing\.pth: no such file"):
        checkpoint.load(tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match="expected a file, got a folder"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_eight_flipped_bits_are_seen(tmp_path: Path, seed: int) -> None:
    """Wherever they are: also in the values of a tensor, which torch would take as they come."""
    path = save(tmp_path / "m.pth")
    whole = bytearray(path.read_bytes())
    draw = np.random.default_rng(seed)
    with zipfile.ZipFile(path) as archive:
        found = archive.getinfo(
            f"archive/{('data.pkl', 'data/0', 'data/1', 'byteorder')[seed % 4]}"
        )
    at = found.header_offset
    name, extra = struct.unpack("<HH", whole[at + 26 : at + 30])
    start = at + 30 + name + extra
    for place in {int(i) for i in draw.integers(start, start + found.file_size, 8)}:
        whole[place] ^= 1 << int(draw.integers(8))
    path.write_bytes(whole)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


ENTRIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a list": (lambda payload: [1, 2], "not a checkpoint (no state_dict)"),
    "a number": (lambda payload: 3, "not a checkpoint (no state_dict)"),
    "a tensor": (lambda payload: torch.ones(3), "not a checkpoint (no state_dict)"),
    "weights alone": (lambda payload: payload["state_dict"], "not a checkpoint (no state_dict)"),
    "no format": (without("format"), "not a checkpoint of recbole-choir (no format)"),
    "another format": (entry("format", "other"), "not a checkpoint of recbole-choir (no format)"),
    "version 2": (entry("format_version", 2), "expected format version 1, got 2"),
    "version as text": (entry("format_version", "1"), "expected format version 1, got 1"),
    "no version": (without("format_version"), "expected format version 1, got None"),
    **{
        f"no {name}": (without(name), f"incomplete, without {name}")
        for name in (
            *("model", "config", "optimizer", "epoch", "cur_step"),
            *("best_valid_score", "best_valid_result", "rng", "extra"),
        )
    },
    "no weights": (without("state_dict"), "not a checkpoint (no state_dict)"),
    "epoch -7": (entry("epoch", -7), "expected epoch as a whole number from -1, got -7"),
    "epoch as text": (entry("epoch", "3"), "expected epoch as a whole number from -1, got '3'"),
    "epoch 1.5": (entry("epoch", 1.5), "expected epoch as a whole number from -1, got 1.5"),
    "epoch true": (entry("epoch", True), "expected epoch as a whole number from -1, got True"),
    "epoch none": (entry("epoch", None), "expected epoch as a whole number from -1, got NoneType"),
    "cur_step -1": (entry("cur_step", -1), "expected cur_step as a whole number from 0, got -1"),
    "cur_step list": (entry("cur_step", [1]), "expected cur_step as a whole number from 0, got l"),
    "score nan": (
        entry("best_valid_score", float("nan")),
        "expected best_valid_score as a finite number, got nan",
    ),
    "score infinite": (
        entry("best_valid_score", float("inf")),
        "expected best_valid_score as a finite number, got inf",
    ),
    "score as text": (
        entry("best_valid_score", "high"),
        "expected best_valid_score as a finite number, got 'high'",
    ),
    "result as list": (
        entry("best_valid_result", [0.7]),
        "expected best_valid_result as numbers by name, got list",
    ),
    "model as number": (entry("model", 3), "expected model as a name, got 3"),
    "weights as list": (
        entry("state_dict", [torch.ones(2)]),
        "expected state_dict as tensors by name, got list",
    ),
    "weights that are numbers": (
        entry("state_dict", {"w": 1.0}),
        "expected state_dict as tensors by name, got dict",
    ),
    "weights without names": (
        entry("state_dict", {3: torch.ones(2)}),
        "expected state_dict as tensors by name, got dict",
    ),
    "config as text": (entry("config", "seed: 7"), "expected config as settings by name, got 'se"),
    "optimizer as list": (
        entry("optimizer", []),
        "expected optimizer as the optimiser's state, got list",
    ),
    "rng as text": (
        entry("rng", "abc"),
        "expected rng as states of random generators, got 'abc'",
    ),
    "extra as none": (entry("extra", None), "expected extra as values by name, got NoneType"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_entries_that_are_not_what_they_should_be(tmp_path: Path, name: str) -> None:
    change, line = ENTRIES[name]
    path = tmp_path / "m.pth"
    raw(path, change)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert line in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- of another run --------------------------------------------------------------------------

OTHER: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 8}, "seed 7 there and 8 here"),
    "rate": ({"learning_rate": 0.02}, "learning_rate 0.01 there and 0.02 here"),
    "learner": ({"learner": "adagrad"}, "learner 'adam' there and 'adagrad' here"),
    "batch": ({"train_batch_size": 32}, "train_batch_size 64 there and 32 here"),
    "size": ({"embedding_size": 16}, "embedding_size 8 there and 16 here"),
    "dropout": ({"dropout_prob": 0.2}, "dropout_prob 0.1 there and 0.2 here"),
    "layers": ({"mlp_hidden_size": [16]}, "mlp_hidden_size [16, 8] there and [16] here"),
    "model": ({"model": "POSO"}, "model 'Base' there and 'POSO' here"),
    "dataset": ({"dataset": "large"}, "dataset 'small' there and 'large' here"),
    "metric": ({"valid_metric": "AUC"}, "valid_metric 'GAUC' there and 'AUC' here"),
    "split": ({"eval_args": {"order": "RO"}}, "eval_args {'order': 'TO'"),
    "label": ({"threshold": {"rating": 3}}, "threshold {'rating': 4} there and {'rating': 3} here"),
    "slice": (
        {"val_interval": {"timestamp": "(-inf,9)"}},
        "val_interval None there and {'timestamp': '(-inf,9)'} here",
    ),
    "decay": ({"weight_decay": 0.1}, "weight_decay 0.0 there and 0.1 here"),
    "epochs of a schedule": (
        {"epochs": 8},
        "epochs 4 there and 8 here, over which lr_schedule 'linear' spreads the learning rate",
    ),
    "two at once": (
        {"seed": 8, "learning_rate": 0.02},
        "learning_rate 0.01 there and 0.02 here; seed 7 there and 8 here",
    ),
    "fewer epochs than trained": (
        {"epochs": 1, "lr_schedule": "constant"},
        "2 epochs trained there and epochs 1 here",
    ),
}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> checkpoint.Checkpoint:
    return checkpoint.load(save(tmp_path_factory.mktemp("saved") / "m.pth"))


@pytest.mark.parametrize("name", OTHER)
def test_another_run_is_refused_with_both_sides(state: checkpoint.Checkpoint, name: str) -> None:
    changes, line = OTHER[name]
    with pytest.raises(CheckpointError) as caught:
        same_run("m.pth", state, {**SETTINGS, **changes}, ROWS)
    text = str(caught.value)
    assert text.startswith("m.pth: expected a checkpoint of this run, got ")
    assert line in text


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_other_rows_are_refused(state: checkpoint.Checkpoint, part: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        same_run("m.pth", state, SETTINGS, {**ROWS, part: "190:dddd"})
    assert f"got {part} rows {ROWS[part]} there and 190:dddd here" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"record_dir": "elsewhere", "data_path": "moved", "nproc": 2},
        {"a_key_of_a_later_version": 3},
    ],
    ids=["nothing", "where it runs", "a later version"],
)
def test_what_may_change(state: checkpoint.Checkpoint, changes: dict[str, Any]) -> None:
    same_run("m.pth", state, {**SETTINGS, **changes}, ROWS)
    same_run("m.pth", state, {**SETTINGS, **changes}, None)


def test_more_epochs_at_a_constant_rate(tmp_path: Path) -> None:
    path = save(tmp_path / "m.pth", config={**SETTINGS, "lr_schedule": "constant"})
    later = {**SETTINGS, "lr_schedule": "constant", "epochs": 9}
    same_run(path, checkpoint.load(path), later, ROWS)
