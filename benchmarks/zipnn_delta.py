"""The delta mode of zipnn 0.5.4 on two safetensors files, for `exact.py`; runs in an environment that has zipnn.

`python zipnn_delta.py BASE TUNED OUT` prints JSON: bytes, seconds to pack (fsynced) and to unpack, and whether the
unpacked bytes are the file's. Delta mode is XOR of two byte strings of equal length, then its bfloat16 coder.
"""

import json
import os
import sys
import time
from pathlib import Path

from zipnn import ZipNN


def main() -> None:
    base, tuned, out = (Path(word) for word in sys.argv[1:])
    coder = ZipNN(bytearray_dtype="bfloat16", delta_compressed_type="byte")
    start = time.perf_counter()
    first, second = base.read_bytes(), tuned.read_bytes()
    packed = coder.compress(second, delta_second_data=first)
    with out.open("wb") as file:
        file.write(packed)
        os.fsync(file.fileno())
    middle = time.perf_counter()
    found = coder.decompress(out.read_bytes(), delta_second_data=base.read_bytes())
    end = time.perf_counter()
    same = bytes(found) == second
    print(json.dumps({"bytes": len(packed), "pack": middle - start, "unpack": end - middle, "lossless": same}))


if __name__ == "__main__":
    main()
