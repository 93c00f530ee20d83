// How a photograph is parsed: as a whole, then closer at the face that was found.  The same steps as
// wsfp_helpers/parsing/zoom.py, against which tests/parsing/test_page.py holds them.
// A picture is {data: Uint8Array of RGB, height, width}; probabilities are Float32Arrays, a class after the other.

export const CANVAS = 640;

/** Pillow's bicubic resampling from `length` to `wanted` numbers: [first, weights] for each of them. */
function bicubic(length, wanted) {
  const step = length / wanted, scale = Math.max(step, 1);
  return Array.from({ length: wanted }, (_, i) => {
    const centre = (i + 0.5) * step - 0.5;
    const first = Math.max(0, Math.ceil(centre - 2 * scale)), last = Math.min(length - 1, Math.floor(centre + 2 * scale));
    const weights = [];
    for (let j = first; j <= last; j++) {
      const d = Math.abs(j - centre) / scale;
      weights.push(d < 1 ? (1.5 * d - 2.5) * d * d + 1 : d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0);
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    return [first, weights.map((weight) => weight / sum)];
  });
}

/** A picture at another size, as Pillow's bicubic resampling gives it. */
export function resize(picture, height, width) {
  if (picture.height === height && picture.width === width) return picture;
  const narrow = new Uint8ClampedArray(picture.height * width * 3), out = new Uint8ClampedArray(height * width * 3);
  const across = bicubic(picture.width, width), down = bicubic(picture.height, height);
  for (let y = 0; y < picture.height; y++) {
    for (let x = 0; x < width; x++) {
      const [first, weights] = across[x];
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * picture.data[(y * picture.width + first + k) * 3 + c];
        narrow[(y * width + x) * 3 + c] = sum;
      }
    }
  }
  for (let y = 0; y < height; y++) {
    const [first, weights] = down[y];
    for (let x = 0; x < width * 3; x++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += weights[k] * narrow[(first + k) * width * 3 + x];
      out[y * width * 3 + x] = sum;
    }
  }
  return { data: out, height, width };
}

/** Square part of a picture; what lies beyond the border repeats it. */
function square(picture, top, left, side) {
  const data = new Uint8Array(side * side * 3);
  for (let y = 0; y < side; y++) {
    const row = Math.min(Math.max(top + y, 0), picture.height - 1);
    for (let x = 0; x < side; x++) {
      const column = Math.min(Math.max(left + x, 0), picture.width - 1);
      for (let c = 0; c < 3; c++) data[(y * side + x) * 3 + c] = picture.data[(row * picture.width + column) * 3 + c];
    }
  }
  return { data, height: side, width: side };
}

/** For each of `wanted` places the two of `count` places around it, and how far it is from the first to the second. */
function between(wanted, count) {
  return Array.from({ length: wanted }, (_, i) => {
    const place = Math.min(Math.max(((i + 0.5) * count) / wanted - 0.5, 0), count - 1), first = Math.floor(place);
    return [first, Math.min(first + 1, count - 1), place - first];
  });
}

/** Box [top, bottom, left, right] of the largest face, or null; `inside` is how probable the face is at each pixel. */
function findFace(inside, height, width) {
  let rows = height, columns = width, share = inside;
  if (Math.max(height, width) > 200) {
    const factor = 200 / Math.max(height, width);
    [rows, columns] = [Math.floor(height * factor), Math.floor(width * factor)];
    share = new Float32Array(rows * columns);
    for (let y = 0; y < rows; y++) {
      const [top, bottom] = [Math.floor((y * height) / rows), Math.ceil(((y + 1) * height) / rows)];
      for (let x = 0; x < columns; x++) {
        const [left, right] = [Math.floor((x * width) / columns), Math.ceil(((x + 1) * width) / columns)];
        let sum = 0;
        for (let v = top; v < bottom; v++) for (let u = left; u < right; u++) sum += inside[v * width + u];
        share[y * columns + x] = sum / ((bottom - top) * (right - left));
      }
    }
  }
  let best = [], most = 0;
  const seen = new Uint8Array(rows * columns);
  for (let start = 0; start < seen.length; start++) {
    if (seen[start] || share[start] <= 0.5) continue;
    const part = [start];
    seen[start] = 1;
    let sum = 0;
    for (let at = 0; at < part.length; at++) {
      const i = part[at], x = i % columns;
      sum += share[i];
      for (const j of [x > 0 ? i - 1 : -1, x < columns - 1 ? i + 1 : -1, i - columns, i + columns]) {
        if (j >= 0 && j < seen.length && !seen[j] && share[j] > 0.5) part.push(j), (seen[j] = 1);
      }
    }
    if (sum > most) [best, most] = [part, sum];
  }
  if (best.length < 0.002 * rows * columns) return null;
  const downs = new Float64Array(rows), acrosses = new Float64Array(columns);
  for (const i of best) downs[Math.floor(i / columns)]++, acrosses[i % columns]++;
  const ends = (along) => {
    const least = 0.08 * Math.max(...along);
    return [along.findIndex((n) => n > least), along.findLastIndex((n) => n > least) + 1];
  };
  const [top, bottom] = ends(downs), [left, right] = ends(acrosses), y = height / rows, x = width / columns;
  return [top * y, bottom * y, left * x, right * x];
}

/** Python's rounding: halves to the even number. */
function round(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2 !== 0 ? 1 : 0) : Math.round(x);
}

function feather(at, start, side) {
  const distance = at + 0.5 - start;
  return Math.min(Math.max(Math.min(distance, side - distance) / (0.08 * side), 0), 1);
}

/** A photograph brought to the canvas on which its looks are put together. */
export function toCanvas(photograph) {
  const scale = Math.min(1, CANVAS / Math.max(photograph.height, photograph.width));
  const [height, width] = [photograph.height, photograph.width].map((side) => Math.max(1, round(side * scale)));
  return resize(photograph, height, width);
}

/**
 * Parse what toCanvas gave, with several parsers at the same places.  `look(picture, mirrored)` answers for a square
 * picture with {probabilities, size}, (19, size, size) of each parser, averaged with the mirror image when `mirrored`;
 * `facts` are those of the ONNX file.
 */
export async function parse(canvas, look, facts) {
  const { height, width } = canvas, plane = height * width, classes = facts.classes.length, settings = facts.looks;
  const face = facts.face.map((name) => facts.classes.indexOf(name));

  async function view(top, left, side, mirrored) {
    const { probabilities, size } = await look(square(canvas, top, left, side), mirrored);
    const [y0, y1] = [Math.max(top, 0), Math.min(top + side, height)];
    const [x0, x1] = [Math.max(left, 0), Math.min(left + side, width)];
    const places = between(side, size), part = (y1 - y0) * (x1 - x0);
    const enlarged = probabilities.map((probability) => {
      const out = new Float32Array(classes * part);
      let at = 0;
      for (let k = 0; k < classes; k++) {
        for (let y = y0; y < y1; y++) {
          const [above, below, down] = places[y - top], a = (k * size + above) * size, b = (k * size + below) * size;
          for (let x = x0; x < x1; x++) {
            const [first, second, across] = places[x - left];
            const upper = probability[a + first] + across * (probability[a + second] - probability[a + first]);
            const lower = probability[b + first] + across * (probability[b + second] - probability[b + first]);
            out[at++] = upper + down * (lower - upper);
          }
        }
      }
      return out;
    });
    return { probabilities, size, top, left, side, enlarged, y0, x0, height: y1 - y0, width: x1 - x0 };
  }

  /** Box of the largest face in a view, in pixels of the canvas, or null. */
  function faceOf(seen) {
    const part = seen.height * seen.width, inside = new Float32Array(part);
    for (const out of seen.enlarged) {
      for (const k of face) for (let i = 0; i < part; i++) inside[i] += out[k * part + i] / seen.enlarged.length;
    }
    const found = findFace(inside, seen.height, seen.width);
    return found && [found[0] + seen.y0, found[1] + seen.y0, found[2] + seen.x0, found[3] + seen.x0];
  }

  let side = Math.max(height, width);
  const top0 = Math.floor((height - side) / 2), left0 = Math.floor((width - side) / 2);
  const whole = await view(top0, left0, side, settings.flip && !settings.most);
  let found = settings.most ? faceOf(whole) : null;
  const totals = whole.enlarged;

  async function closer(face, share, mirrored) {
    side = Math.max(round((face[1] - face[0]) / share), 16);
    const top = round((face[0] + face[1]) / 2 - settings.anchor[0] * side);
    const left = round((face[2] + face[3]) / 2 - settings.anchor[1] * side);
    const seen = await view(top, left, side, mirrored), part = seen.height * seen.width;
    totals.forEach((total, p) => {
      for (let y = 0; y < seen.height; y++) {
        const down = feather(seen.y0 + y, top, side);
        for (let x = 0; x < seen.width; x++) {
          const weight = settings.weight * down * feather(seen.x0 + x, left, side);
          const i = (seen.y0 + y) * width + seen.x0 + x, j = y * seen.width + x;
          for (let k = 0; k < classes; k++) total[k * plane + i] += weight * (seen.enlarged[p][k * part + j] - total[k * plane + i]);
        }
      }
    });
    return seen;
  }

  for (let turn = 0; turn < settings.most && found; turn++) {
    found = faceOf(await closer(found, settings.face_height, false));
    if (found && found[1] - found[0] >= settings.close_enough * settings.face_height * side) break;
  }
  const last = found && await closer(found, settings.last_height, settings.flip);
  const chosen = last ? choices(last, found, classes) : [];
  const isEye = ["l_eye", "r_eye"].map((name) => facts.classes.indexOf(name));
  return totals.map((probability, p) => {
    const sure = last ? chosen[p].filter(([k]) => k).map(([, confidence]) => confidence) : [];
    const certainty = sure.length ? sure.reduce((a, b) => a + b, 0) / sure.length : 0;
    const agreement = chosen.length > 1 ? agree(chosen[0], chosen[1], classes) : null;
    const eyes = last ? chosen[p].filter(([k]) => isEye.includes(k)).length / chosen[p].length : 0;
    return { probability, height, width, face: found, certainty, agreement, eyes };
  });
}

/** The choice of every parser in a box, pixel by pixel, as a view saw it: [class, probability]. */
function choices({ probabilities, size, top, left, side }, box, classes) {
  const end = (at, start) => Math.min(Math.max(round((at - start) * (size / side)), 0), size);
  const [y0, y1, x0, x1] = [end(box[0], top), end(box[1], top), end(box[2], left), end(box[3], left)];
  return probabilities.map((probability) => {
    const out = [];
    for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) out.push(strongest(probability, size * size, y * size + x, classes));
    return out;
  });
}

/** F1 of one list of choices against another: the mean over the classes of either, background left out. */
function agree(a, b, classes) {
  const [both, either] = [new Float64Array(classes), new Float64Array(classes)];
  for (let i = 0; i < a.length; i++) {
    either[a[i][0]]++, either[b[i][0]]++;
    if (a[i][0] === b[i][0]) both[a[i][0]]++;
  }
  const parts = [...either.keys()].filter((k) => k && either[k]);
  return parts.length ? parts.reduce((sum, k) => sum + (2 * both[k]) / either[k], 0) / parts.length : 0;
}

function strongest(probability, plane, i, classes) {
  let k = 0;
  for (let other = 1; other < classes; other++) if (probability[other * plane + i] > probability[k * plane + i]) k = other;
  return [k, probability[k * plane + i]];
}

/** Classes (height x width) and the probability of each, of what `parse` gave, enlarged; see Parsed.label_map. */
export function labelMap({ probability, height: rows, width: columns }, height, width, classes) {
  const plane = rows * columns, best = new Float32Array(plane), index = new Uint8Array(plane);
  for (let i = 0; i < plane; i++) [index[i], best[i]] = strongest(probability, plane, i, classes);
  const labels = new Uint8Array(height * width), confidence = new Float32Array(height * width);
  const downs = between(height, rows), acrosses = between(width, columns);
  let at = 0;
  for (const [above, below, down] of downs) {
    for (const [left, right, across] of acrosses) {
      const corners = [above * columns + left, above * columns + right, below * columns + left, below * columns + right];
      const weights = [(1 - down) * (1 - across), (1 - down) * across, down * (1 - across), down * across];
      const enlarged = (values, start) => {
        let sum = 0;
        for (let c = 0; c < 4; c++) sum += weights[c] * values[start + corners[c]];
        return sum;
      };
      const k = index[corners[0]];
      if (corners.every((corner) => index[corner] === k)) {
        [labels[at], confidence[at]] = [k, enlarged(best, 0)];
      } else {
        for (let other = 0; other < classes; other++) {
          const p = enlarged(probability, other * plane);
          if (p > confidence[at]) [labels[at], confidence[at]] = [other, p];
        }
      }
      at++;
    }
  }
  return { labels, confidence, height, width };
}

/** Why the answers of the parsers may be wrong, in the words of wsfp parse, or an empty text. */
export function findDoubt(parsed, canvas, { height, width }) {
  if (Math.min(height, width) < 32) return `too small (${width} x ${height} pixels): the map is a guess`;
  let spread = 0;
  for (let c = 0; c < 3; c++) {
    let [n, sum, squares] = [0, 0, 0];
    for (let y = 0; y < canvas.height; y += 2) {
      for (let x = 0; x < canvas.width; x += 2) {
        const value = canvas.data[(y * canvas.width + x) * 3 + c];
        n++, (sum += value), (squares += value * value);
      }
    }
    spread = Math.max(spread, Math.sqrt(Math.max(squares / n - (sum / n) ** 2, 0)));
  }
  if (spread < 4) return "hardly any contrast: the map is a guess";
  if (!parsed[0].face) return "no face was found: the map is a guess";
  const [{ agreement, certainty }] = parsed;
  if (agreement !== null && agreement < 0.46) {
    return `the parsers disagree (${agreement.toFixed(2)}): is the face upright, uncovered, sharp and well lit?`;
  }
  if (agreement === null && certainty < 0.75) return `low confidence (${certainty.toFixed(2)}): is the face frontal, sharp and well lit?`;
  const eyes = parsed.reduce((sum, each) => sum + each.eyes, 0) / parsed.length;
  return eyes < 0.004 ? "hardly any eyes were found: are they covered or closed?" : "";
}

/** An index PNG, as wsfp parse writes it, as a Blob. */
export async function indexPng({ labels, height, width }, palette) {
  const table = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  const chunk = (name, content) => {
    const out = new Uint8Array(12 + content.length), view = new DataView(out.buffer);
    view.setUint32(0, content.length);
    out.set([...name].map((letter) => letter.charCodeAt(0)), 4);
    out.set(content, 8);
    let crc = 0xffffffff;
    for (let i = 4; i < 8 + content.length; i++) crc = table[(crc ^ out[i]) & 255] ^ (crc >>> 8);
    view.setUint32(8 + content.length, ~crc >>> 0);
    return out;
  };
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width), header.setUint32(4, height), header.setUint16(8, 0x0803);
  const colours = new Uint8Array(768).fill(215);
  palette.forEach((colour, k) => colours.set(colour, 3 * k));
  const rows = new Uint8Array((width + 1) * height);
  for (let y = 0; y < height; y++) rows.set(labels.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
  const deflated = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const content = new Uint8Array(await new Response(deflated).arrayBuffer());
  const parts = [chunk("IHDR", new Uint8Array(header.buffer)), chunk("PLTE", colours), chunk("IDAT", content), chunk("IEND", [])];
  return new Blob([Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), ...parts], { type: "image/png" });
}
