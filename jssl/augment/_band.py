"""How banded matrices are cut into blocks: shared by resizing and blurring."""


def block_size(rows: int) -> int:
    """Output rows of one block: the largest divisor of `rows` up to 32, or all if there is none.

    A block of b rows reads b + bandwidth input rows: small blocks multiply fewer zeros, blocks
    below 16 leave the matrix unit idle.
    """
    divisors = [d for d in range(16, 33) if rows % d == 0]
    return max(divisors, default=rows)
