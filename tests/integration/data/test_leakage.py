"""No label and no later row reaches what a model reads of a row, all the way to the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_choir.integration.dataloader import data_preparation
from recbole_choir.integration.dataset import create_dataset

Row = tuple[str, str, float, float]
Inputs = dict[tuple[Any, ...], list[Any]]
Build = Callable[[list[Row]], Inputs]


@pytest.fixture
def inputs_of(
    make_config: Callable[..., Any],
    write_toy: Callable[..., None],
    write_table: Callable[..., Path],
) -> Build:
    """Everything in the batches of every row, in raw ids, by (part, user, item, time).

    The parts are files of their own, so that deleting rows moves no cut.
    """

    def build(rows: list[Row], model: str = "Base", **values: Any) -> Inputs:
        stamps = sorted({r[3] for r in rows})
        bounds = (1_600_000_000.0 + 30 * 170, 1_600_000_000.0 + 30 * 205)
        assert stamps[0] < bounds[0]
        for name, part in zip("abc", range(3)):
            of_part = [r for r in rows if np.searchsorted(bounds, r[3], "right") == part]
            write_toy(of_part, name)
        values = {"labelled_history": True, "group_stats": True, **values}
        config = make_config(model, benchmark_filename=["a", "b", "c"], shuffle=False, **values)
        dataset = create_dataset(config)
        dataset.build()
        dataset.attach_semantic_table(write_table())
        users, items = (dataset.field2id_token[f] for f in ("user_id", "item_id"))
        groups = dataset.model_inputs.groups
        assert groups is not None
        out: Inputs = {}
        for part, loader in enumerate(data_preparation(config, dataset)):
            events = dataset.row_inputs.events.take(dataset.row_inputs.parts[part])
            at = 0
            for batch in loader:
                batch = batch[0] if isinstance(batch, tuple) else batch
                for k in range(len(batch)):
                    read: list[Any] = []
                    for name, column in batch.interaction.items():
                        if name in ("user_id", "item_id", "label"):
                            continue
                        if name in ("hist_items", "labelled_items", "group_seq"):
                            read.append(items[column[k]].tolist())
                        else:
                            read.append(np.asarray(column[k]).tolist())
                    if model == "Base":
                        row = groups.group_of(batch["snapshot"], batch["user_id"])[k]
                        read.append(items[groups.group_seq[row]].tolist())
                        read.append([v[row].item() for v in groups.group_attr.values()])
                    user, item = users[batch["user_id"][k]], items[batch["item_id"][k]]
                    assert user == users[events.user[at]]
                    key = (part, user, item, float(events.time[at]))
                    out.setdefault(key, []).append(read)
                    at += 1
        return {key: sorted(v, key=repr) for key, v in out.items()}

    return build


def _not_later(inputs: Inputs, time: float) -> Inputs:
    return {k: v for k, v in inputs.items() if k[3] <= time}


def test_held_out_labels_reach_nothing_earlier(inputs_of: Build, rows_of_toy: list[Row]) -> None:
    whole = inputs_of(rows_of_toy)
    for time in sorted({k[3] for k in whole if k[0] > 0})[::9]:
        # Flip the labels of the rows at this time, and of everything later.
        flipped = [(u, i, 6 - r if t >= time else r, t) for u, i, r, t in rows_of_toy]
        changed = inputs_of(flipped)
        assert _not_later(changed, time) == _not_later(whole, time)
    assert changed != whole


def test_deleting_held_out_rows_changes_nothing_earlier(
    inputs_of: Build, rows_of_toy: list[Row]
) -> None:
    whole = inputs_of(rows_of_toy)
    times = sorted({k[3] for k in whole if k[0] == 2})
    for time in times[2:-8:6]:
        kept = inputs_of([r for r in rows_of_toy if r[3] <= time])
        assert kept == _not_later(whole, time)
        without = inputs_of([r for r in rows_of_toy if r[3] != time])
        earlier = {k: v for k, v in whole.items() if k[3] < time}
        assert {k: v for k, v in without.items() if k[3] < time} == earlier


def test_shuffled_test_labels_leave_training_and_validation_alone(
    inputs_of: Build, rows_of_toy: list[Row]
) -> None:
    whole = inputs_of(rows_of_toy)
    start = min(k[3] for k in whole if k[0] == 2)
    test = [k for k, r in enumerate(rows_of_toy) if r[3] >= start]
    ratings = np.random.default_rng(0).permutation([rows_of_toy[k][2] for k in test])
    rows = list(rows_of_toy)
    for k, rating in zip(test, ratings):
        rows[k] = (rows[k][0], rows[k][1], float(rating), rows[k][3])
    changed = inputs_of(rows)
    for part in (0, 1):
        assert {k: v for k, v in changed.items() if k[0] == part} == {
            k: v for k, v in whole.items() if k[0] == part
        }


def test_what_is_injected_into_zoo_models_obeys_the_same(
    inputs_of: Callable[..., Inputs], rows_of_toy: list[Row]
) -> None:
    fields = ["group_id", "group_attr", "group_seq", "group_stats", "activity"]
    whole = inputs_of(rows_of_toy, "DeepFM", inject=fields)
    time = sorted({k[3] for k in whole if k[0] == 2})[4]
    flipped = [(u, i, 6 - r if t >= time else r, t) for u, i, r, t in rows_of_toy]
    assert _not_later(inputs_of(flipped, "DeepFM", inject=fields), time) == _not_later(whole, time)


def test_the_snapshot_of_a_row_is_strictly_before_it(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    dataset = create_dataset(make_config())
    dataset.build()
    dataset.attach_semantic_table(write_table())
    rows, groups = dataset.row_inputs, dataset.model_inputs.groups
    assert groups is not None
    snapshot = rows.columns["snapshot"]
    times = torch.cat([torch.tensor([-np.inf]), groups.snapshot_times]).numpy()
    assert (times[snapshot] < rows.events.time).all()
    newer = np.append(times, np.inf)[snapshot + 1]
    assert (newer >= rows.events.time).all()
    assert set(snapshot.tolist()) == {0, 1, 2}
