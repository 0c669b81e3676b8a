"""Training sets of WordNet's synsets, see wordnet_files.py. A tenth of the synsets is held out, and a row holds synsets
of one half only: nothing of what is measured was trained on. Most texts are "dog: a member of the genus
Canis ..", a word and what it means here."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

from minist.data.sources.debian import package_files
from minist.data.sources.split import Row, hash_of, without_repeats, write_halves
from minist.data.sources.wordnet_files import FILES, Synset, read_synsets, tree_paths
from minist.progress import progress_bar

FIELDS = ("noun", "verb")  # adjectives have hardly any
VAGUE = 4  # levels from the root whose nouns hold for nearly everything: entity, abstraction, ..


class Half:
    """The synsets that training sees, or those that are held out, and the tree of their nouns."""

    def __init__(self, synsets: list[Synset], paths: dict[str, tuple[str, ...]]) -> None:
        self.synsets = synsets
        self.nouns = {synset.number: synset for synset in synsets if synset.kind.startswith("noun")}
        self.paths = {number: paths[number] for number in self.nouns}
        self.below = defaultdict[str, list[str]](list)  # a node, perhaps of the other half: all below, and itself
        for number, path in self.paths.items():
            for node in path:
                self.below[node].append(number)

    def shared(self, one: str, other: str) -> int:
        """Nodes that two paths from the root have in common."""
        pairs = list(zip(self.paths[one], self.paths[other], strict=False))
        return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))


def definitions(half: Half, draw: Random) -> list[Row]:
    """The words of a synset, and their definition: a dictionary, to search in both directions."""
    rows = [{"words": ", ".join(synset.words), "definition": synset.definition} for synset in half.synsets]
    return without_repeats(rows)


def examples(half: Half, draw: Random) -> list[Row]:
    """A sentence, and the meaning that one of its words has there."""
    found = [(synset.examples[0], synset.text) for synset in half.synsets if synset.examples]
    return without_repeats({"example": example, "definition": text} for example, text in found)


def similarity(half: Half, draw: Random) -> Iterator[Row]:
    """Two nouns and how near they are in the tree (Wu and Palmer 1994): 2 * depth of the lowest node above both / the
    sum of their depths. One for each noun, from all levels, so that scores spread from 0 to 1."""
    for one, path in half.paths.items():
        other = draw.choice(half.below[draw.choice(path)])
        if one != other:
            score = 2 * half.shared(one, other) / (len(path) + len(half.paths[other]))
            yield {"text1": half.nouns[one].text, "text2": half.nouns[other].text, "score": round(score, 4)}


def inference(half: Half, draw: Random) -> list[Row]:
    """What is a dog is an animal: entailment. What is an animal may be a dog: neutral. What is a dog is no vehicle:
    contradiction. Texts of all three are drawn alike, so that one text alone does not tell."""
    rows = defaultdict[str, list[Row]](list)
    for one, path in half.paths.items():
        above = [node for node in path[VAGUE:-1] if node in half.nouns]
        other = draw.choice(half.below[draw.choice(path[VAGUE - 1 :] or path)])
        apart = [node for node in half.paths[other][VAGUE:] if node in half.nouns and node not in path]
        if above and apart and one not in half.paths[other]:
            general, foreign = (half.nouns[draw.choice(nodes)].text for nodes in (above, apart))
            label = draw.choice(["entailment", "neutral"])
            own, pair = half.nouns[one].text, draw.sample([half.nouns[one].text, foreign], 2)
            premise, hypothesis = (own, general) if label == "entailment" else (general, own)
            rows[label].append({"premise": premise, "hypothesis": hypothesis, "label": label})
            rows["contradiction"].append({"premise": pair[0], "hypothesis": pair[1], "label": "contradiction"})
    least = min(map(len, rows.values()), default=0)
    return [row for of_label in rows.values() for row in of_label[:least]]  # as many of each


def triplets(half: Half, draw: Random) -> Iterator[Row]:
    """A noun, one that is near in the tree, and one that is a little further away."""
    for one, path in half.paths.items():
        level = draw.randrange(min(2, len(path) - 1), len(path))
        near, far = (draw.choice(half.below[node]) for node in (path[level], path[max(0, level - 2)]))
        if near != one and half.shared(one, far) < half.shared(one, near):
            yield triplet(half.nouns[one], half.nouns[near], half.nouns[far])


def triplet(anchor: Synset, positive: Synset, negative: Synset) -> Row:
    return {"anchor": anchor.text, "positive": positive.text, "negative": negative.text}


def classes(half: Half, draw: Random) -> list[Row]:
    """What a noun or verb means, and which of 40 fields it belongs to: noun.animal, verb.motion .."""
    found = [synset for synset in half.synsets if synset.kind.startswith(FIELDS)]
    return [{"text": synset.text, "label": synset.kind} for synset in found]


def class_triplets(half: Half, draw: Random) -> Iterator[Row]:
    """Two of a field and one of another, to measure what was learned of classes."""
    of_kind = defaultdict[str, list[Synset]](list)
    found = [synset for synset in half.synsets if synset.kind.startswith(FIELDS)]
    for synset in found:
        of_kind[synset.kind].append(synset)
    for one in found:
        near, far = draw.choice(of_kind[one.kind]), draw.choice(found)
        if near != one and far.kind != one.kind:
            yield triplet(one, near, far)


ALL = (definitions, examples, similarity, inference, triplets, classes, class_triplets)
PARTS = {part.__name__: part for part in ALL}


def make(folder: Path, given: Path | None) -> None:
    """Of the dict folder of WordNet's own archive, `given`, else of the package wordnet-base."""
    if given:
        return write(folder, given)
    with package_files(["wordnet-base"], [f"usr/share/wordnet/{name}" for name in FILES]) as root:
        write(folder, root / "usr/share/wordnet")


def write(folder: Path, files: Path) -> None:
    """A folder for each part."""
    found = [synset for name in FILES for synset in read_synsets(files / name)]
    paths = tree_paths([synset for synset in found if synset.kind.startswith("noun")])
    synsets = {synset.text.lower(): synset for synset in found}  # no text twice
    held = {text for text in synsets if hash_of(text) % 10 == 0}
    train = Half([synset for text, synset in synsets.items() if text not in held], paths)
    held_out = Half([synset for text, synset in synsets.items() if text in held], paths)
    with progress_bar(len(PARTS), "sets", "reading WordNet") as bar:
        for name, part in PARTS.items():
            write_halves(folder / name, part(train, Random(0)), part(held_out, Random(0)))
            bar.update(1)
