"""Training sets of WordNet (Miller 1995, https://wordnet.princeton.edu/documentation/wndb5wn): English words in sets of
synonyms, called synsets, each with its definition; and the nouns in a tree, from "entity" down to "beagle". A tenth of
the synsets is held out, and a row holds synsets of one half only: nothing of what is measured was trained on.

A line of data.noun is a synset (cut here):
    02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 023 @ 02083346 n 0000 .. | a member of the genus Canis ..
its number, its field, the part of speech, how many words (in hexadecimal) and each word with a number, how many
pointers and each pointer: its kind, the other synset's number and part of speech, which of the words are meant. After
the bar stand the definition and examples: an account; "he gave a good account". Pointers @ and @i lead to the hypernym:
what a dog is a kind of, or what Einstein is an instance of."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from minist.data.sources.packages import package_files
from minist.data.sources.split import Row, hash_of, in_hash_order, without_repeats, write_split

FIELDS = (  # noqa: SIM905  lexnames(5WN): their numbers are the places here; 3 to 28 are of nouns, 29 to 43 of verbs
    "all pert all Tops act animal artifact attribute body cognition communication event feeling food group location "
    "motive object person phenomenon plant possession process quantity relation shape state substance time body change "
    "cognition communication competition consumption contact creation emotion motion perception possession social "
    "stative weather ppl"
).split()
VAGUE = 4  # levels from the root whose nouns hold for nearly everything: entity, abstraction, ..


@dataclass
class Synset:
    """Words that mean the same."""

    number: str
    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]
    kind: str  # part of speech and field, noun.animal
    hypernym: str  # its number; "" at a root
    path: list[str]  # of a noun: the numbers from the root down to its own, see Half

    @property
    def text(self) -> str:  # a word and what it means here
        return f"{self.words[0]}: {self.definition}"


def parse(line: str, part_of_speech: str) -> Synset:
    data, _, gloss = line.partition("|")
    number, field, _, count, *rest = data.split()
    size = 2 * int(count, 16)
    words = [re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in rest[:size:2]]  # a(p): stands after
    pointers = zip(rest[size + 1 :: 4], rest[size + 2 :: 4], strict=False)
    hypernyms = [other for symbol, other in list(pointers)[: int(rest[size])] if symbol in ("@", "@i")]
    definition, *_ = gloss.strip().split('; "')
    examples = re.findall(r'"([^"]+)"', gloss.strip()[len(definition) :])
    kind = f"{part_of_speech}.{FIELDS[int(field)]}"
    return Synset(number, tuple(words), definition, tuple(examples), kind, (hypernyms or [""])[0], [])


class Half:
    """The synsets that training sees, or those that are held out."""

    def __init__(self, synsets: list[Synset], hypernyms: Mapping[str, str]) -> None:
        self.synsets = synsets
        self.nouns = {synset.number: synset for synset in synsets if synset.kind.startswith("noun")}
        self.below = defaultdict[str, list[Synset]](list)  # a node, perhaps of the other half: all below, and itself
        for number, noun in self.nouns.items():
            noun.path = [number]
            while (above := hypernyms.get(noun.path[0])) and above not in noun.path:  # a circle too has an end
                noun.path.insert(0, above)
            for node in noun.path:
                self.below[node].append(noun)


def shared(one: Synset, other: Synset) -> int:
    """How many nodes of the tree are above both, or one of them: there is one way to each."""
    return len({*one.path} & {*other.path})


def definitions(half: Half, draw: Random) -> list[Row]:
    """The words of a synset, and their definition: a dictionary, to search in both directions."""
    return without_repeats({"words": ", ".join(one.words), "definition": one.definition} for one in half.synsets)


def examples(half: Half, draw: Random) -> list[Row]:
    """A sentence, and the meaning that one of its words has there."""
    return without_repeats({"example": one.examples[0], "definition": one.text} for one in half.synsets if one.examples)


def similarity(half: Half, draw: Random) -> Iterator[Row]:
    """Two nouns and how near they are in the tree (Wu and Palmer 1994): 2 * depth of the lowest node above both / the
    sum of their depths. One for each noun, from all levels, so that scores spread from 0 to 1."""
    for one in half.nouns.values():
        other = draw.choice(half.below[draw.choice(one.path)])
        if one is not other:
            score = 2 * shared(one, other) / (len(one.path) + len(other.path))
            yield {"text1": one.text, "text2": other.text, "score": round(score, 4)}


def inference(half: Half, draw: Random) -> list[Row]:
    """What is a dog is an animal: entailment. What is an animal may be a dog: neutral. What is a dog is no vehicle:
    contradiction. Texts of all three are drawn alike, so that one text alone does not tell."""
    rows = defaultdict[str, list[Row]](list)
    for one in half.nouns.values():
        other = draw.choice(half.below[draw.choice(one.path[VAGUE - 1 :] or one.path)])
        above = [node for node in one.path[VAGUE:-1] if node in half.nouns]
        apart = [node for node in other.path[VAGUE:] if node in half.nouns and node not in one.path]
        if above and apart and one.number not in other.path:
            general, foreign = (half.nouns[draw.choice(nodes)].text for nodes in (above, apart))
            label = draw.choice(["entailment", "neutral"])
            pair = (one.text, general) if label == "entailment" else (general, one.text)
            for texts, relation in ((pair, label), (draw.sample([one.text, foreign], 2), "contradiction")):
                rows[relation].append({"premise": texts[0], "hypothesis": texts[1], "label": relation})
    least = min(map(len, rows.values()), default=0)
    return [row for of_label in rows.values() for row in of_label[:least]]  # as many of each


def triplets(half: Half, draw: Random) -> Iterator[Row]:
    """A noun, one that is near in the tree, and one that is a little further away."""
    for one in half.nouns.values():
        level = draw.randrange(min(2, len(one.path) - 1), len(one.path))
        near, far = (draw.choice(half.below[one.path[place]]) for place in (level, max(0, level - 2)))
        if near is not one and shared(one, far) < shared(one, near):
            yield {"anchor": one.text, "positive": near.text, "negative": far.text}


def classes(half: Half, draw: Random) -> list[Row]:
    """What a noun or verb means, and which of 41 fields it belongs to: noun.animal, verb.motion .."""
    return [{"text": one.text, "label": one.kind} for one in half.synsets if one.kind.startswith(("noun", "verb"))]


def class_triplets(half: Half, draw: Random) -> Iterator[Row]:
    """Two of a field and one of another, to measure what was learned of classes."""
    rows, of_label = classes(half, draw), defaultdict[str, list[Row]](list)
    for row in rows:
        of_label[row["label"]].append(row)
    for one in rows:
        near, far = draw.choice(of_label[one["label"]]), draw.choice(rows)
        if near != one and far["label"] != one["label"]:
            yield {"anchor": one["text"], "positive": near["text"], "negative": far["text"]}


ALL = (definitions, examples, similarity, inference, triplets, classes, class_triplets)
PARTS = {part.__name__: part for part in ALL}


def make(folder: Path, given: Path | None) -> None:
    """Of the dict folder of WordNet's own archive, `given`, else of the package wordnet-base."""
    with package_files(given, "usr/share/wordnet", "wordnet-base") as files:
        texts = {part: (files / f"data.{part}").read_text("utf-8") for part in ("noun", "verb", "adj", "adv")}
    lines = [(line, part) for part, text in texts.items() for line in text.splitlines()]
    found = [parse(line, part) for line, part in lines if not line.startswith("  ")]  # which is the licence
    hypernyms = {synset.number: synset.hypernym for synset in found if synset.kind.startswith("noun")}
    train, held_out = list[Synset](), list[Synset]()
    for text, synset in {synset.text.lower(): synset for synset in found}.items():  # no text twice
        (train if hash_of(text) % 10 else held_out).append(synset)
    halves = [Half(synsets, hypernyms) for synsets in (train, held_out)]
    for name, part in PARTS.items():
        write_split(folder / name, *(in_hash_order(part(half, Random(0))) for half in halves))
