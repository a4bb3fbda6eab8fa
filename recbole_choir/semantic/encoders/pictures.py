"""Pictures of items: told apart by their content, decoded when they are needed."""

from __future__ import annotations

import hashlib
from typing import Any

from recbole_choir.errors import ConfigError


class PictureFiles:
    """Reads picture files, each once for its digest and once for whether it can be decoded."""

    def __init__(self) -> None:
        self._digest: dict[str, str] = {}
        self._sound: dict[str, bool] = {}  # by digest

    def digest(self, path: str) -> str:
        """SHA-256 of the file, "" where it cannot be read."""
        if path not in self._digest:
            digest = hashlib.sha256()
            try:
                with open(path, "rb") as file:
                    while chunk := file.read(1 << 20):
                        digest.update(chunk)
                self._digest[path] = digest.hexdigest()
            except (OSError, ValueError):  # ValueError: no path at all, such as "\0"
                self._digest[path] = ""
        return self._digest[path]

    def is_sound(self, path: str) -> bool:
        """Whether the file holds a picture that can be decoded to its end."""
        digest = self.digest(path)
        if digest not in self._sound:
            self._sound[digest] = digest != "" and self.load(path) is not None
        return self._sound[digest]

    def load(self, path: str) -> Any:
        """The picture in RGB, None where it cannot be decoded.

        Raises:
            ConfigError: pillow is not installed.
        """
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError:
            raise ConfigError(
                "pictures: expected the package 'pillow', got none: pip install pillow"
            ) from None
        broken = (OSError, ValueError, SyntaxError, UnidentifiedImageError)
        try:
            with Image.open(path) as picture:
                return picture.convert("RGB")
        except (*broken, Image.DecompressionBombError):
            return None
