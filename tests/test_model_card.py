"""README.md of saved models: the front matter by huggingface_hub's own reader, the snippets by running them."""

import html
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from cards import KINDS, PLACE, run, snippets
from huggingface_hub import ModelCard, constants
from test_about import folder as run_folder  # noqa: F401  a config and its data
from tiny import FROM_SCRATCH, ROOT, run_script, tiny_model, write_jsonl

from minist import SentenceTransformer
from minist.models.hub import front_matter, hub_name
from minist.models.model_card import Added, code, escaped, quoted, shortened, table, write_card
from minist.training.model_card import eval_result, evaluation_of, example_rows, loss_names, shown, write_run_card

BOTH = ["sentence-transformers", "minist"]
TAGS = {  # and the task, as sentence-transformers 6.2 writes them
    "dense": ("sentence-similarity", ["sentence-similarity", "feature-extraction", "dense"]),
    "routes": ("sentence-similarity", ["dense", "asymmetric", "static-embedding"]),
    "twins": ("sentence-similarity", ["dense", "asymmetric"]),
    "reranker": ("text-ranking", ["cross-encoder", "reranker"]),
    "classifier": ("text-classification", ["cross-encoder"]),
    "sparse": ("feature-extraction", ["sparse-encoder", "sparse", "splade"]),
}


def saved(model, folder):
    model.save(folder)
    return (folder / "README.md").read_text("utf-8")


# ---------------------------------------------------------------- of a model alone


@pytest.mark.parametrize("kind", TAGS)
def test_front_matter(kind, tmp_path):
    saved(KINDS[kind](), tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    task, tags = TAGS[kind]
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", task)
    assert {*tags, *BOTH} <= {*data.tags} and len({*data.tags}) == len(data.tags)
    assert data.eval_results is None and data.base_model is None


def test_words_are_for_transformers(tmp_path):
    card = saved(KINDS["words"](), tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.tags) == (
        "transformers",
        "fill-mask",
        ["transformers", "minist"],
    )
    found = snippets(card, tmp_path)
    assert f'pipeline("fill-mask", "{tmp_path}")' in found["transformers"]
    begun = re.search(r"such as `(SparseEncoder\(.*\))`", card)[1].replace(PLACE, str(tmp_path))
    assert run(f"from minist import SparseEncoder\nmodel = {begun}")["model"].gives == "sparse"


def test_the_snippet_of_embeddings(tmp_path):
    model = KINDS["dense"]()
    names = run(snippets(saved(model, tmp_path), tmp_path)["minist"])
    query = model.encode(names["queries"], prompt="sort: ")
    assert names["similarities"].numpy() == pytest.approx(
        model.similarity(query, model.encode(names["documents"])).numpy(), abs=1e-6
    )
    assert names["similarities"].shape == (1, 2)


@pytest.mark.parametrize(("kind", "roles"), [("routes", ("query", "document")), ("twins", ("first", "second"))])
def test_the_snippet_of_routes(kind, roles, tmp_path):
    model = KINDS[kind]()
    names = run(snippets(saved(model, tmp_path), tmp_path)["minist"])
    for role, what in zip(roles, ("query", "document"), strict=True):
        texts = names["queries" if what == "query" else "documents"]
        assert names[f"{what}_embeddings"] == pytest.approx(model.encode(texts, role=role), abs=1e-6)


def test_the_snippet_of_a_reranker(tmp_path):
    model = KINDS["reranker"]()
    names = run(snippets(saved(model, tmp_path), tmp_path)["minist"])
    pairs = [(names["query"], document) for document in names["documents"]]
    assert names["scores"] == pytest.approx(model.predict(pairs), abs=1e-6)
    assert names["ranking"][0]["corpus_id"] == names["scores"].argmax()


def test_the_snippet_of_a_classifier(tmp_path):
    model = KINDS["classifier"]()
    card = saved(model, tmp_path)
    names = run(snippets(card, tmp_path)["minist"])
    best = model.predict(names["pairs"]).argmax(axis=1)
    assert [*names["best"]] == [*best]
    assert "<code>yes\\|no</code>, <code>\\`é\\` 😀</code>, `<b>\\`" in card


def test_the_snippet_of_a_sparse_model(tmp_path):
    model = KINDS["sparse"]()
    names = run(snippets(saved(model, tmp_path), tmp_path)["minist"])
    assert names["similarities"].shape == (1, 2)


def test_what_it_says_of_a_model(tmp_path):
    model = KINDS["dense"]()
    model.truncate_dim, model.max_length, model.default_prompt_name = 4, 20, "query"
    card = saved(model, tmp_path)
    count = sum(p.numel() for p in model.parameters())
    for words in (
        "an embedding of 4 numbers",
        "20 tokens",
        f"{count:,}",
        "the first 4 of 16",
        "**Default prompt:** `query`",
    ):
        assert words in card
    assert "BertEncoder (2 layers) → Pooling (mean), for texts of 20 tokens" in card
    routed = saved(KINDS["routes"](), tmp_path / "r")
    assert re.search(r"\*\*Modules of `query`:\*\* StaticEmbedding.*any length", routed)
    assert re.search(r"\*\*Modules of `document`:\*\* BertEncoder .* 32 tokens", routed)


def test_half_a_character_does_not_hinder_a_save(tmp_path):
    model = KINDS["classifier"]()
    model.stack[-1].labels = ["a\ud800", "b", "c"]  # as JSON may have it
    write_card(model, tmp_path)
    assert "a?" in (tmp_path / "README.md").read_text("utf-8")
    before = (tmp_path / "README.md").stat().st_mtime_ns
    write_card(model, tmp_path)
    assert (tmp_path / "README.md").stat().st_mtime_ns > before, "it is known as our own"


@pytest.mark.parametrize(
    "text", ["a|b", "`x` ``y``", "<b>&amp;", "*a* _b_ [c](d) ![e](f)", "# $x$ ~~y~~ \\|", "{{ é 😀 }}"]
)
def test_markdown_of_any_text(text):
    """A row keeps its cells, and what is shown is the text."""
    row = table(["a", "b"], [[escaped(text), code(text)]]).splitlines()[-1]
    cells = [cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", row)[1:-1]]
    assert len(cells) == 2
    for cell in cells:
        plain = html.unescape(re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", re.sub("</?code>", "", cell)))
        assert text == (cell[1:-1] if cell[0] == "`" else plain)  # between backticks, letters are what they are


def test_names_and_long_texts():
    assert code("cosine_ndcg@10") == "`cosine_ndcg@10`" and code("[384, 128]") == "`[384, 128]`"
    assert code(" x ") == "<code> x </code>"
    assert shortened(" a\n\tb\r\nc ") == "a b c" and quoted(["é", 'a"b']) == '["é", "a\\"b"]'
    assert shortened("x" * 200) == "x" * 159 + "…"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/c/hub/models--BAAI--bge-small/snapshots/12ab", "BAAI/bge-small"),
        ("/c/hub/models--bert-base-uncased/snapshots/12ab/0_Transformer", "bert-base-uncased"),
        ("/home/someone/model", ""),
        ("tests/data", ""),
        ("random weights", ""),
        ("/c/hub/models--bert-base-uncased/snapshots/12ab/0_Transformer", "bert-base-uncased"),
        ("/home/someone/models--old/model", ""),
        ("BAAI/bge-small", "BAAI/bge-small"),
        ("some-model", "sentence-transformers/some-model"),
        ("runs/model", ""),
        ("", ""),
    ],
)
def test_base_model(source, name, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for repo in ("BAAI/bge-small", "sentence-transformers/some-model"):
        cached = tmp_path / f"models--{repo.replace('/', '--')}"
        (cached / "snapshots/12ab").mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs/v2").write_text("12ab")
    assert hub_name(source, "v2") == name


def test_the_hub_knows_where_a_model_comes_from(tmp_path):
    folder = tmp_path / "models--owner--tiny/snapshots/1234"
    tiny_model().save(folder)
    card = saved(SentenceTransformer(folder), tmp_path / "again")
    assert ModelCard.load(tmp_path / "again/README.md").data.base_model == "owner/tiny"
    assert "[owner/tiny](https://huggingface.co/owner/tiny)" in card


# ---------------------------------------------------------------- whose card it is


@pytest.mark.parametrize("words", [b"# mine", b"", b"\xff\xfe", "# é\r\n".encode()])
def test_a_persons_card_stays(words, tmp_path):
    (tmp_path / "README.md").write_bytes(words)
    tiny_model().save(tmp_path)
    write_card(tiny_model(), tmp_path, lambda: Added("runs/x/model", files={"loss.svg": "<svg/>"}))
    assert (tmp_path / "README.md").read_bytes() == words and not (tmp_path / "loss.svg").exists()


@pytest.mark.parametrize(
    "change", [("library_name", "license: mit\nlibrary_name"), ("## Use", "## How to use"), ("32", "33")]
)
def test_a_card_that_a_person_has_changed_stays(change, tmp_path):
    changed = saved(tiny_model(), tmp_path).replace(*change, 1)
    (tmp_path / "README.md").write_text(changed, "utf-8")
    model = tiny_model()
    model.max_length = 16
    assert saved(model, tmp_path) == changed
    assert ModelCard.load(tmp_path / "README.md").data.pipeline_tag == "sentence-similarity"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])  # git may have changed them
def test_our_own_card_is_written_anew(ends, tmp_path):
    card = saved(tiny_model(), tmp_path)
    (tmp_path / "README.md").write_bytes(card.replace("\n", ends).encode())
    model = tiny_model()
    model.max_length = 16
    assert "16 tokens" in saved(model, tmp_path)


def test_what_a_run_adds_goes_with_the_next_model(tmp_path):
    """Which is another one: results and data are not its own."""
    model = tiny_model()
    alone = saved(model, tmp_path)
    write_card(model, tmp_path, lambda: Added("runs/x/model", sections="## Results\n\nIt ran."))
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "It ran." in card and 'SentenceTransformer("runs/x/model")' in card and PLACE not in card
    assert saved(model, tmp_path) == alone


def test_a_model_of_others_gets_a_card_of_its_own(tmp_path):
    tiny_model().save(tmp_path / "theirs")
    (tmp_path / "theirs/README.md").write_text("# theirs")
    assert "# theirs" not in saved(SentenceTransformer(tmp_path / "theirs"), tmp_path / "ours")


def test_a_folder_called_readme_hinders_nothing(tmp_path):
    (tmp_path / "README.md").mkdir()
    tiny_model().save(tmp_path)
    assert (tmp_path / "modules.json").exists() and (tmp_path / "README.md").is_dir()


def test_a_card_that_cannot_be_written_stops_no_save(tmp_path, monkeypatch, capsys):
    def full(path, text, encoding, errors):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_text", full)
    write_card(tiny_model(), tmp_path)
    assert capsys.readouterr().err.startswith(f"note   {tmp_path} gets no new README.md: OSError: [Errno 28] No space")
    assert [*tmp_path.iterdir()] == []


def test_the_card_of_an_adapter(tmp_path):
    base = tmp_path / "models--owner--tiny/snapshots/1234"
    tiny_model().save(base)
    model = SentenceTransformer(base)
    model.add_adapter(2, 4)
    card = saved(model, tmp_path / "m")
    data = ModelCard.load(tmp_path / "m/README.md").data
    assert data.base_model == "owner/tiny" and {"peft", "lora"} <= {*data.tags}
    assert "With [sentence-transformers](https://sbert.net) and [peft](" in card
    opened = re.search(r"`(SentenceTransformer\(.*?\))`", card)[1].replace("path/to/it", str(base))
    opened = opened.replace(PLACE, str(tmp_path / "m"))
    other = run(f"from minist import SentenceTransformer\nmodel = {opened}")["model"]
    assert other.encode("sort") == pytest.approx(model.encode("sort"), abs=1e-6)
    model.merge_adapter()
    assert "peft" not in saved(model, tmp_path / "merged")


# ---------------------------------------------------------------- what a run adds

ABOUT = {
    "evaluations": {
        "a": "InformationRetrievalEvaluator",
        "a_b": "MSEEvaluator",
        "dev: é|😀": "CoSENTLoss",
        "own": "/home/x/my.py:Mine",
    }
}


@pytest.mark.parametrize(
    ("metric", "found"),
    [
        ("a_cosine_ndcg@10", ("a", "InformationRetrievalEvaluator", "cosine_ndcg@10")),
        ("a_b_negative_mse", ("a_b", "MSEEvaluator", "negative_mse")),
        ("eval_dev: é|😀_loss", ("dev: é|😀", "CoSENTLoss", "loss")),
        ("other", ("unknown", "Evaluation", "other")),
        ("own_accuracy", ("own", "Mine", "accuracy")),
    ],
)
def test_the_evaluation_of_a_metric(metric, found):
    assert evaluation_of(ABOUT, metric) == found


def test_words_of_names():
    found = eval_result("held", "NanoBEIREvaluator", "cosine_ndcg@10", 0.5)
    assert (found["task_name"], found["task_type"], found["dataset_name"]) == ("Nano BEIR", "nano-beir", "held")
    nested = {"name": "MatryoshkaLoss", "dims": [8], "loss": {"name": "AdaptiveLayerLoss", "loss": "CoSENTLoss"}}
    assert loss_names(nested) == ["MatryoshkaLoss", "AdaptiveLayerLoss", "CoSENTLoss"]
    assert loss_names({"name": "losses/mine.py:Mine"}) == ["Mine"]


def test_settings_are_shown_as_a_config_has_them():
    assert shown("query:  ") == '<code>"query:  "</code>' and shown("a: ") == '`"a: "`'
    assert shown([384, 128]) == "`[384, 128]`" and shown(True) == "`true`" and shown(1e-05) == "`1e-05`"
    assert shown("/home/someone/secret/model") == '`"model"`', "a card is for others"
    nested = shown({"name": "A", "guide": "/home/x/m", "k": [1]})
    assert nested == '`{"name": "A", "guide": "m", "k": [1]}`'


def test_example_rows():
    samples = [{"q": ["a"], "d": ["b"], "label": ["1"]}, {"q": ["e"], "d": []}, {"q": ["f"], "d": ["g"]}]
    assert example_rows({"columns": {"q": {}, "d": {}}, "samples": samples}) == [["a", "b"], ["f", "g"]]
    assert example_rows({"columns": {"q": {}}, "samples": samples}) == [["a", "a"], ["e", "e"], ["f", "f"]]
    assert example_rows({"columns": {"q": {}}, "samples": []}) == []
    lists = [{"q": ["a"], "d": ["b", "c"]}, {"q": ["e"], "d": ["f", "g"]}]
    assert example_rows({"columns": {"q": {}, "d": {}}, "samples": lists}) == [["a", "b"], ["a", "c"], ["e", "f"]]


def test_front_matter_of_odd_names(tmp_path):
    name = "dev: é '\"|😀\n---\n#"
    result = {"task_type": "a", "task_name": name, "dataset_type": name, "dataset_name": name, "metric_type": "ndcg@10"}
    text = front_matter({"tags": ["loss:A", name], "model_name": name}, [result | {"metric_value": 0.5}])
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n# x\n", "utf-8")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.tags == ["loss:A", name]
    assert (data.eval_results[0].dataset_name, data.eval_results[0].metric_value) == (name, 0.5)


def test_the_cards_of_a_run(run_folder):  # noqa: F811
    options = ["--set", 'train.best="held_cosine_ndcg@10"', "--set", "train.eval_every=1", "--set", "train.log_every=1"]
    code_, out, err = run_script("train.py", "--config", "c.toml", *options)
    assert code_ == 0, (out, err)
    records = [json.loads(line) for line in (run_folder / "run/metrics.jsonl").read_text().splitlines()]
    evaluated = [record for record in records if "held_cosine_ndcg@10" in record]
    best = max(evaluated, key=lambda record: (record["held_cosine_ndcg@10"], -record["step"]))
    for name, record in {"checkpoint-2": evaluated[-1], "best": best, "model": best}.items():
        place = run_folder / "run" / name
        card, text = ModelCard.load(place / "README.md"), (place / "README.md").read_text("utf-8")
        assert {"loss:MultipleNegativesRankingLoss", "loss:BatchAllTripletLoss", "dataset_size:17"} <= {*card.data.tags}
        found = {result.metric_type: result.metric_value for result in card.data.eval_results}
        assert found["cosine_ndcg@10"] == record["held_cosine_ndcg@10"] and 3 <= len(found) <= 6
        assert {(r.task_type, r.dataset_name) for r in card.data.eval_results} == {("information-retrieval", "held")}
        assert f"After {record['step']} of 2 steps" in text
        assert "| sort 0 | list 0 | &lt;script&gt; אב 😀" in text and "| read 1 | b |" in text
        assert "`MultipleNegativesRankingLoss`, scale = `10.0`" in text
        assert f'SentenceTransformer("run/{name}")' in text and '    "list 0",' in text
        for image in (images := re.findall(r"\]\((\w+\.svg)\)", text)):
            ET.parse(place / image)
        # there is no loss yet where the untrained model is the best
        assert images == (["metrics.svg"] if name == "best" and best["step"] == 0 else ["loss.svg", "metrics.svg"])
        numbers = text[text.index("| step |") :].split("\n\n")[0].splitlines()[2:]
        upto = {record["step"] for record in records} if name != "best" else {*range(best["step"] + 1)}
        assert {int(line.split("|")[1]) for line in numbers} == upto
    names = run(snippets(text, run_folder)["minist"])  # from the folder in which train.py ran
    assert names["similarities"].shape == (1, 3)


def test_a_run_without_an_evaluation_and_one_without_numbers(run_folder):  # noqa: F811
    text = (run_folder / "c.toml").read_text().partition("[[eval]]")[0]
    (run_folder / "c.toml").write_text(text)
    assert run_script("train.py", "--config", "c.toml")[0] == 0
    card = ModelCard.load(run_folder / "run/model/README.md")
    assert card.data.eval_results is None and "## Results" not in card.text and "dataset_size:17" in card.data.tags
    assert "](loss.svg)" in card.text and "](metrics.svg)" not in card.text
    assert run_script("train.py", "--config", "c.toml", "--resume", "--set", "train.max_steps=3")[0] == 0
    assert "After" not in card.text and "`3`" in (run_folder / "run/model/README.md").read_text()


PAIRS = '[[{0}]]\nname = "a"\nfiles = ["pairs.jsonl"]\ncolumns = {{ {1} }}\n{2}\n'
CASES = {  # the type, the data, the evaluation; the task, and the metrics among the results
    "MaskedLM": ('text = "q"', 'loss = "MaskedLMLoss"', 'loss = "MaskedLMLoss"', "fill-mask", {"loss"}),
    "SparseEncoder": (
        'anchor = "q", positive = "p"',
        'loss = { name = "SpladeLoss", loss = "SparseMultipleNegativesRankingLoss", document_regularizer_weight = 1 }',
        'loss = "MultipleNegativesRankingLoss"',
        "feature-extraction",
        {"loss"},
    ),
    "CrossEncoder": (
        'query = "q", documents = "d"',
        'label = "l"\nloss = "ListNetLoss"',
        'label = "l"\nloss = "ListNetLoss"',
        "text-ranking",
        {"loss"},
    ),
    "CrossEncoder 3": (
        'text1 = "q", text2 = "p"',
        'label = "c"\nloss = "CrossEntropyLoss"',
        "evaluator = 'CrossEncoderClassificationEvaluator'",
        "text-classification",
        {"accuracy", "f1_macro"},
    ),
}


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.filterwarnings("ignore:the model has a new")
def test_the_card_of_a_run_of_each_kind(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    columns, data, measured, task, metrics = CASES[kind]
    rows = [
        {"q": f"sort {i}", "p": f"li|st {i}", "d": ["list", "date"], "l": [1, 0], "c": "xyz"[i % 3]} for i in range(9)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    of_classes = ', label = "c"' if "Classification" in measured else ""
    name, _, labels = kind.partition(" ")
    head = f'output = "run"\n[model]\ntype = "{name}"\nnum_labels = {labels or 0}\n{FROM_SCRATCH}\n'
    entries = PAIRS.format("data", columns, data) + PAIRS.format("eval", columns + of_classes, measured)
    (tmp_path / "c.toml").write_text(head + entries)
    code_, out, err = run_script("train.py", "--config", "c.toml", "--set", "train.max_steps=2")
    assert code_ == 0, (out, err)
    card = ModelCard.load(tmp_path / "run/model/README.md")
    assert card.data.pipeline_tag == task and "dataset_size:9" in card.data.tags
    assert {tag for tag in card.data.tags if tag.startswith("loss:")} == {
        f"loss:{loss}" for loss in re.findall(r"\w+Loss", data)
    }
    logged = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert {result.metric_type for result in card.data.eval_results} == metrics
    assert {result.metric_value for result in card.data.eval_results} <= {*logged.values()}
    names = run(snippets(card.text, "")["minist"]) if kind != "MaskedLM" else {}
    assert names.get("documents") != []
    if kind == "CrossEncoder":
        assert names["documents"][:2] == ["list", "date"], "those of the first query come first"


def test_no_number_is_no_result(run_folder):  # noqa: F811
    assert run_script("train.py", "--config", "c.toml")[0] == 0
    with open(run_folder / "run/metrics.jsonl", "a") as stream:
        stream.write(json.dumps({"step": 3, "held_cosine_ndcg@10": math.nan, "held_cosine_mrr@10": 0.5}) + "\n")
    write_run_card(tiny_model(), run_folder / "run/other", 3)
    data = ModelCard.load(run_folder / "run/other/README.md")
    assert [result.metric_value for result in data.data.eval_results] == [0.5]
    assert "| nan |" in data.text


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("about.json", b""),
        ("about.json", b"\xff"),
        ("about.json", b"[]"),
        ("about.json", b'{"settings": {}, "data": [{"name": 1}], "evaluations": {}}'),
        ("metrics.jsonl", b"{}\n"),
        ("metrics.jsonl", b'{"step": null}\n{"step": 1}\n'),
        ("metrics.jsonl", b'{"step": 2, "held_cosine_ndcg@10": "much"}\n'),
    ],
)
def test_what_is_damaged_costs_the_run_part_alone(file, content, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    about = {"settings": {}, "data": [], "evaluations": {}, "steps": 2, "model": {"start": "base"}}
    about["machine"] = {"ranks": 1, "device": "cpu", "torch": "2"}
    (tmp_path / "run/about.json").write_text(json.dumps(about))
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 2, "held_cosine_ndcg@10": 0.5}\n{"st')
    tiny_model().save(tmp_path / "run/model")
    write_run_card(tiny_model(), tmp_path / "run/model", 2)
    assert "| 0.5 |" in (tmp_path / "run/model/README.md").read_text() and capsys.readouterr().err == ""
    tiny_model().save(tmp_path / "run/model")
    before = (tmp_path / "run/model/README.md").read_text()
    (tmp_path / "run" / file).write_bytes(content)
    write_run_card(tiny_model(), tmp_path / "run/model", 2)
    assert capsys.readouterr().err.count("\n") == 1 and (tmp_path / "run/model/README.md").read_text() == before
