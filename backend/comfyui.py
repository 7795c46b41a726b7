"""What ComfyUI writes beside a picture or latents: its graph, as the JSON text `prompt`.

The graph is a dict of nodes by id, `{"class_type": …, "inputs": {name: value}}`, where a value that comes from another
node is `[id, slot]` (ComfyUI's API format). It comes with files from anyone: a text longer than `MAX_TEXT` is not read,
no node is visited twice, and what makes no sense is taken for absent.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_TEXT = 1_000_000
"""Letters; graphs of some hundred nodes have a tenth."""
_OUTPUTS = ("SaveImage", "PreviewImage", "SaveLatent")
"""How the classes of nodes that end a graph are called; others begin so."""
_TEXTS = ("text", "text_g", "t5xxl", "clip_l", "prompt", "value", "string")
"""Inputs that hold a prompt, of the text encoders and of the nodes that only hand a text on."""
_FORWARDED = ("value", "seed", "noise_seed", "int", "float", "string", "text", "number")
"""Inputs of nodes that only hold one value for others."""
_FILES = ("vae_name", "ckpt_name", "unet_name")


@dataclass(frozen=True)
class Node:
    kind: str
    inputs: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    nodes: Mapping[str, Node]

    def settings(self) -> dict[str, Any]:
        """What the picture's sampler was given, as far as it is said.

        {"prompt", "negative_prompt", "seed", "steps", "guidance", "sampler", "strength", "width", "height"}; strength
        only where a picture was painted over, width and height only where none was.
        """
        sampler = self._sampler()
        if sampler is None:
            return {}
        guider = self._linked(sampler, "guider") or sampler
        sigmas = self._linked(sampler, "sigmas") or sampler
        noise = self._linked(sampler, "noise") or sampler
        named = self._linked(sampler, "sampler") or sampler
        start = self._start(sampler)
        found = {
            "prompt": self._prompt(guider, ("positive", "conditioning")),
            "negative_prompt": self._prompt(guider, ("negative",)),
            "seed": self._number(noise, ("seed", "noise_seed")),
            "steps": self._number(sigmas, ("steps",)),
            "guidance": self._number(guider, ("cfg",)),
            "sampler": self._value(named, ("sampler_name",), str),
        }
        if start is None:
            found["strength"] = self._strength(sigmas)
        else:
            found |= {side: self._number(start, (side,)) for side in ("width", "height")}
        return {name: value for name, value in found.items() if value is not None}

    def files(self) -> list[str]:
        """Names of the weights that the graph loads, a VAE's before a checkpoint's."""
        names = [
            (order, value)
            for node in self.nodes.values()
            for order, name in enumerate(_FILES)
            if isinstance(value := node.inputs.get(name), str)
        ]
        return [value for _, value in sorted(names)]

    # -- following links -------------------------------------------------------------------------------------

    def _node(self, link: Any) -> Node | None:
        """The node that a link names; None for a plain value, or a link to nowhere."""
        if isinstance(link, list) and len(link) == 2 and isinstance(link[0], str | int):
            return self.nodes.get(str(link[0]))
        return None

    def _linked(self, node: Node, name: str) -> Node | None:
        return self._node(node.inputs.get(name))

    def _before(self, node: Node, first: Sequence[str] = ()) -> Iterator[Node]:
        """The nodes that `node` is linked to, those of the inputs `first` before others."""
        names = [*first, *(name for name in node.inputs if name not in first)]
        for name in names:
            if (found := self._linked(node, name)) is not None:
                yield found

    def _walk(self, start: Sequence[Node], first: Sequence[str] = ()) -> Iterator[Node]:
        """Breadth first, against the direction of the data."""
        ahead, seen = deque(start), {id(node) for node in start}
        while ahead:
            node = ahead.popleft()
            yield node
            for other in self._before(node, first):
                if id(other) not in seen:
                    seen.add(id(other))
                    ahead.append(other)

    def _sampler(self) -> Node | None:
        """The sampler nearest to the picture that was saved: of two passes the second."""
        ends = [node for node in self.nodes.values() if node.kind.startswith(_OUTPUTS)]
        walked = self._walk(ends or list(self.nodes.values()), ("images", "samples"))
        return next((node for node in walked if "latent_image" in node.inputs), None)

    def _start(self, sampler: Node) -> Node | None:
        """The node that gave empty latents of some size; None if the sampler painted over a picture."""
        latents = self._linked(sampler, "latent_image")
        for node in self._walk([latents] if latents else [], ("samples",)):
            # A VAE's encode, or a sampler before this one: it was painted over.
            if "pixels" in node.inputs or "latent_image" in node.inputs:
                return None
            if {"width", "height"} <= node.inputs.keys() and "samples" not in node.inputs:
                return node
        return None

    # -- values ----------------------------------------------------------------------------------------------

    def _value(self, node: Node, names: Sequence[str], kind: type | tuple[type, ...]) -> Any:
        """The first of those inputs that holds such a value, or is linked to a node that holds one."""
        for name in names:
            value = node.inputs.get(name)
            if (other := self._node(value)) is not None:
                held = (other.inputs.get(key) for key in (*names, *_FORWARDED))
                value = next((one for one in held if _is(one, kind)), None)
            if _is(value, kind):
                return value
        return None

    def _number(self, node: Node, names: Sequence[str]) -> float | None:
        return self._value(node, names, (int, float))

    def _prompt(self, node: Node, names: Sequence[str]) -> str | None:
        """The text that a conditioning was made of; what lies between (control nets, guidance) is passed by."""
        starts = [found for name in names if (found := self._linked(node, name)) is not None]
        for other in self._walk(starts[:1], names):
            if other.kind == "ConditioningZeroOut":  # stands for no words at all
                return None
            if (text := self._value(other, _TEXTS, str)) is not None:
                return str(text)
        return None

    def _strength(self, node: Node) -> float | None:
        """The share of the steps that ran."""
        if (denoise := self._number(node, ("denoise",))) is not None:
            return denoise
        steps, start = (self._number(node, (name,)) for name in ("steps", "start_at_step"))
        return None if not steps or start is None else max(0.0, 1 - start / steps)


def read_graph(text: str | None) -> Graph | None:
    """The graph in a `prompt` text; None if it is none."""
    if not text or len(text) > MAX_TEXT:
        return None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    nodes = {
        str(key): Node(str(node.get("class_type", "")), node["inputs"])
        for key, node in data.items()
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
    }
    return Graph(nodes) if nodes else None


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
