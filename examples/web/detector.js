// Speech and silence by Silero VAD: the encoder in JavaScript, the LSTM and its read-out by numlstm.
import { LSTM } from "./numlstm.js";

export const RATE = 16000;
export const WINDOW = 512; // samples: 32 ms
const CONTEXT = WINDOW / 8; // samples of the window before
const BINS = 129;
// channels out, channels in, stride; each kernel has three taps
const LAYERS = [
  [128, BINS, 1],
  [64, 128, 2],
  [64, 64, 2],
  [128, 64, 1],
];

/** x is (steps, channels), the kernel (channels out, channels in, taps). */
function convolution(x, steps, channels, kernel, taps, stride) {
  const size = channels * taps;
  const outputs = kernel.length / size;
  const count = Math.floor((steps - taps) / stride) + 1;
  const y = new Float32Array(count * outputs);
  for (let t = 0; t < count; t++)
    for (let o = 0; o < outputs; o++) {
      let sum = 0;
      for (let c = 0; c < channels; c++)
        for (let k = 0; k < taps; k++) sum += x[(t * stride + k) * channels + c] * kernel[o * size + c * taps + k];
      y[t * outputs + o] = sum;
    }
  return y;
}

export class Detector {
  static async load() {
    const [answer, lstm] = await Promise.all([
      fetch(new URL("encoder.bin", import.meta.url)),
      LSTM.load(new URL("speech.numlstm", import.meta.url)),
    ]);
    return new Detector(new Float32Array(await answer.arrayBuffer()), lstm);
  }

  constructor(weights, lstm) {
    let at = 0;
    const next = (count) => weights.subarray(at, (at += count));
    this.lstm = lstm;
    this.fourier = next(2 * BINS * 256);
    this.layers = LAYERS.map(([outputs, inputs, stride]) => {
      return { kernel: next(outputs * inputs * 3), bias: next(outputs), inputs, stride };
    });
    this.sound = new Float32Array(CONTEXT + WINDOW + CONTEXT);
  }

  /** The probability of speech in a window. It remembers the windows before. */
  probability(samples) {
    const { sound } = this;
    sound.copyWithin(0, WINDOW, WINDOW + CONTEXT);
    sound.fill(0, CONTEXT);
    sound.set(samples, CONTEXT);
    const end = CONTEXT + WINDOW;
    for (let k = 0; k < CONTEXT; k++) sound[end + k] = sound[end - 2 - k]; // mirrored
    const transformed = convolution(sound, sound.length, 1, this.fourier, 256, 128);
    let steps = 4;
    let x = new Float32Array(steps * BINS);
    for (let t = 0; t < steps; t++)
      for (let k = 0; k < BINS; k++)
        x[t * BINS + k] = Math.hypot(transformed[t * 2 * BINS + k], transformed[(t * 2 + 1) * BINS + k]);
    for (const { kernel, bias, inputs, stride } of this.layers) {
      const padded = new Float32Array((steps + 2) * inputs);
      padded.set(x, inputs);
      x = convolution(padded, steps + 2, inputs, kernel, 3, stride);
      steps = x.length / bias.length;
      for (let n = 0; n < x.length; n++) x[n] = Math.max(x[n] + bias[n % bias.length], 0);
    }
    return this.lstm.step(x.subarray(0, this.lstm.inputSize))[0];
  }
}
