"""Where prompt templates lie."""

from __future__ import annotations

import hashlib
from pathlib import Path

from recbole_choir.errors import ConfigError, nearest
from recbole_choir.paths import properties_dir


def template_path(template: str) -> Path:
    """File of a prompt template.

    Args:
        template: A path, or the name of one in ``properties/semantic/prompts``.

    Raises:
        ConfigError: There is no such template.
    """
    folder = properties_dir() / "semantic" / "prompts"
    for candidate in (Path(template).expanduser(), folder / f"{template}.jinja2"):
        if candidate.is_file():
            return candidate
    names = sorted(p.stem for p in folder.glob("*.jinja2"))
    raise ConfigError(
        f"profile.prompt: expected a file or one of {', '.join(names)}, got '{template}'"
        f"{nearest(template, names)}"
    )


def template_digest(template: str) -> str:
    """Digest of a template's text: another text, other prompts.

    Raises:
        ConfigError: There is no such template, or it cannot be read.
    """
    path = template_path(template)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"profile.prompt: '{path}' cannot be read: {error.strerror}") from None
