"""Look at one text's way through a model: tokens, their vectors layer by layer, and which of them make the embedding.

python -m minist look --model M "how do I sort a list?"
python -m minist look --model M "how do I sort a list?" "put the items of a list in order"
python -m minist look --model RERANKER "a query" "a document"

## goes on with a word, ▁ is a space before one.
share   what a token gives to the pooled vector p. Of token vectors x it is x . (dp/dx p) / |p|^2, for a mean
        x . p / (tokens |p|^2). The shares add up to 1; a token below 0 pulls the other way. What follows the pooling
        is not in it.
length  of the tokens' vectors, their mean
alike   the mean cosine of two tokens; it rises as attention mixes the text into each of them"""

import argparse
from typing import Any, NamedTuple
from unicodedata import category, east_asian_width

import torch
import torch.nn.functional as F
from tokenizers.decoders import ByteLevel
from torch import Tensor

from minist.data.packed import Packed
from minist.data.pairing import kept_lengths
from minist.data.tokenizer import NO_LIMIT, Text, checked_texts
from minist.models import TextModel, open_model
from minist.models.stack import before_pooling
from minist.similarity import similarity

HELP = "look at a text's tokens, their vectors, and what makes the embedding"
FIRST, LAST = 8, 3  # tokens of a long text that are shown, in a table of two texts
NAME, BAR = 14, 30  # columns of a token, and of the longest bar


class Seen(NamedTuple):
    """A text, or a pair, in a model."""

    names: list[str]  # of T tokens
    ids: list[int]
    states: list[
        Tensor
    ]  # [T, D] behind the embeddings, then behind each layer; [] of a model without vectors of tokens
    tokens: Tensor  # [T, D] what the pooling sees
    shares: list[float]  # of each token; [] where no pooling makes one vector of them


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a model folder, or a name on the Hugging Face hub")
    add("text")
    add("other", nargs="?", help="a second text to compare with; a cross-encoder reads both together")
    add("--role", action="append", help="query or document: route and prompt of the text; twice: of each text its own")


def run(args: argparse.Namespace) -> None:
    model: Any = open_model(args.model, revision=args.revision, device=args.device)
    texts, _ = checked_texts([args.text] if args.other is None else [args.text, args.other])
    roles = [*(args.role or [None])][:2]
    if model.gives == "scores":
        if args.other is None:
            raise ValueError(f"{args.model} is a cross-encoder: give it two texts, which it reads together")
        show(model, (args.text, args.other), None)
        scores = torch.as_tensor(model.predict([tuple(texts)])).flatten().tolist()
        names = model.id2label.values() if len(scores) > 1 else ["score"]
        print("\n" + "\n".join(f"{fit(name, NAME)} {score:.4f}" for name, score in zip(names, scores, strict=True)))
        return
    seen = [show(model, text, role) for text, role in zip(texts, [roles[0], roles[-1]], strict=False)]
    if model.gives == "sparse":
        print("\nthe words that stand for a text, and their weights: python -m minist expand")
    if args.other is not None and model.gives != "words":
        a, b = (model.encode([text], role=role) for text, role in zip(texts, [roles[0], roles[-1]], strict=True))
        print(f"\n{model.similarity_name} of the two texts: {model.similarity(a, b).item():.4f}")
    if args.other is not None and len({one.tokens.shape[1] for one in seen}) == 1 and all(one.ids for one in seen):
        compare(*seen)  # two routes may have vectors of different widths


def show(model: Any, text: Text, role: str | None) -> Seen:
    """Print a text, or a pair, as the model reads it: tokens with their shares, and its layers."""
    prompt = model.find_prompt(None, None, role)
    packed, was_cut = model.read([text], prompt, role)
    seen = see(model, packed.to(model.device), role)
    most = model.tokenizer_for(role).max_length
    print(f"\n{fit(' + '.join([text] if isinstance(text, str) else text), 78).rstrip()}")
    print(f"{len(seen.ids):,} tokens" + f" of at most {most:,}" * (most < NO_LIMIT), end="")
    print(f", after the prompt {fit(prompt, 40).rstrip()!r}" * bool(prompt))
    if was_cut:
        print(where_cut(model, text, prompt, role))
    print_tokens(seen)
    if seen.ids and seen.states:
        print_layers(seen.states)
    return seen


def print_tokens(seen: Seen) -> None:
    print(f"\n    i      id  {fit('token', NAME)}   share" if seen.shares else "\n    i      id  token")
    most = max(map(abs, seen.shares), default=1)
    for at in spans(len(seen.ids), 24, 8):
        i, more = at.start, at.stop - at.start
        share = f" {sum(seen.shares[at]):7.3f}" if seen.shares else ""
        if more > 1:
            print(f"    …       …  {fit(f'{more:,} more', NAME)}{share}".rstrip())
            continue
        drawn = bar(seen.shares[i] / most) if seen.shares else ""
        print(f"{i:5} {seen.ids[i]:7}  {fit(seen.names[i], NAME)}{share} {drawn}".rstrip())


def print_layers(states: list[Tensor]) -> None:
    print("\nlayer   length                      alike")
    lengths = [x.norm(dim=1).mean().item() for x in states]
    for i, (x, length) in enumerate(zip(states, lengths, strict=True)):
        drawn, alike = fit(bar(length / max(lengths), 18), 18), mean_cosine(x)
        print(f"{i:5} {length:8.2f} {drawn} {alike:6.2f} {bar(alike)}".rstrip())


def see(model: TextModel, packed: Packed, role: str | None) -> Seen:
    """The tokens of one text, N = 1, on their way."""
    tokenizer, path = model.tokenizer_for(role).backend, model.stack.paths[model.stack.route(role)]
    ids, reader = packed.input_ids.tolist(), path[0]
    names = [str(tokenizer.id_to_token(i)) for i in ids]
    if isinstance(tokenizer.decoder, ByteLevel):  # whose tokens are bytes in a spelling of their own
        names = [tokenizer.decode([i], skip_special_tokens=False).replace(" ", "▁") for i in ids]
    states, tokens, pooled = list[Tensor](), torch.empty(0, 0), None
    with torch.no_grad():
        if reader.num_layers:
            states, tokens = [x.float() for x in reader.hidden_states(packed)], model.stack.token_vectors(packed, role)
        elif reader.gives == "embeddings":  # a StaticEmbedding: a token's vector is the same in every text
            tokens = reader.embedding(packed.input_ids)  # type: ignore[operator]
            states = [tokens.float()]
    x, behind = tokens.float().requires_grad_(), path[len(before_pooling(path)) :]
    if reader.num_layers and behind[0].gives == "embeddings":
        pooled = behind[0](x, packed)
    elif reader.gives == "embeddings":
        pooled = x.sum(0) / max(len(ids), 1)
    return Seen(names, ids, states, x.detach(), [] if pooled is None else shares(x, pooled))


def shares(x: Tensor, pooled: Tensor) -> list[float]:
    """[T, D] token vectors, and what a pooling made of them -> [T]. Each pooling is linear in its tokens, or, as max,
    in those that it picks: so p is the sum of dp/dx x (Euler), and these are its parts along p."""
    target = pooled.detach()
    (gradient,) = torch.autograd.grad((pooled * target).sum(), x)
    return ((gradient * x).sum(1) / target.square().sum().clamp_min(1e-12)).tolist()


def where_cut(model: Any, text: Text, prompt: str, role: str | None) -> str:
    """What is not read, in one line."""
    if isinstance(text, str):
        whole = prompt + text
        end = max(stop for _, stop in model.tokenizer_for(role).backend.encode(whole).offsets)
        rest = whole[end:].strip()
        return f"cut: the last {len(rest):,} characters are not read: {fit(rest, 30).rstrip()}"
    n, m = model.pairing.tokenizer([prompt + text[0], text[1]]).lengths.split(1)
    kept = kept_lengths(n, m, model.pairing.room)
    read = [f"{int(k):,} of {int(total):,}" for k, total in zip(kept, (n, m), strict=True)]
    return f"cut: {read[0]} tokens of the first text are read, and {read[1]} of the second"


def compare(a: Seen, b: Seen) -> None:
    """Print the cosine of each token of the one with each of the other."""
    cosines = similarity("cosine")(a.tokens, b.tokens)  # [T, T']
    columns, best = spans(len(b.ids), FIRST, LAST), cosines.argmax(1).tolist()
    print("\ncosine x 100 of each two tokens; * marks the best partner of the one on the left")
    names = [b.names[at.start] if at.stop - at.start == 1 else "…" for at in columns]
    print(f"{'':19}{' '.join(fit(name, 4) for name in names)}".rstrip())
    for row in spans(len(a.ids), 24, 8):
        i, more = row.start, row.stop - row.start - 1
        cells = [f"{100 * cosines[i, at].max():4.0f}{' *'[at.start <= best[i] < at.stop]}" for at in columns]
        print(f"  … {more + 1:,} more" if more else f"{i:3} {fit(a.names[i], NAME)}{''.join(cells)}".rstrip())
    back = [int(cosines[:, at].max(1).values.argmax()) for at in columns]  # the best partner of the token above
    print(f"    {fit('best for it', NAME)}{''.join(f'{i:4} ' for i in back)}".rstrip())


def spans(count: int, first: int, last: int) -> list[slice]:
    """A slice for each of `count` tokens; where they are many, those in the middle are one."""
    if count <= first + last + 1:
        return [slice(i, i + 1) for i in range(count)]
    end = count - last
    return [*spans(first, count, 0), slice(first, end), *(slice(i, i + 1) for i in range(end, count))]


def mean_cosine(x: Tensor) -> float:
    """Of two different rows of `x` [T, D]; of a single one 1."""
    unit = F.normalize(x, dim=1)  # the sum of all products is the square of the sum
    return ((unit.sum(0).square().sum() - len(x)) / (len(x) * (len(x) - 1))).item() if len(x) > 1 else 1.0


def bar(share: float, width: int = BAR) -> str:
    return "█" * round(width * min(max(share, 0), 1))


def width_of(text: str) -> int:
    """Columns of a terminal: Chinese letters take two, an accent of its own none."""
    return sum((category(c) not in ("Mn", "Me")) * (1 + (east_asian_width(c) in "WF")) for c in text)


def fit(text: str, width: int) -> str:
    """`text` in exactly so many columns; a terminal would obey control characters."""
    shown = "".join(c if c.isprintable() else "·" for c in text[: 4 * width])
    if width_of(shown) > width or len(text) > 4 * width:
        while width_of(shown) > width - 1:
            shown = shown[:-1]
        shown += "…"
    return shown + " " * (width - width_of(shown))
