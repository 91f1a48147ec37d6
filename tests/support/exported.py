"""An exported library in this process, and models with a fault."""

import ctypes
import struct
import zlib

import numpy as np
from needs import leave_out

from numlstm.base.cell_options import of_kernel
from numlstm.export import library, link, targets
from numlstm.export.model_file import model_bytes
from numlstm.runtime.packed_weights import aligned_empty

HERE = targets.find("host")


class Library:
    """A library that this process has loaded: the shared one."""

    def __init__(self, number, folder, level=None):
        self.level, self.kernel = HERE.level(level), number
        dtype = of_kernel(number)[0]
        self.number = np.dtype("float32" if dtype == "bfloat16" else dtype)
        try:
            command = link.find(HERE)
        except RuntimeError as error:
            leave_out(str(error))
        made = {name: code for name, (code, _) in library.objects(number, self.level, "numlstm").items()}
        path = folder / HERE.shared.format("numlstm")
        path.write_bytes(link.shared(command, made, path.name))
        self.library = ctypes.CDLL(path)

    def __getattr__(self, name):
        result = {"error_text": ctypes.c_char_p, "h": ctypes.c_void_p, "c": ctypes.c_void_p}.get(name)
        codes = ("load", "state_init", "step", "forward", "reset")
        kind = result or (ctypes.c_int32 if name in codes else ctypes.c_int64)
        function = ctypes.CFUNCTYPE(kind)((f"numlstm_{name}", self.library))

        def call(*arguments):
            given = [ctypes.c_int64(int(a)) if isinstance(a, (int, np.integer)) else a for a in arguments]
            return function(*given)

        return call

    def model(self, content):
        """(code, address) of a model, and what keeps its memory."""
        memory = aligned_empty(len(content), np.dtype(np.uint8))
        memory[:] = np.frombuffer(content, np.uint8)
        result = ctypes.c_int64(0)
        return self.load(memory.ctypes.data, len(content), ctypes.byref(result)), result.value, memory

    def state(self, model, rows, steps):
        """(code, address) of a state, and what keeps its memory."""
        needed = self.state_bytes(model, rows, steps)
        memory = np.full(max(needed, 1), 0xA5, np.uint8)
        result = ctypes.c_int64(0)
        code = self.state_init(model, rows, steps, memory.ctypes.data, needed, ctypes.byref(result))
        return code, result.value, memory


def sealed(content):
    """The same with a checksum that is right."""
    content = bytearray(content)
    content[24:32] = struct.pack("<q", zlib.crc32(content[32:]))
    return bytes(content)


def changed(content, word, value):
    content = bytearray(content)
    content[8 * word : 8 * word + 8] = struct.pack("<q", value)
    return bytes(content)


def content_of(lstm, level):
    """The model file of an LSTM."""
    return model_bytes(lstm._panels, level)
