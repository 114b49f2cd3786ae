"""Networks whose units are matched and whose weights are averaged."""
