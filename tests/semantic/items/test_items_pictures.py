"""Pictures of items: keyed by content, fallbacks, and a tiny model of GME's architecture."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.encoders import encoder as encode
from recbole_choir.semantic.encoders import qwen2_vl
from recbole_choir.semantic.encoders.encoder import Encoder
from recbole_choir.semantic.encoders.pictures import PictureFiles
from recbole_choir.semantic.frames.frames import Frames
from recbole_choir.semantic.items import AlignedItems, ContentItems, make_item_input
from recbole_choir.settings.recipe import AlignmentRecipe, ItemRecipe, Recipe

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip


def draw(path: Path, colour: str, size: tuple[int, int] = (60, 40)) -> str:
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).ellipse([5, 5, size[0] - 5, size[1] - 5], fill=colour)
    picture.save(path)
    return str(path)


class Seeing:
    """Embeds (length of the text, mean red, mean blue, 1) and remembers what it was given."""

    modalities = ("text", "image", ("image", "text"))

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []

    def encode(self, sentences: list[Any], **options: Any) -> np.ndarray:
        self.batches.append(sentences)
        rows = []
        for given in sentences:
            pixels = np.asarray(given["image"], float) if "image" in given else np.zeros((1, 1, 3))
            rows.append(
                [len(given.get("text", "")), pixels[..., 0].mean(), pixels[..., 2].mean(), 1]
            )
        return np.array(rows)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Seeing:
    seeing = Seeing()
    monkeypatch.setattr(encode, "load_model", lambda name, device: seeing)
    return seeing


def unit(*rows: list[float]) -> np.ndarray:
    x = np.array(rows, float)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


class TestEncoder:
    def test_texts_pictures_and_both(self, model: Seeing, tmp_path: Path) -> None:
        red, blue = draw(tmp_path / "r.png", "red"), draw(tmp_path / "b.png", "blue")
        texts = ["tea", "tea", "", "cup", ""]
        got = Encoder().encode(texts, False, pictures=[red, "", blue, red, ""])
        assert got.shape == (5, 4)
        r, b = (np.asarray(Image.open(p), float).mean(axis=(0, 1)) for p in (red, blue))
        np.testing.assert_allclose(
            got[:4],
            unit([3, r[0], r[2], 1], [3, 0, 0, 1], [0, b[0], b[2], 1], [3, r[0], r[2], 1]),
            rtol=1e-5,
        )
        assert not got[4].any()
        kinds = [{frozenset(given) for given in batch} for batch in model.batches]
        assert kinds == [{frozenset({"text"})}, {frozenset({"image"})},
                         {frozenset({"text", "image"})}]  # fmt: skip

    def test_a_text_that_looks_like_a_picture_is_text(self, model: Seeing) -> None:
        Encoder().encode(["https://example.org/a.png"], False, pictures=[""])
        assert model.batches == [[{"text": "https://example.org/a.png"}]]

    def test_the_cache_goes_by_content(self, model: Seeing, tmp_path: Path) -> None:
        first = draw(tmp_path / "a.png", "red")
        cache = tmp_path / "cache"
        Encoder(cache_dir=cache).encode(["tea"], False, pictures=[first])
        copy = str(shutil.copy(first, tmp_path / "copy.png"))
        Encoder(cache_dir=cache).encode(["tea"], False, pictures=[copy])
        assert len(model.batches) == 1
        before = Encoder(cache_dir=cache).encode(["tea"], False, pictures=[first])
        draw(tmp_path / "a.png", "blue")  # the same path
        after = Encoder(cache_dir=cache).encode(["tea"], False, pictures=[first])
        assert len(model.batches) == 2
        assert np.abs(after - before).max() > 0.1
        text = Encoder(cache_dir=cache).encode(["tea"], False)
        np.testing.assert_allclose(text, unit([3, 0, 0, 1]), rtol=1e-5)

    def test_missing_and_broken_pictures_leave_the_text(
        self, model: Seeing, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = draw(tmp_path / "a.jpg", "red", (300, 300))
        cut = tmp_path / "cut.jpg"
        cut.write_bytes(Path(whole).read_bytes()[:2000])
        paths = [whole, str(cut), str(tmp_path / "none.png"), str(cut), "\0"]
        with caplog.at_level(logging.WARNING):
            got = Encoder(cache_dir=tmp_path / "c").encode(
                ["tea", "tea", "tea", "", "tea"], False, pictures=paths
            )
        np.testing.assert_allclose(got[[1, 2, 4]], unit(*[[3.0, 0, 0, 1]] * 3), rtol=1e-5)
        assert not got[3].any()
        assert got[0, 1] > 0.5
        assert "2 of 5 pictures cannot be read" in caplog.text
        assert "2 pictures cannot be decoded" in caplog.text

    def test_mistakes(self, model: Seeing, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="pictures: expected 2, one a text, got 1"):
            Encoder().encode(["a", "b"], False, pictures=[""])
        model.modalities = ("text",)  # type: ignore[assignment]
        red = draw(tmp_path / "r.png", "red")
        with pytest.raises(ConfigError, match="image_field: expected a multimodal encoder"):
            Encoder().encode(["a"], False, pictures=[red])

    def test_a_file_is_read_once(self, tmp_path: Path) -> None:
        files = PictureFiles()
        path = draw(tmp_path / "r.png", "red")
        digest = files.digest(path)
        Path(path).unlink()
        assert files.digest(path) == digest
        assert len(digest) == 64
        assert not files.is_sound(str(tmp_path / "none"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-VL of two layers with a tokenizer of bytes, as a repository like GME's."""
    from transformers import AutoImageProcessor

    folder = tmp_path_factory.mktemp("qwen2_vl")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token=SPECIAL[0], eos_token=SPECIAL[2],
        additional_special_tokens=SPECIAL[1:],
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(SPECIAL), strict=True))
    torch.manual_seed(0)
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 4096, "initializer_range": 0.2,
            "rope_parameters": {
                "rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0,
            },
        },
        vision_config={
            "depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2,
            "initializer_range": 0.2,
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "Qwen2VLImageProcessor"})
    )
    AutoImageProcessor.from_pretrained(folder).save_pretrained(folder)
    (folder / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "custom_st.MultiModalTransformer"}])
    )
    return folder


@pytest.fixture(scope="module")
def module(tiny: Path) -> qwen2_vl.Qwen2VLModule:
    return qwen2_vl.Qwen2VLModule(str(tiny), local_files_only=True).eval()


class TestQwen2VL:
    def test_the_prompt_to_the_letter(self, module: qwen2_vl.Qwen2VLModule, tmp_path: Path) -> None:
        picture = Image.open(draw(tmp_path / "r.png", "red"))
        got = module.preprocess([{"text": "a pot", "image": picture}, {"text": "b<|im_end|>"}, "c"])
        texts = [
            module.tokenizer.decode(ids).removeprefix("<|endoftext|>" * int((1 - mask).sum()))
            for ids, mask in zip(got["input_ids"], got["attention_mask"], strict=True)
        ]
        head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        tail = "<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
        n = int(got["image_grid_thw"].prod()) // 4
        assert 256 <= n <= 1280
        places = "<|image_pad|>" * n
        assert texts == [
            f"{head}<|vision_start|>{places}<|vision_end|>a pot{tail}",
            f"{head}b< |im_end|>{tail}",
            f"{head}c{tail}",
        ]

    def test_large_and_small_pictures(self, module: qwen2_vl.Qwen2VLModule, tmp_path: Path) -> None:
        for size, n in (((3000, 2500), 1280), ((20, 30), 256)):
            picture = Image.open(draw(tmp_path / "p.png", "red", size))
            grid = module.preprocess([{"image": picture}])["image_grid_thw"]
            assert abs(int(grid.prod()) // 4 - n) < 0.1 * n

    def test_long_texts_keep_the_end(self, module: qwen2_vl.Qwen2VLModule) -> None:
        ids = module.preprocess(["z" * 5000])["input_ids"][0].tolist()
        assert module.tokenizer.decode(ids[-5:]).endswith("<|endoftext|>")
        assert module.tokenizer.decode(ids).count("z") == qwen2_vl.MAX_TEXT_TOKENS

    def test_the_vector_is_the_last_state(
        self, module: qwen2_vl.Qwen2VLModule, tiny: Path, tmp_path: Path
    ) -> None:
        picture = Image.open(draw(tmp_path / "r.png", "red"))
        whole = Qwen2VLForConditionalGeneration.from_pretrained(tiny).eval()
        encoder = Encoder(str(tiny), device="cpu")
        got = encoder.encode(
            ["a pot", "a much longer text about a pot"], False,
            pictures=[str(tmp_path / "r.png"), ""],
        )  # fmt: skip
        for vector, given in zip(
            got,
            ({"text": "a pot", "image": picture}, {"text": "a much longer text about a pot"}),
            strict=True,
        ):
            features = module.preprocess([given])
            types = (features["input_ids"] == module.place_id).int()
            with torch.no_grad():
                hidden = whole.model(**features, mm_token_type_ids=types).last_hidden_state[0, -1]
            np.testing.assert_allclose(vector, hidden / hidden.norm(), atol=1e-5)

    def test_pictures_count(self, tiny: Path, tmp_path: Path) -> None:
        red, blue = draw(tmp_path / "r.png", "red"), draw(tmp_path / "b.png", "blue")
        x = Encoder(str(tiny), device="cpu").encode(
            ["pot", "pot", "pot", "pot"], False, pictures=[red, blue, red, ""]
        )
        np.testing.assert_array_equal(x[0], x[2])
        assert np.abs(x[0] - x[1]).max() > 1e-3
        assert np.abs(x[0] - x[3]).max() > 1e-3

    def test_padding_changes_little(self, tiny: Path) -> None:
        encoder = Encoder(str(tiny), device="cpu")
        alone = encoder.encode(["short"], False)
        other = Encoder(str(tiny), device="cpu").encode(["short", "long " * 40], False)
        np.testing.assert_allclose(alone[0], other[0], atol=1e-4)

    def test_missing_weights_are_an_error(self, tiny: Path, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        folder = shutil.copytree(tiny, tmp_path / "copy")
        weights = load_file(folder / "model.safetensors")
        some = {name: w for name, w in weights.items() if "layers.1.mlp" not in name}
        save_file(some, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ConfigError, match="expected all weights of a qwen2_vl model"):
            qwen2_vl.Qwen2VLModule(str(folder), local_files_only=True)

    def test_whose_modules(self, tiny: Path, tmp_path: Path) -> None:
        assert qwen2_vl.is_foreign(tiny)
        folder = tmp_path / "described"
        folder.mkdir()
        shutil.copy(tiny / "config.json", folder)
        assert qwen2_vl.is_foreign(folder)  # no modules at all
        native = [{"type": "sentence_transformers.models.Transformer"}]
        (folder / "modules.json").write_text(json.dumps(native))
        assert not qwen2_vl.is_foreign(folder)
        (folder / "config.json").write_text('{"model_type": "bert"}')
        (folder / "modules.json").unlink()
        assert not qwen2_vl.is_foreign(folder)
        assert not qwen2_vl.is_foreign(tmp_path)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA, which sentence-transformers reads with modules of its own."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import (
        AutoImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    folder = tmp_path_factory.mktemp("llava")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor",
                "size": {"shortest_edge": 28},
                "crop_size": {"height": 28, "width": 28},
            }
        )
    )
    LlavaProcessor(
        image_processor=AutoImageProcessor.from_pretrained(folder), tokenizer=tokenizer,
        patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=(
            "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image>"
            "{% else %}{{ c.text }}{% endif %}{% endfor %}</s>{% endfor %}"
        ),
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
        },
        text_config={
            "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "initializer_range": 0.2,
        },
        image_token_index=image_id, image_token_id=image_id, vision_feature_layer=-1,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    modules = [Transformer(str(folder)), Pooling(32, "lasttoken")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def test_a_model_of_the_librarys_own_modules(native: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    red, blue = draw(tmp_path / "r.png", "red"), draw(tmp_path / "b.png", "blue")
    got = Encoder(str(native), device="cpu").encode(
        ["pot", "pot", "pot"], False, pictures=[red, blue, ""]
    )
    given = [{"text": "pot", "image": Image.open(red)}, {"text": "pot", "image": Image.open(blue)}]
    whole = SentenceTransformer(str(native), device="cpu", local_files_only=True)
    for vector, one in zip(got, [*given, {"text": "pot"}], strict=True):
        expected = whole.encode([one])[0]
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    assert np.abs(got[0] - got[1]).max() > 1e-3
    assert np.abs(got[0] - got[2]).max() > 1e-3


def catalogue(tmp_path: Path) -> Frames:
    """Sixteen items of two colours; users keep to one."""
    colours = ["red", "blue"]
    names = [f"i{k:02d}" for k in range(16)]
    paths = [
        draw(tmp_path / f"{name}.png", colours[k % 2], (40 + k, 60)) for k, name in enumerate(names)
    ]
    paths[3] = str(tmp_path / "lost.png")
    rng = np.random.default_rng(0)
    rows = [
        (f"u{u}", names[2 * int(k) + u % 2], 10.0 * u + t, 1)
        for u in range(40)
        for t, k in enumerate(rng.permutation(8)[:3])
    ]
    events = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "label"])
    items = pd.DataFrame({"item_id": names, "title": "thing", "image": paths})
    return Frames(events, pd.DataFrame({"user_id": events["user_id"].unique()}), items)


class TestItems:
    def test_text_input(self, tiny: Path, tmp_path: Path) -> None:
        frames = catalogue(tmp_path)
        recipe = Recipe(items=ItemRecipe(input="text", image_field="image", statistics=False))
        encoder = Encoder(str(tiny), cache_dir=tmp_path / "c", device="cpu")
        source = make_item_input(recipe, encoder, False)
        assert isinstance(source, ContentItems)
        got = source.fit(frames).transform(frames)
        assert got.valid.all()
        assert len(np.unique(got.x.round(5), axis=0)) == 16  # the text alone is one for all

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["head", "lora", "full"])
    def test_aligned_input(self, method: str, tiny: Path, tmp_path: Path) -> None:
        frames = catalogue(tmp_path)
        alignment = AlignmentRecipe(method=method, dim=8, epochs=2, batch_size=16)  # type: ignore[arg-type]
        recipe = Recipe(
            items=ItemRecipe(image_field="image", statistics=False, alignment=alignment)
        )
        encoder = Encoder(str(tiny), cache_dir=tmp_path / "c", device="cpu")
        source = make_item_input(recipe, encoder, False)
        assert isinstance(source, AlignedItems)
        got = source.fit(frames).transform(frames)
        assert got.x.shape == (16, 8)
        assert got.valid.all()
        np.testing.assert_allclose(np.linalg.norm(got.x, axis=1), 1, rtol=1e-5)
        assert source.report["pairs"] > 20
        np.testing.assert_array_equal(source.transform(frames).x, got.x)
