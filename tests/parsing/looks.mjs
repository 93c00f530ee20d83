// Runs the page's looks.js on the pictures in the folder argv[3], with a parser that calls bright pixels skin or an eye.
import { readFileSync, writeFileSync } from "node:fs";
const { parse, resize, toCanvas, labelMap, findDoubt, indexPng } = await import(process.argv[2]);
const folder = process.argv[3], facts = JSON.parse(readFileSync(`${folder}/facts.json`));
const size = 32, classes = facts.classes.length;
const answers = {};

for (const [name, [height, width]] of Object.entries(facts.pictures)) {
  const photograph = { data: new Uint8Array(readFileSync(`${folder}/${name}.rgb`)), height, width };
  const views = [];
  const look = async (picture, mirrored) => {
    views.push(mirrored);
    const { data } = resize(picture, size, size), plane = size * size;
    const probability = new Float32Array(classes * plane);
    for (let i = 0; i < plane; i++) {
      const skin = data[3 * i] + data[3 * i + 1] + data[3 * i + 2] > 3 * 127 ? 0.95 : 0.05;
      const k = skin > 0.5 && data[3 * i] > data[3 * i + 2] + 60 ? 4 : 1;
      [probability[i], probability[k * plane + i]] = [1 - skin, skin];
    }
    return { probabilities: [probability], size };
  };
  const canvas = toCanvas(photograph), [parsed] = await parse(canvas, look, facts);
  const map = labelMap(parsed, height, width, classes);
  writeFileSync(`${folder}/${name}.png`, Buffer.from(await (await indexPng(map, facts.palette)).arrayBuffer()));
  writeFileSync(`${folder}/${name}.f32`, Buffer.from(map.confidence.buffer));
  answers[name] = { views, face: parsed.face, certainty: parsed.certainty, doubt: findDoubt([parsed], canvas, photograph) };
}
writeFileSync(`${folder}/answers.json`, JSON.stringify(answers));
