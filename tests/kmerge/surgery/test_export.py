"""What prune and compress return goes out into the world: SavedModel, TFLite and ONNX give the outputs that Keras gives."""

import importlib.util

import keras
import numpy as np
import pytest

import kmerge
from tests.checks import outputs, relative_error
from tests.models import ZOO, example_inputs, mobilenet_se, randomize

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports are tested on TensorFlow, which they need"
)


def pruned():
    model = mobilenet_se(1)
    return kmerge.prune(model, "magnitude", budget=0.6)


def compressed():
    """Of two residual networks, with a choice of units that mixes their parents."""
    big = kmerge.merge(*(ZOO["resnet8"](seed) for seed in (1, 2)))
    keep = {name: np.arange(0, gate.units, 2)[: len(gate.kept())] for name, gate in gates_by_space(big).items()}
    return kmerge.compress(big, keep=keep)


def gates_by_space(big):
    return dict(zip(kmerge.merge_report(big), kmerge.gates_of(big), strict=True))


def transformer():
    """Heads and units cut: what remains has attention whose heads are fewer than the width asks for."""
    x = keras.Input((4, 6))
    h = keras.layers.Dense(8)(x)
    h = keras.layers.Add()([h, keras.layers.MultiHeadAttention(4, 2)(h, h)])
    h = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization()(h))
    model = keras.Model(x, keras.layers.Dense(3)(h))
    randomize(model, 3)
    return kmerge.prune(model, "magnitude", budget=0.5)


@pytest.fixture(scope="module", params=[pruned, compressed, transformer], ids=lambda make: make.__name__)
def model(request):
    return request.param()


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "saved"
    model.export(folder, verbose=False)
    return folder


def check(model, run, tolerance):
    """`run` maps an input of shape (4, ...) to the output of the exported model."""
    inputs = example_inputs(model)
    (expected,) = outputs(model, inputs)
    assert np.ptp(expected) > 1e-3, "outputs that are all the same would agree with anything"
    assert relative_error(run(inputs[0]), expected) < tolerance


def test_a_saved_model_gives_the_same_outputs(model, saved):
    import tensorflow as tf

    served = tf.saved_model.load(str(saved))
    check(model, lambda x: served.serve(x).numpy(), 1e-5)


def test_tflite_gives_the_same_outputs(model, saved):
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert())

    def run(x):
        (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.resize_tensor_input(given["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(made["index"])

    check(model, run, 1e-5)


def test_onnx_gives_the_same_outputs(model, tmp_path):
    missing = [name for name in ("onnx", "tf2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        with pytest.raises(ImportError):  # and no complaint of Keras that it was never called
            model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
        pytest.skip(f"needs {', '.join(missing)}: pip install onnx tf2onnx onnxruntime")
    import onnxruntime

    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    check(model, lambda x: session.run(None, {given.name: x})[0], 1e-5)
