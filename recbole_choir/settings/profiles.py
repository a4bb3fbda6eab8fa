"""How profiles are written: every choice of the stage in one checked object."""

from __future__ import annotations

from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.settings.prompt_templates import template_digest

#: The model that is installed with the extra ``llm``: SmolLM2-135M-Instruct as a GGUF file.
EMBEDDED_MODEL = "embedded"

TEMPLATE: Final = "template"

#: Engines that ask a language model.
LLM_ENGINES: Final = ("openai", "llama_cpp")

ENGINES: Final = (TEMPLATE, *LLM_ENGINES)


def check_engine(name: str) -> None:
    """Refuse a name that is no engine's.

    Raises:
        ConfigError: There is no such engine.
    """
    if name == "vllm":
        raise ConfigError(
            "profile_engine: expected vLLM behind its server, got 'vllm': start `vllm serve MODEL` "
            "and take profile_engine: openai (docs/profiles.md)"
        )
    if name not in ENGINES:
        raise ConfigError(
            f"profile_engine: expected one of {', '.join(ENGINES)}, got '{name}'"
            f"{nearest(name, ENGINES)}"
        )


class ProfileSettings(BaseModel):
    """Every choice of the profile stage.

    Only what changes a reply enters the key of a profile (:meth:`reply_parameters`, the model, the
    prompt and its schema). Address, limits, prices and budgets may change between two runs; what
    is written stays valid.

    Args:
        engine: ``template`` (no language model), ``openai`` (any OpenAI-compatible server),
            vLLM's among them, or ``llama_cpp`` (a GGUF file in process).
        model: Name that the server knows, GGUF file, or hub name; ``embedded`` is the packaged
            SmolLM2-135M.
        base_url: Of an OpenAI-compatible server, such as ``http://localhost:8000/v1``; null is the
            official client's default. No user name, password or query: keys come from the
            environment.
        api_key_env: Name of the environment variable with the key. A server of one's own
            (``base_url``) may need none.
        prompt: A jinja2 template: ``profile`` or ``profile_small`` (by examples, for models well
            below a billion parameters), or a path.
        redact: Fields that must not leave the machine, left out of prompts: names of user
            attributes, ``category``, ``title`` or ``query``.
        redact_hook: ``module:function`` of one's own that gets the facts about a user and returns
            what may be told.
        min_events: Users with fewer purchases and queries before a snapshot are not asked about,
            there is nothing to generalise: their text is the template's, from attributes alone.
        windows_end: ``last_event``: the windows of a prompt end at the user's newest event, so
            that time alone changes no prompt. ``snapshot``: they end at the snapshot.
        titles: Name the newest items in prompts. Every purchase changes them, so with snapshots
            more users are asked about again.
        script: Script a profile is written in; a reply with over a fifth of other letters is
            refused. ``any`` asks for none.
        temperature: 0, so that a profile depends on the facts and not on luck.
        retry_temperature: Of the second and later tries. With temperature 0 another seed would
            give the same bad reply again.
        top_p: Nucleus sampling; null leaves it to the server.
        seed: Of the first try; later tries count up from it.
        max_tokens: Longest reply. A profile takes 100 to 200.
        extra_body: Further fields of a request, such as ``{chat_template_kwargs:
            {enable_thinking: false}}`` for Qwen3 on vLLM.
        structured_output: ``auto`` asks for the schema in the way of the OpenAI API
            (``json_schema``), then in that of llama.cpp's server (``json_object`` with a schema),
            then in words alone (``none``), whichever the server takes first.
        max_tokens_field: What the server calls the limit of a reply; newer models of OpenAI want
            ``max_completion_tokens``.
        context_length: Tokens of context of an engine in process.
        threads: CPU threads of an engine in process; null takes all cores.
        gpu_layers: Layers that llama.cpp puts on a GPU; -1 is all.
        concurrency: Requests in flight. A server's throughput grows up to about its number of
            slots (llama.cpp: 1 to 8, vLLM: 64 to 256).
        requests_per_minute, tokens_per_minute: Limits of the account; null is none. Tokens are
            counted as providers do: of the prompt, roughly, and ``max_tokens``.
        connect_timeout: Seconds to connect.
        read_timeout: Seconds without a byte.
        request_timeout: Seconds for a whole request, whatever drips in.
        retries: Tries with another seed after a bad reply.
        attempts: Attempts of one try that a failing server gets while it answers others; then the
            prompt is taken to be the cause.
        patience: Seconds without any answer after which the server counts as dead and the run
            stops.
        max_failed_share: Failed users over all users above which the stage stops with an error.
        retry_failed: Ask again for users whose failure is recorded.
        max_requests: Most requests of one run; null is no limit.
        max_total_tokens: Most tokens of one run, prompts and replies; null is no limit.
        price_per_million_prompt_tokens, price_per_million_completion_tokens: For the estimate of
            cost.
        currency: Of the prices.
        batch_size: Prompts per call of an engine that takes lists; a killed run loses one call.
        store: SQLite file of the profiles; null puts it next to the tables.
        lease_seconds: A process of another machine that has been silent for so long is dead, and
            what it was asking for is asked again. One of this machine is found dead at once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # not in a recipe's dump: there it is profile_engine, and two places could contradict each other
    engine: Literal["template", "openai", "llama_cpp"] = Field(default="template", exclude=True)
    model: str = EMBEDDED_MODEL
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    prompt: str = "profile"
    redact: list[str] = []
    redact_hook: str | None = None
    min_events: int = Field(default=1, ge=0)
    windows_end: Literal["last_event", "snapshot"] = "last_event"
    titles: bool = False
    script: Literal[
        "any", "latin", "cyrillic", "greek", "arabic", "hebrew", "han", "kana", "hangul"
    ] = "latin"

    temperature: float = Field(default=0.0, ge=0, le=2)
    retry_temperature: float = Field(default=0.7, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    max_tokens: int = Field(default=300, ge=1)
    extra_body: dict[str, Any] = {}
    structured_output: Literal["auto", "json_schema", "json_object", "none"] = "auto"
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    context_length: int = Field(default=2048, ge=128)
    threads: int | None = Field(default=None, ge=1)
    gpu_layers: int = Field(default=0, ge=-1)

    concurrency: int = Field(default=16, ge=1, le=1000)
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    connect_timeout: float = Field(default=10.0, gt=0)
    read_timeout: float = Field(default=120.0, gt=0)
    request_timeout: float = Field(default=600.0, gt=0)
    retries: int = Field(default=2, ge=0)
    attempts: int = Field(default=5, ge=1)
    patience: float = Field(default=300.0, gt=0)

    max_failed_share: float = Field(default=0.02, ge=0, le=1)
    retry_failed: bool = False
    max_requests: int | None = Field(default=None, ge=1)
    max_total_tokens: int | None = Field(default=None, ge=1)
    price_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    price_per_million_completion_tokens: float | None = Field(default=None, ge=0)
    currency: str = "USD"

    batch_size: int = Field(default=4096, ge=1)
    store: str | None = None
    lease_seconds: float = Field(default=120.0, gt=1)

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.username or parts.password or parts.query:
            # the message repeats no part of it: it may hold a key
            raise ValueError("expected an address without user name, password or query")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address such as http://localhost:8000/v1")
        return value.rstrip("/")

    def reply_parameters(self) -> dict[str, Any]:
        """What of the settings changes a reply, apart from model, prompt and ``max_tokens``.

        A prompt carries its own ``max_tokens``, which enters the key with it.
        """
        return {
            "temperature": self.temperature,
            "retry_temperature": self.retry_temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "extra_body": self.extra_body,
        }

    def identity(self) -> dict[str, Any]:
        """What of the settings shapes a table: its key must not change with address or limits.

        Raises:
            ConfigError: The prompt template cannot be read.
        """
        if self.engine == "template":
            return {"engine": self.engine, "windows_end": self.windows_end}
        return {
            "engine": self.engine,
            "model": self.model,
            "parameters": self.reply_parameters(),
            "max_tokens": self.max_tokens,
            "structured_output": self.structured_output,
            "prompt": template_digest(self.prompt),
            "redact": sorted(self.redact),
            "redact_hook": self.redact_hook,
            "min_events": self.min_events,
            "windows_end": self.windows_end,
            "titles": self.titles,
            "script": self.script,
            "retries": self.retries,
        }

    def temperature_for(self, seed: int) -> float:
        """Temperature of a try: the first has the settings' seed, later ones have to differ."""
        return self.temperature if seed == self.seed else self.retry_temperature
