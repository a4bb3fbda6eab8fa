"""Item inputs on the MovieLens-100K that RecBole's package carries, with the real MiniLM."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.frames.canonical import canonical_frames
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.items import AlignedItems, make_item_input
from recbole_choir.semantic.items.cooccurrence import cooccurring, hold_out
from recbole_choir.semantic.items.hit_rate import hit_rates
from recbole_choir.settings.recipe import Recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def frames() -> Frames:
    spec = importlib.util.find_spec("recbole")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations))) / "dataset_example" / "ml-100k"
    events = pd.read_csv(
        folder / "ml-100k.inter", sep="\t", names=["user_id", "item_id", "rating", "timestamp"],
        skiprows=1, dtype={"user_id": str, "item_id": str},
    )  # fmt: skip
    events["label"] = (events["rating"] >= 4).astype(int)
    items = pd.read_csv(
        folder / "ml-100k.item", sep="\t", names=["item_id", "title", "year", "category"],
        skiprows=1, dtype=str,
    )  # fmt: skip
    items["category"] = items["category"].fillna("").str.split()
    whole = canonical_frames(events.drop(columns="rating"), None, items)
    return whole.before(float(whole.interactions["timestamp"].quantile(0.25)))


def test_the_hit_rate_of_held_out_pairs_rises(frames: Frames, tmp_path: Path) -> None:
    encoder = Encoder(cache_dir=tmp_path, device="cpu")
    recipe = Recipe(items={"input": "aligned"})
    source = make_item_input(recipe, encoder, False)
    assert isinstance(source, AlignedItems)
    got = source.fit(frames).transform(frames)
    before, after = source.report["before"], source.report["after"]
    assert source.report["held_out"] > 2000
    assert after["hit_rate_10"] > 2 * before["hit_rate_10"]
    assert after["hit_rate_30"] > 2 * before["hit_rate_30"]
    assert after["mean_rank"] < 0.75 * before["mean_rank"]
    assert after["raw_hit_rate_30"] > before["raw_hit_rate_30"]
    assert got.valid.all()
    # what was trained is found again, and gives the same vectors
    again = make_item_input(recipe, Encoder(cache_dir=tmp_path, device="cpu"), False).fit(frames)
    np.testing.assert_array_equal(again.transform(frames).x, got.x)


def test_behaviour_and_blend_know_which_items_go_together(frames: Frames, tmp_path: Path) -> None:
    encoder = Encoder(cache_dir=tmp_path, device="cpu")
    rates = {}
    for name in ("random", "text", "behaviour", "blend"):
        source = make_item_input(Recipe(items={"input": name}), encoder, False)
        got = source.fit(frames).transform(frames)
        order = np.argsort(got.item_ids)
        train, held = hold_out(cooccurring(frames, got.item_ids[order], 5), 0)
        found = hit_rates(got.x[order], got.valid[order], held, train)
        assert found is not None
        rates[name] = found.hit_rate_30
    # the pairs measured are among what behaviour was fitted on: not a comparison with `aligned`
    assert rates["random"] < rates["text"] < rates["blend"] < rates["behaviour"]
