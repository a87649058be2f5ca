"""Models in files: two safetensors files to one frame and back, of any size, tensor by tensor.

>>> import pathlib, tempfile
>>> import numpy as np
>>> from safetensors.numpy import save_file
>>> folder = pathlib.Path(tempfile.mkdtemp())
>>> save_file({"w": np.zeros((64, 64), np.float32)}, folder / "base.safetensors")
>>> save_file({"w": np.linspace(-1, 1, 4096, dtype=np.float32).reshape(64, 64)}, folder / "new.safetensors")
>>> made = encode_file(
...     folder / "new.safetensors", folder / "update.phl", base=folder / "base.safetensors", nmse=0.01
... )
>>> decode_file(folder / "update.phl", folder / "again.safetensors", base=folder / "base.safetensors").tensors
1
>>> inspect_file(folder / "update.phl").parameters
4096
"""

from phloem.files.decoding import decode_file, decode_frame
from phloem.files.encoding import encode_file
from phloem.files.inspection import Inspection, inspect_file
from phloem.files.updates import read_update

__all__ = ["Inspection", "decode_file", "decode_frame", "encode_file", "inspect_file", "read_update"]
