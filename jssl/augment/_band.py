"""Block size for products with banded matrices: shared by resizing and blurring."""


def block_size(rows: int) -> int:
    """Returns the rows of a block: the largest divisor of `rows` in 16..32, or all rows if none.

    A block of b rows reads b + bandwidth input rows: small blocks multiply fewer zeros, but blocks
    below 16 leave the matrix unit idle.
    """
    divisors = [d for d in range(16, 33) if rows % d == 0]
    return max(divisors, default=rows)
