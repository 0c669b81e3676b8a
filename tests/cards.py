"""What the tests of model cards share: a tiny model of each kind, and the snippets that a card shows."""

import re
import warnings

from routed import asymmetric
from tiny import tiny_model

from minist import CrossEncoder, MaskedLM, SparseEncoder
from minist.training.start import make_twins

PLACE = "path/to/this/model"


def dense():
    model = tiny_model()
    model.prompts |= {"query": "sort: ", "odd|name": 'a `tick`, a "quote", a | and\n<b>two</b> *lines*'}
    return model


def with_new_head(kind, **options):
    plain = tiny_model(seed=3)
    with warnings.catch_warnings(action="ignore"):
        if kind is SparseEncoder:
            return kind.from_encoder(plain.stack[0], plain.tokenizer, "max")
        return kind(plain.content(), **options)


def classifier():
    model = with_new_head(CrossEncoder, num_labels=3)
    model.id2label = {0: "yes|no", 1: "`é` 😀", 2: "<b>\\"}
    return model


KINDS = {
    "dense": dense,
    "routes": asymmetric,
    "twins": lambda: make_twins(tiny_model(seed=1)),
    "reranker": lambda: with_new_head(CrossEncoder, num_labels=1),
    "classifier": classifier,
    "sparse": lambda: with_new_head(SparseEncoder),
    "words": lambda: with_new_head(MaskedLM),
}


def snippets(card, folder):
    """Package -> the program that the card shows for it, with `folder` in the place of the model's name."""
    found = {}
    for block in re.findall(r"^```python\n(.*?)^```$", card.replace(PLACE, str(folder)), re.DOTALL | re.MULTILINE):
        found[block.split()[1]] = block
        if same := re.search(r"The same with minist: begin with `(.+?)`", card):
            ours = block.replace("task=", "role=") if "write `role` for `task`" in card else block
            found["minist"] = "\n".join([same[1], *ours.splitlines()[1:]])
    return found


def run(program):
    """Its variables at the end."""
    names = {}
    exec(program, names)
    return names
