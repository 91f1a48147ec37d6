"""LSTMs over more sequences than one machine holds, computed by Dask: lazily, in chunks, on many workers.

Needs the extra ``dask``.

Examples
--------
>>> import dask.array as da
>>> import numlstm, numlstm.dask
>>> lstm = numlstm.LSTM(3, 4, seed=0).eval()
>>> x = da.ones((20, 1000, 3), chunks=(10, 250, 3), dtype="float32")  # steps, batch, features
>>> output, (h_n, c_n) = numlstm.dask.forward(lstm, x)
>>> output
dask.array<numlstm-output, shape=(20, 1000, 4), dtype=float32, chunksize=(10, 250, 4), chunktype=numpy.ndarray>
>>> h_n[:, :2].compute().shape  # two of the four chunks of sequences are not run
(1, 2, 4)
"""

from typing import TYPE_CHECKING, Any

from numlstm.base.requirements import install

try:
    import dask.array  # noqa: F401
except ImportError as error:
    raise ImportError(f"numlstm.dask needs Dask ({error}); install it with: {install('dask')}") from error

from numlstm.dask.arrays import forward

__all__ = ["forward", "forward_frame"]


if TYPE_CHECKING:
    from numlstm.dask.frames import forward_frame
else:  # a type checker that saw this would accept any name

    def __getattr__(name: str) -> Any:
        if name == "forward_frame":  # needs pandas and pyarrow as well
            from numlstm.dask.frames import forward_frame

            return forward_frame
        raise AttributeError(f"module 'numlstm.dask' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name[:2] == name[-2:] == "__")})
