"""Recurrent layers whose units can be gated.

A recurrent layer mixes its own units at every step, by its recurrent kernel, so that their gates belong inside too. In a
big student these layers stand where the parents have plain ones. They have the same weights in the same order:

    plain    kernel(x) + recurrent_kernel(h)
    gated    kernel(x) + recurrent_kernel(h * head_gates)

What a unit carries from step to step stays as it is: only its readers see the gate, which is the same at all steps. So
a gate of 0 removes a unit, and a gate of any value can be multiplied into the recurrent kernel. That is what happens to
gates that all examples share, in inference or drawn for a batch: the layer runs as its parent does, on cuDNN where that
can be had. Gates of each example meet the state in every step of the cell, which cuDNN has no place for.
"""

import contextlib
import functools

import keras
from keras import layers, ops


def runs_of(layer: layers.RNN | layers.Bidirectional) -> list[layers.RNN]:
    """The layers that run along a sequence: the layer itself, or both that it holds, forward first."""
    return [layer.forward_layer, layer.backward_layer] if isinstance(layer, layers.Bidirectional) else [layer]


def cells_of(run: layers.RNN) -> list[keras.Layer]:
    """The cells of a layer, one behind the other: each reads what the one before it makes."""
    return list(run.cell.cells) if isinstance(run.cell, layers.StackedRNNCells) else [run.cell]


def width_of(cell: keras.Layer) -> int:
    """How many units a cell has."""
    return cell.filters if hasattr(cell, "filters") else cell.units


class _GatedUnits:
    """Call it with `head_gates`, of shape (batch or 1, units): the gates of the units of its cells, in their order.

    Both layers of a Bidirectional have the same gates.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.input_spec = None  # it is that of one input

    def __call__(self, sequences, *args, head_gates=None, **kwargs):
        # As one argument: Keras looks up the mask of a layer's only tensor argument, but not of one among several.
        return super().__call__(sequences if head_gates is None else [sequences, head_gates], *args, **kwargs)

    def build(self, sequences_shape, initial_state_shape=None):
        super().build(_of_sequences(sequences_shape), initial_state_shape)

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        return super().compute_output_shape(_of_sequences(sequences_shape), initial_state_shape)

    def call(self, sequences, initial_state=None, mask=None, training=False):
        gates = None
        if isinstance(sequences, (list, tuple)):
            sequences, gates = sequences
        if isinstance(mask, (list, tuple)):
            mask = mask[0]
        with contextlib.ExitStack() as scopes:
            for run in runs_of(self) if gates is not None else ():
                scopes.enter_context(_gated(run, gates))
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)


def _of_sequences(shape) -> tuple:
    return shape if shape[0] is None or isinstance(shape[0], int) else shape[0]


@contextlib.contextmanager
def _gated(run: layers.RNN, gates):
    """In this scope the layer's cells read units times their gates."""
    before, start = None, 0  # the first cell reads the sequences, whose gates stand before the layer
    with contextlib.ExitStack() as scopes:
        for cell in cells_of(run):
            own = gates[:, start : start + width_of(cell)]
            if gates.shape[0] == 1:
                kernels = {"recurrent_kernel": own} | ({} if before is None else {"kernel": before})
                values = {name: _folded(getattr(cell, name), of_axis) for name, of_axis in kernels.items()}
            else:
                scopes.enter_context(_replaced(run, {"use_cudnn": False}))
                values = {"call": functools.partial(_step, cell, before, own)}
            scopes.enter_context(_replaced(cell, values))
            before, start = own, start + width_of(cell)
        yield


@contextlib.contextmanager
def _replaced(layer: keras.Layer, values: dict):
    """In this scope attributes of a layer have other values, of which Keras' tracking takes no note."""
    attributes = vars(layer)
    kept = {name: attributes[name] for name in values if name in attributes}
    attributes.update(values)
    try:
        yield
    finally:
        for name in values:
            del attributes[name]
        attributes.update(kept)


def _folded(kernel: keras.Variable, gates):
    """A kernel, (..., units, outputs), with each of its rows times the gate of its unit."""
    kernel = ops.convert_to_tensor(kernel)
    return kernel * ops.reshape(ops.cast(gates, kernel.dtype), (-1, 1))


def _times(x, gates):
    """`x`, (batch, ..., units), times gates of shape (batch, units)."""
    return x * ops.reshape(gates, (-1, *[1] * (len(x.shape) - 2), x.shape[-1]))


def _step(cell: keras.Layer, before, own, inputs, states, training=False):
    """The step of a cell that reads its inputs times the gates `before`, and its own state times the gates `own`."""
    inputs = inputs if before is None else _times(inputs, before)
    state, *carried = states if isinstance(states, (list, tuple)) else [states]
    if isinstance(cell, layers.GRUCell):
        return _gru_step(cell, inputs, state, _times(state, own), training)
    return type(cell).call(cell, inputs, [_times(state, own), *carried], training=training)


def _gru_step(cell: layers.GRUCell, inputs, state, read, training):
    """`GRUCell.call`, where the state that the recurrent kernel reads is another than the one that is carried on."""
    masks = (cell.get_dropout_mask(inputs), cell.get_recurrent_dropout_mask(state)) if training else (None, None)
    seen, heard = (_dropped(x, mask) for x, mask in zip((inputs, read), masks, strict=True))
    kernel, recurrent = (ops.split(ops.convert_to_tensor(w), 3, axis=1) for w in (cell.kernel, cell.recurrent_kernel))
    bias = ops.reshape(cell.bias, (-1, 3, cell.units)) if cell.use_bias else ops.zeros((2, 3, 1), inputs.dtype)
    made = [ops.matmul(x, w) + bias[0, i] for i, (x, w) in enumerate(zip(seen, kernel, strict=True))]
    told = [ops.matmul(h, w) for h, w in zip(heard[:2], recurrent[:2], strict=True)]
    if cell.reset_after:
        told = [t + bias[1, i] for i, t in enumerate(told)]
    update, reset = (cell.recurrent_activation(m + t) for m, t in zip(made[:2], told, strict=True))
    if cell.reset_after:
        inner = reset * (ops.matmul(heard[2], recurrent[2]) + bias[1, 2])
    else:
        inner = ops.matmul(reset * heard[2], recurrent[2])
    state = update * state + (1 - update) * cell.activation(made[2] + inner)
    return state, [state]


def _dropped(x, mask) -> list:
    """`x` for each of the three gates of a GRU, after dropout: one mask for all, or one each."""
    return [x if m is None else x * m for m in (mask if isinstance(mask, list) else [mask] * 3)]


@keras.saving.register_keras_serializable("kmerge")
class GatedSimpleRNN(_GatedUnits, layers.SimpleRNN):
    """`keras.layers.SimpleRNN` with a gate on every unit: the call argument `head_gates`."""


@keras.saving.register_keras_serializable("kmerge")
class GatedLSTM(_GatedUnits, layers.LSTM):
    """`keras.layers.LSTM` with a gate on every unit: the call argument `head_gates`."""


@keras.saving.register_keras_serializable("kmerge")
class GatedGRU(_GatedUnits, layers.GRU):
    """`keras.layers.GRU` with a gate on every unit: the call argument `head_gates`."""


@keras.saving.register_keras_serializable("kmerge")
class GatedRNN(_GatedUnits, layers.RNN):
    """`keras.layers.RNN` with a gate on every unit of its cells: the call argument `head_gates`."""


@keras.saving.register_keras_serializable("kmerge")
class GatedConvLSTM1D(_GatedUnits, layers.ConvLSTM1D):
    """`keras.layers.ConvLSTM1D` with a gate on every filter: the call argument `head_gates`."""


@keras.saving.register_keras_serializable("kmerge")
class GatedConvLSTM2D(_GatedUnits, layers.ConvLSTM2D):
    """`keras.layers.ConvLSTM2D` with a gate on every filter: the call argument `head_gates`."""


@keras.saving.register_keras_serializable("kmerge")
class GatedConvLSTM3D(_GatedUnits, layers.ConvLSTM3D):
    """`keras.layers.ConvLSTM3D` with a gate on every filter: the call argument `head_gates`."""


@keras.saving.register_keras_serializable("kmerge")
class GatedBidirectional(_GatedUnits, layers.Bidirectional):
    """`keras.layers.Bidirectional` with a gate on every pair of units: the call argument `head_gates`."""


# The layer with gates by the plain one.
GATED_RECURRENT = {
    layers.SimpleRNN: GatedSimpleRNN,
    layers.LSTM: GatedLSTM,
    layers.GRU: GatedGRU,
    layers.RNN: GatedRNN,
    layers.ConvLSTM1D: GatedConvLSTM1D,
    layers.ConvLSTM2D: GatedConvLSTM2D,
    layers.ConvLSTM3D: GatedConvLSTM3D,
    layers.Bidirectional: GatedBidirectional,
}
