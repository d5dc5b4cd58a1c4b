// Models: what there is, and teaching one your pictures, with an estimate first, a curve while it learns, pause and going on.
import { ask, follow, option, over, post } from "./ask.js";

const at = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let running = null;

function say(text, wrong = false) {
  at("said").textContent = text;
  at("said").classList.toggle("wrong", wrong);
}

const guarded = (what) => async (event) => {
  event?.preventDefault();
  try {
    await what(event);
  } catch (error) {
    say(error.message, true);
  }
};

function row(table, cells) {
  const made = table.tBodies[0].insertRow();
  cells.forEach((text, k) => {
    const cell = k ? document.createElement("td") : document.createElement("th");
    if (!k) cell.scope = "row";
    cell.textContent = text;
    made.append(cell);
  });
}

const size = (bytes) => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);

async function list() {
  const [{ data }, { loras }, { albums }, choices] = await Promise.all(["/v1/models", "/v1/loras", "/v1/albums", "/v1/choices"].map((path) => ask(path)));
  for (const id of ["models", "loras"]) at(id).tBodies[0].replaceChildren();
  for (const one of data) row(at("models"), [one.id, (one.defaults?.size ?? []).toReversed().join(" x "), size(one.bytes), one.licence ?? "not said", one.sha256?.slice(0, 16) ?? "a folder"]);
  for (const one of loras) row(at("loras"), [one.id, one.base ?? "not said", size(one.bytes), one.sha256.slice(0, 16)]);
  const [album, model, way] = ["album", "model", "way"].map((id) => at(id).value);
  at("album").replaceChildren(...albums.map((one) => option(`${one.name} (${one.pictures})`, one.name)));
  at("model").replaceChildren(...data.map((one) => option(one.id)));
  at("way").replaceChildren(...Object.entries(choices.ways).map(([name, about]) => option(`${name}: ${about}`, name)));
  for (const [id, value] of Object.entries({ album, model, way })) if ([...at(id).options].some((one) => one.value === value)) at(id).value = value;
}

function wish(kind) {
  if (!at("album").value) throw new Error("there is no album yet: choose pictures and put them in one");
  const asked = { kind, album: at("album").value, way: at("way").value, minutes: Number(at("minutes").value), batch: Number(at("batch").value) };
  if (asked.way !== "small") asked.model = at("model").value;
  if (at("caption").value) asked.caption = at("caption").value;
  if (at("rank").value) asked.rank = Number(at("rank").value);
  return asked;
}

async function collect() {
  const pictures = [];
  for (const file of at("files").files) {
    say(`sending ${file.name}`);
    pictures.push({ picture: (await ask("/v1/uploads", { method: "POST", body: file })).name });
  }
  if (!pictures.length) throw new Error("choose pictures first");
  const made = await post("/v1/albums", { name: at("name").value, pictures });
  await list();
  at("album").value = made.name;
  say(`${made.name} holds ${made.pictures} pictures`);
}

async function estimate() {
  say("trying some steps");
  const job = await follow(await post("/v1/jobs", wish("estimate"), { "X-Client": "page" }), () => {});
  say(job.result?.said ?? job.error ?? job.state, job.state === "failed");
}

function line(points, name, { left, top, width, height, last, least, most }) {
  const made = document.createElementNS(SVG, "polyline");
  const place = ([step, value]) => `${left + (step / last) * width},${top + height - ((Math.log(value) - least) / (most - least || 1)) * height}`;
  const places = points.filter(([, value]) => value > 0).map(place);
  made.setAttribute("points", [...places, places.at(-1)].join(" ")); // the last twice, so that one alone is seen
  made.setAttribute("class", name);
  return made;
}

function label(text, x, y, anchor) {
  const made = document.createElementNS(SVG, "text");
  for (const [name, value] of Object.entries({ x, y, "text-anchor": anchor })) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

// The mean of what is near, so that the noise of single steps does not hide the way.
const smooth = (points) => {
  let mean = points[0]?.[1] ?? 0;
  return points.map(([step, value]) => [step, (mean = 0.9 * mean + 0.1 * value)]);
};

async function curve(job) {
  const curves = await ask(`/v1/jobs/${job.id}/results/curve.json`, { cache: "no-store" });
  curves.loss = smooth(curves.loss);
  const values = Object.values(curves).flat().map(([, value]) => value).filter((value) => value > 0);
  if (!values.length) return;
  const last = Math.max(...Object.values(curves).flat().map(([step]) => step));
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const box = { left: 60, top: 10, width: 530, height: 175, last, least: Math.log(low), most: Math.log(high) };
  const axis = [label(high.toPrecision(3), 54, 18, "end"), label(low.toPrecision(3), 54, 185, "end"), label("0", 60, 208, "start"), label(`step ${last}`, 590, 208, "end")];
  at("curve").replaceChildren(...axis, ...Object.entries(curves).map(([name, points]) => line(points, name, box)));
  at("curve").setAttribute("aria-label", `Loss by step, from ${values[0].toPrecision(3)} to ${values.at(-1).toPrecision(3)} at step ${last}`);
  at("run").hidden = false;
  at("preview").src = `/v1/jobs/${job.id}/results/preview.png?step=${last}`;
  at("preview").hidden = false;
}

async function watch(job) {
  running = job;
  let seen = -1;
  at("resume").disabled = true;
  for (const id of ["pause", "cancel"]) at(id).disabled = false;
  const done = await follow(job, (now) => {
    const { step = 0, steps = 0, loss, curve: newest = -1 } = now.progress ?? {};
    at("progress").hidden = over(now);
    at("progress").value = steps ? step / steps : 0;
    if (now.state === "queued") say(`waiting, ${now.ahead ?? 0} before it`);
    if (now.state === "running") say(now.stopping ? "stopping" : `step ${step} of ${steps || "a number that its speed will say"}${loss ? `, loss ${loss}` : ""}`);
    if (newest > seen) {
      seen = newest;
      curve(job);
    }
  });
  at("pause").disabled = true;
  at("cancel").disabled = at("resume").disabled = done.state !== "interrupted";
  await list();
  const notes = (done.result?.notes ?? []).map((note) => `; ${note}`).join("");
  say({ done: `${done.result?.made} is there to draw with${notes}`, failed: done.error, cancelled: "cancelled", interrupted: "paused: it can go on" }[done.state], done.state === "failed");
}

const press = (what) => guarded(() => running && post(`/v1/jobs/${running.id}/${what}`, {}));
at("learn").addEventListener("submit", guarded(async () => watch(await post("/v1/jobs", wish("learn"), { "X-Client": "page" }))));
at("collect").addEventListener("click", guarded(collect));
at("estimate").addEventListener("click", guarded(estimate));
at("pause").addEventListener("click", press("pause"));
at("cancel").addEventListener("click", guarded(async () => {
  const job = await post(`/v1/jobs/${running.id}/cancel`, {});
  if (over(job)) {
    at("cancel").disabled = at("resume").disabled = true;
    say("cancelled");
  }
}));
at("resume").addEventListener("click", guarded(async () => watch(await post(`/v1/jobs/${running.id}/resume`, {}))));

await list();
const { jobs } = await ask("/v1/jobs?state=running&state=queued&state=interrupted");
const own = jobs.find((job) => job.kind === "learn");
if (own) watch(own);
