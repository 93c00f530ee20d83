// What is seen of the page; the parsers run in worker.js.
const $ = (id) => document.getElementById(id);
const TITLES = { weak: "learnt without masks", supervised: "learnt with masks" };
const worker = new Worker("worker.js", { type: "module" });
const context = $("view").getContext("2d");
let facts, names, shown, layers, cursor, number = 0, busy = false;

worker.onmessage = ({ data }) => {
  if (data.kind === "ready") ready(data);
  else if (data.kind === "parsed" && data.number === number) show(data);
  else if (data.kind === "png") save(data);
  else if (data.kind === "failed") say(`That did not work: ${data.text}`), (busy = false);
};
worker.onerror = (error) => say(`The networks could not be loaded: ${error.message || "open the page from a server"}`);

function say(text) {
  $("status").textContent = text;
}

function ready({ facts: found, threads }) {
  facts = found;
  names = Object.keys(facts.parsers);
  names.forEach((name, place) => {
    $(`name${place}`).textContent = $(`head${place}`).textContent = TITLES[name];
    document.querySelector(`[data-place="${place}"]`).textContent = `Download the map ${TITLES[name]}`;
  });
  $("licences").textContent = `Licences: ${facts.licences}.`;
  document.body.dataset.ready = threads;
  say(`Ready (${threads} ${threads === 1 ? "thread" : "threads"}). Choose a photograph.`);
}

async function open(blob) {
  if (!facts || busy) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    return say("This file cannot be read as a photograph: choose a JPEG, PNG or WebP file.");
  }
  const { width, height } = bitmap;
  const surface = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  surface.fillStyle = "black";
  surface.fillRect(0, 0, width, height);
  surface.drawImage(bitmap, 0, 0);
  const rgba = surface.getImageData(0, 0, width, height).data, data = new Uint8Array(width * height * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4) (data[j++] = rgba[i]), (data[j++] = rgba[i + 1]), (data[j++] = rgba[i + 2]);
  busy = true;
  delete document.body.dataset.parsed;
  say("Looking ...");
  worker.postMessage({ kind: "parse", photograph: { data, height, width }, number: ++number }, [data.buffer]);
}

function show({ canvas, results, doubt, seconds }) {
  busy = false;
  shown = results;
  const { height, width } = canvas, view = $("view");
  [view.width, view.height] = [width, height];
  cursor = [Math.floor(width / 2), Math.floor(height / 2)];
  const photograph = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) photograph.data[4 * i + c] = canvas.data[3 * i + c];
    photograph.data[4 * i + 3] = 255;
  }
  layers = { photograph };
  $("doubt").hidden = !doubt;
  $("doubt").textContent = doubt;
  for (const id of ["result", "legend"]) $(id).hidden = false;
  fillTable(height * width);
  paint();
  document.body.dataset.parsed = number;
  say(`Answered in ${seconds.toFixed(1)} seconds.`);
}

function fillTable(pixels) {
  const shares = names.map((name) => {
    const counts = new Array(facts.classes.length).fill(0);
    for (const k of shown[name].labels) counts[k]++;
    return counts.map((count) => (100 * count) / pixels);
  });
  const found = facts.words.map((word, k) => [word, k]).filter(([, k]) => shares.some((share) => share[k] > 0));
  $("parts").tBodies[0].replaceChildren(
    ...found.map(([word, k]) => {
      const row = document.createElement("tr"), head = document.createElement("th"), swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = `rgb(${facts.palette[k]})`;
      head.scope = "row";
      head.append(swatch, word);
      const cells = shares.map((share) => (share[k] >= 0.05 ? share[k].toFixed(1) : share[k] ? "< 0.1" : "–"));
      row.append(head, ...cells.map((textContent) => Object.assign(document.createElement("td"), { textContent })));
      return row;
    }),
  );
  const largest = found.filter(([, k]) => k).sort(([, a], [, b]) => shares[0][b] - shares[0][a]).slice(0, 5);
  const list = largest.map(([word]) => word).join(", ");
  $("view").setAttribute("aria-label", `The photograph with its parts in colours; most of it: ${list || "background only"}.`);
}

function paint() {
  if (!layers) return;
  const { width, height } = $("view"), out = new ImageData(width, height), base = layers.photograph.data;
  const border = Math.round(($("split").value / 100) * width), shade = $("shade").checked;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const { labels, confidence } = shown[names[x < border ? 0 : 1]];
      const sure = shade ? Math.max(0, (confidence[i] - 0.3) / 0.7) : 1, alpha = (labels[i] ? 0.65 : 0.35) * sure;
      const colour = facts.palette[labels[i]];
      for (let c = 0; c < 3; c++) out.data[4 * i + c] = x === border ? 255 : base[4 * i + c] * (1 - alpha) + colour[c] * alpha;
      out.data[4 * i + 3] = 255;
    }
  }
  context.putImageData(out, 0, 0);
}

function point(x, y, crosshair) {
  const view = $("view"), border = Math.round(($("split").value / 100) * view.width), i = y * view.width + x;
  const words = names.map((name) => `${facts.words[shown[name].labels[i]]} (${Math.round(100 * shown[name].confidence[i])} %)`);
  const place = x < border ? 0 : 1;
  $("point").textContent = `${words[place]}, ${TITLES[names[place]]}; the other says ${words[1 - place]}`;
  paint();
  if (!crosshair) return;
  context.strokeStyle = "white";
  context.lineWidth = 3;
  context.strokeRect(x - 5, y - 5, 10, 10);
  context.strokeStyle = "black";
  context.lineWidth = 1;
  context.strokeRect(x - 5, y - 5, 10, 10);
}

$("view").addEventListener("pointermove", (event) => {
  const box = $("view").getBoundingClientRect(), view = $("view"), scale = Math.min(box.width / view.width, box.height / view.height);
  const x = Math.floor((event.clientX - box.left - (box.width - scale * view.width) / 2) / scale);
  const y = Math.floor((event.clientY - box.top - (box.height - scale * view.height) / 2) / scale);
  if (shown && x >= 0 && y >= 0 && x < view.width && y < view.height) point(...(cursor = [x, y]), false);
});
$("view").addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!move || !shown) return;
  event.preventDefault();
  const step = event.shiftKey ? 1 : 8, limit = [$("view").width - 1, $("view").height - 1];
  cursor = cursor.map((at, axis) => Math.min(Math.max(at + step * move[axis], 0), limit[axis]));
  point(...cursor, true);
});
$("split").addEventListener("input", paint);
$("shade").addEventListener("change", paint);
$("file").addEventListener("change", () => $("file").files[0] && open($("file").files[0]));
$("example").addEventListener("click", () => open(example));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => event.clipboardData.files[0] && open(event.clipboardData.files[0]));

$("camera").addEventListener("click", async () => {
  const video = $("video");
  if (!video.srcObject) {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
    } catch {
      return say("There is no camera, or this page may not use it.");
    }
    video.hidden = false;
    await video.play();
    $("camera").textContent = "Take the picture";
    return;
  }
  const surface = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  surface.getContext("2d").drawImage(video, 0, 0);
  for (const track of video.srcObject.getTracks()) track.stop();
  [video.srcObject, video.hidden] = [null, true];
  $("camera").textContent = "Use the camera";
  open(await surface.convertToBlob());
});

for (const button of document.querySelectorAll(".download")) {
  button.addEventListener("click", () => shown && worker.postMessage({ kind: "download", name: names[button.dataset.place] }));
}

function save({ name, png }) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(png), download: `parts_${name}.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const example = await (await fetch("example.jpg")).blob();
