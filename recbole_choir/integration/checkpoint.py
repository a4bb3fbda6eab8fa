"""Checkpoints that hold tensors and plain values only, so that loading one runs no code.

RecBole pickles its ``Config`` object into every checkpoint, and such a file can only be read by
executing what is in it. The form here is ``torch.save`` of a dict of tensors and plain values,
which ``torch.load(weights_only=True)`` reads. It is written under another name and renamed when
whole: a killed run or a full disk leaves the older file.
"""

from __future__ import annotations

import math
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Final

import numpy as np
import torch

from recbole_choir.errors import CheckpointError
from recbole_choir.files import whole_file

FORMAT = "recbole-choir-checkpoint"
FORMAT_VERSION = 1


@dataclass
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        model: Name of the model.
        state_dict: The model's tensors.
        config: ``ChoirConfig.plain()`` of the run.
        optimizer: The optimiser's state, or None.
        epoch: Last finished epoch, from 0.
        cur_step: Evaluations since the best one (early stopping).
        best_valid_score: Best validation score so far, or None.
        best_valid_result: Metrics of that evaluation.
        rng: States of the random generators, see :func:`rng_state`; empty if not saved.
        extra: Anything else that is tensors and plain values (a model's ``other_parameter``,
            a learning-rate schedule's state).
    """

    model: str
    state_dict: dict[str, torch.Tensor]
    config: dict[str, Any]
    optimizer: dict[str, Any] | None = None
    epoch: int = 0
    cur_step: int = 0
    best_valid_score: float | None = None
    best_valid_result: dict[str, float] | None = None
    rng: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def rng_state() -> dict[str, Any]:
    """States of Python's, numpy's and torch's random generators, as tensors and plain values."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    state: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what :func:`rng_state` returned; GPUs that are not there are left out."""
    if "python" in state:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
    if "numpy" in state:
        name, keys, position, has_gauss, cached = state["numpy"]
        words = keys.cpu().numpy().astype(np.uint32)
        np.random.set_state((name, words, position, has_gauss, cached))  # noqa: NPY002
    if "torch" in state:
        torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available():
        for device, tensor in enumerate(state.get("cuda", ())):
            if device < torch.cuda.device_count():
                torch.cuda.set_rng_state(tensor.cpu(), device)


def _plain(value: Any, where: str) -> Any:
    """Bring ``value`` into what ``weights_only`` reads back, or say which entry cannot be."""
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str, torch.Tensor)):
        # A Parameter would come back as one; a checkpoint is about values.
        return value.detach() if isinstance(value, torch.Tensor) else value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Mapping):
        return {k: _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise CheckpointError(
        f"{where}: expected tensors and plain values in a checkpoint, got {type(value).__name__}"
    )


def save(
    path: str | Path,
    *,
    model: str,
    state_dict: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    optimizer: Mapping[str, Any] | None = None,
    epoch: int = 0,
    cur_step: int = 0,
    best_valid_score: float | None = None,
    best_valid_result: Mapping[str, float] | None = None,
    rng: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint as a whole or not at all.

    Args:
        path: The file; its folder is made if missing.
        model: Name of the model.
        state_dict: ``model.state_dict()``.
        config: ``ChoirConfig.plain()``.
        optimizer: ``optimizer.state_dict()``, to resume training.
        epoch: Last finished epoch.
        cur_step: Evaluations since the best one.
        best_valid_score: Best validation score so far.
        best_valid_result: Metrics of that evaluation.
        rng: :func:`rng_state`, to resume with the same bits.
        extra: Anything else that is tensors and plain values.

    Returns:
        ``path``.

    Raises:
        CheckpointError: A value is neither a tensor nor plain, or the file cannot be written (the
            older file is then untouched).
    """
    path = Path(path)
    payload = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": str(model),
        "state_dict": _plain(state_dict, "state_dict"),
        "config": _plain(config, "config"),
        "optimizer": _plain(optimizer, "optimizer"),
        "epoch": int(epoch),
        "cur_step": int(cur_step),
        "best_valid_score": None if best_valid_score is None else float(best_valid_score),
        "best_valid_result": _plain(best_valid_result, "best_valid_result"),
        "rng": _plain(rng or {}, "rng"),
        "extra": _plain(extra or {}, "extra"),
    }
    try:
        with whole_file(path, durable=True) as temporary, temporary.open("wb") as file:
            torch.save(payload, file)
    # torch's zip writer turns a failed write (a full disk) into a RuntimeError.
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"checkpoint {path}: cannot be written ({_one_line(error)}); "
            "an older file of that name is unchanged"
        ) from error
    return path


def load(
    path: str | Path,
    map_location: str | torch.device | None = "cpu",
    trust_pickle: bool = False,
    expect_model: str | None = None,
) -> Checkpoint:
    """Read a checkpoint without running anything that is in it.

    Args:
        path: The file.
        map_location: Device of the tensors, as in ``torch.load``.
        trust_pickle: Read a file that holds Python objects, RecBole's own ``.pth`` for one. That
            EXECUTES whatever its author put there: only for files you made yourself.
        expect_model: Refuse the checkpoint of another model.

    Returns:
        The checkpoint; one of RecBole's is brought into the same form.

    Raises:
        CheckpointError: The file is missing, truncated, of another format or model, or holds
            Python objects and ``trust_pickle`` is false.
    """
    path = Path(path)
    if not path.is_file():
        what = "expected a file, got a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"checkpoint {path}: {what}")
    try:
        _check_sums(path)
        payload = torch.load(path, map_location=map_location, weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        if trust_pickle or not _is_whole(path):
            raise CheckpointError(f"checkpoint {path}: damaged or not a checkpoint") from error
        raise CheckpointError(
            f"checkpoint {path}: holds Python objects, and loading them would run whatever code "
            "is in the file; if you trust its author, pass trust_pickle=True (--trust_pickle=True)"
        ) from error
    except (
        *(OSError, RuntimeError, EOFError, ValueError, LookupError, AssertionError),
        *(OverflowError, MemoryError, struct.error, zlib.error, zipfile.BadZipFile),
    ) as error:
        raise CheckpointError(
            f"checkpoint {path}: damaged or not a checkpoint ({_one_line(error)})"
        ) from error
    except (ImportError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"checkpoint {path}: its Python objects cannot be rebuilt ({_one_line(error)})"
        ) from error
    checkpoint = _from_payload(path, payload, trust_pickle)
    if expect_model is not None and checkpoint.model != expect_model:
        raise CheckpointError(
            f"checkpoint {path}: expected one of model {expect_model}, got {checkpoint.model}"
        )
    return checkpoint


def _check_sums(path: Path) -> None:
    """Compare an archive with its checksums, which torch writes and does not read.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: It is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f"{bad} is not what was written")


def _from_payload(path: Path, payload: Any, trust_pickle: bool) -> Checkpoint:
    if not isinstance(payload, dict) or "state_dict" not in payload:
        raise CheckpointError(f"checkpoint {path}: not a checkpoint (no state_dict)")
    if payload.get("format") == FORMAT:
        version = payload.get("format_version")
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint {path}: expected format version {FORMAT_VERSION}, got {version}"
            )
        names = Checkpoint.__dataclass_fields__
        lacking = [name for name in names if name not in payload]
        if lacking:
            raise CheckpointError(f"checkpoint {path}: incomplete, without {', '.join(lacking)}")
        return _checked(path, Checkpoint(**{name: payload[name] for name in names}))
    if not trust_pickle:
        raise CheckpointError(f"checkpoint {path}: not a checkpoint of recbole-choir (no format)")
    return _checked(path, _from_recbole(payload))


#: What the entries of a checkpoint are; None is allowed where ``None`` stands.
_KINDS: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "model": ((str,), "a name"),
    "state_dict": ((dict,), "tensors by name"),
    "config": ((dict,), "settings by name"),
    "optimizer": ((dict, NoneType), "the optimiser's state"),
    "epoch": ((int,), "a whole number from -1"),
    "cur_step": ((int,), "a whole number from 0"),
    "best_valid_score": ((float, int, NoneType), "a finite number"),
    "best_valid_result": ((dict, NoneType), "numbers by name"),
    "rng": ((dict,), "states of random generators"),
    "extra": ((dict,), "values by name"),
}


def _checked(path: Path, found: Checkpoint) -> Checkpoint:
    """The checkpoint, if every entry is what it should be.

    Raises:
        CheckpointError: An entry is of another type or out of range.
    """

    def fault(name: str) -> CheckpointError:
        value = getattr(found, name)
        got = repr(value) if isinstance(value, (int, float, str)) else type(value).__name__
        return CheckpointError(
            f"checkpoint {path}: expected {name} as {_KINDS[name][1]}, got {got[:80]}"
        )

    for name, (kinds, _) in _KINDS.items():
        value = getattr(found, name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise fault(name)
    if not all(
        isinstance(name, str) and (torch.is_tensor(value) or name.endswith("_extra_state"))
        for name, value in found.state_dict.items()
    ):
        raise fault("state_dict")
    # -1 is what a run of no epochs leaves
    for name, least in (("epoch", -1), ("cur_step", 0)):
        if getattr(found, name) < least:
            raise fault(name)
    score = found.best_valid_score
    if score is not None and not math.isfinite(score):
        raise fault("best_valid_score")
    return found


def _from_recbole(payload: dict[str, Any]) -> Checkpoint:
    """RecBole's own checkpoint, whose config is an object."""
    config = payload.get("config")
    values = getattr(config, "final_config_dict", config)
    values = dict(values) if isinstance(values, Mapping) else {}
    # objects of RecBole's compare with nothing
    plain = (bool, int, float, str, list, NoneType)
    values = {name: value for name, value in values.items() if isinstance(value, plain)}
    score = payload.get("best_valid_score")
    other = payload.get("other_parameter")
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        score = None
    return Checkpoint(
        model=str(values.get("model", "")),
        state_dict=payload["state_dict"],
        config=values,
        optimizer=payload.get("optimizer"),
        epoch=payload.get("epoch", 0),
        cur_step=payload.get("cur_step", 0),
        best_valid_score=score,
        extra={} if other is None else {"other_parameter": other},
    )


def _is_whole(path: Path) -> bool:
    """Whether the file is a complete archive or an old-style pickle, rather than debris."""
    if zipfile.is_zipfile(path):
        return True
    with open(path, "rb") as file:
        return file.read(1) == pickle.PROTO and path.stat().st_size > 2


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
