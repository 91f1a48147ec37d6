import { Detector, RATE, WINDOW } from "./detector.js";
import { LSTM } from "./numlstm.js";

const AUDIO_RATE = 48000;
const element = (id) => document.getElementById(id);
const [LOUD, QUIET, SPEECH] = ["#30638e", "#8d99ae", "#d1495b"];

/** A canvas of as many pixels as it shows. */
function canvas(id) {
  const shown = element(id);
  [shown.width, shown.height] = [shown.clientWidth, shown.clientHeight];
  const context = shown.getContext("2d");
  context.clearRect(0, 0, shown.width, shown.height);
  return { context, width: shown.width, height: shown.height };
}

/** A column of the waveform for each pixel from the sample `first` to `end`, of `total`. */
function drawWave({ context, width, height }, samples, first, end, total, colour) {
  context.fillStyle = colour;
  const pixel = total / width;
  for (let x = Math.floor(first / pixel); x * pixel < end; x++) {
    let [low, high] = [0, 0];
    for (let n = Math.floor(x * pixel); n < Math.min((x + 1) * pixel, total); n++) {
      low = Math.min(low, samples[n]);
      high = Math.max(high, samples[n]);
    }
    context.fillRect(x, (height / 2) * (1 - high), 1, Math.max(1, (height / 2) * (high - low)));
  }
}

async function sound(rate) {
  const bytes = await (await fetch("speech.wav")).arrayBuffer();
  return new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
}

/** The amplifier between a source and a context's output. */
async function amplifier(context, buffer, compiled) {
  await context.audioWorklet.addModule("amplifier.js");
  const node = new AudioWorkletNode(context, "amplifier", {
    processorOptions: { compiled },
    outputChannelCount: [1],
  });
  node.onprocessorerror = () => (element("meter-text").textContent = "the amplifier failed");
  const source = new AudioBufferSourceNode(context, { buffer });
  source.connect(node).connect(context.destination);
  source.start();
  return { node, source };
}

/** The meter of the time that a block of 128 samples takes, beside the time that it lasts. */
function meter(milliseconds) {
  const share = milliseconds / ((1000 * 128) / AUDIO_RATE);
  element("meter").value = share;
  element("meter-text").textContent =
    `${(1000 * milliseconds).toFixed(0)} µs a block of 128 samples, ${(100 * share).toFixed(1)} % of the time there is`;
}

async function showAmplifier() {
  const [buffer, compiled] = await Promise.all([sound(AUDIO_RATE), LSTM.compile("amplifier.numlstm")]);
  const total = buffer.length;
  const offline = new OfflineAudioContext(1, total, AUDIO_RATE);
  const { node } = await amplifier(offline, buffer, compiled);
  node.port.onmessage = ({ data }) => meter(data);
  const amplified = (await offline.startRendering()).getChannelData(0);
  const before = buffer.getChannelData(0);
  drawWave(canvas("before"), before, 0, total, total, LOUD);
  drawWave(canvas("after"), amplified, 0, total, total, SPEECH);
  let playing;
  element("play").onclick = async () => {
    if (playing) {
      await playing.close();
      playing = undefined;
    } else {
      playing = new AudioContext({ sampleRate: AUDIO_RATE });
      const { node, source } = await amplifier(playing, buffer, compiled);
      node.port.onmessage = ({ data }) => meter(data);
      source.onended = () => playing && element("play").click();
    }
    element("play").textContent = playing ? "Stop" : "Play";
  };
  element("play").disabled = false;
  return { before, after: amplified };
}

/** Windows are drawn as they are heard: four times as fast as they sound. */
async function showSpeech() {
  const [buffer, detector] = await Promise.all([sound(RATE), Detector.load()]);
  const samples = buffer.getChannelData(0);
  const [wave, line] = [canvas("speech"), canvas("probability")];
  const probabilities = [];
  const count = Math.ceil(samples.length / WINDOW);
  const pixels = (n) => ((n * WINDOW) / samples.length) * line.width;
  let took = 0;
  const begin = performance.now();
  const draw = (resolve) => {
    const due = Math.min(count, Math.ceil((4 * (performance.now() - begin) * RATE) / 1000 / WINDOW));
    while (probabilities.length < due) {
      const n = probabilities.length;
      const [first, end] = [n * WINDOW, Math.min((n + 1) * WINDOW, samples.length)];
      const started = performance.now();
      const probability = detector.probability(samples.subarray(first, end));
      took += performance.now() - started;
      probabilities.push(probability);
      drawWave(wave, samples, first, end, samples.length, probability >= 0.5 ? SPEECH : QUIET);
      line.context.fillStyle = probability >= 0.5 ? SPEECH : QUIET;
      line.context.fillRect(pixels(n), line.height * (1 - probability), pixels(1) + 1, line.height * probability);
    }
    const now = probabilities.at(-1) >= 0.5 ? "speech" : "silence";
    const each = ((1000 * took) / Math.max(1, probabilities.length)).toFixed(0);
    element("now").textContent = `${now}; ${each} µs a window of 32 ms, the encoder in JavaScript included`;
    if (probabilities.length < count) requestAnimationFrame(() => draw(resolve));
    else resolve(probabilities);
  };
  return new Promise(draw);
}

/** What was computed, for who looks from the console; the tests do. */
globalThis.results = Promise.all([showAmplifier(), showSpeech()]);
globalThis.results.catch((error) => (element("error").textContent = String(error)));
