"""The figures in README.md and deploy/SCALING.md.

Guarantees: no figure there is typed by hand; each block is replaced between its two comments, from the JSON of the last
full run and of the last run of what grows. Where a figure was never measured, the block stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import report
from tests.benchmarks.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.benchmarks.report import Results

SERVERS: Final = ("ingress", "ingest", "handlers", "housekeeping", "beat", "redis", "postgres")


def update_all(root: Path = ROOT) -> list[Path]:
    """Replace the blocks; return the files that are new."""
    full, growth = report.read_json("full"), report.read_json("growth")
    grown = farthest(full, growth)
    blocks = {
        root / "README.md": ("performance", readme_block(full, grown) if full.get("rounds") else None),
        root / "deploy" / "SCALING.md": ("figures", scaling_block(growth or full, grown)),
    }
    return [path for path, (name, block) in blocks.items() if block and replace(path, name, block)]


def replace(path: Path, name: str, block: str) -> bool:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->`; say whether they are there."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = path.read_text() if path.exists() else ""
    if begin not in text or end not in text:
        return False
    before, rest = text.split(begin, 1)
    _, after = rest.split(end, 1)
    path.write_text(f"{before}{begin}\n{block}\n{end}{after}")
    return True


def farthest(full: Results, growth: Results) -> Results:
    """Return what grows, each section from the run that went farther, the later one if both did."""
    sections = dict(full.get("growth", {}))
    for name, section in growth.get("growth", {}).items():
        known = sections.get(name)
        if known is None or (section["full"], section["at"]) > (known["full"], known["at"]):
            sections[name] = section
    return {"growth": sections}


def readme_block(full: Results, grown: Results) -> str:
    """Return the README's table, where it comes from, and what grows in a line."""
    machine = full["machine"]
    rows = [[row[0], row[1], row[2], row[3], f"{row[5]} / {row[6]}"] for row in report.rows_of(full)]
    about = (
        f"Medians of {len(full['rounds'])} rounds on {machine['cores']} cores ({machine['system']}), load average "
        f"{machine['load']:.1f} when it began; the ratio is taken within each round, `appendfsync always` for all."
    )
    table = report.markdown(rows, ("figure", "ours", "other", "ratio", "must / aim"))
    return f"{about}\n\n{table}\n\n{growth_line(grown)}".rstrip()


def growth_line(grown: Results) -> str:
    """Return the verdicts on what grows: cost at the last point divided by the first."""
    verdicts = []
    for title, curve in report.everything(grown, "curves").items():
        for name, points in curve["lines"].items():
            if curve.get("flat") and points:
                (first_x, first), (last_x, last) = points[0], points[-1]
                verdicts.append(f"{name} ({title}, {first_x:,.5g} → {last_x:,.10g}) {last / first:.2f}")
    return (
        f"Cost of one at the last point ÷ the first (must ≤ {report.FLAT}): {'; '.join(verdicts)}." if verdicts else ""
    )


def scaling_block(run: Results, grown: Results) -> str | None:
    """Return the table of deploy/SCALING.md; None if the costs were never measured."""
    section = grown["growth"].get("costs", {})
    if "figures" not in section:
        return None
    figures, machine = section["figures"], run["machine"]
    about = f"`python -m tests.benchmarks --growth costs processes`, {section['at'][:10]}, {machine['cores']} cores."
    rows = [[letter, *row] for letter, row in zip("ABCDEFGHIJKL", _rows(figures, machine["cores"]), strict=False)]
    return f"{about}\n\n{report.markdown(rows, ('', 'figure', 'value', 'arithmetic'))}"


def _rows(figures: Mapping[str, Any], cores: int) -> list[list[str]]:
    cpu = {name: figures[f"cpu {name}"] * 1e6 for name in SERVERS}  # µs per event, seconds per million
    total = sum(cpu.values())
    rate = cores * 1e6 / total
    parts = ", ".join(f"{name} {value:,.0f}" for name, value in cpu.items())
    memory, file = figures["redis memory, waiting"], figures["redis file, written"]
    stored = {name: figures[f"postgres {name}"] for name in ("events", "receipts", "deliveries_done")}
    indexes = sum(figures[f"postgres {name}, of it indexes"] for name in stored)
    disk, log = sum(stored.values()), figures["postgres log, written"]
    tables = ", ".join(f"{name} {value:,.0f} B" for name, value in stored.items())
    outage = 0.75 * 1e9 / memory
    return [
        ["CPU per million events, all the way", f"{total:,.0f} s", f"seconds: {parts}"],
        ["a box of these cores holds", f"{rate:,.0f} events/s", f"{cores} cores * 1,000,000 ÷ A"],
        ["the same, measured", f"{figures['events_per_second']:,.0f} events/s", "load generator on the same cores"],
        ["one ingress process", f"{1e6 / cpu['ingress']:,.0f} acks/s", "1,000,000 ÷ its part of A: a core each"],
        ["one Redis", f"{1e6 / cpu['redis']:,.0f} events/s", "1,000,000 ÷ its part of A: one thread executes"],
        ["a core of Postgres", f"{1e6 / cpu['postgres']:,.0f} events/s", "1,000,000 ÷ its part of A"],
        ["a core of ingest workers", f"{1e6 / cpu['ingest']:,.0f} events/s", "the same"],
        [
            "a core of handler workers",
            f"{1e6 / cpu['handlers']:,.0f} deliveries/s",
            "the same; the handler does nothing",
        ],
        ["Redis, a million waiting", f"{memory / 1000:,.2f} GB", f"{file / 1000:,.2f} GB written to its file"],
        [
            "how long 1 GB of Redis bridges an outage of Postgres",
            f"{outage / rate / 60:,.0f} min at B",
            f"0.75 GB ÷ {memory:,.0f} B = {outage:,.0f} events",
        ],
        ["Postgres, a million stored", f"{disk / 1000:,.2f} GB", f"{tables}; of it indexes {indexes:,.0f} B"],
        ["write-ahead log, a million", f"{log / 1000:,.2f} GB", f"{log * rate / 1e6:,.1f} MB/s at B"],
    ]
