"""The model that a run starts from: a saved one, or random weights and a WordPiece vocabulary of the texts at hand."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import chain, islice
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn

from minist import modules
from minist.checks import number, pick, whole
from minist.data.rows import read_texts
from minist.data.tokenizer import Tokenizer
from minist.encoders.encoder import Encoder
from minist.encoders.families import ENCODERS
from minist.encoders.modernbert import ModernBertEncoder
from minist.encoders.weights import initialize, modernize
from minist.models import MODELS, open_model
from minist.models.folder import Content
from minist.models.hub import find_model
from minist.models.reading import read_weights
from minist.models.sentence_transformer import SentenceTransformer
from minist.models.sparse_encoder import SparseEncoder
from minist.models.stack import Stack
from minist.models.text_model import TextModel
from minist.modules import Dense, Module, Pooling, Router, SparseAutoEncoder, SparseStaticEmbedding, StaticEmbedding
from minist.modules.splade import LargestScore
from minist.modules.static_embedding import inverse_document_frequencies
from minist.progress import progress_bar
from minist.training.config import Config, ModelConfig, TokenizerConfig
from minist.training.construct import Table, build, call

SPECIAL = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}  # the ids 0 to 4
LOOKED_AT = 2000  # texts
STATIC = "static"  # the model_type of word vectors alone
FIRST, SECOND = "first", "second"  # the routes of twins


def make_model(config: Config) -> TextModel:
    start = config.model
    if start.path:
        kind = "SentenceTransformer" if start.autoencoder else start.type
        layers, revision = start.keep_layers or None, start.revision or None
        more: dict[str, Any] = {"num_labels": start.num_labels, "adapter": start.adapter or None}
        model = open_model(start.path, kind, revision=revision, keep_layers=layers, **more)
    else:
        model = new_model(start, texts_of(config, ()))
    if start.max_length:  # which is there only beside a path
        model.max_length = start.max_length
    model.prompts |= start.prompts
    if start.pca:
        model = with_components(model, some_texts(config), start.pca)
    if start.autoencoder:  # it turns the embeddings of a dense model, behind all of its modules, into sparse ones
        pick("config: type in [model] with an autoencoder", start.type, {"SparseEncoder": "which gives them"})
        width = {"input_dim": model.width}
        own = call("SparseAutoEncoder", SparseAutoEncoder, start.autoencoder, modules, Module, lambda: width)
        sparse = Content(Stack([*model.stack, own]), model.tokenizers, {})
        model = SparseEncoder(sparse, prompts=model.prompts).to(model.device)
    if start.sparse_start:
        pick("config: sparse_start in [model] with an adapter", str(model.is_adapted), {"False": "whose head stays"})
        begin_sparse(model, some_texts(config), start.sparse_start)
    if start.static_queries:
        model = with_static_queries(model, texts_of(config, ("query",)))
    if (of := start.lora).rank:
        model.add_adapter(of.rank, of.alpha, dropout=of.dropout, targets=of.targets)
    return make_twins(model) if start.twins else model


def texts_of(config: Config, without: Sequence[str]) -> Iterator[str]:
    """The texts of all training sets, but for columns with these roles."""
    for entry in config.data:
        columns = {name: source for name, source in entry.columns.items() if entry.roles.get(name) not in without}
        for file in entry.paths():
            for row in read_texts(file, columns, entry.format):
                yield from row


def some_texts(config: Config) -> list[str]:
    """All, or about LOOKED_AT of them, drawn: every n-th may be of one column. More are never in memory."""
    count, draw = sum(1 for _ in texts_of(config, ())), Random(config.seed)
    return [text for text in texts_of(config, ()) if draw.random() * count < LOOKED_AT]


def with_components(model: Any, texts: Sequence[str], count: int) -> TextModel:
    """Embeddings of `count` numbers, as a Dense behind all modules makes them: what is said of a text along those
    directions in which the embeddings of `texts` differ most, their first principal components. No mean is taken away
    from an embedding: the Dense has no bias, as in sentence-transformers' example."""
    pick("config: what a model with pca in [model] gives", model.gives, {"embeddings": "which it makes shorter"})
    most = min(model.width, len(texts) - 1)  # n texts differ in n - 1 directions
    whole(f"config: pca in [model], with {len(texts):,} texts,", count, 1, most)
    model.truncate_dim = None  # it may be more than there will be components
    x = model.encode(texts, convert_to_tensor=True)
    directions = torch.linalg.eigh(torch.cov(x.T, correction=0)).eigenvectors.T.flip(0)  # of most variance first
    dense = Dense(model.width, count, bias=False, activation="torch.nn.modules.linear.Identity")
    dense.linear.weight.data = directions[:count].contiguous()
    return _like(model.from_modules([*model.stack, dense.to(model.device)], model.tokenizers), model)


def begin_sparse(model: TextModel, texts: Sequence[str], share: float) -> None:
    """Lower the bias of each word until no more than that share of `texts` has the word.
    A masked language model scores thousands of words above 0 wherever it looks, and highest those that are frequent
    everywhere. So texts begin alike, and may well end so: regularizers shorten what all of them have, and what tells
    them apart is lost along the way. Softmax, by which it learned, says nothing of how high a word's scores lie."""
    named: dict[str, Any] = {type(module).__name__: module for module in model.stack}
    pick("config: sparse_start in [model] needs a module that", "SpladePooling", named)
    encoder, head = model.stack[0], named["MaskedLMHead"]
    best = []
    with torch.no_grad(), progress_bar(len(texts), "texts", "sparse start") as bar:
        for part in (texts[i : i + 32] for i in range(0, len(texts), 32)):
            packed = model.tokenizer(part).packed().to(model.device)
            best.append(LargestScore.apply(*head(encoder(packed)), packed.lengths))  # [32, V]
            bar.update(len(part))
        head.bias -= torch.cat(best).kthvalue(max(len(texts) - round(share * len(texts)), 1), dim=0).values


def with_static_queries(model: TextModel, texts: Iterable[str]) -> TextModel:
    """A query goes no more through the encoder: its words weigh their rarity in `texts`, and are trained from there."""
    pick("config: static_queries in [model] with type", type(model).__name__, {"SparseEncoder": "which it is for"})
    tokenizer = Tokenizer(Backend.from_str(model.tokenizer.backend.to_str()), model.max_length, special_tokens=False)
    queries = SparseStaticEmbedding.from_table(inverse_document_frequencies(texts, tokenizer), tokenizer)
    router = Router({"query": [queries], "document": list(model.stack)}, "document")
    return _like(model.from_modules([router], {"query": tokenizer, "document": model.tokenizer}), model)


def plain_weights(start: ModelConfig) -> dict[str, Tensor]:
    """The weights of the plain checkpoint in path, by their names in the file: it may hold a head that scores words."""
    folder = find_model(start.path, start.revision or None) if start.path else None
    # a model that was saved with its modules has no such head
    return {} if folder is None or (folder / "modules.json").exists() else modernize(read_weights(folder), "")


def new_model(config: ModelConfig, texts: Iterable[str]) -> TextModel:
    """Train a vocabulary on `texts` and draw the weights of an encoder that fits it."""
    tokenizer = train_wordpiece(texts, config.tokenizer)
    if config.encoder.get("model_type") == STATIC:
        return new_static(config, tokenizer)
    encoder = new_encoder(config.encoder | {"vocab_size": tokenizer.vocab_size}, tokenizer.max_length)
    kind = pick("config: type in [model]", config.type or "SentenceTransformer", MODELS)
    if not config.num_labels:
        return kind.from_encoder(encoder, tokenizer, config.pooling.mode or kind.pooling)
    plain = Content(Stack([encoder, Pooling(encoder.width)]), {None: tokenizer}, {})
    return kind(plain, num_labels=config.num_labels)


def new_static(config: ModelConfig, tokenizer: Tokenizer) -> TextModel:
    """A vector for each word, of which a text's embedding is the mean: no encoder, and so no special tokens."""
    where = f"of a {STATIC} model"
    pick(f"config: type in [model] {where}", config.type or "SentenceTransformer", {"SentenceTransformer": "dense"})
    pick(f"config: mode in [model.pooling] {where}", config.pooling.mode or "mean", {"mean": "of the words"})
    for key in config.encoder:
        pick(f"config: a key in [model.encoder] {where}", key, dict.fromkeys(("model_type", "hidden_size")))
    width = whole("config: hidden_size in [model.encoder]", config.encoder.get("hidden_size", 256), 1)
    bare = Tokenizer(tokenizer.backend, tokenizer.max_length, special_tokens=False)
    return SentenceTransformer.from_modules([StaticEmbedding(tokenizer.vocab_size, width)], bare)


def train_wordpiece(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """BERT's way to cut text (Wu et al. 2016, arXiv:1609.08144): words, then their most frequent pieces."""
    # WordPieceTrainer breaks ties by chance. BpeTrainer does not, and learns the same pieces if a letter inside a word
    # is another letter than the same one at its start
    normalizer, splitter = normalizers.BertNormalizer(lowercase=config.lower_case), pre_tokenizers.BertPreTokenizer()
    learner = Backend(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = list(SPECIAL.values())
    trainer = BpeTrainer(vocab_size=config.vocab_size, min_frequency=2, special_tokens=special, show_progress=False)
    learner.train_from_iterator(marked_words(texts, normalizer, splitter), trainer)
    found = learner.get_vocab().items()
    pieces = {("##" if ord(piece[0]) in _OUTSIDE else "") + piece.translate(_OUTSIDE): i for piece, i in found}
    backend = Backend(models.WordPiece(pieces, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizer, splitter
    backend.add_special_tokens(special)
    ends = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    tokenizer = Tokenizer(backend, config.max_length)
    tokenizer.config = dict(SPECIAL)
    return tokenizer


def marked_words(texts: Iterable[str], normalizer: Any, splitter: Any) -> Iterator[str]:
    """The words of all texts, as often as they are there, many in a string; letters inside a word are marked. Of 50,000
    texts at a time, each part between two spaces is looked at once, which is three to four times as fast."""
    texts = iter(texts)
    while some := list(islice(texts, 50_000)):
        words: Counter[str] = Counter()
        for part, count in Counter(chain.from_iterable(text.split(" ") for text in some)).items():
            for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(part)):
                words[word[0] + word[1:].translate(_INSIDE)] += count
        for word, count in words.items():
            yield from (f"{word} " * min(1000, count - done) for done in range(0, count, 1000))


_INSIDE = {code: 0xF0000 + code for code in range(0xFFFE)}  # a plane of 65,534 characters that no text uses
_OUTSIDE = {marked: code for code, marked in _INSIDE.items()}


def new_encoder(table: Table, max_length: int) -> Encoder:
    """An encoder with random weights. `table`: model_type, and any fields of its config.json."""
    options = dict(table)
    what = f"config: model_type in [model.encoder], if not {STATIC!r},"
    encoder_class = pick(what, options.pop("model_type", "bert"), ENCODERS)
    config = build(encoder_class.config_class, options, "[model.encoder]")
    number("config: max_length in [model.tokenizer]", max_length, most=config.max_length)  # the encoder's positions
    encoder = encoder_class(config)  # type: ignore[call-arg]  # an architecture reads the width itself
    initialize(encoder, config.initializer_range)
    if not isinstance(encoder, ModernBertEncoder):  # which has no table of positions
        nn.init.zeros_(encoder.embeddings.position.weight)  # at first a word means the same wherever it stands
    return encoder


def make_twins(model: TextModel) -> TextModel:
    """Routes "first" and "second", which start alike, for contrastive tension, see losses; the second will be kept."""
    routes = {FIRST: list(deepcopy(model.stack)), SECOND: list(model.stack)}
    return _like(model.from_modules([Router(routes, SECOND, {FIRST: FIRST, None: SECOND})], model.tokenizer), model)


def keep_one(twins: TextModel) -> TextModel:
    router = twins.stack.router
    assert router is not None
    return _like(twins.from_modules(router.modules_of(SECOND), twins.tokenizer_for(SECOND)), twins)


def _like(model: TextModel, other: TextModel) -> TextModel:
    """With the prompts and all other settings of `other`, where that one is."""
    return type(model)(Content(model.stack, model.tokenizers, other.content().settings)).to(other.device)
