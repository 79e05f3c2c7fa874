"""Attention over padded neighbours."""

from __future__ import annotations

import pytest
import torch

from offline.knowledge.autograph.network import Attend, Network, SideNetwork
from offline.knowledge.config import NetworkConfig


@pytest.fixture(scope="module")
def attend() -> Attend:
    torch.manual_seed(0)
    module = Attend(8, 2, 5)
    torch.nn.init.normal_(module.of_place)
    return module


def received(attend: Attend, neighbours: list[list[int]]) -> torch.Tensor:
    torch.manual_seed(1)
    nodes, table = torch.randn(len(neighbours), 8), torch.randn(6, 8)
    with torch.no_grad():
        messages: torch.Tensor = attend.receive(nodes, attend.offer(table), torch.tensor(neighbours))
    return messages


def test_padding_adds_nothing(attend: Attend) -> None:
    torch.testing.assert_close(received(attend, [[2, 4, -1, -1, -1]]), received(attend, [[2, 4]]))


def test_without_neighbours_nothing_is_received(attend: Attend) -> None:
    assert torch.equal(received(attend, [[-1, -1, -1]]), torch.zeros(1, 8))


def test_a_single_neighbour_is_received_whole(attend: Attend) -> None:
    torch.manual_seed(1)
    _, table = torch.randn(1, 8), torch.randn(6, 8)
    torch.testing.assert_close(received(attend, [[3, -1]]), attend.value(table[3:4]).detach())


def test_the_place_of_a_neighbour_counts(attend: Attend) -> None:
    assert not torch.allclose(received(attend, [[2, 4]]), received(attend, [[4, 2]]))


def test_a_node_without_text_has_no_factors() -> None:
    torch.manual_seed(0)
    side = SideNetwork(4, 3, 5, 0, NetworkConfig(hidden=8, dim=8))
    base, nodes = torch.randn(2, 8), torch.tensor([[0, 5, 10], [1, 6, 11]])
    offered = side.from_factors.offer(torch.randn(15, 8))
    with torch.no_grad():
        state = side.state(base, torch.tensor([True, False]), nodes, offered)
    assert not torch.allclose(state[0], base[0])
    assert torch.equal(state[1], base[1])


def test_ids_are_an_option() -> None:
    def names(item_ids: bool) -> set[str]:
        network = Network(4, (3, 3), (5, 6), 7, NetworkConfig(hidden=8, dim=8, item_ids=item_ids))
        return {name for name, _ in network.named_parameters()}

    assert names(True) - names(False) == {"item.ids.weight"}
    assert not any("user.ids" in name for name in names(True))


def test_hidden_numbers_must_be_shared_by_the_heads() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        NetworkConfig(hidden=9, heads=2)
