"""Files of versions on their way to a node: resumed, checked, taken from whoever has them, given to whoever may."""

from __future__ import annotations

import http.client
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import fondaco as fd
from fondaco.cluster.blob import CHUNK_BYTES, BlobFolder, directory_blob
from fondaco.cluster.fetch import FetchStoppedError, Source, fetch_file, fetch_manifest
from fondaco.cluster.peers import CONNECTIONS_MAX, FileServer, Peer
from fondaco.core.errors import InputError, StorageError, UnavailableError
from fondaco.store.layout import StoreLayout, partition_name
from fondaco.store.manifest import Manifest, read_manifest
from fondaco.store.partial import write_held

ROWS = 60_000
BLOB = 600  # bytes a row: files of several chunks, and more than the buffers of a socket hold


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A platform with version 1 of store "s" in two partitions of about 18 MB."""
    directory = tmp_path_factory.mktemp("platform")
    with fd.open(directory) as platform:
        store = platform.create_store("s", value=pa.schema([("v", pa.binary())]), partitions=2, compression="none")
        store.push(pa.table({"key": range(ROWS), "v": [number.to_bytes(BLOB, "little") for number in range(ROWS)]}))
    return directory


@pytest.fixture
def manifest(pushed: Path) -> Manifest:
    return read_manifest(_version(pushed))


def _version(platform: Path) -> Path:
    return StoreLayout(platform / "stores" / "s").version(1)


class Tampering:
    """A source that counts what is asked of it, and can break off, lie or have nothing."""

    def __init__(self, source: Source, *, break_after: int | None = None, flip: int | None = None, longer: bool = False) -> None:
        self.source, self.break_after, self.flip, self.longer = source, break_after, flip, longer
        self.given: list[tuple[int, int]] = []  # where each answer began, and its bytes

    def __str__(self) -> str:
        return "the tampering source"

    def chunks(self, store: str, version: int, name: str, start: int = 0) -> Iterator[bytes]:
        at = start
        self.given.append((start, 0))
        for piece in self.source.chunks(store, version, name, start):
            if self.flip is not None and at <= self.flip < at + len(piece):
                piece = piece[: self.flip - at] + bytes([piece[self.flip - at] ^ 1]) + piece[self.flip - at + 1 :]
            at += len(piece)
            self.given[-1] = (start, at - start)
            yield piece
            if self.break_after is not None and at >= self.break_after:
                raise UnavailableError(str(self), "it broke off")
        if self.longer:
            yield b"more"


class Nothing:
    """A source without a file."""

    def __str__(self) -> str:
        return "the empty source"

    def chunks(self, store: str, version: int, name: str, start: int = 0) -> Iterator[bytes]:
        raise FileNotFoundError(name)
        yield b""


def _fetch(sources: list[Source], manifest: Manifest, node: Path, partition: int = 0, **more: object) -> Path:
    directory, building = node / "1", node / "building"
    fetch_manifest(sources, "s", 1, directory, building)
    arguments = {"progress": lambda _: None, "stop": lambda: False, **more}
    fetch_file(sources, "s", 1, manifest.files[partition], directory, building, **arguments)  # type: ignore[arg-type]
    return directory / partition_name(partition)


def _same(fetched: Path, pushed: Path) -> bool:
    return fetched.read_bytes() == (_version(pushed) / fetched.name).read_bytes()


def test_a_file_comes_whole_and_says_how_far_it_is(pushed: Path, manifest: Manifest, tmp_path: Path) -> None:
    seen: list[int] = []
    fetched = _fetch([directory_blob(pushed)], manifest, tmp_path, progress=seen.append)
    assert _same(fetched, pushed)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, manifest.files[0].bytes)
    assert len(seen) > 3
    assert list((tmp_path / "building").iterdir()) == []


def test_a_fetch_that_broke_off_goes_on_where_it_stopped_from_whichever_source(pushed: Path, manifest: Manifest, tmp_path: Path) -> None:
    blob = directory_blob(pushed)
    with pytest.raises(UnavailableError, match="it broke off"):
        _fetch([Tampering(blob, break_after=CHUNK_BYTES)], manifest, tmp_path)
    second = Tampering(blob)
    assert _same(_fetch([second], manifest, tmp_path), pushed)
    assert second.given == [(CHUNK_BYTES, manifest.files[0].bytes - CHUNK_BYTES)]


def test_a_fetch_that_is_stopped_keeps_what_it_has(pushed: Path, manifest: Manifest, tmp_path: Path) -> None:
    blob, turns = directory_blob(pushed), iter([False, False, True])
    with pytest.raises(FetchStoppedError):
        _fetch([blob], manifest, tmp_path, stop=lambda: next(turns))
    again = Tampering(blob)
    _fetch([again], manifest, tmp_path)
    assert again.given[0][0] == 2 * CHUNK_BYTES


def test_a_source_that_lies_is_refused_and_the_next_one_asked_from_the_start(pushed: Path, manifest: Manifest, tmp_path: Path) -> None:
    good = Tampering(directory_blob(pushed))
    liar = Tampering(directory_blob(pushed), flip=2_000_000)
    fetch_manifest([good], "s", 1, tmp_path / "1", tmp_path / "building")
    assert _same(_fetch([liar, good], manifest, tmp_path), pushed)
    assert [start for start, _ in liar.given] == [0]
    assert good.given[-1] == (0, manifest.files[0].bytes)


def test_a_half_file_that_went_bad_is_fetched_anew_from_a_good_source(pushed: Path, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "building").mkdir()
    part = tmp_path / "building" / f"{manifest.files[0].name}.part"
    part.write_bytes(bytes(1_000_000))
    good = Tampering(directory_blob(pushed))
    assert _same(_fetch([good], manifest, tmp_path), pushed)
    assert [start for start, _ in good.given[-2:]] == [1_000_000, 0]


@pytest.mark.parametrize("extra", [0, 1, 1000])
def test_a_part_that_is_whole_or_too_long_is_checked_or_begun_again(pushed: Path, manifest: Manifest, tmp_path: Path, extra: int) -> None:
    (tmp_path / "building").mkdir()
    part = tmp_path / "building" / f"{manifest.files[0].name}.part"
    part.write_bytes((_version(pushed) / manifest.files[0].name).read_bytes() + bytes(extra))
    good = Tampering(directory_blob(pushed))
    assert _same(_fetch([good], manifest, tmp_path), pushed)
    assert [start for start, _ in good.given[1:]] == ([0] if extra else [])


def test_when_every_source_fails_nothing_is_adopted_and_each_is_named(pushed: Path, manifest: Manifest, tmp_path: Path) -> None:
    blob = directory_blob(pushed)
    sources: list[Source] = [Nothing(), Tampering(blob, flip=5000), Tampering(blob, longer=True), Tampering(blob, break_after=0)]
    fetch_manifest([blob], "s", 1, tmp_path / "1", tmp_path / "building")
    with pytest.raises(UnavailableError) as caught:
        _fetch(sources, manifest, tmp_path)
    for said in ("the empty source: it is not there", "section 'heap' is damaged", "longer there than its", "it broke off"):
        assert said in str(caught.value)
    assert not (tmp_path / "1" / partition_name(0)).exists()


def test_a_manifest_of_another_version_or_a_damaged_one_is_refused(pushed: Path, tmp_path: Path) -> None:
    for name, flip in (("other", None), ("s", 300)):
        source = Tampering(_Renamed(pushed), flip=flip)
        with pytest.raises(UnavailableError, match="manifest"):
            fetch_manifest([source], name, 1, tmp_path / name, tmp_path / f"{name}-building")
        assert not (tmp_path / name / "manifest.json").exists()


class _Renamed:
    """Version 1 of store "s", whatever is asked for."""

    def __init__(self, pushed: Path) -> None:
        self._blob = directory_blob(pushed)

    def chunks(self, store: str, version: int, name: str, start: int = 0) -> Iterator[bytes]:
        return self._blob.chunks("s", 1, name, start)


# -- blob folders -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["directory", "memory"])
def test_an_uploaded_version_is_fetched_from_another_folder(pushed: Path, manifest: Manifest, tmp_path: Path, kind: str) -> None:
    blob = BlobFolder((tmp_path / "blob").as_uri() if kind == "directory" else f"memory://{tmp_path.name}")
    layout = StoreLayout(pushed / "stores" / "s")
    assert blob.upload(layout, "s", 1) > manifest.bytes
    assert blob.upload(layout, "s", 1) == 0
    assert _same(_fetch([blob], manifest, tmp_path), pushed)


def test_a_folder_of_an_unknown_kind_or_that_is_not_there_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the blob folder 'gopher://x' cannot be used"):
        BlobFolder("gopher://x")
    with pytest.raises(StorageError, match="is no directory"):
        directory_blob(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        list(BlobFolder(tmp_path.as_uri()).chunks("s", 1, "manifest.json"))


# -- peers ------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(pushed: Path, tmp_path: Path) -> Iterator[FileServer]:
    """A node that holds partition 1 and not 0, and gives its files away."""
    shutil.copytree(pushed / "stores", tmp_path / "stores")
    (StoreLayout(tmp_path / "stores" / "s").version(1) / partition_name(0)).unlink()
    write_held(StoreLayout(tmp_path / "stores" / "s").version(1), [1])
    with FileServer(tmp_path / "stores") as server:
        yield server


def test_a_peer_gives_what_it_holds_from_any_byte_on(pushed: Path, manifest: Manifest, files: FileServer, tmp_path: Path) -> None:
    peer = Tampering(Peer("n1", files.address, files.secret))
    node = tmp_path / "node"
    assert _same(_fetch([peer], manifest, node, 1), pushed)
    (node / "building" / f"{manifest.files[1].name}.part").write_bytes((node / "1" / manifest.files[1].name).read_bytes()[:777])
    _fetch([peer], manifest, node, 1)
    assert peer.given[-1] == (777, manifest.files[1].bytes - 777)


def test_a_peer_does_not_give_what_it_does_not_hold(manifest: Manifest, files: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"node 'n1' at http://127\.0\.0\.1:[0-9]+: it is not there"):
        _fetch([Peer("n1", files.address, files.secret)], manifest, tmp_path / "node", 0)


def test_a_peer_gives_nothing_to_who_does_not_know_its_secret(manifest: Manifest, files: FileServer, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="it answered 401") as caught:
        _fetch([Peer("n1", files.address, "guess")], manifest, tmp_path / "node", 1)
    assert files.secret not in str(caught.value)


def _get(files: FileServer, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", int(files.address.rsplit(":", 1)[1]), timeout=10)
    connection.request("GET", path, headers={"Authorization": f"Bearer {files.secret}", **headers})
    with connection.getresponse() as answer:
        answer.read()
    connection.close()
    return answer.status


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/files/s/1/../../CURRENT",
        "/v1/files/s/1/held.json",
        "/v1/files/s/1/verified.json",
        "/v1/files/..%2Fs/1/manifest.json",
        "/v1/files/%2E%2E/1/manifest.json",
        "/v1/files/s/2/manifest.json",
        "/v1/files/x/1/manifest.json",
    ],
)
def test_a_peer_gives_nothing_but_files_of_versions(files: FileServer, path: str) -> None:
    assert _get(files, path) == 404


def test_a_range_beyond_the_end_is_refused(files: FileServer) -> None:
    assert _get(files, "/v1/files/s/1/manifest.json") == 206
    assert _get(files, "/v1/files/s/1/manifest.json", Range="bytes=99999999-") == 416
    assert _get(files, "/v1/files/s/1/manifest.json", Range="bytes=-5") == 416


def test_a_peer_that_goes_away_in_the_middle_is_unavailable_and_more_callers_than_it_has_room_for_are_refused(
    manifest: Manifest, files: FileServer
) -> None:
    under_way = [Peer("n1", files.address, files.secret).chunks("s", 1, manifest.files[1].name) for _ in range(CONNECTIONS_MAX)]
    for transfer in under_way:
        next(transfer)
    with pytest.raises(UnavailableError):
        next(Peer("n1", files.address, files.secret).chunks("s", 1, manifest.files[1].name))
    files.close()
    for transfer in under_way:
        with pytest.raises(UnavailableError, match=r"broke off|Reset|Incomplete"):
            list(transfer)


def test_a_peer_that_is_not_there_is_unavailable(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="ConnectionRefusedError"):
        list(Peer("n1", "http://127.0.0.1:1", "x").chunks("s", 1, "manifest.json"))
