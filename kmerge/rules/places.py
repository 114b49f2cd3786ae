"""Rules for operations on the axes between batch and channels, and for those that move places to channels and back."""

import numpy as np
from keras import layers

from kmerge.rules.labels import Labels
from kmerge.rules.passing import MaximumRule, SpatialRule
from kmerge.rules.rule import OPERATION_RULES, Rule, require_channels_last, rules_for
from kmerge.rules.shapes import named_axis
from kmerge.rules.site import Site

# On each channel alone ------------------------------------------------------------------------------------------------


class ImageRule(SpatialRule):
    """What changes images, each channel alone. An image without a batch would have its rows taken for examples."""

    def walk(self, site, x, *rest):
        if rest or len(x.shape) != 4:
            site.refuse("it does not work on one batch of images.", "Give it one tensor with an axis for examples.")
        return super().walk(site, x)


rules_for(
    layers.Resizing, layers.CenterCrop, layers.RandomCrop, layers.RandomFlip, layers.RandomRotation, layers.RandomZoom,
    layers.RandomTranslation, layers.RandomShear, layers.RandomPerspective, layers.RandomElasticTransform,
    layers.RandomBrightness, layers.RandomContrast, layers.RandomGaussianBlur,
)(ImageRule)  # fmt: skip
rules_for(layers.AdaptiveAveragePooling1D, layers.AdaptiveAveragePooling2D, layers.AdaptiveAveragePooling3D)(SpatialRule)
rules_for(layers.AdaptiveMaxPooling1D, layers.AdaptiveMaxPooling2D, layers.AdaptiveMaxPooling3D)(MaximumRule)


# Other axes -----------------------------------------------------------------------------------------------------------


class MoveAxesRule(Rule):
    """moveaxis and swapaxes: where each axis goes is read from a tensor whose axes have their numbers as sizes."""

    def walk(self, site, x):
        order = np.empty(range(1, len(x.shape) + 1))
        operation = site.layer
        if type(operation).__name__ == "Swapaxes":
            moved = np.swapaxes(order, operation.axis1, operation.axis2)
        else:
            moved = np.moveaxis(order, operation.source, operation.destination)
        if moved.shape[0] != 1:
            site.refuse("it moves the batch axis.", "Keep axis 0 in its place.")
        return site.output(x.units, moved.shape.index(x.axis + 1))


class StackRule(Rule):
    def walk(self, site, *inputs):
        rank = len(inputs[0].shape)
        axis = named_axis(site, site.layer.axis, rank + 1)
        if len(site.call.inputs) != len(inputs) or any(x.axis != inputs[0].axis for x in inputs):
            site.refuse("the channels of its inputs lie on different axes.", "Permute them to the last axis first.")
        if len(site.call.args[0] if site.call.args else site.call.kwargs["x"]) != len(inputs):
            site.refuse("it stacks tensors with arrays.", "Stack tensors only.")
        x = site.tie(*inputs)[0]
        return site.output(x.units, x.axis + (axis <= x.axis))


class UnstackRule(Rule):
    def walk(self, site, x):
        axis = named_axis(site, site.layer.axis, len(x.shape))
        if axis == x.axis:
            site.refuse(f"it takes the channels of axis {axis} apart.", "Split them instead.")
        return [site.output(x.units, x.axis - (axis < x.axis), i) for i in range(len(site.call.outputs))]


class TileRule(Rule):
    def walk(self, site, x):
        repeats = np.atleast_1d(site.layer.repeats).tolist()
        rank = len(x.shape)
        repeats = [1] * (rank - len(repeats)) + repeats
        if len(repeats) > rank or repeats[0] != 1:
            site.refuse("it repeats the batch.", "Give as many repeats as there are axes, the first of them 1.")
        return site.output(np.tile(x.units, repeats[x.axis]), x.axis)


class RepeatRule(Rule):
    def walk(self, site, x):
        if site.layer.axis is None:
            site.refuse("it flattens its input (axis=None).", "Pass axis=-1.")
        if named_axis(site, site.layer.axis, len(x.shape)) != x.axis:
            return site.output(x.units, x.axis)
        if np.size(site.layer.repeats) != 1:
            site.refuse("it repeats channels differently often.", "Gather them with keras.ops.take.")
        return site.output(np.repeat(x.units, int(np.ravel(site.layer.repeats)[0])), x.axis)


# From places to channels and back -------------------------------------------------------------------------------------


class PlacesToChannelsRule(Rule):
    """space_to_depth and extract_patches: each place of a block makes channels, with those of one place in a row."""

    def walk(self, site, x):
        require_channels_last(site)
        site.require_last_axis(x)
        made, read = (tensors[0].shape[-1] for tensors in (site.call.outputs, site.call.inputs))
        return site.output(np.tile(x.units, made // read))


class DepthToSpaceRule(Rule):
    def walk(self, site: Site, x: Labels):
        require_channels_last(site)
        site.require_last_axis(x)
        grid = x.units.reshape(site.layer.block_size**2, -1)
        return site.output(site.tile(x, grid, movable=True)[0])


OPERATION_RULES |= {
    **{name: ImageRule() for name in ("Resize", "CropImages", "PadImages", "AffineTransform")},
    **{name: SpatialRule() for name in ("AveragePool", "AdaptiveAveragePool")},
    **{name: MaximumRule() for name in ("MaxPool", "AdaptiveMaxPool")},
    **{name: MoveAxesRule() for name in ("Moveaxis", "Swapaxes")},
    **{name: PlacesToChannelsRule() for name in ("ExtractPatches", "SpaceToDepth")},
    "DepthToSpace": DepthToSpaceRule(),
    "Repeat": RepeatRule(),
    "Stack": StackRule(),
    "Tile": TileRule(),
    "Unstack": UnstackRule(),
}
