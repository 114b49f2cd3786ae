"""Channel spaces: the walk over a model's graph that finds which units belong together."""

from kmerge.spaces.channel_space import ChannelSpace
from kmerge.spaces.channels import ChannelSpaces, Record, Trace, channel_spaces, check_selectable, trace
from kmerge.spaces.strictness import strict, warn_of_unfollowed
from kmerge.spaces.walks import copy_name, output_name, walk_calls, without_masks

__all__ = [
    "ChannelSpace",
    "ChannelSpaces",
    "Record",
    "Trace",
    "channel_spaces",
    "check_selectable",
    "copy_name",
    "output_name",
    "strict",
    "trace",
    "walk_calls",
    "warn_of_unfollowed",
    "without_masks",
]
