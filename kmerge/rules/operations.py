"""Rules for operations: `x + y` and `keras.ops.*` on symbolic tensors. They have no public classes, so names tell them.

The layers that `keras.applications` defines for itself have none either, and stand here for that reason.
"""

import numpy as np

from kmerge.rules.passing import ElementwiseRule
from kmerge.rules.rule import OPERATION_RULES, Rule, channel
from kmerge.rules.shapes import (
    ConcatenateRule,
    ReshapeOperationRule,
    ResizeRule,
    SliceRule,
    SplitRule,
    TakeRule,
    combine,
)
from kmerge.rules.site import Site


class TransposeRule(Rule):
    def walk(self, site, x):
        axes = site.layer.axes or range(len(x.shape))[::-1]
        if list(axes)[0] != 0:
            site.refuse("it moves the batch axis.", "Keep axis 0 in its place.")
        return site.output(x.units, [a % len(x.shape) for a in axes].index(x.axis))


class PadRule(Rule):
    """Constant channels, as those that a shortcut to a wider layer is padded with, are units of their own."""

    def walk(self, site, x):
        if self._widths(site, x)[0] != (0, 0):
            site.refuse("it pads the batch axis.", "Pad other axes only.")
        before, after = self._widths(site, x)[x.axis]
        if before == after == 0:
            return site.output(x.units, x.axis)
        if site.layer.mode != "constant":
            site.refuse(f"it pads the channels with others (mode={site.layer.mode!r}).", "Pad them with a constant.")
        return site.output(np.concatenate([site.own(before, "before"), x.units, site.own(after, "after")]), x.axis)

    def changes(self, site, inputs, outputs):
        widths = self._widths(site, inputs[0])
        before, after = widths[inputs[0].axis]
        if before == after == 0:
            return {}
        widths[inputs[0].axis] = (len(site.own(before, "before")), len(site.own(after, "after")))
        return {"pad_width": tuple(widths)}

    @staticmethod
    def _widths(site, x):
        widths = [tuple(pair) for pair in site.layer.pad_width]
        return widths * len(x.shape) if len(widths) == 1 else widths


class ArithmeticRule(Rule):
    """x + y, x * y, ...: of tensors, or of a tensor and a number."""

    is_elementwise = takes_any_tensor = True

    def __init__(self, linear: bool, scales: bool = False, multiplies: bool = False):
        self.linear = linear
        self.scales = scales  # linear, if there is one tensor and it stands first
        self.multiplies = multiplies

    def walk(self, site, *inputs):
        refuse_lists(site)
        first = site.call.args[0] if site.call.args else site.call.kwargs.get("x1")
        inverse = "Divide" in type(site.layer).__name__ and first is not site.call.inputs[0]
        if not self.linear and (len(inputs) > 1 or inverse or not self.scales):
            site.curve(*inputs)
        return combine(site, inputs)


def refuse_lists(site: Site) -> None:
    """Refuses lists of numbers, which are no arrays yet."""
    for value in (*site.call.args, *site.call.kwargs.values()):
        if isinstance(value, (list, tuple)) and np.size(value) != 1:
            site.refuse("it combines channels with a list of numbers.", "Make it an array: np.array(values).")


class WhereRule(Rule):
    is_elementwise = True

    def walk(self, site, *inputs):
        refuse_lists(site)
        if len(site.call.args) + len(site.call.kwargs) < 3:
            site.refuse("it finds the places where a condition holds.", "Give it two tensors to choose from.")
        site.curve(*inputs)
        return combine(site, inputs)


class OperationPassRule(Rule):
    is_elementwise = takes_any_tensor = True

    def walk(self, site, x):
        return site.output(x.units, x.axis)


_ELEMENTWISE = (
    "Relu ReLU Relu6 Sigmoid Tanh Silu Gelu Elu Selu Softplus Softsign LeakyRelu HardSigmoid HardSilu HardTanh Celu Mish "
    "LogSigmoid SparsePlus SparseSigmoid Squareplus Threshold SoftShrink HardShrink TanhShrink "
    "Exp Exp2 Expm1 Log Log10 Log1p Log2 Sqrt Cbrt Rsqrt Square Reciprocal Erf Erfc Erfinv I0 Sinc "
    "Sin Cos Tan Arcsin Arccos Arctan Sinh Cosh Arcsinh Arccosh Arctanh Deg2rad Rad2deg "
    "Absolute Abs Fabs Sign Signbit Clip Floor Ceil Round Trunc NanToNum SaturateCast OnesLike ZerosLike "
    "Isfinite Isinf Isnan Isneginf Isposinf Isreal BitwiseInvert BitwiseNot"
).split()

# Of two tensors, or of a tensor and a number or an array.
_OF_TWO = (
    "Maximum Minimum Fmax Fmin Power Mod Fmod FloorDivide DivideNoNan Arctan2 Heaviside Hypot Ldexp Logaddexp Logaddexp2 "
    "Nextafter Gcd Lcm Isclose Equal NotEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr LogicalNot LogicalXor "
    "BitwiseAnd BitwiseOr BitwiseXor BitwiseLeftShift BitwiseRightShift LeftShift RightShift"
).split()

OPERATION_RULES |= {
    **{name: ElementwiseRule() for name in _ELEMENTWISE},
    **{name: ArithmeticRule(linear=True) for name in ("Add", "Subtract")},
    **{name: ArithmeticRule(linear=False, scales=True) for name in ("Divide", "TrueDivide")},
    **{name: ArithmeticRule(linear=False) for name in _OF_TWO},
    "Multiply": ArithmeticRule(linear=False, scales=True, multiplies=True),
    "Where": WhereRule(),
    **{name: OperationPassRule() for name in ("Negative", "Cast", "ConvertToTensor", "Identity", "Copy", "StopGradient")},
    **{name: ResizeRule() for name in ("ExpandDims", "Squeeze")},
    "Concatenate": ConcatenateRule(),
    "GetItem": SliceRule(),
    "Pad": PadRule(),
    "Reshape": ReshapeOperationRule(),
    "Split": SplitRule(),
    "Take": TakeRule(),
    "Transpose": TransposeRule(),
}


class CustomScaleRule(Rule):
    """InceptionResNetV2: `x + scale * h`, with a number as the scale."""

    def walk(self, site, *inputs):
        return combine(site, inputs)


class LayerScaleRule(Rule):
    """ConvNeXt: one factor for each channel."""

    def walk(self, site, x):
        site.require_last_axis(x)
        x = site.hold(x)
        site.weight("gamma", channel(x.units))
        return x

    def changes(self, site, inputs, outputs):
        return {"projection_dim": len(outputs[0].units)}


class StochasticDepthRule(Rule):
    """ConvNeXt with drop_path_rate: leaves out whole examples while it trains."""

    def walk(self, site, x):
        return x


APPLICATION_RULES: dict[str, Rule] = {
    "CustomScaleLayer": CustomScaleRule(),
    "LayerScale": LayerScaleRule(),
    "StochasticDepth": StochasticDepthRule(),
}
