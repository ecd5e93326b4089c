"""Presence over nodes: nobody is shown twice, what clients are told always leads to the whole, and faults heal."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Self

import msgspec
import pytest

from realtime import attendance as module
from realtime import census as census_module
from realtime.attendance import Attendance
from realtime.census import Census
from realtime.counters import Counters
from realtime.errors import PublishQueueFull
from realtime.frames import Frame
from realtime.lease import Lease
from realtime.rooms import Room
from realtime.state import MemoryState, RedisState
from realtime.supervisor import Supervisor
from realtime.testing import until
from tests.realtime.clusternodes import Line

_prefixes = (f"attendance-{number}" for number in itertools.count())


class Wire(Line):
    """A node's way to the state, which says whether it is cut."""

    @property
    def available(self) -> bool:
        return not self.cut


class Client:
    """A client that keeps a list by what it is told, as the protocol says."""

    def __init__(self, name: str, user: str | None) -> None:
        self.id = name
        self.user_id = user
        self.rooms: dict[str, None] = {}
        self.speaks_protocol = True
        self.shown: dict[str, Any] = {}
        self.count = 0
        self.frames: list[dict[str, Any]] = []

    def joined(self, presence: Any) -> None:
        if isinstance(presence, dict):
            self.count = presence["count"]
        else:
            self.shown = {entry["id"]: entry for entry in presence}
            assert len(self.shown) == len(presence), "somebody is shown twice"

    def take(self, frame: Frame) -> None:
        data = msgspec.json.decode(frame.payload)["data"]
        self.frames.append(data)
        if "count" in data:
            self.count = data["count"]
            return
        for entry in data["leaves"]:
            self.shown.pop(entry["id"], None)
        self.shown |= {entry["id"]: entry for entry in data["joins"]}

    @property
    def sees(self) -> list[str]:
        return sorted(entry["user"] for entry in self.shown.values())


class Hub:
    """As much of a hub as presence needs."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        self.rooms: dict[str, Room] = {}
        self.full = False
        self._cluster, self._node = cluster, node

    def tell(self, room: Room, frame: Frame) -> None:
        for member in list(room.members):
            member.take(frame)  # type: ignore[attr-defined]

    def send_remote(self, message: dict[str, Any]) -> None:
        if self.full:
            raise PublishQueueFull("full")
        self._cluster.sent.append(message)
        for node in self._cluster.nodes if not self._cluster.deaf else ():
            if node is not self._node:
                node.attendance.changed_elsewhere(message["to"])


class Node:
    """One node with its rooms."""

    def __init__(self, cluster: Cluster, name: str, wire: Callable[[Any], Wire]) -> None:
        self.loop = asyncio.get_running_loop()
        self.has_others = True
        self.state = wire(cluster.state)
        self.supervisor = Supervisor(Counters())
        self.lease = Lease(self.state, self.supervisor, name)  # type: ignore[arg-type]
        self.census = Census(self.state, self.lease)  # type: ignore[arg-type]
        self.hub = Hub(cluster, self)
        self.attendance = Attendance(self)  # type: ignore[arg-type]
        self.lease.keep()
        self.supervisor.start("census", self.census.run)
        self.supervisor.start("presence", self.attendance.run)

    async def join(
        self, client: Client, room: str = "lobby", *, counts: bool = False, look: str | None = None
    ) -> Client:
        """Enter as a hub and a consumer do."""
        joined = self.hub.rooms.setdefault(room, Room(room))
        joined.members[client] = None  # type: ignore[index]
        client.rooms[room] = None
        entry = {"user": look or client.user_id or client.id}
        self.attendance.enter(joined, client, entry, counts=counts)  # type: ignore[arg-type]
        await self.attendance.settled(joined)
        client.joined(self.attendance.told(joined))
        return client

    def leave(self, client: Client, room: str = "lobby") -> None:
        """Leave as a hub does."""
        left = self.hub.rooms[room]
        left.members.pop(client)  # type: ignore[call-overload]
        client.rooms.pop(room)
        self.attendance.leave(left, client)  # type: ignore[arg-type]
        if not left.members:
            del self.hub.rooms[room]

    async def kill(self) -> None:
        """End without a word to the state."""
        self.state.cut = True
        await self.supervisor.stop()


class Cluster:
    """Nodes over one state."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.nodes: list[Node] = []
        self.sent: list[dict[str, Any]] = []
        self.deaf = False
        """Whether what nodes say to each other is lost."""

    def begin(self, name: str, wire: Callable[[Any], Wire] = Wire) -> Node:
        """Start a node."""
        node = Node(self, name, wire)
        self.nodes.append(node)
        return node

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        for node in self.nodes:
            await node.supervisor.stop()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def cluster(request, settings):
    settings.REALTIME_NODE_LEASE = 1
    if request.param == "memory":
        async with Cluster(MemoryState()) as cluster:
            yield cluster
        return
    state = RedisState(request.getfixturevalue("redis_server").url, prefix=next(_prefixes))
    async with Cluster(state) as cluster:
        yield cluster
    await state.aclose()


@pytest.fixture
async def both(cluster):
    nodes = cluster.begin("blue"), cluster.begin("green")
    for node in nodes:
        await node.lease.asked()
    return nodes


def visitor(name: str) -> Client:
    return Client(name, None)


async def written(node: Node, count: int) -> None:
    """Return when the state has so many people of a node."""
    await until(lambda: list(node.attendance._written.get("lobby", {}).values()).count(None) == 0)
    await until(lambda: len(node.attendance._written.get("lobby", {})) == count)


async def sees(client: Client, *names: str, seconds: float = 2.0) -> None:
    try:
        await until(lambda: client.sees == sorted(names), timeout=seconds)
    except TimeoutError:
        pytest.fail(f"{client.id} sees {client.sees} and not {sorted(names)}")


async def test_who_comes_sees_at_once_who_is_at_another_node(both):
    """X4"""
    blue, green = both
    ann = await blue.join(visitor("ann"))
    await sees(ann, "ann")
    await until(lambda: "set_presence" in blue.state.calls)
    ben = await green.join(visitor("ben"))
    assert ben.sees == ["ann", "ben"]
    await sees(ann, "ann", "ben")


async def test_who_is_there_sees_who_comes_and_goes_at_another_node(both):
    blue, green = both
    ann = await blue.join(visitor("ann"))
    ben = await green.join(visitor("ben"))
    await sees(ann, "ann", "ben")
    green.leave(ben)
    await sees(ann, "ann")
    assert [(len(data["joins"]), len(data["leaves"])) for data in ann.frames[-2:]] == [(1, 0), (0, 1)]


async def test_one_user_at_two_nodes_is_one_person_who_goes_with_the_last_connection(both):
    blue, green = both
    watcher = await blue.join(visitor("watcher"))
    one = await blue.join(Client("tab 1", "cid"))
    await written(blue, 2)
    two = await green.join(Client("tab 2", "cid"))
    assert two.sees == ["cid", "watcher"]
    await until(lambda: blue.attendance._elsewhere.get("lobby"))
    blue.leave(one)
    await written(blue, 1)
    await asyncio.sleep(0.1)
    assert watcher.sees == ["cid", "watcher"]
    assert sum(len(data["leaves"]) for data in watcher.frames) == 0
    green.leave(two)
    await sees(watcher, "watcher")


async def test_of_one_who_looks_different_at_two_nodes_all_see_the_newer(both):
    blue, green = both
    await blue.join(Client("tab 1", "cid"), look="Cid")
    watchers = [await node.join(visitor(f"at {node.lease.id[:4]}")) for node in both]
    await green.join(Client("tab 2", "cid"), look="Cid (away)")
    for watcher in watchers:
        await until(lambda watcher=watcher: "Cid (away)" in watcher.sees and "Cid" not in watcher.sees)


async def test_a_change_in_a_room_of_one_node_costs_one_write_and_the_first_to_come_one_read(
    both, monkeypatch
):
    monkeypatch.setattr(module, "DELAY", 0.3)
    blue, _ = both
    people = [await blue.join(visitor(f"v{number}")) for number in range(50)]
    await sees(people[0], *(one.id for one in people))
    await until(lambda: "set_presence" in blue.state.calls)
    for one in people[1:]:
        blue.leave(one)
    await written(blue, 1)
    await asyncio.sleep(0.1)
    calls = [call for call in blue.state.calls if "presence" in call]
    assert calls == ["presence", "set_presence", "drop_presence"]


async def test_another_tab_of_the_same_user_is_not_written_again(both):
    blue, _ = both
    await blue.join(Client("tab 1", "cid"))
    await until(lambda: "set_presence" in blue.state.calls)
    await blue.join(Client("tab 2", "cid"))
    await asyncio.sleep(0.15)
    assert blue.state.calls.count("set_presence") == 1


async def test_a_visitor_who_comes_back_under_its_old_id_is_one(both):
    blue, green = both
    watcher = await green.join(visitor("watcher"))
    back = await blue.join(visitor("new"))
    back.id = "old"
    blue.attendance.rekey(back, "new")
    await blue.join(back)
    await sees(watcher, "old", "watcher")


async def test_a_user_who_comes_back_under_an_old_id_goes_in_the_end(both):
    blue, green = both
    watcher = await green.join(visitor("watcher"))
    back = await blue.join(Client("new", "cid"))
    await sees(watcher, "cid", "watcher")
    back.id = "old"
    blue.attendance.rekey(back, "new")
    await blue.join(back)
    blue.leave(back)
    await sees(watcher, "watcher")


async def test_those_of_a_killed_node_are_gone_within_two_leases(both):
    """X3"""
    blue, green = both
    ann = await blue.join(visitor("ann"))
    await green.join(visitor("ben"))
    await sees(ann, "ann", "ben")
    await green.kill()
    await sees(ann, "ann", seconds=2.0)
    assert [len(data["leaves"]) for data in ann.frames if data["leaves"]] == [1]


async def test_while_the_state_is_away_those_who_are_here_come_and_go_and_the_others_stay(both, monkeypatch):
    monkeypatch.setattr(census_module, "GRACE", 0.2)
    monkeypatch.setattr(module, "RETRY", 0.05)
    blue, green = both
    ann = await blue.join(visitor("ann"))
    ben = await green.join(visitor("ben"))
    await sees(ann, "ann", "ben")
    blue.state.cut = True
    cid = await blue.join(visitor("cid"))
    await sees(ann, "ann", "ben", "cid")
    fay = await asyncio.wait_for(blue.join(visitor("fay"), "another"), 0.1)
    assert fay.sees == ["fay"]
    blue.leave(cid)
    await sees(ann, "ann", "ben")
    await green.join(visitor("dan"))
    blue.leave(ann)
    eve = await blue.join(visitor("eve"))
    blue.state.mend()
    await sees(eve, "ben", "dan", "eve", seconds=4)
    await sees(ben, "ben", "dan", "eve", seconds=4)


async def test_a_call_that_failed_is_made_again(both, monkeypatch):
    """Also where the state was never known to be away."""
    monkeypatch.setattr(module, "RETRY", 0.05)
    blue, green = both
    ann = await blue.join(visitor("ann"))
    await sees(ann, "ann")
    green.state.cut = True
    await green.join(visitor("ben"))
    await until(lambda: "set_presence" in green.state.calls)
    green.state.cut = False
    await sees(ann, "ann", "ben")


async def test_what_changed_elsewhere_while_the_state_was_away_is_found_when_it_is_back(
    both, cluster, monkeypatch
):
    monkeypatch.setattr(census_module, "GRACE", 0.1)
    blue, green = both
    ann = await blue.join(visitor("ann"))
    await written(blue, 1)
    blue.state.cut = cluster.deaf = True
    await green.join(visitor("ben"))
    await written(green, 1)
    cluster.deaf = False
    assert ann.sees == ["ann"]
    blue.state.mend()
    await sees(ann, "ann", "ben")


async def test_what_was_asked_before_the_state_was_away_is_not_believed_after_it(both, cluster, monkeypatch):
    monkeypatch.setattr(census_module, "GRACE", 0.5)
    blue, green = both
    ann = await blue.join(visitor("ann"))
    await green.join(visitor("ben"))
    await sees(ann, "ann", "ben")
    blue.state.slow = answered = asyncio.Event()
    await cluster.state.drop_node(green.lease.id)
    count = blue.state.calls.count("presence")
    blue.attendance.changed_elsewhere("lobby")
    await until(lambda: blue.state.calls.count("presence") > count)
    # Nobody of green is in the answer, which is on its way.
    await asyncio.sleep(0)
    for node in both:
        node.state.mend()
    await written(green, 1)
    answered.set()
    await until(lambda: blue.census.trusted)
    await sees(ann, "ann", "ben")
    assert not any(data["leaves"] for data in ann.frames)


async def test_a_state_that_lost_everything_is_told_again_and_nobody_is_seen_to_go(
    both, cluster, monkeypatch
):
    """Also where the nodes find it again one after the other."""
    monkeypatch.setattr(census_module, "GRACE", 0.5)
    monkeypatch.setattr(module, "RETRY", 0.05)
    nodes = [*both, cluster.begin("red")]
    clients = [await node.join(visitor(node.lease.id[:3])) for node in nodes]
    names = [client.id for client in clients]
    for client in clients:
        await sees(client, *names)
    for node in nodes:
        node.state.cut = True
    for node in nodes:
        await cluster.state.drop_node(node.lease.id)
    for node in nodes:
        node.state.mend()
        # What it writes, those before it hear of while the next is still missing.
        await written(node, 1)
        await asyncio.sleep(0.1)
    await until(lambda: all(node.census.trusted for node in nodes))
    await asyncio.sleep(0.2)
    assert set(await cluster.state.presence("lobby")) == {node.lease.id for node in nodes}
    for client in clients:
        assert client.sees == sorted(names)
        assert not any(data["leaves"] for data in client.frames)


async def test_what_was_lost_on_the_way_is_found_by_the_check(both, cluster, monkeypatch):
    monkeypatch.setattr(module, "CHECK_INTERVAL", 0.3)
    blue, green = cluster.begin("red"), both[1]
    ann = await blue.join(visitor("ann"))
    await green.join(visitor("ben"))
    cluster.deaf = True
    await green.join(visitor("cid"))
    await sees(ann, "ann", "ben", "cid")


async def test_a_full_queue_is_no_reason_to_stop(both):
    blue, green = both
    ann = await blue.join(visitor("ann"))
    green.hub.full = True
    await green.join(visitor("ben"))
    await until(lambda: "set_presence" in green.state.calls)
    await asyncio.sleep(0.05)
    green.hub.full = False
    await green.join(visitor("cid"))
    await sees(ann, "ann", "ben", "cid")
    assert [state.restarts for state in green.supervisor.states()] == [0, 0, 0]


async def test_somebody_who_cannot_be_read_is_left_out(both, cluster):
    blue, green = both
    await cluster.state.set_presence(
        "lobby", green.lease.id, {"strange": b"\xff", "good": b'[{"user":"g","id":"good"},1]'}
    )
    ann = await blue.join(visitor("ann"))
    assert ann.sees == ["ann", "g"]


async def test_a_large_room_is_told_less_often(both):
    blue, _ = both
    room = blue.hub.rooms["lobby"] = Room("lobby")
    delays: list[float] = []
    blue.loop = SimpleNamespace(call_later=lambda delay, *rest: delays.append(delay))  # type: ignore[assignment]
    for count in (0, 1000, 100_000):
        room.members = dict.fromkeys(range(count))  # type: ignore[assignment,arg-type]
        room.announcing = False
        blue.attendance.enter(room, visitor(str(count)), {})  # type: ignore[arg-type]
    assert delays == [0.05, pytest.approx(0.15), 2.0]


# Numbers only.


async def test_a_room_that_counts_tells_numbers_and_nobody_s_name(both):
    """X4"""
    blue, green = both
    ann = await blue.join(visitor("ann"), counts=True)
    await until(lambda: "set_presence" in blue.state.calls)
    ben = await green.join(visitor("ben"), counts=True)
    assert ben.count == 2
    await until(lambda: ann.count == 2)
    cid = await green.join(visitor("cid"), counts=True)
    await until(lambda: ann.count == ben.count == 3)
    green.leave(cid)
    await until(lambda: ann.count == ben.count == 2)
    assert all(set(data) == {"room", "count"} for client in (ann, ben) for data in client.frames)
    assert "presence" not in blue.state.calls + green.state.calls


async def test_a_killed_node_is_counted_no_more(both):
    blue, green = both
    ann = await blue.join(visitor("ann"), counts=True)
    await green.join(visitor("ben"), counts=True)
    await until(lambda: ann.count == 2)
    await green.kill()
    await until(lambda: ann.count == 1)


# Everything at once.


async def act(
    random: random.Random, nodes: list[Node], clients: list[tuple[Node, Client]], numbers: Iterator[int]
) -> None:
    if clients and random.random() < 0.45:
        node, client = clients.pop(random.randrange(len(clients)))
        node.leave(client)
        return
    node, number = random.choice(nodes), next(numbers)
    client = Client(f"c{number}", random.choice([None, "u1", "u2"]))
    clients.append((node, client))
    await node.join(client)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_all_end_up_seeing_the_same(cluster, monkeypatch, seed):
    monkeypatch.setattr(module, "DELAY", 0.005)
    monkeypatch.setattr(module, "BREATH", 0.001)
    monkeypatch.setattr(module, "RETRY", 0.02)
    monkeypatch.setattr(census_module, "GRACE", 0.1)
    chance = random.Random(seed)
    nodes = [cluster.begin(name) for name in ("blue", "green", "red")]
    clients: list[tuple[Node, Client]] = []
    numbers = itertools.count()
    for _ in range(60):
        await act(chance, nodes, clients, numbers)
        if chance.random() < 0.05:
            cut = chance.choice(nodes)
            cut.state.cut = True
            await act(chance, nodes, clients, numbers)
            cut.state.mend()
        await asyncio.sleep(chance.choice([0, 0, 0.002, 0.01]))
    there = {client.user_id or client.id for _, client in clients}
    for _, client in clients:
        await sees(client, *there, seconds=4)
