"""What takes a third of the time of tests on TensorFlow, and changes no result: for tests' own processes."""

import inspect
import math
import random
import types
import weakref

import keras


def take_shortcuts() -> None:
    """Makes layers, variables and questions about types cheaper."""
    _set_plain_values_directly()
    _remember_signatures()
    if keras.backend.backend() == "tensorflow":
        _share_variable_kernels()
        _share_zeros()
        _keep_kernels()
        _ask_for_one_attribute()
        _run_eager_steps_one_by_one()
        _update_weights_directly()
    else:
        _compile_steps_quickly()


def _set_plain_values_directly() -> None:
    """Of each of the hundred attributes of a layer, Keras and TensorFlow ask whether it is a variable, a layer, a list, ..."""
    plain = {bool, int, float, str, type(None), types.FunctionType}
    track = keras.Layer.__setattr__

    def set_attribute(self, name, value):
        if type(value) in plain and "_tracker" in vars(self) and not hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            track(self, name, value)

    keras.Layer.__setattr__ = set_attribute


def _remember_signatures() -> None:
    """Keras reads the signatures of the same few functions anew for each layer that it makes."""
    functions, methods = weakref.WeakKeyDictionary(), weakref.WeakKeyDictionary()
    read = inspect.signature

    def signature(of, **options):
        is_method = isinstance(of, types.MethodType)
        function = of.__func__ if is_method else of
        if options or not isinstance(function, types.FunctionType):
            return read(of, **options)
        known = methods if is_method else functions
        if function not in known:
            known[function] = read(of)
        return known[function]

    inspect.signature = signature


def _share_variable_kernels() -> None:
    """TensorFlow compiles a kernel for each name of a variable, which takes longer than all else that makes a variable."""
    from tensorflow.python.ops import gen_resource_variable_ops as operations

    make = operations.var_handle_op
    assert "debug_name" in inspect.signature(make).parameters

    def without_debug_name(*args, debug_name="", **kwargs):
        return make(*args, **kwargs)

    operations.var_handle_op = without_debug_name


def _share_zeros() -> None:
    """Most weights start from zeros, of a few small shapes; a tensor never changes, so that one will do for each shape."""
    import tensorflow as tf

    draw, zeros = keras.initializers.Zeros.__call__, {}

    def call(self, shape, dtype=None):
        if not tf.executing_eagerly() or math.prod(shape) > 1000:
            return draw(self, shape, dtype)
        key = tuple(shape), keras.backend.standardize_dtype(dtype)
        if key not in zeros:
            zeros[key] = draw(self, *key)
        return zeros[key]

    keras.initializers.Zeros.__call__ = call


def _keep_kernels() -> None:
    """A new seed, as each test has, makes TensorFlow throw away all kernels; Keras draws with stateless ones, which need none.

    A first call of an operation with its types and attributes makes its kernel, which takes fifty times as long as the call.
    """
    from tensorflow.python.eager import context

    def set_global_seed(self, seed):
        self._seed, self._rng = seed, random.Random(int(seed))

    assert hasattr(context.Context, "_set_global_seed")
    context.Context._set_global_seed = set_global_seed


def _ask_for_one_attribute() -> None:
    """`tf.is_tensor` asks a protocol, which before Python 3.12 reads the protocol anew at each call."""
    from tensorflow.python.framework import tensor_util

    *others, like = tensor_util.tf_type_classes
    assert like is tensor_util.IsTensorLike

    class OfClass(type):
        def __instancecheck__(cls, value):
            return hasattr(type(value), "is_tensor_like")

    tensor_util.tf_type_classes = (*others, OfClass("IsTensorLike", (), {}))


def _run_eager_steps_one_by_one() -> None:
    """Outside of programs, a loop in Python over the steps of a recurrent layer is faster than TensorFlow's.

    With a mask nothing changes: Keras' two ways differ where steps that are masked and run backwards are to be zero.
    """
    import tensorflow as tf
    from keras.src import backend

    run = backend.rnn

    def rnn(*args, mask=None, unroll=False, **options):
        return run(*args, mask=mask, unroll=unroll or mask is None and tf.executing_eagerly(), **options)

    backend.rnn = rnn


def _update_weights_directly() -> None:
    """On one device, the way to a weight by a strategy of distribution takes as long as to update it."""
    import tensorflow as tf
    from keras.src.backend.tensorflow.optimizer import TFOptimizer

    distributed = TFOptimizer._backend_update_step

    def update_step(self, grads, trainable_variables, learning_rate):
        if tf.distribute.has_strategy():
            return distributed(self, grads, trainable_variables, learning_rate)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            variable = variable.value if isinstance(variable, keras.Variable) else variable
            self.update_step(gradient, variable, learning_rate)

    TFOptimizer._backend_update_step = update_step


def _compile_steps_quickly() -> None:
    """Of a step that the host repeats kmerge asks for better code than the flags of these processes do."""
    from kmerge.training import programs

    compiled_once = programs._compiled_once

    def at_level_0(lowered, arguments, options):
        return compiled_once(lowered, arguments, options and dict.fromkeys(options, 0))

    programs._compiled_once = at_level_0
