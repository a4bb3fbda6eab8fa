"""Item ids, clusters and cross statistics joined to a dataset: no leak, and the right values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_choir.data import fields
from recbole_choir.data.cross_statistics import CLUSTER_COLUMNS
from recbole_choir.errors import ConfigError, TableError
from recbole_choir.evaluator import Segments
from recbole_choir.integration.dataloader import data_preparation
from recbole_choir.integration.dataset import ChoirDataset, create_dataset
from recbole_choir.model.base_recommender import ChoirRecommender

Row = tuple[str, str, float, float]
Inputs = dict[tuple[Any, ...], list[Any]]
Build = Callable[[list[Row]], Inputs]


class ReadsClusters(ChoirRecommender):
    """A model that asks for everything of clusters."""

    @classmethod
    def needs(cls, config: Any) -> frozenset[str]:
        return frozenset({"clusters"})


class ReadsItems(ChoirRecommender):
    """A model that asks for item ids and vectors alone."""

    @classmethod
    def needs(cls, config: Any) -> frozenset[str]:
        return frozenset({"items"})


class ReadsCrossStatistics(ChoirRecommender):
    """A model that asks for the statistics of clusters without the clusters."""

    @classmethod
    def needs(cls, config: Any) -> frozenset[str]:
        return frozenset({"cross_stats"})


def attached(config: Any, table: Path) -> ChoirDataset:
    dataset = create_dataset(config)
    dataset.build()
    dataset.attach_semantic_table(table)
    return dataset


@pytest.fixture
def inputs_of(
    make_config: Callable[..., Any],
    write_toy: Callable[..., None],
    write_item_table: Callable[..., Path],
) -> Build:
    """All that a model with clusters may read of a row, by (part, user, item, time); raw ids.

    The parts are files of their own, so that deleting rows moves no cut. At least two others must
    have chosen an item of a cluster sequence, as by default.
    """

    def build(rows: list[Row], **values: Any) -> Inputs:
        bounds = (1_600_000_000.0 + 30 * 170, 1_600_000_000.0 + 30 * 205)
        for name, part in zip("abc", range(3)):
            of_part = [r for r in rows if np.searchsorted(bounds, r[3], "right") == part]
            write_toy(of_part, name)
        config = make_config(
            ReadsClusters, benchmark_filename=["a", "b", "c"], shuffle=False, **values
        )
        dataset = attached(config, write_item_table())
        users, items = (dataset.field2id_token[f] for f in ("user_id", "item_id"))
        inputs = dataset.model_inputs
        clusters, tables = inputs.clusters, inputs.items
        assert clusters is not None
        assert tables is not None
        out: Inputs = {}
        for part, loader in enumerate(data_preparation(config, dataset)):
            times = dataset.row_inputs.events.time[dataset.row_inputs.parts[part]]
            at = 0
            for batch in loader:
                batch = batch[0] if isinstance(batch, tuple) else batch
                s, u, i = batch[fields.SNAPSHOT], batch["user_id"], batch["item_id"]
                cluster = clusters.users.cluster[s, u].long()
                top = tables.codes_of(s, i)[:, 0]
                sequence = clusters.behaviour.gather(cluster, top)
                history = batch[fields.HIST_ITEMS]
                read = [
                    cluster,
                    tables.cluster_of(s, i),
                    tables.codes_of(s, i),
                    tables.vector_of(s, i),
                    tables.vector_of(s[:, None], history),
                    tables.codes_of(s[:, None], history),
                    batch[fields.CROSS_STATS],
                    clusters.users.stats[s, u],
                    clusters.items.stats[s, i],
                    # Gates of the history's and of the sequence's items.
                    clusters.items.stats[s[:, None], history],
                ]
                for k in range(len(batch)):
                    key = (part, users[u[k]], items[i[k]], float(times[at]))
                    values_of_row = [v[k].tolist() for v in read]
                    values_of_row += [items[history[k]].tolist(), items[sequence[k]].tolist()]
                    out.setdefault(key, []).append(values_of_row)
                    at += 1
        return {key: sorted(v, key=repr) for key, v in out.items()}

    return build


def _not_later(inputs: Inputs, time: float) -> Inputs:
    return {k: v for k, v in inputs.items() if k[3] <= time}


def _held_out_times(inputs: Inputs) -> list[float]:
    return sorted({k[3] for k in inputs if k[0] > 0})


def test_held_out_labels_reach_nothing_earlier(inputs_of: Build, rows_of_toy: list[Row]) -> None:
    whole = inputs_of(rows_of_toy)
    assert any(row[-1] for rows in whole.values() for row in rows)  # there are sequences
    for time in _held_out_times(whole)[::13]:
        flipped = [(u, i, 6 - r if t >= time else r, t) for u, i, r, t in rows_of_toy]
        changed = inputs_of(flipped)
        assert _not_later(changed, time) == _not_later(whole, time)
    assert changed != whole


def test_deleting_a_row_and_all_later_ones_changes_nothing_earlier(
    inputs_of: Build, rows_of_toy: list[Row]
) -> None:
    whole = inputs_of(rows_of_toy)
    for time in sorted({k[3] for k in whole if k[0] == 2})[2:-8:6]:
        kept = inputs_of([r for r in rows_of_toy if r[3] <= time])
        assert kept == _not_later(whole, time)
        without = inputs_of([r for r in rows_of_toy if r[3] != time])
        earlier = {k: v for k, v in whole.items() if k[3] < time}
        assert {k: v for k, v in without.items() if k[3] < time} == earlier


def test_shuffled_test_labels_change_no_input_of_the_test_rows_before_them(
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
    # What stands still between snapshots is untouched in the test rows as well: the clusters,
    # codes, vectors, sequences and statistics at the snapshot.
    for key, rows_of_key in whole.items():
        for a, b in zip(rows_of_key, changed[key]):
            assert [a[k] for k in (0, 1, 2, 3, 7, 8, 11)] == [b[k] for k in (0, 1, 2, 3, 7, 8, 11)]


def test_with_a_random_split_held_out_rows_reach_nothing(
    make_config: Callable[..., Any],
    write_item_table: Callable[..., Path],
    write_toy: Callable[..., None],
    rows_of_toy: list[Row],
) -> None:
    def build(rows: list[Row]) -> ChoirDataset:
        write_toy(rows)
        torch.manual_seed(5)  # RecBole shuffles with the global generator
        return attached(make_config(ReadsClusters, eval_args={"order": "RO"}), write_item_table())

    whole = build(rows_of_toy)
    events, parts = whole.row_inputs.events, whole.row_inputs.parts
    held = np.zeros(len(events), dtype=bool)
    held[np.concatenate(parts[1:])] = True
    in_file = {(u, i, t): k for k, (u, i, _, t) in enumerate(rows_of_toy)}
    users, items = (whole.field2id_token[f] for f in ("user_id", "item_id"))
    rows = list(rows_of_toy)
    for n in np.flatnonzero(held):
        key = (users[events.user[n]], items[events.item[n]], float(events.time[n]))
        k = in_file[key]
        if sum(r[0] == key[0] and r[1] == key[1] and r[3] == key[2] for r in rows) == 1:
            rows[k] = (*rows[k][:2], 6 - rows[k][2], rows[k][3])
    changed = build(rows)
    assert (changed.row_inputs.events.label != events.label).any()
    for name, values in whole.row_inputs.columns.items():
        assert np.array_equal(values, changed.row_inputs.columns[name]), name
    one, two = whole.model_inputs.clusters, changed.model_inputs.clusters
    assert one is not None
    assert two is not None
    assert torch.equal(one.behaviour.items, two.behaviour.items)
    assert torch.equal(one.users.stats, two.users.stats)
    assert torch.equal(one.items.stats, two.items.stats)
    assert torch.equal(one.users.partner_ids, two.users.partner_ids)


def test_a_purchase_at_or_after_the_row_is_never_in_the_rows_sequence(
    inputs_of: Build, rows_of_toy: list[Row]
) -> None:
    whole = inputs_of(rows_of_toy)
    # i7 is taken out of the whole past: whoever buys it now, no sequence may have it.
    time = _held_out_times(whole)[3]
    rows = [r for r in rows_of_toy if r[1] != "i7" or r[3] >= time]
    rows = [(u, i, 5.0 if i == "i7" else r, t) for u, i, r, t in rows]
    for key, of_key in inputs_of(rows).items():
        if key[3] <= time:
            assert all("i7" not in row[-1] for row in of_key)
    assert any("i7" in row[-1] for of_key in whole.values() for row in of_key)


def test_statistics_at_a_snapshot_are_those_of_a_row_at_its_time(
    make_config: Callable[..., Any],
    write_item_table: Callable[..., Path],
    write_toy: Callable[..., None],
    rows_of_toy: list[Row],
) -> None:
    # A row right at the snapshot knows what the snapshot knows: both read strictly before.
    snapshot = 1_600_000_000.0 + 30.0 * 240 * 0.6
    rows = [r for r in rows_of_toy if r[3] != snapshot]
    rows += [(f"u{k}", f"i{k}", 4.0, snapshot) for k in range(1, 9)]
    write_toy(rows)
    dataset = attached(make_config(ReadsClusters), write_item_table())
    clusters, inputs = dataset.model_inputs.clusters, dataset.row_inputs
    assert clusters is not None
    at = np.flatnonzero(inputs.events.time == snapshot)
    assert len(at) == 8
    for side, ids, name in (
        (clusters.users, inputs.events.user, fields.USER_STATS),
        (clusters.items, inputs.events.item, fields.ITEM_STATS),
    ):
        assert side.stats.dtype == torch.float32
        assert np.array_equal(side.stats[2].numpy()[ids[at]], inputs.columns[name][at])
        # Nobody has a past before the first row.
        first = inputs.events.time == inputs.events.time[0]
        assert np.array_equal(side.stats[0].numpy()[ids[first]], inputs.columns[name][first])
        assert (side.stats[0] == side.stats[0, 0]).all()
    # u9 and i9 appear after both snapshots.
    late = dataset.field2token_id["user_id"]["u9"]
    assert clusters.users.stats[1, late, 5] == 1.0  # is_new


def test_stats_clip_reaches_the_batches_of_every_part_and_the_snapshots(
    make_config: Callable[..., Any], write_item_table: Callable[..., Path]
) -> None:
    def statistics(**values: Any) -> dict[str, Any]:
        config = make_config(ReadsClusters, group_stats=True, shuffle=False, **values)
        dataset = attached(config, write_item_table())
        out: dict[str, Any] = {}
        for part, loader in enumerate(data_preparation(config, dataset)):
            batches = [b[0] if isinstance(b, tuple) else b for b in loader]
            for name in (fields.USER_STATS, fields.ITEM_STATS, fields.GROUP_STATS):
                out[f"{name} {part}"] = torch.cat([b[name] for b in batches])
            out[f"cross {part}"] = torch.cat([b[fields.CROSS_STATS] for b in batches])
        clusters = dataset.model_inputs.clusters
        assert clusters is not None
        return {**out, "snapshots": clusters.users.stats, "of items": clusters.items.stats}

    free, default, tight = (
        statistics(**values) for values in ({"stats_clip": None}, {}, {"stats_clip": 0.5})
    )
    for limit, clipped in ((4.0, default), (0.5, tight)):
        for name, values in free.items():
            want = values.clamp(-limit, limit)
            if name == "snapshots" or name.startswith(fields.USER_STATS):
                want[..., 5] = values[..., 5]  # is_new, a flag
            assert torch.equal(clipped[name], want), name
    assert all(not torch.equal(tight[name], free[name]) for name in free)


def test_items_come_in_the_datasets_own_ids(
    make_config: Callable[..., Any], write_item_table: Callable[..., Path]
) -> None:
    dataset = attached(make_config(ReadsClusters), write_item_table())
    inputs = dataset.model_inputs
    ids = dataset.field2token_id["item_id"]
    tables, clusters = inputs.items, inputs.clusters
    assert tables is not None
    assert clusters is not None
    assert inputs.groups is not None
    assert tables.item_codes[1, ids["i4"]].tolist() == [3, 1]  # code_1 (4 + 1) % 3, code_2 0
    assert tables.vectors[tables.item_vector[2, ids["i4"]].long()].tolist() == [4.0, -2.0]
    assert tables.item_vector[:, ids["i8"]].tolist() == [0, 0, 0]
    assert tables.item_cluster[:, ids["i9"]].tolist() == [0, 0, 0]
    # Groups 0, 1, 2-0 and 2-1 in each of the two snapshots.
    assert tables.n_clusters == clusters.items.n_clusters == 9
    assert clusters.items.cluster is tables.item_cluster
    assert clusters.users.n_clusters == inputs.groups.n_groups
    assert inputs.schema.cross_stat_names[:3] == CLUSTER_COLUMNS
    q = len(inputs.schema.cross_stat_names)
    column = dataset.row_inputs.columns[fields.CROSS_STATS]
    assert column.shape == (240, q)
    assert column.dtype == np.float32


def test_head_and_tail_are_the_evaluators(
    make_config: Callable[..., Any], write_item_table: Callable[..., Path]
) -> None:
    rules = {"tail_user": {"count": 25}, "tail_item": {"quantile": 0.5}}
    dataset = attached(make_config(ReadsClusters, **rules), write_item_table())
    clusters = dataset.model_inputs.clusters
    assert clusters is not None
    segments = Segments.fit(*dataset.train_events(), dataset.user_num, dataset.item_num, **rules)
    assert clusters.users.tail.tolist() == [False, *segments.tail_user[1:]]
    assert clusters.items.tail.tolist() == [False, *segments.tail_item[1:]]
    assert 0 < int((clusters.users.tail & clusters.users.seen).sum()) < 8
    assert clusters.users.seen.tolist() == [False, *~segments.new_user[1:]]


def test_settings_reach_the_sequences(
    make_config: Callable[..., Any], write_item_table: Callable[..., Path]
) -> None:
    def behaviour(**values: Any) -> Any:
        dataset = attached(make_config(ReadsClusters, **values), write_item_table())
        assert dataset.model_inputs.clusters is not None
        return dataset.model_inputs.clusters.behaviour

    default, all_items = behaviour(), behaviour(cluster_min_support=1)
    assert len(all_items.items) > len(default.items) > 1
    one = behaviour(cluster_min_support=1, cluster_sequence_length=1)
    assert one.length == 1
    assert int((one.offsets[1:] - one.offsets[:-1]).max()) == 1
    for key, value in (("cluster_min_support", 0), ("cluster_sequence_length", 0)):
        with pytest.raises(ConfigError, match=f"{key}: expected"):
            make_config(ReadsClusters, **{key: value})
    with pytest.raises(ConfigError, match="cluster_min_support: expected a whole number"):
        make_config(ReadsClusters, cluster_min_support="many")


def test_items_alone_bring_neither_clusters_nor_statistics(
    make_config: Callable[..., Any], write_item_table: Callable[..., Path]
) -> None:
    dataset = create_dataset(make_config(ReadsItems))
    assert dataset.needs_semantic_table()
    dataset.build()
    dataset.attach_semantic_table(write_item_table())
    inputs = dataset.model_inputs
    assert inputs.items is not None
    assert inputs.clusters is None
    assert inputs.schema.cross_stat_names == ()
    assert fields.CROSS_STATS not in dataset.row_inputs.columns
    assert fields.SNAPSHOT in dataset.row_inputs.columns


def test_cross_statistics_without_clusters(
    make_config: Callable[..., Any], write_item_table: Callable[..., Path]
) -> None:
    alone = attached(make_config(ReadsCrossStatistics), write_item_table())
    together = attached(make_config(ReadsClusters), write_item_table())
    assert alone.model_inputs.clusters is None
    assert alone.model_inputs.schema == together.model_inputs.schema
    columns = alone.row_inputs.columns[fields.CROSS_STATS]
    assert np.array_equal(columns, together.row_inputs.columns[fields.CROSS_STATS])
    assert columns.any(axis=0).all()  # every column says something


def test_a_table_without_items_is_one_line(
    make_config: Callable[..., Any], write_table: Callable[..., Path]
) -> None:
    for model in (ReadsClusters, ReadsItems):
        assert create_dataset(make_config(model)).needs_semantic_table()
        with pytest.raises(TableError, match=r"found none.*semantic_recipe: akt") as caught:
            attached(make_config(model), write_table())
        assert "\n" not in str(caught.value)
    # Who asks for groups alone reads such a table, and one with items.
    assert attached(make_config("ChoirRec"), write_table()).model_inputs.items is None


def test_who_asks_for_groups_alone_is_given_no_items(
    make_config: Callable[..., Any], write_item_table: Callable[..., Path]
) -> None:
    inputs = attached(make_config("ChoirRec"), write_item_table()).model_inputs
    assert inputs.groups is not None
    assert inputs.items is None
    assert inputs.clusters is None


def test_moving_and_batches(
    make_config: Callable[..., Any], write_item_table: Callable[..., Path]
) -> None:
    config = make_config(ReadsClusters)
    dataset = attached(config, write_item_table())
    loaders = data_preparation(config, dataset)
    batch = next(iter(loaders[0]))
    names = dataset.model_inputs.schema.cross_stat_names
    assert batch[fields.CROSS_STATS].shape == (32, len(names))
    assert batch[fields.SNAPSHOT].dtype == torch.int64
    # One copy for all three parts.
    pointers = {
        loader.inputs.clusters.behaviour.items.data_ptr()
        for loader in loaders
        if loader.inputs.clusters is not None
    }
    assert len(pointers) == 1
