"""Has training collapsed?"""

from minist.diagnostics import ROWS, describe_batch, effective_rank  # noqa: F401

ALIKE = -0.04  # uniformity above: the mean cosine of different texts is about 0.99
APART = -0.2  # uniformity below: about 0.95
LOOKS = 3  # some encoders start alike (RoBERTa's tokens share a direction) and part in the first steps


class CollapseWatch:
    """Says that training has collapsed: all texts have nearly the same embedding, and pairs are no longer told apart.

    It is said once, after `LOOKS` such batches, and again only if the texts had parted in between.
    """

    def __init__(self) -> None:
        self.looks = 0

    def see(self, figures: dict[str, float]) -> str:
        """A warning where the figures of a batch show that it is time for one, else an empty line."""
        spread = figures.get("uniformity", (ALIKE + APART) / 2)  # unknown: neither alike nor apart
        if spread < APART:
            self.looks = 0
        if spread <= ALIKE or figures.get("accuracy", 0.0) > 0.5:
            return ""
        self.looks += 1
        if self.looks != LOOKS:
            return ""
        return (
            f"warning: all embeddings are alike (uniformity {spread:.3f}, 0 is the worst): "
            "training has collapsed; try a lower learning rate or more warmup"
        )
