"""From facts to prompts, by a jinja2 template that a user can replace (paper 4.2.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from recbole_choir.errors import ConfigError, DataError
from recbole_choir.semantic.profiles.facts import FactTable
from recbole_choir.semantic.profiles.redact import MAX_VALUE, Redactor, clean
from recbole_choir.semantic.profiles.schema import PROFILE_SCHEMA, SCHEMA_VERSION
from recbole_choir.semantic.profiles.types import Prompt
from recbole_choir.settings.prompt_templates import template_path

ROLES: Final = ("system", "user", "assistant")

#: Longest text of one message, in characters: a runaway template or field stops here.
MAX_MESSAGE: Final = 20_000


class PromptWriter:
    """Writes one prompt per user, one at a time, so that a million of them take no memory.

    A template is jinja2. It says who speaks with ``{% call message("system") %} ... {% endcall %}``
    (roles ``system``, ``user``, ``assistant``; an assistant's message is an example of a reply) and
    gets ``facts`` of :meth:`~.facts.FactTable.of`. What changes from user to user belongs at the
    end: engines keep the part that all prompts share.

    Every text in ``facts`` has been through the redactor and :func:`~.redact.clean` before the
    template sees it, so no template can leak or let through what they took out. The same facts
    give the same bytes.

    Args:
        template: Name in ``properties/semantic/prompts`` or path of a template.
        redactor: Gets every user's facts and returns what may be told; None tells everything.
        max_tokens: Longest reply.

    Raises:
        ConfigError: There is no such template, or it is not jinja2.
    """

    def __init__(
        self, template: str = "profile", redactor: Redactor | None = None, max_tokens: int = 300
    ) -> None:
        self.path = template_path(template)
        self.redactor = redactor
        self.max_tokens = max_tokens
        environment = ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=False,
        )
        try:
            self._template = environment.from_string(self.path.read_text(encoding="utf-8"))
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"prompt {self.path}, line {error.lineno}: {error.message}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"prompt {self.path}: cannot be read: {error}") from None

    def write(self, user_id: str, facts: dict[str, Any]) -> Prompt:
        """The prompt about one user.

        Raises:
            ConfigError: The template fails or writes no user message.
            DataError: The redactor returned no facts, or failed.
        """
        if self.redactor is not None:
            with _NothingQuoted():
                facts = self.redactor(facts)
            if not isinstance(facts, dict):
                raise DataError(f"profile.redact_hook: expected a dict, got {type(facts).__name__}")
        messages: list[tuple[str, str]] = []

        def message(role: str, caller: Any) -> str:
            if role not in ROLES:
                raise ConfigError(
                    f"prompt {self.path}: expected a role among {', '.join(ROLES)}, got '{role}'"
                )
            messages.append((role, str(caller()).strip()[:MAX_MESSAGE]))
            return ""

        try:
            self._template.render(facts=_cleaned(facts), message=message)
        except jinja2.TemplateError as error:
            raise ConfigError(f"prompt {self.path}: {error}") from None
        if not messages or messages[-1][0] != "user":
            raise ConfigError(
                f"prompt {self.path}: expected the last message to be the user's, got "
                f"{messages[-1][0] + chr(39) + 's' if messages else 'no message'}"
            )
        return Prompt(user_id, tuple(messages), PROFILE_SCHEMA, self.max_tokens, SCHEMA_VERSION)

    def prompts(self, table: FactTable, rows: Iterable[int]) -> Iterator[Prompt]:
        """Prompts about the users in those rows, written as they are asked for."""
        for row in rows:
            yield self.write(str(table.user_ids[row]), table.of(int(row)))


class _NothingQuoted:
    """An error of a redactor may quote what it is there to keep back: its kind alone is told."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if kind is not None and issubclass(kind, Exception):
            raise DataError(
                f"profile.redact_hook: expected a dict, got {kind.__name__} for one of the users"
            ) from None


def _cleaned(value: Any) -> Any:
    """Every text of the facts as one line of plain text; names of attributes as well."""
    if isinstance(value, str):
        return clean(value, MAX_VALUE)
    if isinstance(value, dict):
        return {clean(str(k), MAX_VALUE): _cleaned(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(v) for v in value]
    return value
