"""The encoder itself aligned: what is trained, what stays, hit rates, cache; on a tiny BERT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, BertTokenizerFast

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.items import contrastive, tuning
from recbole_choir.semantic.items.contrastive import trained_state
from recbole_choir.semantic.items.cooccurrence import Pairs
from recbole_choir.semantic.items.tuning import AlignedEncoder
from recbole_choir.settings.recipe import AlignmentRecipe

KINDS, EACH = 6, 12


def texts_and_pairs() -> tuple[list[str], Pairs]:
    """Items of a kind share one word of four."""
    texts = [f"w{k} x{k * 7 % 10} kind{k % KINDS} x{k * 3 % 10}" for k in range(KINDS * EACH)]
    kind = np.arange(len(texts)) % KINDS
    first, second = np.triu_indices(len(texts), 1)
    same = kind[first] == kind[second]
    return texts, Pairs(first[same], second[same], np.ones(int(same.sum()), np.int64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers that knows the words of the texts."""
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    path = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "thing"]
    words += [f"w{k}" for k in range(KINDS * EACH)]
    words += [f"x{k}" for k in range(10)] + [f"kind{k}" for k in range(KINDS)]
    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    BertTokenizerFast(tokenizer_object=tokens, model_max_length=16).save_pretrained(path / "raw")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config).save_pretrained(path / "raw")
    first = Transformer(str(path / "raw"))
    whole = SentenceTransformer(modules=[first, Pooling(32)], device="cpu")
    whole.save(str(path / "model"))
    return path / "model"


@pytest.fixture
def fit(folder: Path, tmp_path: Path) -> Callable[..., AlignedEncoder]:
    def make(**settings: Any) -> AlignedEncoder:
        recipe = AlignmentRecipe(
            **{"method": "full", "dim": 16, "epochs": 6, "batch_size": 32, "learning_rate": 3e-3}
            | settings
        )
        encoder = Encoder(str(folder), cache_dir=tmp_path / "cache", device="cpu")
        texts, pairs = texts_and_pairs()
        return AlignedEncoder(encoder, recipe, show_progress=False).fit(texts, None, pairs)

    return make


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_hit_rate_of_held_out_pairs_rises(
    method: str, fit: Callable[..., AlignedEncoder]
) -> None:
    report = fit(method=method).report
    assert report["held_out"] == 39
    assert report["after"]["hit_rate_10"] > report["before"]["hit_rate_10"] + 0.1
    assert report["after"]["mean_rank"] < 0.8 * report["before"]["mean_rank"]


def test_vectors_and_the_given_encoder(fit: Callable[..., AlignedEncoder], folder: Path) -> None:
    texts, _ = texts_and_pairs()
    base = Encoder(str(folder), device="cpu")
    before = base.encode(texts, show_progress=False)
    source = fit(epochs=1)
    z = source.encode([*texts, ""])
    assert z.shape == (len(texts) + 1, 16)
    np.testing.assert_allclose(np.linalg.norm(z[:-1], axis=1), 1, rtol=1e-5)
    assert not z[-1].any()
    np.testing.assert_array_equal(base.encode(texts, show_progress=False), before)


def test_lora_trains_adapters_and_projection_alone(folder: Path) -> None:
    encoder = Encoder(str(folder), device="cpu")
    recipe = AlignmentRecipe(method="lora", dim=4, lora_rank=3)
    source = AlignedEncoder(encoder, recipe, show_progress=False)
    x = np.random.default_rng(0).standard_normal((9, 32)).astype(np.float32)
    state = trained_state(source._model(x))
    kinds = {"lora" if "lora_" in name else "head" for name in state}
    assert kinds == {"lora", "head"}
    assert all(3 in p.shape for name, p in state.items() if "lora_" in name)
    # query, key, value and three more linear layers in each of two layers, the pooler; A and B
    assert sum("lora_" in name for name in state) == 2 * (2 * 6 + 1)
    full = AlignedEncoder(encoder, AlignmentRecipe(method="full", dim=4), show_progress=False)
    assert any("embeddings" in name for name in trained_state(full._model(x)))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_nothing_is_trained_twice(
    method: str, fit: Callable[..., AlignedEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, _ = texts_and_pairs()
    first = fit(method=method, epochs=1)
    fresh = [f"{text} thing" for text in texts]  # not in the cache of vectors
    vectors = first.encode(texts)
    monkeypatch.setattr(contrastive, "train", lambda *a, **k: pytest.fail("trained again"))
    again = fit(method=method, epochs=1)
    np.testing.assert_array_equal(vectors, again.encode(texts))
    np.testing.assert_allclose(first.encode(fresh), again.encode(fresh), atol=1e-6)
    assert again.report == first.report
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        fit(method=method, epochs=1, temperature=0.3)


def test_same_inputs_same_weights(
    fit: Callable[..., AlignedEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, _ = texts_and_pairs()
    first = fit(epochs=1).encode(texts)
    monkeypatch.setattr(tuning.WeightsFile, "read", lambda self: None)
    torch.manual_seed(99)
    np.testing.assert_allclose(fit(epochs=1).encode(texts), first, atol=1e-6)


def test_truncation_is_the_projections_business(folder: Path) -> None:
    texts, pairs = texts_and_pairs()
    encoder = Encoder(str(folder), truncate_dim=8, device="cpu")
    recipe = AlignmentRecipe(method="full", dim=16, epochs=1, batch_size=64)
    source = AlignedEncoder(encoder, recipe, show_progress=False).fit(texts, None, pairs)
    assert source.encode(texts).shape == (72, 16)
    assert encoder.encode(["w1"], show_progress=False).shape == (1, 8)


def test_mistakes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(str(folder), device="cpu")
    source = AlignedEncoder(encoder, AlignmentRecipe(method="lora"), show_progress=False)
    with pytest.raises(DataError, match="call fit first"):
        source.encode(["w1"])
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ConfigError, match="lora: expected the package 'peft', got none"):
        source.fit(*texts_and_pairs()[:1], None, texts_and_pairs()[1])
