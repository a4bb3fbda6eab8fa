"""What the tests of several processes run: ``python two_processes.py CASES NPROC FOLDER``.

A program of its own, so that the spawned processes can import its functions.
"""

from __future__ import annotations

import json
import os
import sys
from multiprocessing import util
from pathlib import Path

import torch
from tiny import TinyConfig, TinyLoader, TinyModel, tiny_rows

from recbole_choir.errors import ChoirError, DataError
from recbole_choir.integration import distributed
from recbole_choir.integration.trainer import ChoirTrainer


def _trainer(folder, **kwargs):
    torch.manual_seed(0)
    settings = {"learner": "sgd", "learning_rate": 0.5, "epochs": 3, "metric_decimal_place": 15}
    config = TinyConfig(checkpoint_dir=str(Path(folder) / "saved"), **settings)
    return ChoirTrainer(config, TinyModel(**kwargs))


def evaluate(folder, exact=True):
    """Metrics and predictions of the same weights; 61 rows, so that the shares are unequal."""
    trainer = _trainer(folder, exact=exact)
    loader = TinyLoader(tiny_rows(61, seed=1), batch_size=16)
    result = trainer.evaluate(loader, load_best_model=False)
    return {
        "metrics": dict(result),
        "scores": trainer.predictions.scores.tolist(),
        "users": trainer.predictions.users.tolist(),
    }


def rounded(folder):
    """The same with a model whose scores may differ in the last bit."""
    return evaluate(folder, exact=False)


def few_rows(folder):
    """Fewer rows than processes: the last has none, and all get the whole set."""
    trainer = _trainer(folder, exact=True)
    result = trainer.evaluate(TinyLoader(tiny_rows(2, seed=2), batch_size=16), False)
    return {"logloss": result["logloss"], "scores": trainer.predictions.scores.tolist()}


def fit(folder):
    """Weights after training; 96 rows, so that every step has the same rows however shared."""
    trainer = _trainer(folder, parts=2)
    train = TinyLoader(tiny_rows(96, seed=0), batch_size=16, shuffle=True)
    valid = TinyLoader(tiny_rows(61, seed=1), batch_size=16)
    trainer.fit(train, valid, verbose=False)
    return {
        "weights": {k: v.tolist() for k, v in trainer.model.state_dict().items()},
        "loss": [entry["train_loss"] for entry in trainer.history],
        "metrics": dict(trainer.evaluate(valid)),
        "file": trainer.saved_model_file,
        "diagnostics": trainer.history[-1]["diagnostics"],
        "threads": torch.get_num_threads(),
    }


def batch_norm(folder):
    """Scores of a model with running statistics, after its ranks have seen different rows."""
    trainer = _trainer(folder, batch_norm=True)
    trainer.fit(TinyLoader(tiny_rows(96, seed=0), batch_size=16, shuffle=True), verbose=False)
    loader = TinyLoader(tiny_rows(61, seed=1), batch_size=16)
    live = trainer.predict(loader).scores.tolist()
    trainer.evaluate(loader)
    norm = trainer.model.norm
    return {
        "live": live,
        "saved": trainer.predictions.scores.tolist(),
        "statistics": [norm.running_mean.tolist(), norm.running_var.tolist()],
    }


def mid_epoch(folder):
    """Running statistics after training without and with validations in mid-epoch."""
    ends = []
    for eval_step in (1, 0.5):
        trainer = _trainer(folder, batch_norm=True)
        trainer.eval_step = eval_step
        train = TinyLoader(tiny_rows(96, seed=0), batch_size=16, shuffle=True)
        trainer.fit(train, TinyLoader(tiny_rows(61, seed=1), batch_size=16), verbose=False)
        state = {k: v.tolist() for k, v in trainer.model.state_dict().items()}
        ends.append({"state": state, "validations": [v["valid"] for v in trainer.validations]})
    return ends


def gather(folder):
    """Rows of unequal length, in order of rank and in order of the set."""
    r, w = distributed.rank(), distributed.world_size()
    rows = torch.arange(10, 17).reshape(-1, 1) * torch.tensor([1, 10])
    return {
        "rows": distributed.all_gather_rows(torch.full((r + 1, 2), r)).tolist(),
        "none": distributed.all_gather_rows(torch.zeros(0)).tolist(),
        "in_order": distributed.all_gather_in_order(rows[r::w]).tolist(),
        "sum": distributed.all_reduce_sum(torch.tensor([1.5, r])).tolist(),
        "rank": r,
    }


def bad_shares(folder):
    """Rank 0 has too few rows for the sharding."""
    rows = torch.arange(2 if distributed.rank() == 0 else 5)
    return distributed.all_gather_in_order(rows).tolist()


def failing(folder):
    """Rank 1 fails while the others wait for it."""
    if distributed.rank() == 1:
        raise DataError("column 'age': expected a number, got 'old'")
    distributed.barrier()
    return {}


def unequal_steps(folder):
    """Rank 0 has one step more: refused instead of waiting for ever."""
    trainer = _trainer(folder)
    trainer.fit(TinyLoader(tiny_rows(33, seed=0), batch_size=32, shuffle=True), saved=False)
    return {}


def nan_on_one_rank(folder):
    """Rank 1 meets a NaN: all ranks stop with the same message."""
    trainer = _trainer(folder, nan_at=2 if distributed.rank() == 1 else None)
    trainer.fit(TinyLoader(tiny_rows(96, seed=0), batch_size=16, shuffle=True), saved=False)
    return {}


def aborted_late(folder):
    """Rank 1 is aborted when all its work is done, as gloo may do while connections close."""
    if distributed.rank() == 1:
        util.Finalize(None, os.abort, exitpriority=0)
    return {"rank": distributed.rank()}


def run_cases(names, folder):
    """Each case after the other; a refusal is kept as its message."""
    outcomes = {}
    for name in names:
        try:
            outcomes[name] = globals()[name](folder)
        except ChoirError as error:
            outcomes[name] = {"refused": str(error)}
    return outcomes


if __name__ == "__main__":
    cases, nproc, folder = sys.argv[1].split(","), int(sys.argv[2]), sys.argv[3]
    try:
        if cases == ["failing"]:
            outcome = distributed.spawn(failing, nproc, (folder,), use_gpu=False)
        else:
            outcome = distributed.spawn(run_cases, nproc, (cases, folder), use_gpu=False)
    except ChoirError as error:
        outcome = {"error": str(error)}
    Path(folder, "outcome.json").write_text(json.dumps(outcome))
