"""Attention whose heads can be gated.

Heads are mixed inside an attention layer, by its output projection, so that their gates belong inside too. In a big
student these layers stand where the parents have plain ones. They have the same weights in the same order:

    plain    output_projection(heads)
    gated    output_projection(heads * head_gates)

A gate of 0 removes a head, and a gate of any value can be multiplied into the projection's kernel.
"""

import keras
from keras import layers, ops


class _GatedHeads:
    """Multiplies what every head makes by its gate; `head_gates` has the shape (batch or 1, heads)."""

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        head_gates=None,
    ):
        # Keras reads the names of the arguments, so they are listed; its `call` has no way to hand a further one on.
        self._head_gates = head_gates
        try:
            return super().call(
                query,
                value,
                key=key,
                query_mask=query_mask,
                value_mask=value_mask,
                key_mask=key_mask,
                attention_mask=attention_mask,
                return_attention_scores=return_attention_scores,
                training=training,
                use_causal_mask=use_causal_mask,
            )
        finally:
            self._head_gates = None

    def compute_output_spec(self, *args, head_gates=None, **kwargs):
        return super().compute_output_spec(*args, **kwargs)

    def _compute_attention(self, *args, **kwargs):  # the place that Keras names for changes to attention
        heads, scores = super()._compute_attention(*args, **kwargs)  # (batch, ..., heads, value_dim)
        if self._head_gates is not None:
            between = [1] * (len(heads.shape) - 3)
            heads = heads * ops.reshape(self._head_gates, (-1, *between, heads.shape[-2], 1))
        return heads, scores


@keras.saving.register_keras_serializable("kmerge")
class GatedMultiHeadAttention(_GatedHeads, layers.MultiHeadAttention):
    """`keras.layers.MultiHeadAttention` with a gate on every head: the call argument `head_gates`."""


@keras.saving.register_keras_serializable("kmerge")
class GatedGroupedQueryAttention(_GatedHeads, layers.GroupQueryAttention):
    """`keras.layers.GroupQueryAttention` with a gate on every query head: the call argument `head_gates`."""
