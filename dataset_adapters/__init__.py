"""From the datasets' official raw files to RecBole's atomic files."""

from .base import Adapter
from .raw import RawFile, RawFolder
from .registry import adapters, find_raw, get_adapter, prepare

__all__ = ["Adapter", "RawFile", "RawFolder", "adapters", "find_raw", "get_adapter", "prepare"]
