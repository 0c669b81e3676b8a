"""Are the tests worth something? Break every loss once, a line at a time in a copy, and see that they notice.

python tests/break_losses.py

It prints for each break whether the tests turned red, and the first that did; and fails if one did not.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Break(NamedTuple):
    """`old` becomes `new` in one class or function of one file."""

    file: str
    place: str  # "class TripletLoss", in which `old` stands once
    old: str
    new: str
    select: str  # of the tests, for pytest -k
    tests: str = "test_invariances.py"


def of_loss(file: str, name: str, old: str, new: str, select: str = "", tests: str = "test_invariances.py") -> Break:
    """A break of a class in losses/. Its own tests are those that name it; `ranks` is left to the break of gather."""
    return Break(f"minist/losses/{file}.py", f"class {name}", old, new, select or f"{name}- and not ranks", tests)


def of_function(file: str, name: str, old: str, new: str) -> Break:
    """A break of a function in losses/, seen by the tests of its loss."""
    return of_loss(file, name, old, new)._replace(place=f"def {name}")


def wrapper(file: str, name: str, old: str, new: str, select: str) -> Break:
    """A break of a wrapper, seen by the tests of MultipleNegativesRankingLoss in it."""
    return of_loss(file, name, old, new, f"{select} and MultipleNegativesRankingLoss-2 and not ranks")


AUTOENCODER = "minist/modules/sparse_autoencoder.py"
CROSS_ENCODER = "minist/losses/cross_encoder"
INVARIANCES = "test_invariances_cross_encoder.py"


def of_cross_encoder(file: str, name: str, old: str, new: str, select: str = "") -> Break:
    """A break of a class in losses/cross_encoder/. Its tests are those that name it."""
    select = f"{select or name} and not test_ranks"  # "ranks" is in LambdaRankScheme too
    return Break(f"{CROSS_ENCODER}/{file}.py", f"class {name}", old, new, select, INVARIANCES)


BREAKS = [
    of_loss("contrastive", "MultipleNegativesRankingLoss", "(scores) - positive", "(scores) + positive"),
    of_loss("contrastive", "MultipleNegativesRankingLoss", "masked_fill(of_row[:, :n]", "masked_fill(~of_row[:, :n]"),
    of_loss("contrastive", "MultipleNegativesSymmetricRankingLoss", '"per_direction")', '"joint")'),
    of_loss("guided", "GISTEmbedLoss", "(similar > limit) & ~same", "similar > limit"),
    of_loss("guided", "GISTEmbedLoss", "(similar > limit) | same", "similar > limit"),
    of_loss("triplets", "MegaBatchMarginLoss", ".masked_fill(same, -INF)", ""),
    of_loss("unsupervised", "GlobalOrthogonalRegularizationLoss", ".masked_fill(same_row(block, rows), 0.0)", ""),
    of_loss("pairs", "CosineSimilarityLoss", "pairwise_cosine(u, v)", "-pairwise_cosine(u, v)"),
    of_loss("pairs", "CoSENTLoss", "self.scale * self", "-self.scale * self"),
    of_loss("pairs", "AnglELoss", "(1 - labels[negative_rows]", "(labels[negative_rows]"),
    of_loss("pairs", "ContrastiveLoss", "F.relu(self.margin - distances)", "(self.margin - distances)"),
    of_loss("pairs", "OnlineContrastiveLoss", "positives > nearest_negative", "positives < nearest_negative"),
    of_loss("pairs", "SoftmaxLoss", "(u - v).abs()", "(u + v).abs()"),
    of_loss("triplets", "TripletLoss", "- self.distance(anchor, negative)", "+ self.distance(anchor, negative)"),
    of_loss("triplets", "BatchAllTripletLoss", "sums[positives]", "sums"),
    of_loss("triplets", "BatchHardTripletLoss", "+ self.margin", "- self.margin"),
    of_loss("triplets", "BatchHardSoftMarginTripletLoss", "F.softplus(self", "F.softplus(-self"),
    of_loss("triplets", "BatchSemiHardTripletLoss", "torch.minimum(farther, last)", "farther"),
    of_loss("triplets", "BatchTripletLoss", ".masked_fill(same, INF)", "", "BatchSemiHardTripletLoss- and not ranks"),
    of_loss("distillation", "EmbedDistillLoss", "self.distance(u, t", "-self.distance(u, t"),
    of_loss("distillation", "MSELoss", '__init__("mse"', '__init__("l2"'),
    of_loss("distillation", "MarginMSELoss", "scores, there, labels", "-scores, there, labels"),
    of_loss("distillation", "MarginMSELoss", "- wanted[:, :k])", "+ wanted[:, :k])")._replace(place="def margin_mse"),
    of_loss("distillation", "DistillKLDivLoss", " * self.student_temperature**2", ""),
    of_loss("unsupervised", "ContrastiveTensionLoss", "pairwise_dot(u, v)", "-pairwise_dot(u, v)"),
    of_loss(
        "unsupervised", "ContrastiveTensionLossInBatchNegatives", "F.cross_entropy(scores.T", "F.cross_entropy(scores"
    ),
    of_loss(
        "over_tokens", "DenoisingAutoEncoderLoss", "(scores, written)", "(scores, written) / 2", "slow", "test_tsdae.py"
    ),
    of_loss("sparse", "FlopsLoss", ".square()", ""),
    of_loss("sparse", "FlopsLoss", "(1) > self", "(1) < self", "test_threshold", "test_losses_sparse.py"),
    of_loss("sparse", "IDFFlopsLoss", ".clamp(min=1)", ""),
    of_loss("sparse", "SpladeLoss", "** self.power", "", "ramp", "test_losses_sparse.py"),
    wrapper("sparse", "SpladeLoss", "else embeddings[1:]", "else embeddings", "splade"),
    of_function("sparse", "SparseMultipleNegativesRankingLoss", "scale: float = 1.0", "scale: float = 20.0"),
    of_function("sparse", "SparseDistillKLDivLoss", "temperature: float = 2.0", "temperature: float = 1.0"),
    of_loss("sparse", "CSRReconstructionLoss", "from_4k / 8", "from_4k", "by_hand", "test_csr.py"),
    of_loss("sparse", "CSRLoss", '"base_loss", self.gamma', '"base_loss", 1.0', "parts_of_csr", "test_csr.py"),
    Break(AUTOENCODER, "class SparseAutoEncoder", ".detach()", "", "by_hand", "test_csr.py"),
    Break(AUTOENCODER, "class SparseAutoEncoder", "mul_(~chosen)", "mul_(1)", "counts", "test_csr.py"),
    Break("train.py", "def take_step", "trained.model.stack.after_step", "print", "test_run", "test_csr.py"),
    wrapper("matryoshka", "MatryoshkaLoss", "cut = [unit(x[:, :dim])", "cut = [unit(x[:, -dim:])", "widths"),
    wrapper("wrapper", "Wrapper", "weight * total", "total", "matryoshka"),
    wrapper("adaptive_layer", "AdaptiveLayerLoss", " / len(layers)", "", "layers"),
    wrapper("adaptive_layer", "AdaptiveLayerLoss", ".detach() / t", " / t", "layers"),
    wrapper(
        "adaptive_layer", "Matryoshka2dLoss", "matryoshka_weights, n_dims_per_step)", "None, n_dims_per_step)", "2d"
    ),
    wrapper("wrapper", "WeightedSumLoss", "weight, loss, embeddings", "1.0, loss, embeddings", "sum"),
    of_cross_encoder("pairs", "BinaryCrossEntropyLoss", "pos_weight=weight, ", ""),
    of_cross_encoder("pairs", "MSELoss", "mse_loss(scores, labels", "mse_loss(scores, -labels"),
    of_cross_encoder("pairs", "CrossEntropyLoss", "self.activation_fn(embeddings[0])", "embeddings[0]"),
    of_cross_encoder(
        "pairs", "MarginMSELoss", "table(flat, there), there, labels", "-table(flat, there), there, labels"
    ),
    of_cross_encoder("pairs", "MultipleNegativesRankingLoss", "self.scale * table", "table"),
    of_cross_encoder("base", "PairLoss", "self.activation_fn(embeddings[0][:, 0])", "embeddings[0][:, 0]", "MSELoss-"),
    Break(
        f"{CROSS_ENCODER}/base.py",
        "def log_softmax_of_rows",
        ".masked_fill(~there, lowest)",
        "",
        "ListNet",
        INVARIANCES,
    ),
    of_cross_encoder("lambda_loss", "NoWeightingScheme", "new_ones", "new_zeros"),
    of_cross_encoder("lambda_loss", "NDCGLoss1Scheme", "gains / discounts", "gains * discounts"),
    of_cross_encoder("lambda_loss", "NDCGLoss2Scheme", "discounts[apart - 1] - 1", "discounts[apart - 1] + 1"),
    of_cross_encoder("lambda_loss", "LambdaRankScheme", "gaps(1 / discounts)", "gaps(discounts)"),
    of_cross_encoder("lambda_loss", "NDCGLoss2PPScheme", "self.mu * self", "self", "LambdaLoss-"),
    of_cross_encoder("lambda_loss", "LambdaLoss", "gaps(labels) > 0", "gaps(labels) != 0"),
    of_cross_encoder("lambda_loss", "LambdaLoss", "first[:, None] | first", "first[:, None] & first"),
    of_cross_encoder("lambda_loss", "LambdaLoss", '.masked_fill(~there, float("-inf"))', ""),
    of_cross_encoder("lambda_loss", "LambdaLoss", "labels.clamp(min=0)", "labels"),
    of_cross_encoder("lambda_loss", "LambdaLoss", "best[:, : self.k]", "best"),
    of_cross_encoder("lambda_loss", "RankNetLoss", '"NoWeightingScheme"', '"LambdaRankScheme"'),
    of_cross_encoder("listwise", "ListNetLoss", "log_softmax_of_rows(labels", "log_softmax_of_rows(-labels"),
    of_cross_encoder(
        "listwise", "PListMLELambdaWeight", "return weights / weights", "return weights; weights", "PListMLE"
    ),
    of_cross_encoder("listwise", "PListMLELoss", ".flip(1).logcumsumexp(1).flip(1)", ".logcumsumexp(1)"),
    of_cross_encoder("listwise", "PListMLELoss", "scores.masked_fill(~there, torch.finfo(scores.dtype).min)", "scores"),
    of_cross_encoder("listwise", "PListMLELoss", 'labels.masked_fill(~there, float("-inf"))', "labels"),
    of_cross_encoder("listwise", "ListMLELoss", "__init__(None,", "__init__(PListMLELambdaWeight(),"),
    of_cross_encoder("listwise", "ADRMSELoss", "[:, :, None])) * others", "[:, :, None]))"),
    of_cross_encoder("listwise", "ADRMSELoss", "(equal + 1) / 2", "equal"),
    Break("minist/collectives.py", "class _Gather", "own * len(ctx.counts)", "own", "ranks and plain"),
    Break("minist/training/gradcache.py", "def gradcache", "[(x, g) for", "[(x, -g) for", "phases and plain"),
]


def broken(source: str, change: Break) -> str:
    """The source with the change made."""
    start = source.index(f"{change.place}(")
    ends = [source.find(f"\n{kind} ", start + 1) for kind in ("class", "def")]
    end = min([end for end in ends if end > 0], default=len(source))
    assert source.count(change.old, start, end) == 1, f"{change.old!r} does not stand once in {change.place}"
    return source[:start] + source[start:end].replace(change.old, change.new) + source[end:]


def first_failure(copy: Path, change: Break) -> str:
    """The first test that notices, or nothing."""
    file = copy / change.file
    source = file.read_text("utf-8")
    file.write_text(broken(source, change), "utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-p",
        "no:cacheprovider",
        f"tests/{change.tests}",
        "-k",
        change.select,
    ]
    done = subprocess.run(command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True)
    file.write_text(source, "utf-8")
    assert done.returncode in (0, 1), done.stdout + done.stderr  # else no test was run
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].partition("::")[2].partition(" - ")[0] if done.returncode else ""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("minist", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns(".models", "__pycache__"))
        for name in ("pyproject.toml", "train.py"):
            shutil.copy(ROOT / name, copy)
        unnoticed = 0
        for change in BREAKS:
            found = first_failure(copy, change)
            unnoticed += not found
            place = change.place.split()[1]
            print(f"{'red' if found else 'GREEN':6}{place:40}{change.old}  ->  {change.new or 'nothing'}", flush=True)
            print(f"      {found or 'no test noticed'}", flush=True)
    print(f"{len(BREAKS) - unnoticed} of {len(BREAKS)} breaks were noticed")
    sys.exit(unnoticed > 0)


if __name__ == "__main__":
    main()
