"""What a folder says of itself: whether its encoder has a head that is used, as each generation says it."""

import json

import pytest

from minist.models.folder import has_head, load_settings, old_activation

HEAD = {"architectures": ["RobertaForSequenceClassification"]}


def put(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, False),
        ({"config": {}}, False),
        ({"config": {"architectures": None}}, False),
        ({"config": {"architectures": ["RobertaModel"]}}, False),
        ({"config": {"architectures": ["RobertaForMaskedLM"]}}, False),
        ({"config": HEAD}, True),
        ({"config": HEAD, "sentence_bert_config": {"max_seq_length": 128}}, True),
        ({"config": HEAD, "sentence_bert_config": {"transformer_task": "feature-extraction"}}, False),  # it is not used
        ({"config": HEAD, "sentence_bert_config": {"transformer_task": "sequence-classification"}}, True),
    ],
)
def test_whether_there_is_a_head(tmp_path, files, expected):
    assert has_head(put(tmp_path, **files)) is expected


def test_activations_of_older_versions(tmp_path):
    assert old_activation(tmp_path) is None
    assert old_activation(put(tmp_path, config={"sbert_ce_default_activation_function": "a"})) == "a"
    both = {"sentence_transformers": {"activation_fn": "b"}, "sbert_ce_default_activation_function": "a"}
    assert old_activation(put(tmp_path, config=both)) == "b"
    assert old_activation(put(tmp_path, config={"sentence_transformers": None})) is None
    with pytest.raises(ValueError, match="a value in it is of another kind"):
        old_activation(put(tmp_path, config={"sentence_transformers": 3}))


def test_settings(tmp_path):
    file = tmp_path / "s.json"
    assert load_settings(file) == {}
    file.write_text('{"prompts": null, "truncate_dim": 3, "other": [1]}')
    assert load_settings(file) == {"prompts": None, "truncate_dim": 3, "other": [1]}


@pytest.mark.parametrize(
    "content",
    [{"model_type": 3}, {"activation_fn": ["x"]}, {"prompts": {"query": 7}}, {"truncate_dim": 0}, {"prompts": 3}],
)
def test_wrong_settings(tmp_path, content):
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"s\.json"):
        load_settings(tmp_path / "s.json")
