/* Models of numlstm in JavaScript: @PREFIX@.d.ts describes every function. Written by `numlstm export`. */

const LINE = 64; // bytes of a cache line, where memory begins
const NUMBER = @ARRAY@.BYTES_PER_ELEMENT;
/* A module with f(a, c) = a * a + c by the multiply-add of relaxed SIMD. */
const PROBE = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, // magic, version
  1, 7, 1, 96, 2, 125, 125, 1, 125, // type: (f32, f32) -> f32
  3, 2, 1, 0, // function of that type
  7, 5, 1, 1, 102, 0, 0, // export "f"
  10, 22, 1, 20, 0, // code
  32, 0, 253, 19, 32, 0, 253, 19, 32, 1, 253, 19, // three splats of the arguments 0, 0, 1
  253, 133, 2, 253, 31, 0, 11, // f32x4.relaxed_madd, extract lane 0, end
);

/** Whether the engine has relaxed SIMD, and its multiply-add rounds once. */
function fuses() {
  if (!WebAssembly.validate(PROBE)) return false;
  const { f } = new WebAssembly.Instance(new WebAssembly.Module(PROBE)).exports;
  return f(1 + 2 ** -12, -1 - 2 ** -11) !== 0; // the exact square is 1 + 2**-11 + 2**-24
}

/** The bytes at a URL or, in Node and Deno, in a file. */
async function read(url) {
  const remote = /^(https?|data|blob):/.test(url);
  if (!remote && globalThis.process?.versions?.node) {
    const { readFile } = await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:fs/promises");
    return readFile(/^file:/.test(url) ? new URL(url) : url);
  }
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url} cannot be read: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** Bytes up to the next cache line. */
function lines(bytes) {
  return Math.ceil(bytes / LINE) * LINE;
}

/** A compiled library in memory of its own, with one model. */
class Library {
  #top; // where memory is free
  #free = new Map(); // what was given back: addresses by size

  constructor({ module, model, fused }) {
    this.fused = fused;
    this.functions = new WebAssembly.Instance(module).exports;
    this.memory = this.functions.memory;
    this.#top = this.functions.__heap_base.value;
    this.result = this.take(8); // where functions put a pointer
    const place = this.take(model.length);
    new Uint8Array(this.memory.buffer, place, model.length).set(model);
    this.check(this.functions.numlstm_load(place, BigInt(model.length), this.result));
    this.model = this.pointer();
  }

  /** Throw what a code means. */
  check(code) {
    if (code === 0) return;
    let text = "";
    const bytes = new Uint8Array(this.memory.buffer);
    for (let at = this.functions.numlstm_error_text(code); bytes[at]; at++) text += String.fromCharCode(bytes[at]);
    throw new Error(text);
  }

  /** The pointer that a function gave. */
  pointer() {
    return new Uint32Array(this.memory.buffer, this.result, 1)[0];
  }

  /** The address of so many bytes. */
  take(bytes) {
    const size = lines(bytes);
    const given = this.#free.get(size);
    if (given?.length) return given.pop();
    const place = lines(this.#top);
    const pages = Math.ceil((place + size - this.memory.buffer.byteLength) / 65536);
    if (pages > 0) {
      try {
        this.memory.grow(pages);
      } catch {
        throw new RangeError(`${bytes} bytes of memory are needed, and WebAssembly's memory cannot grow by that`);
      }
    }
    this.#top = place + size;
    return place;
  }

  give(place, bytes) {
    const size = lines(bytes);
    this.#free.set(size, [...(this.#free.get(size) ?? []), place]);
  }

  size(name) {
    return Number(this.functions[`numlstm_${name}`](this.model));
  }
}

function whole(value, name, least = 1) {
  if (!Number.isSafeInteger(value) || value < least)
    throw new RangeError(`${name} is ${value}; it must be a whole number of at least ${least}`);
  return value;
}

/** Refuse what is no array of so many numbers. */
function expect(x, name, count, sizes) {
  let fits = ArrayBuffer.isView(x) && !(x instanceof DataView);
  if (Array.isArray(x)) {
    fits = true;
    for (const value of x) fits &&= typeof value === "number"; // holes too, which x.every leaves out
  }
  if (!fits) throw new TypeError(`${name} must be a @ARRAY@ or an array of numbers`);
  if (x.length !== count) throw new RangeError(`${name} has ${x.length} numbers; expected are ${count} (${sizes})`);
}

export class LSTM {
  #library;
  #state = 0;
  #place; // of the input, the output and the state, with room for `steps` steps
  #bytes;
  #outputPlace;
  #input; // views, made anew where memory has grown
  #output;
  #room; // `steps`, as WebAssembly takes it

  static async compile(url) {
    const fused = fuses();
    const wasm = fused
      ? new URL("./@PREFIX@-relaxed.wasm", import.meta.url)
      : new URL("./@PREFIX@.wasm", import.meta.url);
    const [code, model] = await Promise.all([read(wasm.href), read(String(url))]);
    return { module: await WebAssembly.compile(code), model, fused };
  }

  static async load(url, options) {
    return new LSTM(await LSTM.compile(url), options);
  }

  constructor(compiled, { batch = 1, steps = 64 } = {}) {
    const library = compiled instanceof Library ? compiled : new Library(compiled);
    const { functions, model } = library;
    this.#library = library;
    this.batch = whole(batch, "batch");
    this.steps = whole(steps, "steps");
    this.inputSize = library.size("input_size");
    this.outputSize = library.size("output_size");
    this.hiddenSize = library.size("hidden_size");
    this.numLayers = library.size("num_layers");
    this.numDirections = library.size("num_directions");
    this.projSize = library.size("proj_size");
    const rows = BigInt(batch);
    this.#room = BigInt(steps);
    const state = functions.numlstm_state_bytes(model, rows, this.#room);
    if (state === 0n) library.check(functions.numlstm_state_init(model, rows, this.#room, LINE, state, library.result));
    const inputs = lines(batch * steps * this.inputSize * NUMBER);
    const outputs = lines(batch * steps * this.outputSize * NUMBER);
    this.#bytes = inputs + outputs + Number(state);
    this.#place = library.take(this.#bytes);
    this.#outputPlace = this.#place + inputs;
    this.#view();
    const place = this.#outputPlace + outputs;
    library.check(functions.numlstm_state_init(model, rows, this.#room, place, state, library.result));
    this.#state = library.pointer();
  }

  get fused() {
    return this.#library.fused;
  }

  stream(options = {}) {
    return new LSTM(this.#library, { batch: this.batch, steps: this.steps, ...options });
  }

  free() {
    if (this.#state !== 0) this.#library.give(this.#place, this.#bytes);
    this.#state = 0;
  }

  step(x, out = new @ARRAY@(this.batch * this.outputSize)) {
    expect(x, "x", this.batch * this.inputSize, "batch x inputSize");
    expect(out, "out", this.batch * this.outputSize, "batch x outputSize");
    const state = this.#live();
    this.#input.set(x);
    this.#library.check(this.#library.functions.numlstm_step(state, this.#place, this.#outputPlace));
    this.#copy(1, out, 0);
    return out;
  }

  forward(x, steps = x?.length / (this.batch * this.inputSize), out = undefined) {
    whole(steps, "steps", 0);
    expect(x, "x", steps * this.batch * this.inputSize, "steps x batch x inputSize");
    out ??= new @ARRAY@(steps * this.batch * this.outputSize);
    expect(out, "out", steps * this.batch * this.outputSize, "steps x batch x outputSize");
    const state = this.#live();
    const row = this.batch * this.inputSize;
    const most = this.numDirections === 2 ? steps : this.steps; // a whole sequence, which the library may refuse
    for (let done = 0; done < steps; done += most) {
      const count = Math.min(most, steps - done);
      const [begin, end] = [done * row, (done + count) * row];
      if (count <= this.steps) this.#input.set(ArrayBuffer.isView(x) ? x.subarray(begin, end) : x.slice(begin, end));
      this.#library.check(
        this.#library.functions.numlstm_forward(
          state,
          count === this.steps ? this.#room : BigInt(count),
          this.#place,
          this.#outputPlace,
        ),
      );
      this.#copy(count, out, done);
    }
    return out;
  }

  reset() {
    this.#library.check(this.#library.functions.numlstm_reset(this.#live()));
  }

  get h() {
    return this.#states("h", this.projSize || this.hiddenSize);
  }

  set h(values) {
    expect(values, "h", this.h.length, "numLayers x numDirections x batch x (projSize or hiddenSize)");
    this.h.set(values);
  }

  get c() {
    return this.#states("c", this.hiddenSize);
  }

  set c(values) {
    expect(values, "c", this.c.length, "numLayers x numDirections x batch x hiddenSize");
    this.c.set(values);
  }

  /** h or c, where WebAssembly has it. */
  #states(name, size) {
    const place = this.#library.functions[`numlstm_${name}`](this.#live()) >>> 0;
    return new @ARRAY@(this.#library.memory.buffer, place, this.numLayers * this.numDirections * this.batch * size);
  }

  /** The state, with views on its memory as it is now. */
  #live() {
    if (this.#state === 0) throw new Error("this stream was freed");
    if (this.#input.length === 0) this.#view();
    return this.#state;
  }

  #view() {
    const { buffer } = this.#library.memory;
    const rows = this.batch * this.steps;
    this.#input = new @ARRAY@(buffer, this.#place, rows * this.inputSize);
    this.#output = new @ARRAY@(buffer, this.#outputPlace, rows * this.outputSize);
  }

  /** The output of so many steps, into `out` from the step `first` on. */
  #copy(count, out, first) {
    const row = this.batch * this.outputSize;
    out.set(count === this.steps ? this.#output : this.#output.subarray(0, count * row), first * row);
  }
}
