"""Name activations that frontends spell out.

`clip(x + 3, 0, 6) / 6` and `clip(x / 6 + 1/2, 0, 1)` → `hsigmoid(x)`; `x * hsigmoid(x)` and
`x * clip(x + 3, 0, 6) / 6` → `hswish(x)`; `clip(x, 0, 6)` and `min(max(x, 0), 6)` → `relu6(x)`;
`max(x, 0)` → `relu(x)`.
"""

from __future__ import annotations

from ofa_compile.compiler.graph import Graph, Node, Value

_TOLERANCE = 1e-6


def recognise_activations(graph: Graph) -> None:
    """Replace each spelt-out activation by one node `activation` with attribute `name`."""
    producers = graph.producers()
    for node in graph.nodes:
        found = _match(node, producers)
        if found is not None:
            name, source = found
            node.op, node.inputs, node.attrs = "activation", [source], {"name": name}
    graph.remove_dead()


def _match(node: Node, producers: dict[int, Node]) -> tuple[str, Value] | None:
    if node.op == "relu":
        return "relu", node.inputs[0]
    if node.op == "clip":
        return _match_clip(node, producers)
    if node.op == "maximum":
        source = _operand(node, "maximum", 0.0)
        return None if source is None else ("relu", source)
    if node.op == "minimum":
        return _match_minimum(node, producers)
    if node.op in ("divide", "multiply"):
        return _match_scaled_clip(node, producers) or _match_hswish(node, producers)
    return None


def _match_clip(node: Node, producers: dict[int, Node]) -> tuple[str, Value] | None:
    """`clip(x * 1/6 + 1/2, 0, 1)` or `clip(x, 0, 6)`."""
    limits = node.attrs.get("scalars")
    if limits == [0.0, 6.0]:
        return "relu6", node.inputs[0]
    if limits != [0.0, 1.0]:
        return None
    source = _operand(producers.get(node.inputs[0].id), "add", 0.5)
    if source is None:
        return None
    inner = producers.get(source.id)
    scaled = _operand(inner, "multiply", 1 / 6)
    scaled = scaled or _operand(inner, "divide", 6.0)
    return None if scaled is None else ("hsigmoid", scaled)


def _match_minimum(node: Node, producers: dict[int, Node]) -> tuple[str, Value] | None:
    """`min(relu(x), 6)`; the maximum has been named by the time its reader is looked at."""
    source = _operand(node, "minimum", 6.0)
    inner = None if source is None else producers.get(source.id)
    if inner is None or inner.attrs.get("name") != "relu":
        return None
    return "relu6", inner.inputs[0]


def _match_scaled_clip(node: Node, producers: dict[int, Node]) -> tuple[str, Value] | None:
    """`relu6(x + 3) / 6`, `x * relu6(x + 3) / 6`; a clip is named before its reader is seen."""
    source = _operand(node, "divide", 6.0) or _operand(node, "multiply", 1 / 6)
    inner = None if source is None else producers.get(source.id)
    if inner is None:
        return None
    shifted = _clipped(inner, producers)
    if shifted is not None:
        return "hsigmoid", shifted
    if inner.op != "multiply" or len(inner.inputs) != 2:
        return None
    for factor, clip in (inner.inputs, inner.inputs[::-1]):
        if factor is _clipped(producers.get(clip.id), producers):
            return "hswish", factor
    return None


def _clipped(clip: Node | None, producers: dict[int, Node]) -> Value | None:
    """Return x if `clip` is `relu6(x + 3)`."""
    if clip is None or clip.op != "activation" or clip.attrs["name"] != "relu6":
        return None
    return _operand(producers.get(clip.inputs[0].id), "add", 3.0)


def _match_hswish(node: Node, producers: dict[int, Node]) -> tuple[str, Value] | None:
    """`x * hsigmoid(x)` in either order."""
    if node.op != "multiply" or len(node.inputs) != 2:
        return None
    for source, gate in (node.inputs, node.inputs[::-1]):
        producer = producers.get(gate.id)
        named = producer is not None and producer.attrs.get("name") == "hsigmoid"
        if named and producer is not None and producer.inputs[0] is source:
            return "hswish", source
    return None


def _operand(node: Node | None, op: str, constant: float) -> Value | None:
    """Return x if `node` is `op(x, constant)`, or `op(constant, x)` where that is the same."""
    if node is None or node.op != op or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if _equals(second, constant):
        return first
    if op in ("add", "multiply", "maximum", "minimum") and _equals(first, constant):
        return second
    return None


def _equals(value: Value, constant: float) -> bool:
    data = value.data
    return data is not None and data.size == 1 and abs(float(data.item()) - constant) < _TOLERANCE
