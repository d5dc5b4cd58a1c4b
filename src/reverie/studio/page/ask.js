// What every part of the page asks the server, and how it says what went wrong.

export async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error?.message ?? `the studio answered ${answer.status}`);
  return body;
}

export const post = (path, body, headers = {}) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json", ...headers }, body: JSON.stringify(body) });

export const over = (job) => ["done", "failed", "cancelled", "interrupted"].includes(job.state);

// Calls `told` with a job each time that something is new of it; resolves when it is over. Connects anew where the server was gone.
export function follow(job, told) {
  return new Promise((resolve) => {
    const stream = new EventSource(job.events_url);
    stream.addEventListener("job", (event) => {
      const now = JSON.parse(event.data);
      told(now);
      if (over(now)) {
        stream.close();
        resolve(now);
      }
    });
  });
}

export function option(text, value = text) {
  const made = document.createElement("option");
  made.textContent = text;
  made.value = value;
  return made;
}
