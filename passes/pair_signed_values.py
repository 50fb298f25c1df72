"""PairSignedValues: a value that may be negative, and that is read as it is, is two layers of neurons."""

from __future__ import annotations

import copy
import operator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import Node

from fxsnn.graph import Activation, Graph, Leaky, Norm, Weighted, in_front_of_layers
from fxsnn.layers import (
    Add,
    Affine,
    Channels,
    Concat,
    Tap,
    Wiring,
    affine_of_norm,
    layer_like,
    pair,
    sides_of,
    with_affine_behind,
    with_affine_in_front,
)
from fxsnn.rewriting import NotRewritten, Pass, channels_of, facts, put_sum, sum_of


class PairSignedValues(Pass):
    """`z = ReLU(z) - ReLU(-z)`: what reads a convolution or a sum without a ReLU reads two layers of activations.

    That is a linear bottleneck that is added to another one, a sum that several read (residual networks with their
    ReLU in front) or that stands in front of the tail and reads layers that only together can be decoded, `LeakyReLU`
    and `PReLU` (`ReLU(z) - a ReLU(-z)`). A layer with weights reads both behind one another, with weights of both
    signs; a sum reads both, with factors of both signs. Average pooling, scales, concatenation and other wiring between
    are done to both.

    Where linear layers in a row are one layer, `MergeLinear` has come first: pairs take twice the neurons. What reads a
    value in another way leaves everything as it is, for `CheckConvRelu` to speak about.

    Examples:
        >>> import torch, fxsnn
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LeakyReLU(0.1), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Flatten())
        >>> print(PairSignedValues()(fxsnn.capture(net.append(nn.Linear(8, 2)).eval())).after.text(hashes=False))
        name        calls                                             reads                   tensors
        ----------  ------------------------------------------------  ----------------------  -------
        input       placeholder
        0           Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))   input
        0_positive  ReLU()                                            0
        0_negated   Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))   input
        0_negative  ReLU()                                            0_negated
        2_pair      Concat()                                          0_positive, 0_negative
        2           Conv2d(4, 2, kernel_size=(3, 3), stride=(1, 1))   2_pair
        3           ReLU()                                            2
        4           Flatten(start_dim=1, end_dim=-1)                  3
        5           Linear(in_features=8, out_features=2, bias=True)  4
    """

    needs = facts("canonical")
    preserves = True

    def rewrite(self, graph: Graph) -> None:
        """Edit `graph` in place."""
        if not any(_needs_pair(graph, node) for node in _spiking(graph) if graph.is_a(node, *Weighted, *Norm, Add)):
            return
        other = graph.copy()  # all of it can be done, or nothing
        with suppress(NotRewritten):
            _Pairing(other).run()
            graph.module = other.module


@dataclass(frozen=True)
class _Signed:
    """A value as `factor * positive + other factor * negative + shift`, channel by channel.

    Attributes:
        parts: the two that are not negative.
        factors: of each, [C] or [1].
        shift: [C] or [1].
        direct: they are the two sides of one value.
        flattened: rows of it are read.
        shifts: there is a shift; without values, on the meta device, that cannot be seen.
    """

    parts: tuple[Node, Node]
    factors: tuple[Tensor, Tensor]
    shift: Tensor
    direct: bool = True
    flattened: bool = False
    shifts: bool = False

    def behind(self, affine: Affine) -> _Signed:
        """What an affine makes of it."""
        (one, two), shift = self.factors, self.shift * affine.scale + affine.shift
        factors = one * affine.scale, two * affine.scale
        return replace(self, factors=factors, shift=shift, direct=False, shifts=self.shifts or affine.shifts)


def _spiking(graph: Graph) -> set[Node]:
    """The body, and sums behind it that read more of it than its end, which alone is decoded."""
    body, end, inner = set(graph.body()), graph.end(), in_front_of_layers(graph.module)
    early = {node for node in body if node is not end and node.op == "call_module"}
    late = [node for node in graph.nodes(Add) if node in inner - body and early.intersection(graph.inputs(node))]
    return body.union(late, *(graph.ancestors(node) for node in late))


def _needs_pair(graph: Graph, node: Node) -> bool:
    """Whether what a layer or sum gives is read as it is, negative or not."""
    behind = graph.sole_user(node)
    if graph.is_a(node, *Weighted) and graph.is_a(behind, *Norm):
        return False  # the norm is asked
    if graph.is_a(node, *Norm):
        layer = node.all_input_nodes[0]
        if not graph.is_a(layer, *Weighted) or graph.sole_user(layer) is not node:
            return False
    return not graph.is_a(behind, *Activation) and not (graph.is_a(behind, Add) and not graph.is_a(node, Add))


class _Pairing:
    """Goes through a graph once, in order of execution."""

    def __init__(self, graph: Graph) -> None:
        self._graph, self._device = graph, graph.device
        self._body = _spiking(graph)
        self._signed: dict[Node, _Signed] = {}
        self._gone: set[Node] = set()

    def run(self) -> None:
        """Edit the graph.

        Raises:
            NotRewritten: something reads a value in a way that two cannot stand for.
        """
        for node in self._graph.nodes():
            if any(one in self._signed for one in node.all_input_nodes):
                if node in self._body:
                    self._read(node)
                else:
                    self._leave(node)
            makes = node in self._body and self._graph.is_a(node, *Weighted, *Norm, Add) and node not in self._gone
            if makes and _needs_pair(self._graph, node):
                self._pair(node)

    # Making pairs ----------------------------------------------------------------------------------------------------

    def _pair(self, node: Node) -> None:
        graph = self._graph
        if graph.is_a(node, *Norm):
            node = self._with_norm(node)
        negated = self._negated_sum(node) if graph.is_a(node, Add) else self._negated_layer(node)
        readers = list(node.users)
        positive = graph.insert_after(node, f"{graph.name(node)}_positive", nn.ReLU().eval())
        negative = graph.insert_after(negated, f"{graph.name(node)}_negative", nn.ReLU().eval())
        leaky = next((one for one in readers if graph.is_a(one, *Leaky)), None)
        one = torch.ones(1, dtype=torch.float64, device=self._device)
        signed = _Signed((positive, negative), (one, -one), one * 0)
        if leaky is None:
            self._stand_for(positive, signed, [one for one in readers if one in positive.users])
            return
        if len(readers) > 1:
            raise NotRewritten("a leaky activation is not alone", "Let it alone read the layer")
        layer: Any = graph[leaky]
        slope = one * layer.negative_slope if isinstance(layer, nn.LeakyReLU) else layer.weight.detach().double()
        self._replace(leaky, replace(signed, factors=(one, -slope), direct=False))

    def _with_norm(self, node: Node) -> Node:
        """The layer in front of a batch norm, with that folded in."""
        graph, (source,) = self._graph, node.all_input_nodes
        layer: Any = graph[source]
        norm: Any = graph[node]
        graph.replace(source, with_affine_behind(layer, affine_of_norm(norm)))
        graph.bypass(node)
        return source

    def _negated_layer(self, node: Node) -> Node:
        """Another layer, that gives the negative of what a layer gives."""
        graph, one = self._graph, torch.ones(1, dtype=torch.float64, device=self._device)
        layer: Any = graph[node]
        other = with_affine_behind(layer, Affine(-one, one * 0, shifts=False)).eval()
        return graph.call_after(node, f"{graph.name(node)}_negated", other, node.all_input_nodes)

    def _negated_sum(self, node: Node) -> Node:
        graph = self._graph
        add: Any = graph[node]
        reads: list[Node] = []
        for read in node.all_input_nodes:
            norm = graph.is_a(read, *Norm)
            layer = read.all_input_nodes[0] if norm else read
            if not graph.is_a(layer, *Weighted):
                reads.append(read)
                continue
            copied = graph.call_after(
                read, f"{graph.name(layer)}_again", copy.copy(graph[layer]), layer.all_input_nodes
            )
            if norm:
                copied = graph.call_after(copied, f"{graph.name(read)}_again", copy.copy(graph[read]), [copied])
            reads.append(copied)
        return graph.call_after(node, f"{graph.name(node)}_negated", Add(-add.factor, -add.shift).eval(), reads)

    def _leave(self, node: Node) -> None:
        """Let a call of the tail read one value again: what it is of its two sides is the tail's to compute."""
        graph = self._graph
        for read in [one for one in node.all_input_nodes if one in self._signed]:
            signed = self._signed[read]
            count = self._channels(signed.parts[0])
            if signed.shifts or signed.flattened or any(one.is_meta for one in signed.factors):
                raise NotRewritten("the tail reads it", "Put a ReLU behind it")
            both = graph.call_before(node, f"{graph.name(read)}_pair", Concat().eval(), signed.parts)
            sides = []
            for side, factor in enumerate(signed.factors):
                index = torch.arange(count, device=self._device) + side * count
                one = graph.call_before(node, f"{graph.name(read)}_side", Channels(index).eval(), [both])
                sides.append(self._times(node, one, factor))
            with graph.module.graph.inserting_before(node):
                total = graph.module.graph.call_function(operator.add, tuple(sides))
            node.replace_input_with(read, total)

    def _times(self, node: Node, value: Node, factor: Tensor) -> Node:
        """A value times a factor of each channel, computed in front of a node of the tail."""
        graph = self._graph
        given: Any = float(factor[0])
        if len(factor) == 1 and given == 1:
            return value
        with graph.module.graph.inserting_before(node):
            if len(factor) > 1:
                rank = 2 if graph.reads_features(value) else 4
                name = graph.unused_name(f"{value.name}_factor")
                graph.module.register_buffer(name, factor.view(-1, *[1] * (rank - 2)).to(graph.dtype))
                given = graph.module.graph.get_attr(name)
            return graph.module.graph.call_function(operator.mul, (value, given))

    # Reading pairs ---------------------------------------------------------------------------------------------------

    def _read(self, node: Node) -> None:
        module = self._graph[node] if node.op == "call_module" else None
        first = self._signed.get(node.all_input_nodes[0])
        if isinstance(module, Add):
            self._read_by_sum(node, module)
        elif isinstance(module, Concat):
            self._read_by_concatenation(node)
        elif first is None:
            raise NotRewritten("it reads a pair otherwise", "Put a ReLU behind it")
        elif isinstance(module, Weighted):
            self._read_by_layer(node, module, first)
        elif isinstance(module, Activation):
            self._read_by_activation(node, module, first)
        elif isinstance(module, (Affine, *Norm)):
            affine = module if isinstance(module, Affine) else affine_of_norm(module)
            self._replace(node, first.behind(affine))
        elif isinstance(module, nn.Flatten):
            self._replace(node, replace(first, flattened=True))
        elif isinstance(module, nn.AvgPool2d | Wiring):
            self._read_by_both(node, module, first)
        else:
            raise NotRewritten("it reads a pair otherwise", "Put a ReLU behind it")

    def _stand_for(self, node: Node, signed: _Signed, readers: list[Node]) -> None:
        """Let readers of a node know that they read a pair: a call stands for it, which nothing reads at last."""
        stand_in = self._graph.insert_after(node, f"{self._graph.name(node)}_value", nn.Identity(), readers)
        self._signed[stand_in] = signed

    def _replace(self, node: Node, signed: _Signed) -> None:
        """Let the readers of a node read a pair instead."""
        self._stand_for(node, signed, list(node.users))
        self._gone.add(node)

    def _read_by_both(self, node: Node, module: nn.Module, signed: _Signed) -> None:
        """A pooling, or what only moves numbers, is done to both."""
        (one, two), shift = signed.factors, signed.shift
        pools = isinstance(module, nn.AvgPool2d)
        if isinstance(module, nn.AvgPool2d) and signed.shifts and any(pair(module.padding)):
            raise NotRewritten("a padded pooling reads a shift", "Put a ReLU behind it")
        if isinstance(module, Wiring):
            if signed.shifts and (isinstance(module, Tap) or getattr(module, "pads", False)):
                raise NotRewritten("what pads reads a shift", "Put a ReLU behind it")
            one, two, shift = (part if len(part) == 1 else module.of_channels([part]) for part in (one, two, shift))
        readers = list(node.users)
        other = self._graph.call_after(node, f"{self._graph.name(node)}_negative", copy.copy(module), [signed.parts[1]])
        node.args = (signed.parts[0],)
        moved = replace(
            signed, parts=(node, other), factors=(one, two), shift=shift, direct=signed.direct and not pools
        )
        self._stand_for(node, moved, readers)

    def _read_by_sum(self, node: Node, add: Add) -> None:
        terms: list[tuple[Node, Tensor]] = []
        shift = add.shift
        for read, factor in zip(node.all_input_nodes, add.factor, strict=True):
            signed = self._signed.get(read)
            if signed is None:
                terms.append((read, factor))
                continue
            terms += [(part, factor * own) for part, own in zip(signed.parts, signed.factors, strict=True)]
            shift = shift + factor * signed.shift
        put_sum(self._graph, node, terms, shift)

    def _read_by_activation(self, node: Node, module: nn.Module, signed: _Signed) -> None:
        if signed.direct and type(module) is nn.ReLU:
            node.replace_all_uses_with(signed.parts[0])
            return
        reads, add = sum_of(zip(signed.parts, signed.factors, strict=True), signed.shift)
        total = self._graph.call_before(node, f"{self._graph.name(node)}_sum", add, reads)
        node.args = (total,)

    def _read_by_layer(self, node: Node, layer: Any, signed: _Signed) -> None:
        graph = self._graph
        inputs = layer.weight.shape[1] * getattr(layer, "groups", 1)
        zero = torch.zeros(1, dtype=torch.float64, device=self._device)
        if signed.shifts and isinstance(layer, nn.Conv2d) and any(sides_of(layer)):
            raise NotRewritten("a padded convolution reads a shift", "Put a ReLU behind it")
        both = [with_affine_in_front(layer, Affine(factor, zero, shifts=False)).weight for factor in signed.factors]
        biased: Any = with_affine_in_front(layer, Affine(zero + 1, signed.shift)) if signed.shifts else layer
        new: Any = layer_like(biased, nn.Conv2d, nn.Linear)
        new.weight = nn.Parameter(torch.cat(both, 1).detach(), requires_grad=False)
        if isinstance(new, nn.Conv2d):
            new.in_channels = 2 * inputs
        else:
            new.in_features = 2 * inputs
        both_read = graph.call_before(node, f"{graph.name(node)}_pair", Concat().eval(), list(signed.parts))
        if isinstance(new, nn.Conv2d) and new.groups > 1:
            order = torch.arange(2 * inputs, device=self._device).view(2, new.groups, -1).transpose(0, 1).reshape(-1)
            both_read = graph.call_after(both_read, f"{graph.name(node)}_order", Channels(order).eval(), [both_read])
        if signed.flattened:
            both_read = graph.call_after(both_read, f"{graph.name(node)}_flatten", nn.Flatten().eval(), [both_read])
        node.args = (both_read,)
        graph.replace(node, new.eval())

    def _read_by_concatenation(self, node: Node) -> None:
        graph = self._graph
        parts: list[tuple[Node, Node]] = []
        factors: list[list[Tensor]] = [[], []]
        shifts: list[Tensor] = []
        shifted = any(self._signed[one].shifts for one in graph.inputs(node) if one in self._signed)
        for read in graph.inputs(node):
            channels = self._channels(read)
            one = torch.ones(channels, dtype=torch.float64, device=self._device)
            signed = self._signed.get(read)
            if signed is None:  # it is no pair: the second time it counts nothing
                parts.append((read, read))
                given, shift = (one, one * 0), one * 0
            else:
                parts.append(signed.parts)
                given, shift = (signed.factors[0] * one, signed.factors[1] * one), signed.shift * one
            for side, factor in zip(factors, given, strict=True):
                side.append(factor)
            shifts.append(shift)
        readers = list(node.users)
        other = graph.call_after(node, f"{graph.name(node)}_negative", Concat().eval(), [two for _, two in parts])
        node.args = tuple(first for first, _ in parts)
        one, two = map(torch.cat, factors)
        joined = _Signed((node, other), (one, two), torch.cat(shifts), direct=False, shifts=shifted)
        self._stand_for(node, joined, readers)

    def _channels(self, node: Node) -> int:
        found = channels_of(self._graph, node)
        if found is None:
            raise NotRewritten("its channels are not known", "Give example=")
        return found
