"""The figures in README.md, deploy/PERFORMANCE.md and deploy/SCALING.md.

Guarantees: no figure there is typed by hand; each block is replaced between its two comments, from the JSON of the last
full run and of the last run of what grows. Where a figure was never measured, the block stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.benchmarks import commands, fairness, fleet, pages, report, retry, sizes
from tests.benchmarks.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.benchmarks.report import Results

SERVERS: Final = ("ingress", "ingest", "handlers", "express", "housekeeping", "beat", "redis", "postgres")


def update_all(root: Path = ROOT) -> list[Path]:
    """Replace the blocks; return the files that are new."""
    full, growth, fair = report.read_json("full"), report.read_json("growth"), report.read_json("fairness")
    many, each, big = report.read_json("fleet"), report.read_json("sizes"), report.read_json("commands")
    grown = farthest(full, growth)
    readme, performance = root / "README.md", root / "deploy" / "PERFORMANCE.md"
    blocks = (
        (readme, "performance", readme_block(full) if full.get("rounds") else None),
        (readme, "fairness", fairness_summary(fair) if fair else None),
        (performance, "figures", performance_block(full, grown) if full.get("rounds") else None),
        (performance, "fairness", fairness_block(fair) if fair else None),
        (performance, "commands", commands_block(big) if big else None),
        (performance, "pages", pages.block(found) if (found := report.read_json("pages")) else None),
        (performance, "retry", retry.block(found) if (found := report.read_json("retry")) else None),
        (root / "deploy" / "SCALING.md", "figures", scaling_block(growth or full, grown)),
        (root / "deploy" / "SCALING.md", "fleet", fleet_block(many) if many else None),
        (root / "deploy" / "SCALING.md", "sizes", sizes_block(each) if each else None),
    )
    return [path for path, name, block in blocks if block and replace(path, name, block)]


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


def readme_block(full: Results) -> str:
    """Return the README's short table and where it comes from."""
    rows = [row[:4] for target, row in report.rows_by_target(full) if target.in_readme]
    return f"{_about(full)}\n\n{report.markdown(rows, ('figure', 'ours', 'other', 'ratio'))}"


def performance_block(full: Results, grown: Results) -> str:
    """Return every figure with its bounds, why one is missed, and what grows."""
    rows = [
        [*row[:4], f"{row[5]} / {row[6]}", f"{row[7]}: {target.note}" if row[7] == "missed" and target.note else row[7]]
        for target, row in report.rows_by_target(full)
    ]
    figures = report.markdown(rows, ("figure", "ours", "other", "ratio", "must / aim", "reached"))
    curves = report.curve_rows(grown)
    growth = (
        f"\n\nCost of one at the first and the last point; the last may be at most {report.FLAT} times the first.\n\n"
        f"{report.markdown(curves, report.CURVE_HEADINGS)}"
        if curves
        else ""
    )
    return f"{_about(full)}\n\n{figures}{growth}"


def fairness_block(fair: Results) -> str:
    """Return how a quiet tenant fares beside each flood."""
    about = f"{fair['events']:,} quiet events a row or more, load average {fair['load']:.1f} when it began."
    return f"{about}\n\n{report.markdown(fairness.rows_of(fair), fairness.HEADINGS)}"


def fairness_summary(fair: Results) -> str:
    """Return the same in one sentence: the worst of each kind of flood."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in fair["rows"].values():
        kinds.setdefault(row["kind"], []).append(row)
    worst = {kind: max(row["disk"]["ratio"] for row in found) for kind, found in kinds.items()}
    parts = (f"{kind} {ratio:.2g} (at most {kinds[kind][0]['must']:g})" for kind, ratio in worst.items())
    about = (
        f'`make bench ARGS="fairness"`, {fair["events"]:,} events a row: a quiet tenant\'s p99 beside floods ÷ alone'
    )
    return f"{about}: {'; '.join(parts)}."


def commands_block(big: Results) -> str:
    """Return how long commands take in a big installation."""
    return f"{commands.about(big)}\n\n{report.markdown(commands.rows_of(big), commands.HEADINGS)}"


def fleet_block(many: Results) -> str:
    """Return what an event costs in a fleet, against one of each process."""
    pairs = len(next(iter(many["turns"].values()))["fleet"])
    about = (
        f'`make bench ARGS="fleet"`, {pairs} pairs for each load, {many["cores"]} cores, load {many["load"]:.1f} '
        "when it began: CPU of an event in the fleet ÷ with one of each."
    )
    tables = (
        f"Load: {load} ({' and '.join(f'{rate:,} /s' for rate in rates)})\n\n"
        f"{report.markdown(fleet.rows_of(many, load), fleet.HEADINGS)}"
        for load, rates in fleet.LOADS.items()
    )
    return "\n\n".join([f"{about} {fleet.summary(many)}", *tables])


def sizes_block(each: Results) -> str:
    """Return what one process of each duty needs."""
    about = (
        f"`python -m tests.benchmarks sizes`, {each['at'][:10]}, {each['cores']} cores, load {each['load']:.1f} when "
        f"it began: one of each, {sizes.RATE} events a second for {sizes.SECONDS} seconds."
    )
    return f"{about}\n\n{report.markdown(sizes.rows_of(each), sizes.HEADINGS)}"


def _about(full: Results) -> str:
    machine, rounds = full["machine"], len(full["rounds"])
    return (
        f"{'One round' if rounds == 1 else f'Medians of {rounds} rounds'} on {machine['cores']} cores "
        f"({machine['system']}), load average {machine['load']:.1f} when it began. "
        "The ratio is taken within each round; `appendfsync always` for all."
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
    measured = (name for name in SERVERS if f"cpu {name}" in figures)  # an older run knew fewer
    cpu = {name: figures[f"cpu {name}"] * 1e6 for name in measured}  # µs per event, seconds per million
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
