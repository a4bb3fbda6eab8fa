"""From the datasets' official raw files to RecBole's atomic files."""

from .base import Adapter
from .own_data import OwnData
from .raw import RawFile, RawFolder
from .registry import adapters, find_raw, get_adapter, prepare

__all__ = [
    "Adapter",
    "OwnData",
    "RawFile",
    "RawFolder",
    "adapters",
    "find_raw",
    "get_adapter",
    "prepare",
]
