"""Layers that find their own width, and static networks of the widths they found."""
