"""Which engine answers: by name, imported only when chosen."""

from __future__ import annotations

from recbole_choir.errors import ConfigError
from recbole_choir.semantic.profiles.types import BatchGenerator, Generator
from recbole_choir.settings.profiles import LLM_ENGINES, ProfileSettings, check_engine


def make_generator(settings: ProfileSettings) -> Generator | BatchGenerator:
    """The engine of the settings, ready to be asked.

    Raises:
        ConfigError: It is no language model's, its extra is not installed, or its model or key is
            missing.
    """
    check_engine(settings.engine)
    # Each needs packages of its own: an extra.
    if settings.engine == "openai":
        try:
            from recbole_choir.semantic.profiles.openai_engine import OpenAIGenerator
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"profile_engine: 'openai' needs {error.name}, which is not installed: "
                "pip install 'recbole-choir[llm]'"
            ) from None
        return OpenAIGenerator(settings)
    if settings.engine == "llama_cpp":
        from recbole_choir.semantic.profiles.llama_cpp_engine import LlamaCppGenerator

        return LlamaCppGenerator(settings)
    raise ConfigError(
        f"profile_engine: expected one of {', '.join(LLM_ENGINES)} to be asked, got "
        f"'{settings.engine}'"
    )
