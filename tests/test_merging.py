"""Merging models: weights between those of several models of one architecture."""

import math

import pytest
import torch
from models import DATA
from tiny import run_script, sentences, tiny_model

from minist import CrossEncoder, SentenceTransformer
from minist.commands.merge import HELP
from minist.models.merging import merge, slerp


def weights_of(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def test_an_average_by_shares():
    parts = [weights_of(tiny_model(seed)) for seed in range(3)]
    merged = weights_of(merge((tiny_model(seed) for seed in range(3)), [2, 1, 1]))
    for name, found in merged.items():
        wanted = 0.5 * parts[0][name] + 0.25 * parts[1][name] + 0.25 * parts[2][name]
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert any((merged[name] != parts[0][name]).any() for name in merged)


def test_the_order_is_no_matter_to_an_average():
    one, other = (merge(map(tiny_model, seeds), w) for seeds, w in (((0, 1, 2), (1, 2, 3)), ((2, 0, 1), (3, 1, 2))))
    for name, found in weights_of(one).items():
        torch.testing.assert_close(found, other.state_dict()[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_on_an_arc(t):
    """Two directions of the plane: the angle is divided, and the length stays."""
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[2 * math.cos(2.0), 2 * math.sin(2.0)]])
    torch.testing.assert_close(slerp(a, b, t), torch.tensor([[2 * math.cos(2 * t), 2 * math.sin(2 * t)]]))


@pytest.mark.parametrize("b", [[2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
def test_no_arc(b):
    """The same direction, the opposite one, and none: as an average."""
    found = slerp(torch.tensor([1.0, 0.0]), torch.tensor(b), 0.25)
    torch.testing.assert_close(found, 0.75 * torch.tensor([1.0, 0.0]) + 0.25 * torch.tensor(b))


@pytest.mark.parametrize("method", ["average", "slerp"])
def test_equal_models_and_a_share_of_none(method):
    first = weights_of(tiny_model(0))
    for seeds, shares in (((0, 0), [1, 3]), ((0, 1), [1, 0]), ((1, 0), [0, 2])):
        for name, found in weights_of(merge(map(tiny_model, seeds), shares, method)).items():
            torch.testing.assert_close(found, first[name], atol=1e-6, rtol=0)


def test_the_first_page_has_it():
    assert HELP in run_script("minist/__main__.py", "--help")[1]


def test_a_command(tmp_path):
    for seed in (0, 1):
        model = tiny_model(seed)
        model.prompts["query"] = f"{seed}: "
        model.save(tmp_path / str(seed))
    given = ["--models", tmp_path / "0", tmp_path / "1", "--weights", "3", "1", "--method", "slerp"]
    code, printed, err = run_script("minist/__main__.py", "merge", *given, "--output", tmp_path / "out")
    assert (code, err) == (0, "") and "merged 2 models into" in printed
    found, wanted = SentenceTransformer(tmp_path / "out"), merge(map(tiny_model, (0, 1)), [3, 1], "slerp")
    texts = sentences(5)
    assert found.prompts["query"] == "0: "
    torch.testing.assert_close(torch.tensor(found.encode(texts)), torch.tensor(wanted.encode(texts)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hidden_size": 32},
            "the weight stack.0.embeddings.word.weight is .*, 16] in the first model, and .*, 32] in another",
        ),
        ({"num_hidden_layers": 1}, "the weight stack.0.layers.1.* in the first model, and missing in another"),
        ({"num_attention_heads": 4}, "num_attention_heads of Transformer is 2 in the first model, and 4 in another"),
    ],
)
def test_other_architectures(change, message):
    with pytest.raises(ValueError, match=message):
        merge([tiny_model(), tiny_model(encoder=change)], [1, 1])


def test_other_poolings_kinds_and_words():
    with pytest.raises(ValueError, match="pooling_mode_cls_token of Pooling is False in the first model, and True"):
        merge([tiny_model(), tiny_model(mode="cls")], [1, 1])
    cross_encoder = CrossEncoder(DATA / "folders/st6/ce")
    with pytest.raises(ValueError, match=r"a model of SentenceTransformer, .* have no middle"):
        merge([tiny_model(), cross_encoder], [1, 1])
    other = tiny_model(1)
    other.tokenizers[None].backend.add_tokens(["another"])
    with pytest.raises(ValueError, match="two models have other tokens"):
        merge([tiny_model(), other], [1, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "a"], "--models are 1 and --weights 1: name two or more"),
        (["--models", "a", "b", "--weights", "1"], "--models are 2 and --weights 1: name two or more"),
        (["--models", "a", "b", "--weights", "1", "-1"], "a weight of merging is -1.0: use a number at least 0"),
        (["--models", "a", "b", "--weights", "0", "0"], "the weights of merging are all 0"),
        (["--models", "a", "out"], "--output is out, which is also read"),
    ],
)
def test_mistakes(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "out"):
        tiny_model().save(name)
    code, _, err = run_script("minist/__main__.py", "merge", *arguments, "--output", "out")
    assert code == 2 and message in err and len(err.splitlines()) == 1
