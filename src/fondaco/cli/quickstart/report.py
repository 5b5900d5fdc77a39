"""What the main job measured, and how it is printed. Every number here was measured in the run that prints it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from fondaco.cli.quickstart.graph import GraphFigures
from fondaco.cli.quickstart.live import Freshness, LiveFigures
from fondaco.cli.quickstart.model import GroupScore
from fondaco.cli.quickstart.tiers import TierFigures
from fondaco.core.units import format_bytes


@dataclass(frozen=True, slots=True)
class PushFigures:
    """One store that was pushed. `seconds` covers computing the values and pushing them."""

    store: str
    version: int
    previous: int | None
    records: int
    bytes: int
    compression: str
    seconds: float
    records_per_second: float


@dataclass(frozen=True, slots=True)
class ReadFigures:
    """Reads of one store through the embedded reader, in microseconds."""

    store: str
    get_us_p50: float
    get_us_p99: float
    batch_keys: int
    batch_us_p50: float
    batch_us_p99: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """One flight, the values that were read for it online, and what the model makes of them."""

    flight: str
    scheduled_at: str
    values: dict[str, float | None]
    equal_to_training: int  # values equal to those of the training set for the same flight
    probability_late: float
    happened: str


@dataclass(slots=True)
class Report:
    """The whole run."""

    directory: str
    flights: int
    cancelled: int
    features: int
    graph: GraphFigures
    labels: int = 0
    training_set_seconds: float = 0.0
    train_rows: int = 0
    test_rows: int = 0
    late_share: float = 0.0
    auc_all: float = 0.0
    groups: list[GroupScore] = field(default_factory=list)
    pushes: list[PushFigures] = field(default_factory=list)
    reads: list[ReadFigures] = field(default_factory=list)
    live: LiveFigures | None = None
    tiers: list[TierFigures] = field(default_factory=list)
    prediction: Prediction | None = None
    seconds: float = 0.0


def print_report(report: Report) -> None:
    """The report as tables on stdout."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    _print_graph(console, report.graph)
    _print_training(console, report)
    _print_groups(console, report)
    _print_pushes(console, report)
    _print_reads(console, report)
    if report.live is not None:
        _print_live(console, report.live)
        _print_tiers(console, report.tiers)
    if report.prediction is not None:
        _print_prediction(console, report.prediction)
    console.print(f"\n{report.seconds:.0f} s in all; the stores are in {report.directory}", highlight=False)
    console.print(f"next: fondaco store list --dir {report.directory}; the same command again pushes the next versions", highlight=False)


def _table(console: Console, title: str, *columns: str) -> Table:
    console.print(f"\n[bold]{title}[/bold]", highlight=False)
    table = Table(box=None, header_style="dim", pad_edge=False, show_header=any(columns))
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right")
    return table


def _print_graph(console: Console, graph: GraphFigures) -> None:
    table = _table(console, "Graph of flights: planes, airports and carriers, each flight four timed edges", "", "")
    table.add_row("nodes, edges", f"{graph.nodes:,}, {graph.edges:,}")
    table.add_row("edges a second to build a version", f"{graph.edges / graph.build_seconds:,.0f}")
    table.add_row("steps of walks, none past September; steps a second", f"{graph.steps:,}, {graph.steps_per_second:,.0f}")
    table.add_row("nodes embedded", f"{graph.embedded:,}")
    table.add_row(f"seconds to learn from {graph.pairs:,} pairs of nodes", f"{graph.train_seconds:.1f}")
    table.add_row("seconds until a service of it was ready, two processes", f"{graph.service_seconds:.1f}")
    same = "equal" if graph.served_equal else "NOT EQUAL"
    table.add_row(f"  the same walks there, {same} to those in process; steps a second", f"{graph.served_steps_per_second:,.0f}")
    console.print(table)


def _print_training(console: Console, report: Report) -> None:
    table = _table(console, "Training set: one row a flight, point-in-time correct", "", "")
    table.add_row("flights", f"{report.flights:,}")
    table.add_row("  of them cancelled: no departure, so no label", f"{report.cancelled:,}")
    table.add_row("rows x features", f"{report.labels:,} x {report.features}")
    table.add_row("seconds to compute", f"{report.training_set_seconds:.1f}")
    table.add_row("train rows, January to September", f"{report.train_rows:,}")
    table.add_row("test rows, October to December", f"{report.test_rows:,}")
    table.add_row("late (more than 15 minutes) in the test months", f"{report.late_share:.1%}")
    console.print(table)


def _print_groups(console: Console, report: Report) -> None:
    title = "What each group is worth: area under the ROC curve, test months"
    table = _table(console, title, "group", "features", "alone", "all but it")
    for score in report.groups:
        table.add_row(score.group, str(score.features), f"{score.auc_alone:.3f}", f"{score.auc_without:.3f}")
    table.add_row("all", str(report.features), f"{report.auc_all:.3f}", "", style="bold")
    console.print(table)


def _print_pushes(console: Console, report: Report) -> None:
    title = "Pushed as versions (records/s counts computing the values, where they are computed)"
    table = _table(console, title, "store", "version", "records", "bytes", "compression", "records/s")
    for push in report.pushes:
        version = f"v{push.version}" if push.previous is None else f"v{push.version} (v{push.previous} kept)"
        rate = f"{push.records_per_second:,.0f}"
        table.add_row(push.store, version, f"{push.records:,}", format_bytes(push.bytes), push.compression, rate)
    console.print(table)


def _print_reads(console: Console, report: Report) -> None:
    title = "Embedded reads, microseconds: one row; 1,000 keys into columns (garbage collector waiting)"
    table = _table(console, title, "store", "get p50", "get p99", "columns p50", "columns p99")
    for read in report.reads:
        single = (f"{read.get_us_p50:.1f}", f"{read.get_us_p99:.1f}")
        table.add_row(read.store, *single, f"{read.batch_us_p50:,.0f}", f"{read.batch_us_p99:,.0f}")
    console.print(table)


def _print_live(console: Console, live: LiveFigures) -> None:
    table = _table(console, "One day in real time: features of planes and routes, kept fresh by writes", "", "")
    table.add_row("changes of features written", f"{live.changes:,}")
    table.add_row("changes a second, as fast as the log takes them, until readable", f"{live.events_per_second:,.0f}")
    paced = f"write -> readable at {live.speed_up:,} times real time, p50 / p99"
    table.add_row(paced, _in_ms(live.quiet))
    table.add_row(f"  the same beside pushes ({live.pushed_records:,} records)", _in_ms(live.beside_push))
    table.add_row("flights predicted at their departure, and how many left late", f"{live.flights:,}, {live.late:,}")
    table.add_row("area under the ROC curve with yesterday's features", f"{live.auc_yesterday:.3f}")
    table.add_row("  with fresh ones", f"{live.auc_fresh:.3f}", style="bold")
    table.add_row("fresh values equal to the training set's", f"{live.values_equal:,} of {live.values:,}")
    console.print(table)


def _in_ms(freshness: Freshness) -> str:
    return f"{freshness.p50_ms:.1f} / {freshness.p99_ms:.1f} ms"


def _print_tiers(console: Console, tiers: list[TierFigures]) -> None:
    title = "One plane's row through each tier, one read after the other, microseconds (CPU a read)"
    table = _table(console, title, "tier", "p50", "p99", "CPU here", "CPU of the server")
    for tier in tiers:
        cpu = (f"{tier.client_cpu_us:.0f}", "" if tier.tier == "embedded" else f"{tier.server_cpu_us:.0f}")
        table.add_row(tier.tier, f"{tier.get_us_p50:.1f}", f"{tier.get_us_p99:.1f}", *cpu)
    console.print(table)


def _print_prediction(console: Console, prediction: Prediction) -> None:
    table = _table(console, f"One prediction: {prediction.flight}, scheduled {prediction.scheduled_at}", "value read", "")
    for name, value in prediction.values.items():
        table.add_row(name, "null" if value is None else f"{value:g}")
    console.print(table)
    total = len(prediction.values)
    console.print(f"probability of leaving late: {prediction.probability_late:.0%}; {prediction.happened}", highlight=False)
    console.print(f"online values equal to the training set's for this flight: {prediction.equal_to_training} of {total}", highlight=False)
