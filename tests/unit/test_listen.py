"""The socket of `clipsearch serve`."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from pathlib import Path

import pytest

from clipsearch.cli.listening import own_addresses, own_names, print_code, reachable_at, socket_at


def test_a_server_knows_its_names_from_files_only(tmp_path: Path) -> None:
    name = socket.gethostname()
    hosts, resolver = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text(f"127.0.0.1 localhost\n# 10.0.0.9 {name} old\n10.0.0.2 {name}.lan.example {name} nas # mine\n")
    resolver.write_text("nameserver 10.0.0.1\nsearch home.example other.example.\n")
    expected = [name, f"{name}.local", f"{name}.lan.example", "nas", f"{name}.home.example", f"{name}.other.example"]
    assert own_names(hosts, resolver) == expected
    assert own_names(tmp_path / "none", tmp_path / "none") == expected[:2]


def test_answers_do_not_wait_for_acknowledgements() -> None:
    async def option_of_a_connection() -> int:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted = writer.get_extra_info("socket")
            found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listening = socket_at("127.0.0.1", None)
        async with await asyncio.start_server(answer, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            writer.close()
            return await asyncio.wait_for(found, 120)

    assert asyncio.run(option_of_a_connection()) != 0


def test_addresses_that_others_can_use_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert reachable_at("localhost") == ["127.0.0.1"]
    assert reachable_at("::1") == ["[::1]"]
    assert reachable_at("192.0.2.7") == ["192.0.2.7"]
    assert reachable_at("0.0.0.0") == ["127.0.0.1", *own_addresses()]
    for address in own_addresses():
        assert not ipaddress.ip_address(address).is_loopback
    print_code("http://192.0.2.7:7860/login?token=abc")
    drawn = capsys.readouterr().err.splitlines()
    assert len(drawn) > 12 and len({len(line) for line in drawn if line}) == 1
