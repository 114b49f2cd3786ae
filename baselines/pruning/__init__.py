"""Networks that lose weights or channels after training."""
