"""Pipelines: passes in an order in which each is given the facts that it needs."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from fxsnn.errors import Finding, ModelError, OptionError, PipelineError, UnknownName
from fxsnn.graph import Graph, capture
from fxsnn.layers import ImageForm, in_words
from fxsnn.options import is_one_of
from fxsnn.rewriting.stages import Pass, Step, require_example

_log = logging.getLogger(__name__)


def _frames_of(images: Tensor, form: ImageForm) -> Tensor:
    """Images for a graph; where that takes frames, and these are still, frames that are all alike.

    Of a network of images of any dimension they are taken for still ones, as a pipeline is given them.
    """
    if form.frames is None or not replace(form, frames=None).takes(images.dim()):
        return images
    return images.unsqueeze(1).expand(-1, form.frames or 1, *images.shape[1:])


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Passes in order.

    Attributes:
        passes: the passes, first to last.
        example: images for the verification of passes that promise to keep the function. `None`: random images of a
            size that the network accepts.
        known: facts that hold of the graphs it is given.

    Raises:
        OptionError: `passes` are no passes, or `known` no facts.
        PipelineError: a pass needs a fact that no earlier one gives, or two passes have one name.
    """

    passes: tuple[Pass, ...]
    example: Tensor | None = None
    known: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.passes, tuple | list):
            raise OptionError(f"passes is {in_words(self.passes)}; expected a tuple of passes")
        if other := [in_words(one) for one in self.passes if not isinstance(one, Pass)]:
            raise OptionError(f"passes has {', '.join(other)} in it; expected passes, such as FoldBatchNorm()")
        if not isinstance(self.known, frozenset | set):
            raise OptionError(f"known is {in_words(self.known)}; expected a frozenset of facts")
        known = set(self.known)
        seen: set[str] = set()
        for one in self.passes:
            if missing := one.needs - known:
                raise PipelineError(
                    f"{one.name} needs {', '.join(sorted(missing))}; no earlier pass of this pipeline gives it. "
                    f"The order is: {', '.join(p.name for p in self.passes)}"
                )
            if one.name in seen:
                raise PipelineError(f"two passes are named {one.name}; give one of the classes another name")
            seen.add(one.name)
            known |= one.gives

    def steps(self, model: nn.Module | Graph) -> Iterator[Step]:
        """Run pass by pass; stop where you like.

        Args:
            model: a network, or a graph to go on from.

        Raises:
            DataError: `example` are no images for the network.
            FxsnnError: what the passes raise.
        """
        for step in self._steps(model, None):
            step.after.compiled()
            yield step

    def _steps(self, model: nn.Module | Graph, kept: dict[int, tuple[Tensor, Tensor]] | None) -> Iterator[Step]:
        """See `steps`; with `kept`, nobody sees the graphs between.

        Then a tensor is copied once for all passes, and what a pass left as it was is what the next one edits.
        """
        graph = model if isinstance(model, Graph) else capture(model, self.example)
        if any(tensor.is_meta for tensor in graph.module.state_dict().values()):
            remedy = "Give it values: model.to_empty(device='cpu'), then model.load_state_dict(...)"
            raise ModelError([Finding("model", "its weights are on the meta device, which holds no values", remedy)])
        example = self.example if self.example is not None else graph.example_input()
        if example is None:
            _log.warning("no image size was found that the network accepts: rewrites are not verified; pass example=")
        else:
            require_example(example := _frames_of(example, graph.image_form), graph)
        copy, moving = None, graph.image_form.frames is not None
        for one in self.passes:
            if example is not None and not moving and graph.image_form.frames is not None:
                example, moving = _frames_of(example, graph.image_form), True
            step = one._step(graph, example, kept, copy)
            if _log.isEnabledFor(logging.INFO):  # a summary hashes every tensor
                _log.info("%s", step.summary())
            yield step
            if step.idle and kept is not None:
                copy = step.after
            else:
                graph, copy = step.after, None

    def run(self, model: nn.Module | Graph) -> Graph:
        """The graph after the last pass."""
        graph = model if isinstance(model, Graph) else capture(model, self.example)
        for step in self._steps(graph, {}):
            graph = step.after
        return graph.compiled()

    def before(self, name: str, *new: Pass) -> Pipeline:
        """The same with passes put in front of the one named `name`."""
        place = self._place(name)
        return self._with([*self.passes[:place], *new, *self.passes[place:]])

    def after(self, name: str, *new: Pass) -> Pipeline:
        """The same with passes put behind the one named `name`."""
        place = self._place(name) + 1
        return self._with([*self.passes[:place], *new, *self.passes[place:]])

    def without(self, name: str) -> Pipeline:
        """The same without the pass named `name`."""
        place = self._place(name)
        return self._with([*self.passes[:place], *self.passes[place + 1 :]])

    def until(self, name: str) -> Pipeline:
        """The passes up to and with the one named `name`."""
        return self._with(self.passes[: self._place(name) + 1])

    def split(self, name: str) -> tuple[Pipeline, Pipeline]:
        """A breakpoint: what runs up to and with the pass named `name`, and what goes on from there.

        first, rest = fxsnn.pipeline(target="hw_v1.0", bits=2).split("calibrate-thresholds")
        graph = first.run(model)
        ...                                 # look at it, change it
        graph = rest.run(graph)
        """
        place = self._place(name) + 1
        facts_so_far = self.known.union(*(one.gives for one in self.passes[:place]))
        return self.until(name), Pipeline(self.passes[place:], self.example, facts_so_far)

    def _place(self, name: str) -> int:
        names = [one.name for one in self.passes]
        if not is_one_of(name, names):
            raise UnknownName(f"no pass named {name!r}; this pipeline has {', '.join(names)}")
        return names.index(name)

    def _with(self, passes: Iterable[Pass]) -> Pipeline:
        return Pipeline(tuple(passes), self.example, self.known)

    def __str__(self) -> str:
        return "\n".join(one.describe() for one in self.passes)

    def __repr__(self) -> str:
        return f"Pipeline of {len(self.passes)} passes\n{self}"
