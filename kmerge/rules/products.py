"""The rule of matrix products, of which attention consists where it is written out.

scores = matmul(q, k^T)            adds up the products of the channels of q and k, which become one unit each
weights = softmax(scores / 8)      has places on both axes, and no channels
made = matmul(weights, v)          mixes the places of v, whose channels pass on
made = matmul(edges, nodes)        the same, by what is read from an input: a graph convolution
"""

from kmerge.rules.rule import OPERATION_RULES, Rule


class MatmulRule(Rule):
    takes_any_tensor = True

    def walk(self, site, *inputs):
        if len(inputs) != 2 or len(inputs[0].shape) != len(inputs[1].shape) or len(inputs[0].shape) < 3:
            site.refuse("it multiplies by a matrix that is no tensor with a batch axis.", "Use Dense or EinsumDense.")
        a, b = inputs
        rank = len(a.shape)
        if a.axis == rank - 1 and b.axis == rank - 2:
            return site.output(site.contract(a, b), rank)
        if a.is_virtual and b.axis == rank - 1:
            return site.output(site.weigh(a, b).units)
        if a.axis == b.axis == rank - 1 and a.from_inputs:
            site.fix(a, "mixes places by them")
            return site.output(b.units)
        return site.refuse(
            "it is neither a product of channels with channels nor of their sums with channels.",
            "Lay the channels on the last axis of the first tensor and on the last but one of the second.",
        )


OPERATION_RULES["Matmul"] = MatmulRule()
