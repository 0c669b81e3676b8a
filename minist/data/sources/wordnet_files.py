"""WordNet's files (Miller 1995, https://wordnet.princeton.edu/documentation/wndb5wn): English words in sets of
synonyms, called synsets, each with its definition; and the nouns in a tree, from "entity" down to "beagle".

A line of data.noun is a synset (cut here):
    02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 023 @ 02083346 n 0000 .. | a member of the genus Canis ..
its number, the file its author wrote it into, the part of speech, how many words (in hexadecimal) and each word with a
number, how many pointers and each pointer: its kind, the other synset's number and part of speech, which of the words
are meant. After the bar stand the definition and examples: an account; "he gave a good account". Pointers @ and @i lead
to the hypernym: what a dog is a kind of, or what Einstein is an instance of."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
AUTHORS_FILES = (  # noqa: SIM905  lexnames(5WN): their numbers are the places here
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social "
    "verb.stative verb.weather adj.ppl"
).split()


@dataclass(frozen=True)
class Synset:
    """Words that mean the same."""

    number: str
    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]
    kind: str  # the file its author wrote it into, noun.animal
    hypernym: str  # its number; "" at a root

    @property
    def text(self) -> str:
        return f"{self.words[0]}: {self.definition}"


def read_synsets(file: Path) -> Iterator[Synset]:
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("  "):  # which is the licence
            yield parse(line)


def parse(line: str) -> Synset:
    data, _, gloss = line.partition("|")
    number, kind, _, count, *rest = data.split()
    size = 2 * int(count, 16)
    words = [re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in rest[:size:2]]  # a(p): stands after
    pointers = zip(rest[size + 1 :: 4], rest[size + 2 :: 4], strict=False)
    hypernyms = [other for symbol, other in list(pointers)[: int(rest[size])] if symbol in ("@", "@i")]
    definition, *_ = gloss.strip().split('; "')
    examples = re.findall(r'"([^"]+)"', gloss.strip()[len(definition) :])
    kind = AUTHORS_FILES[int(kind)]
    return Synset(number, tuple(words), definition, tuple(examples), kind, (hypernyms or [""])[0])


def tree_paths(nouns: list[Synset]) -> dict[str, tuple[str, ...]]:
    """For each noun's number those from the root down to it. A noun with several hypernyms is below its first."""
    hypernyms, paths = {noun.number: noun.hypernym for noun in nouns}, dict[str, tuple[str, ...]]()
    for number in hypernyms:
        path = [number]
        while hypernyms.get(path[0]):
            path.insert(0, hypernyms[path[0]])
        paths[number] = tuple(path)
    return paths
