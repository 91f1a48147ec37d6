"""The CUDA stream of a thread's calls, as the caller chose it."""

import contextlib
import threading

_local = threading.local()


def handle_of(stream):
    """The handle of an object with ``__cuda_stream__``, or of a handle itself."""
    if hasattr(stream, "__cuda_stream__"):
        version, handle = stream.__cuda_stream__() if callable(stream.__cuda_stream__) else stream.__cuda_stream__
        if version != 0:
            raise ValueError(f"__cuda_stream__ must be of version 0, not {version}")
        return int(handle)
    if isinstance(stream, int) and not isinstance(stream, bool) and stream >= 0:
        return stream
    raise TypeError(f"a stream must have __cuda_stream__ or be a handle, an int of at least 0, not {stream!r}")


@contextlib.contextmanager
def use(stream):
    """Within the context, calls of this thread run on this stream and do not wait for it.

    Parameters
    ----------
    stream : object with ``__cuda_stream__``, or int
        A stream of CuPy, PyTorch, cuda.core or another library.

    Notes
    -----
    By default, calls run on the current stream of the input's library (PyTorch, CuPy), on the stream that its
    ``__cuda_array_interface__`` names, or else on the default stream.
    """
    before = getattr(_local, "handle", None)
    _local.handle = handle_of(stream)
    try:
        yield
    finally:
        _local.handle = before


def chosen():
    """The handle that `use` set in this thread, or None."""
    return getattr(_local, "handle", None)
