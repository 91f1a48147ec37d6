"""The examples with models of their own: text character by character, and sensors in a pool."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import script

import numlstm

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(name, *arguments):
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)


class TestText:
    @pytest.fixture
    def writer(self):
        return script(EXAMPLES / "text.py").Writer()

    def test_scores_are_those_of_pytorch(self, writer):
        with np.load(ROOT / "training" / "text_torch.npz") as known:
            output, _ = writer.lstm(writer.one_hot(str(known["line"])))
            np.testing.assert_allclose(writer.scores(output), known["scores"], rtol=0, atol=2e-5)

    def test_text_of_its_kind_takes_fewer_bits(self, writer):
        play = "HAMLET:\nThe time is out of joint. O cursed spite,\nThat ever I was born to set it right!\n"
        shuffled = "".join(np.random.default_rng(0).permutation(list(play)))
        assert writer.bits(play) < 2.7
        assert writer.bits(shuffled) > 4

    def test_each_character_follows_from_all_before_it(self, writer):
        """Written one by one, and all at once by greedy scores over what was written."""
        begin = "KING RICHARD:\n"
        written = "".join(writer.write(begin, 60, 0.0, 0))
        output, _ = writer.lstm(writer.one_hot(begin + written))
        best = writer.scores(output).argmax(1)
        assert "".join(writer.characters[n] for n in best[len(begin) - 1 : -1]) == written

    def test_a_seed_decides(self, writer):
        first, again, other = ("".join(writer.write("A", 50, 0.8, seed)) for seed in (1, 1, 2))
        assert first == again != other

    def test_the_command(self):
        done = run("text", "--begin", "JULIET:\n", "--characters", "40", "--seed", "3")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("JULIET:\n")
        assert "40 characters, " in done.stdout
        refused = run("text", "--begin", "naïve", "--characters", "4")
        assert refused.returncode == 2
        assert "none of ['ï']" in refused.stderr


class TestSensors:
    @pytest.fixture
    def sensors(self):
        return script(EXAMPLES / "sensors.py")

    def watched(self, sensors, readings):
        """The hour of the first report of each sensor, or -1."""
        watch = sensors.Watch(readings.values[: sensors.SETTLING])
        first = np.full(readings.values.shape[1], -1)
        for hour in range(sensors.SETTLING, len(readings.values)):
            reported = watch.take(readings.values[hour])
            first[reported & (first < 0)] = hour
        return first

    def test_most_faults_are_found_and_few_sound_sensors_reported(self, sensors):
        readings = sensors.simulated(800, 14 * sensors.DAY, seed=5, faulty=0.2)
        first = self.watched(sensors, readings)
        for kind, least in (("jump", 0.7), ("drift", 0.5), ("stuck", 0.4)):
            of_kind = [n for n, fault in enumerate(readings.fault) if fault == kind]
            assert len(of_kind) > 20
            assert np.mean([first[n] >= readings.since[n] for n in of_kind]) > least, kind
        assert np.mean((first >= 0) & (first < readings.since)) < 0.02

    def test_it_is_the_forecasts_that_find_them(self, sensors):
        """With the model's weights gone, jumps are found no longer among the errors that all sensors have."""
        readings = sensors.simulated(200, 14 * sensors.DAY, seed=5, faulty=0.2)
        known = self.watched(sensors, readings)
        load = numlstm.load
        blank = numlstm.LSTM(3, 32, seed=0).eval()
        try:
            sensors.numlstm.load = lambda path: blank
            other = self.watched(sensors, readings)
        finally:
            sensors.numlstm.load = load
        assert not np.array_equal(known, other)

    def test_the_command(self):
        done = run("sensors", "--sensors", "60", "--days", "8", "--seed", "2")
        assert done.returncode == 0, done.stderr
        assert "false alarms: " in done.stdout
        assert "7,200 readings" in done.stdout
        assert run("sensors", "--days", "2").returncode == 2
