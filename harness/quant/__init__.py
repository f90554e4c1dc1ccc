"""How element formats cover a tensor: granularity, scales, codes, exact size."""
