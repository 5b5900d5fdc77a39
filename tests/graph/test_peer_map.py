"""Which servers a server of a graph knows: who is met, who is believed to be there, and who is forgotten."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from fondaco.graph.service import peer_map
from fondaco.graph.service.connection import Address
from fondaco.graph.service.handshake import ServerInfo
from fondaco.graph.service.peer_map import PeerMap
from fondaco.graph.service.presence import announce
from graph.canned_service import CannedServer
from waiting import free_port, wait_for

ME = ServerInfo(address="127.0.0.1:1", shard=0, shards=2)


def other(address: object) -> ServerInfo:
    return ServerInfo(address=str(address), shard=1, shards=2)


def known(peers: PeerMap) -> set[str]:
    return {server.address for server in peers.servers()} - {ME.address}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_map, "SILENT_S", 0.1)
    monkeypatch.setattr(peer_map, "REFRESH_S", 0.05)


def test_one_that_stood_in_the_run_directory_is_forgotten_with_its_file(tmp_path: Path) -> None:
    """Also if it has asked this one itself: that it did so says nothing of now."""
    server = other(f"127.0.0.1:{free_port()}")
    with PeerMap("g", ME, "mine", platform=tmp_path) as peers:
        path = announce(tmp_path, "g", server, "theirs", "secret")
        peers.meet(server)
        peers.refresh(at_most_every_s=0.0)
        assert known(peers) == {server.address}
        path.unlink()
        peers.refresh(at_most_every_s=0.0)
        assert known(peers) == set()
        peers.meet(server)
        assert known(peers) == {server.address}, "it asks, so it is there"


def test_one_that_has_asked_is_known_as_long_as_it_lives(impatient: None) -> None:
    gone = other(f"127.0.0.1:{free_port()}")
    with CannedServer() as server, PeerMap("canned", ME, "mine") as peers:
        there = other(server.address)
        peers.meet(there)
        peers.meet(gone)
        assert known(peers) == {there.address, gone.address}
        wait_for(lambda: known(peers) == {there.address}, "the one that is gone to be forgotten")
        heard = peers._met[there.address].heard
        wait_for(lambda: known(peers) != {there.address} or peers._met[there.address].heard > heard + 0.3, "signs of life")
        assert known(peers) == {there.address}
        assert [peer.address for peer in peers.replicas(1)] == [server.address]


def test_whom_a_named_server_speaks_of_must_give_a_sign_of_life(impatient: None) -> None:
    """Servers that tell each other of one that is gone would else keep it for good."""
    with CannedServer() as named, CannedServer() as spoken_of:
        there, gone = other(spoken_of.address), other(f"127.0.0.1:{free_port()}")
        welcome = named.service.welcome()

        def welcomed() -> object:
            mine = ServerInfo(address=str(named.address), shard=0, shards=2)
            return msgspec.structs.replace(welcome, server=mine, servers=(mine, there, gone))

        named.service.welcome = welcomed  # type: ignore[assignment]
        with PeerMap("canned", ME, "mine", named=[Address.parse(str(named.address))]) as peers:
            wait_for(lambda: known(peers) == {str(named.address), there.address}, "both that live")
            peers.meet(gone)
            assert gone.address in known(peers)
            wait_for(lambda: known(peers) == {str(named.address), there.address}, "the one that is gone to be forgotten")
