"""The stream that calls of a thread work on, where their caller says one."""

import contextlib
import threading

_local = threading.local()


def handle_of(stream):
    """The handle of a stream: of anything with ``__cuda_stream__``, or the handle itself."""
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
    """Within the block, calls of this thread work on this stream and do not wait for it.

    Parameters
    ----------
    stream : object with ``__cuda_stream__``, or int
        A stream of CuPy, PyTorch, cuda.core or anyone else.

    Notes
    -----
    Without it an array of PyTorch or CuPy is worked on in the current stream of that library, one whose
    ``__cuda_array_interface__`` names a stream in that, all else in the default stream.
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
