"""Matmuls with a weight, by whatever way a model reaches it."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.models.targets.weight_matmuls import Operand, WeightMatmuls

E, N, K, M = 3, 8, 4, 2  # grouped matmuls want rows of whole 16 bytes
Product = Callable[[Tensor, Tensor], Tensor]


def watched(weight: Tensor, multiply: Callable[[], Tensor]) -> tuple[list[Operand], Tensor]:
    seen: list[Operand] = []

    def note(operand: Operand, x: Tensor) -> Tensor:
        seen.append(operand)
        return x

    with WeightMatmuls({"w": weight}, note):
        made = multiply()
    return seen, made


MATRIX: dict[str, Product] = {
    "linear": lambda x, w: F.linear(x, w),
    "linear with a bias": lambda x, w: F.linear(x, w, torch.ones(N)),
    "transposed": lambda x, w: x @ w.t(),
    "weight on the left": lambda x, w: (w @ x.t()).t(),
    "vector": lambda x, w: torch.mv(w, x[0])[None],
    "einsum": lambda x, w: torch.einsum("mk,nk->mn", x, w),
    "cast": lambda x, w: F.linear(x.double(), w.double()).float(),
    "copied": lambda x, w: F.linear(x, w.t().contiguous().t()),
    "rows": lambda x, w: torch.cat([F.linear(x, w[:2]), F.linear(x, w[2:])], -1),
    "three axes": lambda x, w: F.linear(x[None], w)[0],
}


@pytest.mark.parametrize("inference", [False, True])
def test_a_matrix_is_summed_over_its_inputs(inference: bool) -> None:
    weight, x = torch.randn(N, K), torch.randn(M, K)
    for way, multiply in MATRIX.items():
        with torch.inference_mode(inference), torch.no_grad():
            plain = multiply(x, weight)
            seen, made = watched(weight, partial(multiply, x, weight))
        assert seen, way
        assert {(operand.key, operand.summed) for operand in seen} == {("w", frozenset({1}))}, way
        assert {operand.free for operand in seen} == {frozenset({0})}, way
        assert torch.equal(made, plain), way


IDS = torch.tensor([2, 0])
STACK: dict[str, Product] = {
    "one expert": lambda x, w: F.linear(x, w[1]),
    "one expert, chosen by a tensor": lambda x, w: F.linear(x, w[torch.tensor(1)]),
    "all experts": lambda x, w: torch.bmm(x.expand(E, M, K), w.mT),
    "experts gathered for each token": lambda x, w: torch.bmm(w[IDS], x[:, :, None])[..., 0],
    "experts gathered by index_select": lambda x, w: w.index_select(0, IDS) @ x[:, :, None],
    "einsum": lambda x, w: torch.einsum("mk,enk->emn", x, w),
    "added": lambda x, w: torch.baddbmm(torch.ones(E, 1, N), x.expand(E, M, K), w.mT),
    "grouped": lambda x, w: F.grouped_mm(x, w.mT, offs=torch.tensor([1, 1, 2], dtype=torch.int32)),
}


def test_a_stack_is_summed_over_the_inputs_of_each_matrix() -> None:
    weight, x = torch.randn(E, N, K), torch.randn(M, K)
    for way, multiply in STACK.items():
        seen, _ = watched(weight, partial(multiply, x, weight))
        assert seen, way
        assert {operand.summed for operand in seen} == {frozenset({2})}, way
        assert all(1 in operand.free for operand in seen), way


def test_a_stack_that_lies_the_other_way_is_summed_over_the_axis_before_the_last() -> None:
    weight, x = torch.randn(E, K, N), torch.randn(M, K)
    seen, _ = watched(weight, lambda: torch.bmm(x.expand(E, M, K), weight))
    assert [(o.summed, o.free, o.num_summed) for o in seen] == [(frozenset({1}), frozenset({2}), K)]


def test_pieces_of_a_matrix_are_shorter_than_its_axis() -> None:
    weight, x = torch.randn(E * K, N), torch.randn(M, K)
    seen, _ = watched(weight, lambda: x @ weight.view(E, K, N)[1])
    assert [(o.summed, o.free, o.num_summed) for o in seen] == [(frozenset({0}), frozenset({1}), K)]


def test_memory_of_a_copy_that_is_gone_belongs_to_nobody() -> None:
    weight, x = torch.randn(64, 64), torch.randn(64, 64)

    def multiply() -> Tensor:
        for _ in range(20):
            weight.clone()  # freed at once: the next tensor of the size lies there
            x @ (x + 1)
        return x

    seen, _ = watched(weight, multiply)
    assert seen == []


def test_what_only_looks_a_weight_up_or_scales_with_it_is_no_matmul() -> None:
    weight = torch.randn(N, K)
    ids = torch.tensor([0, 1])
    seen, _ = watched(weight, lambda: F.embedding(ids, weight) @ (weight * 2).sum(0) * weight[0, 0])
    assert seen == []


def double(x: Tensor) -> Tensor:
    return 2 * x


@pytest.mark.parametrize("name", ["linear", "weight on the left", "vector", "einsum", "three axes"])
def test_what_the_watcher_returns_is_multiplied(name: str) -> None:
    weight, x = torch.randn(N, K), torch.randn(M, K)
    shapes: list[tuple[int, ...]] = []

    def seen(_: Operand, given: Tensor) -> Tensor:
        shapes.append(tuple(given.shape))
        return double(given)

    with torch.inference_mode(), WeightMatmuls({"w": weight}, seen):
        made = MATRIX[name](x, weight)
    assert {shape[-1] for shape in shapes} == {K}
    assert torch.equal(made, MATRIX[name](double(x), weight))


def test_rows_of_a_grouped_matmul_are_shown_one_expert_at_a_time() -> None:
    weight, x = torch.randn(E, N, K), torch.randn(7, K)
    offs = torch.tensor([3, 3, 7], dtype=torch.int32)
    shown: list[Tensor] = []

    def seen(_: Operand, rows: Tensor) -> Tensor:
        shown.append(rows)
        return rows

    with WeightMatmuls({"w": weight}, seen):
        F.grouped_mm(x, weight.mT, offs=offs)
    assert [len(rows) for rows in shown] == [3, 4]
    assert torch.equal(torch.cat(shown), x)
