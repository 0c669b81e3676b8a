"""Weights in shares (FSDP2) on two gloo ranks: the training of one process, in float64."""

from functools import partial
from unittest import mock

import pytest
import torch
from test_distributed import family, mpnet, static, two_towers
from tiny import FROM_SCRATCH, run_script, sentences, tiny_model, write_jsonl
from two_ranks import WORLD, run_ranks

import train
from minist import collectives, distributed
from minist.sharding import is_share, whole
from minist.training.config import load_config
from minist.training.evaluations import evaluate
from minist.training.run import start_run

STEPS = 10
CROSS, SPARSE, MASKED = ('type = "CrossEncoder"', 'type = "SparseEncoder"', 'type = "MaskedLM"')
TEXTS, LISTS, DAMAGED = '{ a = "text", b = "longer" }', '{ a = "text", b = "texts" }', '{ a = "text", b = "text" }'
ROLES = 'roles = { a = "query", b = "document" }'
SPLADE = """[data.loss]
name = "SpladeLoss"
loss = "SparseMultipleNegativesRankingLoss"
document_regularizer_weight = 3e-3
query_regularizer_weight = 5e-3"""
SOFTMAX = 'label = "class"\nloss = { name = "SoftmaxLoss", embedding_dimension = 16, num_labels = 3 }'
LAYERS = 'loss = { name = "AdaptiveLayerLoss", loss = "MultipleNegativesRankingLoss" }'
TSDAE = 'delete_words = { a = 0.5 }\nloss = "DenoisingAutoEncoderLoss"'
TWINS = 'draw_pairs = 3\nroles = { a = "first", partner = "second" }\nloss = "ContrastiveTensionLoss"'
PATH, AUTO = 'path = "plain"', "autoencoder = { hidden_dim = 32, k = 4, k_aux = 8, dead_threshold = 2 }"
LORA, LISTNET = "lora = { rank = 4, alpha = 8, dropout = 0 }", 'label = "labels"\nloss = "ListNetLoss"'
# lines of [model], the columns, lines of [[data]], lines of [train]
CASES = {
    "ranking": ("", TEXTS, "", ""),
    "a rank without rows": ("", TEXTS, "", "batch_size = 1"),
    "softmax": ("", TEXTS, SOFTMAX, ""),
    "lists": (CROSS, LISTS, LISTNET, ""),
    "splade": (SPARSE, TEXTS, SPLADE, ""),
    "splade without rows": (SPARSE, TEXTS, SPLADE, "batch_size = 1"),
    "static queries": (f"{SPARSE}\nstatic_queries = true", TEXTS, f"{ROLES}\n{SPLADE}", ""),
    "autoencoder": (f"{SPARSE}\n{PATH}\n{AUTO}", TEXTS, 'loss = "CSRLoss"', ""),
    "lora": (f"{PATH}\n{LORA}", TEXTS, "", ""),
    "lora in parts": (f"{CROSS}\n{PATH}\nnum_labels = 1\n{LORA}", LISTS, LISTNET, "mini_batch_tokens = 40"),
    "lora and autoencoder": (f"{SPARSE}\n{PATH}\n{AUTO}\n{LORA}", TEXTS, 'loss = "CSRLoss"', ""),
    "twins": (f"{PATH}\ntwins = true", '{ a = "text" }', TWINS, ""),
    "two towers": ('path = "towers"', TEXTS, ROLES, ""),
    "static": ('path = "static"', TEXTS, "", ""),
    "mpnet": ('path = "mpnet"', TEXTS, "", "batch_size = 1"),
    "roberta": ('path = "roberta"', TEXTS, "", "dropout = 0\nattention_dropout = 0"),
    "modernbert": ('path = "modernbert"', TEXTS, "", "mini_batch_tokens = 24"),
    "gradcache": ("", TEXTS, "", "mini_batch_tokens = 24"),
    "gradcache softmax": ("", TEXTS, SOFTMAX, "mini_batch_tokens = 24"),
    "gradcache splade": (SPARSE, TEXTS, SPLADE, "mini_batch_tokens = 24"),
    "gradcache lists": (CROSS, LISTS, 'label = "labels"\nloss = "LambdaLoss"', "mini_batch_tokens = 40"),
    "adaptive layers": ("", TEXTS, LAYERS, ""),
    "layers run again": ("", TEXTS, "", "checkpoint_layers = true\nmini_batch_tokens = 24"),
    "frozen": ("", TEXTS, "", 'freeze = ["embeddings"]\nlr_for = { "layers.1" = 1e-4 }'),
    "masked words": (MASKED, '{ a = "text" }', 'loss = "MaskedLMLoss"', ""),
    "masked words in parts": (MASKED, '{ a = "text" }', 'loss = "MaskedLMLoss"', "mini_batch_tokens = 20"),
    "tsdae": ("", DAMAGED, TSDAE, ""),
    "tsdae in parts": ("", DAMAGED, TSDAE, "mini_batch_tokens = 30"),
}  # fmt: skip


MODELS = {"plain": tiny_model, "towers": two_towers, "static": static, "mpnet": mpnet}
MODELS |= {kind: partial(family, kind) for kind in ("roberta", "modernbert")}


def write_inputs(folder):
    for name, make in MODELS.items():
        make().save(folder / name)
    texts = sentences(40)
    rows = [
        {"text": text, "longer": f"{text} {other}", "class": i % 3, "texts": [other, text, texts[i - 1]][: 1 + i % 3]}
        for i, (text, other) in enumerate(zip(texts, sentences(40, 1), strict=True))
    ]
    write_jsonl(folder / "rows.jsonl", [row | {"labels": list(range(len(row["texts"])))} for row in rows])
    for case, (model, columns, data, settings) in CASES.items():
        rows = f'files = ["{folder}/rows.jsonl"]'
        start = model.replace('path = "', f'path = "{folder}/') if "path" in model else f"{model}\n{FROM_SCRATCH}"
        size = "" if "batch_size" in settings else "batch_size = 7"
        text = f'output = "{folder}/runs/{case}"\n[model]\n{start}\n[[data]]\n{rows}\ncolumns = {columns}\n{data}\n'
        text += f"[train]\n{size}\nmax_steps = {STEPS}\nlr = 1e-3\nwarmup = 3\nfsdp = true\n{settings}\n"
        of_pairs = 'evaluator = "InformationRetrievalEvaluator"\ncolumns = { query = "text", document = "longer" }'
        of_lists = of_pairs.replace("InformationRetrieval", "CrossEncoderReranking")
        of_lists = of_lists.replace("document", "documents").replace('"longer"', '"texts", positive = "longer"')
        text += f"[[eval]]\n{rows}\n{of_lists if CROSS in model else of_pairs}\n" if MASKED not in model else ""
        (folder / f"{case}.toml").write_text(text)


def start_in_float64(parameters):
    """In place of what gives all ranks the weights of rank 0: they are drawn alike."""
    for parameter in parameters:
        parameter.data = parameter.data.double()


def train_case(case, folder):
    """Ten steps: the weights of model and loss, losses and norms of the gradient, and what is measured at the end."""
    with mock.patch.object(collectives, "same_start", start_in_float64):
        run = start_run(load_config(folder / f"{case}.toml", []), resume=False, overwrite=True)
    shares = [is_share(p) for p in run.trained.model.parameters()]
    logged, passes = [], []
    for place in run.batches.start_at(0):
        objective, figures = train.take_step(run, place)
        logged.append([objective.value.item(), figures["grad_norm"]])
        split = [len(column.split(run.setup.max_tokens)) for column in objective.batch.columns if run.setup.max_tokens]
        passes.append(split)
    with whole(run.trained.model):
        weights = {name: x.detach().clone() for name, x in run.trained.model.named_parameters()}
        metrics = evaluate(run.evaluations, run.trained.model)
    own = {f"loss {name}": x.detach().clone() for name, x in run.trained.losses.named_parameters()}
    return {"weights": weights | own, "logged": logged, "metrics": metrics, "shares": shares, "passes": passes}


def rank_work(rank, folder):
    with mock.patch.object(distributed, "start", lambda: (rank, WORLD, torch.device("cpu"))):  # they have joined
        for case in CASES:
            torch.save(train_case(case, folder), folder / f"{case}.{rank}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shares")
    write_inputs(folder)
    run_ranks(rank_work, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_ten_steps_are_those_of_one_process(folder, case, tmp_path):
    write_inputs(tmp_path)
    alone = train_case(case, tmp_path)
    assert not any(alone["shares"])
    for rank in range(WORLD):
        found = torch.load(folder / f"{case}.{rank}")
        assert all(found["shares"])
        torch.testing.assert_close(found["logged"], alone["logged"], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found["weights"], alone["weights"], rtol=1e-6, atol=1e-6)
        assert found["metrics"] == pytest.approx(alone["metrics"], abs=1e-6)


@pytest.mark.slow
def test_ranks_had_different_numbers_of_mini_batches(folder):
    of_ranks = [torch.load(folder / f"gradcache.{rank}")["passes"] for rank in range(WORLD)]
    assert of_ranks[0] != of_ranks[1]


@pytest.mark.slow
def test_one_process_says_that_there_is_nothing_to_share(tmp_path):
    write_inputs(tmp_path)
    code, out, _ = run_script("train.py", "--config", tmp_path / "ranking.toml", "--set", "train.max_steps=2")
    assert code == 0 and "fsdp   there is one process: all weights are its own" in out
