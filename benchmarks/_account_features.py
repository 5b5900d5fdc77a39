"""Account features: the definitions over the tables of `_accounts.py`, written as a user would. Nothing is computed here."""

from __future__ import annotations

from pathlib import Path

from fondaco import features as ft


class Account(ft.Entity):
    """Whom the features describe."""

    account: int


def three_views(data: Path) -> ft.FeatureSet:
    """10 features, the latest of each, from three tables."""
    profile, activity, counts = (
        ft.Table(str(data / f"{name}.parquet"), name=name, time="event_timestamp", key=Account)
        for name in ("profile", "activity", "counts")
    )

    class Profile(ft.View[Account], source=profile):
        f0: ft.Float64 = profile.c.f0
        f1: ft.Float64 = profile.c.f1
        f2: ft.Float64 = profile.c.f2
        f3: ft.Float64 = profile.c.f3

    class Activity(ft.View[Account], source=activity):
        f4: ft.Float64 = activity.c.f4
        f5: ft.Float64 = activity.c.f5
        f6: ft.Float64 = activity.c.f6

    class Counts(ft.View[Account], source=counts):
        f7: ft.Int64 = counts.c.f7
        f8: ft.Int64 = counts.c.f8
        f9: ft.Int64 = counts.c.f9

    return ft.FeatureSet("accounts", [Profile, Activity, Counts])


def one_view(path: Path) -> ft.FeatureSet:
    """The same 10 features from one table with one row per account."""
    latest = ft.Table(str(path), name="latest", time="event_timestamp", key=Account)
    c = latest.c

    class Latest(ft.View[Account], source=latest):
        f0: ft.Float64 = c.f0
        f1: ft.Float64 = c.f1
        f2: ft.Float64 = c.f2
        f3: ft.Float64 = c.f3
        f4: ft.Float64 = c.f4
        f5: ft.Float64 = c.f5
        f6: ft.Float64 = c.f6
        f7: ft.Int64 = c.f7
        f8: ft.Int64 = c.f8
        f9: ft.Int64 = c.f9

    return ft.FeatureSet("latest", [Latest])
