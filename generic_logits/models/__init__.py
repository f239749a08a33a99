"""Two models made one: the pair, its decoding state, and the processor."""
