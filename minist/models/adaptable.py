"""A model to whose encoders LoRA can be added, see lora.py: what is trained then, and how it becomes plain again."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from minist.models.stack import Stack
from minist.modules import lora


class Adaptable(nn.Module):
    """A model of modules in a `stack`. With an adapter, neither an encoder nor a MaskedLMHead is trained or saved."""

    stack: Stack

    def _readers(self) -> list[Any]:
        return list(dict.fromkeys(path[0] for path in self.stack.paths.values() if path[0].num_layers))

    @property
    def is_adapted(self) -> bool:
        return any(encoder.adapter for encoder in self._readers())

    def add_adapter(
        self, rank: int, alpha: float, *, dropout: float = 0.0, rslora: bool = False, targets: Sequence[str] = ()
    ) -> None:
        """Train a LoRA of the layers whose names in a checkpoint end in one of `targets`, such as "query" (none: of all
        linear layers of the encoder). ValueError for an encoder that is in no folder, to which the adapter could not
        be added again, or that has one."""
        for encoder in self._readers():
            base = encoder.folder if not encoder.adapter else None
            if base is None:
                raise ValueError("a new adapter needs a model that was opened, or saved and opened, and has none yet")
            lora.put_on(encoder, base, lora.new_changes(encoder, rank, alpha, dropout, rslora, targets))
        self.freeze_adapted()

    def freeze_adapted(self) -> None:
        for path in self.stack.paths.values():
            for part in path if path[0].adapter else ():
                for name, parameter in part.named_parameters() if part.gives in ("layers", "words") else ():
                    parameter.requires_grad_(".lora." in name)

    def merge_adapter(self) -> None:
        """Add to the encoder's weights what the adapter has learned, W + scale B A: a plain model from here on."""
        if self.is_adapted:
            for encoder in self._readers():
                lora.merge(encoder)
            self.requires_grad_(True)
