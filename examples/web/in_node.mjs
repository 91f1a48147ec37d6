// An exported amplifier in Node or Deno: node examples/web/in_node.mjs FOLDER
import path from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(path.resolve(process.argv[2]) + path.sep);
const { LSTM } = await import(new URL("numlstm.js", folder));

const lstm = await LSTM.load(new URL("model.numlstm", folder));
const second = Float32Array.from({ length: 48000 }, (_, n) => 0.1 * Math.sin((2 * Math.PI * 440 * n) / 48000));
const whole = lstm.forward(second); // one sample in, one out, 48,000 times

const other = lstm.stream(); // another sound by the same model
const single = second.map((sample) => other.step([sample])[0]);

console.log(`${whole.length} samples`);
console.log(`cut into steps: ${whole.every((sample, n) => sample === single[n]) ? "the same bits" : "other bits"}`);
