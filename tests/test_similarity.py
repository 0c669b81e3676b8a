"""Similarities against recorded values and against their definitions."""

import numpy as np
import pytest
import torch

from minist.similarity import (
    NEAREST,
    PAIRWISE_SIMILARITIES,
    SIMILARITIES,
    distance,
    pairwise_angle,
    pairwise_distance,
    pairwise_similarity,
    similarity,
)

# recorded from sentence-transformers 6.2, on random(1, 3, 8) with random(2, 4, 8), and with random(3, 3, 8)
RECORDED = {
    "cosine": [
        [0.06871297210454941, 0.007825145497918129, 0.05968273803591728, -0.16247352957725525],
        [-0.341839998960495, -0.2507816553115845, 0.052387479692697525, -0.084577776491642],
        [0.2313499003648758, 0.18006493151187897, -0.12599103152751923, 0.2767714858055115],
    ],
    "dot": [
        [0.9363988637924194, 0.09013515710830688, 0.43588200211524963, -1.839457392692566],
        [-3.7801244258880615, -2.344003915786743, 0.31046223640441895, -0.7770064473152161],
        [1.8250175714492798, 1.2006217241287231, -0.5326421856880188, 1.813861608505249],
    ],
    "euclidean": [
        [-5.039766311645508, -4.830514430999756, -4.12558650970459, -5.184025764465332],
        [-5.478326320648193, -4.835484504699707, -3.5286080837249756, -4.464189052581787],
        [-3.7733492851257324, -3.4247701168060303, -3.094135046005249, -3.1911814212799072],
    ],
    "manhattan": [
        [-12.762502670288086, -10.802634239196777, -10.336359977722168, -12.00397777557373],
        [-10.932611465454102, -9.495901107788086, -7.813308238983154, -9.706783294677734],
        [-9.127565383911133, -8.001299858093262, -7.229995250701904, -7.776700973510742],
    ],
}
RECORDED_PAIRWISE = {
    "cosine": [0.5351361036300659, -0.5204772353172302, 0.5305576324462891],
    "dot": [5.496161937713623, -4.077327251434326, 3.3790924549102783],
    "euclidean": [-3.254978656768799, -4.904211521148682, -2.5589964389801025],
    "manhattan": [-7.679078102111816, -11.387752532958984, -5.950724124908447],
}
DEFINITIONS = {
    "cosine": lambda x, y: x @ y / np.sqrt((x @ x) * (y @ y)),
    "dot": lambda x, y: x @ y,
    "euclidean": lambda x, y: -np.sqrt(((x - y) ** 2).sum()),
    "manhattan": lambda x, y: -np.abs(x - y).sum(),
}
NAMES = list(RECORDED)


def random(seed, *shape):
    return torch.from_numpy(np.random.RandomState(seed).randn(*shape).astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_recorded(name):
    a, b, c = random(1, 3, 8), random(2, 4, 8), random(3, 3, 8)
    torch.testing.assert_close(similarity(name)(a, b), torch.tensor(RECORDED[name]), atol=2e-6, rtol=0)
    pairwise = pairwise_similarity(name)(a, c)
    torch.testing.assert_close(pairwise, torch.tensor(RECORDED_PAIRWISE[name]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_definitions(name):
    a, b = random(4, 40, 6).double(), random(5, 40, 6).double()
    expected = np.array([[DEFINITIONS[name](x, y) for y in b.numpy()] for x in a.numpy()])
    np.testing.assert_allclose(similarity(name)(a, b).numpy(), expected, atol=1e-10, rtol=0)
    np.testing.assert_allclose(pairwise_similarity(name)(a, b).numpy(), expected.diagonal(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_single_precision(name, dtype):
    a, b = random(6, 5, 64).to(dtype), random(7, 5, 64).to(dtype)
    for functions in (similarity, pairwise_similarity):
        found = functions(name)(a, b)
        assert found.dtype == torch.float32
        assert torch.equal(found, functions(name)(a.float(), b.float()))


def test_a_zero_vector_has_cosine_zero():
    assert similarity("cosine")(torch.zeros(1, 3), torch.ones(1, 3)).item() == 0


def test_both_tables_hold_the_same_names():
    assert list(SIMILARITIES) == list(PAIRWISE_SIMILARITIES) == NAMES


@pytest.mark.parametrize("name", NEAREST)
def test_distances(name):
    """Zero of equal vectors, and larger for those that are farther apart."""
    a, b = random(4, 9, 6).double(), random(5, 9, 6).double()
    start = 1 if name == "cosine" else 0
    expected = np.array([[start - DEFINITIONS[name](x, y) for y in b.numpy()] for x in a.numpy()])
    np.testing.assert_allclose(distance(name)(a, b).numpy(), expected, atol=1e-10, rtol=0)
    np.testing.assert_allclose(pairwise_distance(name)(a, b).numpy(), expected.diagonal(), atol=1e-10, rtol=0)
    torch.testing.assert_close(pairwise_distance(name)(a, a), torch.zeros(9).double(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("find", [similarity, pairwise_similarity])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [3, 40])  # torch computes Euclidean distances of many rows in another way
def test_gradients_of_equal_and_of_zero_vectors_are_finite(find, name, rows):
    for a in (torch.ones(rows, 8), torch.zeros(rows, 8)):
        a, b = a.clone().requires_grad_(), a.clone().requires_grad_()
        find(name)(a, b).sum().backward()
        assert torch.isfinite(a.grad).all()
        assert torch.isfinite(b.grad).all()


def test_angle():
    """z / w of unit complex numbers turns by the angle between them; real and imaginary part are added."""
    turns = torch.tensor([0.0, 0.3, 0.5, -1.2, 3.0], dtype=torch.float64)
    z = 2 * torch.stack([turns.cos(), turns.sin()], dim=1)
    w = torch.tensor([[3.0, 0.0]], dtype=torch.float64).expand(5, 2)
    torch.testing.assert_close(pairwise_angle(z, w), (turns.cos() + turns.sin()).abs(), rtol=1e-12, atol=1e-12)


def test_the_angle_has_a_direction():
    a, b = random(1, 5, 7), random(2, 5, 7)
    assert (pairwise_angle(a, b) - pairwise_angle(b, a)).abs().max() > 0.1


@pytest.mark.parametrize("width", [7, 8])
def test_the_angle_of_an_odd_width(width):
    """As if a zero stood at the end."""
    a, b = random(1, 5, width), random(2, 5, width)
    longer = [torch.nn.functional.pad(x, (0, width % 2)) for x in (a, b)]
    assert torch.allclose(pairwise_angle(a, b), pairwise_angle(*longer), rtol=0, atol=1e-6)
    assert torch.equal(pairwise_angle(a.half(), b.half()), pairwise_angle(a.half().float(), b.half().float()))


def test_unknown_name():
    for find in (similarity, pairwise_similarity):
        with pytest.raises(ValueError, match="similarity is 'cos', known are cosine, dot, euclidean, manhattan"):
            find("cos")


def test_unknown_distance():
    for find in (distance, pairwise_distance):
        with pytest.raises(ValueError, match="distance_metric is 'dot', known are cosine, euclidean, manhattan"):
            find("dot")


# ---------------------------------------------------------------- equal vectors, and types


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [3, 26, 200])
def test_a_vector_has_no_euclidean_distance_to_itself(rows, dtype):
    a = random(8, rows, 384).to(dtype).requires_grad_()
    found = similarity("euclidean")(a, a)
    assert found.diagonal().eq(0).all()
    exact = (a[:, None].double() - a.double()).norm(dim=-1)
    torch.testing.assert_close(-found.double(), exact, atol=1e-11, rtol=2e-7 if dtype == torch.float32 else 0)
    found[:, 0].sum().backward()
    assert torch.isfinite(a.grad).all() and a.grad[1:].norm(dim=-1).min() > 0.9  # of length 1, towards row 0


def test_near_vectors_have_their_distance():
    """Where fp32 would have nothing left of the difference of squares."""
    a, step = random(8, 40, 384), torch.zeros(40, 384)
    step[:, 0] = 1e-3
    b = a + step
    wanted = (a.double() - b.double()).norm(dim=-1)
    torch.testing.assert_close(-similarity("euclidean")(a, b).diagonal().double(), wanted, atol=0, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("find", [similarity, pairwise_similarity])
def test_integers_do_not_overflow(find, name):
    a, b = (torch.from_numpy(np.random.RandomState(seed).randint(-128, 128, (3, 64))) for seed in (0, 1))
    found, wanted = find(name)(a.to(torch.int8), b.to(torch.int8)), find(name)(a.float(), b.float())
    assert found.dtype == torch.float32 and torch.equal(found, wanted)
    assert torch.equal(find(name)(a + 128, (b + 128).to(torch.uint8)), find(name)(a.float() + 128, b.float() + 128))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("find", [similarity, pairwise_similarity])
def test_two_types_are_computed_in_the_wider_one(find, name):
    a, b = random(1, 4, 6), random(2, 4, 6)
    found = find(name)(a, b.double())
    assert found.dtype == torch.float64 and torch.equal(found, find(name)(a.double(), b.double()))
    assert find(name)(a.bfloat16(), b).dtype == find(name)(a.half(), b.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_one_vector_with_a_matrix(name):
    a, b = random(1, 6), random(2, 4, 6)
    assert torch.equal(similarity(name)(a, b), similarity(name)(a[None], b))
    assert similarity(name)(b, a).shape == (4, 1) and similarity(name)(a, a).shape == (1, 1)
    torch.testing.assert_close(pairwise_similarity(name)(a, b), similarity(name)(a, b)[0], atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("find", [similarity, pairwise_similarity])
def test_nan_stays_nan(find, name):
    a, b = random(1, 3, 6), random(2, 3, 6)
    a[1, 2] = torch.nan
    assert find(name)(a, b).isnan().reshape(3, -1).all(1).tolist() == [False, True, False]
