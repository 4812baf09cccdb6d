"""What is measured: each module yields the figures of one case."""
