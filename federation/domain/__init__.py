"""The nouns: frozen values without clocks, ids of their own, I/O or wire. Floor 0: everything may import them."""
