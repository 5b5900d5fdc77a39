"""What the main job measured, and how it is printed. Every number here was measured in the run that prints it."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from fondaco.cli.quickstart.model import GroupScore
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
    labels: int = 0
    training_set_seconds: float = 0.0
    train_rows: int = 0
    test_rows: int = 0
    late_share: float = 0.0
    auc_all: float = 0.0
    groups: list[GroupScore] = field(default_factory=list)
    pushes: list[PushFigures] = field(default_factory=list)
    reads: list[ReadFigures] = field(default_factory=list)
    prediction: Prediction | None = None
    seconds: float = 0.0


def print_report(report: Report) -> None:
    """The report as tables on stdout."""
    console = Console() if Console().is_terminal else Console(width=120)
    console.print(_training(report))
    console.print(_groups(report))
    console.print(_pushes(report))
    console.print(_reads(report))
    if report.prediction is not None:
        _print_prediction(console, report.prediction)
    console.print(f"\n{report.seconds:.0f} s in all; the stores are in {report.directory}")
    console.print(f"next: fondaco store list --dir {report.directory}; fondaco quickstart again pushes the next versions")


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, title=title, title_justify="left", title_style="bold", header_style="dim", pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right")
    return table


def _training(report: Report) -> Table:
    table = _table("\nTraining set: point-in-time correct, one row a flight", "", "")
    table.add_row("flights", f"{report.flights:,}")
    table.add_row("  cancelled (no departure, so no label)", f"{report.cancelled:,}")
    table.add_row("rows x features", f"{report.labels:,} x {report.features}")
    table.add_row("seconds to compute", f"{report.training_set_seconds:.1f}")
    table.add_row("train rows, January to September", f"{report.train_rows:,}")
    table.add_row("test rows, October to December", f"{report.test_rows:,}")
    table.add_row("late (more than 15 minutes) in the test months", f"{report.late_share:.1%}")
    return table


def _groups(report: Report) -> Table:
    table = _table("\nWhat each group is worth (area under the ROC curve, test months)", "group", "features", "alone", "all but it")
    for score in report.groups:
        without = "" if score.auc_without is None else f"{score.auc_without:.3f}"
        table.add_row(score.group, str(score.features), f"{score.auc_alone:.3f}", without)
    table.add_row("all", str(report.features), f"{report.auc_all:.3f}", "", style="bold")
    return table


def _pushes(report: Report) -> Table:
    table = _table("\nPushed as versions", "store", "version", "records", "bytes", "compression", "records/s")
    for push in report.pushes:
        version = f"v{push.version}" if push.previous is None else f"v{push.version} (v{push.previous} kept)"
        table.add_row(
            push.store, version, f"{push.records:,}", format_bytes(push.bytes), push.compression, f"{push.records_per_second:,.0f}"
        )
    return table


def _reads(report: Report) -> Table:
    title = "\nEmbedded reads, microseconds"
    table = _table(title, "store", "get p50", "get p99", "keys a batch", "batch p50", "batch p99")
    for read in report.reads:
        figures = (read.get_us_p50, read.get_us_p99), (read.batch_us_p50, read.batch_us_p99)
        table.add_row(read.store, *(f"{us:.1f}" for us in figures[0]), f"{read.batch_keys:,}", *(f"{us:,.0f}" for us in figures[1]))
    return table


def _print_prediction(console: Console, prediction: Prediction) -> None:
    table = _table(f"\nOne prediction: {prediction.flight}, scheduled {prediction.scheduled_at}", "value read", "")
    for name, value in prediction.values.items():
        table.add_row(name, "null" if value is None else f"{value:g}")
    console.print(table)
    total = len(prediction.values)
    console.print(f"probability of leaving late: {prediction.probability_late:.0%}; {prediction.happened}")
    console.print(f"online values equal to the training set's for this flight: {prediction.equal_to_training} of {total}")
