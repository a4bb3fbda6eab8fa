"""A small dataset as its user writes it, and what the door says to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from recbole_choir import cli

START = 1_600_000_000
HEADER = "user_id:token\titem_id:token\tlabel:float\ttimestamp:float\tplace:token\tprice:float\n"
#: What a run on the small files needs beyond their columns; one epoch on 240 rows.
COLUMNS = {
    "load_col.inter": "[user_id,item_id,label,timestamp,place,price]",
    "load_col.user": "[user_id,age,city]",
    "load_col.item": "[item_id,category,maker]",
    "context_fields": "[place,price]",
    "user_attr_fields": "[age,city]",
    "item_attr_fields": "[category,maker]",
    "epochs": "1",
}


def rows(n: int = 240) -> list[list[str]]:
    """Cells of ``.inter``: both labels in every part of the split, all columns without relation."""
    draw = random.Random(0)
    return [
        [
            f"u{i * 7 % 12}",
            f"i{i * 5 % 13}",
            str(draw.randrange(2)),
            str(START + 60 * i),
            f"p{draw.randrange(4)}",
            f"{draw.randrange(17)}.5",
        ]
        for i in range(n)
    ]


def text_of(cells: list[list[str]], header: str = HEADER) -> str:
    """The cells as an atomic file."""
    return header + "".join("\t".join(row) + "\n" for row in cells)


USERS = "user_id:token\tage:float\tcity:token\n" + "".join(
    f"u{k}\t{20 + k % 5}\tc{k % 3}\n" for k in range(12)
)
ITEMS = "item_id:token\tcategory:token\tmaker:token\n" + "".join(
    f"i{k}\tk{k % 4}\tm{k % 5}\n" for k in range(13)
)


def write_dataset(
    folder: Path,
    inter: str | bytes | None = None,
    user: str | bytes = USERS,
    item: str | bytes = ITEMS,
    **more: str | bytes,
) -> Path:
    """The dataset ``small`` in ``folder/data``; ``more`` are further files by suffix.

    Returns:
        The data path.
    """
    target = folder / "data" / "small"
    target.mkdir(parents=True, exist_ok=True)
    inter = text_of(rows()) if inter is None else inter
    for suffix, content in {"inter": inter, "user": user, "item": item, **more}.items():
        content = content.encode() if isinstance(content, str) else content
        (target / f"small.{suffix.replace('__', '.')}").write_bytes(content)
    return folder / "data"


@dataclass(frozen=True)
class Answer:
    """What the door said.

    Attributes:
        code: Exit code.
        err: Standard error; log lines of a run are in it.
        out: Standard output.
    """

    code: int
    err: str
    out: str

    @property
    def line(self) -> str:
        """The one line of the error; the test fails where there is none or more than one."""
        found = [x for x in self.err.splitlines() if "error: " in x]
        assert "Traceback" not in self.err
        assert "a bug of recbole-choir" not in self.err
        assert (self.code, len(found)) == (2, 1), f"exit {self.code}: {self.err or 'accepted'}"
        assert self.err.rstrip().splitlines()[-1] == found[0]
        return found[0]


Door = Callable[..., Answer]


def ask(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Answer:
    """Call the command line; an exception that comes out of it is a bug, and fails the test."""
    capsys.readouterr()
    try:
        code = cli.main([str(word) for word in argv])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    said = capsys.readouterr()
    return Answer(code, said.err, said.out)
