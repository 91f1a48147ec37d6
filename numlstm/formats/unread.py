"""Files and folders that numlstm does not read, by what they are, each with a way to a file that it reads."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

from numlstm.base.typing import Path

TF2ONNX = "convert it to ONNX (python -m tf2onnx.convert"  # and arguments
KERAS = "If Keras made it, load it there and save it as .keras or .h5"
SAVED_MODEL = f"{KERAS}; or {TF2ONNX} --saved-model FOLDER --output model.onnx)."
CORE_ML = "Load the model that it was converted from: Core ML's own weights have another layout."
CHECKPOINT = "Build the model in TensorFlow, restore the checkpoint, and save the model as .keras or .h5."
GRAPH = f"{KERAS}; or {TF2ONNX} --graphdef FILE --output model.onnx --inputs NAME:0 --outputs NAME:0)."
LITE = f"Load the Keras model that it was converted from; or {TF2ONNX} --tflite FILE --output model.onnx)."
MSGPACK = (
    "Read it with flax.serialization.msgpack_restore, and save its arrays by name: "
    'np.savez("model.npz", **flax.traverse_util.flatten_dict(params, sep="/")).'
)
FOLDERS = (  # by a file within
    ("saved_model.pb", f"a TensorFlow SavedModel\n{SAVED_MODEL}"),
    ("saved_model.pbtxt", f"a TensorFlow SavedModel\n{SAVED_MODEL}"),
    ("Manifest.json", f"a Core ML package (.mlpackage)\n{CORE_ML}"),
    ("coremldata.bin", f"a compiled Core ML model (.mlmodelc)\n{CORE_ML}"),
    ("checkpoint", f"a folder of TensorFlow checkpoints\n{CHECKPOINT}"),
    ("_CHECKPOINT_METADATA", "a checkpoint of Orbax\nRestore it with Orbax, and save its arrays by name: np.savez."),
)
STARTS = (
    (
        re.compile(rb"version https://git-lfs"),
        "a pointer of Git LFS, in the place of the model\nFetch the model itself: git lfs pull.",
    ),
    (re.compile(rb"\s*<(?:!doctype )?html", re.I), "a web page\nDownload the file itself, not the page that shows it."),
    (re.compile(rb"\x1f\x8b"), "compressed by gzip\nDecompress it first: gunzip."),
    (re.compile(rb"....TFL3", re.S), f"a TensorFlow Lite model\n{LITE}"),
    (re.compile(rb"(?:all_)?model_checkpoint_path"), f"the list of TensorFlow's checkpoints\n{CHECKPOINT}"),
    # NodeDef within GraphDef: a name, and the name of an operator
    (
        re.compile(rb"\n[\x80-\xff]{0,4}[\0-\x7f]\n[\x01-\x7f][A-Za-z0-9._/\\-]+\x12[\x01-\x7f][A-Z]"),
        f"a frozen TensorFlow graph\n{GRAPH}",
    ),
    # a Model's description begins with a feature's, at least as long as its name
    (re.compile(rb"\x08[\x02-\x7f]\x12[\x80-\xff]{0,4}[\0-\x7f][\n\xa2]"), f"a Core ML model (.mlmodel)\n{CORE_ML}"),
    (
        re.compile(rb"\x08\x01\x12[\x80-\xff]{0,4}[\0-\x7f][\n\xa2]"),
        f"a TensorFlow SavedModel (saved_model.pb), or an old Core ML model\n{SAVED_MODEL}",
    ),
    (re.compile(rb"[\x81-\x8f][\xa1-\xbf][A-Za-z_]"), f"msgpack, as Flax writes it\n{MSGPACK}"),
)
TABLE = bytes.fromhex("57fb808b247547db")  # at the end of a table of LevelDB, which a checkpoint's index is


def what_it_is(start: bytes, file: BinaryIO, size: int) -> str:
    """What a file is that no reader knows, and the way out; "" if this is unknown.

    Examples
    --------
    >>> import io
    >>> what_it_is(b"\\x1c\\0\\0\\0TFL3", io.BytesIO(), 0).partition(chr(10))[0]
    'a TensorFlow Lite model'
    """
    for pattern, said in STARTS:
        if pattern.match(start):
            return said
    file.seek(max(0, size - len(TABLE)))
    return f"the index of a TensorFlow checkpoint\n{CHECKPOINT}" if file.read(len(TABLE)) == TABLE else ""


def what_folder(path: Path) -> str:
    """As `what_it_is`, for a folder; "" for any other path."""
    return next((said for name, said in FOLDERS if os.path.isfile(os.path.join(path, name))), "")
