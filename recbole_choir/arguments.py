"""Arguments of a command whose mistakes are one line, as everywhere else."""

from __future__ import annotations

import argparse
from typing import NoReturn

from recbole_choir.errors import ConfigError


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, without its page of usage in front of an error."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong.

        Raises:
            ConfigError: One line that names the command.
        """
        raise ConfigError(f"{self.prog}: {' '.join(message.split())}; --help shows its arguments")
