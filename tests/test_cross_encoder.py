"""Cross-encoders: recorded scores, every head, predict and rank, folders of both generations; wrong input."""

import json
import warnings

import numpy as np
import pytest
import torch
from models import DATA
from safetensors.torch import load_file, save_file
from tiny import ENCODER, WORDS, sentences, tiny_model
from torch import nn

from minist import CrossEncoder, SentenceTransformer
from minist.data.pairing import Pairing
from minist.models import open_model
from minist.modules.classification_head import ClassificationHead, find_activation, read_labels

FAMILIES = ["bert", "roberta", "xlmr", "mpnet", "distilbert", "modernbert"]
RECORDED = json.loads((DATA / "encoders.json").read_text())["models"]
PAIRS = [(a, b) for a in sentences(5, seed=1, longest=20) for b in ["", *sentences(4, seed=2, longest=30)]]
FOLDERS = ["st5/ce", "st6/ce", "st6/ce2"]


def new_model(num_labels=1, seed=0, **options):
    """A bert with random weights and a new head."""
    encoder = tiny_model(seed)
    torch.manual_seed(seed)
    with pytest.warns(UserWarning, match=f"a new head, of {num_labels} labels: train it"):
        model = CrossEncoder(encoder.content(), num_labels=num_labels, **options)
    nn.init.normal_(
        model.head.classifier.weight, generator=torch.Generator().manual_seed(seed)
    )  # so that scores differ
    return model


def close(a, b, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=0)


# ---------------------------------------------------------------- heads


@pytest.mark.parametrize("name", FAMILIES)
def test_recorded_scores(name):
    model, recorded = CrossEncoder(DATA / "enc" / f"{name}_cls"), RECORDED[f"{name}_cls"]
    if "token_type_ids" in recorded["pairs"]:  # it was recorded with them, its tokenizer_config.json leaves them out
        model.tokenizer.has_types = True
        model.pairing = Pairing(model.tokenizer, token_types=True)
    pairs = recorded["pairs"]
    close(model.predict(pairs["input"], activation_fn="Identity"), np.array(pairs["logits"])[:, 0], 1e-5)
    close(model.predict(pairs["input"]), 1 / (1 + np.exp(-np.array(pairs["logits"])[:, 0])), 1e-5)
    with model.inference():
        (logits,) = model([model.tokenizer(recorded["texts"]["input"]).packed()])[0]
    close(logits, recorded["texts"]["logits"], 1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_heads_are_the_same(name, tmp_path):
    model, file = CrossEncoder(DATA / "enc" / f"{name}_cls"), DATA / "enc" / f"{name}_cls" / "model.safetensors"
    model.save(tmp_path)
    close(CrossEncoder(tmp_path).predict(PAIRS), model.predict(PAIRS), 0)
    saved, given = load_file(tmp_path / "model.safetensors"), load_file(file)
    assert saved.keys() == given.keys() and all(saved[key].equal(given[key]) for key in given)
    config, own = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, file.parent))
    same = own.keys() & {"architectures", "id2label", "label2id", "classifier_dropout", "seq_classif_dropout"}
    assert len(same) >= 3 and {key: config[key] for key in same} == {key: own[key] for key in same}
    assert not (tmp_path / "1_ClassificationHead").exists()


def head_of(model_type, weights=None, **config):
    shape = {"dim": 4} if model_type == "distilbert" else {"hidden_size": 4}
    given = (
        {"model_type": model_type, "hidden_dropout_prob": 0.25, "id2label": {"0": "no", "1": "yes"}} | shape | config
    )
    return ClassificationHead(given, read_labels(given))


@pytest.mark.parametrize(
    ("model_type", "config", "dropout"),
    [
        ("bert", {}, 0.25),
        ("bert", {"classifier_dropout": 0.5}, 0.5),
        ("roberta", {"classifier_dropout": None}, 0.25),
        ("mpnet", {"classifier_dropout": 0.5}, 0.25),
        ("distilbert", {"seq_classif_dropout": 0.75}, 0.75),
        ("modernbert", {}, 0.0),
        ("modernbert", {"classifier_dropout": 0.5}, 0.5),
    ],
)
def test_dropout_of_heads(model_type, config, dropout):
    assert head_of(model_type, **config).dropout.p == dropout


@pytest.mark.parametrize(("model_type", "before"), [("bert", False), ("roberta", True), ("mpnet", True)])
def test_where_dropout_falls(model_type, before):
    """With a probability of 1 nothing of the input is left where it falls before the dense layer."""
    head, packed = head_of(model_type).train(), tiny_model().tokenizer(["read"]).packed()
    head.dropout.p, head.classifier, head.dense.bias.data = 1.0, nn.Identity(), torch.zeros(4)
    seen = []
    head.dense.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    head(torch.ones(len(packed.input_ids), 4), packed)
    assert bool((seen[0] == 0).all()) == before


def test_a_modernbert_may_average_its_tokens():
    packed = tiny_model().tokenizer(["read write", "sort"]).packed()
    x = torch.randn(len(packed.input_ids), 4)
    torch.manual_seed(0)
    head = head_of("modernbert", classifier_pooling="mean").eval()
    means = torch.stack([part.mean(0) for part in x.split(packed.lengths.tolist())])
    expected = head.classifier(head.norm(torch.nn.functional.gelu(head.dense(means))))
    torch.testing.assert_close(head(x, packed), expected)
    assert head.dense.bias is None and head.norm.bias is None


def test_an_unknown_family_has_no_head():
    with pytest.raises(ValueError, match=r"'albert', known are bert, roberta"):
        head_of("albert")


def test_no_pair_at_all_gives_a_zero_gradient():
    model = new_model()
    (logits,) = model([model.read([], "", None)[0]])[0]
    assert logits.shape == (0, 1)
    logits.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.head.classifier.parameters())


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({}, ["LABEL_0", "LABEL_1"]),  # what transformers takes where nothing is said
        ({"num_labels": 1}, ["LABEL_0"]),
        ({"id2label": {"1": "b", "0": "a"}}, ["a", "b"]),
        ({"id2label": {"0": "a"}, "num_labels": 1}, ["a"]),
    ],
)
def test_names_of_labels(config, labels):
    assert read_labels(config) == labels


@pytest.mark.parametrize("names", [{"1": "a"}, {"0": "a", "2": "b"}])
def test_labels_with_gaps(names):
    with pytest.raises(ValueError, match=r"give 0, 1, 2 \.\. a name each"):
        read_labels({"id2label": names})


# ---------------------------------------------------------------- new heads


def test_a_new_head_depends_on_the_seed_alone():
    def scores(seed, draws=0):
        torch.manual_seed(seed)
        torch.randn(draws)
        with pytest.warns(UserWarning, match="a new head"):
            return CrossEncoder(DATA / "enc" / "bert", num_labels=2).head.classifier.weight

    assert scores(1).equal(scores(1, draws=7)) and not scores(1).equal(scores(2))
    assert 0.01 < scores(1).std() < 0.03


def test_a_new_head_takes_the_pooler_of_the_checkpoint():
    with pytest.warns(
        UserWarning, match=r"a new head \(but for its dense layer, the checkpoint's pooler\), of 1 labels"
    ):
        model = CrossEncoder(DATA / "enc" / "bert")
    assert model.head.dense.weight.equal(load_file(DATA / "enc" / "bert" / "model.safetensors")["pooler.dense.weight"])
    with pytest.warns(UserWarning, match="a new head, of 1 labels"):
        CrossEncoder(DATA / "enc" / "mpnet")  # its pooler is another layer than the dense one of its head


def test_a_head_of_another_size_gets_a_new_last_layer(tmp_path):
    old = CrossEncoder(DATA / "enc" / "bert_cls")
    with pytest.warns(UserWarning, match="the last layer of the head is a new one, of 3 labels"):
        model = CrossEncoder(DATA / "enc" / "bert_cls", num_labels=3)
    assert model.predict(PAIRS).shape == (len(PAIRS), 3) and model.head.dense.weight.equal(old.head.dense.weight)
    model.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CrossEncoder(tmp_path, num_labels=3).num_labels == 3


def test_other_labels_have_another_activation():
    with pytest.warns(UserWarning, match="the last layer of the head is a new one"):
        model = CrossEncoder(DATA / "folders/st6/ce", num_labels=3)
    assert type(model.activation_fn) is nn.Identity  # the folder says Sigmoid, of its one label


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_both_generations(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = open_model(DATA / "folders" / name)
    assert type(model) is CrossEncoder and type(model.activation_fn) is nn.Sigmoid
    model.save(tmp_path)
    close(open_model(tmp_path).predict(PAIRS), model.predict(PAIRS), 0)


@pytest.mark.parametrize("name", ["st5/dense", "st6/dense"])
def test_a_bi_encoder_is_no_cross_encoder(name):
    with pytest.raises(ValueError, match=r"is a bi-encoder: open it with SentenceTransformer, or give num_labels"):
        CrossEncoder(DATA / "folders" / name)
    with pytest.warns(UserWarning, match="a new head"):
        assert CrossEncoder(DATA / "folders" / name, num_labels=2).predict(PAIRS).shape == (len(PAIRS), 2)


@pytest.mark.parametrize("name", [f"folders/{name}" for name in FOLDERS] + ["enc/roberta_cls"])
def test_a_cross_encoder_is_no_bi_encoder(name):
    with pytest.raises(ValueError, match="gives scores, no embeddings: open it with CrossEncoder"):
        SentenceTransformer(DATA / name)


def test_a_static_model_reads_no_pairs():
    with pytest.raises(ValueError, match="begins with StaticEmbedding: a cross-encoder needs one encoder"):
        CrossEncoder(DATA / "folders" / "st6" / "static", num_labels=1)


def edited(folder, target, **changes):
    """A copy whose config.json has these changes; None drops a key."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return target


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, nn.Identity),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}}, nn.Tanh),
        ({}, nn.Sigmoid),
    ],
)
def test_activations_of_older_folders(changes, activation, tmp_path):
    model = CrossEncoder(edited(DATA / "enc" / "bert_cls", tmp_path / "old", **changes))
    assert type(model.activation_fn) is activation
    model.save(tmp_path / "new")
    assert type(CrossEncoder(tmp_path / "new").activation_fn) is activation
    assert type(CrossEncoder(tmp_path / "new", activation_fn=nn.ReLU()).activation_fn) is nn.ReLU


def test_code_that_a_folder_names_is_not_run(tmp_path):
    changes = {"sentence_transformers": {"activation_fn": "os.Sigmoid"}}
    folder = edited(DATA / "enc" / "bert_cls", tmp_path / "bad", **changes)
    with pytest.raises(ValueError, match=r"activation_fn, .* is 'os.Sigmoid', known are Identity, Sigmoid"):
        CrossEncoder(folder)
    assert type(CrossEncoder(folder, activation_fn="Identity").activation_fn) is nn.Identity


def test_several_labels_have_no_activation_of_their_own(tmp_path):
    model = new_model(3)
    assert type(model.activation_fn) is nn.Identity
    model.id2label = {0: "no", 1: "maybe", 2: "yes"}
    model.save(tmp_path)
    found = CrossEncoder(tmp_path)
    assert found.id2label == {0: "no", 1: "maybe", 2: "yes"} and found.num_labels == 3
    with pytest.raises(ValueError, match=r"id2label is \{1: 'no'\}: give 0 to 2 a name each, no two the same"):
        model.id2label = {1: "no"}
    with pytest.raises(ValueError, match=r"id2label is .*: give 0 to 2 a name each, no two the same"):
        model.id2label = {0: "no", 1: "no", 2: "yes"}


@pytest.mark.parametrize("missing", ["classifier.weight", "bert.pooler.dense.bias"])
def test_weights_of_a_head_that_are_missing(missing, tmp_path):
    folder = edited(DATA / "enc" / "bert_cls", tmp_path / "bad")
    weights = load_file(folder / "model.safetensors")
    del weights[missing]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"the weight {missing} is missing"):
        CrossEncoder(folder)


def test_more_label_names_than_weights(tmp_path):
    folder = edited(DATA / "enc" / "bert_cls", tmp_path / "bad", id2label={"0": "a", "1": "b"})
    with pytest.raises(
        ValueError, match=r"the weight classifier.weight is \[1, 16\], by its config.json it has shape \[2, 16\]"
    ):
        CrossEncoder(folder)


# ---------------------------------------------------------------- predict


def test_predict_reads_pairs_as_the_tokenizer_joins_them():
    model = new_model()
    packed = model.tokenizer(PAIRS).packed()
    with model.inference():
        (logits,) = model([packed])[0]
    close(model.predict(PAIRS), torch.sigmoid(logits[:, 0]))
    assert model.predict(PAIRS).dtype == np.float32 and len(set(model.predict(PAIRS).tolist())) > 20


@pytest.mark.parametrize("batch_tokens", [1, 64, 100000])
def test_predict_does_not_depend_on_the_batch(batch_tokens):
    model = new_model(2)
    whole, order = model.predict(PAIRS), np.random.RandomState(0).permutation(len(PAIRS))
    near = 3e-6  # scores go to 3, where float32 has steps of 2e-7
    close(model.predict(PAIRS, batch_tokens=batch_tokens), whole, near)
    close(model.predict([PAIRS[i] for i in order], batch_tokens=batch_tokens), whole[order], near)
    close(np.stack([model.predict(pair) for pair in PAIRS]), whole, near)


def test_forms_of_pairs():
    model, pair = new_model(), PAIRS[1]
    one = model.predict(pair)
    assert one.shape == () and model.predict([]).shape == (0,) and new_model(3).predict([]).shape == (0, 3)
    for same in ([pair], [list(pair)], np.array([pair]), (list(p) for p in [pair])):
        close(model.predict(same), [one], 0)
    close(model.predict(np.array(pair)), one, 0)
    found = model.predict([pair], convert_to_tensor=True)
    assert isinstance(found, torch.Tensor)


def test_activations_and_shares():
    model = new_model(3)
    logits = model.predict(PAIRS)
    close(model.predict(PAIRS, apply_softmax=True), torch.from_numpy(logits).softmax(1))
    close(model.predict(PAIRS, activation_fn=nn.Tanh()), np.tanh(logits))
    close(model.predict(PAIRS, activation_fn="Tanh", apply_softmax=True), torch.from_numpy(logits).tanh().softmax(1))
    assert type(model.activation_fn) is nn.Identity  # those were of one call


def test_prompts_go_before_the_first_text():
    model = new_model(prompts={"task": "file "})
    expected = model.predict([("file " + a, b) for a, b in PAIRS])
    close(model.predict(PAIRS, prompt="file "), expected)
    close(model.predict(PAIRS, prompt_name="task"), expected)
    with pytest.raises(ValueError, match="the prompt name"):
        model.predict(PAIRS, prompt_name="none")


def test_half_types_give_float32_logits():
    model = new_model()
    exact = model.predict(PAIRS)
    close(model.to(torch.bfloat16).predict(PAIRS), exact, 0.05)
    assert model.predict(PAIRS).dtype == np.float32
    assert len(set(model.predict(PAIRS).tolist())) > 20  # activated in float32: not rounded once more


def test_max_length(tmp_path):
    model = new_model(max_length=12)
    long = " ".join(WORDS)
    assert model.read([(long, long)], "", None)[0].lengths.tolist() == [12]
    model.save(tmp_path)
    assert CrossEncoder(tmp_path).max_length == 12 and CrossEncoder(tmp_path, max_length=20).max_length == 20
    with pytest.raises(ValueError, match="max_length"):
        CrossEncoder(tmp_path, max_length=10**6)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("a text", "give a list of pairs of texts"),
        (7, "give a list of pairs of texts"),
        ([("a", "b"), "cd"], r"pairs\[1\] is 'cd': a pair is a tuple or list of two texts"),
        ([("a", "b"), ("a", "b", "c")], r"pairs\[1\] is \('a', 'b', 'c'\)"),
        ([("a", None)], r"pairs\[0\] is None"),
        ([{"query": "a"}], r"pairs\[0\] is"),
        ([("a", "\ud800")], "it has no UTF-8"),
    ],
)
def test_what_is_no_pair(pairs, message):
    with pytest.raises(ValueError, match=message):
        new_model().predict(pairs)


def test_arguments_of_sentence_transformers():
    with pytest.raises(ValueError, match="predict has no argument batch_size: memory is bounded by batch_tokens"):
        new_model().predict(PAIRS, batch_size=8)
    with pytest.raises(ValueError, match="num_labels"):
        CrossEncoder(DATA / "enc" / "bert", num_labels=0)


# ---------------------------------------------------------------- rank

DOCUMENTS = sentences(30, seed=5)


def test_rank():
    model = new_model()
    scores = model.predict([("read", d) for d in DOCUMENTS])
    found = model.rank("read", DOCUMENTS)
    assert [hit["corpus_id"] for hit in found] == np.argsort(-scores, kind="stable").tolist()
    close([hit["score"] for hit in found], np.sort(scores)[::-1], 0)
    assert all(type(hit["score"]) is float and set(hit) == {"corpus_id", "score"} for hit in found)
    assert model.rank("read", DOCUMENTS, top_k=3) == found[:3]
    assert [hit["text"] for hit in model.rank("read", DOCUMENTS, top_k=2, return_documents=True)] == [
        DOCUMENTS[hit["corpus_id"]] for hit in found[:2]
    ]
    assert model.rank("read", []) == []
    with pytest.raises(ValueError, match=r"top_k is 2\.5: use a whole number"):
        model.rank("read", DOCUMENTS, top_k=2.5)


def test_equal_documents_score_alike(monkeypatch):
    """What a score is in its last bits depends on its batch: each document is scored once."""
    model, asked = new_model(), []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda pairs, **options: asked.extend(pairs) or predict(pairs, **options))
    found = model.rank("read", ["a", "a long text", "a", "a"])
    scores = {hit["corpus_id"]: hit["score"] for hit in found}
    assert scores[0] == scores[2] == scores[3] and len(asked) == 2
    places = [hit["corpus_id"] for hit in found]
    assert [place for place in places if place != 1] == [0, 2, 3], "the earlier first"


def test_equal_scores_keep_their_order():
    found = new_model().rank("read", ["write", "sort", "write", "sort", "write"])
    assert [hit["corpus_id"] for hit in found] in ([0, 2, 4, 1, 3], [1, 3, 0, 2, 4])


def test_what_rank_refuses():
    with pytest.raises(ValueError, match="rank needs a model of one label, this one has 3: use predict"):
        new_model(3).rank("read", DOCUMENTS)
    with pytest.raises(ValueError, match="rank takes one query, and a list of documents"):
        new_model().rank("read", "write")  # or else each letter would be a document
    with pytest.raises(ValueError, match=r"pairs\[0\] is \['read'\]: give a text"):
        new_model().rank(["read"], DOCUMENTS)


def test_ranking_tokenizes_each_document_once(monkeypatch):
    model, asked = new_model(), []
    whole = type(model.tokenizer).__call__
    monkeypatch.setattr(
        type(model.tokenizer), "__call__", lambda self, texts, p="": asked.extend(texts) or whole(self, texts, p)
    )
    model.rank("read", [*DOCUMENTS, *DOCUMENTS])
    assert sorted(asked) == sorted([*dict.fromkeys(DOCUMENTS), "read"])


@pytest.mark.slow
def test_several_devices():
    model = new_model(3)
    close(model.predict(PAIRS, device=["cpu"]), model.predict(PAIRS))


def test_keeping_layers():
    model = new_model(keep_layers=[1])
    assert model.stack.num_layers == 1 < ENCODER["num_hidden_layers"]


def test_names_of_activations():
    assert type(find_activation("torch.nn.modules.activation.GELU")) is nn.GELU


@pytest.mark.parametrize(
    ("activation", "kept"), [(nn.LeakyReLU(0.5), False), (nn.LeakyReLU(), True), (nn.PReLU(), False)]
)
def test_an_activation_is_saved_by_its_name(activation, kept, tmp_path):
    model = new_model(activation_fn=activation)
    assert model.predict(PAIRS).dtype == np.float32
    if kept:
        model.save(tmp_path)
        close(CrossEncoder(tmp_path).predict(PAIRS), model.predict(PAIRS), 0)
    else:
        with pytest.warns(UserWarning, match="only the name is saved: give it again"):
            model.save(tmp_path)


def test_a_bi_encoder_leaves_its_settings_behind(tmp_path):
    bi = tiny_model()
    bi.truncate_dim, bi.default_prompt_name = 8, "query"
    bi.prompts["query"] = "sort "
    bi.save(tmp_path)
    with pytest.warns(UserWarning, match="a new head"):
        model = CrossEncoder(tmp_path, num_labels=1)
    close(model.predict(PAIRS), model.predict(PAIRS, prompt=""), 0)
    assert model.out_width == 1


def test_the_shortest_maximum_length():
    assert new_model(max_length=4).predict(PAIRS).shape == (len(PAIRS),)


def test_labels_of_one_name():
    with pytest.raises(ValueError, match=r"give 0, 1, 2 \.\. a name each"):
        read_labels({"id2label": {"0": "a", "1": "a"}})


def test_an_error_names_the_folder_and_shows_no_model():
    with pytest.raises(ValueError) as error:
        open_model(DATA / "folders/st6/ce", "SentenceTransformer")
    assert len(str(error.value)) < 200 and "st6/ce gives scores, no embeddings: open it with CrossEncoder" in str(
        error.value
    )


def test_a_generator_of_documents():
    model = new_model()
    assert model.rank("read", (d for d in DOCUMENTS), return_documents=True) == model.rank(
        "read", DOCUMENTS, return_documents=True
    )
    with pytest.raises(ValueError, match="top_k is -1"):
        model.rank("read", DOCUMENTS, top_k=-1)
    with pytest.raises(ValueError, match="predict has no argument batch_size"):
        model.rank("read", DOCUMENTS, batch_size=8)
