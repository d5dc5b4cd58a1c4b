// Make: a prompt and its settings become pictures, which are seen while they are drawn.
import { ask, follow, option, over, post } from "./ask.js";

const at = (id) => document.getElementById(id);
const NUMBERS = ["steps", "guidance", "seed", "width", "height", "count"];
let models = [];
let running = null;

function say(text, wrong = false) {
  at("said").textContent = text;
  at("said").classList.toggle("wrong", wrong);
}

function chosen() {
  const settings = {};
  for (const name of NUMBERS) if (at(name).value !== "") settings[name] = Number(at(name).value);
  for (const name of ["negative", "style", "solver"]) if (at(name).value) settings[name] = at(name).value;
  if (!("seed" in settings)) settings.seed = Math.floor(Math.random() * 2 ** 31);
  return { model: at("model").value, prompt: at("prompt").value, settings };
}

function offer() {
  const model = models.find((one) => one.id === at("model").value) ?? {};
  const style = at("style").value;
  at("style").replaceChildren(option("none", ""), ...(model.styles ?? []).map((name) => option(name)));
  at("style").value = (model.styles ?? []).includes(style) ? style : "";
  const usual = model.defaults ?? {};
  for (const name of ["steps", "guidance"]) at(name).placeholder = usual[name] ?? "the model's own";
  [at("height").placeholder, at("width").placeholder] = usual.size ?? ["", ""];
}

function image(url, words, made) {
  const button = document.createElement("button");
  const img = document.createElement("img");
  button.type = "button";
  img.src = url;
  img.alt = words;
  img.loading = "lazy";
  button.append(img);
  if (made) button.addEventListener("click", () => made(button));
  return button;
}

async function take(made) {
  if (!made) return say("this picture tells nothing of its making", true);
  at("prompt").value = made.prompt;
  if (models.some((one) => one.id === made.model)) at("model").value = made.model;
  offer();
  for (const name of [...NUMBERS.filter((one) => one !== "count"), "negative", "style", "solver"]) at(name).value = made.settings[name] ?? "";
  at("seed").value = made.settings.seed ?? 0;
  at("count").value = 1;
  say(made.left.length ? `its settings, without ${made.left.join(", ")}` : "these are its settings");
}

async function restore(file) {
  try {
    await take((await ask("/v1/uploads", { method: "POST", body: file })).made);
  } catch (error) {
    say(error.message, true);
  }
}

function kept(name, first = true) {
  const own = image(`/v1/pictures/${name}`, `picture ${name.slice(0, 8)}: take its settings`, async () =>
    take((await ask(`/v1/pictures/${name}/made`)).made),
  );
  own.dataset.name = name;
  first ? at("gallery").prepend(own) : at("gallery").append(own);
}

async function older() {
  const last = at("gallery").lastElementChild?.dataset.name ?? "";
  const { pictures } = await ask(`/v1/pictures?limit=48&before=${last}`);
  for (const one of pictures) kept(one.name, false);
  at("more").hidden = pictures.length < 48;
}

function show(job) {
  const { step = 0, steps = 1, first = 0, total = 1, shown = 0 } = job.progress ?? {};
  const share = (first + (shown * step) / steps) / total;
  at("progress").hidden = over(job);
  at("progress").value = share;
  const passed = job.begun ? Date.now() / 1000 - job.begun : 0;
  const left = share > 0 ? `, ${Math.max(0, (passed * (1 - share)) / share).toFixed(1)} s to go` : "";
  if (job.state === "queued") say(`waiting, ${job.ahead ?? 0} before it`);
  if (job.state === "running") say(job.stopping ? "stopping" : `step ${step} of ${steps}, pictures ${first + 1} to ${first + shown} of ${total}${left}`);
  const previews = at("now");
  if (over(job)) return previews.replaceChildren();
  for (let k = 0; k < shown; k++) {
    const url = `${job.poll_url}/previews/${k}?step=${first}-${step}`;
    if (previews.children[k]) previews.children[k].firstChild.src = url;
    else previews.append(image(url, `picture ${k + 1} as it is guessed now`));
  }
}

async function watch(job) {
  running = job;
  at("cancel").disabled = false;
  const done = await follow(job, show);
  running = null;
  at("cancel").disabled = true;
  if (done.state === "done") for (const name of done.result.pictures) kept(name);
  const notes = (done.result?.notes ?? []).join("; ");
  say({ done: notes || "done", failed: done.error, cancelled: "cancelled", interrupted: "interrupted: it can go on" }[done.state], done.state === "failed");
}

at("make").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await watch(await post("/v1/jobs", chosen(), { "X-Client": "page" }));
  } catch (error) {
    say(error.message, true);
  }
});
at("cancel").addEventListener("click", () => running && post(`/v1/jobs/${running.id}/cancel`, {}).catch((error) => say(error.message, true)));
at("model").addEventListener("change", offer);
at("more").addEventListener("click", older);
at("dropped").addEventListener("change", (event) => event.target.files[0] && restore(event.target.files[0]));
for (const name of ["dragover", "dragleave", "drop"])
  at("make").addEventListener(name, (event) => {
    event.preventDefault();
    at("make").classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) restore(event.dataTransfer.files[0]);
  });

const [{ data }, choices] = await Promise.all([ask("/v1/models"), ask("/v1/choices")]);
models = data;
at("model").replaceChildren(...models.map((one) => option(one.id)));
at("solver").replaceChildren(option("the model's own", ""), ...choices.solvers.map((name) => option(name)));
offer();
await older();
const { jobs } = await ask("/v1/jobs?state=running&state=queued");
const own = jobs.find((job) => !over(job));
if (own) watch(own);
