"""Look at a text's way through a model: its tokens, what each gives to the embedding, and their vectors by layer.

python -m minist look --model M "how do I sort a list?"
python -m minist look --model M "how do I sort a list?" "put the items of a list in order"
python -m minist look --model RERANKER "a query" "a document"

## goes on with a word, ▁ is a space before one.
share    what a token gives to the pooled vector p. Of token vectors x it is x . (dp/dx p) / |p|^2, for a mean
         x . p / (tokens |p|^2). The shares add up to 1; a token below 0 pulls the other way. What follows the
         pooling is not in it.
length   of the tokens' vectors, their mean
alike    the mean cosine of two tokens; it rises as attention mixes the text into each of them
nearest  of two texts: for each token of the first that of the second with the largest cosine"""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers.decoders import ByteLevel
from torch import Tensor

from minist.data.packed import Packed
from minist.data.tokenizer import Text, Tokenizer, checked_texts
from minist.models import TextModel, open_model
from minist.models.stack import before_pooling
from minist.modules.pooling import Pooling
from minist.similarity import similarity

HELP = "look at a text's tokens, their vectors, and what makes the embedding"
BAR = 30  # columns of the longest


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a model folder, or a name on the Hugging Face hub")
    add("text")
    add("other", nargs="?", help="a second text to compare with; a cross-encoder reads both together")
    add("--role", action="append", help="query or document: route and prompt of the text; twice: of each text its own")


def run(args: argparse.Namespace) -> None:
    model: Any = open_model(args.model, revision=args.revision, device=args.device)
    texts, _ = checked_texts([args.text] if args.other is None else [args.text, args.other])
    roles = [*(args.role or [None])]
    if model.gives == "scores":
        if args.other is None:
            raise ValueError(f"{args.model} is a cross-encoder: give it two texts, which it reads together")
        if args.role:
            raise ValueError(f"{args.model} is a cross-encoder: its two texts have no roles, leave --role out")
        look(model, (args.text, args.other), None)
        print()
        for i, score in enumerate(torch.as_tensor(model.predict([(args.text, args.other)])).flatten().tolist()):
            print(f"{score:7.4f} {printable(model.id2label[i]) if model.num_labels > 1 else 'score'}")
        return
    seen = [look(model, text, role) for text, role in zip(texts, [roles[0], roles[-1]], strict=False)]
    if model.gives == "sparse":
        print("\nthe words that stand for a text, and their weights: python -m minist expand")
    if args.other is not None:
        compare(*seen)
        if model.gives != "words":
            a, b = (model.encode([text], role=role) for text, role in zip(texts, [roles[0], roles[-1]], strict=True))
            print(f"\n{model.similarity_name} of the two texts: {model.similarity(a, b).item():.4f}")


def look(model: Any, text: Text, role: str | None) -> tuple[list[str], Tensor]:
    """Print the tokens of a text, or a pair, with their shares, and its layers; the tokens' names, and their vectors
    [T, D] as the pooling sees them."""
    prompt = model.find_prompt(None, None, role)
    packed, was_cut = model.read([text], prompt, role)
    names = names_of(packed, model.tokenizer_for(role))
    states, tokens, parts = see(model, packed.to(model.device), role)
    print(f"\n{printable(prompt + (text if isinstance(text, str) else ' + '.join(text)))[:78]}")
    print(f"{len(names):,} tokens" + ", and behind them the text is cut: the model reads no more" * bool(was_cut))
    print(f"\n{'':4}i      id" + f"   share {'':{BAR}}" * bool(parts) + " token")
    most = max(map(abs, parts), default=0) or 1  # of zeros all are zero
    for i, (name, number) in enumerate(zip(names, packed.input_ids.tolist(), strict=True)):
        share = f" {parts[i]:7.3f} {bar(parts[i] / most):>{BAR}}" if parts else ""
        print(f"{i:5} {number:7}{share} {name}")
    if states:
        print("\nlayer   length   alike")
    for i, x in enumerate(states):
        alike = mean_cosine(x)
        print(f"{i:5} {x.norm(dim=1).mean():8.2f} {alike:7.2f} {bar(alike)}".rstrip())
    return names, tokens


def names_of(packed: Packed, tokenizer: Tokenizer) -> list[str]:
    ids, backend = packed.input_ids.tolist(), tokenizer.backend
    names = [str(backend.id_to_token(i)) for i in ids]
    if isinstance(backend.decoder, ByteLevel):  # whose tokens are bytes in a spelling of their own
        names = [backend.decode([i], skip_special_tokens=False).replace(" ", "▁") for i in ids]
    return [printable(name) for name in names]


@torch.no_grad()
def see(model: TextModel, packed: Packed, role: str | None) -> tuple[list[Tensor], Tensor, list[float]]:
    """Of the tokens of one text: their vectors [T, D] behind the embeddings and each layer, those that the pooling
    sees, and their shares; nothing of what the model has not."""
    reader, *_ = path = model.stack.paths[model.stack.route(role)]
    if reader.gives == "embeddings":  # a StaticEmbedding: a token's vector is the same in every text
        x = reader.embedding(packed.input_ids).float()  # type: ignore[operator]
        return [], x, shares(x, packed, Pooling(x.shape[1]))
    if not reader.num_layers or not len(packed.input_ids):  # words alone have no vectors
        return [], torch.empty(0, 0), []
    x, pooling = model.stack.token_vectors(packed, role).float(), path[len(before_pooling(path))]
    states = [state.float() for state in reader.hidden_states(packed)]
    return states, x, shares(x, packed, pooling) if pooling.gives == "embeddings" else []


@torch.enable_grad()
def shares(x: Tensor, packed: Packed, pooling: Any) -> list[float]:
    """[T, D] token vectors -> [T]. Each pooling is linear in its tokens, or, as max, in those that it picks: so p is
    the sum of dp/dx x (Euler), and these are its parts along p."""
    x = x.clone().requires_grad_()
    pooled = pooling(x, packed)
    target = pooled.detach()
    (gradient,) = torch.autograd.grad((pooled * target).sum(), x)
    return ((gradient * x).sum(1) / target.square().sum().clamp_min(1e-12)).tolist()


def compare(a: tuple[list[str], Tensor], b: tuple[list[str], Tensor]) -> None:
    """Print the nearest tokens; none where a text has no vectors, or two routes have some of different widths."""
    (names, x), (others, y) = a, b
    if len(x) and len(y) and x.shape[1] == y.shape[1]:
        print("\n    i  cosine  token of the first text, and the nearest of the second")
        for i, (cosine, j) in enumerate(zip(*similarity("cosine")(x, y).max(1), strict=True)):
            print(f"{i:5} {cosine:7.2f}  {names[i]:14} {others[j]}")


def mean_cosine(x: Tensor) -> float:
    """Of two different rows of `x` [T, D]; of a single one 1."""
    unit = F.normalize(x, dim=1)  # the sum of all products is the square of the sum
    return ((unit.sum(0).square().sum() - len(x)) / (len(x) * (len(x) - 1))).item() if len(x) > 1 else 1.0


def bar(share: float) -> str:
    return "█" * round(BAR * min(max(share, 0), 1))


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else "·" for c in text)  # a terminal would obey control characters
