"""Run one model from raw behaviour to a table of results.

``run`` does in order what a user would: read the configuration, find or convert the dataset, split
it in time, build or reuse the semantic table from the training rows, train, evaluate per segment,
and leave one JSON record. Processes of a multi-process run enter through :func:`_worker`, which
lives in a module that registers the models on import.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from recbole_choir import record as records
from recbole_choir.console import console_report
from recbole_choir.datasets import ensure_atomic_files
from recbole_choir.errors import DataError, Pruned
from recbole_choir.evaluator import Segments
from recbole_choir.evaluator.norms import norms_by_activity
from recbole_choir.files import probe_folder, whole_file
from recbole_choir.integration import (
    ChoirConfig,
    create_dataset,
    create_model,
    data_preparation,
    distributed,
    get_trainer,
    init_logging,
    init_seed,
)
from recbole_choir.integration.part_checks import check_parts
from recbole_choir.integration.predictions import user_vectors
from recbole_choir.integration.warm_start import train_id_vectors, warm_start
from recbole_choir.table_source import ensure_semantic_table

logger = logging.getLogger("recbole_choir")

Callback = Callable[[int, float], None]


def run(
    model: str,
    dataset: str = "ml-100k",
    config_file_list: Sequence[str] | None = None,
    config_dict: dict[str, Any] | None = None,
    cli: dict[str, Any] | None = None,
    callback_fn: Callback | None = None,
) -> dict[str, Any]:
    """Train and evaluate one model and write its record.

    Args:
        model: Name of a model, see ``--list``.
        dataset: Name of a dataset. Defaults to the ml-100k that RecBole's package carries.
        config_file_list: YAML files, later ones win.
        config_dict: Values above the files.
        cli: Already parsed command-line values, above everything else.
        callback_fn: Called with the epoch and the score after each validation. It may raise
            :class:`~recbole_choir.errors.Pruned`: then nothing is tested,
            and the record has the state "pruned" and the validations so far. With several
            processes it must be picklable and is called in each.

    Returns:
        RecBole's own keys (``best_valid_score``, ``valid_score_bigger``, ``best_valid_result``,
        ``test_result``) plus ``record`` (the record) and ``record_path``.

    Raises:
        ChoirError: What a user can put right, in one line.
    """
    arguments: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "config_file_list": list(config_file_list or []),
        "config_dict": dict(config_dict or {}),
        "cli": dict(cli or {}),
    }
    config = ChoirConfig(**arguments)
    for key in ("record_dir", "checkpoint_dir"):
        probe_folder(key, config[key])
    nproc = int(config["nproc"])
    if nproc <= 1:
        return _run(config, callback_fn)
    # The table is built once, here, before the processes start: they only read it.
    init_logging(config)
    ensure_atomic_files(config)
    data = create_dataset(config)
    data.build_splits()
    check_parts(config, data)
    table = ensure_semantic_table(config, data, train_id_vectors)
    if table is not None:
        arguments["cli"]["semantic_table"] = str(table)
    results = distributed.spawn(_worker, nproc, (arguments, callback_fn))
    return results[0]


def _worker(arguments: dict[str, Any], callback_fn: Callback | None) -> dict[str, Any]:
    """One process of a multi-process run; each takes the GPU of its rank where there are GPUs."""
    arguments["cli"]["local_rank"] = distributed.rank()
    return _run(ChoirConfig(**arguments), callback_fn)


def _run(config: ChoirConfig, callback_fn: Callback | None = None) -> dict[str, Any]:
    init_logging(config)
    with logging_redirect_tqdm():  # log lines go above the progress bars, not through them
        return _prepare_train_test(config, callback_fn)


def _prepare_train_test(config: ChoirConfig, callback_fn: Callback | None) -> dict[str, Any]:
    started = time.perf_counter()
    init_seed(config["seed"], config["reproducibility"])
    ensure_atomic_files(config)

    data = create_dataset(config)
    data.build_splits()
    check_parts(config, data)
    table = ensure_semantic_table(config, data, train_id_vectors)
    if table is not None:
        data.attach_semantic_table(table)
    train, valid, test = data_preparation(config, data)
    prepared = time.perf_counter()

    warm = warm_start(config, data, train, valid)
    # Model weights must not depend on how much randomness was drawn before.
    init_seed(config["seed"], config["reproducibility"])
    model = create_model(config, data)
    warmed = None if warm is None else warm.load_into(model)
    trainer = get_trainer(config)(config, model)
    trainer.rows = data.fingerprint()
    if config["resume"]:
        trainer.resume_checkpoint(config["resume"])
    head = {
        "model": config["model"],
        "dataset": config["dataset"],
        "seed": config["seed"],
        "name": config["run_name"] or config["model"],
        "time": records.now(),
        "asked": _asked(config),
    }
    try:
        best_score, best_valid = trainer.fit(
            train,
            valid,
            saved=True,
            show_progress=config["show_progress"],
            callback_fn=callback_fn,
        )
    except Pruned as stop:
        logger.info("%s", stop)
        seconds = {"prepare": prepared - started, "train": time.perf_counter() - prepared}
        return _pruned(config, head, trainer, stop, seconds)
    trained = time.perf_counter()

    test_result = trainer.evaluate(
        test, load_best_model=True, show_progress=config["show_progress"]
    )
    predictions = trainer.predictions
    users, items, labels = data.train_events()
    segments = Segments.fit(
        users,
        items,
        labels,
        n_users=data.user_num,
        n_items=data.item_num,
        low_share=config["low_activity_share"],
        tail_user=config["tail_user"],
        tail_item=config["tail_item"],
    )
    n_buy = data.positives_before("test")
    masks = segments.masks(predictions.users, predictions.items, n_buy)
    report = segments.report(
        predictions.users,
        predictions.items,
        predictions.labels,
        predictions.scores,
        weighting=config["gauc_weighting"],
        n_buy=n_buy,
    )
    vectors = user_vectors(model, data.uid_field)
    user_rows = np.bincount(users, minlength=data.user_num)
    finished = time.perf_counter()

    plain = records.without_machine(config.plain())
    groups = getattr(data.model_inputs, "groups", None)
    content = {
        **head,
        "time": records.now(),
        "config": plain,
        "config_hash": records.config_hash(plain),
        "rows": data.split_sizes(),
        "table": None if table is None else {"fingerprint": getattr(groups, "fingerprint", None)},
        "parameters": _parameter_count(model),
        "warm_start": warmed,
        "notes": list(getattr(model, "notes", ())),
        "best_valid": dict(best_valid or {}),
        "best_epoch": getattr(trainer, "best_epoch", None),
        "test": dict(test_result),
        "segments": report,
        "history": trainer.history,
        "user_norms": None if vectors is None else norms_by_activity(vectors, user_rows),
        "seconds": {
            "prepare": round(prepared - started, 2),
            "train": round(trained - prepared, 2),
            "test": round(finished - trained, 2),
        },
        "versions": records.versions(),
    }
    path = None
    if distributed.rank() == 0:
        path = _record_path(config, content)
        try:
            records.keep_record(path, content)
            if config["save_predictions"]:
                _save_predictions(path.with_suffix(".npz"), predictions, masks)
        except DataError:
            if not config["quiet"]:  # what was computed is shown all the same
                console_report(content, None)
            raise
        if not config["quiet"]:
            console_report(content, path)
    return {
        "best_valid_score": best_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": best_valid,
        "test_result": test_result,
        "record": content,
        "record_path": None if path is None else str(path),
    }


def _save_predictions(path: Path, predictions: Any, masks: dict[str, Any]) -> None:
    """The scores of the test rows next to the record, whole or not at all."""
    try:
        with whole_file(path) as temporary:
            np.savez_compressed(
                temporary,
                scores=predictions.scores.astype(np.float32),
                labels=predictions.labels.astype(np.int8),
                users=predictions.users,
                items=predictions.items,
                segments=np.stack(list(masks.values()), axis=1),
                segment_names=np.array(list(masks)),
            )
    except OSError as error:
        raise DataError(
            f"predictions {path}: cannot be written: {error.strerror or error}; the record is "
            f"whole: {path.with_suffix('.json')}"
        ) from None


def _pruned(
    config: ChoirConfig,
    head: dict[str, Any],
    trainer: Any,
    stop: Pruned,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The record of a run that was stopped: no test, no segments, its validations so far."""
    plain = records.without_machine(config.plain())
    content = {
        **head,
        "config": plain,
        "config_hash": records.config_hash(plain),
        "state": "pruned",
        "reason": str(stop),
        "validations": trainer.validations,
        "history": trainer.history,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "versions": records.versions(),
    }
    path = None
    if distributed.rank() == 0:
        path = _record_path(config, content)
        records.keep_record(path, content)
    return {
        "best_valid_score": trainer.best_valid_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": trainer.best_valid_result,
        "test_result": None,
        "record": content,
        "record_path": None if path is None else str(path),
    }


def _asked(config: ChoirConfig) -> dict[str, Any]:
    """What the user gave beyond model, dataset and seed; a folder on his machine by its name."""
    plain = config.plain()
    given = {key: plain[key] for key in config.external_config_dict if key in plain}
    for key in ("model", "dataset", "seed"):
        given.pop(key, None)
    return records.without_machine(given)


def _parameter_count(model: Any) -> int | None:
    """Trainable and frozen weights of a network; None for a tree model."""
    if not isinstance(model, torch.nn.Module):
        return None
    return sum(p.numel() for p in model.parameters())


def _record_path(config: ChoirConfig, content: dict[str, Any]) -> Path:
    name = records.file_name(str(content["name"]))
    file = f"{config['dataset']}-{name}-{config['seed']}-{content['config_hash']}.json"
    return Path(config["record_dir"]) / file
