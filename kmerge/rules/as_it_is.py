"""Layers and operations of Keras that no rule follows on purpose, and why: they run as they are.

In front of the first weight this costs nothing: what is computed from inputs alone is common to all models. Elsewhere such
a layer holds its channels fixed, and `concatenate` runs one for each model.
"""

from collections.abc import Mapping

from keras import Operation


def _by_name(reasons: Mapping[str, str]) -> dict[str, str]:
    """Reasons by name, from the names by reason."""
    return {name: why for why, names in reasons.items() for name in names.split()}


LAYERS = _by_name(
    {
        "It multiplies channels of one tensor with those of another.": "Dot",
        "It works on the three color channels of an image together.": (
            "AugMix AutoContrast ContrastLimitedAdaptiveHistogramEqualization Equalization RandAugment "
            "RandomColorDegeneration RandomColorJitter RandomGrayscale RandomHue RandomPosterization RandomSaturation "
            "RandomSharpness RandomErasing RandomInvert Solarization"
        ),
        "It mixes examples of a batch while it trains.": "CutMix MixUp",
        "It reads tokens, numbers or boxes, and no channels.": (
            "CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup MaxNumBoundingBoxes StringLookup "
            "TextVectorization"
        ),
        "It turns a signal into frequencies, which take the place of channels.": "MelSpectrogram STFTSpectrogram",
        "What it does stands in another layer, or in another framework.": (
            "FlaxLayer JaxLayer Lambda Pipeline TFSMLayer TimeDistributed TorchModuleWrapper"
        ),
        "It is a part of other layers and does not stand in a graph by itself.": (
            "GRUCell InputLayer InputSpec Layer LSTMCell SimpleRNNCell StackedRNNCells Wrapper"
        ),
    }
)  # fmt: skip

OPERATIONS = _by_name(
    {
        "It makes a tensor from numbers alone.": (
            "arange array bartlett blackman empty empty_like eye full full_like geomspace hamming hanning identity kaiser "
            "linspace logspace meshgrid ones tri zeros"
        ),
        "It says something of a tensor and gives none, or does not stand in a graph.": (
            "cond convert_to_numpy custom_gradient dtype fori_loop is_tensor jvp map associative_scan ndim scan shape size "
            "switch vectorize vectorized_map while_loop"
        ),
        "It multiplies channels of one tensor with those of another.": (
            "cdist corrcoef correlate cross dot dot_product_attention einsum inner kron outer tensordot vdot"
        ),
        "Its kernel, scale or statistics are arguments, and not weights of a layer.": (
            "batch_normalization conv conv_transpose depthwise_conv layer_normalization rms_normalization separable_conv"
        ),
        "It works on matrices, whose rows and columns belong together.": (
            "cholesky cholesky_inverse det diag diagflat diagonal eig eigh inv logdet lstsq lu_factor matrix_rank pinv qr "
            "slogdet solve solve_triangular svd trace tril triu vander"
        ),
        "It compares or orders values of several channels, and gives their places.": (
            "argmax argmin argpartition argsort digitize in_top_k isin nanargmax nanargmin nonzero searchsorted top_k unique "
            "unravel_index"
        ),
        "It takes quantiles or counts of values.": "bincount histogram nanpercentile nanquantile percentile quantile",
        "It turns a signal into frequencies, which take the place of channels.": (
            "extract_sequences fft fft2 ifft2 irfft istft rfft stft"
        ),
        "It works on complex numbers, or on the bits of numbers.": (
            "angle conj conjugate imag polar real view view_as_complex view_as_real"
        ),
        "It makes one number of two whole tensors, or a loss.": (
            "allclose binary_crossentropy categorical_crossentropy ctc_decode ctc_loss psnr sparse_categorical_crossentropy "
            "ssim"
        ),
        "It works on the three color channels of an image together.": "hsv_to_rgb rgb_to_grayscale rgb_to_hsv",
        "It takes points or kernels as arguments, or makes several values of one.": (
            "elastic_transform extract_patches_3d gaussian_blur map_coordinates perspective_transform scale_and_translate "
            "sobel_edges"
        ),
        "It joins, moves or chooses values by axes or indices that may be those of the batch or of channels.": (
            "append array_split average broadcast_to dsplit dstack fliplr flipud fold hsplit hstack moments multi_hot one_hot "
            "ravel rearrange rot90 scatter scatter_update segment_max segment_min segment_prod segment_sum select slice "
            "slice_update take_along_axis unfold vsplit vstack"
        ),
        "It makes one channel of two that lie apart.": "glu",
    }
)  # fmt: skip

_BY_CLASS = {name.replace("_", ""): why for name, why in OPERATIONS.items()}


def reason_of(operation: Operation) -> str | None:
    """Why an operation or a layer of Keras runs as it is on purpose; None for all others."""
    kind = type(operation)
    if kind.__module__.startswith("keras.src.ops"):
        return _BY_CLASS.get(kind.__name__.lower())
    return LAYERS.get(kind.__name__) if kind.__module__.startswith("keras.src.layers") else None
