"""Alignment with co-occurrence: Eq. 1 by hand, hit rates that rise, same bits, cache, fallbacks."""

from __future__ import annotations

import argparse
import functools
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.items import AlignedItems, ContentItems, ItemPrompts, contrastive
from recbole_choir.semantic.items.alignment import AlignedHead
from recbole_choir.semantic.items.contrastive import (
    CooccurrenceInfoNCE,
    ProjectionHead,
    make_head,
    principal_components,
)
from recbole_choir.semantic.items.cooccurrence import Pairs
from recbole_choir.semantic.items.weights import content_key
from recbole_choir.settings.recipe import AlignmentRecipe

N, D, KINDS = 240, 24, 12


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def content(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors with the kind in 6 of their directions, much else in the others; and the kinds."""
    rng = np.random.default_rng(seed)
    kind = np.arange(N) % KINDS
    told = rng.standard_normal((KINDS, 6))[kind] + 0.3 * rng.standard_normal((N, 6))
    x = np.hstack([told, 2 + 2 * rng.standard_normal((N, D - 6))])
    return unit(x @ np.linalg.qr(rng.standard_normal((D, D)))[0]), kind


def pairs_within(kind: np.ndarray, n_pairs: int = 1500, seed: int = 1) -> Pairs:
    first, second = np.triu_indices(N, 1)
    same = np.flatnonzero(kind[first] == kind[second])
    chosen = np.sort(np.random.default_rng(seed).permutation(same)[:n_pairs])
    return Pairs(first[chosen], second[chosen], np.ones(len(chosen), np.int64))


RECIPE = AlignmentRecipe(dim=8, epochs=6, batch_size=32, learning_rate=3e-3)


def fitted(cache: Path | None = None, **settings: Any) -> AlignedHead:
    x, kind = content()
    recipe = RECIPE.model_copy(update=settings)
    head = AlignedHead(recipe, 0, cache, show_progress=False)
    return head.fit(x, np.ones(N, bool), pairs_within(kind))


@functools.cache
def once() -> AlignedHead:
    return fitted()


class Fixed(torch.nn.Module):
    """A module that gives the vectors it was given."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return features


class TestLoss:
    # rows 0 to 5; pairs 0-1, 2-3, 0-4 (shares its anchor with the first), 3-5
    pairs = np.array([[0, 1], [2, 3], [0, 4], [3, 5]])

    def loss(self, z: torch.Tensor, labels: list[int], tau: float = 0.2) -> torch.Tensor:
        model = SentenceTransformer(modules=[Fixed()], device="cpu")
        loss = CooccurrenceInfoNCE(model, self.pairs, 6, tau)
        ends = torch.from_numpy(self.pairs)[labels]
        features = [{"sentence_embedding": z[ends[:, side]]} for side in (0, 1)]
        return loss(features, torch.tensor(labels))

    def test_it_is_equation_1_less_the_known_partners(self) -> None:
        z = torch.nn.functional.normalize(
            torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), dim=1
        )
        tau = 0.2
        e = torch.exp(z @ z.T / tau)
        # anchor, positive: negatives that stay. 0-1: not 4, known to be 0's partner; 2-3: all but
        # itself; 0-4: not 1; 3-5: all
        terms = [
            e[0, 1] / (e[0, 1] + e[0, 3] + e[0, 5]),
            e[2, 3] / (e[2, 3] + e[2, 1] + e[2, 4] + e[2, 5]),
            e[0, 4] / (e[0, 4] + e[0, 3] + e[0, 5]),
            e[3, 5] / (e[3, 5] + e[3, 1] + e[3, 4]),  # without 3 itself
        ]
        expected = -torch.log(torch.stack(terms)).mean()
        torch.testing.assert_close(self.loss(z, [0, 1, 2, 3], tau), expected)

    def test_a_blocked_item_gets_no_gradient(self) -> None:
        z = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
        model = SentenceTransformer(modules=[Fixed()], device="cpu")
        loss = CooccurrenceInfoNCE(model, self.pairs, 6, 0.2)
        anchors, positives = z[[0, 2]], z[[1, 4]]
        # as pairs 0-1 and 0-4 the second positive is blocked for the first anchor, and the first
        # for the second: nothing is left to tell apart
        value = loss(
            [{"sentence_embedding": anchors}, {"sentence_embedding": positives}],
            torch.tensor([0, 2]),
        )
        value.backward()
        assert value.item() == pytest.approx(0.0, abs=1e-7)
        assert z.grad is not None
        assert z.grad.abs().max().item() < 1e-6

    def test_a_batch_of_one(self) -> None:
        z = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
        assert self.loss(z, [1]).item() == pytest.approx(0.0, abs=1e-7)


class TestStart:
    def test_principal_components_keep_angles_of_centred_rows(self) -> None:
        x, _ = content()
        weight, bias = principal_components(x, D)
        z = x @ weight.numpy().T + bias.numpy()
        centred = x - x.mean(axis=0)
        np.testing.assert_allclose(z @ z.T, centred @ centred.T, atol=1e-4)
        few, at = principal_components(x, 3)
        leading = x @ few.numpy().T + at.numpy()
        np.testing.assert_allclose(np.cov(leading.T), np.diag(np.var(z, axis=0, ddof=1)[:3]),
                                   atol=1e-5)  # fmt: skip

    def test_more_dimensions_than_there_are_keep_angles_and_can_all_learn(self) -> None:
        x, _ = content()
        weight, bias = principal_components(x, D + 9)
        z = x @ weight.numpy().T + bias.numpy()
        centred = x - x.mean(axis=0)
        np.testing.assert_allclose(z @ z.T, centred @ centred.T, atol=1e-4)
        assert (np.abs(z).max(axis=0) > 1e-3).all()

    def test_untrained_head_is_the_projection_of_norm_1(self) -> None:
        x, _ = content()
        head = make_head(x, 8, 0)
        assert isinstance(head, ProjectionHead)
        weight, bias = principal_components(x, 8)
        with torch.no_grad():
            got = head({"sentence_embedding": torch.from_numpy(x)})["sentence_embedding"].numpy()
        np.testing.assert_allclose(got, unit(x @ weight.numpy().T + bias.numpy()), atol=1e-5)


class TestHead:
    def test_the_hit_rate_of_held_out_pairs_rises(self) -> None:
        report = once().report
        assert report["pairs"] == 1350
        assert report["held_out"] == 150
        assert report["epoch"] > 0
        assert report["before"]["hit_rate_30"] < 0.25
        assert report["after"]["hit_rate_30"] > 0.9
        assert report["after"]["hit_rate_10"] > report["before"]["hit_rate_10"]
        assert report["after"]["mean_rank"] < report["before"]["mean_rank"] / 2

    def test_vectors_of_norm_1_and_zeros_for_nothing(self) -> None:
        x, _ = content()
        z = once().project(np.concatenate([x, np.zeros((1, D), np.float32)]))
        assert z.shape == (N + 1, 8)
        assert z.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(z[:-1], axis=1), 1, rtol=1e-5)
        assert not z[-1].any()
        assert once().project(np.zeros((0, D), np.float32)).shape == (0, 8)

    def test_same_inputs_same_bits_and_another_seed_others(self) -> None:
        x, kind = content()
        first = once().project(x)
        np.testing.assert_array_equal(first, fitted().project(x))
        other = AlignedHead(RECIPE, 1, show_progress=False)
        other.fit(x, np.ones(N, bool), pairs_within(kind))
        assert not np.array_equal(first, other.project(x))

    def test_nobodys_random_numbers_change(self) -> None:
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)
        expected = (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: NPY002
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)
        threads = torch.get_num_threads()
        fitted(epochs=1)
        got = (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: NPY002
        assert got == expected
        assert torch.get_num_threads() == threads

    def test_without_pairs_unaligned(self, caplog: pytest.LogCaptureFixture) -> None:
        x, kind = content()
        head = AlignedHead(RECIPE, 0, show_progress=False)
        with caplog.at_level(logging.WARNING):
            head.fit(x, np.ones(N, bool), pairs_within(kind).take(np.zeros(1500, bool)))
        assert "no two items co-occur: unaligned vectors" in caplog.text
        weight, bias = principal_components(x, 8)
        expected = unit(x @ weight.numpy().T + bias.numpy())
        np.testing.assert_allclose(head.project(x), expected, atol=1e-5)
        assert head.report["before"] is None

    def test_items_without_a_vector_are_left_out(self) -> None:
        x, kind = content()
        valid = np.arange(N) % 5 > 0
        x = np.where(valid[:, None], x, np.float32(0))
        head = AlignedHead(RECIPE, 0, show_progress=False).fit(x, valid, pairs_within(kind))
        assert head.report["rows_with_pairs"] == valid.sum()
        assert not head.project(x)[~valid].any()

    def test_few_pairs_train_without_a_measure(self) -> None:
        x, kind = content()
        few = pairs_within(kind).take(np.arange(8))
        head = AlignedHead(RECIPE, 0, show_progress=False).fit(x, np.ones(N, bool), few)
        assert head.report["held_out"] == 0
        assert head.report["epoch"] == 6  # the last one

    @pytest.mark.parametrize(
        ("measured", "kept"),
        [([0.5, 0.4, 0.5, 0.1], 0), ([0.5, 0.6, 0.6, 0.5], 1), ([0.1, 0.2, 0.3, 0.4], 3),
         ([None, None, None, None], 3)],
    )  # fmt: skip
    def test_the_best_epoch_is_kept_or_the_start(
        self, measured: list[float | None], kept: int
    ) -> None:
        model = SentenceTransformer(modules=[make_head(content()[0], 4, 0)], device="cpu")
        values = iter(measured)

        def measure() -> tuple[float, ...] | None:
            value = next(values)
            return None if value is None else (value,)

        keeper = contrastive._KeepBest(model, measure)
        weight = model[0].linear.weight
        start = weight.detach().clone()
        for _ in range(3):
            with torch.no_grad():
                weight += 1
            keeper.on_epoch_end(None, None, argparse.Namespace())
        assert keeper.restore() == kept
        torch.testing.assert_close(weight.detach(), start + kept)

    def test_training_stops_when_it_no_longer_helps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        measured = []
        rates = contrastive._KeepBest.on_epoch_end

        def count(self: Any, *args: Any, **kwargs: Any) -> Any:
            measured.append(self.epoch)
            return rates(self, *args, **kwargs)

        monkeypatch.setattr(contrastive._KeepBest, "on_epoch_end", count)
        report = fitted(epochs=60).report
        assert len(measured) == report["epoch"] + contrastive.PATIENCE

    def test_fit_comes_first(self) -> None:
        with pytest.raises(DataError, match="call fit first"):
            AlignedHead(RECIPE).project(np.ones((1, D), np.float32))

    def test_a_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            contrastive.importlib.util, "find_spec", lambda name: None if name == "datasets" else 1
        )
        with pytest.raises(ConfigError, match="expected the package 'datasets', got none"):
            fitted()


class TestCache:
    def test_nothing_is_trained_twice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, _ = content()
        first = fitted(tmp_path)
        monkeypatch.setattr(contrastive, "train", lambda *a, **k: pytest.fail("trained again"))
        again = fitted(tmp_path)
        np.testing.assert_array_equal(first.project(x), again.project(x))
        assert again.report == first.report
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            fitted(tmp_path, temperature=0.2)

    def test_a_damaged_file_is_made_anew(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        x, _ = content()
        first = fitted(tmp_path)
        (file,) = (tmp_path / "alignment").iterdir()
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        with caplog.at_level(logging.WARNING):
            again = fitted(tmp_path)
        assert "alignment is trained again" in caplog.text
        np.testing.assert_array_equal(first.project(x), again.project(x))

    def test_keys(self) -> None:
        a = np.arange(4)
        keys = {
            content_key({"s": 0}, a),
            content_key({"s": 1}, a),
            content_key({"s": 0}, a.astype(np.float64)),
            content_key({"s": 0}, a.reshape(2, 2)),
            content_key({"s": 0}, a, ["ab", "c"]),
            content_key({"s": 0}, a, ["a", "bc"]),
        }
        assert len(keys) == 6


class Kinds:
    """An encoder whose vectors hold the item's kind, weakly; the title names the row."""

    cache_dir = None

    def __init__(self) -> None:
        self.x, self.kind = content()
        self.asked = 0

    def encode(self, texts: list[str], show_progress: bool = True) -> np.ndarray:
        self.asked += 1
        rows = [int(text.split(".")[0]) if text else -1 for text in texts]
        return np.where(np.array(rows)[:, None] < 0, 0, self.x[rows]).astype(np.float32)


def bursts(kind: np.ndarray, seed: int = 2) -> Frames:
    """Users who choose items of one kind, five in a row."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(500):
        items = rng.permutation(np.flatnonzero(kind == user % KINDS))[:5]
        rows += [(f"u{user}", f"{item:03d}", 10.0 * user + k, 1) for k, item in enumerate(items)]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "label"])
    items = pd.DataFrame({"item_id": [f"{k:03d}" for k in range(N)]})
    items["title"] = items["item_id"].where(items["item_id"] != "007", None)
    return Frames(events, pd.DataFrame({"user_id": events["user_id"].unique()}), items)


class TestAlignedItems:
    def make(self, encoder: Any) -> AlignedItems:
        words = ContentItems(encoder, ItemPrompts(statistics=False), show_progress=False)
        return AlignedItems(words, RECIPE, 0, show_progress=False)

    def test_what_happens_from_the_moment_on_changes_nothing(self) -> None:
        encoder = Kinds()
        frames = bursts(encoder.kind)
        late = frames.interactions["timestamp"] >= 2500
        changed = frames.interactions.assign(
            item_id=np.where(late, "000", frames.interactions["item_id"])
        )
        other = Frames(changed, frames.users, frames.items)
        first = self.make(encoder).fit(frames.before(2500))
        second = self.make(encoder).fit(other.before(2500))
        assert first.report == second.report
        np.testing.assert_array_equal(
            first.transform(frames.before(2500)).x, second.transform(other.before(2500)).x
        )

    def test_items_of_a_kind_come_together(self) -> None:
        encoder = Kinds()
        frames = bursts(encoder.kind)
        source = self.make(encoder).fit(frames)
        assert source.report["after"]["hit_rate_30"] > 2 * source.report["before"]["hit_rate_30"]
        got = source.transform(frames)
        assert encoder.asked == 1  # the same prompts are not embedded again
        assert got.valid.tolist() == [k != 7 for k in range(N)]
        assert not got.x[7].any()
        same = np.equal.outer(encoder.kind, encoder.kind)
        similar = got.x @ got.x.T
        before = encoder.x @ encoder.x.T
        gap = similar[same].mean() - similar[~same].mean()
        assert gap > 5 * (before[same].mean() - before[~same].mean())

    def test_order_of_items_users_and_events(self) -> None:
        encoder = Kinds()
        frames = bursts(encoder.kind)
        mixed = Frames(
            frames.interactions.sample(frac=1, random_state=0),
            frames.users.sample(frac=1, random_state=1),
            frames.items.sample(frac=1, random_state=2),
        )
        first = self.make(encoder).fit(frames).transform(frames)
        second = self.make(encoder).fit(mixed).transform(mixed)
        order = np.argsort(second.item_ids)
        np.testing.assert_array_equal(first.x, second.x[order])
        np.testing.assert_array_equal(first.valid, second.valid[order])

    def test_fit_comes_first(self) -> None:
        with pytest.raises(DataError, match="call fit first"):
            self.make(Kinds()).transform(bursts(Kinds().kind))
