"""The tokenizer of a folder: tokenizer.json, or a BERT's vocab.txt, and the settings beside it."""

import json
from pathlib import Path
from typing import Any

from tokenizers import BertWordPieceTokenizer, normalizers
from tokenizers import Tokenizer as Backend

from minist.checks import number, pick
from minist.data.tokenizer import NO_LIMIT, Tokenizer
from minist.encoders.encoder import Encoder
from minist.files import write_json
from minist.models.reading import is_file, read_optional, reading

# the file that has changed its name with the encoder; the first that is there
ENCODERS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
LENGTH_FILES = [f"sentence_{kind}_config.json" for kind in ENCODERS]
GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes of transformers that take tokenizer.json as it is
# how the special tokens are called where tokenizer_config.json does not say: by BERT's tokenizers, and by RoBERTa's
SPECIAL = {"pad_token": ("[PAD]", "<pad>"), "unk_token": ("[UNK]", "<unk>"), "mask_token": ("[MASK]", "<mask>")}
SPECIAL |= {"cls_token": ("[CLS]", "<s>"), "sep_token": ("[SEP]", "</s>")}
SCORES: dict[str, Any] = {  # what version 6 wants to know of an encoder with a ClassificationHead
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}
WORDPIECE = ("bert", "distilbert")  # whose vocab.txt alone says all
RARE = "🙂 猫 ᚠ ꙮ 𓀀 \u0378"  # a vocabulary that lacks all of these needs its unknown token


def load_tokenizer(folder: Path, reader: Any) -> Tokenizer:
    """The tokenizer in the folder of a module that reads texts. ValueError for one that makes ids without a row in the
    module, or cannot make any of some text."""
    if reader.special_tokens:
        tokenizer = _load_encoder_tokenizer(folder, reader)
    else:  # of a StaticEmbedding: only the maximum length that it holds itself
        backend, config = _read_backend(folder / "tokenizer.json"), read_optional(folder / "tokenizer_config.json")
        limit = backend.truncation["max_length"] if backend.truncation else NO_LIMIT
        if reader.has_config:  # of a SparseStaticEmbedding, whose tokenizer is one of transformers
            limit = int(min(limit, number("model_max_length", config.get("model_max_length", NO_LIMIT), 1)))
        tokenizer = Tokenizer(backend, limit, special_tokens=False)
        tokenizer.config = config
    try:
        ids = tokenizer([RARE, ("", RARE)]).input_ids.tolist()
    except Exception as e:  # the library raises bare Exception
        raise ValueError(f"{folder}: the tokenizer fails on a rare letter, is its unknown token there? ({e})") from None
    tokens = 1 + max(*ids, *tokenizer.backend.get_vocab().values(), 0, 0)  # ids may have gaps: the largest counts
    if tokens > reader.vocab_size:
        raise ValueError(f"{folder}: tokenizer.json has {tokens} tokens, the model {reader.vocab_size}")
    return tokenizer


def _load_encoder_tokenizer(folder: Path, encoder: Encoder) -> Tokenizer:
    own = transformer_settings(folder)
    config = read_optional(folder / "special_tokens_map.json") | read_optional(folder / "tokenizer_config.json")
    if not is_file(folder / "tokenizer.json") and is_file(folder / "vocab.txt") and encoder.model_type in WORDPIECE:
        with reading(folder / "vocab.txt"):
            backend = wordpiece(folder / "vocab.txt", config)
    else:
        backend = _read_backend(folder / "tokenizer.json")
        lower, of_bert = config.get("do_lower_case"), type(backend.normalizer) is normalizers.BertNormalizer
        if of_bert and type(lower) is bool and config.get("tokenizer_class") not in GENERIC:
            backend.normalizer.lowercase = lower  # the classes of BERT's kind change their tokenizer.json by this
    with reading(folder):
        pick("truncation_side in tokenizer_config.json", config.get("truncation_side", "right"), {"right": "the end"})
        lengths = {"max_seq_length": own.get("max_seq_length"), "model_max_length": config.get("model_max_length")}
        given = [number(name, value, 1) for name, value in lengths.items() if value is not None]  # 1e30 is no limit
        if own.get("do_lower_case"):  # lowers text that its own normalizer would not
            steps = [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
            backend.normalizer = normalizers.Sequence(steps)
        tokenizer = Tokenizer(backend, int(min([*given[:1], encoder.config.max_length])))
        # as transformers decides whether the second text of a pair has token type 1
        default = [] if config.get("tokenizer_class") in GENERIC else ["token_type_ids"]
        tokenizer.has_types = "token_type_ids" in config.get("model_input_names", default)
    tokenizer.config = config
    return tokenizer


def transformer_settings(folder: Path) -> dict[str, Any]:
    """What sentence_bert_config.json, by whatever name, says of an encoder and its tokenizer."""
    return next(filter(None, (read_optional(folder / name) for name in LENGTH_FILES)), {})


def _read_backend(file: Path) -> Backend:
    if not is_file(file):
        raise ValueError(f"{file.parent} has no tokenizer.json: save the model once with a fast tokenizer")
    try:
        backend = Backend.from_file(str(file))
    except Exception as e:  # the library raises bare Exception
        raise ValueError(f"{file} is not a tokenizer.json: {e}") from None
    about = json.loads(backend.post_processor.__getstate__()) if backend.post_processor else {}
    pieces = [*about.get("single", ()), *about.get("pair", ())] if about.get("type") == "TemplateProcessing" else ()
    named = {piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece}
    if missing := sorted(named - about.get("special_tokens", {}).keys()):  # the library would panic, and print pages
        raise ValueError(f"{file}: its post_processor has no id for {missing[0]}")
    return backend


def wordpiece(file: Path, config: dict[str, Any]) -> Backend:
    """As BertTokenizerFast makes it of a vocab.txt. KeyError where a special token is missing."""
    words = {line.rstrip("\n"): i for i, line in enumerate(file.read_text("utf-8").splitlines(keepends=True))}
    given = {name: config.get(name) or "" for name in SPECIAL}  # a text, or a table that describes it
    given = {name: t.get("content") if type(t) is dict else t for name, t in given.items()}
    special = {name: str(given[name] or names[0]) for name, names in SPECIAL.items()}
    if missing := {special[name] for name in ("cls_token", "sep_token", "unk_token")} - words.keys():
        raise KeyError(min(missing))
    # strip_accents None: where it lowers too
    chinese, lower = config.get("tokenize_chinese_chars", True), config.get("do_lower_case", True)
    how = {"handle_chinese_chars": chinese, "strip_accents": config.get("strip_accents"), "lowercase": lower}
    return Backend.from_str(BertWordPieceTokenizer(words, **special, **how).to_str())


def save_tokenizer(tokenizer: Tokenizer, folder: Path, reader: Any, gives: str) -> None:
    """Write tokenizer.json, and what transformers wants to know beside it; `gives` is what the model gives."""
    (folder / "tokenizer.json").write_text(tokenizer.to_json(), "utf-8")
    if not reader.special_tokens and not reader.has_config:
        return  # of a StaticEmbedding nothing else is read
    known = tokenizer.backend.get_vocab()
    found = {name: next((t for t in tokens if t in known), None) for name, tokens in SPECIAL.items()}
    special = {name: token for name, token in found.items() if token is not None and not tokenizer.config.get(name)}
    # PreTrainedTokenizerFast reads any tokenizer.json, in all versions of transformers, and knows no special token
    types = ["token_type_ids"] if reader.special_tokens and reader.token_types and tokenizer.has_types else []
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokenizer.max_length}
    about |= {"model_input_names": ["input_ids", *types, "attention_mask"]}
    write_json(folder / "tokenizer_config.json", tokenizer.config | special | about)
    if reader.special_tokens:
        lengths = {"max_seq_length": tokenizer.max_length, "do_lower_case": False}
        write_json(folder / LENGTH_FILES[0], lengths | (SCORES if gives == "scores" else {}))
