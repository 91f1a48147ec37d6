import { LSTM } from "./numlstm.js";

class Model extends AudioWorkletProcessor {
  constructor({ processorOptions: { compiled } }) {
    super();
    this.lstm = new LSTM(compiled, { steps: 128 });
  }

  process([input], [output]) {
    if (input.length) this.lstm.forward(input[0], 128, output[0]);
    return true;
  }
}

registerProcessor("model", Model);
