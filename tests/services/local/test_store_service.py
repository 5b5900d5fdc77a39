"""The ready-made service of a store, with real servers: a job with its lease's variables reads what the platform reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fondaco as fd
from fondaco.services.provisioner import Phase
from services.local.conftest import of_service
from waiting import wait_for

COUNT = 100
VALUE = {
    "type": "record",
    "name": "Member",
    "fields": [{"name": "name", "type": "string"}, {"name": "score", "type": "double"}],
}
# What a job does: it knows nothing but its variables.
JOB = """
import os
import fondaco as fd
with fd.connect() as platform, platform.store(os.environ["FONDACO_STORE_NAME"]).reader() as reader:
    print(repr(reader.get(7)), repr(reader.get(1000)))
"""


def test_a_job_reads_through_the_service_of_a_store_what_the_platform_reads(platform: fd.Platform, directory: Path) -> None:
    store = platform.create_store("members", key="long", value=VALUE, partitions=2)
    store.push({"key": list(range(COUNT)), "name": [f"member {key}" for key in range(COUNT)], "score": [key / 8 for key in range(COUNT)]})
    with store.reader() as reader:
        wanted = {key: reader.get(key) for key in range(COUNT)}
    assert wanted[7] == {"name": "member 7", "score": 0.875}
    lease = platform.services.ensure(fd.ServiceSpec.store("members", replicas=2))
    assert platform.services.status(lease.service).phase is Phase.READY
    assert lease.env["FONDACO_STORE_ENDPOINTS"] == ",".join(lease.endpoints)
    assert len(set(lease.endpoints)) == 2
    job = subprocess.run([sys.executable, "-c", JOB], env={"PYTHONPATH": ":".join(sys.path), **lease.env}, capture_output=True, text=True)
    assert (job.stdout, job.stderr) == (f"{wanted[7]!r} None\n", "")
    for endpoint in lease.endpoints:  # each of the instances serves it, not only the one that jobs are told
        with fd.connect(f"http://{endpoint}") as remote, remote.store("members").reader() as reader:
            assert {key: reader.get(key) for key in range(COUNT)} == wanted
    lease.release()
    assert platform.services.delete(lease.service)
    assert platform.services.list() == []
    wait_for(lambda: not of_service(directory, lease.service), "processes are left")
