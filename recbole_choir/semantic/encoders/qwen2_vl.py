"""Text and picture embeddings by a Qwen2-VL model, such as the paper's GME-Qwen2-VL-7B.

sentence-transformers reads such models itself where a repository says how in modules of the
library. GME's says it in code of its own, which would be run with the user's rights and asks for a
transformers release that is long gone; and the library's processor needs torchvision for the sake
of videos. This module needs neither: prompt, picture tokens and pooling as the GME paper has them.
Imported only where such a model is loaded.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, Final

from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from recbole_choir.errors import ConfigError

MODEL_TYPE: Final = "qwen2_vl"

SYSTEM: Final = "You are a helpful assistant."
PREFIX: Final = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
PICTURE: Final = "<|vision_start|>{}<|vision_end|>"
PLACE: Final = "<|image_pad|>"
SUFFIX: Final = "<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"

#: Longest text; GME reads 1,800 tokens, of which a picture takes at most 1,280.
MAX_TEXT_TOKENS: Final = 480

#: A picture is made this large at least and at most.
PICTURE_TOKENS: Final = (256, 1280)
PIXELS_PER_TOKEN: Final = 28 * 28


class Qwen2VLModule(nn.Module):
    """The first and only module of a ``SentenceTransformer``: inputs to vectors of norm 1.

    ::

        <prefix><|vision_start|><|image_pad|> x tokens<|vision_end|>text<suffix>
        z = hidden state of the last token, divided by its norm

    Args:
        source: Folder or hub name.
        local_files_only: Do not ask the network.

    Raises:
        ConfigError: Weights are missing.

    References:
        Zhang et al., GME: Improving Universal Multimodal Retrieval by Multimodal LLMs,
        arXiv 2412.16855, section 3.
    """

    def __init__(self, source: str, local_files_only: bool = False) -> None:
        super().__init__()
        options = {"local_files_only": local_files_only}
        self.tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", **options)
        least, most = (n * PIXELS_PER_TOKEN for n in PICTURE_TOKENS)
        self.image_processor = AutoImageProcessor.from_pretrained(
            source, min_pixels=least, max_pixels=most, **options
        )
        self.auto_model, loading = AutoModel.from_pretrained(
            source, output_loading_info=True, **options
        )
        missing = sorted(loading["missing_keys"])
        if missing:  # they would be random numbers, without a word
            raise ConfigError(
                f"encoder '{source}': expected all weights of a {MODEL_TYPE} model, got none of "
                f"{missing[0]} and {len(missing) - 1} others"
            )
        parameters = inspect.signature(self.auto_model.forward).parameters
        self._takes_types = "mm_token_type_ids" in parameters
        self.place_id: Any = self.tokenizer.convert_tokens_to_ids(PLACE)

    @property
    def modalities(self) -> list[Any]:
        """What an input may be made of."""
        return ["text", "image", ("image", "text")]

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens."""
        return MAX_TEXT_TOKENS

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return int(self.auto_model.config.get_text_config().hidden_size)

    get_sentence_embedding_dimension = get_embedding_dimension

    def preprocess(self, inputs: list[Any], *_: Any, **__: Any) -> dict[str, Tensor]:
        """Tokens and pixels of inputs: texts, or mappings with ``text`` and ``image``."""
        given = [i if isinstance(i, dict) else {"text": i} for i in inputs]
        pictures = [parts["image"] for parts in given if "image" in parts]
        features: dict[str, Tensor] = {}
        n_tokens = iter(())
        if pictures:
            pixels = self.image_processor(images=pictures, return_tensors="pt")
            grid = pixels["image_grid_thw"]  # [pictures, 3], in patches
            features = {"pixel_values": pixels["pixel_values"], "image_grid_thw": grid}
            n_tokens = iter((grid.prod(dim=1) // self.image_processor.merge_size**2).tolist())
        ids = [
            self._ids(str(parts.get("text", "")), next(n_tokens) if "image" in parts else 0)
            for parts in given
        ]
        padded = self.tokenizer.pad({"input_ids": ids}, padding=True, return_tensors="pt")
        features |= {name: padded[name] for name in ("input_ids", "attention_mask")}
        return features

    tokenize = preprocess  # what older sentence-transformers call

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add ``sentence_embedding`` [B, d]."""
        names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
        given = {name: features[name] for name in names if name in features}
        if self._takes_types:
            given["mm_token_type_ids"] = (features["input_ids"] == self.place_id).int()
        hidden = self.auto_model(**given, return_dict=True).last_hidden_state
        # padded on the left: the last token is the last one of every input
        return {**features, "sentence_embedding": nn.functional.normalize(hidden[:, -1], dim=-1)}

    def _ids(self, text: str, n_picture_tokens: int) -> list[int]:
        """Token ids of one prompt, the text cut so that nothing after it is lost."""
        # a title must not open a picture or end the turn
        words = self._tokens(text.replace("<|", "< |"))[:MAX_TEXT_TOKENS]
        picture = PICTURE.format(PLACE * n_picture_tokens) if n_picture_tokens else ""
        return [*self._tokens(PREFIX + picture), *words, *self._tokens(SUFFIX)]

    def _tokens(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def is_foreign(folder: Path) -> bool:
    """Whether a folder holds a Qwen2-VL model that no modules of the library describe."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        modules = folder / "modules.json"
        listed = json.loads(modules.read_text(encoding="utf-8")) if modules.is_file() else []
    except (OSError, ValueError):
        return False
    if config.get("model_type") != MODEL_TYPE:
        return False
    types = [str(module.get("type", "")) for module in listed]
    return not types or not all(name.startswith("sentence_transformers.") for name in types)


def load(source: str, device: str | None, local_files_only: bool) -> SentenceTransformer:
    """A ``SentenceTransformer`` around a Qwen2-VL model."""
    module = Qwen2VLModule(source, local_files_only)
    return SentenceTransformer(modules=[module], device=device, local_files_only=local_files_only)
