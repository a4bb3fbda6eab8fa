"""Write the tables of docs/ from the committed records: ``python benchmarks/write_docs.py``.

Each table stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` in a Markdown file. With
``--check`` nothing is written and the exit code is 1 if a table is not what its records say.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_choir.experiments.groups_command import downstream
from recbole_choir.experiments.markdown import gains
from recbole_choir.experiments.record_store import (
    folders_with_records,
    read_record,
    read_records,
)
from recbole_choir.experiments.summary import CHOSEN, DIFFERENCES, SIGNIFICANCE
from recbole_choir.experiments.tables import SEGMENTS, markdown_tables, to_markdown
from recbole_choir.semantic.quality.compare import comparison_table

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
#: Records of studies and comparisons, a folder each; most are packed.
STUDIES = ROOT / "docs" / "records"
PAGES = tuple(
    ROOT / "docs" / f"{name}.md"
    for name in (
        "results",
        "core",
        "performance",
        "semantic-ids",
        "soft-groups",
        "profiles",
        "gaps",
        "reliability",
    )
)
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _read(name: str) -> Any:
    return json.loads((RECORDS / f"{name}.json").read_text())


def gauc() -> str:
    """Seconds for GAUC on a million rows."""
    record = _read("gauc")
    fastest = record["results"][0]["seconds"]
    rows = {
        r["name"]: {"seconds": f"{r['seconds']:.3f}", "x": f"{r['seconds'] / fastest:.1f}"}
        for r in record["results"]
    }
    return to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "method")


def model_speed() -> str:
    """Training rows per second, a table for each setting that was measured."""
    parts = []
    for setting, record in _read("model_speed").items():
        rows = {
            name: {
                "rows/s": f"{m['rows_per_second']:,}",
                "ms a step": f"{m['ms_per_step']:.1f}",
                "cost, Base = 1": f"{m['cost_relative_to_base']:.2f}",
                "parameters": f"{m['parameters']:,}",
            }
            for name, m in record["models"].items()
        }
        table = to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "model")
        parts.append(f"{setting}:\n\n{table}")
    return "\n\n".join(parts)


def rq_kmeans() -> str:
    """Time to fit and relative reconstruction error of residual quantisation."""
    names = {"chained": "chained faiss.Kmeans", "ours": "RQKMeans", "residual": "beam 1"}
    table: dict[str, dict[str, str]] = {}
    for r in _read("rq_kmeans")["results"]:
        row = table.setdefault(f"{r['rows']:,} x {r['dims']}", {})
        name = names.get(r["quantizer"], r["quantizer"])
        row[name] = f"{r['fit_s']:.2f} s ({r['fit_over_chained']:.2f} x), {r['error']:.4f}"
    return to_markdown(pd.DataFrame.from_dict(table, orient="index"), "rows x dimensions")


def quantizers() -> str:
    """Which quantiser keeps neighbours together: means over seeds."""
    rows = pd.DataFrame(_read("quantizers")["results"])
    table: dict[str, dict[str, str]] = {}
    for keys, r in rows.groupby(["vectors", "quantizer"], sort=False):
        name, kind = (str(k) for k in keys)
        first = r.iloc[0]
        shape = f"{name} ({first['n']:,} x {first['dims']}, K {first['k']})"
        row = table.setdefault(shape, {"any two": f"{first['any']:.3f}"})
        spread = f" ± {r['cosine'].std():.3f}" if len(r) > 1 else ""
        row[kind] = f"{r['cosine'].mean():.3f}{spread}, {r['lost'].mean():.1%}"
        row[kind] += f", {r['fit_s'].mean():.1f} s"
    return to_markdown(pd.DataFrame.from_dict(table, orient="index"), "vectors")


def data_path() -> str:
    """Seconds from files to batches."""
    record = _read("data_path")
    rows = {name: {"seconds": f"{seconds:.2f}"} for name, seconds in record["seconds"].items()}
    table = to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "step")
    speed = record["batches_rows_per_second"]
    total = sum(record["rows"].values())
    return f"{total:,} rows; batches of {record['batch']} at {speed:,} rows/s:\n\n{table}"


def groups() -> str:
    """What groupings know before any model is trained."""
    table: dict[str, dict[str, str]] = {}
    for name, quality in read_records(STUDIES / "quality").items():
        lift = {row["segment"]: row for row in quality["lift_gauc"]}
        last = quality["snapshots"][-1]
        table[Path(name).stem.replace("-", " ").replace("ml ", "ml-")] = {
            "groups": str(last["groups"]),
            "rows with a group": f"{lift['all']['with_group']:.1%}",
            "all": f"{lift['all']['gauc']:.4f} ({lift['all']['random']:.4f})",
            "level 5": f"{lift['level_5']['gauc']:.4f} ({lift['level_5']['random']:.4f})",
            "attribute mode": f"{last['attribute_consistency']['mean']:.1%}",
            "of all users": f"{last['attribute_consistency']['population']:.1%}",
        }
    return to_markdown(pd.DataFrame.from_dict(table, orient="index"), "dataset, input")


#: Groupings in the order of the tables; those without a record are left out.
GROUPINGS = (
    "user ids of Base",
    "template + MiniLM",
    "text parts",
    "SmolLM2 + MiniLM",
    "aligned",
    "behaviour",
    "random",
)


def groupings(folder: str, trained: str | None = None, dataset: str = "ml-100k") -> str:
    """What ``recbole-choir groups`` measured, next to what models gained with the groups."""
    records = {record["name"]: record for record in read_records(STUDIES / folder).values()}
    gained = downstream(STUDIES / trained, dataset) if trained else None
    return comparison_table([records[name] for name in GROUPINGS if name in records], gained)


def profile_throughput() -> str:
    """Profiles a second: the client alone, over a million prompts, and next to the real server."""
    record = _read("profile_throughput")
    rows = {}
    for key, r in record.items():
        if key.startswith("instant"):
            clients = f", {r['processes']} clients" if r["processes"] > 1 else ""
            rows[f"a server that answers at once{clients}"] = f"{r['best_profiles_per_second']:,}/s"
        elif key == "memory":
            growth = r["growth_after_first_quarter_mb"]
            what = f"{r['prompts']:,} streamed prompts: memory from the first quarter to the end"
            rows[what] = f"{growth:+.1f} MB"
        elif key == "real":
            what = f"llama.cpp's server, SmolLM2, {r['concurrency']} at a time: tokens/s, ours"
            rows[f"{what} over the server's own"] = f"{r['median_ratio']:.3f}"
    table = pd.DataFrame.from_dict({k: {"measured": v} for k, v in rows.items()}, orient="index")
    return to_markdown(table, "profiles")


def published() -> str:
    """RecBole's own models on its own protocol, next to what it published."""
    table: dict[str, dict[str, str]] = {}
    for record in read_records(STUDIES / "recbole-published").values():
        table[record["cell"]] = {
            "rows": f"{sum(record['rows'].values()):,}",
            "AUC": f"{record['test']['auc']:.4f}",
            "LogLoss": f"{record['test']['logloss']:.4f}",
            "epochs": str(len(record["history"])),
        }
    return to_markdown(pd.DataFrame.from_dict(table, orient="index"), "model")


#: Users by activity, and what AKT-Rec's Table 1 tells apart: heads and tails.
HEAD_TAIL = (
    "all",
    "tail_items",
    "head_items",
    "tail_users",
    "head_users",
    "new_users",
    "new_items",
)


#: Everything that is told apart.
WIDE = (
    *("all", "tail_users", "tail_items", "low", "level_1", "level_2", "level_3", "level_4"),
    *("level_5", "head_users", "head_items", "new_users", "new_items"),
)
#: Users by activity, those never seen among them.
ACTIVITY = ("all", "low", "level_1", "level_2", "level_3", "level_4", "level_5", "new_users")
NO_RECORD = "No record yet."


def study(name: str, segments: Sequence[str] = SEGMENTS) -> Callable[[], str]:
    """Tables of a study, once it has been run."""
    folder = STUDIES / name
    return lambda: markdown_tables(folder, segments=segments) if read_records(folder) else NO_RECORD


class Page:
    """The page that ``recbole-choir compare`` wrote of a comparison, ``comparison.md``.

    Attributes:
        head: The command that made it, and what its numbers are.
        parts: Title -> text of each part.
    """

    def __init__(self, path: Path) -> None:
        head, *parts = re.split(r"^### ", path.read_text(), flags=re.MULTILINE)
        self.head = head.split("\n\n")[1:3]
        self.parts = {title: text for title, _, text in (part.partition("\n") for part in parts)}

    @classmethod
    def of(cls, name: str) -> Page | None:
        """The page of a folder of records; None where no such comparison has been run."""
        path = STUDIES / name / "comparison.md"
        return cls(path) if path.is_file() else None

    def table(self, title: str, caption: str = "") -> pd.DataFrame:
        """A table of a part, as text, rows by their names."""
        part = self.parts[title]
        lines = part[part.index(f"**{caption}**") if caption else 0 :].split("\n| ")[1:]
        rows = [line.split("\n\n")[0].strip(" |\n").split(" | ") for line in lines]
        size = next((i for i, line in enumerate(lines) if "\n\n" in line), len(rows)) + 1
        (_, *columns), _, *cells = rows[:size]
        return pd.DataFrame([row[1:] for row in cells], [row[0] for row in cells], columns)


def _gains(dataset: str, models: Sequence[str]) -> pd.DataFrame:
    """Relative gain over Base in GAUC, in percent, with the marks of its tests; Base: nothing."""
    tests = read_record(STUDIES / f"compare-{dataset}" / SIGNIFICANCE)
    table = gains(tests, list(models), "Base", ("all", "low"))
    table.loc["Base"] = ""
    return table


def compared(dataset: str) -> Callable[[], str]:
    """A comparison in one table; its own page, which is longer, has every segment and test."""

    def table() -> str:
        page = Page.of(f"compare-{dataset}")
        if page is None:
            return NO_RECORD
        gauc = page.table("Overall and low activity", "test GAUC")
        for title in ("Head and tail", "New users and items"):
            gauc = gauc.join(page.table(title, "test GAUC").drop(columns="runs"))
        gain = _gains(dataset, gauc.index)
        chosen = page.table("Search")["chosen"].reindex(gauc.index).fillna("")
        segments = [
            segment
            for segment in ("all", "low", "tail_items", "new_users")
            if (gauc[segment] != "-").any()  # a set may have no new users
        ]
        table = pd.DataFrame({s: gauc[s].str.partition(" ± ")[0] for s in segments})
        table["all"] = gauc["all"]
        table["gain, %"], table["gain, low, %"] = gain["all"], gain["low"]
        auc = page.table("Overall and low activity", "test AUC")
        table["AUC"] = auc["all"].str.partition(" ± ")[0]
        table["chosen rate, epochs"] = chosen.str.replace(
            r"learning_rate = ([\d.]+), epochs = (\d+)",
            lambda m: f"{float(m[1]):.4f}, {m[2]}",
            regex=True,
        )
        table = table.rename(columns={s: f"GAUC {s.replace('_', ' ')}" for s in segments})
        return "\n\n".join([*page.head, to_markdown(table, "model")])

    return table


def comparison_parts(name: str, *titles: str) -> Callable[[], str]:
    """Parts of a comparison's own page whose title has one of these words."""

    def parts() -> str:
        page = Page.of(name)
        if page is None:
            return NO_RECORD
        kept = [
            f"**{title}**\n{text.rstrip()}"
            for title, text in page.parts.items()
            if any(word in title for word in titles)
        ]
        return "\n\n".join([*page.head, *kept])

    return parts


#: Comparisons of all models, in the order of the overview.
COMPARED = ("ml-100k", "complete-journey", "amazon-2014-beauty")


#: Slices on which the core was chosen: folder -> name in tables.
SLICES = {
    "complete-journey": "Complete Journey",
    "beauty": "Beauty",
    "ta-feng": "Ta-Feng",
}


def _studies(prefix: str) -> list[Path]:
    """Folders of records whose names begin so, sorted."""
    return [path for path in folders_with_records(STUDIES) if path.name.startswith(prefix)]


def _cells(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of a study's seeds and averages by cell, in the order of the files."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for record in read_records(folder).values():
        if record.get("role") in ("seed", "average") and "segments" in record:
            cells.setdefault(record["cell"], []).append(record)
    return cells


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f}"


def chosen_core(what: str, last: Sequence[str] = ()) -> Callable[[], str]:
    """Validation and test GAUC of the cells of ``<what>-<slice>``, means over seeds."""

    def table() -> str:
        rows: dict[str, dict[str, str]] = {}
        for folder, title in SLICES.items():
            for cell, records in _cells(STUDIES / f"{what}-{folder}").items():
                row = rows.setdefault(cell, {})
                row[f"{title}, valid"] = _mean([r["best_valid"]["gauc"] for r in records])
                row[f"{title}, test"] = _mean([r["segments"]["all"]["gauc"] for r in records])
                for figure in last:
                    ends = [r["history"][-1]["diagnostics"].get(figure) for r in records]
                    short = figure.removeprefix("attention_").removesuffix("_history")
                    there = [end for end in ends if end is not None]
                    digits = 4 if "entropy" in figure else 3
                    row[f"{title}, {short.replace('_', ' ')}"] = (
                        f"{statistics.mean(there):.{digits}f}" if there else "-"
                    )
        parts = []
        for title in SLICES.values():  # a table a slice: one would not fit a page
            frame = pd.DataFrame.from_dict(
                {
                    cell: {k.removeprefix(f"{title}, "): v for k, v in row.items() if title in k}
                    for cell, row in rows.items()
                },
                orient="index",
            ).dropna(how="all")
            if frame.empty:
                continue
            best = frame["valid"].astype(float).idxmax()
            frame.loc[best, "valid"] = f"**{frame.loc[best, 'valid']}**"
            parts.append(f"{title}:\n\n{to_markdown(frame.fillna('-'), what)}")
        return "\n\n".join(parts)

    return table


def distillation() -> str:
    """Validation and test GAUC of each reading of Eq. 9, and what distillation weighs."""
    rows: dict[str, dict[str, str]] = {}
    for cell, records in _cells(STUDIES / "distillation").items():
        row = rows.setdefault(cell, {})
        row["valid"] = _mean([r["best_valid"]["gauc"] for r in records])
        row["test"] = _mean([r["segments"]["all"]["gauc"] for r in records])
        row["test, low"] = _mean([r["segments"]["low"]["gauc"] for r in records])
        for figure, title in (
            ("kd_grad_ratio_group", "gradient over BCE's"),
            ("mean_alpha_distill", "alpha_distill"),
        ):
            ends = [r["history"][-1]["diagnostics"].get(figure) for r in records]
            there = [end for end in ends if end is not None]
            row[title] = f"{statistics.mean(there):.2g}" if there else "-"
        row["seeds"] = str(len(records))
    return to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "row")


def gap_cells(first: str, figures: dict[str, str], *, ends: bool = False) -> Callable[[], str]:
    """Cells of docs/records/gaps-ml-100k whose names have one of the beginnings, means over seeds.

    Args:
        first: Beginnings of names, a regular expression.
        figures: Column -> diagnostic of the last epoch.
        ends: The first epoch's diagnostics as well, and no metrics.
    """

    def table() -> str:
        rows: dict[str, dict[str, str]] = {}
        for cell, records in _cells(STUDIES / "gaps-ml-100k").items():
            if not re.match(first, cell):
                continue
            row = rows.setdefault(cell, {})
            if not ends:
                for metric in ("auc", "gauc", "logloss"):
                    row[metric] = _mean([r["segments"]["all"][metric] for r in records])
            for title, figure in figures.items():
                for which, epoch in ((", first epoch", 0), (", last", -1)) if ends else (("", -1),):
                    found = [r["history"][epoch]["diagnostics"][figure] for r in records]
                    row[title + which] = f"{statistics.mean(found):.3g}"
            row["seeds"] = str(len(records))
        return to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "row")

    return table


def gap_findings() -> str:
    """What docs/gaps.md counts in tables, without a trained model."""
    record = _read("gap_findings")
    rows: dict[str, str] = {}
    for name, b in record["back_off"].items():
        rows[f"C12, A18: groups that are read, {name}"] = (
            f"{b['read']}, {b['prefixes']} of them prefixes that others back off to"
        )
        rows[f"C12, A18: readers and members of one of these, {name}"] = (
            f"{b['readers'][0]} to {b['readers'][1]} read it, {b['members'][0]} to"
            f" {b['members'][1]} are its members"
        )
    told, snapshot, cells = record["windows"], record["trained_vectors"], record["cells"]
    rows["C19: texts that tell all three windows"] = f"{told['three_windows']} of {told['texts']}"
    rows["C19: of these, something in the medium or the long one"] = f"{told['older']:.0%}"
    rows["C28: users with a trained vector"] = (
        f"{snapshot['users_with_group']} of {snapshot['users']}"
    )
    for name in ("before", "after", "popularity"):
        hit = record["hit_rates"][name]
        title = {"before": "text", "after": "aligned"}.get(name, name)
        rows[f"A12: hit rate at 10 and 30, {title}"] = (
            f"{hit['hit_rate_10']:.3f}, {hit['hit_rate_30']:.3f}"
        )
    rows["5.5: cells of equal attributes"] = (
        f"{cells['cells']}, {cells['users_alone']:.0%} of the users alone in theirs"
    )
    for level in record["lift"]:
        rows[f"5.5: lift GAUC, random members, within cells, beyond: {level['segment']}"] = (
            f"{level['gauc']:.3f}, {level['random']:.3f}, {level['within_cells']:.3f},"
            f" {level['beyond_attributes']:+.3f}"
        )
    return to_markdown(pd.Series(rows, name="ml-100k").to_frame(), "figure")


def searched(of_models: bool) -> Callable[[], str]:
    """What 24 trials chose and what the defaults had reached: of Base alone, or of other models.

    A search of another model has a Base of its own, on the same rows: the two belong together, and
    not to the Base of another share of the users.
    """

    def table() -> str:
        rows: dict[str, dict[str, str]] = {}
        for folder in _studies("search-"):
            entries = read_record(folder / CHOSEN) or ()
            if of_models != (len(entries) > 1):
                continue
            for entry in entries:
                where = folder.name.removeprefix("search-") if of_models else entry["dataset"]
                point = ", ".join(f"{k} {v:g}" for k, v in entry["point"].items())
                rows[f"{where}: {entry['row']}"] = {
                    "trials": f"{entry['trials']} ({entry['pruned']} stopped)",
                    "defaults": f"{entry['defaults']:.4f}" if entry["defaults"] else "-",
                    "valid GAUC": f"{entry['value']:.4f}",
                    "chosen": point,
                }
        return to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "search: row")

    return table


def standing() -> str:
    """What stands on the core: test GAUC of every row by dataset, all and low activity."""
    parts = []
    for folder in _studies("core-"):
        cells = _cells(folder)
        first = ["Base before", "Base", "two Base seeds averaged", "BaseMM"]
        names = [*first, *sorted(set(cells) - set(first))]
        found = read_record(folder / DIFFERENCES) or ()
        gaps = {(d["cell"], d["against"], d["segment"]): d for d in found}
        rows: dict[str, dict[str, str]] = {}
        for cell in (name for name in names if name in cells):
            records, row = cells[cell], rows.setdefault(cell, {})
            valid = [r["best_valid"]["gauc"] for r in records if "best_valid" in r]
            row["valid"] = _mean(valid) if valid else "-"
            for segment in ("all", "low"):
                row[segment] = _mean([r["segments"][segment]["gauc"] for r in records])
                gap = gaps.get((cell, "Base", segment))
                row[f"{segment}, over Base"] = (
                    f"{gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]" if gap else ""
                )
            row["seeds"] = str(len(records))
        frame = pd.DataFrame.from_dict(rows, orient="index")
        parts.append(f"{folder.name.removeprefix('core-')}:\n\n{to_markdown(frame, 'row')}")
    return "\n\n".join(parts)


def overview() -> str:
    """Relative gain in GAUC over Base of every model on every set compared."""
    columns: dict[str, pd.Series] = {}
    models: list[str] = []  # in the order in which they first come
    for dataset in COMPARED:
        page = Page.of(f"compare-{dataset}")
        if page is None:
            continue
        order = page.table("Overall and low activity", "test GAUC").index
        models += [m for m in order if m not in {*models, "Base"}]
        gain = _gains(dataset, order)
        for segment in ("all", "low"):
            columns[f"{dataset}, {segment}"] = gain[segment]
    if not columns:
        return NO_RECORD
    return to_markdown(pd.DataFrame(columns).reindex(models).fillna(""), "model")


def soft_cost() -> str:
    """Seconds a snapshot of soft groups and rows a second of their lifts."""
    if not (RECORDS / "soft_groups.json").is_file():
        return NO_RECORD
    rows = {}
    for r in _read("soft_groups")["results"]:
        total, speed = r["seconds_a_snapshot"], r["lift_rows_per_second"]
        rows[f"{r['users']:,} users, {r['purchases']:,} purchases"] = {
            "spaces, s": f"{r['seconds']['spaces']:.1f}",
            "neighbours, s a snapshot": f"{total['neighbours']:.1f}",
            "prototypes": f"{total['prototypes']:.1f} ({r['neighbours_over']['prototypes']:.1f} x)",
            "factors": f"{total['factors']:.1f} ({r['neighbours_over']['factors']:.1f} x)",
            "lifts, rows/s: neighbours": f"{speed['neighbours']:,}",
            "of prototypes": f"{speed['prototypes']:,}",
            "of factors": f"{speed['factors']:,}",
        }
    return to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "made-up purchases")


def soft_tune(name: str, first: str) -> Callable[[], str]:
    """Choices made on validation alone: cells from the best down, next to the first."""

    def table() -> str:
        records = [r for r in read_records(STUDIES / name).values() if "best_valid" in r]
        if not records:
            return NO_RECORD
        reference = next(r for r in records if r["cell"] == first)
        rows = {}
        for r in sorted(records, key=lambda r: -r["best_valid"]["gauc"]):
            gain = r["best_valid"]["gauc"] - reference["best_valid"]["gauc"]
            rows[r["cell"]] = {
                "valid GAUC": f"{r['best_valid']['gauc']:.4f}",
                "over the first": "" if r is reference else f"{gain:+.4f}",
            }
        return to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "setting")

    return table


def budgets() -> str:
    """What each study and comparison costs, by the seconds in its records."""
    rows = {}
    for folder in _studies(""):
        found = read_records(folder).values()
        records = [r for r in found if isinstance(r.get("seconds"), dict)]
        if not records:
            continue
        spent = [sum(r["seconds"].values()) for r in records]
        rows[folder.name] = {
            "datasets": ", ".join(sorted({r["dataset"] for r in records})),
            "runs": str(len(records)),
            "median run, s": f"{statistics.median(spent):.0f}",
            "in all, core minutes": f"{sum(spent) / 60:.0f}",
        }
    return to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "records")


def kill_runs() -> str:
    """Counts of each mode of the benchmark, what must be 0 among them."""
    record = _read("kill_runs")
    rows = {
        mode: {
            "kills": str(found["kills"]),
            "of them": "; ".join(
                f"{found[name]} {name}"
                for name in (
                    *("before the first epoch", "with a checkpoint"),
                    *("killed runs with a record that says so", "workers at work when killed"),
                )
                if name in found
            ),
            "runs in the end": str(found.get("runs", "-")),
            "lost, run again, other than without kills": "; ".join(
                f"{found[name]} {name}"
                for name in (
                    *("finished runs lost", "finished runs run again", "runs missing"),
                    *("runs with other figures", "workers left", "wrong exit codes"),
                )
                if name in found
            )
            or f"{found['runs'] - found['bit-identical']} not bit-identical",
        }
        for mode in ("training", "compare", "parent")
        if (found := record.get(mode))
    }
    return to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "killed")


def kill_profiles() -> str:
    """What kills of the profile stage cost."""
    if not (RECORDS / "kill_profiles.json").is_file():
        return NO_RECORD
    record = _read("kill_profiles")
    return to_markdown(pd.DataFrame.from_dict({"": {k: f"{v:,}" for k, v in record.items()}}).T, "")


def file_checks() -> str:
    """What looking at a dataset's files costs next to reading them."""
    record = _read("file_checks")
    row = {
        "looking, s": f"{record['looking_s']:.2f}",
        "reading, s": f"{record['reading_s']:.2f}",
        "looking over reading": f"{record['looking_over_reading']:.1%}",
        "more memory, MiB": str(record["more_memory_mib"]),
    }
    return to_markdown(pd.DataFrame.from_dict({record["dataset"]: row}, orient="index"), "dataset")


def core_step() -> str:
    """Milliseconds of a training step, and over those of the core before the repair."""
    rows = {
        name: {
            "before, ms": f"{one['earlier_ms']:.1f}",
            "now, ms": f"{one['now_ms']:.1f}",
            "ratio": f"{one['ratio']:.2f}",
        }
        for name, one in _read("core_step")["models"].items()
    }
    return to_markdown(pd.DataFrame.from_dict(rows, orient="index"), "model")


def table_seal() -> str:
    """Seconds that the seal of a table costs, next to what a run does anyhow."""
    record = _read("table_seal")
    whole = record["seconds"]["read_the_dataset"]
    title = f"{record['dataset']}, {record['rows']:,} rows, {record['snapshots']} snapshots"
    rows = {
        name.replace("_", " "): {
            "seconds": f"{s:.3f}",
            "of reading the dataset": f"{s / whole:.1%}",
        }
        for name, s in record["seconds"].items()
    }
    return to_markdown(pd.DataFrame.from_dict(rows, orient="index"), title)


TABLES: dict[str, Callable[[], str]] = {
    "attention": chosen_core(
        "attention", ("attention_entropy_history", "attention_logit_sd_history")
    ),
    "decay": chosen_core("decay"),
    "base-search": searched(of_models=False),
    "model-search": searched(of_models=True),
    "distillation": distillation,
    "gap-distillation": gap_cells(
        "kd_|sum",
        {
            "z_group": "kd_grad_ratio_group",
            "alpha": "kd_grad_ratio_alpha",
            "mean alpha_distill": "mean_alpha_distill",
        },
        ends=True,
    ),
    "gap-unseen": gap_cells("unseen", {"Spearman of users' r and activity": "r_user_spearman"}),
    "gap-findings": gap_findings,
    "core": standing,
    "budgets": budgets,
    "overview": overview,
    **{f"compare-{name}": compared(name) for name in COMPARED},
    "sweeps-ml-100k": comparison_parts("compare-ml-100k", "K of", "lambda of", "Gates"),
    "ablation-akt": comparison_parts("ablation-akt", "Overall", "Ablation", "Gates"),
    "baselines-ml-1m": study("baselines-ml-1m", WIDE),
    "zoo-ml-1m": study("zoo-ml-1m", HEAD_TAIL),
    "baselines-claims": study("baselines-claims", HEAD_TAIL),
    "melt-amazon": study("melt-amazon", WIDE),
    "soft-cost": soft_cost,
    "soft-tune": soft_tune("soft-tune", "k 300, power 3, prior 300, 8 snapshots"),
    "soft-tune-join": soft_tune("soft-tune-join", "lifts"),
    "soft-tune-factors": soft_tune("soft-tune-factors", "factors, SVD 128"),
    "soft-tune-ta-feng": soft_tune("soft-tune-ta-feng", "Base, rate .002, 1 epoch"),
    "soft-tune-globo": soft_tune("soft-tune-globo", "Base, rate .002, 1 epoch"),
    "soft-complete-journey-sparse": study("soft-complete-journey-sparse", ACTIVITY),
    "soft-complete-journey": study("soft-complete-journey", ACTIVITY),
    "soft-text-complete-journey-sparse": study("soft-text-complete-journey-sparse", ACTIVITY),
    "soft-ta-feng": study("soft-ta-feng", ACTIVITY),
    "soft-globo": study("soft-globo", ACTIVITY),
    "soft-ml-1m": study("soft-ml-1m", ACTIVITY),
    "soft-ml-100k": study("soft-ml-100k", ACTIVITY),
    "gauc": gauc,
    "kill-runs": kill_runs,
    "kill-profiles": kill_profiles,
    "core-step": core_step,
    "file-checks": file_checks,
    "table-seal": table_seal,
    "model-speed": model_speed,
    "rq-kmeans": rq_kmeans,
    "quantizers": quantizers,
    "groups": groups,
    "recbole-published": published,
    "data-path": data_path,
    "groups-ml-100k": lambda: groupings("groups-ml-100k", "profiles-ml-100k"),
    "groups-ml-1m": lambda: groupings("groups-ml-1m"),
    "profile-throughput": profile_throughput,
    "profiles-ml-100k": study("profiles-ml-100k"),
    "ml-100k": study("ml-100k"),
    "ml-1m": study("ml-1m"),
    "akt-parts": study("akt-parts", HEAD_TAIL),
    "akt-ml-1m": study("akt-ml-1m", HEAD_TAIL),
    "akt-complete-journey": study("akt-complete-journey", HEAD_TAIL),
    "ml-100k-ablation": study("ml-100k-ablation"),
}


def rendered(text: str) -> str:
    """The page with every table written again."""
    return BLOCK.sub(lambda m: f"{m[1]}\n{TABLES[m['name']]().strip()}\n\n{m[3]}", text)


def main(check: bool) -> int:
    """Write the pages, or only tell which are not up to date."""
    stale = []
    for page in PAGES:
        old = page.read_text()
        new = rendered(old)
        if new != old:
            stale.append(page.name)
            if not check:
                page.write_text(new)
    print(f"{'not up to date' if check else 'written'}: {', '.join(stale) or 'none'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv[1:]))
