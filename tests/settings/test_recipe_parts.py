"""Recipes with parts: deep overrides, and one line for every mistake in them."""

from __future__ import annotations

from typing import Any

import pytest

from recbole_choir.errors import ConfigError
from recbole_choir.semantic import load_recipe
from recbole_choir.semantic.frames.files import parse_overrides
from recbole_choir.settings.recipe import (
    ItemRecipe,
    Recipe,
    RQVAERecipe,
    items_need_encoder,
    needs_encoder,
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"items": {"inptu": 1}}, r"recipe akt\.yaml\.items: unknown key 'inptu' \(did you mean"),
        ({"items": {"input": "texd"}}, r"recipe akt\.yaml\.items\.input: .*, text, .*got 'texd'"),
        ({"items": {"alignment": {"dmi": 3}}}, r"items\.alignment: unknown key 'dmi' \(did you"),
        ({"items": {"alignment": {"dim": 0}}}, r"items\.alignment\.dim: .*got 0"),
        ({"items": {"n_clusters": [2, 3]}}, r"items\.n_clusters: expected one number per level"),
        ({"items": {"n_clusters": 0}}, r"items\.n_clusters: expected numbers of at least 1, got 0"),
        ({"items": {"n_clusters": "many"}}, r"items\.n_clusters: .*got 'many'"),
        ({"items": 3}, r"akt\.yaml\.items: .*got 3"),
        ({"items": None}, "'interest' is learned from item vectors"),
        ({"rqvae": {"hidden": [8, 0]}}, r"rqvae\.hidden: .*got 0"),
        ({"rqvae": {"beat": 1}}, r"rqvae: unknown key 'beat' \(did you mean 'beta'\?\)"),
        ({"quantizer": "rqvea"}, r"akt\.yaml\.quantizer: .*got 'rqvea'"),
        ({"interest": {"engine": "gpt"}}, r"interest\.engine: .*got 'gpt'"),
    ],
)
def test_mistakes_are_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe("akt", fields)
    assert "\n" not in str(caught.value)


def test_single_entries_of_a_part_are_overridden() -> None:
    akt = load_recipe("akt")
    changed = load_recipe("akt", {"items": {"input": "random", "alignment": {"dim": 8}}})
    assert changed.items is not None
    assert akt.items is not None
    assert changed.items.input == "random"
    assert changed.items.alignment.dim == 8
    rest = {"input", "alignment"}
    assert changed.items.model_dump(exclude=rest) == akt.items.model_dump(exclude=rest)
    assert changed.items.alignment.window == akt.items.alignment.window
    assert load_recipe(changed, {"rqvae": {"latent": 3}}).rqvae == RQVAERecipe(latent=3)


def test_a_part_is_added_and_left_out() -> None:
    added = load_recipe("embedded", {"items": {"n_levels": 2}})
    assert added.items == ItemRecipe(n_levels=2)
    assert load_recipe(added, {"items": None}) == Recipe()
    assert load_recipe("embedded", {"items": {}}).items == ItemRecipe()


def test_the_paper() -> None:
    paper = load_recipe("akt_paper")
    assert paper.items is not None
    assert paper.clusters_for(10) == [128] * 3
    assert paper.items.clusters_for(10) == [256] * 3
    assert paper.interest.model == "Qwen/Qwen3-30B-A3B"
    assert paper.items.encoder == "Alibaba-NLP/gme-Qwen2-VL-7B-Instruct"


def test_clusters_of_about_eighteen() -> None:
    # docs/gaps.md A9: 10 k -> 8, 100 k -> 18, 1 M -> 38
    akt = load_recipe("akt")
    assert akt.items is not None
    for n, k in ((10_000, 8), (100_000, 18), (1_000_000, 38), (3, 2)):
        assert akt.items.clusters_for(n) == [k] * 3
        assert akt.clusters_for(n) == [k] * 3


@pytest.mark.parametrize("name", ["random", "behaviour", "id_embedding", "text", "aligned"])
def test_who_needs_an_encoder(name: str) -> None:
    assert needs_encoder(Recipe(input=name)) == (name in ("text", "aligned"))  # type: ignore[arg-type]


def test_which_items_need_an_encoder() -> None:
    assert not items_need_encoder(Recipe())
    for name in ("aligned", "text", "blend", "behaviour", "random"):
        recipe = load_recipe("akt", {"items": {"input": name}})
        assert items_need_encoder(recipe) == (name in ("aligned", "text", "blend"))
        assert not needs_encoder(recipe)  # interest reads item vectors


def test_dotted_keys_of_the_command_line() -> None:
    pairs = ["items.input=random", "items.alignment.dim=8", "seed=3"]
    assert parse_overrides(pairs) == {
        "items": {"input": "random", "alignment": {"dim": 8}},
        "seed": 3,
    }
    with pytest.raises(ConfigError, match="'items' is set to None as a whole already"):
        parse_overrides(["items=", "items.input=random"])
