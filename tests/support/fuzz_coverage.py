"""Mutants that are bred by what they reach: libFuzzer's search over the readers in Python (atheris, the extra `fuzz`).

    python tests/support/fuzz_coverage.py FORMAT CORPUS... [OPTIONS OF LIBFUZZER]

What is mutated is the part of a file that a parser sees: a header, a pickle, a text. `FORMS` packs it into a file. The
first CORPUS takes what reaches something new; tests/fixtures/corpus/FORMAT has seeds. Without options it runs until it
is stopped, or finds something: an exception of another kind than promised, a hang, memory beyond what the size of the
file justifies, numbers that another reader of the format does not see. The part is left in a file ``crash-…`` then,
and ``python tests/support/fuzz_coverage.py FORMAT crash-…`` repeats it.
"""

import io
import os
import random
import resource
import struct
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import atheris
import fuzz

with atheris.instrument_imports(include=["numlstm.formats", "numlstm.commands.sequence_files", "numlstm.base.opening"]):
    import numlstm
    from numlstm.commands import sequence_files
    from numlstm.formats import (
        json_models,
        npz,
        numlstm_config,
        other_names,
        reparametrized,
        safetensors,
        state_dict,
        zips,
    )
    from numlstm.formats import text as formats_text
    from numlstm.formats.keras import hdf5
    from numlstm.formats.keras import layers as keras_config
    from numlstm.formats.keras import reader as keras
    from numlstm.formats.keras import weights as keras_weights
    from numlstm.formats.onnx import chain, graph, tensors
    from numlstm.formats.onnx import reader as onnx
    from numlstm.formats.torch import archive as torch_zip
    from numlstm.formats.torch import legacy as torch_legacy
    from numlstm.formats.torch import tree, unpickle

import numpy as np

FIXTURES = Path(__file__).parents[1] / "fixtures"
ROOM = 512 << 20  # bytes of address space beyond what the imports and the fuzzer take; inputs are some kilobytes
LONGEST = 16384  # bytes of an input
READERS = (
    *(hdf5, keras, keras_config, keras_weights, npz, numlstm_config, onnx, chain, graph, tensors),
    *(safetensors, state_dict, torch_legacy, tree, torch_zip, unpickle, zips),
    *(json_models, other_names, reparametrized, formats_text),
)  # all are instrumented


def zipped(*entries: tuple[str, bytes]) -> bytes:
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data)
    return into.getvalue()


def of_safetensors(part: bytes) -> bytes:
    """A header, before as many bytes as the largest one of the seeds says."""
    return struct.pack("<Q", len(part)) + part + bytes(384)


def of_keras(part: bytes) -> bytes:
    with zipfile.ZipFile(FIXTURES / "keras/keras3_stack.keras") as archive:
        weights = archive.read("model.weights.h5")
    return zipped(
        ("metadata.json", b'{"keras_version": "3.8.0"}'), ("config.json", part), ("model.weights.h5", weights)
    )


FORMS = {  # how a mutated part becomes a file
    "safetensors": of_safetensors,
    "npz": lambda part: zipped(("weight_ih_l0.npy", part), ("weight_hh_l0.npy", part)),
    "torch-zip": lambda part: zipped(("a/data.pkl", part), *((f"a/data/{k}", bytes(256)) for k in range(16))),
    "torchscript": lambda part: zipped(
        ("a/data.pkl", (FIXTURES / "corpus/torch-zip/scripted").read_bytes()),
        ("a/code/__torch__/torch/nn/modules/rnn.py", part),
        *((f"a/data/{k}", bytes(256)) for k in range(4)),
    ),
    "torch-legacy": bytes,
    "onnx": bytes,
    "keras": of_keras,
    "keras2-h5": bytes,
    "zip": bytes,
    "series": bytes,
    "json": bytes,
}


def read(form: str, path: Path, data: bytes) -> None:
    """Whatever a file may do to the library; an exception that goes on is a finding."""
    if form == "series":
        for suffix in (".csv", ".npy"):
            place = path.with_suffix(suffix)
            place.write_bytes(data)
            try:
                with sequence_files.opened(place) as given:
                    outer, inner = (*given.shape, 1)[:2] if len(given.shape) > 2 else (given.shape[0], 1)
                    given.read(slice(0, outer), slice(0, inner))
            except (ValueError, OSError, IndexError) as error:
                if isinstance(error, IndexError) and len(given.shape) in (2, 3):
                    raise
        return
    path.write_bytes(data)
    fuzz.survived(path)
    if form == "safetensors":
        agrees(path, data)


def agrees(path: Path, data: bytes) -> None:
    """What loads here has the numbers that the library of the format gives."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        ours = numlstm.load_tensors(path)
        theirs = load(data)
    except (ValueError, KeyError):
        return
    except SafetensorError as error:
        if any(known in str(error) for known in ("unknown variant", "missing field", "unknown field")):
            return  # of a tensor in a number type of the future
        raise AssertionError(f"it loads here, and the library says {error}") from error
    assert ours.keys() <= theirs.keys()
    assert all(ours[name].tobytes() == np.asarray(theirs[name]).tobytes() for name in ours)


@atheris.instrument_func
def maze(part: bytes) -> None:
    """Planted: a fault behind four bytes, each of which reaches something new; at random it takes 2**32 mutants."""
    if part[:1] == b"m" and part[1:2] == b"a" and part[2:3] == b"z" and part[3:4] == b"e":
        raise RuntimeError("planted")


def main(form: str, *options: str) -> None:
    """Run until libFuzzer ends the process."""
    packed, plant = FORMS[form], "FUZZ_PLANT" in os.environ
    folder = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    path = Path(folder, "mutant")
    warnings.simplefilter("ignore")
    numlstm.LSTM(1, 1).save(Path(folder, "m.npz"))
    numlstm.load(Path(folder, "m.npz"))  # what is imported and made at the first time is no mutant's

    def one(part: bytes) -> None:
        if plant:
            maze(part)
        else:
            read(form, path, packed(part))

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        """Small damages as of tests/support/fuzz.py, and libFuzzer's own."""
        rng = random.Random(seed)
        return fuzz.mutated(data, rng)[:most] if rng.random() < 0.5 else atheris.Mutate(data, most)

    limits = [f"-max_len={LONGEST}", "-timeout=10", "-rss_limit_mb=2048"]
    atheris.Setup([sys.argv[0], *limits, *options], one, custom_mutator=mutator)
    status = Path("/proc/self/status").read_text().splitlines()
    size = next(int(line.split()[1]) << 10 for line in status if "VmSize" in line)
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM + (2 << 30), size + ROOM + (2 << 30)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
