"""The model card: README.md in the folder of a saved model, which the Hugging Face hub shows as the model's page. Its
front matter, in YAML, says what the hub files the model under; what follows, what it is, how it is used, and what a run
adds, see training/model_card.py. A line between them has a hash of all else: so a card that a person has written or
changed is known, and left as it is."""

import hashlib
import html
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minist.data.tokenizer import NO_LIMIT
from minist.files import complete_file
from minist.models.hub import front_matter, hub_name
from minist.module import ENDS

CARD, LONGEST = "README.md", 160  # characters of an example, or of a cell in a table
MARK = "<!-- written by minist, {}: the next save writes it anew, unless somebody has changed a word of it. -->"
SEALED = re.compile(MARK.format("([0-9a-f]{16})"))
# by what a model gives: the task that the hub knows it by, and its tags; more tags by the classes of modules
TASKS = {
    "embeddings": ("sentence-similarity", ["sentence-similarity", "feature-extraction", "dense"]),
    "sparse": ("feature-extraction", ["sparse-encoder", "sparse"]),
    "scores": ("text-ranking", ["cross-encoder", "reranker"]),
    "classes": ("text-classification", ["cross-encoder"]),
    "words": ("fill-mask", []),
}
TAGS = {"StaticEmbedding": "static-embedding", "SparseStaticEmbedding": "inference-free"}
TAGS |= {"SpladePooling": "splade", "SparseAutoEncoder": "csr"}
WHAT = {
    "embeddings": "It gives a text an embedding of {width} numbers: {similarity} similarity says how near two are.",
    "sparse": "It gives a text {width} weights, most of them 0, for an inverted index and {similarity} similarity.",
    "scores": "It reads a query and a document together, and gives the pair a score: the higher, the better they fit.",
    "classes": "It reads two texts together, and gives their pair a score for each of {width} labels.",
    "words": "It says which word stands behind a mask. It embeds nothing, but models of other kinds can begin with it.",
}
EMBED = """queries = [{query}]
documents = {documents}
query_embeddings = model.{encode_query}  # [1, {width}]
document_embeddings = model.{encode_document}  # [{count}, {width}]
similarities = model.similarity(query_embeddings, document_embeddings)  # [1, {count}]"""
STEPS = {
    "embeddings": EMBED,
    "sparse": EMBED,
    "scores": """query = {query}
documents = {documents}
scores = model.predict([(query, document) for document in documents])  # [{count}]
ranking = model.rank(query, documents)  # [{{"corpus_id": .., "score": ..}}, ..], the best first""",
    "classes": """pairs = {pairs}
scores = model.predict(pairs)  # [{count}, {width}]
best = scores.argmax(axis=1)  # by number, the first of the labels is 0""",
    "words": 'words = model("how do I %s a list?" % model.tokenizer.mask_token)  # the most likely first',
}
EXAMPLE = [["how do I sort a list?", "list.sort() sorts it."], ["how do I sort a list?", "The cheetah is an animal."]]


class Added(NamedTuple):
    """What is known of a model beside itself: what its run has to say."""

    name: str = ""  # where the model is found
    base_model: str = ""  # a name on the hub
    tags: Sequence[str] = ()
    results: Sequence[Mapping[str, Any]] = ()  # fields of huggingface_hub's EvalResult
    texts: Sequence[Sequence[str]] = ()  # pairs, such as a query and its document
    sections: str = ""  # of the card
    files: Mapping[str, str] = {}  # beside the card: name -> content


def write_card(model: Any, folder: Path, tell: Callable[[], Added] = Added) -> None:
    """Write the card of `model` into the `folder` that it was saved in, unless a person's is there. What hinders it
    stops neither a save nor a training: a full disk, or files that `tell` reads and somebody has changed."""
    try:
        if stays(folder / CARD):
            return
        added = tell()
        for name, content in {**added.files, CARD: card(model, added)}.items():
            with complete_file(folder / name) as partial:
                partial.write_text(content, "utf-8", "replace")  # half of a pair of surrogates, say in a label
    except (OSError, ValueError) as e:
        print(f"note   {folder} gets no new {CARD}: {type(e).__name__}: {' '.join(str(e).split())}", file=sys.stderr)


def stays(file: Path) -> bool:
    """Whether there is a card that a person wrote or changed."""
    if not file.is_file():
        return file.exists()
    text = file.read_text("utf-8", "replace")
    found = SEALED.search(text)
    return not found or seal(text[: found.start()] + text[found.end() :]) != found[1]


def seal(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]  # another one after any change


def card(model: Any, added: Added) -> str:
    kind = "classes" if model.gives == "scores" and model.width > 1 else model.gives
    task, tags = TASKS[kind]
    title = added.name or ENDS[model.gives]
    library = "transformers" if kind == "words" else "sentence-transformers"  # which opens it for that task
    names = [type(module).__name__ for path in model.stack.paths.values() for module in path]
    special = list(dict.fromkeys(TAGS[name] for name in names if name in TAGS))
    special += ["asymmetric"] * bool(model.routes) + ["peft", "lora"] * model.is_adapted
    encoder = next(iter(model.stack.paths.values()))[0]
    base = added.base_model or hub_name(encoder.adapter or encoder.folder or "")
    data: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": task,
        "tags": [library, *tags, *special, "minist", *added.tags],
        "base_model": base or None,
        "metrics": [*dict.fromkeys(result["metric_type"] for result in added.results)] or None,
        "model_name": title if added.results else None,
    }
    parts = [f"# {code(shortened(title))}", describe(model, kind, base), usage(model, kind, added), added.sections]
    head, body = f"---\n{front_matter(data, added.results)}\n---\n", "\n\n".join(["", *filter(None, parts)]) + "\n"
    return head + MARK.format(seal(head + body)) + body


def describe(model: Any, kind: str, base: str) -> str:
    """What the model is: a sentence, and a list of what one asks first."""
    known = {
        "Base model": f"[{base}](https://huggingface.co/{base})" if base else "",
        "Parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "Labels": ", ".join(code(shortened(label)) for label in model.head.labels) if kind == "classes" else "",
        "Activation": type(model.activation_fn).__name__ if model.gives == "scores" else "",
        "Dimensions": f"the first {model.out_width} of {model.width}" if model.truncate_dim else "",
        "Default prompt": code(model.default_prompt_name) if model.default_prompt_name else "",
    }
    lines = [f"- **{name}:** {text}" for name, text in known.items() if text]
    for route, path in model.stack.paths.items():
        most, modules = model.tokenizers[route].max_length, " → ".join(map(module_text, path))
        length = f"{most:,} tokens" if most < NO_LIMIT else "any length"
        lines.append(f"- **Modules{f' of {code(route)}' if route else ''}:** {modules}, for texts of {length}")
    lines += [f"- **Prompt {code(name)}:** {code(quoted(text))}" for name, text in model.prompts.items() if text]
    return "\n".join([WHAT[kind].format(width=f"{model.out_width:,}", similarity=model.similarity_name), "", *lines])


def module_text(module: Any) -> str:
    layers = f"{module.num_layers} layers" if module.num_layers else ""
    about = ", ".join(module.modes) if module.name == "Pooling" else layers
    return type(module).__name__ + (f" ({about})" if about else "")


def usage(model: Any, kind: str, added: Added) -> str:
    """A snippet that runs as it stands, in the libraries that open the model."""
    rows = [[shortened(text) for text in row] for row in added.texts or EXAMPLE]
    encode, routes = ["encode_query(queries)", "encode_document(documents)"], [*map(quoted, model.routes)]
    has_own = routes and not {"query", "document"} <= {*model.routes, *model.stack.router.mappings}
    if has_own:
        encode = [f"encode(queries, task={routes[0]})", f"encode(documents, task={routes[-1]})"]
    steps = STEPS[kind].format(
        query=quoted(rows[0][0]), documents=listed(row[1] for row in rows), pairs=listed(rows), count=len(rows),
        width=model.out_width, encode_query=encode[0], encode_document=encode[1],
    )  # fmt: skip
    name = quoted(added.name or "path/to/this/model")  # a folder may be moved, and where it lies is nobody's matter
    opened, library = ENDS[model.gives], "[sentence-transformers](https://sbert.net)"
    start = f"sentence_transformers import {opened}\n\nmodel = {opened}({name})"
    again = f"The same with minist: begin with `from minist import {opened}`"
    again += ", and write `role` for `task`." if has_own else "."
    if kind == "words":
        library, start = "transformers", f'transformers import pipeline\n\nmodel = pipeline("fill-mask", {name})'
        again = f"With minist, models of other kinds begin with it, such as `SparseEncoder({name})`."
    if model.is_adapted:
        library += " and [peft](https://github.com/huggingface/peft)"
        moved = f'`{opened}("path/to/it", adapter={name})`'
        again += f" It is a LoRA of the model that `adapter_config.json` names; if that has moved, give minist {moved}."
    return f"## Use\n\nWith {library}:\n\n```python\nfrom {start}\n{steps}\n```\n\n{again}"


def listed(items: Iterable[Any]) -> str:
    return "[\n" + "".join(f"    {quoted(item)},\n" for item in items) + "]"


def quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # of texts and lists of them, it means the same to Python


def shortened(text: str) -> str:
    """In one line, of at most LONGEST characters."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1].rstrip() + "…"


def escaped(text: str) -> str:
    """As Markdown that shows this text and nothing else, in a line or a cell of a table."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", html.escape(text, quote=False))


def code(text: str) -> str:
    """The same in letters of one width."""
    return f"`{text}`" if re.fullmatch(r"[^\s`|]+( [^\s`|]+)*", text) else f"<code>{escaped(text)}</code>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])
