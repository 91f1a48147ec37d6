// The amplifier in the thread of the sound. What was compiled comes from the page: nothing can be fetched here.
import { LSTM } from "./numlstm.js";

const clock = globalThis.performance ?? Date; // an AudioWorklet has no finer clock in some browsers

class Amplifier extends AudioWorkletProcessor {
  constructor({ processorOptions: { compiled } }) {
    super();
    this.lstm = new LSTM(compiled, { steps: 128 });
    this.blocks = 0;
    this.took = 0;
  }

  process([input], [output]) {
    if (input.length === 0) return true;
    const begin = clock.now();
    this.lstm.forward(input[0], input[0].length, output[0]);
    this.took += clock.now() - begin;
    if (++this.blocks % 125 === 0) {
      this.port.postMessage(this.took / 125); // milliseconds a block, on average
      this.took = 0;
    }
    return true;
  }
}

registerProcessor("amplifier", Amplifier);
