import { LSTM } from "./numlstm.js";

onmessage = ({ data: { compiled, x } }) => postMessage(new LSTM(compiled).forward(x));
