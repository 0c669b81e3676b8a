"""The model card: README.md in the folder of a saved model, which the Hugging Face hub shows as the model's page.

---
what the hub files the model under, and its results, in YAML
---
<!-- one line by which a card that minist wrote is known again -->
# what the model is, how it is used, and what a run adds, see training/model_card.py

A card that a person has written or changed is left as it is; so is a run's, which says more than a model alone can."""

import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minist.data.tokenizer import NO_LIMIT
from minist.files import complete_file
from minist.models.hub import cached_name, front_matter
from minist.module import ENDS

Rows = Sequence[Sequence[str]]
CARD, LONGEST = "README.md", 160  # characters of an example, or of a cell in a table
MARK = "<!-- minist, card of a {}, {}: the next save writes it anew, unless somebody has changed a word of it. -->"
SEALED = re.compile(MARK.format("(model|run)", "([0-9a-f]{16})"))
# by what a model gives: the task that the hub knows it by, and its tags
TASKS = {
    "embeddings": ("sentence-similarity", ["sentence-similarity", "feature-extraction", "dense"]),
    "sparse": ("feature-extraction", ["sparse-encoder", "sparse"]),
    "scores": ("text-ranking", ["cross-encoder", "reranker"]),
    "classes": ("text-classification", ["cross-encoder"]),
    "words": ("fill-mask", []),
}
WHAT = {
    "embeddings": "It gives a text an embedding of {width} numbers: the nearer two texts are in meaning, the larger is "
    "the {similarity} similarity of their embeddings.",
    "sparse": "It gives a text {width} weights, most of them 0, by which an inverted index finds it: the {similarity} "
    "similarity of two texts comes from the weights that both of them have.",
    "scores": "It reads two texts together, a query and a document, and gives their pair a score: the better the "
    "document answers the query, the higher.",
    "classes": "It reads two texts together, and gives their pair a score for each of {width} labels.",
    "words": "It says which word stands behind a mask. It embeds nothing by itself, but models of all other kinds can "
    "begin with it.",
}
QUERY = "how do I sort a list?"
DOCUMENTS = ("list.sort() sorts a list in place.", "The cheetah is the fastest animal on land.")


class Added(NamedTuple):
    """What is known of a model beside itself: what its run has to say."""

    name: str = ""  # where the model is found
    base_model: str = ""  # a name on the hub
    tags: Sequence[str] = ()
    results: Sequence[Mapping[str, Any]] = ()  # fields of huggingface_hub's EvalResult
    texts: Rows = ()  # of two columns, such as a query and its document
    sections: str = ""  # "": there is no run
    files: Mapping[str, str] = {}  # beside the card: name -> content


NOTHING = Added()


def write_card(model: Any, folder: Path, added: Added = NOTHING) -> None:
    """Write the card of `model` into the `folder` that it was saved in, unless one is there that must stay."""
    if stays(folder / CARD, added):
        return
    for name, content in {**added.files, CARD: card(model, added)}.items():
        with complete_file(folder / name) as partial:
            partial.write_text(content, "utf-8")


def stays(file: Path, added: Added = NOTHING) -> bool:
    """Whether there is a card that a person wrote or changed; or one of a run, where another has no run to tell of."""
    if not file.is_file():
        return file.exists()
    text = file.read_text("utf-8", "replace")
    found = SEALED.search(text)
    changed = not found or seal(text[: found.start()] + text[found.end() :]) != found[2]
    return changed or bool(found and found[1] == "run" and not added.sections)


def seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]  # another one after any change


def card(model: Any, added: Added) -> str:
    kind = "classes" if model.gives == "scores" and model.width > 1 else model.gives
    task, tags = TASKS[kind]
    title = added.name or ENDS[model.gives]
    library = "transformers" if kind == "words" else "sentence-transformers"  # which opens it for that task
    base = added.base_model or cached_name(next(iter(model.stack.paths.values()))[0].folder)
    data: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": task,
        "tags": [library, *tags, *special_tags(model), *added.tags],
    }
    metrics = list(dict.fromkeys(result["metric_type"] for result in added.results))
    data |= {"base_model": base or None} | ({"metrics": metrics, "model_name": title} if metrics else {})
    parts = [
        f"# {code(shortened(title))}",
        describe(model, kind, base),
        usage(model, kind, added),
        added.sections,
    ]
    head, body = f"---\n{front_matter(data, added.results)}\n---\n", "\n\n".join(filter(None, parts)).strip()
    # half of a pair of surrogates, as a file of labels may have it, is no text
    head, body = (text.encode("utf-8", "replace").decode() for text in (head, f"\n\n{body}\n"))
    return head + MARK.format("run" if added.sections else "model", seal(head + body)) + body


def special_tags(model: Any) -> list[str]:
    names = [type(module).__name__ for path in model.stack.paths.values() for module in path]
    words = {"StaticEmbedding": "static-embedding", "SparseStaticEmbedding": "inference-free"}
    words |= {"SpladePooling": "splade", "SparseAutoEncoder": "csr"}
    return [
        *dict.fromkeys(words[name] for name in names if name in words),
        *["asymmetric"] * bool(model.routes),
        "minist",
    ]


def describe(model: Any, kind: str, base: str) -> str:
    """What the model is: a sentence, and a list of what one asks first."""
    similarity = model.similarity_name.replace("dot", "dot-product")
    lines = {
        "Kind": ENDS[model.gives],
        "Base model": f"[{base}](https://huggingface.co/{base})" if base else "",
        "Parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "Maximum length": max_lengths(model),
        "Similarity": similarity if kind in ("embeddings", "sparse") else "",
        "Labels": ", ".join(code(shortened(label)) for label in model.head.labels) if kind == "classes" else "",
        "Activation": type(model.activation_fn).__name__ if model.gives == "scores" else "",
        "Dimensions": f"the first {model.out_width} of {model.width}" if model.truncate_dim else "",
    }
    listed = [f"- **{name}:** {text}" for name, text in lines.items() if text]
    for route, path in model.stack.paths.items():
        listed.append(f"- **Modules{f' of {code(route)}' if route else ''}:** " + " → ".join(map(module_text, path)))
    listed += [f"- **Prompt {code(name)}:** {code(quoted(text))}" for name, text in model.prompts.items() if text]
    if model.default_prompt_name:
        listed.append(f"- **Default prompt:** {code(model.default_prompt_name)}")
    if any(model.prompts.values()):
        listed.append("- a prompt is put before each text: `prompt_name` names it, queries and documents get their own")
    sentence = WHAT[kind].format(width=f"{model.out_width:,}", similarity=similarity)
    return f"{sentence}\n\n" + "\n".join(listed)


def max_lengths(model: Any) -> str:
    lengths = {route: tokenizer.max_length for route, tokenizer in model.tokenizers.items()}
    texts = {route: f"{n:,} tokens" if n < NO_LIMIT else "unlimited" for route, n in lengths.items()}
    one = len({*texts.values()}) == 1
    return next(iter(texts.values())) if one else ", ".join(f"{code(route)} {text}" for route, text in texts.items())


def module_text(module: Any) -> str:
    layers = f"{module.num_layers} layer{'s' * (module.num_layers > 1)}" if module.num_layers else ""
    modes = ", ".join(module.modes) if module.name == "Pooling" else ""
    about = ", ".join(filter(None, [layers, modes, f"width {module.out_width:,}" if module.out_width else ""]))
    return type(module).__name__ + (f" ({about})" if about else "")


def usage(model: Any, kind: str, added: Added) -> str:
    """A snippet that runs as it stands, in the libraries that open the model."""
    rows = [[shortened(text) for text in row] for row in added.texts] or [[QUERY, text] for text in DOCUMENTS]
    name = added.name or "path/to/this/model"  # a folder may be moved, and where it lies is nobody's matter
    if kind == "words":
        return _usage_of_words(model, name, rows[0][0])
    kind_name, steps = ENDS[model.gives], STEPS[kind]
    theirs, ours = (
        [f"from {package} import {kind_name}", "", f"model = {kind_name}({quoted(name)})", *steps(model, rows, package)]
        for package in ("sentence_transformers", "minist")
    )
    same = theirs[1:] == ours[1:]
    parts = ["## Use", "With [sentence-transformers](https://sbert.net):", fenced(theirs)]
    parts.append(f"The same with minist: begin with `{ours[0]}`." if same else f"With minist:\n\n{fenced(ours)}")
    return "\n\n".join(parts)


def _embed(model: Any, rows: Rows, package: str) -> list[str]:
    encode, routes = ["encode_query({})", "encode_document({})"], model.routes
    if routes and not {"query", "document"} <= {*routes, *model.stack.router.mappings}:
        role = "role" if package == "minist" else "task"  # which is a route's name here
        encode = [f"encode({{}}, {role}={quoted(route)})" for route in (*routes, *routes)[:2]]
    lines = [
        f"queries = [{quoted(rows[0][0])}]",
        *of_lines("documents", [quoted(row[1]) for row in rows]),
        f"query_embeddings = model.{encode[0].format('queries')}  # [1, {model.out_width}]",
        f"document_embeddings = model.{encode[1].format('documents')}  # [{len(rows)}, {model.out_width}]",
        f"similarities = model.similarity(query_embeddings, document_embeddings)  # [1, {len(rows)}]",
    ]
    if model.gives == "sparse" and "csr" not in special_tags(model):  # whose dimensions are no words
        lines.append("words = model.decode(query_embeddings, top_k=5)  # with the largest weights")
    return lines


def _rank(model: Any, rows: Rows, package: str) -> list[str]:
    return [
        f"query = {quoted(rows[0][0])}",
        *of_lines("documents", [quoted(row[1]) for row in rows]),
        f"scores = model.predict([(query, document) for document in documents])  # [{len(rows)}]",
        'ranking = model.rank(query, documents)  # [{"corpus_id": .., "score": ..}, ..], the best first',
    ]


def _classify(model: Any, rows: Rows, package: str) -> list[str]:
    labels = "model.id2label" if package == "minist" else "model.config.id2label"
    return [
        *of_lines("pairs", [f"({quoted(first)}, {quoted(second)})" for first, second in rows]),
        f"scores = model.predict(pairs)  # [{len(rows)}, {model.width}]",
        f"labels = [{labels}[int(best)] for best in scores.argmax(axis=1)]",
    ]


STEPS = {"embeddings": _embed, "sparse": _embed, "scores": _rank, "classes": _classify}


def _usage_of_words(model: Any, name: str, text: str) -> str:
    own: Any = model.tokenizer.config.get("mask_token") or "[MASK]"
    mask, words = own["content"] if type(own) is dict else own, text.split()
    masked = " ".join([*words[: len(words) // 2], str(mask), *words[len(words) // 2 + 1 :]])
    lines = ["from transformers import pipeline", "", f'fill = pipeline("fill-mask", model={quoted(name)})']
    lines.append(f"words = fill({quoted(masked)})  # the most likely first")
    start = ["from minist import SparseEncoder", "", f"model = SparseEncoder({quoted(name)})"]
    return (
        f"## Use\n\nWith transformers:\n\n{fenced(lines)}\n\n"
        f"With minist, as the start of another model; in a config, `path` in `[model]`:\n\n{fenced(start)}"
    )


def of_lines(name: str, items: Iterable[str]) -> list[str]:
    return [f"{name} = [", *(f"    {item}," for item in items), "]"]


def fenced(lines: Iterable[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def quoted(text: Any) -> str:
    return json.dumps(text, ensure_ascii=False)  # of a text, it means the same to Python


def shortened(text: str, longest: int = LONGEST) -> str:
    """In one line, of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def escaped(text: str) -> str:
    """As Markdown that shows this text and nothing else, in a line or a cell of a table."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", html.escape(text, quote=False))


def code(text: str) -> str:
    """The same in letters of one width."""
    return f"`{text}`" if re.fullmatch(r"[^\s`|]+( [^\s`|]+)*", text) else f"<code>{escaped(text)}</code>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Of cells in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])
