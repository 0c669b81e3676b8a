"""SPLADE pooling against its definition: whole scores, text by text; and what a static query is."""

import math

import pytest
import torch
from tiny import sentences

from minist.data.packed import Packed
from minist.module import Words
from minist.modules import splade
from minist.modules.splade import ACTIVATIONS, SpladePooling
from minist.modules.static_embedding import SparseStaticEmbedding, inverse_document_frequencies
from minist.training.config import TokenizerConfig
from minist.training.start import train_wordpiece

LENGTHS = [5, 5, 3, 3, 3, 1, 0]


def slowly(words, packed, strategy, activation):
    scores = words.x @ words.weight.T + words.bias
    rows = []
    for text in scores.split(packed.lengths.tolist()):
        weights = torch.stack([ACTIVATIONS[activation](token) for token in text]) if len(text) else text
        empty = scores.sum(0) * 0
        rows.append(weights.amax(0) if strategy == "max" and len(text) else weights.sum(0) if len(text) else empty)
    return torch.stack(rows)


@pytest.mark.parametrize("block", [1, 64, 1 << 22])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("strategy", ["max", "sum"])
@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[::-1], [2], [0, 0]], ids=str)
def test_value_and_gradients(strategy, activation, block, lengths, monkeypatch):
    monkeypatch.setattr(splade, "BLOCK", block)
    packed = Packed.of(torch.zeros(sum(lengths), dtype=torch.long), torch.tensor(lengths))
    draw = torch.Generator().manual_seed(0)
    shapes = [(sum(lengths), 4), (11, 4), (11,)]
    words = Words(*(torch.randn(*s, dtype=torch.float64, generator=draw, requires_grad=True) for s in shapes))
    found, wanted = SpladePooling(11, strategy, activation)(words, packed), slowly(words, packed, strategy, activation)
    torch.testing.assert_close(found, wanted)
    falling = torch.randn(found.shape, dtype=torch.float64, generator=draw)
    gradients = (torch.autograd.grad(x, list(words), falling, materialize_grads=True) for x in (found, wanted))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_whole_scores_are_never_there(monkeypatch):
    """Neither in forward nor in backward does one tensor hold more scores than a block."""
    monkeypatch.setattr(splade, "BLOCK", 100 * 40)
    sizes = []
    scores, zeros = splade.scores, torch.Tensor.new_zeros
    monkeypatch.setattr(splade, "scores", lambda words: sizes.append(len(words.x) * len(words.weight)) or scores(words))
    counted = lambda self, *size, **more: sizes.append(math.prod(size)) or zeros(self, *size, **more)  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "new_zeros", counted)
    for strategy in ("max", "sum"):
        words = Words(torch.randn(100, 4, requires_grad=True), torch.randn(1000, 4), torch.zeros(1000))
        packed = Packed.of(torch.zeros(100, dtype=torch.long), torch.tensor([50, 50]))
        SpladePooling(1000, strategy)(words, packed).sum().backward()
    assert max(sizes) <= 100 * 40 and len(sizes) >= 100


def test_words_without_a_gradient_are_not_multiplied():
    words = Words(torch.ones(3, 2, requires_grad=True), torch.ones(50, 2), torch.full((50,), -9.0))
    words.bias[7] = 0.0
    packed = Packed.of(torch.zeros(3, dtype=torch.long), torch.tensor([3]))
    weights = SpladePooling(50)(words, packed)
    assert weights.nonzero().tolist() == [[0, 7]] and weights[0, 7] == math.log(3)
    weights.sum().backward()
    wanted = torch.tensor([[1 / 3, 1 / 3], [0, 0], [0, 0]])
    assert torch.equal(words.x.grad, wanted), "of equal scores the first token's"


def test_half_types():
    """Scores are computed in the half type, and gradients come out near those of float32."""
    packed = Packed.of(torch.zeros(6, dtype=torch.long), torch.tensor([4, 2]))
    draw = torch.Generator().manual_seed(0)
    words = Words(*(torch.randn(*s, generator=draw, requires_grad=True) for s in [(6, 8), (20, 8), (20,)]))
    exact = torch.autograd.grad(SpladePooling(20)(words, packed).sum(), list(words))
    with torch.autocast("cpu", torch.bfloat16):
        found = SpladePooling(20)(words, packed)
    assert found.dtype == torch.bfloat16
    for a, b in zip(torch.autograd.grad(found.float().sum(), list(words)), exact, strict=True):
        assert (
            a.dtype == torch.float32 and torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.98
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "mean"}, "pooling_strategy is 'mean', known are max, sum"),
        ({"activation": "tanh"}, "activation_fu"),
    ],
)
def test_unknown_options(options, message):
    with pytest.raises(ValueError, match=message):
        SpladePooling(3, **options)


# ---------------------------------------------------------------- static queries


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece(sentences(40), TokenizerConfig(vocab_size=120, max_length=30))


def test_a_word_counts_once(tokenizer):
    table = {token: float(i) for token, i in tokenizer.backend.get_vocab().items()}
    module = SparseStaticEmbedding.from_table(table, tokenizer)
    ids = torch.tensor([7, 9, 7, 11])
    found = module(Packed.of(ids, torch.tensor([3, 0, 1])))
    assert found[0].nonzero()[:, 0].tolist() == [7, 9] and found[0, [7, 9]].tolist() == [7, 9]
    assert found[1].count_nonzero() == 0 and found[2, 11] == 11
    found.sum().backward()
    assert module.weight.grad.nonzero()[:, 0].tolist() == [7, 9, 11] and module.weight.grad.sum() == 3
    assert not SparseStaticEmbedding(5, frozen=True).weight.requires_grad


def test_a_table_of_another_vocabulary(tokenizer):
    with pytest.raises(ValueError, match="1 tokens of the table are none of the vocabulary: qqq"):
        SparseStaticEmbedding.from_table({"line": 1.0, "qqq": 2.0}, tokenizer)


def test_frequencies(tokenizer):
    texts = ["line wait line", "wait", "list line", ""]
    found = inverse_document_frequencies(texts, tokenizer)
    for token, m in (("line", 2), ("wait", 2), ("list", 1), ("[MASK]", 0)):
        assert found[token] == pytest.approx(math.log((4 - m + 0.5) / (m + 0.5) + 1))
