"""Cross-encoders beside sentence-transformers and transformers: scores, ranks, gradients, folders there and back."""

import warnings

import numpy as np
import pytest
import sentence_transformers
import torch
from models import DATA, docstrings, real_model
from sentence_transformers.cross_encoder import losses as their_losses
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from minist import Batch, CrossEncoder
from minist.losses import cross_encoder as our_losses

TEXTS = [text[:n] for text, n in zip(docstrings(), [0, 1, 5, 20, 60, 200, 500, 1500, 4000] * 20, strict=False)]
PAIRS = [(TEXTS[i], TEXTS[j]) for i, j in zip(range(0, 60), range(120, 60, -1), strict=True)]
FAMILIES = ["bert", "roberta", "xlmr", "mpnet", "distilbert", "modernbert"]
TINY = [("the cat", "sat."), ("", "a"), ("a", ""), ("quiz " * 40, "the cat sat " * 40), ("sat " * 200, "b")]


def new_model(path, **options):
    """With a random head whose scores differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = CrossEncoder(path, **options)
    torch.nn.init.normal_(model.head.classifier.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    return model


def theirs(folder, **options):
    return sentence_transformers.CrossEncoder(str(folder), device="cpu", **options)


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=0)


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("max_length", [64, 256])
def test_real_minilm(num_labels, max_length, tmp_path):
    """Texts of all lengths; and no score depends on what else is in its batch."""
    ours = new_model(real_model("all-MiniLM-L6-v2"), num_labels=num_labels, max_length=max_length)
    ours.save(tmp_path)
    other = theirs(tmp_path)
    assert other.num_labels == num_labels and other.max_seq_length == max_length
    close(ours.predict(PAIRS), other.predict(PAIRS))
    close(ours.predict(PAIRS, activation_fn="Identity"), other.predict(PAIRS, activation_fn=torch.nn.Identity()))
    close(ours.predict(PAIRS, apply_softmax=True), other.predict(PAIRS, apply_softmax=True))
    assert ours.predict(PAIRS).std() > 0.05
    # scores from 0 to 1: what rounding does to the raw ones grows with the weights of the head, up to 1.3e-6 here
    alone = np.stack([ours.predict([pair], apply_softmax=True)[0] for pair in PAIRS])
    close(ours.predict(PAIRS, apply_softmax=True), alone, 1e-6)
    close(ours.predict(PAIRS, batch_tokens=300, apply_softmax=True), alone, 1e-6)
    ours.double()  # without rounding, the raw ones are the same too
    close(ours.predict(PAIRS), np.stack([ours.predict([pair])[0] for pair in PAIRS]), 1e-7)


@pytest.mark.parametrize("name", ["st5/ce", "st6/ce", "st6/ce2"])
def test_folders(name, tmp_path):
    ours, other = CrossEncoder(DATA / "folders" / name), theirs(DATA / "folders" / name)
    other.max_seq_length = ours.max_length  # 62 of a tiny RoBERTa, whose own files say 64, which has no position
    close(ours.predict(TINY), other.predict(TINY))
    assert ours.id2label == other.config.id2label
    assert type(ours.activation_fn) is type(other.activation_fn)
    found, expected = (model.rank("the cat", ["sat", "a", "b", "a"], top_k=3) for model in (ours, other))
    assert [hit["corpus_id"] for hit in found] == [hit["corpus_id"] for hit in expected]
    ours.save(tmp_path / "ours")
    close(theirs(tmp_path / "ours").predict(TINY), ours.predict(TINY))
    other.save_pretrained(str(tmp_path / "theirs"))
    close(CrossEncoder(tmp_path / "theirs").predict(TINY), ours.predict(TINY))


@pytest.mark.parametrize("family", FAMILIES)
def test_families_there_and_back(family, tmp_path):
    """A plain checkpoint, and what is saved, in three libraries."""
    path = DATA / "enc" / f"{family}_cls"
    ours = CrossEncoder(path)
    close(ours.predict(TINY), theirs(path, max_length=ours.max_length).predict(TINY))
    ours.id2label = {0: "matches"}
    ours.save(tmp_path / "ours")
    other = theirs(tmp_path / "ours")
    close(other.predict(TINY), ours.predict(TINY))
    assert other.config.id2label == {0: "matches"}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    tokens = AutoTokenizer.from_pretrained(tmp_path / "ours")(
        [list(pair) for pair in TINY], padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        close(torch.sigmoid(model(**tokens).logits[:, 0]), ours.predict(TINY))
    other.save_pretrained(str(tmp_path / "theirs"))
    close(CrossEncoder(tmp_path / "theirs").predict(TINY), ours.predict(TINY))


@pytest.mark.parametrize("activation", ["Sigmoid", "Identity", "Tanh"])
def test_activations_are_saved(activation, tmp_path):
    model = new_model(DATA / "enc" / "bert", num_labels=1, activation_fn=activation)
    model.save(tmp_path)
    close(theirs(tmp_path).predict(TINY), model.predict(TINY))


def test_prompts(tmp_path):
    model = new_model(DATA / "enc" / "bert", num_labels=1, prompts={"task": "the cat "})
    model.save(tmp_path)
    close(theirs(tmp_path).predict(TINY, prompt_name="task"), model.predict(TINY, prompt_name="task"))
    close(theirs(tmp_path).predict(TINY, prompt="sat "), model.predict(TINY, prompt="sat "))


def test_gradients_of_a_batch_of_lists(tmp_path):
    """All parameters' gradients of one batch, ours of packed pairs, theirs of padded ones."""
    model = new_model(DATA / "enc" / "bert", num_labels=1)
    model.save(tmp_path)
    other = theirs(tmp_path)
    queries = ["the cat", "sat", "quiz?"]
    lists = [["sat.", "a", "the cat sat, the cat?"], ["zebra"], ["b", "quiz", "quiz " * 20, "a"]]
    labels = [torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0]), torch.tensor([0.0, 3.0, 1.0, 0.0])]
    other.eval()  # without dropout
    loss = their_losses.LambdaLoss(other)([queries, lists], labels)
    loss.backward()
    packed, _ = model.read([(q, d) for q, ds in zip(queries, lists, strict=True) for d in ds], "", None)
    batch = Batch(labels=torch.cat(labels), counts=(torch.tensor([3, 1, 4]),))
    ours = our_losses.LambdaLoss()([model([packed])[0][0]], batch)
    ours.backward()
    assert ours.item() == pytest.approx(loss.item(), abs=1e-6)
    head = other[0].model.classifier.weight.grad
    torch.testing.assert_close(model.head.classifier.weight.grad, head, atol=1e-5, rtol=0)
    words = other[0].model.bert.embeddings.word_embeddings.weight.grad
    torch.testing.assert_close(model.stack[0].embeddings.word.weight.grad, words, atol=1e-5, rtol=0)
    assert words.abs().max() > 1e-3
