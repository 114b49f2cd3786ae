"""Convolutions of several networks, computed as dense ones (JAX).

Networks that train in one program lie along an axis of `jax.vmap`. By itself it turns their convolutions into grouped ones,
which are slow on a CPU and on a GPU. Here they become dense ones, each of as many networks as fit into a number of channels,
under a block-diagonal kernel. For networks A and B with two channels:

    channels in      a1 a2 b1 b2
    kernel           A1 A2  .  .     (in x out)
                     A3 A4  .  .
                      .  . B1 B2
                      .  . B3 B4

Its zeros are no weights: the kernel is made of the networks' own in each step. So gradients, the optimizer's state, penalties
and random layers are those of each network by itself. Channels stay innermost, and where all networks fit, nothing is copied.

Zero times infinity is NaN: a network that overflows spoils those in its block. Who packs checks that numbers `stayed_finite`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kmerge.training.backend import BACKEND

if BACKEND == "jax":
    import jax
    import jax.numpy as jnp
    from jax.extend.core.primitives import conv_general_dilated_p
    from jax.interpreters import batching


@dataclass(eq=False)
class ModelAxis:
    """The axis of the networks of one program: as the `axis_name` of a `jax.vmap` it makes convolutions dense.

    Attributes:
        channels: the most that a convolution of several networks has, on either side. A wider one is of one network.
        packed: the most networks in one of the convolutions traced so far.
    """

    channels: int
    packed: int = 1

    def blocks(self, models: int, width: int) -> list[slice]:
        """The networks of each convolution, where that of one has `width` channels."""
        size = max(1, min(models, self.channels // width))
        self.packed = max(self.packed, size)
        return [slice(first, first + size) for first in range(0, models, size)]


def stayed_finite(before: Any, after: Any) -> Any:
    """Whether no number became infinite or NaN; of two trees of arrays of the same shapes."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    floats = [(old, new) for old, new in pairs if jnp.issubdtype(new.dtype, jnp.floating)]
    return jnp.stack([(jnp.isfinite(new) | ~jnp.isfinite(old)).all() for old, new in floats]).all()


def _convolution(grouped: Callable, axis_data, arrays: tuple, axes: tuple, **how: Any) -> tuple:
    """JAX's rule for convolutions, but on a `ModelAxis`: arrays with that axis at `axes` to an array, and where it has it."""
    groups = max(how["feature_group_count"], how["batch_group_count"])
    if not isinstance(axis_data.name, ModelAxis) or None in axes or groups > 1:
        return grouped(axis_data, arrays, axes, **how)
    convolve = functools.partial(conv_general_dilated_p.bind, **how)
    shapes = (a.shape[:axis] + a.shape[axis + 1 :] for a, axis in zip(arrays, axes, strict=True))
    one = jax.eval_shape(convolve, *map(jax.ShapeDtypeStruct, shapes, (a.dtype for a in arrays)))
    # A kernel's gradient is a convolution, too: then the small array, which is to hold blocks, is what comes out.
    is_gradient = one.size < arrays[1].size // axis_data.size
    combine = _gradients if is_gradient else _activations
    return combine(axis_data.name, *arrays, *axes, one.shape, convolve, how)


def _activations(axis: ModelAxis, inputs, kernels, input_axis, kernel_axis, _, convolve: Callable, how: dict) -> tuple:
    """The channels of networks beside each other, under a block-diagonal kernel."""
    (_, channels, *_), (outs, ins, *spatial), (_, out_channels, *_) = how["dimension_numbers"]
    inputs, kernels = jnp.moveaxis(inputs, input_axis, channels), jnp.moveaxis(kernels, kernel_axis, 0)
    results = []
    for block in axis.blocks(len(kernels), max(kernels.shape[1 + ins], kernels.shape[1 + outs])):
        several = kernels[block]
        # XLA knows the gradient of a convolution with strides by its dilated input and its kernel, which is a reversal.
        is_dilated = max(how["lhs_dilation"], default=1) > 1
        kernel = _block_diagonal(jnp.flip(several, [1 + i for i in spatial]) if is_dilated else several, ins, outs)
        kernel = jnp.flip(kernel, spatial) if is_dilated else kernel
        result = convolve(_merged(_part(inputs, block, channels), channels), kernel)
        results.append(_divided(result, out_channels, len(several)))
    return jnp.concatenate(results, out_channels), out_channels


def _block_diagonal(kernels, ins: int, outs: int):
    """One kernel of several, which lie along the first axis."""
    count = len(kernels)
    if count == 1:
        return kernels[0]
    rows = [
        jnp.concatenate([kernel if i == j else jnp.zeros_like(kernel) for j in range(count)], outs)
        for i, kernel in enumerate(kernels)
    ]
    return jnp.concatenate(rows, ins)


def _gradients(axis: ModelAxis, inputs, kernels, input_axis, kernel_axis, shape, convolve: Callable, how: dict) -> tuple:
    """The gradients for the blocks of a block-diagonal kernel: of what comes out for all pairs of networks, the diagonal."""
    (rows, *_), (outs, *_), (out_rows, out_channels, *_) = how["dimension_numbers"]
    inputs, kernels = jnp.moveaxis(inputs, input_axis, rows), jnp.moveaxis(kernels, kernel_axis, outs)
    first, second = sorted((out_rows, out_channels))
    results = []
    for block in axis.blocks(inputs.shape[rows], max(shape[out_rows], shape[out_channels])):
        lefts, rights = _part(inputs, block, rows), _part(kernels, block, outs)
        count = lefts.shape[rows]
        pairs = convolve(_merged(lefts, rows), _merged(rights, outs))
        pairs = _divided(_divided(pairs, second, count), first, count)  # the second is now one axis further back
        pick = jax.lax.index_in_dim
        results += [pick(pick(pairs, i, second + 1, False), i, first, False) for i in range(count)]
    return jnp.stack(results), 0


def _part(array, block: slice, axis: int):
    return jax.lax.slice_in_dim(array, block.start, min(block.stop, array.shape[axis]), axis=axis)


def _merged(array, axis: int):
    """With this axis, of networks, and the next one as one."""
    return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])


def _divided(array, axis: int, models: int):
    """With an axis of networks taken out of this one, before it."""
    return array.reshape(*array.shape[:axis], models, -1, *array.shape[axis + 1 :])


def _known_rule() -> Callable:
    """JAX's own rule for convolutions, which before JAX 0.8 was a plain one."""
    if conv_general_dilated_p in batching.fancy_primitive_batchers:
        return batching.fancy_primitive_batchers[conv_general_dilated_p]
    plain = batching.primitive_batchers[conv_general_dilated_p]
    return lambda axis_data, arrays, axes, **how: plain(arrays, axes, **how)


if BACKEND == "jax":
    batching.fancy_primitive_batchers[conv_general_dilated_p] = functools.partial(_convolution, _known_rule())
