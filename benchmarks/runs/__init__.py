"""Planning runs, and carrying them out in processes of their own."""
