"""A model on a GPU in this process, by vLLM's offline batch (extra package ``vllm``)."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.profiles.types import WHOLE, Failure, Prompt, Reply
from recbole_choir.settings.profiles import EMBEDDED_MODEL, ProfileSettings

logger = logging.getLogger(__name__)

_SMALL_FILE: Final = 1 << 20
_TEMPLATE_ARGUMENTS: Final = "chat_template_kwargs"


class VllmGenerator:
    """Hands whole lists of prompts to vLLM, which schedules them itself.

    What all prompts share is computed once (prefix caching), and the JSON schema restricts what is
    sampled. vLLM refuses a list with one prompt that does not fit its context: then the list is
    halved until that prompt alone is refused.

    Args:
        settings: ``model`` (a hub name or folder), ``context_length``, ``batch_size``, sampling,
            and of ``extra_body`` the entry ``chat_template_kwargs`` (Qwen3: ``enable_thinking:
            false``).

    Raises:
        ConfigError: vLLM is not installed, no model is named, or ``extra_body`` has other entries.
    """

    name = "vllm"

    def __init__(self, settings: ProfileSettings) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "profile_engine: 'vllm' needs vllm and a GPU, and it is not installed: "
                "pip install vllm"
            )
        if settings.model == EMBEDDED_MODEL:
            raise ConfigError(
                "profile.model: expected a hub name or a folder for engine 'vllm', got "
                f"'{EMBEDDED_MODEL}'"
            )
        others = sorted(set(settings.extra_body) - {_TEMPLATE_ARGUMENTS})
        if others:
            raise ConfigError(
                f"profile.extra_body: expected {_TEMPLATE_ARGUMENTS} alone for engine 'vllm', got "
                f"'{others[0]}'"
            )
        self.settings = settings
        self.batch_size = settings.batch_size
        self.parameters: Mapping[str, Any] = settings.reply_parameters()
        self.model_id = model_identity(settings.model)
        self._llm: Any = None

    def complete_many(
        self, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> list[Reply | Failure]:
        """One reply or failure per prompt, in order; one call of vLLM where all prompts fit."""
        if not prompts:
            return []
        try:
            outputs = self._model().chat(
                [[{"role": r, "content": t} for r, t in p.messages] for p in prompts],
                [self._sampling(p, s) for p, s in zip(prompts, seeds, strict=True)],
                use_tqdm=False,
                **{_TEMPLATE_ARGUMENTS: self.settings.extra_body.get(_TEMPLATE_ARGUMENTS)},
            )
        except ValueError as error:
            if len(prompts) == 1:
                return [Failure("prompt_rejected", " ".join(str(error).split())[:200])]
            half = len(prompts) // 2
            return [
                *self.complete_many(prompts[:half], seeds[:half]),
                *self.complete_many(prompts[half:], seeds[half:]),
            ]
        return [_reply(output) for output in outputs]

    def close(self) -> None:
        """Let go of the model; its memory is freed with it."""
        self._llm = None

    def _model(self) -> Any:
        if self._llm is None:
            vllm = importlib.import_module("vllm")
            self._llm = vllm.LLM(
                model=self.settings.model,
                max_model_len=self.settings.context_length,
                enable_prefix_caching=True,
                seed=self.settings.seed,
            )
        return self._llm

    def _sampling(self, prompt: Prompt, seed: int) -> Any:
        vllm = importlib.import_module("vllm")
        return vllm.SamplingParams(
            temperature=self.settings.temperature_for(seed),
            top_p=1.0 if self.settings.top_p is None else self.settings.top_p,
            max_tokens=prompt.max_tokens,
            seed=seed,
            **_restriction(prompt.schema),
        )


def model_identity(model: str) -> str:
    """Name of a model; of a folder also a digest, so that other weights are another model.

    Weights are told by name and size, since reading them all would take minutes; configuration,
    tokenizer and index (files below a megabyte) by content.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
        if size <= _SMALL_FILE:
            digest.update(file.read_bytes())
    return f"{folder.name}@files:{digest.hexdigest()}"


def _restriction(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """How this version of vLLM is told the schema: its name changed between versions."""
    if schema is None:
        return {}
    parameters = importlib.import_module("vllm.sampling_params")
    if hasattr(parameters, "StructuredOutputsParams"):
        return {"structured_outputs": parameters.StructuredOutputsParams(json=dict(schema))}
    return {"guided_decoding": parameters.GuidedDecodingParams(json=dict(schema))}


def _reply(output: Any) -> Reply:
    first = output.outputs[0]
    return Reply(
        first.text,
        str(first.finish_reason or WHOLE),
        len(output.prompt_token_ids or ()),
        len(first.token_ids or ()),
    )
