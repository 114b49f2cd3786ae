"""Small graphs with one difficulty each; they join the zoo of `models.py`."""

import keras
from keras import layers, ops

from tests.models import conv, zoo


def _pooled_head(h, units: int = 3, activation: str | None = None):
    return layers.Dense(units, activation=activation)(layers.GlobalAveragePooling2D()(h))


@zoo()
def grouped_convolution():
    x = keras.Input((6, 6, 3))
    h = conv(conv(x, 8), 12, groups=4)  # 4 groups of 2 channels in, 3 out
    return keras.Model(x, _pooled_head(layers.Conv2D(5, 1, activation="relu")(h)))


@zoo()
def grouped_as_depthwise():
    x = keras.Input((6, 6, 3))
    return keras.Model(x, _pooled_head(conv(conv(x, 6), 6, groups=6)))


@zoo()
def depth_multiplier():
    x = keras.Input((6, 6, 3))
    h = layers.DepthwiseConv2D(3, depth_multiplier=2, activation="relu")(conv(x, 4))
    return keras.Model(x, _pooled_head(layers.Conv2D(5, 1, activation="relu")(h)))


@zoo()
def separable_convolution():
    x = keras.Input((6, 6, 3))
    h = layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu")(conv(x, 4))
    return keras.Model(x, _pooled_head(h))


@zoo("softmax")
def convolution_1d():
    x = keras.Input((16, 2))
    h = layers.SpatialDropout1D(0.2)(layers.Conv1D(4, 3, padding="causal", activation="relu")(x))
    h = layers.SeparableConv1D(5, 3, activation="relu")(layers.DepthwiseConv1D(3)(layers.MaxPooling1D()(h)))
    h = layers.Conv1DTranspose(4, 3, 2, activation="relu")(layers.ZeroPadding1D(1)(h))
    h = layers.Cropping1D(2)(layers.UpSampling1D(2)(h))
    return keras.Model(x, layers.Dense(3, activation="softmax")(layers.GlobalMaxPooling1D()(h)))


@zoo()
def convolution_3d():
    x = keras.Input((4, 4, 4, 2))
    h = layers.BatchNormalization()(layers.Conv3D(4, 2, activation="relu")(layers.ZeroPadding3D(1)(x)))
    h = layers.Conv3DTranspose(3, 2, activation="relu")(layers.AveragePooling3D(2)(h))
    h = layers.UpSampling3D(2)(layers.Cropping3D(1)(h))
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(h)))


@zoo()
def group_normalization():
    x = keras.Input((6, 6, 3))
    h = layers.ReLU()(layers.GroupNormalization(2)(layers.Conv2D(6, 3)(x)))
    return keras.Model(x, _pooled_head(layers.Conv2D(4, 3, activation="relu")(h)))


@zoo()
def instance_normalization():
    x = keras.Input((6, 6, 3))
    h = layers.ReLU()(layers.GroupNormalization(groups=-1)(layers.Conv2D(6, 3)(x)))
    return keras.Model(x, _pooled_head(layers.Conv2D(4, 3, activation="relu")(h)))


@zoo()
def channel_shuffle():
    x = keras.Input((6, 6, 3))
    h = layers.Reshape((6, 6, 2, 4))(conv(x, 8))
    h = layers.Reshape((6, 6, 8))(layers.Permute((1, 2, 4, 3))(h))
    return keras.Model(x, _pooled_head(conv(h, 5)))


@zoo()
def zero_padded_shortcut():
    """ResNet's option A: a shortcut to a wider layer is padded with zero channels."""
    x = keras.Input((6, 6, 3))
    h = conv(x, 4)
    for width in (6, 9):
        shortcut = ops.pad(h, [(0, 0), (0, 0), (0, 0), (1, width - h.shape[-1] - 1)])
        h = layers.ReLU()(layers.Add()([shortcut, conv(h, width, activation=None)]))
    return keras.Model(x, _pooled_head(h))


@zoo()
def concatenate_twice_the_same():
    x = keras.Input((5,))
    h = layers.Dense(4, activation="relu")(x)
    h = layers.Dense(5, activation="relu")(layers.Concatenate()([h, h]))
    return keras.Model(x, layers.Dense(3)(h))


@zoo()
def concatenate_h_g_h():
    x = keras.Input((6, 6, 2))
    h, g = conv(x, 4), conv(x, 3)
    joined = layers.BatchNormalization()(layers.Concatenate()([h, g, h]))
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(layers.AveragePooling2D(2)(joined))))


@zoo()
def gated_linear_unit():
    x = keras.Input((5,))
    h = layers.Dense(12)(layers.Dense(6, activation="relu")(x))
    h = h[:, :6] * ops.sigmoid(h[:, 6:])
    return keras.Model(x, layers.Dense(3)(h))


@zoo()
def halves_read_apart():
    x = keras.Input((6, 6, 2))
    h = conv(x, 8)
    left, right = h[..., :4], h[..., 4:]
    return keras.Model(x, _pooled_head(layers.Concatenate()([conv(left, 4), conv(right, 3)])))


@zoo()
def split_operation():
    x = keras.Input((5,))
    first, second, third = ops.split(layers.Dense(9, activation="relu")(x), 3, axis=-1)
    h = layers.Concatenate()([layers.Dense(4, activation="relu")(first), second * third])
    return keras.Model(x, layers.Dense(3)(h))


@zoo(leaves_others=True)
def broadcast_gate():
    x = keras.Input((6, 6, 2))
    h = layers.Multiply()([layers.Conv2D(6, 3)(x), layers.Conv2D(1, 3, activation="sigmoid")(x)])
    return keras.Model(x, _pooled_head(conv(h, 4)))


@zoo(repeats_input=True)
def residual_on_the_input():
    x = keras.Input((4,))
    h = layers.Dense(4)(layers.Dense(6, activation="relu")(x))
    h = ops.relu(x + h)
    return keras.Model(x, layers.Dense(3)(h))


@zoo(repeats_input=True)
def batch_normalization_on_the_input():
    x = keras.Input((6, 6, 3))
    return keras.Model(x, _pooled_head(conv(layers.BatchNormalization()(x), 4)))


@zoo(repeats_input=True)
def depthwise_on_the_input():
    x = keras.Input((6, 6, 3))
    return keras.Model(x, _pooled_head(conv(layers.DepthwiseConv2D(3, activation="relu")(x), 4)))


@zoo(repeats_input=True)
def separable_on_the_input():
    x = keras.Input((6, 6, 3))
    return keras.Model(x, _pooled_head(layers.SeparableConv2D(5, 3, activation="relu")(x)))


@zoo(repeats_input=True)
def normalization_on_the_input():
    x = keras.Input((6, 6, 3))
    return keras.Model(x, _pooled_head(conv(layers.Normalization()(x), 4)))


@zoo()
def preprocessing_on_the_input():
    x = keras.Input((6, 6, 3))
    h = layers.Rescaling([0.5, 2.0, 1.0], offset=[0.0, 1.0, -1.0])(x)
    h = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 0.5])(h)
    return keras.Model(x, _pooled_head(conv(h, 4)))


@zoo()
def rescaling_inside():
    x = keras.Input((5,))
    h = layers.Rescaling([0.5, 2.0, 1.0, -1.0], offset=0.5)(layers.Dense(4, activation="relu")(x))
    return keras.Model(x, layers.Dense(3)(h))


@zoo("linear", "linear", leaves_others=True)
def relu_of_an_output():
    x = keras.Input((5,))
    logits = layers.Dense(3)(layers.Dense(6, activation="relu")(x))
    return keras.Model(x, [logits, layers.ReLU()(logits) * 2.0])


@zoo(leaves_others=True)
def classes_then_pooling():
    x = keras.Input((6, 6, 2))
    h = layers.Conv2D(3, 3, activation="relu")(conv(x, 5))
    return keras.Model(x, layers.GlobalAveragePooling2D()(h))


@zoo(leaves_others=True)
def product_of_heads():
    x = keras.Input((5,))
    h = layers.Dense(6, activation="relu")(x)
    return keras.Model(x, layers.Multiply()([layers.Dense(3)(h), layers.Dense(3)(h)]))


@zoo("softmax", leaves_others=True)
def batch_normalization_before_the_output():
    x = keras.Input((5,))
    logits = layers.Dense(3, use_bias=False)(layers.Dense(6, activation="relu")(x))
    return keras.Model(x, layers.Softmax()(layers.BatchNormalization()(logits)))


@zoo("sigmoid")
def sigmoid_output():
    x = keras.Input((5,))
    h = layers.Dense(6, activation="relu")(x)
    return keras.Model(x, layers.Dense(2, activation="sigmoid")(h))


@zoo()
def operators_1d():
    x = keras.Input((8, 2))
    h = layers.Conv1D(4, 3, padding="same")(x)
    h = ops.relu(h + layers.Conv1D(4, 1)(x) * 2.0)
    h = ops.concatenate([h, -ops.tanh(layers.Conv1D(3, 3, padding="same")(h))], axis=-1)
    turned = ops.transpose(h, (0, 2, 1))  # (B, 7, 8)
    mean = ops.mean(h, axis=1) - 0.5 * ops.max(turned, axis=2)
    flat = ops.reshape(h[:, 2:4], (-1, 14))
    return keras.Model(x, layers.Dense(3)(ops.concatenate([mean, flat], axis=1)))


@zoo()
def shared_dense():
    left, right = keras.Input((5,)), keras.Input((5,))
    shared = layers.Dense(4, activation="relu")
    a, b = layers.Dense(6, activation="relu")(left), layers.Dense(6, activation="relu")(right)
    h = layers.Concatenate()([shared(a), shared(b)])
    return keras.Model([left, right], layers.Dense(3)(h))


@zoo()
def layer_applied_to_its_output():
    x = keras.Input((5,))
    repeated = layers.Dense(6, activation="tanh")
    return keras.Model(x, layers.Dense(3)(repeated(repeated(layers.Dense(6, activation="relu")(x)))))


@zoo()
def nested_three_deep_and_shared():
    x = keras.Input((4,))
    innermost = keras.Model(x, layers.Dense(4, activation="tanh")(x))
    y = keras.Input((4,))
    inner = keras.Model(y, layers.Add()([y, innermost(innermost(y))]))
    z = keras.Input((4,))
    outer = keras.Model(z, layers.Dense(4, activation="relu")(inner(layers.Dense(4)(inner(z)))))
    left, right = keras.Input((5,)), keras.Input((5,))
    h = [outer(layers.Dense(4)(side)) for side in (left, right)]
    return keras.Model([left, right], layers.Dense(3)(layers.Concatenate()(h)))


@zoo()
def elementwise_layers():
    x = keras.Input((5,))
    a, b, c = (layers.Dense(6)(x) for _ in range(3))
    h = layers.Maximum()([layers.Average()([a, b]), layers.Subtract()([b, c]), layers.Minimum()([a, c])])
    return keras.Model(x, layers.Dense(3)(h))


@zoo()
def activations_with_weights():
    x = keras.Input((6, 6, 2))
    h = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(4, 3)(x))
    h = layers.PReLU()(layers.Conv2D(3, 3)(h))  # alpha (2, 2, 3)
    h = layers.ELU()(layers.LeakyReLU()(layers.Conv2D(5, 1)(h)))
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(h)))


@zoo("softmax")
def noise_and_dropout():
    x = keras.Input((6, 6, 2))
    h = layers.SpatialDropout2D(0.3)(conv(layers.GaussianNoise(0.1)(x), 4))
    h = layers.AlphaDropout(0.2)(layers.GaussianDropout(0.2)(h))
    h = layers.ActivityRegularization(1e-3)(layers.Dropout(0.3)(layers.Flatten()(h)))
    return keras.Model(x, layers.Dense(3, activation="softmax")(h))


@zoo()
def one_unit_layers():
    x = keras.Input((5,))
    h = layers.Dense(4, activation="relu")(layers.Dense(1, activation="tanh")(x))
    return keras.Model(x, layers.Dense(1)(layers.Dense(1, activation="tanh")(h)))


@zoo("linear", "softmax")
def dictionary_outputs():
    x = keras.Input((5,))
    h = layers.Dense(6, activation="relu")(x)
    return keras.Model(x, {"age": layers.Dense(1)(h), "kind": layers.Dense(3, activation="softmax")(h)})


@zoo()
def dense_on_maps():
    x = keras.Input((4, 4, 2))
    h = layers.Dense(5, activation="relu")(layers.Permute((2, 1, 3))(layers.Conv2D(4, 3, activation="relu")(x)))
    h = layers.Reshape((-1, 5))(h)  # (B, 4, 5)
    return keras.Model(x, layers.Dense(3)(layers.Flatten()(h)))


@zoo()
def unknown_image_size():
    x = keras.Input((None, None, 3))
    return keras.Model(x, _pooled_head(conv(layers.Concatenate()([conv(x, 4), conv(x, 3, (1, 3))]), 5)))
