"""Where the package's own files lie, in a checkout and installed alike."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def properties_dir() -> Path:
    """Folder with the package's YAML defaults.

    Returns:
        ``recbole_choir/properties`` when installed from a wheel, ``properties`` next to the package
        in a checkout.

    Raises:
        FileNotFoundError: The installation is damaged: neither folder is there.
    """
    for folder in (_PACKAGE / "properties", _PACKAGE.parent / "properties"):
        if (folder / "overall.yaml").is_file():
            return folder
    raise FileNotFoundError(
        f"the properties folder is missing from {_PACKAGE}: reinstall recbole-choir"
    )
