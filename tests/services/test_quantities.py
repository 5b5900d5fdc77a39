"""Quantities as Kubernetes writes them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fondaco.core.errors import InputError
from fondaco.services.quantities import check_resources, parse_quantity

GOOD = {
    "500m": "0.5", "2": "2", "0.1": "0.1", ".5": "0.5", "1.": "1", "1k": "1000", "1Ki": "1024", "128Mi": str(128 << 20), "1E": str(10**18),
    "1Ei": str(1 << 60), "1e3": "1000", "1E3": "1000", "12e-1": "1.2", "100n": "1e-7", "3u": "3e-6", "+1": "1", "-1": "-1",
}  # fmt: skip


@pytest.mark.parametrize(("text", "amount"), GOOD.items())
def test_a_quantity_is_read_as_kubernetes_reads_it(text: str, amount: str) -> None:
    assert parse_quantity(text) == Decimal(amount)


@pytest.mark.parametrize("text", ["", "abc", "1 Gi", "1gi", "1KB", "1e", "0x1", "1.2.3", "inf", "nan", "1e9999", "Ki", "--1", "1m3"])
def test_what_is_no_quantity_is_refused_with_its_path(text: str) -> None:
    with pytest.raises(InputError, match=r"resources\.limits\.cpu: .* is no quantity"):
        parse_quantity(text, path="resources.limits.cpu")


def test_amounts_and_names_are_checked() -> None:
    check_resources({"cpu": "500m", "example.com/fpga": "1"}, {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": "2", "hugepages-2Mi": "4Mi"})
    check_resources({"nvidia.com/gpu": "2", "hugepages-2Mi": "4Mi", "cpu": "1"}, {"nvidia.com/gpu": "2", "hugepages-2Mi": "4096Ki"})
    for requests, limits, message in (
        ({"gpu": "1"}, {}, r"resources\.requests\.gpu: resources are"),
        ({}, {"cpu": "-1"}, r"resources\.limits\.cpu: '-1' is negative"),
        ({}, {"nvidia.com/gpu": "500m"}, r"resources\.limits\.nvidia\.com/gpu: '500m' must be a whole number"),
        ({"memory": "1Gi"}, {"memory": "1000Mi"}, r"resources\.requests\.memory: 1Gi is more than the limit, 1000Mi"),
        ({"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "2"}, r"resources\.requests\.nvidia\.com/gpu: 1 is not the limit, 2"),
        ({"hugepages-2Mi": "4Mi"}, {}, "huge pages are given only together with cpu or memory"),
    ):
        with pytest.raises(InputError, match=message):
            check_resources(requests, limits)
