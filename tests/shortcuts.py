"""What takes a third of the time of tests on TensorFlow, and changes no result: for tests' own processes."""

import functools
import gc
import inspect
import random
import types
import weakref

import keras
import numpy as np


def take_shortcuts() -> None:
    """Makes layers, variables, questions about types and the collection of garbage cheaper."""
    gc.set_threshold(20_000, 20, 100)
    _set_plain_values_directly()
    _remember_signatures()
    if keras.backend.backend() == "tensorflow":
        _share_variable_kernels()
        _make_variables_directly()
        _read_variables_directly()
        _keep_kernels()
        _ask_for_one_attribute()


def _set_plain_values_directly() -> None:
    """Of each of the hundred attributes of a layer, Keras and TensorFlow ask whether it is a variable, a layer, a list, ..."""
    tracked = (keras.Variable, keras.Layer, keras.metrics.Metric, keras.random.SeedGenerator, list, tuple, dict, set)
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.trackable import base, data_structures

        tracked += (base.Trackable, data_structures.NoDependency)
    wrapped = ("build", "quantize")  # methods that each layer gets anew
    track = keras.Layer.__setattr__

    @functools.lru_cache(maxsize=1000)
    def is_plain(kind):
        return not issubclass(kind, tracked)

    def set_attribute(self, name, value):
        is_new = name in wrapped or not hasattr(type(self), name)
        if is_new and is_plain(type(value)) and "_tracker" in vars(self):
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


def _make_variables_directly() -> None:
    """`tf.Variable` asks who else would make it, and enters a dozen scopes, before it does in eager mode what is done here."""
    from tensorflow.python.eager import context
    from tensorflow.python.framework import ops
    from tensorflow.python.ops import gen_resource_variable_ops, handle_data_util
    from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable, ResourceVariable

    make, make_with = keras.Variable._initialize, keras.Variable._initialize_with_initializer
    fills = {keras.initializers.Zeros: 0, keras.initializers.Ones: 1}

    def initialize_with(self, initializer):
        if type(initializer) in fills and self._dtype == "float32":
            self._initialize(np.full(self._shape, fills[type(initializer)], self._dtype))
        else:
            make_with(self, initializer)

    def initialize(self, value):
        is_eager = context.executing_eagerly() and not ops.get_default_graph()._variable_creator_stack
        if isinstance(value, BaseResourceVariable) or not is_eager:
            return make(self, value)
        value = ops.convert_to_tensor(value() if callable(value) else value, dtype=self._dtype)
        name = (context.context().scope_name or "") + self.name
        handle = gen_resource_variable_ops.var_handle_op(
            shape=value.shape, dtype=value.dtype, shared_name=context.anonymous_name(), name=name
        )
        handle._handle_data = handle_data_util.create_handle_data(value.shape, value.dtype)
        gen_resource_variable_ops.assign_variable_op(handle, value)
        self._value = ResourceVariable.__new__(ResourceVariable)
        handle._parent_trackable, handle._name = weakref.ref(self._value), f"{name}:0"
        handle._unique_id = f"{name}_{ops.uid()}"
        BaseResourceVariable.__init__(
            self._value,
            trainable=self.trainable,
            shape=value.shape,
            dtype=value.dtype,
            handle=handle,
            synchronization=self._map_synchronization(self.synchronization),
            aggregation=self._map_aggregation(self.aggregation),
            unique_id=handle._unique_id,
            handle_name=name,
            in_graph_mode=False,
        )

    keras.Variable._initialize, keras.Variable._initialize_with_initializer = initialize, initialize_with


def _read_variables_directly() -> None:
    """A variable's value as an array needs no second tensor of the value."""
    from tensorflow.python.eager import context
    from tensorflow.python.ops import gen_resource_variable_ops
    from tensorflow.python.ops.resource_variable_ops import BaseResourceVariable

    read = BaseResourceVariable.numpy

    def numpy(self):
        if not context.executing_eagerly():
            return read(self)
        return gen_resource_variable_ops.read_variable_op(self.handle, self.dtype).numpy()

    BaseResourceVariable.numpy = numpy


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
