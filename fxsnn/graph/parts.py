"""Parts of a program as programs of their own, with the same modules and tensors."""

from __future__ import annotations

from torch import fx
from torch.fx.node import Node

from fxsnn.graph.body import ancestors
from fxsnn.graph.in_place import writes


def part_behind(module: fx.GraphModule, node: Node, images: Node) -> fx.GraphModule:
    """See `Graph.behind`; `images`: the node of the images."""
    part = fx.Graph()
    copies = {node: part.placeholder("value"), images: part.placeholder("images")}
    before, nodes = ancestors(node), module.graph.nodes
    wanted = set[Node]()
    waiting = [one for one in nodes if one.op == "output" or (one not in before and writes(one, module))]
    while waiting:
        one = waiting.pop()
        if one not in wanted and one not in copies:
            wanted.add(one)
            waiting.extend(one.all_input_nodes)
    for one in nodes:
        if one in wanted:
            copies[one] = part.node_copy(one, lambda source: copies[source])
    return fx.GraphModule(module, part)


def part_up_to(module: fx.GraphModule, node: Node, images: Node) -> fx.GraphModule:
    """See `Graph.up_to`; `images`: the node of the images."""
    part = fx.Graph()
    copies, wanted = dict[Node, Node](), ancestors(node) | {node, images}
    for one in module.graph.nodes:
        if one in wanted:
            copies[one] = part.node_copy(one, lambda source: copies[source])
    part.output(copies[node])
    return fx.GraphModule(module, part)
