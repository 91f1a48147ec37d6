"""examples/voice_activity.py: the probabilities of onnxruntime running the original, and its output."""

import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from judge import flip_one_bit, same_bits
from needs import need, need_files
from scripts import script

import numlstm

pytestmark = pytest.mark.cpu_level

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT, WAV = EXAMPLES / "voice_activity.py", EXAMPLES / "speech.wav"
SAID = ((0.60, 2.12), (3.86, 5.42), (5.87, 6.81))  # seconds; make_speech.py prints them
TOLERANCE = 4e-6  # of a probability; measured 8.1e-7
THEIRS = "If_0_then_branch__Inline_0__"  # before the names of the 16 kHz model in silero_vad.onnx
OTHER_NAMES = {  # of silero_vad_16k.safetensors, for those of silero_vad.onnx
    "stft.forward_basis_buffer": "stft_conv.weight",
    **{f"encoder.{k}.reparam_conv.{kind}": f"conv{k + 1}.{kind}" for k in range(4) for kind in ("weight", "bias")},
    **{f"decoder.rnn.{kind}": f"lstm_cell.{kind}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"decoder.decoder.2.{kind}": f"final_conv.{kind}" for kind in ("weight", "bias")},
}


@pytest.fixture(scope="module")
def example():
    return script(SCRIPT)


@pytest.fixture(scope="module")
def data():
    return need_files("silero_vad") / "data"


@pytest.fixture(scope="module")
def speech(example):
    samples, rate = example.read_wav(WAV)
    assert rate == 16000
    return samples


@pytest.fixture(scope="module")
def detector(example, data):
    need("onnx")
    return example.Detector.load(data / "silero_vad.onnx", 16000)


def original(model, samples, rate):
    """onnxruntime, window by window: the state and the last samples handed on from one to the next."""
    options = need("onnxruntime").SessionOptions()
    options.intra_op_num_threads = 1
    session = need("onnxruntime").InferenceSession(model, options, providers=["CPUExecutionProvider"])
    size, before = (512, 64) if rate == 16000 else (256, 32)
    samples = np.pad(samples, (0, -len(samples) % size))
    state, context, said = np.zeros((2, 1, 128), np.float32), np.zeros(before, np.float32), []
    for window in samples.reshape(-1, size):
        x = np.concatenate([context, window])[None]
        probability, state = session.run(None, {"input": x, "state": state, "sr": np.array(rate)})
        said.append(probability.item())
        context = window[-before:]
    return np.array(said, np.float32)


def with_weights_of(onnx_file, safetensors_file):
    """The graph of the one with the parameters of the other."""
    onnx = need("onnx")
    model = onnx.load(onnx_file)
    tensors, put = numlstm.load_tensors(safetensors_file), []

    def walk(graph):
        for node in graph.node:
            for attribute in node.attribute:
                walk(attribute.g)
                ours = OTHER_NAMES.get(node.output[0].removeprefix(THEIRS)) if THEIRS in node.output[0] else None
                if ours and attribute.name == "value":
                    assert list(tensors[ours].shape) == list(attribute.t.dims)
                    attribute.t.CopyFrom(onnx.numpy_helper.from_array(tensors[ours]))
                    put.append(ours)

    walk(model.graph)
    assert sorted(put) == sorted(tensors)
    return model.SerializeToString()


def sounds(speech, rate):
    """By name: the sound of the file, what is no speech, and lengths that end within a window."""
    rng = np.random.default_rng(11)
    if rate == 8000:
        speech = speech[::2]
    return {
        "speech": speech,
        "loud speech, twice": np.clip(3 * np.concatenate([speech, speech]), -1, 1),
        "noise": rng.normal(0, 0.1, 20_000).astype(np.float32),
        "faint noise": rng.normal(0, 1e-4, 20_000).astype(np.float32),
        "silence": np.zeros(20_000, np.float32),
        "one sample": np.full(1, 0.5, np.float32),
        "one window": speech[16_000:16_512],
        "a window and a sample": speech[16_000:16_513],
    }


# ------------------------------------------------------------ the model


@pytest.mark.parametrize("rate", [16000, 8000])
@pytest.mark.parametrize("file", ["silero_vad.onnx", "silero_vad.jit"])
def test_probabilities_are_the_originals(example, data, speech, file, rate):
    need("onnx")
    detector = example.Detector.load(data / file, rate)
    assert detector.rate == rate
    for name, samples in sounds(speech, rate).items():
        got, want = detector.probabilities(samples), original(data / "silero_vad.onnx", samples, rate)
        assert got.dtype == np.float32
        assert np.abs(got - want).max() < TOLERANCE, name


def test_probabilities_of_the_safetensors_file_are_the_graphs(example, data, speech):
    """It holds other parameters, of another training; the graph is the same."""
    file = data / "silero_vad_16k.safetensors"
    detector = example.Detector.load(file, 16000)
    model = with_weights_of(data / "silero_vad.onnx", file)
    for name, samples in sounds(speech, 16000).items():
        assert np.abs(detector.probabilities(samples) - original(model, samples, 16000)).max() < TOLERANCE, name


@pytest.mark.parametrize(
    "file, rate",
    [
        ("silero_vad.jit", 16000),
        ("silero_vad.jit", 8000),
        ("silero_vad_16k_op15.onnx", 16000),
        ("silero_vad_16k_sequence.onnx", 16000),
        ("silero_vad_op18_ifless.onnx", 16000),
        ("silero_vad_openvino_16k.onnx", 16000),
    ],
)
def test_every_file_gives_the_same_lstm(example, data, file, rate):
    need("onnx")
    want = example.Detector.load(data / "silero_vad.onnx", rate).lstm.state_dict()
    other = example.Detector.load(data / file, rate).lstm.state_dict()
    assert list(other) == list(want)
    assert "bias_ih_l0" in want
    for name, array in want.items():
        assert same_bits(other[name], array), name
        assert not same_bits(flip_one_bit(other[name]), array)


def test_the_lstm_is_the_cell_to_the_bit(example, data, speech):
    file = data / "silero_vad_16k.safetensors"
    cell = numlstm.load(file)
    assert isinstance(cell, numlstm.LSTMCell)
    detector = example.Detector.load(file, 16000)
    features = detector.features(speech)
    whole, (h_n, c_n) = detector.lstm(features)
    state = None
    for step, want in zip(features, whole, strict=True):
        state = cell(step, state)
        assert same_bits(state[0], want)
    assert same_bits(state[0], h_n[0])
    assert same_bits(state[1], c_n[0])


@pytest.mark.parametrize("fault", ["no context", "gates swapped", "state lost", "stride", "no mirror"])
def test_a_planted_fault_is_seen(example, data, speech, monkeypatch, fault):
    file = data / "silero_vad_16k.safetensors"
    detector = example.Detector.load(file, 16000)
    want = detector.probabilities(speech)
    if fault == "no context":
        true = example.windows
        monkeypatch.setattr(example, "windows", lambda x, size: true(x, size) * (np.arange(size + size // 8) >= 64))
    elif fault == "gates swapped":
        detector.lstm.bias_ih_l0 = np.roll(detector.lstm.bias_ih_l0, 128)
    elif fault == "state lost":
        at = len(want) // 2
        faulty = np.concatenate([detector.probabilities(part) for part in np.split(speech, [at * 512])])
        assert np.abs(faulty - want).max() > 100 * TOLERANCE
        return
    elif fault == "stride":
        monkeypatch.setattr(example, "STRIDES", (2, 2, 1, 1))
    else:
        true_pad = np.pad
        monkeypatch.setattr(np, "pad", lambda x, width, **mode: true_pad(x, width))
    assert np.abs(detector.probabilities(speech) - want).max() > 100 * TOLERANCE


def test_blocks_of_windows_change_nothing(example, data, speech, monkeypatch):
    detector = example.Detector.load(data / "silero_vad_16k.safetensors", 16000)
    want = detector.probabilities(speech)
    monkeypatch.setattr(example, "BLOCK", 7)
    assert np.abs(detector.probabilities(speech) - want).max() < TOLERANCE


# ------------------------------------------------------------ segments

ORIGINAL_SEGMENTS = """
import json, sys
import torch
from silero_vad.utils_vad import get_speech_timestamps

class Given:
    def __init__(self, probabilities):
        self.probabilities = iter(probabilities)
    def reset_states(self):
        pass
    def __call__(self, window, rate):
        return torch.tensor(next(self.probabilities))

said = []
for probabilities, length, rate, threshold in json.load(sys.stdin):
    found = get_speech_timestamps(torch.zeros(length), Given(probabilities), threshold, sampling_rate=rate)
    said.append([[each["start"], each["end"]] for each in found])
print(json.dumps(said))
"""


def test_segments_are_the_originals(example):
    """Their code needs torch and sets its number of threads: it runs in a process of its own."""
    need_files("silero_vad")
    need("torch")
    rng = np.random.default_rng(3)
    cases = []
    for case in range(300):
        window, rate = ((512, 16000), (256, 8000))[case % 2]
        windows = int(rng.integers(1, 80))
        slow = np.repeat(rng.random(windows), rng.integers(1, 12, windows))[:windows]
        probabilities = np.clip(slow + rng.normal(0, 0.1, windows), 0, 1)
        length = windows * window - int(rng.integers(window))
        cases.append((probabilities.tolist(), length, rate, float(rng.choice([0.1, 0.3, 0.5, 0.8]))))
    done = subprocess.run(
        [sys.executable, "-c", ORIGINAL_SEGMENTS],
        input=json.dumps(cases),
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    counts = set()
    for (probabilities, length, rate, threshold), want in zip(cases, json.loads(done.stdout), strict=True):
        window = 512 if rate == 16000 else 256
        # through float32, as both models put them out
        got = example.speech_segments(np.float32(probabilities), window, length, rate, threshold)
        assert got.tolist() == want
        counts.add(len(want))
    assert {0, 1, 2, 3} <= counts


def test_what_was_said_is_found(example, data, detector, speech):
    """By the original and by the example: the sentences, and neither the knocks nor the beep between them."""
    want = original(data / "silero_vad.onnx", speech, 16000)
    for probabilities in (want, detector.probabilities(speech)):
        segments = example.speech_segments(probabilities, 512, len(speech), 16000, 0.5) / 16000
        assert np.abs(segments - np.array(SAID)).max() < 0.15
        at = (np.arange(len(probabilities)) + 0.5) * 512 / 16000
        pause = ~np.any([(begin - 0.1 < at) & (at < end + 0.15) for begin, end in SAID], axis=0)
        assert pause.sum() > 60
        assert probabilities[pause].max() < 0.2
        assert np.mean([probabilities[(begin < at) & (at < end)].mean() for begin, end in SAID]) > 0.95


def test_no_speech_is_no_segment(example):
    segments = example.speech_segments(np.zeros(50, np.float32), 512, 25_000, 16000, 0.5)
    assert segments.shape == (0, 2)


# ------------------------------------------------------------ sound files


def write_wav(path, samples, rate, width=2):
    """Samples (frames,) or (frames, channels)."""
    numbers = np.rint(np.clip(samples, -1, 1 - 2.0 ** (1 - 8 * width)) * 2.0 ** (8 * width - 1)).astype(np.int64)
    if width == 1:
        numbers += 128
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(numbers.astype("<i8").view(np.uint8).reshape(numbers.size, 8)[:, :width].tobytes())
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_every_width_and_channels_are_read(example, tmp_path, width):
    sound = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    for samples, want in ((sound[:, 0], sound[:, 0]), (sound, sound.mean(axis=1))):
        got, rate = example.read_wav(write_wav(tmp_path / "a.wav", samples, 11025, width))
        assert (rate, got.dtype, got.shape) == (11025, np.float32, want.shape)
        assert np.abs(got - want).max() < 2.0 ** (1 - 8 * width) + 2.0**-23


def test_a_recording_that_was_cut_off_is_read_to_its_end(example, tmp_path):
    path = write_wav(tmp_path / "a.wav", np.linspace(-1, 0.9, 2000).reshape(-1, 2), 16000)
    whole, _ = example.read_wav(path)
    path.write_bytes(path.read_bytes()[:-1001])
    cut, _ = example.read_wav(path)
    assert 0 < len(cut) < len(whole)
    assert np.array_equal(cut, whole[: len(cut)])


@pytest.mark.parametrize("rate", [16001, 22050, 44100, 48000])
def test_resampling_keeps_a_tone_and_removes_what_the_lower_rate_cannot_hold(example, rate):
    t = np.arange(2 * rate) / rate
    tone = np.sin(2 * np.pi * 1000 * t) * np.hanning(len(t))
    got = example.resampled(tone, rate, 16000)
    assert abs(len(got) - 32000) <= 320
    at = np.arange(len(got)) / 16000
    assert np.abs(got - np.sin(2 * np.pi * 1000 * at) * np.interp(at, t, np.hanning(len(t)))).max() < 1e-3
    if rate > 20000:
        high = np.sin(2 * np.pi * 9500 * t) * np.hanning(len(t))
        assert np.abs(example.resampled(high, rate, 16000)).max() < 1e-3


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_other_rates_find_the_same_speech(example, data, speech, tmp_path, rate):
    need("onnx")
    n = len(speech)
    spectrum, size = np.fft.rfft(speech), round(n * rate / 16000)
    samples = np.fft.irfft(spectrum[: size // 2 + 1], size) * (size / n)
    sound, recorded = example.read_wav(write_wav(tmp_path / "a.wav", np.stack([samples, samples], 1), rate))
    detector = example.Detector.load(data / "silero_vad.onnx", recorded)
    assert detector.rate == (16000 if rate > 16000 else 8000)
    sound = example.resampled(sound, recorded, detector.rate)
    found = example.Detection.of("a.wav", sound, detector, 0.5)
    assert np.abs(found.segments / detector.rate - np.array(SAID)).max() < 0.2


def test_the_committed_sound():
    with wave.open(str(WAV)) as file:
        assert file.getparams()[:3] == (1, 2, 16000)
        assert 5 < file.getnframes() / 16000 < 9
    assert WAV.stat().st_size < 250_000


# ------------------------------------------------------------ what a person sees


def test_the_plot_shows_speech_in_colour(example, data, speech, tmp_path):
    need("matplotlib")
    from matplotlib.image import imread

    detector = example.Detector.load(data / "silero_vad_16k.safetensors", 16000)
    path = tmp_path / "a.png"
    shares = []
    for samples in (speech, np.zeros_like(speech)):
        example.Detection.of("a.wav", samples, detector, 0.5).draw(str(path))
        picture = imread(path)[..., :3]
        assert picture.shape[0] > 400
        assert picture.shape[1] > 800
        shares.append((np.abs(picture - np.array([0xD1, 0x49, 0x5B]) / 255).max(axis=2) < 0.02).mean())
    assert shares[0] > 0.01
    assert shares[1] == 0


def run(*arguments, flags=(), cwd=None):
    return subprocess.run(
        [sys.executable, *flags, str(SCRIPT), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
    )


def test_the_command(data, tmp_path):
    need("onnx")
    need("matplotlib")
    done = run(WAV, "--plot", "a.png", cwd=tmp_path, flags=["-X", "importtime"])
    assert done.returncode == 0, done.stderr
    first, model, speech, *segments, speed, plot = done.stdout.splitlines()
    assert first == "speech.wav: 7.41 s at 16000 Hz"
    assert model == "model: silero_vad.onnx, LSTM(128, 128)"
    assert speech.startswith("speech: 4.")
    assert speech.endswith(" s of 7.41 s, in 3 segments")
    times = [[float(word) for word in line.split() if word not in ("s", "to")] for line in segments]
    assert np.abs(np.array(times) - np.array(SAID)).max() < 0.15
    assert speed.startswith("232 windows in ")
    assert plot == "plot: a.png"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"numlstm", "numpy", "matplotlib"} <= imported
    assert not {"torch", "silero_vad", "onnxruntime"} & imported


@pytest.fixture
def wrong(tmp_path):
    """Files that cannot be read, by name."""
    (tmp_path / "text.wav").write_text("no sound at all, but long enough for a header of forty-four bytes")
    (tmp_path / "empty.wav").write_bytes(b"")
    write_wav(tmp_path / "silent.wav", np.zeros(0), 16000)
    write_wav(tmp_path / "slow.wav", np.zeros(100), 4000)
    write_wav(tmp_path / "fast.wav", np.zeros(100), 1_000_000_000)
    write_wav(tmp_path / "phone.wav", np.zeros(100), 8000)
    floats = bytearray(write_wav(tmp_path / "floats.wav", np.zeros(100), 16000, 4).read_bytes())
    floats[20] = 3  # the number for floating point
    (tmp_path / "floats.wav").write_bytes(floats)
    numlstm.LSTM(3, 4).save(tmp_path / "other.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["none.wav"], "No such file or directory: 'none.wav'"),
        (["."], "Is a directory"),
        (["text.wav"], "text.wav: no WAV file of integer samples: file does not start with RIFF id"),
        (["empty.wav"], "empty.wav: no WAV file of integer samples: it ends too early"),
        (["floats.wav"], "floats.wav: no WAV file of integer samples: unknown format: 3"),
        (["silent.wav"], "silent.wav: it holds no sound"),
        (["slow.wav"], "slow.wav: its rate is 4000 Hz; from 8000 to 192000 Hz can be read"),
        (["fast.wav"], "fast.wav: its rate is 1000000000 Hz; from 8000 to 192000 Hz can be read"),
        (
            ["phone.wav", "--model", "silero_vad_16k.safetensors"],
            "its model is for 16000 Hz or more, and the sound has",
        ),
        ([WAV, "--model", "other.safetensors"], "none of its tensors is the Fourier basis of a Silero VAD"),
        ([WAV, "--model", "none/none.onnx"], "No such file or directory: 'none/none.onnx'"),
        ([WAV, "--threshold", "1.5"], "--threshold must be between 0 and 1, not 1.5"),
        ([WAV, "--model", "silero_vad_16k.safetensors", "--plot", "none/a.png"], "No such file or directory: 'none/a"),
    ],
)
def test_what_is_wrong_is_a_sentence(example, data, wrong, monkeypatch, arguments, says):
    monkeypatch.chdir(wrong)
    with pytest.raises(SystemExit) as raised:
        example.main([str(argument) for argument in arguments])
    said = str(raised.value.code)
    assert said.startswith("voice_activity: ")
    assert says in said


def test_a_file_of_a_changed_model_is_refused(example, data, tmp_path):
    from safetensors.numpy import save_file

    tensors = numlstm.load_tensors(data / "silero_vad_16k.safetensors")
    path = tmp_path / "a.safetensors"
    save_file(tensors | {"conv2.weight": np.zeros((64, 128, 5), np.float32)}, path)
    with pytest.raises(ValueError, match=r"0 layers have a kernel of shape \(64, 128, 3\); in a Silero VAD one has"):
        example.Detector.load(path, 16000)
    save_file({name: array for name, array in tensors.items() if "lstm" not in name}, path)
    with pytest.raises(ValueError, match="holds 0 LSTMs under ''"):
        example.Detector.load(path, 16000)


def test_missing_packages_are_named(data):
    code = (
        "import sys, importlib.util, runpy\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'silero_vad' else find(name, *rest)\n"
        f"sys.argv = ['voice_activity.py', {str(WAV)!r}]\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the package silero-vad, which is not installed: pip install --no-deps silero-vad\n" in done.stderr

    code = (
        "import sys, runpy\n"
        "sys.modules['matplotlib'] = None\n"
        f"sys.argv = ['', {str(WAV)!r}, '--model', 'silero_vad_16k.safetensors', '--plot', 'a.png']\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == "voice_activity: --plot needs matplotlib: pip install 'matplotlib>=3.8'\n"
