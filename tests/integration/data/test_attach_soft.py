"""Soft groups joined to a dataset: no leak all the way to the batch, roles, injection, errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from recbole.utils import get_model

from recbole_choir.errors import ConfigError, TableError
from recbole_choir.integration.dataloader import data_preparation
from recbole_choir.integration.dataset import ChoirDataset, create_dataset

Row = tuple[str, str, float, float]
START = 1_600_000_000.0


@pytest.fixture
def write_soft(write_table: Callable[..., Path]) -> Callable[..., Path]:
    """The table of ``write_table`` with neighbours and vectors for own scores."""

    def write(fractions: tuple[float, ...] = (0.2, 0.6)) -> Path:
        folder = write_table(fractions)
        rng = np.random.default_rng(0)
        numbers = range(1, len(fractions) + 1)
        known = [f"u{k}" for k in range(1, 9)]
        pairs = [(s, u, v) for s in numbers for u in known for v in known if u != v]
        soft = {
            "snapshot": pa.array([p[0] for p in pairs], pa.int32()),
            "user_id": pa.array([p[1] for p in pairs]).dictionary_encode(),
            "member": pa.array([p[2] for p in pairs]).dictionary_encode(),
            "weight": pa.array(rng.random(len(pairs)).astype(np.float32)),
        }
        pq.write_table(pa.table(soft), folder / "soft.parquet")
        ids = [("user", u) for u in known] + [("item", f"i{k}") for k in range(1, 8)]
        rows = [(s, side, i) for s in numbers for side, i in ids]
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(rng.standard_normal(2 * len(rows)).astype(np.float32)), 2
        )
        own = {
            "snapshot": pa.array([r[0] for r in rows], pa.int32()),
            "space": pa.array(["items"] * len(rows)),
            "side": pa.array([r[1] for r in rows]),
            "id": pa.array([r[2] for r in rows]),
            "vector": vectors,
        }
        pq.write_table(pa.table(own), folder / "soft_vectors.parquet")
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["soft"] = {"kind": "neighbours"}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return write


def attached(config: Any, table: Path) -> ChoirDataset:
    dataset = create_dataset(config)
    dataset.build()
    dataset.attach_semantic_table(table)
    return dataset


BOTH = {"use_lifts": True, "use_own_scores": True}


@pytest.fixture
def lifts_of(
    make_config: Callable[..., Any],
    write_toy: Callable[..., None],
    write_soft: Callable[..., Path],
) -> Callable[..., dict[Row, list[Any]]]:
    """Raw lifts and own scores in the batches of every row; parts are files of their own."""

    def build(rows: list[Row], **values: Any) -> dict[Any, list[Any]]:
        bounds = (START + 30 * 170, START + 30 * 205)
        for name, part in zip("abc", range(3)):
            of_part = [r for r in rows if np.searchsorted(bounds, r[3], "right") == part]
            write_toy(of_part, name)
        config = make_config(
            benchmark_filename=["a", "b", "c"], shuffle=False, lift_prior=5.0, **BOTH, **values
        )
        dataset = attached(config, write_soft())
        users, items = (dataset.field2id_token[f] for f in ("user_id", "item_id"))
        out: dict[Any, list[Any]] = {}
        for part, loader in enumerate(data_preparation(config, dataset)):
            events = dataset.row_inputs.events.take(dataset.row_inputs.parts[part])
            at = 0
            for batch in loader:
                batch = batch[0] if isinstance(batch, tuple) else batch
                read = torch.cat([batch["lifts"], batch["own_scores"]], dim=1)
                for k in range(len(batch)):
                    key = (
                        part,
                        users[batch["user_id"][k]],
                        items[batch["item_id"][k]],
                        float(events.time[at]),
                    )
                    out.setdefault(key, []).append(read[k].tolist())
                    at += 1
        return out

    return build


def test_stats_clip_leaves_lifts_and_own_scores_alone(
    lifts_of: Callable[..., dict[Row, list[Any]]], rows_of_toy: list[Row]
) -> None:
    """They have a clip of their own, 6."""
    whole = lifts_of(rows_of_toy)
    assert lifts_of(rows_of_toy, stats_clip=0.1) == whole
    assert max(abs(v) for rows in whole.values() for row in rows for v in row) > 1


def test_shuffled_labels_of_held_out_rows_change_nothing(
    lifts_of: Callable[..., Any], rows_of_toy: list[Row]
) -> None:
    first_held_out = START + 30 * 170
    held = [k for k, r in enumerate(rows_of_toy) if r[3] >= first_held_out]
    ratings = np.random.default_rng(0).permutation([rows_of_toy[k][2] for k in held])
    shuffled = list(rows_of_toy)
    for k, rating in zip(held, ratings):
        shuffled[k] = (*rows_of_toy[k][:2], float(rating), rows_of_toy[k][3])
    assert shuffled != rows_of_toy
    assert lifts_of(shuffled) == lifts_of(rows_of_toy)
    # Counted up to the row, they may change what comes later, and nothing else.
    renewed = lifts_of(rows_of_toy, lift_refresh_days=60 / 86_400)
    assert lifts_of(shuffled, lift_refresh_days=60 / 86_400) != renewed


@pytest.mark.parametrize("refresh", [None, 60 / 86_400])
def test_deleting_held_out_rows_changes_nothing_before(
    lifts_of: Callable[..., Any], rows_of_toy: list[Row], refresh: float | None
) -> None:
    whole = lifts_of(rows_of_toy, lift_refresh_days=refresh)
    times = sorted({k[3] for k in whole if k[0] == 2})
    for time in times[2:-8:12]:
        kept = lifts_of([r for r in rows_of_toy if r[3] <= time], lift_refresh_days=refresh)
        assert kept == {k: v for k, v in whole.items() if k[3] <= time}
        without = lifts_of([r for r in rows_of_toy if r[3] != time], lift_refresh_days=refresh)
        assert {k: v for k, v in without.items() if k[3] < time} == {
            k: v for k, v in whole.items() if k[3] < time
        }


def test_names_and_values_reach_the_models_inputs(
    make_config: Callable[..., Any], write_soft: Callable[..., Path]
) -> None:
    dataset = attached(make_config(**BOTH), write_soft())
    schema, columns = dataset.model_inputs.schema, dataset.row_inputs.columns
    assert schema.lift_names == ("lift_item", "lift_genre", "lift_mass")
    assert schema.own_score_names == ("own_score_items",)
    assert columns["lifts"].dtype == np.float32
    train = dataset.row_inputs.parts[0]
    some = columns["snapshot"][train] > 0
    np.testing.assert_allclose(columns["lifts"][train][some, 0].mean(), 0.0, atol=1e-5)
    np.testing.assert_allclose(columns["lifts"][train][some, 0].std(), 1.0, atol=1e-4)
    nothing = columns["lifts"][columns["snapshot"] == 0]
    assert not nothing[:, :2].any()
    assert len(np.unique(nothing[:, 2])) == 1
    assert (nothing[0, 2] <= columns["lifts"][:, 2]).all(), "no mass at all"
    plain = attached(make_config(**BOTH, lift_mass=False), write_soft())
    assert plain.model_inputs.schema.lift_names == ("lift_item", "lift_genre")
    assert np.array_equal(plain.row_inputs.columns["lifts"], columns["lifts"][:, :2])
    assert np.abs(columns["lifts"]).max() <= 6.0


def test_a_user_first_seen_later_is_as_the_population(
    make_config: Callable[..., Any], write_soft: Callable[..., Path]
) -> None:
    dataset = attached(make_config(**BOTH), write_soft())
    rows, users = dataset.row_inputs, dataset.field2token_id["user_id"]
    new = rows.events.user == users["u9"]
    late = new & (rows.columns["snapshot"] == 2)
    assert late.any()
    assert not rows.columns["own_scores"][late].any()
    lifts = rows.columns["lifts"][late, 0]  # one raw value, 0, for whatever item
    assert np.ptp(lifts) == 0
    mass = rows.columns["lifts"][:, 2]
    assert (mass[late] == mass.min()).all(), "and it shows that nothing lies behind it"
    assert (mass[rows.columns["snapshot"] > 0] > mass.min()).any()


def test_other_fields_by_name(
    make_config: Callable[..., Any], write_soft: Callable[..., Path]
) -> None:
    dataset = attached(make_config(lift_fields=["maker", "genre"], use_lifts=True), write_soft())
    names = dataset.model_inputs.schema.lift_names
    assert names == ("lift_item", "lift_maker", "lift_genre", "lift_mass")
    with pytest.raises(ConfigError, match=r"lift_fields: 'makr' is not loaded.*'maker'"):
        create_dataset(make_config(lift_fields=["makr"], use_lifts=True))


def test_lifts_only_where_they_are_asked_for(
    make_config: Callable[..., Any], write_soft: Callable[..., Path]
) -> None:
    dataset = attached(make_config(), write_soft())
    assert not {"lifts", "own_scores"} & set(dataset.row_inputs.columns)
    assert not create_dataset(make_config()).needs_soft_groups()
    assert create_dataset(make_config("ChoirRec", variant="soft")).needs_soft_groups()
    assert not create_dataset(make_config("ChoirRec")).needs_soft_groups()


def test_injected_into_recboles_own_model(
    make_config: Callable[..., Any], write_soft: Callable[..., Path]
) -> None:
    config = make_config("DeepFM", inject=["lifts", "own_scores"], shuffle=False)
    dataset = attached(config, write_soft())
    train, _, _ = data_preparation(config, dataset)
    batch = next(iter(train))
    rows = dataset.row_inputs
    value = batch["lifts_lift_genre"][:, 0]
    assert torch.equal(value, torch.from_numpy(rows.columns["lifts"][rows.parts[0][:32], 1]))
    loss = get_model("DeepFM")(config, train.dataset).calculate_loss(batch)
    assert torch.isfinite(loss)


def test_a_table_without_soft_groups_is_refused(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    with pytest.raises(TableError, match=r"expected soft groups \(semantic_recipe: soft makes"):
        attached(make_config("ChoirRec", variant="soft"), write_table())
