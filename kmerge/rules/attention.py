"""Rules for attention, and for what stands around it: EinsumDense and Embedding.

A head is a unit. Attention works on each head alone, so that heads of several models stand side by side exactly:

    query, key, value    kernels (inputs, heads, key_dim)     read the stream and make heads
    output projection    kernel (heads, value_dim, outputs)   mixes the heads and makes the stream

`key_dim` never changes: the scores are scaled by it.
"""

import abc

import numpy as np
from keras import layers

from kmerge.gates import GatedGroupedQueryAttention, GatedMultiHeadAttention
from kmerge.rules.elementwise import apply_activation, is_elementwise
from kmerge.rules.labels import Labels
from kmerge.rules.rule import Rule, channel, consumes, produces, refuse_odd_bias, rules_for
from kmerge.rules.site import Site


class _AttentionRule(Rule):
    """Attention: `groups` units, each of so many query heads and one head of keys and values."""

    def walk(self, site, *inputs):
        query, value, key = self._roles(site, inputs)
        heads = site.own(self._groups(site.layer), name="heads")
        per_query = np.repeat(heads, self._queries_per_group(site.layer))
        read = {"query": site.consume(query, "query"), "value": site.consume(value, "value")}
        read |= {"key": site.consume(key, "key"), "gate": read["query"]}
        for name, units in read.items():
            made = per_query if name in ("query", "gate") else heads
            site.weight(f"{name}/kernel", consumes(units), produces(made), None)
            site.weight(f"{name}/bias", produces(made), None)
        shape = site.call.outputs[0].shape
        units, several = site.own(shape[-1]), [None] * (len(shape) - len(query.shape))
        site.weight(
            "attention_output/kernel", consumes(site.consume_inside(per_query)), None, *several, produces(units)
        )
        site.weight("attention_output/bias", *several, produces(units))
        out = site.output(units)
        if len(site.call.outputs) == 1:
            return out
        if len(query.shape) != 3:
            site.refuse("it returns scores of more than one axis of places.", "Leave return_attention_scores off.")
        scores = site.output(per_query, axis=1, index=1)
        site.curve(scores)
        return [out, scores]

    @abc.abstractmethod
    def _groups(self, layer) -> int:
        """The number of units."""

    @abc.abstractmethod
    def _queries_per_group(self, layer) -> int:
        """How many query heads one unit has."""

    @staticmethod
    def _number(site: Site, name: str) -> int | None:
        return next(iter(site.call.named_inputs.get(name, ())), None)

    def _roles(self, site: Site, inputs: tuple[Labels, ...]) -> list[Labels]:
        """The labels of query, value and key, however the call names them."""
        named = site.named(inputs)
        roles = [(named.get(name) or named["value"])[0] for name in ("query", "value", "key")]
        for x in roles:
            site.require_last_axis(x)
        return roles

    def _widths(self, site: Site, inputs: list[Labels], outputs: list[Labels]) -> tuple[int, int]:
        """The new widths of the query and of the output."""
        return len(inputs[self._number(site, "query")].units), len(outputs[0].units)


@rules_for(layers.MultiHeadAttention)
class MultiHeadAttentionRule(_AttentionRule):
    gated = GatedMultiHeadAttention
    takes_masks = True

    def _groups(self, layer):
        return layer.num_heads

    def _queries_per_group(self, layer):
        return 1

    def changes(self, site, inputs, outputs):
        query, width = self._widths(site, inputs, outputs)
        heads = len(site.own(site.layer.num_heads, name="heads"))
        shape = site.layer.get_config()["output_shape"]
        if shape is None and query == width:
            return {"num_heads": heads}
        return {"num_heads": heads, "output_shape": (*(shape or (0,))[:-1], width)}


@rules_for(layers.GroupQueryAttention)
class GroupedQueryAttentionRule(_AttentionRule):
    gated = GatedGroupedQueryAttention

    def _groups(self, layer):
        return layer.num_key_value_heads

    def _queries_per_group(self, layer):
        return layer.num_query_heads // layer.num_key_value_heads

    def changes(self, site, inputs, outputs):
        query, width = self._widths(site, inputs, outputs)
        if query != width:
            site.refuse(f"its output is as wide as its query, but {query} and {width} units would be left.",
                        "Keep equally many units in both spaces, or use MultiHeadAttention.")  # fmt: skip
        heads = len(site.own(site.layer.num_key_value_heads, name="heads"))
        return {"num_key_value_heads": heads, "num_query_heads": heads * self._queries_per_group(site.layer)}


@rules_for(layers.EinsumDense)
class EinsumDenseRule(Rule):
    """Letters tell the axes: one that the equation sums over is mixed, one that only kernel and output have is made.

    Of several that are made, the last holds the units; the others are places, as the heads in "btd,dhk->bthk" are.
    """

    def walk(self, site, x):
        data, kernel, out = einsum_letters(site.layer, len(x.shape))
        if site.layer.bias is not None:
            refuse_odd_bias(site, site.layer.bias.shape)
        letter = data[x.axis]
        if letter in out:
            return self._pass(site, x, letter, kernel, out)
        if letter not in kernel:
            site.refuse(f"{site.layer.equation!r} sums over the channels without a weight.", "Sum over other axes.")
        made = [c for c in out if c in kernel and c not in data]
        if not made:
            site.refuse(f"{site.layer.equation!r} leaves no channel axis in its output.",
                        "Keep an axis that the kernel makes, if only of size one.")  # fmt: skip
        axis = out.index(made[-1])
        units = site.own(site.call.outputs[0].shape[axis])
        roles = {letter: consumes(site.consume(x)), made[-1]: produces(units)}
        site.weight("kernel", *(roles.get(c) for c in kernel))
        site.weight("bias", *self._bias_roles(site.layer, out, roles))
        result = site.output(units, axis)
        self._activate(site, result)
        return result

    def _pass(self, site, x, letter, kernel, out):
        biased = () if site.layer.bias is None else [site.layer.bias_axes]
        held = [letter in axes for axes in (kernel, *biased)]
        if any(held):
            x = site.hold(x)
        if not all(held):  # there is a weight that all channels have together
            x = site.apart(x)
        roles = {letter: channel(x.units)}
        site.weight("kernel", *(roles.get(c) for c in kernel))
        site.weight("bias", *self._bias_roles(site.layer, out, roles))
        result = site.output(x.units, out.index(letter))
        self._activate(site, result)
        return result

    def _activate(self, site, x):
        if x.axis != len(x.shape) - 1 and not is_elementwise(site.layer.activation):
            site.refuse("its activation works on another axis than the channels'.", "Put it into a layer of its own.")
        apply_activation(site, site.layer.activation, x)

    @staticmethod
    def _bias_roles(layer, out: str, roles: dict) -> list:
        """The bias has the output's axes from the first biased one on, of size one where there is no bias."""
        if layer.bias is None:
            return []
        first = min(out.index(c) for c in layer.bias_axes)
        return [roles.get(c) if c in layer.bias_axes else None for c in out[first:]]

    def changes(self, site, inputs, outputs):
        shape = list(site.layer.partial_output_shape)
        before, _, after = site.layer.equation.replace(" ", "").partition("->")[2].partition("...")
        # Without leading dots the output's letters count the batch, which the shape leaves out.
        place = outputs[0].axis - len(outputs[0].shape) + len(shape) if after else outputs[0].axis - 1
        if not 0 <= place < len(shape):
            return {}
        if shape[place] is not None:
            shape[place] = len(outputs[0].units)
        return {"output_shape": tuple(shape)}


def einsum_letters(layer: layers.EinsumDense, rank: int) -> tuple[str, str, str]:
    """The letters of data, kernel and output of an equation; digits stand for the axes of an ellipsis.

    Args:
        layer: the layer.
        rank: number of axes of its input.
    """
    sources, _, out = layer.equation.replace(" ", "").partition("->")
    data, _, kernel = sources.partition(",")
    elided = "".join(map(str, range(rank - len(data.replace("...", "")))))
    return data.replace("...", elided), kernel, out.replace("...", elided)


@rules_for(layers.Embedding)
class EmbeddingRule(Rule):
    takes_any_tensor = True

    def walk(self, site, x):
        site.fix(x, "reads them as places of a sequence")
        units = site.own(site.layer.output_dim)
        site.weight("embeddings", None, produces(units))
        return site.output(units)

    def changes(self, site, inputs, outputs):
        return {"output_dim": len(outputs[0].units)}


@rules_for(layers.ReversibleEmbedding)
class ReversibleEmbeddingRule(EmbeddingRule):
    """Called in reverse it multiplies by the same table, which cannot be the mean of two there and each of them here."""

    def walk(self, site, x):
        if site.call.kwargs.get("reverse", site.call.args[1:2]):
            site.refuse("it is called in reverse.", "Use a Dense layer for the way back.")
        if site.layer.mask_zero:
            site.refuse("it masks while it runs, of which its graph tells nothing.", "Use keras.layers.Embedding.")
        out = super().walk(site, x)
        site.weight("reverse_embeddings", channel(out.units), None)
        return out


@rules_for(layers.Attention)
class AttentionRule(Rule):
    """Without a projection of its own: it compares channels of its query with those of its key, and passes its values on."""

    def walk(self, site, query, value, *keys):
        for x in (query, value, *keys):
            site.require_last_axis(x)
        if len(site.call.outputs) > 1:
            site.refuse("it returns its scores, too.", "Leave return_attention_scores off.")
        query, value = site.attend(self._held(site, query), keys[0] if keys else value, value)
        self._weights(site, query)
        out = site.output(value.units)
        site.curve(out)
        return out

    def _held(self, site: Site, query: Labels) -> Labels:
        return query

    def _weights(self, site: Site, query: Labels) -> None:
        site.weight("scale")
        site.weight("concat_score_weight")


@rules_for(layers.AdditiveAttention)
class AdditiveAttentionRule(AttentionRule):
    def _held(self, site, query):
        return site.hold(query)

    def _weights(self, site, query):
        site.weight("scale", channel(query.units))
