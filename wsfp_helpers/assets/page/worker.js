// Runs the parsers beside the page: a photograph comes in, the answers of both go out.  Nothing is fetched after "ready".
import * as ort from "./ort.wasm.bundle.min.mjs";
import { findDoubt, indexPng, labelMap, parse, toCanvas } from "./looks.js";

let session, facts, last;

async function start() {
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
  // Given as they are, so that no part of the runtime looks for files of its own.
  const [wasm, model, found] = await Promise.all([
    fetch("ort-wasm-simd-threaded.wasm").then((answer) => answer.arrayBuffer()),
    fetch("parsers.onnx").then((answer) => answer.arrayBuffer()),
    fetch("facts.json").then((answer) => answer.json()),
  ]);
  facts = found;
  ort.env.wasm.wasmBinary = wasm;
  session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  await run({ data: new Uint8Array(64 * 64 * 3), height: 64, width: 64 }, 1); // the first run allocates
  postMessage({ kind: "ready", facts, threads: ort.env.wasm.numThreads });
}

async function run(picture, count) {
  const shape = [count, picture.height, picture.width, 3];
  return session.run({ pictures: new ort.Tensor("uint8", picture.data, shape) });
}

/** Probabilities of every parser for a square picture, averaged with its mirror image when `mirrored`. */
async function answer(picture, mirrored) {
  const { data, height, width } = picture;
  let both = picture;
  if (mirrored) {
    both = { data: new Uint8Array(2 * data.length), height, width };
    both.data.set(data);
    for (let i = 0; i < height * width; i++) {
      const from = (i - (i % width) + width - 1 - (i % width)) * 3;
      for (let c = 0; c < 3; c++) both.data[data.length + 3 * i + c] = data[from + c];
    }
  }
  const found = await run(both, mirrored ? 2 : 1), [, classes, size] = found[Object.keys(facts.parsers)[0]].dims;
  const plane = size * size;
  const probabilities = Object.keys(facts.parsers).map((name) => {
    const values = found[name].data, probability = values.slice(0, classes * plane);
    if (mirrored) {
      for (let k = 0; k < classes; k++) {
        const other = (classes + facts.mirror[k]) * plane;
        for (let y = 0; y < size; y++) {
          for (let x = 0; x < size; x++) {
            const i = k * plane + y * size + x;
            probability[i] = (probability[i] + values[other + y * size + size - 1 - x]) / 2;
          }
        }
      }
    }
    return probability;
  });
  return { probabilities, size };
}

onmessage = async ({ data: { kind, photograph, name, number } }) => {
  try {
    if (kind === "parse") {
      const begin = performance.now(), canvas = toCanvas(photograph), results = {};
      const size = { height: photograph.height, width: photograph.width }, parsed = await parse(canvas, answer, facts);
      last = { photograph: size, parsed: {} };
      Object.keys(facts.parsers).forEach((name, p) => {
        last.parsed[name] = parsed[p];
        results[name] = labelMap(parsed[p], canvas.height, canvas.width, facts.classes.length);
      });
      const doubt = findDoubt(parsed, canvas, size), seconds = (performance.now() - begin) / 1000;
      postMessage({ kind: "parsed", number, canvas, results, doubt, seconds });
    } else if (kind === "download") {
      const { height, width } = last.photograph;
      const map = labelMap(last.parsed[name], height, width, facts.classes.length);
      postMessage({ kind: "png", name, png: await indexPng(map, facts.palette) });
    }
  } catch (error) {
    postMessage({ kind: "failed", text: String(error) });
  }
};

start().catch((error) => postMessage({ kind: "failed", text: String(error) }));
