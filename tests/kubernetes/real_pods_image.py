"""Image: a small container image without a registry or a builder: busybox and its commands, as `docker save` would write it.

    python -m tests.kubernetes.real_pods_image BUSYBOX ARCHIVE.tar

It is `docker.io/local/busy:1`, and also `docker.io/local/pause:1`, the container that holds a pod's network.
Source: the Docker image specification 1.2 (manifest.json, a configuration, one tar file for each layer).
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

COMMANDS = "sh sleep httpd hostname echo env cat wget nc touch mv kill ls true false test sed"
FOLDERS = {"bin": 0o755, "etc": 0o755, "tmp": 0o1777, "proc": 0o755, "sys": 0o755, "dev": 0o755}


def write_image(busybox: Path, archive: Path) -> None:
    """Write the archive."""
    layer = _layer(busybox.read_bytes())
    settings = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    configuration = json.dumps(settings).encode()
    name = f"{hashlib.sha256(configuration).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": ["local/busy:1", "local/pause:1"], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as image:
        _add(image, name, configuration)
        _add(image, "layer.tar", layer)
        _add(image, "manifest.json", json.dumps(manifest).encode())


def _layer(busybox: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for folder, mode in FOLDERS.items():
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            layer.addfile(entry)
        _add(layer, "bin/busybox", busybox, 0o755)
        for command in COMMANDS.split():
            link = tarfile.TarInfo(f"bin/{command}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)
        _add(layer, "etc/passwd", b"root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    write_image(Path(sys.argv[1]), Path(sys.argv[2]))
